//! The loop that carries lines through a stage: reads, asks, writes, and waits on everything at once.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::accounts::Accounts;
use super::stage::Stage;
use crate::cli::table::{Flag, Set, store, store_size};
use crate::model::event::Event;
use crate::model::exit::{Exit, Failure, Fault, FaultCount};
use crate::model::line::{Cut, Line, LineBuffer, Lines, MAX_LINE};
use crate::model::time::Moment;
use crate::world::World;
use crate::world::streams::Written;
use crate::world::unix::{self, Interest};

/// What a user can say about the carrying of lines.
#[derive(Clone, Debug)]
pub struct PumpArgs {
    /// The longest line, in bytes.
    pub max_line: u64,
    /// Where faulty lines go.
    pub rejects: Option<PathBuf>,
    /// So long after a stop request and the end of input things may still be finished.
    pub drain: Duration,
}

impl Default for PumpArgs {
    fn default() -> PumpArgs {
        PumpArgs { max_line: MAX_LINE, rejects: None, drain: Duration::from_secs(20) }
    }
}

/// The rows of every program that reads records.
pub const fn flags<A: AsMut<PumpArgs>>() -> [Flag<A>; 3] {
    [
        Flag {
            spec: "--max-line SIZE",
            help: "the longest line taken, 16MiB by default. A longer one is faulty",
            set: Set::Value(|a, v| {
                let size = &mut a.as_mut().max_line;
                store_size(size, v)?;
                if *size == 0 { Err("must be longer than zero".to_owned()) } else { Ok(()) }
            }),
        },
        Flag {
            spec: "--rejects FILE",
            help: "append faulty lines to FILE as they came. They are never passed on",
            set: Set::Value(|a, v| store(&mut a.as_mut().rejects, v)),
        },
        Flag {
            spec: "--drain DURATION",
            help: "how long to finish after TERM or INT, 20s by default. Counted from the end of input, which must come within three times that",
            set: Set::Value(|a, v| store(&mut a.as_mut().drain, v)),
        },
    ]
}

/// So much waits to be written before it is written: a pipe's capacity on Linux, in bytes.
const WRITE_SIZE: usize = 64 << 10;

/// Carries every line of standard input through the stage, until the input ends, the reader goes away, or a stop request's time is over.
///
/// A line the stage passes on comes out before the pump waits for more input. Faulty lines are told, kept and counted here, so that no stage ever sees one.
///
/// # Errors
/// The stage's own failure; a broken input or output; a rejects file that cannot be written.
pub fn pump(world: &mut World, stage: &mut dyn Stage, args: &PumpArgs) -> Result<Exit, Failure> {
    let mut pump = Pump::new(world, args)?;
    let result = pump.run(stage);
    if pump.world.stats {
        pump.report(stage);
    }
    result
}

/// Opens the file for faulty lines, so that a wrong name is told before anything is done.
///
/// # Errors
/// The file cannot be opened: wrong configuration.
pub fn open_rejects(args: &PumpArgs) -> Result<Option<File>, Failure> {
    let Some(path) = &args.rejects else { return Ok(None) };
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map(Some).map_err(|error| Failure::usage(format!("--rejects: {}: {error}", path.display())))
}

struct Pump<'w> {
    world: &'w mut World,
    input: LineBuffer,
    /// More may come from standard input.
    open: bool,
    lines: Lines,
    faults: Faults,
    taken: u64,
    drain: Duration,
    /// When a stop was asked for.
    stopped: Option<Instant>,
    /// When the input ended.
    ended: Option<Instant>,
    /// A poll saw the reader's end; the next turn acts on it.
    reader_seen_gone: bool,
    /// The stage goes on without its reader.
    reader_gone: bool,
}

/// How one turn of the loop ended.
enum Turn {
    /// There is more to do at once.
    Busy,
    /// Nothing to do until something happens.
    Idle,
    /// The run is over.
    Over(Exit),
}

