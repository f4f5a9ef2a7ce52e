//! Takes a record until it is settled: queue, pace, retries, receipts, dead letters. A service is a [`Destination`]; this is the rest.

pub mod args;
pub mod destination;
pub mod envelope;
pub mod pace;
pub mod queue;
pub mod rehearsal;
pub mod run;
pub mod store;
pub mod workers;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use args::DeliveryArgs;
use destination::{Destination, Form, Letter, Outcome, Pacing, Plan, Role};
use envelope::{Settlement, Status};
use pace::Pace;
use queue::{Item, Queue};
use store::Store;
use workers::{Answer, Courier, Workers};

use super::accounts::Accounts;
use super::stage::Stage;
use crate::model::event::Event;
use crate::model::exit::{Exit, Failure};
use crate::model::line::Lines;
use crate::model::quantity::show_duration;
use crate::model::time::{Moment, parse_retry_after};
use crate::world::http::{Response, Transport, TransportError};
use crate::world::{Clock, Diagnostics, World};

/// The stage around a destination.
pub struct Delivery<D, C = Workers> {
    destination: D,
    queue: Queue,
    pace: Pace,
    pacing: Pacing,
    courier: C,
    /// The batches under way, by number.
    batches: HashMap<u64, Vec<Item>>,
    batch_number: u64,
    /// The batches up to this number went out with a secret that is not in use any more.
    outdated: u64,
    limit: usize,
    store: Option<Store>,
    give_up: Duration,
    max_age: Option<Duration>,
    receipts: bool,
    dead_letters: Option<File>,
    diagnostics: Diagnostics,
    /// Records taken from this input.
    seq: u64,
    /// Records that the spool refused to take.
    unaccepted: u64,
    settled: [u64; 5],
    ending: bool,
    abandoned: bool,
    /// The trouble that was told last, so that the same is not told per attempt.
    trouble: Option<String>,
    failure: Option<Failure>,
}

const STATUSES: [Status; 5] = [Status::Delivered, Status::Folded, Status::Skipped, Status::Dead, Status::Spooled];

impl<D: Destination> Delivery<D> {
    /// Delivers to `destination` by `transport`, on threads of its own.
    ///
    /// # Errors
    /// The dead letters cannot be opened: wrong configuration. The spool is in use or its disk fails.
    pub fn new(
        destination: D,
        transport: Arc<dyn Transport>,
        args: &DeliveryArgs,
        world: &World,
    ) -> Result<Delivery<D>, Failure> {
        let courier = Workers::start(destination.pacing().concurrency, transport, &world.wake);
        Delivery::by(courier, destination, args, &world.diagnostics, world.clock.now())
    }
}

impl<D: Destination, C: Courier> Delivery<D, C> {
    /// Delivers to `destination` by this courier.
    ///
    /// # Errors
    /// As [`Delivery::new`].
    pub fn by(
        courier: C,
        destination: D,
        args: &DeliveryArgs,
        diagnostics: &Diagnostics,
        now: Moment,
    ) -> Result<Delivery<D, C>, Failure> {
        let mut pacing = destination.pacing();
        pacing.rate = args.rate.or(pacing.rate);
        Ok(Delivery {
            queue: Queue::default(),
            pace: Pace::new(&pacing),
            courier,
            pacing,
            destination,
            batches: HashMap::new(),
            batch_number: 0,
            outdated: 0,
            limit: args.queue.max(1),
            store: Store::open(args, now.utc)?,
            give_up: args.give_up,
            max_age: args.max_age,
            receipts: args.receipts,
            dead_letters: args.open_dead_letters()?,
            diagnostics: diagnostics.clone(),
            seq: 0,
            unaccepted: 0,
            settled: [0; 5],
            ending: false,
            abandoned: false,
            trouble: None,
            failure: None,
        })
    }

    /// Accepts a record of this input.
    fn accept(&mut self, event: &Event<'_>, now: Moment, lines: &mut Lines) {
        self.seq += 1;
        let seq = self.seq;
        let item = new_item(seq, Some(seq), event.text, now);
        let Some(store) = &mut self.store else { return self.admit(item, event, now, lines) };
        // What is not for this destination needs no place on disk.
        if let Plan::Skip { reason } = self.destination.plan(event) {
            return self.settle(&Item { place: 0, ..item }, Status::Skipped, None, Some(reason), now, lines);
        }
        if let Err(failure) = store.append(seq, event.text, now.utc) {
            self.unaccepted += 1;
            self.failure.get_or_insert(failure);
        }
    }

