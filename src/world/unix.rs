//! The few system calls std does not offer: waiting on several things at once, descriptors that do not block. Hides rustix.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};

/// What to wait for on a descriptor. The end of a peer and errors are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nothing but its end.
    End,
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// Either.
    ReadWrite,
}

/// What poll said of a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There is something to read, or its end.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
    /// The other side is gone.
    pub gone: bool,
}

/// Waits until something happens on one of the descriptors or `timeout` passes; `None` waits for ever.
///
/// # Errors
/// Only if the system cannot poll at all; an interruption by a signal is an ordinary return.
pub fn wait<const N: usize>(
    fds: [(BorrowedFd<'_>, Interest); N],
    timeout: Option<Duration>,
) -> io::Result<[Readiness; N]> {
    let mut polled = fds.map(|(fd, interest)| PollFd::from_borrowed_fd(fd, flags(interest)));
    poll(&mut polled, timeout)?;
    Ok(polled.map(|fd| readiness(fd.revents())))
}

/// As [`wait`], for a number of descriptors not known before.
///
/// # Errors
/// As [`wait`].
pub fn wait_all(fds: &[(BorrowedFd<'_>, Interest)], timeout: Option<Duration>) -> io::Result<Vec<Readiness>> {
    let mut polled: Vec<_> = fds.iter().map(|(fd, interest)| PollFd::from_borrowed_fd(*fd, flags(*interest))).collect();
    poll(&mut polled, timeout)?;
    Ok(polled.iter().map(|fd| readiness(fd.revents())).collect())
}

fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| {
        // Rounded up to the next millisecond, or a deadline would be polled for in a spin just before it.
        let timeout = (timeout + Duration::from_micros(999)).min(Duration::from_secs(86_400));
        Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() }
    });
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn flags(interest: Interest) -> PollFlags {
    match interest {
        Interest::End => PollFlags::empty(),
        Interest::Read => PollFlags::IN,
        Interest::Write => PollFlags::OUT,
        Interest::ReadWrite => PollFlags::IN | PollFlags::OUT,
    }
}

fn readiness(events: PollFlags) -> Readiness {
    Readiness {
        read: events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL),
        write: events.contains(PollFlags::OUT),
        gone: events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL),
    }
}

/// Something another thread or a signal can make readable. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Wake(Arc<(UnixStream, UnixStream)>);

impl Wake {
    /// A new one, not awake.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new() -> io::Result<Wake> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Wake(Arc::new((reader, writer))))
    }

    /// Makes it readable. A full pipe is awake already.
    pub fn wake(&self) {
        let _ = (&self.0.1).write(&[1]);
    }

    /// Makes it wait for the next call of `wake`.
    pub fn clear(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.0.0).read(&mut bytes), Ok(n) if n == bytes.len()) {}
    }

    /// The end that signal handlers write to.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn writer(&self) -> io::Result<UnixStream> {
        self.0.1.try_clone()
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// Reads once from standard input.
///
/// # Errors
/// As read(2).
pub fn read_stdin(buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut *buffer) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Standard input, to wait on.
pub fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// Standard output, to wait on.
pub fn stdout() -> BorrowedFd<'static> {
    rustix::stdio::stdout()
}

/// Writes to standard output as much as goes in at once.
///
/// # Errors
/// As write(2); `WouldBlock` if nothing goes in.
pub fn write_stdout(bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?)
}

/// Makes standard output ours alone and non-blocking, if it is a pipe or a terminal, by opening it anew.
///
/// The flag belongs to the open file, which other programs share (a terminal's shell, for one), so setting it on what we were given would
/// break them. Says whether it did; if not (no /proc, a socket, a file), the caller writes at most [`PIPE_BUF`] bytes when poll says there is room.
pub fn own_stdout() -> bool {
    let stdout = rustix::stdio::stdout();
    let Ok(kind) = rustix::fs::fstat(stdout).map(|stat| FileType::from_raw_mode(stat.st_mode)) else { return false };
    if kind != FileType::Fifo && !rustix::termios::isatty(stdout) {
        return false;
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(ours) = rustix::fs::open("/proc/self/fd/1", flags, Mode::empty()) else { return false };
    rustix::stdio::dup2_stdout(&ours).is_ok()
}

/// So many bytes go into a pipe at once if there is room for any (POSIX; Linux's value).
pub const PIPE_BUF: usize = 4096;

/// Whether standard output is a file, whose writes never wait for a reader.
pub fn stdout_is_file() -> bool {
    rustix::fs::fstat(rustix::stdio::stdout())
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// Lets go of standard output, so that its reader sees the end; the descriptor stays taken, by /dev/null.
pub fn close_stdout() {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin())
}

/// The system's monotonic clock, as service managers want it told.
pub fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Device and inode of standard error, in the spelling of `JOURNAL_STREAM` (systemd.exec(5)).
pub fn stderr_identity() -> Option<String> {
    rustix::fs::fstat(rustix::stdio::stderr()).ok().map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Begins to connect. The socket does not block; poll says that there is room to write when it is connected or has failed, and `take_error` which.
///
/// # Errors
/// As connect(2): it failed at once, for want of a route perhaps.
pub fn begin_connect(address: &SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, address) {
        // After an interruption it goes on by itself.
        Ok(()) | Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Has the system probe a silent connection after `idle`, and end it if nothing comes back for as long again.
///
/// # Errors
/// As setsockopt(2).
pub fn keep_alive(socket: &impl AsFd, idle: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, idle)?;
    sockopt::set_tcp_keepintvl(socket, idle / 4)?;
    Ok(sockopt::set_tcp_keepcnt(socket, 4)?)
}

/// Whether others may read a file that holds a secret.
///
/// # Errors
/// The file cannot be looked at.
pub fn readable_by_others(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fstat(file)?.st_mode & 0o044 != 0)
}
