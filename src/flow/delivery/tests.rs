//! Delivery on a virtual clock, with a courier that answers by a script: no thread, no sleep, no network.

use std::collections::VecDeque;
use std::path::Path;

use super::destination::Batching;
use super::*;
use crate::flow::stage::tests::start;
use crate::model::address::Address;
use crate::model::quantity::Rate;
use crate::world::http::Request;

/// What the service does with one request.
#[derive(Clone)]
enum Act {
    Answer(u16),
    RetryAfter(u16, &'static str),
    Reset,
    /// No answer, ever.
    Hang,
}

/// Answers at once, by the script; when the script is at its end, with 200.
#[derive(Default)]
struct Script {
    acts: VecDeque<Act>,
    answers: VecDeque<(u64, Answer)>,
    sent: Vec<String>,
}

impl Courier for Script {
    fn send(&mut self, number: u64, request: Request) {
        self.sent.push(String::from_utf8(request.body).unwrap());
        let response = |status, after: Option<&str>| Response {
            status,
            retry_after: after.map(str::to_owned),
            ..Response::default()
        };
        let answer = match self.acts.pop_front().unwrap_or(Act::Answer(200)) {
            Act::Answer(status) => Ok(response(status, None)),
            Act::RetryAfter(status, after) => Ok(response(status, Some(after))),
            Act::Reset => Err(TransportError::Unreachable("reset, with hunter22 in it".to_owned())),
            Act::Hang => return,
        };
        self.answers.push_back((number, answer));
    }

    fn answer(&mut self) -> Option<(u64, Answer)> {
        self.answers.pop_front()
    }
}

/// A service that takes `{"key":…,"n":…}` and keeps order by key; `role` says what a record does.
struct Service {
    address: Address,
    pacing: Pacing,
    batching: Batching,
    reloads: VecDeque<Result<bool, String>>,
    open: Vec<String>,
}

impl Destination for Service {
    fn name(&self) -> &'static str {
        "test"
    }

    fn address(&self) -> &Address {
        &self.address
    }

    fn plan(&mut self, event: &Event<'_>) -> Plan {
        let key = event.resource_uri.as_deref().unwrap_or_default().to_owned();
        let role = match event.action.as_deref() {
            Some("skip") => return Plan::Skip { reason: "not ours" },
            Some("held") => Role::Held(Duration::from_secs(60)),
            Some("relief") => Role::Relief { needed: self.open.contains(&key) },
            _ => Role::Plain,
        };
        Plan::Send { key, role, urgent: false }
    }

    fn pacing(&self) -> Pacing {
        self.pacing
    }

    fn batching(&self) -> Batching {
        self.batching
    }

    fn request(&self, letters: &[Letter<'_>], form: Form) -> Result<Request, String> {
        let names: Vec<_> =
            letters.iter().map(|letter| letter.event().state.unwrap_or_default().into_owned()).collect();
        let reduced = if form == Form::Reduced { "~" } else { "" };
        Ok(Request::post_json(self.address.clone(), format!("{reduced}{}", names.join("+")).into_bytes()))
    }

    fn outcomes(&self, count: usize, answer: &Response) -> Vec<Outcome> {
        let reason = answer.status.to_string();
        let outcome = match answer.status {
            200 => Outcome::Delivered,
            401 => Outcome::Refused { reason },
            413 => Outcome::TooLarge { reason },
            429 => Outcome::Retry { reason, throttled: true },
            500.. => Outcome::Retry { reason, throttled: false },
            _ => Outcome::Rejected { reason, status: None },
        };
        vec![outcome; count]
    }

    fn settled(&mut self, letter: Letter<'_>, delivered: bool) {
        if delivered && letter.event().action.as_deref() == Some("held") {
            self.open.push(letter.key.to_owned());
        }
    }

    fn reload(&mut self) -> Result<bool, String> {
        self.reloads.pop_front().unwrap_or(Ok(false))
    }

    fn redact(&self, text: &str) -> String {
        text.replace("hunter22", "<redacted>")
    }

    fn test_record(&self) -> String {
        "{}".to_owned()
    }
}

/// A delivery under test, and its clock.
struct Bench {
    delivery: Delivery<Service, Script>,
    diagnostics: Diagnostics,
    now: Moment,
    lines: Lines,
}

impl Bench {
    fn new(acts: &[Act]) -> Bench {
        Bench::with(acts, Pacing { rate: None, burst: 1, concurrency: 4, throttled_by_key: false }, Batching::ONE)
    }

