//! The enricher against a scripted API and a clock that moves when told: no thread, no network, no sleep.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::flow::stage::tests::start;

/// What the enricher asked and what it will be answered.
#[derive(Clone, Default)]
struct Script(Rc<RefCell<Scripted>>);

#[derive(Default)]
struct Scripted {
    asked: Vec<String>,
    answers: Vec<(String, Outcome)>,
    renewals: u32,
    renewed: bool,
}

impl Asker for Script {
    fn ask(&mut self, path: &str) {
        self.0.borrow_mut().asked.push(path.to_owned());
    }

    fn answers(&mut self) -> Vec<(String, Outcome)> {
        std::mem::take(&mut self.0.borrow_mut().answers)
    }

    fn renew(&mut self) -> bool {
        let mut script = self.0.borrow_mut();
        script.renewals += 1;
        std::mem::take(&mut script.renewed)
    }

    fn random(&self) -> f64 {
        0.0
    }
}

/// An enricher under test, its clock and its output.
struct Bench {
    script: Script,
    stage: Enrich<Script>,
    diagnostics: Diagnostics,
    now: Moment,
    lines: Lines,
}

impl Bench {
    fn new(args: &EnrichArgs) -> Bench {
        let (script, diagnostics) = (Script::default(), Diagnostics::memory("tutum-enrich"));
        let stage = Enrich::new(args, script.clone(), diagnostics.clone());
        Bench { script, stage, diagnostics, now: start(), lines: Lines::default() }
    }

    fn take(&mut self, line: &str) {
        self.stage.take(&Event::parse(line.as_bytes()).unwrap(), self.now, &mut self.lines);
    }

