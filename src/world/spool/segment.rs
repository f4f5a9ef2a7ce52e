//! A segment: its file, what is known of it, and how it is written anew without what is settled.

use std::io;
use std::ops::Range;

use super::Record;
use super::disk::{Access, Disk, DiskFile, write_all_at};
use super::frame::{self, Entry, Found, Scanner};
use crate::model::time::Timestamp;

const RECORDS: &str = ".records";
/// What is appended to a segment's name for the one that will replace it when little in it waits.
pub const COMPACT: &str = ".compact";
/// And when it is damaged.
pub const SALVAGED: &str = ".salvaged";

/// Where a record's frame is in its segment.
#[derive(Clone, Copy)]
pub struct Place {
    pub at: u64,
    pub size: u64,
}

/// A file of frames, as far as the spool knows it.
pub struct Segment {
    pub file: Option<Box<dyn DiskFile>>,
    pub size: u64,
    /// Bytes of frames that wait.
    pub live: u64,
    pub waiting: u64,
    /// Bytes were changed since the last sync.
    pub dirty: bool,
    /// A sync failed, after which the system takes what was written for synced.
    pub suspect: bool,
    /// Where states were written since the last sync, to be written again after one that failed.
    pub marks: Vec<u64>,
    /// Damage was found and is still in it.
    pub damaged: bool,
    /// It is not rewritten unless less than so many bytes wait.
    pub compact_below: u64,
}

impl Segment {
    /// One of so many bytes of which nothing is known yet.
    pub fn new(size: u64) -> Segment {
        Segment {
            file: None,
            size,
            live: 0,
            waiting: 0,
            dirty: false,
            suspect: false,
            marks: Vec::new(),
            damaged: false,
            compact_below: u64::MAX,
        }
    }

    /// Its file, opened if it is not.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(&mut self, disk: &dyn Disk, first: u64) -> io::Result<&dyn DiskFile> {
        match &mut self.file {
            Some(file) => Ok(&**file),
            none => Ok(&**none.insert(disk.open(&name(first), Access::Change)?)),
        }
    }

    /// Makes its bytes survive a power cut. After one that failed the settlements of that time are written again first.
    ///
    /// # Errors
    /// The disk's; what was written since the last success may be lost.
    pub fn sync(&mut self, disk: &dyn Disk, first: u64) -> io::Result<()> {
        let rewrite = std::mem::take(&mut self.suspect);
        let marks = std::mem::take(&mut self.marks);
        let again = if rewrite { &marks[..] } else { &[] };
        let result = self.open(disk, first).and_then(|file| {
            again.iter().try_for_each(|at| write_all_at(file, &frame::SETTLED, *at))?;
            file.sync()
        });
        (self.suspect, self.dirty) = (result.is_err(), result.is_err());
        if result.is_err() {
            self.marks = marks;
        }
        result
    }
}

/// The name of the segment that begins with this id.
pub fn name(first: u64) -> String {
    format!("{first:020}{RECORDS}")
}

/// The first id of the segment of this name; `None` if it is no segment's.
pub fn first_id(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(RECORDS).filter(|digits| digits.len() == 20)?;
    let id: u64 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    // Not one from which counting on would overflow.
    (id < 1 << 63).then_some(id)
}

/// What a segment became when only what is to be kept was written anew.
pub struct Rewritten {
    /// The new file.
    pub file: Box<dyn DiskFile>,
    /// Its size in bytes.
    pub size: u64,
    /// Where the records are now.
    pub places: Vec<(u64, Place)>,
    /// Not everything in the old one could be read.
    pub damaged: bool,
}

/// Writes what waits in a segment, and is to be kept, into a new file and syncs it.
///
/// # Errors
/// The disk's; the new file is there, half-written.
pub fn rewrite(
    disk: &dyn Disk,
    to: &str,
    from: &dyn DiskFile,
    size: u64,
    ids: Range<u64>,
    keep: impl Fn(&Entry<'_>) -> bool,
) -> io::Result<Rewritten> {
    let file = disk.open(to, Access::Fresh)?;
    let mut rewritten = Rewritten { file, size: 0, places: Vec::new(), damaged: false };
    let mut scanner = Scanner::new(ids.start, ids.end);
    let mut bytes = frame::HEADER.to_vec();
    while let Some(found) = scanner.next(from, size) {
        match found {
            Found::Record(entry) if !entry.settled && keep(&entry) => {
                let place = Place { at: rewritten.size + bytes.len() as u64, size: entry.size };
                rewritten.places.push((entry.id, place));
                let length = u32::try_from(entry.text.len()).expect("it was read from a frame");
                frame::encode(&mut bytes, entry.id, entry.accepted, entry.text, length);
                if bytes.len() >= 64 << 10 {
                    write_all_at(&*rewritten.file, &bytes, rewritten.size)?;
                    rewritten.size += bytes.len() as u64;
                    bytes.clear();
                }
            }
            Found::Record(_) => {}
            Found::Damage(_) | Found::Tail(_) => rewritten.damaged = true,
        }
    }
    write_all_at(&*rewritten.file, &bytes, rewritten.size)?;
    rewritten.size += bytes.len() as u64;
    rewritten.file.sync()?;
    Ok(rewritten)
}

/// The record as a caller gets it.
pub fn record(entry: &Entry<'_>) -> Record {
    let start = || Timestamp::from_millis(0).expect("1970 is in the calendar");
    Record {
        id: entry.id,
        accepted: Timestamp::from_millis(entry.accepted).unwrap_or_else(start),
        text: String::from_utf8_lossy(entry.text).into_owned(),
    }
}
