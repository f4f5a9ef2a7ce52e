//! A connection from its first byte to its last, on a thread of its own; and the thread that accepts them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::hub::{Client, Hub, Next, Place};
use super::routes::{AuthFailure, Reply, Route, route};
use super::store::Store;
use crate::world::tls::ServerTls;
use crate::world::unix::{self, Interest};
use crate::world::websocket::server::{Close, Head, HeadFault, Link, Listener, Peer, Progress, Text, would_wait};
use crate::world::{Clock, Diagnostics};

/// A request's head is to be there after so long, its TLS handshake included.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// The longest head, in bytes.
const HEAD_SIZE: usize = 16 << 10;

/// An answer is to be taken after so long.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A client that takes nothing for so long, while something waits for it, is gone.
const STALL_TIME: Duration = Duration::from_secs(30);

/// So long a client may take to answer a close, and to read what was sent before it.
pub const CLOSE_TIME: Duration = Duration::from_secs(5);

/// One that was cut off has more to read before the close, and is slow.
const CUT_OFF_TIME: Duration = Duration::from_secs(20);

/// What a client still sends after its answer is read for so long and up to so many bytes, or the answer could be lost to a reset.
const LINGER_TIME: Duration = Duration::from_millis(500);
const LINGER_SIZE: usize = 64 << 10;

/// A thread's stack, in bytes: enough for TLS and JSON, and only what is touched costs memory.
const STACK_SIZE: usize = 512 << 10;

/// What every connection needs.
pub struct House {
    /// The connected clients.
    pub hub: Arc<Hub>,
    /// The objects.
    pub store: Store,
    /// Who may come in; replaced when secrets are read again.
    pub gate: Mutex<Arc<Gate>>,
    /// How a wrong credential is told.
    pub failure: AuthFailure,
    /// What is shown under TLS.
    pub tls: Option<ServerTls>,
    /// Where trouble is told.
    pub diagnostics: Diagnostics,
    /// The time, for threads.
    pub clock: Clock,
}

impl House {
    fn now(&self) -> Instant {
        self.clock.now().at
    }

    fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Accepts connections until the end begins, each on a thread of its own.
///
/// # Errors
/// The system has no thread for it.
pub fn open(house: Arc<House>, listener: Listener) -> io::Result<()> {
    let thread = thread::Builder::new().name("accept".to_owned()).stack_size(STACK_SIZE);
    thread.spawn(move || accept_all(&house, &listener)).map(|_| ())
}

fn accept_all(house: &Arc<House>, listener: &Listener) {
    let hub = &house.hub;
    let mut troubled = false;
    while !hub.is_ending() {
        match listener.accept(house.tls.as_ref()) {
            Ok(Some((link, peer))) => {
                troubled = false;
                welcome(house, link, peer);
            }
            Ok(None) => {
                // If poll itself failed there would be no way to wait; a pause is the next best thing.
                let fds = [(listener.as_fd(), Interest::Read), (hub.end.as_fd(), Interest::Read)];
                if unix::wait(fds, None).is_err() {
                    thread::sleep(Duration::from_millis(100));
                }
            }
            Err(error) => {
                // Too many open files, most likely: it passes when a connection ends.
                if !troubled {
                    house.diagnostics.warn(&format!("a connection could not be accepted: {error}"));
                }
                troubled = true;
                let _ = unix::wait([(hub.end.as_fd(), Interest::Read)], Some(Duration::from_millis(100)));
            }
        }
    }
}

fn welcome(house: &Arc<House>, mut link: Link, peer: SocketAddr) {
    let place = house.hub.place();
    let refuse = |link: &mut Link| {
        // Whoever does not take it at once is not waited for.
        let _ = link.write(&Reply::error(503, "too many connections").bytes(true));
        house.diagnostics.detail(&format!("{peer}: too many connections"));
    };
    let Some(place) = place else { return refuse(&mut link) };
    let house = Arc::clone(house);
    let thread = thread::Builder::new().name(format!("client {peer}")).stack_size(STACK_SIZE);
    let diagnostics = house.diagnostics.clone();
    if let Err(error) = thread.spawn(move || Connection { house, peer, _place: place }.converse(link)) {
        diagnostics.warn(&format!("{peer}: no thread for it: {error}"));
    }
}

struct Connection {
    house: Arc<House>,
    peer: SocketAddr,
    _place: Place,
}

/// Why there is no head.
enum NoHead {
    /// The client is told why.
    Fault(Reply),
    /// There is nobody to tell, or no reason to.
    Gone,
}

impl Connection {
    fn converse(self, mut link: Link) {
        let house = &self.house;
        let (head, rest) = match self.read_head(&mut link) {
            Ok(read) => read,
            Err(NoHead::Fault(reply)) => {
                self.detail(&format!("{} {}", reply.status, reply.body));
                return self.answer(link, &reply, true);
            }
            Err(NoHead::Gone) => return,
        };
        let route = route(&head, &house.gate(), house.failure, &house.store, house.now());
        // Never the query: there may be a token in it.
        let shown = format!("{} {}", head.method, head.path);
        match route {
            Route::Answer(reply) => {
                self.detail(&format!("{shown}: {}", reply.status));
                house.hub.answered();
                if reply.status == 401 {
                    house.hub.refused();
                }
                self.answer(link, &reply, head.method != "HEAD");
            }
            Route::Refuse(upgrade) => {
                self.detail(&format!("{shown}: unauthorized"));
                house.hub.refused();
                if self.send(&mut link, upgrade.as_bytes()) {
                    self.turn_away(Peer::new(link, rest));
                }
            }
            Route::Stream(upgrade, wish) => {
                self.detail(&format!("{shown}: connected"));
                // Before it can know that it is connected, so that nothing read after that is missing.
                let client = match house.hub.join(wish) {
                    Ok(client) => client,
                    Err(error) => return house.diagnostics.warn(&format!("{}: {error}", self.peer)),
                };
                if self.send(&mut link, upgrade.as_bytes()) {
                    self.stream(Peer::new(link, rest), &client);
                    self.detail("disconnected");
                } else {
                    house.hub.leave(&client);
                }
            }
        }
    }