    /// An event about the object `path` without parents.
    fn event(&mut self, path: &str) {
        self.take(&format!(r#"{{"resource_uri":"{path}"}}"#));
    }

    /// What was asked since the last call.
    fn asked(&mut self) -> Vec<String> {
        std::mem::take(&mut self.script.0.borrow_mut().asked)
    }

    fn answer(&mut self, path: &str, outcome: Outcome) {
        self.script.0.borrow_mut().answers.push((path.to_owned(), outcome));
        self.wake();
    }

    fn found(&mut self, path: &str, object: &str) {
        self.answer(path, Outcome::Found(object.into()));
    }

    fn wake(&mut self) {
        self.stage.wake(self.now, &mut self.lines).unwrap();
    }

    /// The clock moves on, and the pump wakes the stage.
    fn pass_time(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
        self.wake();
    }

    /// What was passed on since the last call.
    fn passed(&mut self) -> Vec<String> {
        let text = self.lines.text();
        self.lines.wrote(text.len());
        text.lines().map(str::to_owned).collect()
    }

    /// How long until it wants to be woken.
    fn waits(&self) -> Option<Duration> {
        self.stage.deadline().map(|deadline| deadline.saturating_duration_since(self.now.at))
    }

    fn count(&self, name: &str) -> u64 {
        self.stage.accounts().count(name)
    }
}

fn bench() -> Bench {
    Bench::new(&EnrichArgs::default())
}

fn nothing(reason: &str) -> Outcome {
    Outcome::Nothing(reason.to_owned())
}

fn trouble(reason: &str) -> Outcome {
    Outcome::Trouble { reason: reason.to_owned(), retry_after: None }
}

fn retry_after(value: &str) -> Outcome {
    Outcome::Trouble { reason: "429 too many requests".to_owned(), retry_after: Some(value.to_owned()) }
}

fn refused() -> Outcome {
    Outcome::Refused("401 unauthorized".to_owned())
}

const A: &str = "/api/v1/service/a/";
const B: &str = "/api/v1/service/b/";
const STACK: &str = "/api/v1/stack/s/";

fn line(path: &str, rest: &str) -> String {
    format!(r#"{{"resource_uri":"{path}",{rest}}}"#)
}

#[test]
fn the_object_and_its_parents_are_appended_and_the_rest_stays_as_it_came() {
    let mut bench = bench();
    bench.take(
        r#"{ "n" : 1.10, "resource_uri":"/api/v1/service/a", "parents":["/api/v1/stack/s/","/api/v1/node/n/"] } "#,
    );
    assert_eq!(bench.asked(), [A, STACK, "/api/v1/node/n/"]);
    bench.found(STACK, r#"{"name":"shop"}"#);
    bench.answer("/api/v1/node/n/", nothing("404 not found"));
    assert!(bench.passed().is_empty());
    bench.found(A, r#"{"n":1E5}"#);
    assert_eq!(
        bench.passed(),
        [concat!(
            r#"{ "n" : 1.10, "resource_uri":"/api/v1/service/a", "parents":["/api/v1/stack/s/","/api/v1/node/n/"] ,"#,
            r#""resource":{"n":1E5},"parent":{"stack":{"name":"shop"}},"enrich_error":{"parent":{"node":"404 not found"}}} "#
        )]
    );
    assert_eq!((bench.count("enriched"), bench.count("errors"), bench.count("waiting")), (1, 1, 0));
}

#[test]
fn the_order_is_kept_and_everything_waits_its_turn() {
    let mut bench = bench();
    let others = [r#"{"type":"stream","action":"open","resource_uri":"/v1/events"}"#, r#"{"no":"object"}"#];
    bench.take(others[0]);
    assert_eq!(bench.passed(), others[..1]);
    bench.event(A);
    bench.take(others[0]);
    bench.event(B);
    bench.take(others[1]);
    assert_eq!(bench.asked(), [A, B]);
    bench.found(B, "{}");
    assert!(bench.passed().is_empty() && bench.stage.busy());
    bench.found(A, "{}");
    assert_eq!(bench.passed(), [&line(A, r#""resource":{}"#), others[0], &line(B, r#""resource":{}"#), others[1]]);
    assert!(!bench.stage.busy());
    assert_eq!(bench.count("untouched"), 3);
}

#[test]
fn one_request_an_object_and_no_more_than_allowed_at_once() {
    let mut bench = Bench::new(&EnrichArgs { concurrency: 2, ..EnrichArgs::default() });
    for child in 0..3 {
        bench.take(&format!(r#"{{"resource_uri":"/api/v1/container/{child}/","parents":["{STACK}"]}}"#));
    }
    assert_eq!(bench.asked(), ["/api/v1/container/0/", STACK]);
    bench.found(STACK, "{}");
    assert_eq!(bench.asked(), ["/api/v1/container/1/"]);
    bench.found("/api/v1/container/0/", "{}");
    assert_eq!((bench.asked(), bench.passed().len()), (vec!["/api/v1/container/2/".to_owned()], 1));
    bench.found("/api/v1/container/2/", "{}");
    bench.found("/api/v1/container/1/", "{}");
    assert!(bench.passed().iter().all(|line| line.ends_with(r#""resource":{},"parent":{"stack":{}}}"#)));
    assert_eq!(bench.count("requests"), 4);
}

#[test]
fn a_copy_serves_until_it_is_too_old() {
    let mut bench = bench();
    let child = format!(r#"{{"resource_uri":"//not asked/","parents":["{STACK}"]}}"#);
    bench.take(&child);
    bench.found(STACK, r#"{"v":1}"#);
    bench.pass_time(4900);
    bench.take(&child);
    assert_eq!((bench.asked().len(), bench.passed().len(), bench.count("cache_hits")), (1, 2, 1));
    bench.pass_time(200);
    bench.take(&child);
    assert_eq!((bench.asked().len(), bench.passed().len()), (1, 0));

    let mut bench = Bench::new(&EnrichArgs { ttl: Duration::ZERO, ..EnrichArgs::default() });
    bench.take(&child);
    bench.found(STACK, "{}");
    bench.take(&child);
    assert_eq!(bench.asked().len(), 2);
}

#[test]
fn a_missing_object_is_remembered_too() {
    let mut bench = bench();
    let child = format!(r#"{{"resource_uri":"/api/v1/service/a/","resource":1,"parents":["{STACK}"]}}"#);
    bench.take(&child);
    bench.answer(STACK, nothing("404 not found"));
    bench.take(&child);
    assert_eq!((bench.asked().len(), bench.passed().len()), (1, 2));
    bench.pass_time(6000);
    bench.take(&child);
    assert_eq!(bench.asked().len(), 1);
}

#[test]
fn an_event_about_an_object_makes_its_copy_stale() {
    let mut bench = bench();
    bench.event(A);
    bench.found(A, r#"{"v":1}"#);
    bench.event(A);
    assert_eq!(bench.asked(), [A, A]);
    bench.found(A, r#"{"v":2}"#);
    // An event that only names it as a parent is content with the copy.
    bench.take(&format!(r#"{{"resource_uri":"{STACK}","resource":1,"parents":["{A}"]}}"#));
    assert!(bench.asked().is_empty());
    let passed = bench.passed();
    assert!(
        passed[1].ends_with(r#""resource":{"v":2}}"#) && passed[2].contains(r#"{"service":{"v":2}}"#),
        "{passed:?}"
    );
}

#[test]
fn an_answer_asked_for_before_an_event_serves_only_those_before_it() {
    let mut bench = bench();
    bench.event(A);
    bench.event(A);
    bench.event(A);
    assert_eq!(bench.asked(), [A]);
    bench.found(A, r#"{"v":1}"#);
    // One more request serves both that came in the meantime.
    assert_eq!((bench.asked().len(), bench.passed()), (1, vec![line(A, r#""resource":{"v":1}"#)]));
    bench.found(A, r#"{"v":2}"#);
    assert_eq!(bench.passed(), vec![line(A, r#""resource":{"v":2}"#); 2]);
    assert!(bench.asked().is_empty());
}

#[test]
fn an_event_wanting_nothing_of_an_object_still_makes_the_answer_under_way_old() {
    let mut bench = Bench::new(&EnrichArgs {
        with: Some({
            let mut with = With::NOTHING;
            with.add("stack").unwrap();
            with
        }),
        ..EnrichArgs::default()
    });
    let child = format!(r#"{{"resource_uri":"{A}","parents":["{STACK}"]}}"#);
    bench.take(&child);
    bench.event(STACK);
    bench.found(STACK, r#"{"v":1}"#);
    assert_eq!(bench.passed().len(), 2);
    bench.take(&child);
    assert_eq!(bench.asked(), [STACK, STACK]);
}

#[test]
fn trouble_is_retried_with_a_pause() {
    let mut bench = bench();
    bench.event(A);
    for _ in 0..3 {
        assert_eq!(bench.asked(), [A]);
        bench.answer(A, trouble("503 service unavailable"));
        assert!(bench.asked().is_empty());
        bench.pass_time(999);
        assert!(bench.asked().is_empty());
        assert_eq!(bench.waits(), Some(Duration::from_millis(1)));
        bench.pass_time(1);
    }
    assert_eq!(bench.asked(), [A]);
    bench.found(A, "{}");
    assert_eq!(bench.passed(), [line(A, r#""resource":{}"#)]);
}

#[test]
fn an_event_waits_no_longer_than_its_time() {
    let mut bench = bench();
    bench.event(A);
    bench.pass_time(4000);
    bench.take(r#"{"no":"object"}"#);
    assert_eq!(bench.waits(), Some(Duration::from_secs(6)));
    bench.pass_time(6000);
    assert_eq!(
        bench.passed(),
        [line(A, r#""enrich_error":{"resource":"timed out"}"#), r#"{"no":"object"}"#.to_owned()]
    );
    // The late answer still serves the next one that only names it as a parent.
    bench.found(A, "{}");
    bench.take(&format!(r#"{{"resource_uri":"{B}","resource":1,"parents":["{A}"]}}"#));
    assert_eq!((bench.passed().len(), bench.asked().len()), (1, 1));
}

#[test]
fn nobody_waits_for_a_retry_that_would_come_too_late() {
    let mut bench = Bench::new(&EnrichArgs { timeout: Duration::from_millis(1500), ..EnrichArgs::default() });
    bench.event(A);
    bench.answer(A, trouble("502 bad gateway"));
    assert!(bench.passed().is_empty());
    bench.pass_time(1000);
    bench.answer(A, trouble("503 service unavailable"));
    assert_eq!(bench.passed(), [line(A, r#""enrich_error":{"resource":"timed out: 503 service unavailable"}"#)]);
    assert_eq!(bench.waits(), None);
}

#[test]
fn a_named_time_to_retry_is_obeyed_by_all_requests() {
    let mut bench = bench();
    bench.event(A);
    bench.event(B);
    assert_eq!(bench.asked(), [A, B]);
    bench.answer(A, retry_after("4"));
    bench.event(STACK);
    bench.found(B, "{}");
    bench.pass_time(3999);
    assert!(bench.asked().is_empty() && bench.passed().is_empty());
    bench.pass_time(1);
    assert_eq!(bench.asked(), [A, STACK]);
    // Longer than anyone may wait: everyone goes on at once, and so do those who come later.
    bench.answer(A, retry_after("60"));
    bench.answer(STACK, retry_after("60"));
    bench.event(B);
    let late = r#""enrich_error":{"resource":"timed out: 429 too many requests"}"#;
    assert_eq!(bench.passed(), [line(A, late), line(B, r#""resource":{}"#), line(STACK, late), line(B, late)]);
    assert!(bench.asked().is_empty());
    bench.pass_time(55_000);
    bench.event(A);
    assert!(bench.asked().is_empty() && bench.passed().is_empty());
    assert_eq!(bench.waits(), Some(Duration::from_secs(5)));
    bench.pass_time(5000);
    assert_eq!(bench.asked(), [A]);
    bench.found(A, "{}");
    assert_eq!(bench.passed().len(), 1);
}

#[test]
fn failures_at_the_same_moment_are_one_and_five_in_a_row_open_the_breaker() {
    let mut bench = bench();
    let paths: Vec<String> = (0..8).map(|n| format!("/api/v1/service/{n}/")).collect();
    for path in &paths {
        bench.event(path);
    }
    for round in 0..4 {
        assert_eq!(bench.asked().len(), 8, "round {round}");
        bench.pass_time(10);
        for path in &paths {
            bench.answer(path, trouble("503 service unavailable"));
        }
        bench.pass_time(1000);
        assert!(bench.passed().is_empty());
    }
    bench.answer(&paths[0], trouble("503 service unavailable"));
    let failing = r#""enrich_error":{"resource":"the API is failing: 503 service unavailable"}"#;
    assert_eq!(bench.passed(), paths.iter().map(|path| line(path, failing)).collect::<Vec<_>>());
    bench.asked();
    bench.event(A);
    assert_eq!((bench.passed(), bench.asked().len()), (vec![line(A, failing)], 0));
    assert!(
        bench
            .diagnostics
            .said()
            .contains("tutum-enrich: the API is failing: 503 service unavailable; events are passed on")
    );
}

/// A breaker that has opened by refused connections, one event after the other.
fn broken() -> Bench {
    let mut bench = bench();
    bench.event(A);
    for _ in 0..5 {
        bench.asked();
        bench.answer(A, trouble("connection refused"));
        bench.pass_time(1000);
    }
    assert_eq!(bench.passed(), [line(A, r#""enrich_error":{"resource":"the API is failing: connection refused"}"#)]);
    bench
}

#[test]
fn a_failing_api_is_probed_every_ten_seconds_until_it_answers() {
    let mut bench = broken();
    bench.event(B);
    assert_eq!(bench.passed().len(), 1);
    assert_eq!(bench.waits(), Some(Duration::from_secs(9)));
    bench.pass_time(9000);
    assert_eq!(bench.asked(), [B]);
    bench.event(A);
    assert_eq!((bench.passed().len(), bench.asked().len()), (1, 0));
    bench.answer(B, trouble("502 bad gateway"));
    bench.event(A);
    assert!(bench.passed()[0].contains("the API is failing: 502 bad gateway"));
    bench.pass_time(9999);
    assert!(bench.asked().is_empty());
    bench.pass_time(1);
    assert_eq!(bench.asked(), [A]);
    // No such object: an answer all the same.
    bench.answer(A, nothing("404 not found"));
    bench.event(B);
    assert_eq!(bench.asked(), [B]);
    bench.found(B, "{}");
    assert_eq!(bench.passed(), [line(B, r#""resource":{}"#)]);
    let said = bench.diagnostics.said();
    assert_eq!((said.matches("the API is failing").count(), said.matches("the API answers again").count()), (1, 1));
    assert_eq!(bench.stage.exit(), Exit::Success);
}

#[test]
fn copies_serve_while_the_api_is_failing() {
    let mut bench = bench();
    bench.event(STACK);
    bench.found(STACK, "{}");
    bench.event(A);
    for _ in 0..4 {
        bench.answer(A, trouble("x"));
        bench.pass_time(1000);
    }
    bench.answer(A, trouble("x"));
    bench.passed();
    bench.take(&format!(r#"{{"resource_uri":"{B}","parents":["{STACK}"]}}"#));
    assert!(
        bench.passed()[0].ends_with(r#""parent":{"stack":{}},"enrich_error":{"resource":"the API is failing: x"}}"#)
    );
}

#[test]
fn an_api_that_never_answers_opens_the_breaker_too() {
    let mut bench = bench();
    let parents = (0..5).map(|n| format!("\"/api/v1/{}/1/\"", wanted::KINDS[n])).collect::<Vec<_>>().join(",");
    bench.take(&format!(r#"{{"resource_uri":"{A}","resource":1,"parents":[{parents}]}}"#));
    bench.pass_time(10_000);
    assert_eq!(bench.passed().len(), 1);
    for path in bench.asked() {
        bench.answer(&path, trouble("timed out"));
    }
    bench.event(B);
    assert_eq!(bench.passed(), [line(B, r#""enrich_error":{"resource":"the API is failing: timed out"}"#)]);
}

#[test]
fn refused_credentials_pass_every_event_and_are_told_once() {
    let mut bench = bench();
    bench.event(A);
    bench.event(B);
    bench.answer(A, refused());
    let unauthorized = r#""enrich_error":{"resource":"401 unauthorized"}"#;
    assert_eq!(bench.passed(), [line(A, unauthorized), line(B, unauthorized)]);
    bench.answer(B, refused());
    bench.event(A);
    assert_eq!(bench.passed(), [line(A, unauthorized)]);
    assert_eq!(bench.stage.exit(), Exit::Refused);
    bench.asked();
    bench.pass_time(10_000);
    // The secrets are read again before each probe.
    assert_eq!((bench.asked(), bench.script.0.borrow().renewals), (vec![A.to_owned()], 1));
    bench.answer(A, refused());
    assert_eq!(bench.diagnostics.said().matches("credentials refused").count(), 1);
    // HUP with new secrets probes at once.
    bench.script.0.borrow_mut().renewed = true;
    bench.stage.reload();
    bench.wake();
    assert_eq!(bench.asked(), [A]);
    bench.found(A, "{}");
    assert_eq!(bench.stage.exit(), Exit::Success);
    assert!(bench.diagnostics.said().contains("credentials accepted again"));
}

#[test]
fn renewed_credentials_are_used_at_once() {
    let mut bench = bench();
    bench.event(A);
    bench.answer(A, Outcome::AskAgain);
    assert_eq!(bench.asked(), [A, A]);
    bench.found(A, "{}");
    assert_eq!((bench.passed().len(), bench.count("requests")), (1, 2));
}

#[test]
fn a_false_certificate_keeps_no_event_waiting() {
    let mut bench = bench();
    for round in 0..6 {
        bench.event(A);
        assert_eq!(bench.asked().len(), usize::from(round < 5));
        bench.answer(A, Outcome::Hopeless("forged".to_owned()));
        assert_eq!(bench.passed().len(), 1);
    }
}

#[test]
fn what_waits_when_the_time_to_drain_is_over_goes_on_at_once() {
    let mut bench = bench();
    bench.take(&format!(r#"{{"resource_uri":"{A}","parents":["{STACK}"]}}"#));
    bench.take(r#"{"no":"object"}"#);
    bench.found(A, "{}");
    bench.stage.abandon(bench.now, &mut bench.lines);
    let passed = bench.passed();
    assert!(passed[0].ends_with(r#""resource":{},"enrich_error":{"parent":{"stack":"stopped"}}}"#), "{passed:?}");
    assert_eq!((passed[1].as_str(), bench.stage.busy()), (r#"{"no":"object"}"#, false));
    // A late answer finds nobody.
    bench.found(STACK, "{}");
    assert!(bench.passed().is_empty());
}

#[test]
fn paths_that_may_not_be_asked_for_are_told() {
    let mut bench = bench();
    bench.take(r#"{"resource_uri":"https://evil.example/api/v1/service/a/","parents":["//evil.example/stack/s/"]}"#);
    assert!(bench.asked().is_empty());
    let error = r#""enrich_error":{"resource":"not a path under /api/","parent":{"stack":"not a path under /api/"}}}"#;
    assert!(bench.passed()[0].ends_with(error));
}

#[test]
fn no_more_is_taken_than_can_be_held() {
    let mut bench = bench();
    for number in 0..MOST_WAITING {
        assert!(bench.stage.ready());
        bench.event(&format!("/api/v1/service/{number}/"));
    }
    assert!(!bench.stage.ready());
    bench.pass_time(10_000);
    assert!(bench.stage.ready() && bench.passed().len() == MOST_WAITING);

    // Many events that wait for one large object do not become all their records at once.
    let mut bench = self::bench();
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
    for _ in 0..500 {
        bench.take(&format!(r#"{{"resource_uri":"//x/","parents":["{STACK}"]}}"#));
    }
    bench.found(STACK, &large);
    assert!(!bench.stage.ready());
    assert!(bench.lines.pending().len() < 3 << 20 && bench.waits() == Some(RELEASE_AGAIN));
    let mut passed = 0;
    while bench.stage.busy() {
        passed += bench.passed().len();
        bench.wake();
    }
    assert_eq!((passed + bench.passed().len(), bench.stage.held), (500, 0));
}

#[test]
fn a_record_never_becomes_too_long_for_the_next_stage() {
    let mut bench = bench();
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(4 << 20));
    let parents = (0..5).map(|n| format!("\"/api/v1/{}/1/\"", wanted::KINDS[n])).collect::<Vec<_>>().join(",");
    bench.take(&format!(r#"{{"resource_uri":"{A}","parents":[{parents}]}}"#));
    for path in bench.asked() {
        bench.found(&path, &large);
    }
    let passed = bench.passed();
    assert!(passed[0].len() as u64 <= MAX_LINE && passed[0].len() > 12 << 20);
    assert!(
        passed[0].ends_with(r#""nodecluster":"too large for one line with the others"}}}"#)
            || passed[0].contains("too large for one line")
    );
    assert!(Event::parse(passed[0].as_bytes()).is_ok());
    // A record that leaves no room at all goes on as it came.
    let huge = format!(r#"{{"resource_uri":"//x/","a":"{}"}}"#, "x".repeat((MAX_LINE as usize) - 40));
    bench.take(&huge);
    assert_eq!(bench.passed(), [huge]);
}

#[test]
fn copies_are_bounded_in_number_and_size() {
    let mut bench = Bench::new(&EnrichArgs { ttl: Duration::from_secs(3600), ..EnrichArgs::default() });
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(4 << 20));
    for number in 0..20 {
        let path = format!("/api/v1/stack/{number}/");
        bench.event(&path);
        bench.found(&path, &large);
        bench.passed();
    }
    bench.asked();
    for (number, asked) in [(19, 0), (0, 1)] {
        bench.take(&format!(r#"{{"resource_uri":"{A}","resource":1,"parents":["/api/v1/stack/{number}/"]}}"#));
        assert_eq!(bench.asked().len(), asked, "{number}");
    }
}

/// Whatever happens, in whatever order: every event comes out once, in order, in time, and one object is never asked for twice at once.
#[test]
fn in_any_history_every_event_comes_out_once_in_order_and_in_time() {
    let mut seed = 1_u64;
    let mut roll = move |sides: u64| {
        // Knuth's MMIX generator: the same history every time.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % sides
    };
    for history in 0..200 {
        let mut bench = Bench::new(&EnrichArgs { concurrency: 3, ..EnrichArgs::default() });
        let (mut under_way, mut sent, mut come) = (Vec::<String>::new(), 0_u64, 0_u64);
        let mut taken_at = std::collections::VecDeque::new();
        for _ in 0..300 {
            match roll(6) {
                0 | 1 => {
                    let (object, parent) = (roll(4), roll(3));
                    bench.take(&format!(
                        r#"{{"n":{sent},"resource_uri":"/api/v1/service/{object}/","parents":["/api/v1/stack/{parent}/"]}}"#
                    ));
                    taken_at.push_back(bench.now.at);
                    sent += 1;
                }
                2 | 3 if !under_way.is_empty() => {
                    let path = under_way.swap_remove(usize::try_from(roll(under_way.len() as u64)).unwrap());
                    let outcome = match roll(12) {
                        0 | 1 => trouble("503 service unavailable"),
                        2 => retry_after(["1", "3", "30", "soon"][usize::try_from(roll(4)).unwrap()]),
                        3 => nothing("404 not found"),
                        4 if history % 4 == 0 => refused(),
                        5 => Outcome::AskAgain,
                        6 => Outcome::Hopeless("forged".to_owned()),
                        _ => Outcome::Found("{}".into()),
                    };
                    bench.answer(&path, outcome);
                }
                4 => bench.pass_time(roll(2500)),
                _ => bench.wake(),
            }
            for path in bench.asked() {
                assert!(!under_way.contains(&path), "history {history}: two requests for {path}");
                under_way.push(path);
            }
            assert!(under_way.len() <= 3);
            for line in bench.passed() {
                assert!(line.starts_with(&format!("{{\"n\":{come},")), "history {history}: {line}");
                come += 1;
                taken_at.pop_front();
            }
            if let Some(taken) = taken_at.front() {
                assert!(bench.now.at.duration_since(*taken) < Duration::from_secs(10), "history {history}");
            }
        }
        bench.pass_time(10_000);
        assert_eq!((come + bench.passed().len() as u64, bench.stage.busy(), bench.stage.held), (sent, false, 0));
    }
}
