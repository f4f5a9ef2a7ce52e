//! aci-stream: the events of a Cisco APIC. `session` speaks to it, `keeper` keeps session and subscriptions alive in a thread, `message` makes events of
//! what it says, `recent` knows an event that comes twice, `known` what was missed. What is here fits them into a connection.

mod args;
mod attempt;
pub mod dn;
pub mod keeper;
pub mod known;
pub mod message;
pub mod recent;
pub mod session;
pub mod target;

pub use args::AciArgs;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use attempt::{Attempt, Presence, Thread, Tokens};
use keeper::{Order, Report};
use known::{Known, Telling};
use message::{Envelope, Object, Traits, event};
use recent::{Recent, feed};
use session::Account;
use target::Target;

use crate::flow::accounts::Accounts;
use crate::flow::connection::{Aside, Dial, Heeded, Meaning, Protocol, Record, Rejection};
use crate::model::address::Address;
use crate::model::exit::{Failure, Fault};
use crate::model::json;
use crate::model::lifecycle::Change;
use crate::model::time::{Moment, Timestamp};
use crate::world::tls::Tls;
use crate::world::unix::Wake;
use crate::world::websocket::client::Client;
use crate::world::{Clock, Diagnostics};

/// A session of which so much is over is followed by another (one of the clients that Cisco lists does the same).
const RENEW_AT: f64 = 0.95;

/// So long both connections are up before the new one takes over: what happened before its subscriptions still comes by the old one.
const OVERLAP: Duration = Duration::from_secs(2);

/// A new session that could not be had is tried for again after so long.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// So many live events wait to hear which target's subscription they came by; of more it is not found out.
const MOST_UNPLACED: usize = 100_000;

/// So long the APIC may take to hear that we leave: a program whose reader has gone ends within a second.
const FAREWELL: Duration = Duration::from_millis(800);

/// The events of a fabric.
pub struct Aci {
    args: AciArgs,
    bases: Vec<Address>,
    /// Which of them is spoken to.
    at: usize,
    account: Account,
    tls: Tls,
    answer_timeout: Duration,
    wake: Wake,
    diagnostics: Diagnostics,
    tokens: Tokens,
    /// Counts attempts, and so tells sessions apart.
    sessions: u64,
    /// An attempt was made before.
    attempted: bool,
    /// The credentials were read again since.
    reloaded: bool,
    live: Option<Live>,
    next: Option<Next>,
    /// When the session in use is to be followed by another.
    renew_at: Option<Instant>,
    recent: Recent,
    known: Known,
    /// Live events whose subscription is not known yet: its id, and the object.
    unplaced: Vec<(String, String)>,
    /// Answers that came, until all have.
    answers: Vec<(u16, Vec<String>, bool)>,
    /// The next answers tell differences.
    telling: bool,
    /// What there was at the start is told.
    shown: bool,
    /// A target whose subscription is being made anew.
    renewing: Option<usize>,
    /// A subscription was made anew: the one before it may go on for a while.
    renewed: bool,
    /// Where the gap before this connection began, if it was told before everything was subscribed to.
    early_gap: Option<Timestamp>,
    /// Credentials that were refused when another session was to follow, by their fingerprint.
    refused: Option<u64>,
    queue: VecDeque<Step>,
    presence: Presence,
    /// Notices that no session is to be ended any longer.
    gone: Receiver<()>,
    counts: Counts,
}

/// What there is to do next.
#[derive(Debug, PartialEq)]
enum Step {
    Tell(Aside),
    /// Compare the answers that came with what is known.
    Compare,
}

#[derive(Default)]
struct Counts {
    repeated: u64,
    /// Messages without anything in them.
    empty: u64,
    objects: u64,
    resynced: u64,
    resubscribed: u64,
    sessions: u64,
}

