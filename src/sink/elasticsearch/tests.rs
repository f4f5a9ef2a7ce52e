//! What a batch becomes, and what each answer means: no network, no process.

use super::*;
use crate::flow::stage::tests::start;

fn elasticsearch(change: impl FnOnce(&mut ElasticsearchArgs)) -> Elasticsearch {
    let mut args = ElasticsearchArgs { url: Some("http://localhost:9200".to_owned()), ..ElasticsearchArgs::default() };
    change(&mut args);
    Elasticsearch::new(args, true).unwrap()
}

fn body(elasticsearch: &Elasticsearch, texts: &[&str]) -> Vec<Value> {
    let letter = |(at, text): (usize, &&'static str)| Letter { text, key: "", accepted: start(), place: at as u64 + 1 };
    let texts: Vec<&'static str> = texts.iter().map(|text| &*Box::leak((*text).to_owned().into_boxed_str())).collect();
    let letters: Vec<Letter<'_>> = texts.iter().enumerate().map(letter).collect();
    let request = elasticsearch.request(&letters, Form::Full).unwrap();
    assert_eq!(request.body.last(), Some(&b'\n'), "a missing line break at the end is a 400");
    String::from_utf8(request.body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ids_make_sending_twice_harmless_and_keep_equal_events_apart() {
    let server = elasticsearch(|_| ());
    let id = |text: &str, other: &str| {
        let lines = body(&server, &[text, other]);
        (lines[0]["create"]["_id"].as_str().unwrap().to_owned(), lines[2]["create"]["_id"].as_str().unwrap().to_owned())
    };
    let stamped = r#"{"type":"node","received_at":"2025-03-04T05:06:07.890Z"}"#;
    let (first, again) = id(stamped, stamped);
    assert_eq!((first.len(), first), (40, again));
    let (one, two) = id(r#"{"type":"node"}"#, r#"{"type":"node"}"#);
    assert_ne!(one, two);
    let cloud = r#"{"uuid":"5b0f","datetime":"2025-03-04T05:06:07Z"}"#;
    assert_eq!(id(cloud, r#"{"uuid":"5b0f"}"#).0, "5b0f");
    assert_ne!(id(r#"{"uuid":"5b0f"}"#, cloud).0, "5b0f", "without a datetime the uuid is an object's");
}

#[test]
fn documents_have_a_time_and_an_index_by_date() {
    let event = r#"{"n":1.10,"received_at":"2024-12-31T23:59:59.000Z"}"#;
    let lines = body(&elasticsearch(|_| ()), &[event, "{}"]);
    assert_eq!(lines[0]["create"]["_index"], "tutum-2024-12-31");
    assert_eq!(lines[1]["@timestamp"], "2024-12-31T23:59:59.000Z");
    assert_eq!(
        (&lines[2]["create"]["_index"], &lines[3]["@timestamp"]),
        (&json!("tutum-2025-03-04"), &json!("2025-03-04T05:06:07.890Z"))
    );
    // What has no time of its own that is one goes by its acceptance, never into an index of any name it likes.
    let odd =
        body(&elasticsearch(|_| ()), &[r#"{"received_at":"yesterday"}"#, r#"{"datetime":"2025-01-02T03:04:05Z"}"#]);
    assert_eq!(odd[0]["create"]["_index"], "tutum-2025-03-04");
    assert_eq!(
        (&odd[2]["create"]["_index"], &odd[3]["@timestamp"]),
        (&json!("tutum-2025-01-02"), &json!("2025-01-02T03:04:05.000Z"))
    );
    let own =
        body(&elasticsearch(|_| ()), &[r#"{"@timestamp":1741064767890,"received_at":"2025-03-04T05:06:07.890Z"}"#]);
    assert_eq!(own[1]["@timestamp"], 1_741_064_767_890_i64);
    let stream = body(&elasticsearch(|args| args.data_stream = Some("Tutum-Events".to_owned())), &[event]);
    assert_eq!(stream[0]["create"]["_index"], "tutum-events");
}

/// Every row of the vendor's tables: the whole answer, and item by item.
#[test]
fn what_every_answer_means() {
    let server = elasticsearch(|_| ());
    let word = |outcome: &Outcome| match outcome {
        Outcome::Delivered => "delivered",
        Outcome::Retry { throttled: true, .. } => "throttled",
        Outcome::Retry { .. } => "retry",
        Outcome::TooLarge { .. } => "halve",
        Outcome::Rejected { .. } => "dead",
        Outcome::Refused { .. } => "stop",
    };
    for status in 300..600 {
        let expected = match status {
            400 | 413 => "halve",
            300..=399 | 401 | 403 | 404 | 406 | 501 => "stop",
            429 => "throttled",
            408 | 500.. => "retry",
            _ => "dead",
        };
        let answer = Response { status, ..Response::default() };
        let outcomes = server.outcomes(2, &answer);
        assert_eq!(outcomes.iter().map(word).collect::<Vec<_>>(), [expected; 2], "{status}");
        let alone = if expected == "halve" { "dead" } else { expected };
        assert_eq!(word(&server.outcomes(1, &answer)[0]), alone, "{status}, a single record");
    }
    let item =
        |status: u16, kind: &str| json!({"create": {"status": status, "error": {"type": kind, "reason": "because"}}});
    let table = [
        (201, "", "delivered"),
        (409, "version_conflict_engine_exception", "delivered"),
        (429, "es_rejected_execution_exception", "throttled"),
        (503, "unavailable_shards_exception", "retry"),
        (403, "cluster_block_exception", "retry"),
        (403, "security_exception", "stop"),
        (404, "index_not_found_exception", "stop"),
        (413, "", "dead"),
        (400, "mapper_parsing_exception", "dead"),
    ];
    let items: Vec<Value> = table.iter().map(|(status, kind, _)| item(*status, kind)).collect();
    let answer = |body: Value| Response { status: 200, body: body.to_string().into_bytes(), ..Response::default() };
    let outcomes = server.outcomes(table.len(), &answer(json!({"errors": true, "items": items})));
    let told: Vec<&str> = outcomes.iter().map(word).collect();
    assert_eq!(told, table.map(|(_, _, expected)| expected));
    assert_eq!(
        outcomes[8],
        Outcome::Rejected { reason: "400 mapper_parsing_exception: because".to_owned(), status: Some(400) }
    );
    let wrong = server.outcomes(3, &answer(json!({"errors": true, "items": []})));
    assert_eq!(word(&wrong[2]), "retry", "an answer about another number of items");
    assert_eq!(word(&server.outcomes(1, &answer(json!({"errors": false})))[0]), "delivered");
    assert_eq!(word(&server.outcomes(1, &answer(json!({"errors": true, "items": [{"create": {}}]})))[0]), "retry");
    let page = Response { status: 200, body: b"<html>".to_vec(), ..Response::default() };
    assert_eq!(word(&server.outcomes(2, &page)[0]), "retry", "nobody has stored anything");
    let cut = Response { truncated: true, ..page };
    assert_eq!(word(&server.outcomes(2, &cut)[0]), "halve", "stored, but the answer is too long");
}

/// The errors as the servers word them, and what is added for whoever has to mend it.
#[test]
fn an_operators_errors_say_what_to_do() {
    let error = |status: u16, kind: &str, reason: &str| {
        let body = json!({"error": {"type": kind, "reason": reason, "root_cause": []}, "status": status});
        Response { status, body: body.to_string().into_bytes(), ..Response::default() }
    };
    let said = |server: &Elasticsearch, answer: &Response| match server.outcomes(1, answer).remove(0) {
        Outcome::Refused { reason } | Outcome::Rejected { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let key = |user: Option<&str>| {
        let mut server = elasticsearch(|args| args.user = user.map(str::to_owned));
        server.authorization = Some(Secret::new("ApiKey x"));
        server
    };
    let open = elasticsearch(|_| ());
    let missing = error(401, "security_exception", "missing authentication credentials for REST request [/_bulk]");
    assert_eq!(
        said(&open, &missing),
        "401 security_exception: missing authentication credentials for REST request [/_bulk]; it wants a credential: give \
         --api-key-file, or --user and --password-file"
    );
    let wrong = error(401, "security_exception", "unable to authenticate with provided credentials");
    assert!(said(&key(None), &wrong).ends_with("; the API key is not accepted"));
    assert!(said(&key(Some("jo")), &wrong).ends_with("; the user jo or the password is not accepted"));
    let denied = error(403, "security_exception", "action [indices:data/write/bulk] is unauthorized");
    assert!(
        said(&key(None), &denied).contains("is unauthorized; the credential lacks a privilege: it needs create_doc")
    );
    let item = |status: u16, kind: &str, reason: &str| {
        let item = json!({"create": {"status": status, "error": {"type": kind, "reason": reason, "caused_by": {"reason": "why"}}}});
        let body = json!({"errors": true, "items": [item]}).to_string().into_bytes();
        Response { status: 200, body, ..Response::default() }
    };
    let absent = item(404, "index_not_found_exception", "no such index [tutum-2025-03-04]");
    assert!(said(&open, &absent).contains("no such index [tutum-2025-03-04]: why; the index does not exist"));
    let stream = elasticsearch(|args| args.data_stream = Some("events".to_owned()));
    assert!(said(&stream, &absent).contains("there is no data stream events and none is made of itself"));
    assert_eq!(
        said(&open, &item(400, "document_parsing_exception", "[1:20] failed to\n parse field [n]")),
        "400 document_parsing_exception: [1:20] failed to parse field [n]: why"
    );
    // OpenSearch's security plugin answers in plain text.
    let plain = Response { status: 401, body: b"Unauthorized".to_vec(), ..Response::default() };
    assert!(said(&open, &plain).starts_with("401 Unauthorized; it wants a credential"));
    let moved = Response { status: 301, location: Some("https://h/_bulk".to_owned()), ..Response::default() };
    assert_eq!(said(&open, &moved), "301; the server is elsewhere: it names https://h/_bulk");
    let page =
        Response { status: 413, content_type: "text/html".to_owned(), body: b"<html>".to_vec(), ..Response::default() };
    assert_eq!(said(&open, &page), "413");
}

/// Whatever Elasticsearch since 7.8 and OpenSearch both take: no type that only one of them has.
#[test]
fn the_index_template_is_one_that_every_server_takes() {
    fn types(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(kind)) = map.get("type") {
                    found.push(kind.clone());
                }
                map.values().for_each(|value| types(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| types(value, found)),
            _ => {}
        }
    }
    let daily = elasticsearch(|_| ()).index_template().unwrap();
    let mappings = &daily["template"]["mappings"];
    let mut found = Vec::new();
    types(mappings, &mut found);
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, ["date", "double", "keyword", "long", "object", "text"]);
    let properties = &mappings["properties"];
    for name in ["type", "action", "state", "resource_uri", "parents", "dn"] {
        assert_eq!(properties[name]["type"], "keyword", "{name}");
    }
    assert_eq!(properties["@timestamp"], json!({"type": "date"}), "a data stream takes no more");
    for name in ["attributes", "resource", "parent"] {
        assert_eq!(properties[name]["dynamic"], false, "{name} must not fill the mapping");
    }
    assert_eq!(properties["attributes"]["properties"]["severity"]["type"], "keyword");
    assert_eq!(properties["parent"]["properties"]["stack"]["properties"]["name"]["type"], "keyword");
}

#[test]
fn index_templates_are_named_and_ordered_by_their_target() {
    let told = |change: fn(&mut ElasticsearchArgs)| {
        let server = elasticsearch(change);
        let template = server.index_template()?;
        let pattern = template["index_patterns"][0].as_str().unwrap().to_owned();
        let priority = template["priority"].as_u64().unwrap();
        Ok::<_, Failure>((server.template_name()?, pattern, priority, template.get("data_stream").is_some()))
    };
    let daily = told(|_| ()).unwrap();
    assert_eq!(daily, ("tutum".to_owned(), "tutum-*".to_owned(), 305, false));
    let stream = told(|args| args.data_stream = Some("Tutum-Events".to_owned())).unwrap();
    assert_eq!((stream.0.as_str(), stream.1.as_str(), stream.3), ("tutum-events", "tutum-events", true));
    assert!(stream.2 > daily.2, "both match the stream's name, and no two may be of one priority");
    let fixed = told(|args| args.index = Some("events".to_owned())).unwrap();
    assert_eq!((fixed.0.as_str(), fixed.1.as_str()), ("events", "events"));
    let other = told(|args| args.index = Some("ACI-{{ type }}-{{ received_at[:7] }}".to_owned())).unwrap();
    assert_eq!((other.0.as_str(), other.1.as_str()), ("aci", "aci-*"));
    let every = told(|args| args.index = Some("{{ type }}".to_owned())).unwrap_err();
    assert!(every.message.contains("one for every index"), "{}", every.message);
}

#[test]
fn a_record_without_an_index_is_alone_with_its_fault() {
    let mut server = elasticsearch(|args| args.index = Some("{{ type }}".to_owned()));
    let mut key = |text: &str| match server.plan(&Event::parse(text.as_bytes()).unwrap()) {
        Plan::Send { key, .. } => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(key(r#"{"type":"node"}"#), "");
    assert_eq!(key(r#"{"type":"a b"}"#), "\"a b\" cannot be the name of an index");
    let letter = Letter { text: r#"{"type":".security"}"#, key: "", accepted: start(), place: 1 };
    let refused = server.request(&[letter], Form::Full).unwrap_err();
    assert_eq!(refused, "\".security\" cannot be the name of an index");
}

#[test]
fn the_server_gives_up_before_we_do() {
    let server = elasticsearch(|args| args.patience = Some(Duration::from_secs(15)));
    let letter = Letter { text: "{}", key: "", accepted: start(), place: 1 };
    let query = server.request(&[letter], Form::Full).unwrap().address.query.unwrap();
    assert!(query.starts_with("filter_path=") && query.ends_with("&timeout=10000ms"), "{query}");
}

#[test]
fn names_and_limits_are_checked_when_it_starts() {
    let wrong = |change: fn(&mut ElasticsearchArgs)| {
        let mut args = ElasticsearchArgs { url: Some("http://localhost".to_owned()), ..ElasticsearchArgs::default() };
        change(&mut args);
        Elasticsearch::new(args, true).err().unwrap().message
    };
    assert!(wrong(|args| args.data_stream = Some("a b".to_owned())).starts_with("--data-stream: \"a b\" cannot"));
    assert!(wrong(|args| args.index = Some("{{ x".to_owned())).starts_with("--index: "));
    let mut limits = BatchLimits::default();
    limits.read("10,1MiB,2s").unwrap();
    assert_eq!(limits, BatchLimits { count: 10, bytes: 1 << 20, age: Duration::from_secs(2) });
    assert!(limits.read("many").is_err() && BatchLimits::default().read("0").is_err());
}

#[test]
fn api_keys_in_both_spellings() {
    assert_eq!(api_key(&Secret::new("id:key")).expose(), "ApiKey aWQ6a2V5");
    assert_eq!(api_key(&Secret::new("aWQ6a2V5")).expose(), "ApiKey aWQ6a2V5");
}
