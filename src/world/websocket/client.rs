//! The client's side of a WebSocket: dials within a deadline, then reads and writes without ever waiting.

use std::error::Error as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tungstenite::client::client_with_config;
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::{Request, generate_key};
use tungstenite::http::Response;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, Utf8Bytes, WebSocket};

use crate::model::address::Address;
use crate::model::json::{self, Pointer};
use crate::model::secret::Secret;
use crate::world::dial;
use crate::world::proxy::Proxy;
use crate::world::tls::{self, Encrypted, Tls};

/// The longest message taken, in bytes, whether it comes in one frame or many.
pub const MAX_MESSAGE: usize = 64 << 20;

/// So much may wait for a server that reads nothing, in bytes: pings and pongs are all we send.
const MAX_UNSENT: usize = 1 << 20;

/// Whom to call, and with what.
#[derive(Clone)]
pub struct Call {
    /// `ws` or `wss`. The query may hold a secret.
    pub address: Address,
    /// Headers besides those of the protocol; any may be a secret.
    pub headers: Vec<(&'static str, Secret)>,
    /// For `wss`.
    pub tls: Tls,
    /// The way there, if it is not direct.
    pub proxy: Option<Proxy>,
    /// For name, connection and the proxy's tunnel, all addresses together.
    pub connect_timeout: Duration,
    /// For the answers to TLS and to the upgrade, together.
    pub answer_timeout: Duration,
}

/// Why there is no connection. The texts hold the server's own words only where that is said, and never the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The server's certificate cannot be believed.
    Certificate(String),
    /// Name, connection, TLS or upgrade failed.
    Unreachable(String),
    /// The server answered, but with something else than the upgrade.
    Answer {
        /// The status.
        status: u16,
        /// The status in words, with what the server said about it: its own words, to be redacted.
        reason: String,
        /// `Retry-After`, as sent.
        retry_after: Option<String>,
    },
}

/// An established connection.
pub struct Client {
    socket: WebSocket<Stream>,
    /// Something is queued that the socket did not take yet.
    unsent: bool,
    closing: bool,
}

/// What a read brought.
#[derive(Debug)]
pub enum Received {
    /// A text message, whole.
    Text(Text),
    /// A message that is not text; says why.
    Unreadable(String),
    /// A ping or pong; pings are answered already.
    Control,
    /// Nothing more for now: wait for the socket.
    Nothing,
    /// The connection is over.
    End(End),
}

/// How a connection ended. The reason may hold the server's own words, to be redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: String,
    /// The code of the server's close frame.
    pub code: Option<u16>,
    /// The server closed in good order because it had nothing more to say: a close frame with the code 1000 or none.
    pub complete: bool,
}

/// A message's text, a slice of the read buffer.
#[derive(Debug)]
pub struct Text(Utf8Bytes);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_str()
    }
}

