//! to-slack, and through it what every sink does.

use std::process::Command;

use super::support::http::{Answer, FakeHttp, Gate, closed_port};
use super::support::{Running, Scratch, command, run, shell, until};

const SECRET: &str = "hunter22SECRET";

fn event(n: usize) -> String {
    format!(
        r#"{{"type":"service","action":"update","state":"Running","resource_uri":"/api/v1/service/{n}/","n":{n}.10}}"#
    )
}

fn events(count: usize) -> String {
    (1..=count).map(|n| event(n) + "\n").collect()
}

fn slack(server: &FakeHttp, args: &[&str]) -> Command {
    let mut command = command("to-slack", args);
    command.env("SLACK_URL", server.url(&format!("/services/T0/B0/{SECRET}")));
    command
}

/// The texts of all messages so far.
fn texts(server: &FakeHttp) -> Vec<String> {
    let text = |request: &super::support::http::Request| request.json()["text"].as_str().unwrap_or_default().to_owned();
    server.requests().iter().map(text).collect()
}

#[test]
fn an_event_is_posted_and_passed_on() {
    let server = FakeHttp::script([Answer::text("ok")]);
    let finished = Running::start(slack(&server, &["--stats"])).input(events(1).as_bytes()).finish().expect_code(0);
    assert_eq!(finished.stdout, events(1));
    assert_eq!(texts(&server), ["Your service was updated on Tutum!\nCheck /api/v1/service/1/ to see more details."]);
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.header("content-type")), ("POST", Some("application/json")));
    assert!(finished.stderr.contains(r#""in":1,"out":1,"faulty":0,"delivered":1"#), "{}", finished.stderr);
}

#[test]
fn a_slow_slack_does_not_delay_the_stage_behind() {
    let gate = Gate::new();
    let pass = gate.clone();
    let server = FakeHttp::start(move |_| {
        pass.pass();
        Answer::text("ok")
    });
    let mut running = Running::start(slack(&server, &[]));
    running.write(&events(3));
    assert_eq!([running.line(), running.line(), running.line()].join("\n") + "\n", events(3));
    gate.open();
    running.finish().expect_code(0);
}

#[test]
fn the_next_stage_sees_the_end_before_everything_is_sent() {
    let gate = Gate::new();
    let pass = gate.clone();
    let server = FakeHttp::start(move |_| {
        pass.pass();
        Answer::text("ok")
    });
    let scratch = Scratch::new();
    let script = format!("echo '{}' | to-slack | {{ cat; echo end >'{}'; }}", event(1), scratch.path("end").display());
    let mut command = shell(&script);
    command.env("SLACK_URL", server.url("/x"));
    let running = Running::start(command);
    until("the next stage saw the end", || scratch.read("end") == "end\n");
    gate.open();
    running.finish().expect_code(0);
}

#[test]
fn a_429_is_waited_out_and_loses_nothing() {
    let server =
        FakeHttp::script([Answer::status(429).header("Retry-After", "1").body("rate_limited"), Answer::text("ok")]);
    let finished = Running::start(slack(&server, &["--receipts"])).input(events(1).as_bytes()).finish().expect_code(0);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body);
    assert!(requests[1].at - requests[0].at >= std::time::Duration::from_secs(1));
    assert!(finished.stdout.starts_with(
        r#"{"type":"receipt","sink":"slack","status":"delivered","seq":1,"attempts":1,"http_status":200,"ms":"#
    ));
    assert!(finished.stdout.ends_with(&format!(",\"event\":{}}}\n", event(1))), "{}", finished.stdout);
    assert!(finished.stderr.contains("429 rate_limited; trying again in 1"), "{}", finished.stderr);
}

