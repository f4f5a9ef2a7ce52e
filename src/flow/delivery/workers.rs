//! The threads that make requests, so that the pump never waits for the network.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::world::http::{Request, Response, Transport, TransportError};
use crate::world::unix::Wake;

/// An answer, or why there is none.
pub type Answer = Result<Response, TransportError>;

/// Who carries requests while delivery does other things: threads, or a test's script.
pub trait Courier {
    /// Takes a request on its way.
    fn send(&mut self, number: u64, request: Request);

    /// The next answer that is there, with the request's number.
    fn answer(&mut self) -> Option<(u64, Answer)>;
}

/// Threads behind a channel. They are never waited for: a request that hangs ends with the process, or with its own timeout.
pub struct Workers {
    jobs: Sender<(u64, Request)>,
    answers: Receiver<(u64, Answer)>,
}

impl Workers {
    /// Starts `count` threads that send by `transport` and call `wake` after each answer.
    pub fn start(count: usize, transport: Arc<dyn Transport>, wake: &Wake) -> Workers {
        let (jobs, taken) = channel::<(u64, Request)>();
        let (given, answers) = channel();
        let taken = Arc::new(Mutex::new(taken));
        for _ in 0..count {
            let (taken, given) = (Arc::clone(&taken), given.clone());
            let (transport, wake) = (Arc::clone(&transport), wake.clone());
            thread::spawn(move || {
                loop {
                    let job = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((number, request)) = job else { return };
                    if given.send((number, transport.send(&request))).is_err() {
                        return;
                    }
                    wake.wake();
                }
            });
        }
        Workers { jobs, answers }
    }
}

impl Courier for Workers {
    fn send(&mut self, number: u64, request: Request) {
        self.jobs.send((number, request)).expect("the threads live as long as the channel");
    }

    fn answer(&mut self) -> Option<(u64, Answer)> {
        self.answers.try_recv().ok()
    }
}
