//! What waits for the reader, and what may be let go of when it is too slow: events, the oldest first, never a record about the connection.

use std::collections::VecDeque;

use crate::model::line::Lines;

/// The most that is kept together, in bytes. What is handed to the output is out of reach, so it is not much more than a pipe holds.
const MAX_RUN: usize = 64 << 10;

/// Lines on their way out, in order.
pub struct Buffer {
    /// What the output is given next; a line in here may be written in part, so none is let go of.
    front: Lines,
    /// What comes after it. Always empty where nothing is ever let go of.
    runs: VecDeque<Run>,
    /// The bytes in `runs`.
    behind: usize,
    /// Lines of one kind are kept together up to so many bytes; `None`: nothing is ever let go of.
    run: Option<usize>,
    added: u64,
    dropped: u64,
}

enum Run {
    /// May be let go of.
    Events(Lines),
    /// Never is.
    Kept(Lines),
    /// So many events stood here.
    Gap(u64),
}

/// What the output is to be given next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing waits.
    Nothing,
    /// More lines are in front.
    Lines,
    /// So many events were let go of here; whoever wants to tell does so with [`Buffer::push_front`].
    Gap(u64),
}

impl Buffer {
    /// An empty one. Only if it `drops` can anything be let go of; it is then to hold about `limit` bytes.
    pub fn new(drops: bool, limit: usize) -> Buffer {
        let run = drops.then(|| (limit / 8).min(MAX_RUN));
        Buffer { front: Lines::default(), runs: VecDeque::new(), behind: 0, run, added: 0, dropped: 0 }
    }

    /// Adds a line.
    pub fn push(&mut self, line: &[u8], is_event: bool) {
        self.added += 1;
        let Some(run) = self.run else { return self.front.push(line) };
        self.behind += line.len() + 1;
        let room = |lines: &Lines| lines.pending().len() + line.len() < run;
        match self.runs.back_mut() {
            Some(Run::Events(lines)) if is_event && room(lines) => lines.push(line),
            Some(Run::Kept(lines)) if !is_event && room(lines) => lines.push(line),
            _ => {
                let mut lines = Lines::default();
                lines.push(line);
                self.runs.push_back(if is_event { Run::Events(lines) } else { Run::Kept(lines) });
            }
        }
    }

    /// Adds a line before everything that is not in front yet.
    pub fn push_front(&mut self, line: &[u8]) {
        self.added += 1;
        self.front.push(line);
    }

    /// What the output is to be given.
    pub fn front(&mut self) -> &mut Lines {
        &mut self.front
    }

    /// Once everything in front is written: puts there what comes next.
    pub fn advance(&mut self) -> Next {
        match self.runs.pop_front() {
            None => Next::Nothing,
            Some(Run::Gap(dropped)) => Next::Gap(dropped),
            Some(Run::Events(lines) | Run::Kept(lines)) => {
                self.behind -= lines.pending().len();
                self.front = lines;
                Next::Lines
            }
        }
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.front.pending().len() + self.behind
    }

    /// Whether nothing waits, gaps that were not told included.
    pub fn is_empty(&self) -> bool {
        self.front.pending().is_empty() && self.runs.is_empty()
    }

    /// Lets the oldest events go until no more than `limit` bytes wait or no event is left; says how many went.
    pub fn shed(&mut self, limit: usize) -> u64 {
        let before = self.dropped;
        while self.len() > limit {
            let Some(index) = self.runs.iter().position(|run| matches!(run, Run::Events(_))) else { break };
            let excess = self.len() - limit;
            let Some(Run::Events(lines)) = self.runs.get_mut(index) else { break };
            let (mut bytes, mut count) = (0, 0);
            for end in memchr::memchr_iter(b'\n', lines.pending()) {
                (bytes, count) = (end + 1, count + 1);
                if bytes >= excess {
                    break;
                }
            }
            lines.wrote(bytes);
            let emptied = lines.pending().is_empty();
            self.behind -= bytes;
            self.dropped += count;
            if emptied {
                self.runs.remove(index);
            }
            match index.checked_sub(1).and_then(|before| self.runs.get_mut(before)) {
                Some(Run::Gap(dropped)) => *dropped += count,
                _ => self.runs.insert(index, Run::Gap(count)),
            }
        }
        self.dropped - before
    }

    /// How many lines were ever added and not let go of.
    pub fn count(&self) -> u64 {
        self.added - self.dropped
    }

