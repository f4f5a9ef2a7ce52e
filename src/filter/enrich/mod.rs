//! tutum-enrich: attaches what the REST API says about an event's object and its parents, in order, and never for long.

pub mod answer;
pub mod lookup;
pub mod object;
pub mod wanted;
pub mod workers;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::answer::Outcome;
use self::lookup::{Found, Lookups, Rules, Slot};
use self::wanted::{Place, With, askable, wanted};
use crate::flow::accounts::Accounts;
use crate::flow::stage::Stage;
use crate::model::event::Event;
use crate::model::exit::{Exit, Failure};
use crate::model::json::{append, quote};
use crate::model::line::{Lines, MAX_LINE};
use crate::model::time::Moment;
use crate::world::Diagnostics;

/// So many events wait at most; then the input is left alone.
const MOST_WAITING: usize = 1000;
/// So many bytes wait at most, in events and in what is to be attached to them; one event may go beyond.
const MOST_HELD: usize = 64 << 20;
/// So much is handed to the output at once, in bytes.
const MOST_RELEASED: usize = 1 << 20;
/// So soon the output is looked at again when more waits for it than it was handed.
const RELEASE_AGAIN: Duration = Duration::from_millis(10);
/// What an enriched record may measure, in bytes: the next stage takes no longer line, and may append something too.
const LONGEST_RECORD: usize = MAX_LINE as usize - (64 << 10);

/// What a user can say about enriching.
#[derive(Clone, Debug)]
pub struct EnrichArgs {
    /// What is attached; nothing said means everything.
    pub with: Option<With>,
    /// Leave variables' values as they are.
    pub with_secrets: bool,
    /// So many requests at once.
    pub concurrency: usize,
    /// So long a copy is good.
    pub ttl: Duration,
    /// So long an event waits at most.
    pub timeout: Duration,
}

