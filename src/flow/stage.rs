//! A step of the pipeline, as the pump sees it.

use std::time::Instant;

use super::accounts::Accounts;
use crate::model::event::Event;
use crate::model::exit::{Exit, Failure};
use crate::model::line::Lines;
use crate::model::time::Moment;

/// A step of the pipeline: it is given records one by one and adds the lines it wants written.
///
/// It never waits, sleeps or asks for the time. What it waits for it names: a [`deadline`](Stage::deadline), or a worker thread that calls the
/// world's `Wake`; the pump then calls [`wake`](Stage::wake). Most filters need only [`take`](Stage::take).
pub trait Stage {
    /// Takes one record. A record it does not change is passed on as `event.text`, byte for byte.
    fn take(&mut self, event: &Event<'_>, now: Moment, lines: &mut Lines);

    /// Whether it would take another record now; while not, the pump leaves the input alone, which is back-pressure.
    fn ready(&self) -> bool {
        true
    }

    /// Whether it wants no more records at all; the pump then acts as if the input had ended.
    fn satisfied(&self) -> bool {
        false
    }

    /// When it wants to be woken, if at all.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Called after every batch of records, when the deadline passed, when a worker has something, and sometimes for no reason.
    /// What it adds is written with the batch's lines, so a stage can put a whole batch on disk at once before it passes it on.
    ///
    /// # Errors
    /// The program cannot go on. The pump then calls [`abandon`](Stage::abandon) and ends with the failure's code.
    fn wake(&mut self, _now: Moment, _lines: &mut Lines) -> Result<(), Failure> {
        Ok(())
    }

    /// Lines were written, or thrown away because the reader is gone; what is still pending in `lines` was not.
    ///
    /// # Errors
    /// As [`wake`](Stage::wake).
    fn written(&mut self, _lines: &Lines) -> Result<(), Failure> {
        Ok(())
    }

    /// The input ended.
    fn finish(&mut self, _now: Moment, _lines: &mut Lines) {}

    /// Whether, after the end of input, something is still under way.
    fn busy(&self) -> bool {
        false
    }

    /// Whether, after the end of input, it will add no more lines, so that the next stage can be shown the end.
    fn silent(&self) -> bool {
        !self.busy()
    }

    /// The time to drain is over: whatever is under way is to be put away (spooled, made a dead letter) and counted, at once.
    fn abandon(&mut self, _now: Moment, _lines: &mut Lines) {}

    /// Whether it has a purpose beside its output and goes on to settle what it took when the reader goes away (a sink).
    fn outlives_reader(&self) -> bool {
        false
    }

    /// TERM or INT came, or the reader of a stage that outlives it went away. Records are still taken to the end of the input;
    /// this is for a stage that would otherwise be [`busy`](Stage::busy) for ever, or that takes its records slowly on purpose.
    fn stop(&mut self, _now: Moment) {}

    /// HUP: secrets are to be read again.
    fn reload(&mut self) {}

    /// Its own counts; the pump adds `in`, `out` and `faulty`.
    fn accounts(&self) -> Accounts {
        Accounts::default()
    }

    /// Its own view of how the run went, asked at the end.
    fn exit(&self) -> Exit {
        Exit::Success
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::model::time::Timestamp;

    /// A moment to start a test's clock at.
    pub fn start() -> Moment {
        let utc = Timestamp::parse("2025-03-04T05:06:07.890Z").expect("it is a date");
        assert!(Timestamp::from_system(SystemTime::now()) > utc);
        Moment { at: Instant::now(), utc }
    }

    /// Gives every line of `input` to the stage, ends the input, and tells what it wrote.
    pub fn run_over(stage: &mut dyn Stage, input: &str) -> String {
        let (now, mut lines) = (start(), Lines::default());
        for line in input.lines() {
            stage.take(&Event::parse(line.as_bytes()).expect("a test's line is an event"), now, &mut lines);
        }
        stage.finish(now, &mut lines);
        lines.text()
    }
}
