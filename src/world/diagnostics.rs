//! One-line messages on standard error: `program: thing: cause`, with a priority prefix under systemd's journal.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use super::unix;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `--quiet`: only what ends the program or loses something.
    Quiet,
    /// What an operator wants to read in the morning.
    Normal,
    /// `--verbose`: each step.
    Verbose,
}

/// Where messages go. Cheap to clone, for worker threads.
#[derive(Clone)]
pub struct Diagnostics {
    program: &'static str,
    level: Level,
    journal: bool,
    sink: Sink,
}

#[derive(Clone)]
enum Sink {
    Stderr,
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Diagnostics {
    /// Messages on the real standard error.
    ///
    /// `journal` is the value of `JOURNAL_STREAM`: the journal is our reader only if it names the very descriptor we write to.
    pub fn stderr(program: &'static str, level: Level, journal: Option<&str>) -> Diagnostics {
        let journal = journal.is_some() && unix::stderr_identity().as_deref() == journal;
        Diagnostics { program, level, journal, sink: Sink::Stderr }
    }

    /// Messages kept in memory, for tests; see [`Diagnostics::said`].
    pub fn memory(program: &'static str) -> Diagnostics {
        Diagnostics { program, level: Level::Verbose, journal: false, sink: Sink::Memory(Arc::default()) }
    }

    /// What was said so far, if it is kept in memory.
    pub fn said(&self) -> String {
        match &self.sink {
            Sink::Stderr => String::new(),
            Sink::Memory(bytes) => {
                String::from_utf8_lossy(&bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
            }
        }
    }

    /// Something is lost or the program ends.
    pub fn error(&self, message: &str) {
        self.say(3, message);
    }

    /// Something is wrong and the program goes on.
    pub fn warn(&self, message: &str) {
        if self.level > Level::Quiet {
            self.say(4, message);
        }
    }

    /// Something an operator wants to know.
    pub fn info(&self, message: &str) {
        if self.level > Level::Quiet {
            self.say(6, message);
        }
    }

    /// A step, with `--verbose`.
    pub fn detail(&self, message: &str) {
        if self.level == Level::Verbose {
            self.say(7, message);
        }
    }

    /// A text of its own, such as the accounts: no program's name before it.
    pub fn plain(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// Whether steps are told.
    pub fn is_verbose(&self) -> bool {
        self.level == Level::Verbose
    }

    fn say(&self, priority: u8, message: &str) {
        let prefix = if self.journal { format!("<{priority}>") } else { String::new() };
        // One line each, whatever a server wrote into its answer; no terminal is given control characters.
        let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.write(&format!("{prefix}{}: {message}\n", self.program));
    }

    fn write(&self, text: &str) {
        match &self.sink {
            // Nobody is left to be told that standard error is gone.
            Sink::Stderr => drop(std::io::stderr().write_all(text.as_bytes())),
            Sink::Memory(bytes) => {
                bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text.as_bytes());
            }
        }
    }
}