#[test]
fn trouble_is_retried_and_told_once() {
    for trouble in
        [Answer::status(500), Answer::reset(), Answer::hang_up(), Answer::status(503).header("Retry-After", "1")]
    {
        let server = FakeHttp::script([trouble, Answer::text("ok")]);
        let finished = Running::start(slack(&server, &[])).input(events(1).as_bytes()).finish().expect_code(0);
        assert_eq!(server.requests().len(), 2, "{}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 2, "{}", finished.stderr);
        assert!(finished.stderr.ends_with("delivering again\n"), "{}", finished.stderr);
    }
}

#[test]
fn no_answer_within_the_timeout_is_trouble() {
    let server = FakeHttp::start(|request| if request.number == 0 { Answer::silence() } else { Answer::text("ok") });
    let finished =
        Running::start(slack(&server, &["--timeout", "500ms"])).input(events(1).as_bytes()).finish().expect_code(0);
    assert!(finished.stderr.contains("timed out"), "{}", finished.stderr);
}

#[test]
fn what_slack_rejects_is_a_dead_letter_and_the_next_goes_out() {
    let server = FakeHttp::script([Answer::status(400).body("invalid_payload"), Answer::text("ok")]);
    let scratch = Scratch::new();
    let letters = scratch.path("dead");
    let args = ["--no-fold", "--dead-letters", letters.to_str().unwrap()];
    let finished = Running::start(slack(&server, &args)).input(events(2).as_bytes()).finish().expect_code(1);
    assert_eq!(finished.stdout, events(2));
    let letter = scratch.read("dead");
    assert!(
        letter.starts_with(r#"{"sink":"slack","reason":"400 invalid_payload","http_status":400,"attempts":1,"at":""#)
    );
    assert!(letter.ends_with(&format!(",\"event\":{}}}\n", event(1))));
    // The dead letter is taken as input again and passed on as it is.
    let again = Running::start(slack(&server, &[])).input(letter.as_bytes()).finish().expect_code(0);
    assert_eq!(again.stdout, letter);
    assert!(texts(&server).last().unwrap().contains("/api/v1/service/1/"));
}

#[test]
fn without_a_file_a_given_up_record_is_named() {
    let port = closed_port();
    let mut command = command("to-slack", ["--give-up", "0s"]);
    command.env("SLACK_URL", format!("http://127.0.0.1:{port}/services/{SECRET}"));
    let finished = Running::start(command).input(events(1).as_bytes()).finish().expect_code(1);
    assert!(
        finished.stderr.contains(
            "service update /api/v1/service/1/: not delivered: given up after 0s: cannot connect: Connection refused"
        ),
        "{}",
        finished.stderr
    );
    assert!(!finished.stderr.contains(SECRET));
}

#[test]
fn a_webhook_that_is_refused_ends_it_with_3_and_nothing_is_lost_silently() {
    for (status, body) in [(403, "invalid_token"), (404, "no_service"), (410, "channel_is_archived")] {
        let server = FakeHttp::script([Answer::status(status).body(body)]);
        let finished =
            Running::start(slack(&server, &["--no-fold"])).input(events(2).as_bytes()).finish().expect_code(3);
        assert_eq!(server.requests().len(), 1);
        assert!(finished.stderr.contains(&format!("{status} {body}")), "{}", finished.stderr);
        assert_eq!(finished.stderr.matches("not delivered").count(), 2, "{}", finished.stderr);
    }
}

#[test]
fn a_rotated_secret_is_picked_up_when_the_old_one_is_refused() {
    let server = FakeHttp::start(|request| match (request.path.as_str(), request.number) {
        ("/old", 1..) => Answer::status(403),
        _ => Answer::text("ok"),
    });
    let scratch = Scratch::new();
    let file = scratch.write("webhook", server.url("/old") + "\n");
    let mut running = Running::start(command("to-slack", ["--webhook-file", file.to_str().unwrap()]));
    running.write(&events(1));
    server.wait_for(1);
    scratch.write("webhook", server.url("/new") + "\n");
    running.write(&events(1));
    let finished = running.finish().expect_code(0);
    assert_eq!(server.paths(), ["/old", "/old", "/new"], "{}", finished.stderr);
    assert!(finished.stderr.contains("trying again with the secret as it is now"), "{}", finished.stderr);
}

#[test]
fn a_redirect_is_not_followed() {
    let other = FakeHttp::script([Answer::text("ok")]);
    let server = FakeHttp::script([Answer::redirect(other.url("/stolen"))]);
    Running::start(slack(&server, &[])).input(events(1).as_bytes()).finish().expect_code(1);
    assert!(other.requests().is_empty());
}

#[test]
fn a_burst_is_folded_and_every_event_has_its_receipt() {
    let server = FakeHttp::script([Answer::text("ok")]);
    let finished =
        Running::start(slack(&server, &["--receipts", "--stats"])).input(events(50).as_bytes()).finish().expect_code(0);
    let requests = server.requests();
    assert!(requests.len() <= 5, "{} messages", requests.len());
    assert!(texts(&server).iter().any(|text| text.contains("events came at once:")), "{:?}", texts(&server));
    assert_eq!(finished.stdout.lines().count(), 50);
    let count = |status: &str| finished.stdout.matches(&format!(r#""status":"{status}""#)).count();
    assert_eq!(count("delivered") + count("folded"), 50);
}

#[test]
fn dry_run_prints_bodies_and_sends_nothing() {
    let finished = run("to-slack", ["--dry-run", "--text", "{{ type }} is {{ state }}"], events(1)).expect_code(0);
    assert_eq!(finished.stdout, "{\"text\":\"service is Running\",\"unfurl_links\":false,\"unfurl_media\":false}\n");
}

#[test]
fn send_test_tells_how_it_went() {
    for (answer, code, said) in [
        (Answer::text("ok"), 0, "the test message was taken (200)"),
        (Answer::status(404).body("no_service"), 3, "404 no_service"),
        (Answer::status(500), 4, "500"),
        (Answer::status(400).body("no_text"), 1, "400 no_text"),
    ] {
        let server = FakeHttp::script([answer]);
        let finished = Running::start(slack(&server, &["--send-test"])).finish().expect_code(code);
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
        // Nobody in the channel may take it for news.
        let body = server.requests()[0].text();
        assert!(body.contains("This is a test message of to-slack"), "{body}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn wrong_configuration_is_code_2() {
    for (args, url, message) in [
        (&[][..], "", "no webhook: give --webhook-file or set SLACK_URL"),
        (&[], "hunter22SECRET", "the webhook: expected a URL that begins with https:// or http://"),
        (&[], "http://example.com/hunter22SECRET", "the webhook: expected https://"),
        (&["--text", "{{ x"], "https://example.com/", "--text: "),
        (&["--webhook-file", "/nonexistent"], "", "--webhook-file: /nonexistent: No such file"),
        (&["--dead-letters", "/nonexistent/x"], "https://example.com/", "--dead-letters: /nonexistent/x: No such file"),
        (&["--cacert", "/dev/null"], "https://example.com/", "--cacert: /dev/null: no certificate in it"),
        (&["--rate", "0/s"], "https://example.com/", "--rate: expected a rate above zero"),
    ] {
        for check in [false, true] {
            let mut command = command("to-slack", args);
            command.env("SLACK_URL", url).args(check.then_some("--check"));
            let finished = Running::start(command).finish().expect_code(2);
            assert!(finished.stderr.starts_with(&format!("to-slack: {message}")), "{}", finished.stderr);
            assert!(!finished.stderr.contains(SECRET));
        }
    }
}

#[test]
fn a_secret_comes_from_systemds_credentials() {
    let server = FakeHttp::script([Answer::text("ok")]);
    let scratch = Scratch::new();
    scratch.write("slack-url", server.url("/from/systemd"));
    let mut command = command("to-slack", [""; 0]);
    command.env("CREDENTIALS_DIRECTORY", scratch.path(""));
    Running::start(command).input(events(1).as_bytes()).finish().expect_code(0);
    assert_eq!(server.paths(), ["/from/systemd"]);
}

#[test]
fn term_drains_and_what_is_left_is_told() {
    let server = FakeHttp::start(|_| Answer::silence());
    let mut running = Running::start(slack(&server, &["--drain", "300ms", "--stats"]));
    running.write(&events(2));
    server.wait_for(1);
    running.signal("TERM").signal("TERM");
    running.end_input();
    let finished = running.finish().expect_code(1);
    assert!(finished.stderr.contains("2 records left over"), "{}", finished.stderr);
    assert!(finished.stderr.contains(r#""dead":2"#), "{}", finished.stderr);
}

#[test]
fn a_sink_outlives_its_reader_and_delivers_what_it_took() {
    let gate = Gate::new();
    let pass = gate.clone();
    let server = FakeHttp::start(move |_| {
        pass.pass();
        Answer::text("ok")
    });
    let script = format!("{{ echo '{}'; sleep 60 2>/dev/null >&2; }} | to-slack | head -1", event(1));
    let mut command = shell(&script);
    command.env("SLACK_URL", server.url("/x"));
    let mut running = Running::start(command);
    assert_eq!(running.line(), event(1));
    server.wait_for(1);
    running.until_stderr("the reader went away");
    gate.open();
    until("it was delivered", || server.requests().len() == 1);
    drop(running);
}

#[test]
fn usr1_prints_the_accounts() {
    let server = FakeHttp::start(|_| Answer::silence());
    let mut running = Running::start(slack(&server, &[]));
    running.write(&events(1));
    server.wait_for(1);
    running.signal("USR1").until_stderr(r#"{"program":"to-slack","in":1,"out":1,"faulty":0,"delivered":0,"folded":0,"skipped":0,"dead":0,"spooled":0,"waiting":1}"#);
}

#[test]
fn a_secret_a_server_echoes_is_not_printed() {
    let server =
        FakeHttp::start(|request| Answer::status(400).body(format!("no such thing: {} {SECRET}", request.path)));
    let finished =
        Running::start(slack(&server, &["-v", "--receipts"])).input(events(1).as_bytes()).finish().expect_code(1);
    assert!(!format!("{}{}", finished.stdout, finished.stderr).contains(SECRET), "{finished:?}");
}

#[test]
fn a_short_token_a_server_echoes_is_not_printed_either() {
    let server = FakeHttp::start(|_| Answer::status(400).body("no such thing: Zx9q"));
    let mut command = command("to-slack", ["--receipts"]);
    command.env("SLACK_URL", server.url("/services/T0/B0/Zx9q"));
    let finished = Running::start(command).input(events(1).as_bytes()).finish().expect_code(1);
    assert!(!format!("{}{}", finished.stdout, finished.stderr).contains("Zx9q"), "{finished:?}");
}
