//! A fake APIC: logs in, refreshes, subscribes and pushes as a real one does, and misbehaves as told. Needs nothing but a port, so scripts/bench and other
//! people's toolkits can be run against it too.
//!
//! What a real one does and a simple fake would not: the token holds characters that must not be encoded, and another one comes with every refresh;
//! a subscription lives for a minute unless it is refreshed, and nothing is said when it ends; one made before the socket is open gets no id; with two
//! cookies everything is answered and nothing pushed; `.xml` is answered in XML.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::frame::frame;

pub const USER: &str = "watcher";
pub const PASSWORD: &str = "hunter22-apic";

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    /// The value of every `Cookie` header.
    pub cookies: Vec<String>,
    pub body: String,
    /// When it was read.
    pub at: Instant,
}

/// What an override does with a request: a status and a body, or a closed connection.
#[derive(Clone, Debug)]
pub enum Instead {
    Answer(u16, String),
    HangUp,
    /// Nothing is said for so long; then it goes on as usual.
    Late(Duration),
}

impl Instead {
    /// An error as an APIC words it.
    pub fn error(status: u16, text: &str) -> Instead {
        Instead::Answer(status, error(status, text))
    }
}

type Override = Box<dyn FnMut(&Asked) -> Option<Instead> + Send>;

/// The times an APIC tells or keeps, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub refresh_timeout: u64,
    pub life: u64,
    pub subscription: u64,
}

impl Default for Times {
    fn default() -> Times {
        Times { refresh_timeout: 600, life: 86_400, subscription: 60 }
    }
}

/// The server.
pub struct FakeApic {
    port: u16,
    scheme: &'static str,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    times: Times,
    domain: Option<String>,
    /// Sessions by number.
    sessions: HashMap<u64, Session>,
    /// Every token that is valid, with its session.
    tokens: HashMap<String, u64>,
    logins: u64,
    logouts: u64,
    subscriptions: BTreeMap<u64, Subscription>,
    subscribed: u64,
    objects: BTreeMap<String, (String, String)>,
    asked: Vec<Asked>,
    misbehave: Option<Override>,
    /// A message of its own for every subscription an event belongs to.
    separate: bool,
    /// Open connections, to be broken off.
    open: Vec<TcpStream>,
    down: bool,
}

#[derive(Default)]
struct Session {
    socket: Option<Sender<Vec<u8>>>,
    refreshed: Option<Instant>,
    began: Option<Instant>,
}

struct Subscription {
    session: u64,
    target: String,
    subtree: bool,
    alive: Instant,
    life: Duration,
    /// It was made with two cookies.
    mute: bool,
}

