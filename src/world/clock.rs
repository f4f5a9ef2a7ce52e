//! Now, and chance. Nothing below a program's loop asks for it: state machines are told the moment.

use std::time::{Instant, SystemTime};

use crate::model::time::{Moment, Timestamp};

/// The real clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

impl Clock {
    /// This moment on both clocks.
    pub fn now(self) -> Moment {
        Moment { at: Instant::now(), utc: Timestamp::from_system(SystemTime::now()) }
    }

    /// A random number in 0..1, for jitter.
    pub fn random(self) -> f64 {
        fastrand::f64()
    }
}