    fn with(acts: &[Act], pacing: Pacing, batching: Batching) -> Bench {
        Bench::told(acts, pacing, batching, DeliveryArgs { receipts: true, ..DeliveryArgs::default() }, start())
    }

    /// A run with a spool, at a moment of its own.
    fn spooled(acts: &[Act], spool: &Path, now: Moment, change: impl FnOnce(&mut DeliveryArgs)) -> Bench {
        let pacing = Pacing { rate: None, burst: 1, concurrency: 4, throttled_by_key: false };
        let mut args = DeliveryArgs { receipts: true, spool: Some(spool.to_owned()), ..DeliveryArgs::default() };
        change(&mut args);
        Bench::told(acts, pacing, Batching::ONE, args, now)
    }

    fn told(acts: &[Act], pacing: Pacing, batching: Batching, args: DeliveryArgs, now: Moment) -> Bench {
        let address = Address::parse("http://127.0.0.1/hunter22", &["http"]).unwrap();
        let service = Service { address, pacing, batching, reloads: VecDeque::new(), open: Vec::new() };
        let script = Script { acts: acts.to_vec().into(), ..Script::default() };
        let diagnostics = Diagnostics::memory("to-test");
        let delivery = Delivery::by(script, service, &args, &diagnostics, now).unwrap();
        Bench { delivery, diagnostics, now, lines: Lines::default() }
    }

