//! One attempt at an APIC: login, socket, and then a thread that keeps the session useful.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::keeper::{Order, Report, Surroundings, keep};
use super::session::{Account, Apic, DEFAULT_LIFE, Session};
use crate::flow::connection::Rejection;
use crate::model::address::Address;
use crate::model::secret::Secret;
use crate::model::time::Moment;
use crate::world::Clock;
use crate::world::http::{CONNECT_TIMEOUT, Http, HttpLimits, Transport};
use crate::world::proxy::Proxies;
use crate::world::tls::Tls;
use crate::world::unix::Wake;
use crate::world::websocket::client::{self, Call, CallError, Client};

/// The longest answer that is read, in bytes; beyond that it is asked for page by page.
const LONGEST_ANSWER: u64 = 128 << 20;

/// For an answer that may hold very many objects, unless the subscriptions would run out meanwhile: requests of 2 and of 5 minutes are seen (protocol
/// page, section 8). What does not come in time is asked for page by page.
const PATIENCE: Duration = Duration::from_secs(120);

/// So many tokens are kept to be recognised; a session has another one every five minutes.
const MOST_TOKENS: usize = 16;

/// What every thread that has a session takes a copy of; nothing is ever sent.
pub type Presence = Arc<Mutex<Option<Sender<()>>>>;

/// Makes one attempt: login, socket, and then a thread that keeps the session useful.
pub struct Attempt {
    /// The APIC.
    pub base: Address,
    /// Who we are.
    pub account: Account,
    /// For both of its connections.
    pub tls: Tls,
    /// An answer to a handshake, or to a question that is quick, must come within this.
    pub answer_timeout: Duration,
    /// What to keep up once the socket is open.
    pub order: Order,
    /// Whom to tell.
    pub surroundings: Thread,
    /// What the session's thread takes a copy of.
    pub presence: Presence,
}

impl Attempt {
    /// Makes it. Blocks for as long as two round trips take.
    ///
    /// # Errors
    /// See [`Rejection`].
    pub fn make(mut self) -> Result<Client, Rejection> {
        let transport = |timeout| -> Arc<dyn Transport> {
            let limits = HttpLimits { timeout, body: LONGEST_ANSWER, connections: 1 };
            Arc::new(Http::new(&self.tls, Proxies::from_environment(), limits))
        };
        let life = self.order.query.life.unwrap_or(DEFAULT_LIFE);
        let apic = Apic {
            base: self.base.clone(),
            quick: transport(CONNECT_TIMEOUT.min(self.answer_timeout) + self.answer_timeout),
            patient: transport(PATIENCE.min(life * 2 / 3).max(self.answer_timeout)),
        };
        let session = Session::begin(apic, self.account).map_err(|trouble| match Rejection::from(trouble) {
            Rejection::Failed { reason, retry_after } => {
                Rejection::Failed { reason: format!("the login: {reason}"), retry_after }
            }
            refused => refused,
        })?;
        self.surroundings.tell(Report::Token(session.token().clone()));
        self.surroundings.presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let scheme = if self.base.is_secure() { "wss" } else { "ws" };
        let path = session.socket();
        let address = Address { scheme: scheme.to_owned(), ..self.base.with_path(&path) };
        let proxy = Proxies::from_environment().find(&address);
        let called = proxy.map_err(CallError::Unreachable).and_then(|proxy| {
            client::dial(&Call {
                headers: session.socket_cookie().map(|cookie| ("Cookie", cookie)).into_iter().collect(),
                address,
                tls: self.tls.clone(),
                proxy,
                connect_timeout: CONNECT_TIMEOUT,
                answer_timeout: self.answer_timeout,
            })
        });
        let client = match called {
            Ok(client) => client,
            Err(error) => {
                let rejection = match error {
                    CallError::Certificate(reason) | CallError::Unreachable(reason) => {
                        Rejection::Failed { reason: session.redact(&reason), retry_after: None }
                    }
                    // The account was let in a moment ago, so it is not what is refused.
                    CallError::Answer { reason, retry_after, .. } => {
                        let reason = format!("the event socket: {}", session.redact(&reason));
                        Rejection::Failed { reason, retry_after }
                    }
                };
                session.end();
                return Err(rejection);
            }
        };
        let (order, mut surroundings) = (self.order, self.surroundings);
        let started = thread::Builder::new().name("keep".to_owned()).spawn(move || {
            keep(session, &order, &mut surroundings);
        });
        started.map_err(|error| Rejection::Failed {
            reason: format!("no thread can be started: {error}"),
            retry_after: None,
        })?;
        Ok(client)
    }
}

/// The real surroundings of a session's thread.
pub struct Thread {
    /// Its other end is dropped when nobody is interested any longer.
    pub interested: Receiver<()>,
    /// Where reports go.
    pub tell: Sender<Report>,
    /// Wakes who waits for reports.
    pub wake: Wake,
    /// Notes the tokens that pass.
    pub tokens: Tokens,
    /// Held as long as there is a session to be ended.
    pub presence: Option<Sender<()>>,
}

/// The tokens that may still turn up in an APIC's words.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<Mutex<VecDeque<Secret>>>);

impl Tokens {
    /// Keeps one, for as long as some more follow it.
    fn remember(&self, token: &Secret) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.push_back(token.clone());
        if tokens.len() > MOST_TOKENS {
            tokens.pop_front();
        }
    }

    /// `words` without any of them.
    pub fn redact(&self, words: &str) -> String {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().fold(words.to_owned(), |words, token| token.redact(&words))
    }
}

impl Surroundings for Thread {
    fn wait(&mut self, duration: Duration) -> bool {
        !matches!(self.interested.recv_timeout(duration), Err(RecvTimeoutError::Disconnected))
    }

    fn random(&mut self) -> f64 {
        Clock.random()
    }

    fn now(&mut self) -> Moment {
        Clock.now()
    }

    fn tell(&mut self, report: Report) {
        if let Report::Token(token) = &report {
            self.tokens.remember(token);
        }
        // Nobody listens any more if the connection was let go of; the next wait says so.
        let _ = self.tell.send(report);
        self.wake.wake();
    }
}
