//! A WebSocket server on loopback that the test plays itself, step by step, and that misbehaves exactly as told.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::PATIENCE;
pub use super::frame::frame;

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A listening port. Nobody is answered until the test accepts.
pub struct Server {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    scheme: &'static str,
}

impl Server {
    pub fn start() -> Server {
        Server::at("127.0.0.1:0".parse().expect("it is an address"))
    }

    /// A server at an address of this machine.
    pub fn at(address: SocketAddr) -> Server {
        Server::on(TcpListener::bind(address).expect("the port is free"))
    }

    /// A server on a port that is bound already.
    pub fn on(listener: TcpListener) -> Server {
        listener.set_nonblocking(true).expect("a listener can be nonblocking");
        Server { listener, tls: None, scheme: "ws" }
    }

    /// The same server under a URL that promises TLS, which it does not speak.
    pub fn claiming_tls(self) -> Server {
        Server { scheme: "wss", ..self }
    }

    /// A server that speaks TLS, and the certificate a client must believe, in PEM.
    pub fn start_tls() -> (Server, String) {
        Server::start_tls_as("localhost", false)
    }

    /// As [`Server::start_tls`], with a certificate that is its own CA's, as `openssl req -x509` makes it.
    pub fn start_tls_as_ca() -> (Server, String) {
        Server::start_tls_with("localhost", false, true)
    }

    /// As [`Server::start_tls`], with a certificate for `name`, which may have expired.
    pub fn start_tls_as(name: &str, expired: bool) -> (Server, String) {
        Server::start_tls_with(name, expired, false)
    }

    fn start_tls_with(name: &str, expired: bool, ca: bool) -> (Server, String) {
        let signing_key = rcgen::KeyPair::generate().expect("a key can be made");
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
        if ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        if expired {
            params.not_before = rcgen::date_time_ymd(2015, 4, 6);
            params.not_after = rcgen::date_time_ymd(2018, 5, 21);
        }
        let cert = params.self_signed(&signing_key).expect("a certificate can be made");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("the key is one");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("certificate and key fit");
        (Server { tls: Some(Arc::new(config)), scheme: "wss", ..Server::start() }, cert.pem())
    }

    /// A server that lets in only who shows the right certificate, and the files a client needs, by name: the server's certificate, its own, its key.
    pub fn start_mutual() -> (Server, [(&'static str, String); 3]) {
        let make =
            |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate can be made");
        let (own, client) = (make("localhost"), make("client"));
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("the key is one");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(client.cert.der().clone()).expect("the certificate is one");
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_client_cert_verifier(verifier.build().expect("there is a root"))
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("certificate and key fit");
        let key = client.signing_key.serialize_pem();
        let files = [("ca.pem", own.cert.pem()), ("client.pem", client.cert.pem()), ("key.pem", key)];
        (Server { tls: Some(Arc::new(config)), scheme: "wss", ..Server::start() }, files)
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("it is bound").port()
    }

    pub fn url(&self) -> String {
        let host = if self.scheme == "wss" { "localhost" } else { "127.0.0.1" };
        format!("{}://{host}:{}", self.scheme, self.port())
    }

    /// The next connection: accepted, and nothing read or said yet.
    #[track_caller]
    pub fn accept(&self) -> Peer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((tcp, _)) => return Peer::new(tcp, self.tls.as_ref()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "nobody connects");
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("accept: {error}"),
            }
        }
    }

    /// Whether somebody has connected who was not accepted yet; takes and drops that connection.
    pub fn was_called(&self) -> bool {
        self.listener.accept().is_ok()
    }
}

