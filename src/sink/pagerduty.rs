//! PagerDuty: which event triggers or resolves which alert, and what the Events API's answer means.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::flow::delivery::destination::{Destination, Form, Letter, Outcome, Pacing, Plan, Role, never_sent};
use crate::model::address::Address;
use crate::model::digest::sha256_hex;
use crate::model::event::{self, Event};
use crate::model::exit::Failure;
use crate::model::news::{self, Grade};
use crate::model::phrase;
use crate::model::quantity::Rate;
use crate::model::secret::Secret;
use crate::model::template::Template;
use crate::model::time::Timestamp;
use crate::world::Diagnostics;
use crate::world::credentials::SecretSource;
use crate::world::http::{Request, Response};

/// 120 calls in the last 60 s for each key (PagerDuty developer docs, "Events API v2: rate limits").
const RATE: Rate = Rate { count: 120.0, period: Duration::from_secs(60) };
/// Half a minute's worth may go at once; the other half is for what comes next.
const BURST: u32 = 60;
/// Requests for different alerts under way at once.
const CONCURRENCY: usize = 4;
/// The longest `summary` or `description`, in characters (PagerDuty developer docs, "Send an alert event").
const MAX_SUMMARY: usize = 1_024;
/// The longest dedup key, in characters (same page).
const MAX_KEY: usize = 255;
/// The largest request, in bytes; the docs say 512 KB and Alertmanager's `notify/pagerduty` takes it to be this.
const MAX_BODY: usize = 512_000;
/// A watcher's blip shorter than this pages nobody.
const STREAM_TRIGGER_AFTER: Duration = Duration::from_secs(60);
/// The most keys whose alert is known to be closed.
const MAX_CLOSED: usize = 100_000;

/// Which generation of the Events API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// The one of the tutorial.
    V1,
    /// Today's.
    #[default]
    V2,
}

/// What an event is sent as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Opens an alert, or adds to it.
    Trigger,
    /// Somebody is on it.
    Acknowledge,
    /// Closes it.
    Resolve,
}

impl Action {
    /// PagerDuty's word.
    fn word(self) -> &'static str {
        match self {
            Action::Trigger => "trigger",
            Action::Acknowledge => "acknowledge",
            Action::Resolve => "resolve",
        }
    }
}

/// What a user can say about alerts.
#[derive(Clone, Debug, Default)]
pub struct PagerDutyArgs {
    /// A file with the integration key.
    pub key_file: Option<PathBuf>,
    /// Which API.
    pub api: Api,
    /// The EU service region.
    pub eu: bool,
    /// The whole endpoint, instead.
    pub url: Option<String>,
    /// What every event is sent as; `None` goes by the event.
    pub action: Option<Action>,
    /// So long a trigger waits for its relief; `None` is a minute for the stream and nothing for the rest.
    pub trigger_after: Option<Duration>,
    /// The dedup key's template.
    pub dedup_key: Option<String>,
    /// The stream's own dedup key.
    pub stream_key: Option<String>,
    /// The summary's template.
    pub summary: Option<String>,
    /// Instead of the severity that goes by the event.
    pub severity: Option<String>,
    /// What is shown as the monitoring client.
    pub client: Option<String>,
    /// Its link.
    pub client_url: Option<String>,
    /// Deletions of these types page.
    pub page_deletions: Vec<String>,
    /// A good state resolves even if no trigger of its key was seen.
    pub resolve_unknown: bool,
    /// Where the keys of open alerts are kept across restarts.
    pub state: Option<PathBuf>,
    /// The spool's directory, which keeps them if nothing else was said.
    pub spool: Option<PathBuf>,
}

/// The destination.
pub struct PagerDuty {
    source: SecretSource,
    key: Secret,
    address: Address,
    args: PagerDutyArgs,
    dedup_key: Option<Template>,
    summary: Option<Template>,
    open: OpenAlerts,
    diagnostics: Diagnostics,
}

/// What an event means by itself.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Nothing(&'static str),
    Alert(Action),
}

