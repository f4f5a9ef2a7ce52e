//! Events over Kafka and RabbitMQ, with their own clients and brokers: what is killed with -9 at any moment loses nothing, and what it repeats is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::support::http::{Answer, FakeHttp};
use super::support::{Running, Scratch, clean, descendant, send_signal, shell, signal_group, tool, until};

const KEY: &str = "0123456789abcdef0123456789abcdef";
/// Different objects among the events.
const OBJECTS: usize = 40;

fn script(name: &str) -> String {
    format!("{}/scripts/bus/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Numbered events about nodes, and between them others that the filters drop.
fn events(count: usize) -> String {
    (1..=count)
        .map(|number| {
            let object = number % OBJECTS;
            format!(
                r#"{{"type":"node","action":"update","state":"Unreachable","resource_uri":"/api/v1/node/{object}/","name":"{number}","exact":1741064767890123457}}
{{"type":"service","action":"update","state":"Running","resource_uri":"/api/v1/service/{object}/","name":"{number}"}}
"#
            )
        })
        .collect()
}

/// PagerDuty, and the numbers of the events it got, in that order.
fn pager() -> (FakeHttp, Arc<Mutex<Vec<usize>>>) {
    let received = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&received);
    let server = FakeHttp::start(move |request| {
        let body = request.json();
        let name = body["payload"]["custom_details"]["name"].as_str().and_then(|name| name.parse().ok());
        log.lock().expect("no test panics in here").push(name.unwrap_or_else(|| panic!("no number in {body}")));
        Answer::json(r#"{"status":"success"}"#).with_status(202)
    });
    (server, received)
}

/// A script of the bus as the leader of a process group, so that a test can kill all of it at once.
fn start(command: &str) -> Running {
    let mut command = shell(&format!("exec {command}"));
    command.env("PAGERDUTY_KEY", KEY);
    Running::start_group(command)
}

/// How many events were sent, came, never came, and came again; and that those of an object came in order the first time.
#[track_caller]
fn account(what: &str, sent: usize, received: &[usize]) -> usize {
    let distinct: BTreeSet<usize> = received.iter().copied().collect();
    let lost = (1..=sent).filter(|number| !distinct.contains(number)).count();
    let repeated = received.len() - distinct.len();
    eprintln!("{what}: {sent} sent, {} delivered, {lost} lost, {repeated} repeated", distinct.len());
    assert_eq!((distinct.len(), lost), (sent, 0), "{what}");
    let (mut newest, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for &number in received {
        if seen.insert(number) {
            let before = newest.insert(number % OBJECTS, number);
            assert!(before.is_none_or(|before| before < number), "{what}: {number} came after {before:?}");
        }
    }
    repeated
}

/// Waits longer than for anything else: a broker's clients take seconds to find one another.
#[track_caller]
fn until_received(received: &Mutex<Vec<usize>>, count: usize, running: &[Running]) {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let got: BTreeSet<usize> = received.lock().expect("no test panics in there").iter().copied().collect();
        if got.len() >= count {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{} of {count} came\n{}",
            got.len(),
            running.iter().map(Running::stderr).collect::<String>()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// librdkafka's own cluster for tests, which Debian's kcat has built in.
fn kafka() -> (Running, String) {
    let mut command = Command::new("kcat");
    command.args(["-b", "mock:1", "-P", "-t", "_", "-X", "test.mock.num.brokers=3", "-d", "mock"]);
    clean(&mut command);
    let broker = Running::start(command);
    broker.until_stderr("bootstrap.servers=").until_stderr("\n");
    let said = broker.stderr();
    let brokers = said.split("bootstrap.servers=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let brokers = brokers.expect("it was waited for").to_owned();
    (broker, brokers)
}

fn publish(brokers: &str, events: &str) {
    let publish = start(&format!("'{}' tutum -b {brokers}", script("kafka-publish")));
    publish.input(events.as_bytes()).finish().expect_code(0);
}

#[test]
fn a_partition_of_kafka_loses_nothing_whatever_is_killed() {
    if !tool("kcat") {
        return;
    }
    let sent = 1_600;
    let (_broker, brokers) = kafka();
    publish(&brokers, &events(sent));
    let (server, received) = pager();
    let scratch = Scratch::new();
    let consume = |partition: usize| {
        let file = |name: &str| format!("{}.{partition}", scratch.path(name).display());
        start(&format!(
            "'{}' tutum {partition} '{}' 'tutum-filter --type node | to-pagerduty --event trigger --rate 100000/s --url {} --spool {} | tee -a {}' -b {brokers}",
            script("kafka-partition"),
            file("next"),
            server.url("/v2/enqueue"),
            file("spool"),
            file("audit"),
        ))
    };
    let mut members: Vec<Running> = (0..4).map(consume).collect();
    // All of it at once, three times.
    for part in 1..=3 {
        until_received(&received, sent * part / 6, &members);
        for member in members.drain(..) {
            signal_group(member.id(), "KILL");
            member.finish();
        }
        members = (0..4).map(consume).collect();
    }
    // Only the sink, only the filter, only the client: the rest ends by itself and says so.
    for (part, name) in [(4, "to-pagerduty"), (5, "tutum-filter"), (5, "kcat")] {
        until_received(&received, sent * part / 6, &members);
        let member = members.remove(0);
        until("the stage runs", || descendant(member.id(), name).is_some());
        send_signal(descendant(member.id(), name).expect("it was found"), "KILL");
        let ended = member.finish();
        assert_ne!(ended.code, 0, "without {name}: {}", ended.stderr);
        members.insert(0, consume(0));
    }
    until_received(&received, sent, &members);
    // The last offsets are in the files; TERM drains.
    let offset = |partition: usize| scratch.read(&format!("next.{partition}")).trim().parse::<usize>().unwrap_or(0);
    until("every offset is kept", || (0..4).map(offset).sum::<usize>() >= 2 * sent - 8);
    for member in members {
        // Before that it has nothing to drain.
        until("it has begun", || descendant(member.id(), "kcat").is_some());
        signal_group(member.id(), "TERM");
        member.finish().expect_code(0);
    }
    let received = received.lock().expect("no test panics in there").clone();
    account("kafka-partition, 4 partitions, 3 times kill -9 of all, of a sink, a filter and a client", sent, &received);
    let exact = scratch.read("audit.0");
    assert!(!exact.is_empty() && exact.lines().all(|line| line.contains(r#""exact":1741064767890123457"#)), "{exact}");
}

#[test]
fn a_group_shares_kafkas_partitions() {
    if !tool("kcat") {
        return;
    }
    let sent = 400;
    let (_broker, brokers) = kafka();
    publish(&brokers, &events(sent));
    let scratch = Scratch::new();
    let member = |name: &str| {
        start(&format!(
            "bash -c \"'{}' tutum pagers -b {brokers} -X session.timeout.ms=6000 -X heartbeat.interval.ms=500 | tutum-filter --type node >>'{}'\"",
            script("kafka-group"),
            scratch.path(name).display()
        ))
    };
    let objects = |name: &str| -> BTreeSet<String> {
        scratch
            .read(name)
            .lines()
            .filter_map(|line| Some(line.split("resource_uri\":\"").nth(1)?.split('"').next()?.to_owned()))
            .collect()
    };
    // A member alone may have them all before the other has joined, so both are asked about what comes then.
    let members = [member("one"), member("two")];
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut rounds = 0;
    loop {
        rounds += 1;
        let (one, two) = (scratch.read("one").lines().count(), scratch.read("two").lines().count());
        if one > 0 && two > 0 && one + two >= sent {
            break;
        }
        assert!(Instant::now() < deadline, "{one} and {two}: {}{}", members[0].stderr(), members[1].stderr());
        std::thread::sleep(Duration::from_millis(200));
        if one + two >= sent * rounds {
            publish(&brokers, &events(sent));
        }
    }
    assert!(!objects("one").is_empty() && !objects("two").is_empty());
    for member in members {
        signal_group(member.id(), "TERM");
        member.finish();
    }
}

/// A port nobody listens on at the moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    listener.local_addr().expect("it is bound").port()
}

/// A RabbitMQ of its own: name, ports and directory are nobody else's. The name server of Erlang comes first, or it would stay as a daemon.
fn rabbitmq(scratch: &Scratch) -> ([Running; 2], String) {
    let [port, distribution, names] = [free_port(), free_port(), free_port()];
    let mut command = Command::new("epmd");
    command.args(["-port", &names.to_string(), "-address", "127.0.0.1"]);
    clean(&mut command);
    let names_server = Running::start(command);
    let home = scratch.path("rabbitmq");
    std::fs::create_dir(&home).expect("it can be made");
    std::fs::write(home.join("plugins"), "[].\n").expect("it can be written");
    // Not the wrapper in PATH, which wants to be root or rabbitmq.
    let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    clean(&mut command);
    command
        .env("HOME", &home)
        .env("RABBITMQ_NODENAME", format!("tutum-{port}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("ERL_EPMD_PORT", names.to_string())
        .env("RABBITMQ_MNESIA_BASE", home.join("data"))
        .env("RABBITMQ_LOG_BASE", home.join("log"))
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"))
        .env("RABBITMQ_CONFIG_FILE", home.join("none"))
        .env("RABBITMQ_CONF_ENV_FILE", home.join("none"))
        // The broker takes the script's place, and ends with the test.
        .env("RUNNING_UNDER_SYSTEMD", "true");
    let broker = Running::start(command);
    let deadline = Instant::now() + Duration::from_secs(120);
    while !broker.stdout().contains("Server startup complete") {
        assert!(Instant::now() < deadline, "RabbitMQ does not start: {}{}", broker.stdout(), broker.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
    let password = scratch.write("password", "username:guest\npassword:guest\n");
    ([broker, names_server], format!("-s 127.0.0.1 --port {port} --authfile '{}'", password.display()))
}

#[test]
fn rabbitmq_forgets_an_event_only_when_it_is_delivered() {
    if !(tool("amqp-consume") && tool("epmd")) {
        return;
    }
    if !Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").exists() {
        eprintln!("skipped: rabbitmq-server is not installed");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must not skip");
        return;
    }
    let sent = 120;
    let scratch = Scratch::new();
    let (_broker, options) = rabbitmq(&scratch);
    let publish = start(&format!("'{}' tutum {options}", script("rabbitmq-publish")));
    let input = events(sent).replacen('\n', "\nno event\n", 1);
    publish.input(input.as_bytes()).finish().expect_code(0);

    let (server, received) = pager();
    let refused = scratch.path("refused");
    let consume = |url: &str| {
        start(&format!(
            "'{}' tutum '{}' 'tutum-filter --type node | to-pagerduty --event trigger --give-up 1s --url {url}' {options}",
            script("rabbitmq-consume"),
            refused.display()
        ))
    };
    let url = server.url("/v2/enqueue");
    for part in 1..=3 {
        let member = consume(&url);
        until_received(&received, sent * part / 5, std::slice::from_ref(&member));
        signal_group(member.id(), "KILL");
        member.finish();
    }
    // Only the sink: its event goes back, and the consumer ends with the sink's status.
    let mut member = consume(&url);
    until("a sink was killed", || {
        // One that was at its end already is killed in vain.
        descendant(member.id(), "to-pagerduty").into_iter().for_each(|sink| send_signal(sink, "KILL"));
        member.has_ended()
    });
    let ended = member.finish();
    assert_eq!(ended.code, 137, "{}", ended.stderr);
    let member = consume(&url);
    until_received(&received, sent, std::slice::from_ref(&member));
    signal_group(member.id(), "TERM");
    member.finish().expect_code(0);

    let received = received.lock().expect("no test panics in there").clone();
    let repeated = account("rabbitmq-consume, 3 times kill -9 of all, once of a sink, TERM", sent, &received);
    assert!(repeated <= 5, "one event at a time is in doubt, and {repeated} came again");
    assert_eq!(scratch.read("refused"), "no event\n", "what is no event is kept and not tried for ever");
}

#[test]
fn every_script_is_in_the_readme_and_says_how_it_is_used() {
    let readme = include_str!("../../scripts/bus/README.md");
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("bin")).expect("it can be made");
    for tool in ["bash", "env", "sed", "dirname", "readlink"] {
        let link = format!("ln -s \"$(command -v {tool})\" '{}'", scratch.path("bin").display());
        Running::start(shell(&link)).finish().expect_code(0);
    }
    for name in ["kafka-publish", "kafka-group", "kafka-partition", "rabbitmq-publish", "rabbitmq-consume"] {
        assert!(readme.contains(&format!("| `{name} ")), "{name}");
        let asked = start(&format!("'{}'", script(name))).finish().expect_code(2);
        assert!(asked.stderr.contains("usage: ") && asked.stdout.is_empty(), "{name}: {}", asked.stderr);
        // A host without the client: no restart will mend that.
        let mut without = shell(&format!("exec '{}' topic 0 '{}' true", script(name), scratch.path("file").display()));
        without.env("PATH", scratch.path("bin"));
        let asked = Running::start(without).finish().expect_code(2);
        assert!(asked.stderr.contains(" is not installed"), "{name}: {}", asked.stderr);
    }
}

#[test]
fn a_pipeline_ends_with_the_status_a_supervisor_must_know_of() {
    for (pipeline, code) in [
        ("true | true", 0),
        ("(exit 1) | true", 1),
        ("(exit 3) | (exit 4)", 3),
        ("(exit 137) | (exit 2) | (exit 1)", 2),
        ("(exit 1) | (exit 137) | true", 137),
        ("echo 'an unfinished", 2),
    ] {
        let mut command = Command::new(script("run-pipeline"));
        command.arg(pipeline);
        assert_eq!(Running::start(command).finish().code, code, "{pipeline}");
    }
}
