//! The server's side of a connection: a listening socket, a request's head, and a WebSocket that never blocks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{CloseFrame, Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message, Utf8Bytes};

use crate::world::tls::{ServerSession, ServerTls};
use crate::world::unix;

/// A head may have so many header lines; browsers send about twenty, proxies add some.
const MAX_HEADERS: usize = 100;

/// A client's message may be so long, in bytes. None is wanted, but a stray one is no reason to hang up.
const MAX_INCOMING: usize = 64 << 10;

/// So much is collected before it is written to the socket, in bytes.
const WRITE_BUFFER: usize = 16 << 10;

/// A peer's silence is probed after so long, so that one that vanished does not stay for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// A listening socket that does not block.
pub struct Listener(TcpListener);

impl Listener {
    /// Begins to listen on the first of the addresses that allows it.
    ///
    /// # Errors
    /// As bind(2): the address is in use, is not ours, or is privileged.
    pub fn bind(addresses: &[SocketAddr]) -> io::Result<Listener> {
        let listener = TcpListener::bind(addresses)?;
        listener.set_nonblocking(true)?;
        Ok(Listener(listener))
    }

    /// Where it listens: the chosen port if 0 was asked for.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The next connection, or `None` if nobody is waiting.
    ///
    /// # Errors
    /// As accept(2), too many open files for one.
    pub fn accept(&self, tls: Option<&ServerTls>) -> io::Result<Option<(Link, SocketAddr)>> {
        match self.0.accept() {
            Ok((tcp, peer)) => {
                tcp.set_nonblocking(true)?;
                tcp.set_nodelay(true)?;
                unix::keep_alive(&tcp, KEEP_ALIVE)?;
                let tls = tls.map(ServerTls::session).transpose().map_err(io::Error::other)?;
                Ok(Some((Link { tcp, tls, written: 0 }, peer)))
            }
            Err(error) => match error.kind() {
                // The caller changed its mind before it was answered (accept(2)).
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connection, plain or under TLS, that does not block.
pub struct Link {
    tcp: TcpStream,
    tls: Option<ServerSession>,
    written: u64,
}

impl Link {
    /// How many bytes it took so far: the proof that the other side still reads.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether it is under TLS, where a read cannot be had while a write is stuck.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Says that nothing more will be written. What was written still arrives.
    pub fn end_writing(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.say_goodbye(&mut self.tcp);
        }
        let _ = self.tcp.shutdown(std::net::Shutdown::Write);
    }
}

impl Read for Link {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.read(&mut self.tcp, room),
            None => self.tcp.read(room),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match &mut self.tls {
            Some(tls) => tls.write(&mut self.tcp, bytes),
            None => self.tcp.write(bytes),
        }?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.flush(&mut self.tcp),
            None => Ok(()),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

/// Whether nothing is wrong but that it would have to wait.
pub fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The head of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The method, as it was sent.
    pub method: String,
    /// The path, without the query; of an absolute URL only its path.
    pub path: String,
    /// The query, without `?`; empty if there is none.
    pub query: String,
    /// Whether the client speaks HTTP/1.1.
    pub is_current: bool,
    headers: Vec<(String, String)>,
}

/// A head that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// This is not HTTP/1.
    Garbage,
    /// More header lines than anyone sends.
    TooLong,
}

impl Head {
    /// Reads a head and says how many bytes it took; `None` while it is not complete.
    ///
    /// # Errors
    /// The bytes can never become a head.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadFault> {
        let mut room = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut room);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadFault::TooLong),
            Err(_) => return Err(HeadFault::Garbage),
        };
        let target = request.path.unwrap_or_default();
        // An absolute URL is sent to proxies, and by some clients to everyone (RFC 9112, section 3.2.2).
        let target = match target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains('/') => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
            _ => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = request.headers.iter();
        Ok(Some((
            Head {
                method: request.method.unwrap_or_default().to_owned(),
                path: path.to_owned(),
                query: query.split('#').next().unwrap_or_default().to_owned(),
                is_current: request.version == Some(1),
                headers: headers
                    .map(|header| {
                        (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).trim().to_owned())
                    })
                    .collect(),
            },
            length,
        )))
    }

    /// A header's value, the first if it comes more than once; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether one of a header's comma-separated words is `word`, in whatever case.
    fn header_says(&self, name: &str, word: &str) -> bool {
        let values = self.headers.iter().filter(|(known, _)| known == name);
        values.flat_map(|(_, value)| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    }

    /// Whether it asks to go on as a WebSocket.
    pub fn wants_upgrade(&self) -> bool {
        self.header_says("upgrade", "websocket")
    }

    /// The answer that turns the connection into a WebSocket (RFC 6455, section 4.2.2).
    ///
    /// # Errors
    /// Says what the request lacks.
    pub fn upgrade(&self) -> Result<String, &'static str> {
        if !self.is_current {
            return Err("a WebSocket needs HTTP/1.1");
        }
        if !self.header_says("connection", "upgrade") {
            return Err("the header Connection does not say Upgrade");
        }
        if self.header("sec-websocket-version") != Some("13") {
            return Err("the header Sec-WebSocket-Version is not 13");
        }
        // Sixteen bytes in base64.
        let key = self.header("sec-websocket-key").filter(|key| key.len() == 24);
        let key = key.ok_or("the header Sec-WebSocket-Key is missing or not 16 bytes in base64")?;
        Ok(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        ))
    }
}

