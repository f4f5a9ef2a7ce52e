//! Which path is asked for when: one request per path at a time, a cache, retries, and a circuit breaker. Told the moment and the answers, it
//! does nothing itself.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Outcome;
use crate::model::backoff::{self, FLOOR};
use crate::model::time::{Moment, parse_retry_after};
use crate::world::Diagnostics;

/// So many failures in a row open the circuit breaker.
const FAILURES: u32 = 5;
/// A failure that took so long is no hiccup: it counts whatever failed beside it.
const LONG: Duration = Duration::from_secs(5);
/// So often an API that fails or refuses us is probed.
pub const PROBE_EVERY: Duration = Duration::from_secs(10);
/// The longest `Retry-After` that is believed; a longer one is a mistake.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);
/// So many copies are kept at most.
const MOST_COPIES: usize = 10_000;
/// So many bytes of copies are kept at most.
const MOST_COPIED: usize = 64 << 20;

/// What a lookup comes to: the object, or why there is none, in the words of `enrich_error`.
pub type Found = Result<Arc<str>, Arc<str>>;

/// A place in an event that waits for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The event's number.
    pub event: u64,
    /// Which of its objects.
    pub index: usize,
}

/// Limits a user sets.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// So many requests at once.
    pub concurrency: usize,
    /// So long a copy is good.
    pub ttl: Duration,
}

/// All that is known about all paths.
pub struct Lookups {
    rules: Rules,
    diagnostics: Diagnostics,
    paths: HashMap<Arc<str>, Lookup>,
    /// Paths to ask for, in the order they were wanted. One that is no longer [`Step::Queued`] is passed over.
    queue: VecDeque<Arc<str>>,
    /// Paths to ask for again, by when.
    retries: BTreeSet<(Instant, Arc<str>)>,
    in_flight: usize,
    /// The copies by age, with their stamps; a copy that was replaced has another stamp.
    copies: VecDeque<(Arc<str>, u64)>,
    copied: usize,
    stamp: u64,
    /// The server asked to be left alone until then, and why.
    hold: Option<(Instant, Arc<str>)>,
    breaker: Breaker,
    settled: Vec<(Slot, Found)>,
    /// Requests made.
    pub requests: u64,
    /// Lookups answered by a copy.
    pub hits: u64,
}

/// What is known about one path.
#[derive(Default)]
struct Lookup {
    /// How many events about the object came since it is followed: an answer asked for before the last of them may be old.
    version: u64,
    copy: Option<Copy>,
    step: Step,
    /// Failed attempts in a row.
    attempts: u32,
    /// The last one's reason.
    trouble: Option<Arc<str>>,
    waiters: Vec<Waiter>,
}

struct Copy {
    found: Found,
    expires: Instant,
    stamp: u64,
}

/// What is under way for a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Nothing,
    Queued,
    InFlight {
        version: u64,
        since: Instant,
    },
    Retry {
        due: Instant,
    },
}

struct Waiter {
    slot: Slot,
    /// The oldest version that will do.
    version: u64,
    deadline: Instant,
}

/// Guards people against an API that is down: they get their events at once, without what it would have said.
#[derive(Default)]
struct Breaker {
    failures: u32,
    /// When the last counted failure came. Of requests that were under way together only one failure counts, or one hiccup would be five.
    counted: Option<Instant>,
    open: Option<Open>,
    /// What to probe with.
    path: Option<Arc<str>>,
    /// Why the last lookup was given up.
    trouble: Option<Arc<str>>,
}

struct Open {
    reason: Arc<str>,
    refused: bool,
    probe_at: Instant,
}

impl Lookups {
    /// Nothing is known yet.
    pub fn new(rules: Rules, diagnostics: Diagnostics) -> Lookups {
        Lookups {
            rules,
            diagnostics,
            paths: HashMap::new(),
            queue: VecDeque::new(),
            retries: BTreeSet::new(),
            in_flight: 0,
            copies: VecDeque::new(),
            copied: 0,
            stamp: 0,
            hold: None,
            breaker: Breaker::default(),
            settled: Vec::new(),
            requests: 0,
            hits: 0,
        }
    }

    /// An event about the object at `path` came: what was asked for before is old from now on.
    pub fn stale(&mut self, path: &str) {
        if let Some(lookup) = self.paths.get_mut(path) {
            lookup.version += 1;
            if let Some(copy) = lookup.copy.take() {
                self.copied -= copy.size();
            }
        }
    }

