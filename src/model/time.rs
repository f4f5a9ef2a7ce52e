//! Points in time and how they are written: RFC 3339 in records, RFC 2822 in HTTP headers and Tutum objects. Hides jiff.

use std::time::{Duration, Instant, SystemTime};

/// A point in civil time, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// From the system's clock; a time beyond year 9999 is cut to it.
    pub fn from_system(time: SystemTime) -> Timestamp {
        Timestamp(jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX))
    }

    /// From whole milliseconds since 1970; `None` beyond the calendar.
    pub fn from_millis(millis: i64) -> Option<Timestamp> {
        jiff::Timestamp::from_millisecond(millis).ok().map(Timestamp)
    }

    /// Whole milliseconds since 1970.
    pub fn millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// RFC 3339 with milliseconds, e.g. `2025-03-04T05:06:07.890Z`.
    pub fn rfc3339(self) -> String {
        format!("{:.3}", self.0)
    }

    /// RFC 2822, e.g. `Thu, 16 Oct 2014 12:04:08 +0000`, the spelling of Tutum's objects.
    pub fn rfc2822(self) -> String {
        jiff::fmt::rfc2822::to_string(&self.0.to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default()
    }

    /// Reads RFC 3339 (any offset), else RFC 2822; `None` for anything else.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let text = text.trim();
        text.parse().ok().or_else(|| jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())).map(Timestamp)
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or(Duration::ZERO)
    }

    /// So much later; cut to the calendar's end.
    #[must_use]
    pub fn after(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.checked_add(duration).unwrap_or(jiff::Timestamp::MAX))
    }
}

/// Now, on both clocks: the one that never jumps, for deadlines, and the calendar's, for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock.
    pub at: Instant,
    /// The calendar.
    pub utc: Timestamp,
}

impl Moment {
    /// The moment so much later, both clocks alike (what a test's clock does).
    #[must_use]
    pub fn after(self, duration: Duration) -> Moment {
        Moment { at: self.at + duration, utc: self.utc.after(duration) }
    }
}

/// No answer makes us wait longer: a year, which a clock can still count.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// What a `Retry-After` header asks for: seconds, or a date as seen from `now`; `None` if it says neither.
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    match value.trim().parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds).min(LONGEST_WAIT)),
        Err(_) => Timestamp::parse(value).map(|date| date.since(now).min(LONGEST_WAIT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_with_milliseconds_and_read_in_both_spellings() {
        let time = Timestamp::from_millis(1_741_064_767_890).unwrap();
        assert_eq!(time.rfc3339(), "2025-03-04T05:06:07.890Z");
        assert_eq!(time.rfc2822(), "Tue, 4 Mar 2025 05:06:07 +0000");
        assert_eq!(Timestamp::parse("2025-03-04T06:06:07.890+01:00"), Some(time));
        assert_eq!(Timestamp::parse("Tue, 04 Mar 2025 05:06:07 +0000").unwrap().millis(), 1_741_064_767_000);
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::parse("2025-03-04T05:06:07Z").unwrap();
        assert_eq!(parse_retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("18446744073709551615", now), Some(LONGEST_WAIT));
        assert_eq!(parse_retry_after("Tue, 04 Mar 2025 05:07:07 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(parse_retry_after("Tue, 04 Mar 2025 05:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon", now), None);
    }
}
