//! tutum-stream as a link that nobody watches: heartbeats, slow readers, refused credentials, a service manager, networks as they are; and its other streams.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::support::websocket::{CLOSE, PING, PONG, Peer, Server, TEXT, frame};
use super::support::{PATIENCE, Running, Scratch, command, send_signal};
use super::tutum_stream::{
    BASIC, KEY, connected, ended, expect, finish_stopped, names, no_secret, start, stop, stream, unread, value,
};

/// Answers pings until `done`; the peer's socket must have a short timeout for that.
fn answer_pings(peer: &mut Peer, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    peer.patience(Duration::from_millis(50));
    while !done() {
        assert!(Instant::now() < deadline, "it is never done");
        match peer.try_receive() {
            Ok(frame) if frame.opcode == PING => {
                peer.raw(&super::support::websocket::frame(PONG, true, &frame.payload))
            }
            _ => {}
        }
    }
    peer.patience(PATIENCE);
}

#[test]
fn heartbeats_come_while_pings_are_answered_and_stop_with_them() {
    let server = Server::start();
    let (running, mut peer) =
        connected(&server, &["--heartbeat", "1s", "--ping", "500ms", "--timeout", "1s", "--no-reconnect"]);
    answer_pings(&mut peer, || running.stdout().matches("\"heartbeat\"").count() >= 3);
    // Nothing is answered any more: at most one more fits into the time that the last answer proves.
    let finished = running.finish().expect_code(4);
    let names = names(&finished);
    let beats = names.iter().filter(|name| *name == "heartbeat/Connected").count();
    assert!((3..=4).contains(&beats), "{names:?}");
    assert_eq!(names.last().map(String::as_str), Some("close/Disconnected"));
    drop(peer);
}

#[test]
fn no_heartbeat_before_the_first_message_nor_while_disconnected() {
    let server = Server::start();
    let mut running = start(&server, &["--heartbeat", "1s", "--ping", "300ms", "--for", "3s"]);
    let mut peer = server.accept().upgrade();
    let begun = Instant::now();
    answer_pings(&mut peer, || begun.elapsed() > Duration::from_millis(1500));
    drop(peer);
    expect(&mut running, "error/Failed");
    let finished = running.finish().expect_code(0);
    assert!(!finished.stdout.contains("heartbeat"), "{}", finished.stdout);
}

/// The numbers of the events, and how many of them each drop record stands for, in the order of the output.
fn events_and_drops(lines: &[String]) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut events, mut drops) = (Vec::new(), Vec::new());
    for line in lines {
        match value(line, "action").as_str() {
            "drop" => drops.push((events.last().copied().unwrap_or_default(), value(line, "dropped").parse().unwrap())),
            _ if value(line, "type") == "node" => events.push(value(line, "n").parse().unwrap()),
            _ => {}
        }
    }
    (events, drops)
}

