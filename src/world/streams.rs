//! Standard input and output: reads and writes that never make the program deaf to signals, deadlines or the death of its reader.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use super::unix;
use crate::model::line::Lines;

/// Standard input.
pub struct Input {
    /// It is not to be read.
    closed: bool,
}

impl Input {
    /// The real one.
    pub fn standard() -> Input {
        Input { closed: false }
    }

    /// Leaves it alone: the program has enough to do without.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether it is left alone.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads once; 0 is the end. Call it when a poll said there is something.
    ///
    /// # Errors
    /// As read(2).
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        unix::read_stdin(room)
    }

    /// To wait on.
    pub fn fd(&self) -> BorrowedFd<'static> {
        unix::stdin()
    }

    /// Whether a person types it.
    pub fn is_terminal(&self) -> bool {
        unix::stdin_is_terminal()
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing is pending.
    All,
    /// The reader is slow: wait for room.
    Some,
    /// The reader is gone.
    ReaderGone,
}

/// Standard output.
pub struct StandardOutput {
    /// Each write may be of any length: it does not block.
    nonblocking: bool,
    is_file: bool,
    closed: bool,
}

impl Default for StandardOutput {
    fn default() -> StandardOutput {
        StandardOutput::new()
    }
}

impl StandardOutput {
    /// The real one, made non-blocking where that hurts nobody else.
    pub fn new() -> StandardOutput {
        StandardOutput { nonblocking: unix::own_stdout(), is_file: unix::stdout_is_file(), closed: false }
    }

    /// To wait on.
    pub fn fd(&self) -> BorrowedFd<'static> {
        unix::stdout()
    }

    /// Writes what is pending, as much as goes in without waiting.
    ///
    /// # Errors
    /// The output is broken in another way than by its reader's death: a full disk, for one.
    pub fn write(&mut self, lines: &mut Lines) -> io::Result<Written> {
        while !lines.pending().is_empty() {
            if self.closed {
                return Ok(Written::ReaderGone);
            }
            // Several programs may share one pipe. What is within PIPE_BUF goes in whole or not at all, so that their lines do not mix.
            let next = lines.next_write(unix::PIPE_BUF);
            let written = if self.is_file {
                unix::write_stdout(lines.pending())
            } else if self.nonblocking {
                unix::write_stdout(next)
            } else {
                let [ready] = unix::wait([(self.fd(), unix::Interest::Write)], Some(std::time::Duration::ZERO))?;
                if !ready.write && !ready.gone {
                    return Ok(Written::Some);
                }
                unix::write_stdout(&next[..next.len().min(unix::PIPE_BUF)])
            };
            match written {
                Ok(count) => lines.wrote(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Written::Some),
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Written::ReaderGone),
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    /// Whether the reader is gone, found out without writing.
    pub fn reader_gone(&self) -> bool {
        !self.closed
            && unix::wait([(self.fd(), unix::Interest::End)], Some(std::time::Duration::ZERO))
                .is_ok_and(|[ready]| ready.gone)
    }

    /// Lets go of it, so that the next stage sees the end of its input.
    pub fn close(&mut self) {
        if !self.closed {
            unix::close_stdout();
            self.closed = true;
        }
    }

    /// Whether it was let go of.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}