/// Looks up the name, connects, through a proxy if there is one, speaks TLS and asks for the upgrade. Follows no redirect. Blocks: call it in a thread.
///
/// # Errors
/// Tells the stages apart; see [`CallError`].
pub fn dial(call: &Call) -> Result<Client, CallError> {
    let deadline = Instant::now() + call.connect_timeout;
    let tcp = dial::dial(&call.address, call.proxy.as_ref(), deadline).map_err(CallError::Unreachable)?;
    let wire = Wire { tcp, received: 0, deadline: Some(Instant::now() + call.answer_timeout) };
    let stream = if call.address.is_secure() {
        let encrypted = Encrypted::connect(&call.tls, &call.address.host, wire);
        Stream::Encrypted(Box::new(encrypted.map_err(|error| explain_io("TLS", &error))?))
    } else {
        Stream::Plain(wire)
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .max_write_buffer_size(MAX_UNSENT);
    let (mut socket, _) =
        client_with_config(request(call)?, stream, Some(config)).map_err(|error| explain_upgrade(&error))?;
    let wire = socket.get_mut().wire();
    wire.deadline = None;
    let ready = wire.tcp.set_read_timeout(None).and_then(|()| wire.tcp.set_write_timeout(None));
    ready.and_then(|()| wire.tcp.set_nonblocking(true)).map_err(|error| explain_io("the socket", &error))?;
    Ok(Client { socket, unsent: false, closing: false })
}

fn request(call: &Call) -> Result<Request, CallError> {
    let mut builder = Request::builder()
        .method("GET")
        .uri(call.address.expose())
        .header("Host", call.address.authority())
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", generate_key())
        .header("User-Agent", concat!("tutum/", env!("CARGO_PKG_VERSION")));
    for (name, value) in &call.headers {
        builder = builder.header(*name, value.expose());
    }
    // The builder's own message would quote the URL or the header.
    builder.body(()).map_err(|_| CallError::Unreachable("the URL or a header cannot be sent".to_owned()))
}

fn explain_upgrade<R: tungstenite::handshake::HandshakeRole>(error: &HandshakeError<R>) -> CallError {
    let unreachable = |reason: &str| CallError::Unreachable(reason.to_owned());
    match error {
        HandshakeError::Interrupted(_) => unreachable("the upgrade was not answered in time"),
        HandshakeError::Failure(Error::Http(response)) => explain_answer(response),
        HandshakeError::Failure(Error::Io(error)) => explain_io("the upgrade", error),
        HandshakeError::Failure(Error::Protocol(ProtocolError::HandshakeIncomplete)) => {
            unreachable("the server ended the connection instead of answering the upgrade")
        }
        HandshakeError::Failure(Error::Protocol(ProtocolError::HttparseError(_))) => {
            unreachable("the answer to the upgrade is not HTTP")
        }
        HandshakeError::Failure(Error::Url(_) | Error::HttpFormat(_)) => {
            unreachable("the URL or the answer's head cannot be used")
        }
        HandshakeError::Failure(error) => CallError::Unreachable(format!("the upgrade failed: {error}")),
    }
}

fn explain_answer(response: &Response<Option<Vec<u8>>>) -> CallError {
    let status = response.status();
    let header =
        |name: &str| response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut reason = format!("HTTP {}", status.as_u16());
    if let Some(words) = status.canonical_reason() {
        reason += &format!(" {words}");
    }
    if let Some(location) = header("location").filter(|_| status.is_redirection()) {
        // Path and query of the location may repeat ours, with a token.
        let target = Address::parse(&location, &["ws", "wss", "http", "https"]).map(|address| address.origin());
        let target = target.unwrap_or_else(|_| "another path".to_owned());
        reason += &format!(": it points to {target}, and redirects are not followed");
    }
    if let Some(words) = response.body().as_deref().and_then(error_text) {
        reason += &format!(": {words}");
    }
    CallError::Answer { status: status.as_u16(), reason, retry_after: header("retry-after") }
}

/// The text of an error body `{"error":"text"}`; a gateway's HTML says nothing worth repeating.
fn error_text(body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let pointer = Pointer::parse("error").expect("it is a pointer");
    pointer.find(body).and_then(json::string).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn explain_io(stage: &str, error: &io::Error) -> CallError {
    match tls::certificate_error(error) {
        Some(cause) => CallError::Certificate(cause),
        None if error.kind() == ErrorKind::TimedOut => {
            CallError::Unreachable(format!("{stage} was not answered in time"))
        }
        None if error.kind() == ErrorKind::UnexpectedEof => {
            CallError::Unreachable(format!("the server ended the connection during {stage}"))
        }
        None => CallError::Unreachable(format!("{stage}: {error}")),
    }
}

impl Client {
    /// The next message or event. Call it until it says [`Received::Nothing`], and only then wait: buffers above the socket may hold more.
    pub fn read(&mut self) -> Received {
        match self.socket.read() {
            Ok(Message::Text(text)) => Received::Text(Text(text)),
            Ok(Message::Binary(_)) => Received::Unreadable("binary, not text".to_owned()),
            Ok(Message::Ping(_)) => {
                self.flush();
                Received::Control
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => Received::Control,
            Ok(Message::Close(frame)) => {
                // Sends the reply; whether it arrives is the server's concern.
                self.flush();
                Received::End(explain_close(frame.as_ref()))
            }
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.flush();
                Received::Nothing
            }
            // A whole frame that is not UTF-8 is consumed, and the next can be read. Of a message in fragments the rest would be taken for a whole
            // one, so that ends the connection. The two are told apart by the words: only the latter quotes the (replaced) bytes.
            Err(Error::Utf8(words)) if words.starts_with("in") => Received::Unreadable("not UTF-8".to_owned()),
            Err(error) => Received::End(explain_end(&error)),
        }
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self) {
        // A broken connection shows at the next read.
        let _ = self.socket.write(Message::Ping(Vec::new().into()));
        self.flush();
    }

    /// Sends a text message, as far as the socket takes it now; the rest leaves when it can.
    pub fn send(&mut self, text: &str) {
        let _ = self.socket.write(Message::text(text));
        self.flush();
    }

    /// Begins the closing handshake; read on until the end.
    pub fn close(&mut self) {
        if !self.closing {
            self.closing = true;
            let frame = CloseFrame { code: CloseCode::Away, reason: Utf8Bytes::from_static("") };
            let _ = self.socket.close(Some(frame));
            self.flush();
        }
    }

    /// How many bytes ever came, those of unfinished messages included: proof of life.
    pub fn received(&mut self) -> u64 {
        self.socket.get_mut().wire().received
    }

    /// Whether it waits for room to write.
    pub fn is_unsent(&self) -> bool {
        self.unsent
    }

    fn flush(&mut self) {
        self.unsent = matches!(self.socket.flush(), Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock);
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.socket.get_ref() {
            Stream::Plain(wire) => wire.tcp.as_fd(),
            Stream::Encrypted(encrypted) => encrypted.socket().tcp.as_fd(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Stream::Encrypted(encrypted) = self.socket.get_mut() {
            encrypted.close();
            let _ = encrypted.flush();
        }
    }
}

fn explain_close(frame: Option<&CloseFrame>) -> End {
    let Some(frame) = frame else {
        return End { reason: "the server closed the connection".to_owned(), code: None, complete: true };
    };
    let code = u16::from(frame.code);
    // RFC 6455, section 7.4.1, and https://www.iana.org/assignments/websocket for 1012 to 1014.
    let meaning = match code {
        1000 => " normal",
        1001 => " going away",
        1002 => " protocol error",
        1003 => " unsupported data",
        1007 => " invalid data",
        1008 => " policy violation",
        1009 => " message too big",
        1010 => " extension missing",
        1011 => " internal error",
        1012 => " restarting",
        1013 => " try again later",
        1014 => " bad gateway",
        _ => "",
    };
    let words = frame.reason.as_str().trim();
    let words = if words.is_empty() { String::new() } else { format!(": {words}") };
    let reason = format!("the server closed the connection ({code}{meaning}){words}");
    End { reason, code: Some(code), complete: code == 1000 }
}

fn explain_end(error: &Error) -> End {
    let reason = match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "the server closed the connection".to_owned(),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            "the connection ended without a close frame".to_owned()
        }
        Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "the connection ended without a close frame".to_owned()
        }
        Error::Io(error) if error.kind() == ErrorKind::ConnectionReset => "the connection was reset".to_owned(),
        Error::Io(error) => format!("the connection broke: {error}"),
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            format!("a message of {size} bytes is over the limit of {max_size}")
        }
        Error::Utf8(_) => "a message in fragments is not UTF-8".to_owned(),
        Error::Protocol(error) => format!("the server broke the WebSocket protocol: {error}"),
        error => match error.source() {
            Some(cause) => format!("the connection broke: {cause}"),
            None => "the connection broke".to_owned(),
        },
    };
    End { reason, code: None, complete: false }
}