/// One connection, the server's end.
pub struct Peer {
    tcp: TcpStream,
    stream: Stream,
    /// The request's head, once it was read.
    pub head: String,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

/// A frame from the client, unmasked.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame.
    pub fn code(&self) -> Option<u16> {
        self.payload.get(..2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

impl Peer {
    fn new(tcp: TcpStream, tls: Option<&Arc<ServerConfig>>) -> Peer {
        tcp.set_nonblocking(false).expect("a socket can block");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
        tcp.set_write_timeout(Some(PATIENCE)).expect("a socket has timeouts");
        tcp.set_nodelay(true).expect("it is TCP");
        let same = tcp.try_clone().expect("a socket can be cloned");
        let stream = match tls {
            None => Stream::Plain(same),
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).expect("the configuration is good");
                Stream::Tls(Box::new(StreamOwned::new(connection, same)))
            }
        };
        Peer { tcp, stream, head: String::new() }
    }

    /// Reads the request's head.
    #[track_caller]
    pub fn request(mut self) -> Peer {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            match self.read(&mut byte) {
                Ok(1) => bytes.push(byte[0]),
                other => panic!("the request's head ended early ({other:?}): {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        self.head = String::from_utf8(bytes).expect("a head is text");
        self
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// Reads the request and upgrades.
    #[track_caller]
    pub fn upgrade(self) -> Peer {
        let mut peer = self.request();
        let key = peer.header("sec-websocket-key").expect("the request has a key").to_owned();
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        peer.raw(
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            .as_bytes(),
        );
        peer
    }

    /// Upgrades and lets the client in.
    #[track_caller]
    pub fn welcome(self) -> Peer {
        let mut peer = self.upgrade();
        peer.text(r#"{"type":"auth"}"#);
        peer
    }

    /// Reads the request and answers something else, e.g. `503 Service Unavailable`, then ends the connection.
    #[track_caller]
    pub fn refuse(self, status: &str, headers: &str, body: &str) {
        self.request().refuse_read(status, headers, body);
    }

    /// As [`Peer::refuse`], after the request was read.
    pub fn refuse_read(self, status: &str, headers: &str, body: &str) {
        let mut peer = self;
        let length = body.len();
        peer.raw(
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                .as_bytes(),
        );
        let _ = peer.tcp.shutdown(Shutdown::Write);
        let _ = peer.read(&mut [0; 64]);
    }

    /// Reads the body of the request, whose head was read, answers it and ends the connection: HTTP by hand, where [`super::http`] has no TLS.
    #[track_caller]
    pub fn answer(mut self, status: &str, body: &str) {
        let length = self.header("content-length").map_or(0, |length| length.parse().expect("a length is a number"));
        self.read_exact(&mut vec![0; length]).expect("the body comes");
        self.refuse_read(status, "", body);
    }

    #[track_caller]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.try_raw(bytes).expect("the client takes it");
    }

    pub fn try_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    #[track_caller]
    pub fn text(&mut self, text: &str) {
        self.raw(&frame(TEXT, true, text.as_bytes()));
    }

    #[track_caller]
    pub fn close(&mut self, code: u16, reason: &str) {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        self.raw(&frame(CLOSE, true, &payload));
    }

    /// The next frame of the client.
    #[track_caller]
    pub fn receive(&mut self) -> Frame {
        self.try_receive().expect("a frame comes")
    }

    pub fn try_receive(&mut self) -> std::io::Result<Frame> {
        let mut head = [0; 2];
        self.read_exact(&mut head)?;
        assert_eq!(head[1] & 0x80, 0x80, "a client masks");
        assert!(head[1] & 0x7f < 126, "a client of ours sends small frames only");
        let mut mask = [0; 4];
        self.read_exact(&mut mask)?;
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        self.read_exact(&mut payload)?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Ok(Frame { opcode: head[0] & 0x0f, payload })
    }

    /// The next frame that is no ping.
    #[track_caller]
    pub fn receive_other_than_ping(&mut self) -> Frame {
        loop {
            let frame = self.receive();
            if frame.opcode != PING {
                return frame;
            }
        }
    }

    /// Waits until the client has let go of the connection.
    #[track_caller]
    pub fn until_gone(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = [0; 1024];
        while let Ok(1..) = self.read(&mut bytes) {
            assert!(Instant::now() < deadline, "the client stays");
        }
    }

    /// How long a read may take; the connection is of no use after a frame that came in part.
    pub fn patience(&self, patience: Duration) {
        self.tcp.set_read_timeout(Some(patience)).expect("a socket has timeouts");
    }

    /// The same socket, for another thread; without TLS.
    pub fn same(&self) -> TcpStream {
        self.tcp.try_clone().expect("a socket can be cloned")
    }

    /// Ends the connection; what was read of it stays.
    pub fn hang_up(&self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }

    /// Ends the connection with a reset, as a crash or a middlebox does.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.tcp, Some(Duration::ZERO)).expect("a socket can linger");
    }

    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.read(room),
            Stream::Tls(stream) => stream.read(room),
        }
    }

    fn read_exact(&mut self, room: &mut [u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.read_exact(room),
            Stream::Tls(stream) => stream.read_exact(room),
        }
    }
}
