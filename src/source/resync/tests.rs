//! Resync against a scripted lister and a clock that moves when told: no thread, no network, no sleep.

use std::sync::Mutex;

use super::known::{KINDS, Seen};
use super::*;
use crate::flow::stage::tests::start;
use crate::model::secret::Secret;

type Begun = Arc<Mutex<Vec<(Order, Option<Authorization>, Sender<Found>)>>>;

/// Keeps what was ordered, for the test to answer.
struct Scripted(Begun);

impl Lister for Scripted {
    fn begin(&mut self, order: Order, authorization: Option<Authorization>) -> Underway {
        let ((tell, found), (interest, _)) = (channel(), channel());
        self.0.lock().unwrap().push((order, authorization, tell));
        Underway { found, _interest: interest }
    }
}

struct Play {
    resync: Resync,
    begun: Begun,
    diagnostics: Diagnostics,
    now: Moment,
    authorization: Option<Authorization>,
}

impl Play {
    fn new(change: impl FnOnce(&mut ResyncArgs)) -> Play {
        let mut args = ResyncArgs { resync: true, ..ResyncArgs::default() };
        change(&mut args);
        let (begun, diagnostics) = (Begun::default(), Diagnostics::memory("tutum-stream"));
        let lister = Box::new(Scripted(Arc::clone(&begun)));
        let resync = Resync::new(args, "ws://h/v1/events", lister, diagnostics.clone(), start()).unwrap();
        Play { resync, begun, diagnostics, now: start(), authorization: None }
    }

    fn later(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    fn open(&mut self) -> Heeded {
        self.resync.changed(&Change::Open { attempts: 1 }, self.now)
    }

    fn gap(&mut self) -> Heeded {
        let close = Change::Close { reason: "cut".to_owned(), code: None };
        let from = self.now.utc;
        self.resync.changed(&close, self.now);
        self.later(10);
        self.open();
        let gap = Change::Gap { from, to: self.now.utc, reason: "cut".to_owned(), attempts: 1 };
        self.resync.changed(&gap, self.now)
    }

    fn event(&mut self, uri: &str, state: &str) {
        let text = format!(r#"{{"action":"update","state":"{state}","resource_uri":"/api/v1/{uri}/"}}"#);
        self.resync.heed(&Event::parse(text.as_bytes()).unwrap());
    }

    /// Everything that is told now: "update node/1 Deployed resync", or the reason of a failure.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(aside) = self.resync.next(self.authorization.as_ref(), self.now) {
            told.push(match aside {
                Aside::Event(text) => {
                    let event = Event::parse(text.as_bytes()).unwrap();
                    let origin = text.rsplit('"').nth(1).unwrap().to_owned();
                    let uri = event.resource_uri.unwrap().replace("/api/v1/", "");
                    let uri = uri.trim_end_matches('/');
                    format!("{} {uri} {} {origin}", event.action.unwrap(), event.state.unwrap_or_default())
                }
                Aside::Tell(Change::Failed { reason }) => reason,
                other => panic!("{other:?}"),
            });
        }
        told
    }

    /// How often a listing was begun.
    fn begun(&self) -> usize {
        self.begun.lock().unwrap().len()
    }

    fn answer(&mut self, objects: &[(&str, &str)], gone: &[&str]) -> Vec<String> {
        self.answer_with(objects, gone, &KINDS, &[])
    }

