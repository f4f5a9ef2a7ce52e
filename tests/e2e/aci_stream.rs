//! aci-stream against a fake APIC: sessions, subscriptions, events, and everything that can go wrong with them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::apic::{FakeApic, Instead, PASSWORD, Times, USER};
use super::support::{Running, Scratch, command, until};
use super::tutum_stream::{expect, finish_stopped, names, value};

fn aci(apic: &FakeApic, args: &[&str]) -> Command {
    let mut command = command("aci-stream", ["--url", &apic.url(), "--user", USER]);
    command.args(args).env("APIC_PASSWORD", PASSWORD);
    command
}

fn start(apic: &FakeApic, args: &[&str]) -> Running {
    Running::start(aci(apic, args))
}

/// Starts it and waits until it is open.
#[track_caller]
fn open(apic: &FakeApic, args: &[&str]) -> Running {
    let mut running = start(apic, args);
    expect(&mut running, "open/Connected");
    running
}

#[test]
fn events_come_in_the_suites_shape_and_it_logs_out_at_the_end() {
    let apic = FakeApic::start();
    let mut running = open(&apic, &["fvTenant", "uni/tn-common"]);
    apic.create("fvTenant", "uni/tn-X", r#""name":"X","uid":"15374""#);
    let line = expect(&mut running, "fvTenant");
    assert_eq!(value(&line, "action"), "create");
    assert_eq!(value(&line, "resource_uri"), "/api/mo/uni/tn-X.json");
    assert_eq!(value(&line, "parents"), r#"["/api/mo/uni.json"]"#);
    assert_eq!(value(&line, "dn"), "uni/tn-X");
    assert!(
        line.contains(
            r#""attributes":{"childAction":"","dn":"uni/tn-X","rn":"","status":"created","name":"X","uid":"15374"}"#
        ),
        "{line}"
    );
    assert!(value(&line, "received_at").ends_with('Z'));
    apic.modify("fvTenant", "uni/tn-common", r#""descr":"a""#);
    assert_eq!(value(&expect(&mut running, "fvTenant"), "action"), "update");
    apic.delete("fvTenant", "uni/tn-X");
    assert_eq!(value(&expect(&mut running, "fvTenant"), "action"), "delete");
    running.signal("TERM");
    expect(&mut running, "close/Stopped");
    finish_stopped(running);
    assert_eq!((apic.logins(), apic.logouts()), (1, 1));
    for asked in apic.asked() {
        assert!(
            asked.cookies.len() <= 1 && asked.cookies.iter().all(|cookie| cookie.matches("APIC-cookie").count() == 1)
        );
    }
}

#[test]
fn what_no_message_says_is_open_too_and_a_heartbeat_follows() {
    let apic = FakeApic::start();
    let mut running = open(&apic, &["--heartbeat", "1s", "fvTenant"]);
    let beat = expect(&mut running, "heartbeat/Connected");
    assert_eq!(value(&beat, "resource_uri"), "/socket");
    assert_eq!(value(&beat, "source"), format!("{}/socket", apic.url().replace("http", "ws")));
    running.signal("INT");
    finish_stopped(running);
}

#[test]
fn a_refused_login_is_final_and_tried_once() {
    let apic = FakeApic::start();
    let mut command = aci(&apic, &["fvTenant"]);
    command.env("APIC_PASSWORD", "wrong-hunter");
    let finished = Running::start(command).finish().expect_code(3);
    assert_eq!(names(&finished), ["error/Unauthorized"]);
    assert_eq!(apic.count("/api/aaaLogin.json"), 1);
    assert!(finished.stderr.contains("Authentication failed"), "{}", finished.stderr);
    assert!(!finished.stderr.contains("wrong-hunter"), "{}", finished.stderr);
}

#[test]
fn a_login_domain_goes_with_the_name() {
    let apic = FakeApic::start();
    apic.demand_domain("LDAP");
    start(&apic, &["fvTenant"]).finish().expect_code(3);
    let running = open(&apic, &["--domain", "LDAP", "fvTenant"]);
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn session_and_subscriptions_are_refreshed_well_inside_their_lives() {
    let apic = FakeApic::start_with(Times { refresh_timeout: 2, ..Times::default() });
    let mut running = open(&apic, &["--subscription-life", "3s", "fvTenant", "fvAp"]);
    let begun = Instant::now();
    until("session and subscriptions have outlived their lives", || begun.elapsed() > Duration::from_secs(7));
    assert!(apic.count("/api/aaaRefresh.json") >= 3, "{}", apic.count("/api/aaaRefresh.json"));
    apic.create("fvTenant", "uni/tn-X", "");
    expect(&mut running, "fvTenant");
    apic.create("fvAp", "uni/tn-X/ap-Y", "");
    expect(&mut running, "fvAp");
    assert_eq!((apic.logins(), apic.subscribed()), (1, 2));
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn a_subscription_that_ran_out_is_made_anew_and_the_gap_is_told() {
    let apic = FakeApic::start();
    apic.put("fvTenant", "uni/tn-A", r#""descr":"a""#);
    let mut running = open(&apic, &["--resync", "--subscription-life", "3s", "fvTenant", "fvAp"]);
    until("what there is is known", || running.stderr().contains("1 objects known"));
    // Nothing on the socket says so.
    apic.forget_subscriptions();
    apic.put("fvTenant", "uni/tn-B", "");
    let gap = expect(&mut running, "gap/Connected");
    assert!(value(&gap, "reason").contains("the subscription ran out"), "{gap}");
    assert_eq!(value(&gap, "resync"), "true");
    // Both ran out, so both say so.
    let mut told = [running.line(), running.line()];
    told.sort();
    assert_eq!(value(&told[0], "action"), "create", "{told:?}");
    assert_eq!(value(&told[0], "origin"), "resync");
    assert_eq!(value(&told[1], "action"), "gap", "{told:?}");
    apic.create("fvAp", "uni/tn-A/ap-Y", "");
    expect(&mut running, "fvAp");
    assert_eq!(apic.logins(), 1);
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn a_session_that_is_refused_is_built_up_anew() {
    let apic = FakeApic::start();
    let mut running = open(&apic, &["--subscription-life", "3s", "fvTenant"]);
    apic.forget_sessions();
    let close = expect(&mut running, "close/Disconnected");
    assert!(value(&close, "reason").contains("Token was invalid"), "{close}");
    expect(&mut running, "open/Connected");
    expect(&mut running, "gap/Connected");
    apic.create("fvTenant", "uni/tn-X", "");
    expect(&mut running, "fvTenant");
    assert_eq!(apic.logins(), 2);
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn what_changed_during_a_gap_is_told_from_the_new_answers() {
    let apic = FakeApic::start();
    for (name, attributes) in [("A", r#""descr":"a","uid":"1""#), ("B", ""), ("C", "")] {
        apic.put("fvTenant", &format!("uni/tn-{name}"), attributes);
    }
    let mut running = open(&apic, &["--resync", "fvTenant"]);
    until("what there is is known", || running.stderr().contains("3 objects known"));
    apic.modify("fvTenant", "uni/tn-B", r#""descr":"live""#);
    expect(&mut running, "fvTenant");
    apic.put("fvTenant", "uni/tn-A", r#""descr":"changed","uid":"1""#);
    apic.put("fvTenant", "uni/tn-D", r#""operSt":"up""#);
    apic.remove("uni/tn-C");
    apic.break_off(false);
    expect(&mut running, "close/Disconnected");
    expect(&mut running, "open/Connected");
    let gap = expect(&mut running, "gap/Connected");
    assert_eq!(value(&gap, "resync"), "true");
    let told = [running.line(), running.line(), running.line()];
    let short: Vec<String> = told
        .iter()
        .map(|line| format!("{} {} {}", value(line, "action"), value(line, "dn"), value(line, "attributes")))
        .collect();
    assert_eq!(
        short,
        [
            r#"update uni/tn-A {"dn":"uni/tn-A","descr":"changed","status":"modified"}"#,
            r#"create uni/tn-D {"dn":"uni/tn-D","status":"","operSt":"up"}"#,
            r#"delete uni/tn-C {"dn":"uni/tn-C","status":"deleted"}"#,
        ]
    );
    assert_eq!(value(&told[1], "state"), "up");
    assert!(told.iter().all(|line| value(line, "origin") == "resync" && value(line, "type") == "fvTenant"));
    running.signal("TERM");
    expect(&mut running, "close/Stopped");
    finish_stopped(running);
}

#[test]
fn a_snapshot_tells_what_there_is_once() {
    let apic = FakeApic::start();
    apic.put("fvTenant", "uni/tn-A", r#""descr":"a""#);
    apic.put("fvAp", "uni/tn-A/ap-B", "");
    let mut running = open(&apic, &["--snapshot", "--query-target", "subtree", "uni/tn-A", "fvTenant"]);
    let told = [running.line(), running.line()];
    assert_eq!(value(&told[0], "dn"), "uni/tn-A");
    assert_eq!(value(&told[1], "dn"), "uni/tn-A/ap-B");
    assert!(told.iter().all(|line| value(line, "origin") == "snapshot" && value(line, "action") == "update"));
    apic.break_off(false);
    expect(&mut running, "close/Disconnected");
    expect(&mut running, "open/Connected");
    expect(&mut running, "gap/Connected");
    running.signal("TERM");
    expect(&mut running, "close/Stopped");
    finish_stopped(running);
}

#[test]
fn an_event_that_belongs_to_two_subscriptions_comes_once() {
    for separately in [false, true] {
        let apic = FakeApic::start();
        if separately {
            apic.send_separately();
        }
        let mut running = open(&apic, &["--stats", "fvTenant", "uni/tn-X"]);
        for _ in 0..3 {
            apic.create("fvTenant", "uni/tn-X", "");
            apic.delete("fvTenant", "uni/tn-X");
        }
        for action in ["create", "delete", "create", "delete", "create", "delete"] {
            assert_eq!(value(&expect(&mut running, "fvTenant"), "action"), action);
        }
        apic.create("fvTenant", "uni/tn-Y", "");
        assert_eq!(value(&expect(&mut running, "fvTenant"), "dn"), "uni/tn-Y");
        running.signal("TERM");
        let finished = finish_stopped(running);
        let repeated = if separately { "\"repeated\":6" } else { "\"repeated\":0" };
        assert!(finished.stderr.contains(repeated), "{}", finished.stderr);
    }
}

#[test]
fn a_session_at_the_end_of_its_life_is_followed_by_another_without_a_gap_or_an_event_twice() {
    let apic = FakeApic::start_with(Times { life: 4, ..Times::default() });
    let mut running = open(&apic, &["fvTenant", "uni/tn-0"]);
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(10) {
        // The deletions are all equal: what a recogniser of repetitions must not swallow.
        apic.create("fvTenant", "uni/tn-0", &format!(r#""modTs":"{sent}""#));
        apic.delete("fvTenant", "uni/tn-0");
        sent += 2;
        std::thread::sleep(Duration::from_millis(3));
    }
    apic.create("fvTenant", "uni/tn-last", "");
    let mut came = 0;
    loop {
        let line = expect(&mut running, "fvTenant");
        if value(&line, "dn") == "uni/tn-last" {
            break;
        }
        assert_eq!(value(&line, "action"), if came % 2 == 0 { "create" } else { "delete" }, "event {came}");
        came += 1;
    }
    assert_eq!(came, sent);
    assert!(apic.logins() >= 3, "{}", apic.logins());
    until("the sessions before were ended", || apic.logouts() == apic.logins() - 1 && apic.sockets() == 1);
    running.signal("TERM");
    expect(&mut running, "close/Stopped");
    finish_stopped(running);
}

#[test]
fn a_session_that_followed_another_tells_what_a_lost_subscription_missed() {
    let apic = FakeApic::start_with(Times { life: 8, ..Times::default() });
    apic.put("fvTenant", "uni/tn-A", "");
    let mut running = open(&apic, &["--resync", "--subscription-life", "3s", "fvTenant"]);
    until("another session followed", || apic.logins() == 2 && apic.logouts() == 1);
    apic.forget_subscriptions();
    apic.put("fvTenant", "uni/tn-B", "");
    expect(&mut running, "gap/Connected");
    let told = expect(&mut running, "fvTenant");
    assert_eq!((value(&told, "action"), value(&told, "dn")), ("create".to_owned(), "uni/tn-B".to_owned()));
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn credentials_refused_to_the_session_that_is_to_follow_are_tried_once_more_at_its_end_and_not_before() {
    let apic = FakeApic::start_with(Times { life: 4, ..Times::default() });
    let mut running = open(&apic, &["--subscription-life", "3s", "fvTenant"]);
    apic.misbehave(|asked| asked.target.starts_with("/api/aaaLogin").then(|| Instead::error(401, "locked soon")));
    expect(&mut running, "close/Disconnected");
    expect(&mut running, "error/Unauthorized");
    let finished = running.finish().expect_code(3);
    assert_eq!(apic.count("/api/aaaLogin.json"), 3);
    assert!(finished.stderr.contains("not tried again until the credentials change"), "{}", finished.stderr);
}

#[test]
fn an_apic_that_knows_no_class_yet_is_waited_for_once_it_knew_it() {
    let apic = FakeApic::start();
    let mut running = open(&apic, &["fvTenant"]);
    apic.misbehave(|asked| asked.target.starts_with("/api/class").then(|| Instead::Answer(404, "<html>".to_owned())));
    apic.break_off(false);
    expect(&mut running, "close/Disconnected");
    let error = expect(&mut running, "error/Failed");
    assert_eq!(value(&error, "reason"), "fvTenant: HTTP 404");
    apic.behave();
    expect(&mut running, "open/Connected");
    expect(&mut running, "gap/Connected");
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn a_gap_lasts_until_everything_is_subscribed_to() {
    let apic = FakeApic::start();
    let mut running = open(&apic, &["fvTenant", "fvAp"]);
    let before = apic.subscribed();
    apic.misbehave(|asked| {
        asked.target.starts_with("/api/class/fvAp").then_some(Instead::Late(Duration::from_secs(2)))
    });
    apic.break_off(false);
    until("the first target is subscribed to", || apic.subscribed() == before + 1);
    apic.create("fvTenant", "uni/tn-X", "");
    expect(&mut running, "close/Disconnected");
    expect(&mut running, "open/Connected");
    let first = expect(&mut running, "gap/Connected");
    expect(&mut running, "fvTenant");
    let second = expect(&mut running, "gap/Connected");
    assert_eq!(value(&second, "from"), value(&first, "from"));
    assert!(value(&second, "to") > value(&first, "to"), "{second}");
    assert!(value(&second, "reason").starts_with("not everything was subscribed to yet"), "{second}");
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn a_proxys_page_in_place_of_an_answer_does_not_keep_a_subscription() {
    let apic = FakeApic::start();
    let mut running = open(&apic, &["--subscription-life", "3s", "fvTenant"]);
    apic.misbehave(|asked| {
        asked.target.starts_with("/api/").then(|| Instead::Answer(200, "<html>Guest network</html>".to_owned()))
    });
    let close = expect(&mut running, "close/Disconnected");
    assert!(value(&close, "reason").contains("not what an APIC says"), "{close}");
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn the_fake_answers_two_cookies_and_pushes_nothing() {
    let apic = FakeApic::start();
    let login = ask(
        &apic,
        "POST /api/aaaLogin.json",
        "",
        &format!(r#"{{"aaaUser":{{"attributes":{{"name":"{USER}","pwd":"{PASSWORD}"}}}}}}"#),
    );
    let token = login.split_once(r#""token":""#).unwrap().1.split_once('"').unwrap().0.to_owned();
    let key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut socket = call(&apic, &format!("GET /socket{token}"), key, "");
    let head = until_text(&mut socket, "\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    apic.put("fvTenant", "uni/tn-A", "");
    let cookie = format!("APIC-cookie={token}");
    let twice =
        ask(&apic, "GET /api/class/fvTenant.json?subscription=yes", &format!("Cookie: {cookie}; {cookie}\r\n"), "");
    assert!(
        twice.starts_with("HTTP/1.1 200") && twice.contains("subscriptionId") && twice.contains(r#""imdata":[]"#),
        "{twice}"
    );
    let headers = format!("Cookie: {cookie}\r\nCookie: {cookie}\r\n");
    ask(&apic, "GET /api/class/fvTenant.json?subscription=yes", &headers, "");
    ask(&apic, "GET /api/class/fvAp.json?subscription=yes", &format!("Cookie: {cookie}\r\n"), "");
    assert_eq!(apic.subscribed(), 3);
    apic.create("fvTenant", "uni/tn-X", "");
    apic.create("fvAp", "uni/tn-X/ap-Y", "");
    let pushed = until_text(&mut socket, "ap-Y");
    assert!(!pushed.contains("fvTenant"), "{pushed}");
}

/// Sends a request by hand, on a connection of its own.
fn call(apic: &FakeApic, request: &str, headers: &str, body: &str) -> TcpStream {
    let mut socket = TcpStream::connect(&apic.url()["http://".len()..]).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(socket, "{request} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    socket
}

/// The answer, as far as its list.
fn ask(apic: &FakeApic, request: &str, headers: &str, body: &str) -> String {
    until_text(&mut call(apic, request, headers, body), "]}")
}

fn until_text(socket: &mut TcpStream, text: &str) -> String {
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&read).contains(text) {
        socket.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[test]
fn the_apics_of_a_cluster_are_tried_in_turn() {
    let (one, two) = (FakeApic::start(), FakeApic::start());
    let mut running = Running::start({
        let mut command =
            command("aci-stream", ["--url", &format!("{},{}", one.url(), two.url()), "--user", USER, "fvTenant"]);
        command.env("APIC_PASSWORD", PASSWORD);
        command
    });
    let first = expect(&mut running, "open/Connected");
    assert!(value(&first, "source").contains(&one.url()["http://".len()..]), "{first}");
    one.break_off(true);
    expect(&mut running, "close/Disconnected");
    let second = expect(&mut running, "open/Connected");
    assert!(value(&second, "source").contains(&two.url()["http://".len()..]), "{second}");
    expect(&mut running, "gap/Connected");
    two.create("fvTenant", "uni/tn-X", "");
    expect(&mut running, "fvTenant");
    one.up();
    two.break_off(true);
    expect(&mut running, "close/Disconnected");
    let third = expect(&mut running, "open/Connected");
    assert_eq!(value(&third, "source"), value(&first, "source"));
    expect(&mut running, "gap/Connected");
    // Asked to connect anew it stays with the APIC it has.
    running.signal("HUP");
    expect(&mut running, "close/Disconnected");
    let fourth = expect(&mut running, "open/Connected");
    assert_eq!(value(&fourth, "source"), value(&first, "source"));
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn a_self_signed_certificate_is_refused_by_name_and_believed_when_given() {
    let (apic, pem) = FakeApic::start_self_signed();
    let finished = start(&apic, &["--no-reconnect", "fvTenant"]).finish().expect_code(4);
    assert!(finished.stderr.contains("certificate"), "{}", finished.stderr);
    assert_eq!(apic.logins(), 0);
    let scratch = Scratch::new();
    let file = scratch.write("apic.pem", pem);
    for flags in [vec!["--cacert", file.to_str().unwrap()], vec!["--insecure"]] {
        let mut running = open(&apic, &[&flags[..], &["fvTenant"]].concat());
        apic.create("fvTenant", "uni/tn-X", "");
        expect(&mut running, "fvTenant");
        running.signal("TERM");
        finish_stopped(running);
    }
}

#[test]
fn xml_and_garbage_are_told_and_empty_frames_are_not() {
    let apic = FakeApic::start();
    let mut running = open(&apic, &["--stats", "fvTenant"]);
    for text in ["", "<imdata/>", "{}", r#"{"imdata":[]}"#, " "] {
        apic.say(text);
    }
    apic.create("fvTenant", "uni/tn-X", "");
    expect(&mut running, "fvTenant");
    running.signal("TERM");
    let finished = finish_stopped(running);
    assert!(finished.stderr.contains("XML, not JSON"), "{}", finished.stderr);
    assert!(finished.stderr.contains(r#""in":6"#) && finished.stderr.contains(r#""empty":2"#), "{}", finished.stderr);
    assert!(finished.stderr.contains(r#""faulty":3"#), "{}", finished.stderr);
}

#[test]
fn an_unknown_class_is_wrong_usage_in_the_apics_own_words() {
    let apic = FakeApic::start();
    let finished = start(&apic, &["fvTenant", "noSuchClass"]).finish().expect_code(2);
    assert!(finished.stderr.contains("noSuchClass: HTTP 400: class noSuchClass not found"), "{}", finished.stderr);
    assert_eq!(names(&finished), ["error/Failed"]);
    until("it has logged out", || apic.logouts() == 1);
}

#[test]
fn an_answer_that_is_too_big_is_read_page_by_page() {
    let apic = FakeApic::start();
    for number in 0..10_050 {
        apic.put("fvCEp", &format!("uni/cep-{number:05}"), "");
    }
    apic.misbehave(|asked| {
        let whole = asked.target.starts_with("/api/class/") && !asked.target.contains("page-size");
        whole.then(|| Instead::error(400, "Unable to process the query, result dataset is too big"))
    });
    let running = open(&apic, &["--resync", "fvCEp"]);
    until("what there is is known", || running.stderr().contains("10050 objects known"));
    assert_eq!(apic.count("/api/class/fvCEp.json?page="), 2);
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn an_overloaded_apic_is_asked_again_and_a_dead_one_is_left() {
    let apic = FakeApic::start();
    let mut times = 0;
    apic.misbehave(move |asked| {
        times += u32::from(asked.target.contains("subscription=yes"));
        (asked.target.contains("subscription=yes") && times <= 2).then(|| Instead::Answer(503, String::new()))
    });
    let mut running = open(&apic, &["--subscription-life", "3s", "fvTenant"]);
    assert_eq!((apic.logins(), apic.subscribed()), (1, 1));
    apic.misbehave(|asked| asked.target.starts_with("/api/").then_some(Instead::HangUp));
    // The socket is alive all the while; refresh, second refresh and new subscription fail.
    let close = expect(&mut running, "close/Disconnected");
    assert!(value(&close, "reason").starts_with("fvTenant: "), "{close}");
    apic.behave();
    until("it is open again", || running.stdout().matches(r#""action":"open""#).count() == 2);
    running.signal("TERM");
    finish_stopped(running);
}

#[test]
fn one_refresh_that_fails_is_no_trouble() {
    let apic = FakeApic::start();
    let mut times = 0;
    apic.misbehave(move |asked| {
        times += u32::from(asked.target.starts_with("/api/subscriptionRefresh"));
        (asked.target.starts_with("/api/subscriptionRefresh") && times == 1).then_some(Instead::HangUp)
    });
    let running = open(&apic, &["--subscription-life", "3s", "fvTenant"]);
    until("it was refreshed again and again", || apic.count("/api/subscriptionRefresh.json") >= 4);
    running.signal("TERM");
    let finished = finish_stopped(running);
    assert_eq!((apic.logins(), apic.subscribed()), (1, 1), "{}", finished.stderr);
}

#[test]
fn a_stop_does_not_wait_for_an_apic_that_does_not_answer() {
    for path in ["/api/aaaLogin.json", "/socket", "/api/class/"] {
        let apic = FakeApic::start();
        apic.misbehave(move |asked| asked.target.starts_with(path).then(|| Instead::Late(Duration::from_secs(60))));
        let running = start(&apic, &["fvTenant"]);
        until("it is asked", || apic.count(path) == 1);
        running.signal("TERM");
        finish_stopped(running);
    }
}

#[test]
fn a_password_that_changed_is_read_again() {
    let apic = FakeApic::start();
    let scratch = Scratch::new();
    let file = scratch.write("password", "old-hunter\n");
    let mut command = command("aci-stream", ["--url", &apic.url(), "--user", USER, "--hold-on-auth", "1h"]);
    command.arg("--password-file").arg(&file).arg("fvTenant");
    let mut running = Running::start(command);
    expect(&mut running, "error/Unauthorized");
    scratch.write("password", format!("{PASSWORD}\n"));
    expect(&mut running, "open/Connected");
    running.signal("HUP");
    expect(&mut running, "close/Disconnected");
    expect(&mut running, "open/Connected");
    running.signal("TERM");
    finish_stopped(running);
    assert_eq!(apic.count("/api/aaaLogin.json"), 3);
}

#[test]
fn requests_can_be_signed_instead() {
    let apic = FakeApic::start();
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/aci/watcher.key");
    let mut command = command("aci-stream", ["--url", &apic.url(), "--user", USER, "--signing-key", key]);
    command.args(["--signing-cert", &format!("{USER}.crt"), "fvTenant"]);
    let mut running = Running::start(command);
    expect(&mut running, "open/Connected");
    apic.create("fvTenant", "uni/tn-X", "");
    expect(&mut running, "fvTenant");
    running.signal("TERM");
    finish_stopped(running);
    let asked = apic.asked();
    assert!(asked.iter().all(|asked| asked.cookies.len() == 1 && asked.cookies[0].contains("APIC-Certificate-DN=")));
    assert_eq!(apic.count("/api/aaa"), 0);
}

#[test]
fn no_secret_is_shown_even_if_the_apic_repeats_it() {
    let apic = FakeApic::start();
    apic.misbehave(|asked| {
        let echo = format!("no: {} {} {}", asked.target, asked.cookies.join(" "), asked.body.replace('"', "'"));
        let target = asked.target.as_str();
        if target.starts_with("/socket") {
            return Some(Instead::Answer(500, format!(r#"{{"error":"{echo}"}}"#)));
        }
        target.starts_with("/api/class").then(|| Instead::error(500, &echo))
    });
    for what in ["socket", "subscription"] {
        let finished = start(&apic, &["-v", "--no-reconnect", "fvTenant"]).finish().expect_code(4);
        for text in [&finished.stdout, &finished.stderr] {
            assert!(!text.contains(PASSWORD) && !text.contains("secret==") && !text.contains("eyJ"), "{what}: {text}");
        }
        apic.misbehave(|asked| {
            let echo = format!("no: {} {}", asked.target, asked.cookies.join(" "));
            asked.target.starts_with("/api/class").then(|| Instead::error(503, &echo))
        });
    }
    apic.misbehave(|asked| {
        let echo = asked.body.replace('"', "'");
        asked.target.starts_with("/api/aaaLogin").then(|| Instead::error(401, &echo))
    });
    let finished = start(&apic, &["-v", "fvTenant"]).finish().expect_code(3);
    assert!(!finished.stderr.contains(PASSWORD) && !finished.stdout.contains(PASSWORD), "{}", finished.stderr);
    assert!(finished.stderr.contains("<redacted>"), "{}", finished.stderr);
}

#[test]
fn raw_messages_and_limits() {
    let apic = FakeApic::start();
    let mut running = open(&apic, &["--raw", "--max-events", "1", "fvTenant"]);
    apic.create("fvTenant", "uni/tn-X", "");
    assert!(running.line().starts_with(r#"{"subscriptionId":["#));
    expect(&mut running, "close/Stopped");
    running.finish().expect_code(0);
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked() {
    let apic = FakeApic::start();
    for (args, words) in [
        (vec![], "nothing to subscribe to"),
        (vec!["fvTenant", "fvTenant"], "once is enough"),
        (vec!["/uni"], "expected a class such as fvTenant"),
        (vec!["--subtree-class", "fvAp", "fvTenant"], "--query-target"),
        (vec!["--subscription-life", "1s", "fvTenant"], "--subscription-life"),
        (vec!["--signing-cert", "x", "fvTenant"], "--signing-key"),
        (vec!["--raw", "--snapshot", "fvTenant"], "--raw"),
        (vec!["--url", "https://apic/api", "fvTenant"], "expected scheme and host"),
    ] {
        let finished = start(&apic, &args).finish().expect_code(2);
        assert!(finished.stderr.contains(words), "{args:?}: {}", finished.stderr);
    }
    let finished = start(&apic, &["--check", "fvTenant", "uni/tn-common"]).finish().expect_code(0);
    assert!(finished.stdout.contains("would subscribe to the class fvTenant"), "{}", finished.stdout);
    assert!(apic.asked().is_empty());
}

#[test]
fn the_tutorials_pipeline() {
    let apic = FakeApic::start();
    let script = format!(
        "{} --no-lifecycle --max-events 3 fvTenant fvAp | {} --action delete | {} --dry-run",
        super::support::binary("aci-stream").display(),
        super::support::binary("tutum-filter").display(),
        super::support::binary("to-slack").display(),
    );
    let mut command = super::support::shell(&script);
    command.env("APIC_URL", apic.url()).env("APIC_LOGIN", USER).env("APIC_PASSWORD", PASSWORD);
    command.env("SLACK_URL", "http://127.0.0.1:1/services/x");
    let running = Running::start(command);
    until("both are subscribed to", || apic.subscribed() == 2);
    apic.create("fvTenant", "uni/tn-X", "");
    apic.create("fvAp", "uni/tn-X/ap-Y", "");
    apic.delete("fvTenant", "uni/tn-X");
    let finished = running.finish().expect_code(0);
    assert_eq!(finished.lines().len(), 1, "{}", finished.stdout);
    assert!(finished.stdout.contains("uni/tn-X"), "{}", finished.stdout);
}
