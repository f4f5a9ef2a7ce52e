//! What becomes of a session thread's reports and of the messages, without thread or socket.

use std::path::PathBuf;

use super::session::Subscribed;
use super::*;
use crate::world::tls::TlsArgs;

const SECOND: Duration = Duration::from_secs(1);

/// One that is connected, and the other end of its session's thread.
fn aci(targets: &[&str], change: impl FnOnce(&mut AciArgs)) -> (Aci, Sender<Report>, Diagnostics) {
    let mut args = AciArgs {
        user: Some("watcher".to_owned()),
        signing_key: Some(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/aci/watcher.key"))),
        signing_cert: Some("watcher.crt".to_owned()),
        targets: targets.iter().map(|target| Target::parse(target).unwrap()).collect(),
        ..AciArgs::default()
    };
    change(&mut args);
    let base = Address::parse("http://127.0.0.1:1", &["http"]).unwrap();
    let (tls, diagnostics) = (Tls::load(&TlsArgs::default()).unwrap(), Diagnostics::memory("aci-stream"));
    let mut aci = Aci::new(args, vec![base], tls, SECOND, &Wake::new().unwrap(), diagnostics.clone()).unwrap();
    aci.known.listen();
    let (mut live, attempt) = aci.prepare(0, true);
    live.connected = true;
    aci.live = Some(live);
    let tell = attempt.surroundings.tell.clone();
    (aci, tell, diagnostics)
}

fn subscribed(target: usize, id: &str, answer: &[&str], missing_since: Option<Timestamp>) -> Report {
    let objects: Vec<String> =
        answer.iter().map(|name| format!(r#"{{"fvTenant":{{"attributes":{{"dn":"{name}"}}}}}}"#)).collect();
    let text =
        format!(r#"{{"totalCount":"{}","subscriptionId":"{id}","imdata":[{}]}}"#, objects.len(), objects.join(","));
    Report::Subscribed {
        target,
        subscribed: Subscribed { id: id.to_owned(), answers: vec![text], complete: true },
        asked: Clock.now().at,
        missing_since: missing_since.map(|since| (since, "it ran out".to_owned())),
    }
}

/// Everything it has to tell now, in short.
fn asides(aci: &mut Aci) -> Vec<String> {
    let now = Clock.now();
    let mut told = Vec::new();
    while let Some(aside) = aci.aside(now) {
        told.push(match aside {
            Aside::Event(text) => {
                let event: serde_json::Value = serde_json::from_str(&text).unwrap();
                format!("{} {}", event["action"].as_str().unwrap(), event["dn"].as_str().unwrap())
            }
            Aside::Tell(change) => {
                aci.changed(&change, now);
                match change {
                    Change::Gap { reason, .. } => format!("gap: {reason}"),
                    other => format!("{other:?}"),
                }
            }
            Aside::Proven => "proven".to_owned(),
            Aside::Lost { reason, .. } => format!("lost: {reason}"),
            Aside::Refused(reason) => format!("refused: {reason}"),
            Aside::End(failure) => format!("end: {}", failure.message),
        });
    }
    told
}

/// How many records become of an event.
fn records(aci: &mut Aci, ids: &[&str], name: &str, status: &str) -> usize {
    let ids: Vec<String> = ids.iter().map(|id| format!("\"{id}\"")).collect();
    let text = format!(
        r#"{{"subscriptionId":[{}],"imdata":[{{"fvTenant":{{"attributes":{{"dn":"{name}","status":"{status}"}}}}}}]}}"#,
        ids.join(",")
    );
    match aci.message(&text, Clock.now().utc) {
        Meaning::Records(records) => records.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_whose_thread_breaks_off_is_lost_and_not_silent() {
    let (mut aci, tell, _) = aci(&["fvTenant"], |_| ());
    tell.send(Report::Ready).unwrap();
    assert_eq!(asides(&mut aci), ["proven"]);
    drop(tell);
    assert_eq!(asides(&mut aci), ["lost: what keeps the session alive broke off"]);
    assert!(asides(&mut aci).is_empty());
}

#[test]
fn last_words_are_told_once() {
    let (mut aci, tell, _) = aci(&["fvTenant"], |_| ());
    tell.send(Report::Lost { reason: "over".to_owned(), since: None, retry_after: None }).unwrap();
    drop(tell);
    assert_eq!(asides(&mut aci), ["lost: over"]);
    assert!(asides(&mut aci).is_empty());
}

#[test]
fn a_target_that_is_wrong_is_wrong_usage_only_as_long_as_it_never_was_right() {
    let (mut aci, tell, _) = aci(&["fvTenant"], |_| ());
    tell.send(Report::Wrong("HTTP 404".to_owned())).unwrap();
    assert_eq!(asides(&mut aci), ["end: HTTP 404"]);
    tell.send(Report::Ready).unwrap();
    tell.send(Report::Wrong("HTTP 404".to_owned())).unwrap();
    assert_eq!(asides(&mut aci), ["proven", "lost: HTTP 404"]);
}

#[test]
fn a_gap_that_a_subscription_left_is_told_even_if_the_connection_ends_first() {
    let (mut aci, tell, _) = aci(&["fvTenant"], |_| ());
    tell.send(subscribed(0, "1", &[], None)).unwrap();
    tell.send(Report::Ready).unwrap();
    asides(&mut aci);
    // Once waiting to be heard, and once waiting to be told.
    tell.send(Report::Renewing(0)).unwrap();
    tell.send(subscribed(0, "2", &[], Some(Clock.now().utc))).unwrap();
    aci.collect(Clock.now());
    tell.send(subscribed(0, "3", &[], Some(Clock.now().utc))).unwrap();
    aci.hung_up();
    assert_eq!(asides(&mut aci), ["gap: it ran out", "gap: it ran out"]);
}

#[test]
fn what_is_newer_than_an_answer_stays_so_while_the_next_subscription_is_made_anew() {
    let (mut aci, tell, _) = aci(&["fvTenant", "fvAp"], |args| args.resync = true);
    tell.send(subscribed(0, "1", &["uni/tn-A"], None)).unwrap();
    tell.send(subscribed(1, "2", &[], None)).unwrap();
    tell.send(Report::Ready).unwrap();
    assert_eq!(asides(&mut aci), ["proven"]);
    tell.send(Report::Renewing(0)).unwrap();
    aci.collect(Clock.now());
    // The answer was made before: it still holds what was deleted.
    assert_eq!(records(&mut aci, &["1"], "uni/tn-A", "deleted"), 1);
    tell.send(subscribed(0, "3", &["uni/tn-A"], Some(Clock.now().utc))).unwrap();
    tell.send(Report::Renewing(1)).unwrap();
    assert_eq!(asides(&mut aci), ["gap: it ran out"]);
    // And so it is for the second one, whose answer is still to come.
    assert_eq!(records(&mut aci, &["3"], "uni/tn-B", "created"), 1);
    assert_eq!(records(&mut aci, &["3"], "uni/tn-B", "deleted"), 1);
    tell.send(subscribed(1, "4", &["uni/tn-B"], Some(Clock.now().utc))).unwrap();
    assert_eq!(asides(&mut aci), ["gap: it ran out"]);
    assert!(!aci.known.pages_moved());
}

#[test]
fn a_subscription_that_goes_on_beside_the_new_one_brings_nothing_twice() {
    let (mut aci, tell, _) = aci(&["fvTenant"], |_| ());
    tell.send(subscribed(0, "1", &[], None)).unwrap();
    tell.send(Report::Ready).unwrap();
    tell.send(Report::Renewing(0)).unwrap();
    tell.send(subscribed(0, "2", &[], None)).unwrap();
    asides(&mut aci);
    assert_eq!(records(&mut aci, &["1"], "uni/tn-A", "created"), 1);
    assert_eq!(records(&mut aci, &["2"], "uni/tn-A", "created"), 0);
}

#[test]
fn ids_that_nobody_knows_cost_no_memory_for_ever() {
    let (mut aci, tell, _) = aci(&["fvTenant"], |args| args.resync = true);
    tell.send(Report::Ready).unwrap();
    asides(&mut aci);
    aci.unplaced = vec![("9".to_owned(), "uni".to_owned()); MOST_UNPLACED];
    records(&mut aci, &["9"], "uni/tn-A", "created");
    assert_eq!(aci.unplaced.len(), MOST_UNPLACED);
}

#[test]
fn a_list_whose_pages_moved_proves_no_deletion() {
    let (mut aci, tell, diagnostics) = aci(&["fvTenant"], |args| args.resync = true);
    tell.send(subscribed(0, "1", &["uni/tn-A", "uni/tn-B"], None)).unwrap();
    tell.send(Report::Ready).unwrap();
    assert_eq!(asides(&mut aci), ["proven"]);
    tell.send(Report::Renewing(0)).unwrap();
    aci.collect(Clock.now());
    records(&mut aci, &["1"], "uni/tn-A", "deleted");
    let Report::Subscribed { target, mut subscribed, asked, missing_since } =
        subscribed(0, "2", &[], Some(Clock.now().utc))
    else {
        unreachable!()
    };
    subscribed.answers.push(subscribed.answers[0].clone());
    tell.send(Report::Subscribed { target, subscribed, asked, missing_since }).unwrap();
    assert_eq!(asides(&mut aci), ["gap: it ran out"]);
    assert!(diagnostics.said().contains("deletions may be missed"), "{}", diagnostics.said());
}

#[test]
fn credentials_that_were_refused_to_the_next_session_are_not_tried_again() {
    let (mut aci, tell, diagnostics) = aci(&["fvTenant"], |_| ());
    tell.send(Report::Ready).unwrap();
    asides(&mut aci);
    let (live, _attempt) = aci.prepare(0, false);
    let (sender, attempt) = channel();
    sender.send(Err(Rejection::Refused { reason: "HTTP 401".to_owned() })).unwrap();
    let credentials = aci.fingerprint();
    aci.next = Some(Next { live, attempt, client: None, overlap: OVERLAP, at: None, base: 0, credentials });
    let mut now = Clock.now();
    assert_eq!(aci.aside(now), None);
    assert!(diagnostics.said().contains("HTTP 401; not tried again until the credentials change"));
    let sessions = aci.sessions;
    for _ in 0..70 {
        now.at += RENEW_AGAIN;
        assert_eq!(aci.aside(now), None);
        assert!(aci.next.is_none() && aci.due(now).is_some_and(|due| due > now.at));
    }
    assert_eq!(aci.sessions, sessions);
    // Others are tried.
    aci.args.signing_cert = Some("renewed.crt".to_owned());
    now.at += RENEW_AGAIN;
    aci.aside(now);
    assert_eq!(aci.sessions, sessions + 1);
}

#[test]
fn the_end_of_a_session_is_counted_from_its_beginning_however_late_that_is_heard_of() {
    let (mut aci, tell, _) = aci(&["fvTenant"], |_| ());
    let begun = Clock.now().at;
    tell.send(Report::Life(begun, SECOND * 1000)).unwrap();
    let now = Clock.now();
    aci.aside(Moment { at: now.at + SECOND * 900, ..now });
    assert_eq!(aci.renew_at, Some(begun + SECOND * 950));
}
