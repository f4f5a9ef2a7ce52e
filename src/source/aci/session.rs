//! A session with an APIC: login, refreshes, queries, logout, and what each answer means. Blocks; it runs in threads of its own.

use std::sync::Arc;
use std::time::Duration;

use super::message::Envelope;
use super::target::{Query, Target};
use crate::flow::connection::Rejection;
use crate::model::address::{Address, percent_decode};
use crate::model::exit::Fault;
use crate::model::json::{self, quote};
use crate::model::secret::Secret;
use crate::world::credentials::RequestSigner;
use crate::world::http::{Method, Request, Response, Transport, TransportError};

/// The life of a subscription whose query does not say (protocol page, section 6).
pub const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// So many objects are asked for at once where all at once are too many: what Cisco's acitoolkit asks for.
const PAGE: u64 = 10_000;

/// No time that an APIC tells is taken for a longer one: a clock must be able to count it. Cisco's longest is a day.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Times that no answer gave: the ones Cisco states as the defaults.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(600);
const MAXIMUM_LIFE: Duration = Duration::from_secs(86_400);

/// Who we are.
#[derive(Clone, Debug)]
pub enum Account {
    /// A user with a password.
    Password {
        /// The user's name, with the login domain where there is one: `apic:domain\name`.
        name: String,
        /// The password.
        password: Secret,
    },
    /// A user whose certificate the APIC knows: every request is signed.
    Signature {
        /// The certificate's distinguished name.
        certificate: String,
        /// The private key.
        signer: RequestSigner,
    },
}

impl Account {
    /// `words` without the password, however the login's body spells it.
    pub fn redact(&self, words: &str) -> String {
        match self {
            Account::Password { password, .. } => {
                let quoted = quote(password.expose());
                Secret::new(&quoted[1..quoted.len() - 1]).redact(&password.redact(words))
            }
            Account::Signature { .. } => words.to_owned(),
        }
    }
}

/// The APIC spoken to.
#[derive(Clone)]
pub struct Apic {
    /// Scheme, host and port; the path is `/`.
    pub base: Address,
    /// For what is quick.
    pub quick: Arc<dyn Transport>,
    /// For answers that may hold very many objects.
    pub patient: Arc<dyn Transport>,
}

/// Why something could not be had. The words hold the APIC's own, with every secret cut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The session is over: log in again.
    Expired(String),
    /// The account is refused.
    Refused(String),
    /// The question is wrong, and stays so.
    Wrong(String),
    /// The answer has more objects than the APIC or we can take at once.
    TooBig(String),
    /// It may pass.
    Passing {
        /// What it was.
        reason: String,
        /// `Retry-After`, as sent.
        retry_after: Option<String>,
    },
}

impl Trouble {
    /// What happened, in words.
    pub fn reason(&self) -> &str {
        match self {
            Trouble::Expired(reason)
            | Trouble::Refused(reason)
            | Trouble::Wrong(reason)
            | Trouble::TooBig(reason)
            | Trouble::Passing { reason, .. } => reason,
        }
    }
}

impl From<Trouble> for Rejection {
    fn from(trouble: Trouble) -> Rejection {
        match trouble {
            Trouble::Refused(reason) => Rejection::Refused { reason },
            Trouble::Passing { reason, retry_after } => Rejection::Failed { reason, retry_after },
            other => Rejection::Failed { reason: other.reason().to_owned(), retry_after: None },
        }
    }
}

/// A session.
pub struct Session {
    apic: Apic,
    account: Account,
    token: Secret,
    /// After so long without a refresh it is over.
    pub refresh_timeout: Duration,
    /// After so long it is over whatever happens.
    pub maximum_life: Duration,
}

/// What a subscription brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Its id.
    pub id: String,
    /// The answers that hold what there is, as far as they have come.
    pub answers: Vec<String>,
    /// They hold everything, as far as the APIC's own count can tell.
    pub complete: bool,
}