/// A session in use, or about to be.
struct Live {
    number: u64,
    reports: Receiver<Report>,
    /// Dropped with the rest, which tells the thread.
    _interest: Sender<()>,
    /// The targets by their subscriptions' ids.
    subscriptions: HashMap<String, u16>,
    /// Its socket is in our hands, so what its thread tells is of use.
    connected: bool,
    /// Everything is subscribed to.
    ready: bool,
    /// Its thread has told that it is over, and why.
    over: bool,
}

/// The session that is to follow.
struct Next {
    live: Live,
    attempt: Receiver<Result<Client, Rejection>>,
    client: Option<Client>,
    overlap: Duration,
    /// When it takes over, once everything is subscribed to.
    at: Option<Instant>,
    base: usize,
    /// The fingerprint of the credentials it logs in with.
    credentials: u64,
}

impl Aci {
    /// The APICs at `bases`, with the credentials that are found now.
    ///
    /// # Errors
    /// No credentials, or some that cannot be read: wrong usage.
    pub fn new(
        args: AciArgs,
        bases: Vec<Address>,
        tls: Tls,
        answer_timeout: Duration,
        wake: &Wake,
        diagnostics: Diagnostics,
    ) -> Result<Aci, Failure> {
        let account = args.account().map_err(Failure::usage)?;
        let (presence, gone) = channel();
        Ok(Aci {
            args,
            bases,
            at: 0,
            account,
            tls,
            answer_timeout,
            wake: wake.clone(),
            diagnostics,
            tokens: Tokens::default(),
            sessions: 0,
            attempted: false,
            reloaded: false,
            live: None,
            next: None,
            renew_at: None,
            recent: Recent::default(),
            known: Known::default(),
            unplaced: Vec::new(),
            answers: Vec::new(),
            telling: false,
            shown: false,
            renewing: None,
            renewed: false,
            early_gap: None,
            refused: None,
            queue: VecDeque::new(),
            presence: Arc::new(Mutex::new(Some(presence))),
            gone,
            counts: Counts::default(),
        })
    }

    /// What it would do, in words, one fact each.
    pub fn plan(&self) -> Vec<String> {
        let account = match &self.account {
            Account::Password { name, .. } => format!("as {name}"),
            Account::Signature { certificate, .. } => format!("with requests signed for {certificate}"),
        };
        let bases: Vec<String> = self.bases.iter().map(Address::origin).collect();
        let selection = self.args.query.selection();
        let options = if selection.is_empty() { String::new() } else { format!(" with {selection}") };
        let mut facts = vec![format!("would log in to {} {account}", bases.join(", or if that fails "))];
        facts.extend(self.args.targets.iter().map(|target| {
            let kind = if matches!(target, Target::Class(_)) { "class" } else { "object" };
            format!("would subscribe to the {kind} {target}{options}")
        }));
        facts
    }

    fn lists(&self) -> bool {
        self.args.resync || (self.args.snapshot && !self.shown)
    }

    /// What an attempt needs, and a thread of its own to make it in.
    fn prepare(&mut self, base: usize, list: bool) -> (Live, Attempt) {
        self.sessions += 1;
        self.recent.expect(self.sessions, Clock.now().at);
        let ((tell, reports), (interest, interested)) = (channel(), channel());
        let live = Live {
            number: self.sessions,
            reports,
            _interest: interest,
            subscriptions: HashMap::new(),
            connected: false,
            ready: false,
            over: false,
        };
        let attempt = Attempt {
            base: self.bases[base].clone(),
            account: self.account.clone(),
            tls: self.tls.clone(),
            answer_timeout: self.answer_timeout,
            order: Order {
                targets: self.args.targets.clone(),
                query: self.args.query.clone(),
                list,
                list_again: self.args.resync,
            },
            surroundings: Thread {
                interested,
                tell,
                wake: self.wake.clone(),
                tokens: self.tokens.clone(),
                presence: None,
            },
            presence: Arc::clone(&self.presence),
        };
        (live, attempt)
    }

