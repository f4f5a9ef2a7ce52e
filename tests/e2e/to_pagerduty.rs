//! to-pagerduty against a fake Events API.

use std::process::Command;

use super::support::http::{Answer, FakeHttp, Gate};
use super::support::{Running, Scratch, command, run};

const KEY: &str = "0123456789abcdef0123456789abcdef";

const UNREACHABLE: &str =
    r#"{"type":"node","action":"update","state":"Unreachable","resource_uri":"/api/v1/node/9c1e/"}"#;
const DEPLOYED: &str = r#"{"type":"node","action":"update","state":"Deployed","resource_uri":"/api/v1/node/9c1e/"}"#;
const CLOSE: &str =
    r#"{"type":"stream","action":"close","state":"Disconnected","resource_uri":"/v1/events","reason":"no pong"}"#;
const OPEN: &str = r#"{"type":"stream","action":"open","state":"Connected","resource_uri":"/v1/events"}"#;

fn accepted() -> Answer {
    Answer::json(r#"{"status":"success","message":"Event processed","dedup_key":"x"}"#).with_status(202)
}

fn pagerduty(server: &FakeHttp, args: &[&str]) -> Command {
    let mut command = command("to-pagerduty", args);
    command.env("PAGERDUTY_KEY", KEY).args(["--url", &server.url("/v2/enqueue")]);
    command
}

/// `event_action dedup_key` of every request so far.
fn told(server: &FakeHttp) -> Vec<String> {
    let tell = |body: serde_json::Value| {
        let text = |names: [&str; 2]| names.iter().find_map(|name| body[*name].as_str()).unwrap_or("?").to_owned();
        format!("{} {}", text(["event_action", "event_type"]), text(["dedup_key", "incident_key"]))
    };
    server.requests().iter().map(|request| tell(request.json())).collect()
}

#[test]
fn a_bad_state_pages_and_the_good_one_resolves() {
    let server = FakeHttp::script([accepted()]);
    let input = format!("{UNREACHABLE}\n{DEPLOYED}\n");
    let finished = Running::start(pagerduty(&server, &[])).input(input.as_bytes()).finish().expect_code(0);
    assert_eq!(finished.stdout, input);
    assert_eq!(told(&server), ["trigger /api/v1/node/9c1e/", "resolve /api/v1/node/9c1e/"]);
    assert_eq!(server.requests()[0].json()["routing_key"], KEY);
}

#[test]
fn order_is_kept_per_key_and_other_keys_are_not_held_up() {
    let server = FakeHttp::start(|request| {
        let first = request.json()["dedup_key"] == "/api/v1/node/9c1e/" && request.number == 0;
        if first { Answer::status(429).header("Retry-After", "2") } else { accepted() }
    });
    let other = UNREACHABLE.replace("9c1e", "0000");
    let input = format!("{UNREACHABLE}\n{DEPLOYED}\n{other}\n");
    Running::start(pagerduty(&server, &[])).input(input.as_bytes()).finish().expect_code(0);
    let told = told(&server);
    let at = |what: &str| told.iter().rposition(|told| told == what).unwrap_or_else(|| panic!("{what} in {told:?}"));
    assert!(at("trigger /api/v1/node/0000/") < at("trigger /api/v1/node/9c1e/"), "{told:?}");
    assert!(at("trigger /api/v1/node/9c1e/") < at("resolve /api/v1/node/9c1e/"), "{told:?}");
}

#[test]
fn a_blip_of_the_stream_pages_nobody_and_a_stream_that_stays_away_does() {
    let server = FakeHttp::script([accepted()]);
    let input = format!("{CLOSE}\n{OPEN}\n");
    Running::start(pagerduty(&server, &[])).input(input.as_bytes()).finish().expect_code(0);
    assert!(server.requests().is_empty(), "{:?}", told(&server));
    let mut running = Running::start(pagerduty(&server, &["--trigger-after", "200ms"]));
    running.write(&format!("{CLOSE}\n"));
    let requests = server.wait_for(1);
    assert_eq!(requests[0].json()["payload"]["summary"], "Tutum Stream connection closed.");
    running.write(&format!("{OPEN}\n"));
    server.wait_for(2);
    running.finish().expect_code(0);
    assert_eq!(told(&server), ["trigger tutum-stream", "resolve tutum-stream"]);
}

#[test]
fn the_end_of_input_is_no_reason_to_keep_a_page_back() {
    let server = FakeHttp::script([accepted()]);
    Running::start(pagerduty(&server, &["--trigger-after", "1h"])).input(CLOSE.as_bytes()).finish().expect_code(0);
    assert_eq!(told(&server), ["trigger tutum-stream"]);
}

#[test]
fn a_restart_resolves_what_the_run_before_triggered() {
    let server = FakeHttp::script([accepted()]);
    let scratch = Scratch::new();
    let state = scratch.path("alerts.json");
    let args = ["--state", state.to_str().unwrap()];
    Running::start(pagerduty(&server, &args)).input(UNREACHABLE.as_bytes()).finish().expect_code(0);
    Running::start(pagerduty(&server, &args)).input(DEPLOYED.as_bytes()).finish().expect_code(0);
    Running::start(pagerduty(&server, &args)).input(DEPLOYED.as_bytes()).finish().expect_code(0);
    assert_eq!(told(&server), ["trigger /api/v1/node/9c1e/", "resolve /api/v1/node/9c1e/"]);
}

#[test]
fn the_tutorials_api_is_throttled_by_403() {
    let server = FakeHttp::script([Answer::status(403), Answer::status(200)]);
    let finished =
        Running::start(pagerduty(&server, &["--api", "v1"])).input(UNREACHABLE.as_bytes()).finish().expect_code(0);
    let requests = server.requests();
    assert_eq!(requests.len(), 2, "{}", finished.stderr);
    let body = requests[1].json();
    assert_eq!((body["service_key"].as_str(), body["event_type"].as_str()), (Some(KEY), Some("trigger")));
    assert_eq!(body["description"], "node 9c1e is Unreachable");
}

#[test]
fn an_invalid_event_is_dead_with_every_reason_and_without_the_key() {
    let body = format!(
        r#"{{"status":"invalid event","message":"Event object is invalid","errors":["bad {KEY}","no source"]}}"#
    );
    let server = FakeHttp::script([Answer::json(body).with_status(400)]);
    let finished =
        Running::start(pagerduty(&server, &["--receipts", "-v"])).input(UNREACHABLE.as_bytes()).finish().expect_code(1);
    assert!(
        finished.stdout.contains(r#""reason":"400: Event object is invalid: bad <redacted>: no source""#),
        "{}",
        finished.stdout
    );
    assert!(!format!("{}{}", finished.stdout, finished.stderr).contains(KEY));
}

#[test]
fn an_oversized_event_loses_its_details_and_not_its_page() {
    let server = FakeHttp::script([Answer::status(413), accepted()]);
    Running::start(pagerduty(&server, &[])).input(UNREACHABLE.as_bytes()).finish().expect_code(0);
    let requests = server.requests();
    assert!(requests[1].json()["payload"]["custom_details"]["note"].is_string());
    assert_eq!(requests[1].json()["payload"]["summary"], "node 9c1e is Unreachable");
}

#[test]
fn a_page_that_cannot_be_sent_can_go_to_slack() {
    let pages = FakeHttp::script([Answer::status(400)]);
    let chat = FakeHttp::script([Answer::text("ok")]);
    let script = format!(
        "echo '{UNREACHABLE}' | to-pagerduty --receipts --url {} | tutum-filter --where /status=dead | to-slack >/dev/null",
        pages.url("/v2/enqueue")
    );
    let mut command = super::support::shell(&script);
    command.env("PAGERDUTY_KEY", KEY).env("SLACK_URL", chat.url("/x"));
    Running::start(command).finish().expect_code(0);
    assert_eq!(
        chat.requests()[0].json()["text"],
        "Your node was updated on Tutum!\nCheck /api/v1/node/9c1e/ to see more details."
    );
}

#[test]
fn a_trigger_that_is_under_way_is_followed_by_its_resolve() {
    let gate = Gate::new();
    let pass = gate.clone();
    let server = FakeHttp::start(move |request| {
        if request.number == 0 {
            pass.pass();
        }
        accepted()
    });
    let mut running = Running::start(pagerduty(&server, &[]));
    running.write(&format!("{UNREACHABLE}\n"));
    server.wait_for(1);
    running.write(&format!("{DEPLOYED}\n"));
    assert_eq!([running.line(), running.line()], [UNREACHABLE, DEPLOYED]);
    gate.open();
    running.finish().expect_code(0);
    assert_eq!(told(&server), ["trigger /api/v1/node/9c1e/", "resolve /api/v1/node/9c1e/"]);
}

#[test]
fn flags_that_say_what_to_send() {
    let args = ["--dry-run", "--event", "acknowledge", "--dedup-key", "{{ type }}", "--client", "ops"];
    let finished = run("to-pagerduty", args, UNREACHABLE).expect_code(0);
    assert_eq!(
        finished.stdout,
        "{\"routing_key\":\"<redacted>\",\"event_action\":\"acknowledge\",\"dedup_key\":\"node\"}\n"
    );
    let finished = run("to-pagerduty", ["--check"], "").expect_code(2);
    assert_eq!(finished.stderr, "to-pagerduty: no integration key: give --key-file or set PAGERDUTY_KEY\n");
    run("to-pagerduty", ["--severity", "bad"], "").expect_code(2);
    run("to-pagerduty", ["--url", "http://example.com/", "--dry-run"], "").expect_code(2);
}

#[test]
fn send_test_sends_one_harmless_alert() {
    let server = FakeHttp::start(|_| accepted());
    let finished = Running::start(pagerduty(&server, &["--send-test"])).finish().expect_code(0);
    assert!(finished.stderr.contains("the test message was taken (202)"), "{}", finished.stderr);
    assert_eq!(told(&server), ["trigger /to-pagerduty/send-test/"]);
    let body = String::from_utf8(server.requests()[0].body.clone()).unwrap();
    assert!(body.contains(r#""severity":"info""#), "{body}");
}

#[test]
fn no_field_makes_an_alert_too_large() {
    let name = "x".repeat(600_000);
    let event = format!(
        r#"{{"type":"node","state":"Unreachable","resource_uri":"/api/v1/node/9c1e/","resource":{{"name":"{name}"}}}}"#
    );
    let finished = run("to-pagerduty", ["--dry-run"], format!("{event}\n")).expect_code(0);
    assert!(finished.stdout.contains("/api/v1/node/9c1e/") && finished.stdout.len() < 10_000);
}
