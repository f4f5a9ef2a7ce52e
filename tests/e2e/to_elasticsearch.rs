//! to-elasticsearch against a fake `_bulk` that keeps documents by id and misbehaves by item.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::support::http::{Answer, FakeHttp, Request};
use super::support::{Running, command};

/// Stores what is created, and answers item by item; `refuse` says what is wrong with a document at its nth try.
fn bulk(
    refuse: impl Fn(&serde_json::Value, usize) -> Option<(u16, &'static str)> + Send + Sync + 'static,
) -> (FakeHttp, Arc<Mutex<BTreeMap<String, serde_json::Value>>>) {
    let stored: Arc<Mutex<BTreeMap<String, serde_json::Value>>> = Arc::default();
    let documents = Arc::clone(&stored);
    let server = FakeHttp::start(move |request: &Request| {
        let text = request.text();
        let mut lines = text.lines();
        let mut items = Vec::new();
        while let (Some(action), Some(document)) = (lines.next(), lines.next()) {
            let action: serde_json::Value = serde_json::from_str(action).expect("an action is JSON");
            let document: serde_json::Value = serde_json::from_str(document).expect("a document is JSON");
            let id = action["create"]["_id"].as_str().expect("it has an id").to_owned();
            let mut documents = documents.lock().expect("no test panics in here");
            let (status, kind) = match refuse(&document, request.number) {
                Some(refusal) => refusal,
                None if documents.contains_key(&id) => (409, "version_conflict_engine_exception"),
                None => {
                    documents.insert(id, document);
                    (201, "")
                }
            };
            items.push(serde_json::json!({"create": {"status": status, "error": {"type": kind, "reason": "so"}}}));
        }
        Answer::json(serde_json::json!({"errors": true, "items": items}).to_string())
    });
    (server, stored)
}

fn events(count: usize) -> String {
    (1..=count)
        .map(|n| format!("{{\"type\":\"node\",\"n\":{n},\"received_at\":\"2025-03-04T05:06:07.890Z\"}}\n"))
        .collect()
}

#[test]
fn items_are_judged_one_by_one_and_nothing_is_stored_twice() {
    let (server, stored) = bulk(|document, number| match document["n"].as_u64() {
        Some(3) => Some((400, "mapper_parsing_exception")),
        Some(5) if number == 0 => Some((503, "unavailable_shards_exception")),
        _ => None,
    });
    let sink = || {
        let mut command = command("to-elasticsearch", ["--stats", "--receipts", "--batch", "100,100ms", "--url"]);
        command.arg(server.url("")).env("ELASTICSEARCH_API_KEY", "id:key");
        command
    };
    let finished = Running::start(sink()).input(events(10).as_bytes()).finish().expect_code(1);
    assert_eq!(finished.stdout.matches(r#""status":"delivered""#).count(), 9, "{}", finished.stdout);
    assert!(finished.stdout.contains(r#""reason":"400 mapper_parsing_exception: so""#), "{}", finished.stdout);
    assert_eq!(stored.lock().unwrap().len(), 9);
    let requests = server.requests();
    assert_eq!((requests.len(), requests[0].path.as_str()), (2, "/_bulk"));
    assert_eq!(requests[0].header("authorization"), Some("ApiKey aWQ6a2V5"));
    assert_eq!(requests[0].header("content-type"), Some("application/x-ndjson"));
    assert_eq!(requests[1].text().lines().count(), 2, "only the item that failed goes again");
    // The same events once more: all are there already, which is success.
    let again = Running::start(sink()).input(events(2).as_bytes()).finish().expect_code(0);
    assert_eq!(again.stdout.matches(r#""status":"delivered""#).count(), 2);
    assert_eq!(stored.lock().unwrap().len(), 9);
}

#[test]
fn a_batch_that_is_too_large_is_halved_and_a_refused_key_is_code_3() {
    let server = FakeHttp::start(|request| {
        let count = request.text().lines().count() / 2;
        if count > 2 { Answer::status(413) } else { Answer::json(r#"{"errors":false,"items":[]}"#) }
    });
    let mut sink = command("to-elasticsearch", ["--stats", "--url"]);
    sink.arg(server.url(""));
    let finished = Running::start(sink).input(events(7).as_bytes()).finish().expect_code(0);
    assert!(finished.stderr.contains(r#""delivered":7"#), "{}", finished.stderr);
    let refusing = FakeHttp::script([Answer::json(
        r#"{"error":{"type":"security_exception","reason":"missing authentication"}}"#,
    )
    .with_status(401)]);
    let mut sink = command("to-elasticsearch", ["--url"]);
    sink.arg(refusing.url(""));
    let finished = Running::start(sink).input(events(1).as_bytes()).finish().expect_code(3);
    assert!(finished.stderr.contains("401 security_exception: missing authentication"), "{}", finished.stderr);
}
