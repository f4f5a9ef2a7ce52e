//! Secrets planted in every place a user can put them; not a byte of them comes out anywhere but on the wire.

use std::process::Command;

use super::support::http::{Answer, FakeHttp, Request};
use super::support::{Running, Scratch, command};

const TOKEN: &str = "PLANTED+token/9f8e7d6c";
const EVENT: &str = r#"{"type":"node","action":"update","state":"Unreachable","resource_uri":"/api/v1/node/9c1e/","parents":["/api/v1/stack/1/"]}"#;

/// A program, its arguments, and its environment.
type Place<'a> = (&'a str, Vec<&'a str>, Vec<(&'a str, &'a str)>);

/// Every spelling of the secret that must not be seen.
fn spellings() -> Vec<String> {
    // base64 of `jo:PLANTED+token/9f8e7d6c`, and the percent-encoded token.
    vec!["PLANTED".to_owned(), "am86UExBTlRFRCt0b2tlbi85ZjhlN2Q2Yw".to_owned(), "PLANTED%2Btoken".to_owned()]
}

/// A server that says back all it was told, in status, header and body.
fn echo(status: u16) -> FakeHttp {
    FakeHttp::start(move |request: &Request| {
        let said = format!("{} {:?} {:?} {}", request.path, request.query, request.headers, request.text());
        Answer::status(status).header("X-Echo", request.path.clone()).body(said)
    })
}

#[track_caller]
fn assert_silent(name: &str, command: Command, scratch: &Scratch, server: Option<&FakeHttp>) {
    let before = server.map_or(0, |server| server.requests().len());
    let running = Running::start(command).input(EVENT.as_bytes());
    if let Some(server) = server {
        server.wait_for(before + 1);
        // Throttling is waited out, and a source would go on; the end is asked for.
        running.signal("TERM");
    }
    let finished = running.finish();
    let spooled = std::fs::read_dir(scratch.path("spool")).into_iter().flatten().flatten();
    let spooled: String =
        spooled.map(|file| String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned()).collect();
    let all = format!("{}{}{}{spooled}", finished.stdout, finished.stderr, scratch.read("dead"));
    for spelling in spellings() {
        assert!(!all.contains(&spelling), "{name} printed {spelling}:\n{all}");
    }
}