    /// Asks for the object at `path`. What it comes to is told at once, or later by [`settled`](Lookups::settled), at `deadline` at the latest.
    pub fn ask(&mut self, path: &str, slot: Slot, deadline: Instant, now: Moment) -> Option<Found> {
        if let Some(copy) = self.paths.get(path).and_then(|lookup| lookup.copy.as_ref()).filter(|c| c.expires > now.at)
        {
            self.hits += 1;
            return Some(copy.found.clone());
        }
        let path: Arc<str> = path.into();
        if let Some(open) = &self.breaker.open {
            self.breaker.path = Some(path);
            return Some(Err(open.words()));
        }
        if let Some((_, reason)) = self.hold.as_ref().filter(|(until, _)| *until > deadline) {
            return Some(Err(Arc::clone(reason)));
        }
        let lookup = self.paths.entry(Arc::clone(&path)).or_default();
        lookup.waiters.push(Waiter { slot, version: lookup.version, deadline });
        if lookup.step == Step::Nothing {
            lookup.step = Step::Queued;
            self.queue.push_back(path);
        }
        None
    }

    /// The slot's event waits no longer: its time is over. Gives the reason.
    pub fn give_up(&mut self, path: &str, slot: Slot) -> Arc<str> {
        let Some(lookup) = self.paths.get_mut(path) else { return "timed out".into() };
        lookup.waiters.retain(|waiter| waiter.slot != slot);
        let reason = timed_out(lookup.trouble.as_ref());
        let trouble = lookup.trouble.clone();
        if lookup.waiters.is_empty() {
            if let Step::Retry { due } = lookup.step {
                self.retries.remove(&(due, Arc::from(path)));
            }
            if !matches!(lookup.step, Step::InFlight { .. }) {
                lookup.step = Step::Nothing;
            }
        }
        self.forget_if_idle(path);
        // Only waiting in the queue, or for a slow answer, says nothing yet about the API's health.
        if trouble.is_some() && self.breaker.open.is_none() {
            self.breaker.failures += 1;
            self.breaker.path = Some(path.into());
            self.breaker.trouble = trouble;
        }
        reason
    }

    /// Opens the breaker if what was given up makes it so.
    pub fn review(&mut self, now: Moment) {
        if self.breaker.failures >= FAILURES && self.breaker.open.is_none() {
            let trouble = self.breaker.trouble.clone();
            self.open(trouble.unwrap_or_else(|| "no answer in time".into()), false, now);
        }
    }

    /// The next path to ask for now; it is then in flight. Of those wanted first is asked first, and a retry before all.
    pub fn next(&mut self, now: Moment) -> Option<Arc<str>> {
        if self.in_flight >= self.rules.concurrency {
            return None;
        }
        if let Some(open) = &mut self.breaker.open {
            if open.probe_at > now.at || self.in_flight > 0 {
                return None;
            }
            open.probe_at = now.at + PROBE_EVERY;
            let path = self.breaker.path.clone()?;
            return Some(self.start(path, now));
        }
        if self.hold.as_ref().is_some_and(|(until, _)| *until > now.at) {
            return None;
        }
        self.hold = None;
        if let Some((due, path)) = self.retries.first().filter(|(due, _)| *due <= now.at).cloned() {
            self.retries.remove(&(due, Arc::clone(&path)));
            return Some(self.start(path, now));
        }
        while let Some(path) = self.queue.pop_front() {
            if self.paths.get(&path).is_some_and(|lookup| lookup.step == Step::Queued) {
                return Some(self.start(path, now));
            }
        }
        None
    }

    fn start(&mut self, path: Arc<str>, now: Moment) -> Arc<str> {
        let lookup = self.paths.entry(Arc::clone(&path)).or_default();
        lookup.step = Step::InFlight { version: lookup.version, since: now.at };
        self.in_flight += 1;
        self.requests += 1;
        path
    }

    /// What came of asking for `path`. `random` is in 0..1, for the backoff.
    pub fn answered(&mut self, path: &str, outcome: Outcome, now: Moment, random: f64) {
        let Some((path, lookup)) = self.paths.get_key_value(path) else { return };
        let Step::InFlight { version, since } = lookup.step else { return };
        let path = Arc::clone(path);
        self.in_flight -= 1;
        self.set_step(&path, Step::Nothing);
        match outcome {
            Outcome::Found(object) => self.known(&path, version, Ok(object), now),
            Outcome::Nothing(reason) => self.known(&path, version, Err(reason.into()), now),
            Outcome::AskAgain => self.again(&path, now),
            Outcome::Refused(reason) => {
                self.breaker.path = Some(Arc::clone(&path));
                self.open(reason.into(), true, now);
            }
            Outcome::Hopeless(reason) => {
                self.diagnostics.detail(&format!("{path}: {reason}"));
                let reason: Arc<str> = reason.into();
                self.settle(&path, |_| true, &Err(Arc::clone(&reason)));
                self.failed(&path, &reason, since, now);
            }
            Outcome::Trouble { reason, retry_after } => {
                let reason: Arc<str> = reason.into();
                let asked =
                    retry_after.and_then(|value| parse_retry_after(&value, now.utc)).map(|wait| wait.min(LONGEST_HOLD));
                self.trouble(&path, &reason, asked, now, random);
                // A server that names a time is well enough; it is left alone until then.
                if asked.is_none() {
                    self.failed(&path, &reason, since, now);
                }
            }
        }
        self.forget_if_idle(&path);
    }

