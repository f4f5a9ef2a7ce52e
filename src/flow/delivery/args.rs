//! What a user can say about delivery; the same in every sink.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::table::{Flag, Set, store};
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
