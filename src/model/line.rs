//! Cuts bytes into lines, with a limit on their length and a rule for the unfinished last one; and collects lines to be written.

/// The longest line a program takes unless told otherwise, in bytes.
pub const MAX_LINE: u64 = 16 << 20;

/// So much room is made for every read, in bytes: a pipe's capacity on Linux.
const READ_SIZE: usize = 64 << 10;

/// A line without its ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'b> {
    /// Its number in the input, from 1; blank lines count.
    pub number: u64,
    /// Its bytes, without `\n` or `\r\n`.
    pub bytes: &'b [u8],
    /// Its bytes as they came, but for `\n`.
    pub raw: &'b [u8],
}

/// What the buffer has to offer.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut<'b> {
    /// A line within the limit.
    Line(Line<'b>),
    /// A piece of a line beyond the limit, line ending excluded. The line's pieces come one after the other; `first` and `last` mark the ends.
    TooLong { number: u64, piece: &'b [u8], first: bool, last: bool },
}

/// Bytes read and not yet cut.
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// The bytes before this are used up.
    start: usize,
    /// The bytes before this hold no `\n` after `start`.
    scanned: usize,
    /// The bytes from here on are free.
    end: usize,
    limit: usize,
    number: u64,
    inside_too_long: bool,
    finished: bool,
}

impl LineBuffer {
    /// A buffer for lines of up to `limit` bytes.
    pub fn new(limit: u64) -> LineBuffer {
        LineBuffer {
            bytes: Vec::new(),
            start: 0,
            scanned: 0,
            end: 0,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            number: 0,
            inside_too_long: false,
            finished: false,
        }
    }

    /// Room for the next read. Moves what is left to the front and grows only for a line longer than any before it.
    pub fn room(&mut self) -> &mut [u8] {
        let left = self.end - self.start;
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.scanned -= self.start;
            (self.start, self.end) = (0, left);
        }
        if self.bytes.len() - self.end < READ_SIZE {
            // Doubling keeps the copying of a very long line linear.
            self.bytes.resize((self.end + READ_SIZE).max(self.bytes.len() * 2).max(READ_SIZE), 0);
        } else if left < READ_SIZE && self.bytes.len() > 64 * READ_SIZE {
            self.bytes.truncate(left + READ_SIZE);
            self.bytes.shrink_to_fit();
        }
        &mut self.bytes[self.end..]
    }

    /// Says that a read put `count` bytes into the room.
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        if self.number == 0 && self.end - self.start >= 3 && self.bytes[self.start..].starts_with(b"\xef\xbb\xbf") {
            self.start += 3;
            self.scanned = self.scanned.max(self.start);
        }
    }

    /// Says that no more bytes come: what is left is the unfinished last line.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The next line, or `None` until more bytes are read.
    #[allow(clippy::should_implement_trait, reason = "it lends from the buffer, which an Iterator cannot")]
    pub fn next(&mut self) -> Option<Cut<'_>> {
        match memchr::memchr(b'\n', &self.bytes[self.scanned..self.end]) {
            Some(offset) => {
                let (from, to) = (self.start, self.scanned + offset);
                self.start = to + 1;
                self.scanned = self.start;
                Some(self.cut(from, to, true))
            }
            None if self.finished => {
                let (from, to) = (self.start, self.end);
                (self.start, self.scanned) = (self.end, self.end);
                (from < to || self.inside_too_long).then(|| self.cut(from, to, true))
            }
            None if self.end - self.start > self.limit.saturating_add(1)
                || (self.inside_too_long && self.end > self.start) =>
            {
                let (from, to) = (self.start, self.end);
                (self.start, self.scanned) = (self.end, self.end);
                Some(self.cut(from, to, false))
            }
            None => {
                self.scanned = self.end;
                None
            }
        }
    }

    fn cut(&mut self, from: usize, to: usize, complete: bool) -> Cut<'_> {
        let first = !self.inside_too_long;
        if first {
            self.number += 1;
        }
        let whole = &self.bytes[from..to];
        let bytes = if complete { whole.strip_suffix(b"\r").unwrap_or(whole) } else { whole };
        if first && complete && bytes.len() <= self.limit {
            return Cut::Line(Line { number: self.number, bytes, raw: whole });
        }
        self.inside_too_long = !complete;
        Cut::TooLong { number: self.number, piece: whole, first, last: complete }
    }
}

/// Lines on their way out. A stage adds whole lines; the pump writes them.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    written: usize,
    count: u64,
}