impl PagerDuty {
    /// Reads the key, the templates and the state. With `rehearsal` a key need not be there.
    ///
    /// # Errors
    /// No key, a key that cannot be one, a wrong URL, a template with wrong syntax, a state that cannot be read.
    pub fn new(args: PagerDutyArgs, rehearsal: bool, diagnostics: &Diagnostics) -> Result<PagerDuty, Failure> {
        let source = SecretSource::new(args.key_file.clone(), "PAGERDUTY_KEY");
        let key = if rehearsal { Ok(Secret::new("<redacted>")) } else { read_key(&source) };
        let key = key.map_err(Failure::usage)?;
        let address = match (&args.url, args.eu) {
            (Some(url), _) => url.clone(),
            (None, eu) => {
                let host = if eu { "events.eu.pagerduty.com" } else { "events.pagerduty.com" };
                match args.api {
                    Api::V1 => format!("https://{host}/generic/2010-04-15/create_event.json"),
                    Api::V2 => format!("https://{host}/v2/enqueue"),
                }
            }
        };
        let address =
            Address::parse(&address, &["https", "http"]).map_err(|error| Failure::usage(format!("--url: {error}")))?;
        if !address.is_secure() && !address.is_loopback() {
            return Err(Failure::usage(
                "--url: expected https://; http is for this machine only, since the key is in the body",
            ));
        }
        let compile = |flag: &str, text: &Option<String>| {
            let template = text.as_ref().map(|text| Template::new(text, str::to_owned)).transpose();
            template.map_err(|error| Failure::usage(format!("{flag}: {error}")))
        };
        let dedup_key = compile("--dedup-key", &args.dedup_key)?;
        let summary = compile("--summary", &args.summary)?;
        if let Some(parent) =
            args.state.as_ref().and_then(|file| file.parent()).filter(|parent| !parent.as_os_str().is_empty())
            && !parent.is_dir()
        {
            return Err(Failure::usage(format!("--state: {}: no such directory", parent.display())));
        }
        let state = args.state.clone().or_else(|| args.spool.as_ref().map(|spool| spool.join("alerts.json")));
        let open = OpenAlerts::load(state.filter(|_| !rehearsal)).map_err(Failure::usage)?;
        Ok(PagerDuty { source, key, address, dedup_key, summary, open, args, diagnostics: diagnostics.clone() })
    }

    fn meaning(&self, event: &Event<'_>) -> Meaning {
        match (never_sent(event), self.args.action) {
            (Some(reason), _) => Meaning::Nothing(reason),
            (None, Some(action)) => Meaning::Alert(action),
            (None, None) => self.automatic(event),
        }
    }

    /// Bad states trigger, good ones resolve.
    fn automatic(&self, event: &Event<'_>) -> Meaning {
        let lower = |text: Option<&str>| text.unwrap_or_default().to_ascii_lowercase();
        let (kind, action) = (lower(event.kind.as_deref()), lower(event.action.as_deref()));
        let state = lower(event.state.as_deref());
        let pages_when_deleted = self.args.page_deletions.iter().any(|kind_| kind_.eq_ignore_ascii_case(&kind));
        match (kind.as_str(), action.as_str(), state.as_str()) {
            // The stream is open, only what was missed is not known yet; no `open` would resolve it.
            ("stream", "error", _) if phrase::text(event, "/during").is_some_and(|during| during == "resync") => {
                Meaning::Nothing("the stream itself is open")
            }
            ("stream", "close", "disconnected") | ("stream", "error", _) => Meaning::Alert(Action::Trigger),
            // A watch that was ended on purpose needs no page about its last blip, and an open stream no page at all.
            ("stream", "open", _) | ("stream", "close", _) => Meaning::Alert(Action::Resolve),
            ("stream", ..) => Meaning::Nothing("neither bad nor good"),
            (_, "delete", _) if pages_when_deleted => Meaning::Alert(Action::Trigger),
            ("node", _, "unreachable") | ("action", _, "failed") => Meaning::Alert(Action::Trigger),
            ("container", _, "stopped") if phrase::exit_code(event).is_some_and(|code| code != 0) => {
                Meaning::Alert(Action::Trigger)
            }
            ("node", _, "deployed") | ("service" | "stack" | "container", _, "running") | ("action", _, "success") => {
                Meaning::Alert(Action::Resolve)
            }
            (_, _, "terminated") | (_, "delete", _) => Meaning::Alert(Action::Resolve),
            _ => Meaning::Nothing("neither bad nor good"),
        }
    }

    /// The alert's identity: never anything volatile.
    fn dedup_key(&self, event: &Event<'_>) -> String {
        let key = match &self.dedup_key {
            Some(template) => template.render(event.text).unwrap_or_else(|error| {
                self.diagnostics.warn(&format!("--dedup-key: {error}; using the object's own"));
                String::new()
            }),
            None => String::new(),
        };
        let key = if key.trim().is_empty() { self.own_key(event) } else { key };
        if key.chars().count() > MAX_KEY { sha256_hex(key.as_bytes()) } else { key }
    }

