//! Elasticsearch and OpenSearch: which bulk request a batch becomes, and what each item of the answer means.

mod mappings;

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use mappings::mappings;

use crate::flow::delivery;
use crate::flow::delivery::destination::{
    Batching, Destination, Form, Letter, Outcome, Pacing, Plan, Role, never_sent,
};
use crate::flow::delivery::run::SinkArgs;
use crate::model::address::Address;
use crate::model::digest::sha256_hex;
use crate::model::event::Event;
use crate::model::exit::{Exit, Failure};
use crate::model::json::{self, append, quote};
use crate::model::phrase;
use crate::model::quantity;
use crate::model::secret::Secret;
use crate::model::template::Template;
use crate::model::time::Timestamp;
use crate::world::World;
use crate::world::credentials::{Authorization, SecretSource};
use crate::world::http::{Method, Request, Response, Transport};
use crate::world::tls::Tls;

/// Records in a request unless told otherwise.
const BATCH: usize = 500;
/// Bytes of records in a request unless told otherwise; the servers' own limit is 100 MB, small managed ones have 10 MiB
/// (elastic.co, "HTTP settings", `http.max_content_length`).
const BATCH_BYTES: u64 = 5 << 20;
/// How long an incomplete batch waits unless told otherwise.
const BATCH_AGE: Duration = Duration::from_secs(1);
/// Only these parts of the answer are wanted; positions must stay, so the successful items too.
const FILTER: &str =
    "filter_path=errors,took,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason";
/// The longest `_id`, in bytes (elastic.co, "_id field").
const MAX_ID: usize = 512;
/// Our templates go before those that come with the servers, which have 100 to 200 (elastic.co, "Index templates").
const PRIORITY: usize = 300;
/// What stands before the date in the default index.
const DAILY: &str = "tutum-";

/// When a batch is sent: at the first limit it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    count: usize,
    bytes: u64,
    age: Duration,
}

impl Default for BatchLimits {
    fn default() -> BatchLimits {
        BatchLimits { count: BATCH, bytes: BATCH_BYTES, age: BATCH_AGE }
    }
}

impl BatchLimits {
    /// Reads a list such as `500,5MiB,1s`; what is not in it stays.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn read(&mut self, text: &str) -> Result<(), String> {
        for part in text.split(',').map(str::trim) {
            if let Ok(count) = part.parse::<usize>() {
                self.count = count;
            } else if let Ok(age) = quantity::parse_duration(part) {
                self.age = age;
            } else if let Ok(bytes) = quantity::parse_size(part) {
                self.bytes = bytes;
            } else {
                return Err(format!("expected a count, a size or a duration such as 500,5MiB,1s, got \"{part}\""));
            }
        }
        if self.count == 0 || self.bytes == 0 { Err("a batch holds at least one record".to_owned()) } else { Ok(()) }
    }
}

/// What a user can say about indexing.
#[derive(Clone, Debug, Default)]
pub struct ElasticsearchArgs {
    /// The server.
    pub url: Option<String>,
    /// The index's name, a template.
    pub index: Option<String>,
    /// The data stream's name, instead.
    pub data_stream: Option<String>,
    /// A file with the API key.
    pub api_key_file: Option<PathBuf>,
    /// The user, instead of an API key.
    pub user: Option<String>,
    /// A file with the user's password.
    pub password_file: Option<PathBuf>,
    /// Limits of a batch.
    pub batch: BatchLimits,
    /// Compress the requests.
    pub gzip: bool,
    /// Print the index template and end.
    pub print_template: bool,
    /// Install the index template and end.
    pub install_template: bool,
    /// How long a request may take; the server is asked to give up sooner, so that it does not work for an answer nobody waits for.
    pub patience: Option<Duration>,
}

/// The destination.
pub struct Elasticsearch {
    address: Address,
    target: Target,
    secret: Option<SecretSource>,
    authorization: Option<Secret>,
    args: ElasticsearchArgs,
}

enum Target {
    /// `tutum-{{ received_at[:10] }}`, the default.
    Daily,
    Index(Box<Template>),
    DataStream(String),
}