#[test]
fn an_overflow_drops_the_oldest_events_tells_how_many_where_and_loses_no_record_about_the_link() {
    const EVENTS: u64 = 20_000;
    let server = Server::start();
    let mut command = stream(&server, &["--overflow", "drop", "--buffer", "256KiB", "--stats"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    let padding = "x".repeat(200);
    for round in 0..2 {
        let mut peer = server.accept().welcome();
        for number in (1..=EVENTS).filter(|number| number % 2 == round) {
            peer.text(&format!(r#"{{"type":"node","n":{number},"more":"{padding}"}}"#));
            if number % 1000 < 2 {
                // The socket is always read, so a ping is always answered.
                peer.raw(&frame(PING, true, b"x"));
                assert_eq!(peer.receive_other_than_ping().opcode, PONG);
            }
        }
        if round == 0 {
            peer.close(1012, "");
            peer.until_gone();
        } else {
            peer.raw(&frame(PING, true, b"last"));
            assert_eq!(peer.receive_other_than_ping().opcode, PONG);
            send_signal(child.id(), "TERM");
            assert_eq!(peer.receive_other_than_ping().opcode, CLOSE);
        }
    }
    let lines: Vec<String> = BufReader::new(child.stdout.take().expect("it is a pipe"))
        .lines()
        .map(|line| line.expect("it is text"))
        .collect();
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let (events, drops) = events_and_drops(&lines);
    let dropped: u64 = drops.iter().map(|(_, dropped)| dropped).sum();
    assert_eq!(events.len() as u64 + dropped, EVENTS, "{drops:?}");
    assert!(dropped > EVENTS / 2, "{dropped}");
    // The newest are there, and each hole is as long as the record in it says.
    assert_eq!(events.last(), Some(&(EVENTS - 1)));
    assert_eq!(events[0], 2);
    let changes: Vec<String> =
        lines.iter().filter(|line| line.contains("\"stream\"")).map(|line| value(line, "action")).collect();
    let kept: Vec<&String> = changes.iter().filter(|action| *action != "drop").collect();
    assert_eq!(kept, ["open", "close", "open", "gap", "close"]);
    let order = events.iter().map(|n| (n % 2, *n)).collect::<Vec<_>>();
    assert!(order.is_sorted(), "in order, none twice");
    assert!(stderr.contains("the oldest events are dropped (--overflow)"), "{stderr}");
    let accounts = stderr.lines().find(|line| line.starts_with('{')).expect("accounts");
    assert_eq!(value(accounts, "dropped"), dropped.to_string());
    assert_eq!(value(accounts, "out"), lines.len().to_string());
    assert_eq!(value(accounts, "events"), EVENTS.to_string());
    assert_eq!(value(accounts, "blocked"), "0");
}

#[test]
fn without_lifecycle_records_an_overflow_is_only_counted() {
    let server = Server::start();
    let mut child = unread(&server, &["--raw", "--no-lifecycle", "--overflow=drop", "--buffer=64KiB"]);
    let mut peer = server.accept().welcome();
    for number in 0..5000 {
        peer.text(&format!(r#"{{"type":"node","n":{number},"more":"{}"}}"#, "x".repeat(100)));
    }
    peer.raw(&frame(PING, true, b""));
    assert_eq!(peer.receive_other_than_ping().opcode, PONG);
    send_signal(child.id(), "TERM");
    let lines: Vec<String> = BufReader::new(child.stdout.take().expect("it is a pipe"))
        .lines()
        .map(|line| line.expect("it is text"))
        .collect();
    assert_eq!(ended(&mut child), 0);
    let (events, drops) = events_and_drops(&lines);
    assert!(drops.is_empty() && events.len() < 4000 && events.last() == Some(&4999), "{}", events.len());
    assert!(events.is_sorted());
}

#[test]
fn a_reader_that_is_stopped_for_a_while_costs_memory_and_nothing_else() {
    let server = Server::start();
    let mut source = stream(&server, &["--raw", "--ping", "500ms", "--timeout", "1s"]);
    source.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut source = source.spawn().expect("it can be started");
    let mut reader = std::process::Command::new("cat");
    reader.stdin(Stdio::from(source.stdout.take().expect("it is a pipe")));
    let mut reader = Running::start_as_it_is(reader);
    let mut peer = server.accept().welcome();
    expect(&mut reader, "open/Connected");
    expect(&mut reader, "auth");
    reader.signal("STOP");
    // A thousand a second, for some seconds: several times ping and time-out together.
    let (begun, mut sent) = (Instant::now(), 0_u64);
    while begun.elapsed() < Duration::from_secs(4) {
        while sent < begun.elapsed().as_millis() as u64 {
            peer.text(&format!(r#"{{"type":"node","n":{sent},"more":"{}"}}"#, "x".repeat(300)));
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    peer.raw(&frame(PING, true, b"still there"));
    assert_eq!(peer.receive_other_than_ping().payload, b"still there");
    reader.signal("CONT");
    for number in 0..sent {
        let line = reader.line();
        assert_eq!(value(&line, "n"), number.to_string(), "{line}");
    }
    send_signal(source.id(), "TERM");
    expect(&mut reader, "close/Stopped");
    drop(peer);
    assert_eq!(ended(&mut source), 0);
}

#[test]
fn refused_credentials_are_held_on_to_until_the_token_file_changes() {
    let server = Server::start();
    let scratch = Scratch::new();
    let file = scratch.write("token", "old-key-of-jo");
    let mut command =
        command("tutum-stream", ["--url", &server.url(), "--user", "jo", "--hold-on-auth", "1h", "--token-file"]);
    command.arg(&file);
    let mut running = Running::start(command);
    server.accept().refuse("401 Unauthorized", "", "");
    expect(&mut running, "error/Unauthorized");
    running.until_stderr("next attempt in 1h, or when they change");
    // The same secret again is not tried, not even when asked.
    scratch.write("token", "old-key-of-jo\n");
    running.signal("HUP").until_stderr("the credentials are still those that were refused");
    assert!(!running.has_ended() && !server.was_called());
    scratch.write("token", KEY);
    let peer = server.accept().welcome();
    assert_eq!(peer.header("authorization"), Some(format!("Basic {BASIC}").as_str()));
    assert_eq!(value(&expect(&mut running, "open/Connected"), "attempts"), "2");
    let finished = stop(running, peer);
    assert!(!finished.stdout.contains("error/Failed") && !finished.stderr.contains("old-key-of-jo"));
}

#[test]
fn a_hup_with_changed_credentials_ends_the_holding_at_once_and_the_time_ends_it_too() {
    let server = Server::start();
    let scratch = Scratch::new();
    let file = scratch.write("token", "old-key-of-jo");
    let mut command =
        command("tutum-stream", ["--url", &server.url(), "--user", "jo", "--hold-on-auth", "2s", "--token-file"]);
    command.arg(&file);
    let mut running = Running::start(command);
    let mut peer = server.accept().upgrade();
    peer.text(r#"{"type":"error","data":{"errorMessage":"UNAUTHORIZED"}}"#);
    peer.until_gone();
    let refused = Instant::now();
    expect(&mut running, "error/Unauthorized");
    server.accept().refuse("401 Unauthorized", "", "");
    assert!(refused.elapsed() > Duration::from_secs(1), "after {:?}", refused.elapsed());
    expect(&mut running, "error/Unauthorized");
    scratch.write("token", KEY);
    running.signal("HUP");
    let peer = server.accept().welcome();
    assert_eq!(peer.header("authorization"), Some(format!("Basic {BASIC}").as_str()));
    expect(&mut running, "open/Connected");
    stop(running, peer);
}

/// A service manager's socket, and its name as a variable.
struct Manager(UnixDatagram, Vec<String>);

impl Manager {
    fn on_path(scratch: &Scratch) -> Manager {
        Manager(UnixDatagram::bind(scratch.path("notify")).expect("a socket can be bound"), Vec::new())
    }

    fn abstract_named(name: &str) -> Manager {
        let address = SocketAddr::from_abstract_name(name).expect("it is a name");
        Manager(UnixDatagram::bind_addr(&address).expect("a socket can be bound"), Vec::new())
    }

    /// Waits for a message that holds `text`; keeps what came before it.
    #[track_caller]
    fn hears(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        self.0.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket has timeouts");
        let mut room = [0; 2000];
        while Instant::now() < deadline {
            if let Ok(count) = self.0.recv(&mut room) {
                self.1.push(String::from_utf8_lossy(&room[..count]).into_owned());
                if self.1.last().is_some_and(|message| message.contains(text)) {
                    return;
                }
            }
        }
        panic!("never heard {text:?}: {:?}", self.1);
    }
}

#[test]
fn a_service_manager_is_told_how_it_goes() {
    let server = Server::start();
    let scratch = Scratch::new();
    let mut manager = Manager::on_path(&scratch);
    let mut command = stream(&server, &[]);
    command.env("NOTIFY_SOCKET", scratch.path("notify")).env("WATCHDOG_USEC", "1000000").env("WATCHDOG_PID", "1");
    let mut running = Running::start(command);
    // Before anything is answered.
    manager.hears("READY=1");
    manager.hears("STATUS=connecting, attempt 1");
    manager.hears("WATCHDOG=1");
    let mut peer = server.accept().welcome();
    expect(&mut running, "open/Connected");
    manager.hears("STATUS=open");
    manager.hears("WATCHDOG=1");
    running.signal("HUP");
    manager.hears("RELOADING=1\nMONOTONIC_USEC=");
    manager.hears("READY=1");
    peer.until_gone();
    server.accept().refuse("503 Service Unavailable", "", &format!(r#"{{"error":"not {KEY}"}}"#));
    manager.hears("STATUS=not connected, will try again (HTTP 503 Service Unavailable: not <redacted>)");
    manager.hears("WATCHDOG=1");
    running.signal("TERM");
    manager.hears("STOPPING=1");
    finish_stopped(running);
}

#[test]
fn the_watchdog_is_fed_while_a_slow_reader_blocks_everything() {
    let server = Server::start();
    let name = format!("tutum-e2e-{}", std::process::id());
    let mut manager = Manager::abstract_named(&name);
    let mut command = stream(&server, &["--raw", "--buffer", "64KiB"]);
    command.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "400000");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it can be started");
    let mut peer = server.accept().welcome();
    let wire = frame(TEXT, true, format!(r#"{{"type":"node","more":"{}"}}"#, "x".repeat(1000)).as_bytes());
    let writer = std::thread::spawn(move || while peer.try_raw(&wire).is_ok() {});
    manager.hears("STATUS=open, but standard output is blocked");
    for _ in 0..5 {
        manager.hears("WATCHDOG=1");
    }
    // The reader dies, and that is the end.
    drop(child.stdout.take());
    manager.hears("STOPPING=1");
    assert_eq!(ended(&mut child), 0);
    let _ = writer.join();
}

#[test]
fn a_service_manager_that_is_not_there_does_not_hurt() {
    for address in ["/nonexistent/notify", "@nobody-listens-here", "vsock:2:1", ""] {
        let server = Server::start();
        let mut command = stream(&server, &["-q"]);
        command.env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", "200000");
        let mut running = Running::start(command);
        let peer = server.accept().welcome();
        expect(&mut running, "open/Connected");
        let finished = stop(running, peer);
        assert_eq!(finished.stderr, "", "{address}");
    }
}

#[test]
fn docker_clouds_paths_variables_and_files() {
    let seen = |environment: &[(&str, &str)], args: &[&str]| {
        let server = Server::start();
        let mut command = command("tutum-stream", ["--dialect", "dockercloud", "--max-events", "1"]);
        command.args(args).env("DOCKERCLOUD_STREAM_HOST", server.url()).env("TUTUM_AUTH", "nothing");
        command.envs(environment.iter().copied());
        let running = Running::start(command);
        let mut peer = server.accept().upgrade();
        peer.text(r#"{"type":"node"}"#);
        assert_eq!(peer.receive().opcode, CLOSE);
        peer.hang_up();
        no_secret(&running.finish().expect_code(0));
        let target = peer.head.lines().next().unwrap_or_default().to_owned();
        (target, peer.header("authorization").map(str::to_owned))
    };
    let plain = "GET /api/audit/v1/events HTTP/1.1".to_owned();
    let named = "GET /api/audit/v1/acme/events HTTP/1.1".to_owned();
    let basic = Some(format!("Basic {BASIC}"));
    let user = ("DOCKERCLOUD_USER", "jo");
    assert_eq!(seen(&[user, ("DOCKERCLOUD_APIKEY", KEY)], &[]), (plain.clone(), basic.clone()));
    assert_eq!(seen(&[user, ("DOCKERCLOUD_PASS", KEY)], &["--namespace", "acme"]), (named.clone(), basic.clone()));
    let header = format!("Basic {BASIC}");
    let auth = ("DOCKERCLOUD_AUTH", header.as_str());
    assert_eq!(seen(&[auth, ("DOCKERCLOUD_NAMESPACE", "acme")], &[]), (named, basic.clone()));
    let home = Scratch::new();
    std::fs::create_dir(home.path(".docker")).expect("a directory can be made");
    home.write(".docker/config.json", format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{BASIC}"}}}}}}"#));
    assert_eq!(seen(&[("HOME", home.path("").to_str().unwrap())], &[]), (plain.clone(), basic));
    // A helper is not asked, and towards this very machine it goes without.
    home.write(".docker/config.json", r#"{"auths":{"https://index.docker.io/v1/":{}},"credsStore":"desktop"}"#);
    assert_eq!(seen(&[("HOME", home.path("").to_str().unwrap())], &[]), (plain, None));
}

#[test]
fn docker_clouds_401_is_code_3() {
    let server = Server::start();
    let mut command = command("tutum-stream", ["--dialect", "dockercloud", "--url", &server.url()]);
    command.env("DOCKERCLOUD_USER", "jo").env("DOCKERCLOUD_APIKEY", KEY);
    let running = Running::start(command);
    server.accept().refuse("401 Unauthorized", "", "");
    assert_eq!(names(&running.finish().expect_code(3)), ["error/Unauthorized"]);
    assert!(!server.was_called());
}

const LOG: &str = r#"{"type":"log","log":"ready\n","streamType":"stdout","timestamp":1433779324}"#;
const UUID: &str = "7d1c0e6e-3f2b-4c55-9a53-0c9f5c0a1b11";

#[test]
fn a_log_is_printed_to_its_end() {
    let server = Server::start();
    let mut running = start(&server, &["logs", "container", UUID, "--no-follow", "--tail", "7", "--auth=query"]);
    let mut peer = server.accept().upgrade();
    let target = format!("GET /v1/container/{UUID}/logs/?tail=7&follow=false&token={KEY}&user=jo HTTP/1.1");
    assert_eq!(peer.head.lines().next(), Some(target.as_str()));
    peer.text(LOG);
    let open = expect(&mut running, "open/Connected");
    assert_eq!(value(&open, "resource_uri"), format!("/v1/container/{UUID}/logs/"));
    let line = expect(&mut running, "log");
    assert!(line.starts_with(&LOG[..LOG.len() - 1]) && !value(&line, "received_at").is_empty(), "{line}");
    peer.close(1000, "");
    let finished = running.finish().expect_code(0);
    assert_eq!(names(&finished), ["open/Connected", "log", "close/Stopped"]);
    no_secret(&finished);

    // Anything but a good end may have cut it short.
    for code in [None, Some(1001), Some(1011)] {
        let mut running = start(&server, &["logs", "action", UUID, "--no-follow"]);
        let mut peer = server.accept().upgrade();
        peer.text(LOG);
        expect(&mut running, "open/Connected");
        match code {
            Some(code) => peer.close(code, ""),
            None => peer.hang_up(),
        }
        assert_eq!(names(&running.finish().expect_code(4)).last().map(String::as_str), Some("close/Disconnected"));
    }
}

#[test]
fn a_log_that_is_followed_and_lost_is_code_4_and_not_connected_to_again() {
    let server = Server::start();
    let mut running = start(&server, &["logs", "service", UUID, "--raw"]);
    let mut peer = server.accept().upgrade();
    assert!(peer.head.starts_with(&format!("GET /v1/service/{UUID}/logs/?tail=300&follow=true HTTP/1.1\r\n")));
    peer.text(LOG);
    expect(&mut running, "open/Connected");
    assert_eq!(running.line(), LOG);
    peer.close(1000, "");
    let finished = running.finish().expect_code(4);
    assert!(
        finished.stderr.ends_with("closed the connection (1000 normal) (it is not taken up again)\n"),
        "{}",
        finished.stderr
    );
    assert!(!server.was_called());
}

#[test]
fn docker_cloud_keeps_its_logs_elsewhere() {
    let server = Server::start();
    let args = ["logs", "container", UUID, "--dialect=dockercloud", "--namespace=acme", "--url"];
    let running = Running::start(command("tutum-stream", args.into_iter().chain([server.url().as_str()])));
    let mut peer = server.accept().upgrade();
    assert!(
        peer.head
            .starts_with(&format!("GET /api/app/v1/acme/container/{UUID}/logs/?tail=300&follow=true HTTP/1.1\r\n"))
    );
    peer.text(LOG);
    running.until_stdout("log");
    stop(running, peer);
}

#[test]
fn tls_that_goes_wrong_is_a_failed_attempt_with_a_reason() {
    let failure = |server: &Server, args: &[&str], play: &dyn Fn(&mut Peer)| {
        let args = [args, &["--no-reconnect", "--timeout", "1s"]].concat();
        let mut running = start(server, &args);
        let mut peer = server.accept();
        play(&mut peer);
        let reason = value(&expect(&mut running, "error/Failed"), "reason");
        no_secret(&running.finish().expect_code(4));
        reason
    };
    let scratch = Scratch::new();
    let handshake = |peer: &mut Peer| assert!(peer.try_receive().is_err());

    // A server that speaks no TLS at all: it answers in the clear, hangs up, or sends half a record and falls silent.
    let plain = Server::start().claiming_tls();
    let reason = failure(&plain, &[], &|peer| peer.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    assert!(reason.starts_with("TLS: "), "{reason}");
    let reason = failure(&plain, &[], &|peer| peer.hang_up());
    assert!(reason.contains("TLS") && !reason.contains("certificate"), "{reason}");
    // The head of a handshake record of 122 bytes, and three of them (RFC 8446, section 5.1).
    let reason = failure(&plain, &[], &|peer| {
        peer.raw(&[22, 3, 3, 0, 122, 2, 0, 0]);
        peer.until_gone();
    });
    assert_eq!(reason, "TLS was not answered in time");

    // A certificate for another name, and one that has expired.
    let (other, pem) = Server::start_tls_as("elsewhere.example.org", false);
    let cacert = scratch.write("other.pem", pem);
    let reason = failure(&other, &["--cacert", cacert.to_str().unwrap()], &handshake);
    assert!(reason.starts_with("the server's certificate is not accepted") && reason.contains("name"), "{reason}");
    let (expired, pem) = Server::start_tls_as("localhost", true);
    let cacert = scratch.write("expired.pem", pem);
    let reason = failure(&expired, &["--cacert", cacert.to_str().unwrap()], &handshake);
    assert!(reason.starts_with("the server's certificate is not accepted") && reason.contains("expired"), "{reason}");
}

#[test]
fn a_flood_of_pings_is_answered_and_keeps_nothing_else_from_happening() {
    const PINGS: usize = 50_000;
    let server = Server::start();
    let (mut running, mut peer) = connected(&server, &[]);
    let mut wire = frame(PING, true, b"0123456789").repeat(PINGS);
    wire.extend(frame(TEXT, true, br#"{"type":"node"}"#));
    let mut other = peer.same();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut other, &wire));
    // How many answers there are is the client's affair: only the last of those that wait must be answered (RFC 6455, section 5.5.3).
    let reader = std::thread::spawn(move || {
        let mut pongs = 0_usize;
        loop {
            match peer.receive().opcode {
                PONG => pongs += 1,
                CLOSE => return (peer, pongs),
                _ => {}
            }
        }
    });
    expect(&mut running, "node");
    assert!(writer.join().expect("no writer panics").is_ok());
    running.signal("TERM");
    let (mut peer, pongs) = reader.join().expect("no reader panics");
    assert!((1..=PINGS).contains(&pongs), "{pongs}");
    peer.close(1001, "");
    drop(peer);
    finish_stopped(running);
}

#[test]
fn a_slow_drip_is_life_and_a_message_is_whole_however_long_it_takes() {
    let server = Server::start();
    let (mut running, mut peer) = connected(&server, &["--ping", "1s", "--timeout", "1s"]);
    // Longer than ping and time-out together, and not one ping is answered.
    for byte in frame(TEXT, true, br#"{"type":"service","n":1}"#) {
        peer.raw(&[byte]);
        std::thread::sleep(Duration::from_millis(120));
    }
    assert_eq!(value(&expect(&mut running, "service"), "n"), "1");
    running.signal("TERM");
    drop(peer);
    finish_stopped(running);
}

#[test]
fn a_head_that_drips_for_ever_is_a_failed_attempt() {
    let server = Server::start();
    let mut running = start(&server, &["--timeout", "500ms", "--no-reconnect"]);
    let mut peer = server.accept().request();
    let dripping = std::thread::spawn(move || {
        for byte in b"HTTP/1.1 101 Switching Protocols\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
            if peer.try_raw(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let reason = value(&expect(&mut running, "error/Failed"), "reason");
    assert_eq!(reason, "the upgrade was not answered in time");
    running.finish().expect_code(4);
    let _ = dripping.join();
}

#[test]
fn of_several_addresses_of_a_name_the_dead_ones_are_passed_over() {
    // localhost is ::1 and 127.0.0.1 wherever both are known; the server listens on one of them only.
    let known: Vec<_> = std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 1)).expect("it is known").collect();
    if known.len() < 2 {
        eprintln!("skipped: localhost has one address here");
        return;
    }
    let last = known.last().expect("there are two").ip();
    let listener = TcpListener::bind((last, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let server = Server::on(listener);
    let mut command = command("tutum-stream", ["--url", &format!("ws://localhost:{port}")]);
    command.env("TUTUM_USER", "jo").env("TUTUM_APIKEY", KEY);
    let mut running = Running::start(command);
    let peer = server.accept().welcome();
    assert_eq!(value(&expect(&mut running, "open/Connected"), "attempts"), "1");
    stop(running, peer);
}

#[test]
fn restarts_in_a_row_lose_no_event_of_a_live_connection_and_announce_one_gap_each() {
    const ROUNDS: usize = 4;
    let server = Server::start();
    let running = start(&server, &[]);
    // Four, since the waits grow; a hundred are played on a virtual clock beside the link itself.
    let mut called: Option<Instant> = None;
    for round in 0..ROUNDS {
        let mut peer = server.accept();
        // The attempts themselves, at the floor of the backoff or above it; the machine's own delays only make it longer.
        let now = Instant::now();
        assert!(called.is_none_or(|before| now - before > Duration::from_millis(900)), "round {round}");
        called = Some(now);
        peer = peer.welcome();
        for number in 0..10 {
            peer.text(&format!(r#"{{"type":"node","n":{}}}"#, round * 10 + number));
        }
        match round % 3 {
            0 => peer.close(1012, ""),
            1 => peer.hang_up(),
            // What was sent before a reset may be lost, so it must be read first.
            _ => {
                peer.raw(&frame(PING, true, b"x"));
                assert_eq!(peer.receive_other_than_ping().opcode, PONG);
                peer.reset();
            }
        }
        if round + 1 == ROUNDS {
            running.until_stdout(&format!("\"n\":{}", ROUNDS * 10 - 1));
        }
    }
    running.signal("TERM");
    let finished = finish_stopped(running);
    let lines: Vec<String> = finished.lines().into_iter().map(str::to_owned).collect();
    let (events, _) = events_and_drops(&lines);
    assert!(events.iter().copied().eq(0..ROUNDS as u64 * 10), "every event, once, in order: {events:?}");
    let count = |what: &str| names(&finished).iter().filter(|name| *name == what).count();
    assert_eq!((count("open/Connected"), count("gap/Connected")), (ROUNDS, ROUNDS - 1));
}