    /// Lets an accepted record into the queue, or settles it at once.
    fn admit(&mut self, mut item: Item, event: &Event<'_>, now: Moment, lines: &mut Lines) {
        let (key, role, urgent) = match self.destination.plan(event) {
            Plan::Send { key, role, urgent } => (key, role, urgent),
            Plan::Skip { reason } => return self.settle(&item, Status::Skipped, None, Some(reason), now, lines),
        };
        (item.key, item.urgent) = (key, urgent);
        match role {
            Role::Plain => {}
            Role::Held(duration) => {
                item.held_until = Some(item.accepted.at + duration).filter(|until| *until > now.at && !self.ending);
            }
            Role::Relief { .. } | Role::Calm => {
                item.perishable = false;
                for held in self.queue.take_held(&item.key) {
                    self.settle(&held, Status::Skipped, None, Some("relieved before it was sent"), now, lines);
                }
                let needed = role == Role::Relief { needed: true };
                if role == Role::Calm || !(needed || self.queue.is_moving(&item.key)) {
                    return self.settle(&item, Status::Skipped, None, Some("nothing to relieve"), now, lines);
                }
            }
        }
        self.queue.push(item);
    }

    /// Fills the queue from the spool, as far as memory is meant for it.
    fn refill(&mut self, now: Moment, lines: &mut Lines) -> Result<(), Failure> {
        while self.queue.len() < self.limit {
            let Some(store) = &mut self.store else { return Ok(()) };
            let Some((record, seq)) = store.hand_out()? else { return Ok(()) };
            // A record of an earlier run is as old as the calendar says; one from the future is new.
            let age = now.utc.since(record.accepted);
            let at = now.at.checked_sub(age).unwrap_or(now.at);
            let item = new_item(record.id, seq, &record.text, Moment { at, utc: record.accepted });
            self.admit(item, &Event::parse(record.text.as_bytes()).unwrap_or_default(), now, lines);
        }
        Ok(())
    }

    /// Settles those of a batch that are too old to be sent, and gives the others.
    fn without_expired(&mut self, batch: Vec<Item>, now: Moment, lines: &mut Lines) -> Vec<Item> {
        let Some(max_age) = self.max_age else { return batch };
        let old = |item: &Item| item.perishable && now.at.saturating_duration_since(item.accepted.at) > max_age;
        let (expired, rest): (Vec<Item>, Vec<Item>) = batch.into_iter().partition(old);
        for item in &expired {
            let reason = format!("older than {} (--max-age)", show_duration(max_age));
            self.settle(item, Status::Dead, None, Some(&reason), now, lines);
        }
        self.queue.lessen(expired.len());
        if rest.is_empty()
            && let Some(item) = expired.first()
        {
            self.queue.end(&item.key, 0, Vec::new());
        }
        rest
    }

    /// Starts whatever may go now.
    fn start_batches(&mut self, now: Moment, lines: &mut Lines) {
        let batching = self.destination.batching();
        while self.queue.requests() < self.pacing.concurrency && self.failure.is_none() {
            let tokens = self.pace.tokens(now.at);
            let Some(batch) = self.queue.start(now.at, &batching, tokens, self.ending) else { return };
            let batch = self.without_expired(batch, now, lines);
            if batch.is_empty() {
                continue;
            }
            let letters: Vec<Letter<'_>> = batch.iter().map(Item::letter).collect();
            match self.destination.request(&letters, batch[0].form) {
                Ok(request) => {
                    self.pace.spend(now.at);
                    self.batch_number += 1;
                    self.diagnostics.detail(&format!("{}: sending {}", self.destination.address(), names(&batch)));
                    self.courier.send(self.batch_number, request);
                    self.batches.insert(self.batch_number, batch);
                }
                Err(reason) => {
                    let key = batch[0].key.clone();
                    for item in &batch {
                        self.settle(item, Status::Dead, None, Some(&reason), now, lines);
                    }
                    self.queue.end(&key, batch.len(), Vec::new());
                }
            }
        }
    }

