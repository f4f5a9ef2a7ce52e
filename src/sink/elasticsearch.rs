//! Elasticsearch and OpenSearch: which bulk request a batch becomes, and what each item of the answer means.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

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

/// How the suite's records are indexed.
///
/// Words are keywords, for filters and sums. What may have any number of keys, or of any shape, is kept with the document and indexed only as far as
/// its keys are known, so that no event can fill the mapping and none is refused because another was different: an APIC's `attributes`, and
/// the objects tutum-enrich attaches. Numbers and dates that are none are left out of the index instead of refusing the document.
fn mappings() -> Value {
    let keyword = json!({"type": "keyword", "ignore_above": 1024});
    let words = json!({"type": "text", "fields": {"keyword": keyword}});
    let date = json!({"type": "date", "ignore_malformed": true});
    let whole = json!({"type": "long", "ignore_malformed": true});
    let known = |keywords: &[&str], others: &[(&str, &Value)]| {
        let keywords = keywords.iter().map(|name| ((*name).to_owned(), keyword.clone()));
        let others = others.iter().map(|(name, mapping)| ((*name).to_owned(), (*mapping).clone()));
        keywords.chain(others).collect::<Map<String, Value>>()
    };
    let closed = |properties: Map<String, Value>| json!({"type": "object", "dynamic": false, "properties": properties});
    let object = closed(known(
        &[
            "uuid",
            "name",
            "nickname",
            "state",
            "resource_uri",
            "image_name",
            "image_tag",
            "action",
            "object",
            "service",
            "stack",
            "node",
            "public_dns",
            "external_fqdn",
            "private_ip",
            "public_ip",
        ],
        &[
            ("exit_code", &whole),
            ("exit_code_msg", &words),
            ("current_num_containers", &whole),
            ("target_num_containers", &whole),
        ],
    ));
    let parents: Map<String, Value> = ["service", "stack", "node", "nodecluster", "container"]
        .into_iter()
        .map(|kind| (kind.to_owned(), object.clone()))
        .collect();
    // Of an APIC's thousands: what faults, records of changes and interfaces have.
    let attributes = closed(known(
        &[
            "dn",
            "name",
            "nameAlias",
            "status",
            "severity",
            "origSeverity",
            "code",
            "cause",
            "lc",
            "type",
            "subject",
            "domain",
            "rule",
            "ack",
            "affected",
            "user",
            "trig",
            "operSt",
            "operStQual",
            "adminSt",
            "role",
            "id",
        ],
        &[("descr", &words), ("modTs", &date), ("created", &date), ("lastTransition", &date), ("occur", &whole)],
    ));
    // Each key of these would be a field, and their values may be secret.
    let opaque = ["link_variables", "container_envvars", "labels", "Labels", "annotations", "Attributes"].map(|name| {
        json!({name: {"match": name, "match_mapping_type": "object", "mapping": {"type": "object", "enabled": false}}})
    });
    let mut templates = opaque.to_vec();
    templates.push(json!({"words": {"match_mapping_type": "string", "mapping": keyword}}));
    let mut properties = known(
        &[
            "type",
            "action",
            "state",
            "resource_uri",
            "parents",
            "source",
            "origin",
            "uuid",
            "name",
            "dn",
            "image",
            "health",
            "update_state",
            "level",
        ],
        &[
            ("received_at", &date),
            ("datetime", &date),
            ("from", &date),
            ("to", &date),
            ("reason", &words),
            ("message", &words),
            ("exit_code", &whole),
            ("count", &whole),
            ("code", &whole),
            ("attempts", &whole),
            ("dropped", &whole),
            ("suppressed", &whole),
            ("seconds", &json!({"type": "double", "ignore_malformed": true})),
            ("resource", &object),
            ("parent", &closed(parents)),
            ("attributes", &attributes),
        ],
    );
    // A data stream allows nothing more to be said of this one.
    properties.insert("@timestamp".to_owned(), json!({"type": "date"}));
    json!({"dynamic_templates": templates, "date_detection": false, "numeric_detection": false, "properties": properties})
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
mod tests {
    use super::*;
    use crate::flow::stage::tests::start;

    fn elasticsearch(change: impl FnOnce(&mut ElasticsearchArgs)) -> Elasticsearch {
        let mut args =
            ElasticsearchArgs { url: Some("http://localhost:9200".to_owned()), ..ElasticsearchArgs::default() };
        change(&mut args);
        Elasticsearch::new(args, true).unwrap()
    }

    fn body(elasticsearch: &Elasticsearch, texts: &[&str]) -> Vec<Value> {
        let letter =
            |(at, text): (usize, &&'static str)| Letter { text, key: "", accepted: start(), place: at as u64 + 1 };
        let texts: Vec<&'static str> =
            texts.iter().map(|text| &*Box::leak((*text).to_owned().into_boxed_str())).collect();
        let letters: Vec<Letter<'_>> = texts.iter().enumerate().map(letter).collect();
        let request = elasticsearch.request(&letters, Form::Full).unwrap();
        assert_eq!(request.body.last(), Some(&b'\n'), "a missing line break at the end is a 400");
        String::from_utf8(request.body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn ids_make_sending_twice_harmless_and_keep_equal_events_apart() {
        let server = elasticsearch(|_| ());
        let id = |text: &str, other: &str| {
            let lines = body(&server, &[text, other]);
            (
                lines[0]["create"]["_id"].as_str().unwrap().to_owned(),
                lines[2]["create"]["_id"].as_str().unwrap().to_owned(),
            )
        };
        let stamped = r#"{"type":"node","received_at":"2025-03-04T05:06:07.890Z"}"#;
        let (first, again) = id(stamped, stamped);
        assert_eq!((first.len(), first), (40, again));
        let (one, two) = id(r#"{"type":"node"}"#, r#"{"type":"node"}"#);
        assert_ne!(one, two);
        let cloud = r#"{"uuid":"5b0f","datetime":"2025-03-04T05:06:07Z"}"#;
        assert_eq!(id(cloud, r#"{"uuid":"5b0f"}"#).0, "5b0f");
        assert_ne!(id(r#"{"uuid":"5b0f"}"#, cloud).0, "5b0f", "without a datetime the uuid is an object's");
    }

    #[test]
    fn documents_have_a_time_and_an_index_by_date() {
        let event = r#"{"n":1.10,"received_at":"2024-12-31T23:59:59.000Z"}"#;
        let lines = body(&elasticsearch(|_| ()), &[event, "{}"]);
        assert_eq!(lines[0]["create"]["_index"], "tutum-2024-12-31");
        assert_eq!(lines[1]["@timestamp"], "2024-12-31T23:59:59.000Z");
        assert_eq!(
            (&lines[2]["create"]["_index"], &lines[3]["@timestamp"]),
            (&json!("tutum-2025-03-04"), &json!("2025-03-04T05:06:07.890Z"))
        );
        // What has no time of its own that is one goes by its acceptance, never into an index of any name it likes.
        let odd =
            body(&elasticsearch(|_| ()), &[r#"{"received_at":"yesterday"}"#, r#"{"datetime":"2025-01-02T03:04:05Z"}"#]);
        assert_eq!(odd[0]["create"]["_index"], "tutum-2025-03-04");
        assert_eq!(
            (&odd[2]["create"]["_index"], &odd[3]["@timestamp"]),
            (&json!("tutum-2025-01-02"), &json!("2025-01-02T03:04:05.000Z"))
        );
        let own =
            body(&elasticsearch(|_| ()), &[r#"{"@timestamp":1741064767890,"received_at":"2025-03-04T05:06:07.890Z"}"#]);
        assert_eq!(own[1]["@timestamp"], 1_741_064_767_890_i64);
        let stream = body(&elasticsearch(|args| args.data_stream = Some("Tutum-Events".to_owned())), &[event]);
        assert_eq!(stream[0]["create"]["_index"], "tutum-events");
    }

    /// Every row of the vendor's tables: the whole answer, and item by item.
    #[test]
    fn what_every_answer_means() {
        let server = elasticsearch(|_| ());
        let word = |outcome: &Outcome| match outcome {
            Outcome::Delivered => "delivered",
            Outcome::Retry { throttled: true, .. } => "throttled",
            Outcome::Retry { .. } => "retry",
            Outcome::TooLarge { .. } => "halve",
            Outcome::Rejected { .. } => "dead",
            Outcome::Refused { .. } => "stop",
        };
        for status in 300..600 {
            let expected = match status {
                400 | 413 => "halve",
                300..=399 | 401 | 403 | 404 | 406 | 501 => "stop",
                429 => "throttled",
                408 | 500.. => "retry",
                _ => "dead",
            };
            let answer = Response { status, ..Response::default() };
            let outcomes = server.outcomes(2, &answer);
            assert_eq!(outcomes.iter().map(word).collect::<Vec<_>>(), [expected; 2], "{status}");
            let alone = if expected == "halve" { "dead" } else { expected };
            assert_eq!(word(&server.outcomes(1, &answer)[0]), alone, "{status}, a single record");
        }
        let item = |status: u16, kind: &str| json!({"create": {"status": status, "error": {"type": kind, "reason": "because"}}});
        let table = [
            (201, "", "delivered"),
            (409, "version_conflict_engine_exception", "delivered"),
            (429, "es_rejected_execution_exception", "throttled"),
            (503, "unavailable_shards_exception", "retry"),
            (403, "cluster_block_exception", "retry"),
            (403, "security_exception", "stop"),
            (404, "index_not_found_exception", "stop"),
            (413, "", "dead"),
            (400, "mapper_parsing_exception", "dead"),
        ];
        let items: Vec<Value> = table.iter().map(|(status, kind, _)| item(*status, kind)).collect();
        let answer = |body: Value| Response { status: 200, body: body.to_string().into_bytes(), ..Response::default() };
        let outcomes = server.outcomes(table.len(), &answer(json!({"errors": true, "items": items})));
        let told: Vec<&str> = outcomes.iter().map(word).collect();
        assert_eq!(told, table.map(|(_, _, expected)| expected));
        assert_eq!(
            outcomes[8],
            Outcome::Rejected { reason: "400 mapper_parsing_exception: because".to_owned(), status: Some(400) }
        );
        let wrong = server.outcomes(3, &answer(json!({"errors": true, "items": []})));
        assert_eq!(word(&wrong[2]), "retry", "an answer about another number of items");
        assert_eq!(word(&server.outcomes(1, &answer(json!({"errors": false})))[0]), "delivered");
        assert_eq!(word(&server.outcomes(1, &answer(json!({"errors": true, "items": [{"create": {}}]})))[0]), "retry");
        let page = Response { status: 200, body: b"<html>".to_vec(), ..Response::default() };
        assert_eq!(word(&server.outcomes(2, &page)[0]), "retry", "nobody has stored anything");
        let cut = Response { truncated: true, ..page };
        assert_eq!(word(&server.outcomes(2, &cut)[0]), "halve", "stored, but the answer is too long");
    }

    /// The errors as the servers word them, and what is added for whoever has to mend it.
    #[test]
    fn an_operators_errors_say_what_to_do() {
        let error = |status: u16, kind: &str, reason: &str| {
            let body = json!({"error": {"type": kind, "reason": reason, "root_cause": []}, "status": status});
            Response { status, body: body.to_string().into_bytes(), ..Response::default() }
        };
        let said = |server: &Elasticsearch, answer: &Response| match server.outcomes(1, answer).remove(0) {
            Outcome::Refused { reason } | Outcome::Rejected { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let key = |user: Option<&str>| {
            let mut server = elasticsearch(|args| args.user = user.map(str::to_owned));
            server.authorization = Some(Secret::new("ApiKey x"));
            server
        };
        let open = elasticsearch(|_| ());
        let missing = error(401, "security_exception", "missing authentication credentials for REST request [/_bulk]");
        assert_eq!(
            said(&open, &missing),
            "401 security_exception: missing authentication credentials for REST request [/_bulk]; it wants a credential: give \
             --api-key-file, or --user and --password-file"
        );
        let wrong = error(401, "security_exception", "unable to authenticate with provided credentials");
        assert!(said(&key(None), &wrong).ends_with("; the API key is not accepted"));
        assert!(said(&key(Some("jo")), &wrong).ends_with("; the user jo or the password is not accepted"));
        let denied = error(403, "security_exception", "action [indices:data/write/bulk] is unauthorized");
        assert!(
            said(&key(None), &denied)
                .contains("is unauthorized; the credential lacks a privilege: it needs create_doc")
        );
        let item = |status: u16, kind: &str, reason: &str| {
            let item = json!({"create": {"status": status, "error": {"type": kind, "reason": reason, "caused_by": {"reason": "why"}}}});
            let body = json!({"errors": true, "items": [item]}).to_string().into_bytes();
            Response { status: 200, body, ..Response::default() }
        };
        let absent = item(404, "index_not_found_exception", "no such index [tutum-2025-03-04]");
        assert!(said(&open, &absent).contains("no such index [tutum-2025-03-04]: why; the index does not exist"));
        let stream = elasticsearch(|args| args.data_stream = Some("events".to_owned()));
        assert!(said(&stream, &absent).contains("there is no data stream events and none is made of itself"));
        assert_eq!(
            said(&open, &item(400, "document_parsing_exception", "[1:20] failed to\n parse field [n]")),
            "400 document_parsing_exception: [1:20] failed to parse field [n]: why"
        );
        // OpenSearch's security plugin answers in plain text.
        let plain = Response { status: 401, body: b"Unauthorized".to_vec(), ..Response::default() };
        assert!(said(&open, &plain).starts_with("401 Unauthorized; it wants a credential"));
        let moved = Response { status: 301, location: Some("https://h/_bulk".to_owned()), ..Response::default() };
        assert_eq!(said(&open, &moved), "301; the server is elsewhere: it names https://h/_bulk");
        let page = Response {
            status: 413,
            content_type: "text/html".to_owned(),
            body: b"<html>".to_vec(),
            ..Response::default()
        };
        assert_eq!(said(&open, &page), "413");
    }

    /// Whatever Elasticsearch since 7.8 and OpenSearch both take: no type that only one of them has.
    #[test]
    fn the_index_template_is_one_that_every_server_takes() {
        fn types(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(kind)) = map.get("type") {
                        found.push(kind.clone());
                    }
                    map.values().for_each(|value| types(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| types(value, found)),
                _ => {}
            }
        }
        let daily = elasticsearch(|_| ()).index_template().unwrap();
        let mappings = &daily["template"]["mappings"];
        let mut found = Vec::new();
        types(mappings, &mut found);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, ["date", "double", "keyword", "long", "object", "text"]);
        let properties = &mappings["properties"];
        for name in ["type", "action", "state", "resource_uri", "parents", "dn"] {
            assert_eq!(properties[name]["type"], "keyword", "{name}");
        }
        assert_eq!(properties["@timestamp"], json!({"type": "date"}), "a data stream takes no more");
        for name in ["attributes", "resource", "parent"] {
            assert_eq!(properties[name]["dynamic"], false, "{name} must not fill the mapping");
        }
        assert_eq!(properties["attributes"]["properties"]["severity"]["type"], "keyword");
        assert_eq!(properties["parent"]["properties"]["stack"]["properties"]["name"]["type"], "keyword");
    }

    #[test]
    fn index_templates_are_named_and_ordered_by_their_target() {
        let told = |change: fn(&mut ElasticsearchArgs)| {
            let server = elasticsearch(change);
            let template = server.index_template()?;
            let pattern = template["index_patterns"][0].as_str().unwrap().to_owned();
            let priority = template["priority"].as_u64().unwrap();
            Ok::<_, Failure>((server.template_name()?, pattern, priority, template.get("data_stream").is_some()))
        };
        let daily = told(|_| ()).unwrap();
        assert_eq!(daily, ("tutum".to_owned(), "tutum-*".to_owned(), 305, false));
        let stream = told(|args| args.data_stream = Some("Tutum-Events".to_owned())).unwrap();
        assert_eq!((stream.0.as_str(), stream.1.as_str(), stream.3), ("tutum-events", "tutum-events", true));
        assert!(stream.2 > daily.2, "both match the stream's name, and no two may be of one priority");
        let fixed = told(|args| args.index = Some("events".to_owned())).unwrap();
        assert_eq!((fixed.0.as_str(), fixed.1.as_str()), ("events", "events"));
        let other = told(|args| args.index = Some("ACI-{{ type }}-{{ received_at[:7] }}".to_owned())).unwrap();
        assert_eq!((other.0.as_str(), other.1.as_str()), ("aci", "aci-*"));
        let every = told(|args| args.index = Some("{{ type }}".to_owned())).unwrap_err();
        assert!(every.message.contains("one for every index"), "{}", every.message);
    }

    #[test]
    fn a_record_without_an_index_is_alone_with_its_fault() {
        let mut server = elasticsearch(|args| args.index = Some("{{ type }}".to_owned()));
        let mut key = |text: &str| match server.plan(&Event::parse(text.as_bytes()).unwrap()) {
            Plan::Send { key, .. } => key,
            other => panic!("{other:?}"),
        };
        assert_eq!(key(r#"{"type":"node"}"#), "");
        assert_eq!(key(r#"{"type":"a b"}"#), "\"a b\" cannot be the name of an index");
        let letter = Letter { text: r#"{"type":".security"}"#, key: "", accepted: start(), place: 1 };
        let refused = server.request(&[letter], Form::Full).unwrap_err();
        assert_eq!(refused, "\".security\" cannot be the name of an index");
    }

    #[test]
    fn the_server_gives_up_before_we_do() {
        let server = elasticsearch(|args| args.patience = Some(Duration::from_secs(15)));
        let letter = Letter { text: "{}", key: "", accepted: start(), place: 1 };
        let query = server.request(&[letter], Form::Full).unwrap().address.query.unwrap();
        assert!(query.starts_with("filter_path=") && query.ends_with("&timeout=10000ms"), "{query}");
    }

    #[test]
    fn names_and_limits_are_checked_when_it_starts() {
        let wrong = |change: fn(&mut ElasticsearchArgs)| {
            let mut args =
                ElasticsearchArgs { url: Some("http://localhost".to_owned()), ..ElasticsearchArgs::default() };
            change(&mut args);
            Elasticsearch::new(args, true).err().unwrap().message
        };
        assert!(wrong(|args| args.data_stream = Some("a b".to_owned())).starts_with("--data-stream: \"a b\" cannot"));
        assert!(wrong(|args| args.index = Some("{{ x".to_owned())).starts_with("--index: "));
        let mut limits = BatchLimits::default();
        limits.read("10,1MiB,2s").unwrap();
        assert_eq!(limits, BatchLimits { count: 10, bytes: 1 << 20, age: Duration::from_secs(2) });
        assert!(limits.read("many").is_err() && BatchLimits::default().read("0").is_err());
    }

    #[test]
    fn api_keys_in_both_spellings() {
        assert_eq!(api_key(&Secret::new("id:key")).expose(), "ApiKey aWQ6a2V5");
        assert_eq!(api_key(&Secret::new("aWQ6a2V5")).expose(), "ApiKey aWQ6a2V5");
    }
}
