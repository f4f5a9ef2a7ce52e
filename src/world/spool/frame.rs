//! How a record lies in a segment, and how what is readable is found again in a damaged one. Hides crc32fast.
//!
//! A segment is [`HEADER`] and frames one after the other. A frame, all numbers little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | a marker, whose first byte is in no UTF-8 text, so that no record can look like a frame |
//! | 4 | `wait`, or `done` once the record is settled; written over in place, not in the checksum |
//! | 4 | CRC-32 of the rest |
//! | 4 | length of the record in bytes |
//! | 8 | id |
//! | 8 | when it was accepted, milliseconds since 1970 |
//! | n | the record, and zeros up to the next multiple of 8 |
//!
//! Frames begin at multiples of 8, so the state never straddles two sectors: a power cut leaves the old one or the new one.

use super::disk::DiskFile;

/// What every segment begins with.
pub const HEADER: [u8; 16] = *b"tutum spool v1\r\n";
/// What segments of every version begin with.
pub const FAMILY: &[u8] = b"tutum spool v";
/// The state of a settled record.
pub const SETTLED: [u8; 4] = *b"done";
const WAITING: [u8; 4] = *b"wait";
const MARKER: [u8; 4] = *b"\xf5rec";
/// Bytes of a frame before the record.
pub const HEAD: usize = 32;
/// So much is read at once.
const CHUNK: usize = 64 << 10;
/// What a disk fails to read as a whole.
const PAGE: u64 = 4096;

/// What a record of so many bytes takes in a segment.
pub fn frame_size(length: usize) -> u64 {
    (HEAD + length).next_multiple_of(8) as u64
}

/// Where the state of the frame at `at` is.
pub fn state_of(at: u64) -> u64 {
    at + MARKER.len() as u64
}

/// Appends the frame of a waiting record; `length` is the text's.
pub fn encode(frame: &mut Vec<u8>, id: u64, accepted: i64, text: &[u8], length: u32) {
    let start = frame.len();
    frame.extend_from_slice(&MARKER);
    frame.extend_from_slice(&WAITING);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&id.to_le_bytes());
    frame.extend_from_slice(&accepted.to_le_bytes());
    frame.extend_from_slice(text);
    let crc = crc32fast::hash(&frame[start + 12..]);
    frame[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
    frame.resize(start + (HEAD + text.len()).next_multiple_of(8), 0);
}

/// Whether so many bytes at the end of a segment, which begin with `head`, are what a write that was cut short leaves: the beginning of a frame, or
/// zeros. `whole` says that there is nothing before them, not even a header.
pub fn is_torn(head: &[u8], room: u64, whole: bool) -> bool {
    let begun = |begin: &[u8]| head.len() < begin.len() && begin.starts_with(head);
    if head.iter().all(|byte| *byte == 0) || (whole && begun(&HEADER)) || (!whole && begun(&MARKER)) {
        return true;
    }
    let length = head.get(12..16).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    !whole && head.starts_with(&MARKER) && length.is_none_or(|length| frame_size(length as usize) > room)
}

/// A record in a segment.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'s> {
    /// Its id.
    pub id: u64,
    /// When it was accepted, milliseconds since 1970.
    pub accepted: i64,
    /// Whether it is settled.
    pub settled: bool,
    /// Where its frame begins.
    pub at: u64,
    /// What the frame takes.
    pub size: u64,
    /// The record.
    pub text: &'s [u8],
}

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'s> {
    /// A record.
    Record(Entry<'s>),
    /// So many bytes that are no frame, and then one.
    Damage(u64),
    /// From here to the end is no frame.
    Tail(u64),
}

/// Reads a segment from its beginning, a chunk at a time.
pub struct Scanner {
    at: u64,
    /// Ids are in this range, and grow; anything else is not a frame of ours.
    least: u64,
    below: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl Scanner {
    /// For a segment whose ids are at least `least` and below `below`.
    pub fn new(least: u64, below: u64) -> Scanner {
        Scanner { at: 0, least, below, chunk: Vec::new(), chunk_at: 0 }
    }

    /// What was read ahead may have changed on disk.
    pub fn forget(&mut self) {
        self.chunk.clear();
    }

    /// What comes next before `end`; `None` at the end, and something again once the end is further off.
    ///
    /// What the disk fails to read counts as damage, so that one bad sector does not hold back the records around it.
    pub fn next(&mut self, file: &dyn DiskFile, end: u64) -> Option<Found<'_>> {
        if self.at == 0 && end >= HEADER.len() as u64 && self.bytes(file, 0, HEADER.len(), end) == HEADER {
            self.at = HEADER.len() as u64;
        }
        if self.at >= end {
            return None;
        }
        let from = self.at;
        if let Some((id, accepted, settled, length)) = self.check(file, from, end) {
            let size = frame_size(length);
            self.at += size;
            self.least = id + 1;
            let text = &self.bytes(file, from, HEAD + length, end)[HEAD..];
            return Some(Found::Record(Entry { id, accepted, settled, at: from, size, text }));
        }
        match self.seek(file, from + 1, end) {
            Some(at) => {
                self.at = at;
                Some(Found::Damage(at - from))
            }
            None => {
                self.at = end;
                Some(Found::Tail(from))
            }
        }
    }

