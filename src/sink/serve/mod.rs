//! tutum-serve: serves the events on standard input as Tutum's stream and REST API. The inverse of tutum-stream.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`gate`] | who may come in: credentials and origins |
//! | [`store`] | what is known of every object |
//! | [`list`] | lists of objects: pages and filters |
//! | [`routes`] | which path means what, and the answers |
//! | [`hub`] | the connected clients and what each still has to be sent |
//! | [`connection`] | a connection from its first byte to its last |

pub mod connection;
pub mod gate;
pub mod hub;
pub mod list;
pub mod routes;
pub mod store;

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::flow::accounts::Accounts;
use crate::flow::stage::Stage;
use crate::model::event::Event;
use crate::model::exit::Failure;
use crate::model::json;
use crate::model::line::Lines;
use crate::model::quantity::Rate;
use crate::model::time::Moment;
use crate::world::credentials::SecretSource;
use crate::world::tls::ServerTls;
use crate::world::websocket::server::Listener;
use crate::world::{Diagnostics, World, unix};
use connection::{CLOSE_TIME, House};
use gate::Gate;
use hub::Hub;
use routes::AuthFailure;
use store::{Store, text_of};

/// Where it listens unless told otherwise.
pub const LISTEN: &str = "127.0.0.1:8765";

/// A paced input that was late catches up on no more than this.
const PACE_SLACK: Duration = Duration::from_millis(100);

/// After a run that did not end in the usual way, clients have so long to hear of it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a user can say about the server.
#[derive(Clone, Debug)]
pub struct ServeArgs {
    /// Address and port.
    pub listen: String,
    /// The only user's name.
    pub user: Option<String>,
    /// A file with that user's API key.
    pub token_file: Option<PathBuf>,
    /// No credential is asked, whatever the address.
    pub open: bool,
    /// How a wrong credential is told on the stream.
    pub failure: AuthFailure,
    /// Lifecycle records are served too.
    pub lifecycle: bool,
    /// Objects to begin with.
    pub resources: Option<PathBuf>,
    /// What a client may fall behind, in bytes.
    pub client_buffer: u64,
    /// The input's pace.
    pub rate: Option<Rate>,
    /// End after the end of input.
    pub exit: bool,
    /// The server's certificate and its key, in PEM.
    pub tls_cert: Option<PathBuf>,
    /// See there.
    pub tls_key: Option<PathBuf>,
}

impl Default for ServeArgs {
    fn default() -> ServeArgs {
        ServeArgs {
            listen: LISTEN.to_owned(),
            user: None,
            token_file: None,
            open: false,
            failure: AuthFailure::Message,
            lifecycle: false,
            resources: None,
            client_buffer: 8 << 20,
            rate: None,
            exit: false,
            tls_cert: None,
            tls_key: None,
        }
    }
}

/// Everything that can be known before listening: addresses, credentials, objects, certificates.
pub struct Prepared {
    args: ServeArgs,
    addresses: Vec<SocketAddr>,
    gate: Gate,
    store: Store,
    tls: Option<ServerTls>,
}

impl Prepared {
    /// Reads and checks what the arguments name.
    ///
    /// # Errors
    /// Wrong usage or configuration: names the flag and the cause.
    pub fn new(args: ServeArgs, now: Moment) -> Result<Prepared, Failure> {
        let addresses = addresses(&args.listen).map_err(Failure::usage)?;
        let loopback = addresses.iter().all(|address| address.ip().is_loopback());
        let gate = gate(&args, loopback).map_err(Failure::usage)?;
        let store = Store::default();
        if let Some(path) = &args.resources {
            load(&store, path, now).map_err(|error| Failure::usage(format!("--resources: {error}")))?;
        }
        let tls = match (&args.tls_cert, &args.tls_key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(ServerTls::load(cert, key).map_err(Failure::usage)?),
            (Some(_), None) => return Err(Failure::usage("--tls-cert: needs --tls-key")),
            (None, Some(_)) => return Err(Failure::usage("--tls-key: needs --tls-cert")),
        };
        Ok(Prepared { args, addresses, gate, store, tls })
    }

