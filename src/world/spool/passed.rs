//! How far the lines of accepted records have come: after a crash those that may not have been passed on are found again.

use super::Record;
use super::Spool;
use super::disk::{Access, write_all_at};
use super::listing::each_waiting;
use crate::model::exit::Failure;

/// Eight bytes that are written over, so that noting takes no room on a full disk.
const NAME: &str = "passed";

impl Spool {
    /// The highest id that was noted as passed on; 0 if none ever was, or the note cannot be read.
    pub fn passed(&self) -> u64 {
        let mut bytes = [0; 8];
        let read = self.disk.open(NAME, Access::Read).and_then(|file| file.read_at(&mut bytes, 0));
        if read.is_ok_and(|count| count == bytes.len()) { u64::from_le_bytes(bytes) } else { 0 }
    }

    /// Notes that every record up to this id was passed on. It survives the death of the process; after a power cut an older note may be there, and a
    /// note that the disk refuses is not missed: both mean that lines are passed on once more.
    pub fn note_passed(&mut self, id: u64) {
        if self.passed_note.is_none() {
            self.passed_note = self.disk.open(NAME, Access::Make).ok();
        }
        if let Some(note) = &self.passed_note {
            let _ = write_all_at(&**note, &id.to_le_bytes(), 0);
        }
    }

    /// Calls `each` with every waiting record above this id, in order; [`Spool::hand_out`] is not affected.
    ///
    /// # Errors
    /// The disk fails.
    pub fn replay(&self, after: u64, mut each: impl FnMut(Record)) -> Result<(), Failure> {
        each_waiting(&*self.disk, |record| {
            if record.id > after {
                each(record);
            }
            Ok(())
        })
    }
}
