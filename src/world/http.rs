//! Our Request and Response, and the Transport that carries them. Hides ureq.
//!
//! ureq connects by our own [`dial`]: its own way gives the first of several addresses most of the time, takes any slow drip of a proxy for an answer,
//! and reads the proxy variables by rules that are not curl's. The part of ureq for that (`unversioned`) may change in any 3.x.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use ureq::Agent;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport as carrier;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout};

use super::dial;
use super::proxy::Proxies;
use super::tls::{self, Encrypted, Tls};
use crate::model::address::Address;
use crate::model::secret::Secret;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Asks.
    Get,
    /// Sends.
    Post,
    /// Replaces.
    Put,
}

/// A request, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it does.
    pub method: Method,
    /// Where it goes; displays without its path.
    pub address: Address,
    /// Headers whose values are no secret.
    pub headers: Vec<(&'static str, String)>,
    /// `Authorization`, if it needs one.
    pub authorization: Option<Secret>,
    /// `Cookie`, if it needs one. None is ever kept from an answer.
    pub cookie: Option<Secret>,
    /// The body, for a POST or PUT.
    pub body: Vec<u8>,
    /// The body is compressed on its way.
    pub gzip: bool,
}

impl Request {
    /// A question.
    pub fn get(address: Address) -> Request {
        Request {
            method: Method::Get,
            address,
            headers: Vec::new(),
            authorization: None,
            cookie: None,
            body: Vec::new(),
            gzip: false,
        }
    }

    /// A POST of JSON.
    pub fn post_json(address: Address, body: Vec<u8>) -> Request {
        let headers = vec![("content-type", "application/json".to_owned())];
        Request { method: Method::Post, headers, body, ..Request::get(address) }
    }
}

/// An answer. Its status is judged by the destination, not thrown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// `Retry-After`, as sent.
    pub retry_after: Option<String>,
    /// `Location`, as sent.
    pub location: Option<String>,
    /// `Content-Type`, in lower case.
    pub content_type: String,
    /// The decoded body, cut at the transport's limit.
    pub body: Vec<u8>,
    /// Whether it was cut.
    pub truncated: bool,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// There was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The server's certificate cannot be believed: no retry mends that.
    Certificate(String),
    /// Anything else: refused, reset, timed out, no such host.
    Unreachable(String),
}

impl TransportError {
    /// The cause, without address or secret.
    pub fn reason(&self) -> &str {
        match self {
            TransportError::Certificate(reason) | TransportError::Unreachable(reason) => reason,
        }
    }
}

/// What carries requests: the real one, or a test's scripted one.
pub trait Transport: Send + Sync {
    /// Sends one request and waits for its answer, no longer than the transport's timeout.
    ///
    /// # Errors
    /// There was no answer.
    fn send(&self, request: &Request) -> Result<Response, TransportError>;
}

/// How the real transport behaves.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// For a whole request, its answer included.
    pub timeout: Duration,
    /// The longest body kept, in bytes, after decompression.
    pub body: u64,
    /// Connections kept for reuse, one a worker.
    pub connections: usize,
}

/// To connect, everywhere in the suite.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The real transport. Follows no redirect, so that no body and no credential goes where nobody sent it.
#[derive(Clone)]
pub struct Http {
    agent: Agent,
    limit: u64,
}

impl Http {
    /// A transport.
    pub fn new(tls: &Tls, proxies: Proxies, limits: HttpLimits) -> Http {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT.min(limits.timeout)))
            .timeout_global(Some(limits.timeout))
            .max_idle_connections_per_host(limits.connections)
            .proxy(None)
            .user_agent(concat!("tutum/", env!("CARGO_PKG_VERSION")))
            .build();
        let dialer = Dialer { proxies, tls: tls.clone(), longest: limits.timeout };
        let agent = Agent::with_parts(config, dialer, NoResolver);
        Http { agent, limit: limits.body }
    }

    /// Ends all calls in flight at once; they come back as unreachable.
    pub fn shutdown(&self) {
        self.agent.clone().shutdown();
    }
}

impl Transport for Http {
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        let method = match request.method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
        };
        let mut builder = ureq::http::Request::builder().method(method).uri(request.address.expose());
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(authorization) = &request.authorization {
            builder = builder.header("authorization", authorization.expose());
        }
        if let Some(cookie) = &request.cookie {
            builder = builder.header("cookie", cookie.expose());
        }
        // The builder's own message would quote the URL or the header.
        let wrong = |_| TransportError::Unreachable("the URL or a header cannot be sent".to_owned());
        let result = match request.method {
            Method::Get => self.agent.run(builder.body(()).map_err(wrong)?),
            Method::Post | Method::Put if request.gzip => {
                let body = compressed(&request.body);
                self.agent.run(builder.header("content-encoding", "gzip").body(body.as_slice()).map_err(wrong)?)
            }
            Method::Post | Method::Put => self.agent.run(builder.body(request.body.as_slice()).map_err(wrong)?),
        };
        let mut answer = result.map_err(|error| explain(&error))?;
        let header = |name: &str| {
            let value = answer.headers().get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let mut response = Response {
            status: answer.status().as_u16(),
            retry_after: header("retry-after"),
            location: header("location"),
            content_type: header("content-type").unwrap_or_default().to_ascii_lowercase(),
            ..Response::default()
        };
        // The crate's own limit counts compressed bytes; and an unread body would cost the connection.
        let mut reader = answer.body_mut().as_reader().take(self.limit + 1);
        match reader.read_to_end(&mut response.body) {
            Ok(_) => {}
            // A status that is not success says enough without its body.
            Err(_) if response.status >= 300 => {}
            Err(error) => return Err(explain_io(&error)),
        }
        if response.body.len() as u64 > self.limit {
            response.body.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
            response.truncated = true;
        }
        Ok(response)
    }
}