    /// What would be done, for `--check`.
    pub fn facts(&self) -> Vec<String> {
        let who = match &self.gate {
            Gate::Loopback => "whoever reaches this machine's loopback address".to_owned(),
            Gate::Open => "anyone (--open)".to_owned(),
            Gate::Guarded { name, .. } => format!("user {name} with the right API key"),
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        vec![
            format!("would listen on {scheme}://{} and let in {who}", self.args.listen),
            format!("would begin with {} objects (--resources)", self.store.count()),
            "would read records from standard input, serve them and pass them on".to_owned(),
        ]
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// The address is in use or not ours (4), or privileged (2); the system has no descriptors or threads left (4).
    pub fn listen(self, world: &World) -> Result<Serve, Failure> {
        let listener = Listener::bind(&self.addresses).map_err(|error| {
            let message = format!("--listen {}: {error}", self.args.listen);
            match error.kind() {
                std::io::ErrorKind::PermissionDenied => Failure::usage(message),
                _ => Failure::failed(message),
            }
        })?;
        let cannot = |error: std::io::Error| Failure::failed(format!("cannot start: {error}"));
        let address = listener.address().map_err(cannot)?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let hub = Arc::new(Hub::new(self.args.client_buffer, world.wake.clone()).map_err(cannot)?);
        let house = Arc::new(House {
            hub: Arc::clone(&hub),
            store: self.store,
            gate: Mutex::new(Arc::new(self.gate)),
            failure: self.args.failure,
            tls: self.tls,
            diagnostics: world.diagnostics.clone(),
            clock: world.clock,
        });
        connection::open(Arc::clone(&house), listener).map_err(cannot)?;
        world.diagnostics.info(&format!("listening on {scheme}://{address}"));
        let loopback = address.ip().is_loopback();
        let now = world.clock.now();
        Ok(Serve {
            pace: self.args.rate.map(|rate| Pace { interval: rate.interval(), next: now.at }),
            args: self.args,
            loopback,
            hub,
            house,
            diagnostics: world.diagnostics.clone(),
            seen: now.at,
            finished: false,
            stopped: false,
            deadline: None,
        })
    }
}

/// The addresses of `HOST:PORT`.
fn addresses(listen: &str) -> Result<Vec<SocketAddr>, String> {
    let wrong = || format!("--listen: expected ADDR:PORT such as {LISTEN} or [::1]:0, got \"{listen}\"");
    let (host, port) = listen.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(wrong());
    }
    let found = listen.to_socket_addrs().map_err(|error| format!("--listen {listen}: {error}"))?;
    Ok(found.collect())
}

/// Who is let in. The key is looked for again each time, so that a rotated one is found.
fn gate(args: &ServeArgs, loopback: bool) -> Result<Gate, String> {
    if args.open {
        return match (&args.user, &args.token_file) {
            (None, None) => Ok(Gate::Open),
            _ => Err("--open: asks nobody for credentials, so --user and --token-file have no meaning".to_owned()),
        };
    }
    let read = |name| SecretSource::new(None, name).read();
    let key = match &args.token_file {
        Some(file) => {
            let source = SecretSource::new(Some(file.clone()), "TUTUM_APIKEY");
            source.read().map_err(|error| format!("--token-file: {error}"))?
        }
        None => match read("TUTUM_APIKEY")? {
            Some(key) => Some(key),
            None => read("TUTUM_TOKEN")?,
        },
    };
    let Some(key) = key else {
        return match &args.user {
            Some(_) => Err("--user: no API key: give --token-file or set TUTUM_APIKEY".to_owned()),
            None if loopback => Ok(Gate::Loopback),
            None => Err(format!(
                "--listen {}: not a loopback address, so it needs --user and --token-file, or --open to let anyone in",
                args.listen
            )),
        };
    };
    let name = match &args.user {
        Some(name) => Some(name.clone()),
        None => match read("TUTUM_USER")? {
            Some(name) => Some(name.expose().to_owned()),
            None => read("TUTUM_USERNAME")?.map(|name| name.expose().to_owned()),
        },
    };
    let name = name.ok_or("there is an API key and no user name: give --user or set TUTUM_USER")?;
    Ok(Gate::Guarded { name, key })
}

/// Loads a JSON array of objects, a list as the REST API answers it, or an object a line.
fn load(store: &Store, path: &Path, now: Moment) -> Result<(), String> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with('[') {
        let wrapped = format!(r#"{{"objects":{text}}}"#);
        return load_text(store, &wrapped, now).map_err(|reason| format!("{name}: {reason}"));
    }
    // One object, however many lines it is written on, or one a line.
    if !text.is_empty() && json::object(text, |_, _| ()).is_ok() {
        return load_text(store, text, now).map_err(|reason| format!("{name}: {reason}"));
    }
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        load_text(store, line, now).map_err(|reason| format!("{name}: line {}: {reason}", number + 1))?;
    }
    Ok(())
}

