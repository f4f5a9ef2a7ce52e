//! The dead letters of a spool: `dead.ndjson`, one line each.

use std::io;

use super::disk::{Access, Disk, DiskFile, write_all_at};
use crate::model::event::Event;
use crate::model::json;

/// Its name.
pub const NAME: &str = "dead.ndjson";
/// So much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// The file, once there is one.
#[derive(Default)]
pub struct DeadLetters {
    file: Option<Box<dyn DiskFile>>,
    /// Everything before is written and whole.
    end: u64,
    /// A failed attempt may have left something behind the end.
    torn: bool,
    /// How many there are.
    pub count: u64,
    /// Some lines are not JSON objects and could not be set aside.
    pub damaged: bool,
}

/// What was found in the file.
pub struct Survey {
    /// Lines that are dead letters.
    pub good: u64,
    /// Lines that are nothing.
    pub bad: u64,
}

impl DeadLetters {
    /// Opens the file if it is there, and looks at every line; a last one that was not finished is finished or cut off.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(disk: &dyn Disk, exists: bool) -> io::Result<(DeadLetters, Survey)> {
        let mut survey = Survey { good: 0, bad: 0 };
        if !exists {
            return Ok((DeadLetters::default(), survey));
        }
        let file = disk.open(NAME, Access::Change)?;
        let size = file.size()?;
        let mut lines = Lines::default();
        let (mut end, mut torn) = (0, false);
        while let Some(line) = lines.next(&*file, size) {
            let good = is_letter(line.text);
            match (line.whole, good) {
                (true, true) => survey.good += 1,
                (true, false) if line.text.trim_ascii().is_empty() => {}
                (true, false) => survey.bad += 1,
                // Somebody's editor left the line break out.
                (false, true) if write_all_at(&*file, b"\n", size).is_ok() => {
                    survey.good += 1;
                    end = size + 1;
                    break;
                }
                // Torn while it was written: its record still waits.
                (false, _) => {
                    torn = file.set_size(end).is_err();
                    break;
                }
            }
            end = lines.at;
        }
        let (count, damaged) = (survey.good, survey.bad > 0);
        Ok((DeadLetters { file: Some(file), end, torn, count, damaged }, survey))
    }

    /// Opens the file, made if it is not there. Says whether it was, so that the directory is to be synced.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(&mut self, disk: &dyn Disk) -> io::Result<bool> {
        let missing = self.file.is_none();
        if missing {
            self.file = Some(disk.open(NAME, Access::Make)?);
        }
        Ok(missing)
    }

    /// Appends lines and makes them durable, all or none; [`DeadLetters::make`] comes first.
    ///
    /// # Errors
    /// The disk's; then the file is as it was.
    pub fn append<'l>(&mut self, letters: impl ExactSizeIterator<Item = &'l str>) -> io::Result<()> {
        let count = letters.len() as u64;
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let mut bytes = Vec::new();
        for letter in letters {
            bytes.extend_from_slice(letter.trim_ascii().as_bytes());
            bytes.push(b'\n');
        }
        if self.torn {
            file.set_size(self.end)?;
            self.torn = false;
        }
        let written = write_all_at(&**file, &bytes, self.end).and_then(|()| file.sync());
        if let Err(error) = written {
            self.torn = file.set_size(self.end).is_err();
            return Err(error);
        }
        self.end += bytes.len() as u64;
        self.count += count;
        Ok(())
    }

    /// Reads one after the other; `None` at the end.
    pub fn read<'l>(&self, lines: &'l mut Lines) -> Option<&'l str> {
        read(&**self.file.as_ref()?, lines, self.end)
    }

    /// Removes them all, until [`DeadLetters::sync`] only for as long as the power lasts.
    ///
    /// # Errors
    /// They are still there.
    pub fn clear(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.set_size(0)?;
            (self.end, self.count) = (0, 0);
        }
        Ok(())
    }

    /// Makes that survive a power cut.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.end
    }
}

/// The next dead letter of a file of so many bytes; lines that are none are passed over.
pub fn read<'l>(file: &dyn DiskFile, lines: &'l mut Lines, end: u64) -> Option<&'l str> {
    loop {
        let line = lines.next(file, end)?;
        if line.whole && is_letter(line.text) {
            break;
        }
    }
    std::str::from_utf8(lines.line()).ok()
}

/// The record a dead letter speaks of; the line itself, if it is another kind of record.
pub fn record(letter: &str) -> &str {
    let (mut sink, mut event) = (false, None);
    let read = json::select(
        letter,
        |key| key == "sink" || key == "event",
        |key, raw| match key {
            "sink" => sink = json::string(raw).is_some(),
            _ => event = Some(raw).filter(|raw| raw.starts_with('{')),
        },
    );
    event.filter(|_| read.is_ok() && sink).unwrap_or(letter)
}

fn is_letter(line: &[u8]) -> bool {
    Event::parse(line).is_ok()
}

/// Reads a file line by line, a chunk at a time.
#[derive(Default)]
pub struct Lines {
    /// Where the next line begins.
    at: u64,
    chunk: Vec<u8>,
    /// The line that was read last, in the chunk.
    from: usize,
    to: usize,
    /// Where the next one begins there.
    next: usize,
}

struct Line<'c> {
    text: &'c [u8],
    whole: bool,
}

impl Lines {
    fn next(&mut self, file: &dyn DiskFile, end: u64) -> Option<Line<'_>> {
        let mut searched = self.next;
        loop {
            if let Some(offset) = memchr::memchr(b'\n', &self.chunk[searched..]) {
                (self.from, self.to) = (self.next, searched + offset);
                self.next = self.to + 1;
                self.at += (self.next - self.from) as u64;
                return Some(Line { text: &self.chunk[self.from..self.to], whole: true });
            }
            self.chunk.drain(..self.next);
            self.next = 0;
            searched = self.chunk.len();
            let from = self.at + searched as u64;
            let room = usize::try_from(end.saturating_sub(from)).map_or(CHUNK, |rest| rest.min(CHUNK));
            self.chunk.resize(searched + room, 0);
            let count = loop {
                match file.read_at(&mut self.chunk[searched..], from) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // What cannot be read is lines that are nothing.
                    Err(_) => break room,
                    Ok(count) => break count,
                }
            };
            self.chunk.truncate(searched + count);
            if count == 0 {
                (self.from, self.to) = (0, searched);
                self.next = searched;
                self.at += searched as u64;
                return (searched > 0).then(|| Line { text: &self.chunk[..searched], whole: false });
            }
        }
    }

    fn line(&self) -> &[u8] {
        &self.chunk[self.from..self.to]
    }
}
