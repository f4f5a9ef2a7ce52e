//! Where accepted records wait before their turn: on disk if there is a spool, else nowhere but in the queue.

use std::collections::VecDeque;
use std::path::Path;

use super::args::DeliveryArgs;
use crate::model::exit::Failure;
use crate::model::line::Lines;
use crate::model::time::Timestamp;
use crate::world::spool::{Limits, Record, Spool};

/// The spool, and what delivery must remember of it.
pub struct Store {
    spool: Spool,
    /// Lines to be passed on once what was appended is safe.
    unsafe_lines: Lines,
    /// The ids appended since the last commit.
    appended: Vec<u64>,
    /// Records that were appended and could not be made safe.
    pub withdrawn: u64,
    /// Whether lines are passed on at all, or receipts instead.
    passes_on: bool,
    /// Which of the unsafe lines is which record.
    unsafe_ids: Vec<(u64, u64)>,
    /// Lines that are on their way out: the number of each among all lines, and its record.
    on_way: VecDeque<(u64, u64)>,
    /// Every record up to this id was passed on.
    passed: u64,
    /// What ended before its line was out: settled in the spool only then, so that a crash in between cannot lose the line.
    ended: VecDeque<(u64, Option<String>)>,
    settled: bool,
    /// The numbers on this input of the records that were not handed out yet: runs of ids, each with its first number and length.
    numbers: VecDeque<Run>,
    /// Records of earlier runs that waited at the start.
    pub recovered: u64,
}

/// Consecutive ids of records with consecutive numbers.
struct Run {
    id: u64,
    seq: u64,
    length: u64,
}

impl Store {
    /// Opens the spool the user asked for.
    ///
    /// # Errors
    /// It is in use, or the disk fails.
    pub fn open(args: &DeliveryArgs, now: Timestamp) -> Result<Option<Store>, Failure> {
        let Some(dir) = &args.spool else { return Ok(None) };
        let spool = open_spool(dir, args, now)?;
        let recovered = spool.counts().waiting;
        let mut store = Store {
            unsafe_lines: Lines::default(),
            appended: Vec::new(),
            withdrawn: 0,
            passes_on: !args.receipts,
            unsafe_ids: Vec::new(),
            on_way: VecDeque::new(),
            passed: spool.passed(),
            ended: VecDeque::new(),
            settled: false,
            numbers: VecDeque::new(),
            recovered,
            spool,
        };
        if store.passes_on {
            // What a crash may have kept from being passed on comes before anything new.
            let (lines, ids) = (&mut store.unsafe_lines, &mut store.unsafe_ids);
            store.spool.replay(store.passed, |record| {
                lines.push(record.text.as_bytes());
                ids.push((lines.count(), record.id));
            })?;
        }
        Ok(Some(store))
    }

    /// Writes a record, which is accepted at the next [`Store::commit`]; `line` is passed on then.
    ///
    /// # Errors
    /// The disk is full or fails; the record is not accepted.
    pub fn append(&mut self, seq: u64, text: &str, accepted: Timestamp) -> Result<(), Failure> {
        let id = self.spool.append(text, accepted)?;
        self.appended.push(id);
        self.unsafe_ids.push((self.unsafe_lines.count() + 1, id));
        match self.numbers.back_mut() {
            Some(run) if run.id + run.length == id && run.seq + run.length == seq => run.length += 1,
            _ => self.numbers.push_back(Run { id, seq, length: 1 }),
        }
        Ok(())
    }

    /// The lines to be passed on when what was appended is safe.
    pub fn lines(&mut self) -> &mut Lines {
        &mut self.unsafe_lines
    }

