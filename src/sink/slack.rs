//! Slack: which message an event becomes, and what the webhook's answer means.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::flow::delivery::destination::{
    Batching, Destination, Form, Letter, Outcome, Pacing, Plan, Role, never_sent,
};
use crate::model::address::Address;
use crate::model::event::Event;
use crate::model::exit::Failure;
use crate::model::news::{self, Grade};
use crate::model::phrase;
use crate::model::quantity::{Rate, show_duration};
use crate::model::secret::Secret;
use crate::model::template::Template;
use crate::world::Diagnostics;
use crate::world::credentials::SecretSource;
use crate::world::http::{Request, Response};

/// The longest text, in characters; Slack cuts beyond it without a word (api.slack.com/changelog/2018-04-truncating-really-long-messages).
const MAX_TEXT: usize = 40_000;

/// One message a second for each webhook, short bursts tolerated (api.slack.com/docs/rate-limits).
const RATE: Rate = Rate { count: 1.0, period: Duration::from_secs(1) };

/// How many may go at once after a quiet time. A third party measured room for about 25; few is polite.
const BURST: u32 = 4;

/// The text that surely goes through, in characters: Slack recommends no more, and has been seen to split longer ones.
const SHORT_TEXT: usize = 4_000;

/// So many events are shown in a folded message unless told otherwise.
const SHOWN: usize = 10;

/// The most events in a folded message.
const FOLD: usize = 1_000;

/// The most objects whose newest state a folded message tells.
const STATES: usize = 20;

/// What is said where nothing better is known.
const FALLBACK: &str = "You received a message from Tutum Stream!";

/// The `resource_uri` of the record that `--send-test` sends.
const TEST_URI: &str = "/to-slack/send-test/";

/// What it says by default, so that nobody takes it for news.
const TEST: &str = "This is a test message of to-slack, sent with --send-test. The webhook works.";

/// What a user can say about the message.
#[derive(Clone, Debug, Default)]
pub struct SlackArgs {
    /// A file with the webhook's URL.
    pub webhook_file: Option<PathBuf>,
    /// The template.
    pub text: Option<String>,
    /// A file with the template.
    pub text_file: Option<PathBuf>,
    /// A coloured bar by state.
    pub color: bool,
    /// For webhooks that honour it.
    pub username: Option<String>,
    /// An emoji such as `:whale:`, or a URL.
    pub icon: Option<String>,
    /// For webhooks that honour it.
    pub channel: Option<String>,
    /// So many events are shown in a folded message.
    pub fold: Option<usize>,
    /// Every event has a message of its own.
    pub no_fold: bool,
}

/// The destination.
pub struct Slack {
    source: SecretSource,
    webhook: Address,
    template: Option<Template>,
    args: SlackArgs,
    diagnostics: Diagnostics,
}