/// A text message, shared by all who are sent it.
#[derive(Clone, Debug)]
pub struct Text(Utf8Bytes);

impl Text {
    /// A message.
    pub fn new(text: &str) -> Text {
        Text(Utf8Bytes::from(text))
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How far something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of it.
    Done,
    /// The other side has to read first.
    Blocked,
    /// The connection is over.
    Over,
}

/// Why a connection is closed (RFC 6455, section 7.4.1, and IANA's registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// 1001: the server goes away.
    Away,
    /// 1008: refused.
    Policy,
    /// 1013: try again later.
    Again,
}

impl Close {
    fn code(self) -> u16 {
        match self {
            Close::Away => 1001,
            Close::Policy => 1008,
            Close::Again => 1013,
        }
    }
}

/// A client's WebSocket, its handshake done.
pub struct Peer(WebSocket<Link>);

impl Peer {
    /// Takes over a connection; `rest` are the bytes that came after the head.
    pub fn new(link: Link, rest: Vec<u8>) -> Peer {
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(WRITE_BUFFER)
            // Bounded by the caller, who hands over nothing more once this is blocked.
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(MAX_INCOMING))
            .max_frame_size(Some(MAX_INCOMING));
        Peer(WebSocket::from_partially_read(link, rest, Role::Server, Some(config)))
    }

    /// Takes a message. `Blocked` means that it was taken, and that nothing more may be handed over before [`flush`](Peer::flush) is done.
    pub fn write(&mut self, text: &Text) -> Progress {
        progress(self.0.write(Message::Text(text.0.clone())))
    }

    /// Sends what was taken, and the pongs that are due.
    pub fn flush(&mut self) -> Progress {
        progress(self.0.flush())
    }

    /// Says goodbye; reading goes on until the other side has said it too.
    pub fn close(&mut self, close: Close, reason: &str) -> Progress {
        let frame = CloseFrame { code: close.code().into(), reason: Utf8Bytes::from(reason) };
        progress(self.0.close(Some(frame)))
    }

    /// Reads one message and forgets it; `Blocked` if none is there. Pings are answered by the next flush.
    pub fn read(&mut self) -> Progress {
        match self.0.read() {
            Ok(_) => Progress::Done,
            Err(error) => progress(Err(error)),
        }
    }

    /// The connection below.
    pub fn link(&self) -> &Link {
        self.0.get_ref()
    }
}

fn progress(result: Result<(), Error>) -> Progress {
    match result {
        Ok(()) => Progress::Done,
        Err(Error::Io(error)) if would_wait(&error) => Progress::Blocked,
        Err(_) => Progress::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        Head::parse(text.as_bytes()).unwrap().unwrap().0
    }

    const UPGRADE: &str = "GET /v1/events?token=x HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[test]
    fn a_head_and_its_parts() {
        let (head, length) = Head::parse(b"GET /a/b?c=d&e HTTP/1.0\r\nHost:  h \r\n\r\nrest").unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str(), head.query.as_str()), ("GET", "/a/b", "c=d&e"));
        assert_eq!((head.header("host"), head.is_current, length), (Some("h"), false, 38));
        assert_eq!(self::head("GET http://h:1/x/?q HTTP/1.1\r\n\r\n").path, "/x/");
        assert_eq!(self::head("GET http://h HTTP/1.1\r\n\r\n").path, "/");
        assert_eq!(self::head("GET /?next=http://h/x HTTP/1.1\r\n\r\n").path, "/");
    }

    #[test]
    fn every_beginning_of_a_head_is_incomplete() {
        for end in 0..UPGRADE.len() {
            assert_eq!(Head::parse(&UPGRADE.as_bytes()[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn what_is_not_http() {
        // The beginning of a TLS hello, of HTTP/2, and of nothing at all.
        for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b"PRI * HTTP/2.0\r\n\r\n", b"hello there\n\n", b"\0\0"] {
            assert_eq!(Head::parse(bytes), Err(HeadFault::Garbage), "{bytes:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(Head::parse(many.as_bytes()), Err(HeadFault::TooLong));
    }

    #[test]
    fn an_upgrade_is_answered_as_the_standard_says() {
        let head = head(UPGRADE);
        assert!(head.wants_upgrade());
        assert!(head.upgrade().unwrap().contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        for (from, to, complaint) in [
            ("HTTP/1.1", "HTTP/1.0", "HTTP/1.1"),
            ("Version: 13", "Version: 8", "Version"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", "Key"),
            ("keep-alive, Upgrade", "keep-alive", "Connection"),
        ] {
            let wrong = self::head(&UPGRADE.replace(from, to));
            assert!(wrong.upgrade().unwrap_err().contains(complaint));
        }
    }
}
