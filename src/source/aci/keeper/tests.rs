//! A session kept over a scripted transport, in time that only passes when somebody waits or an answer takes its time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::super::session::tests::{Scripted, answer, apic, error, password, welcome};
use super::*;
use crate::flow::stage::tests::start;
use crate::world::http::{Response, TransportError};

const SECOND: Duration = Duration::from_secs(1);

/// What the play and the script share.
#[derive(Clone)]
struct Stage(Arc<Mutex<Moment>>, Moment);

impl Stage {
    fn pass(&self, duration: Duration) {
        let mut now = self.0.lock().unwrap();
        now.at += duration;
        let millis = now.utc.millis() + i64::try_from(duration.as_millis()).unwrap();
        now.utc = Timestamp::from_millis(millis).unwrap();
    }

    fn now(&self) -> Moment {
        *self.0.lock().unwrap()
    }

    /// Since the beginning.
    fn elapsed(&self) -> Duration {
        self.now().at - self.1.at
    }
}

struct Played {
    stage: Stage,
    /// Nobody is interested after so long.
    until: Duration,
    reports: Vec<(Duration, Report)>,
    waits: usize,
}

impl Surroundings for Played {
    fn wait(&mut self, duration: Duration) -> bool {
        self.waits += 1;
        assert!(self.waits < 5_000_000, "it waits in circles");
        let left = self.until.saturating_sub(self.stage.elapsed());
        self.stage.pass(duration.min(left));
        duration < left
    }

    fn random(&mut self) -> f64 {
        0.0
    }

    fn now(&mut self) -> Moment {
        self.stage.now()
    }

    fn tell(&mut self, report: Report) {
        self.reports.push((self.stage.elapsed(), report));
    }
}

/// What became of it: reports with their times, and every request with its own.
struct Run {
    reports: Vec<(Duration, Report)>,
    asked: Vec<(Duration, String)>,
    stage: Stage,
}

impl Run {
    /// When that was asked for, in seconds.
    fn times(&self, path: &str) -> Vec<f64> {
        let asked = self.asked.iter().filter(|(_, known)| known.contains(path));
        asked.map(|(at, _)| at.as_secs_f64()).collect()
    }

    fn last(&self) -> &Report {
        &self.reports.last().unwrap().1
    }

    fn lost(&self) -> (&str, Option<f64>, Option<Duration>) {
        let Report::Lost { reason, since, retry_after } = self.last() else { panic!("{:?}", self.last()) };
        (reason, since.map(|since| since.since(self.stage.1.utc).as_secs_f64()), *retry_after)
    }

    fn gaps(&self) -> Vec<(usize, f64, String)> {
        let gap = |report: &Report| match report {
            Report::Subscribed { target, missing_since: Some((since, reason)), .. } => {
                Some((*target, since.since(self.stage.1.utc).as_secs_f64(), reason.clone()))
            }
            _ => None,
        };
        self.reports.iter().filter_map(|(_, report)| gap(report)).collect()
    }
}

fn order(targets: usize) -> Order {
    Order {
        targets: (0..targets).map(|number| Target::Class(format!("fv{}", letters(number)))).collect(),
        query: Query::default(),
        list: false,
        list_again: false,
    }
}

fn letters(number: usize) -> String {
    format!("C{number:02}")
}

fn run(
    order: &Order,
    until: Duration,
    mut script: impl FnMut(&str, &Stage) -> Result<Response, TransportError> + Send + 'static,
) -> Run {
    let now = start();
    let stage = Stage(Arc::new(Mutex::new(now)), now);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (scene, notes) = (stage.clone(), Arc::clone(&asked));
    let transport = Scripted::new(move |path| {
        notes.lock().unwrap().push((scene.elapsed(), path.to_owned()));
        script(path, &scene)
    });
    let session = Session::begin(apic(&transport), password()).unwrap();
    let mut played = Played { stage: stage.clone(), until, reports: Vec::new(), waits: 0 };
    keep(session, order, &mut played);
    let asked = asked.lock().unwrap().clone();
    Run { reports: played.reports, asked, stage }
}

