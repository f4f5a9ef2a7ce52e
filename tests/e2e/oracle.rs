//! The oracle of delivery: numbered events in, a seeded schedule of faults, restarts until quiet; then every accepted event was received, or is a
//! dead letter with its reason, nothing unknown was received, order per key holds, and the books balance. Of what has an id of its own,
//! as documents have, nothing is there twice.
//!
//! `TUTUM_ORACLE_SEEDS=1000..2000` runs other seeds (scripts/soak does).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::support::bulk::{FakeIndex, actions};
use super::support::http::{Answer, FakeHttp, Request};
use super::support::{Finished, Running, Scratch, command, until};

const KEY: &str = "0123456789abcdef0123456789abcdef";
/// Events of one seed.
const EVENTS: u64 = 40;
/// Different objects among them.
const OBJECTS: u64 = 4;

/// A random number that only depends on the seed and the draw (splitmix64, public domain).
fn random(seed: u64, draw: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(draw.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Slack,
    PagerDuty,
    Elasticsearch,
}

impl Sink {
    fn command(self, server: &FakeHttp, spool: &Scratch, more: &[&str]) -> std::process::Command {
        let (name, own): (_, &[&str]) = match self {
            // Every event of a folded message is shown, by its number.
            Sink::Slack => ("to-slack", &["--text", "{{ name }}", "--fold", "1000"]),
            Sink::PagerDuty => ("to-pagerduty", &["--event", "trigger"]),
            Sink::Elasticsearch => ("to-elasticsearch", &["--batch", "8,5ms", "--gzip"]),
        };
        let mut command = command(name, own);
        command.args(["--stats", "--rate", "200/s", "--timeout", "3s", "--spool"]).arg(spool.path("spool")).args(more);
        match self {
            Sink::Slack => command.env("SLACK_URL", server.url("/slack")),
            Sink::PagerDuty => command.env("PAGERDUTY_KEY", KEY).args(["--url", &server.url("/v2/enqueue")]),
            Sink::Elasticsearch => command.env("ELASTICSEARCH_API_KEY", KEY).args(["--url", &server.url("")]),
        };
        command
    }

    /// The numbers of the events in a request, in order.
    fn numbers(self, request: &Request) -> Vec<u64> {
        match self {
            Sink::Slack => {
                let body = request.json();
                let text = body["text"].as_str().expect("a message has a text");
                // "5 events came at once:" and "The newest states:" are not numbers.
                text.split("\nThe newest")
                    .next()
                    .unwrap_or_default()
                    .lines()
                    .filter_map(|line| line.trim_start_matches("• ").parse().ok())
                    .collect()
            }
            Sink::PagerDuty => vec![number_in(&request.json()["payload"]["custom_details"])],
            Sink::Elasticsearch => actions(request).iter().map(|(_, _, document)| number_in(document)).collect(),
        }
    }

    /// What order is kept for.
    fn lane(self, number: u64) -> u64 {
        match self {
            Sink::Slack => 0,
            Sink::PagerDuty => number % OBJECTS,
            // An item goes again while those behind it are stored: documents are found by their time.
            Sink::Elasticsearch => number,
        }
    }
}

fn event(number: u64) -> String {
    format!(
        r#"{{"type":"node","action":"update","state":"Unreachable","resource_uri":"/api/v1/node/{}/","name":"{number}","received_at":"2025-03-04T05:06:07.890Z"}}"#,
        number % OBJECTS
    )
}

fn number_of(line: &str) -> u64 {
    number_in(&serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
}

fn number_in(event: &serde_json::Value) -> u64 {
    event["name"].as_str().and_then(|name| name.parse().ok()).unwrap_or_else(|| panic!("no number in {event}"))
}

/// The service: takes what it takes, by the schedule, and remembers it.
struct Service {
    server: FakeHttp,
    /// The numbers it has, in the order it got them.
    received: Arc<Mutex<Vec<u64>>>,
    healthy: Arc<AtomicU64>,
}

fn service(sink: Sink, seed: u64) -> Service {
    let received = Arc::new(Mutex::new(Vec::new()));
    let healthy = Arc::new(AtomicU64::new(0));
    let (log, well) = (Arc::clone(&received), Arc::clone(&healthy));
    if sink == Sink::Elasticsearch {
        return Service { server: bulk(seed, log, well), received, healthy };
    }
    let server = FakeHttp::start(move |request| {
        let take = || log.lock().expect("no test panics in here").extend(sink.numbers(request));
        let good = || match sink {
            Sink::Slack => Answer::text("ok"),
            _ => Answer::json(r#"{"status":"success"}"#).with_status(202),
        };
        if well.load(Ordering::SeqCst) == 1 {
            take();
            return good();
        }
        match random(seed, request.number as u64 + 1000) % 40 {
            0 => Answer::status(500),
            1 => Answer::status(503).header("Retry-After", "1"),
            2 => Answer::status(429).header("Retry-After", "1"),
            3 => Answer::status(429),
            // Reset before anything was made of it, and after it was taken: the sender cannot tell.
            4 => Answer::reset(),
            5 => {
                take();
                Answer::reset()
            }
            6 => {
                take();
                Answer::hang_up()
            }
            7 => Answer::silence(),
            8 => Answer::status(400).body("invalid_payload"),
            _ => {
                take();
                good().after(Duration::from_millis(random(seed, request.number as u64 + 5000) % 8))
            }
        }
    });
    Service { server, received, healthy }
}

/// A `_bulk` that misbehaves by request and by item. What it will never take is the same at every try: some documents do not fit the mapping, some
/// are too large by themselves.
fn bulk(seed: u64, log: Arc<Mutex<Vec<u64>>>, well: Arc<AtomicU64>) -> FakeHttp {
    let index = FakeIndex::default();
    FakeHttp::start(move |request| {
        let is_well = well.load(Ordering::SeqCst) == 1;
        let numbers = Sink::Elasticsearch.numbers(request);
        let is_giant = |number: &u64| number % 17 == seed % 17;
        let most = 1 + random(seed, 9) as usize % 8;
        if numbers.len() > most || numbers.iter().any(is_giant) {
            return Answer::status(413);
        }
        let store = || {
            let mut draw = request.number as u64 * 100 + 10_000;
            let answer = index.answer(request, |document| {
                draw += 1;
                match random(seed, draw) % 24 {
                    _ if number_in(document) % 13 == seed % 13 => Some((400, "document_parsing_exception")),
                    0 if !is_well => Some((429, "es_rejected_execution_exception")),
                    1 if !is_well => Some((503, "unavailable_shards_exception")),
                    2 if !is_well => Some((403, "cluster_block_exception")),
                    _ => None,
                }
            });
            *log.lock().expect("no test panics in here") = index.documents().iter().map(number_in).collect();
            answer
        };
        if is_well {
            return store();
        }
        match random(seed, request.number as u64 + 1000) % 24 {
            0 => Answer::status(500),
            1 => Answer::status(503).header("Retry-After", "1"),
            2 => Answer::status(429),
            // Reset before anything was stored, and after: the sender cannot tell.
            3 => Answer::reset(),
            4 => {
                store();
                Answer::reset()
            }
            5 => {
                store();
                Answer::hang_up()
            }
            6 => store().cut_short(),
            7 => Answer::silence(),
            8 => {
                store();
                Answer::silence()
            }
            9 => Answer::text("<html>back soon</html>"),
            _ => store().after(Duration::from_millis(random(seed, request.number as u64 + 5000) % 8)),
        }
    })
}

/// The accounts a program printed last.
fn accounts(finished: &Finished) -> serde_json::Value {
    let line = finished.stderr.lines().rfind(|line| line.starts_with("{\"program\""));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no accounts in {}", finished.stderr)))
        .expect("accounts are JSON")
}

#[track_caller]
fn assert_balance(seed: u64, finished: &Finished) {
    let accounts = accounts(finished);
    let count = |name: &str| accounts[name].as_u64().unwrap_or_else(|| panic!("{name} in {accounts}"));
    let settled: u64 = ["delivered", "folded", "skipped", "dead", "spooled", "waiting"].into_iter().map(count).sum();
    assert_eq!(
        count("in") - count("faulty") - count("unaccepted") + count("recovered"),
        settled,
        "seed {seed}: {accounts}"
    );
}

/// One life of the story.
fn play(sink: Sink, seed: u64) {
    let service = service(sink, seed);
    let scratch = Scratch::new();
    let mut accepted: BTreeSet<u64> = BTreeSet::new();
    let mut next = 1;
    let mut lives = 0;
    while next <= EVENTS {
        lives += 1;
        let draw = |what: u64| random(seed, lives * 10 + what);
        let mut running = Running::start(sink.command(&service.server, &scratch, &["--drain", "300ms"]));
        let last = (next + 5 + draw(0) % 20).min(EVENTS);
        running.write(&(next..=last).map(|number| event(number) + "\n").collect::<String>());
        // What it passed on it has accepted; after that it may die at any moment.
        let passed = 1 + draw(1) % (last - next + 1);
        for _ in 0..passed {
            accepted.insert(number_of(&running.line()));
        }
        thread::sleep(Duration::from_millis(draw(2) % 60));
        let finished = match draw(3) % 3 {
            0 => {
                running.signal("KILL");
                running.finish()
            }
            1 => {
                running.signal("TERM");
                let finished = running.finish();
                assert_balance(seed, &finished);
                assert!([0, 1].contains(&finished.code), "seed {seed}: {finished:?}");
                finished
            }
            _ => {
                running.signal("INT");
                thread::sleep(Duration::from_millis(10));
                running.signal("KILL");
                running.finish()
            }
        };
        let complete = finished.stdout.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        accepted.extend(complete.map(number_of));
        // The stage before would give what was not accepted to the next run; what was is gone from there.
        next = accepted.last().map_or(next, |last| last + 1);
    }
    service.healthy.store(1, Ordering::SeqCst);
    let finished = Running::start(sink.command(&service.server, &scratch, &[])).finish();
    assert_balance(seed, &finished);
    assert_eq!(accounts(&finished)["spooled"], 0);
    accepted.extend(finished.stdout.lines().map(number_of));

    let listed = Running::start(sink.command(&service.server, &scratch, &["--list"])).finish().expect_code(0);
    let mut dead = BTreeSet::new();
    for line in listed.lines() {
        let letter: serde_json::Value = serde_json::from_str(line).expect("a dead letter is JSON");
        let reason = letter["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("400") || reason.starts_with("413"), "seed {seed}: {line}");
        dead.insert(number_of(&letter["event"].to_string()));
    }
    let received = service.received.lock().expect("no test panics in there").clone();
    let known: BTreeSet<u64> = received.iter().copied().collect();
    let lost: Vec<_> = accepted.iter().filter(|number| !known.contains(number) && !dead.contains(number)).collect();
    assert!(lost.is_empty(), "seed {seed}: accepted and neither received nor dead: {lost:?}");
    assert_eq!(accepted.len() as u64, EVENTS, "seed {seed}");
    assert!(known.iter().all(|number| (1..=EVENTS).contains(number)), "seed {seed}: unknown events in {known:?}");
    let unseen: Vec<_> = known.union(&dead).filter(|number| !accepted.contains(number)).collect();
    assert!(unseen.is_empty(), "seed {seed}: taken and never passed on: {unseen:?}");
    if sink == Sink::Elasticsearch {
        // The same event has the same id: there are as many documents as distinct events that can be stored.
        assert_eq!(received.len(), known.len(), "seed {seed}: some are stored twice: {received:?}");
        assert_eq!(known.len() + dead.len(), EVENTS as usize, "seed {seed}: stored {known:?}, dead {dead:?}");
    }
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for number in received {
        // Twice is allowed; out of order is not. Of what the spool had taken and not passed on before a kill the stage before gives us another copy,
        // behind everything it gave since: if the first one became a dead letter, the second one is received late, and rightly so.
        if seen.insert(number) && !dead.contains(&number) {
            let before = newest.insert(sink.lane(number), number);
            assert!(before.is_none_or(|before| before < number), "seed {seed}: {number} came after {before:?}");
        }
    }
}

fn seeds(usual: Range<u64>) -> Range<u64> {
    let given = std::env::var("TUTUM_ORACLE_SEEDS").ok();
    let range = given.as_ref().and_then(|text| text.split_once("..")).map(|(from, to)| (from.parse(), to.parse()));
    match range {
        Some((Ok(from), Ok(to))) => from..to,
        _ => usual,
    }
}

/// Plays the seeds, as many beside one another as pays: most of a story is waiting.
fn play_all(seeds: Range<u64>, sink: fn(u64) -> Sink) {
    let next = Arc::new(AtomicU64::new(seeds.start));
    let players: Vec<_> = (0..24)
        .map(|_| {
            let (next, end) = (Arc::clone(&next), seeds.end);
            thread::spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    play(sink(seed), seed);
                }
            })
        })
        .collect();
    let failed = players.into_iter().filter_map(|player| player.join().err()).count();
    assert_eq!(failed, 0, "stories went wrong; the seed is above");
}

#[test]
fn whatever_goes_wrong_every_accepted_event_is_received_or_a_dead_letter() {
    play_all(seeds(0..200), |seed| if seed.is_multiple_of(2) { Sink::Slack } else { Sink::PagerDuty });
}

#[test]
fn whatever_goes_wrong_every_event_is_one_document_or_a_dead_letter() {
    play_all(seeds(0..120), |_| Sink::Elasticsearch);
}

/// A spool on a file system too small for it: the error is clear, nothing accepted is lost, and room makes it go on.
#[test]
fn a_full_disk_is_told_and_nothing_accepted_is_lost() {
    let scratch = Scratch::new();
    let mount = scratch.path("small");
    std::fs::create_dir(&mount).expect("it can be made");
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&mount).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: a tiny file system cannot be mounted here");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must not skip");
        return;
    }
    let unmount = || std::process::Command::new("umount").arg(&mount).status();
    let server = FakeHttp::start(|_| Answer::silence());
    let slack = |more: &[&str]| {
        let mut command = command("to-slack", more);
        command
            .env("SLACK_URL", server.url("/slack"))
            .args(["--drain", "200ms", "--stats", "--spool"])
            .arg(mount.join("spool"));
        command
    };
    let input: String = (1..=5_000).map(|number| event(number) + "\n").collect();
    let finished = Running::start(slack(&[])).input(input.as_bytes()).finish();
    let listed = Running::start(slack(&["--list"])).finish();
    let check = std::panic::catch_unwind(|| {
        assert_eq!(finished.code, 4, "{}", finished.stderr);
        assert!(finished.stderr.contains("No space left on device"), "{}", finished.stderr);
        let passed: Vec<u64> = finished.stdout.lines().map(number_of).collect();
        let kept = listed.lines().len();
        assert!(passed.len() > 100 && passed.len() < 5_000, "{} were passed on", passed.len());
        assert!(kept >= passed.len(), "{} were passed on and {kept} are in the spool", passed.len());
        assert_balance(0, &finished);
    });
    until("it is unmounted", || unmount().is_ok_and(|status| status.success()));
    if let Err(panic) = check {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn two_runs_do_not_share_a_spool_and_a_list_does_not_need_it() {
    let server = FakeHttp::start(|_| Answer::silence());
    let scratch = Scratch::new();
    let mut first = Running::start(Sink::Slack.command(&server, &scratch, &[]));
    first.write(&(event(1) + "\n"));
    first.line();
    let second = Running::start(Sink::Slack.command(&server, &scratch, &[])).finish().expect_code(4);
    assert!(second.stderr.contains("in use by another run"), "{}", second.stderr);
    let listed = Running::start(Sink::Slack.command(&server, &scratch, &["--list"])).finish().expect_code(0);
    assert!(listed.stdout.contains(r#""status":"waiting""#) && listed.stdout.contains(&event(1)), "{}", listed.stdout);
    let purge = Running::start(Sink::Slack.command(&server, &scratch, &["--purge", "--yes"])).finish().expect_code(4);
    assert!(purge.stderr.contains("in use by another run"));
    drop(first);
    let asked = Running::start(Sink::Slack.command(&server, &scratch, &["--purge"])).finish().expect_code(2);
    assert!(asked.stderr.contains("1 waiting records and 0 dead letters: --purge needs --yes"), "{}", asked.stderr);
    Running::start(Sink::Slack.command(&server, &scratch, &["--purge", "--yes"])).finish().expect_code(0);
    let listed = Running::start(Sink::Slack.command(&server, &scratch, &["--list"])).finish().expect_code(0);
    assert_eq!(listed.stdout, "");
}

#[test]
fn refused_credentials_keep_the_queue_and_dead_letters_go_again_when_asked() {
    let scratch = Scratch::new();
    let refusing = FakeHttp::script([Answer::status(403).body("invalid_token")]);
    let input = event(1) + "\n" + &event(2) + "\n";
    let first = Sink::Slack.command(&refusing, &scratch, &["--no-fold"]);
    let finished = Running::start(first).input(input.as_bytes()).finish().expect_code(3);
    assert_eq!((finished.stdout.as_str(), accounts(&finished)["spooled"].as_u64()), (input.as_str(), Some(2)));
    let rejecting = FakeHttp::script([Answer::status(400).body("invalid_payload")]);
    let second = Sink::Slack.command(&rejecting, &scratch, &["--no-fold", "--receipts"]);
    let finished = Running::start(second).finish().expect_code(1);
    assert_eq!(finished.stdout.matches(r#""status":"dead""#).count(), 2, "{}", finished.stdout);
    let taking = FakeHttp::script([Answer::text("ok")]);
    // Standard input stays open and is not waited for.
    let retry = Running::start(Sink::Slack.command(&taking, &scratch, &["--no-fold", "--retry"]));
    until("both went again", || taking.requests().len() == 2);
    retry.finish().expect_code(0);
    let nothing = Running::start(Sink::Slack.command(&taking, &scratch, &["--list"])).finish().expect_code(0);
    assert_eq!(nothing.stdout, "");
}

#[test]
fn damage_that_retry_or_purge_finds_is_named() {
    let server = FakeHttp::script([Answer::text("ok")]);
    for action in ["--retry", "--purge"] {
        let scratch = Scratch::new();
        Running::start(Sink::Slack.command(&server, &scratch, &[])).finish().expect_code(0);
        let dir = scratch.path("spool");
        std::fs::write(dir.join("dead.ndjson"), "not one of ours\n").unwrap();
        let finished = Running::start(Sink::Slack.command(&server, &scratch, &[action, "--yes"])).finish();
        assert!(finished.stderr.contains("dead.ndjson: damaged"), "{}", finished.stderr);
    }
}

#[test]
fn a_full_spool_is_back_pressure_and_its_records_come_in_order() {
    let server = FakeHttp::start(|_| Answer::silence());
    let scratch = Scratch::new();
    let args = ["--no-fold", "--spool-size", "64KiB", "--drain", "200ms"];
    let mut running = Running::start(Sink::Slack.command(&server, &scratch, &args));
    let input: String = (1..=2_000).map(|number| event(number) + "\n").collect();
    let mut passed = 0;
    running = running.input(input.as_bytes());
    server.wait_for(1);
    running.line();
    passed += 1;
    running.signal("USR1").until_stderr("\"program\"");
    running.signal("TERM");
    let finished = running.finish().expect_code(1);
    passed += finished.stdout.lines().count() - 1;
    assert!(passed < 2_000, "all {passed} records fitted into 64KiB");
    let healthy = FakeHttp::script([Answer::text("ok")]);
    Running::start(Sink::Slack.command(&healthy, &scratch, &["--no-fold", "--rate", "100000/s"]))
        .finish()
        .expect_code(0);
    let sent: Vec<u64> = healthy.requests().iter().flat_map(|request| Sink::Slack.numbers(request)).collect();
    assert_eq!(sent, (1..=passed as u64).collect::<Vec<_>>());
}