    /// How many events were let go of.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many lines wait, one written in part included.
    pub fn waiting(&self) -> u64 {
        let lines = self.runs.iter().filter_map(|run| match run {
            Run::Events(lines) | Run::Kept(lines) => Some(lines),
            Run::Gap(_) => None,
        });
        lines.chain([&self.front]).map(|lines| memchr::memchr_iter(b'\n', lines.pending()).count() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that would be written, line by line.
    fn all(buffer: &mut Buffer) -> Vec<String> {
        let mut written = Vec::new();
        loop {
            let front = buffer.front();
            written.extend(front.text().lines().map(str::to_owned));
            front.wrote(front.pending().len());
            match buffer.advance() {
                Next::Nothing => return written,
                Next::Lines => {}
                Next::Gap(dropped) => buffer.push_front(format!("drop {dropped}").as_bytes()),
            }
        }
    }

    #[test]
    fn the_oldest_events_go_and_the_gap_is_told_where_it_is() {
        let mut buffer = Buffer::new(true, 10_000);
        buffer.push(b"open", false);
        (0..5).for_each(|n| buffer.push(format!("event {n}").as_bytes(), true));
        buffer.push(b"close", false);
        (5..9).for_each(|n| buffer.push(format!("event {n}").as_bytes(), true));
        assert_eq!(buffer.len(), 5 + 5 * 8 + 6 + 4 * 8);
        assert_eq!(buffer.shed(usize::MAX), 0);
        assert_eq!(buffer.shed(buffer.len() - 1), 1);
        assert_eq!(buffer.shed(buffer.len() - 16), 2);
        assert_eq!((buffer.dropped(), buffer.count(), buffer.waiting()), (3, 8, 8));
        let expected = ["open", "drop 3", "event 3", "event 4", "close", "event 5", "event 6", "event 7", "event 8"];
        assert_eq!(all(&mut buffer), expected);
        assert!(buffer.is_empty());
        assert_eq!((buffer.len(), buffer.waiting()), (0, 0));
    }

    #[test]
    fn records_about_the_connection_stay_whatever_happens() {
        let mut buffer = Buffer::new(true, 10_000);
        for n in 0..3 {
            buffer.push(format!("change {n}").as_bytes(), false);
            buffer.push(b"event", true);
        }
        assert_eq!(buffer.shed(0), 3);
        buffer.push(b"event", true);
        assert_eq!(buffer.shed(0), 1);
        assert_eq!(all(&mut buffer), ["change 0", "drop 1", "change 1", "drop 1", "change 2", "drop 2"]);
    }

    #[test]
    fn a_line_that_is_written_in_part_stays_whole() {
        let mut buffer = Buffer::new(true, 10_000);
        buffer.push(b"event 0", true);
        assert_eq!(buffer.advance(), Next::Lines);
        buffer.front().wrote(3);
        (1..4).for_each(|n| buffer.push(format!("event {n}").as_bytes(), true));
        assert_eq!(buffer.shed(0), 3);
        assert_eq!(all(&mut buffer), ["nt 0", "drop 3"]);
    }

    #[test]
    fn a_buffer_that_drops_nothing_keeps_everything_in_front() {
        let mut buffer = Buffer::new(false, 0);
        (0..3).for_each(|n| buffer.push(format!("{n}").as_bytes(), true));
        assert_eq!((buffer.shed(0), buffer.waiting(), buffer.count()), (0, 3, 3));
        assert_eq!(buffer.front().pending(), b"0\n1\n2\n");
        assert_eq!(all(&mut buffer), ["0", "1", "2"]);
    }

    #[test]
    fn whatever_goes_the_books_balance_and_the_limit_holds() {
        let mut buffer = Buffer::new(true, 10_000);
        let mut shed = 0;
        for n in 0..20_000_u32 {
            buffer.push(n.to_string().as_bytes(), n % 1000 != 0);
            shed += buffer.shed(10_000);
            assert!(buffer.len() <= 10_000);
            // A reader that takes something now and then.
            if n % 500 == 499
                && buffer.front().pending().is_empty()
                && let Next::Gap(dropped) = buffer.advance()
            {
                buffer.push_front(format!("drop {dropped}").as_bytes());
            }
        }
        assert_eq!(shed, buffer.dropped());
        let kept = all(&mut buffer);
        assert_eq!(kept.iter().filter(|line| line.parse::<u32>().is_ok_and(|n| n % 1000 == 0)).count(), 20);
        let told: u64 = kept.iter().filter_map(|line| line.strip_prefix("drop ")?.parse::<u64>().ok()).sum();
        assert_eq!(told, shed);
        assert_eq!(kept.len() as u64, buffer.count());
    }
}
