//! Records that wait on disk: accepted once they are there, handed out in order, settled in any order, safe from crashes, power cuts and full disks.
//!
//! The spool is a directory of segments, each some megabytes of frames (`frame.rs`) named after the first id in it. A record is settled by writing
//! over the state in its frame, four bytes that exist already, so that settling takes no room on a full disk and nothing has to be compacted to
//! find out what is left. A segment is removed once all its records are settled, and rewritten once most of them are: disk use is at most twice
//! what waits, and one segment.
//!
//! It is our own and not a queue file of a crate, because records settle out of order: one that is retried for ten minutes does not hold up the
//! others, and after a crash a queue that only remembers its front would hand out again everything settled behind that one, and page somebody twice.
//!
//! | file | what |
//! | --- | --- |
//! | `spool.lock` | held by the run that uses the directory |
//! | `<id>.records` | a segment; the highest is appended to and is never removed before there is a higher one, so that no id comes twice |
//! | `passed` | the highest id whose line was passed on (`passed.rs`) |
//! | `dead.ndjson` | dead letters (`dead.rs`) |
//! | `….corrupt-<unix time>` | a damaged file, after everything readable in it was saved; nobody reads it again |
//! | `….salvaged`, `….compact` | half-made replacements; finished or removed at the next start |
//!
//! Three degrees of safety: what is written survives the death of the process; what is synced survives a power cut; what is in memory only are dead
//! letters between two calls of [`Spool::flush`] (their records still wait on disk) and settlements that the disk refused to take.

#[cfg(test)]
mod damage_test;
mod dead;
mod disk;
mod frame;
mod listing;
#[cfg(test)]
mod model_test;
mod passed;
mod recovery;
mod segment;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use dead::DeadLetters;
use disk::{Access, Disk, DiskFile, RealDisk, write_all_at};
use frame::{Found, Scanner};
use segment::{Place, Segment, name, record};

pub use listing::list;

use crate::model::exit::Failure;
use crate::model::time::Timestamp;

const LOCK: &str = "spool.lock";
/// So many dead letters wait in memory for one sync.
const MOST_BURIALS: usize = 64;
/// And so many bytes of them.
const MOST_BURIAL_BYTES: usize = 1 << 20;
/// So many files stay open.
const MOST_OPEN: usize = 16;

/// How large the spool and its segments may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The spool is full when its segments are so large, in bytes. The last record may exceed it; dead letters do not count.
    pub size: u64,
    /// A segment is closed when it is so large, in bytes.
    pub segment: u64,
}

impl Limits {
    /// A spool of so many bytes, with segments that suit it.
    pub fn of(size: u64) -> Limits {
        Limits { size, segment: (size / 8).clamp(16 << 10, 4 << 20) }
    }
}

/// A record that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id, higher than that of every record accepted before it.
    pub id: u64,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// The line as it was accepted.
    pub text: String,
}

/// What is in a spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that are not settled.
    pub waiting: u64,
    /// Dead letters.
    pub dead: u64,
    /// What the segments take on disk, in bytes.
    pub bytes: u64,
    /// What the dead letters take, in bytes.
    pub dead_bytes: u64,
}

/// A spool that is ours until the value is dropped.
pub struct Spool {
    disk: Box<dyn Disk>,
    limits: Limits,
    /// By first id; never empty, the last is appended to.
    segments: BTreeMap<u64, Segment>,
    next_id: u64,
    /// The last id that survives a power cut.
    durable: u64,
    /// For the names of damaged files.
    opened: Timestamp,
    /// What was appended to the last segment since the last sync.
    fresh: Fresh,
    /// A sync failed in the middle of appending; the next [`Spool::sync`] tells.
    withdrawn: Option<Failure>,
    /// The last segment's file may be longer than we say.
    torn: bool,
    /// Names were made, changed or removed since the last sync of the directory.
    names_changed: bool,
    cursor: Cursor,
    /// Handed out and not settled.
    out: BTreeMap<u64, Place>,
    /// Settled, but the disk did not take the mark yet.
    unmarked: BTreeMap<u64, Place>,
    /// Dead letters to be written.
    burials: Vec<(u64, String)>,
    most_burials: usize,
    dead: DeadLetters,
    frame: Vec<u8>,
    notices: Vec<String>,
    /// The trouble with settling that was told last.
    trouble: Option<String>,
    /// How far lines were passed on, once that was noted.
    passed_note: Option<Box<dyn DiskFile>>,
}

