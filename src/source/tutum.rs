//! tutum-stream: which stream to connect to, and what its messages mean. The service itself is gone; every server is one like it.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::notices::Notices;
use super::resync::Resync;
use crate::flow::accounts::Accounts;
use crate::flow::connection::{Aside, Dial, Heeded, Meaning, Protocol, Record, Rejection};
use crate::model::address::Address;
use crate::model::event::Event;
use crate::model::exit::Failure;
use crate::model::json::{self, Pointer};
use crate::model::lifecycle::Change;
use crate::model::time::{Moment, Timestamp};
use crate::world::credentials::{self, Account, Authorization, TutumAuthArgs, variable};
use crate::world::http::CONNECT_TIMEOUT;
use crate::world::proxy::Proxy;
use crate::world::tls::Tls;
use crate::world::websocket::client::{self, Call};

/// Where the credential goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthForm {
    /// Into the `Authorization` header.
    #[default]
    Header,
    /// Into the URL's query, as the tutorial's client did.
    Query,
}

impl AuthForm {
    /// The words for it.
    pub const CHOICES: [(&str, AuthForm); 2] = [("header", AuthForm::Header), ("query", AuthForm::Query)];
}

/// Which generation of the service is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Tutum's paths and variables.
    #[default]
    Tutum,
    /// Those of Docker Cloud, what Tutum became.
    DockerCloud,
}

impl Dialect {
    /// The words for it.
    pub const CHOICES: [(&str, Dialect); 2] = [("tutum", Dialect::Tutum), ("dockercloud", Dialect::DockerCloud)];

    /// Where the server's name is looked for.
    fn variables(self) -> &'static [&'static str] {
        match self {
            Dialect::Tutum => &["TUTUM_STREAM_URL", "TUTUM_STREAM_HOST"],
            Dialect::DockerCloud => &["DOCKERCLOUD_STREAM_HOST"],
        }
    }

    /// The host of the service that is gone.
    fn historic_host(self) -> &'static str {
        match self {
            Dialect::Tutum => "stream.tutum.co",
            Dialect::DockerCloud => "ws.cloud.docker.com",
        }
    }

    fn account(self) -> Account {
        match self {
            Dialect::Tutum => Account::Tutum,
            Dialect::DockerCloud => Account::DockerCloud,
        }
    }

    fn no_credentials(self) -> &'static str {
        match self {
            Dialect::Tutum => {
                "no credentials: give --user and --token-file, or set TUTUM_AUTH, or TUTUM_USER and TUTUM_APIKEY"
            }
            Dialect::DockerCloud => {
                "no credentials: give --user and --token-file, or set DOCKERCLOUD_AUTH, or DOCKERCLOUD_USER and DOCKERCLOUD_APIKEY; a credsStore of ~/.docker/config.json is not asked"
            }
        }
    }
}

/// What a log belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// A container.
    Container,
    /// All containers of a service.
    Service,
    /// An action.
    Action,
}

impl Logged {
    /// The words for it.
    pub const CHOICES: [(&str, Logged); 3] =
        [("container", Logged::Container), ("service", Logged::Service), ("action", Logged::Action)];

    fn word(self) -> &'static str {
        match self {
            Logged::Container => "container",
            Logged::Service => "service",
            Logged::Action => "action",
        }
    }

    /// Docker Cloud's part of the service that keeps it.
    fn subsystem(self) -> &'static str {
        match self {
            Logged::Container | Logged::Service => "app",
            Logged::Action => "audit",
        }
    }
}

/// Which stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stream {
    /// Everything that happens.
    #[default]
    Events,
    /// The log of one object.
    Logs {
        /// Its kind.
        of: Logged,
        /// Its name for programs: letters, digits and dashes.
        uuid: String,
        /// So many lines of what was logged before.
        tail: u64,
        /// Go on with what is logged from now on.
        follow: bool,
    },
}