impl Elasticsearch {
    /// Reads the address, the names and the credentials. With `rehearsal` a server need not be named.
    ///
    /// # Errors
    /// Something is missing or wrong.
    pub fn new(args: ElasticsearchArgs, rehearsal: bool) -> Result<Elasticsearch, Failure> {
        let stand_in = rehearsal.then(|| "http://localhost:9200".to_owned());
        let url = args.url.clone().or(stand_in).ok_or_else(|| Failure::usage("--url: no server: give its URL"))?;
        let address =
            Address::parse(&url, &["https", "http"]).map_err(|error| Failure::usage(format!("--url: {error}")))?;
        let target = match (&args.index, &args.data_stream) {
            (Some(_), Some(_)) => return Err(Failure::usage("--index and --data-stream: give one of them")),
            (None, Some(name)) => Target::DataStream(
                checked_name(name).map_err(|error| Failure::usage(format!("--data-stream: {error}")))?,
            ),
            (None, None) => Target::Daily,
            (Some(index), None) => {
                let template = Template::new(index, str::to_owned);
                Target::Index(Box::new(template.map_err(|error| Failure::usage(format!("--index: {error}")))?))
            }
        };
        let secret = match (&args.user, &args.password_file) {
            (Some(_), file) => Some(SecretSource::new(file.clone(), "ELASTICSEARCH_PASSWORD")),
            (None, Some(_)) => return Err(Failure::usage("--password-file: needs --user")),
            (None, None) => Some(SecretSource::new(args.api_key_file.clone(), "ELASTICSEARCH_API_KEY")),
        };
        let mut elasticsearch = Elasticsearch { address, target, secret, authorization: None, args };
        if !rehearsal {
            elasticsearch.authorization = elasticsearch.read_authorization().map_err(Failure::usage)?;
        }
        Ok(elasticsearch)
    }

    /// The header, if there is anything to show: a server without security wants none.
    fn read_authorization(&self) -> Result<Option<Secret>, String> {
        let Some(source) = &self.secret else { return Ok(None) };
        let flag = if self.args.user.is_some() { "--password-file" } else { "--api-key-file" };
        let secret = source.read().map_err(|error| format!("{flag}: {error}"))?;
        Ok(match (&self.args.user, secret) {
            (Some(_), None) => {
                return Err("--user: no password: give --password-file or set ELASTICSEARCH_PASSWORD".to_owned());
            }
            (Some(name), Some(key)) => Some(Authorization::User { name: name.clone(), key }.header()),
            (None, None) => None,
            (None, Some(key)) => Some(api_key(&key)),
        })
    }

