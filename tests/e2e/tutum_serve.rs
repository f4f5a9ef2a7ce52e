//! tutum-serve, met by clients of all manners.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::support::websocket_client::{Frame, WebSocketClient, dial, exchange, get};
use super::support::{PATIENCE, Running, Scratch, command, run, shell, until};

/// A server on a port of its own choosing, its input open.
#[track_caller]
fn serve(args: &[&str]) -> (Running, u16) {
    let mut command = command("tutum-serve", ["--listen", "127.0.0.1:0"]);
    command.args(args);
    listening(Running::start(command))
}

#[track_caller]
fn listening(running: Running) -> (Running, u16) {
    running.until_stderr("listening on http");
    until("the port is told", || running.stderr().contains('\n'));
    let port = running.stderr().lines().find_map(|line| line.rsplit_once(':')?.1.parse().ok());
    (running, port.expect("a port is told"))
}

/// The arguments of a server that wants `jo`'s key, which is `key1`.
fn guarded(scratch: &Scratch) -> [String; 4] {
    let key = scratch.write("key", "key1\n");
    ["--user".to_owned(), "jo".to_owned(), "--token-file".to_owned(), key.to_string_lossy().into_owned()]
}

#[track_caller]
fn serve_guarded(scratch: &Scratch, more: &[&str]) -> (Running, u16) {
    let args = guarded(scratch);
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    serve(&args)
}

fn event(number: usize) -> String {
    format!(
        r#"{{ "type":"service","action":"update","state":"Running","n":{number}.10,"resource_uri":"/api/v1/service/s{number}/"}}"#
    )
}

