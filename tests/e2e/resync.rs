//! tutum-stream and what it missed: against tutum-serve, which is restarted with other objects, and against servers that misbehave.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::support::http::{Answer, FakeHttp, Gate, Request};
use super::support::websocket::{Peer, Server};
use super::support::{Finished, Running, Scratch, command, run, until};

const KEY: &str = "hunter22-key";

fn value(line: &str, key: &str) -> String {
    let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    match object.get(key) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// `open/Connected` for a lifecycle record, `update service/s1 Running resync` for an event, the type for any other.
fn name(line: &str) -> String {
    match value(line, "type").as_str() {
        "stream" => format!("{}/{}", value(line, "action"), value(line, "state")),
        other if value(line, "resource_uri").is_empty() => other.to_owned(),
        _ => {
            let uri = value(line, "resource_uri").replace("/api/v1/", "");
            let uri = uri.trim_end_matches('/');
            let words = [value(line, "action"), uri.to_owned(), value(line, "state"), value(line, "origin")];
            words.join(" ").trim_end().to_owned()
        }
    }
}

#[track_caller]
fn expect(running: &mut Running, expected: &str) -> String {
    let line = running.line();
    assert_eq!(name(&line), expected, "{line}\n-- stderr:\n{}", running.stderr());
    line
}

#[track_caller]
fn expect_all(running: &mut Running, expected: &[&str]) {
    for expected in expected {
        expect(running, expected);
    }
}

#[track_caller]
fn no_secret(finished: &Finished) {
    assert!(!finished.stdout.contains(KEY) && !finished.stderr.contains(KEY), "{}{}", finished.stdout, finished.stderr);
}

/// The real server on a port, with these objects.
#[track_caller]
fn serve(scratch: &Scratch, port: u16, objects: &[(&str, &str, &str)]) -> (Running, u16) {
    let objects: String = objects
        .iter()
        .map(|(uri, state, more)| format!("{{\"resource_uri\":\"/api/v1/{uri}/\",\"state\":\"{state}\"{more}}}\n"))
        .collect();
    let file = scratch.write("objects", objects);
    let key = scratch.write("key", KEY);
    let mut command = command("tutum-serve", ["--user", "jo", "--listen", &format!("127.0.0.1:{port}")]);
    command.arg("--token-file").arg(key).arg("--resources").arg(file);
    let running = Running::start(command);
    running.until_stderr("listening on http");
    until("the port is told", || running.stderr().contains('\n'));
    let port = running.stderr().lines().find_map(|line| line.rsplit_once(':')?.1.parse().ok());
    (running, port.expect("a port is told"))
}

#[track_caller]
fn end(mut server: Running) {
    server.end_input();
    server.signal("TERM");
    server.finish().expect_code(0);
}

fn stream(url: &str, args: &[&str]) -> Command {
    let mut command = command("tutum-stream", ["--url", url, "--resync"]);
    command.args(args).env("TUTUM_USER", "jo").env("TUTUM_APIKEY", KEY);
    command
}

const SERVICE: &str = r#","stack":"/api/v1/stack/t1/""#;
const CONTAINER: &str = r#","service":"/api/v1/service/s1/","node":"/api/v1/node/n1/""#;
const NODE: &str = r#","node_cluster":"/api/v1/nodecluster/k1/""#;

/// What there is before the gap, and after it.
const BEFORE: [(&str, &str, &str); 6] = [
    ("stack/t1", "Running", ""),
    ("service/s1", "Running", SERVICE),
    ("container/c1", "Running", CONTAINER),
    ("container/c2", "Running", CONTAINER),
    ("nodecluster/k1", "Deployed", ""),
    ("node/n1", "Deployed", NODE),
];
const AFTER: [(&str, &str, &str); 6] = [
    ("stack/t1", "Running", ""),
    ("service/s1", "Partly running", SERVICE),
    ("container/c1", "Running", CONTAINER),
    ("container/c3", "Starting", CONTAINER),
    ("nodecluster/k1", "Deployed", ""),
    ("node/n1", "Unreachable", NODE),
];
const CHANGES: [&str; 4] = [
    "update node/n1 Unreachable resync",
    "update service/s1 Partly running resync",
    "create container/c3 Starting resync",
    "delete container/c2 Terminated resync",
];

#[test]
fn a_gap_is_filled_with_what_changed_meanwhile() {
    let scratch = Scratch::new();
    let (server, port) = serve(&scratch, 0, &BEFORE);
    let mut running = Running::start(stream(&format!("ws://127.0.0.1:{port}"), &["-v", "--stats"]));
    expect_all(&mut running, &["open/Connected", "auth"]);
    running.until_stderr("6 objects listed, now known");
    end(server);
    expect(&mut running, "close/Disconnected");
    let (mut server, _) = serve(&scratch, port, &AFTER);
    while name(&running.line()) != "open/Connected" {}
    let gap = expect(&mut running, "gap/Connected");
    assert_eq!(value(&gap, "resync"), "true", "{gap}");
    assert!(value(&gap, "note").contains("cannot be recovered"));
    expect(&mut running, "auth");
    let lines = CHANGES.map(|change| expect(&mut running, change));
    assert_eq!(
        value(&lines[2], "parents"),
        r#"["/api/v1/service/s1/","/api/v1/node/n1/","/api/v1/stack/t1/","/api/v1/nodecluster/k1/"]"#
    );
    assert!(lines[2].ends_with(r#","origin":"resync"}"#) && value(&lines[2], "received_at").starts_with("20"));
    // What comes live is what it always was.
    server.write(
        "{\"type\":\"service\",\"action\":\"update\",\"state\":\"Running\",\"resource_uri\":\"/api/v1/service/s1/\"}\n",
    );
    expect(&mut running, "update service/s1 Running");
    running.signal("TERM");
    let finished = running.finish().expect_code(0);
    no_secret(&finished);
    let books: serde_json::Value = serde_json::from_str(finished.stderr.lines().last().unwrap()).unwrap();
    let count = |name: &str| books[name].as_u64().unwrap();
    assert_eq!((count("resynced"), count("listings"), count("in"), count("passed")), (4, 2, 3, 3), "{books}");
    assert_eq!(count("out"), count("passed") + count("lifecycle") + count("resynced"), "{books}");
    assert_eq!(count("out"), finished.lines().len() as u64);
}

#[test]
fn a_restart_is_a_gap_with_a_state_and_a_fresh_start_without() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let args = ["-v", "--state", state.to_str().unwrap()];
    let (server, port) = serve(&scratch, 0, &BEFORE);
    let url = format!("ws://127.0.0.1:{port}");
    let mut running = Running::start(stream(&url, &args));
    expect_all(&mut running, &["open/Connected", "auth"]);
    running.until_stderr("now known");
    let second = Running::start(stream(&url, &args)).finish().expect_code(4);
    assert!(second.stderr.contains("in use by another run"), "{}", second.stderr);
    running.signal("TERM");
    running.finish().expect_code(0);
    let text = scratch.read("state");
    assert!(text.lines().count() == 7 && !text.contains(KEY), "{text}");
    let mode = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode(&state) & 0o777, 0o600);
    end(server);

    let (server, _) = serve(&scratch, port, &AFTER);
    let mut running = Running::start(stream(&url, &args));
    expect(&mut running, "open/Connected");
    let gap = expect(&mut running, "gap/Connected");
    assert_eq!(value(&gap, "reason"), "the program was not running");
    assert!(value(&gap, "from") < value(&gap, "to"), "{gap}");
    expect(&mut running, "auth");
    expect_all(&mut running, &CHANGES);
    running.signal("TERM");
    running.finish().expect_code(0);

    // What was told is not told again, and a damaged state is put out of the way.
    let mut running = Running::start(stream(&url, &args));
    expect_all(&mut running, &["open/Connected", "gap/Connected", "auth"]);
    running.until_stderr("6 objects listed, 0 differences");
    running.signal("TERM");
    running.finish().expect_code(0);
    std::fs::write(&state, &scratch.read("state").as_bytes()[..100]).unwrap();
    let mut running = Running::start(stream(&url, &args));
    expect_all(&mut running, &["open/Connected", "auth"]);
    running.until_stderr("now known");
    assert!(running.stderr().contains("set aside as"), "{}", running.stderr());
    running.signal("TERM");
    running.finish().expect_code(0);
    assert_eq!(scratch.read("state").lines().count(), 7);
    end(server);
}

#[test]
fn a_kill_loses_nothing() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let args = ["-v", "--state", state.to_str().unwrap()];
    let (server, port) = serve(&scratch, 0, &BEFORE);
    let url = format!("ws://127.0.0.1:{port}");
    let mut running = Running::start(stream(&url, &args));
    expect_all(&mut running, &["open/Connected", "auth"]);
    until("the state is written", || state.exists());
    running.signal("KILL");
    running.finish().expect_code(137);
    end(server);
    let (_server, _) = serve(&scratch, port, &AFTER);
    let mut running = Running::start(stream(&url, &args));
    expect_all(&mut running, &["open/Connected", "gap/Connected", "auth"]);
    expect_all(&mut running, &CHANGES);
}

