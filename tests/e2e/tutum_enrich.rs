//! tutum-enrich against an API that misbehaves.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::support::http::{Answer, FakeHttp, Gate, Request, closed_port};
use super::support::{Finished, PATIENCE, Running, Scratch, command, shell};

/// The secret of all tests here; it must never be seen outside a request.
const KEY: &str = "hunter22-secret-key";

fn enrich(server: &FakeHttp, args: &[&str]) -> Command {
    let mut command = command("tutum-enrich", args);
    command.env("TUTUM_BASE_URL", server.url("/api/v1/")).env("TUTUM_USER", "jo").env("TUTUM_APIKEY", KEY);
    command
}

/// Runs it verbosely over an input to its end, and looks for the secret in what it said.
#[track_caller]
fn run(server: &FakeHttp, args: &[&str], input: &str) -> Finished {
    let finished =
        Running::start(enrich(server, &[args, &["-v", "--stats"]].concat())).input(input.as_bytes()).finish();
    without_secret(&finished);
    finished
}

#[track_caller]
fn without_secret(finished: &Finished) {
    // The key itself, and base64 of user and key.
    for secret in [KEY, "am86aHVudGVyMjIt"] {
        assert!(!finished.stderr.contains(secret) && !finished.stdout.contains(secret), "{finished:?}");
    }
}

fn event(path: &str) -> String {
    format!("{{\"resource_uri\":\"{path}\"}}\n")
}

/// The lines of events with something appended.
fn with(path: &str, members: &str) -> String {
    format!("{{\"resource_uri\":\"{path}\",{members}}}\n")
}

const A: &str = "/api/v1/service/a/";
const B: &str = "/api/v1/service/b/";

fn objects(request: &Request) -> Answer {
    Answer::json(format!("{{\"resource_uri\":\"{}\",\"n\":1.10}}", request.path))
}

