//! Elasticsearch and OpenSearch: which bulk request a batch becomes, and what each item of the answer means.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::flow::delivery;
use crate::flow::delivery::destination::{
    Batching, Destination, Form, Letter, Outcome, Pacing, Plan, Role, never_sent,
};
use crate::flow::delivery::run::SinkArgs;
use crate::model::address::Address;
use crate::model::digest::sha256_hex;
use crate::model::event::Event;
use crate::model::exit::{Exit, Failure};
use crate::model::json::{append, quote};
use crate::model::phrase;
use crate::model::quantity;
use crate::model::secret::Secret;
use crate::model::template::Template;
use crate::model::time::Timestamp;
use crate::world::World;
use crate::world::credentials::{Authorization, SecretSource};
use crate::world::http::{Method, Request, Response, Transport};

/// Records in a request unless told otherwise.
const BATCH: usize = 500;
/// Bytes of records in a request unless told otherwise; the servers' own limit is 100 MB, small managed ones have 10 MiB
/// (elastic.co, "HTTP settings", `http.max_content_length`).
const BATCH_BYTES: u64 = 5 << 20;
/// How long an incomplete batch waits unless told otherwise.
const BATCH_AGE: Duration = Duration::from_secs(1);
/// Only these parts of the answer are wanted; positions must stay, so the successful items too.
const FILTER: &str = "filter_path=errors,took,items.*.status,items.*.error.type,items.*.error.reason";

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
            (index, None) => {
                let index = index.as_deref().unwrap_or("tutum-{{ received_at[:10] }}");
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

    fn name_of(&self, text: &str, time: Timestamp) -> Result<String, String> {
        match &self.target {
            Target::DataStream(name) => Ok(name.clone()),
            Target::Index(template) => {
                // An index by date must be found for records without a date too.
                let has_time = text.contains("\"received_at\"");
                let dated = if has_time {
                    text.to_owned()
                } else {
                    append(text, &format!(r#""received_at":"{}""#, time.rfc3339()))
                };
                checked_name(&template.render(&dated)?)
            }
        }
    }

    /// The index template that suits the suite's records, with the pattern of the configured names.
    pub fn index_template(&self) -> Value {
        let pattern = match &self.target {
            Target::DataStream(name) => name.clone(),
            Target::Index(_) => {
                let index = self.args.index.as_deref().unwrap_or("tutum-{{");
                format!("{}*", index.split("{{").next().unwrap_or("tutum-"))
            }
        };
        let keyword = json!({"type": "keyword", "ignore_above": 1024});
        // Kept and not indexed: each key of these would be a field, and there may be thousands; their values may be secret.
        let opaque = json!({"type": "object", "enabled": false});
        let mut template = json!({
            "index_patterns": [pattern],
            "priority": 200,
            "template": {"mappings": {
                "dynamic_templates": [
                    {"labels": {"path_match": "*.link_variables", "mapping": opaque}},
                    {"variables": {"path_match": "*.container_envvars", "mapping": opaque}},
                    {"words": {"match_mapping_type": "string", "mapping": keyword}},
                ],
                "date_detection": false,
                "properties": {
                    "@timestamp": {"type": "date"}, "received_at": {"type": "date"}, "datetime": {"type": "date"},
                    "from": {"type": "date"}, "to": {"type": "date"},
                    "type": keyword, "action": keyword, "state": keyword, "resource_uri": keyword, "parents": keyword,
                    "reason": {"type": "text", "fields": {"keyword": keyword}},
                    "exit_code": {"type": "long"}, "seconds": {"type": "double"},
                },
            }},
        });
        if matches!(self.target, Target::DataStream(_)) {
            template["data_stream"] = json!({});
        }
        template
    }

    /// Puts the index template on the server.
    ///
    /// # Errors
    /// 3 if the credentials or the privilege are refused, 4 if there is no answer, 1 is [`Exit::Incomplete`] for a template that is not taken.
    pub fn install_template(&self, transport: &dyn Transport) -> Result<(Exit, String), Failure> {
        let mut request = self.request_to("_index_template/tutum", self.index_template().to_string().into_bytes());
        request.method = Method::Put;
        let answer = transport.send(&request);
        let answer =
            answer.map_err(|error| Failure::failed(format!("{}: {}", self.address, self.redact(error.reason()))))?;
        let reason = self.redact(&whole_reason(&answer));
        match answer.status {
            200..=299 => Ok((Exit::Success, format!("{}: the index template tutum is installed", self.address))),
            401 | 403 => Err(Failure::refused(format!("{}: {reason}", self.address))),
            408 | 429 | 500.. => Err(Failure::failed(format!("{}: {reason}", self.address))),
            _ => Ok((Exit::Incomplete, format!("{}: {reason}", self.address))),
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
    if own.print_template {
        let template = Elasticsearch::new(own, true)?.index_template();
        return world.print(&format!("{template:#}"));
    }
    if own.install_template {
        let elasticsearch = Elasticsearch::new(own, false)?;
        let transport = sink.transport(&elasticsearch)?;
        let (exit, said) = elasticsearch.install_template(&transport)?;
        world.diagnostics.info(&said);
        return Ok(exit);
    }
    delivery::run::run(|rehearsal, _| Elasticsearch::new(own, rehearsal), sink, world)
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

/// When the event happened, as far as is known.
fn time_of(event: &Event<'_>, accepted: Timestamp) -> Timestamp {
    let known = ["/datetime", "/received_at"].into_iter().find_map(|at| Timestamp::parse(&phrase::text(event, at)?));
    known.unwrap_or(accepted)
}

/// The same event has the same id, so that sending it twice stores it once.
fn id_of(event: &Event<'_>, letter: &Letter<'_>) -> String {
    let own = phrase::text(event, "/uuid").filter(|id| id.len() <= 512 && phrase::text(event, "/datetime").is_some());
    match own {
        Some(uuid) => uuid.into_owned(),
        None if phrase::text(event, "/received_at").is_some() => sha256_hex(letter.text.as_bytes())[..40].to_owned(),
        // Two equal records without a time are two events; number and time of their acceptance tell them apart.
        None => format!("{}-{}", letter.accepted.utc.millis(), letter.place),
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
            // One key: they arrive in the order they were taken.
            None => Plan::Send { key: String::new(), role: Role::Plain, urgent: false },
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
        let mut body = String::new();
        for letter in letters {
            let event = letter.event();
            let time = time_of(&event, letter.accepted.utc);
            let index = self.name_of(letter.text, time)?;
            body +=
                &format!("{{\"create\":{{\"_index\":{},\"_id\":{}}}}}\n", quote(&index), quote(&id_of(&event, letter)));
            let text = letter.text.trim();
            if phrase::text(&event, "/@timestamp").is_some() {
                body += text;
            } else {
                body += &append(text, &format!(r#""@timestamp":"{}""#, time.rfc3339()));
            }
            body.push('\n');
        }
        let mut request = self.request_to("_bulk", body.into_bytes());
        request.address.query = Some(FILTER.to_owned());
        request.headers = vec![("content-type", "application/x-ndjson".to_owned())];
        request.gzip = self.args.gzip;
        Ok(request)
    }

    fn outcomes(&self, count: usize, answer: &Response) -> Vec<Outcome> {
        let reason = whole_reason(answer);
        let whole = match answer.status {
            200..=299 => return items(count, answer),
            // A bad line in it, or too much: the halves tell which.
            400 | 413 => Outcome::TooLarge { reason },
            401 | 403 | 404 | 406 | 501 => Outcome::Refused { reason },
            429 => Outcome::Retry { reason, throttled: true },
            408 | 500..=599 => Outcome::Retry { reason, throttled: false },
            _ => Outcome::Rejected { reason },
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

/// Status and what the server says of it.
fn whole_reason(answer: &Response) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let error = &body["error"];
    let words = match (error["type"].as_str(), error["reason"].as_str(), error.as_str()) {
        (Some(kind), Some(reason), _) => format!("{kind}: {reason}"),
        (_, _, Some(text)) => text.to_owned(),
        _ => answer.text().trim().to_owned(),
    };
    phrase::cut(format!("{} {words}", answer.status).trim_end(), 500).into_owned()
}

/// The outcome of each item; the answer is 200 even if every one of them failed.
fn items(count: usize, answer: &Response) -> Vec<Outcome> {
    let body: Value = match serde_json::from_slice(&answer.body) {
        Ok(body) => body,
        Err(_) => {
            let reason = format!("{}: the answer is not JSON; is this Elasticsearch?", answer.status);
            return vec![Outcome::Rejected { reason }; count];
        }
    };
    if body["errors"] == Value::Bool(false) {
        return vec![Outcome::Delivered; count];
    }
    match body["items"].as_array() {
        Some(items) if items.len() == count => items.iter().map(item).collect(),
        _ => {
            // Sent again whole; the ids keep what is stored from being stored twice.
            let reason = format!("{}: the answer does not speak of the {count} records that were sent", answer.status);
            vec![Outcome::Retry { reason, throttled: false }; count]
        }
    }
}

/// elastic.co, "Bulk API"; "rejected requests".
fn item(item: &Value) -> Outcome {
    let result = item.as_object().and_then(|item| item.values().next()).unwrap_or(&Value::Null);
    let kind = result["error"]["type"].as_str().unwrap_or_default();
    let words = [kind, result["error"]["reason"].as_str().unwrap_or_default()];
    let status = result["status"].as_u64().unwrap_or_default();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let reason = phrase::cut(format!("{status} {}", words.join(": ")).trim_end(), 500).into_owned();
    match status {
        // 409: this very id is stored already, by an attempt whose answer was lost.
        200..=299 | 409 => Outcome::Delivered,
        429 => Outcome::Retry { reason, throttled: true },
        403 if kind == "cluster_block_exception" => Outcome::Retry { reason, throttled: false },
        403 | 401 => Outcome::Refused { reason },
        404 if kind == "index_not_found_exception" => Outcome::Refused { reason },
        408 | 500..=599 => Outcome::Retry { reason, throttled: false },
        _ => Outcome::Rejected { reason },
    }
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
                401 | 403 | 404 | 406 | 501 => "stop",
                429 => "throttled",
                408 | 500.. => "retry",
                _ => "dead",
            };
            let outcomes = server.outcomes(2, &Response { status, ..Response::default() });
            assert_eq!(outcomes.iter().map(word).collect::<Vec<_>>(), [expected; 2], "{status}");
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
            (400, "mapper_parsing_exception", "dead"),
        ];
        let items: Vec<Value> = table.iter().map(|(status, kind, _)| item(*status, kind)).collect();
        let answer = |body: Value| Response { status: 200, body: body.to_string().into_bytes(), ..Response::default() };
        let outcomes = server.outcomes(table.len(), &answer(json!({"errors": true, "items": items})));
        let told: Vec<&str> = outcomes.iter().map(word).collect();
        assert_eq!(told, table.map(|(_, _, expected)| expected));
        assert_eq!(outcomes[7], Outcome::Rejected { reason: "400 mapper_parsing_exception: because".to_owned() });
        let wrong = server.outcomes(3, &answer(json!({"errors": true, "items": []})));
        assert_eq!(word(&wrong[2]), "retry", "an answer about another number of items");
        assert_eq!(word(&server.outcomes(1, &answer(json!({"errors": false})))[0]), "delivered");
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
