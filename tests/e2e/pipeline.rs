//! Whole pipelines in a real shell: all stages together, started and stopped as users and service managers do.

use std::process::Command;

use super::support::http::{Answer, FakeHttp};
use super::support::{Running, Scratch, children, send_signal, shell, until};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// tutum-serve over the given events, again and again at a pace, and its address without a scheme.
fn served(events: &str, rate: &str) -> (Running, String, Scratch) {
    let scratch = Scratch::new();
    let file = scratch.write("events", events);
    // The server takes the shell's place, so that the end of the test ends it, and with it the loop.
    let script = format!(
        "exec tutum-serve --listen 127.0.0.1:0 --rate {rate} >/dev/null < <(while cat '{}'; do :; done)",
        file.display()
    );
    let serve = Running::start(shell(&script));
    serve.until_stderr("listening on http://");
    let address = serve.stderr().split("http://").nth(1).unwrap_or_default().trim().to_owned();
    (serve, address, scratch)
}

fn services() -> FakeHttp {
    FakeHttp::start(|request| match request.path.as_str() {
        "/v2/enqueue" => Answer::json(r#"{"status":"success"}"#).with_status(202),
        _ => Answer::text("ok"),
    })
}

const EVENTS: &str = concat!(
    r#"{"type":"service","action":"update","state":"Running","resource_uri":"/api/v1/service/5b0f/","parents":["/api/v1/stack/11aa/"]}"#,
    "\n",
    r#"{"type":"stack","action":"update","state":"Running","resource_uri":"/api/v1/stack/11aa/","parents":[]}"#,
    "\n",
);

fn pipeline(address: &str, server: &FakeHttp, scratch: &Scratch, trap: &str) -> Command {
    let audit = scratch.path("audit");
    let script = format!(
        "{trap} set -o pipefail
         tutum-stream --stats --url ws://{address} \
         | tutum-filter --stats --lifecycle --type service \
         | tutum-enrich --stats --url http://{address} \
         | to-pagerduty --stats --url {} \
         | to-slack --stats >'{}'
         echo \"${{PIPESTATUS[*]}}\"",
        server.url("/v2/enqueue"),
        audit.display()
    );
    let mut command = shell(&script);
    command.env("SLACK_URL", server.url("/slack")).env("PAGERDUTY_KEY", KEY);
    command
}

/// The count under a name in a program's accounts.
fn count(stderr: &str, program: &str, name: &str) -> u64 {
    let line = stderr.lines().find(|line| line.starts_with(&format!("{{\"program\":\"{program}\"")));
    let accounts: serde_json::Value =
        serde_json::from_str(line.unwrap_or_else(|| panic!("{program} in {stderr}"))).unwrap();
    accounts[name].as_u64().unwrap_or_else(|| panic!("{name} in {accounts}"))
}

#[test]
fn term_to_all_stages_at_once_loses_nothing() {
    for trap in ["", "trap '' PIPE;", "trap '' TERM;"] {
        let (_serve, address, scratch) = served(EVENTS, "200/s");
        let server = services();
        let running = Running::start(pipeline(&address, &server, &scratch, trap));
        until("events flow to the end", || scratch.read("audit").lines().count() > 20);
        // As a service manager does: to every process of the group but the shell, and twice.
        for (process, _) in children(running.id()).into_iter().chain(children(running.id())) {
            send_signal(process, "TERM");
        }
        let finished = running.finish();
        assert_eq!(finished.stdout, "0 0 0 0 0\n", "{}", finished.stderr);
        let out = count(&finished.stderr, "tutum-stream", "out");
        let dropped = count(&finished.stderr, "tutum-filter", "dropped");
        for program in ["tutum-enrich", "to-pagerduty", "to-slack"] {
            assert_eq!(count(&finished.stderr, program, "in"), out - dropped, "{program}: {}", finished.stderr);
            assert_eq!(count(&finished.stderr, program, "out"), out - dropped, "{program}: {}", finished.stderr);
        }
        let audit = scratch.read("audit");
        assert_eq!(audit.lines().count() as u64, out - dropped);
        assert!(audit.lines().last().unwrap().contains(r#""action":"close","state":"Stopped""#), "{audit}");
        assert!(audit.contains(r#""resource":{"#) && audit.contains(r#""parent":{"stack":{"#));
    }
}

#[test]
fn head_ends_the_whole_pipeline() {
    for trap in ["", "trap '' PIPE;"] {
        let (_serve, address, _scratch) = served(EVENTS, "50/s");
        let script = format!(
            "{trap} tutum-stream --quiet --url ws://{address} | tutum-filter --type service | tutum-enrich --url http://{address} | head -2; echo \"${{PIPESTATUS[*]}}\""
        );
        let finished = Running::start(shell(&script)).finish();
        assert_eq!(finished.lines().len(), 3, "{finished:?}");
        assert_eq!((finished.lines()[2], finished.stderr.as_str()), ("0 0 0 0", ""));
    }
}

#[test]
fn a_stage_that_dies_under_an_idle_source_ends_the_pipeline() {
    // The server says nothing after auth; only the death of the stage behind can end the source.
    let serve = Running::start(shell("exec tutum-serve --listen 127.0.0.1:0 >/dev/null </dev/null"));
    serve.until_stderr("listening on http://");
    let address = serve.stderr().split("http://").nth(1).unwrap_or_default().trim().to_owned();
    let script =
        format!("tutum-stream --url ws://{address} | tutum-filter --lifecycle | cat & wait; jobs -p; echo over");
    let mut running = Running::start(shell(&script));
    assert!(running.line().contains(r#""action":"open""#));
    let filter = children(running.id()).into_iter().find(|(_, name)| name == "tutum-filter").expect("it runs");
    send_signal(filter.0, "KILL");
    loop {
        if running.line() == "over" {
            break;
        }
    }
    running.finish().expect_code(0);
}
