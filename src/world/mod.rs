//! Everything real, made once and passed in: streams, signals, clock, diagnostics, transports, secrets.

pub mod clock;
pub mod credentials;
pub mod diagnostics;
pub mod dial;
pub mod http;
pub mod proxy;
pub mod service_manager;
pub mod signals;
pub mod spool;
pub mod streams;
pub mod tls;
pub mod unix;
pub mod websocket;

use service_manager::ServiceManager;
use signals::Signals;
use streams::{Input, StandardOutput};
use unix::Wake;

pub use clock::Clock;
pub use diagnostics::Diagnostics;

/// What a program is given to work with.
pub struct World {
    /// The program's name, as in diagnostics and accounts.
    pub program: &'static str,
    /// Standard input.
    pub input: Input,
    /// Standard output.
    pub output: StandardOutput,
    /// Requests to stop, to report, to read secrets again.
    pub signals: Signals,
    /// What a worker thread calls so that the pump looks up.
    pub wake: Wake,
    /// Who started us, if it wants to be told how we are.
    pub service_manager: ServiceManager,
    /// The clocks.
    pub clock: Clock,
    /// One-line messages on standard error.
    pub diagnostics: Diagnostics,
    /// `--stats`: accounts at exit.
    pub stats: bool,
    /// `--check`: everything that can be known without the network, then stop.
    pub check: bool,
}

impl World {
    /// The real world.
    ///
    /// # Errors
    /// The system refuses a pipe or a signal handler.
    pub fn real(program: &'static str, diagnostics: Diagnostics) -> std::io::Result<World> {
        let wake = Wake::new()?;
        Ok(World {
            program,
            input: Input::standard(),
            output: StandardOutput::new(),
            signals: Signals::listen(&wake)?,
            wake,
            service_manager: ServiceManager::from_environment(),
            clock: Clock,
            diagnostics,
            stats: false,
            check: false,
        })
    }
}