    fn own_key(&self, event: &Event<'_>) -> String {
        if event.is_lifecycle() {
            return self.args.stream_key.clone().unwrap_or_else(|| "tutum-stream".to_owned());
        }
        // An action is about the object it applies to, so that the object's good state resolves it.
        let object = event.is("action").then(|| event.parents().into_iter().next()).flatten();
        let object = object.or_else(|| event.is("action").then(|| phrase::text(event, "/resource/object")).flatten());
        let identity = object.or_else(|| event.resource_uri.clone()).filter(|uri| !uri.trim().is_empty());
        identity.map_or_else(|| sha256_hex(event.text.as_bytes()), |uri| uri.into_owned())
    }

    fn summary(&self, event: &Event<'_>) -> String {
        let text = match &self.summary {
            Some(template) => template.render(event.text).unwrap_or_else(|error| {
                self.diagnostics.warn(&format!("--summary: {error}; using the default"));
                default_summary(event)
            }),
            None => default_summary(event),
        };
        let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = if line.trim().is_empty() { "Tutum Stream Issue".to_owned() } else { line };
        if line.chars().nth(MAX_SUMMARY).is_some() {
            self.diagnostics.warn(&format!("a summary was cut to PagerDuty's {MAX_SUMMARY} characters"));
        }
        phrase::cut(&line, MAX_SUMMARY).into_owned()
    }

    fn severity(&self, event: &Event<'_>) -> String {
        let known = self.args.severity.clone();
        known.unwrap_or_else(|| match (news::grade(event), event.kind.as_deref()) {
            (Some(Grade::Critical), _) | (None, Some("stream" | "node")) => "critical".to_owned(),
            (Some(Grade::Warning), _) => "warning".to_owned(),
            (Some(Grade::Good | Grade::Info), _) | (None, Some("test")) => "info".to_owned(),
            _ => "error".to_owned(),
        })
    }

    fn body(&self, letter: &Letter<'_>, event: &Event<'_>, action: Action, form: Form) -> Value {
        let (key, summary, details) = (self.dedup_key(event), self.summary(event), details(event, form));
        let client = self.args.client.as_deref().unwrap_or("to-pagerduty");
        let is_trigger = action == Action::Trigger;
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
        match self.args.api {
            Api::V1 => {
                put("service_key", self.key.expose().into());
                put("event_type", action.word().into());
                put("incident_key", key.into());
                put("description", summary.into());
                put("details", details);
            }
            Api::V2 => {
                put("routing_key", self.key.expose().into());
                put("event_action", action.word().into());
                put("dedup_key", key.into());
                if is_trigger {
                    put("payload", self.payload(letter, event, summary, details));
                }
            }
        }
        if is_trigger {
            put("client", client.into());
            if let Some(url) = &self.args.client_url {
                put("client_url", url.as_str().into());
            }
        }
        Value::Object(body)
    }

    fn payload(&self, letter: &Letter<'_>, event: &Event<'_>, summary: String, details: Value) -> Value {
        let source = phrase::text(event, "/source").or_else(|| phrase::name(event));
        // Details can be left out of an alert that is too large; these cannot.
        let short = |text: &str| phrase::cut(text, MAX_SUMMARY).into_owned();
        let time = ["/datetime", "/received_at"].into_iter().find_map(|at| Timestamp::parse(&phrase::text(event, at)?));
        let mut payload = json!({
            "summary": summary,
            "source": short(&source.unwrap_or_else(|| "tutum".into())),
            "severity": self.severity(event),
            "timestamp": time.unwrap_or(letter.accepted.utc).rfc3339(),
            "custom_details": details,
        });
        let group = phrase::text(event, "/parent/stack/name").map(std::borrow::Cow::into_owned);
        let optional =
            [("component", event.kind.as_deref()), ("class", event.state.as_deref()), ("group", group.as_deref())];
        for (name, value) in optional {
            if let Some(value) = value {
                payload[name] = short(value).into();
            }
        }
        payload
    }
}

/// The stream was closed on purpose.
fn is_stopped(event: &Event<'_>) -> bool {
    event.is_lifecycle() && event.action.as_deref() == Some("close")
}

fn read_key(source: &SecretSource) -> Result<Secret, String> {
    let key = source.read().map_err(|error| format!("--key-file: {error}"))?;
    key.ok_or_else(|| "no integration key: give --key-file or set PAGERDUTY_KEY".to_owned())
}