    fn answer_with(
        &mut self,
        objects: &[(&str, &str)],
        gone: &[&str],
        complete: &[&'static str],
        failures: &[&str],
    ) -> Vec<String> {
        let uri = |uri: &str| format!("/api/v1/{uri}/");
        let seen = |state: &str| Seen { state: Some(state.to_owned()), parents: Vec::new() };
        let listing = difference::Listing {
            objects: objects.iter().map(|(name, state)| (uri(name), seen(state))).collect(),
            complete: complete.iter().copied().collect(),
            gone: gone.iter().map(|name| uri(name)).collect(),
        };
        let failures: Vec<String> = failures.iter().map(|&reason| reason.to_owned()).collect();
        let refused = failures.iter().any(|reason| reason.contains("refused"));
        let sent = self.begun.lock().unwrap().last().unwrap().2.send(Found { listing, failures, refused });
        sent.expect("the last listing is waited for");
        self.told()
    }
}

const NOTHING: [String; 0] = [];

#[test]
fn the_first_start_learns_and_every_gap_tells_what_changed() {
    let mut play = Play::new(|_| ());
    assert_eq!(play.open(), Heeded::default());
    assert_eq!(play.told(), NOTHING);
    assert_eq!(play.answer(&[("node/1", "Deployed"), ("stack/1", "Running")], &[]), NOTHING);
    play.event("stack/2", "Running");
    assert!(play.gap().members.starts_with(r#""resync":true,"note":"#));
    assert_eq!(play.told(), NOTHING);
    let order = play.begun.lock().unwrap()[1].0.clone();
    assert_eq!((order.known.len(), order.since), (3, Some(start().utc)));
    let told = play.answer(&[("node/1", "Unreachable"), ("stack/3", "Running")], &["stack/2"]);
    assert_eq!(
        told,
        ["update node/1 Unreachable resync", "create stack/3 Running resync", "delete stack/2 Terminated resync"]
    );
    play.gap();
    play.told();
    assert_eq!(
        play.answer(&[("node/1", "Unreachable"), ("stack/3", "Running")], &["stack/1"]),
        ["delete stack/1 Terminated resync"]
    );
    assert!(play.diagnostics.said().contains("2 objects listed, 1 differences"), "{}", play.diagnostics.said());
    assert_eq!(play.resync.accounts().count("resynced"), 4);
}

#[test]
fn a_live_event_wins_even_over_what_stands_in_the_queue() {
    let mut play = Play::new(|_| ());
    play.open();
    play.told();
    play.answer(&[("node/1", "Deployed"), ("node/2", "Deployed"), ("node/3", "Deployed")], &[]);
    play.gap();
    play.told();
    play.event("node/1", "Terminated");
    let listing = [("node/1", "Unreachable"), ("node/2", "Unreachable"), ("node/3", "Unreachable")];
    let objects = listing
        .map(|(name, state)| (format!("/api/v1/{name}/"), Seen { state: Some(state.to_owned()), parents: Vec::new() }));
    let listing = difference::Listing { objects: objects.into(), complete: KINDS.into(), gone: Vec::new() };
    let found = Found { listing, ..Found::default() };
    play.begun.lock().unwrap().last().unwrap().2.send(found).unwrap();
    // The reader is slow: one is told, and then something happens to the other.
    assert!(play.resync.next(None, play.now).is_some());
    play.event("node/3", "Deployed");
    assert_eq!(play.told(), NOTHING);
    let state = |uri: &str| play.resync.known.get(uri).map(|seen| seen.state.clone().unwrap());
    assert_eq!(state("/api/v1/node/1/"), None);
    assert_eq!(state("/api/v1/node/2/").as_deref(), Some("Unreachable"));
    assert_eq!(state("/api/v1/node/3/").as_deref(), Some("Deployed"));
}

#[test]
fn a_gap_during_a_listing_begins_another_and_the_missed_time_grows() {
    let mut play = Play::new(|_| ());
    play.open();
    play.told();
    play.answer(&[("node/1", "Deployed")], &[]);
    let from = play.now.utc;
    play.gap();
    play.told();
    play.gap();
    play.told();
    assert_eq!(play.begun(), 3);
    assert_eq!(play.begun.lock().unwrap()[2].0.since, Some(from));
    assert!(play.begun.lock().unwrap()[1].2.send(Found::default()).is_err(), "nobody listens any longer");
    assert_eq!(play.answer(&[("node/1", "Deployed"), ("action/1", "Failed")], &[]), ["create action/1 Failed resync"]);
}

#[test]
fn what_failed_is_told_once_tried_again_and_nothing_of_it_is_lost() {
    let mut play = Play::new(|_| ());
    play.open();
    play.told();
    play.answer(&[("node/1", "Deployed"), ("stack/1", "Running")], &[]);
    play.gap();
    play.told();
    let told = play.answer_with(&[("node/1", "Unreachable")], &[], &["node"], &["stack: HTTP 500"]);
    assert_eq!(told, ["resync: what was missed is not known yet: stack: HTTP 500", "update node/1 Unreachable resync"]);
    assert_eq!(play.resync.due(play.now), Some(play.now.at + TRY_AGAIN));
    play.later(299);
    assert_eq!((play.told(), play.begun()), (Vec::new(), 2));
    play.later(2);
    assert_eq!((play.told(), play.begun()), (Vec::new(), 3));
    assert_eq!(play.answer_with(&[], &[], &["node"], &["stack: HTTP 500"]), NOTHING);
    // A new gap is told anew.
    play.gap();
    play.told();
    assert_eq!(play.answer_with(&[], &[], &["node"], &["stack: HTTP 500"]).len(), 1);
    play.later(301);
    play.told();
    assert_eq!(play.answer(&[("node/1", "Unreachable")], &["stack/1"]), ["delete stack/1 Terminated resync"]);
    assert_eq!(play.resync.due(play.now), None);
}

#[test]
fn a_type_that_was_never_listed_is_learned_and_not_told_as_new() {
    let mut play = Play::new(|_| ());
    play.open();
    play.told();
    play.answer_with(&[("node/1", "Deployed")], &[], &["node"], &["stack: HTTP 500"]);
    play.gap();
    play.told();
    assert_eq!(play.answer(&[("node/2", "Deployed"), ("stack/1", "Running")], &[]), ["create node/2 Deployed resync"]);
    play.gap();
    play.told();
    assert_eq!(play.answer(&[("stack/2", "Running")], &[]), ["create stack/2 Running resync"]);
}

#[test]
fn a_refused_credential_is_never_shown_twice() {
    let mut play = Play::new(|_| ());
    play.authorization = Some(Authorization::Header(Secret::new("ApiKey jo:old-key")));
    play.open();
    play.told();
    assert_eq!(play.answer_with(&[], &[], &[], &["stack: HTTP 401: the credentials are refused"]).len(), 1);
    assert!(play.resync.take_refusal(play.now) && !play.resync.take_refusal(play.now));
    play.later(301);
    assert!(play.resync.take_refusal(play.now));
    assert_eq!((play.told(), play.begun()), (Vec::new(), 1));
    play.gap();
    assert_eq!(
        (play.told(), play.begun()),
        (
            vec![
                "resync: what was missed is not known yet: the credentials were refused and are still the same"
                    .to_owned()
            ],
            1
        )
    );
    play.authorization = Some(Authorization::Header(Secret::new("ApiKey jo:new-key")));
    assert_eq!((play.told(), play.begun()), (Vec::new(), 2));
    assert_eq!(play.answer(&[("node/1", "Deployed")], &[]), NOTHING);
    assert!(!play.resync.take_refusal(play.now));
}

#[test]
fn a_snapshot_tells_everything_once() {
    let mut play = Play::new(|args| (args.resync, args.snapshot) = (false, true));
    play.open();
    play.told();
    let objects = [("container/1", "Running"), ("node/1", "Deployed"), ("stack/9", "Terminated")];
    assert_eq!(
        play.answer_with(&objects, &[], &["node", "container"], &["stack: HTTP 500"])[1..],
        ["update node/1 Deployed snapshot", "update container/1 Running snapshot"]
    );
    play.later(301);
    play.told();
    assert_eq!(
        play.answer(&[("node/1", "Deployed"), ("stack/1", "Running")], &[]),
        ["update stack/1 Running snapshot"]
    );
    assert_eq!(play.gap(), Heeded::default());
    assert_eq!((play.told(), play.begun()), (Vec::new(), 2));
}

#[test]
fn the_state_outlives_a_restart_and_never_claims_what_was_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let kept = |args: &mut ResyncArgs| args.state = Some(path.clone());
    let mut play = Play::new(kept);
    play.open();
    play.told();
    play.resync.written(false, play.now);
    assert!(!path.exists(), "nothing is learned yet");
    play.answer(&[("node/1", "Deployed"), ("node/2", "Deployed")], &[]);
    play.resync.heard(play.now);
    play.gap();
    play.told();
    let found = Found {
        listing: difference::Listing {
            objects: [
                ("/api/v1/action/1/", "Failed"),
                ("/api/v1/node/1/", "Unreachable"),
                ("/api/v1/node/2/", "Unreachable"),
            ]
            .map(|(uri, state)| (uri.to_owned(), Seen { state: Some(state.to_owned()), parents: Vec::new() }))
            .into(),
            complete: KINDS.into(),
            gone: Vec::new(),
        },
        ..Found::default()
    };
    play.begun.lock().unwrap().last().unwrap().2.send(found).unwrap();
    assert!(play.resync.next(None, play.now).is_some());
    play.resync.written(true, play.now);
    drop(play);

    let mut play = Play::new(kept);
    play.later(60);
    let heeded = play.open();
    let Some(Change::Gap { from, to, reason, .. }) = heeded.then else { panic!("a restart is a gap") };
    assert_eq!((from, to, reason.as_str()), (start().utc, play.now.utc, "the program was not running"));
    let gap = Change::Gap { from, to, reason, attempts: 1 };
    assert!(!play.resync.changed(&gap, play.now).members.is_empty());
    play.told();
    let objects = [("node/1", "Unreachable"), ("node/2", "Unreachable"), ("action/1", "Failed")];
    assert_eq!(play.answer(&objects, &[]), ["update node/2 Unreachable resync", "create action/1 Failed resync"]);
    drop(play);

    std::fs::write(&path, "{\"format\"").unwrap();
    let mut play = Play::new(kept);
    let said = play.diagnostics.said();
    assert!(said.contains("set aside as") && said.contains("is learned anew"), "{said}");
    assert_eq!(play.open(), Heeded::default());
    assert!(!path.exists());
}

#[test]
fn the_api_is_where_it_is_said_to_be() {
    let stream = Address::parse("wss://[::1]:8443/v1/events", &["wss"]).unwrap();
    let derived = Address { scheme: "https".to_owned(), ..stream.with_path("/api/v1/") };
    assert_eq!(derived.expose(), "https://[::1]:8443/api/v1/");
    for (url, address) in [
        ("https://h", "https://h/api/v1/"),
        ("http://h:1/api/v1", "http://h:1/api/v1/"),
        ("HTTPS://h/api/v1/", "https://h/api/v1/"),
    ] {
        assert_eq!(base(url).unwrap().expose(), address);
    }
    for url in ["h", "wss://h", "https://h/other/", "https://h/?token=hunter22", "https://u:hunter22@h"] {
        assert!(!base(url).unwrap_err().contains("hunter22"));
    }
    let state = ResyncArgs { state: Some("x".into()), snapshot: true, ..ResyncArgs::default() };
    assert_eq!(state.check().unwrap_err().message, "--state: needs --resync");
}
