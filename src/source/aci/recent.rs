//! The events passed on of late: one that comes again under another subscription, or over the connection that takes over, is recognised.
//!
//! Each feed (a subscription of a session) tells what happens to an object in the same order. So an event is one we have had if another feed brought it
//! after what this feed brought last; an equal event that the same feed brings twice has happened twice. What was brought before a feed began it cannot
//! bring again.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// So long after the last event of an object another feed may still bring it.
const MEMORY: Duration = Duration::from_secs(60);

/// So many events are remembered; beyond that the oldest are forgotten.
const MOST_EVENTS: usize = 100_000;

/// The one in use, the one to follow, and some before them.
const MOST_SESSIONS: usize = 8;

/// Which feed an event came by: the session and its subscription's id.
pub type Feed = (u64, u64);

/// A feed's name from a session's number and an id as the APIC wrote it.
pub fn feed(session: u64, id: &str) -> Feed {
    (session, hash(id))
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What is remembered.
#[derive(Debug, Default)]
pub struct Recent {
    objects: HashMap<u64, Log>,
    /// The objects of all events remembered, in their order, with when they came.
    order: VecDeque<(Instant, u64)>,
    /// When each feed began, as far as that is known.
    starts: HashMap<Feed, Instant>,
    /// When a session's feeds began at the earliest.
    sessions: VecDeque<(u64, Instant)>,
}

/// What happened to an object.
#[derive(Debug, Default)]
struct Log {
    /// When they came, and their digests.
    events: VecDeque<(Instant, u64)>,
    /// How many of them were forgotten: places count on.
    forgotten: usize,
    /// Behind which place each feed is.
    places: Vec<(Feed, usize)>,
}

impl Recent {
    /// Feeds of a session are about to begin.
    pub fn expect(&mut self, session: u64, now: Instant) {
        self.sessions.retain(|(known, _)| *known != session);
        self.sessions.push_back((session, now));
        if self.sessions.len() > MOST_SESSIONS {
            self.sessions.pop_front();
        }
        let sessions = &self.sessions;
        self.starts.retain(|feed, _| sessions.iter().any(|(known, _)| *known == feed.0));
    }

    /// A feed began, and it is known when at the earliest.
    pub fn begin(&mut self, feed: Feed, at: Instant) {
        self.starts.insert(feed, at);
    }

    /// Whether an object's event is new. `feeds` brought it.
    pub fn is_new(&mut self, object: &str, event: &str, feeds: &[Feed], now: Instant) -> bool {
        self.forget(now);
        let (object, event) = (hash(object), hash(event));
        let (starts, sessions) = (&self.starts, &self.sessions);
        let start = |feed: &Feed| {
            let session = || sessions.iter().find(|(known, _)| *known == feed.0).map(|(_, at)| *at);
            starts.get(feed).copied().or_else(session)
        };
        let new = self.objects.entry(object).or_default().take((now, event), feeds, &start);
        if new {
            self.order.push_back((now, object));
        }
        new
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, object)) = self.order.front() {
            if *at + MEMORY > now && self.order.len() < MOST_EVENTS {
                break;
            }
            if let Some(log) = self.objects.get_mut(object) {
                log.events.pop_front();
                log.forgotten += 1;
                if log.events.is_empty() {
                    self.objects.remove(object);
                }
            }
            self.order.pop_front();
        }
    }
}

impl Log {
    fn take(&mut self, event: (Instant, u64), feeds: &[Feed], start: &dyn Fn(&Feed) -> Option<Instant>) -> bool {
        let place_of = |feed: &Feed| match self.places.iter().find(|(known, _)| known == feed) {
            Some((_, place)) => *place,
            None => {
                self.forgotten + self.events.partition_point(|(at, _)| start(feed).is_some_and(|start| *at < start))
            }
        };
        let from = feeds.iter().map(place_of).max().unwrap_or_default().max(self.forgotten);
        let known = self.events.iter().skip(from - self.forgotten).position(|known| known.1 == event.1);
        let place = match known {
            Some(known) => from + known + 1,
            None => {
                self.events.push_back(event);
                self.forgotten + self.events.len()
            }
        };
        self.places.retain(|(feed, _)| !feeds.contains(feed));
        self.places.extend(feeds.iter().map(|feed| (*feed, place)));
        known.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Feed = (1, 1);
    const B: Feed = (1, 2);

    fn play(steps: &[(&[Feed], &str, bool)]) {
        let mut recent = Recent::default();
        let now = Instant::now();
        for (number, (feeds, event, new)) in steps.iter().enumerate() {
            assert_eq!(recent.is_new("uni/tn-X", event, feeds, now), *new, "step {number}");
        }
    }

    #[test]
    fn an_event_that_two_subscriptions_bring_is_one() {
        play(&[(&[A], "c", true), (&[B], "c", false), (&[A, B], "m", true)]);
    }

    #[test]
    fn what_happens_twice_is_two_in_whatever_order_the_feeds_tell() {
        play(&[(&[A], "d", true), (&[A], "d", true), (&[B], "d", false), (&[B], "d", false), (&[B], "d", true)]);
        play(&[(&[A], "d", true), (&[B], "d", false), (&[A], "d", true), (&[B], "d", false)]);
    }

    #[test]
    fn a_feed_that_begins_later_brings_what_is_new() {
        // Deleted before the second feed began, created and deleted again since.
        play(&[(&[A], "d", true), (&[B], "c", true), (&[B], "d", true), (&[A], "c", false), (&[A], "d", false)]);
    }

    #[test]
    fn what_came_before_a_feed_began_it_does_not_bring_again() {
        let mut recent = Recent::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut is_new = |feed: Feed, event: &str, seconds| recent.is_new("uni/tn-X", event, &[feed], at(seconds));
        assert!(is_new(A, "deleted", 0) && is_new(A, "created at noon", 1));
        let (next, last) = ((2, 1), (2, 2));
        // The first deletion is the old feed's alone; this is another one.
        recent.expect(2, at(0));
        recent.begin(next, at(2));
        let mut is_new = |feed: Feed, event: &str, seconds| recent.is_new("uni/tn-X", event, &[feed], at(seconds));
        assert!(is_new(next, "deleted", 3));
        assert!(is_new(A, "x", 4));
        assert!(!is_new(next, "x", 5));
        // Of the other it is only known when it was expected.
        assert!(!is_new(last, "created at noon", 6) && !is_new(last, "x", 7));
    }

    #[test]
    fn memory_is_bounded_in_time_and_number() {
        let mut recent = Recent::default();
        let now = Instant::now();
        for number in 0..MOST_EVENTS * 2 {
            assert!(recent.is_new(&(number % 70_000).to_string(), &number.to_string(), &[A], now));
        }
        assert!(recent.objects.len() <= MOST_EVENTS && recent.order.len() <= MOST_EVENTS);
        assert_eq!(recent.objects.values().map(|log| log.events.len()).sum::<usize>(), recent.order.len());
        assert!(recent.is_new("y", "c", &[A], now) && recent.is_new("y", "c", &[B], now + MEMORY * 2));
        assert_eq!(recent.objects.len(), 1);
    }
}