impl Slack {
    /// Reads the webhook and the template. With `rehearsal` a webhook need not be there.
    ///
    /// # Errors
    /// No webhook, one that is not a URL, a template with wrong syntax.
    pub fn new(args: SlackArgs, rehearsal: bool, diagnostics: &Diagnostics) -> Result<Slack, Failure> {
        let source = SecretSource::new(args.webhook_file.clone(), "SLACK_URL");
        let stand_in = || Address::parse("https://hooks.slack.com/", &["https"]);
        let webhook = match read_webhook(&source) {
            Err(_) if rehearsal => stand_in(),
            read => read,
        };
        let webhook = webhook.map_err(Failure::usage)?;
        let text = match &args.text_file {
            None => args.text.clone(),
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let read = read.map_err(|error| Failure::usage(format!("--text-file: {}: {error}", path.display())))?;
                Some(read.trim_end_matches('\n').to_owned())
            }
        };
        let template = text.map(|text| Template::new(&text, escape)).transpose();
        let template = template.map_err(|error| Failure::usage(format!("--text: {error}")))?;
        Ok(Slack { source, webhook, template, args, diagnostics: diagnostics.clone() })
    }

    fn text(&self, event: &Event<'_>) -> String {
        let rendered = match &self.template {
            None => default_text(event),
            Some(template) => template.render(event.text).unwrap_or_else(|error| {
                // A wrong text is better than none: the record itself is shown.
                self.diagnostics.warn(&format!("--text: {error}; sending the record as it is"));
                escape(event.text)
            }),
        };
        if rendered.trim().is_empty() { FALLBACK.to_owned() } else { rendered }
    }

    /// Many events in one message: how many, the first lines, and the newest state of each object.
    fn folded_text(&self, events: &[Event<'_>]) -> String {
        let shown = self.args.fold.unwrap_or(SHOWN);
        let mut text = format!("{} events came at once:", events.len());
        for event in events.iter().take(shown) {
            text += &format!("\n• {}", self.text(event).lines().next().unwrap_or_default());
        }
        if events.len() > shown {
            text += &format!("\n… and {} more.", events.len() - shown);
        }
        let mut newest: Vec<(&str, &Event<'_>)> = Vec::new();
        for event in events.iter().rev().filter(|event| !event.is_lifecycle() && event.state.is_some()) {
            let uri = event.resource_uri.as_deref().unwrap_or_default();
            if !newest.iter().any(|(known, _)| *known == uri) {
                newest.push((uri, event));
            }
        }
        if !newest.is_empty() {
            text += "\nThe newest states:";
        }
        for (_, event) in newest.iter().rev().take(STATES) {
            let words = [event.kind.as_deref().unwrap_or("object"), &phrase::name(event).unwrap_or_default()].join(" ");
            text += &format!("\n• {}: {}", escape(&words), escape(event.state.as_deref().unwrap_or_default()));
        }
        if newest.len() > STATES {
            text += &format!("\n… and {} more.", newest.len() - STATES);
        }
        text
    }

    fn cut(&self, text: &str, limit: usize) -> String {
        if text.chars().nth(limit).is_none() {
            return text.to_owned();
        }
        self.diagnostics.warn(&format!("a message was cut to {limit} characters"));
        let end = text.char_indices().nth(limit - 5).map_or(text.len(), |(at, _)| at);
        let mut kept = &text[..end];
        // Not inside an entity.
        if let Some(at) = kept.rfind('&').filter(|at| !kept[*at..].contains(';')) {
            kept = &kept[..at];
        }
        let fence = if kept.matches("```").count() % 2 == 1 { "```" } else { "" };
        format!("{kept}…{fence}")
    }
}

fn read_webhook(source: &SecretSource) -> Result<Address, String> {
    let secret = source.read().map_err(|error| format!("--webhook-file: {error}"))?;
    let secret = secret.ok_or("no webhook: give --webhook-file or set SLACK_URL")?;
    let address =
        Address::parse(secret.expose(), &["https", "http"]).map_err(|error| format!("the webhook: {error}"))?;
    if !address.is_secure() && !address.is_loopback() {
        return Err(
            "the webhook: expected https://; http is for this machine only, since the URL is the secret".to_owned()
        );
    }
    Ok(address)
}

/// Data in a message: exactly `&`, `<` and `>` are escaped (docs.slack.dev, "escaping text"), so that no event can notify a channel; other control
/// characters than line breaks become spaces.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\n' => escaped.push('\n'),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
        escaped
    })
}