#[test]
fn every_client_gets_every_event_in_order_and_so_does_the_next_stage() {
    let (mut server, port) = serve(&["--stats"]);
    let mut clients: Vec<_> =
        ["/v1/events", "/v1/events/", "/v1/events?x"].map(|path| WebSocketClient::connect(port, path, "")).into();
    let events: Vec<String> = (0..100).map(event).collect();
    server.write("{\"type\":\"auth\"}\n{\"type\":\"stream\",\"action\":\"open\"}\n");
    server.write(&(events.join("\n") + "\n"));
    for client in &mut clients {
        assert_eq!((0..100).map(|_| client.text()).collect::<Vec<_>>(), events);
    }
    let passed: Vec<String> = (0..102).map(|_| server.line()).collect();
    assert_eq!(passed[2..], events);
    server.signal("TERM");
    let finished = server.finish().expect_code(0);
    for client in &mut clients {
        assert!(matches!(client.next(), Frame::Close(1001, _)));
    }
    assert!(
        finished.stderr.contains(r#""in":102,"out":102,"faulty":0,"clients":3,"connected":0,"served":300,"cut_off":0"#),
        "{}",
        finished.stderr
    );
}

#[test]
fn lifecycle_records_are_served_if_asked() {
    let (mut server, port) = serve(&["--lifecycle"]);
    let mut client = WebSocketClient::connect(port, "/v1/events", "");
    server.write("{\"type\":\"auth\"}\n{\"type\":\"stream\",\"action\":\"open\"}\n");
    assert_eq!(client.text(), r#"{"type":"stream","action":"open"}"#);
}

#[test]
fn credentials_in_all_forms_and_both_ways_to_be_refused() {
    let scratch = Scratch::new();
    let (server, port) = serve_guarded(&scratch, &[]);
    for (path, headers) in [
        ("/v1/events", "Authorization: Basic am86a2V5MQ==\r\n"),
        ("/v1/events/", "authorization: apikey jo:key1\r\n"),
        ("/v1/events?token=key1&user=jo", ""),
        ("/v1/events/?user=jo&token=key1", ""),
        ("/v1/events?auth=ApiKey%20jo:key1", ""),
        ("/v1/events?auth=ApiKey+jo%3Akey1", ""),
        ("/v1/events?auth=Basic%20am86a2V5MQ==", ""),
        ("/api/audit/v1/acme/events", "Authorization: Basic am86a2V5MQ==\r\n"),
    ] {
        WebSocketClient::connect(port, path, headers);
    }
    for path in ["/v1/events", "/v1/events?token=key2&user=jo"] {
        let mut refused = WebSocketClient::ask(port, path, "").ok().unwrap();
        assert_eq!(refused.text(), r#"{"type":"error","data":{"errorMessage":"UNAUTHORIZED"}}"#);
        assert!(matches!(refused.next(), Frame::Close(1008, _)));
        refused.send(0x8, &1008_u16.to_be_bytes());
        assert_eq!(refused.next(), Frame::End);
    }
    let refused = WebSocketClient::ask(port, "/api/audit/v1/events", "").err().unwrap();
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    let (_strict, port) = serve_guarded(&scratch, &["--auth-failure", "401"]);
    let refused = WebSocketClient::ask(port, "/v1/events", "").err().unwrap();
    assert!(refused.starts_with("HTTP/1.1 401 ") && refused.ends_with(r#"{"error":"Unauthorized"}"#), "{refused}");
    assert!(!server.stderr().contains("key"), "{}", server.stderr());
}

#[test]
fn a_rotated_key_is_read_on_hup() {
    let scratch = Scratch::new();
    let (server, port) = serve_guarded(&scratch, &[]);
    let ask = |key: &str| get(port, "/api/v1/auth/", &format!("Authorization: ApiKey jo:{key}\r\n"));
    assert_eq!((ask("key1"), ask("key2").0), ((200, r#"{"username":"jo"}"#.to_owned()), 401));
    scratch.write("key", "");
    server.signal("HUP").until_stderr("empty; the credentials stay as they were");
    assert_eq!(ask("key1").0, 200);
    scratch.write("key", "key2\n");
    server.signal("HUP");
    until("the new key is accepted", || ask("key2").0 == 200);
    assert_eq!(ask("key1").0, 401);
}

#[test]
fn a_client_that_cannot_keep_up_is_cut_off_and_the_others_get_everything() {
    let (mut server, port) = serve(&["--client-buffer", "256KiB", "--stats"]);
    let mut slow = WebSocketClient::connect(port, "/v1/events", "");
    let mut fast = WebSocketClient::connect(port, "/v1/events", "");
    let padding = "x".repeat(100_000);
    let mut sent = 0;
    // What the system keeps for a connection comes on top, some megabytes.
    while !server.stderr().contains("could not keep up") {
        assert!(sent < 1000, "a client that reads nothing is never cut off");
        let event = format!(r#"{{"n":{sent},"padding":"{padding}"}}"#);
        server.write(&event).write("\n");
        assert_eq!(fast.text(), event);
        sent += 1;
    }
    let mut received = 0;
    loop {
        match slow.next() {
            Frame::Text(text) => {
                assert!(text.starts_with(&format!(r#"{{"n":{received},"#)));
                received += 1;
            }
            other => {
                assert_eq!(other, Frame::Close(1013, "too slow".to_owned()));
                break;
            }
        }
    }
    assert!(received < sent, "{received} of {sent}");
    server.write(&event(7)).write("\n");
    assert_eq!(fast.text(), event(7));
    server.signal("TERM");
    assert!(server.finish().expect_code(0).stderr.contains(r#""cut_off":1"#));
}

#[test]
fn a_burst_reaches_every_client_within_its_buffer() {
    let (server, port) = serve(&["--client-buffer", "64MiB", "--exit"]);
    let mut client = WebSocketClient::connect(port, "/v1/events", "");
    let events: String = (0..20_000).map(|number| event(number) + "\n").collect();
    let server = server.input(events.as_bytes());
    for number in 0..20_000 {
        assert_eq!(client.text(), event(number));
    }
    assert!(matches!(client.next(), Frame::Close(1001, _)));
    client.send(0x8, &1001_u16.to_be_bytes());
    assert_eq!(server.finish().expect_code(0).stdout, events);
}

#[test]
fn an_event_larger_than_everything_arrives() {
    let (mut server, port) = serve(&["--client-buffer", "1"]);
    let mut client = WebSocketClient::connect(port, "/v1/events", "");
    let event = format!(r#"{{"a":"{}"}}"#, "ü".repeat(4 << 20));
    server.write(&event).write("\n");
    assert_eq!(client.text(), event);
}

#[test]
fn pings_are_answered_and_other_messages_are_harmless() {
    let (mut server, port) = serve(&[]);
    let mut client = WebSocketClient::connect(port, "/v1/events", "");
    client.send(0xa, b"nobody asked");
    client.send(0x1, b"hello");
    client.send(0x2, b"\x00\xff");
    for number in 0..3 {
        client.send(0x9, &[number]);
        assert_eq!(client.next(), Frame::Pong(vec![number]));
    }
    server.write("{\"a\":1}\n");
    assert_eq!(client.text(), r#"{"a":1}"#);
    // A goodbye is answered with a goodbye.
    client.send(0x8, &1000_u16.to_be_bytes());
    assert_eq!(client.next(), Frame::Close(1000, String::new()));
    assert_eq!(client.next(), Frame::End);
    // One that just vanishes harms nobody.
    drop(WebSocketClient::connect(port, "/v1/events", ""));
    server.write("{\"a\":2}\n");
    assert_eq!((server.line(), server.line()), ("{\"a\":1}".to_owned(), "{\"a\":2}".to_owned()));
}

#[test]
fn a_web_page_from_elsewhere_is_refused() {
    let (_server, port) = serve(&[]);
    let refused = WebSocketClient::ask(port, "/v1/events", "Origin: http://evil.example\r\n").err().unwrap();
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert_eq!(get(port, "/api/v1/service/", "Origin: http://evil.example\r\n").0, 403);
    // What the first Go client sent, whatever it dialled.
    WebSocketClient::connect(port, "/v1/events?token=x&user=y", "Origin: http://localhost\r\n");
    // What Python's websocket-client sends.
    WebSocketClient::connect(port, "/v1/events", "Origin: http://127.0.0.1\r\n");
}

#[test]
fn objects_can_be_read_page_by_page() {
    let (mut server, port) = serve(&[]);
    for number in 0..60 {
        server.write(&(event(number) + "\n"));
        server.line();
    }
    let (mut path, mut seen, mut pages) = ("/api/v1/service/?state=running".to_owned(), Vec::new(), 0);
    loop {
        let (status, body) = get(port, &path, "");
        assert_eq!(status, 200);
        let page: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((page["meta"]["total_count"].as_u64(), page["meta"]["limit"].as_u64()), (Some(60), Some(25)));
        seen.extend(
            page["objects"].as_array().unwrap().iter().map(|object| object["uuid"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        match page["meta"]["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
        assert!(path.starts_with("/api/v1/service/?") && path.contains("state=running"), "{path}");
    }
    assert_eq!((pages, seen), (3, (0..60).map(|number| format!("s{number}")).collect()));
    assert!(get(port, "/api/v1/service/s7/", "").1.contains(r#""resource_uri":"/api/v1/service/s7/""#));
    assert_eq!(get(port, "/api/v1/service/s7", "").0, 200);
    assert_eq!(get(port, "/api/app/v1/acme/service/s7/", "").0, 200);
    assert_eq!(get(port, "/api/v1/service/s99/", ""), (404, r#"{"error":"no such object"}"#.to_owned()));
    assert_eq!(get(port, "/api/v1/auth/", ""), (200, "{}".to_owned()));
    assert_eq!(get(port, "/v1/events", "").0, 426);
}

#[test]
fn rest_refuses_what_it_must() {
    let scratch = Scratch::new();
    let (_server, port) = serve_guarded(&scratch, &[]);
    let right = "Authorization: Basic am86a2V5MQ==\r\n";
    assert_eq!(get(port, "/api/v1/service/", ""), (401, r#"{"error":"Unauthorized"}"#.to_owned()));
    assert_eq!(get(port, "/api/v1/service/", right).0, 200);
    assert_eq!(get(port, "/api/v1/sausage/", right), (404, r#"{"error":"no such type"}"#.to_owned()));
    let body = "x".repeat(30_000);
    let post = exchange(
        port,
        format!("POST /api/v1/service/ HTTP/1.1\r\nHost: h\r\n{right}Content-Length: {}\r\n\r\n{body}", body.len()),
    );
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("\r\nAllow: GET, HEAD\r\n"), "{post}");
    assert!(post.ends_with("}") && post.contains(r#"{"error":"#), "{post}");
    let head = exchange(port, format!("HEAD /api/v1/service/ HTTP/1.1\r\n{right}\r\n"));
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let old = exchange(port, format!("GET /api/v1/service/ HTTP/1.0\r\n{right}\r\n"));
    assert!(old.starts_with("HTTP/1.1 200 ") && old.contains("Connection: close\r\n"), "{old}");
}

#[test]
fn clients_that_do_not_speak_http_properly() {
    let (_server, port) = serve(&[]);
    for (request, status) in [
        (&b"hello there\r\n\r\n"[..], "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
        (format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(20_000)).as_bytes(), "431"),
        (format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(15_000)).as_bytes(), "200"),
    ] {
        let answer = exchange(port, request);
        assert_eq!(&answer[9..12], status, "{answer}");
    }
    // A head byte by byte is fine, one that never ends is not.
    let mut bytewise = dial(port);
    for byte in b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" {
        bytewise.write_all(&[*byte]).unwrap();
    }
    let mut answer = String::new();
    bytewise.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = exchange(port, "GET / HTTP/1.1\r\nHost:");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn more_connections_than_there_is_room_for() {
    let (mut server, port) = serve(&[]);
    let idle: Vec<TcpStream> = (0..256).map(|_| dial(port)).collect();
    until("the next one is told to come back", || {
        let mut answer = String::new();
        // Nothing is read of what it asks, so its connection may end with a reset.
        let _ = dial(port).read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 503 ")
    });
    drop(idle);
    until("there is room again", || {
        WebSocketClient::ask(port, "/v1/events", "").is_ok_and(|mut client| client.text() == r#"{"type":"auth"}"#)
    });
    server.write("{\"a\":1}\n");
    assert_eq!(server.line(), r#"{"a":1}"#);
}

#[test]
fn objects_to_begin_with() {
    let scratch = Scratch::new();
    let object = r#"{"resource_uri":"/api/v1/stack/t1/","uuid":"t1","name":"shop","n":1.10}"#;
    for text in [
        format!("[{object}]"),
        format!("{object}\n\n{object}\n"),
        format!("{{\"meta\":{{}},\n\"objects\":[{object}]}}"),
        object.replace(',', ",\n"),
    ] {
        let file = scratch.write("resources", text);
        let (_server, port) = serve(&["--resources", file.to_str().unwrap()]);
        let (_, body) = get(port, "/api/v1/stack/t1/", "");
        assert!(body.contains(r#""name":"shop","n":1.10"#), "{body}");
        assert!(get(port, "/api/v1/stack/?name=shop", "").1.contains(r#""total_count":1"#));
    }
    for (text, message) in [
        (format!("{object}\n{{\"a\":1}}\n"), "line 2: no resource_uri"),
        ("[{\"resource_uri\":\"x\"}]".to_owned(), "object 1: resource_uri is not a path"),
        ("[{]".to_owned(), "not JSON"),
        ("hunter22".to_owned(), "line 1: not JSON"),
    ] {
        let file = scratch.write("resources", text);
        let finished = run("tutum-serve", ["--check", "--resources", file.to_str().unwrap()], "").expect_code(2);
        assert!(finished.stderr.contains(message) && !finished.stderr.contains("hunter"), "{}", finished.stderr);
    }
}

#[test]
fn the_input_can_be_paced_and_a_paced_one_can_be_stopped() {
    let begun = Instant::now();
    let finished =
        run("tutum-serve", ["--listen", "127.0.0.1:0", "--rate", "2", "--exit"], "{}\n".repeat(5)).expect_code(0);
    assert_eq!(finished.lines().len(), 5);
    assert!(begun.elapsed() >= Duration::from_millis(1900), "five at two a second took {:?}", begun.elapsed());
    let (server, _) = serve(&["--rate", "1/h"]);
    let mut server = server.input("{}\n".repeat(50).as_bytes());
    server.line();
    server.signal("TERM");
    assert_eq!(server.finish().expect_code(0).stdout, "{}\n");
}

#[test]
fn with_nobody_connected_exit_ends_at_once() {
    let finished = run("tutum-serve", ["--listen", "127.0.0.1:0", "--exit"], "{\"a\":1}\n").expect_code(0);
    assert_eq!(finished.stdout, "{\"a\":1}\n");
    run("tutum-serve", ["--listen", "127.0.0.1:0", "--exit"], "{\"a\":1}\nx\n").expect_code(1);
}

#[test]
fn after_the_end_of_input_it_serves_on_until_it_is_stopped() {
    let (mut server, port) = serve(&[]);
    server.write(&(event(1) + "\n")).end_input();
    assert_eq!(server.line(), event(1));
    let mut client = WebSocketClient::connect(port, "/v1/events", "");
    assert_eq!(get(port, "/api/v1/service/s1/", "").0, 200);
    assert!(!server.has_ended());
    let begun = Instant::now();
    server.signal("TERM");
    assert!(matches!(client.next(), Frame::Close(1001, _)));
    client.send(0x8, &1001_u16.to_be_bytes());
    assert_eq!(client.next(), Frame::End);
    server.finish().expect_code(0);
    assert!(begun.elapsed() < PATIENCE / 2, "it took {:?}", begun.elapsed());
}

#[test]
fn a_client_that_does_not_say_goodbye_does_not_keep_it() {
    let (mut server, port) = serve(&[]);
    let _silent = WebSocketClient::connect(port, "/v1/events", "");
    let _idle = dial(port);
    server.end_input();
    let begun = Instant::now();
    server.signal("INT");
    server.finish().expect_code(0);
    assert!(begun.elapsed() < PATIENCE / 2, "it took {:?}", begun.elapsed());
}

#[test]
fn term_with_the_input_open_goes_on_to_its_end() {
    let (mut server, port) = serve(&["--stats"]);
    let mut client = WebSocketClient::connect(port, "/v1/events", "");
    server.signal("TERM").signal("USR1").until_stderr(r#""in":0"#);
    server.write("{\"a\":1}\n");
    assert_eq!(client.text(), r#"{"a":1}"#);
    server.end_input();
    assert!(matches!(client.next(), Frame::Close(1001, _)));
    server.finish().expect_code(0);
}

#[test]
fn an_input_that_never_ends_is_given_up_and_clients_are_told() {
    let (mut server, port) = serve(&["--drain", "100ms"]);
    let mut client = WebSocketClient::connect(port, "/v1/events", "");
    server.write("{\"a\":1}\n").signal("TERM");
    assert_eq!(client.text(), r#"{"a":1}"#);
    assert!(matches!(client.next(), Frame::Close(1001, _)));
    server.until_stderr("had not ended").until_stderr("\n");
    until("it ends", || server.has_ended());
    server.finish().expect_code(1);
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    // The input stays open for as long as a test waits, so only the reader's end can end it.
    let script = format!(
        r#"exec 3< <(echo '{{"a":1}}'; exec sleep {}); sleeper=$!
        tutum-serve --listen 127.0.0.1:0 <&3 | head -1; echo "${{PIPESTATUS[0]}}"; kill "$sleeper""#,
        PATIENCE.as_secs()
    );
    let begun = Instant::now();
    let finished = Running::start(shell(&script)).finish();
    assert_eq!(finished.stdout, "{\"a\":1}\n0\n", "{}", finished.stderr);
    assert!(finished.stderr.contains("the reader went away"), "{}", finished.stderr);
    assert!(begun.elapsed() < PATIENCE / 2, "it took {:?}", begun.elapsed());
}

#[test]
fn where_it_cannot_or_must_not_listen() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = run("tutum-serve", ["--listen", &address], "").expect_code(4);
    assert_eq!(finished.stderr, format!("tutum-serve: --listen {address}: Address already in use (os error 98)\n"));
    for (args, message) in [
        (&["--listen", "0.0.0.0:0"][..], "--listen 0.0.0.0:0: not a loopback address, so it needs --user"),
        (&["--listen", "[::]:0"], "--listen [::]:0: not a loopback address"),
        (&["--listen", "8765"], "--listen: expected ADDR:PORT"),
        (&["--listen", ":8765"], "--listen: expected ADDR:PORT"),
        (&["--user", "jo"], "--user: no API key"),
        (&["--token-file", "/nonexistent/key"], "--token-file: /nonexistent/key: No such file"),
        (&["--open", "--user", "jo"], "--open: asks nobody"),
        (&["--tls-key", "x"], "--tls-key: needs --tls-cert"),
        (&["--tls-cert", "/nonexistent/c", "--tls-key", "x"], "--tls-cert: /nonexistent/c: No such file"),
        (&["--rate", "0"], "--rate: expected a rate above zero"),
        (&["--auth-failure", "x"], "--auth-failure: expected one of message, 401"),
    ] {
        for check in [&[][..], &["--check"]] {
            let finished = run("tutum-serve", args.iter().chain(check), "").expect_code(2);
            assert!(finished.stderr.starts_with(&format!("tutum-serve: {message}")), "{}", finished.stderr);
        }
    }
    let mut environment = command("tutum-serve", ["--check", "--listen", "0.0.0.0:80"]);
    environment.env("TUTUM_TOKEN", "hunter22").env("TUTUM_USERNAME", "jo");
    let finished = Running::start(environment).finish().expect_code(0);
    assert!(finished.stdout.contains("would listen on http://0.0.0.0:80 and let in user jo"), "{}", finished.stdout);
    assert!(!finished.stdout.contains("hunter22"));
    let (mut open, port) = serve(&["--listen", "0.0.0.0:0", "--open"]);
    WebSocketClient::connect(port, "/v1/events", "Origin: http://127.0.0.1\r\n");
    open.end_input().signal("TERM");
    open.finish().expect_code(0);
}

#[test]
fn the_same_under_tls() {
    let scratch = Scratch::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cert = scratch.write("cert", made.cert.pem());
    let key = scratch.write("tls-key", made.signing_key.serialize_pem());
    let (mut server, port) = serve(&["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()]);
    assert!(server.stderr().contains("listening on https://127.0.0.1:"), "{}", server.stderr());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let connect = || {
        let session = rustls::ClientConnection::new(Arc::clone(&config), "localhost".try_into().unwrap()).unwrap();
        rustls::StreamOwned::new(session, dial(port))
    };
    let mut client = WebSocketClient::over(Box::new(connect()), "/v1/events", "").ok().unwrap();
    assert_eq!(client.text(), r#"{"type":"auth"}"#);
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(5 << 20));
    server.write(&large).write("\n").write(&event(1)).write("\n");
    assert_eq!((client.text(), client.text()), (large, event(1)));
    client.send(0x9, b"ping");
    assert_eq!(client.next(), Frame::Pong(b"ping".to_vec()));
    let mut rest = connect();
    rest.write_all(b"GET /api/v1/service/s1/ HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    rest.read_to_string(&mut answer).expect("TLS is ended properly");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""uuid":"s1""#), "{answer}");
    // A plain client is not waited for.
    let mut plain = dial(port);
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = plain.read_to_end(&mut Vec::new());
    server.end_input().signal("TERM");
    assert!(matches!(client.next(), Frame::Close(1001, _)));
    server.finish().expect_code(0);
}