    /// Makes everything appended safe, in one go, and passes its lines on.
    ///
    /// # Errors
    /// The disk fails: what was appended is not accepted and not passed on.
    pub fn commit(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        if !self.appended.is_empty() {
            let appended = std::mem::take(&mut self.appended);
            if let Err(failure) = self.spool.sync() {
                // Some may have been made safe on the way; they are delivered, though their lines are not passed on.
                let durable = self.spool.durable();
                self.withdrawn += appended.iter().filter(|id| **id > durable).count() as u64;
                self.unsafe_lines.discard();
                self.unsafe_ids.clear();
                return Err(failure);
            }
            self.settled = false;
        }
        let before = lines.count();
        lines.append(&mut self.unsafe_lines);
        self.on_way.extend(self.unsafe_ids.drain(..).map(|(line, id)| (before + line, id)));
        Ok(())
    }

    /// Looks which lines are out by now, notes it, and settles what was waiting for that.
    ///
    /// # Errors
    /// A dead letter cannot be kept.
    pub fn heed_output(&mut self, lines: &Lines) -> Result<(), Failure> {
        let out = lines.count() - lines.pending_count();
        let before = self.passed;
        while let Some((_, id)) = self.on_way.pop_front_if(|(line, _)| *line <= out || !self.passes_on) {
            self.passed = id;
        }
        if self.passed > before {
            self.spool.note_passed(self.passed);
        }
        for (id, letter) in std::mem::take(&mut self.ended) {
            self.end(id, letter)?;
        }
        Ok(())
    }

    /// Settles a record in the spool, or remembers to do so once its line is out.
    fn end(&mut self, id: u64, letter: Option<String>) -> Result<(), Failure> {
        if id > self.passed && !self.on_way.is_empty() {
            self.ended.push_back((id, letter));
            return Ok(());
        }
        self.settled = true;
        match letter {
            None => self.spool.settle(id),
            Some(letter) => self.spool.bury(id, &letter)?,
        };
        Ok(())
    }

    /// The next record whose turn it is, with its number on this input.
    ///
    /// # Errors
    /// The disk fails.
    pub fn hand_out(&mut self) -> Result<Option<(Record, Option<u64>)>, Failure> {
        let Some(record) = self.spool.hand_out()? else { return Ok(None) };
        while self.numbers.front().is_some_and(|run| run.id + run.length <= record.id) {
            self.numbers.pop_front();
        }
        let number = self.numbers.front().filter(|run| run.id <= record.id).map(|run| run.seq + (record.id - run.id));
        Ok(Some((record, number)))
    }

    /// A record came to its end.
    pub fn settle(&mut self, id: u64) {
        self.end(id, None).expect("only a dead letter can be refused");
    }

    /// A record became a dead letter.
    ///
    /// # Errors
    /// The disk does not take it; the record still waits.
    pub fn bury(&mut self, id: u64, letter: &str) -> Result<(), Failure> {
        self.end(id, Some(letter.to_owned()))
    }

    /// Writes what is still in memory; with `idle`, when nothing else is to be done, makes settlements survive a power cut too. Gives what the
    /// operator should know.
    pub fn flush(&mut self, idle: bool) -> Vec<String> {
        let flushed = if idle && self.settled {
            self.settled = false;
            self.spool.sync()
        } else {
            self.spool.flush()
        };
        let mut notices = self.spool.take_notices();
        notices.extend(flushed.err().map(|failure| failure.message));
        notices
    }

    /// Whether it takes no more.
    pub fn is_full(&self) -> bool {
        self.spool.is_full()
    }

    /// Whether a record is not settled in the spool yet, be it only because its line is not out.
    pub fn is_busy(&self) -> bool {
        self.spool.counts().waiting > 0
    }

    /// How many records are accepted and not settled.
    pub fn waiting(&self) -> u64 {
        self.spool.counts().waiting - self.ended.len() as u64
    }
}

/// Opens the spool itself.
///
/// # Errors
/// It is in use, or the disk fails.
pub fn open_spool(dir: &Path, args: &DeliveryArgs, now: Timestamp) -> Result<Spool, Failure> {
    Spool::open(dir, Limits::of(args.spool_size), now)
}