    /// The frame at `at`, if there is a whole and sound one: id, acceptance, settled, length.
    fn check(&mut self, file: &dyn DiskFile, at: u64, end: u64) -> Option<(u64, i64, bool, usize)> {
        let room = end - at;
        if room < HEAD as u64 {
            return None;
        }
        let head: [u8; HEAD] = self.bytes(file, at, HEAD, end).try_into().expect("it is as long as asked for");
        if head[..4] != MARKER {
            return None;
        }
        let number = |from: usize| u32::from_le_bytes(head[from..from + 4].try_into().expect("four bytes"));
        let (crc, length) = (number(8), number(12) as usize);
        let id = u64::from_le_bytes(head[16..24].try_into().expect("eight bytes"));
        let accepted = i64::from_le_bytes(head[24..32].try_into().expect("eight bytes"));
        if frame_size(length) > room || id < self.least || id >= self.below {
            return None;
        }
        // With its padding, or the next frame would be written at the wrong place.
        let frame = self.bytes(file, at, usize::try_from(frame_size(length)).ok()?, end);
        (crc32fast::hash(&frame[12..HEAD + length]) == crc).then_some((id, accepted, head[4..8] == SETTLED, length))
    }

    /// Where the next sound frame begins.
    fn seek(&mut self, file: &dyn DiskFile, mut at: u64, end: u64) -> Option<u64> {
        while at + HEAD as u64 <= end {
            let ahead = (self.chunk_at + self.chunk.len() as u64).checked_sub(at).filter(|ahead| *ahead > 0);
            // The rest of what was read already, or every false marker would cost a read.
            let length = ahead.filter(|_| self.chunk_at <= at).unwrap_or(CHUNK as u64).min(end - at);
            let length = usize::try_from(length).expect("a chunk is in memory");
            let chunk = self.bytes(file, at, length, end);
            match memchr::memchr(MARKER[0], chunk) {
                None => at += length as u64,
                Some(offset) => {
                    at += offset as u64;
                    if end - at >= HEAD as u64 && self.check(file, at, end).is_some() {
                        return Some(at);
                    }
                    at += 1;
                }
            }
        }
        None
    }

    /// Exactly these bytes, which must lie before `end`; zeros for what cannot be read.
    fn bytes(&mut self, file: &dyn DiskFile, at: u64, length: usize, end: u64) -> &[u8] {
        let held = self.chunk_at..self.chunk_at + self.chunk.len() as u64;
        if !held.contains(&at) || held.end - at < length as u64 {
            let wanted = usize::try_from(end - at).map_or(length, |rest| rest.min(CHUNK.max(length)));
            if self.chunk.capacity() > 4 * CHUNK.max(wanted) {
                // One huge record is no reason to keep its room.
                self.chunk = Vec::new();
            }
            self.chunk.clear();
            self.chunk.resize(wanted, 0);
            self.chunk_at = at;
            fill(file, &mut self.chunk, at);
        }
        let from = usize::try_from(at - self.chunk_at).expect("it is inside a chunk");
        &self.chunk[from..from + length]
    }
}

/// Reads into `room`, which is zeros; pages that cannot be read stay so.
fn fill(file: &dyn DiskFile, room: &mut [u8], at: u64) {
    let mut done = 0;
    // After an error page by page, to get at the good ones.
    let mut most = room.len();
    while done < room.len() {
        let here = at + done as u64;
        let until_page = usize::try_from(PAGE - here % PAGE).expect("a page is small");
        let most_now = if most < room.len() { until_page } else { most }.min(room.len() - done);
        match file.read_at(&mut room[done..done + most_now], here) {
            Ok(0) => return,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) if most == room.len() && room.len() > until_page => most = 0,
            Err(_) => done += most_now,
        }
    }
}