    fn detail(&self, what: &str) {
        if self.house.diagnostics.is_verbose() {
            self.house.diagnostics.detail(&format!("{}: {what}", self.peer));
        }
    }

    /// Reads a request's head, and what came after it.
    fn read_head(&self, link: &mut Link) -> Result<(Head, Vec<u8>), NoHead> {
        let fault = |status, reason: &str| NoHead::Fault(Reply::error(status, reason));
        let deadline = self.house.now() + HEAD_TIME;
        let end = &self.house.hub.end;
        let (mut bytes, mut room) = (Vec::new(), [0; 4096]);
        loop {
            match link.read(&mut room) {
                Ok(0) => return Err(NoHead::Gone),
                Ok(count) => {
                    bytes.extend_from_slice(&room[..count]);
                    match Head::parse(&bytes) {
                        Ok(Some((head, length))) if length <= HEAD_SIZE => return Ok((head, bytes.split_off(length))),
                        Ok(None) if bytes.len() <= HEAD_SIZE => {}
                        Ok(_) | Err(HeadFault::TooLong) => return Err(fault(431, "the request's head is too long")),
                        Err(HeadFault::Garbage) => return Err(fault(400, "this is not HTTP/1.1")),
                    }
                    continue;
                }
                Err(error) if would_wait(&error) => {}
                // The other side does not speak TLS; there is no language to tell it in.
                Err(error) => {
                    if error.kind() == ErrorKind::InvalidData {
                        self.detail(&error.to_string());
                    }
                    return Err(NoHead::Gone);
                }
            }
            let now = self.house.now();
            if now >= deadline {
                return Err(fault(408, "the request's head did not come in time"));
            }
            // Under TLS the handshake's answer may wait for room; nobody's first bytes fill a socket, so reading is what is waited for.
            let fds = [(link.as_fd(), Interest::Read), (end.as_fd(), Interest::Read)];
            let [_, ending] = unix::wait(fds, Some(deadline - now)).map_err(|_| NoHead::Gone)?;
            if ending.read {
                return Err(NoHead::Gone);
            }
        }
    }

