//! The events passed on of late: one that comes again under another subscription, or over the connection that takes over, is recognised.
//!
//! Each feed (a subscription of a session) tells what happens to an object in the same order. So an event is one we have had if another feed brought it
//! after what this feed brought last; an equal event that the same feed brings twice has happened twice.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// So long after the last event of an object another feed may still bring it.
const MEMORY: Duration = Duration::from_secs(60);

/// So many objects are remembered; beyond that the oldest are forgotten.
const MOST_OBJECTS: usize = 20_000;

/// So many events of one object.
const MOST_EVENTS: usize = 32;

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
    /// Objects in the order of their events, with when it was; an object may stand here more than once.
    order: VecDeque<(Instant, u64)>,
}

#[derive(Debug)]
struct Log {
    events: VecDeque<u64>,
    /// How many of the object's events were forgotten: places count on.
    forgotten: usize,
    /// Behind which place each feed is.
    places: Vec<(Feed, usize)>,
    at: Instant,
}

impl Recent {
    /// Whether an object's event is new. `feeds` brought it.
    pub fn is_new(&mut self, object: &str, event: &str, feeds: &[Feed], now: Instant) -> bool {
        self.forget(now);
        let (object, event) = (hash(object), hash(event));
        let log = self.objects.entry(object).or_insert_with(|| Log {
            events: VecDeque::new(),
            forgotten: 0,
            places: Vec::new(),
            at: now,
        });
        log.at = now;
        self.order.push_back((now, object));
        log.take(event, feeds)
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, object)) = self.order.front() {
            if *at + MEMORY > now && self.order.len() < MOST_OBJECTS {
                break;
            }
            if self.objects.get(object).is_some_and(|log| log.at == *at) {
                self.objects.remove(object);
            }
            self.order.pop_front();
        }
    }
}

impl Log {
    fn take(&mut self, event: u64, feeds: &[Feed]) -> bool {
        let place_of = |feed: &Feed| self.places.iter().find(|(known, _)| known == feed).map_or(0, |(_, place)| *place);
        let from = feeds.iter().map(place_of).max().unwrap_or_default().max(self.forgotten);
        let known = self.events.iter().skip(from - self.forgotten).position(|known| *known == event);
        let place = match known {
            Some(known) => from + known + 1,
            None => {
                self.events.push_back(event);
                self.forgotten + self.events.len()
            }
        };
        while self.events.len() > MOST_EVENTS {
            self.events.pop_front();
            self.forgotten += 1;
        }
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
    fn memory_is_bounded_in_time_and_number() {
        let mut recent = Recent::default();
        let now = Instant::now();
        for number in 0..MOST_OBJECTS * 2 {
            assert!(recent.is_new(&number.to_string(), "c", &[A], now));
        }
        assert!(recent.objects.len() <= MOST_OBJECTS && recent.order.len() <= MOST_OBJECTS + 1);
        for number in 0..1000 {
            assert!(recent.is_new("x", &number.to_string(), &[A], now));
        }
        assert!(recent.objects[&hash("x")].events.len() <= MOST_EVENTS);
        assert!(recent.is_new("y", "c", &[A], now) && recent.is_new("y", "c", &[B], now + MEMORY * 2));
        assert_eq!(recent.objects.len(), 1);
    }
}