/// The socket: counts what comes, and keeps the deadline of the handshakes however slowly the bytes drip.
struct Wire {
    tcp: TcpStream,
    received: u64,
    deadline: Option<Instant>,
}

impl Wire {
    /// What is left until the deadline, if there is one.
    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    fn retry<T>(&mut self, mut operation: impl FnMut(&mut TcpStream) -> io::Result<T>) -> io::Result<T> {
        loop {
            if let Some(left) = self.left()? {
                self.tcp.set_read_timeout(Some(left))?;
                self.tcp.set_write_timeout(Some(left))?;
            }
            match operation(&mut self.tcp) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A socket's timeout shows as WouldBlock, which layers above would take for patience.
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.deadline.is_some() => {
                    return Err(ErrorKind::TimedOut.into());
                }
                result => return result,
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.retry(|tcp| tcp.read(room))?;
        self.received += count as u64;
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry(|tcp| tcp.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Stream {
    Plain(Wire),
    Encrypted(Box<Encrypted<Wire>>),
}

impl Stream {
    fn wire(&mut self) -> &mut Wire {
        match self {
            Stream::Plain(wire) => wire,
            Stream::Encrypted(encrypted) => encrypted.socket_mut(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(wire) => wire.read(room),
            Stream::Encrypted(encrypted) => encrypted.read(room),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(wire) => wire.write(bytes),
            Stream::Encrypted(encrypted) => encrypted.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(wire) => wire.flush(),
            Stream::Encrypted(encrypted) => encrypted.flush(),
        }
    }
}