    /// Writes everything, and says whether the other side took it.
    fn send(&self, link: &mut Link, mut bytes: &[u8]) -> bool {
        let deadline = self.house.now() + ANSWER_TIME;
        loop {
            let result = if bytes.is_empty() { link.flush().map(|()| 0) } else { link.write(bytes) };
            match result {
                Ok(_) if bytes.is_empty() => return true,
                Ok(count) => bytes = &bytes[count..],
                Err(error) if would_wait(&error) => {
                    let now = self.house.now();
                    let waited = unix::wait([(link.as_fd(), Interest::Write)], Some(deadline.duration_since(now)));
                    if now >= deadline || waited.is_err() {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    }

    /// Sends an answer and ends the connection, reading what is still on its way.
    fn answer(&self, mut link: Link, reply: &Reply, with_body: bool) {
        if !self.send(&mut link, &reply.bytes(with_body)) {
            return;
        }
        link.end_writing();
        let deadline = self.house.now() + LINGER_TIME;
        let (mut left, mut room) = (LINGER_SIZE, [0; 4096]);
        while left > 0 {
            match link.read(&mut room) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if would_wait(&error) => {
                    let now = self.house.now();
                    let waited = unix::wait([(link.as_fd(), Interest::Read)], Some(deadline.duration_since(now)));
                    if now >= deadline || waited.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Tells a client in Tutum's way that its credential is wrong.
    fn turn_away(&self, mut peer: Peer) {
        peer.write(&Text::new(r#"{"type":"error","data":{"errorMessage":"UNAUTHORIZED"}}"#));
        peer.close(Close::Policy, "UNAUTHORIZED");
        self.see_off(peer, CLOSE_TIME);
    }

    /// Waits for the other side's goodbye, having said ours.
    fn see_off(&self, mut peer: Peer, patience: Duration) {
        let deadline = self.house.now() + patience;
        loop {
            let flushed = peer.flush();
            let read = peer.read();
            let now = self.house.now();
            if read == Progress::Over || now >= deadline {
                return;
            }
            if read == Progress::Blocked && wait(&peer, flushed == Progress::Blocked, None, deadline - now).is_err() {
                return;
            }
        }
    }

    /// Serves a client of the stream until it goes, falls behind, or the end comes.
    fn stream(&self, mut peer: Peer, client: &Arc<Client>) {
        let hub = &self.house.hub;
        peer.write(&Text::new(r#"{"type":"auth"}"#));
        let farewell = self.serve(&mut peer, client);
        hub.leave(client);
        if let Some((close, reason)) = farewell {
            peer.close(close, reason);
            self.see_off(peer, if close == Close::Again { CUT_OFF_TIME } else { CLOSE_TIME });
        }
    }

    /// Reads and writes as much as can be had, then waits. Says how the client is to be closed, if it is still there.
    fn serve(&self, peer: &mut Peer, client: &Client) -> Option<(Close, &'static str)> {
        let hub = &self.house.hub;
        let mut proof = (self.house.now(), 0);
        loop {
            client.wake.clear();
            let ending = hub.is_ending();
            let mut sent = peer.flush();
            // A few at a time, so that a client that floods us is still served.
            let reads = (0..64).map(|_| peer.read()).find(|read| *read != Progress::Done);
            if reads == Some(Progress::Over) || sent == Progress::Over {
                return None;
            }
            let mut overflowed = false;
            while sent == Progress::Done {
                match client.next() {
                    Next::Event(text) => {
                        sent = peer.write(&text);
                        hub.served();
                    }
                    Next::Nothing => break,
                    Next::Overflowed => {
                        overflowed = true;
                        break;
                    }
                }
            }
            if sent == Progress::Blocked {
                overflowed |= client.is_overflowed();
            } else {
                // The pongs that are due, and what was collected.
                sent = peer.flush();
            }
            let now = self.house.now();
            if sent == Progress::Done || peer.link().written() != proof.1 {
                proof = (now, peer.link().written());
            }
            let stalled = sent == Progress::Blocked && now >= proof.0 + STALL_TIME;
            if overflowed || stalled {
                hub.cut_off();
                let reason = if overflowed { "could not keep up (--client-buffer)" } else { "takes nothing any more" };
                self.house.diagnostics.warn(&format!("{}: {reason}; closed", self.peer));
                return Some((Close::Again, "too slow"));
            }
            match sent {
                Progress::Over => return None,
                Progress::Done if ending => return Some((Close::Away, "the server ends")),
                Progress::Done | Progress::Blocked => {}
            }
            let blocked = sent == Progress::Blocked;
            let timeout = if reads.is_none() { Duration::ZERO } else { STALL_TIME };
            wait(peer, blocked, Some((client, if ending { None } else { Some(hub) })), timeout).ok()?;
        }
    }
}

/// Waits for the client's socket, and for the pump and the end if they are of interest.
fn wait(peer: &Peer, blocked: bool, others: Option<(&Client, Option<&Arc<Hub>>)>, timeout: Duration) -> io::Result<()> {
    let link = peer.link();
    let interest = match blocked {
        false => Interest::Read,
        // Reading could not get past the stuck write, and poll would report the same bytes again and again.
        true if link.is_secure() => Interest::Write,
        true => Interest::ReadWrite,
    };
    let mut fds = vec![(link.as_fd(), interest)];
    if let Some((client, hub)) = others {
        fds.push((client.wake.as_fd(), Interest::Read));
        fds.extend(hub.map(|hub| (hub.end.as_fd(), Interest::Read)));
    }
    unix::wait_all(&fds, Some(timeout)).map(|_| ())
}