#[derive(Clone, Copy, Default)]
struct Fresh {
    count: u64,
    frames: u64,
    /// Header included.
    bytes: u64,
}

/// How far records were handed out.
struct Cursor {
    segment: u64,
    scanner: Scanner,
    /// The last id that was looked at.
    after: u64,
}

impl Spool {
    /// Opens the spool in `dir`, made if it is not there, and takes it for as long as the value lives. Every byte of it is read once: what a crash
    /// left half-written is cut off, and a damaged file is set aside and what is readable in it saved. [`Spool::take_notices`] then tells of it;
    /// `now` is for the names of such files.
    ///
    /// # Errors
    /// Another run uses it, the directory cannot be made or read, or the disk fails.
    pub fn open(dir: &Path, limits: Limits, now: Timestamp) -> Result<Spool, Failure> {
        let disk = RealDisk::make(dir).map_err(|error| unusable(&dir.display().to_string(), &error))?;
        Spool::open_on(Box::new(disk), limits, now)
    }

    fn open_on(mut disk: Box<dyn Disk>, limits: Limits, now: Timestamp) -> Result<Spool, Failure> {
        match disk.lock() {
            Ok(true) => {}
            Ok(false) => return Err(Failure::failed(format!("{}: in use by another run", disk.show("")))),
            Err(error) => return Err(unusable(&disk.show(LOCK), &error)),
        }
        let mut spool = Spool {
            disk,
            limits,
            segments: BTreeMap::new(),
            next_id: 1,
            durable: 0,
            opened: now,
            fresh: Fresh::default(),
            withdrawn: None,
            torn: false,
            names_changed: false,
            cursor: Cursor { segment: 0, scanner: Scanner::new(0, 0), after: 0 },
            out: BTreeMap::new(),
            unmarked: BTreeMap::new(),
            burials: Vec::new(),
            most_burials: MOST_BURIALS,
            dead: DeadLetters::default(),
            frame: Vec::new(),
            notices: Vec::new(),
            trouble: None,
            passed_note: None,
        };
        spool.recover()?;
        Ok(spool)
    }

    /// What the operator should know: files that were damaged and set aside, settlements that the disk refuses.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Writes one record, a line without its end, and says its id. It is not accepted before [`Spool::sync`] says so.
    ///
    /// The cap is the caller's to heed ([`Spool::is_full`]).
    ///
    /// # Errors
    /// The disk is full or fails: this record is not in the spool. Whether those appended before it are accepted, the next sync says as always.
    pub fn append(&mut self, text: &str, accepted: Timestamp) -> Result<u64, Failure> {
        self.append_at(text, accepted).map(|(id, _)| id)
    }

    fn append_at(&mut self, text: &str, accepted: Timestamp) -> Result<(u64, Place), Failure> {
        let Ok(length) = u32::try_from(text.len()) else {
            return Err(Failure::failed(format!(
                "{}: a record of {} bytes does not fit",
                self.disk.show(""),
                text.len()
            )));
        };
        if let Some(failure) = &self.withdrawn {
            return Err(failure.clone());
        }
        if self.last().1.size >= self.limits.segment {
            self.rotate()?;
        }
        let id = self.next_id;
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        let (first, segment) = self.last();
        let at = segment.size;
        if at == 0 {
            frame.extend_from_slice(&frame::HEADER);
        }
        let place = Place { at: at + frame.len() as u64, size: frame::frame_size(text.len()) };
        frame::encode(&mut frame, id, accepted.millis(), text.as_bytes(), length);
        let written = self.mend().and_then(|()| {
            let (_, segment, disk) = self.last_mut();
            write_all_at(segment.open(disk, first)?, &frame, at)
        });
        let bytes = frame.len() as u64;
        self.frame = if frame.capacity() > 1 << 20 { Vec::new() } else { frame };
        if let Err(error) = written {
            self.torn = true;
            let _ = self.mend();
            return Err(self.failure(first, &error));
        }
        let (_, segment, _) = self.last_mut();
        segment.size += bytes;
        segment.live += place.size;
        segment.waiting += 1;
        self.fresh.count += 1;
        self.fresh.frames += place.size;
        self.fresh.bytes += bytes;
        self.next_id += 1;
        Ok((id, place))
    }