fn default_summary(event: &Event<'_>) -> String {
    if let Some(news) = news::news(event) {
        let details = if news.details.is_empty() { String::new() } else { format!(" ({})", news.details.join(", ")) };
        return news.what + &details;
    }
    let name = phrase::name(event).unwrap_or_default();
    let kind = event.kind.as_deref().unwrap_or("object");
    let (action, state) = (event.action.as_deref().unwrap_or_default(), event.state.as_deref().unwrap_or_default());
    match (kind, action, state) {
        ("stream", "close" | "error", _) => format!("{} connection closed.", news::watched(event)),
        ("stream", "open", _) => format!("{} connection open.", news::watched(event)),
        _ if event.kind.is_none() || name.is_empty() => "Tutum Stream Issue".to_owned(),
        (_, "delete", _) => format!("{kind} {name} was deleted"),
        ("action", _, state) => {
            let label = phrase::text(event, "/resource/action").unwrap_or_else(|| "action".into());
            let object = event.parents().into_iter().next();
            let object = object
                .as_deref()
                .and_then(|path| Some(format!("{} {}", event::path_kind(path)?, event::path_id(path)?)));
            format!("{label} {}: {}", state.to_lowercase(), object.unwrap_or_else(|| name.into_owned()))
        }
        ("container", _, "Stopped") => match phrase::exit_code(event) {
            Some(code) => format!("container {name} stopped with exit code {code}"),
            None => format!("container {name} stopped"),
        },
        (_, _, "") => format!("{kind} {name} was {}", phrase::past(action)),
        (_, _, state) => format!("{kind} {name} is {state}"),
    }
}

/// What an on-call person wants to see of the event: nothing large, nothing that may hold a secret.
fn details(event: &Event<'_>, form: Form) -> Value {
    if form == Form::Reduced {
        return json!({"note": "the details were left out: the event was too large"});
    }
    let mut details = Map::new();
    let fields = [
        "type",
        "action",
        "state",
        "resource_uri",
        "name",
        "dn",
        "image",
        "health",
        "update_state",
        "level",
        "message",
        "count",
        "reason",
        "code",
        "exit_code",
        "seconds",
        "from",
        "to",
        "attempts",
        "source",
        "received_at",
        "datetime",
    ];
    for field in fields {
        if let Some(text) = phrase::text(event, field) {
            details.insert(field.to_owned(), phrase::cut(&text, 4_000).into());
        }
    }
    // What a fault of an APIC is about; other attributes may be anything.
    for field in ["severity", "descr", "cause", "lc"] {
        if let Some(text) = phrase::text(event, &format!("/attributes/{field}")) {
            details.insert(field.to_owned(), phrase::cut(&text, 4_000).into());
        }
    }
    let parents = event.parents();
    if !parents.is_empty() {
        details.insert("parents".to_owned(), parents.iter().map(AsRef::as_ref).collect());
    }
    Value::Object(details)
}

impl Destination for PagerDuty {
    fn name(&self) -> &'static str {
        "pagerduty"
    }

    fn address(&self) -> &Address {
        &self.address
    }

    fn plan(&mut self, event: &Event<'_>) -> Plan {
        let action = match self.meaning(event) {
            Meaning::Nothing(reason) => return Plan::Skip { reason },
            Meaning::Alert(action) => action,
        };
        let key = self.dedup_key(event);
        let default = if event.is_lifecycle() { STREAM_TRIGGER_AFTER } else { Duration::ZERO };
        let role = match action {
            // What the user asked for goes out as asked; only a wait that was asked for too is kept.
            Action::Trigger if self.args.action.is_some() => Role::Held(self.args.trigger_after.unwrap_or_default()),
            Action::Trigger => Role::Held(self.args.trigger_after.unwrap_or(default)),
            Action::Resolve if self.args.action.is_some() => Role::Plain,
            Action::Resolve if is_stopped(event) => Role::Calm,
            Action::Resolve => Role::Relief { needed: self.open.needs_relief(&key, self.args.resolve_unknown) },
            Action::Acknowledge => Role::Plain,
        };
        Plan::Send { key, role, urgent: action == Action::Trigger }
    }

    fn pacing(&self) -> Pacing {
        Pacing { rate: Some(RATE), burst: BURST, concurrency: CONCURRENCY, throttled_by_key: true }
    }

    fn request(&self, letters: &[Letter<'_>], form: Form) -> Result<Request, String> {
        let letter = letters.first().ok_or("there is no record")?;
        let event = letter.event();
        let action = match self.meaning(&event) {
            Meaning::Alert(action) => action,
            // Whatever else means nothing was skipped before it came here: this is the test record.
            Meaning::Nothing(_) => Action::Trigger,
        };
        let mut body = self.body(letter, &event, action, form).to_string();
        if body.len() > MAX_BODY {
            self.diagnostics.warn(&format!("an event's details were left out: over PagerDuty's {MAX_BODY} bytes"));
            body = self.body(letter, &event, action, Form::Reduced).to_string();
        }
        Ok(Request::post_json(self.address.clone(), body.into_bytes()))
    }

    fn outcomes(&self, count: usize, answer: &Response) -> Vec<Outcome> {
        vec![outcome(self.args.api, answer); count]
    }

    fn settled(&mut self, letter: Letter<'_>, delivered: bool) {
        let changed = match self.meaning(&letter.event()) {
            // One that was given up may have arrived all the same, only its answer did not: better one resolve too many.
            Meaning::Alert(Action::Trigger) => self.open.opened(letter.key),
            Meaning::Alert(Action::Resolve) if delivered => self.open.closed(letter.key),
            _ => Ok(()),
        };
        if let Err(error) = changed {
            self.diagnostics.error(&error);
        }
    }

    fn reload(&mut self) -> Result<bool, String> {
        let key = read_key(&self.source)?;
        let another = key != self.key;
        self.key = key;
        Ok(another)
    }

    fn redact(&self, text: &str) -> String {
        self.key.redact(text)
    }

    fn test_record(&self) -> String {
        json!({
            "type": "test", "action": "update", "state": "only a test", "name": "alert of to-pagerduty --send-test",
            "resource_uri": "/to-pagerduty/send-test/"
        })
        .to_string()
    }
}