/// Puts one object, or the `objects` of a list, into the store.
fn load_text(store: &Store, text: &str, now: Moment) -> Result<(), String> {
    let mut listed = None;
    json::select(text, |key| key == "objects", |_, raw| listed = Some(raw)).map_err(|fault| fault.reason)?;
    match listed.filter(|_| text_of(text, "resource_uri").is_none()) {
        None => store.put(text, now),
        Some(list) => json::elements(list).into_iter().enumerate().try_for_each(|(at, object)| {
            store.put(object, now).map_err(|reason| format!("object {}: {reason}", at + 1))
        }),
    }
}

/// The input's pace.
struct Pace {
    interval: Duration,
    next: Instant,
}

/// The stage.
pub struct Serve {
    args: ServeArgs,
    loopback: bool,
    hub: Arc<Hub>,
    house: Arc<House>,
    diagnostics: Diagnostics,
    pace: Option<Pace>,
    /// The moment it was last told.
    seen: Instant,
    finished: bool,
    stopped: bool,
    /// When the clients' goodbyes are waited for no longer.
    deadline: Option<Instant>,
}

impl Serve {
    /// Begins to end, if both the input and the need to serve on have ended.
    fn end_if_due(&mut self, now: Moment) {
        self.seen = now.at;
        if self.finished && (self.stopped || self.args.exit) {
            self.hub.finish();
            if self.stopped {
                self.deadline.get_or_insert(now.at + CLOSE_TIME);
            }
        }
    }

    /// The last courtesy of a run that was given up: clients are told, and are given a second to hear it. Nothing to do after any other run.
    pub fn say_goodbye(&self, world: &World) {
        self.hub.finish();
        let deadline = world.clock.now().at + LAST_WORDS;
        while self.hub.connections() > 0 {
            let now = world.clock.now().at;
            if now >= deadline {
                break;
            }
            world.wake.clear();
            if self.hub.connections() > 0 {
                let _ =
                    unix::wait([(std::os::fd::AsFd::as_fd(&world.wake), unix::Interest::Read)], Some(deadline - now));
            }
        }
    }
}

impl Stage for Serve {
    fn take(&mut self, event: &Event<'_>, now: Moment, lines: &mut Lines) {
        lines.push(event.text.as_bytes());
        if let Some(pace) = &mut self.pace {
            let earliest = now.at.checked_sub(PACE_SLACK).unwrap_or(now.at);
            pace.next = pace.next.max(earliest) + pace.interval;
        }
        if event.is("auth") || (event.is_lifecycle() && !self.args.lifecycle) {
            return;
        }
        if !event.is_lifecycle() {
            self.house.store.heed(event, now);
        }
        self.hub.broadcast(event);
    }

    fn ready(&self) -> bool {
        self.pace.as_ref().is_none_or(|pace| pace.next <= self.seen)
    }

    fn satisfied(&self) -> bool {
        // What is paced is a demonstration; whoever stops it does not want the rest of it at once.
        self.stopped && self.pace.is_some()
    }

    fn deadline(&self) -> Option<Instant> {
        let paced = self.pace.as_ref().map(|pace| pace.next).filter(|next| *next > self.seen && !self.finished);
        paced.into_iter().chain(self.deadline).min()
    }

    fn wake(&mut self, now: Moment, _lines: &mut Lines) -> Result<(), Failure> {
        self.seen = now.at;
        Ok(())
    }

    fn finish(&mut self, now: Moment, _lines: &mut Lines) {
        self.finished = true;
        self.end_if_due(now);
    }

    fn stop(&mut self, now: Moment) {
        self.stopped = true;
        self.end_if_due(now);
    }

    fn busy(&self) -> bool {
        if !self.hub.is_ending() {
            return true;
        }
        self.hub.connections() > 0 && self.deadline.is_none_or(|deadline| self.seen < deadline)
    }

    fn silent(&self) -> bool {
        true
    }

    fn outlives_reader(&self) -> bool {
        true
    }

    fn reload(&mut self) {
        match gate(&self.args, self.loopback) {
            Ok(gate) => *self.house.gate.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(gate),
            Err(reason) => self.diagnostics.warn(&format!("{reason}; the credentials stay as they were")),
        }
    }

    fn accounts(&self) -> Accounts {
        self.hub.accounts().with("objects", self.house.store.count() as u64)
    }
}
