//! The records that wait: a lane for each key, so that order is kept within it and nobody waits for another's retry.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::destination::{Batching, Form, Letter};
use crate::model::backoff;
use crate::model::time::Moment;

/// A record on its way.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its place in the order of acceptance.
    pub place: u64,
    /// Its number on this input; `None` if an earlier run accepted it.
    pub seq: Option<u64>,
    /// Its key.
    pub key: String,
    /// The event's text.
    pub text: String,
    /// When it was accepted.
    pub accepted: Moment,
    /// It goes before the others.
    pub urgent: bool,
    /// It is not worth sending when it is old.
    pub perishable: bool,
    /// Held until then, in case its relief comes.
    pub held_until: Option<Instant>,
    /// Requests that were made for it; throttled ones do not count.
    pub attempts: u32,
    /// The last answer's status.
    pub answered: Option<u16>,
    /// Since when it has had nothing but failures; throttled time does not count.
    pub failing_since: Option<Instant>,
    /// How much of a request is wanted.
    pub form: Form,
}

impl Item {
    /// As a destination sees it.
    pub fn letter(&self) -> Letter<'_> {
        Letter { text: &self.text, key: &self.key, accepted: self.accepted, place: self.place }
    }
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Item>,
    under_way: bool,
    /// After a failure, not before this.
    not_before: Option<Instant>,
    /// Failures or throttlings in a row.
    setbacks: u32,
    /// The most records in the next batch, after one was too large.
    most: Option<usize>,
}

/// All lanes.
#[derive(Debug, Default)]
pub struct Queue {
    lanes: HashMap<String, Lane>,
    waiting: usize,
    under_way: usize,
    requests: usize,
    /// The whole destination is throttled until then.
    paused_until: Option<Instant>,
    pause_setbacks: u32,
}

impl Queue {
    /// How many records are in it, those under way included.
    pub fn len(&self) -> usize {
        self.waiting + self.under_way
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many requests are under way.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Puts a record at the end of its lane.
    pub fn push(&mut self, item: Item) {
        self.lanes.entry(item.key.clone()).or_default().waiting.push_back(item);
        self.waiting += 1;
    }

    /// Whether something of this key was sent or is due: anything but records that are only held.
    pub fn is_moving(&self, key: &str) -> bool {
        self.lanes.get(key).is_some_and(|lane| {
            lane.under_way || lane.waiting.iter().any(|item| item.held_until.is_none() || item.attempts > 0)
        })
    }

    /// Takes out the records of a key that are held and were never tried.
    pub fn take_held(&mut self, key: &str) -> Vec<Item> {
        let Some(lane) = self.lanes.get_mut(key) else { return Vec::new() };
        let (held, rest): (Vec<Item>, Vec<Item>) =
            lane.waiting.drain(..).partition(|item| item.held_until.is_some() && item.attempts == 0);
        lane.waiting = rest.into();
        self.waiting -= held.len();
        held
    }

    /// Nothing is held any more.
    pub fn release_held(&mut self) {
        self.lanes.values_mut().flat_map(|lane| &mut lane.waiting).for_each(|item| item.held_until = None);
    }

    /// Takes out everything that waits, in the order it came.
    pub fn take_all(&mut self) -> Vec<Item> {
        let mut all: Vec<Item> = self.lanes.values_mut().flat_map(|lane| lane.waiting.drain(..)).collect();
        all.sort_by_key(|item| item.place);
        self.waiting -= all.len();
        all
    }

    /// Starts the next batch that may go now: of the lanes whose turn it is, an urgent one, else the one whose record came first.
    ///
    /// `tokens` is how many requests the pace allows at once, `ending` whether no more records come.
    pub fn start(&mut self, now: Instant, batching: &Batching, tokens: u32, ending: bool) -> Option<Vec<Item>> {
        if tokens == 0 || self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        let due = self.lanes.iter().filter(|(_, lane)| lane.due(batching, ending).is_some_and(|at| at <= now));
        let first = due.min_by_key(|(_, lane)| lane.waiting.front().map(|item| (!item.urgent, item.place)));
        let key = first.map(|(key, _)| key.clone())?;
        let lane = self.lanes.get_mut(&key)?;
        let most = lane.batch_size(batching, tokens, now);
        let batch: Vec<Item> = lane.waiting.drain(..most).collect();
        lane.under_way = true;
        self.waiting -= batch.len();
        self.under_way += batch.len();
        self.requests += 1;
        Some(batch)
    }

    /// When [`start`](Queue::start) will have something that it has not now, pace aside; `None` if nothing waits.
    pub fn next_due(&self, batching: &Batching, ending: bool) -> Option<Instant> {
        let earliest = self.lanes.values().filter_map(|lane| lane.due(batching, ending)).min()?;
        Some(self.paused_until.map_or(earliest, |until| until.max(earliest)))
    }

    /// So many records of a batch that was started are settled before it is sent.
    pub fn lessen(&mut self, count: usize) {
        self.under_way -= count;
    }

    /// Ends a batch: `again` are the records of it that go once more, in order, at the front of their lane.
    pub fn end(&mut self, key: &str, count: usize, again: Vec<Item>) {
        self.under_way -= count;
        self.requests -= 1;
        self.waiting += again.len();
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.under_way = false;
            for item in again.into_iter().rev() {
                lane.waiting.push_front(item);
            }
            if lane.waiting.is_empty() {
                self.lanes.remove(key);
            }
        }
    }