/// PagerDuty developer docs, "Events API v2" and "v1": v1 says 403 for throttled, v2 says 429.
fn outcome(api: Api, answer: &Response) -> Outcome {
    let reason = reason(answer);
    match (api, answer.status) {
        (_, 200..=299) => Outcome::Delivered,
        (Api::V1, 403) | (_, 429) => Outcome::Retry { reason, throttled: true },
        (_, 408 | 500..=599) => Outcome::Retry { reason, throttled: false },
        (_, 413) => Outcome::TooLarge { reason },
        // A wrong key is told as an invalid event. Every page would become a dead letter; better to stop and keep them.
        (_, 401) => Outcome::Refused { reason },
        (_, 400) if names_the_key(&reason) => Outcome::Refused { reason },
        _ => Outcome::Rejected { reason, status: None },
    }
}

/// Whether what is wrong is the integration key.
fn names_the_key(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase().replace('_', " ");
    ["routing key", "service key", "integration key"].iter().any(|key| reason.contains(key))
}

/// Status, message and every one of the errors.
fn reason(answer: &Response) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let mut words = vec![answer.status.to_string()];
    words.extend(body["message"].as_str().map(str::to_owned));
    words.extend(
        body["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|error| error.as_str().map_or_else(|| error.to_string(), str::to_owned)),
    );
    if words.len() == 1 {
        words.extend(Some(answer.text().trim().to_owned()).filter(|text| !text.is_empty()));
    }
    phrase::cut(&words.join(": "), 500).into_owned()
}

/// The alerts that are known to be open, kept in a file if asked, so that a restart resolves what the run before triggered.
struct OpenAlerts {
    file: Option<PathBuf>,
    open: HashSet<String>,
    closed: HashSet<String>,
    /// The file is behind: the disk did not take the last change.
    unsaved: bool,
}

impl OpenAlerts {
    fn load(file: Option<PathBuf>) -> Result<OpenAlerts, String> {
        let mut open = HashSet::new();
        if let Some(path) = &file {
            match fs::read_to_string(path) {
                Ok(text) => {
                    open = serde_json::from_str(&text)
                        .map_err(|_| format!("--state: {}: not a list of keys", path.display()))?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("--state: {}: {error}", path.display())),
            }
        }
        Ok(OpenAlerts { file, open, closed: HashSet::new(), unsaved: false })
    }

    fn needs_relief(&self, key: &str, resolve_unknown: bool) -> bool {
        self.open.contains(key) || (resolve_unknown && !self.closed.contains(key))
    }

    fn opened(&mut self, key: &str) -> Result<(), String> {
        self.closed.remove(key);
        if self.open.insert(key.to_owned()) || self.unsaved { self.save() } else { Ok(()) }
    }

    fn closed(&mut self, key: &str) -> Result<(), String> {
        if self.closed.len() >= MAX_CLOSED {
            self.closed.clear();
        }
        self.closed.insert(key.to_owned());
        if self.open.remove(key) || self.unsaved { self.save() } else { Ok(()) }
    }

    /// Written beside and renamed, so that a crash leaves the old list or the new one.
    fn save(&mut self) -> Result<(), String> {
        let Some(path) = &self.file else { return Ok(()) };
        let mut keys: Vec<&str> = self.open.iter().map(String::as_str).collect();
        keys.sort_unstable();
        let beside = path.with_extension("new");
        let written = fs::File::create(&beside).and_then(|mut file| {
            file.write_all(json!(keys).to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, path)
        });
        self.unsaved = written.is_err();
        written.map_err(|error| format!("--state: {}: {error}", path.display()))
    }
}