    /// An answer that will do for some time.
    fn known(&mut self, path: &Arc<str>, version: u64, found: Found, now: Moment) {
        self.healthy();
        self.diagnostics.detail(&match &found {
            Ok(object) => format!("{path}: {} bytes", object.len()),
            Err(reason) => format!("{path}: {reason}"),
        });
        self.settle(path, |waiter| waiter.version <= version, &found);
        let Some(lookup) = self.paths.get_mut(path) else { return };
        (lookup.attempts, lookup.trouble) = (0, None);
        if lookup.version == version && !self.rules.ttl.is_zero() {
            self.stamp += 1;
            let copy = Copy { found, expires: now.at + self.rules.ttl, stamp: self.stamp };
            self.copied += copy.size();
            if let Some(old) = lookup.copy.replace(copy) {
                self.copied -= old.size();
            }
            self.copies.push_back((Arc::clone(path), self.stamp));
        }
        // Those for whom an event about the object made the answer too old.
        if !lookup.waiters.is_empty() {
            lookup.step = Step::Queued;
            self.queue.push_front(Arc::clone(path));
        }
        self.prune(now);
    }

    /// The credential was renewed while it was refused.
    fn again(&mut self, path: &Arc<str>, now: Moment) {
        if let Some(open) = &mut self.breaker.open {
            open.probe_at = now.at;
            self.breaker.path = Some(Arc::clone(path));
        } else if self.paths.get(path).is_some_and(|lookup| !lookup.waiters.is_empty()) {
            self.set_step(path, Step::Queued);
            self.queue.push_front(Arc::clone(path));
        }
    }

    fn trouble(&mut self, path: &Arc<str>, reason: &Arc<str>, asked: Option<Duration>, now: Moment, random: f64) {
        let Some(lookup) = self.paths.get_mut(path) else { return };
        lookup.attempts += 1;
        lookup.trouble = Some(Arc::clone(reason));
        let wait = asked.map_or_else(|| backoff::delay(lookup.attempts, random), |asked| asked.max(FLOOR));
        let due = now.at + wait;
        self.diagnostics.detail(&format!("{path}: {reason}"));
        // Whoever cannot wait so long is not kept waiting in vain.
        let late = timed_out(Some(reason));
        if asked.is_some() {
            if let Some(open) = &mut self.breaker.open {
                open.probe_at = open.probe_at.max(due);
            }
            self.hold = Some((due, Arc::clone(&late)));
            let paths: Vec<Arc<str>> = self.paths.keys().cloned().collect();
            for other in paths {
                if !matches!(self.paths.get(&other), Some(Lookup { step: Step::InFlight { .. }, .. })) {
                    self.settle(&other, |waiter| waiter.deadline < due, &Err(Arc::clone(&late)));
                    self.idle_if_unwanted(&other);
                }
            }
        } else {
            self.settle(path, |waiter| waiter.deadline < due, &Err(late));
        }
        if self.paths.get(path).is_some_and(|lookup| !lookup.waiters.is_empty()) {
            self.set_step(path, Step::Retry { due });
            self.retries.insert((due, Arc::clone(path)));
        }
    }

    /// Counts a failure of the API as a whole.
    fn failed(&mut self, path: &Arc<str>, reason: &Arc<str>, since: Instant, now: Moment) {
        if let Some(open) = &mut self.breaker.open {
            if !open.refused {
                open.reason = Arc::clone(reason);
            }
            return;
        }
        let apart = self.breaker.counted.is_none_or(|counted| counted <= since);
        if apart || now.at.saturating_duration_since(since) >= LONG {
            self.breaker.counted = Some(now.at);
            self.breaker.failures += 1;
            self.breaker.path = Some(Arc::clone(path));
        }
        if self.breaker.failures >= FAILURES {
            self.open(Arc::clone(reason), false, now);
        }
    }

    fn open(&mut self, reason: Arc<str>, refused: bool, now: Moment) {
        let known = self.breaker.open.as_ref().is_some_and(|open| open.refused == refused);
        if !known {
            self.diagnostics.error(&if refused {
                format!(
                    "credentials refused: {reason}; events are passed on without what the API knows; trying again every {} s, and at HUP",
                    PROBE_EVERY.as_secs()
                )
            } else {
                format!(
                    "the API is failing: {reason}; events are passed on without what it knows; trying again every {} s",
                    PROBE_EVERY.as_secs()
                )
            });
        }
        let open = Open { reason, refused, probe_at: now.at + PROBE_EVERY };
        let words = open.words();
        self.breaker.open = Some(open);
        self.queue.clear();
        self.retries.clear();
        for (path, lookup) in &mut self.paths {
            self.settled.extend(lookup.waiters.drain(..).map(|waiter| (waiter.slot, Err(Arc::clone(&words)))));
            if !matches!(lookup.step, Step::InFlight { .. }) {
                lookup.step = Step::Nothing;
            }
            self.breaker.path.get_or_insert_with(|| Arc::clone(path));
        }
        self.paths.retain(|_, lookup| !lookup.is_idle());
    }

