//! From the number of an attempt and a random number to a delay: exponential with full jitter, never zero.

use std::time::Duration;

/// The shortest wait, and the base that doubles.
pub const FLOOR: Duration = Duration::from_secs(1);
/// The longest wait.
pub const CEILING: Duration = Duration::from_secs(60);
/// So long a link or service must have been well before the count of attempts starts anew.
pub const HEALTHY: Duration = Duration::from_secs(30);

/// The wait after failed attempt `attempt` (from 1), with `random` in 0..1.
///
/// Full jitter over the doubled range above the floor: many clients that lost the same server at the same time
/// must not come back together (Vector and AWS's architecture notes give the same reasoning).
pub fn delay(attempt: u32, random: f64) -> Duration {
    let range = FLOOR.saturating_mul(2_u32.saturating_pow(attempt.clamp(1, 16))).min(CEILING) - FLOOR;
    FLOOR + range.mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_ceiling_and_never_falls_below_the_floor() {
        for attempt in 0..200 {
            assert_eq!(delay(attempt, 0.0), FLOOR);
            assert!(delay(attempt, 1.0) <= CEILING);
            assert!(delay(attempt, 0.5) <= delay(attempt + 1, 0.5));
        }
        assert_eq!(delay(1, 1.0), Duration::from_secs(2));
        assert_eq!(delay(100, 1.0), CEILING);
    }
}
