//! When the next request may go: a token bucket, and for rates a minute long a window over that minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::destination::Pacing;

/// Counts what was sent.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    burst: u32,
    /// When the bucket would be full again; the theoretical arrival time of the generic cell rate algorithm.
    full_at: Option<Instant>,
    /// For a rate counted over a period (PagerDuty's 120 in the last 60 s): the period, the most in it, and when each was sent.
    window: Option<(Duration, usize)>,
    sent: VecDeque<Instant>,
}

impl Pace {
    /// A pace that has sent nothing.
    pub fn new(pacing: &Pacing) -> Pace {
        let minute = pacing.rate.filter(|rate| rate.period >= Duration::from_secs(60) && rate.count >= 1.0);
        Pace {
            interval: pacing.rate.map_or(Duration::ZERO, crate::model::quantity::Rate::interval),
            burst: pacing.burst.max(1),
            full_at: None,
            window: minute.map(|rate| (rate.period, rate.count as usize)),
            sent: VecDeque::new(),
        }
    }

    /// When one more may go: `None` is at once.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let bucket = self.full_at.and_then(|full_at| {
            // One may go as long as the bucket lacks less than its whole content.
            full_at.checked_sub(self.interval * (self.burst - 1)).filter(|next| *next > now)
        });
        let window = self.window.and_then(|(period, most)| {
            let oldest = self.sent.len().checked_sub(most).map(|at| self.sent[at]);
            oldest.map(|oldest| oldest + period).filter(|next| *next > now)
        });
        bucket.max(window)
    }

    /// How many may go at once.
    pub fn tokens(&self, now: Instant) -> u32 {
        if self.interval.is_zero() {
            return u32::MAX;
        }
        if self.next(now).is_some() {
            return 0;
        }
        let lacking = self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        let spent = lacking.as_secs_f64() / self.interval.as_secs_f64();
        (self.burst - (spent.ceil() as u32).min(self.burst - 1)).max(1)
    }

    /// One was sent.
    pub fn spend(&mut self, now: Instant) {
        if self.interval.is_zero() {
            return;
        }
        self.full_at = Some(self.full_at.map_or(now, |full_at| full_at.max(now)) + self.interval);
        if let Some((_, most)) = self.window {
            self.sent.push_back(now);
            if self.sent.len() > most {
                self.sent.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quantity::parse_rate;

    /// How many went in each second, sending whenever allowed.
    fn per_second(rate: &str, burst: u32, seconds: u64) -> Vec<usize> {
        let pacing = Pacing { rate: parse_rate(rate).ok(), burst, concurrency: 1, throttled_by_key: false };
        let (mut pace, start) = (Pace::new(&pacing), Instant::now());
        let (mut now, mut counts) = (start, vec![0; seconds as usize]);
        while now < start + Duration::from_secs(seconds) {
            match pace.next(now) {
                Some(next) => now = next,
                None => {
                    counts[(now - start).as_secs() as usize] += 1;
                    pace.spend(now);
                }
            }
        }
        counts
    }

    #[test]
    fn a_burst_and_then_the_sustained_pace() {
        assert_eq!(per_second("1/s", 1, 4), [1, 1, 1, 1]);
        assert_eq!(per_second("1/s", 3, 4), [3, 1, 1, 1]);
    }

    #[test]
    fn never_more_in_any_minute_than_a_minutes_rate_allows() {
        let counts = per_second("120/m", 60, 300);
        assert!(counts[0] >= 60);
        for window in counts.windows(60) {
            assert!(window.iter().sum::<usize>() <= 120 + 2, "{window:?}");
        }
        assert!(counts.iter().sum::<usize>() >= 118 * 5);
    }

    #[test]
    fn tokens_come_back_with_time() {
        let pacing = Pacing { rate: parse_rate("1/s").ok(), burst: 3, concurrency: 1, throttled_by_key: false };
        let (mut pace, start) = (Pace::new(&pacing), Instant::now());
        assert_eq!(pace.tokens(start), 3);
        pace.spend(start);
        assert_eq!(pace.tokens(start), 2);
        pace.spend(start);
        pace.spend(start);
        assert_eq!(pace.tokens(start), 0);
        assert_eq!(pace.tokens(start + Duration::from_secs(1)), 1);
        assert_eq!(pace.tokens(start + Duration::from_secs(9)), 3);
    }
}