/// A part of what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The answer.
    pub text: String,
    /// So many objects are in it.
    pub count: u64,
    /// So many there are, by the APIC's own count.
    pub total: Option<u64>,
}

impl Session {
    /// Logs in.
    ///
    /// # Errors
    /// [`Trouble::Refused`] means that the account is, and must not be tried again as it is: too many attempts lock it.
    pub fn begin(apic: Apic, account: Account) -> Result<Session, Trouble> {
        let mut session = Session {
            apic,
            account,
            token: Secret::default(),
            refresh_timeout: REFRESH_TIMEOUT,
            maximum_life: MAXIMUM_LIFE,
        };
        let response = match &session.account {
            Account::Password { name, password } => {
                let body = format!(
                    r#"{{"aaaUser":{{"attributes":{{"name":{},"pwd":{}}}}}}}"#,
                    quote(name),
                    quote(password.expose())
                );
                session.send(Method::Post, "/api/aaaLogin.json", body.into_bytes(), false)
            }
            Account::Signature { .. } => session.send(Method::Get, "/api/webtokenSession.json", Vec::new(), false),
        };
        let response = response?;
        session.judge_login(&response)?;
        Ok(session)
    }

    /// The path of the event socket. It holds the token, as it came: an APIC wants no character of it encoded.
    pub fn socket(&self) -> String {
        format!("/socket{}", self.token.expose())
    }

    /// The cookies that the call of the socket needs: none where its path says who we are, but a signed request is signed whatever its path says.
    pub fn socket_cookie(&self) -> Option<Secret> {
        match self.account {
            Account::Password { .. } => None,
            Account::Signature { .. } => self.cookie("GET", &self.socket(), b""),
        }
    }

    /// The cookies that a request for `path` needs. Exactly one names the session: with two an APIC answers everything and pushes nothing.
    fn cookie(&self, method: &str, path: &str, body: &[u8]) -> Option<Secret> {
        let token = Some(self.token.expose()).filter(|token| !token.is_empty());
        match &self.account {
            Account::Password { .. } => token.map(|token| Secret::new(&format!("APIC-cookie={token}"))),
            Account::Signature { certificate, signer } => {
                let (place, query) = path.split_once('?').map_or((path, None), |(place, query)| (place, Some(query)));
                let query = query.map(|query| format!("?{query}")).unwrap_or_default();
                let signed = [format!("{method}{}{query}", percent_decode_path(place)).as_bytes(), body].concat();
                let session = token.map(|token| format!("; APIC-WebSocket-Session={token}")).unwrap_or_default();
                Some(Secret::new(&format!(
                    "APIC-Request-Signature={}; APIC-Certificate-Algorithm=v1.0; APIC-Certificate-Fingerprint=fingerprint; APIC-Certificate-DN={certificate}{session}",
                    signer.sign(&signed)
                )))
            }
        }
    }

    /// `words` without the session's token and the account's secret.
    pub fn redact(&self, words: &str) -> String {
        self.account.redact(&self.token.redact(words))
    }

    /// The session's token.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// Makes the session last; it has another token afterwards. Signed requests need none of that.
    ///
    /// # Errors
    /// [`Trouble::Expired`] if it is over already.
    pub fn refresh(&mut self) -> Result<(), Trouble> {
        if matches!(self.account, Account::Signature { .. }) {
            return Ok(());
        }
        let response = self.send(Method::Get, "/api/aaaRefresh.json", Vec::new(), false)?;
        match self.judge_login(&response) {
            // A session that is over is no account that is refused.
            Err(Trouble::Refused(reason)) => Err(Trouble::Expired(reason)),
            judged => judged,
        }
    }

