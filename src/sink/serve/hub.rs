//! The connected clients: what each still has to be sent, and how many there are. Shared by the pump's thread and theirs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::routes::Wish;
use crate::flow::accounts::Accounts;
use crate::model::event::Event;
use crate::world::unix::Wake;
use crate::world::websocket::server::Text;

/// So many connections at once, streams and requests together; each has a thread and up to three descriptors (of the usual 1024).
pub const MAX_CONNECTIONS: usize = 256;

/// What all connections share.
pub struct Hub {
    clients: Mutex<Vec<Arc<Client>>>,
    buffer: u64,
    connections: AtomicUsize,
    ending: AtomicBool,
    /// Woken once, when the end begins, and never cleared: everyone who waits on it sees it.
    pub end: Wake,
    /// The pump's.
    pump: Wake,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    clients: AtomicU64,
    served: AtomicU64,
    cut_off: AtomicU64,
    refused: AtomicU64,
    requests: AtomicU64,
}

impl Hub {
    /// No clients yet. `buffer` is what one may fall behind, in bytes.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new(buffer: u64, pump: Wake) -> std::io::Result<Hub> {
        Ok(Hub {
            clients: Mutex::default(),
            buffer,
            connections: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            end: Wake::new()?,
            pump,
            counts: Counts::default(),
        })
    }

    /// Gives an event to every client that wants it.
    pub fn broadcast(&self, event: &Event<'_>) {
        let mut text = None;
        for client in self.clients().iter().filter(|client| client.wish.includes(event)) {
            client.give(text.get_or_insert_with(|| Text::new(event.text)), self.buffer);
        }
    }

    /// A new client; from now on it gets every event.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn join(&self, wish: Wish) -> std::io::Result<Arc<Client>> {
        let client = Arc::new(Client { wish, wake: Wake::new()?, queue: Mutex::default() });
        self.clients().push(Arc::clone(&client));
        self.counts.clients.fetch_add(1, Ordering::Relaxed);
        Ok(client)
    }

    /// A client is no more.
    pub fn leave(&self, client: &Arc<Client>) {
        self.clients().retain(|known| !Arc::ptr_eq(known, client));
    }

    /// Begins the end: nobody is accepted any more, and every client is closed once it has everything.
    pub fn finish(&self) {
        self.ending.store(true, Ordering::Release);
        self.end.wake();
    }

    /// Whether the end has begun.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// How many connections there are, of whatever kind.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// A place for one more connection, if there is one; it is given up when the place is dropped.
    pub fn place(self: &Arc<Self>) -> Option<Place> {
        let taken = self.connections.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(self));
        (taken < MAX_CONNECTIONS).then_some(place)
    }

    /// An event went into a client's socket.
    pub fn served(&self) {
        self.counts.served.fetch_add(1, Ordering::Relaxed);
    }

    /// A client could not keep up.
    pub fn cut_off(&self) {
        self.counts.cut_off.fetch_add(1, Ordering::Relaxed);
    }

    /// A client showed a wrong credential.
    pub fn refused(&self) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was answered.
    pub fn answered(&self) {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The clients' share of the books: `clients` ever connected, `connected` now, messages `served`, clients `cut_off` and connections
    /// `refused`, REST `requests`.
    pub fn accounts(&self) -> Accounts {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Accounts::default()
            .with("clients", count(&self.counts.clients))
            .with("connected", self.clients().len() as u64)
            .with("served", count(&self.counts.served))
            .with("cut_off", count(&self.counts.cut_off))
            .with("refused", count(&self.counts.refused))
            .with("requests", count(&self.counts.requests))
    }

    fn clients(&self) -> MutexGuard<'_, Vec<Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among all; dropping it gives the place up, whatever became of its thread.
pub struct Place(Arc<Hub>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
        if self.0.is_ending() {
            self.0.pump.wake();
        }
    }
}

/// A client of the stream.
pub struct Client {
    wish: Wish,
    /// Woken when there is something new for it.
    pub wake: Wake,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    texts: VecDeque<Text>,
    bytes: u64,
    overflowed: bool,
}

/// What there is for a client.
pub enum Next {
    /// An event.
    Event(Text),
    /// Nothing now.
    Nothing,
    /// It fell behind by more than it may.
    Overflowed,
}

impl Client {
    fn give(&self, text: &Text, limit: u64) {
        let mut queue = self.queue();
        if queue.overflowed {
            return;
        }
        let length = text.len() as u64;
        if queue.texts.is_empty() {
            // One event always fits, or a limit below its size would serve nobody. And only the first wakes: the client takes all there is.
            self.wake.wake();
        } else if queue.bytes + length > limit {
            *queue = Queue { overflowed: true, ..Queue::default() };
            self.wake.wake();
            return;
        }
        queue.bytes += length;
        queue.texts.push_back(text.clone());
    }

    /// Whether it fell behind by more than it may.
    pub fn is_overflowed(&self) -> bool {
        self.queue().overflowed
    }

    /// Takes what is next for it.
    pub fn next(&self) -> Next {
        let mut queue = self.queue();
        if queue.overflowed {
            return Next::Overflowed;
        }
        match queue.texts.pop_front() {
            Some(text) => {
                queue.bytes -= text.len() as u64;
                Next::Event(text)
            }
            None => Next::Nothing,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(buffer: u64) -> Arc<Hub> {
        Arc::new(Hub::new(buffer, Wake::new().unwrap()).unwrap())
    }

    fn event(text: &str) -> Event<'_> {
        Event::parse(text.as_bytes()).unwrap()
    }

    fn drain(client: &Client) -> (usize, bool) {
        let mut count = 0;
        loop {
            match client.next() {
                Next::Event(_) => count += 1,
                Next::Nothing => return (count, false),
                Next::Overflowed => return (count, true),
            }
        }
    }

    #[test]
    fn a_client_that_falls_behind_overflows_and_others_do_not() {
        let hub = hub(20);
        let (slow, fast) = (hub.join(Wish::default()).unwrap(), hub.join(Wish::default()).unwrap());
        for _ in 0..3 {
            hub.broadcast(&event(r#"{"a":12345}"#));
            assert_eq!(drain(&fast), (1, false));
        }
        assert_eq!(drain(&slow), (0, true));
    }

    #[test]
    fn one_event_fits_whatever_the_limit() {
        let hub = hub(1);
        let client = hub.join(Wish::default()).unwrap();
        hub.broadcast(&event(r#"{"a":12345}"#));
        assert_eq!(drain(&client), (1, false));
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let hub = hub(1);
        let places: Vec<_> = (0..MAX_CONNECTIONS).map(|_| hub.place().unwrap()).collect();
        assert!(hub.place().is_none());
        drop(places);
        assert_eq!(hub.connections(), 0);
        assert!(hub.place().is_some());
    }
}