impl Drop for OpenAlerts {
    fn drop(&mut self) {
        if self.unsaved {
            // It was told when it failed first.
            let _ = self.save();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::stage::tests::start;

    fn pagerduty(args: PagerDutyArgs) -> PagerDuty {
        PagerDuty::new(args, true, &Diagnostics::memory("to-pagerduty")).unwrap()
    }

    fn body(pagerduty: &PagerDuty, text: &str) -> Value {
        let letter = Letter { text, key: "", accepted: start(), place: 1 };
        serde_json::from_slice(&pagerduty.request(&[letter], Form::Full).unwrap().body).unwrap()
    }

    fn plan(pagerduty: &mut PagerDuty, text: &str) -> Plan {
        pagerduty.plan(&Event::parse(text.as_bytes()).unwrap())
    }

    const UNREACHABLE: &str =
        r#"{"type":"node","action":"update","state":"Unreachable","resource_uri":"/api/v1/node/9c1e/"}"#;
    const DEPLOYED: &str =
        r#"{"type":"node","action":"update","state":"Deployed","resource_uri":"/api/v1/node/9c1e/"}"#;

    /// Every rule of `auto`: what the event is sent as, and under which key.
    #[test]
    fn bad_states_trigger_and_good_ones_resolve() {
        let pagerduty =
            pagerduty(PagerDutyArgs { page_deletions: vec!["stack".to_owned()], ..PagerDutyArgs::default() });
        for (event, expected) in [
            (r#"{"type":"stream","action":"close","state":"Disconnected"}"#, "trigger tutum-stream"),
            (r#"{"type":"stream","action":"error","state":"Unauthorized"}"#, "trigger tutum-stream"),
            (r#"{"type":"stream","action":"error","state":"Failed"}"#, "trigger tutum-stream"),
            (r#"{"type":"stream","action":"error","state":"Failed","during":"resync"}"#, "-"),
            (r#"{"type":"stream","action":"open","state":"Connected"}"#, "resolve tutum-stream"),
            (r#"{"type":"stream","action":"gap","state":"Connected"}"#, "-"),
            (r#"{"type":"stream","action":"heartbeat","state":"Connected"}"#, "-"),
            (r#"{"type":"auth"}"#, "-"),
            (UNREACHABLE, "trigger /api/v1/node/9c1e/"),
            (DEPLOYED, "resolve /api/v1/node/9c1e/"),
            (
                r#"{"type":"action","action":"update","state":"Failed","resource_uri":"/api/v1/action/1/","parents":["/api/v1/service/5/"]}"#,
                "trigger /api/v1/service/5/",
            ),
            (
                r#"{"type":"action","action":"update","state":"Success","resource_uri":"/api/v1/action/2/","parents":["/api/v1/service/5/"]}"#,
                "resolve /api/v1/service/5/",
            ),
            (
                r#"{"type":"service","action":"update","state":"Running","resource_uri":"/api/v1/service/5/"}"#,
                "resolve /api/v1/service/5/",
            ),
            (r#"{"type":"stack","action":"update","state":"running","resource_uri":"s"}"#, "resolve s"),
            (r#"{"type":"container","action":"update","state":"Running","resource_uri":"c"}"#, "resolve c"),
            (r#"{"type":"container","action":"update","state":"Stopped","resource_uri":"c"}"#, "-"),
            (r#"{"type":"container","action":"update","state":"Stopped","resource_uri":"c","exit_code":0}"#, "-"),
            (
                r#"{"type":"container","action":"update","state":"Stopped","resource_uri":"c","resource":{"exit_code":3}}"#,
                "trigger c",
            ),
            (r#"{"type":"container","action":"update","state":"Terminated","resource_uri":"c"}"#, "resolve c"),
            (r#"{"type":"service","action":"delete","state":"Terminated","resource_uri":"s"}"#, "resolve s"),
            (r#"{"type":"stack","action":"delete","state":"Terminated","resource_uri":"s"}"#, "trigger s"),
            (r#"{"type":"service","action":"update","state":"Starting","resource_uri":"s"}"#, "-"),
            ("{}", "-"),
        ] {
            let parsed = Event::parse(event.as_bytes()).unwrap();
            let told = match pagerduty.meaning(&parsed) {
                Meaning::Nothing(_) => "-".to_owned(),
                Meaning::Alert(action) => format!("{} {}", action.word(), pagerduty.dedup_key(&parsed)),
            };
            assert_eq!(told, expected, "{event}");
        }
    }

    #[test]
    fn a_good_state_resolves_only_what_was_triggered() {
        let mut pagerduty = pagerduty(PagerDutyArgs::default());
        let relief = |pagerduty: &mut PagerDuty| match plan(pagerduty, DEPLOYED) {
            Plan::Send { role: Role::Relief { needed }, .. } => needed,
            other => panic!("{other:?}"),
        };
        let key = "/api/v1/node/9c1e/";
        assert!(!relief(&mut pagerduty));
        pagerduty.settled(Letter { text: UNREACHABLE, key, accepted: start(), place: 1 }, true);
        assert!(relief(&mut pagerduty));
        pagerduty.settled(Letter { text: DEPLOYED, key, accepted: start(), place: 1 }, true);
        assert!(!relief(&mut pagerduty));
        pagerduty.settled(Letter { text: UNREACHABLE, key, accepted: start(), place: 1 }, false);
        assert!(relief(&mut pagerduty), "it may have arrived");
        pagerduty.settled(Letter { text: DEPLOYED, key, accepted: start(), place: 1 }, false);
        assert!(relief(&mut pagerduty), "it may not have arrived");
        pagerduty.settled(Letter { text: DEPLOYED, key, accepted: start(), place: 1 }, true);
        assert!(!relief(&mut pagerduty));
        pagerduty.args.resolve_unknown = true;
        assert!(!relief(&mut pagerduty), "it is known to be closed");
        pagerduty.open.closed.clear();
        assert!(relief(&mut pagerduty));
    }

    #[test]
    fn the_stream_waits_a_minute_and_a_watch_that_was_ended_pages_nobody() {
        let mut pagerduty = pagerduty(PagerDutyArgs::default());
        let close = r#"{"type":"stream","action":"close","state":"Disconnected"}"#;
        let role = |pagerduty: &mut PagerDuty, text| match plan(pagerduty, text) {
            Plan::Send { role, .. } => role,
            other => panic!("{other:?}"),
        };
        assert_eq!(role(&mut pagerduty, close), Role::Held(Duration::from_secs(60)));
        assert_eq!(role(&mut pagerduty, UNREACHABLE), Role::Held(Duration::ZERO));
        assert_eq!(role(&mut pagerduty, r#"{"type":"stream","action":"close","state":"Stopped"}"#), Role::Calm);
    }

    #[test]
    fn both_generations_of_the_api() {
        let v2 = body(&pagerduty(PagerDutyArgs::default()), UNREACHABLE);
        assert_eq!(v2["event_action"], "trigger");
        assert_eq!(v2["dedup_key"], "/api/v1/node/9c1e/");
        assert_eq!(v2["payload"]["summary"], "node 9c1e is Unreachable");
        assert_eq!(v2["payload"]["severity"], "critical");
        assert_eq!(v2["payload"]["timestamp"], "2025-03-04T05:06:07.890Z");
        assert_eq!(v2["payload"]["custom_details"]["state"], "Unreachable");
        let resolve = body(&pagerduty(PagerDutyArgs::default()), DEPLOYED);
        assert_eq!(
            resolve,
            json!({"routing_key":"<redacted>","event_action":"resolve","dedup_key":"/api/v1/node/9c1e/"})
        );
        let args =
            PagerDutyArgs { api: Api::V1, client_url: Some("https://x/".to_owned()), ..PagerDutyArgs::default() };
        let v1 =
            body(&pagerduty(args), r#"{"type":"stream","action":"close","state":"Disconnected","reason":"no pong"}"#);
        assert_eq!(
            v1,
            json!({"service_key":"<redacted>","event_type":"trigger","incident_key":"tutum-stream",
                "description":"Tutum Stream connection closed.","client":"to-pagerduty","client_url":"https://x/",
                "details":{"type":"stream","action":"close","state":"Disconnected","reason":"no pong"}})
        );
    }

    #[test]
    fn limits_of_the_api_are_kept() {
        let long = "é".repeat(2_000);
        let args = PagerDutyArgs {
            summary: Some("{{ name }}".to_owned()),
            dedup_key: Some("{{ name }}".to_owned()),
            ..PagerDutyArgs::default()
        };
        let event = format!(r#"{{"type":"node","state":"Unreachable","name":"{long}"}}"#);
        let sent = body(&pagerduty(args), &event);
        let summary = sent["payload"]["summary"].as_str().unwrap();
        assert!(summary.chars().count() == 1_024 && summary.ends_with('…'));
        assert_eq!(sent["dedup_key"].as_str().unwrap().len(), 64);
        let parents: Vec<String> = (0..30_000).map(|n| format!("\"/api/v1/service/{n}/\"")).collect();
        let event =
            format!(r#"{{"type":"node","state":"Unreachable","resource_uri":"n","parents":[{}]}}"#, parents.join(","));
        let sent = body(&pagerduty(PagerDutyArgs::default()), &event);
        assert!(sent["payload"]["custom_details"]["note"].is_string() && sent.to_string().len() < MAX_BODY);
    }

    #[test]
    fn summaries_say_what_is_known() {
        for (event, expected) in [
            (
                r#"{"type":"container","state":"Stopped","resource":{"name":"web-1","exit_code":3}}"#,
                "container web-1 stopped with exit code 3",
            ),
            (
                r#"{"type":"action","state":"Failed","resource_uri":"/api/v1/action/1/","parents":["/api/v1/service/5b0f/"],"resource":{"action":"Service Redeploy"}}"#,
                "Service Redeploy failed: service 5b0f",
            ),
            (
                r#"{"type":"service","action":"delete","resource_uri":"/api/v1/service/5b0f/"}"#,
                "service 5b0f was deleted",
            ),
            ("{}", "Tutum Stream Issue"),
            (
                r#"{"type":"stream","action":"close","state":"Disconnected","resource_uri":"/socket","source":"wss://apic1/socket"}"#,
                "APIC apic1 connection closed.",
            ),
            (
                r#"{"type":"stream","action":"open","resource_uri":"/v1/events","source":"wss://h/v1/events"}"#,
                "Tutum Stream connection open.",
            ),
            (
                r#"{"type":"faultInst","action":"create","dn":"uni/tn-X/fault-F1","attributes":{"severity":"major","code":"F1","descr":"no"}}"#,
                "major fault F1 on uni/tn-X: no",
            ),
            (
                r#"{"type":"container","action":"update","state":"Stopped","resource_uri":"/api/v1/container/30505e/","parents":["/api/v1/node/node-1/"],"name":"crash","image":"local/busybox","exit_code":3}"#,
                "container crash stopped with exit code 3 (image local/busybox, node node-1)",
            ),
        ] {
            assert_eq!(default_summary(&Event::parse(event.as_bytes()).unwrap()), expected);
        }
    }

    #[test]
    fn a_wrong_key_is_a_refusal() {
        let judge = |error: &str| {
            let body =
                format!(r#"{{"status":"invalid event","message":"Event object is invalid","errors":["{error}"]}}"#);
            outcome(Api::V2, &Response { status: 400, body: body.into_bytes(), ..Response::default() })
        };
        assert!(matches!(
            judge("Length of 'routing_key' is incorrect (should be 32 characters)"),
            Outcome::Refused { .. }
        ));
        assert!(matches!(judge("Invalid routing key"), Outcome::Refused { .. }));
        assert!(matches!(judge("'payload.summary' is missing or blank"), Outcome::Rejected { .. }));
    }

    #[test]
    fn the_reason_names_every_error() {
        let body =
            br#"{"status":"invalid event","message":"Event object is invalid","errors":["no summary","bad key"]}"#;
        let answer = Response { status: 400, body: body.to_vec(), ..Response::default() };
        assert_eq!(reason(&answer), "400: Event object is invalid: no summary: bad key");
    }

    #[test]
    fn open_alerts_that_could_not_be_saved_are_saved_later() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("later");
        let file = Some(folder.join("alerts.json"));
        let mut alerts = OpenAlerts::load(file.clone()).unwrap();
        assert!(alerts.opened("a").is_err());
        fs::create_dir(&folder).unwrap();
        alerts.opened("a").unwrap();
        assert!(OpenAlerts::load(file.clone()).unwrap().needs_relief("a", false));
        fs::remove_dir_all(&folder).unwrap();
        assert!(alerts.opened("b").is_err());
        fs::create_dir(&folder).unwrap();
        drop(alerts);
        assert!(OpenAlerts::load(file).unwrap().needs_relief("b", false));
    }

    #[test]
    fn open_alerts_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let file = Some(directory.path().join("alerts.json"));
        let mut alerts = OpenAlerts::load(file.clone()).unwrap();
        alerts.opened("a").unwrap();
        alerts.opened("b").unwrap();
        alerts.closed("a").unwrap();
        let alerts = OpenAlerts::load(file).unwrap();
        assert!(alerts.needs_relief("b", false) && !alerts.needs_relief("a", false) && alerts.needs_relief("a", true));
        let args = PagerDutyArgs { state: Some("/nonexistent/x".into()), ..PagerDutyArgs::default() };
        let failure = PagerDuty::new(args, true, &Diagnostics::memory("to-pagerduty")).err().unwrap();
        assert_eq!(failure.message, "--state: /nonexistent: no such directory");
    }
}