    /// Ends it, so that it does not count among the user's sessions. Nothing can be done about a failure.
    pub fn end(&self) {
        if let Account::Password { name, .. } = &self.account {
            let body = format!(r#"{{"aaaUser":{{"attributes":{{"name":{}}}}}}}"#, quote(name));
            let _ = self.send(Method::Post, "/api/aaaLogout.json", body.into_bytes(), false);
        }
    }

    /// Subscribes to `target`; with `whole` the answer tells all there is. The socket must be open already.
    ///
    /// # Errors
    /// See [`Trouble`]. One that has [`Trouble::TooBig`] a `whole` answer can be had without, and [`Session::page`] by page.
    pub fn subscribe(&self, target: &Target, query: &Query, whole: bool) -> Result<Subscribed, Trouble> {
        let life = query.life.map(|life| format!("refresh-timeout={}", life.as_secs())).unwrap_or_default();
        // One object is the least an answer can be cut to; the events are not.
        let page = if whole { "" } else { "page=0&page-size=1" };
        let options = ["subscription=yes", &query.selection(), &life, page];
        let options: Vec<&str> = options.into_iter().filter(|option| !option.is_empty()).collect();
        let text = self.query(&format!("{}?{}", target.path(), options.join("&")))?;
        let envelope = read(&text)?;
        let complete = whole && envelope.total.is_none_or(|total| total <= envelope.objects.len() as u64);
        let Some(id) = envelope.subscriptions.first().map(|id| id.clone().into_owned()) else {
            let reason = "the answer names no subscription";
            return Err(Trouble::Passing { reason: reason.to_owned(), retry_after: None });
        };
        Ok(Subscribed { id, answers: if whole { vec![text] } else { Vec::new() }, complete })
    }

    /// A page of what there is, counted from 0.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn page(&self, target: &Target, query: &Query, number: u64) -> Result<Page, Trouble> {
        let selection = query.selection();
        let order = match target {
            // Without an order the pages of one list need not fit together.
            Target::Class(class) if query.classes.is_empty() => format!("&order-by={class}.dn|asc"),
            _ => String::new(),
        };
        let join = if selection.is_empty() { "" } else { "&" };
        let text = self.query(&format!("{}?{selection}{join}page={number}&page-size={PAGE}{order}", target.path()))?;
        let envelope = read(&text)?;
        let (count, total) = (envelope.objects.len() as u64, envelope.total);
        Ok(Page { text, count, total })
    }

    /// Makes a subscription last.
    ///
    /// # Errors
    /// [`Trouble::Wrong`] if there is no such subscription any more.
    pub fn refresh_subscription(&self, id: &str) -> Result<(), Trouble> {
        let path = format!("/api/subscriptionRefresh.json?id={id}");
        let response = self.send(Method::Get, &path, Vec::new(), false)?;
        self.judge(&response)?;
        Ok(())
    }

    /// The text of a query's answer.
    fn query(&self, path: &str) -> Result<String, Trouble> {
        let response = self.send(Method::Get, path, Vec::new(), true)?;
        self.judge(&response)?;
        if response.truncated {
            return Err(Trouble::TooBig("the answer is too long".to_owned()));
        }
        String::from_utf8(response.body)
            .map_err(|_| Trouble::Passing { reason: "the answer is not UTF-8".to_owned(), retry_after: None })
    }

    fn send(&self, method: Method, path: &str, body: Vec<u8>, patient: bool) -> Result<Response, Trouble> {
        let (place, query) = path.split_once('?').map_or((path, None), |(place, query)| (place, Some(query)));
        let address = Address { query: query.map(str::to_owned), ..self.apic.base.with_path(place) };
        let word = if method == Method::Post { "POST" } else { "GET" };
        let cookie = self.cookie(word, path, &body);
        let mut request =
            if method == Method::Post { Request::post_json(address, body) } else { Request::get(address) };
        request.cookie = cookie;
        let transport = if patient { &self.apic.patient } else { &self.apic.quick };
        transport.send(&request).map_err(|error| {
            let reason = match &error {
                TransportError::Certificate(reason) | TransportError::Unreachable(reason) => self.redact(reason),
            };
            Trouble::Passing { reason, retry_after: None }
        })
    }

