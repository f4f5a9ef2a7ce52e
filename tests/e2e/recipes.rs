//! The recipes in scripts/recipes do what they say, as they stand there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::support::http::{Answer, FakeHttp};
use super::support::{Finished, Running, Scratch, binary, descendant, send_signal, shell, signal_group, tool, until};

const EVENTS: &str = r#"{"type":"node","action":"update","state":"Unreachable","resource_uri":"/api/v1/node/608d/","parents":[]}
{"type":"service","action":"update","state":"Running","resource_uri":"/api/v1/service/5b0f/","parents":[]}
{"type":"stack","action":"update","state":"Running","resource_uri":"/api/v1/stack/11aa/","parents":[]}
"#;

/// A server of the suite on loopback that has these events again and again, and its address without a scheme.
fn serve(events: &Path, listen: &str) -> (Running, String) {
    let script = format!(
        "exec tutum-serve --listen {listen} --rate 50/s >/dev/null < <(while cat '{}'; do :; done)",
        events.display()
    );
    let serve = Running::start(shell(&script));
    serve.until_stderr("listening on http://");
    let address = serve.stderr().split("http://").nth(1).unwrap_or_default().trim().to_owned();
    (serve, address)
}

/// Slack, PagerDuty (which answers with `page`) and a dead man's switch.
fn services(page: u16) -> FakeHttp {
    FakeHttp::start(move |request| match request.path.as_str() {
        "/v2/enqueue" => Answer::json(r#"{"status":"success"}"#).with_status(page),
        _ => Answer::text("ok"),
    })
}

/// A recipe in a directory of its own. The programs are the real ones, told where this test's services are; `source` is what tutum-stream is
/// given before the recipe's own flags.
fn recipe(line: &str, scratch: &Scratch, source: &str, server: &FakeHttp, environment: &[(&str, &str)]) -> Running {
    let bin = scratch.path("bin");
    fs::create_dir_all(&bin).expect("it can be made");
    for (name, flags) in [("tutum-stream", source), ("to-pagerduty", &format!("--url {}", server.url("/v2/enqueue")))] {
        let path = bin.join(name);
        let script = format!("#!/bin/sh\nexec '{}' {flags} \"$@\"\n", binary(name).display());
        fs::write(&path, script).expect("it can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be made executable");
    }
    let mut command = shell(&format!(
        "cd '{}'; PATH='{}':$PATH; exec '{}/scripts/recipes/'{line}",
        scratch.path("").display(),
        bin.display(),
        env!("CARGO_MANIFEST_DIR")
    ));
    command
        .env("SLACK_URL", server.url("/slack"))
        .env("PAGERDUTY_KEY", "0123456789abcdef0123456789abcdef")
        .envs(environment.iter().copied());
    Running::start_group(command)
}

/// What was sent to a path.
fn sent(server: &FakeHttp, path: &str) -> Vec<String> {
    server.requests().iter().filter(|request| request.path == path).map(|request| request.text()).collect()
}

/// As a service manager stops it.
fn stop(running: Running) -> Finished {
    signal_group(running.id(), "TERM");
    running.finish()
}

#[test]
fn fallback_tells_the_chat_of_a_page_that_was_not_taken() {
    let scratch = Scratch::new();
    let (_serve, address) = serve(&scratch.write("events", EVENTS), "127.0.0.1:0");
    let server = services(400);
    let source = format!("--url ws://{address} --max-events 6");
    let finished = recipe("fallback", &scratch, &source, &server, &[]).finish();
    // The pager's: some deliveries were given up.
    assert_eq!(finished.code, 1, "{}", finished.stderr);
    let posts = sent(&server, "/slack");
    assert!(!posts.is_empty() && posts.iter().all(|post| post.contains("nobody was paged")), "{posts:?}");
    assert!(posts[0].contains("/api/v1/node/608d/ is Unreachable"), "{posts:?}");
    let kept = scratch.read("lost-pages.ndjson");
    assert!(kept.contains("/api/v1/node/608d/"), "{kept}");
    // And again, once PagerDuty is there.
    let healthy = services(202);
    let again =
        format!("to-pagerduty --url {} <'{}'", healthy.url("/v2/enqueue"), scratch.path("lost-pages.ndjson").display());
    let mut again = shell(&again);
    again.env("PAGERDUTY_KEY", "0123456789abcdef0123456789abcdef");
    Running::start(again).finish().expect_code(0);
    assert_eq!(sent(&healthy, "/v2/enqueue").len(), kept.lines().count());
}

#[test]
fn fan_out_gives_each_branch_its_own_and_ends_when_a_branch_dies() {
    let scratch = Scratch::new();
    let (_serve, address) = serve(&scratch.write("events", EVENTS), "127.0.0.1:0");
    let server = services(202);
    let source = format!("--url ws://{address} --max-events 9");
    recipe("fan-out", &scratch, &source, &server, &[]).finish().expect_code(0);
    let (pages, posts) = (sent(&server, "/v2/enqueue"), sent(&server, "/slack"));
    assert!(
        !pages.is_empty() && pages.iter().all(|page| page.contains("/node/") || page.contains("tutum-stream")),
        "{pages:?}"
    );
    assert!(
        !posts.is_empty() && posts.iter().all(|post| post.contains("service") && !post.contains("/node/")),
        "{posts:?}"
    );
    let audit = scratch.read("audit.ndjson");
    assert!(audit.contains("/stack/11aa/") && audit.contains("\"Stopped\""), "{audit}");

    let running = recipe("fan-out", &scratch, &format!("--url ws://{address}"), &server, &[]);
    until("the pager runs", || descendant(running.id(), "to-pagerduty").is_some());
    let pager = descendant(running.id(), "to-pagerduty").expect("it was found");
    send_signal(pager, "KILL");
    assert_ne!(running.finish().code, 0);
}

#[test]
fn the_dead_mans_switch_is_told_until_something_dies() {
    if !tool("curl") {
        return;
    }
    let scratch = Scratch::new();
    let (_serve, address) = serve(&scratch.write("events", EVENTS), "127.0.0.1:0");
    let server = services(202);
    let switch = server.url("/ping/secret");
    let running = recipe(
        "dead-mans-switch",
        &scratch,
        &format!("--url ws://{address}"),
        &server,
        &[("SWITCH_URL", &switch), ("BEAT", "1s")],
    );
    until("it was told three times", || sent(&server, "/ping/secret").len() >= 3);
    assert!(!sent(&server, "/v2/enqueue").is_empty() && scratch.read("audit.ndjson").contains("\"heartbeat\""));
    let slack = descendant(running.id(), "to-slack").expect("it runs");
    send_signal(slack, "KILL");
    let finished = running.finish();
    assert_ne!(finished.code, 0, "{}", finished.stderr);
    assert!(!finished.stderr.contains("secret"), "{}", finished.stderr);
}

#[test]
fn replay_shows_what_todays_rules_would_have_sent() {
    let scratch = Scratch::new();
    scratch.write("audit.ndjson.1", EVENTS);
    let server = services(202);
    let line = "replay audit.ndjson.1 --type node --state Unreachable";
    let finished = recipe(line, &scratch, "", &server, &[]).finish().expect_code(0);
    assert!(
        finished.stdout.contains(r#""event_action":"trigger""#) && finished.lines().len() == 1,
        "{}",
        finished.stdout
    );
    let finished = recipe("replay audit.ndjson.1 --type action", &scratch, "", &server, &[]).finish().expect_code(0);
    assert_eq!((finished.stdout.as_str(), server.requests().len()), ("", 0));
    Running::start(shell(&format!("gzip '{}'", scratch.path("audit.ndjson.1").display()))).finish().expect_code(0);
    let finished = recipe("replay audit.ndjson.1.gz --type node", &scratch, "", &server, &[]).finish().expect_code(0);
    assert_eq!(finished.lines().len(), 1, "{}", finished.stdout);
}

#[test]
fn the_audit_log_is_rotated_under_load_and_no_line_is_lost() {
    if !tool("logrotate") {
        return;
    }
    let scratch = Scratch::new();
    let server = services(202);
    fs::create_dir(scratch.path("log")).expect("it can be made");
    let rules = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/recipes/audit.logrotate"))
        .expect("it is there")
        .replace("/var/log/tutum", &scratch.path("log").display().to_string());
    let rules = scratch.write("rules", rules);
    // Whoever runs the tests may write here: logrotate asks.
    fs::set_permissions(&rules, fs::Permissions::from_mode(0o644)).expect("it is ours");
    fs::set_permissions(scratch.path("log"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut running = recipe("audit-log log/audit.ndjson", &scratch, "", &server, &[]);
    let count = 20_000;
    let lines: String = (1..=count).map(|number| format!("{{\"n\":{number}}}\n")).collect();
    let mut rotations = 0;
    running = running.input(lines.as_bytes());
    // No more of them than are kept.
    while !running.has_ended() && rotations < 25 {
        let rotate = format!("logrotate -f -s '{}' '{}'", scratch.path("status").display(), rules.display());
        Running::start(shell(&rotate)).finish().expect_code(0);
        rotations += 1;
    }
    running.finish().expect_code(0);
    assert!(rotations > 1, "it was rotated {rotations} times");
    let all = "cd log; n=0; for f in $(ls -v audit.ndjson.*.gz 2>/dev/null | tac); do gzip -dc $f; done; cat audit.ndjson.1 audit.ndjson 2>/dev/null";
    let all = Running::start(shell(&format!("cd '{}'; {all}", scratch.path("").display()))).finish();
    let kept: Vec<u32> =
        all.lines().iter().filter_map(|line| line.trim_matches(['{', '}']).rsplit(':').next()?.parse().ok()).collect();
    eprintln!("audit-log: {count} lines, {rotations} rotations, {} kept", kept.len());
    assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1), "a line is missing or out of order");
    assert_eq!((kept.len(), kept.last()), (count as usize, Some(&count)));
}

#[test]
fn quiet_hours_keep_the_chat_silent_and_the_pager_awake() {
    if !tool("jq") {
        return;
    }
    // The hour in UTC, by a zone that makes it noon or three in the night; a zone's sign is the other way round.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970").as_secs();
    let zone = |wanted: i64| {
        let ahead = (wanted - i64::try_from(now / 3600 % 24).expect("an hour is small") + 36) % 24 - 12;
        format!("HERE{}", -ahead)
    };
    for (hour, told) in [(12, true), (3, false)] {
        let scratch = Scratch::new();
        let (_serve, address) = serve(&scratch.write("events", EVENTS), "127.0.0.1:0");
        let server = services(202);
        let source = format!("--url ws://{address} --max-events 6");
        let running = recipe("quiet-hours", &scratch, &source, &server, &[("TZ", &zone(hour))]);
        running.finish().expect_code(0);
        let posts = sent(&server, "/slack").join("\n");
        assert_eq!(posts.to_lowercase().contains("service"), told, "at {hour}: {posts}");
        assert!(posts.contains("608d"), "at {hour}: {posts}");
        assert!(!sent(&server, "/v2/enqueue").is_empty() && scratch.read("audit.ndjson").contains("/service/5b0f/"));
    }
}

#[test]
fn a_second_region_has_the_events_of_the_first_and_pages_when_that_is_gone() {
    let (here, there) = (Scratch::new(), Scratch::new());
    let (_serve, address) = serve(&here.write("events", EVENTS), "127.0.0.1:0");
    let (server, far) = (services(202), services(202));
    let key = here.write("key", "not-for-your-eyes\n");
    let credentials = format!("--user us --token-file '{}'", key.display());
    let first = |listen: &str| {
        let line = format!("first-region --listen {listen} {credentials}");
        let running = recipe(&line, &here, &format!("--url ws://{address}"), &server, &[]);
        running.until_stderr("listening on http://");
        running
    };
    let one = first("127.0.0.1:0");
    let listen = one
        .stderr()
        .split("listening on http://")
        .nth(1)
        .unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let line = format!("second-region --url ws://{listen} {credentials}");
    let two = recipe(&line, &there, "--ping 1s --timeout 1s", &far, &[]);
    until("events are there", || there.read("audit.ndjson").matches("/service/5b0f/").count() > 2);
    signal_group(one.id(), "KILL");
    one.finish();
    until("the loss is told", || there.read("audit.ndjson").contains("\"Disconnected\""));
    let one = first(&listen);
    until("the gap is told", || there.read("audit.ndjson").contains("\"action\":\"gap\""));
    let before = there.read("audit.ndjson").matches("/service/5b0f/").count();
    until("events come again", || there.read("audit.ndjson").matches("/service/5b0f/").count() > before);
    let ended = stop(two);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("not-for-your-eyes"));
    stop(one);
    assert!(!sent(&far, "/slack").is_empty());
}

#[test]
fn a_region_whose_source_dies_does_not_serve_silence() {
    let scratch = Scratch::new();
    let (_serve, address) = serve(&scratch.write("events", EVENTS), "127.0.0.1:0");
    let server = services(202);
    let line = "first-region --listen 127.0.0.1:0";
    let running = recipe(line, &scratch, &format!("--url ws://{address}"), &server, &[]);
    until("events are served", || scratch.read("audit.ndjson").contains("/service/5b0f/"));
    send_signal(descendant(running.id(), "tutum-stream").expect("it runs"), "KILL");
    assert_ne!(running.finish().code, 0);
}

#[test]
fn refused_credentials_and_missing_settings_are_what_every_recipe_ends_with() {
    let server = FakeHttp::start(|request| match request.path.as_str() {
        "/v2/enqueue" => Answer::text("").with_status(401),
        _ => Answer::text("ok"),
    });
    for line in
        ["dead-mans-switch", "fallback", "fan-out", "first-region --listen 127.0.0.1:0", "quiet-hours", "second-region"]
    {
        let scratch = Scratch::new();
        let (_serve, address) = serve(&scratch.write("events", EVENTS), "127.0.0.1:0");
        let source = format!("--url ws://{address}");
        let switch = server.url("/ping");
        // tee fails in another way, and does not hide it.
        if line != "second-region" {
            fs::create_dir(scratch.path("audit.ndjson")).expect("it can be made");
        }
        let finished = recipe(line, &scratch, &source, &server, &[("SWITCH_URL", &switch)]).finish();
        assert_eq!(finished.code, 3, "{line}: {}", finished.stderr);
        let finished = recipe(line, &Scratch::new(), "", &server, &[]).finish();
        assert_eq!(finished.code, 2, "{line}: {}", finished.stderr);
    }
}

#[test]
fn every_recipe_is_named_in_the_readme() {
    let readme = include_str!("../../README.md");
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/recipes")).expect("there are recipes") {
        let name = entry.expect("it can be read").file_name().into_string().expect("a recipe has a plain name");
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in README");
    }
}