    /// The lane works: its count of setbacks starts anew.
    pub fn succeed(&mut self, key: &str) {
        // A pause stays: the success was under way when it was asked for.
        self.pause_setbacks = 0;
        if let Some(lane) = self.lanes.get_mut(key) {
            (lane.not_before, lane.setbacks) = (None, 0);
            // Little by little: the next batch is most likely not taken whole either.
            lane.most = lane.most.map(|most| most.saturating_add(most / 4).saturating_add(1));
        }
    }

    /// The lane failed: it waits as long as the answer asked, else by the backoff, which is not to outlast `most`. Says how long.
    pub fn hold_up(
        &mut self,
        key: &str,
        now: Instant,
        asked: Option<Duration>,
        random: f64,
        most: Duration,
    ) -> Duration {
        let Some(lane) = self.lanes.get_mut(key) else { return Duration::ZERO };
        lane.setbacks += 1;
        let delay = wait_for(asked, lane.setbacks, random, most);
        lane.not_before = Some(now + delay);
        delay
    }

    /// The whole destination is throttled. Says how long.
    pub fn pause(&mut self, now: Instant, asked: Option<Duration>, random: f64) -> Duration {
        self.pause_setbacks += 1;
        let delay = wait_for(asked, self.pause_setbacks, random, backoff::CEILING);
        self.paused_until = Some(now + delay);
        delay
    }

    /// The next batch of this lane holds no more than so many records.
    pub fn limit(&mut self, key: &str, most: usize) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.most = Some(most.max(1));
        }
    }

    /// Until when the whole destination is throttled.
    pub fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }
}

/// What was asked for, else the backoff.
fn wait_for(asked: Option<Duration>, setbacks: u32, random: f64, most: Duration) -> Duration {
    // Jitter on what was asked: many senders were told the same second.
    asked.map_or_else(
        || backoff::delay(setbacks, random).min(most.max(backoff::FLOOR)),
        |asked| asked.max(Duration::from_millis(100)) + Duration::from_millis(250).mul_f64(random),
    )
}

impl Lane {
    /// When its first batch may go; `None` while it is empty or under way.
    fn due(&self, batching: &Batching, ending: bool) -> Option<Instant> {
        let first = self.waiting.front().filter(|_| !self.under_way)?;
        let full = ending || batching.linger.is_zero() || self.waiting.len() >= batching.most || {
            self.waiting.iter().map(|item| item.text.len()).sum::<usize>() >= batching.bytes
        };
        let linger = if full { first.accepted.at } else { first.accepted.at + batching.linger };
        Some([self.not_before, first.held_until].into_iter().flatten().fold(linger, Instant::max))
    }