    /// Judges an answer.
    fn judge(&mut self, number: u64, batch: Vec<Item>, answer: &Answer, now: Moment, lines: &mut Lines) {
        let key = batch[0].key.clone();
        let (outcomes, status, asked) = match answer {
            Ok(response) => {
                let outcomes = self.destination.outcomes(batch.len(), &without_secret(&self.destination, response));
                (outcomes, Some(response.status), asked(response, now))
            }
            Err(error) => (vec![self.unreachable(error); batch.len()], None, None),
        };
        let folded = batch.len() > 1 && self.destination.batching().fold;
        let count = batch.len();
        let mut again = Vec::new();
        let mut setback = None;
        for (item, outcome) in batch.into_iter().zip(outcomes) {
            let item = Item { attempts: item.attempts + 1, answered: status, ..item };
            match outcome {
                Outcome::Delivered => {
                    let status_word = if folded { Status::Folded } else { Status::Delivered };
                    self.settle(&item, status_word, status, None, now, lines);
                }
                Outcome::Rejected { reason, status: own } => {
                    self.settle(&item, Status::Dead, own.or(status), Some(&reason), now, lines);
                }
                Outcome::TooLarge { reason } if count == 1 && item.form == Form::Reduced => {
                    self.settle(&item, Status::Dead, status, Some(&reason), now, lines);
                }
                Outcome::TooLarge { .. } => {
                    again.push(if count == 1 { Item { form: Form::Reduced, ..item } } else { item });
                }
                Outcome::Refused { reason } => {
                    again.push(item);
                    setback = Some((reason, Setback::Refused));
                }
                Outcome::Retry { reason, throttled: true } => {
                    again.push(Item { attempts: item.attempts - 1, failing_since: None, ..item });
                    setback.get_or_insert((reason, Setback::Throttled));
                }
                Outcome::Retry { reason, throttled: false } => {
                    let since = item.failing_since.unwrap_or(now.at);
                    if now.at.saturating_duration_since(since) >= self.give_up {
                        let reason = format!("given up after {}: {reason}", show_duration(self.give_up));
                        self.settle(&item, Status::Dead, status, Some(&reason), now, lines);
                    } else {
                        // What the answer asked us to wait does not count.
                        again.push(Item { failing_since: Some(since + asked.unwrap_or_default()), ..item });
                    }
                    setback.get_or_insert((reason, Setback::Failed));
                }
            }
        }
        match setback {
            None => {
                if count > 1 && !again.is_empty() {
                    self.queue.limit(&key, count / 2);
                } else {
                    self.queue.succeed(&key);
                }
                self.recovered();
            }
            // The secret was replaced while it was under way: nothing is known against the new one.
            Some((_, Setback::Refused)) if number <= self.outdated => {}
            Some((reason, setback)) => {
                let most = self.patience(again.first(), now);
                self.hold_up(&key, &reason, setback, asked, most, now);
            }
        }
        self.queue.end(&key, count, again);
    }

    /// How much longer a record may go on failing; one that was never tried has all of its time.
    fn patience(&self, item: Option<&Item>, now: Moment) -> Duration {
        let failing = item.and_then(|item| item.failing_since).map(|since| now.at.saturating_duration_since(since));
        self.give_up.saturating_sub(failing.unwrap_or_default())
    }

    fn unreachable(&self, error: &TransportError) -> Outcome {
        Outcome::Retry { reason: self.destination.redact(error.reason()), throttled: false }
    }

    fn hold_up(
        &mut self,
        key: &str,
        reason: &str,
        setback: Setback,
        asked: Option<Duration>,
        most: Duration,
        now: Moment,
    ) {
        let random = Clock.random();
        let delay = match setback {
            Setback::Refused => return self.refused(reason),
            Setback::Throttled if !self.pacing.throttled_by_key => self.queue.pause(now.at, asked, random),
            Setback::Throttled | Setback::Failed => self.queue.hold_up(key, now.at, asked, random, most),
        };
        let trouble = format!("{}: {reason}", self.destination.address());
        let waiting = self.queue.len();
        if self.trouble.as_ref() != Some(&trouble) {
            self.diagnostics.warn(&format!("{trouble}; trying again in {}, {waiting} waiting", show_duration(delay)));
            self.trouble = Some(trouble);
        } else if delay > Duration::from_secs(120) {
            self.diagnostics.warn(&format!("{trouble}; asked to wait {}, {waiting} waiting", show_duration(delay)));
        } else {
            self.diagnostics.detail(&format!("{trouble}; trying again in {}", show_duration(delay)));
        }
    }

    /// The secret may have been rotated: it is read once more, and only if it is the same the program ends.
    fn refused(&mut self, reason: &str) {
        let message = format!("{}: {reason}", self.destination.address());
        match self.destination.reload() {
            Ok(true) => {
                self.outdated = self.batch_number;
                self.diagnostics.warn(&format!("{message}; trying again with the secret as it is now"));
            }
            Ok(false) => self.failure = Some(Failure::refused(message)),
            Err(error) => self.failure = Some(Failure::refused(format!("{message}; and {error}"))),
        }
    }

    fn recovered(&mut self) {
        if self.trouble.take().is_some() {
            self.diagnostics.info(&format!("{}: delivering again", self.destination.address()));
        }
    }

