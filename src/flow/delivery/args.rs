//! What a user can say about delivery; the same in every sink.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::table::{Flag, Set, store, store_size};
use crate::model::exit::Failure;
use crate::model::quantity::Rate;

/// The values of the rows.
#[derive(Clone, Debug)]
pub struct DeliveryArgs {
    /// The most records that wait in memory.
    pub queue: usize,
    /// Receipts instead of the records.
    pub receipts: bool,
    /// Where given-up records go.
    pub dead_letters: Option<PathBuf>,
    /// So long a record may fail.
    pub give_up: Duration,
    /// For one request.
    pub timeout: Duration,
    /// Instead of the destination's own pace.
    pub rate: Option<Rate>,
    /// Print the request bodies and send nothing.
    pub dry_run: bool,
    /// Send one message and end.
    pub send_test: bool,
    /// Where accepted records wait on disk.
    pub spool: Option<PathBuf>,
    /// How large it may be, in bytes.
    pub spool_size: u64,
    /// Older records are not sent any more.
    pub max_age: Option<Duration>,
    /// Print what is in the spool.
    pub list: bool,
    /// Send the spool's dead letters again.
    pub retry: bool,
    /// Empty the spool.
    pub purge: bool,
    /// Do not ask.
    pub yes: bool,
}

impl Default for DeliveryArgs {
    fn default() -> DeliveryArgs {
        DeliveryArgs {
            queue: 1000,
            receipts: false,
            dead_letters: None,
            give_up: Duration::from_secs(600),
            timeout: Duration::from_secs(15),
            rate: None,
            dry_run: false,
            send_test: false,
            spool: None,
            spool_size: 1 << 30,
            max_age: None,
            list: false,
            retry: false,
            purge: false,
            yes: false,
        }
    }
}

impl DeliveryArgs {
    /// Opens the file for dead letters.
    ///
    /// # Errors
    /// It cannot be opened: wrong configuration.
    pub fn open_dead_letters(&self) -> Result<Option<File>, Failure> {
        let Some(path) = &self.dead_letters else { return Ok(None) };
        let opened = OpenOptions::new().append(true).create(true).open(path);
        opened.map(Some).map_err(|error| Failure::usage(format!("--dead-letters: {}: {error}", path.display())))
    }
}

/// The rows about the spool.
pub const fn spool_flags<A: AsMut<DeliveryArgs>>() -> [Flag<A>; 7] {
    [
        Flag {
            spec: "--spool DIR",
            help: "keep records on disk in DIR from the moment they are accepted until they are settled. What a crash or a stop leaves is sent by the next run, in order. One run at a time uses it",
            set: Set::Value(|a, v| store(&mut a.as_mut().spool, v)),
        },
        Flag {
            spec: "--spool-size SIZE",
            help: "how large the spool may grow, 1GiB by default. A full one stops the reading of standard input and loses nothing",
            set: Set::Value(|a, v| {
                store_size(&mut a.as_mut().spool_size, v)?;
                if a.as_mut().spool_size == 0 { Err("expected more than nothing".to_owned()) } else { Ok(()) }
            }),
        },
        Flag {
            spec: "--max-age DURATION",
            help: "make a record that waited longer a dead letter instead of sending it. What resolves an alert is sent at any age",
            set: Set::Value(|a, v| store(&mut a.as_mut().max_age, v)),
        },
        Flag {
            spec: "--list",
            help: "print what waits in the spool and its dead letters, one JSON object a line, and end. Works beside a run",
            set: Set::Switch(|a| a.as_mut().list = true),
        },
        Flag {
            spec: "--retry",
            help: "send the spool's dead letters again, with all that waits in it, and end. Standard input is not read",
            set: Set::Switch(|a| a.as_mut().retry = true),
        },
        Flag {
            spec: "--purge",
            help: "remove everything that waits in the spool and its dead letters. Asks first",
            set: Set::Switch(|a| a.as_mut().purge = true),
        },
        Flag { spec: "--yes", help: "do not ask before --purge", set: Set::Switch(|a| a.as_mut().yes = true) },
    ]
}

/// The rows.
pub const fn flags<A: AsMut<DeliveryArgs>>() -> [Flag<A>; 8] {
    [
        Flag {
            spec: "--receipts",
            help: "write a receipt for each record once it is settled, instead of the record. Receipts come in the order of settlement and have \"seq\", the record's number",
            set: Set::Switch(|a| a.as_mut().receipts = true),
        },
        Flag {
            spec: "--dead-letters FILE",
            help: "append records that are given up to FILE, with the reason. Without it each is named on standard error. Sinks take such lines as input again",
            set: Set::Value(|a, v| store(&mut a.as_mut().dead_letters, v)),
        },
        Flag {
            spec: "--give-up DURATION",
            help: "how long one record may get no answer or a server's error, 10m by default. Waiting because the service is throttling does not count",
            set: Set::Value(|a, v| store(&mut a.as_mut().give_up, v)),
        },
        Flag {
            spec: "--queue N",
            help: "the most records that wait in memory, 1000 by default. A full queue stops the reading of standard input",
            set: Set::Value(|a, v| {
                store(&mut a.as_mut().queue, v)?;
                if a.as_mut().queue == 0 { Err("expected at least 1".to_owned()) } else { Ok(()) }
            }),
        },
        Flag {
            spec: "--rate RATE",
            help: "the sustained pace, e.g. 1/s or 120/m, instead of the service's own. Short bursts above it are allowed",
            set: Set::Value(|a, v| store(&mut a.as_mut().rate, v)),
        },
        Flag {
            spec: "--timeout DURATION",
            help: "how long one request may take, 15s by default",
            set: Set::Value(|a, v| store(&mut a.as_mut().timeout, v)),
        },
        Flag {
            spec: "--dry-run",
            help: "print the request bodies instead of sending them, secrets redacted. The records are not passed on",
            set: Set::Switch(|a| a.as_mut().dry_run = true),
        },
        Flag {
            spec: "--send-test",
            help: "send one test message, say how it went, and end",
            set: Set::Switch(|a| a.as_mut().send_test = true),
        },
    ]
}
