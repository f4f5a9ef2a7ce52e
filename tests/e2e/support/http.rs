//! A fake HTTP server that does as the test says, and misbehaves on request: slow, cut short, reset, huge, compressed, never answering.
//!
//! ```ignore
//! let server = FakeHttp::start(|request| match request.path.as_str() {
//!     "/api/v1/service/1/" => Answer::json(r#"{"name":"web"}"#),
//!     _ => Answer::status(404),
//! });
//! let server = FakeHttp::script([Answer::status(429).header("Retry-After", "1"), Answer::text("ok")]); // the last one repeats
//! let program = command("to-slack", [""; 0]).env("SLACK_URL", server.url("/services/T0/B0/secret"));
//! server.wait_for(2);
//! assert_eq!(server.requests()[0].header("authorization"), Some("Basic …"));
//! ```

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{PATIENCE, until};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query, without `?`.
    pub query: Option<String>,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Which connection brought it, from 0: equal numbers share one.
    pub connection: usize,
    /// Which request of the server's life this is, from 0.
    pub number: usize,
    /// When it was read.
    pub at: Instant,
}

impl Request {
    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.text()))
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
    drip: Option<(usize, Duration)>,
    end: End,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Well; the connection stays open for the next request.
    KeepAlive,
    /// Well, with `Connection: close`.
    Close,
    /// Closed in the middle of the body.
    CutShort,
    /// Closed before a byte was sent.
    Nothing,
    /// Reset before a byte was sent.
    Reset,
    /// Nothing is sent, and the connection stays open for as long as the test runs.
    Silence,
}

impl Answer {
    /// An empty answer.
    pub fn status(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new(), delay: Duration::ZERO, drip: None, end: End::KeepAlive }
    }

    /// 200 with a text.
    pub fn text(body: impl Into<Vec<u8>>) -> Answer {
        Answer::status(200).body(body)
    }

    /// 200 with JSON.
    pub fn json(body: impl Into<Vec<u8>>) -> Answer {
        Answer::text(body).header("Content-Type", "application/json")
    }

    /// 302 to a location; `redirect(..).with_status(301)` for another code.
    pub fn redirect(location: impl Into<String>) -> Answer {
        Answer::status(302).header("Location", location)
    }

    /// The connection is closed before a byte is sent.
    pub fn hang_up() -> Answer {
        Answer { end: End::Nothing, ..Answer::status(200) }
    }

    /// The connection is reset (RST) after the request was read.
    pub fn reset() -> Answer {
        Answer { end: End::Reset, ..Answer::status(200) }
    }

    /// Nothing is sent, ever.
    pub fn silence() -> Answer {
        Answer { end: End::Silence, ..Answer::status(200) }
    }

    #[must_use]
    pub fn with_status(self, status: u16) -> Answer {
        Answer { status, ..self }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Answer {
        Answer { body: body.into(), ..self }
    }

    /// Compresses the body (stored blocks: the format is real, the size is not smaller).
    #[must_use]
    pub fn gzip(self) -> Answer {
        let body = gzip(&self.body);
        self.body(body).header("Content-Encoding", "gzip")
    }

    /// Waits before the first byte.
    #[must_use]
    pub fn after(self, delay: Duration) -> Answer {
        Answer { delay, ..self }
    }

    /// Sends so many bytes at a time, head included, with a pause after each.
    #[must_use]
    pub fn drip(self, bytes: usize, pause: Duration) -> Answer {
        Answer { drip: Some((bytes, pause)), ..self }
    }

    /// Sends `Connection: close` and closes.
    #[must_use]
    pub fn close(self) -> Answer {
        Answer { end: End::Close, ..self }
    }

    /// Promises the whole body, sends half of it and closes.
    #[must_use]
    pub fn cut_short(self) -> Answer {
        Answer { end: End::CutShort, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.status != 204 && self.status != 304 {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        if self.end == End::Close {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        let body = if self.end == End::CutShort { &self.body[..self.body.len() / 2] } else { &self.body[..] };
        [head.as_bytes(), body].concat()
    }
}

/// Holds answers back until the test lets them go: `gate.pass()` in a handler, `gate.open()` in the test.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Waits until it is open; no longer than a test's patience, so that a failed test ends.
    pub fn pass(&self) {
        let (open, changed) = &*self.0;
        let guard = open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_timeout_while(guard, PATIENCE, |open| !*open));
    }

    /// Lets everyone through, from now on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// The server. It listens on a port of its own until the test drops it.
pub struct FakeHttp {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    handler: Box<Handler>,
    log: Mutex<Log>,
    connections: AtomicUsize,
    stopped: AtomicBool,
    /// The open connections, to be closed at the end.
    open: Mutex<Vec<TcpStream>>,
}

#[derive(Default)]
struct Log {
    requests: Vec<Request>,
    /// Requests read and not yet answered, by path.
    under_way: HashMap<String, usize>,
    most_at_once: usize,
    most_at_once_of_one_path: usize,
}

impl FakeHttp {
    /// A server that answers by the handler, which runs on the connection's thread and may block (see [`Gate`]).
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> FakeHttp {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be had");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            log: Mutex::default(),
            connections: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if server.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(clone) = stream.try_clone() {
                    locked(&server.open).push(clone);
                }
                let (server, number) = (Arc::clone(&server), server.connections.fetch_add(1, Ordering::SeqCst));
                thread::spawn(move || serve(&server, stream, number));
            }
        });
        FakeHttp { address, shared }
    }

    /// A server that gives these answers one after the other, and then the last one again and again.
    pub fn script(answers: impl IntoIterator<Item = Answer>) -> FakeHttp {
        let answers: Vec<Answer> = answers.into_iter().collect();
        FakeHttp::start(move |request| answers[request.number.min(answers.len() - 1)].clone())
    }

    /// A URL on it; `path` begins with `/` or is empty.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Everything asked so far, in the order it was read.
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.shared.log).requests.clone()
    }

    /// The paths asked for so far.
    pub fn paths(&self) -> Vec<String> {
        locked(&self.shared.log).requests.iter().map(|request| request.path.clone()).collect()
    }

    /// How often this path was asked for.
    pub fn count(&self, path: &str) -> usize {
        locked(&self.shared.log).requests.iter().filter(|request| request.path == path).count()
    }

    /// Waits until so many requests were read, and gives them.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Request> {
        until(&format!("{count} requests were made"), || locked(&self.shared.log).requests.len() >= count);
        self.requests()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many requests were under way at the same time, at most.
    pub fn most_at_once(&self) -> usize {
        locked(&self.shared.log).most_at_once
    }

    /// How many requests for one and the same path were under way at the same time, at most.
    pub fn most_at_once_of_one_path(&self) -> usize {
        locked(&self.shared.log).most_at_once_of_one_path
    }
}