    fn batch_size(&self, batching: &Batching, tokens: u32, now: Instant) -> usize {
        let first = self.waiting.front().expect("a lane that is due has a record");
        // A record that was refused in its full form goes alone, and so does one that has a token to itself.
        let alone = first.form == Form::Reduced || (batching.fold && (tokens > 1 || self.waiting.len() == 1));
        if alone {
            return 1;
        }
        let most = batching.most.min(self.most.unwrap_or(usize::MAX)).max(1);
        let mut bytes = 0;
        let fitting = self.waiting.iter().take(most).take_while(|item| {
            bytes += item.text.len();
            bytes <= batching.bytes && item.form == Form::Full && item.held_until.is_none_or(|until| until <= now)
        });
        fitting.count().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::stage::tests::start;

    fn item(seq: u64, key: &str) -> Item {
        Item {
            place: seq,
            seq: Some(seq),
            key: key.to_owned(),
            text: format!("{{\"n\":{seq}}}"),
            accepted: start(),
            urgent: false,
            perishable: true,
            held_until: None,
            attempts: 0,
            answered: None,
            failing_since: None,
            form: Form::Full,
        }
    }

    fn seqs(batch: &[Item]) -> Vec<u64> {
        batch.iter().map(|item| item.place).collect()
    }

    #[test]
    fn order_is_kept_within_a_key_and_other_keys_do_not_wait() {
        let (mut queue, now) = (Queue::default(), start().at);
        for (seq, key) in [(1, "a"), (2, "a"), (3, "b")] {
            queue.push(item(seq, key));
        }
        let now = now + Duration::from_secs(1);
        let first = queue.start(now, &Batching::ONE, 9, false).unwrap();
        assert_eq!(seqs(&first), [1]);
        assert_eq!(seqs(&queue.start(now, &Batching::ONE, 9, false).unwrap()), [3]);
        assert!(queue.start(now, &Batching::ONE, 9, false).is_none(), "2 waits for 1");
        let delay = queue.hold_up("a", now, None, 0.5, Duration::MAX);
        queue.end("a", 1, first);
        queue.end("b", 1, Vec::new());
        assert!(queue.start(now, &Batching::ONE, 9, false).is_none());
        assert_eq!(queue.next_due(&Batching::ONE, false), Some(now + delay));
        assert_eq!(seqs(&queue.start(now + delay, &Batching::ONE, 9, false).unwrap()), [1]);
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn the_urgent_go_first() {
        let (mut queue, now) = (Queue::default(), start().at + Duration::from_secs(1));
        queue.push(item(1, "a"));
        queue.push(Item { urgent: true, ..item(2, "b") });
        assert_eq!(seqs(&queue.start(now, &Batching::ONE, 1, false).unwrap()), [2]);
    }

    #[test]
    fn records_fold_only_when_the_pace_does_not_allow_each_its_own() {
        let fold = Batching { most: 100, fold: true, ..Batching::ONE };
        let (mut queue, now) = (Queue::default(), start().at + Duration::from_secs(1));
        (1..=5).for_each(|seq| queue.push(item(seq, "")));
        assert_eq!(seqs(&queue.start(now, &fold, 2, false).unwrap()), [1]);
        queue.end("", 1, Vec::new());
        assert_eq!(seqs(&queue.start(now, &fold, 1, false).unwrap()), [2, 3, 4, 5]);
    }

    #[test]
    fn a_batch_waits_for_more_and_not_for_ever() {
        let batching = Batching { most: 3, bytes: 1000, linger: Duration::from_secs(1), fold: false };
        let mut queue = Queue::default();
        queue.push(item(1, ""));
        let accepted = queue.lanes[""].waiting[0].accepted.at;
        assert!(queue.start(accepted, &batching, 9, false).is_none());
        assert_eq!(queue.next_due(&batching, false), Some(accepted + Duration::from_secs(1)));
        assert!(queue.next_due(&batching, true) == Some(accepted), "nothing more comes");
        queue.push(item(2, ""));
        queue.push(item(3, ""));
        queue.push(item(4, ""));
        assert_eq!(seqs(&queue.start(accepted, &batching, 9, false).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn held_records_can_be_taken_back_until_they_move() {
        let (mut queue, now) = (Queue::default(), start().at + Duration::from_secs(1));
        let until = now + Duration::from_secs(60);
        queue.push(Item { held_until: Some(until), ..item(1, "a") });
        assert!(!queue.is_moving("a") && queue.start(now, &Batching::ONE, 9, false).is_none());
        assert_eq!(queue.next_due(&Batching::ONE, false), Some(until));
        assert_eq!(seqs(&queue.take_held("a")), [1]);
        assert!(queue.is_empty());
        queue.push(Item { held_until: Some(until), ..item(2, "a") });
        assert!(queue.start(until, &Batching::ONE, 9, false).is_some());
        assert!(queue.is_moving("a") && queue.take_held("a").is_empty());
    }
}