/// The tutorial's texts; plain words for what is not Tutum's.
fn default_text(event: &Event<'_>) -> String {
    if event.is_lifecycle() {
        return lifecycle_text(event);
    }
    if event.resource_uri.as_deref() == Some(TEST_URI) {
        return TEST.to_owned();
    }
    if let Some(news) = news::news(event) {
        return news_text(event, &news);
    }
    let (Some(kind), Some(action)) = (event.kind.as_deref(), event.action.as_deref()) else {
        return FALLBACK.to_owned();
    };
    let (kind, past) = (escape(kind), escape(&phrase::past(action)));
    let stack = phrase::text(event, "/parent/stack/name");
    if let ("service", Some(stack)) = (kind.as_str(), stack) {
        let state = phrase::text(event, "/parent/stack/state").unwrap_or_else(|| "unknown".into());
        return format!(
            "A Service on Tutum was {past}.\nIt belonged to the {} Stack.\nThe Stack state is: {}",
            escape(&stack),
            escape(&state)
        );
    }
    let details = event.resource_uri.as_deref().map(|uri| format!("\nCheck {} to see more details.", escape(uri)));
    format!("Your {kind} was {past} on Tutum!{}", details.unwrap_or_default())
}

/// A sentence, and below it what else is known. An APIC's object is called by its name as it is written.
fn news_text(event: &Event<'_>, news: &news::News) -> String {
    let mut what = escape(&news.what);
    let begins_with_a_name = phrase::text(event, "/dn").is_some_and(|dn| news.what.starts_with(&*dn));
    if !begins_with_a_name {
        capitalize(&mut what);
    }
    if news.details.is_empty() {
        return what;
    }
    let mut details = escape(&news.details.join(", "));
    capitalize(&mut details);
    format!("{what}\n{details}")
}

fn capitalize(text: &mut str) {
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
}

fn lifecycle_text(event: &Event<'_>) -> String {
    let watched = escape(&news::watched(event));
    let reason = phrase::text(event, "/reason").map(|reason| format!("\nThe reason: {}", escape(&reason)));
    let reason = reason.unwrap_or_default();
    match event.action.as_deref() {
        Some("open") => format!("{watched} connection open."),
        Some("close") => format!("{watched} connection closed.{reason}"),
        Some("error") if event.state.as_deref() == Some("Unauthorized") => {
            format!("{watched} connection refused: unauthorized.{reason}")
        }
        Some("error") => format!("{watched} connection failed.{reason}"),
        Some("gap") => {
            let seconds = phrase::text(event, "/seconds").and_then(|text| text.parse::<f64>().ok());
            let length = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).map(show_duration);
            let length = length.map(|length| format!(" of {length}")).unwrap_or_default();
            format!("{watched} had a gap{length}: events may be missing.{reason}")
        }
        Some("drop") => {
            let dropped = phrase::text(event, "/dropped").unwrap_or_else(|| "some".into());
            format!("{watched} lost {} events: the reader was too slow.", escape(&dropped))
        }
        _ => FALLBACK.to_owned(),
    }
}