#[test]
fn an_event_comes_out_with_its_object_and_parents() {
    let server = FakeHttp::start(|request| match request.path.as_str() {
        "/api/v1/container/c/" => Answer::json(concat!(
            "{\n  \"name\": \"web-1\", \"exit_code\": 1.0,\n",
            r#"  "container_envvars": [{"key": "DB", "value": "hunter22"}], "link_variables": {"A": "hunter22"}"#,
            "\n}\n"
        )),
        "/api/v1/stack/s/" => Answer::status(404),
        _ => Answer::json(r#"{"name": "web", "big": 18446744073709551616}"#),
    });
    let event = r#"{ "type":"container", "resource_uri":"/api/v1/container/c", "parents":["/api/v1/service/s/","/api/v1/stack/s/"], "n":1E5 }"#;
    let finished = run(&server, &[], event).expect_code(0);
    assert_eq!(
        finished.stdout,
        concat!(
            r#"{ "type":"container", "resource_uri":"/api/v1/container/c", "parents":["/api/v1/service/s/","/api/v1/stack/s/"], "n":1E5 ,"#,
            r#""resource":{"name":"web-1","exit_code":1.0,"container_envvars":[{"key":"DB","value":"<masked>"}],"link_variables":{"A":"<masked>"}},"#,
            r#""parent":{"service":{"name": "web", "big": 18446744073709551616}},"enrich_error":{"parent":{"stack":"404 not found"}}}"#,
            "\n"
        )
    );
    let accounts =
        r#""in":1,"out":1,"faulty":0,"enriched":1,"errors":1,"untouched":0,"waiting":0,"requests":3,"cache_hits":0"#;
    assert!(finished.stderr.contains(accounts), "{}", finished.stderr);
    for request in server.requests() {
        assert_eq!(request.method, "GET");
        assert_eq!(request.header("authorization"), Some("Basic am86aHVudGVyMjItc2VjcmV0LWtleQ=="));
        assert_eq!(request.header("accept"), Some("application/json"));
    }
    let open = run(&server, &["--with-secrets", "--with", "resource"], event).expect_code(0);
    assert!(open.stdout.contains(r#""value":"hunter22""#) && !open.stdout.contains("\"parent\""), "{}", open.stdout);
    let service = run(&server, &["--with", "service,node"], event).expect_code(0);
    assert!(service.stdout.contains(r#""n":1E5 ,"parent":{"service":{"#), "{}", service.stdout);
}

#[test]
fn what_the_api_says_instead_of_an_object() {
    let server = FakeHttp::start(|request| match request.path.as_str() {
        "/api/v1/x/403/" => Answer::status(403).body(format!("no, {KEY}")),
        "/api/v1/x/404/" => Answer::status(404).body(KEY),
        "/api/v1/x/html/" => Answer::text("<html>"),
        "/api/v1/x/list/" => Answer::json("[1]"),
        "/api/v1/x/huge/" => Answer::json(format!("{{\"a\":\"{}\"}}", "x".repeat(5 << 20))),
        "/api/v1/x/huge-gzip/" => Answer::json(format!("{{\"a\":\"{}\"}}", "x".repeat(5 << 20))).gzip(),
        "/api/v1/x/empty/" => Answer::status(204),
        "/api/v1/x/loop/" => Answer::redirect("/api/v1/x/loop/"),
        _ => Answer::redirect("").with_status(307),
    });
    for (name, reason) in [
        ("403", "403 forbidden"),
        ("404", "404 not found"),
        ("html", "the answer is not a JSON object"),
        ("list", "the answer is not a JSON object"),
        ("huge", "too large: more than 4 MiB"),
        ("huge-gzip", "too large: more than 4 MiB"),
        ("empty", "the answer is not a JSON object"),
        ("loop", "redirected more than 5 times"),
        ("else", "redirected to nowhere"),
    ] {
        let path = format!("/api/v1/x/{name}/");
        let finished = run(&server, &[], &event(&path)).expect_code(0);
        assert_eq!(finished.stdout, with(&path, &format!("\"enrich_error\":{{\"resource\":\"{reason}\"}}")));
    }
    assert_eq!(server.count("/api/v1/x/loop/"), 6);
}

#[test]
fn bodies_come_compressed_slowly_and_with_an_echo_of_the_key() {
    let server = FakeHttp::start(|request| match request.path.as_str() {
        "/api/v1/x/gzip/" => Answer::json(r#"{"a":"zip"}"#).gzip(),
        "/api/v1/x/drip/" => Answer::json(r#"{"a":"drip"}"#).drip(7, Duration::from_millis(5)),
        _ => Answer::json(format!(r#"{{"a":"you are {KEY}","b":"{}"}}"#, request.header("authorization").unwrap())),
    });
    for (name, object) in [
        ("gzip", r#"{"a":"zip"}"#),
        ("drip", r#"{"a":"drip"}"#),
        ("echo", r#"{"a":"you are <redacted>","b":"<redacted>"}"#),
    ] {
        let path = format!("/api/v1/x/{name}/");
        let finished = run(&server, &["--with-secrets"], &event(&path)).expect_code(0);
        assert_eq!(finished.stdout, with(&path, &format!("\"resource\":{object}")));
    }
}

#[test]
fn trouble_is_retried_until_it_is_over() {
    for trouble in [
        Answer::status(500),
        Answer::status(503).body("<html>"),
        Answer::status(429),
        Answer::status(429).header("Retry-After", "1"),
        Answer::reset(),
        Answer::hang_up(),
        Answer::json(r#"{"a":1}"#).cut_short(),
    ] {
        let server = FakeHttp::script([trouble.clone(), Answer::json("{}")]);
        let finished = run(&server, &["--timeout", "30s"], &event(A)).expect_code(0);
        assert_eq!(finished.stdout, with(A, r#""resource":{}"#), "{trouble:?}");
        let requests = server.requests();
        assert_eq!(requests.len(), 2, "{trouble:?}");
        // Never at once.
        assert!(requests[1].at - requests[0].at >= Duration::from_millis(900), "{trouble:?}");
    }
}

#[test]
fn retry_after_is_obeyed() {
    let server = FakeHttp::script([Answer::status(429).header("Retry-After", "3"), Answer::json("{}")]);
    let finished = run(&server, &["--timeout", "30s"], &event(A)).expect_code(0);
    assert_eq!(finished.stdout, with(A, r#""resource":{}"#));
    let requests = server.requests();
    assert!(requests[1].at - requests[0].at >= Duration::from_millis(2900));
    // Longer than the event may wait: it does not wait at all.
    let server = FakeHttp::script([Answer::status(503).header("Retry-After", "3000")]);
    let finished = run(&server, &["--timeout", "1000s"], &event(A)).expect_code(0);
    let late = with(A, r#""enrich_error":{"resource":"timed out: 503 service unavailable"}"#);
    assert_eq!((finished.stdout, server.requests().len()), (late, 1));
}

#[test]
fn an_api_that_does_not_answer_holds_an_event_no_longer_than_its_time() {
    let server = FakeHttp::start(|_| Answer::silence());
    let finished = run(&server, &["--timeout", "500ms"], &event(A)).expect_code(0);
    let late = format!("{},\"enrich_error\":{{\"resource\":\"timed out", event(A).trim_end().trim_end_matches('}'));
    assert!(finished.stdout.starts_with(&late), "{}", finished.stdout);
}

#[test]
fn an_api_that_is_down_opens_the_breaker_and_a_probe_closes_it() {
    let server = FakeHttp::start({
        let seen = std::sync::atomic::AtomicUsize::new(0);
        move |request| match seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0..5 => Answer::status(500),
            _ => objects(request),
        }
    });
    let mut running = Running::start(enrich(&server, &["--timeout", "1s"]));
    // With so little time there is no retry: each event is a failed attempt and a lookup given up.
    for number in 0..10 {
        running.write(&event(&format!("/api/v1/service/{number}/")));
        let line = running.line();
        assert!(line.contains("500 internal server error"), "{line}");
    }
    let asked = server.requests().len();
    assert!(asked <= 5, "{asked} requests");
    running.until_stderr("tutum-enrich: the API is failing: 500 internal server error; events are passed on");
    // Until it answers, one probe every ten seconds.
    let begun = std::time::Instant::now();
    while !running.stderr().contains("the API answers again") {
        assert!(begun.elapsed() < 3 * PATIENCE, "{}", running.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    running.write(&event(A));
    assert!(running.line().contains(r#""n":1.10"#));
    running.finish().expect_code(0);
}

#[test]
fn a_port_nobody_listens_on_holds_up_nothing_for_long() {
    let mut command =
        command("tutum-enrich", ["--url", &format!("http://127.0.0.1:{}", closed_port()), "--timeout", "1s"]);
    command.env("TUTUM_AUTH", format!("ApiKey jo:{KEY}"));
    let input: String = (0..200).map(|number| event(&format!("/api/v1/service/{number}/"))).collect();
    let finished = Running::start(command).input(input.as_bytes()).finish().expect_code(0);
    without_secret(&finished);
    assert_eq!(finished.lines().len(), 200);
    assert!(finished.lines().iter().all(|line| line.contains("\"enrich_error\":{\"resource\":\"")));
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
}

#[test]
fn refused_credentials_pass_everything_and_are_code_3() {
    let server = FakeHttp::start(|_| Answer::status(401).body(KEY));
    let finished = run(&server, &[], &[event(A), event(B), "{\"no\":\"object\"}\n".to_owned()].concat()).expect_code(3);
    let unauthorized = r#""enrich_error":{"resource":"401 unauthorized"}"#;
    assert_eq!(
        finished.stdout,
        [&with(A, unauthorized), &with(B, unauthorized), "{\"no\":\"object\"}\n"].map(String::from).concat()
    );
    assert_eq!(finished.stderr.matches("credentials refused: 401 unauthorized").count(), 1, "{}", finished.stderr);
}

#[test]
fn a_rotated_secret_is_read_again_when_it_is_refused_and_at_hup() {
    let (scratch, accepted) = (Scratch::new(), Arc::new(Mutex::new("")));
    let rotate = |file: &str, server: &'static str| {
        scratch.write("token", format!("{file}\n"));
        *accepted.lock().unwrap() = server;
    };
    // jo:first-key, jo:second-key, jo:third-key
    let (first, second, third) = ("am86Zmlyc3Qta2V5", "am86c2Vjb25kLWtleQ==", "am86dGhpcmQta2V5");
    rotate("first-key", first);
    let server = FakeHttp::start({
        let accepted = Arc::clone(&accepted);
        move |request| {
            let expected = format!("Basic {}", accepted.lock().unwrap());
            if request.header("authorization") == Some(&expected) { objects(request) } else { Answer::status(401) }
        }
    });
    let token = scratch.path("token");
    let args = ["--user", "jo", "--token-file", token.to_str().unwrap(), "-v"];
    let mut running = Running::start(enrich(&server, &args));
    running.write(&event(A));
    assert!(running.line().contains("\"resource\":{"));
    rotate("second-key", second);
    running.write(&event(A));
    assert!(running.line().contains("\"resource\":{"), "{}", running.stderr());
    // The server is told before the file: until then events go on without.
    rotate("second-key", third);
    running.write(&event(A));
    assert!(running.line().contains(r#""enrich_error":{"resource":"401 unauthorized"}"#));
    rotate("third-key", third);
    running.signal("HUP").until_stderr("credentials accepted again");
    running.write(&event(A));
    assert!(running.line().contains("\"resource\":{"));
    let finished = running.finish().expect_code(0);
    for secret in ["first-key", "second-key", "third-key", "am86"] {
        assert!(!finished.stderr.contains(secret), "{}", finished.stderr);
    }
}

#[test]
fn a_redirect_is_followed_within_the_origin_and_the_credential_goes_nowhere_else() {
    let other = FakeHttp::start(objects);
    let elsewhere = other.url(A);
    let server = FakeHttp::start(move |request| match request.path.as_str() {
        A => Answer::redirect("/api/v2/service/a/?full=1").with_status(301),
        B => Answer::redirect(elsewhere.clone()),
        _ => objects(request),
    });
    let finished = run(&server, &[], &[event(A), event(B)].concat()).expect_code(0);
    let lines = finished.lines();
    assert!(lines[0].ends_with(r#""resource":{"resource_uri":"/api/v2/service/a/","n":1.10}}"#), "{}", lines[0]);
    assert!(lines[1].contains(&format!("redirected to another origin: {}\"", other.url(""))), "{}", lines[1]);
    let followed = server.requests().into_iter().find(|request| request.path == "/api/v2/service/a/").unwrap();
    assert!(followed.query.as_deref() == Some("full=1") && followed.header("authorization").is_some());
    assert_eq!((other.connections(), other.requests().len()), (0, 0));
}

#[test]
fn paths_that_are_none_are_never_requested() {
    let (server, other) = (FakeHttp::start(objects), FakeHttp::start(objects));
    let uris = [
        other.url(A),
        format!("//127.0.0.1:{}{A}", other.port()),
        format!("/\\\\\\\\127.0.0.1:{}{A}", other.port()),
        format!("@127.0.0.1:{}{A}", other.port()),
        "/api/../admin/".to_owned(),
        "/api/%2e%2e/admin/".to_owned(),
        "/v1/events".to_owned(),
        "/api/v1/a\\r\\nX-Evil: 1\\r\\n/".to_owned(),
        "/api/v1/service/a/?b=c".to_owned(),
    ];
    let input: String = uris.iter().map(|uri| event(uri)).collect();
    let finished = run(&server, &[], &input).expect_code(0);
    assert_eq!(finished.stdout.matches(r#""enrich_error":{"resource":"not a path under /api/"}}"#).count(), uris.len());
    assert_eq!((server.connections(), other.connections()), (0, 0));
}

#[test]
fn eight_requests_at_once_one_an_object_and_the_order_kept() {
    let server = FakeHttp::start(|request| {
        // Later ones are answered sooner.
        let number: u64 = request.path.trim_end_matches('/').rsplit('/').next().unwrap().parse().unwrap();
        objects(request).after(Duration::from_millis(250 - number % 60))
    });
    let input: String = (0..60)
        .map(|number| match number % 10 {
            9 => format!("{{\"n\":{number},\"type\":\"stream\"}}\n"),
            _ => format!(
                "{{\"n\":{number},\"resource_uri\":\"/api/v1/service/{}/\",\"parents\":[\"/api/v1/stack/0/\"]}}\n",
                number % 20
            ),
        })
        .collect();
    let finished = run(&server, &[], &input).expect_code(0);
    let lines = finished.lines();
    assert_eq!(lines.len(), 60);
    for (number, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("{{\"n\":{number},")), "{line}");
        let object = format!("\"resource\":{{\"resource_uri\":\"/api/v1/service/{}/\"", number % 20);
        assert!(number % 10 == 9 || line.contains(&object) && line.contains("\"parent\":{\"stack\":"), "{line}");
    }
    assert_eq!((server.most_at_once(), server.most_at_once_of_one_path()), (8, 1));
    assert_eq!((server.count("/api/v1/stack/0/"), server.connections()), (1, 8));
}

#[test]
fn a_line_comes_out_while_the_input_is_open_and_silent() {
    let server = FakeHttp::start(objects);
    let mut running = Running::start(enrich(&server, &[]));
    running.write(&event(A));
    assert!(running.line().contains("\"resource\":{"));
    running.write("{\"unfinished\":\"last line\"}").end_input();
    assert_eq!(running.line(), "{\"unfinished\":\"last line\"}");
    running.finish().expect_code(0);
}

#[test]
fn after_term_it_goes_on_to_the_end_of_its_input_and_settles_what_waits() {
    let gate = Gate::new();
    let server = FakeHttp::start({
        let gate = gate.clone();
        move |request| {
            gate.pass();
            objects(request)
        }
    });
    let mut running = Running::start(enrich(&server, &["--timeout", "60s"]));
    running.write(&event(A));
    server.wait_for(1);
    running.signal("TERM").signal("TERM").signal("USR1").until_stderr(r#""waiting":1"#);
    running.write("{\"no\":\"object\"}\n").end_input();
    gate.open();
    assert!(running.line().contains("\"resource\":{"));
    assert_eq!(running.line(), "{\"no\":\"object\"}");
    running.finish().expect_code(0);
}

#[test]
fn after_term_what_waits_too_long_goes_on_without() {
    let server = FakeHttp::start(|_| Answer::silence());
    let mut running = Running::start(enrich(&server, &["--drain", "200ms", "--timeout", "600s"]));
    running.write(&event(A));
    server.wait_for(1);
    running.signal("TERM");
    running.end_input();
    let finished = running.finish().expect_code(0);
    assert_eq!(finished.stdout, with(A, r#""enrich_error":{"resource":"stopped"}"#));
}

#[test]
fn a_reader_that_goes_away_ends_it_while_it_waits() {
    let server = FakeHttp::start(|_| Answer::silence());
    let script = format!(
        "exec 3< <(echo '{{\"resource_uri\":\"{A}\"}}'; exec sleep {} 2>/dev/null); tutum-enrich --url {} --timeout 600s <&3 | true; echo \"${{PIPESTATUS[0]}}\"; kill $! 2>/dev/null; exec 3<&-",
        PATIENCE.as_secs(),
        server.url("")
    );
    let begun = std::time::Instant::now();
    let finished = Running::start(shell(&script)).finish();
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("0\n", ""));
    assert!(begun.elapsed() < PATIENCE / 2, "it took {:?}", begun.elapsed());
}

#[test]
fn wrong_configuration_is_code_2() {
    let check = |args: &[&str], env: &[(&str, &str)], message: &str| {
        let mut command = command("tutum-enrich", args);
        command.envs(env.iter().copied());
        let finished = Running::start(command).input(b"").finish().expect_code(2);
        assert!(finished.stderr.starts_with(&format!("tutum-enrich: {message}")), "{}", finished.stderr);
        assert_eq!((finished.stderr.lines().count(), finished.stdout.as_str()), (1, ""));
        without_secret(&finished);
    };
    check(
        &[],
        &[],
        "--url: missing: say where a compatible REST API is, such as tutum-serve; the hosted service is gone",
    );
    check(&["--url", "wss://h"], &[], "--url: expected a URL that begins with https:// or http://");
    check(&[], &[("TUTUM_BASE_URL", "h/api/v1/")], "TUTUM_BASE_URL: expected a URL");
    check(&[], &[("TUTUM_REST_HOST", &format!("u:{KEY}@h"))], "TUTUM_REST_HOST: a URL with a user or password");
    check(&["--url", "https://api.example"], &[], "credentials: none found");
    check(&["--url", "https://api.example", "--user", "jo"], &[], "--user: no API key");
    check(&["--with", "sevice"], &[], "--with: expected resource, parents, action");
    check(&["--with", ","], &[], "--with: expected a comma list");
    check(&["--concurrency", "0"], &[], "--concurrency: expected a number from 1 to 256");
    check(&["--timeout", "0s"], &[], "--timeout: expected more than 0s");
    check(&["--timeout", "10"], &[], "--timeout: expected a duration");
    check(&["--url", "http://localhost", "--cacert", "/nonexistent"], &[], "--cacert: /nonexistent: No such file");
    check(&["--url", "http://localhost", "--check", "--rejects", "/nonexistent/x"], &[], "--rejects: /nonexistent/x");
}

#[test]
fn the_check_says_what_would_be_done_and_asks_nothing() {
    let server = FakeHttp::start(objects);
    let finished = Running::start(enrich(&server, &["--check"])).input(b"").finish().expect_code(0);
    let origin = server.url("");
    assert_eq!(finished.lines()[0], format!("tutum-enrich: would ask {origin} as user jo, 8 requests at once"));
    assert_eq!(server.connections(), 0);
    without_secret(&finished);
    // A host alone is https; no credentials are needed towards this very machine; http elsewhere is warned about.
    let mut host = command("tutum-enrich", ["--check"]);
    host.env("TUTUM_REST_HOST", "localhost:1");
    let finished = Running::start(host).input(b"").finish().expect_code(0);
    assert!(finished.stdout.contains("would ask https://localhost:1 without credentials"), "{}", finished.stdout);
    let mut plain = command("tutum-enrich", ["--check", "--url", "http://api.example/api/v1"]);
    plain.env("TUTUM_AUTH", format!("ApiKey jo:{KEY}"));
    let finished = Running::start(plain).input(b"").finish().expect_code(0);
    assert_eq!(
        finished.stderr,
        "tutum-enrich: http://api.example: credentials go over http, and anyone on the way can read them\n"
    );
    without_secret(&finished);
}

#[test]
fn faulty_lines_do_not_disturb_those_that_wait() {
    let server = FakeHttp::start(objects);
    let finished = run(&server, &[], &format!("{}hunter\n[1]\n{}", event(A), event(B))).expect_code(1);
    assert_eq!(finished.lines().len(), 2);
    assert!(finished.stderr.contains(r#""in":4,"out":2,"faulty":2,"enriched":2"#), "{}", finished.stderr);
}

#[test]
fn a_record_that_went_through_before_is_left_as_it_is() {
    let server = FakeHttp::start(objects);
    let once = run(&server, &[], &event(A)).expect_code(0).stdout;
    assert_eq!(run(&server, &[], &once).expect_code(0).stdout, once);
    let failed = with(A, r#""enrich_error":{"resource":"timed out"}"#);
    assert_eq!(run(&server, &[], &failed).expect_code(0).stdout, failed);
    assert_eq!(server.requests().len(), 1);
}
