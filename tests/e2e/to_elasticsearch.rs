//! to-elasticsearch against a fake `_bulk` that keeps documents by id and misbehaves by item.

use std::process::Command;

use serde_json::Value;

use super::support::bulk::{FakeIndex, actions};
use super::support::http::{Answer, FakeHttp};
use super::support::websocket::Server;
use super::support::{Running, Scratch, command};

fn events(count: usize) -> String {
    (1..=count)
        .map(|n| format!("{{\"type\":\"node\",\"n\":{n},\"received_at\":\"2025-03-04T05:06:07.890Z\"}}\n"))
        .collect()
}

fn sink(url: &str, args: &[&str]) -> Command {
    let mut command = command("to-elasticsearch", ["--stats", "--url", url]);
    command.args(args).env("ELASTICSEARCH_API_KEY", "id:key");
    command
}

/// A `_bulk` that refuses documents; the second argument of `refuse` is the request's number.
fn bulk(
    refuse: impl Fn(&Value, usize) -> Option<(u16, &'static str)> + Send + Sync + 'static,
) -> (FakeHttp, FakeIndex) {
    let index = FakeIndex::default();
    let stored = index.clone();
    (FakeHttp::start(move |request| stored.answer(request, |document| refuse(document, request.number))), index)
}

#[test]
fn items_are_judged_one_by_one_and_nothing_is_stored_twice() {
    let (server, index) = bulk(|document, number| match document["n"].as_u64() {
        Some(3) => Some((400, "mapper_parsing_exception")),
        Some(5) if number == 0 => Some((503, "unavailable_shards_exception")),
        Some(7) if number == 0 => Some((429, "es_rejected_execution_exception")),
        _ => None,
    });
    let sink = || sink(&server.url(""), &["--receipts", "--batch", "100,100ms"]);
    let finished = Running::start(sink()).input(events(10).as_bytes()).finish().expect_code(1);
    assert_eq!(finished.stdout.matches(r#""status":"delivered""#).count(), 9, "{}", finished.stdout);
    assert!(finished.stdout.contains(r#""reason":"400 mapper_parsing_exception: so""#), "{}", finished.stdout);
    assert_eq!(index.documents().len(), 9);
    let requests = server.requests();
    assert_eq!((requests.len(), requests[0].path.as_str()), (2, "/_bulk"));
    assert_eq!(requests[0].header("authorization"), Some("ApiKey aWQ6a2V5"));
    assert_eq!(requests[0].header("transfer-encoding"), None);
    let again: Vec<u64> = actions(&requests[1]).iter().filter_map(|(_, _, document)| document["n"].as_u64()).collect();
    assert_eq!(again, [5, 7], "only the items that failed go again");
    // The same events once more: all are there already, which is success.
    let again = Running::start(sink()).input(events(2).as_bytes()).finish().expect_code(0);
    assert_eq!(again.stdout.matches(r#""status":"delivered""#).count(), 2);
    assert_eq!(index.documents().len(), 9);
}

#[test]
fn dead_letters_have_the_servers_reason_and_go_in_again_once_mended() {
    let (server, index) =
        bulk(|document, number| (number == 0 && document["n"] == 2).then_some((400, "document_parsing_exception")));
    let scratch = Scratch::new();
    let dead = scratch.path("dead");
    let args = ["--dead-letters", dead.to_str().unwrap()];
    Running::start(sink(&server.url(""), &args)).input(events(3).as_bytes()).finish().expect_code(1);
    let letters = scratch.read("dead");
    let letter: Value = serde_json::from_str(&letters).expect("one line of JSON");
    assert_eq!((&letter["reason"], &letter["event"]["n"]), (&"400 document_parsing_exception: so".into(), &2.into()));
    assert_eq!(letter["http_status"], 400, "the item's own, not the answer's");
    Running::start(sink(&server.url(""), &[])).input(letters.as_bytes()).finish().expect_code(0);
    assert_eq!(index.documents().len(), 3);
}

#[test]
fn a_batch_that_is_too_large_is_halved_and_a_record_that_is_alone_is_dead() {
    let index = FakeIndex::default();
    let stored = index.clone();
    let server = FakeHttp::start(move |request| {
        let sent = actions(request);
        let giant = sent.iter().any(|(_, _, document)| document["n"] == 4);
        if sent.len() > 2 || giant { Answer::status(413) } else { stored.answer(request, |_| None) }
    });
    let finished =
        Running::start(sink(&server.url(""), &["--receipts"])).input(events(7).as_bytes()).finish().expect_code(1);
    assert_eq!(index.documents().len(), 6, "{}", finished.stdout);
    assert!(finished.stderr.contains(r#""delivered":6"#) && finished.stderr.contains(r#""dead":1"#));
    let dead = finished.stdout.lines().find(|line| line.contains(r#""dead""#)).expect("a receipt");
    assert!(dead.contains(r#""n":4"#) && dead.contains(r#""reason":"413""#), "{dead}");
    let alone = server.requests().iter().filter(|request| actions(request).len() == 1).count();
    assert!(alone <= 3, "the giant goes alone once, not twice");
}

#[test]
fn batches_end_by_count_by_bytes_and_by_age() {
    let sizes = |server: &FakeHttp| server.requests().iter().map(|request| actions(request).len()).collect::<Vec<_>>();
    let (server, _) = bulk(|_, _| None);
    Running::start(sink(&server.url(""), &["--batch", "4"])).input(events(10).as_bytes()).finish().expect_code(0);
    assert_eq!(sizes(&server), [4, 4, 2]);
    let (server, _) = bulk(|_, _| None);
    // Each is some 64 bytes.
    Running::start(sink(&server.url(""), &["--batch", "200B"])).input(events(6).as_bytes()).finish().expect_code(0);
    assert_eq!(sizes(&server), [3, 3]);
    // The input stays open and silent.
    let (server, index) = bulk(|_, _| None);
    let mut running = Running::start(sink(&server.url(""), &["--batch", "100ms"]));
    running.write(&events(2));
    server.wait_for(1);
    running.finish().expect_code(0);
    assert_eq!(index.documents().len(), 2);
}

#[test]
fn compressed_and_into_a_data_stream() {
    let (server, index) = bulk(|_, _| None);
    let args = ["--gzip", "--data-stream", "logs-tutum-prod"];
    Running::start(sink(&server.url("/es/"), &args)).input(events(50).as_bytes()).finish().expect_code(0);
    assert_eq!(index.documents().len(), 50);
    let request = &server.requests()[0];
    assert_eq!((request.path.as_str(), request.header("content-encoding")), ("/es/_bulk", Some("gzip")));
    assert!(request.body.len() < 2_000, "{} bytes for 50 equal events", request.body.len());
    let (name, _, document) = &actions(request)[0];
    assert_eq!((name.as_str(), &document["@timestamp"]), ("logs-tutum-prod", &"2025-03-04T05:06:07.890Z".into()));
}

#[test]
fn one_record_without_an_index_harms_no_other() {
    let (server, index) = bulk(|_, _| None);
    let input = "{\"type\":\"node\"}\n{\"type\":\"no such\"}\n{\"type\":\"service\"}\n{}\n";
    let args = ["--index", "all-{{ type }}", "--receipts"];
    let finished = Running::start(sink(&server.url(""), &args)).input(input.as_bytes()).finish().expect_code(1);
    assert_eq!(index.documents().len(), 3, "{}", finished.stdout);
    let reason = r#""reason":"\"all-no such\" cannot be the name of an index""#;
    assert!(finished.stdout.contains(reason), "{}", finished.stdout);
}

#[test]
fn what_an_operator_has_to_mend_ends_it_and_is_said() {
    let error = |status: u16, kind: &str, reason: &str| {
        Answer::json(format!(r#"{{"error":{{"type":"{kind}","reason":"{reason}"}},"status":{status}}}"#))
            .with_status(status)
    };
    let item = |status: u16, kind: &str, reason: &str| {
        Answer::json(format!(
            r#"{{"errors":true,"items":[{{"create":{{"status":{status},"error":{{"type":"{kind}","reason":"{reason}"}}}}}}]}}"#
        ))
    };
    for (answer, expected) in [
        (error(401, "security_exception", "unable to authenticate"), "the API key is not accepted"),
        (error(403, "security_exception", "action is unauthorized"), "the credential lacks a privilege"),
        (item(403, "security_exception", "action is unauthorized"), "the credential lacks a privilege"),
        (item(404, "index_not_found_exception", "no such index [x]"), "no such index [x]; the index does not exist"),
        (error(404, "index_not_found_exception", "no such index [x]"), "no such index [x]; the index does not exist"),
        (Answer::status(406).body("no"), "406 no"),
        (Answer::redirect("https://elsewhere.example/"), "it names https://elsewhere.example/"),
    ] {
        let server = FakeHttp::script([answer]);
        let scratch = Scratch::new();
        let spool = scratch.path("spool");
        let running = Running::start(sink(&server.url(""), &["--spool", spool.to_str().unwrap()]));
        let finished = running.input(events(1).as_bytes()).finish().expect_code(3);
        assert!(finished.stderr.contains(expected), "{expected} in {}", finished.stderr);
        assert!(finished.stderr.contains(r#""spooled":1"#), "what it has it keeps: {}", finished.stderr);
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_said() {
    let scratch = Scratch::new();
    let (unknown, pem) = Server::start_tls();
    let (other, other_pem) = Server::start_tls_as("elsewhere.example.org", false);
    let (expired, expired_pem) = Server::start_tls_as("localhost", true);
    drop(pem);
    for (server, ca, expected) in [
        (unknown, None, "its CA is unknown here (UnknownIssuer); give that CA with --cacert"),
        (other, Some(scratch.write("other.pem", other_pem)), "not valid for name"),
        (expired, Some(scratch.write("expired.pem", expired_pem)), "expired"),
    ] {
        let origin = server.url().replace("wss:", "https:");
        let mut command = sink(&origin, &["--give-up", "0s"]);
        command.args(ca.iter().flat_map(|file| ["--cacert".as_ref(), file.as_os_str()]));
        let running = Running::start(command).input(events(1).as_bytes());
        assert!(server.accept().try_receive().is_err(), "no request comes before a handshake");
        let finished = running.finish().expect_code(1);
        let told = finished.stderr.lines().find(|line| line.contains("the server's certificate is not accepted"));
        assert!(told.is_some_and(|line| line.contains(expected)), "{expected} in {}", finished.stderr);
    }
}

#[test]
fn the_index_template_is_printed_and_installed() {
    let printed = Running::start(command("to-elasticsearch", ["--index-template"])).finish().expect_code(0);
    let template: Value = serde_json::from_str(&printed.stdout).expect("it is JSON");
    assert_eq!(template["index_patterns"][0], "tutum-*");

    let server = FakeHttp::script([Answer::json(r#"{"acknowledged":true}"#)]);
    let args = ["--data-stream", "aci-events", "--install-template"];
    let finished = Running::start(sink(&server.url(""), &args)).finish().expect_code(0);
    assert!(finished.stderr.contains("the index template aci-events is installed"), "{}", finished.stderr);
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("PUT", "/_index_template/aci-events"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("authorization"), Some("ApiKey aWQ6a2V5"));
    assert_eq!(request.json()["data_stream"], serde_json::json!({}));

    for (status, code, expected) in [
        (403, 3, "needs the cluster privilege manage_index_templates"),
        (401, 3, "the API key is not accepted"),
        (400, 1, "400 illegal_argument_exception: same priority"),
        (405, 1, "need Elasticsearch 7.8 or OpenSearch"),
        (503, 4, "503"),
    ] {
        let body = r#"{"error":{"type":"illegal_argument_exception","reason":"same priority"}}"#;
        let server = FakeHttp::script([Answer::json(body).with_status(status)]);
        let finished = Running::start(sink(&server.url(""), &["--install-template"])).finish().expect_code(code);
        assert!(finished.stderr.contains(expected), "{}", finished.stderr);
    }
}
