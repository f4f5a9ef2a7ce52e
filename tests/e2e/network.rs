//! Networks as they are: proxies, client certificates, several addresses of one name; for every program that connects.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};

use super::support::http::{Answer, FakeHttp, closed_port};
use super::support::proxy::{FakeProxy, Manner};
use super::support::websocket::{CLOSE, Server};
use super::support::{Finished, Running, Scratch, command, tool};

/// The service's secret, and the proxy's: neither may be shown, nor be told to the other.
const KEY: &str = "hunter22-key";
const BASIC: &str = "Basic am86aHVudGVyMjIta2V5";
const PROXY_USER: &str = "al:pr0xy%40pass@";
/// `al:pr0xy@pass`.
const PROXY_BASIC: &str = "Basic YWw6cHIweHlAcGFzcw==";

const EVENT: &str = r#"{"type":"service","action":"update","state":"Running","resource_uri":"/api/v1/service/1/"}"#;

#[track_caller]
fn no_secret(finished: &Finished) {
    for secret in [KEY, &BASIC[6..], "pr0xy", &PROXY_BASIC[6..]] {
        assert!(!finished.stdout.contains(secret), "{}", finished.stdout);
        assert!(!finished.stderr.contains(secret), "{}", finished.stderr);
    }
}

fn stream(url: &str, args: &[&str]) -> Command {
    let mut command = command("tutum-stream", ["-v", "--url", url]);
    command.args(args).env("TUTUM_USER", "jo").env("TUTUM_APIKEY", KEY);
    command
}

fn slack(origin: &str, args: &[&str]) -> Command {
    let mut command = command("to-slack", ["-v"]);
    command.args(args).env("SLACK_URL", format!("{origin}/services/T0/B0/{KEY}"));
    command
}

fn enrich(url: &str, args: &[&str]) -> Command {
    let mut command = command("tutum-enrich", ["-v", "--url", url]);
    command.args(args).env("TUTUM_USER", "jo").env("TUTUM_APIKEY", KEY);
    command
}

/// Runs it over one event to its end.
#[track_caller]
fn over_one_event(command: Command, code: i32) -> Finished {
    let finished = Running::start(command).input(format!("{EVENT}\n").as_bytes()).finish().expect_code(code);
    no_secret(&finished);
    finished
}