/// Slack's names for the coloured bar.
fn color(event: &Event<'_>) -> &'static str {
    match news::grade(event) {
        Some(Grade::Good) => return "good",
        Some(Grade::Info | Grade::Warning) => return "warning",
        Some(Grade::Error | Grade::Critical) => return "danger",
        None => {}
    }
    match event.state.as_deref().unwrap_or_default().to_ascii_lowercase().as_str() {
        "running" | "deployed" | "success" | "connected" | "created" => "good",
        "unreachable" | "failed" | "disconnected" | "unauthorized" | "terminated" => "danger",
        "stopped" | "not running" if phrase::exit_code(event) == Some(0) => "warning",
        "stopped" | "not running" => "danger",
        _ => "warning",
    }
}

impl Destination for Slack {
    fn name(&self) -> &'static str {
        "slack"
    }

    fn address(&self) -> &Address {
        &self.webhook
    }

    fn plan(&mut self, event: &Event<'_>) -> Plan {
        match never_sent(event) {
            Some(reason) => Plan::Skip { reason },
            // One key: they arrive in the order they were taken.
            None => Plan::Send { key: String::new(), role: Role::Plain, urgent: false },
        }
    }

    fn pacing(&self) -> Pacing {
        Pacing { rate: Some(RATE), burst: BURST, concurrency: 1, throttled_by_key: false }
    }

    fn batching(&self) -> Batching {
        if self.args.no_fold { Batching::ONE } else { Batching { most: FOLD, fold: true, ..Batching::ONE } }
    }

    fn request(&self, letters: &[Letter<'_>], form: Form) -> Result<Request, String> {
        let events: Vec<Event<'_>> = letters.iter().map(Letter::event).collect();
        let text = match &events[..] {
            [event] => self.text(event),
            events => self.folded_text(events),
        };
        let text = self.cut(&text, if form == Form::Full { MAX_TEXT } else { SHORT_TEXT });
        let mut body = Map::new();
        if self.args.color && form == Form::Full {
            let color = events.last().map(color).unwrap_or_default();
            let attachment = json!({"color": color, "fallback": text, "text": text, "mrkdwn_in": ["text"]});
            body.insert("attachments".to_owned(), Value::Array(vec![attachment]));
        } else {
            body.insert("text".to_owned(), text.into());
        }
        body.insert("unfurl_links".to_owned(), false.into());
        body.insert("unfurl_media".to_owned(), false.into());
        let icon = self.args.icon.as_deref();
        let icon_name = if icon.is_some_and(|icon| icon.contains("://")) { "icon_url" } else { "icon_emoji" };
        for (name, value) in
            [("username", self.args.username.as_deref()), (icon_name, icon), ("channel", self.args.channel.as_deref())]
        {
            if let Some(value) = value {
                body.insert(name.to_owned(), value.into());
            }
        }
        Ok(Request::post_json(self.webhook.clone(), Value::Object(body).to_string().into_bytes()))
    }

    fn outcomes(&self, count: usize, answer: &Response) -> Vec<Outcome> {
        vec![outcome(answer); count]
    }

    fn reload(&mut self) -> Result<bool, String> {
        let webhook = read_webhook(&self.source)?;
        let another = webhook != self.webhook;
        self.webhook = webhook;
        Ok(another)
    }

    fn redact(&self, text: &str) -> String {
        let (path, query) = (self.webhook.path.as_str(), self.webhook.query.as_deref().unwrap_or_default());
        let words = path.split('/').chain(query.split(['&', '='])).filter(|word| word.len() >= 8);
        // The end of the path is what proves the sender, however short it is.
        let token = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let mut secrets: Vec<&str> = words.chain([token, path, query]).collect();
        // The longest first: a part cut out would leave the rest of the whole.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.into_iter().fold(text.to_owned(), |text, secret| Secret::new(secret).redact(&text))
    }

    fn test_record(&self) -> String {
        json!({
            "type": "test", "action": "update", "state": "only a test", "name": "message of to-slack --send-test",
            "resource_uri": TEST_URI
        })
        .to_string()
    }
}

/// docs.slack.dev, "incoming webhooks: error handling", and its changelog of 2016-05-17.
fn outcome(answer: &Response) -> Outcome {
    let body = answer.text();
    let said = phrase::cut(body.trim(), 200);
    let reason = if said.is_empty() { answer.status.to_string() } else { format!("{} {said}", answer.status) };
    match answer.status {
        200..=299 if answer.content_type.contains("json") => {
            // Someone's own endpoint, or a workflow's: what counts is that it does not say no.
            let refused = serde_json::from_str::<Value>(&body).is_ok_and(|body| body["ok"] == Value::Bool(false));
            if refused { Outcome::Rejected { reason, status: None } } else { Outcome::Delivered }
        }
        200..=299 if matches!(body.trim(), "ok" | "") => Outcome::Delivered,
        // A login page or a proxy's greeting: nobody in the channel has seen the message.
        200..=299 => Outcome::Rejected { reason: format!("{reason}: expected \"ok\""), status: None },
        400 if ["invalid_blocks", "invalid_blocks_format", "invalid_attachments"].contains(&body.trim()) => {
            Outcome::TooLarge { reason }
        }
        400 if body.trim() == "user_not_found" => Outcome::Refused { reason },
        // The URL is the credential, so "no such webhook" and "archived" are refusals too.
        401 | 403 | 404 | 410 => Outcome::Refused { reason },
        413 | 414 => Outcome::TooLarge { reason },
        408 | 500..=599 => Outcome::Retry { reason, throttled: false },
        429 => Outcome::Retry { reason, throttled: true },
        _ => Outcome::Rejected { reason, status: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::stage::tests::start;

    fn slack(args: SlackArgs) -> Slack {
        Slack::new(args, true, &Diagnostics::memory("to-slack")).unwrap()
    }

    fn body(slack: &Slack, texts: &[&str], form: Form) -> Value {
        let letters: Vec<Letter<'_>> =
            texts.iter().map(|text| Letter { text, key: "", accepted: start(), place: 1 }).collect();
        serde_json::from_slice(&slack.request(&letters, form).unwrap().body).unwrap()
    }

    fn text(args: SlackArgs, event: &str) -> String {
        body(&slack(args), &[event], Form::Full)["text"].as_str().unwrap().to_owned()
    }

    fn template(text: &str) -> SlackArgs {
        SlackArgs { text: Some(text.to_owned()), ..SlackArgs::default() }
    }

    #[test]
    fn the_tutorials_texts() {
        for (event, expected) in [
            (
                r#"{"type":"container","action":"create","state":"Starting","resource_uri":"/api/v1/container/7d1c/"}"#,
                "Your container was created on Tutum!\nCheck /api/v1/container/7d1c/ to see more details.",
            ),
            (
                r#"{"type":"service","action":"update","parent":{"stack":{"name":"sh<o>p","state":"Running"}}}"#,
                "A Service on Tutum was updated.\nIt belonged to the sh&lt;o&gt;p Stack.\nThe Stack state is: Running",
            ),
            (r#"{"type":"service","action":"delete"}"#, "Your service was deleted on Tutum!"),
            (r#"{"type":"stream","action":"open"}"#, "Tutum Stream connection open."),
            (
                r#"{"type":"stream","action":"close","state":"Disconnected","reason":"no pong"}"#,
                "Tutum Stream connection closed.\nThe reason: no pong",
            ),
            (
                r#"{"type":"stream","action":"gap","seconds":12.34,"reason":"reset"}"#,
                "Tutum Stream had a gap of 12s: events may be missing.\nThe reason: reset",
            ),
            (r#"{"type":"user-notification"}"#, FALLBACK),
            (
                r#"{"type":"stream","action":"close","state":"Disconnected","resource_uri":"/socket","source":"wss://apic1/socket","reason":"no pong"}"#,
                "APIC apic1 connection closed.\nThe reason: no pong",
            ),
            (r#"{"type":"fvTenant","action":"update","dn":"uni/tn-X"}"#, "uni/tn-X has been created/modified"),
            (r#"{"type":"fvTenant","action":"delete","dn":"uni/tn-<X>"}"#, "uni/tn-&lt;X&gt; has been deleted"),
            (
                r#"{"type":"faultInst","action":"create","dn":"uni/tn-X/fault-F1","attributes":{"severity":"major","code":"F1","descr":"no & no","cause":"config"}}"#,
                "Major fault F1 on uni/tn-X: no &amp; no\nCause config",
            ),
            (
                r#"{"type":"container","action":"update","state":"Stopped","resource_uri":"/api/v1/container/30505e/","parents":["/api/v1/node/node-1/"],"name":"crash","image":"local/busybox","exit_code":3}"#,
                "Container crash stopped with exit code 3\nImage local/busybox, node node-1",
            ),
            ("{}", FALLBACK),
        ] {
            assert_eq!(text(SlackArgs::default(), event), expected);
        }
    }

    #[test]
    fn data_is_escaped_and_the_template_is_not() {
        let event = r#"{"type":"<!channel>","state":"a&b\u0007","resource":{"name":"<@U1>"}}"#;
        assert_eq!(
            text(template("<https://x|{{ type }}> {{ state }}"), event),
            "<https://x|&lt;!channel&gt;> a&amp;b "
        );
        assert_eq!(text(template("{{ nothing }}"), event), FALLBACK);
        assert!(!text(SlackArgs::default(), r#"{"type":"<!here>","action":"<!here>"}"#).contains('<'));
    }

    #[test]
    fn long_texts_are_cut_outside_entities() {
        let event = format!(r#"{{"type":"{}"}}"#, "&".repeat(20_000));
        let cut = text(template("```{{ type }}"), &event);
        assert!(cut.chars().count() <= MAX_TEXT && cut.ends_with("&amp;…```"), "{}", &cut[cut.len() - 20..]);
        let reduced = body(&slack(template("{{ type }}")), &[&event], Form::Reduced);
        assert!(reduced["text"].as_str().unwrap().chars().count() <= SHORT_TEXT);
    }

    #[test]
    fn a_color_by_state_and_plain_text_when_that_is_refused() {
        let args = SlackArgs { color: true, icon: Some(":whale:".to_owned()), ..SlackArgs::default() };
        let event = r#"{"type":"node","action":"update","state":"Unreachable"}"#;
        let full = body(&slack(args.clone()), &[event], Form::Full);
        assert_eq!(full["attachments"][0]["color"], "danger");
        assert_eq!(full["icon_emoji"], ":whale:");
        assert_eq!(body(&slack(args), &[event], Form::Reduced)["text"], "Your node was updated on Tutum!");
    }

    #[test]
    fn a_folded_message_counts_shows_and_tells_the_newest_state() {
        let events: Vec<String> = (0..5)
            .map(|n| {
                format!(
                    r#"{{"type":"node","action":"update","state":"S{n}","resource_uri":"/api/v1/node/{}/"}}"#,
                    n % 2
                )
            })
            .collect();
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let folded = body(&slack(SlackArgs { fold: Some(2), ..SlackArgs::default() }), &events, Form::Full);
        assert_eq!(
            folded["text"],
            "5 events came at once:\n• Your node was updated on Tutum!\n• Your node was updated on Tutum!\n… and 3 more.\n\
             The newest states:\n• node 1: S3\n• node 0: S4"
        );
    }

    /// The rows of the vendor's table in which the words matter too.
    #[test]
    fn what_the_words_of_an_answer_mean() {
        let judge = |status: u16, kind: &str, body: &str| {
            let answer = Response { status, content_type: kind.to_owned(), body: body.into(), ..Response::default() };
            match outcome(&answer) {
                Outcome::Delivered => "delivered",
                Outcome::Retry { throttled: true, .. } => "throttled",
                Outcome::Retry { .. } => "retry",
                Outcome::TooLarge { .. } => "smaller",
                Outcome::Rejected { .. } => "dead",
                Outcome::Refused { .. } => "stop",
            }
        };
        for (status, kind, body, expected) in [
            (200, "text/html", "ok\n", "delivered"),
            (200, "text/plain", "", "delivered"),
            (204, "", "", "delivered"),
            (200, "text/html", "<html>sign in</html>", "dead"),
            (200, "application/json", r#"{"ok":true}"#, "delivered"),
            (200, "application/json", r#"{"ok":false}"#, "dead"),
            (200, "application/json", "", "delivered"),
            (400, "", "invalid_payload", "dead"),
            (400, "", "invalid_blocks", "smaller"),
            (400, "", "invalid_attachments", "smaller"),
            (400, "", "user_not_found", "stop"),
            (413, "", "", "smaller"),
            (429, "", "rate_limited", "throttled"),
        ] {
            assert_eq!(judge(status, kind, body), expected, "{status} {kind} {body}");
        }
    }
}