impl<'w> Pump<'w> {
    fn new(world: &'w mut World, args: &PumpArgs) -> Result<Pump<'w>, Failure> {
        let mut input = LineBuffer::new(args.max_line);
        if world.input.is_closed() {
            input.finish();
        }
        Ok(Pump {
            faults: Faults { rejects: open_rejects(args)?, count: FaultCount::default() },
            open: !world.input.is_closed(),
            world,
            input,
            lines: Lines::default(),
            taken: 0,
            drain: args.drain,
            stopped: None,
            ended: None,
            reader_seen_gone: false,
            reader_gone: false,
        })
    }

    fn run(&mut self, stage: &mut dyn Stage) -> Result<Exit, Failure> {
        loop {
            let now = self.world.clock.now();
            match self.turn(stage, now) {
                Ok(Turn::Busy) => {}
                Ok(Turn::Idle) => self.wait(stage, now)?,
                Ok(Turn::Over(exit)) => return Ok(exit),
                Err(failure) => {
                    stage.abandon(now, &mut self.lines);
                    // What is pending is worth a try; the failure is the news either way.
                    let _ = self.world.output.write(&mut self.lines);
                    let _ = stage.written(&self.lines);
                    return Err(failure);
                }
            }
        }
    }

    fn turn(&mut self, stage: &mut dyn Stage, now: Moment) -> Result<Turn, Failure> {
        self.heed_signals(stage, now);
        let starved = self.take_lines(stage, now)?;
        stage.wake(now, &mut self.lines)?;
        let written = self.write()?;
        if (written == Written::ReaderGone || self.reader_seen_gone) && !self.reader_gone {
            if !stage.outlives_reader() {
                return Ok(Turn::Over(Exit::Success));
            }
            self.lose_reader(now);
            stage.stop(now);
        }
        if self.reader_gone {
            self.lines.wrote(self.lines.pending().len());
        }
        stage.written(&self.lines)?;
        if self.ended.is_none() && starved && (!self.open || stage.satisfied()) {
            self.ended = Some(now.at);
            stage.finish(now, &mut self.lines);
            return Ok(Turn::Busy);
        }
        if self.ended.is_some() && self.lines.pending().is_empty() {
            if !stage.busy() {
                return Ok(Turn::Over(self.verdict(stage)));
            }
            if stage.silent() {
                self.world.output.close();
            }
        }
        if self.drain_deadline().is_some_and(|deadline| deadline <= now.at) {
            return Ok(Turn::Over(self.give_up(stage, now)));
        }
        let more = !starved && written == Written::All && stage.ready();
        Ok(if more { Turn::Busy } else { Turn::Idle })
    }

    fn heed_signals(&mut self, stage: &mut dyn Stage, now: Moment) {
        if self.world.signals.take_report() {
            self.report(stage);
        }
        if self.world.signals.take_reload() {
            stage.reload();
        }
        if self.stopped.is_none() && self.world.signals.stop_requested() {
            self.stopped = Some(now.at);
            stage.stop(now);
            // A person's Ctrl-C on typed input ends the input; in a pipeline the stage before ends it.
            if self.world.signals.interrupted() && self.world.input.is_terminal() {
                self.open = false;
                self.input.finish();
            }
        }
    }

    /// Gives complete lines to the stage, as long as it is ready and the output is not behind. Says whether it ran out of lines.
    fn take_lines(&mut self, stage: &mut dyn Stage, now: Moment) -> Result<bool, Failure> {
        if self.ended.is_some() || stage.satisfied() {
            return Ok(true);
        }
        while stage.ready() && self.lines.pending().len() < WRITE_SIZE {
            match self.input.next() {
                None => return Ok(true),
                Some(Cut::Line(line)) if line.bytes.trim_ascii().is_empty() => {}
                Some(Cut::Line(line)) => {
                    self.taken += 1;
                    match Event::parse(line.bytes) {
                        Ok(event) => stage.take(&event, now, &mut self.lines),
                        Err(fault) => self.faults.line(&self.world.diagnostics, line, &fault)?,
                    }
                    if stage.satisfied() {
                        return Ok(true);
                    }
                }
                Some(Cut::TooLong { number, piece, first, last }) => {
                    self.taken += u64::from(first);
                    self.faults.piece(&self.world.diagnostics, number, piece, first, last)?;
                }
            }
        }
        Ok(false)
    }

    fn write(&mut self) -> Result<Written, Failure> {
        if self.reader_gone {
            return Ok(Written::All);
        }
        let written = self.world.output.write(&mut self.lines);
        written.map_err(|error| Failure::failed(format!("standard output: {error}")))
    }

    /// The stage goes on without its reader: no more input, and a limited time to settle what was taken.
    fn lose_reader(&mut self, now: Moment) {
        self.reader_gone = true;
        self.world.output.close();
        self.world.diagnostics.warn("standard output: the reader went away; settling what was taken and ending");
        self.open = false;
        self.input = LineBuffer::new(MAX_LINE);
        self.stopped.get_or_insert(now.at);
    }

    fn drain_deadline(&self) -> Option<Instant> {
        let stopped = self.stopped?;
        let latest = stopped + 3 * self.drain;
        Some(self.ended.map_or(latest, |ended| (ended.max(stopped) + self.drain).min(latest)))
    }

    /// The time to drain is over.
    fn give_up(&mut self, stage: &mut dyn Stage, now: Moment) -> Exit {
        stage.abandon(now, &mut self.lines);
        // What could not be written or noted is told below, or comes again with the next run.
        let _ = self.world.output.write(&mut self.lines);
        let _ = stage.written(&self.lines);
        let unwritten = memchr::memchr_iter(b'\n', self.lines.pending()).count();
        if unwritten > 0 {
            self.world
                .diagnostics
                .error(&format!("standard output: {unwritten} records not written when the time to drain was over"));
        }
        if self.ended.is_none() {
            self.world.diagnostics.error("standard input: had not ended when the time to drain was over");
        }
        self.verdict(stage).or_worse(if unwritten > 0 || self.ended.is_none() {
            Exit::Incomplete
        } else {
            Exit::Success
        })
    }

    fn verdict(&self, stage: &dyn Stage) -> Exit {
        let own = if self.faults.count.total() > 0 { Exit::Incomplete } else { Exit::Success };
        own.or_worse(stage.exit())
    }

    /// Waits for input, room in the output, the reader's death, a signal, a worker or a deadline.
    fn wait(&mut self, stage: &dyn Stage, now: Moment) -> Result<(), Failure> {
        let behind = !self.lines.pending().is_empty() && !self.reader_gone;
        let hungry = self.open && self.ended.is_none() && !behind && stage.ready();
        let deadline = stage.deadline().into_iter().chain(self.drain_deadline()).min();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(now.at));
        let wake = self.world.wake.clone();
        // An input that is not wanted is not waited on, not even for its end, which poll would report again and again.
        let input = if hungry { self.world.input.fd() } else { wake.as_fd() };
        let output = (self.world.output.fd(), if behind { Interest::Write } else { Interest::End });
        let ready = unix::wait([(input, Interest::Read), output, (wake.as_fd(), Interest::Read)], timeout);
        let [input, output, woken] = ready.map_err(|error| Failure::failed(format!("poll: {error}")))?;
        if woken.read {
            wake.clear();
        }
        self.reader_seen_gone = output.gone && !self.world.output.is_closed();
        if hungry && input.read {
            let count = self.world.input.read(self.input.room());
            match count.map_err(|error| Failure::failed(format!("standard input: {error}")))? {
                0 => {
                    self.open = false;
                    self.input.finish();
                }
                count => self.input.filled(count),
            }
        }
        Ok(())
    }