    /// Gives it records, written `key:state` or `key:state:action`.
    fn take(&mut self, records: &[&str]) -> &mut Bench {
        for record in records {
            let mut words = record.split(':');
            let mut word = || words.next().unwrap_or("update");
            let (key, state, action) = (word(), word(), word());
            let text = format!(r#"{{"resource_uri":"{key}","state":"{state}","action":"{action}"}}"#);
            self.delivery.take(&Event::parse(text.as_bytes()).unwrap(), self.now, &mut self.lines);
        }
        self
    }

    /// Wakes it now, until nothing more happens without time passing.
    fn settle(&mut self) -> Result<(), Failure> {
        loop {
            let before = (self.delivery.courier.sent.len(), self.delivery.courier.answers.len(), self.lines.count());
            self.delivery.wake(self.now, &mut self.lines)?;
            self.delivery.written(&self.lines)?;
            if before == (self.delivery.courier.sent.len(), self.delivery.courier.answers.len(), self.lines.count()) {
                return Ok(());
            }
        }
    }

    /// Lets time pass from deadline to deadline until nothing is left, or `limit` passed. Tells how much did.
    fn run(&mut self, limit: Duration) -> Duration {
        let begun = self.now.at;
        loop {
            self.settle().unwrap();
            match self.delivery.deadline() {
                Some(deadline) if deadline - begun <= limit => {
                    self.now =
                        self.now.after(deadline.saturating_duration_since(self.now.at).max(Duration::from_millis(1)));
                }
                _ => return self.now.at - begun,
            }
        }
    }

    fn sent(&self) -> String {
        self.delivery.courier.sent.join(" ")
    }

    /// The receipts as `seq:status:attempts`.
    fn receipts(&self) -> String {
        let receipt = |line: &str| {
            let receipt: serde_json::Value = serde_json::from_str(line).unwrap();
            format!(
                "{}:{}:{}",
                receipt.get("seq").map_or("-".to_owned(), ToString::to_string),
                receipt["status"].as_str().unwrap(),
                receipt["attempts"]
            )
        };
        self.lines.text().lines().map(receipt).collect::<Vec<_>>().join(" ")
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn each_record_is_sent_once_and_receipted() {
    let mut bench = Bench::new(&[]);
    bench.take(&["a:1", "b:2", "a:3", "a:4:skip"]).run(HOUR);
    assert_eq!(bench.sent(), "1 2 3");
    assert_eq!(bench.receipts(), "4:skipped:0 1:delivered:1 2:delivered:1 3:delivered:1");
    assert_eq!(bench.delivery.exit(), Exit::Success);
}

#[test]
fn order_is_kept_within_a_key_under_retries_and_others_do_not_wait() {
    let mut bench = Bench::new(&[Act::Answer(500), Act::Answer(200), Act::Reset]);
    bench.take(&["a:1", "b:2", "a:3"]).run(HOUR);
    assert_eq!(bench.sent(), "1 2 1 1 3");
    assert_eq!(bench.receipts(), "2:delivered:1 1:delivered:3 3:delivered:1");
    let said = bench.diagnostics.said();
    assert!(said.contains("500; trying again in") && said.contains("delivering again"), "{said}");
    assert!(!said.contains("hunter22"), "{said}");
}

#[test]
fn a_429_is_retried_after_the_given_time_and_is_no_attempt() {
    let mut bench = Bench::new(&[Act::RetryAfter(429, "7")]);
    let took = bench.take(&["a:1", "b:2"]).run(HOUR);
    // Both were under way when the first answer came; neither is lost and the second waits like the first.
    assert_eq!(bench.receipts(), "2:delivered:1 1:delivered:1");
    assert!(took >= Duration::from_secs(7) && took < Duration::from_secs(9), "{took:?}");
}

#[test]
fn throttling_for_hours_gives_nothing_up() {
    let acts: Vec<Act> = std::iter::repeat_n(Act::RetryAfter(429, "3600"), 30).collect();
    let mut bench = Bench::new(&acts);
    let took = bench.take(&["a:1"]).run(HOUR * 100);
    assert!(took > HOUR * 30);
    assert_eq!(bench.receipts(), "1:delivered:1");
}

#[test]
fn throttling_by_key_holds_up_that_key_only() {
    let pacing = Pacing { rate: None, burst: 1, concurrency: 1, throttled_by_key: true };
    let mut bench = Bench::with(&[Act::RetryAfter(429, "60")], pacing, Batching::ONE);
    bench.take(&["a:1", "b:2"]).settle().unwrap();
    assert_eq!(bench.receipts(), "2:delivered:1");
    bench.run(HOUR);
    assert_eq!(bench.sent(), "1 2 1");
}

#[test]
fn after_the_time_to_give_up_a_record_is_dead_and_the_next_is_tried() {
    let acts: Vec<Act> = std::iter::repeat_n(Act::Reset, 1000).collect();
    let mut bench = Bench::new(&acts);
    let took = bench.take(&["a:1", "a:2"]).run(HOUR);
    assert!(took >= Duration::from_secs(1200) && took <= Duration::from_secs(1400), "{took:?}");
    assert_eq!(bench.delivery.count(Status::Dead), 2);
    assert_eq!(bench.delivery.exit(), Exit::Incomplete);
    assert!(!bench.lines.text().contains("hunter22"));
    let attempts = bench.delivery.courier.sent.len();
    assert!((30..200).contains(&attempts), "the backoff holds: {attempts} attempts");
}

#[test]
fn a_rejected_record_is_dead_at_once_and_named() {
    let mut bench = Bench::new(&[Act::Answer(400)]);
    bench.take(&["a:1", "a:2"]).run(HOUR);
    assert_eq!(bench.receipts(), "1:dead:1 2:delivered:1");
    assert!(bench.diagnostics.said().contains("update a: not delivered: 400"), "{}", bench.diagnostics.said());
}

#[test]
fn a_record_that_is_too_large_goes_once_more_in_the_reduced_form() {
    let mut bench = Bench::new(&[Act::Answer(413), Act::Answer(200), Act::Answer(413), Act::Answer(413)]);
    bench.take(&["a:1", "a:2"]).run(HOUR);
    assert_eq!(bench.sent(), "1 ~1 2 ~2");
    assert_eq!(bench.receipts(), "1:delivered:2 2:dead:2");
}

#[test]
fn a_batch_that_is_too_large_is_halved() {
    let batching = Batching { most: 4, bytes: 1 << 20, linger: Duration::from_secs(1), fold: false };
    let pacing = Pacing { rate: None, burst: 1, concurrency: 1, throttled_by_key: false };
    let mut bench = Bench::with(&[Act::Answer(413), Act::Answer(413)], pacing, batching);
    bench.take(&[":1", ":2", ":3", ":4"]).run(HOUR);
    // What follows grows little by little: the next is most likely too large as well.
    assert_eq!(bench.sent(), "1+2+3+4 1+2 1 2+3 4");
    assert_eq!(bench.delivery.count(Status::Delivered), 4);
}

#[test]
fn what_the_pace_does_not_allow_is_folded() {
    let rate = Some(Rate { count: 1.0, period: Duration::from_secs(1) });
    let pacing = Pacing { rate, burst: 2, concurrency: 1, throttled_by_key: false };
    let mut bench = Bench::with(&[], pacing, Batching { most: 100, fold: true, ..Batching::ONE });
    bench.take(&[":1", ":2", ":3", ":4"]).settle().unwrap();
    assert_eq!(bench.sent(), "1 2+3+4");
    bench.take(&[":5", ":6"]).run(HOUR);
    assert_eq!(bench.sent(), "1 2+3+4 5+6");
    assert_eq!(bench.receipts(), "1:delivered:1 2:folded:1 3:folded:1 4:folded:1 5:folded:1 6:folded:1");
}

#[test]
fn a_held_record_waits_for_its_relief() {
    let mut bench = Bench::new(&[]);
    bench.take(&["a:1:held"]).settle().unwrap();
    bench.take(&["a:2:relief", "b:3:held"]).settle().unwrap();
    assert_eq!(bench.receipts(), "1:skipped:0 2:skipped:0");
    assert_eq!(bench.run(HOUR), Duration::from_secs(60));
    bench.take(&["b:4:relief", "c:5:relief"]).run(HOUR);
    assert_eq!(bench.sent(), "3 4");
    assert_eq!(bench.receipts(), "1:skipped:0 2:skipped:0 3:delivered:1 5:skipped:0 4:delivered:1");
}

#[test]
fn a_relief_follows_a_trigger_that_is_under_way() {
    let mut bench = Bench::new(&[Act::Hang]);
    bench.take(&["a:1:held"]).run(Duration::from_secs(61));
    bench.take(&["a:2:relief"]).run(HOUR);
    assert_eq!((bench.sent().as_str(), bench.delivery.queue.len()), ("1", 2));
}

#[test]
fn the_end_of_input_ends_the_hold() {
    let mut bench = Bench::new(&[]);
    bench.take(&["a:1:held"]).settle().unwrap();
    let now = bench.now;
    bench.delivery.finish(now, &mut bench.lines);
    assert!(bench.run(HOUR) < Duration::from_secs(1));
    assert_eq!(bench.sent(), "1");
}

#[test]
fn a_refusal_of_the_old_secret_says_nothing_about_the_new_one() {
    for by_signal in [false, true] {
        let mut bench = Bench::new(&[Act::Answer(401), Act::Answer(401), Act::Answer(401)]);
        bench.delivery.destination.reloads = [Ok(true), Ok(false)].into();
        bench.take(&["a:1", "b:2", "c:3"]);
        bench.delivery.wake(bench.now, &mut bench.lines).unwrap();
        if by_signal {
            bench.delivery.reload();
        }
        bench.settle().unwrap();
        assert_eq!((bench.sent().as_str(), bench.delivery.queue.len()), ("1 2 3 1 2 3", 0));
    }
}

#[test]
fn refused_credentials_end_it_unless_the_secret_is_another_by_now() {
    let mut bench = Bench::new(&[Act::Answer(401), Act::Answer(200), Act::Answer(401)]);
    bench.delivery.destination.reloads = [Ok(true), Ok(false)].into();
    bench.take(&["a:1", "a:2"]);
    let failure = bench.settle().unwrap_err();
    assert_eq!((failure.exit, bench.sent().as_str()), (Exit::Refused, "1 1 2"));
    let now = bench.now;
    bench.delivery.abandon(now, &mut bench.lines);
    assert_eq!(bench.receipts(), "1:delivered:2 2:dead:1");
    assert!(bench.lines.text().contains(r#""status":"dead","seq":2,"attempts":1,"http_status":401"#));
    assert!(bench.lines.text().contains("not sent before the program ended"));
}

#[test]
fn what_is_left_when_the_time_to_drain_is_over_is_dead_and_counted() {
    let mut bench = Bench::new(&[Act::Hang]);
    bench.take(&["a:1", "a:2", "b:3"]).settle().unwrap();
    let now = bench.now;
    bench.delivery.abandon(now, &mut bench.lines);
    assert_eq!(bench.receipts(), "3:delivered:1 1:dead:1 2:dead:0");
    assert!(bench.diagnostics.said().contains("2 records left over, 1 of them under way"));
    assert!(!bench.delivery.busy());
    let accounts = bench.delivery.accounts();
    assert_eq!((accounts.count("delivered"), accounts.count("dead"), accounts.count("waiting")), (1, 2, 0));
}

#[test]
fn a_full_queue_is_back_pressure() {
    let mut bench = Bench::new(&[Act::Hang]);
    bench.delivery.limit = 2;
    bench.take(&["a:1"]);
    assert!(bench.delivery.ready());
    bench.take(&["a:2"]).settle().unwrap();
    assert!(!bench.delivery.ready());
}

fn left_over(bench: &mut Bench) {
    let now = bench.now;
    bench.delivery.abandon(now, &mut bench.lines);
}

#[test]
fn what_one_run_leaves_the_next_delivers_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = Bench::spooled(&[Act::Hang], directory.path(), start(), |_| ());
    first.take(&["a:1", "a:2", "b:3", "c:4:skip"]).settle().unwrap();
    left_over(&mut first);
    assert_eq!(first.receipts(), "4:skipped:0 3:delivered:1 1:spooled:1 2:spooled:0");
    assert_eq!(first.delivery.exit(), Exit::Incomplete);
    let accounts = first.delivery.accounts();
    assert_eq!((accounts.count("spooled"), accounts.count("waiting")), (2, 0));
    drop(first);
    let mut second = Bench::spooled(&[], directory.path(), start(), |_| ());
    second.take(&["a:5"]).run(HOUR);
    assert_eq!(second.sent(), "1 2 5");
    assert_eq!(second.receipts(), "-:delivered:1 -:delivered:1 1:delivered:1");
    assert_eq!(second.delivery.accounts().count("recovered"), 2);
    assert!(!second.delivery.busy());
}

#[test]
fn records_are_passed_on_when_they_are_on_disk_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::spooled(&[Act::Hang], directory.path(), start(), |args| args.receipts = false);
    bench.take(&["a:1", "b:2:skip"]);
    assert_eq!(bench.lines.text(), "");
    bench.settle().unwrap();
    assert_eq!(bench.lines.text().lines().count(), 2);
}

#[test]
fn more_waits_on_disk_than_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::spooled(&[Act::Hang], directory.path(), start(), |args| args.queue = 2);
    let records: Vec<String> = (1..=20).map(|n| format!("a:{n}")).collect();
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    bench.take(&records).settle().unwrap();
    assert_eq!(
        (bench.delivery.queue.len(), bench.delivery.accounts().count("waiting"), bench.delivery.ready()),
        (2, 20, true)
    );
    left_over(&mut bench);
    assert_eq!(bench.lines.text().matches("spooled").count(), 20, "a receipt for each, also for those only on disk");
    drop(bench);
    let mut next = Bench::spooled(&[], directory.path(), start(), |args| args.queue = 2);
    next.run(HOUR);
    assert_eq!(next.sent(), (1..=20).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
}

#[test]
fn an_old_record_is_a_dead_letter_and_never_a_fresh_looking_page() {
    let directory = tempfile::tempdir().unwrap();
    let begun = start();
    let mut first = Bench::spooled(&[Act::Hang], directory.path(), begun, |_| ());
    first.take(&["a:1:held", "b:2"]).settle().unwrap();
    left_over(&mut first);
    drop(first);
    let later = begun.after(2 * HOUR);
    let mut second = Bench::spooled(&[], directory.path(), later, |args| args.max_age = Some(HOUR));
    second.take(&["c:3"]).run(HOUR);
    assert_eq!(second.sent(), "3");
    assert_eq!(second.delivery.count(Status::Dead), 2);
    assert!(second.lines.text().contains("older than 1h (--max-age)"), "{}", second.lines.text());
    assert!(std::fs::read_to_string(directory.path().join("dead.ndjson")).unwrap().lines().count() == 2);
}

#[test]
fn a_clock_that_jumps_neither_ages_nor_loses_records() {
    let directory = tempfile::tempdir().unwrap();
    let begun = start();
    let mut first = Bench::spooled(&[Act::Hang], directory.path(), begun, |_| ());
    first.take(&["a:1"]).settle().unwrap();
    left_over(&mut first);
    drop(first);
    // The calendar is a day behind now: the record seems to come from the future, and counts as new.
    let yesterday = Moment {
        at: begun.at,
        utc: crate::model::time::Timestamp::from_millis(begun.utc.millis() - 86_400_000).unwrap(),
    };
    let mut second = Bench::spooled(&[], directory.path(), yesterday, |args| args.max_age = Some(HOUR));
    second.run(HOUR);
    assert_eq!(second.receipts(), "-:delivered:1");
}

#[test]
fn a_trigger_and_its_relief_survive_a_crash_between_them() {
    let directory = tempfile::tempdir().unwrap();
    let begun = start();
    let mut first = Bench::spooled(&[Act::Hang], directory.path(), begun, |_| ());
    first.take(&["a:1:held"]).run(Duration::from_secs(61));
    first.take(&["a:2:relief"]).settle().unwrap();
    assert_eq!(first.sent(), "1");
    drop(first);
    // Whether 1 arrived is not known: it goes again, and what relieves it after it.
    let mut second = Bench::spooled(&[], directory.path(), begun.after(Duration::from_secs(100)), |_| ());
    second.run(HOUR);
    assert_eq!(second.sent(), "1 2");
}

#[test]
fn the_backoff_of_one_record_does_not_outlast_the_time_to_give_up_the_next() {
    let acts: Vec<Act> = std::iter::repeat_n(Act::Answer(500), 1000).collect();
    let mut bench = Bench::new(&acts);
    bench.delivery.give_up = Duration::from_secs(2);
    let took = bench.take(&["a:1", "a:2", "a:3", "a:4", "a:5"]).run(HOUR);
    assert_eq!(bench.delivery.count(Status::Dead), 5);
    assert!(took <= Duration::from_secs(25), "{took:?}");
}

/// Ruling of the contract: after a crash a record may be passed on twice, never zero times.
#[test]
fn what_was_accepted_and_not_passed_on_is_passed_on_by_the_next_run() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = Bench::spooled(&[], directory.path(), start(), |args| args.receipts = false);
    first.take(&["a:1", "b:2", "c:3"]);
    first.settle().unwrap();
    // The output took one line and a half before the crash; everything was delivered.
    let text = first.lines.text();
    first.lines.wrote(text.find('\n').unwrap() + 5);
    first.delivery.written(&first.lines).unwrap();
    first.settle().unwrap();
    assert_eq!(first.sent(), "1 2 3");
    drop(first);
    let mut second = Bench::spooled(&[], directory.path(), start(), |args| args.receipts = false);
    second.take(&["d:4"]).settle().unwrap();
    let states: Vec<String> =
        second.lines.text().lines().map(|line| line.split('"').nth(7).unwrap().to_owned()).collect();
    assert_eq!(states, ["2", "3", "4"]);
    second.lines.wrote(second.lines.pending().len());
    second.delivery.written(&second.lines).unwrap();
    second.settle().unwrap();
    assert!(!second.delivery.busy());
    drop(second);
    let mut third = Bench::spooled(&[], directory.path(), start(), |args| args.receipts = false);
    third.settle().unwrap();
    assert_eq!((third.lines.text(), third.sent()), (String::new(), String::new()));
}
