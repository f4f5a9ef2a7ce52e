//! TERM, INT, HUP, USR1 become flags and something a poll wakes for. Hides signal-hook.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level::pipe};

use super::unix::Wake;

/// What the user or the service manager asked for.
#[derive(Clone, Default)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    interrupt: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen. TERM is caught even where a parent ignored it (a pipeline script's `trap '' TERM` is for foreign stages).
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn listen(wake: &Wake) -> io::Result<Signals> {
        let signals = Signals::default();
        // A second INT, from an impatient Ctrl-C, ends at once; a second TERM changes nothing, since service managers send two.
        // The order matters: this one acts only if the flag was set before.
        flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, Arc::clone(&signals.interrupt))?;
        flag::register(SIGINT, Arc::clone(&signals.interrupt))?;
        flag::register(SIGTERM, Arc::clone(&signals.stop))?;
        flag::register(SIGHUP, Arc::clone(&signals.reload))?;
        flag::register(SIGUSR1, Arc::clone(&signals.report))?;
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1] {
            pipe::register(signal, wake.writer()?)?;
        }
        Ok(signals)
    }

    /// Signals nobody sends, for tests and threads that only need the type.
    pub fn none() -> Signals {
        Signals::default()
    }

    /// Whether TERM or INT came.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.interrupted()
    }

    /// Whether INT came: a person at a terminal.
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// Whether HUP came since the last call.
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// Whether USR1 came since the last call.
    pub fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
    }
}
