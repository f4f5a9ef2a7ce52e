//! A WebSocket client and an HTTP client made by hand, so that they can be slow, rude and wrong on purpose.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

/// What a server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Pong(Vec<u8>),
    /// The code and the reason.
    Close(u16, String),
    /// The connection ended without another word.
    End,
}

/// The connection a client speaks over.
pub trait Wire: Read + Write {}

impl<W: Read + Write> Wire for W {}

/// A client whose handshake is done.
pub struct WebSocketClient(Box<dyn Wire>);

/// Connects to a port of this machine, with patience for every read and write.
#[track_caller]
pub fn dial(port: u16) -> TcpStream {
    let tcp = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    tcp.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    tcp
}

/// Sends `request` and reads the whole answer.
#[track_caller]
pub fn exchange(port: u16, request: impl AsRef<[u8]>) -> String {
    let mut tcp = dial(port);
    tcp.write_all(request.as_ref()).expect("the server reads");
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).expect("the server answers and ends the connection");
    String::from_utf8(answer).expect("an answer is text")
}

/// Asks for a path; the status and the body.
#[track_caller]
pub fn get(port: u16, path: &str, headers: &str) -> (u16, String) {
    let answer = exchange(port, format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("its length is told");
    assert_eq!(length.parse(), Ok(body.len()), "{answer}");
    (head[9..12].parse().expect("a status is a number"), body.to_owned())
}

impl WebSocketClient {
    /// Asks for the upgrade with these header lines (each with its `\r\n`); the whole answer if there is none.
    #[track_caller]
    pub fn ask(port: u16, path: &str, headers: &str) -> Result<WebSocketClient, String> {
        WebSocketClient::over(Box::new(dial(port)), path, headers)
    }

    /// Connects and waits for the `auth` message.
    #[track_caller]
    pub fn connect(port: u16, path: &str, headers: &str) -> WebSocketClient {
        let mut client = WebSocketClient::ask(port, path, headers).expect("the upgrade succeeds");
        assert_eq!(client.next(), Frame::Text(r#"{"type":"auth"}"#.to_owned()));
        client
    }

    /// Asks for the upgrade over any connection.
    #[track_caller]
    pub fn over(mut wire: Box<dyn Wire>, path: &str, headers: &str) -> Result<WebSocketClient, String> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        wire.write_all(request.as_bytes()).expect("the server reads");
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") && wire.read(&mut byte).expect("the server answers") == 1 {
            answer.push(byte[0]);
        }
        let mut text = String::from_utf8_lossy(&answer).into_owned();
        if text.starts_with("HTTP/1.1 101 ") && text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            return Ok(WebSocketClient(wire));
        }
        let _ = wire.read_to_string(&mut text);
        Err(text)
    }

    /// The next frame.
    #[track_caller]
    pub fn next(&mut self) -> Frame {
        let Some([first, second]) = self.take() else { return Frame::End };
        let length = match second {
            126 => u16::from_be_bytes(self.take().unwrap_or_default()).into(),
            127 => u64::from_be_bytes(self.take().unwrap_or_default()),
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).expect("a frame fits into memory")];
        if self.0.read_exact(&mut payload).is_err() {
            return Frame::End;
        }
        match first {
            0x81 => Frame::Text(String::from_utf8(payload).expect("text is UTF-8")),
            0x8a => Frame::Pong(payload),
            0x88 => Frame::Close(
                u16::from_be_bytes([payload[0], payload[1]]),
                String::from_utf8_lossy(&payload[2..]).into_owned(),
            ),
            other => panic!("a frame that begins with {other:#x}"),
        }
    }

    /// The next frame, which is a text.
    #[track_caller]
    pub fn text(&mut self) -> String {
        match self.next() {
            Frame::Text(text) => text,
            other => panic!("not a text: {other:?}"),
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        match self.0.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(error) => {
                let waited = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!waited, "in {PATIENCE:?} no frame came");
                None
            }
        }
    }

    /// Sends a short frame: `0x1` text, `0x8` close, `0x9` ping, `0xa` pong.
    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).expect("a short frame");
        // Masked with zeroes, which leaves the payload as it is.
        let frame = [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], payload].concat();
        let _ = self.0.write_all(&frame).and_then(|()| self.0.flush());
    }
}