fn compressed(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory takes every byte")
}

/// Leaves looking up names to [`Dialer`]: behind a proxy the proxy does it.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &ureq::config::Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

/// Makes ureq's connections, with the TLS that WebSockets have.
#[derive(Debug)]
struct Dialer {
    proxies: Proxies,
    tls: Tls,
    /// No operation takes longer.
    longest: Duration,
}

impl Connector for Dialer {
    type Out = Socket;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Socket>, ureq::Error> {
        let failed = |reason: String| ureq::Error::Io(io::Error::other(reason));
        let uri = details.uri;
        let host = uri.host().unwrap_or_default();
        let address = Address {
            scheme: uri.scheme_str().unwrap_or_default().to_owned(),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            explicit_port: uri.port_u16(),
            path: "/".to_owned(),
            query: None,
        };
        let proxy = self.proxies.find(&address).map_err(failed)?;
        let deadline = Instant::now() + (*details.timeout.after).min(self.longest);
        let tcp = dial::dial(&address, proxy.as_ref(), deadline).map_err(failed)?;
        let tcp = Arc::new(tcp);
        let handle: Weak<dyn carrier::ShutdownHandle> = Arc::<TcpStream>::downgrade(&tcp);
        (details.register_shutdown)(handle)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        let mut socket = Socket { tcp, encrypted: None, buffers, longest: self.longest };
        if details.needs_tls() {
            let left = Some(socket.left(details.timeout)?);
            socket.tcp.set_read_timeout(left)?;
            socket.tcp.set_write_timeout(left)?;
            let below = Shared(Arc::clone(&socket.tcp));
            let encrypted = Encrypted::connect(&self.tls, &address.host, below);
            socket.encrypted = Some(Box::new(encrypted.map_err(|error| late(error, details.timeout))?));
        }
        Ok(Some(socket))
    }
}

/// The socket below TLS, which the transport keeps a hold of for its timeouts.
struct Shared(Arc<TcpStream>);

impl Read for Shared {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(room)
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connected socket, as ureq wants it.
struct Socket {
    tcp: Arc<TcpStream>,
    encrypted: Option<Box<Encrypted<Shared>>>,
    buffers: LazyBuffers,
    longest: Duration,
}

impl Socket {
    /// What an operation may take from now on; a socket has no timeout of zero.
    fn left(&self, timeout: NextTimeout) -> Result<Duration, ureq::Error> {
        let left = (*timeout.after).min(self.longest);
        if left.is_zero() { Err(ureq::Error::Timeout(timeout.reason)) } else { Ok(left) }
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// A socket's timeout shows as `WouldBlock`.
fn late(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

impl carrier::Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.tcp.set_write_timeout(Some(self.left(timeout)?))?;
        let output = &self.buffers.output()[..amount];
        let written = match &mut self.encrypted {
            None => (&*self.tcp).write_all(output),
            Some(encrypted) => encrypted.write_all(output).and_then(|()| encrypted.flush()),
        };
        match written {
            // The server ended the connection, and may have said why (a TLS alert, an early 413): the next read tells.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| late(error, timeout)),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let deadline = Instant::now() + self.left(timeout)?;
        let amount = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Signals are no reason to wait longer.
            if left.is_zero() {
                return Err(ureq::Error::Timeout(timeout.reason));
            }
            self.tcp.set_read_timeout(Some(left))?;
            let room = self.buffers.input_append_buf();
            let read = match &mut self.encrypted {
                None => (&*self.tcp).read(room),
                Some(encrypted) => encrypted.read(room),
            };
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.map_err(|error| late(error, timeout))?,
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_tls(&self) -> bool {
        self.encrypted.is_some()
    }

    /// Whether a connection kept for reuse is still good: the server has neither closed it nor said anything unasked.
    fn is_open(&mut self) -> bool {
        let quiet = |tcp: &TcpStream| matches!(tcp.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.tcp.set_nonblocking(true).is_ok() && quiet(&self.tcp) && self.tcp.set_nonblocking(false).is_ok()
    }
}

fn explain(error: &ureq::Error) -> TransportError {
    if let Some(cause) = tls::certificate_error(error) {
        return TransportError::Certificate(cause);
    }
    match error {
        ureq::Error::Io(error) => explain_io(error),
        ureq::Error::Timeout(what) => TransportError::Unreachable(format!("timed out ({what})")),
        ureq::Error::HostNotFound => TransportError::Unreachable("no such host".to_owned()),
        ureq::Error::ConnectionFailed => TransportError::Unreachable("cannot connect".to_owned()),
        // These two quote the URL.
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => {
            TransportError::Unreachable("the URL cannot be used".to_owned())
        }
        other => TransportError::Unreachable(other.to_string()),
    }
}

fn explain_io(error: &std::io::Error) -> TransportError {
    match tls::certificate_error(error) {
        Some(cause) => TransportError::Certificate(cause),
        None => TransportError::Unreachable(error.to_string()),
    }
}