impl Lines {
    /// Adds one line and its ending.
    pub fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.count += 1;
    }

    /// Adds one line made of pieces, and its ending.
    pub fn push_pieces(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        self.bytes.push(b'\n');
        self.count += 1;
    }

    /// Adds the lines of another, which is empty afterwards and keeps its room.
    pub fn append(&mut self, other: &mut Lines) {
        self.bytes.extend_from_slice(other.pending());
        self.count += other.count;
        other.discard();
    }

    /// Forgets everything, the count too.
    pub fn discard(&mut self) {
        self.bytes.clear();
        (self.written, self.count) = (0, 0);
    }

    /// How many lines were ever added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many lines still have to be written, one written in part included.
    pub fn pending_count(&self) -> u64 {
        memchr::memchr_iter(b'\n', self.pending()).count() as u64
    }

    /// The bytes that still have to be written.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// What goes into one write: as many whole lines as fit into `limit` bytes, or a longer line alone. Empty if nothing is pending.
    pub fn next_write(&self, limit: usize) -> &[u8] {
        let pending = self.pending();
        if pending.len() <= limit {
            return pending;
        }
        let last = memchr::memrchr(b'\n', &pending[..limit]);
        let end = last.or_else(|| memchr::memchr(b'\n', &pending[limit..]).map(|offset| limit + offset));
        end.map_or(pending, |end| &pending[..=end])
    }

    /// Says that the first `count` pending bytes are written.
    pub fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.written >= self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
            // A burst's memory is given back once it has passed.
            self.bytes.shrink_to(4 * READ_SIZE);
        } else if self.written >= 16 * READ_SIZE && self.written * 2 >= self.bytes.len() {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// Everything as text, for tests.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.pending()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in steps of `step` bytes and tells what came out, one string a cut.
    fn cut_all(input: &[u8], limit: u64, step: usize) -> Vec<String> {
        let mut buffer = LineBuffer::new(limit);
        let mut cuts = Vec::new();
        for chunk in input.chunks(step) {
            buffer.room()[..chunk.len()].copy_from_slice(chunk);
            buffer.filled(chunk.len());
            drain(&mut buffer, &mut cuts);
        }
        buffer.finish();
        drain(&mut buffer, &mut cuts);
        cuts
    }

    fn drain(buffer: &mut LineBuffer, cuts: &mut Vec<String>) {
        while let Some(cut) = buffer.next() {
            match cut {
                Cut::Line(line) => cuts.push(format!("{}:{}", line.number, String::from_utf8_lossy(line.bytes))),
                Cut::TooLong { number, piece, first, .. } if first => {
                    cuts.push(format!("{number}!{}", String::from_utf8_lossy(piece)));
                }
                Cut::TooLong { piece, .. } => {
                    let joined = cuts.last_mut().expect("a later piece follows a first one");
                    joined.push_str(&String::from_utf8_lossy(piece));
                }
            }
        }
    }

    #[test]
    fn the_same_lines_whatever_the_size_of_the_reads() {
        let cases: [(&[u8], &[&str]); 7] = [
            (b"a\nb\n", &["1:a", "2:b"]),
            (b"a\r\n\r\nb", &["1:a", "2:", "3:b"]),
            (b"\xef\xbb\xbfa\nb", &["1:a", "2:b"]),
            (b"", &[]),
            (b"\n\n", &["1:", "2:"]),
            (b"12345678\n123456789\n1\n", &["1:12345678", "2!123456789", "3:1"]),
            (b"x\n123456789012345678901234567890", &["1:x", "2!123456789012345678901234567890"]),
        ];
        for (input, expected) in cases {
            for step in [1, 2, 3, 7, 1000] {
                assert_eq!(cut_all(input, 8, step), expected, "{input:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn a_write_ends_where_a_line_ends() {
        let mut lines = Lines::default();
        for line in ["ab", "cd", "a longer one", "e"] {
            lines.push(line.as_bytes());
        }
        let mut writes = Vec::new();
        while !lines.pending().is_empty() {
            let write = lines.next_write(7).to_vec();
            lines.wrote(write.len());
            writes.push(String::from_utf8(write).expect("it is text"));
        }
        assert_eq!(writes, ["ab\ncd\n", "a longer one\n", "e\n"]);
    }

    #[test]
    fn lines_remember_what_is_not_yet_written() {
        let mut lines = Lines::default();
        lines.push(b"one");
        lines.push_pieces(&[b"t", b"wo"]);
        lines.wrote(2);
        assert_eq!(lines.pending(), b"e\ntwo\n");
        lines.wrote(6);
        assert!(lines.pending().is_empty());
        assert_eq!(lines.count(), 2);
    }
}
