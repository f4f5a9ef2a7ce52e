//! Our Request and Response, and the Transport that carries them. Hides ureq.

use std::io::Read;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::tls::{self, Tls};
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
    /// The body, for a POST or PUT.
    pub body: Vec<u8>,
}

impl Request {
    /// A question.
    pub fn get(address: Address) -> Request {
        Request { method: Method::Get, address, headers: Vec::new(), authorization: None, body: Vec::new() }
    }

    /// A POST of JSON.
    pub fn post_json(address: Address, body: Vec<u8>) -> Request {
        let headers = vec![("content-type", "application/json".to_owned())];
        Request { method: Method::Post, address, headers, authorization: None, body }
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
    /// A transport. `secure` says whether any address it is for is https: only then are the system's roots read.
    pub fn new(tls: &Tls, secure: bool, limits: HttpLimits) -> Http {
        let mut config = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(tls::provider())
            .disable_verification(tls.is_insecure());
        // Without roots of ours ureq would look for its own, which are not built in.
        let roots: Vec<_> = if secure { tls.roots().map(certificate).collect() } else { Vec::new() };
        config = config.root_certs(RootCerts::from(roots));
        if let Some((chain, key)) = tls.identity() {
            let chain: Vec<_> = chain.into_iter().map(certificate).collect();
            let key = PrivateKey::from_pem(key).expect("the key was understood when it was loaded");
            config = config.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT.min(limits.timeout)))
            .timeout_resolve(Some(CONNECT_TIMEOUT.min(limits.timeout)))
            .timeout_global(Some(limits.timeout))
            .max_idle_connections_per_host(limits.connections)
            .proxy(None)
            .user_agent(concat!("tutum/", env!("CARGO_PKG_VERSION")))
            .tls_config(config.build())
            .build()
            .new_agent();
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
        // The builder's own message would quote the URL or the header.
        let wrong = |_| TransportError::Unreachable("the URL or a header cannot be sent".to_owned());
        let result = match request.method {
            Method::Get => self.agent.run(builder.body(()).map_err(wrong)?),
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

fn certificate(der: &[u8]) -> Certificate<'static> {
    Certificate::from_der(der).to_owned()
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
