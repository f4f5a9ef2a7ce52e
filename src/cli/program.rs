//! The only place that touches the command line, the real streams and the exit code.

use std::process::ExitCode;

use super::table::{Flag, Program, Set, choice};
use super::{complete, help, man, parse};
use crate::model::exit::{Exit, Failure};
use crate::world::diagnostics::{Diagnostics, Level};
use crate::world::streams::Written;
use crate::world::{World, unix};

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this is built of and its day, if `build.rs` knows them.
const BUILD: Option<&str> = option_env!("TUTUM_BUILD");

/// What every program is asked.
#[derive(Debug, Default)]
pub struct Common {
    /// Only errors are told.
    pub quiet: bool,
    /// Each step is told.
    pub verbose: bool,
    /// Accounts at exit.
    pub stats: bool,
    /// Look at everything, do nothing.
    pub check: bool,
    print: Option<Print>,
}

#[derive(Clone, Copy, Debug)]
enum Print {
    ShortHelp,
    LongHelp,
    Version,
    Man,
    Bash,
    Zsh,
    Fish,
}

/// The rows every program has.
pub const COMMON: [Flag<Common>; 8] = [
    Flag { spec: "-h", help: "print the flags in short", set: Set::Switch(|c| c.print = Some(Print::ShortHelp)) },
    Flag { spec: "--help", help: "print this help", set: Set::Switch(|c| c.print = Some(Print::LongHelp)) },
    Flag { spec: "-V, --version", help: "print the version", set: Set::Switch(|c| c.print = Some(Print::Version)) },
    Flag { spec: "-q, --quiet", help: "say nothing but errors", set: Set::Switch(|c| c.quiet = true) },
    Flag { spec: "-v, --verbose", help: "tell each step on standard error", set: Set::Switch(|c| c.verbose = true) },
    Flag {
        spec: "--stats",
        help: "print the accounts as one JSON object on standard error at exit. SIGUSR1 prints them at any time",
        set: Set::Switch(|c| c.stats = true),
    },
    Flag {
        spec: "--check",
        help: "look at flags, files and secrets, say what would be done, and exit 0 or 2. Nothing is sent",
        set: Set::Switch(|c| c.check = true),
    },
    Flag {
        spec: "--generate man|bash|zsh|fish",
        help: "print the man page or a shell's completions",
        set: Set::Value(|c, value| {
            let mut print = Print::Man;
            choice(
                &mut print,
                &[("man", Print::Man), ("bash", Print::Bash), ("zsh", Print::Zsh), ("fish", Print::Fish)],
                value,
            )?;
            c.print = Some(print);
            Ok(())
        }),
    },
];

impl<A: Default> Program<A> {
    /// Reads the command line, makes the world, runs, and turns what comes of it into an exit code.
    pub fn main(&self, run: fn(A, &mut World) -> Result<Exit, Failure>) -> ExitCode {
        let journal = std::env::var("JOURNAL_STREAM").ok();
        let diagnostics = |level| Diagnostics::stderr(self.name, level, journal.as_deref());
        let (common, args) = match parse::parse(self, std::env::args_os().skip(1).collect()) {
            Ok(parsed) => parsed,
            Err(reason) => {
                diagnostics(Level::Normal).error(&reason);
                return Exit::Usage.code().into();
            }
        };
        let level = match common {
            Common { verbose: true, .. } => Level::Verbose,
            Common { quiet: true, .. } => Level::Quiet,
            _ => Level::Normal,
        };
        let diagnostics = diagnostics(level);
        if let Some(print) = common.print {
            return print_and_leave(&self.text(print), &diagnostics).code().into();
        }
        let outcome = World::real(self.name, diagnostics.clone())
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))
            .and_then(|mut world| {
                (world.stats, world.check) = (common.stats, common.check);
                run(args, &mut world)
            });
        let exit = outcome.unwrap_or_else(|failure| {
            diagnostics.error(&failure.message);
            failure.exit
        });
        exit.code().into()
    }

    fn text(&self, print: Print) -> String {
        match print {
            Print::ShortHelp => help::short(self),
            Print::LongHelp => help::long(self),
            Print::Version => version(self.name, BUILD),
            Print::Man => man::page(self),
            Print::Bash => complete::bash(self),
            Print::Zsh => complete::zsh(self),
            Print::Fish => complete::fish(self),
        }
    }
}

/// The line that `--version` prints.
fn version(name: &str, build: Option<&str>) -> String {
    let build = build.map(|build| format!(" ({build})")).unwrap_or_default();
    format!("{name} {VERSION}{build}\n")
}

/// Prints a text that is not records. A reader that goes away is content; a full disk is not.
fn print_and_leave(text: &str, diagnostics: &Diagnostics) -> Exit {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match unix::write_stdout(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) => match error.kind() {
                std::io::ErrorKind::Interrupted => {}
                std::io::ErrorKind::BrokenPipe => return Exit::Success,
                _ => {
                    diagnostics.error(&format!("standard output: {error}"));
                    return Exit::Failed;
                }
            },
        }
    }
    Exit::Success
}

impl World {
    /// What `--check` prints when all is well: one line a fact, on standard output.
    ///
    /// # Errors
    /// The output is broken.
    pub fn checked(&mut self, facts: &[String]) -> Result<Exit, Failure> {
        let facts: Vec<String> = facts.iter().map(|fact| format!("{}: {fact}", self.program)).collect();
        self.print(&facts.join("\n"))
    }

    /// Prints a text that is not records, with a line break at its end.
    ///
    /// # Errors
    /// The output is broken.
    pub fn print(&mut self, text: &str) -> Result<Exit, Failure> {
        let mut lines = crate::model::line::Lines::default();
        lines.push(text.as_bytes());
        match self.output.write(&mut lines) {
            Ok(Written::All | Written::Some | Written::ReaderGone) => Ok(Exit::Success),
            Err(error) => Err(Failure::failed(format!("standard output: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_tells_the_commit_if_it_is_known() {
        assert_eq!(version("to-slack", None), format!("to-slack {VERSION}\n"));
        assert_eq!(
            version("to-slack", Some("abcdef123456 2026-11-20")),
            format!("to-slack {VERSION} (abcdef123456 2026-11-20)\n")
        );
    }
}