impl Drop for FakeHttp {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
        for stream in locked(&self.shared.open).drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A port on which nobody listens.
pub fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be had");
    listener.local_addr().expect("it is bound").port()
}

/// A lock that a failed test elsewhere does not spoil.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(server: &Shared, stream: TcpStream, connection: usize) {
    let Ok(clone) = stream.try_clone() else { return };
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(clone);
    while let Some(request) = read_request(&mut reader, &stream, connection) {
        let request = begin(server, request);
        let answer = (server.handler)(&request);
        thread::sleep(answer.delay);
        let over = match answer.end {
            End::Nothing | End::Reset => true,
            End::Silence => {
                // Until the other side or the test ends the connection.
                let _ = reader.read(&mut [0]);
                true
            }
            _ => false,
        };
        // Before the last byte goes out: the next request may come in at once.
        finish(server, &request.path);
        if over || send(&stream, &answer).is_err() || answer.end != End::KeepAlive {
            if answer.end == End::Reset {
                let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            } else {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            break;
        }
    }
    // The server's own copy would keep the connection open.
    let peer = stream.peer_addr().ok();
    locked(&server.open).retain(|open| open.peer_addr().ok() != peer);
}

fn begin(server: &Shared, mut request: Request) -> Request {
    let mut log = locked(&server.log);
    request.number = log.requests.len();
    log.requests.push(request.clone());
    let of_path = log.under_way.entry(request.path.clone()).or_default();
    *of_path += 1;
    let of_path = *of_path;
    log.most_at_once_of_one_path = log.most_at_once_of_one_path.max(of_path);
    log.most_at_once = log.most_at_once.max(log.under_way.values().sum());
    request
}

fn finish(server: &Shared, path: &str) {
    *locked(&server.log).under_way.entry(path.to_owned()).or_insert(1) -= 1;
}

fn send(mut stream: &TcpStream, answer: &Answer) -> std::io::Result<()> {
    let bytes = answer.bytes();
    match answer.drip {
        None => stream.write_all(&bytes),
        Some((size, pause)) => bytes.chunks(size.max(1)).try_for_each(|piece| {
            stream.write_all(piece)?;
            thread::sleep(pause);
            Ok(())
        }),
    }
}

/// Reads one request; `None` at the end of the connection, or if it is not HTTP.
fn read_request(reader: &mut BufReader<TcpStream>, mut stream: &TcpStream, connection: usize) -> Option<Request> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        Some(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let header = line()?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let header =
        |name: &str| headers.iter().find(|(known, _): &&(String, String)| known == name).map(|(_, v)| v.clone());
    if header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim().split(';').next()?, 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length") {
        body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (target, None),
    };
    Some(Request { method, path, query, headers, body, connection, number: 0, at: Instant::now() })
}

/// gzip (RFC 1952) of stored blocks (RFC 1951, 3.2.4), which need no compressor.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut blocks = bytes.chunks(0xffff).peekable();
    if blocks.peek().is_none() {
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).expect("a chunk is no longer");
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    let crc = !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    });
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&u32::try_from(bytes.len() & 0xffff_ffff).expect("it is cut").to_le_bytes());
    out
}

#[test]
fn the_fake_does_what_it_says() {
    let server = FakeHttp::start(|request| match request.path.as_str() {
        "/echo" => Answer::json(request.body.clone()).header("X-Query", request.query.clone().unwrap_or_default()),
        "/reset" => Answer::reset(),
        "/cut" => Answer::text("0123456789").cut_short(),
        _ => Answer::hang_up(),
    });
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text).map_err(|error| error.kind())
    };
    assert_eq!(ask("GET /reset HTTP/1.1\r\n\r\n"), Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(ask("GET /none HTTP/1.1\r\n\r\n"), Ok(String::new()));
    assert!(ask("GET /cut HTTP/1.1\r\n\r\n").unwrap().ends_with("\r\n\r\n01234"));
    // Two on one connection; the second ends it.
    let both = ask(concat!(
        "POST /echo?a=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "POST /none HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]"
    ));
    assert!(both.unwrap().ends_with("X-Query: a=1\r\nContent-Length: 2\r\n\r\n{}"));
    let requests = server.wait_for(5);
    assert_eq!((requests[3].text().as_str(), requests[3].connection), ("{}", requests[4].connection));
    assert_eq!((server.connections(), server.count("/none"), server.most_at_once()), (4, 2, 1));
}
