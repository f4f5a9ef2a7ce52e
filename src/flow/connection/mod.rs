//! Keeps a source connected: what is known of the link (`link`, told the moment), and the loop that waits on everything at once (`drive`).
//!
//! A source says what to call and what a message means ([`Protocol`]); dialing, liveness, backoff, lifecycle records, buffering and stopping are the same for all.

mod buffer;
mod drive;
mod link;

use std::borrow::Cow;
use std::time::{Duration, Instant};

pub use drive::keep_connected;

use crate::cli::table::{Flag, Set, choice, store, store_size};
use crate::flow::accounts::Accounts;
use crate::model::backoff::FLOOR;
use crate::model::exit::{Failure, Fault};
use crate::model::lifecycle::Change;
use crate::model::quantity::show_duration;
use crate::model::time::{Moment, Timestamp};
use crate::world::http::CONNECT_TIMEOUT;
use crate::world::websocket::client::{CallError, Client};

/// Heartbeats come no oftener than this: ten a second tell as much as any more.
const LEAST_HEARTBEAT: Duration = Duration::from_millis(100);

/// What happens when the reader is so slow that the buffer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The stream is not read until there is room.
    #[default]
    Block,
    /// The oldest events are let go of.
    Drop,
}

impl Overflow {
    /// The words for it.
    pub const CHOICES: [(&str, Overflow); 2] = [("block", Overflow::Block), ("drop", Overflow::Drop)];
}

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
    /// What happens when that is full.
    pub overflow: Overflow,
    /// No records about the connection itself.
    pub no_lifecycle: bool,
    /// A record so often while the link is proven alive.
    pub heartbeat: Option<Duration>,
    /// Refused credentials are tried again after so long, or when they change, instead of ending the run.
    pub hold_on_auth: Option<Duration>,
    /// The stream has an end: a server that closes in good order has sent everything.
    pub finite: bool,
    /// The stream cannot be taken up again where it broke off, so it is connected to once.
    pub once: bool,
    /// So many round trips come before a connection is of use: each may take what a handshake may.
    pub round_trips: u32,
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
            overflow: Overflow::Block,
            no_lifecycle: false,
            heartbeat: None,
            hold_on_auth: None,
            finite: false,
            once: false,
            round_trips: 1,
        }
    }
}

impl ConnectionArgs {
    /// Whether the first disconnection or failed attempt is the end.
    pub fn is_single(&self) -> bool {
        self.no_reconnect || self.once
    }

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
        // Oftener than this is a storm, of records or of attempts.
        for (flag, duration, least) in
            [("--heartbeat", self.heartbeat, LEAST_HEARTBEAT), ("--hold-on-auth", self.hold_on_auth, FLOOR)]
        {
            if duration.is_some_and(|duration| duration < least) {
                return Err(Failure::usage(format!("{flag}: must be at least {}", show_duration(least))));
            }
        }
        if self.heartbeat.is_some() && self.no_lifecycle {
            return Err(Failure::usage("--heartbeat: --no-lifecycle lets no heartbeat through"));
        }
        if self.hold_on_auth.is_some() && self.no_reconnect {
            return Err(Failure::usage("--hold-on-auth: --no-reconnect says that nothing is tried twice"));
        }
        Ok(())
    }
}

/// The rows of every source that say how long it tries.
pub const fn link_flags<A: AsMut<ConnectionArgs>>() -> [Flag<A>; 6] {
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
        Flag {
            spec: "--hold-on-auth DURATION",
            help: "when the credentials are refused, do not exit 3 but wait so long and try again. A changed token file is noticed within a second or two and tried at once; \
                   the same refused credentials never are before their time, not even on HUP",
            set: Set::Value(|a, v| store(&mut a.as_mut().hold_on_auth, v)),
        },
    ]
}

/// The rows of every source that say what comes out.
pub const fn output_flags<A: AsMut<ConnectionArgs>>() -> [Flag<A>; 7] {
    [
        Flag {
            spec: "--no-lifecycle",
            help: "print no records about the connection itself (open, close, error, gap, drop)",
            set: Set::Switch(|a| a.as_mut().no_lifecycle = true),
        },
        Flag {
            spec: "--heartbeat DURATION",
            help: "print a heartbeat record so often, but only while the connection is proven alive: something came within --ping and --timeout together. \
                   None comes while it is down, not let in, or not read because of a slow reader, so the end of a pipeline can be watched by a dead man's switch",
            set: Set::Value(|a, v| store(&mut a.as_mut().heartbeat, v)),
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
            help: "how much may wait for a slow reader, 64MiB by default. What happens when it is full is --overflow's business",
            set: Set::Value(|a, v| store_size(&mut a.as_mut().buffer, v)),
        },
        Flag {
            spec: "--overflow block|drop",
            help: "what a full buffer does, block by default. block: the stream is not read until half of it is gone, and the deadlines of the connection rest. \
                   drop: the stream is always read, the oldest events are let go of, and a drop record in their place tells how many; records about the connection stay",
            set: Set::Value(|a, v| choice(&mut a.as_mut().overflow, &Overflow::CHOICES, v)),
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
fn dial_limit(args: &ConnectionArgs) -> Duration {
    (CONNECT_TIMEOUT + args.timeout + Duration::from_secs(1)) * args.round_trips
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
    /// Nothing, and no proof of anything.
    Nothing,
}

/// What a protocol adds to what happened to the connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heeded {
    /// Keys for the lifecycle record: `"key":value`, joined by commas; empty for none.
    pub members: String,
    /// What else happened, to be told right after it.
    pub then: Option<Change>,
}

impl Heeded {
    /// What a `gap` says when what changed during it is told after it.
    pub fn resync() -> Heeded {
        let members = r#""resync":true,"note":"what changed is told next, with origin resync; states in between cannot be recovered""#;
        Heeded { members: members.to_owned(), then: None }
    }
}

/// What a protocol has to tell beside the messages.
#[derive(Clone, Debug, PartialEq)]
pub enum Aside {
    /// An event of its own making, one line. It counts for `--max-events` but is no sign of life.
    Event(String),
    /// Something to be told of the connection.
    Tell(Change),
    /// The stream works, though no message said so yet.
    Proven,
    /// The connection is of no use any more.
    Lost {
        /// Why.
        reason: String,
        /// It may have been of none since then, whatever signs of life there were.
        since: Option<Timestamp>,
        /// The server asked to be left alone for so long.
        retry_after: Option<Duration>,
    },
    /// The credentials are refused.
    Refused(String),
    /// There is no use in going on.
    End(Failure),
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

    /// Tells the credentials of now from others, without giving them away.
    fn fingerprint(&self) -> u64;

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

    /// The attempt brought a connection, and it is in use from now on.
    fn dialed(&mut self) {}

    /// The connection was let go of, or the attempt at one.
    fn hung_up(&mut self) {}

    /// A connection made ready to take the place of the one in use, which has been read dry. `ended` says that it is over by itself.
    fn successor(&mut self, _ended: bool, _now: Moment) -> Option<Client> {
        None
    }

    /// The run is over and everything is written: what the service is to be told last. May block for a second or two.
    fn leave(&mut self) {}

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
