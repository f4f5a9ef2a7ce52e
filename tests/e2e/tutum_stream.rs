//! tutum-stream against a server that the test plays: what comes out, what it survives, how it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::websocket::{BINARY, CLOSE, PING, PONG, Peer, Server, TEXT, frame};
use super::support::{Finished, PATIENCE, Running, Scratch, command, run, until};

pub(super) const KEY: &str = "hunter22-key";
/// `jo:hunter22-key` in base64.
pub(super) const BASIC: &str = "am86aHVudGVyMjIta2V5";
const UNAUTHORIZED: &str = r#"{"type":"error","data":{"errorMessage":"UNAUTHORIZED"}}"#;

pub(super) fn stream(server: &Server, args: &[&str]) -> Command {
    let mut command = command("tutum-stream", ["--url", &server.url()]);
    command.args(args).env("TUTUM_USER", "jo").env("TUTUM_APIKEY", KEY);
    command
}

pub(super) fn start(server: &Server, args: &[&str]) -> Running {
    Running::start(stream(server, args))
}

/// The text of a key of a record; empty if it is not there.
pub(super) fn value(line: &str, key: &str) -> String {
    let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    match object.get(key) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// `open/Connected` for a lifecycle record, the type for any other.
fn name(line: &str) -> String {
    match value(line, "type").as_str() {
        "stream" => format!("{}/{}", value(line, "action"), value(line, "state")),
        other => other.to_owned(),
    }
}

pub(super) fn names(finished: &Finished) -> Vec<String> {
    finished.lines().iter().map(|line| name(line)).collect()
}

/// The next record, which must be of that name.
#[track_caller]
pub(super) fn expect(running: &mut Running, expected: &str) -> String {
    let line = running.line();
    assert_eq!(name(&line), expected, "{line}\n-- stderr:\n{}", running.stderr());
    line
}

/// Connects, lets in, and waits until that is known.
#[track_caller]
pub(super) fn connected(server: &Server, args: &[&str]) -> (Running, Peer) {
    let mut running = start(server, args);
    let peer = server.accept().welcome();
    expect(&mut running, "open/Connected");
    expect(&mut running, "auth");
    (running, peer)
}

/// Stops it and checks that it ends in good order.
#[track_caller]
pub(super) fn stop(running: Running, mut peer: Peer) -> Finished {
    running.signal("TERM");
    let close = peer.receive_other_than_ping();
    assert_eq!((close.opcode, close.code()), (CLOSE, Some(1001)));
    peer.close(1001, "");
    drop(peer);
    finish_stopped(running)
}

#[track_caller]
pub(super) fn finish_stopped(running: Running) -> Finished {
    let begun = Instant::now();
    let finished = running.finish().expect_code(0);
    assert!(begun.elapsed() < PATIENCE / 2, "it took {:?}", begun.elapsed());
    assert_eq!(names(&finished).last().map(String::as_str), Some("close/Stopped"));
    no_secret(&finished);
    finished
}

#[track_caller]
pub(super) fn no_secret(finished: &Finished) {
    for secret in [KEY, BASIC, "hunter22%2Dkey"] {
        assert!(!finished.stdout.contains(secret), "{}", finished.stdout);
        assert!(!finished.stderr.contains(secret), "{}", finished.stderr);
    }
}

#[test]
fn open_comes_with_the_first_message_and_events_are_stamped() {
    let server = Server::start();
    let mut running = start(&server, &["-v", "--stats"]);
    let mut peer = server.accept().upgrade();
    running.until_stderr("waiting for the first message");
    peer.text(r#"{"type":"auth"}"#);
    let open = expect(&mut running, "open/Connected");
    assert_eq!((value(&open, "resource_uri"), value(&open, "attempts")), ("/v1/events".to_owned(), "1".to_owned()));
    assert_eq!(value(&open, "source"), format!("{}/v1/events", server.url()));
    expect(&mut running, "auth");
    peer.text(r#"{ "type":"service", "n" : 1.10 }"#);
    let line = running.line();
    assert!(line.starts_with(r#"{ "type":"service", "n" : 1.10 ,"received_at":"20"#), "{line}");
    peer.text(r#"{"type":"user-notifications","data":[1]}"#);
    expect(&mut running, "user-notifications");
    peer.text(r#"{"type":"unheard-of"}"#);
    expect(&mut running, "unheard-of");
    let own = r#"{"received_at":"then","type":"node"}"#;
    peer.text(own);
    assert_eq!(running.line(), own);
    let finished = stop(running, peer);
    assert_eq!(value(finished.lines().last().unwrap(), "reason"), "asked to stop (TERM)");
    let books = r#""in":5,"out":7,"passed":5,"faulty":0,"errors":0,"events":4,"dropped":0,"lifecycle":2,"attempts":1,"connections":1"#;
    assert!(finished.stderr.contains(books), "{}", finished.stderr);
}

#[test]
fn without_auth_the_first_event_opens() {
    let server = Server::start();
    let mut running = start(&server, &[]);
    let mut peer = server.accept().upgrade();
    peer.text(r#"{"type":"node"}"#);
    expect(&mut running, "open/Connected");
    expect(&mut running, "node");
    stop(running, peer);
}

#[test]
fn raw_without_lifecycle_is_the_servers_bytes() {
    let server = Server::start();
    let mut running = start(&server, &["--raw", "--no-lifecycle"]);
    let mut peer = server.accept().welcome();
    let frames = ["{ \"a\" : 1.10,\t\"b\":\"\\u00e9é\" } ", r#"{"n":1e400,"n":18446744073709551616}"#, "{}"];
    frames.iter().for_each(|text| peer.text(text));
    peer.text("{\r\n  \"a\": \"x\\ny\"\n}\n");
    let lines: Vec<String> = (0..5).map(|_| running.line()).collect();
    assert_eq!(lines[0], r#"{"type":"auth"}"#);
    assert_eq!(lines[1..4], frames);
    assert_eq!(lines[4], r#"{  "a": "x\ny"}"#);
    running.signal("TERM");
    drop(peer);
    assert_eq!(running.finish().expect_code(0).lines().len(), 5);
}

#[test]
fn the_credential_on_the_wire_in_every_form() {
    let seen = |environment: &[(&str, &str)], args: &[&str]| {
        let server = Server::start();
        let mut command = command("tutum-stream", ["--url", &server.url(), "-v", "--max-events", "1"]);
        command.args(args).envs(environment.iter().copied());
        let running = Running::start(command);
        let mut peer = server.accept().upgrade();
        peer.text(r#"{"type":"node"}"#);
        assert_eq!(peer.receive().opcode, CLOSE);
        peer.close(1001, "");
        peer.hang_up();
        let finished = running.finish().expect_code(0);
        no_secret(&finished);
        let target = peer.head.lines().next().unwrap_or_default().to_owned();
        (target, peer.header("authorization").map(str::to_owned))
    };
    let plain = "GET /v1/events HTTP/1.1".to_owned();
    let basic = Some(format!("Basic {BASIC}"));
    let scratch = Scratch::new();
    let file = scratch.write("token", format!("{KEY}\n"));
    let token_file = ["--user", "jo", "--token-file", file.to_str().unwrap()];
    assert_eq!(seen(&[("TUTUM_USER", "jo"), ("TUTUM_APIKEY", KEY)], &[]), (plain.clone(), basic.clone()));
    assert_eq!(seen(&[("TUTUM_USERNAME", "jo"), ("TUTUM_TOKEN", KEY)], &[]), (plain.clone(), basic.clone()));
    assert_eq!(seen(&[("TUTUM_USER", "jo"), ("TUTUM_PASS", KEY)], &[]), (plain.clone(), basic.clone()));
    assert_eq!(seen(&[("TUTUM_AUTH", "nothing")], &token_file), (plain.clone(), basic));
    let header = format!("ApiKey jo:{KEY}");
    assert_eq!(seen(&[("TUTUM_AUTH", &header)], &[]), (plain.clone(), Some(header.clone())));
    let query = format!("GET /v1/events?token={KEY}&user=jo HTTP/1.1");
    assert_eq!(seen(&[("TUTUM_USER", "jo"), ("TUTUM_APIKEY", KEY)], &["--auth", "query"]), (query, None));
    let query = format!("GET /v1/events?auth=ApiKey%20jo%3A{KEY} HTTP/1.1");
    assert_eq!(seen(&[("TUTUM_AUTH", &header)], &["--auth=query"]), (query, None));
    // Towards this very machine it goes without.
    assert_eq!(seen(&[], &[]), (plain, None));
}

#[test]
fn the_server_is_named_by_variables_too() {
    for (name, suffix) in [("TUTUM_STREAM_URL", "/v1/"), ("TUTUM_STREAM_HOST", "")] {
        let server = Server::start();
        let mut command = command("tutum-stream", ["--max-events=1", "events"]);
        command.env(name, server.url() + suffix).env("TUTUM_STREAM_HOST", server.url());
        let running = Running::start(command);
        let mut peer = server.accept().welcome();
        peer.text(r#"{"type":"node"}"#);
        assert_eq!(peer.receive().opcode, CLOSE);
        drop(peer);
        running.finish().expect_code(0);
    }
}

#[test]
fn a_message_of_unauthorized_is_code_3_after_one_attempt() {
    let server = Server::start();
    let running = start(&server, &["-v"]);
    let mut peer = server.accept().upgrade();
    peer.text(UNAUTHORIZED);
    assert_eq!(peer.receive_other_than_ping().opcode, CLOSE);
    drop(peer);
    let finished = running.finish().expect_code(3);
    assert_eq!(names(&finished), ["error/Unauthorized"]);
    assert!(finished.stderr.contains("the credentials are refused: the server said UNAUTHORIZED\n"));
    assert!(!server.was_called());
}

#[test]
fn a_status_of_401_is_code_3_after_one_attempt_and_an_echoed_secret_is_cut_out() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let server = Server::start();
        let running = start(&server, &["-v"]);
        let body = format!(r#"{{"error":"bad key {KEY} in Basic {BASIC}"}}"#);
        server.accept().refuse(status, "", &body);
        let finished = running.finish().expect_code(3);
        assert_eq!(names(&finished), ["error/Unauthorized"]);
        let reason = value(&finished.stdout, "reason");
        assert_eq!(reason, format!("HTTP {status}: bad key <redacted> in <redacted>"));
        no_secret(&finished);
        assert!(!server.was_called());
    }
}

#[test]
fn refused_credentials_are_read_again_so_that_a_rotation_works() {
    let server = Server::start();
    let scratch = Scratch::new();
    let file = scratch.write("token", "old-key-of-jo");
    let mut command = command("tutum-stream", ["--url", &server.url(), "--user", "jo", "--token-file"]);
    command.arg(&file);
    let mut running = Running::start(command);
    let peer = server.accept().request();
    scratch.write("token", KEY);
    peer.refuse_read("401 Unauthorized", "", "");
    expect(&mut running, "error/Failed");
    let peer = server.accept().welcome();
    assert_eq!(peer.header("authorization"), Some(format!("Basic {BASIC}").as_str()));
    assert_eq!(value(&expect(&mut running, "open/Connected"), "attempts"), "2");
    stop(running, peer);
}

#[test]
fn hup_reads_the_credentials_again_and_connects_anew() {
    let server = Server::start();
    let scratch = Scratch::new();
    let file = scratch.write("token", "old-key-of-jo");
    let mut command = command("tutum-stream", ["--url", &server.url(), "--user", "jo", "--token-file"]);
    command.arg(&file);
    let mut running = Running::start(command);
    let mut old = server.accept().welcome();
    expect(&mut running, "open/Connected");
    expect(&mut running, "auth");
    scratch.write("token", KEY);
    running.signal("HUP");
    assert_eq!(old.receive_other_than_ping().opcode, CLOSE);
    expect(&mut running, "close/Disconnected");
    let peer = server.accept().welcome();
    assert_eq!(peer.header("authorization"), Some(format!("Basic {BASIC}").as_str()));
    expect(&mut running, "open/Connected");
    assert!(value(&expect(&mut running, "gap/Connected"), "reason").contains("HUP"));
    stop(running, peer);
}

#[test]
fn other_statuses_are_told_once_and_tried_again() {
    let server = Server::start();
    let mut running = start(&server, &["-v"]);
    server.accept().refuse("503 Service Unavailable", "", "<html>down</html>");
    server.accept().refuse("503 Service Unavailable", "", "<html>down</html>");
    let peer = server.accept().welcome();
    assert_eq!(value(&expect(&mut running, "error/Failed"), "reason"), "HTTP 503 Service Unavailable");
    assert_eq!(value(&expect(&mut running, "open/Connected"), "attempts"), "3");
    // Nothing was open before, so nothing can be missing.
    expect(&mut running, "auth");
    let finished = stop(running, peer);
    assert_eq!(finished.stderr.matches("503 Service Unavailable; trying again").count(), 1, "{}", finished.stderr);
}

#[test]
fn what_a_server_says_about_its_status_is_told() {
    let server = Server::start();
    let running = start(&server, &["--no-reconnect"]);
    server.accept().refuse("404 Not Found", "", r#"{"error":"no such page"}"#);
    let finished = running.finish().expect_code(4);
    assert_eq!(value(&finished.stdout, "reason"), "HTTP 404 Not Found: no such page");
    let message =
        format!("tutum-stream: {}/v1/events: HTTP 404 Not Found: no such page (--no-reconnect)\n", server.url());
    assert_eq!(finished.stderr, message);
}

#[test]
fn a_429_is_tried_again_after_the_given_time() {
    let server = Server::start();
    let mut running = start(&server, &["-v"]);
    server.accept().refuse("429 Too Many Requests", "Retry-After: 4\r\n", "");
    let refused = Instant::now();
    running.until_stderr("next attempt in 4s");
    let peer = server.accept().welcome();
    // The first backoff alone would be two seconds at most.
    assert!(refused.elapsed() > Duration::from_secs(3), "after {:?}", refused.elapsed());
    expect(&mut running, "error/Failed");
    expect(&mut running, "open/Connected");
    stop(running, peer);
}

#[test]
fn a_redirect_is_not_followed_and_the_credential_goes_nowhere() {
    let (server, other) = (Server::start(), Server::start());
    let mut running = start(&server, &["-v", "--auth", "query"]);
    let location = format!("Location: {}/v1/events?token={KEY}\r\n", other.url().replace("ws:", "http:"));
    server.accept().refuse("301 Moved Permanently", &location, "");
    let reason = value(&expect(&mut running, "error/Failed"), "reason");
    assert!(reason.starts_with("HTTP 301 Moved Permanently: it points to http://127.0.0.1:"), "{reason}");
    let peer = server.accept().welcome();
    expect(&mut running, "open/Connected");
    assert!(!other.was_called());
    stop(running, peer);
}

#[test]
fn two_restarts_of_the_server_are_close_open_and_gap_in_order_and_no_event_comes_twice() {
    let server = Server::start();
    let mut running = start(&server, &[]);
    for round in 0..3 {
        let mut peer = server.accept().welcome();
        peer.text(&format!(r#"{{"type":"node","round":{round}}}"#));
        if round < 2 {
            peer.close(1012, "restart");
            peer.until_gone();
        } else {
            for _ in 0..13 {
                running.line();
            }
            let finished = stop(running, peer);
            let expected = [
                ["open/Connected", "auth", "node", "close/Disconnected"].as_slice(),
                &["open/Connected", "gap/Connected", "auth", "node", "close/Disconnected"],
                &["open/Connected", "gap/Connected", "auth", "node", "close/Stopped"],
            ];
            assert_eq!(names(&finished), expected.concat());
            let lines = finished.lines();
            assert_eq!(
                (value(lines[3], "code"), value(lines[3], "reason").contains("1012 restarting): restart")),
                ("1012".to_owned(), true)
            );
            let gap = lines[5];
            assert_eq!(value(gap, "reason"), value(lines[3], "reason"));
            assert_eq!((value(gap, "attempts"), value(gap, "to")), ("1".to_owned(), value(lines[4], "received_at")));
            assert!(
                value(gap, "from") >= value(lines[0], "received_at")
                    && value(gap, "from") <= value(lines[3], "received_at")
            );
            assert!(value(gap, "seconds").parse::<f64>().unwrap() >= 1.0, "{gap}");
            return;
        }
    }
}

#[test]
fn close_codes_are_told_with_the_servers_words_redacted() {
    for (code, meaning) in [
        (1000, "normal"),
        (1001, "going away"),
        (1008, "policy violation"),
        (1011, "internal error"),
        (1013, "try again later"),
    ] {
        let server = Server::start();
        let (mut running, mut peer) = connected(&server, &["--no-reconnect"]);
        peer.close(code, &format!("bye {KEY}"));
        // The client answers the close frame in kind.
        assert_eq!(peer.receive_other_than_ping().code(), Some(code));
        let close = expect(&mut running, "close/Disconnected");
        assert_eq!(value(&close, "code"), code.to_string());
        assert_eq!(
            value(&close, "reason"),
            format!("the server closed the connection ({code} {meaning}): bye <redacted>")
        );
        let finished = running.finish().expect_code(4);
        no_secret(&finished);
        assert_eq!(finished.stderr.lines().filter(|line| line.contains("closed the connection")).count(), 1);
    }
}

#[test]
fn a_reset_in_mid_frame_is_a_disconnection() {
    let server = Server::start();
    let (mut running, mut peer) = connected(&server, &["--no-reconnect"]);
    let whole = frame(TEXT, true, br#"{"type":"service"}"#);
    peer.raw(&whole[..whole.len() / 2]);
    peer.reset();
    let reason = value(&expect(&mut running, "close/Disconnected"), "reason");
    assert_eq!(reason, "the connection was reset");
    running.finish().expect_code(4);
}

#[test]
fn an_end_without_a_close_frame_is_a_disconnection() {
    let server = Server::start();
    let (mut running, peer) = connected(&server, &["--no-reconnect"]);
    drop(peer);
    let close = expect(&mut running, "close/Disconnected");
    assert_eq!(
        (value(&close, "reason").as_str(), value(&close, "code").as_str()),
        ("the connection ended without a close frame", "")
    );
    running.finish().expect_code(4);
}

#[test]
fn a_half_open_connection_is_found_out() {
    let server = Server::start();
    let (mut running, mut silent) = connected(&server, &["--ping", "300ms", "--timeout", "700ms"]);
    // Life as long as pings are answered or anything else comes ...
    for _ in 0..3 {
        assert_eq!(silent.receive().opcode, PING);
        silent.raw(&frame(PONG, true, b""));
    }
    // ... and then nothing more, while the connection stays.
    let reason = value(&expect(&mut running, "close/Disconnected"), "reason");
    assert_eq!(reason, "the server went silent: no answer to a ping within 700ms");
    let peer = server.accept().welcome();
    expect(&mut running, "open/Connected");
    expect(&mut running, "gap/Connected");
    drop(silent);
    // The pings of a moment ago may still be unread.
    running.signal("TERM");
    drop(peer);
    finish_stopped(running);
}

#[test]
fn a_server_that_upgrades_and_is_dead_is_a_failed_attempt() {
    let server = Server::start();
    let mut running = start(&server, &["--timeout", "300ms"]);
    let dead = server.accept().upgrade();
    assert!(value(&expect(&mut running, "error/Failed"), "reason").contains("went silent"));
    let peer = server.accept().welcome();
    assert_eq!(value(&expect(&mut running, "open/Connected"), "attempts"), "2");
    drop(dead);
    running.signal("TERM");
    drop(peer);
    finish_stopped(running);
}

#[test]
fn a_handshake_that_takes_too_long_is_a_failed_attempt() {
    let server = Server::start();
    let mut running = start(&server, &["--timeout", "300ms", "--no-reconnect"]);
    let slow = server.accept();
    let reason = value(&expect(&mut running, "error/Failed"), "reason");
    assert_eq!(reason, "the upgrade was not answered in time");
    running.finish().expect_code(4);
    drop(slow);
}

#[test]
fn an_answer_that_is_not_http_is_a_failed_attempt() {
    let server = Server::start();
    let mut running = start(&server, &["--no-reconnect"]);
    server.accept().request().raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
    let reason = value(&expect(&mut running, "error/Failed"), "reason");
    assert_eq!(reason, "the answer to the upgrade is not HTTP");
    running.finish().expect_code(4);
}

#[test]
fn term_is_prompt_while_connecting_and_while_backing_off() {
    let server = Server::start();
    let running = start(&server, &["-v"]);
    let slow = server.accept();
    running.signal("TERM");
    assert_eq!(names(&finish_stopped(running)), ["close/Stopped"]);
    drop(slow);

    let mut running = start(&server, &["-v"]);
    server.accept().refuse("429 Too Many Requests", "Retry-After: 3000\r\n", "");
    expect(&mut running, "error/Failed");
    running.until_stderr("next attempt in 50m");
    running.signal("INT");
    let finished = finish_stopped(running);
    assert_eq!(value(finished.lines()[1], "reason"), "asked to stop (INT)");
}

#[test]
fn term_ends_it_even_if_the_server_never_answers_the_close() {
    let server = Server::start();
    let (running, peer) = connected(&server, &[]);
    running.signal("TERM").signal("TERM");
    finish_stopped(running);
    drop(peer);
}

#[test]
fn garbage_is_told_counted_and_survived() {
    let server = Server::start();
    let (mut running, mut peer) = connected(&server, &["--stats"]);
    for garbage in ["hello", "[1]", "", "{\"a\":1", "{\"a\":1}{\"b\":2}"] {
        peer.text(garbage);
    }
    peer.raw(&frame(BINARY, true, b"{\"a\":1}"));
    peer.raw(&frame(TEXT, true, b"{\"a\":\"\xff\"}"));
    for piece in [
        &frame(TEXT, false, b"{\"type\":\"se")[..],
        &frame(PING, true, b"x"),
        &frame(0, false, b"rv"),
        &frame(0, true, b"ice\"}"),
    ] {
        peer.raw(piece);
    }
    expect(&mut running, "service");
    assert_eq!(peer.receive_other_than_ping().opcode, PONG);
    let finished = stop(running, peer);
    for message in
        ["message 2: not JSON: ", "message 3: not a JSON object", "message 7: binary, not text", "message 8: not UTF-8"]
    {
        assert!(finished.stderr.contains(message), "{}", finished.stderr);
    }
    assert!(!finished.stderr.contains("hello"));
    assert!(finished.stderr.contains(r#""in":9,"out":4,"passed":2,"faulty":7,"#), "{}", finished.stderr);
}

#[test]
fn a_message_of_twenty_megabytes_passes_and_one_beyond_the_limit_is_a_disconnection() {
    let server = Server::start();
    let (mut running, mut peer) = connected(&server, &["--raw"]);
    let long = format!(r#"{{"type":"node","x":"{}"}}"#, "y".repeat(20 << 20));
    peer.text(&long);
    assert!(running.line() == long, "it passes as it came");
    // Only the head is needed: nobody waits for what is too long.
    let mut head = vec![0x81, 127];
    head.extend((100_u64 << 20).to_be_bytes());
    peer.raw(&head);
    assert!(value(&expect(&mut running, "close/Disconnected"), "reason").contains("over the limit"));
    let peer = server.accept().welcome();
    expect(&mut running, "open/Connected");
    stop(running, peer);
}

#[test]
fn an_error_message_is_told_and_leads_to_a_new_connection() {
    let server = Server::start();
    let (mut running, mut peer) = connected(&server, &[]);
    peer.text(&format!(r#"{{"type":"error","data":{{"errorMessage":"no more of {KEY}"}}}}"#));
    assert_eq!(value(&expect(&mut running, "error/Failed"), "reason"), "the server said: no more of <redacted>");
    expect(&mut running, "close/Disconnected");
    assert_eq!(peer.receive_other_than_ping().opcode, CLOSE);
    let peer = server.accept().welcome();
    expect(&mut running, "open/Connected");
    expect(&mut running, "gap/Connected");
    stop(running, peer);
}

#[test]
fn limits_end_it_with_0() {
    let server = Server::start();
    let (mut running, mut peer) = connected(&server, &["--max-events", "2"]);
    peer.text(r#"{"type":"node","n":1}"#);
    expect(&mut running, "node");
    peer.text(r#"{"type":"node","n":2}"#);
    peer.text(r#"{"type":"node","n":3}"#);
    assert_eq!(peer.receive_other_than_ping().opcode, CLOSE);
    drop(peer);
    assert_eq!(names(&finish_stopped(running)), ["open/Connected", "auth", "node", "node", "close/Stopped"]);

    let running = start(&server, &["--for", "200ms"]);
    let peer = server.accept().welcome();
    finish_stopped(running);
    drop(peer);
}

#[test]
fn giving_up_is_code_4() {
    let server = Server::start();
    let mut running = start(&server, &["--give-up", "300ms"]);
    let slow = server.accept();
    assert_eq!(value(&expect(&mut running, "error/Failed"), "reason"), "no connection for 300ms (--give-up)");
    running.finish().expect_code(4);
    drop(slow);
}

#[test]
fn nobody_listening_is_told_once() {
    let port = Server::start().port();
    let url = format!("ws://127.0.0.1:{port}");
    let mut running = Running::start(command("tutum-stream", ["--url", &url, "-v"]));
    expect(&mut running, "error/Failed");
    running.until_stderr("attempt 2");
    running.signal("TERM");
    let finished = finish_stopped(running);
    assert_eq!(names(&finished), ["error/Failed", "close/Stopped"]);
    assert!(finished.stderr.contains("cannot connect: Connection refused"), "{}", finished.stderr);
}

#[test]
fn tls_with_the_right_root_and_without() {
    let (server, pem) = Server::start_tls();
    let scratch = Scratch::new();
    let cacert = scratch.write("ca.pem", pem);
    let (mut running, mut peer) = connected(&server, &["--cacert", cacert.to_str().unwrap()]);
    for number in 0..1000 {
        peer.text(&format!(r#"{{"type":"node","n":{number}}}"#));
    }
    for number in 0..1000 {
        assert_eq!(value(&running.line(), "n"), number.to_string());
    }
    stop(running, peer);

    let mut running = start(&server, &["--no-reconnect"]);
    let mut peer = server.accept();
    assert!(peer.try_receive().is_err(), "no frame comes before a handshake");
    let reason = value(&expect(&mut running, "error/Failed"), "reason");
    assert!(reason.starts_with("the server's certificate is not accepted"), "{reason}");
    no_secret(&running.finish().expect_code(4));

    let (running, peer) = connected(&server, &["--insecure"]);
    assert!(stop(running, peer).stderr.contains("--insecure: the server's certificate is not verified"));
}

/// Starts it with a standard output that nobody reads for now.
pub(super) fn unread(server: &Server, args: &[&str]) -> Child {
    let mut command = stream(server, args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("it can be started")
}

#[track_caller]
pub(super) fn ended(child: &mut Child) -> i32 {
    let mut code = None;
    until("the program ends", || {
        code = child.try_wait().expect("a child can be waited for");
        code.is_some()
    });
    code.and_then(|status| status.code()).expect("it exits by itself")
}

#[test]
fn a_slow_reader_keeps_nobody_from_answering_pings_and_loses_nothing() {
    const EVENTS: usize = 100_000;
    let server = Server::start();
    let mut child = unread(&server, &["--raw", "--no-lifecycle"]);
    let mut peer = server.accept().welcome();
    let event = |number: usize| format!(r#"{{"type":"node","n":{number},"more":"{}"}}"#, "x".repeat(100));
    for number in 0..EVENTS {
        peer.text(&event(number));
        if number % 10_000 == 0 {
            peer.raw(&frame(PING, true, number.to_string().as_bytes()));
            let pong = peer.receive_other_than_ping();
            assert_eq!((pong.opcode, pong.payload), (PONG, number.to_string().into_bytes()));
        }
    }
    let mut stdout = child.stdout.take().expect("it is a pipe");
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        stdout.read_to_string(&mut all).map(|_| all)
    });
    peer.close(1000, "");
    peer.until_gone();
    let signal = Command::new("kill").arg(child.id().to_string()).status();
    assert!(signal.is_ok());
    assert_eq!(ended(&mut child), 0);
    let all = reader.join().expect("no reader panics").expect("it is text");
    assert!(all.lines().skip(1).eq((0..EVENTS).map(event)), "every event, once, in order");
}

#[test]
fn a_full_buffer_stops_the_reading_and_no_gap_follows() {
    let server = Server::start();
    let mut child = unread(&server, &["--raw", "--buffer", "64KiB", "--ping", "200ms", "--timeout", "200ms"]);
    let mut peer = server.accept().welcome();
    let event = format!(r#"{{"type":"node","more":"{}"}}"#, "x".repeat(1000));
    // More than all the buffers on the way can hold; the writing stops when they are full.
    let wire = frame(TEXT, true, event.as_bytes());
    let count = 20_000;
    let writer = std::thread::spawn(move || {
        for _ in 0..count {
            peer.raw(&wire);
        }
        peer
    });
    // The deadlines would pass several times over, which only time can show.
    std::thread::sleep(Duration::from_secs(1));
    assert!(!writer.is_finished(), "the socket is not read any more");
    let stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
    let reader = std::thread::spawn(move || {
        let (mut nodes, mut changes) = (0, Vec::new());
        for line in stdout.lines() {
            let line = line.expect("it is text");
            nodes += usize::from(line == event);
            changes.extend(line.contains("\"stream\"").then_some(line));
            if nodes == count {
                break;
            }
        }
        (nodes, changes)
    });
    let peer = writer.join().expect("the writer ends");
    let (nodes, changes) = reader.join().expect("the reader ends");
    assert_eq!(nodes, count);
    assert_eq!(changes.len(), 1, "open, and neither close nor gap: {changes:?}");
    child.kill().expect("it can be killed");
    let _ = child.wait();
    drop(peer);
}

#[test]
fn a_blocked_output_is_given_up_after_the_time_to_drain() {
    let server = Server::start();
    let mut child = unread(&server, &["--raw", "--drain", "200ms"]);
    let mut peer = server.accept().welcome();
    let event = format!(r#"{{"type":"node","more":"{}"}}"#, "x".repeat(1000));
    for _ in 0..1000 {
        peer.text(&event);
    }
    // All of it was read, and far more than a pipe holds.
    peer.raw(&frame(PING, true, b""));
    assert_eq!(peer.receive_other_than_ping().opcode, PONG);
    let signal = Command::new("kill").arg(child.id().to_string()).status();
    assert!(signal.is_ok());
    assert_eq!(ended(&mut child), 1);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly_whatever_it_is_doing() {
    // Idle.
    let server = Server::start();
    let mut child = unread(&server, &[]);
    let mut peer = server.accept().welcome();
    peer.raw(&frame(PING, true, b""));
    assert_eq!(peer.receive().opcode, PONG);
    drop(child.stdout.take());
    assert_eq!(ended(&mut child), 0);
    assert_eq!(peer.receive_other_than_ping().opcode, CLOSE);

    // While it waits for a handshake.
    let mut child = unread(&server, &[]);
    let slow = server.accept();
    drop(child.stdout.take());
    assert_eq!(ended(&mut child), 0);
    drop(slow);

    // While it backs off.
    let mut child = unread(&server, &["--no-lifecycle"]);
    server.accept().refuse("429 Too Many Requests", "Retry-After: 3000\r\n", "");
    drop(child.stdout.take());
    assert_eq!(ended(&mut child), 0);
}

#[test]
fn a_full_disk_is_code_4() {
    let server = Server::start();
    let mut command = stream(&server, &[]);
    command
        .stdout(std::fs::File::options().write(true).open("/dev/full").expect("Linux has it"))
        .stderr(Stdio::piped());
    let child = command.spawn().expect("it can be started");
    let peer = server.accept().welcome();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output: No space left on device"));
    drop(peer);
}

#[test]
fn a_second_int_ends_at_once() {
    let server = Server::start();
    let (mut running, peer) = connected(&server, &["-v"]);
    running.signal("INT").until_stderr("stopping");
    running.signal("INT");
    until("it ends", || running.has_ended());
    drop(peer);
    // The server never answers the close frame; both ways out are right if the machine is slow.
    assert!([0, 130].contains(&running.finish().code));
}

#[test]
fn usr1_tells_the_accounts() {
    let server = Server::start();
    let (running, peer) = connected(&server, &[]);
    running.signal("USR1").until_stderr(r#"{"program":"tutum-stream","in":1,"out":2,"#);
    stop(running, peer);
}

#[test]
fn wrong_usage_is_code_2_and_says_what_is_wrong() {
    for (args, message) in [
        (
            &[][..],
            "no server is named: give --url or set TUTUM_STREAM_URL or TUTUM_STREAM_HOST (the hosted service, stream.tutum.co, is gone)",
        ),
        (&["--url", "wss://example.org"], "no credentials: give --user and --token-file, or set TUTUM_AUTH"),
        (&["--url", "example.org"], "--url: expected a URL that begins with wss://"),
        (&["--url", "ws://localhost/other"], "--url: expected scheme and host, or a base that ends in /v1/"),
        (&["--url", "ws://localhost/?token=hunter22"], "--url: a URL with a query is refused"),
        (&["log"], "log: no such stream; there are: events, logs"),
        (&["logs", "--url", "ws://localhost"], "logs: expected container, service or action, and a UUID"),
        (&["logs", "node"], "node: expected one of container, service, action, got \"node\""),
        (&["logs", "service", "a/../b"], "a/../b: expected a UUID"),
        (&["logs", "service", "a", "b"], "b: nothing more is expected"),
        (&["--tail", "3", "--url", "ws://localhost"], "--tail: only logs have one"),
        (&["--no-follow", "--url", "ws://localhost"], "--no-follow: only logs have an end"),
        (&["logs", "service", "a", "--hold-on-auth", "1h"], "--hold-on-auth: a log is connected to once"),
        (&["events", "events"], "events: once is enough"),
        (&["--ping", "0s", "--url", "ws://localhost"], "--ping: must be longer than zero"),
        (&["--ping", "20"], "--ping: expected a duration"),
        (&["--auth", "body"], "--auth: expected one of header, query, got \"body\""),
        (&["--cacert", "/nonexistent", "--url", "ws://localhost"], "--cacert: /nonexistent: No such file"),
        (&["--heartbeat", "1ms"], "--heartbeat: must be at least 100ms"),
        (&["--heartbeat", "1s", "--no-lifecycle"], "--heartbeat: --no-lifecycle lets no heartbeat through"),
        (&["--overflow", "spill"], "--overflow: expected one of block, drop, got \"spill\""),
        (&["--hold-on-auth", "0s"], "--hold-on-auth: must be at least 1s"),
        (
            &["--hold-on-auth", "1h", "--no-reconnect"],
            "--hold-on-auth: --no-reconnect says that nothing is tried twice",
        ),
        (&["--dialect", "docker"], "--dialect: expected one of tutum, dockercloud, got \"docker\""),
        (&["--namespace", "acme", "--url", "ws://localhost"], "--namespace: only --dialect dockercloud has namespaces"),
        (
            &["--dialect", "dockercloud"],
            "no server is named: give --url or set DOCKERCLOUD_STREAM_HOST (the hosted service, ws.cloud.docker.com, is gone)",
        ),
        (
            &["--dialect", "dockercloud", "--url", "wss://example.org"],
            "no credentials: give --user and --token-file, or set DOCKERCLOUD_AUTH",
        ),
        (
            &["--dialect", "dockercloud", "--url", "ws://localhost/v1/"],
            "--url: expected scheme and host, or a base that ends in /api/audit/v1/",
        ),
        (
            &["--dialect", "dockercloud", "--namespace", "a/b", "--url", "ws://localhost"],
            "--namespace: expected a name of letters, digits, dots, dashes and underscores",
        ),
    ] {
        let finished = run("tutum-stream", args, "").expect_code(2);
        assert!(finished.stderr.starts_with(&format!("tutum-stream: {message}")), "{}", finished.stderr);
        assert_eq!((finished.stderr.lines().count(), finished.stdout.as_str()), (1, ""));
        assert!(!finished.stderr.contains("hunter22"));
    }
}

#[test]
fn check_says_what_it_would_do_and_warns_of_credentials_in_the_clear() {
    let mut command = command("tutum-stream", ["--check", "--url", "ws://example.org/"]);
    command.env("TUTUM_USER", "jo").env("TUTUM_APIKEY", KEY);
    let finished = Running::start(command).finish().expect_code(0);
    assert_eq!(finished.stdout, "tutum-stream: would connect to ws://example.org/v1/events as jo (in the header)\n");
    assert!(finished.stderr.contains("anyone on the way can read the credentials"), "{}", finished.stderr);
    no_secret(&finished);
}
