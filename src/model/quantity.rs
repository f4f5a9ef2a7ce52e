//! Durations, sizes and rates as people write them on a command line.

use std::time::Duration;

/// A duration such as `500ms`, `30s`, `5m`, `2h`, `1d`; several may stand together (`1h30m`).
///
/// # Errors
/// Says what is expected; never zero-fills a missing unit, since `30` could mean anything.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration such as 500ms, 30s, 5m, 2h or 1d, got \"{text}\"");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(expected());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(expected)?;
        let number: f64 = rest[..digits].parse().map_err(|_| expected())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let seconds = match &rest[..letters] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(expected()),
        };
        rest = &rest[letters..];
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| expected())?;
        total = total.checked_add(part).ok_or_else(expected)?;
    }
    // A century is for ever, and small enough to be added to any clock.
    Ok(total.min(Duration::from_secs(100 * 365 * 86_400)))
}

/// A duration in the same spelling, to the second above ten seconds.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 10_000 {
        return match millis % 1000 {
            0 => format!("{}s", millis / 1000),
            _ if millis < 1000 => format!("{millis}ms"),
            _ => format!("{:.1}s", duration.as_secs_f64()),
        };
    }
    let seconds = duration.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect()
}

/// A size such as `4096`, `64KiB`, `16MiB`, `1GiB` (also `KB`, `MB`, `GB`, which are powers of ten), in bytes.
///
/// # Errors
/// Says what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size such as 64KiB or 16MiB, got \"{text}\"");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| expected())?;
    let unit: u64 = match trimmed[digits..].trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(expected()),
    };
    number.checked_mul(unit).ok_or_else(expected)
}

/// A pace: so many in so long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How many in one `period`.
    pub count: f64,
    /// A second or a minute.
    pub period: Duration,
}

impl Rate {
    /// The time between two at this pace.
    pub fn interval(self) -> Duration {
        self.period.div_f64(self.count)
    }
}

/// A rate such as `1/s` or `120/m`; a bare number is a second's.
///
/// # Errors
/// Says what is expected; zero is refused, since it would stop everything for ever.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let expected = || format!("expected a rate above zero such as 1/s or 120/m, got \"{text}\"");
    let (number, period) = match text.trim().split_once('/') {
        None => (text.trim(), 1),
        Some((number, "s")) => (number, 1),
        Some((number, "m")) => (number, 60),
        Some((number, "h")) => (number, 3600),
        Some(_) => return Err(expected()),
    };
    let count: f64 = number.parse().map_err(|_| expected())?;
    if !(count.is_finite() && (1e-6..=1e9).contains(&count)) {
        return Err(expected());
    }
    Ok(Rate { count, period: Duration::from_secs(period) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_may_be_joined() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "30", "s", "3x", "-1s", "1s2", "NaNs", "9999999999999999999999d1q"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_print_as_they_are_written() {
        for text in ["500ms", "3s", "1.5s", "30s", "5m", "1h30m", "1d"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("12 parsecs").is_err() && parse_size("99999999999999GiB").is_err());
        assert_eq!(parse_rate("120/m").unwrap().interval(), Duration::from_millis(500));
        assert_eq!(parse_rate("2").unwrap().interval(), Duration::from_millis(500));
        assert!(parse_rate("0/s").is_err() && parse_rate("x/s").is_err() && parse_rate("1/y").is_err());
    }
}
