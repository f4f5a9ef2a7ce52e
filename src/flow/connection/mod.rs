//! Keeps a source connected: what is known of the link (`link`, told the moment), and the loop that waits on everything at once (`drive`).
//!
//! A source says what to call and what a message means ([`Protocol`]); dialing, liveness, backoff, lifecycle records, buffering and stopping are the same for all.

mod drive;
mod link;

use std::borrow::Cow;
use std::time::{Duration, Instant};

pub use drive::keep_connected;

use crate::cli::table::{Flag, Set, store, store_size};
use crate::flow::accounts::Accounts;
use crate::model::exit::{Failure, Fault};
use crate::model::lifecycle::Change;
use crate::model::time::{Moment, Timestamp};
use crate::world::http::CONNECT_TIMEOUT;
use crate::world::websocket::client::{CallError, Client};

/// What a user can say about the connection.
#[derive(Clone, Debug)]
pub struct ConnectionArgs {
    /// After so much silence a ping is sent.
    pub ping: Duration,
    /// An answer, to a ping or to a handshake, must come within this.
    pub timeout: Duration,
    /// Connect anew when no event came for so long.
    pub max_silence: Option<Duration>,
    /// The first disconnection or failed attempt is the end.
    pub no_reconnect: bool,
    /// The end after so long without a proven link.
    pub give_up: Option<Duration>,
    /// Enough after so many events.
    pub max_events: Option<u64>,
    /// Enough after so long.
    pub run_for: Option<Duration>,
    /// So many bytes may wait for a slow reader.
    pub buffer: u64,
    /// So long after a stop request a blocked standard output may take.
    pub drain: Duration,
    /// No records about the connection itself.
    pub no_lifecycle: bool,
}

impl Default for ConnectionArgs {
    fn default() -> ConnectionArgs {
        ConnectionArgs {
            ping: Duration::from_secs(20),
            timeout: Duration::from_secs(10),
            max_silence: None,
            no_reconnect: false,
            give_up: None,
            max_events: None,
            run_for: None,
            buffer: 64 << 20,
            drain: Duration::from_secs(20),
            no_lifecycle: false,
        }
    }
}

impl ConnectionArgs {
    /// Looks for values that make no sense.
    ///
    /// # Errors
    /// Wrong usage; names the flag.
    pub fn check(&self) -> Result<(), Failure> {
        for (flag, duration) in [("--ping", self.ping), ("--timeout", self.timeout)] {
            if duration.is_zero() {
                return Err(Failure::usage(format!("{flag}: must be longer than zero")));
            }
        }
        Ok(())
    }
}

/// The rows of every source that say how long it tries.
pub const fn link_flags<A: AsMut<ConnectionArgs>>() -> [Flag<A>; 5] {
    [
        Flag {
            spec: "--ping DURATION",
            help: "send a ping after so much silence, 20s by default",
            set: Set::Value(|a, v| store(&mut a.as_mut().ping, v)),
        },
        Flag {
            spec: "--timeout DURATION",
            help: "how long the answer to a ping or a handshake may take, 10s by default. After that the connection counts as lost",
            set: Set::Value(|a, v| store(&mut a.as_mut().timeout, v)),
        },
        Flag {
            spec: "--max-silence DURATION",
            help: "connect anew when no event came for so long, however alive the connection seems",
            set: Set::Value(|a, v| store(&mut a.as_mut().max_silence, v)),
        },
        Flag {
            spec: "--no-reconnect",
            help: "exit 4 at the first disconnection or failed attempt. That includes a server that closes in good order",
            set: Set::Switch(|a| a.as_mut().no_reconnect = true),
        },
        Flag {
            spec: "--give-up DURATION",
            help: "exit 4 after so long without a proven connection; waits that the server asked for (Retry-After) do not count",
            set: Set::Value(|a, v| store(&mut a.as_mut().give_up, v)),
        },
    ]
}