    fn name_of(&self, text: &str, known: &Known<'_>, time: Timestamp) -> Result<String, String> {
        match (&self.target, &known.received_at) {
            (Target::DataStream(name), _) => Ok(name.clone()),
            (Target::Daily, received) => {
                let date = received.as_deref().filter(|text| Timestamp::parse(text).is_some());
                let name = date.and_then(|text| checked_name(&format!("{DAILY}{}", text.get(..10)?)).ok());
                Ok(name.unwrap_or_else(|| format!("{DAILY}{}", &time.rfc3339()[..10])))
            }
            (Target::Index(template), Some(_)) => checked_name(&template.render(text)?),
            // An index by date must be found for records without a date too.
            (Target::Index(template), None) => {
                let dated = append(text, &format!(r#""received_at":"{}""#, time.rfc3339()));
                checked_name(&template.render(&dated)?)
            }
        }
    }

    /// The name of the index template: the target's, as far as it is fixed.
    ///
    /// # Errors
    /// A target that begins with what is filled in: a template for every index of the server would be no favour.
    pub fn template_name(&self) -> Result<String, Failure> {
        let fixed = match &self.target {
            Target::DataStream(name) => name,
            Target::Daily => DAILY,
            Target::Index(_) => {
                self.args.index.as_deref().and_then(|index| index.split('{').next()).unwrap_or_default()
            }
        };
        let name = fixed.trim().trim_end_matches(['-', '_', '.']).to_lowercase();
        if name.is_empty() {
            return Err(Failure::usage(
                "--index: begins with what is filled in, so that its index template would be one for every index",
            ));
        }
        Ok(name)
    }

    /// The index template that suits the suite's records, with the pattern of the configured names. Of every key it has been valid in
    /// Elasticsearch since 7.8, and in OpenSearch: so neither `flattened` nor `flat_object`.
    ///
    /// # Errors
    /// As [`Elasticsearch::template_name`].
    pub fn index_template(&self) -> Result<Value, Failure> {
        let name = self.template_name()?;
        let is_stream = matches!(self.target, Target::DataStream(_));
        let is_fixed = is_stream || self.args.index.as_ref().is_some_and(|index| !index.contains("{{"));
        let pattern = match (&self.args.index, is_fixed) {
            (_, true) => name.clone(),
            (Some(index), false) => format!("{}*", index.split('{').next().unwrap_or_default().trim().to_lowercase()),
            (None, false) => format!("{DAILY}*"),
        };
        let mut template = json!({
            "index_patterns": [pattern],
            // Of two templates that fit, the servers want one to go before the other: the more special one, as people expect.
            "priority": PRIORITY + name.len() + usize::from(is_fixed),
            "template": {"mappings": mappings()},
            "_meta": {"description": "events of the tutum suite, by to-elasticsearch --install-template"},
        });
        if is_stream {
            template["data_stream"] = json!({});
        }
        Ok(template)
    }

    /// Puts the index template on the server.
    ///
    /// # Errors
    /// 3 if the credentials or the privilege are refused, 4 if there is no answer, 1 is [`Exit::Incomplete`] for a template that is not taken.
    pub fn install_template(&self, transport: &dyn Transport) -> Result<(Exit, String), Failure> {
        let (name, template) = (self.template_name()?, self.index_template()?);
        let mut request = self.request_to(&format!("_index_template/{name}"), template.to_string().into_bytes());
        request.method = Method::Put;
        let answer = transport.send(&request);
        let answer =
            answer.map_err(|error| Failure::failed(format!("{}: {}", self.address, self.redact(error.reason()))))?;
        let reason = self.redact(&self.explained(&answer));
        match answer.status {
            200..=299 => Ok((Exit::Success, format!("{}: the index template {name} is installed", self.address))),
            300..=399 | 401 => Err(Failure::refused(format!("{}: {reason}", self.address))),
            403 => {
                let needed = "the credential needs the cluster privilege manage_index_templates";
                Err(Failure::refused(format!("{}: {reason}; {needed}", self.address)))
            }
            404 | 405 => {
                let needed = "index templates of this kind need Elasticsearch 7.8 or OpenSearch";
                Ok((Exit::Incomplete, format!("{}: {reason}; {needed}", self.address)))
            }
            408 | 429 | 500.. => Err(Failure::failed(format!("{}: {reason}", self.address))),
            _ => Ok((Exit::Incomplete, format!("{}: {reason}", self.address))),
        }
    }

    /// Status, what the server says of it, and what can be done about it.
    fn explained(&self, answer: &Response) -> String {
        let reason = whole_reason(answer);
        let advice = match answer.status {
            300..=399 => match &answer.location {
                Some(place) => format!("the server is elsewhere: it names {}", phrase::cut(&self.redact(place), 200)),
                None => "the server is elsewhere".to_owned(),
            },
            401 => match (&self.authorization, &self.args.user) {
                (None, _) => "it wants a credential: give --api-key-file, or --user and --password-file".to_owned(),
                (Some(_), Some(user)) => format!("the user {user} or the password is not accepted"),
                (Some(_), None) => "the API key is not accepted".to_owned(),
            },
            _ => return reason,
        };
        format!("{reason}; {advice}")
    }

    /// What an operator has to do before anything can be stored, if that is what an error asks for.
    fn advice(&self, status: u16, kind: &str) -> Option<String> {
        match (status, kind, &self.target) {
            (403, "security_exception", _) => Some(
                "the credential lacks a privilege: it needs create_doc on the target, and auto_configure or create_index where that \
                 does not exist yet"
                    .to_owned(),
            ),
            (404, "index_not_found_exception", Target::DataStream(name)) => Some(format!(
                "there is no data stream {name} and none is made of itself: put an index template on the server with --install-template"
            )),
            (404, "index_not_found_exception", _) => {
                Some("the index does not exist and none is made of itself: create it, or allow it in action.auto_create_index".to_owned())
            }
            _ => None,
        }
    }

    fn request_to(&self, path: &str, body: Vec<u8>) -> Request {
        let base = self.address.path.trim_end_matches('/');
        let address = self.address.with_path(&format!("{base}/{path}"));
        Request { authorization: self.authorization.clone(), ..Request::post_json(address, body) }
    }
}

/// Runs the sink, or prints or installs its index template.
///
/// # Errors
/// As [`delivery::run::run`], and those of [`Elasticsearch::install_template`].
pub fn run(own: ElasticsearchArgs, sink: &SinkArgs, world: &mut World) -> Result<Exit, Failure> {
    let own = ElasticsearchArgs { patience: Some(sink.delivery.timeout), ..own };
    if own.print_template {
        let template = Elasticsearch::new(own, true)?.index_template()?;
        return world.print(&format!("{template:#}"));
    }
    if own.install_template {
        let elasticsearch = Elasticsearch::new(own, false)?;
        let tls = Tls::load(&sink.tls).map_err(Failure::usage)?;
        if world.check {
            let name = elasticsearch.template_name()?;
            return world.checked(&[format!("would put the index template {name} on {}", elasticsearch.address)]);
        }
        let (exit, said) = elasticsearch.install_template(&sink.transport(&tls, &elasticsearch))?;
        match exit {
            Exit::Success => world.diagnostics.info(&said),
            _ => world.diagnostics.error(&said),
        }
        return Ok(exit);
    }
    let make = |rehearsal, world: &World| {
        let elasticsearch = Elasticsearch::new(own, rehearsal)?;
        let address = &elasticsearch.address;
        if elasticsearch.authorization.is_some() && !address.is_secure() && !address.is_loopback() {
            world.diagnostics.warn(&format!("{address}: the credential can be read by anyone on the way: use https"));
        }
        Ok(elasticsearch)
    };
    delivery::run::run(make, sink, world)
}

/// `id:key` is encoded; the ready-made form is sent as it is (elastic.co, "Create API key").
fn api_key(key: &Secret) -> Secret {
    match key.expose().split_once(':') {
        Some((id, secret)) => {
            let basic = Authorization::User { name: id.to_owned(), key: Secret::new(secret) }.header();
            Secret::new(&basic.expose().replacen("Basic", "ApiKey", 1))
        }
        None => Secret::new(&format!("ApiKey {}", key.expose())),
    }
}

/// A name the servers take: lower case, without what they forbid (elastic.co, "Create index API").
fn checked_name(name: &str) -> Result<String, String> {
    let name = name.trim().to_lowercase();
    let wrong = |c: char| c.is_control() || c.is_whitespace() || "\\/*?\"<>|,#:".contains(c);
    if name.is_empty() || name.len() > 255 || name.starts_with(['-', '_', '+', '.']) || name.contains(wrong) {
        return Err(format!("\"{}\" cannot be the name of an index", phrase::cut(&name, 80)));
    }
    Ok(name)
}

/// What id and time come from, found in one go.
#[derive(Default)]
struct Known<'l> {
    uuid: Option<Cow<'l, str>>,
    datetime: Option<Cow<'l, str>>,
    received_at: Option<Cow<'l, str>>,
    has_timestamp: bool,
}

impl<'l> Known<'l> {
    fn of(text: &'l str) -> Known<'l> {
        let mut known = Known::default();
        let wanted = |key: &str| matches!(key, "uuid" | "datetime" | "received_at" | "@timestamp");
        let found = json::select(text, wanted, |key, raw| match key {
            "uuid" => known.uuid = phrase::plain_text(raw),
            "datetime" => known.datetime = phrase::plain_text(raw),
            "received_at" => known.received_at = phrase::plain_text(raw),
            _ => known.has_timestamp = true,
        });
        // It was an object when it was accepted.
        found.map(|()| known).unwrap_or_default()
    }

    /// When the event happened, as far as is known.
    fn time(&self, accepted: Timestamp) -> Timestamp {
        let told = [&self.datetime, &self.received_at].into_iter().flatten().find_map(|text| Timestamp::parse(text));
        told.unwrap_or(accepted)
    }

    /// The same event has the same id, so that sending it twice stores it once.
    fn id(&self, letter: &Letter<'_>) -> String {
        match &self.uuid {
            Some(uuid) if uuid.len() <= MAX_ID && self.datetime.is_some() => uuid.to_string(),
            _ if self.received_at.is_some() => sha256_hex(letter.text.trim().as_bytes())[..40].to_owned(),
            // Two equal records without a time are two events; number and time of their acceptance tell them apart.
            _ => format!("{}-{}", letter.accepted.utc.millis(), letter.place),
        }
    }
}

impl Destination for Elasticsearch {
    fn name(&self) -> &'static str {
        "elasticsearch"
    }