    /// Takes what the session's thread has to tell.
    fn collect(&mut self, now: Moment) {
        while let Some(live) = self.live.as_ref().filter(|live| live.connected) {
            match live.reports.try_recv() {
                Ok(report) => self.heed(report, now),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) if live.over => return,
                // Nobody refreshes anything any more, and the socket would not say so.
                Err(TryRecvError::Disconnected) => {
                    let reason = "what keeps the session alive broke off".to_owned();
                    self.heed(Report::Lost { reason, since: None, retry_after: None }, now);
                }
            }
        }
    }

    fn heed(&mut self, report: Report, now: Moment) {
        if let (Report::Lost { .. } | Report::Refused(_) | Report::Wrong(_), Some(live)) = (&report, &mut self.live) {
            live.over = true;
        }
        match report {
            Report::Token(_) => {}
            Report::Life(begun, life) => self.renew_at = Some(begun + life.mul_f64(RENEW_AT)),
            Report::Renewing(target) => {
                (self.renewing, self.renewed) = (Some(target), true);
                // What came since an answer that is not compared yet was asked for is newer than that one, too.
                if self.answers.is_empty() {
                    self.known.listen();
                }
                let session = self.live.as_ref().map_or(0, |live| live.number);
                self.recent.expect(session, now.at);
            }
            Report::Subscribed { target, subscribed, asked, missing_since } => {
                self.renewing = None;
                let target = u16::try_from(target).unwrap_or(u16::MAX);
                let Some(live) = &mut self.live else { return };
                self.recent.begin(feed(live.number, &subscribed.id), asked);
                let (anew, ready) = (live.subscriptions.values().any(|known| *known == target), live.ready);
                live.subscriptions.retain(|_, known| *known != target);
                self.unplaced.retain(|(id, name)| {
                    let own = *id == subscribed.id;
                    if own {
                        self.known.place(name, target);
                    }
                    !own
                });
                live.subscriptions.insert(subscribed.id, target);
                if !subscribed.answers.is_empty() {
                    self.answers.push((target, subscribed.answers, subscribed.complete));
                }
                if anew {
                    self.counts.resubscribed += 1;
                    // Before everything is subscribed to the gap is not over, and told then.
                    if let Some((from, reason)) = missing_since.filter(|_| ready) {
                        self.diagnostics.warn(&format!("{reason}; subscribed anew, and events may be missing"));
                        self.tell(Aside::Tell(Change::Gap { from, to: now.utc, reason, attempts: 1 }));
                    }
                    if ready {
                        self.queue.push_back(Step::Compare);
                    }
                }
            }
            Report::Ready => {
                self.counts.sessions += 1;
                if let Some(live) = &mut self.live {
                    live.ready = true;
                }
                self.tell(Aside::Proven);
                if let Some(from) = self.early_gap.take() {
                    let reason = "not everything was subscribed to yet when the first event came".to_owned();
                    self.tell(Aside::Tell(Change::Gap { from, to: now.utc, reason, attempts: 1 }));
                }
                self.queue.push_back(Step::Compare);
            }
            Report::Lost { reason, since, retry_after } => self.tell(Aside::Lost { reason, since, retry_after }),
            Report::Refused(reason) => self.tell(Aside::Refused(reason)),
            // What was right before is right again once the APIC has all its wits: one that starts up knows no class yet.
            Report::Wrong(reason) if self.counts.sessions > 0 => {
                self.tell(Aside::Lost { reason, since: None, retry_after: None });
            }
            Report::Wrong(reason) => self.tell(Aside::End(Failure::usage(reason))),
        }
    }

    fn tell(&mut self, aside: Aside) {
        self.queue.push_back(Step::Tell(aside));
    }

    /// A live event is remembered, for the next comparison.
    fn learn(&mut self, object: &Object<'_>, traits: &Traits<'_>, subscriptions: &[Cow<'_, str>]) {
        let Some(live) = &self.live else { return };
        let targets: Vec<u16> = subscriptions.iter().filter_map(|id| live.subscriptions.get(&**id).copied()).collect();
        self.known.heed(object, traits, &targets);
        if let Some(name) = traits.dn.as_deref().filter(|_| targets.len() < subscriptions.len()) {
            let room = MOST_UNPLACED.saturating_sub(self.unplaced.len());
            let unknown = subscriptions.iter().filter(|id| !live.subscriptions.contains_key(&***id)).take(room);
            self.unplaced.extend(unknown.map(|id| (id.to_string(), name.to_owned())));
        }
    }

    /// Compares the answers that came with what is known, once all are told of that comes before.
    fn compare(&mut self, now: Moment) {
        let telling = match (self.args.snapshot && !self.shown, self.telling) {
            (true, _) => Telling::Everything,
            (false, true) => Telling::Differences,
            (false, false) => Telling::Nothing,
        };
        let (mut told, lists) = (0, self.lists());
        for (target, answers, complete) in std::mem::take(&mut self.answers) {
            let complete = complete && (answers.len() == 1 || !self.known.pages_moved());
            if !complete {
                let target = &self.args.targets[usize::from(target)];
                self.diagnostics
                    .warn(&format!("{target}: the APIC's answer does not hold everything, so deletions may be missed"));
            }
            for event in self.known.compare(target, &answers, complete, telling) {
                told += 1;
                let stamped = json::append(&event, &format!(r#""received_at":"{}""#, now.utc.rfc3339()));
                self.tell(Aside::Event(stamped));
            }
        }
        if self.renewing.is_none() {
            self.known.settle();
        }
        self.unplaced.clear();
        self.shown = true;
        self.telling = false;
        if self.known.take_overflow() {
            self.diagnostics
                .warn("resync: more objects than can be remembered; changes of some may be missed or told as new");
        }
        if lists {
            self.counts.resynced += told;
            let what = match telling {
                Telling::Nothing => "now known".to_owned(),
                Telling::Differences => format!("{told} differences"),
                Telling::Everything => format!("{told} told"),
            };
            self.diagnostics.info(&format!("{} objects known, {what}", self.known.count()));
        }
    }

    /// Sees to a session that is to follow the one in use.
    fn see_to_the_next(&mut self, now: Moment) {
        if self.next.is_none() && self.live.is_some() && self.renew_at.is_some_and(|at| at <= now.at) {
            self.renew_at = None;
            if self.refused.is_some_and(|refused| refused == self.fingerprint()) {
                // Too many attempts lock an account. Others than those refused are looked for; the session in use goes on to its end.
                let _ = self.reload();
                if self.refused == Some(self.fingerprint()) {
                    self.renew_at = Some(now.at + RENEW_AGAIN);
                    return;
                }
            }
            self.refused = None;
            let base = self.at;
            let (live, attempt) = self.prepare(base, false);
            let (sender, receiver) = channel();
            let wake = self.wake.clone();
            let started = thread::Builder::new().name("renew".to_owned()).spawn(move || {
                let _ = sender.send(attempt.make());
                wake.wake();
            });
            match started {
                Ok(_) => {
                    self.diagnostics.info("the session nears its end; another one is begun beside it");
                    let credentials = self.fingerprint();
                    self.next = Some(Next {
                        live,
                        attempt: receiver,
                        client: None,
                        overlap: OVERLAP,
                        at: None,
                        base,
                        credentials,
                    });
                }
                Err(error) => self.give_up_the_next(&format!("no thread can be started: {error}"), now),
            }
        }
        let Some(next) = &mut self.next else { return };
        let mut failure = None;
        if next.client.is_none() {
            match next.attempt.try_recv() {
                Ok(Ok(client)) => {
                    next.client = Some(client);
                    next.live.connected = true;
                }
                Ok(Err(Rejection::Refused { reason })) => {
                    failure = Some(reason);
                    self.refused = Some(next.credentials);
                }
                Ok(Err(Rejection::Failed { reason, .. })) => failure = Some(reason),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => failure = Some("the attempt broke off".to_owned()),
            }
        }
        while let Ok(report) = next.live.reports.try_recv() {
            match report {
                Report::Subscribed { target, subscribed, asked, .. } => {
                    self.recent.begin(feed(next.live.number, &subscribed.id), asked);
                    let target = u16::try_from(target).unwrap_or(u16::MAX);
                    next.live.subscriptions.insert(subscribed.id, target);
                }
                Report::Ready => {
                    next.live.ready = true;
                    next.at = Some(now.at + next.overlap);
                }
                Report::Life(begun, life) => {
                    self.renew_at = Some(begun + life.mul_f64(RENEW_AT));
                    next.overlap = OVERLAP.min(life / 40);
                }
                Report::Lost { reason, .. } | Report::Refused(reason) | Report::Wrong(reason) => failure = Some(reason),
                Report::Token(_) | Report::Renewing(_) => {}
            }
        }
        if let Some(reason) = failure {
            self.give_up_the_next(&reason, now);
        }
    }

    fn give_up_the_next(&mut self, reason: &str, now: Moment) {
        let reason = self.redact(reason);
        let then = match self.refused {
            Some(_) => "not tried again until the credentials change".to_owned(),
            None => format!("trying again in {} s", RENEW_AGAIN.as_secs()),
        };
        self.diagnostics.warn(&format!("no session to follow this one: {reason}; {then}"));
        self.next = None;
        self.renew_at = Some(now.at + RENEW_AGAIN);
    }
}

impl Protocol for Aci {
    fn path(&self) -> String {
        "/socket".to_owned()
    }

    fn source(&self) -> String {
        let base = &self.bases[self.at];
        format!("{}://{}/socket", if base.is_secure() { "wss" } else { "ws" }, base.authority())
    }

    fn dial(&mut self) -> Dial {
        // Whatever was wrong with one APIC need not be wrong with the next; but credentials are wrong everywhere.
        let stay = std::mem::take(&mut self.reloaded);
        if std::mem::replace(&mut self.attempted, true) && !stay {
            self.at = (self.at + 1) % self.bases.len();
        }
        self.hung_up();
        let list = self.lists();
        if list {
            self.known.listen();
        }
        let (live, attempt) = self.prepare(self.at, list);
        self.live = Some(live);
        Box::new(move || attempt.make())
    }

    fn message<'t>(&mut self, text: &'t str, now: Timestamp) -> Meaning<'t> {
        if text.trim().is_empty() {
            self.counts.empty += 1;
            return Meaning::Nothing;
        }
        let envelope = match Envelope::read(text) {
            Ok(envelope) => envelope,
            Err(fault) => return Meaning::Faulty(fault),
        };
        if let Some((code, words)) = envelope.error {
            return Meaning::Failed(format!("the APIC said: {code} {words}"));
        }
        if envelope.objects.is_empty() {
            return Meaning::Faulty(Fault::new("\"imdata\" is empty"));
        }
        self.counts.objects += envelope.objects.len() as u64;
        if self.args.raw {
            return Meaning::Records(vec![Record { text: json::one_line(text), is_event: true }]);
        }
        let session = self.live.as_ref().map_or(0, |live| live.number);
        // Only where there is more than one way for an event to come can it come twice.
        let ways = self.args.targets.len() > 1 || self.next.is_some() || self.counts.sessions > 1 || self.renewed;
        let subscriptions = envelope.subscriptions.iter().filter(|_| ways);
        let feeds: Vec<recent::Feed> = subscriptions.map(|id| feed(session, id)).collect();
        let mut records = Vec::new();
        for object in &envelope.objects {
            let traits = Traits::of(object.attributes);
            let name = traits.dn.as_deref().filter(|_| !feeds.is_empty());
            if name.is_some_and(|name| !self.recent.is_new(name, object.raw, &feeds, Clock.now().at)) {
                self.counts.repeated += 1;
                continue;
            }
            if self.args.resync {
                self.learn(object, &traits, &envelope.subscriptions);
            }
            let stamp = format!(r#","received_at":"{}""#, now.rfc3339());
            let text = event(object, &traits, traits.action(), &stamp);
            records.push(Record { text: Cow::Owned(text), is_event: true });
        }
        Meaning::Records(records)
    }

    fn reload(&mut self) -> Result<bool, String> {
        self.reloaded = true;
        let account = self.args.account()?;
        let before = self.fingerprint();
        self.account = account;
        Ok(self.fingerprint() != before)
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match &self.account {
            Account::Password { name, password } => (name, password.expose()).hash(&mut hasher),
            // A signature of the same text is the same as long as the key is.
            Account::Signature { certificate, signer } => (certificate, signer.sign(b"")).hash(&mut hasher),
        }
        hasher.finish()
    }

    fn redact(&self, words: &str) -> String {
        self.account.redact(&self.tokens.redact(words))
    }

    fn changed(&mut self, change: &Change, _now: Moment) -> Heeded {
        let Change::Gap { from, .. } = change else { return Heeded::default() };
        self.early_gap = self.live.as_ref().is_some_and(|live| !live.ready).then_some(*from);
        if self.args.resync {
            self.telling = true;
            return Heeded::resync();
        }
        Heeded::default()
    }

    fn dialed(&mut self) {
        if let Some(live) = &mut self.live {
            live.connected = true;
        }
    }

    fn hung_up(&mut self) {
        // What its thread found missing is to be told whatever becomes of the connection.
        while let Some(Ok(report)) = self.live.as_ref().filter(|live| live.ready).map(|live| live.reports.try_recv()) {
            if let Report::Subscribed { missing_since: Some((from, reason)), .. } = report {
                let to = Clock.now().utc;
                self.tell(Aside::Tell(Change::Gap { from, to, reason, attempts: 1 }));
            }
        }
        // The threads notice, and log out.
        self.live = None;
        self.next = None;
        self.renew_at = None;
        (self.renewing, self.early_gap) = (None, None);
        // What was found missing is known by now, and nobody would find it again.
        self.queue.retain(|step| matches!(step, Step::Tell(Aside::Event(_) | Aside::Tell(Change::Gap { .. }))));
        self.answers.clear();
        self.unplaced.clear();
    }

    fn successor(&mut self, ended: bool, now: Moment) -> Option<Client> {
        let due = self
            .next
            .as_ref()
            .is_some_and(|next| next.client.is_some() && next.at.is_some_and(|at| ended || at <= now.at));
        if !due {
            return None;
        }
        let Next { live, client, base, .. } = self.next.take()?;
        let client = client?;
        self.diagnostics.info("the session was followed by another one; nothing is missing");
        self.live = Some(live);
        self.at = base;
        self.counts.sessions += 1;
        Some(client)
    }

    fn leave(&mut self) {
        self.hung_up();
        self.presence.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nothing is ever sent: it ends when the last thread does.
        let _ = self.gone.recv_timeout(FAREWELL);
    }

    fn aside(&mut self, now: Moment) -> Option<Aside> {
        self.collect(now);
        self.see_to_the_next(now);
        loop {
            match self.queue.pop_front()? {
                Step::Tell(aside) => return Some(aside),
                // `open` and `gap` were told before it, and said whether differences are to be.
                Step::Compare => self.compare(now),
            }
        }
    }

    fn due(&self, now: Moment) -> Option<Instant> {
        let at_once = (!self.queue.is_empty()).then_some(now.at);
        let renew = self.renew_at.filter(|_| self.next.is_none() && self.live.is_some());
        let next = self.next.as_ref().and_then(|next| next.at);
        [at_once, renew, next].into_iter().flatten().min()
    }

    fn accounts(&self) -> Accounts {
        Accounts::default()
            .with("empty", self.counts.empty)
            .with("objects", self.counts.objects)
            .with("repeated", self.counts.repeated)
            .with("resynced", self.counts.resynced)
            .with("resubscribed", self.counts.resubscribed)
            .with("sessions", self.counts.sessions)
    }
}

#[cfg(test)]
mod tests;