impl Stream {
    /// The path below a server's prefix, and the query.
    fn place(&self, dialect: Dialect, namespace: Option<&str>) -> (String, Option<String>) {
        let namespace = namespace.map(|name| format!("{name}/")).unwrap_or_default();
        match (self, dialect) {
            (Stream::Events, Dialect::Tutum) => ("/v1/events".to_owned(), None),
            (Stream::Events, Dialect::DockerCloud) => (format!("/api/audit/v1/{namespace}events"), None),
            (Stream::Logs { of, uuid, tail, follow }, dialect) => {
                let base = match dialect {
                    Dialect::Tutum => "/v1/".to_owned(),
                    Dialect::DockerCloud => format!("/api/{}/v1/{namespace}", of.subsystem()),
                };
                (format!("{base}{}/{uuid}/logs/", of.word()), Some(format!("tail={tail}&follow={follow}")))
            }
        }
    }
}

/// What a user can say about the stream.
#[derive(Clone, Debug, Default)]
pub struct TutumArgs {
    /// The stream host, or a base that ends in `/v1/`.
    pub url: Option<String>,
    /// Which generation of the service it is.
    pub dialect: Dialect,
    /// Docker Cloud's name of an organisation.
    pub namespace: Option<String>,
    /// Where the credential goes.
    pub auth: AuthForm,
    /// Leave the server's bytes alone.
    pub raw: bool,
}

/// The address of a stream: `--url`, else the dialect's variables.
///
/// # Errors
/// None is given, or it is no such address: wrong usage. Never quotes it.
pub fn stream_address(args: &TutumArgs, stream: &Stream) -> Result<Address, Failure> {
    let namespace = match args.dialect {
        Dialect::DockerCloud => args.namespace.clone().or_else(|| variable("DOCKERCLOUD_NAMESPACE")),
        Dialect::Tutum if args.namespace.is_some() => {
            return Err(Failure::usage("--namespace: only --dialect dockercloud has namespaces"));
        }
        Dialect::Tutum => None,
    };
    if namespace.as_deref().is_some_and(|name| !is_name(name)) {
        return Err(Failure::usage("--namespace: expected a name of letters, digits, dots, dashes and underscores"));
    }
    let variables = args.dialect.variables();
    let (name, text) = match &args.url {
        Some(url) => ("--url", url.clone()),
        None => variables.iter().find_map(|name| variable(name).map(|text| (*name, text))).ok_or_else(|| {
            Failure::usage(format!(
                "no server is named: give --url or set {} (the hosted service, {}, is gone)",
                variables.join(" or "),
                args.dialect.historic_host(),
            ))
        })?,
    };
    resolve(&text, args.dialect, namespace.as_deref(), stream)
        .map_err(|reason| Failure::usage(format!("{name}: {reason}")))
}

/// Whether it can stand in a path as it is.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

fn resolve(text: &str, dialect: Dialect, namespace: Option<&str>, stream: &Stream) -> Result<Address, String> {
    let mut address = Address::parse(text, &["wss", "ws", "https", "http"])?;
    address.scheme = if address.is_secure() { "wss" } else { "ws" }.to_owned();
    if address.query.is_some() {
        return Err("a URL with a query is refused: credentials come from a file or the environment".to_owned());
    }
    let path = address.path.trim_end_matches('/');
    let (prefix, own) = match dialect {
        Dialect::Tutum => (tutum_prefix(path).ok_or("expected scheme and host, or a base that ends in /v1/")?, None),
        Dialect::DockerCloud => {
            cloud_prefix(path).ok_or("expected scheme and host, or a base that ends in /api/audit/v1/")?
        }
    };
    if own.is_some() && namespace.is_some() && own != namespace {
        return Err("names another namespace than --namespace or DOCKERCLOUD_NAMESPACE".to_owned());
    }
    let (place, query) = stream.place(dialect, own.or(namespace));
    Ok(Address { query, ..address.with_path(&format!("{prefix}{place}")) })
}

