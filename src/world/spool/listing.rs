//! What is in a spool, for people: read without the lock, beside a run that uses it.

use std::io::ErrorKind;
use std::path::Path;

use super::dead::{self, Lines};
use super::disk::{Access, Disk, RealDisk};
use super::frame::{Found, Scanner};
use super::segment::{first_id, record};
use super::{Record, unusable};
use crate::model::exit::Failure;

/// Calls `each` with one JSON object, without a line break, for every waiting record in the order of ids, and then with every dead letter as it is
/// kept. A waiting record is `{"sink":…,"status":"waiting","accepted":…,"event":{…}}`, which sinks take as input again, as they do dead letters.
///
/// A run may go on using the spool: a record that is given up meanwhile may be seen twice, none is missed.
///
/// # Errors
/// The directory cannot be read, or what `each` says.
pub fn list(dir: &Path, sink: &str, each: impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
    list_on(&RealDisk::at(dir), sink, each)
}

pub(super) fn list_on(
    disk: &dyn Disk,
    sink: &str,
    mut each: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let sink = crate::model::json::quote(sink);
    // The records before the dead letters: one that moves from here to there meanwhile is seen twice, and not never.
    each_waiting(disk, |record| {
        let (accepted, event) = (record.accepted.rfc3339(), record.text.trim());
        each(&format!(r#"{{"sink":{sink},"status":"waiting","accepted":"{accepted}","event":{event}}}"#))
    })?;
    let opened = disk.open(dead::NAME, Access::Read).and_then(|file| Ok((file.size()?, file)));
    let (size, file) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(&disk.show(dead::NAME), &error)),
    };
    let mut lines = Lines::default();
    while let Some(letter) = dead::read(&*file, &mut lines, size) {
        each(letter)?;
    }
    Ok(())
}

/// Calls `each` with every waiting record, in the order of ids.
///
/// # Errors
/// The directory cannot be read, or what `each` says.
pub(super) fn each_waiting(
    disk: &dyn Disk,
    mut each: impl FnMut(Record) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let names = disk.names().map_err(|error| unusable(&disk.show(""), &error))?;
    let mut segments: Vec<(u64, &String)> = names.iter().filter_map(|name| Some((first_id(name)?, name))).collect();
    segments.sort_unstable();
    for (first, name) in segments {
        let opened = disk.open(name, Access::Read).and_then(|file| Ok((file.size()?, file)));
        let (size, file) = match opened {
            Ok(opened) => opened,
            // Settled since we looked.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(unusable(&disk.show(name), &error)),
        };
        let mut scanner = Scanner::new(first, u64::MAX);
        while let Some(found) = scanner.next(&*file, size) {
            match found {
                Found::Record(entry) if !entry.settled => {
                    each(record(&entry))?;
                }
                // The end of what is being written, or damage, which the next run tells of.
                _ => {}
            }
        }
    }
    Ok(())
}