/// The rows of every source that say what comes out.
pub const fn output_flags<A: AsMut<ConnectionArgs>>() -> [Flag<A>; 5] {
    [
        Flag {
            spec: "--no-lifecycle",
            help: "print no records about the connection itself (open, close, error, gap)",
            set: Set::Switch(|a| a.as_mut().no_lifecycle = true),
        },
        Flag {
            spec: "-n, --max-events N",
            help: "end after N events. Records about the connection do not count",
            set: Set::Value(|a, v| store(&mut a.as_mut().max_events, v)),
        },
        Flag {
            spec: "--for DURATION",
            help: "end after so long",
            set: Set::Value(|a, v| store(&mut a.as_mut().run_for, v)),
        },
        Flag {
            spec: "--buffer SIZE",
            help: "how much may wait for a slow reader, 64MiB by default. When it is full the stream is not read until half of it is gone, and the deadlines of the connection rest",
            set: Set::Value(|a, v| store_size(&mut a.as_mut().buffer, v)),
        },
        Flag {
            spec: "--drain DURATION",
            help: "how long a blocked standard output may take after TERM or INT, 20s by default",
            set: Set::Value(|a, v| store(&mut a.as_mut().drain, v)),
        },
    ]
}

/// One attempt to connect: runs in a thread of its own and may block, but not for ever.
pub type Dial = Box<dyn FnOnce() -> Result<Client, Rejection> + Send>;

/// The longest an attempt may take as a whole before it is given up from outside; looking up a name has no limit of its own.
pub fn dial_limit(timeout: Duration) -> Duration {
    CONNECT_TIMEOUT + timeout + Duration::from_secs(1)
}

/// An attempt that brought no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The credentials are refused.
    Refused {
        /// Why, perhaps in the server's own words.
        reason: String,
    },
    /// Anything that may pass.
    Failed {
        /// Why, perhaps in the server's own words.
        reason: String,
        /// `Retry-After`, as sent.
        retry_after: Option<String>,
    },
}

impl From<CallError> for Rejection {
    fn from(error: CallError) -> Rejection {
        match error {
            CallError::Certificate(reason) | CallError::Unreachable(reason) => {
                Rejection::Failed { reason, retry_after: None }
            }
            CallError::Answer { status: 401 | 403, reason, .. } => Rejection::Refused { reason },
            CallError::Answer { reason, retry_after, .. } => Rejection::Failed { reason, retry_after },
        }
    }
}

/// A record made of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'t> {
    /// One line, without its ending.
    pub text: Cow<'t, str>,
    /// Whether it counts for `--max-events` and `--max-silence`.
    pub is_event: bool,
}

/// What a message means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning<'t> {
    /// Proof of a working stream, and records.
    Records(Vec<Record<'t>>),
    /// The credentials are refused.
    Refused(String),
    /// The server says that something is wrong, and the connection is of no use any more.
    Failed(String),
    /// It could not be understood.
    Faulty(Fault),
}

/// What a protocol adds to what happened to the connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heeded {
    /// Keys for the lifecycle record: `"key":value`, joined by commas; empty for none.
    pub members: String,
    /// What else happened, to be told right after it.
    pub then: Option<Change>,
}

/// What a protocol has to tell beside the messages.
#[derive(Clone, Debug, PartialEq)]
pub enum Aside {
    /// An event of its own making, one line. It counts for `--max-events` but is no sign of life.
    Event(String),
    /// Something to be told of the connection.
    Tell(Change),
}

/// What is particular to one service.
pub trait Protocol {
    /// The stream's path, `resource_uri` of the lifecycle records.
    fn path(&self) -> String;

    /// Scheme, host and path: `source` of the lifecycle records and the thing in diagnostics. No query, no secret.
    fn source(&self) -> String;

    /// The next attempt.
    fn dial(&mut self) -> Dial;

    /// What a text message means.
    fn message<'t>(&mut self, text: &'t str, now: Timestamp) -> Meaning<'t>;

    /// Reads the secrets again and says whether they are others than before.
    ///
    /// # Errors
    /// They cannot be read; those from before stay.
    fn reload(&mut self) -> Result<bool, String>;

    /// A server's words without anything secret.
    fn redact(&self, words: &str) -> String;

    /// Something happened to the connection and is about to be told.
    fn changed(&mut self, _change: &Change, _now: Moment) -> Heeded {
        Heeded::default()
    }

    /// Bytes came.
    fn heard(&mut self, _now: Moment) {}

    /// The next thing to tell beside the messages. Asked whenever there is room for it; must not block.
    fn aside(&mut self, _now: Moment) -> Option<Aside> {
        None
    }

    /// All that was told so far is with the reader. `last` says that nothing more will be told.
    fn written(&mut self, _last: bool, _now: Moment) {}

    /// When it wants to be asked again though nothing happens.
    fn due(&self, _now: Moment) -> Option<Instant> {
        None
    }

    /// Counts of its own, for the accounts.
    fn accounts(&self) -> Accounts {
        Accounts::default()
    }
}