/// What stands before `/v1`. The whole address of the stream is taken too: it is what people copy.
fn tutum_prefix(path: &str) -> Option<&str> {
    if path.is_empty() {
        return Some("");
    }
    path.strip_suffix("/events").unwrap_or(path).strip_suffix("/v1")
}

/// What stands before `/api/audit/v1`, and the namespace after it.
fn cloud_prefix(path: &str) -> Option<(&str, Option<&str>)> {
    if path.is_empty() {
        return Some(("", None));
    }
    let (prefix, rest) = path.rsplit_once("/api/audit/v1")?;
    match rest.strip_suffix("/events").unwrap_or(rest) {
        "" => Some((prefix, None)),
        namespace => namespace.strip_prefix('/').filter(|name| is_name(name)).map(|name| (prefix, Some(name))),
    }
}

/// A stream of Tutum's, or of what Tutum became.
pub struct Tutum {
    address: Address,
    args: TutumArgs,
    auth: TutumAuthArgs,
    authorization: Option<Authorization>,
    tls: Tls,
    proxy: Option<Proxy>,
    answer_timeout: Duration,
    notices: Notices,
    /// Messages that brought nothing new.
    repeated: u64,
    resync: Option<Resync>,
}

impl Tutum {
    /// The stream at `address`, with the credentials that are found now.
    ///
    /// # Errors
    /// Credentials that cannot be read, or none at all, except towards this very machine: wrong usage.
    pub fn new(
        address: Address,
        args: TutumArgs,
        auth: TutumAuthArgs,
        tls: Tls,
        proxy: Option<Proxy>,
        answer_timeout: Duration,
    ) -> Result<Tutum, Failure> {
        let authorization = find(args.dialect, &auth).map_err(Failure::usage)?;
        if authorization.is_none() && !address.is_loopback() {
            return Err(Failure::usage(args.dialect.no_credentials()));
        }
        Ok(Tutum {
            address,
            args,
            auth,
            authorization,
            tls,
            proxy,
            answer_timeout,
            notices: Notices::default(),
            repeated: 0,
            resync: None,
        })
    }

    /// What asks the REST API for what was missed.
    pub fn set_resync(&mut self, resync: Resync) {
        self.resync = Some(resync);
    }

    /// Whether anyone on the way to `address` could read a credential.
    pub fn exposes(&self, address: &Address) -> bool {
        self.authorization.is_some() && !address.is_secure() && !address.is_loopback()
    }

    /// Whether anyone on the way can read the credential.
    pub fn is_exposed(&self) -> bool {
        self.exposes(&self.address)
    }

    /// What it would do, in words.
    pub fn plan(&self) -> String {
        let proof = match (&self.authorization, self.args.auth) {
            (None, _) => "without credentials".to_owned(),
            (Some(Authorization::User { name, .. }), form) => format!("as {name} ({})", words(form)),
            (Some(Authorization::Header(_)), form) => format!("with a complete authorization ({})", words(form)),
        };
        let way = self.proxy.as_ref().map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
        format!("would connect to {}{way} {proof}", self.address.without_query())
    }
}

/// The credentials, if they can be sent at all.
fn find(dialect: Dialect, auth: &TutumAuthArgs) -> Result<Option<Authorization>, String> {
    let found = credentials::find(dialect.account(), auth)?;
    let sendable = |found: &Authorization| found.header().expose().bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if found.as_ref().is_none_or(sendable) {
        Ok(found)
    } else {
        Err("the credentials hold a character that no header can hold".to_owned())
    }
}

fn words(form: AuthForm) -> &'static str {
    match form {
        AuthForm::Header => "in the header",
        AuthForm::Query => "in the query",
    }
}

impl Protocol for Tutum {
    fn path(&self) -> String {
        self.address.path.clone()
    }

    fn source(&self) -> String {
        self.address.without_query()
    }