/// Takes the stream's call, sends one event and waits for the end.
#[track_caller]
fn one_event(server: &Server, command: Command) -> (Finished, String) {
    let running = Running::start(command);
    let mut peer = server.accept().upgrade();
    peer.text(r#"{"type":"node"}"#);
    assert_eq!(peer.receive_other_than_ping().opcode, CLOSE);
    peer.hang_up();
    let finished = running.finish().expect_code(0);
    no_secret(&finished);
    (finished, peer.head)
}

#[test]
fn a_stream_goes_through_the_proxy_of_its_scheme() {
    let server = Server::start();
    let proxy = FakeProxy::start([Manner::Needs(PROXY_BASIC, server.port())]);
    let mut command = stream("ws://stream.invalid", &["--max-events=1"]);
    command.env("HTTP_PROXY", proxy.url(PROXY_USER)).env("HTTPS_PROXY", "http://127.0.0.1:1");
    let (finished, head) = one_event(&server, command);
    let way = format!("through the proxy {} (HTTP_PROXY)\n", proxy.url(""));
    assert!(finished.stderr.contains(&way), "{}", finished.stderr);
    let asked = proxy.heads();
    assert!(asked[0].starts_with("CONNECT stream.invalid:80 HTTP/1.1\r\nHost: stream.invalid:80\r\n"), "{}", asked[0]);
    // Each is told its own secret only.
    assert!(!asked[0].contains(BASIC) && !head.contains(PROXY_BASIC) && head.contains(BASIC), "{head}");
    assert!(head.contains("\r\nhost: stream.invalid\r\n") || head.contains("\r\nHost: stream.invalid\r\n"), "{head}");
    assert_eq!(asked.len(), 1);
}

#[test]
fn an_encrypted_stream_goes_through_the_proxy_too() {
    let (server, pem) = Server::start_tls();
    let scratch = Scratch::new();
    let cacert = scratch.write("ca.pem", pem);
    let proxy = FakeProxy::start([Manner::Tunnel(server.port())]);
    let mut command = stream("wss://localhost:8443", &["--max-events=1", "--cacert", cacert.to_str().unwrap()]);
    command.env("https_proxy", proxy.url("")).env("HTTP_PROXY", "http://127.0.0.1:1");
    one_event(&server, command);
    assert!(proxy.heads()[0].starts_with("CONNECT localhost:8443 HTTP/1.1\r\n"));
    assert!(!proxy.heads()[0].contains("Proxy-Authorization"));
}

#[test]
fn a_host_of_no_proxy_is_called_directly() {
    let server = Server::start();
    let proxy = FakeProxy::start([Manner::status("403 Forbidden")]);
    for exempt in ["other.example, 127.0.0.0/8", "*"] {
        let mut command = stream(&server.url(), &["--max-events=1"]);
        command.env("ALL_PROXY", proxy.url(PROXY_USER)).env("NO_PROXY", exempt);
        one_event(&server, command);
    }
    let slacks = FakeHttp::script([Answer::text("ok")]);
    let mut command = slack(&slacks.url(""), &[]);
    command.env("http_proxy", proxy.url(PROXY_USER)).env("no_proxy", "127.0.0.1");
    over_one_event(command, 0);
    assert_eq!((slacks.requests().len(), proxy.heads().len()), (1, 0));
}

/// What a proxy does, and what is said about it after its name.
fn troubles() -> Vec<(Manner, &'static str)> {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(9000));
    vec![
        (Manner::status("407 Proxy Authentication Required pr0xy"), "it wants other credentials (HTTP 407)"),
        (Manner::status("502 Bad Gateway"), "it makes no connection to localhost:81: HTTP 502 Bad Gateway"),
        (Manner::status("503 Busy"), "it makes no connection to localhost:81: HTTP 503 Service Unavailable"),
        // Never taken for the service's own: that would end the program with "credentials refused".
        (Manner::status("401 No"), "it makes no connection to localhost:81: HTTP 401 Unauthorized"),
        (Manner::status("403 No"), "it makes no connection to localhost:81: HTTP 403 Forbidden"),
        (Manner::status("404 No"), "it makes no connection to localhost:81: HTTP 404 Not Found"),
        (Manner::Closes, "it ended the connection instead of answering"),
        (Manner::Says("HTTP/1.1 200 OK\r\n".to_owned()), "it ended the connection instead of answering"),
        (Manner::SaysAndHangs("SSH-2.0-OpenSSH_9.6\r\n".to_owned()), "its answer is not HTTP, or longer than 8 KiB"),
        (Manner::SaysAndHangs("HTTP/1.1 ok\r\n\r\n".to_owned()), "its answer is not HTTP"),
        (Manner::SaysAndHangs(long), "its answer is not HTTP, or longer than 8 KiB"),
    ]
}

#[test]
fn a_proxys_trouble_is_told_and_is_never_a_refusal_of_the_service() {
    for (manner, reason) in troubles() {
        let proxy = FakeProxy::start([manner]);
        let told = format!("the proxy {} (HTTP_PROXY): {reason}", proxy.url(""));
        let by_proxy = |mut command: Command| {
            command.env("HTTP_PROXY", proxy.url(PROXY_USER));
            command
        };
        let finished = Running::start(by_proxy(stream("ws://localhost:81", &["--no-reconnect"])));
        let finished = finished.finish().expect_code(4);
        no_secret(&finished);
        assert!(finished.stderr.contains(&told), "{}", finished.stderr);
        assert!(finished.stdout.contains(r#""action":"error","state":"Failed""#), "{}", finished.stdout);

        let finished = over_one_event(by_proxy(slack("http://localhost:81", &["--give-up=0s"])), 1);
        assert!(finished.stderr.contains(&told), "{}", finished.stderr);

        let finished = over_one_event(by_proxy(enrich("http://localhost:81", &["--timeout=1s"])), 0);
        assert!(finished.stdout.contains(&told), "{}", finished.stdout);
        let seen = proxy.heads();
        assert!(seen.iter().all(|head| head.starts_with("CONNECT localhost:81 HTTP/1.1\r\n")), "{seen:?}");
    }
}

#[test]
fn after_a_proxys_407_the_stream_tries_again() {
    let server = Server::start();
    let needs = Manner::status("407 Proxy Authentication Required");
    let proxy = FakeProxy::start([needs, Manner::Tunnel(server.port())]);
    let mut command = stream("ws://localhost:81", &["--max-events=1"]);
    command.env("ALL_PROXY", proxy.url(""));
    let (finished, _) = one_event(&server, command);
    assert!(finished.stderr.contains("(ALL_PROXY): it wants credentials (HTTP 407)"), "{}", finished.stderr);
    assert!(finished.stdout.contains(r#""attempts":2"#), "{}", finished.stdout);
}

#[test]
fn a_proxy_that_hangs_is_given_up_in_time_and_holds_up_no_stop() {
    let hang = [Manner::Hangs];
    let drip = [Manner::SaysAndHangs("HTTP/1.1 200 OK\r\n".to_owned())];
    for manner in [hang, drip] {
        let proxy = FakeProxy::start(manner);
        let mut command = slack("http://localhost:81", &["--give-up=0s", "--timeout=500ms"]);
        command.env("HTTP_PROXY", proxy.url(""));
        let finished = over_one_event(command, 1);
        assert!(finished.stderr.contains("(HTTP_PROXY): no answer in time"), "{}", finished.stderr);

        let mut command = stream("ws://localhost:81", &[]);
        command.env("HTTP_PROXY", proxy.url(""));
        let running = Running::start(command);
        proxy.wait_for(2);
        running.signal("TERM");
        running.finish().expect_code(0);
    }
}

#[test]
fn a_proxy_that_is_not_there_is_named() {
    let url = format!("http://{PROXY_USER}127.0.0.1:{}", closed_port());
    let mut command = slack("http://localhost:81", &["--give-up=0s"]);
    command.env("HTTP_PROXY", &url);
    let finished = over_one_event(command, 1);
    assert!(finished.stderr.contains("(HTTP_PROXY): cannot connect: Connection refused"), "{}", finished.stderr);
}

#[test]
fn requests_go_through_the_proxy_and_share_its_tunnel() {
    let server = FakeHttp::start(|request| match request.path.starts_with("/api/") {
        true => Answer::json(r#"{"name":"web"}"#),
        false => Answer::text("ok"),
    });
    let proxy = FakeProxy::start([Manner::Needs(PROXY_BASIC, server.port())]);
    let mut command = slack("http://localhost:81", &["--no-fold"]);
    command.env("HTTP_PROXY", proxy.url(PROXY_USER));
    let finished = Running::start(command).input(format!("{EVENT}\n{EVENT}\n").as_bytes()).finish().expect_code(0);
    no_secret(&finished);
    let requests = server.requests();
    assert_eq!((requests.len(), server.connections(), proxy.heads().len()), (2, 1, 1), "{}", finished.stderr);
    assert_eq!(requests[0].header("host"), Some("localhost:81"));
    assert_eq!(requests[0].header("proxy-authorization"), None);
    assert!(!proxy.heads()[0].contains(KEY));

    let mut command = enrich("http://api.invalid:81", &["--with=resource"]);
    command.env("HTTP_PROXY", proxy.url(PROXY_USER));
    let finished = over_one_event(command, 0);
    assert!(finished.stdout.contains(r#""resource":{"name":"web"}"#), "{}", finished.stdout);
    assert!(proxy.heads()[1].starts_with("CONNECT api.invalid:81 HTTP/1.1\r\n"));
    assert!(!proxy.heads()[1].contains(BASIC));
}

#[test]
fn a_proxy_of_no_use_is_code_2_and_named_by_its_variable() {
    for (value, reason) in [
        ("socks5h://al:pr0xy@127.0.0.1:1080", "a SOCKS proxy is not supported: name an HTTP proxy by http://"),
        ("https://al:pr0xy@127.0.0.1", "a proxy spoken to over TLS (https://) is not supported: name one by http://"),
        ("http://al:pr0xy@:x", "the URL's port is not a number from 1 to 65535"),
    ] {
        let programs =
            [stream("wss://h.invalid", &[]), slack("https://h.invalid", &[]), enrich("https://h.invalid", &[])];
        for mut command in programs {
            command.env("HTTPS_PROXY", value);
            let finished = over_one_event(command, 2);
            let told = format!(": HTTPS_PROXY: {reason}\n");
            assert!(finished.stderr.contains(&told), "{}", finished.stderr);
        }
    }
}

#[test]
fn a_check_says_which_way_it_would_go() {
    for mut command in [
        stream("wss://h.invalid", &["--check"]),
        slack("https://h.invalid", &["--check"]),
        enrich("https://h.invalid", &["--check"]),
    ] {
        command.env("ALL_PROXY", "al:pr0xy@proxy.invalid:3128");
        let finished = over_one_event(command, 0);
        let way = " through the proxy http://proxy.invalid:3128 (ALL_PROXY)";
        assert!(format!("{}{}", finished.stdout, finished.stderr).contains(way), "{finished:?}");
    }
}

#[test]
fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let (server, files) = Server::start_mutual();
    let scratch = Scratch::new();
    let [ca, cert, key] = files.map(|(name, pem)| scratch.write(name, pem).to_str().unwrap().to_owned());
    let identity = ["--cacert", &ca, "--cert", &cert, "--key", &key];

    one_event(&server, stream(&server.url(), &[&identity[..], &["--max-events=1"]].concat()));
    let origin = server.url().replace("wss:", "https:");
    let running = Running::start(slack(&origin, &identity)).input(format!("{EVENT}\n").as_bytes());
    let peer = server.accept().request();
    assert!(peer.head.starts_with("POST /services/"), "{}", peer.head);
    peer.answer("200 OK", "ok");
    running.finish().expect_code(0);

    // Without it the server ends the connection.
    let running = Running::start(stream(&server.url(), &["--cacert", &ca, "--no-reconnect"]));
    assert!(server.accept().try_receive().is_err(), "no frame comes before a handshake");
    let finished = running.finish().expect_code(4);
    assert!(finished.stderr.to_lowercase().contains("certificate"), "{}", finished.stderr);
    let running =
        Running::start(slack(&origin, &["--cacert", &ca, "--give-up=0s"])).input(format!("{EVENT}\n").as_bytes());
    assert!(server.accept().try_receive().is_err(), "no frame comes before a handshake");
    let finished = running.finish().expect_code(1);
    assert!(finished.stderr.to_lowercase().contains("certificate"), "{}", finished.stderr);
}

#[test]
fn a_certificate_that_is_its_own_ca_is_believed_by_every_transport() {
    let (server, pem) = Server::start_tls_as_ca();
    let scratch = Scratch::new();
    let ca = scratch.write("ca.pem", pem).to_str().unwrap().to_owned();
    one_event(&server, stream(&server.url(), &["--cacert", &ca, "--max-events=1"]));
    let origin = server.url().replace("wss:", "https:");
    let running = Running::start(slack(&origin, &["--cacert", &ca])).input(format!("{EVENT}\n").as_bytes());
    server.accept().request().answer("200 OK", "ok");
    running.finish().expect_code(0);
}

#[test]
fn insecure_warns_and_believes_any_server() {
    let (server, _) = Server::start_tls();
    let origin = server.url().replace("wss:", "https:");
    let warning = "--insecure: the server's certificate is not verified";

    let (finished, _) = one_event(&server, stream(&server.url(), &["--insecure", "--max-events=1"]));
    assert!(finished.stderr.contains(warning), "{}", finished.stderr);
    let running = Running::start(slack(&origin, &["--insecure"])).input(format!("{EVENT}\n").as_bytes());
    server.accept().request().answer("200 OK", "ok");
    let finished = running.finish().expect_code(0);
    assert!(finished.stderr.contains(warning), "{}", finished.stderr);

    let running = Running::start(slack(&origin, &["--give-up=0s"])).input(format!("{EVENT}\n").as_bytes());
    assert!(server.accept().try_receive().is_err(), "no frame comes before a handshake");
    let finished = running.finish().expect_code(1);
    assert!(finished.stderr.contains("the server's certificate is not accepted"), "{}", finished.stderr);
}

#[test]
fn this_machine_through_another_is_warned_of() {
    for mut command in [
        stream("ws://localhost:81", &["--check"]),
        slack("http://127.0.0.1:81", &["--check"]),
        enrich("http://[::1]:81", &["--check"]),
    ] {
        command.env("ALL_PROXY", "proxy.invalid");
        let finished = over_one_event(command, 0);
        let told = "goes through the proxy http://proxy.invalid:1080 (ALL_PROXY), unless NO_PROXY names";
        assert!(finished.stderr.contains(told), "{}", finished.stderr);
    }
}

/// A port that swallows every call: its queue is full and nobody accepts. `None` where the system answers all the same.
fn swallowing(address: [u8; 4]) -> Option<(u16, Vec<OwnedFd>)> {
    let listener = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddr::from((address, 0))).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let listener = std::net::TcpListener::from(listener);
    let own = listener.local_addr().unwrap();
    let mut kept = Vec::new();
    for _ in 0..16 {
        match TcpStream::connect_timeout(&own, Duration::from_millis(200)) {
            Ok(tcp) => kept.push(tcp.into()),
            Err(_) => {
                kept.push(listener.into());
                return Some((own.port(), kept));
            }
        }
    }
    None
}

/// Has a program see names of its own, in a namespace of its own.
fn with_hosts(command: &Command, hosts: &Path) -> Command {
    let mut namespace = super::support::shell(&format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display()));
    let script: Vec<_> = namespace.get_args().map(ToOwned::to_owned).collect();
    let mut wrapped = Command::new("unshare");
    wrapped.args(["-rm", "bash"]).args(script).arg("-").arg(command.get_program()).args(command.get_args());
    wrapped.env_clear().envs(namespace.env("HOME", "/").get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped
}

#[test]
fn an_address_that_swallows_calls_does_not_keep_the_next_one_waiting() {
    let scratch = Scratch::new();
    // The system may sort the addresses by itself: each is the dead one once.
    for (dead, live) in [([127, 0, 0, 1], [127, 0, 0, 2]), ([127, 0, 0, 2], [127, 0, 0, 1])] {
        let Some((port, _kept)) = swallowing(dead) else { return eprintln!("skipped: no port swallows calls here") };
        let address = |address: [u8; 4]| SocketAddr::from((address, port));
        let server = Server::at(address(live));
        let hosts = format!("{} localhost\n{} localhost\n", address(dead).ip(), address(live).ip());
        let hosts = scratch.write("hosts", hosts);
        let look = with_hosts(&Command::new("true"), &hosts).output();
        if !tool("unshare") || !look.is_ok_and(|look| look.status.success()) {
            return eprintln!("skipped: no namespace can be had here");
        }
        let begun = Instant::now();
        let url = format!("ws://localhost:{port}");
        one_event(&server, with_hosts(&stream(&url, &["--max-events=1", "--no-reconnect"]), &hosts));
        let command = slack(&format!("http://localhost:{port}"), &["--give-up=0s"]);
        let running = Running::start(with_hosts(&command, &hosts)).input(format!("{EVENT}\n").as_bytes());
        server.accept().request().answer("200 OK", "ok");
        running.finish().expect_code(0);
        // A dead address is given up after 10 seconds, or after 5 if two share them.
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