fn error(status: u16, text: &str) -> String {
    format!(r#"{{"totalCount":"1","imdata":[{{"error":{{"attributes":{{"code":"{status}","text":"{text}"}}}}}}]}}"#)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeApic {
    pub fn start() -> FakeApic {
        FakeApic::start_with(Times::default())
    }

    pub fn start_with(times: Times) -> FakeApic {
        FakeApic::listen("127.0.0.1:0", times, None)
    }

    /// With TLS, if there is a configuration for it.
    pub fn listen(address: &str, times: Times, tls: Option<Arc<ServerConfig>>) -> FakeApic {
        let listener = TcpListener::bind(address).expect("a loopback port can be had");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(Mutex::new(State { times, ..State::default() }));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let server = Arc::downgrade(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), Some(state)) = (stream, server.upgrade()) else { return };
                if locked(&state).down {
                    continue;
                }
                if let Ok(clone) = stream.try_clone() {
                    locked(&state).open.push(clone);
                }
                let tls = tls.clone();
                thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    match tls {
                        None => serve(&state, stream.try_clone().expect("a socket can be cloned"), &stream),
                        Some(config) => {
                            let connection = ServerConnection::new(config).expect("the configuration is good");
                            let wire = stream.try_clone().expect("a socket can be cloned");
                            serve(&state, StreamOwned::new(connection, wire), &stream);
                        }
                    }
                });
            }
        });
        FakeApic { port, scheme, state }
    }

    /// With the certificate an APIC comes with: its own. Gives the certificate in PEM.
    pub fn start_self_signed() -> (FakeApic, String) {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate can be made");
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("the key is one");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("certificate and key fit");
        (FakeApic::listen("127.0.0.1:0", Times::default(), Some(Arc::new(config))), own.cert.pem())
    }

    pub fn url(&self) -> String {
        let host = if self.scheme == "https" { "localhost" } else { "127.0.0.1" };
        format!("{}://{host}:{}", self.scheme, self.port)
    }

    /// Users must say this login domain.
    pub fn demand_domain(&self, domain: &str) {
        locked(&self.state).domain = Some(domain.to_owned());
    }

    /// What it does with a request in place of the usual, if anything.
    pub fn misbehave(&self, how: impl FnMut(&Asked) -> Option<Instead> + Send + 'static) {
        locked(&self.state).misbehave = Some(Box::new(how));
    }

    pub fn behave(&self) {
        locked(&self.state).misbehave = None;
    }

    /// Sends every subscription's event in a message of its own.
    pub fn send_separately(&self) {
        locked(&self.state).separate = true;
    }

    pub fn asked(&self) -> Vec<Asked> {
        locked(&self.state).asked.clone()
    }

    /// How often a target that begins so was asked for.
    pub fn count(&self, target: &str) -> usize {
        locked(&self.state).asked.iter().filter(|asked| asked.target.starts_with(target)).count()
    }

    pub fn logins(&self) -> u64 {
        locked(&self.state).logins
    }

    pub fn logouts(&self) -> u64 {
        locked(&self.state).logouts
    }

    /// How many subscriptions were ever made.
    pub fn subscribed(&self) -> u64 {
        locked(&self.state).subscribed
    }

    /// How many event sockets are open.
    pub fn sockets(&self) -> usize {
        locked(&self.state).sessions.values().filter(|session| session.socket.is_some()).count()
    }

    /// Changes an object without telling anybody.
    pub fn put(&self, class: &str, dn: &str, attributes: &str) {
        locked(&self.state).objects.insert(dn.to_owned(), (class.to_owned(), attributes.to_owned()));
    }

    /// Removes one without telling anybody.
    pub fn remove(&self, dn: &str) {
        locked(&self.state).objects.remove(dn);
    }

    pub fn create(&self, class: &str, dn: &str, attributes: &str) {
        self.put(class, dn, attributes);
        let more = if attributes.is_empty() { String::new() } else { format!(",{attributes}") };
        self.push(class, dn, &format!(r#""childAction":"","dn":"{dn}","rn":"","status":"created"{more}"#));
    }

    /// Only what changes is told.
    pub fn modify(&self, class: &str, dn: &str, attributes: &str) {
        self.put(class, dn, attributes);
        self.push(class, dn, &format!(r#""dn":"{dn}","status":"modified",{attributes}"#));
    }

    pub fn delete(&self, class: &str, dn: &str) {
        self.remove(dn);
        self.push(class, dn, &format!(r#""dn":"{dn}","status":"deleted""#));
    }

    /// An event to every subscription that it belongs to.
    pub fn push(&self, class: &str, dn: &str, attributes: &str) {
        let state = locked(&self.state);
        let object = format!(r#"{{"{class}":{{"attributes":{{{attributes}}}}}}}"#);
        for (number, session) in &state.sessions {
            let Some(socket) = &session.socket else { continue };
            let belongs = |subscription: &Subscription| {
                let fits = subscription.target == class
                    || subscription.target == dn
                    || (subscription.subtree && dn.starts_with(&format!("{}/", subscription.target)));
                fits && subscription.session == *number
                    && !subscription.mute
                    && subscription.alive.elapsed() < subscription.life
            };
            let ids = state.subscriptions.iter().filter(|(_, subscription)| belongs(subscription));
            let ids: Vec<String> = ids.map(|(id, _)| format!("\"{id}\"")).collect();
            let messages = if state.separate { ids } else { vec![ids.join(",")] };
            for ids in messages.iter().filter(|ids| !ids.is_empty()) {
                let text = format!(r#"{{"subscriptionId":[{ids}],"imdata":[{object}]}}"#);
                let _ = socket.send(frame(1, true, text.as_bytes()));
            }
        }
    }

    /// Any text to every socket.
    pub fn say(&self, text: &str) {
        for session in locked(&self.state).sessions.values() {
            if let Some(socket) = &session.socket {
                let _ = socket.send(frame(1, true, text.as_bytes()));
            }
        }
    }

    /// Forgets every session; sockets stay open, as they do for a while.
    pub fn forget_sessions(&self) {
        locked(&self.state).tokens.clear();
    }

    /// Forgets every subscription, and says nothing.
    pub fn forget_subscriptions(&self) {
        locked(&self.state).subscriptions.clear();
    }

    /// Breaks off every connection, and with `down` takes no other for as long as it is not [`FakeApic::up`].
    pub fn break_off(&self, down: bool) {
        let mut state = locked(&self.state);
        state.down = down;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        for session in state.sessions.values_mut() {
            session.socket = None;
        }
        state.subscriptions.clear();
    }

    pub fn up(&self) {
        locked(&self.state).down = false;
    }
}

impl Drop for FakeApic {
    fn drop(&mut self) {
        self.break_off(true);
    }
}

fn serve(state: &Mutex<State>, wire: impl Read + Write, tcp: &TcpStream) {
    let mut reader = BufReader::new(wire);
    while let Some((asked, headers)) = read_request(&mut reader) {
        let instead = {
            let mut state = locked(state);
            state.asked.push(asked.clone());
            state.misbehave.as_mut().and_then(|misbehave| misbehave(&asked))
        };
        let (status, body, more) = match instead {
            Some(Instead::HangUp) => break,
            Some(Instead::Answer(status, body)) => (status, body, String::new()),
            late => {
                if let Some(Instead::Late(delay)) = late {
                    thread::sleep(delay);
                }
                if let Some(token) = asked.target.strip_prefix("/socket") {
                    match upgrade(state, token, &headers) {
                        Ok((head, frames, session)) => {
                            let wire = reader.get_mut();
                            if wire.write_all(head.as_bytes()).and_then(|()| wire.flush()).is_ok() {
                                push(reader, tcp, &frames);
                            }
                            if let Some(session) = locked(state).sessions.get_mut(&session) {
                                session.socket = None;
                            }
                            break;
                        }
                        Err(status) => (status, error(status, "Token was invalid"), String::new()),
                    }
                } else {
                    answer(state, &asked)
                }
            }
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{more}\r\n",
            body.len()
        );
        let wire = reader.get_mut();
        if wire.write_all(&[head.as_bytes(), body.as_bytes()].concat()).and_then(|()| wire.flush()).is_err() {
            break;
        }
    }
    let _ = tcp.shutdown(std::net::Shutdown::Both);
}

/// Sends what is to be sent and answers pings, until either side ends it.
fn push(mut reader: BufReader<impl Read + Write>, tcp: &TcpStream, frames: &Receiver<Vec<u8>>) {
    let _ = tcp.set_read_timeout(Some(Duration::from_millis(5)));
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        for _ in 0..1000 {
            match frames.try_recv() {
                Ok(frame) => {
                    let wire = reader.get_mut();
                    if wire.write_all(&frame).and_then(|()| wire.flush()).is_err() {
                        return;
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        let mut room = [0; 512];
        match reader.read(&mut room) {
            Ok(0) => return,
            Ok(count) => bytes.extend(&room[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        // What a client sends is short: two bytes of head, four of mask.
        while bytes.len() >= 6 && bytes.len() >= 6 + usize::from(bytes[1] & 0x7f) {
            let length = usize::from(bytes[1] & 0x7f);
            let (opcode, mask) = (bytes[0] & 0x0f, [bytes[2], bytes[3], bytes[4], bytes[5]]);
            let payload: Vec<u8> =
                bytes[6..6 + length].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            bytes.drain(..6 + length);
            let reply = match opcode {
                9 => frame(10, true, &payload),
                8 => frame(8, true, &payload),
                _ => continue,
            };
            let wire = reader.get_mut();
            if wire.write_all(&reply).and_then(|()| wire.flush()).is_err() || opcode == 8 {
                return;
            }
        }
    }
}

fn upgrade(
    state: &Mutex<State>,
    token: &str,
    headers: &HashMap<String, String>,
) -> Result<(String, Receiver<Vec<u8>>, u64), u16> {
    let mut state = locked(state);
    let number = *state.tokens.get(token).ok_or(403_u16)?;
    let key = headers.get("sec-websocket-key").ok_or(400_u16)?;
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let (sender, frames) = channel();
    state.sessions.entry(number).or_default().socket = Some(sender);
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok((head, frames, number))
}

/// Status, body, further headers.
fn answer(state: &Mutex<State>, asked: &Asked) -> (u16, String, String) {
    let mut state = locked(state);
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    if path.strip_suffix(".xml").is_some() {
        return (200, "<?xml version=\"1.0\"?><imdata/>".to_owned(), String::new());
    }
    if path == "/api/aaaLogin.json" {
        return login(&mut state, &asked.body);
    }
    let cookies: Vec<String> = asked.cookies.iter().flat_map(|header| header.split("; ")).map(str::to_owned).collect();
    if path == "/api/webtokenSession.json" {
        let signed = cookies.iter().any(|cookie| cookie.starts_with("APIC-Request-Signature="))
            && cookies.contains(&"APIC-Certificate-Algorithm=v1.0".to_owned())
            && cookies.contains(&"APIC-Certificate-Fingerprint=fingerprint".to_owned())
            && cookies.contains(&format!("APIC-Certificate-DN=uni/userext/user-{USER}/usercert-{USER}.crt"));
        if !signed {
            return (403, error(403, "Token was invalid (Error: signature)"), String::new());
        }
        state.logins += 1;
        let (number, now) = (state.logins, Some(Instant::now()));
        state.sessions.insert(number, Session { socket: None, refreshed: now, began: now });
        return welcome(&mut state, number, "webtokenSession");
    }
    let names = ["APIC-cookie=", "APIC-WebSocket-Session="];
    let token = |cookie: &'_ String| names.iter().find_map(|name| cookie.strip_prefix(name).map(str::to_owned));
    let tokens: Vec<String> = cookies.iter().filter_map(token).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let session = tokens.last().and_then(|token| state.tokens.get(*token)).copied();
    let timeout = Duration::from_secs(state.times.refresh_timeout);
    let life = Duration::from_secs(state.times.life);
    let alive = session.and_then(|number| state.sessions.get(&number)).is_some_and(|session| {
        session.refreshed.is_some_and(|at| at.elapsed() < timeout)
            && session.began.is_some_and(|at| at.elapsed() < life)
    });
    if path == "/api/aaaLogout.json" && session.is_some() {
        state.logouts += 1;
    }
    let Some(number) = session.filter(|_| alive) else {
        return (403, error(403, "Token was invalid (Error: Token timeout)"), String::new());
    };
    let option = |name: &str| {
        query
            .split('&')
            .filter_map(|option| option.split_once('='))
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    };
    let objects = |state: &State, fits: &dyn Fn(&str, &str) -> bool| {
        let page = |name| option(name).and_then(|value| value.parse::<usize>().ok());
        let all: Vec<String> = state
            .objects
            .iter()
            .filter(|(dn, (class, _))| fits(dn, class))
            .map(|(dn, (class, attributes))| {
                let comma = if attributes.is_empty() { "" } else { "," };
                format!(r#"{{"{class}":{{"attributes":{{"dn":"{dn}","status":""{comma}{attributes}}}}}}}"#)
            })
            .collect();
        let size = page("page-size").unwrap_or(usize::MAX);
        let shown: Vec<String> =
            all.iter().skip(page("page").unwrap_or(0).saturating_mul(size)).take(size).cloned().collect();
        (all.len(), shown.join(","))
    };
    if path == "/api/aaaRefresh.json" {
        return renew(&mut state, number, tokens.last().copied().unwrap_or_default());
    }
    if path == "/api/aaaLogout.json" {
        state.tokens.retain(|_, session| *session != number);
        if let Some(session) = state.sessions.get_mut(&number) {
            session.socket = None;
        }
        return (200, r#"{"imdata":[]}"#.to_owned(), String::new());
    }
    if path == "/api/subscriptionRefresh.json" {
        let id = option("id").and_then(|id| id.parse().ok()).unwrap_or(0);
        let known = state.subscriptions.get_mut(&id).filter(|known| known.session == number);
        return match known.filter(|known| known.alive.elapsed() < known.life) {
            Some(subscription) => {
                subscription.alive = Instant::now();
                (200, r#"{"imdata":[]}"#.to_owned(), String::new())
            }
            None => (400, error(400, "Unable to find subscription"), String::new()),
        };
    }
    let place = path.trim_end_matches(".json").replace("/api/node/", "/api/");
    let subtree = option("query-target") == Some("subtree");
    let (target, (total, shown)) = match (place.strip_prefix("/api/class/"), place.strip_prefix("/api/mo/")) {
        (Some(class), _) if class.starts_with("no") => {
            return (400, error(400, &format!("class {class} not found")), String::new());
        }
        (Some(class), _) => (class.to_owned(), objects(&state, &|_, known| known == class)),
        (_, Some(dn)) => {
            let below = format!("{dn}/");
            (dn.to_owned(), objects(&state, &|known, _| known == dn || (subtree && known.starts_with(&below))))
        }
        _ => return (404, String::new(), String::new()),
    };
    let mut id = String::new();
    if option("subscription") == Some("yes") {
        let has_socket = state.sessions.get(&number).is_some_and(|session| session.socket.is_some());
        if has_socket {
            state.subscribed += 1;
            let new = 72_057_611_234_574_336 + state.subscribed;
            let seconds = option("refresh-timeout").and_then(|value| value.parse().ok());
            let life = Duration::from_secs(seconds.unwrap_or(state.times.subscription));
            let mute = tokens.len() > 1;
            let made = Subscription { session: number, target, subtree, alive: Instant::now(), life, mute };
            state.subscriptions.insert(new, made);
            id = new.to_string();
        }
        id = format!(r#""subscriptionId":"{id}","#);
    }
    let shown = if tokens.len() > 1 { String::new() } else { shown };
    (200, format!(r#"{{"totalCount":"{total}",{id}"imdata":[{shown}]}}"#), String::new())
}

fn login(state: &mut State, body: &str) -> (u16, String, String) {
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let attributes = &body["aaaUser"]["attributes"];
    let name = match &state.domain {
        Some(domain) => format!("apic:{domain}\\{USER}"),
        None => USER.to_owned(),
    };
    if attributes["name"] != name.as_str() || attributes["pwd"] != PASSWORD {
        return (401, error(401, "Authentication failed: bad name or password"), String::new());
    }
    state.logins += 1;
    let number = state.logins;
    let now = Some(Instant::now());
    state.sessions.insert(number, Session { socket: None, refreshed: now, began: now });
    welcome(state, number, "aaaLogin")
}

/// Another token for a session; the one before stays valid, for whoever used it last may have asked already.
fn renew(state: &mut State, number: u64, _before: &str) -> (u16, String, String) {
    if let Some(session) = state.sessions.get_mut(&number) {
        session.refreshed = Some(Instant::now());
    }
    welcome(state, number, "aaaRefresh")
}

fn welcome(state: &mut State, number: u64, class: &str) -> (u16, String, String) {
    let token = format!("eyJ+{number}/{}=secret==", state.tokens.len() + 1);
    state.tokens.insert(token.clone(), number);
    let Times { refresh_timeout, life, .. } = state.times;
    let body = format!(
        r#"{{"totalCount":"1","imdata":[{{"{class}":{{"attributes":{{"token":"{token}","refreshTimeoutSeconds":"{refresh_timeout}","maximumLifetimeSeconds":"{life}","userName":"{USER}","version":"5.2(7f)"}},"children":[]}}}}]}}"#
    );
    (200, body, format!("Set-Cookie: APIC-cookie={token}; path=/; HttpOnly\r\n"))
}

fn read_request(reader: &mut impl BufRead) -> Option<(Asked, HashMap<String, String>)> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        Some(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut headers, mut cookies) = (HashMap::new(), Vec::new());
    loop {
        let header = line()?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        if name == "cookie" {
            cookies.push(value.clone());
        }
        headers.insert(name, value);
    }
    let length = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Some((Asked { method, target, cookies, body, at: Instant::now() }, headers))
}