#[test]
fn a_snapshot_is_everything_there_is() {
    let scratch = Scratch::new();
    let (_server, port) = serve(&scratch, 0, &BEFORE);
    let mut command =
        command("tutum-stream", ["--url", &format!("ws://127.0.0.1:{port}"), "--snapshot", "--max-events=6"]);
    command.env("TUTUM_USER", "jo").env("TUTUM_APIKEY", KEY);
    let finished = Running::start(command).finish().expect_code(0);
    let names: Vec<String> = finished.lines().iter().map(|line| name(line)).collect();
    let expected = [
        "open/Connected",
        "auth",
        "update nodecluster/k1 Deployed snapshot",
        "update node/n1 Deployed snapshot",
        "update stack/t1 Running snapshot",
        "update service/s1 Running snapshot",
        "update container/c1 Running snapshot",
        "update container/c2 Running snapshot",
        "close/Stopped",
    ];
    assert_eq!(names, expected);
}

/// A list with these objects, and where it goes on.
fn page(objects: &[&str], total: usize, next: &str) -> Answer {
    let objects: Vec<String> =
        objects.iter().map(|uri| format!(r#"{{"resource_uri":"/api/v1/{uri}/","state":"Running"}}"#)).collect();
    let next = if next.is_empty() { "null".to_owned() } else { format!("\"{next}\"") };
    let objects = objects.join(",");
    Answer::json(format!(r#"{{"meta":{{"next":{next},"total_count":{total}}},"objects":[{objects}]}}"#))
}

/// A stream that the test plays, and an API by a handler, which is told how often that list was begun before.
struct Play {
    server: Server,
    api: FakeHttp,
    running: Running,
    peer: Peer,
}

impl Play {
    #[track_caller]
    fn start(args: &[&str], handler: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Play {
        let server = Server::start();
        let round = std::sync::atomic::AtomicUsize::new(0);
        let api = FakeHttp::start(move |request| {
            // Node clusters are listed first.
            let first = request.path == "/api/v1/nodecluster/";
            let round = if first {
                round.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
            } else {
                round.load(std::sync::atomic::Ordering::SeqCst) - 1
            };
            handler(request, round)
        });
        let mut command = stream(&server.url(), &["-v", "--rest-url", &api.url("")]);
        command.args(args);
        let mut running = Running::start(command);
        let peer = server.accept().welcome();
        expect_all(&mut running, &["open/Connected", "auth"]);
        Play { server, api, running, peer }
    }

    /// Cuts the connection and makes a new one.
    #[track_caller]
    fn gap(&mut self) {
        self.peer.hang_up();
        expect(&mut self.running, "close/Disconnected");
        self.peer = self.server.accept().welcome();
        expect_all(&mut self.running, &["open/Connected", "gap/Connected", "auth"]);
    }

    #[track_caller]
    fn end(self) -> Finished {
        self.running.signal("TERM");
        drop(self.peer);
        let finished = self.running.finish().expect_code(0);
        no_secret(&finished);
        for request in self.api.requests() {
            assert_eq!(request.header("authorization"), Some("Basic am86aHVudGVyMjIta2V5"));
        }
        finished
    }
}

#[test]
fn the_socket_is_read_while_the_api_is_slow_and_a_live_event_wins() {
    let gate = Gate::new();
    let held = gate.clone();
    let mut play = Play::start(&[], move |request, round| {
        if round == 1 && request.path == "/api/v1/stack/" {
            held.pass();
        }
        match request.path.as_str() {
            "/api/v1/node/" if round == 0 => page(&["node/1", "node/2"], 2, ""),
            "/api/v1/node/" => page(&["node/1", "node/3"], 2, ""),
            "/api/v1/node/2/" => Answer::status(404),
            _ => page(&[], 0, ""),
        }
    });
    play.running.until_stderr("now known");
    play.gap();
    until("the list is asked for", || play.api.count("/api/v1/stack/") == 2);
    for (uri, state) in [("node/2", "Deploying"), ("node/3", "Terminated")] {
        play.peer
            .text(&format!(r#"{{"type":"node","action":"update","state":"{state}","resource_uri":"/api/v1/{uri}/"}}"#));
        expect(&mut play.running, &format!("update {uri} {state}"));
    }
    gate.open();
    play.running.until_stderr("2 objects listed, 0 differences");
    play.end();
}

#[test]
fn a_page_that_fails_is_told_and_deletes_nothing() {
    let mut play = Play::start(&[], |request, round| match (request.path.as_str(), request.query.as_deref(), round) {
        ("/api/v1/node/", _, 0) => page(&["node/1", "node/2", "node/3"], 3, ""),
        ("/api/v1/node/", Some("limit=100"), _) => page(&["node/1"], 3, "/api/v1/node/?limit=1&offset=1"),
        ("/api/v1/node/", ..) => Answer::status(400).body(KEY),
        ("/api/v1/stack/", _, 0) => page(&["stack/1"], 1, ""),
        ("/api/v1/stack/1/", ..) => Answer::status(404),
        _ => page(&[], 0, ""),
    });
    play.running.until_stderr("now known");
    play.gap();
    let error = expect(&mut play.running, "error/Failed");
    assert_eq!(value(&error, "during"), "resync");
    assert_eq!(value(&error, "reason"), "resync: what was missed is not known yet: node: HTTP 400");
    expect(&mut play.running, "delete stack/1 Terminated resync");
    let finished = play.end();
    assert!(!finished.stdout.contains("node/2"), "{}", finished.stdout);
}

#[test]
fn an_api_in_trouble_is_asked_again() {
    let failed = std::sync::atomic::AtomicBool::new(false);
    let mut play =
        Play::start(&[], move |request, round| match (request.path.as_str(), request.query.as_deref(), round) {
            ("/api/v1/node/", _, 0) => page(&["node/1", "node/2"], 2, ""),
            ("/api/v1/node/", Some("limit=100"), _) => page(&["node/1"], 2, "/api/v1/node/?limit=1&offset=1"),
            ("/api/v1/node/", ..) if failed.swap(true, std::sync::atomic::Ordering::SeqCst) => page(&["node/7"], 2, ""),
            ("/api/v1/node/", ..) => Answer::status(500),
            ("/api/v1/node/2/", ..) => Answer::status(404),
            _ => page(&[], 0, ""),
        });
    play.running.until_stderr("now known");
    play.gap();
    expect_all(&mut play.running, &["create node/7 Running resync", "delete node/2 Terminated resync"]);
    play.end();
}

#[test]
fn an_object_that_slips_between_two_pages_is_not_deleted() {
    let mut play = Play::start(&[], |request, round| match (request.path.as_str(), request.query.as_deref(), round) {
        ("/api/v1/node/", _, 0) => page(&["node/1", "node/2", "node/3", "node/4"], 4, ""),
        // The first is deleted after the first page was read, so the third moves onto it and is never seen.
        ("/api/v1/node/", Some("limit=100"), _) => page(&["node/1", "node/2"], 4, "/api/v1/node/?offset=2"),
        ("/api/v1/node/", ..) => page(&["node/4"], 3, ""),
        ("/api/v1/node/3/", ..) => Answer::json(r#"{"resource_uri":"/api/v1/node/3/","state":"Running"}"#),
        _ => page(&[], 0, ""),
    });
    play.running.until_stderr("now known");
    play.gap();
    play.running.until_stderr("4 objects listed, 0 differences");
    assert_eq!(play.api.count("/api/v1/node/3/"), 1);
    play.end();
}

#[test]
fn refused_credentials_are_shown_to_the_api_once() {
    let mut play = Play::start(&[], |_, _| Answer::status(401).body(format!("{{\"error\":\"bad {KEY}\"}}")));
    let error = expect(&mut play.running, "error/Failed");
    assert!(value(&error, "reason").ends_with("nodecluster: HTTP 401: the credentials are refused"), "{error}");
    play.gap();
    let error = expect(&mut play.running, "error/Failed");
    assert!(value(&error, "reason").ends_with("the credentials were refused and are still the same"), "{error}");
    assert_eq!(play.api.requests().len(), 1);
    play.end();
}

#[test]
fn a_list_that_leads_elsewhere_takes_no_credential_along() {
    let other = FakeHttp::start(|_| page(&[], 0, ""));
    let elsewhere = other.url("/api/v1/node/");
    let mut play = Play::start(&[], move |request, _| match request.path.as_str() {
        "/api/v1/node/" => page(&["node/1"], 2, &elsewhere),
        "/api/v1/stack/" => Answer::redirect(elsewhere.clone()),
        _ => page(&[], 0, ""),
    });
    let reason = value(&expect(&mut play.running, "error/Failed"), "reason");
    assert!(
        reason.contains("node: it leads to another origin") && reason.contains("stack: HTTP 302: it leads"),
        "{reason}"
    );
    play.end();
    assert!(other.requests().is_empty());
}

#[test]
fn stopping_does_not_wait_for_the_api() {
    let play = Play::start(&[], |_, _| Answer::silence());
    play.api.wait_for(1);
    let begun = std::time::Instant::now();
    play.end();
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
}

#[test]
fn notices_that_the_server_repeats_come_once() {
    let server = Server::start();
    let mut command = command("tutum-stream", ["--url", &server.url(), "--stats"]);
    command.env("TUTUM_USER", "jo").env("TUTUM_APIKEY", KEY);
    let mut running = Running::start(command);
    let mut peer = server.accept().welcome();
    peer.text(r#"{"type":"user-notifications","data":[{"m":"a"},{"m":"b"}]}"#);
    expect_all(&mut running, &["open/Connected", "auth", "user-notifications"]);
    for batch in [r#"[{"m":"a"},{"m":"b"}]"#, r#"[{"m":"b"},{"m":"c"}]"#] {
        peer.hang_up();
        peer = server.accept().welcome();
        peer.text(&format!(r#"{{"type":"user-notifications","data":{batch}}}"#));
        peer.text(r#"{"type":"node"}"#);
        expect_all(&mut running, &["close/Disconnected", "open/Connected", "gap/Connected", "auth"]);
        if batch.contains('c') {
            assert_eq!(value(&expect(&mut running, "user-notifications"), "data"), r#"[{"m":"c"}]"#);
        }
        expect(&mut running, "node");
    }
    running.signal("TERM");
    drop(peer);
    let finished = running.finish().expect_code(0);
    assert!(
        finished.stderr.contains(r#""in":8,"#) && finished.stderr.contains(r#""passed":7,"#),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains(r#""repeated":1"#), "{}", finished.stderr);
}

#[test]
fn wrong_usage_and_what_check_tells() {
    let scratch = Scratch::new();
    let missing: PathBuf = scratch.path("no/such");
    let url = ["--url", "ws://127.0.0.1:1"];
    for (args, message) in [
        (vec!["--state", "x"], "--state: needs --resync"),
        (vec!["--resync", "--state", missing.to_str().unwrap()], "--state: "),
        (vec!["--resync", "--rest-url", "wss://h"], "--rest-url: expected a URL that begins with https:// or http://"),
        (
            vec!["--resync", "--rest-url", "https://h/x/"],
            "--rest-url: expected scheme and host, or a base that ends in /api/v1/",
        ),
    ] {
        let finished = run("tutum-stream", url.iter().copied().chain(args), "").expect_code(2);
        assert!(finished.stderr.starts_with(&format!("tutum-stream: {message}")), "{}", finished.stderr);
    }
    let state = scratch.path("state");
    let args = ["--check", "--resync", "--state", state.to_str().unwrap()];
    let finished = run("tutum-stream", url.iter().copied().chain(args), "").expect_code(0);
    assert!(
        finished.stdout.contains("would ask http://127.0.0.1:1/api/v1/ for what changed after a gap"),
        "{}",
        finished.stdout
    );
    assert!(finished.stdout.contains("would learn what there is and keep it in"), "{}", finished.stdout);
    assert!(!state.exists() && !scratch.path("state.lock").exists());
}
