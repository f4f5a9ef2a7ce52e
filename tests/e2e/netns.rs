//! Two network namespaces and a cable between them that is pulled: nobody says goodbye, packets just stop.

use std::process::{Command, Stdio};

use super::support::{Running, Scratch, binary, tool};

/// Two hosts, `left` 10.213.N.1 and `right` 10.213.N.2, that go away with the test.
struct Hosts {
    left: String,
    right: String,
    net: u8,
}

fn ip(args: &str) -> bool {
    let status = Command::new("ip").args(args.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Hosts {
    /// `None` where namespaces are not permitted.
    fn new() -> Option<Hosts> {
        let id = std::process::id();
        let hosts = Hosts { left: format!("tutum-l{id}"), right: format!("tutum-r{id}"), net: (id % 250) as u8 };
        let Hosts { left, right, net } = &hosts;
        let (veth_left, veth_right) = (format!("tl{id}"), format!("tr{id}"));
        let made = [
            format!("netns add {left}"),
            format!("netns add {right}"),
            format!("link add {veth_left} netns {left} type veth peer name {veth_right} netns {right}"),
            format!("-n {left} addr add 10.213.{net}.1/24 dev {veth_left}"),
            format!("-n {right} addr add 10.213.{net}.2/24 dev {veth_right}"),
            format!("-n {left} link set {veth_left} up"),
            format!("-n {right} link set {veth_right} up"),
            format!("-n {right} link set lo up"),
        ];
        made.iter().all(|args| ip(args)).then_some(hosts)
    }

    /// Pulls the cable, or puts it back. The left host's own interface stays up, so that it learns nothing.
    fn cable(&self, plugged: bool) {
        let (id, state) = (std::process::id(), if plugged { "up" } else { "down" });
        assert!(ip(&format!("-n {} link set tr{id} {state}", self.right)), "the link can be set {state}");
    }

    fn run(&self, host: &str, script: &str) -> Running {
        let mut command = Command::new("ip");
        let path = format!(
            "{}:{}",
            binary("tutum-filter").parent().unwrap().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        command
            .args(["netns", "exec", host, "bash", "-c", script])
            .env_clear()
            .env("PATH", path)
            .env("HOME", "/nonexistent");
        Running::start(command)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.left));
        ip(&format!("netns del {}", self.right));
    }
}

fn hosts() -> Option<Hosts> {
    let hosts = if tool("ip") { Hosts::new() } else { None };
    if hosts.is_none() {
        eprintln!("skipped: network namespaces cannot be made here");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must not skip");
    }
    hosts
}

#[test]
fn a_pulled_cable_is_noticed_and_the_gap_announced() {
    let Some(hosts) = hosts() else { return };
    let scratch = Scratch::new();
    let objects = scratch.write(
        "objects",
        concat!(
            r#"{"uuid":"5b0f","resource_uri":"/api/v1/service/5b0f/","name":"web","state":"Running"}"#,
            "\n",
            r#"{"uuid":"9c1e","resource_uri":"/api/v1/node/9c1e/","state":"Deployed"}"#,
            "\n"
        ),
    );
    let listen = format!("10.213.{}.2:8765", hosts.net);
    let mut serve = hosts
        .run(&hosts.right, &format!("exec tutum-serve --open --listen {listen} --resources '{}'", objects.display()));
    serve.until_stderr("listening on");
    let stream =
        format!("TUTUM_AUTH='ApiKey jo:key' exec tutum-stream --url ws://{listen} --ping 1s --timeout 1s --resync");
    let mut stream = hosts.run(&hosts.left, &stream);
    assert!(stream.line().contains(r#""action":"open""#));
    assert!(stream.line().contains(r#""type":"auth""#));
    let event = r#"{"type":"service","action":"update","state":"Starting","resource_uri":"/api/v1/service/5b0f/"}"#;
    serve.write(&format!("{event}\n"));
    assert!(stream.line().starts_with(&event[..event.len() - 1]));

    // Until it knows what there is, it cannot know what changed.
    stream.until_stderr("now known");
    hosts.cable(false);
    let begun = std::time::Instant::now();
    // What happens now nobody hears of; only the resync can tell.
    serve.write(
        "{\"type\":\"node\",\"action\":\"update\",\"state\":\"Unreachable\",\"resource_uri\":\"/api/v1/node/9c1e/\"}\n",
    );
    let close = stream.line();
    assert!(close.contains(r#""action":"close","state":"Disconnected""#) && close.contains("went silent"), "{close}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "it took {:?}", begun.elapsed());

    hosts.cable(true);
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.contains(r#""origin":"resync""#)) {
        seen.push(stream.line());
    }
    let position =
        |what: &str| seen.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what} in {seen:#?}"));
    assert!(position(r#""action":"open""#) < position(r#""action":"gap""#));
    assert!(position(r#""action":"gap""#) < position(r#""origin":"resync""#));
    let difference = seen.last().unwrap();
    assert!(difference.contains(r#""state":"Unreachable""#) && difference.contains("/api/v1/node/9c1e/"), "{seen:#?}");
    stream.signal("TERM");
    stream.finish().expect_code(0);
}
