//! The suite's exit codes, and the two kinds of error: a line not understood, and a program that cannot go on.

use std::fmt;

/// How a program ended; the same meaning in every program, so that a supervisor can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Input ended and all went well, the reader of our output went away, or everything was drained after a stop.
    Success = 0,
    /// Ran to the end, but some lines were faulty or some deliveries were given up or left over.
    Incomplete = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// The service refuses our credentials.
    Refused = 3,
    /// The outside world failed for good.
    Failed = 4,
}

impl Exit {
    /// Every code with its meaning and what a supervisor should do: the one source of help, man page and README.
    pub const TABLE: [(Exit, &'static str, &'static str); 5] = [
        (
            Exit::Success,
            "input ended and all went well; or the reader of the output went away; or asked to stop and everything was drained",
            "",
        ),
        (
            Exit::Incomplete,
            "ran to the end, but some lines were faulty or some deliveries were given up or left over",
            "look",
        ),
        (Exit::Usage, "wrong usage or configuration", "not restart"),
        (Exit::Refused, "credentials refused", "not restart"),
        (Exit::Failed, "the outside world failed for good", "restart"),
    ];

    /// The number a shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The more serious of two endings.
    #[must_use]
    pub fn or_worse(self, other: Exit) -> Exit {
        self.max(other)
    }
}

/// One line could not be understood: it is reported and not passed on, and the run goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The cause, without the line's content.
    pub reason: String,
}

impl Fault {
    /// A fault with its cause.
    pub fn new(reason: impl Into<String>) -> Fault {
        Fault { reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// How many faults there were. The first ten are worth telling, and after that every tenfold: a broken source must not fill the disk with diagnostics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCount(u64);

impl FaultCount {
    /// Another one. What to say behind it, or `None` if it is not worth telling; `things` are the faulty ones.
    pub fn count(&mut self, things: &str) -> Option<String> {
        self.0 += 1;
        match self.0 {
            0..=10 => Some(String::new()),
            count if 10_u64.pow(count.ilog10()) == count => Some(format!("; {count} faulty {things} so far")),
            _ => None,
        }
    }

    /// All of them.
    pub fn total(self) -> u64 {
        self.0
    }
}

/// The program cannot go on: what, why, and the code it ends with. The message never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code the program ends with.
    pub exit: Exit,
    /// `thing: cause`, as it is printed after the program's name.
    pub message: String,
}

impl Failure {
    /// Wrong usage or configuration (2).
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, message: message.into() }
    }

    /// A service refuses our credentials (3).
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Refused, message: message.into() }
    }

    /// The outside world failed for good (4).
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Failed, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