    /// The API gave a proper answer.
    fn healthy(&mut self) {
        self.breaker.failures = 0;
        self.breaker.counted = None;
        if let Some(open) = self.breaker.open.take() {
            self.diagnostics.warn(if open.refused { "credentials accepted again" } else { "the API answers again" });
        }
    }

    /// Probes at once if the API fails or refuses us: something was changed.
    pub fn probe_now(&mut self, now: Moment) {
        if let Some(open) = &mut self.breaker.open {
            open.probe_at = now.at;
        }
    }

    /// Whether our credentials are refused.
    pub fn refused(&self) -> bool {
        self.breaker.open.as_ref().is_some_and(|open| open.refused)
    }

    /// What lookups came to since the last call.
    pub fn settled(&mut self) -> Vec<(Slot, Found)> {
        std::mem::take(&mut self.settled)
    }

    /// How many requests are under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// When [`next`](Lookups::next) may have something that it has not now, other than by an answer.
    pub fn deadline(&self) -> Option<Instant> {
        if self.in_flight >= self.rules.concurrency {
            return None;
        }
        if let Some(open) = &self.breaker.open {
            return Some(open.probe_at).filter(|_| self.in_flight == 0);
        }
        let retry = self.retries.first().map(|(due, _)| *due);
        match &self.hold {
            Some((until, _)) if !self.queue.is_empty() || retry.is_some() => Some(*until),
            _ => retry,
        }
    }

    fn settle(&mut self, path: &str, whom: impl Fn(&Waiter) -> bool, found: &Found) {
        if let Some(lookup) = self.paths.get_mut(path) {
            let (settled, waiting) = std::mem::take(&mut lookup.waiters).into_iter().partition(|waiter| whom(waiter));
            lookup.waiters = waiting;
            let settled: Vec<Waiter> = settled;
            self.settled.extend(settled.into_iter().map(|waiter| (waiter.slot, found.clone())));
        }
    }

    fn set_step(&mut self, path: &str, step: Step) {
        if let Some(lookup) = self.paths.get_mut(path) {
            lookup.step = step;
        }
    }

    /// Takes a path nobody waits for any longer out of the queue or the retries.
    fn idle_if_unwanted(&mut self, path: &Arc<str>) {
        if let Some(lookup) = self.paths.get_mut(path).filter(|lookup| lookup.waiters.is_empty()) {
            if let Step::Retry { due } = lookup.step {
                self.retries.remove(&(due, Arc::clone(path)));
            }
            lookup.step = Step::Nothing;
        }
        self.forget_if_idle(path);
    }

    fn forget_if_idle(&mut self, path: &str) {
        if self.paths.get(path).is_some_and(Lookup::is_idle) {
            self.paths.remove(path);
        }
    }

    /// Lets go of copies that are too old, or too many.
    fn prune(&mut self, now: Moment) {
        while let Some((path, stamp)) = self.copies.front().cloned() {
            let copy = self.paths.get(&path).and_then(|lookup| lookup.copy.as_ref()).filter(|copy| copy.stamp == stamp);
            let too_many = self.copies.len() > MOST_COPIES || self.copied > MOST_COPIED;
            if copy.is_some_and(|copy| copy.expires > now.at) && !too_many {
                return;
            }
            let size = copy.map(Copy::size);
            self.copies.pop_front();
            if let Some((size, lookup)) = size.zip(self.paths.get_mut(&path)) {
                lookup.copy = None;
                self.copied -= size;
            }
            self.forget_if_idle(&path);
        }
    }
}

impl Lookup {
    /// Nothing would be lost by forgetting it.
    fn is_idle(&self) -> bool {
        self.step == Step::Nothing && self.copy.is_none() && self.waiters.is_empty()
    }
}

impl Copy {
    fn size(&self) -> usize {
        self.found.as_ref().map_or_else(|reason| reason.len(), |object| object.len())
    }
}

impl Open {
    /// In the words of `enrich_error`.
    fn words(&self) -> Arc<str> {
        if self.refused { Arc::clone(&self.reason) } else { format!("the API is failing: {}", self.reason).into() }
    }
}

fn timed_out(trouble: Option<&Arc<str>>) -> Arc<str> {
    trouble.map_or_else(|| "timed out".into(), |trouble| format!("timed out: {trouble}").into())
}