    fn address(&self) -> &Address {
        &self.address
    }

    fn plan(&mut self, event: &Event<'_>) -> Plan {
        match never_sent(event) {
            Some(reason) => Plan::Skip { reason },
            // One key: they arrive in the order they were taken. What has no index is kept apart, so that no batch fails for it.
            None => {
                let key = match self.target {
                    Target::Daily | Target::DataStream(_) => String::new(),
                    Target::Index(_) => {
                        let (known, any_time) = (Known::of(event.text), Timestamp::from_millis(0));
                        let time = known.time(any_time.expect("1970 is a time"));
                        self.name_of(event.text, &known, time).err().unwrap_or_default()
                    }
                };
                Plan::Send { key, role: Role::Plain, urgent: false }
            }
        }
    }

    fn pacing(&self) -> Pacing {
        Pacing { rate: None, burst: 1, concurrency: 1, throttled_by_key: false }
    }

    fn batching(&self) -> Batching {
        let BatchLimits { count, bytes, age } = self.args.batch;
        Batching { most: count, bytes: usize::try_from(bytes).unwrap_or(usize::MAX), linger: age, fold: false }
    }

    fn request(&self, letters: &[Letter<'_>], _form: Form) -> Result<Request, String> {
        let mut body = String::with_capacity(letters.iter().map(|letter| letter.text.len() + 150).sum());
        for letter in letters {
            let text = letter.text.trim();
            let known = Known::of(text);
            let time = known.time(letter.accepted.utc);
            let index = self.name_of(text, &known, time)?;
            body += &format!("{{\"create\":{{\"_index\":{},\"_id\":{}}}}}\n", quote(&index), quote(&known.id(letter)));
            if known.has_timestamp {
                body += text;
            } else {
                body += &append(text, &format!(r#""@timestamp":"{}""#, time.rfc3339()));
            }
            body.push('\n');
        }
        let mut request = self.request_to("_bulk", body.into_bytes());
        let patience = self.args.patience.map(|patience| (patience * 2 / 3).max(Duration::from_secs(1)).as_millis());
        let patience = patience.map(|millis| format!("&timeout={millis}ms")).unwrap_or_default();
        request.address.query = Some(format!("{FILTER}{patience}"));
        request.headers = vec![("content-type", "application/x-ndjson".to_owned())];
        request.gzip = self.args.gzip;
        Ok(request)
    }

    fn outcomes(&self, count: usize, answer: &Response) -> Vec<Outcome> {
        let reason = self.explained(answer);
        let whole = match answer.status {
            200..=299 => return self.items(count, answer),
            // A bad line in it, or too much: the halves tell which.
            400 | 413 if count > 1 => Outcome::TooLarge { reason },
            403 | 404 => {
                let kind = error_of(answer)["type"].as_str().unwrap_or_default().to_owned();
                let advice = self.advice(answer.status, &kind).map(|advice| format!("; {advice}"));
                Outcome::Refused { reason: reason + &advice.unwrap_or_default() }
            }
            300..=399 | 401 | 406 | 501 => Outcome::Refused { reason },
            429 => Outcome::Retry { reason, throttled: true },
            408 | 500..=599 => Outcome::Retry { reason, throttled: false },
            _ => Outcome::Rejected { reason, status: None },
        };
        vec![whole; count]
    }

    fn reload(&mut self) -> Result<bool, String> {
        let authorization = self.read_authorization()?;
        let another = authorization != self.authorization;
        self.authorization = authorization;
        Ok(another)
    }

    fn redact(&self, text: &str) -> String {
        match &self.authorization {
            Some(header) => Authorization::Header(header.clone()).redact(text),
            None => text.to_owned(),
        }
    }

    fn test_record(&self) -> String {
        r#"{"type":"test","action":"update","state":"Test"}"#.to_owned()
    }
}

impl Elasticsearch {
    /// The outcome of each item; the answer is 200 even if every one of them failed.
    fn items(&self, count: usize, answer: &Response) -> Vec<Outcome> {
        let body: Value = match serde_json::from_slice(&answer.body) {
            Ok(body) => body,
            // What is stored is stored; the halves have shorter answers.
            Err(_) if answer.truncated => {
                let reason = format!("{}: the answer is too long to be read", answer.status);
                return vec![Outcome::TooLarge { reason }; count];
            }
            Err(_) => {
                let reason = format!("{}: the answer is not JSON; is this Elasticsearch?", answer.status);
                return vec![Outcome::Retry { reason, throttled: false }; count];
            }
        };
        if body["errors"] == Value::Bool(false) {
            return vec![Outcome::Delivered; count];
        }
        match body["items"].as_array() {
            Some(items) if items.len() == count => items.iter().map(|item| self.item(item)).collect(),
            _ => {
                // Sent again whole; the ids keep what is stored from being stored twice.
                let reason =
                    format!("{}: the answer does not speak of the {count} records that were sent", answer.status);
                vec![Outcome::Retry { reason, throttled: false }; count]
            }
        }
    }

    /// elastic.co, "Bulk API"; "rejected requests".
    fn item(&self, item: &Value) -> Outcome {
        let result = item.as_object().and_then(|item| item.values().next()).unwrap_or(&Value::Null);
        let error = &result["error"];
        let kind = error["type"].as_str().unwrap_or_default();
        let status = result["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or_default();
        let words = [error["type"].as_str(), error["reason"].as_str(), error["caused_by"]["reason"].as_str()];
        let words: Vec<&str> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
        let advice = self.advice(status, kind).map(|advice| format!("; {advice}")).unwrap_or_default();
        let reason = one_line(&format!("{status} {}", words.join(": "))) + &advice;
        match status {
            // 409: this very id is stored already, by an attempt whose answer was lost.
            200..=299 | 409 => Outcome::Delivered,
            429 => Outcome::Retry { reason, throttled: true },
            403 if kind == "cluster_block_exception" => Outcome::Retry { reason, throttled: false },
            403 | 401 => Outcome::Refused { reason },
            404 if kind == "index_not_found_exception" => Outcome::Refused { reason },
            // 0: nothing is said of it.
            0 | 408 | 500..=599 => Outcome::Retry { reason, throttled: false },
            _ => Outcome::Rejected { reason, status: Some(status) },
        }
    }
}

/// The `error` of an answer.
fn error_of(answer: &Response) -> Value {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    body["error"].clone()
}

/// Status and what the server says of it.
fn whole_reason(answer: &Response) -> String {
    let error = error_of(answer);
    let words = match (error["type"].as_str(), error["reason"].as_str(), error.as_str()) {
        (Some(kind), Some(reason), _) => format!("{kind}: {reason}"),
        (_, _, Some(text)) => text.to_owned(),
        // A proxy's page says no more than its status.
        _ if answer.content_type.contains("html") => String::new(),
        _ => answer.text(),
    };
    one_line(&format!("{} {words}", answer.status))
}

/// At most 500 characters, in one line.
fn one_line(text: &str) -> String {
    phrase::cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), 500).into_owned()
}

#[cfg(test)]
mod tests;