    /// A record has come to its end.
    fn settle(
        &mut self,
        item: &Item,
        status: Status,
        http_status: Option<u16>,
        reason: Option<&str>,
        now: Moment,
        lines: &mut Lines,
    ) {
        self.settled[status as usize] += 1;
        let sink = self.destination.name();
        let settlement = Settlement { sink, status, attempts: item.attempts, http_status, reason, event: &item.text };
        if matches!(status, Status::Delivered | Status::Folded | Status::Dead) {
            // Before the spool forgets the record: what the destination remembers of it must be safe first.
            self.destination.settled(item.letter(), status != Status::Dead);
        }
        match (&mut self.store, status) {
            (_, Status::Dead) => self.bury(&settlement, item, now),
            (Some(store), Status::Delivered | Status::Folded | Status::Skipped) if item.place > 0 => {
                store.settle(item.place)
            }
            _ => {}
        }
        if self.receipts {
            let ms = now.at.saturating_duration_since(item.accepted.at).as_millis();
            lines.push(settlement.receipt(item.seq, ms).as_bytes());
        }
    }

    /// Keeps a dead letter, or at least names it: nothing is dropped silently.
    fn bury(&mut self, settlement: &Settlement<'_>, item: &Item, now: Moment) {
        let name = envelope::name(&item.letter().event());
        let reason = settlement.reason.unwrap_or_default();
        let letter = settlement.dead_letter(now.utc);
        let kept = match &mut self.dead_letters {
            None => Ok(()),
            Some(file) => {
                file.write_all(format!("{letter}\n").as_bytes()).map_err(|error| format!("--dead-letters: {error}"))
            }
        };
        let spooled = match &mut self.store {
            None => Ok(()),
            Some(store) => store.bury(item.place, &letter).map_err(|failure| failure.message),
        };
        if let Err(error) = kept.and(spooled) {
            self.diagnostics.error(&format!("{name}: not delivered: {reason}; and {error}"));
            self.failure.get_or_insert(Failure::failed(error));
        } else if self.dead_letters.is_some() || self.store.is_some() {
            self.diagnostics.warn(&format!("{name}: became a dead letter: {reason}"));
        } else {
            self.diagnostics.error(&format!("{name}: not delivered: {reason}"));
        }
    }

    /// Writes what the spool has in memory, and tells what the operator should know.
    fn flush_store(&mut self) {
        let idle = self.abandoned || self.queue.is_empty();
        for notice in self.store.as_mut().map(|store| store.flush(idle)).unwrap_or_default() {
            self.diagnostics.warn(&format!("--spool: {notice}"));
        }
    }

    fn count(&self, status: Status) -> u64 {
        self.settled[status as usize]
    }
}

fn new_item(place: u64, seq: Option<u64>, text: &str, accepted: Moment) -> Item {
    Item {
        place,
        seq,
        key: String::new(),
        text: text.to_owned(),
        accepted,
        urgent: false,
        perishable: true,
        held_until: None,
        attempts: 0,
        answered: None,
        failing_since: None,
        form: Form::Full,
    }
}

/// What a failed request does to what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setback {
    Failed,
    Throttled,
    Refused,
}

/// The answer as it may be told: its words are free of the secret before anybody cuts or quotes them, since half a secret would not be found.
fn without_secret<D: Destination>(destination: &D, answer: &Response) -> Response {
    Response { body: destination.redact(&answer.text()).into_bytes(), ..answer.clone() }
}

/// The wait an answer asks for. A success asks for none, whatever its headers say.
fn asked(response: &Response, now: Moment) -> Option<Duration> {
    let header = response.retry_after.as_ref().filter(|_| response.status >= 300)?;
    parse_retry_after(header, now.utc)
}

fn names(batch: &[Item]) -> String {
    match batch {
        [one] => envelope::name(&one.letter().event()),
        many => format!("{} records", many.len()),
    }
}

impl<D: Destination, C: Courier> Stage for Delivery<D, C> {
    fn take(&mut self, event: &Event<'_>, now: Moment, lines: &mut Lines) {
        let (subject, unaccepted) = (envelope::subject(event), self.unaccepted);
        if subject.len() == event.text.len() {
            self.accept(event, now, lines);
        } else {
            // It was checked with the record around it.
            self.accept(&Event::parse(subject.as_bytes()).unwrap_or_default(), now, lines);
        }
        if !self.receipts && unaccepted == self.unaccepted {
            let lines = self.store.as_mut().map_or(lines, Store::lines);
            lines.push(event.text.as_bytes());
        }
    }