#[test]
fn no_program_prints_a_secret_even_if_a_server_echoes_it() {
    let header = format!("ApiKey jo:{TOKEN}");
    for status in [200, 301, 400, 401, 403, 404, 429, 500] {
        let server = echo(status);
        let scratch = Scratch::new();
        let token = scratch.write("token", format!("{TOKEN}\n"));
        let key_pair = scratch.write("key-pair", format!("jo:{TOKEN}\n"));
        let key_pair = key_pair.to_str().unwrap();
        let webhook = scratch.write("webhook", server.url(&format!("/services/T0/{TOKEN}")));
        let (token, webhook) = (token.to_str().unwrap(), webhook.to_str().unwrap());
        let spool = scratch.path("spool");
        let spool = spool.to_str().unwrap();
        let dead = scratch.path("dead");
        let dead = ["--dead-letters", dead.to_str().unwrap()];
        let sink = ["-v", "--receipts", "--stats", "--give-up", "0s", "--drain", "1s"];
        let (stream, rest) = (server.url("/v1/").replace("http:", "ws:"), server.url("/api/v1/"));

        let places: [Place; 12] = [
            ("to-slack", [&sink[..], &dead].concat(), vec![("SLACK_URL", "")]),
            ("to-slack", [&sink[..], &dead, &["--spool", spool, "--webhook-file", webhook]].concat(), vec![]),
            ("to-pagerduty", [&sink[..], &dead].concat(), vec![("PAGERDUTY_KEY", TOKEN)]),
            ("to-pagerduty", [&sink[..], &dead, &["--api", "v1", "--key-file", token]].concat(), vec![]),
            // The key as it is, encoded in the header, and a user's password; the server's echo is also what an item's error says.
            ("to-elasticsearch", [&sink[..], &dead].concat(), vec![("ELASTICSEARCH_API_KEY", TOKEN)]),
            (
                "to-elasticsearch",
                [&sink[..], &dead, &["--spool", spool, "--gzip", "--api-key-file", key_pair]].concat(),
                vec![],
            ),
            ("to-elasticsearch", [&sink[..], &dead, &["--user", "jo", "--password-file", token]].concat(), vec![]),
            ("tutum-stream", vec!["-v", "--no-reconnect", "--url", &stream], vec![("TUTUM_AUTH", &header)]),
            (
                "tutum-stream",
                vec![
                    "-v",
                    "--no-reconnect",
                    "--auth",
                    "query",
                    "--user",
                    "jo",
                    "--token-file",
                    token,
                    "--url",
                    &stream,
                ],
                vec![],
            ),
            (
                "tutum-stream",
                vec!["-v", "--no-reconnect", "--url", &stream],
                vec![("TUTUM_USER", "jo"), ("TUTUM_PASS", TOKEN)],
            ),
            (
                "tutum-enrich",
                vec!["-v", "--timeout", "1s", "--user", "jo", "--token-file", token, "--url", &rest],
                vec![],
            ),
            ("tutum-enrich", vec!["-v", "--timeout", "1s", "--url", &rest], vec![("TUTUM_AUTH", &header)]),
        ];
        for (name, args, environment) in places {
            let mut command = command(name, &args);
            for (variable, value) in environment {
                if variable == "SLACK_URL" {
                    command.env(variable, server.url(&format!("/services/{TOKEN}?x={TOKEN}")));
                } else {
                    command.env(variable, value);
                }
            }
            match name {
                "to-pagerduty" => drop(command.args(["--url", &server.url("/v2/enqueue")])),
                "to-elasticsearch" => drop(command.args(["--url", &server.url("")])),
                _ => {}
            }
            assert_silent(&format!("{name} {args:?} {status}"), command, &scratch, Some(&server));
        }
    }
}

/// What a `_bulk` says of an item reaches receipts, dead letters and the spool; a redirect's target reaches the diagnostics.
#[test]
fn no_item_and_no_redirect_of_a_bulk_answer_gives_a_secret_away() {
    let (key, user) =
        ([("ELASTICSEARCH_API_KEY", format!("jo:{TOKEN}"))], [("ELASTICSEARCH_PASSWORD", TOKEN.to_owned())]);
    for status in [301, 400, 401, 403, 404, 429, 503] {
        let server = FakeHttp::start(move |request: &Request| {
            let said = request.header("authorization").unwrap_or_default();
            let said = format!("{said} {TOKEN}");
            if status == 301 {
                return Answer::redirect(format!("https://elsewhere.example/{TOKEN}?{said}")).with_status(301);
            }
            let error = serde_json::json!({"type": said, "reason": said, "caused_by": {"reason": said}});
            let items = serde_json::json!([{"create": {"status": status, "error": error}}]);
            Answer::json(serde_json::json!({"errors": true, "items": items}).to_string())
        });
        for (args, environment) in [(vec![], &key), (vec!["--user", "jo"], &user)] {
            let scratch = Scratch::new();
            let (dead, spool) = (scratch.path("dead"), scratch.path("spool"));
            let mut sink =
                command("to-elasticsearch", ["-v", "--receipts", "--stats", "--give-up", "0s", "--drain", "1s"]);
            sink.args(&args).args(["--url", &server.url(""), "--dead-letters"]).arg(dead).arg("--spool").arg(spool);
            sink.envs(environment.iter().map(|(name, value)| (*name, value)));
            assert_silent(&format!("to-elasticsearch {args:?} {status}"), sink, &scratch, Some(&server));
        }
        let mut install = command("to-elasticsearch", ["-v", "--install-template", "--url", &server.url("")]);
        install.env("ELASTICSEARCH_API_KEY", format!("jo:{TOKEN}"));
        assert_silent(&format!("--install-template {status}"), install, &Scratch::new(), Some(&server));
    }
}