    /// Makes everything appended so far survive a power cut: now it is accepted, and [`Spool::hand_out`] hands it out. Settlements are synced too;
    /// if only those fail it is a notice, and they are tried again.
    ///
    /// # Errors
    /// The disk fails: everything appended since the last sync is taken back and will not be handed out, but for records up to
    /// [`Spool::durable`], which were made safe on the way and are accepted.
    pub fn sync(&mut self) -> Result<(), Failure> {
        let synced = match self.withdrawn.take() {
            Some(failure) => Err(failure),
            None => self.sync_appended(),
        };
        match self.sync_settlements() {
            Ok(()) => self.trouble = None,
            Err(failure) => self.trouble(failure.message),
        }
        self.close_files();
        synced
    }

    /// Writes the settlements that are still in memory; then they survive the death of the process. Call it before waiting for anything.
    ///
    /// # Errors
    /// Some could not be written and are tried again by the next call; their records still wait on disk.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.write_burials()?;
        while let Some((id, place)) = self.unmarked.pop_first() {
            if let Err((first, error)) = self.mark(id, place) {
                return Err(self.failure(first, &error));
            }
        }
        Ok(())
    }

    /// Flushes, and syncs the settlements too. Dropping the value flushes only.
    ///
    /// # Errors
    /// As [`Spool::sync`], and if the settlements are not safe.
    pub fn close(mut self) -> Result<(), Failure> {
        self.sync().and_then(|()| self.sync_settlements())
    }

    /// The highest id that would survive a power cut.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The next accepted record that is not settled, in the order of ids, each once in a run; `None` if there is none now.
    ///
    /// # Errors
    /// A segment cannot be opened. What cannot be read in one is passed over, with a notice.
    pub fn hand_out(&mut self) -> Result<Option<Record>, Failure> {
        loop {
            let Some(first) = self.segments.range(self.cursor.segment..).map(|(first, _)| *first).next() else {
                return Ok(None);
            };
            if first != self.cursor.segment {
                self.point_at(first);
            }
            let is_last = first == self.last().0;
            let segment = self.segments.get_mut(&first).expect("it was just found");
            let end = if is_last { segment.size - self.fresh.bytes } else { segment.size };
            let file = segment.open(&*self.disk, first).map_err(|error| failure(&*self.disk, first, &error))?;
            match self.cursor.scanner.next(file, end) {
                Some(Found::Record(entry)) => {
                    let passed = entry.id <= self.cursor.after;
                    self.cursor.after = self.cursor.after.max(entry.id);
                    let ours = self.out.contains_key(&entry.id) || self.unmarked.contains_key(&entry.id);
                    if !(passed || ours || entry.settled) {
                        let record = record(&entry);
                        self.out.insert(entry.id, Place { at: entry.at, size: entry.size });
                        return Ok(Some(record));
                    }
                }
                Some(Found::Damage(_) | Found::Tail(_)) => segment.damaged = true,
                None => {
                    if segment.damaged {
                        self.reconcile(first);
                    }
                    if is_last {
                        return Ok(None);
                    }
                    let Some((next, _)) = self.segments.range(first + 1..).next() else { return Ok(None) };
                    self.point_at(*next);
                }
            }
        }
    }

    /// A record came to its end and is not handed out again, not even after a crash. Says whether it was waiting.
    ///
    /// Any accepted record can be settled; finding one that was not handed out takes a look through its segment. If the disk refuses, the
    /// settlement is kept in memory and tried again by [`Spool::flush`] and [`Spool::sync`].
    pub fn settle(&mut self, id: u64) -> bool {
        let Some(place) = self.place(id).filter(|_| !self.is_buried(id)) else { return false };
        self.out.remove(&id);
        self.settle_at(id, place);
        true
    }

    /// A record was given up: `letter`, a JSON object in one line, is kept as its dead letter. Says whether it was waiting.
    ///
    /// The letter is durable before the record counts as settled, so a crash in between leaves both, never neither. Both happen at the next
    /// [`Spool::flush`] or [`Spool::sync`], so that many share one sync.
    ///
    /// # Errors
    /// Many wait to be written and cannot be: the record still waits.
    pub fn bury(&mut self, id: u64, letter: &str) -> Result<bool, Failure> {
        let bytes: usize = self.burials.iter().map(|(_, letter)| letter.len()).sum();
        if self.burials.len() >= self.most_burials || bytes >= MOST_BURIAL_BYTES {
            self.write_burials()?;
        }
        // Only now: writing may have moved it.
        let Some(place) = self.place(id).filter(|_| !self.is_buried(id)) else { return Ok(false) };
        self.out.insert(id, place);
        self.burials.push((id, letter.to_owned()));
        Ok(true)
    }

    /// What is in it, without reading.
    pub fn counts(&self) -> Counts {
        let pending = self.burials.len() as u64;
        let waiting: u64 = self.segments.values().map(|segment| segment.waiting).sum();
        Counts {
            waiting: waiting - pending,
            dead: self.dead.count + pending,
            bytes: self.segments.values().map(|segment| segment.size).sum(),
            dead_bytes: self.dead.bytes(),
        }
    }

    /// Whether it has reached its size: nothing should be appended until something is settled.
    pub fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// Bytes until it is full.
    pub fn free(&self) -> u64 {
        self.limits.size.saturating_sub(self.counts().bytes)
    }

    /// Makes waiting records of all dead letters, with new ids and accepted `now`: somebody has asked for them to go again. Says how many.
    /// What was appended before is synced first.
    ///
    /// # Errors
    /// The disk is full or fails; then they are dead letters still. After a crash in between some are both.
    pub fn retry(&mut self, now: Timestamp) -> Result<u64, Failure> {
        self.sync()?;
        self.flush()?;
        let mut moved = Vec::new();
        let result = self.move_dead(now, &mut moved);
        if result.is_err() {
            self.withdraw();
            self.withdrawn = None;
        }
        for id in &moved {
            if result.is_err() && *id <= self.durable {
                self.settle(*id);
            } else {
                self.out.remove(id);
            }
        }
        result.map(|()| moved.len() as u64)
    }

    /// Until it is sure how this ends the new records count as handed out, so that their places are kept up to date.
    fn move_dead(&mut self, now: Timestamp, moved: &mut Vec<u64>) -> Result<(), Failure> {
        let mut lines = dead::Lines::default();
        let dead = std::mem::take(&mut self.dead);
        let mut appended = Ok(());
        while let Some(letter) = dead.read(&mut lines) {
            match self.append_at(dead::record(letter), now) {
                Ok((id, place)) => {
                    moved.push(id);
                    self.out.insert(id, place);
                }
                Err(failure) => {
                    appended = Err(failure);
                    break;
                }
            }
        }
        self.dead = dead;
        appended?;
        self.sync()?;
        if self.dead.damaged {
            // There are lines in it that somebody may want to look at.
            self.move_aside(dead::NAME).map_err(|error| self.dead_failure(&error))?;
            self.dead = DeadLetters::default();
            return Ok(());
        }
        self.dead.clear().map_err(|error| self.dead_failure(&error))?;
        // Not undone: they are records now, and both after a power cut at the worst.
        if let Err(error) = self.dead.sync() {
            self.notices.push(self.dead_failure(&error).message);
        }
        Ok(())
    }

    /// Removes everything that waits and all dead letters. Says what there was. Files that were set aside stay.
    ///
    /// # Errors
    /// The disk fails; some may be left.
    pub fn purge(&mut self) -> Result<Counts, Failure> {
        let counts = self.counts();
        self.withdraw();
        self.burials.clear();
        self.out.clear();
        self.unmarked.clear();
        self.dead.clear().and_then(|()| self.dead.sync()).map_err(|error| self.dead_failure(&error))?;
        self.sync_names()?;
        let last = self.last().0;
        let older: Vec<u64> = self.segments.range(..last).map(|(first, _)| *first).collect();
        // The older ones first: a full disk may have no room for a new one before.
        older.into_iter().try_for_each(|first| self.remove(first))?;
        self.rotate()?;
        if last != self.last().0 {
            self.sync_names()?;
            self.remove(last)?;
        }
        self.sync_settlements()?;
        Ok(counts)
    }

    /// The cursor goes to the beginning of a segment.
    fn point_at(&mut self, first: u64) {
        self.cursor.segment = first;
        self.cursor.scanner = Scanner::new(first, self.below(first));
    }

    /// The last segment, which is appended to.
    fn last(&self) -> (u64, &Segment) {
        let (first, segment) = self.segments.last_key_value().expect("there is always one");
        (*first, segment)
    }

    fn last_mut(&mut self) -> (u64, &mut Segment, &dyn Disk) {
        let last = self.segments.last_entry().expect("there is always one");
        (*last.key(), last.into_mut(), &*self.disk)
    }

    /// The ids of the segment are below this.
    fn below(&self, first: u64) -> u64 {
        self.segments.range(first + 1..).next().map_or(u64::MAX, |(next, _)| *next)
    }

    fn failure(&self, first: u64, error: &io::Error) -> Failure {
        failure(&*self.disk, first, error)
    }

    fn dead_failure(&self, error: &io::Error) -> Failure {
        Failure::failed(format!("{}: {error}", self.disk.show(dead::NAME)))
    }

    fn trouble(&mut self, message: String) {
        if self.trouble.as_ref() != Some(&message) {
            self.notices.push(format!("{message}; nothing is lost, and what was settled is written down later"));
            self.trouble = Some(message);
        }
    }

    /// Cuts off what a failed write left behind.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            let (first, segment, disk) = self.last_mut();
            let size = segment.size;
            segment.open(disk, first)?.set_size(size)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Begins a new segment, unless the last has no record yet; the one before is synced and closed.
    fn rotate(&mut self) -> Result<(), Failure> {
        if self.last().0 == self.next_id {
            return Ok(());
        }
        if let Err(failure) = self.sync_appended() {
            self.withdrawn = Some(failure.clone());
            return Err(failure);
        }
        if self.torn {
            let (first, _) = self.last();
            self.mend().map_err(|error| self.failure(first, &error))?;
        }
        self.begin(self.next_id)
    }

    /// Makes the file empty: even a full disk has room for that.
    fn begin(&mut self, first: u64) -> Result<(), Failure> {
        let file = self.disk.open(&name(first), Access::Fresh).map_err(|error| self.failure(first, &error))?;
        self.names_changed = true;
        self.segments.insert(first, Segment { file: Some(file), ..Segment::new(0) });
        Ok(())
    }

    fn sync_appended(&mut self) -> Result<(), Failure> {
        if self.fresh.count == 0 {
            return Ok(());
        }
        let (first, segment, disk) = self.last_mut();
        let synced = segment.sync(disk, first);
        let synced = match synced {
            Ok(()) => self.sync_names(),
            Err(error) => Err(self.failure(first, &error)),
        };
        if synced.is_ok() {
            self.fresh = Fresh::default();
            self.durable = self.next_id - 1;
        } else {
            self.withdraw();
        }
        synced
    }

    fn sync_names(&mut self) -> Result<(), Failure> {
        if self.names_changed {
            self.disk.sync().map_err(|error| Failure::failed(format!("{}: {error}", self.disk.show(""))))?;
            self.names_changed = false;
        }
        Ok(())
    }

    /// Takes back what was appended since the last sync. The ids are not given again: somebody may have noted them.
    fn withdraw(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh.count > 0 {
            let (_, segment, _) = self.last_mut();
            segment.size -= fresh.bytes;
            segment.live -= fresh.frames;
            segment.waiting -= fresh.count;
            self.torn = true;
            let _ = self.mend();
        }
    }

    /// Makes everything settled survive a power cut.
    fn sync_settlements(&mut self) -> Result<(), Failure> {
        let mut result = self.flush();
        let firsts: Vec<u64> = self.segments.keys().copied().collect();
        for first in firsts {
            let outcome = self.tidy(first).and_then(|()| {
                let Some(segment) = self.segments.get_mut(&first) else { return Ok(()) };
                if !segment.dirty {
                    return Ok(());
                }
                segment.sync(&*self.disk, first).map_err(|error| failure(&*self.disk, first, &error))
            });
            result = result.and(outcome);
        }
        result.and(self.sync_names())
    }

    fn close_files(&mut self) {
        let open = self.segments.values().filter(|segment| segment.file.is_some()).count();
        if open > MOST_OPEN {
            let keep = [self.cursor.segment, self.last().0];
            for (first, segment) in &mut self.segments {
                if !keep.contains(first) {
                    segment.file = None;
                }
            }
        }
    }

    fn is_buried(&self, id: u64) -> bool {
        self.burials.iter().any(|(buried, _)| *buried == id)
    }

    /// Where a waiting record is.
    fn place(&mut self, id: u64) -> Option<Place> {
        if let Some(place) = self.out.get(&id) {
            return Some(*place);
        }
        if id > self.durable || id <= self.cursor.after || self.unmarked.contains_key(&id) {
            return None;
        }
        let (first, segment) = self.segments.range_mut(..=id).next_back()?;
        let (first, size) = (*first, segment.size);
        let file = segment.open(&*self.disk, first).ok()?;
        let mut scanner = Scanner::new(first, u64::MAX);
        let mut place = None;
        while let Some(found) = scanner.next(file, size) {
            if let Found::Record(entry) = found
                && entry.id == id
            {
                place = (!entry.settled).then_some(Place { at: entry.at, size: entry.size });
                break;
            }
        }
        // What the cursor has read ahead will be out of date.
        self.cursor.scanner.forget();
        place
    }

    fn settle_at(&mut self, id: u64, place: Place) {
        let (first, segment) = self.segments.range_mut(..=id).next_back().expect("a record has a segment");
        let first = *first;
        segment.waiting -= 1;
        segment.live -= place.size;
        if let Err((first, error)) = self.mark(id, place) {
            let message = self.failure(first, &error).message;
            self.trouble(message);
        }
        if let Err(failure) = self.tidy(first) {
            self.trouble(failure.message);
        }
    }

    /// Writes the state of a settled record.
    fn mark(&mut self, id: u64, place: Place) -> Result<(), (u64, io::Error)> {
        let (first, segment) = self.segments.range_mut(..=id).next_back().expect("a record has a segment");
        let at = frame::state_of(place.at);
        let written = segment.open(&*self.disk, *first).and_then(|file| write_all_at(file, &frame::SETTLED, at));
        match written {
            Ok(()) => {
                segment.dirty = true;
                segment.marks.push(at);
                Ok(())
            }
            Err(error) => {
                self.unmarked.insert(id, place);
                Err((*first, error))
            }
        }
    }

    fn write_burials(&mut self) -> Result<(), Failure> {
        if self.burials.is_empty() {
            return Ok(());
        }
        self.names_changed |= self.dead.make(&*self.disk).map_err(|error| self.dead_failure(&error))?;
        // Until its name is safe, nothing in it is.
        self.sync_names()?;
        let letters = self.burials.iter().map(|(_, letter)| letter.as_str());
        let written = self.dead.append(letters);
        written.map_err(|error| self.dead_failure(&error))?;
        for (id, _) in std::mem::take(&mut self.burials) {
            let place = self.out.remove(&id).expect("it was put there");
            self.settle_at(id, place);
        }
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Nobody is left to tell; what is not written stays in the spool.
        let _ = self.flush();
    }
}

fn failure(disk: &dyn Disk, first: u64, error: &io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", disk.show(&name(first))))
}

/// A directory that will be no better after a restart is wrong configuration.
fn unusable(path: &str, error: &io::Error) -> Failure {
    let message = format!("{path}: {error}");
    match error.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists
        | ErrorKind::ReadOnlyFilesystem => Failure::usage(message),
        _ => Failure::failed(message),
    }
}