    fn dial(&mut self) -> Dial {
        let mut call = Call {
            address: self.address.clone(),
            headers: Vec::new(),
            tls: self.tls.clone(),
            proxy: self.proxy.clone(),
            connect_timeout: CONNECT_TIMEOUT,
            answer_timeout: self.answer_timeout,
        };
        match (&self.authorization, self.args.auth) {
            (None, _) => {}
            (Some(authorization), AuthForm::Header) => call.headers.push(("Authorization", authorization.header())),
            (Some(authorization), AuthForm::Query) => {
                let own = call.address.query.take().map(|query| query + "&").unwrap_or_default();
                call.address.query = Some(own + &authorization.query());
            }
        }
        Box::new(move || client::dial(&call).map_err(Rejection::from))
    }

    fn message<'t>(&mut self, text: &'t str, now: Timestamp) -> Meaning<'t> {
        let (mut kind, mut stamped) = (None, false);
        let looked = json::select(
            text,
            |key| matches!(key, "type" | "received_at"),
            |key, raw| match key {
                "type" => kind = json::string(raw),
                _ => stamped = true,
            },
        );
        match (looked, kind.as_deref()) {
            (Err(fault), _) => Meaning::Faulty(fault),
            (Ok(()), Some("error")) => error(text),
            (Ok(()), kind) => {
                let is_event = kind != Some("auth");
                let mut line = json::one_line(text);
                match kind {
                    Some("auth") => {}
                    Some("user-notification" | "user-notifications") => {
                        match self.notices.fresh(&line, self.args.raw, now) {
                            Some(Cow::Borrowed(_)) => {}
                            Some(Cow::Owned(rest)) => line = Cow::Owned(rest),
                            None => {
                                self.repeated += 1;
                                return Meaning::Records(Vec::new());
                            }
                        }
                    }
                    _ => {
                        self.notices.live();
                        if let (Some(resync), Ok(event)) = (&mut self.resync, Event::parse(line.as_bytes())) {
                            resync.heed(&event);
                        }
                    }
                }
                let text = if self.args.raw || stamped {
                    line
                } else {
                    Cow::Owned(json::append(&line, &format!(r#""received_at":"{}""#, now.rfc3339())))
                };
                Meaning::Records(vec![Record { text, is_event }])
            }
        }
    }

    fn reload(&mut self) -> Result<bool, String> {
        let found = find(self.args.dialect, &self.auth)?;
        if found.is_none() && self.authorization.is_some() {
            return Err("the credentials are gone".to_owned());
        }
        let changed = found != self.authorization;
        self.authorization = found;
        Ok(changed)
    }

    fn fingerprint(&self) -> u64 {
        self.authorization.as_ref().map_or(0, Authorization::fingerprint)
    }

    fn redact(&self, words: &str) -> String {
        match &self.authorization {
            Some(authorization) => authorization.redact(words),
            None => words.to_owned(),
        }
    }

    fn changed(&mut self, change: &Change, now: Moment) -> Heeded {
        if matches!(change, Change::Close { .. }) {
            self.notices.lost();
        }
        self.resync.as_mut().map(|resync| resync.changed(change, now)).unwrap_or_default()
    }

    fn heard(&mut self, now: Moment) {
        if let Some(resync) = &mut self.resync {
            resync.heard(now);
        }
    }

    fn aside(&mut self, now: Moment) -> Option<Aside> {
        if self.resync.as_mut()?.take_refusal(now) {
            // If it cannot be read the one in use stays, and is not shown again.
            let _ = self.reload();
        }
        self.resync.as_mut()?.next(self.authorization.as_ref(), now)
    }

    fn written(&mut self, last: bool, now: Moment) {
        if let Some(resync) = &mut self.resync {
            resync.written(last, now);
        }
    }

    fn due(&self, now: Moment) -> Option<Instant> {
        self.resync.as_ref()?.due(now)
    }

    fn accounts(&self) -> Accounts {
        let accounts = Accounts::default().with("repeated", self.repeated);
        self.resync.as_ref().map_or(accounts.clone(), |resync| accounts.and(&resync.accounts()))
    }
}

/// `{"type":"error","data":{"errorMessage":"UNAUTHORIZED"}}`; no other `errorMessage` is documented.
fn error(text: &str) -> Meaning<'_> {
    let pointer = Pointer::parse("/data/errorMessage").expect("it is a pointer");
    match pointer.find(text).map(json::plain) {
        // Whatever more it says: an attempt too many can lock the account.
        Some(message) if message.trim().get(..12).is_some_and(|word| word.eq_ignore_ascii_case("UNAUTHORIZED")) => {
            Meaning::Refused("the server said UNAUTHORIZED".to_owned())
        }
        Some(message) if !message.trim().is_empty() => Meaning::Failed(format!("the server said: {}", message.trim())),
        _ => Meaning::Failed("the server sent an error without a message".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;
    use crate::world::tls::TlsArgs;

    fn at(url: &str) -> Result<Address, String> {
        resolve(url, Dialect::Tutum, None, &Stream::Events)
    }

    fn tutum(raw: bool) -> Tutum {
        let key = Secret::new("hunter22");
        Tutum {
            address: at("ws://127.0.0.1:1").unwrap(),
            args: TutumArgs { raw, ..TutumArgs::default() },
            auth: TutumAuthArgs::default(),
            authorization: Some(Authorization::User { name: "jo".to_owned(), key }),
            tls: Tls::load(&TlsArgs::default()).unwrap(),
            proxy: None,
            answer_timeout: Duration::from_secs(1),
            notices: Notices::default(),
            repeated: 0,
            resync: None,
        }
    }

    fn meaning(text: &str, raw: bool) -> Meaning<'_> {
        tutum(raw).message(text, Timestamp::parse("2025-03-04T05:06:07.890Z").unwrap())
    }

    fn record(text: &str, raw: bool) -> (String, bool) {
        match meaning(text, raw) {
            Meaning::Records(records) if records.len() == 1 => (records[0].text.to_string(), records[0].is_event),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn hosts_and_bases_lead_to_the_stream() {
        for (url, address) in [
            ("wss://h", "wss://h/v1/events"),
            ("WSS://h:8443/", "wss://h:8443/v1/events"),
            ("ws://h/v1", "ws://h/v1/events"),
            ("https://h/v1/", "wss://h/v1/events"),
            ("http://h/api/v1/", "ws://h/api/v1/events"),
            ("wss://h/v1/events/", "wss://h/v1/events"),
            ("wss://[::1]:9/", "wss://[::1]:9/v1/events"),
        ] {
            assert_eq!(at(url).unwrap().expose(), address, "{url}");
        }
        for url in [
            "h",
            "ftp://h",
            "wss://h/other/",
            "wss://h/v2/",
            "wss://h/?token=hunter22",
            "wss://u:hunter22@h",
            "wss://h/v1/events/x",
        ] {
            let reason = at(url).unwrap_err();
            assert!(!reason.contains("hunter22"), "{reason}");
        }
    }

    #[test]
    fn a_record_is_stamped_and_stays_as_it_came() {
        let stamp = r#""received_at":"2025-03-04T05:06:07.890Z""#;
        assert_eq!(
            record(r#"{ "n" : 1.10, "type":"service","é":"\u00e9" }"#, false),
            (format!(r#"{{ "n" : 1.10, "type":"service","é":"\u00e9" ,{stamp}}}"#), true)
        );
        assert_eq!(record(r#"{"type":"auth"}"#, false), (format!(r#"{{"type":"auth",{stamp}}}"#), false));
        assert_eq!(record("{}", false), (format!("{{{stamp}}}"), true));
        let own = r#"{"received_at":"yesterday","a":1}"#;
        assert_eq!(record(own, false).0, own);
        let raw = r#"{ "type" : "node" } "#;
        assert_eq!(record(raw, true).0, raw);
    }

    #[test]
    fn line_breaks_between_values_go_and_those_in_strings_stay_escaped() {
        assert_eq!(
            record("{\r\n  \"a\": \"x\\ny\",\n  \"b\": [1,\n2]\n}\n", true).0,
            r#"{  "a": "x\ny",  "b": [1,2]}"#
        );
        assert!(matches!(meaning("{\"a\":\"x\ny\"}", true), Meaning::Faulty(_)));
    }

    #[test]
    fn errors_and_garbage() {
        let unauthorized = r#"{"type":"error","data":{"errorMessage":"UNAUTHORIZED"}}"#;
        assert_eq!(meaning(unauthorized, false), Meaning::Refused("the server said UNAUTHORIZED".to_owned()));
        let other = r#"{"type":"error","data":{"errorMessage":"out of order"}}"#;
        assert_eq!(meaning(other, false), Meaning::Failed("the server said: out of order".to_owned()));
        assert!(matches!(meaning(r#"{"type":"error"}"#, false), Meaning::Failed(_)));
        for garbage in ["", "hello", "[1]", "7", "{\"a\":1} {\"b\":2}", "{\"a\":1", "\u{feff}{}"] {
            assert!(matches!(meaning(garbage, false), Meaning::Faulty(_)), "{garbage:?}");
        }
    }

    #[test]
    fn the_credential_goes_where_it_is_asked_to() {
        let mut source = tutum(false);
        assert!(!source.is_exposed());
        source.address = at("ws://example.org").unwrap();
        assert!(source.is_exposed());
        assert_eq!(source.plan(), "would connect to ws://example.org/v1/events as jo (in the header)");
        assert_eq!(source.redact("no hunter22"), "no <redacted>");
    }

    #[test]
    fn docker_clouds_hosts_and_bases_lead_to_its_stream() {
        for (url, namespace, address) in [
            ("wss://h", None, "wss://h/api/audit/v1/events"),
            ("wss://h", Some("acme"), "wss://h/api/audit/v1/acme/events"),
            ("https://h/x/api/audit/v1/", Some("acme"), "wss://h/x/api/audit/v1/acme/events"),
            ("wss://h/api/audit/v1/events", None, "wss://h/api/audit/v1/events"),
            ("wss://h/api/audit/v1/acme/events/", None, "wss://h/api/audit/v1/acme/events"),
            ("wss://h/api/audit/v1/acme", Some("acme"), "wss://h/api/audit/v1/acme/events"),
        ] {
            let resolved = resolve(url, Dialect::DockerCloud, namespace, &Stream::Events);
            assert_eq!(resolved.unwrap().expose(), address, "{url}");
        }
        for (url, namespace) in [
            ("wss://h/v1/", None),
            ("wss://h/api/audit/v1/a/b/events", None),
            ("wss://h/api/audit/v1/..", None),
            ("wss://h/api/audit/v1/acme", Some("other")),
        ] {
            assert!(resolve(url, Dialect::DockerCloud, namespace, &Stream::Events).is_err(), "{url}");
        }
        assert!(is_name("a.b-c_d1"));
        assert!(["", "a/b", "..", "\u{e9}"].iter().all(|name| !is_name(name)));
    }

    #[test]
    fn logs_have_their_own_places() {
        let logs = |of, tail, follow| Stream::Logs { of, uuid: "5b0f-1".to_owned(), tail, follow };
        for (dialect, namespace, stream, address) in [
            (
                Dialect::Tutum,
                None,
                logs(Logged::Container, 300, true),
                "ws://h/v1/container/5b0f-1/logs/?tail=300&follow=true",
            ),
            (Dialect::Tutum, None, logs(Logged::Action, 0, false), "ws://h/v1/action/5b0f-1/logs/?tail=0&follow=false"),
            (
                Dialect::DockerCloud,
                Some("acme"),
                logs(Logged::Service, 9, true),
                "ws://h/api/app/v1/acme/service/5b0f-1/logs/?tail=9&follow=true",
            ),
            (
                Dialect::DockerCloud,
                None,
                logs(Logged::Action, 9, true),
                "ws://h/api/audit/v1/action/5b0f-1/logs/?tail=9&follow=true",
            ),
        ] {
            assert_eq!(resolve("ws://h", dialect, namespace, &stream).unwrap().expose(), address);
        }
    }
}