/// A good APIC: ids count up, and one not refreshed for its life, a minute unless asked for another, is unknown.
#[derive(Default)]
struct Good {
    ids: HashMap<String, (Duration, Duration)>,
    made: u64,
}

impl Good {
    fn answer(&mut self, path: &str, stage: &Stage) -> Result<Response, TransportError> {
        let now = stage.elapsed();
        if path.contains("aaaLogin") || path.contains("aaaRefresh") {
            self.made += 1;
            return welcome(&format!("token-{}", self.made), r#","refreshTimeoutSeconds":"600""#);
        }
        if let Some((_, id)) = path.split_once("subscriptionRefresh.json?id=") {
            return match self.ids.get_mut(id).filter(|(alive, life)| now < *alive + *life) {
                Some((alive, _)) => {
                    *alive = now;
                    answer(200, r#"{"totalCount":"0","imdata":[]}"#)
                }
                None => error(400, "Unable to find subscription"),
            };
        }
        if path.contains("subscription=yes") {
            self.made += 1;
            let life = if path.contains("refresh-timeout=180") { SECOND * 180 } else { DEFAULT_LIFE };
            self.ids.insert(self.made.to_string(), (now, life));
            return answer(200, &format!(r#"{{"totalCount":"0","subscriptionId":"{}","imdata":[]}}"#, self.made));
        }
        answer(200, r#"{"totalCount":"0","imdata":[]}"#)
    }
}

fn busy(retry_after: Option<&str>) -> Result<Response, TransportError> {
    Ok(Response { status: 503, retry_after: retry_after.map(str::to_owned), ..Response::default() })
}

#[test]
fn subscriptions_are_refreshed_every_third_of_their_life_and_the_session_at_half_its_time() {
    let mut good = Good::default();
    let run = run(&order(1), SECOND * 650, move |path, stage| good.answer(path, stage));
    let refreshes = run.times("subscriptionRefresh");
    assert_eq!(refreshes[..3], [20.0, 40.0, 60.0]);
    assert_eq!(run.times("aaaRefresh"), [300.0, 600.0]);
    assert_eq!((run.times("aaaLogin").len(), run.times("subscription=yes").len()), (1, 1));
    assert!(matches!(run.reports[0].1, Report::Life(_, life) if life == Duration::from_secs(86_400)));
    assert!(matches!(run.reports[2].1, Report::Ready));
    // Nobody is interested any longer: it says nothing more and logs out.
    assert_eq!(run.asked.last().unwrap().1, "POST /api/aaaLogout.json");
    assert!(!run.reports.iter().any(|(_, report)| matches!(report, Report::Lost { .. })));
}

#[test]
fn a_day_with_fifty_targets_loses_nothing_and_never_asks_in_a_burst() {
    let mut good = Good::default();
    let mut fifty = order(50);
    fifty.query.life = Some(SECOND * 180);
    let run = run(&fifty, SECOND * 86_400, move |path, stage| {
        stage.pass(Duration::from_millis(30));
        good.answer(path, stage)
    });
    assert!(run.gaps().is_empty());
    assert_eq!(run.times("subscription=yes").len(), 50);
    assert!(matches!(run.last(), Report::Token(_)), "{:?}", run.last());
    let refreshes = run.times("subscriptionRefresh");
    // Each every minute, and a little more for those that wait for the ones before.
    assert!((50_000..=72_000).contains(&refreshes.len()), "{}", refreshes.len());
    assert!(refreshes.windows(11).all(|window| window[10] - window[0] >= 0.9), "more than ten a second");
    let logins = run.times("aaaRefresh");
    assert!((285..=290).contains(&logins.len()), "{}", logins.len());
}

#[test]
fn one_refresh_that_fails_is_followed_by_another() {
    let (mut good, mut times) = (Good::default(), 0);
    let run = run(&order(1), SECOND * 70, move |path, stage| {
        times += u32::from(path.contains("subscriptionRefresh"));
        if path.contains("subscriptionRefresh") && times == 1 { busy(None) } else { good.answer(path, stage) }
    });
    assert_eq!(run.times("subscriptionRefresh"), [20.0, 21.0, 41.0, 61.0]);
    assert_eq!(run.times("subscription=yes").len(), 1);
}

#[test]
fn two_refreshes_that_fail_are_followed_by_a_new_subscription_and_within_its_life_nothing_is_missing() {
    let (mut good, mut times) = (Good::default(), 0);
    let run = run(&order(1), SECOND * 70, move |path, stage| {
        times += u32::from(path.contains("subscriptionRefresh"));
        let fails = path.contains("subscriptionRefresh") && times <= 2;
        if fails { busy(None) } else { good.answer(path, stage) }
    });
    assert_eq!(run.times("subscriptionRefresh"), [20.0, 21.0, 41.0, 61.0]);
    assert_eq!(run.times("subscription=yes"), [0.0, 21.0]);
    assert!(run.gaps().is_empty());
    assert!(run.reports.iter().any(|(_, report)| *report == Report::Renewing(0)));
}

#[test]
fn a_subscription_that_the_apic_forgot_is_made_anew_and_the_gap_begins_at_its_last_refresh() {
    let mut good = Good::default();
    let run = run(&order(2), SECOND * 70, move |path, stage| {
        if path.ends_with("id=2") && stage.elapsed() > SECOND * 30 {
            return error(400, "Unable to find subscription");
        }
        good.answer(path, stage)
    });
    let gaps = run.gaps();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((gaps[0].0, gaps[0].1), (0, 20.0));
    assert!(gaps[0].2.starts_with("fvC00: the subscription ran out: HTTP 400: Unable to find"), "{gaps:?}");
}

#[test]
fn a_retry_after_is_obeyed_as_long_as_the_subscription_lives() {
    let (mut good, mut times) = (Good::default(), 0);
    let run = run(&order(1), SECOND * 70, move |path, stage| {
        times += u32::from(path.contains("subscriptionRefresh"));
        let fails = path.contains("subscriptionRefresh") && times == 1;
        if fails { busy(Some("15")) } else { good.answer(path, stage) }
    });
    assert_eq!(run.times("subscriptionRefresh"), [20.0, 35.0, 55.0]);
    assert_eq!(run.times("subscription=yes").len(), 1);
}

#[test]
fn an_apic_that_wants_to_be_left_alone_for_long_is_no_open_connection() {
    let (mut good, mut times) = (Good::default(), 0);
    let run = run(&order(3), SECOND * 7200, move |path, stage| {
        times += u32::from(path.contains("subscription=yes"));
        if path.ends_with("id=2") && stage.elapsed() > SECOND * 30 {
            return error(400, "Unable to find subscription");
        }
        let fails = path.contains("subscription=yes") && times > 3;
        if fails { busy(Some("3600")) } else { good.answer(path, stage) }
    });
    let (reason, since, retry_after) = run.lost();
    assert_eq!((reason, retry_after), ("fvC00: HTTP 503", Some(SECOND * 3600)));
    assert_eq!(since, Some(20.0), "what was missing since then is not forgotten");
    assert!(run.stage.elapsed() < SECOND * 60);
}

#[test]
fn the_others_are_refreshed_while_one_has_to_wait() {
    let (mut good, mut times) = (Good::default(), 0);
    let run = run(&order(3), SECOND * 200, move |path, stage| {
        if path.contains("fvC02") {
            times += 1;
            if times <= 3 {
                return busy(Some("50"));
            }
        }
        good.answer(path, stage)
    });
    // 150 s after the first ones, whose life is 60 s.
    assert!(run.gaps().is_empty());
    assert!(run.reports.iter().any(|(at, report)| *report == Report::Ready && *at > SECOND * 150));
    assert_eq!(run.times("subscription=yes").len(), 6);
}

#[test]
fn a_session_refresh_that_fails_for_a_while_costs_no_subscription() {
    let mut good = Good::default();
    let run = run(&order(2), SECOND * 700, move |path, stage| {
        let out = (SECOND * 300..SECOND * 500).contains(&stage.elapsed());
        if path.contains("aaaRefresh") && out { busy(None) } else { good.answer(path, stage) }
    });
    assert!(run.gaps().is_empty());
    assert!(!run.reports.iter().any(|(_, report)| matches!(report, Report::Lost { .. })));
    assert!(run.reports.iter().any(|(_, report)| matches!(report, Report::Token(_))));
}

#[test]
fn a_session_that_cannot_be_refreshed_in_time_is_lost_before_it_is_over() {
    let mut good = Good::default();
    let run =
        run(
            &order(1),
            SECOND * 7200,
            move |path, stage| {
                if path.contains("aaaRefresh") { busy(None) } else { good.answer(path, stage) }
            },
        );
    let (reason, ..) = run.lost();
    assert_eq!(reason, "the session could not be refreshed in time: HTTP 503");
    assert!((SECOND * 500..SECOND * 600).contains(&run.stage.elapsed()), "{:?}", run.stage.elapsed());
}

#[test]
fn a_session_that_is_over_is_lost_and_says_since_when() {
    for path in ["aaaRefresh", "subscriptionRefresh"] {
        let mut good = Good::default();
        let run = run(&order(2), SECOND * 7200, move |asked, stage| {
            if asked.contains(path) && stage.elapsed() > SECOND * 190 {
                return error(403, "Token was invalid (Error: Token timeout)");
            }
            good.answer(asked, stage)
        });
        let (reason, since, _) = run.lost();
        assert_eq!(reason, "the session is over: HTTP 403: Token was invalid (Error: Token timeout)");
        let silent = run.stage.elapsed().as_secs_f64() - since.unwrap();
        assert!((10.0..=21.0).contains(&silent), "{path}: {silent}");
    }
}

#[test]
fn an_apic_that_answers_nothing_any_more_is_left_soon_however_many_targets_there_are() {
    for targets in [1, 50] {
        let mut good = Good::default();
        let run = run(&order(targets), SECOND * 7200, move |path, stage| {
            if stage.elapsed() > SECOND * 100 {
                // Until the transport's own limit.
                stage.pass(SECOND * 20);
                return Err(TransportError::Unreachable("timed out".to_owned()));
            }
            good.answer(path, stage)
        });
        let (reason, since, _) = run.lost();
        assert!(reason.ends_with("timed out"), "{reason}");
        assert!(since.unwrap() >= 75.0, "{since:?}");
        // The last word is the logout, which is not answered either.
        assert!(run.reports.last().unwrap().0 <= SECOND * 210, "{targets}: {:?}", run.reports.last().unwrap().0);
    }
}

#[test]
fn a_target_that_is_wrong_from_the_start_says_so_and_later_on_the_session_is_lost() {
    let mut good = Good::default();
    let wrong = run(&order(2), SECOND * 100, move |path, stage| {
        if path.contains("fvC01") { error(400, "class fvC01 not found") } else { good.answer(path, stage) }
    });
    assert_eq!(*wrong.last(), Report::Wrong("fvC01: HTTP 400: class fvC01 not found".to_owned()));
    assert_eq!(wrong.asked.last().unwrap().1, "POST /api/aaaLogout.json");
    let mut good = Good::default();
    let refused = run(&order(1), SECOND * 100, move |path, stage| {
        if path.contains("fvC00") { error(403, "not allowed") } else { good.answer(path, stage) }
    });
    assert_eq!(*refused.last(), Report::Refused("fvC00: HTTP 403: not allowed".to_owned()));
    let mut good = Good::default();
    let later = run(&order(1), SECOND * 100, move |path, stage| {
        if stage.elapsed() > SECOND { error(400, "no") } else { good.answer(path, stage) }
    });
    assert_eq!(later.lost(), ("fvC00: HTTP 400: no", Some(0.0), None));
}

fn listing(run: &Run) -> (usize, bool) {
    let found = run.reports.iter().rev().find_map(|(_, report)| match report {
        Report::Subscribed { subscribed, .. } => Some((subscribed.answers.len(), subscribed.complete)),
        _ => None,
    });
    found.unwrap()
}

fn page_of(path: &str) -> Option<u64> {
    path.contains("page-size=10000")
        .then(|| path.split_once("page=").unwrap().1.split_once('&').unwrap().0.parse().unwrap())
}

fn objects(from: u64, count: u64, total: u64) -> Result<Response, TransportError> {
    let objects: Vec<String> = (from..from + count)
        .map(|number| format!(r#"{{"fvTenant":{{"attributes":{{"dn":"uni/tn-{number}"}}}}}}"#))
        .collect();
    answer(200, &format!(r#"{{"totalCount":"{total}","imdata":[{}]}}"#, objects.join(",")))
}

#[test]
fn a_long_listing_costs_no_subscription_and_a_429_no_page() {
    let (mut good, mut times) = (Good::default(), 0);
    let listed = Order { list: true, ..order(2) };
    let run = run(&listed, SECOND * 900, move |path, stage| {
        if path == "GET /api/class/fvC01.json?subscription=yes" {
            return error(400, "Unable to process the query, result dataset is too big");
        }
        let Some(page) = page_of(path) else { return good.answer(path, stage) };
        stage.pass(SECOND * 25);
        if page == 3 {
            times += 1;
            if times < 3 {
                return Ok(Response { status: 429, retry_after: Some("5".to_owned()), ..Response::default() });
            }
        }
        objects(page * 2, 2, 40)
    });
    // 20 pages of 25 s and two more attempts: the session, too, would have been over.
    assert_eq!(listing(&run), (20, true));
    assert!(run.gaps().is_empty(), "{:?}", run.gaps());
    assert!(run.reports.iter().any(|(at, report)| *report == Report::Ready && *at > SECOND * 550));
    assert!(!run.reports.iter().any(|(_, report)| matches!(report, Report::Lost { .. })));
    assert_eq!(run.times("page-size=10000").len(), 22);
}

#[test]
fn an_answer_that_does_not_come_in_time_is_asked_for_page_by_page() {
    let mut good = Good::default();
    let listed = Order { list: true, ..order(1) };
    let run = run(&listed, SECOND * 100, move |path, stage| {
        if path.ends_with("fvC00.json?subscription=yes") {
            stage.pass(SECOND * 40);
            return Err(TransportError::Unreachable("timed out".to_owned()));
        }
        match page_of(path) {
            Some(page) => objects(page, 1, 3),
            None => good.answer(path, stage),
        }
    });
    assert_eq!(listing(&run), (3, true));
}

#[test]
fn a_count_that_lies_ends_the_listing_and_proves_nothing() {
    let total = u64::MAX;
    for (what, pages) in [("the same page for ever", 1), ("a page for ever", 100), ("nothing more", 3)] {
        let mut good = Good::default();
        let listed = Order { list: true, ..order(1) };
        let run = run(&listed, SECOND * 100, move |path, stage| {
            if path.ends_with("subscription=yes") {
                return error(400, "result dataset is too big");
            }
            match page_of(path) {
                Some(_) if what == "the same page for ever" => objects(0, 2, total),
                Some(page) if what == "nothing more" && page == 2 => objects(0, 0, total),
                Some(page) => objects(page, 1, total),
                None => good.answer(path, stage),
            }
        });
        assert_eq!(listing(&run), (pages, false), "{what}");
    }
}

#[test]
fn a_session_that_followed_another_lists_when_a_subscription_ran_out() {
    let mut good = Good::default();
    let following = Order { list: false, list_again: true, ..order(1) };
    let run = run(&following, SECOND * 50, move |path, stage| {
        if path.ends_with("id=2") { error(400, "Unable to find subscription") } else { good.answer(path, stage) }
    });
    assert_eq!(run.gaps().len(), 1);
    assert_eq!(listing(&run), (1, true));
}

#[test]
fn ids_that_are_used_again_do_no_harm() {
    let run = run(&order(3), SECOND * 100, |path, _| match path {
        _ if path.contains("aaa") => welcome("token", ""),
        _ => answer(200, r#"{"totalCount":"0","subscriptionId":"1","imdata":[]}"#),
    });
    assert!(run.gaps().is_empty());
    assert_eq!(run.times("subscription=yes").len(), 3);
}