    fn ready(&self) -> bool {
        match &self.store {
            _ if self.failure.is_some() => false,
            None => self.queue.len() < self.limit,
            Some(store) => !store.is_full(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.queue.requests() >= self.pacing.concurrency {
            return None;
        }
        let due = self.queue.next_due(&self.destination.batching(), self.ending)?;
        Some(self.pace.next(due).map_or(due, |next| next.max(due)))
    }

    fn wake(&mut self, now: Moment, lines: &mut Lines) -> Result<(), Failure> {
        if let Some(store) = &mut self.store {
            store.commit(lines)?;
        }
        while let Some((number, answer)) = self.courier.answer() {
            if let Some(batch) = self.batches.remove(&number) {
                self.judge(number, batch, &answer, now, lines);
            }
        }
        self.refill(now, lines)?;
        // Before the next of a key goes out, its predecessor's end is on disk: a crash in between must not send the two in the wrong order.
        self.flush_store();
        self.start_batches(now, lines);
        self.flush_store();
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn written(&mut self, lines: &Lines) -> Result<(), Failure> {
        self.store.as_mut().map_or(Ok(()), |store| store.heed_output(lines))
    }

    fn finish(&mut self, _now: Moment, _lines: &mut Lines) {
        self.ending = true;
        // No relief can come any more.
        self.queue.release_held();
    }

    fn busy(&self) -> bool {
        !self.abandoned && (!self.queue.is_empty() || self.store.as_ref().is_some_and(Store::is_busy))
    }

    fn silent(&self) -> bool {
        !self.receipts || !self.busy()
    }

    fn abandon(&mut self, now: Moment, lines: &mut Lines) {
        self.abandoned = true;
        if let Some(Err(failure)) = self.store.as_mut().map(|store| store.commit(lines)) {
            self.failure.get_or_insert(failure);
        }
        let mut left: Vec<Item> = std::mem::take(&mut self.batches).into_values().flatten().collect();
        let under_way = left.len();
        // What was sent and not answered may well have arrived.
        left.iter_mut().for_each(|item| item.attempts += 1);
        left.append(&mut self.queue.take_all());
        left.sort_by_key(|item| item.place);
        let (status, reason) = match (&self.store, &self.failure) {
            (Some(_), _) => (Status::Spooled, "left for the next run".to_owned()),
            (None, Some(failure)) => (Status::Dead, format!("not sent before the program ended: {}", failure.message)),
            (None, None) => (Status::Dead, "not delivered before the time to drain was over".to_owned()),
        };
        for item in &left {
            self.settle(item, status, item.answered, Some(&reason), now, lines);
        }
        let mut count = left.len() as u64;
        // What memory had no room for; only its receipts need to be read from disk.
        while self.receipts
            && let Some(Ok(Some((record, seq)))) = self.store.as_mut().map(Store::hand_out)
        {
            let item = new_item(record.id, seq, &record.text, Moment { at: now.at, utc: record.accepted });
            self.settle(&item, status, None, Some(&reason), now, lines);
        }
        self.flush_store();
        if let Some(store) = &self.store {
            count = store.waiting();
            self.settled[Status::Spooled as usize] = count;
        }
        if count > 0 {
            let note = if under_way > 0 { format!(", {under_way} of them under way") } else { String::new() };
            let fate = if status == Status::Spooled { "in the spool for the next run" } else { "given up" };
            self.diagnostics.error(&format!("{}: {count} records left over{note}, {fate}", self.destination.address()));
        }
        self.queue = Queue::default();
    }

    fn outlives_reader(&self) -> bool {
        true
    }

    fn reload(&mut self) {
        match self.destination.reload() {
            Ok(another) => {
                if another {
                    self.outdated = self.batch_number;
                }
                self.diagnostics.info("the secret was read again");
            }
            Err(error) => self.diagnostics.error(&error),
        }
    }

    fn accounts(&self) -> Accounts {
        let accounts =
            STATUSES.iter().fold(Accounts::default(), |sum, status| sum.with(status.word(), self.count(*status)));
        match &self.store {
            None => accounts.with("waiting", self.queue.len() as u64),
            Some(store) => {
                let waiting = if self.abandoned { 0 } else { store.waiting() };
                accounts
                    .with("waiting", waiting)
                    .with("recovered", store.recovered)
                    .with("unaccepted", self.unaccepted + store.withdrawn)
            }
        }
    }

    fn exit(&self) -> Exit {
        if self.count(Status::Spooled) + self.count(Status::Dead) > 0 { Exit::Incomplete } else { Exit::Success }
    }
}

#[cfg(test)]
mod tests;