impl Default for EnrichArgs {
    fn default() -> EnrichArgs {
        EnrichArgs {
            with: None,
            with_secrets: false,
            concurrency: 8,
            ttl: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Where questions go: threads with a transport, or a test's script.
pub trait Asker {
    /// Asks for the object at a path; the answer comes by [`answers`](Asker::answers), after a call of the world's `Wake`.
    fn ask(&mut self, path: &str);

    /// What came since the last call.
    fn answers(&mut self) -> Vec<(String, Outcome)>;

    /// Reads the secrets again; whether they are others than before.
    fn renew(&mut self) -> bool;

    /// A random number in 0..1, for jitter.
    fn random(&self) -> f64;
}

/// The stage.
pub struct Enrich<A> {
    with: With,
    timeout: Duration,
    asker: A,
    lookups: Lookups,
    /// Events in the order they came; the first has the number `first`.
    waiting: VecDeque<Waiting>,
    first: u64,
    held: usize,
    /// More could be passed on than the output was handed.
    behind: Option<Instant>,
    reloaded: bool,
    enriched: u64,
    errors: u64,
    untouched: u64,
}

/// An event on its way through.
struct Waiting {
    text: String,
    wants: Vec<Want>,
    /// How many of them are not settled.
    open: usize,
    deadline: Instant,
}

struct Want {
    place: Place,
    path: String,
    found: Option<Found>,
}

impl Waiting {
    fn size(&self) -> usize {
        self.text.len() + self.wants.iter().map(Want::size).sum::<usize>()
    }
}

impl Want {
    fn size(&self) -> usize {
        self.found.as_ref().and_then(|found| found.as_ref().ok()).map_or(0, |object| object.len())
    }
}

impl<A: Asker> Enrich<A> {
    /// An enricher that has seen nothing yet.
    pub fn new(args: &EnrichArgs, asker: A, diagnostics: Diagnostics) -> Enrich<A> {
        let rules = Rules { concurrency: args.concurrency, ttl: args.ttl };
        Enrich {
            with: args.with.clone().unwrap_or(With::EVERYTHING),
            timeout: args.timeout,
            asker,
            lookups: Lookups::new(rules, diagnostics),
            waiting: VecDeque::new(),
            first: 0,
            held: 0,
            behind: None,
            reloaded: false,
            enriched: 0,
            errors: 0,
            untouched: 0,
        }
    }

    /// Asks what is to be asked, gives each event what came for it, and passes on those that wait for nothing.
    fn advance(&mut self, now: Moment, lines: &mut Lines) {
        self.expire(now);
        loop {
            if self.is_full() {
                break;
            }
            let Some(path) = self.lookups.next(now) else { break };
            if self.lookups.refused() {
                self.asker.renew();
            }
            self.asker.ask(&path);
        }
        self.hand_out();
        self.release(now, lines);
    }

    /// Whether so much is held that no more is asked for: it grows by every answer. One request goes on, or it would never shrink.
    fn is_full(&self) -> bool {
        self.held >= MOST_HELD && self.lookups.in_flight() > 0
    }

    /// Events whose time is over wait no longer. All wait equally long, so those that came first are over first.
    fn expire(&mut self, now: Moment) {
        for (event, waiting) in (self.first..).zip(&mut self.waiting) {
            if waiting.deadline > now.at {
                break;
            }
            for (index, want) in waiting.wants.iter_mut().enumerate().filter(|(_, want)| want.found.is_none()) {
                want.found = Some(Err(self.lookups.give_up(&want.path, Slot { event, index })));
            }
            waiting.open = 0;
        }
        self.lookups.review(now);
    }

    fn hand_out(&mut self) {
        for (slot, found) in self.lookups.settled() {
            let place = slot.event.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
            let Some(waiting) = place.and_then(|at| self.waiting.get_mut(at)) else { continue };
            let want = &mut waiting.wants[slot.index];
            if want.found.is_none() {
                want.found = Some(found);
                waiting.open -= 1;
                self.held += want.size();
            }
        }
    }

    fn release(&mut self, now: Moment, lines: &mut Lines) {
        self.behind = None;
        while self.waiting.front().is_some_and(|waiting| waiting.open == 0) {
            if lines.pending().len() >= MOST_RELEASED {
                self.behind = Some(now.at + RELEASE_AGAIN);
                return;
            }
            if let Some(waiting) = self.waiting.pop_front() {
                self.first += 1;
                self.held -= waiting.size();
                self.pass(&waiting, lines);
            }
        }
    }

    fn pass(&mut self, waiting: &Waiting, lines: &mut Lines) {
        if waiting.wants.is_empty() {
            self.untouched += 1;
            return lines.push(waiting.text.as_bytes());
        }
        let members = Members::of(waiting);
        self.enriched += u64::from(members.found);
        self.errors += u64::from(members.errors);
        let record = append(&waiting.text, &members.text);
        // A line the next stage would not take is worse than one with nothing attached.
        let fits = record.len() as u64 <= MAX_LINE || record.len() == waiting.text.len();
        lines.push(if fits { record.as_bytes() } else { waiting.text.as_bytes() });
    }
}

/// What is appended to an event.
struct Members {
    text: String,
    /// Something was had.
    found: bool,
    /// Something was not.
    errors: bool,
}

impl Members {
    fn of(waiting: &Waiting) -> Members {
        let (mut resource, mut parents) = (None, Vec::new());
        let (mut resource_error, mut parent_errors) = (None, Vec::new());
        let mut room = LONGEST_RECORD.saturating_sub(waiting.text.len());
        for want in &waiting.wants {
            let fitting = match &want.found {
                Some(Ok(object)) if object.len() > room => Err("too large for one line with the others"),
                Some(Ok(object)) => Ok(&**object),
                Some(Err(reason)) => Err(&**reason),
                None => Err("stopped"),
            };
            room -= fitting.map_or(0, str::len);
            match (&want.place, fitting) {
                (Place::Resource, Ok(object)) => resource = Some(format!("\"resource\":{object}")),
                (Place::Resource, Err(reason)) => resource_error = Some(format!("\"resource\":{}", quote(reason))),
                (Place::Parent(kind), Ok(object)) => parents.push(format!("{}:{object}", quote(kind))),
                (Place::Parent(kind), Err(reason)) => parent_errors.push(format!("{}:{}", quote(kind), quote(reason))),
            }
        }
        let parent =
            |members: &[String]| (!members.is_empty()).then(|| format!("\"parent\":{{{}}}", members.join(",")));
        let found: Vec<String> = resource.into_iter().chain(parent(&parents)).collect();
        let errors: Vec<String> = resource_error.into_iter().chain(parent(&parent_errors)).collect();
        let error = (!errors.is_empty()).then(|| format!("\"enrich_error\":{{{}}}", errors.join(",")));
        let (some_found, some_errors) = (!found.is_empty(), error.is_some());
        let text = found.into_iter().chain(error).collect::<Vec<_>>().join(",");
        Members { text, found: some_found, errors: some_errors }
    }
}

impl<A: Asker> Stage for Enrich<A> {
    fn take(&mut self, event: &Event<'_>, now: Moment, lines: &mut Lines) {
        let about = event.resource_uri.as_deref().filter(|_| !event.is_lifecycle()).and_then(askable);
        if let Some(path) = about {
            self.lookups.stale(&path);
        }
        let deadline = now.at + self.timeout;
        let number = self.first + self.waiting.len() as u64;
        let mut wants = Vec::new();
        for (index, (place, path)) in wanted(event, &self.with).into_iter().enumerate() {
            let (path, found) = match path {
                Ok(path) => {
                    let found = self.lookups.ask(&path, Slot { event: number, index }, deadline, now);
                    (path, found)
                }
                Err(reason) => (String::new(), Some(Err(reason.into()))),
            };
            wants.push(Want { place, path, found });
        }
        let open = wants.iter().filter(|want| want.found.is_none()).count();
        let waiting = Waiting { text: event.text.to_owned(), wants, open, deadline };
        self.held += waiting.size();
        self.waiting.push_back(waiting);
        self.advance(now, lines);
    }

    fn ready(&self) -> bool {
        self.waiting.len() < MOST_WAITING && self.held < MOST_HELD
    }

    fn deadline(&self) -> Option<Instant> {
        let front = self.waiting.front().filter(|waiting| waiting.open > 0).map(|waiting| waiting.deadline);
        let ask = self.lookups.deadline().filter(|_| !self.is_full());
        [front, self.behind, ask].into_iter().flatten().min()
    }

    fn wake(&mut self, now: Moment, lines: &mut Lines) -> Result<(), Failure> {
        if std::mem::take(&mut self.reloaded) && self.asker.renew() {
            self.lookups.probe_now(now);
        }
        for (path, outcome) in self.asker.answers() {
            let random = self.asker.random();
            self.lookups.answered(&path, outcome, now, random);
        }
        self.advance(now, lines);
        Ok(())
    }

    fn busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn abandon(&mut self, _now: Moment, lines: &mut Lines) {
        while let Some(waiting) = self.waiting.pop_front() {
            self.first += 1;
            self.pass(&waiting, lines);
        }
        self.held = 0;
    }

    fn reload(&mut self) {
        self.reloaded = true;
    }

    fn accounts(&self) -> Accounts {
        Accounts::default()
            .with("enriched", self.enriched)
            .with("errors", self.errors)
            .with("untouched", self.untouched)
            .with("waiting", self.waiting.len() as u64)
            .with("requests", self.lookups.requests)
            .with("cache_hits", self.lookups.hits)
    }

    fn exit(&self) -> Exit {
        if self.lookups.refused() { Exit::Refused } else { Exit::Success }
    }
}

#[cfg(test)]
mod tests;