    fn report(&self, stage: &dyn Stage) {
        let accounts = Accounts::default()
            .with("in", self.taken)
            .with("out", self.lines.count())
            .with("faulty", self.faults.count.total())
            .and(&stage.accounts());
        self.world.diagnostics.plain(&accounts.json(self.world.program));
    }
}

/// Faulty lines: told, kept if asked, counted.
struct Faults {
    rejects: Option<File>,
    count: FaultCount,
}

impl Faults {
    fn line(&mut self, diagnostics: &crate::world::Diagnostics, line: Line<'_>, fault: &Fault) -> Result<(), Failure> {
        self.tell(diagnostics, line.number, fault);
        self.keep(&[line.raw, b"\n"])
    }

    fn piece(
        &mut self,
        diagnostics: &crate::world::Diagnostics,
        number: u64,
        piece: &[u8],
        first: bool,
        last: bool,
    ) -> Result<(), Failure> {
        if first {
            self.tell(diagnostics, number, &Fault::new("too long (--max-line)"));
        }
        self.keep(&[piece, if last { b"\n" } else { b"" }])
    }

    fn tell(&mut self, diagnostics: &crate::world::Diagnostics, number: u64, fault: &Fault) {
        if let Some(so_far) = self.count.count("lines") {
            diagnostics.warn(&format!("line {number}: {fault}{so_far}"));
        }
    }

    fn keep(&mut self, pieces: &[&[u8]]) -> Result<(), Failure> {
        let Some(file) = &mut self.rejects else { return Ok(()) };
        pieces
            .iter()
            .try_for_each(|piece| file.write_all(piece))
            .map_err(|error| Failure::failed(format!("--rejects: {error}")))
    }
}