#[test]
fn no_wrong_use_prints_a_secret() {
    let scratch = Scratch::new();
    for (name, args, variable, value) in [
        ("to-slack", vec![], "SLACK_URL", TOKEN.to_owned()),
        ("to-slack", vec![], "SLACK_URL", format!("http://example.com/{TOKEN}")),
        ("to-slack", vec![], "SLACK_URL", format!("https://jo:{TOKEN}@example.com/")),
        ("to-slack", vec!["--check"], "SLACK_URL", format!("https://example.com/{TOKEN}")),
        ("to-slack", vec!["--dry-run", "-v"], "SLACK_URL", format!("https://example.com/{TOKEN}")),
        ("to-pagerduty", vec!["--dry-run", "-v"], "PAGERDUTY_KEY", TOKEN.to_owned()),
        ("to-pagerduty", vec!["--check", "-v"], "PAGERDUTY_KEY", TOKEN.to_owned()),
        ("to-pagerduty", vec!["--key=PLANTED"], "PAGERDUTY_KEY", TOKEN.to_owned()),
        ("to-elasticsearch", vec!["--dry-run", "-v"], "ELASTICSEARCH_API_KEY", TOKEN.to_owned()),
        (
            "to-elasticsearch",
            vec!["--check", "-v", "--url", "http://example.com"],
            "ELASTICSEARCH_API_KEY",
            TOKEN.to_owned(),
        ),
        ("to-elasticsearch", vec!["--check", "--url", "https://jo:PLANTED@example.com"], "X", String::new()),
        ("to-elasticsearch", vec!["--api-key=PLANTED"], "X", String::new()),
        (
            "to-elasticsearch",
            vec!["--check", "-v", "--url", "http://example.com", "--user", "jo"],
            "ELASTICSEARCH_PASSWORD",
            TOKEN.to_owned(),
        ),
        ("tutum-stream", vec!["--token=PLANTED"], "TUTUM_USER", "jo".to_owned()),
        (
            "tutum-stream",
            vec!["--check", "-v", "--url", "wss://example.com"],
            "TUTUM_AUTH",
            format!("ApiKey jo:{TOKEN}"),
        ),
        (
            "tutum-enrich",
            vec!["--check", "-v", "--url", "https://example.com"],
            "TUTUM_AUTH",
            format!("ApiKey jo:{TOKEN}"),
        ),
        ("tutum-enrich", vec!["--url", "https://jo:PLANTED@example.com"], "TUTUM_USER", "jo".to_owned()),
        ("tutum-serve", vec!["--check", "-v", "--user", "jo"], "TUTUM_APIKEY", TOKEN.to_owned()),
    ] {
        let mut command = command(name, &args);
        command.env(variable, &value);
        assert_silent(&format!("{name} {args:?}"), command, &scratch, None);
    }
}

#[test]
fn the_credentials_directory_comes_before_all_of_the_environment() {
    let scratch = Scratch::new();
    scratch.write("tutum-token", "kept\n");
    for (variable, value) in [("TUTUM_APIKEY", "stale"), ("TUTUM_PASS", "stale"), ("TUTUM_AUTH", "ApiKey jo:stale")] {
        let server = echo(404);
        let mut command = command("tutum-enrich", ["--with", "resource", "--url", &server.url("")]);
        command.env("CREDENTIALS_DIRECTORY", scratch.path("")).env("TUTUM_USER", "jo").env(variable, value);
        Running::start(command).input(EVENT.as_bytes()).finish().expect_code(0);
        // base64 of `jo:kept`.
        assert_eq!(server.requests()[0].header("authorization"), Some("Basic am86a2VwdA=="), "beside {variable}");
    }
}