    fn judge_login(&mut self, response: &Response) -> Result<(), Trouble> {
        let words = self.words(response);
        match response.status {
            200 => {}
            // A name that no user can have (400), a password that is none (401), or a user who may not (403).
            400 | 401 | 403 => return Err(Trouble::Refused(words)),
            _ => {
                self.judge(response)?;
            }
        }
        let text = String::from_utf8_lossy(&response.body);
        let envelope = read(&text)?;
        if envelope.error.is_some() {
            return Err(Trouble::Refused(words));
        }
        let (mut token, mut refresh, mut life) = (None, None, None);
        let seconds = |raw| {
            let seconds = json::plain(raw).parse().ok().filter(|seconds| *seconds > 0);
            seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST))
        };
        for object in &envelope.objects {
            // Answers of the app center's kind have the token beside the attributes.
            for raw in [object.raw, object.attributes] {
                let _ = json::object(raw, |key, raw| match key {
                    "token" => token = json::string(raw).map(|token| Secret::new(&token)).or(token.take()),
                    "refreshTimeoutSeconds" => refresh = seconds(raw).or(refresh),
                    "maximumLifetimeSeconds" => life = seconds(raw).or(life),
                    _ => {}
                });
            }
        }
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Err(Trouble::Passing {
                reason: "the answer to the login holds no token".to_owned(),
                retry_after: None,
            });
        };
        if token.expose().contains(|c: char| c.is_control() || c.is_whitespace() || c == ';') {
            return Err(Trouble::Passing {
                reason: "the token holds a character that no cookie can".to_owned(),
                retry_after: None,
            });
        }
        self.token = token;
        self.refresh_timeout = refresh.unwrap_or(self.refresh_timeout);
        self.maximum_life = life.unwrap_or(self.maximum_life);
        Ok(())
    }

    /// What a status means; section 8 of the protocol page.
    fn judge(&self, response: &Response) -> Result<(), Trouble> {
        let words = self.words(response);
        match response.status {
            200 => match read(&String::from_utf8_lossy(&response.body)) {
                Ok(Envelope { error: Some(_), .. }) => Err(Trouble::Wrong(words)),
                Ok(_) => Ok(()),
                // Whoever said so (a proxy's page, a portal) has not done what was asked. One that was cut is seen to by whoever asked for it.
                Err(_) if response.truncated => Ok(()),
                Err(trouble) => Err(trouble),
            },
            400 if words.contains("too big") => Err(Trouble::TooBig(words)),
            400 if is_about_the_token(&words) => Err(Trouble::Expired(words)),
            400 | 404 => Err(Trouble::Wrong(words)),
            401 => Err(Trouble::Expired(words)),
            403 if is_about_the_token(&words) => Err(Trouble::Expired(words)),
            403 => Err(Trouble::Refused(words)),
            _ => Err(Trouble::Passing { reason: words, retry_after: response.retry_after.clone() }),
        }
    }

    /// The status and what the APIC says about it.
    fn words(&self, response: &Response) -> String {
        let text = String::from_utf8_lossy(&response.body);
        let said = match Envelope::read(&text) {
            Ok(Envelope { error: Some((_, words)), .. }) if !words.trim().is_empty() => format!(": {}", words.trim()),
            _ => String::new(),
        };
        self.redact(&format!("HTTP {}{said}", response.status))
    }
}

fn is_about_the_token(words: &str) -> bool {
    words.to_ascii_lowercase().contains("token")
}

fn read(text: &str) -> Result<Envelope<'_>, Trouble> {
    Envelope::read(text).map_err(|fault: Fault| Trouble::Passing {
        reason: format!("the answer is not what an APIC says: {fault}"),
        retry_after: None,
    })
}

/// A path as it is signed: what is encoded in it is signed as what it stands for.
fn percent_decode_path(path: &str) -> String {
    // `+` is itself in a path, and a token is full of it.
    percent_decode(&path.replace('+', "%2B"))
}

#[cfg(test)]
pub(super) mod tests;
