//! A fake `_bulk` that keeps documents by id, as Elasticsearch and OpenSearch do, and refuses items as the test says.
//!
//! ```ignore
//! let index = FakeIndex::default();
//! let answer = index.answer(&request, |document| (document["n"] == 3).then_some((400, "mapper_parsing_exception")));
//! ```

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::http::{Answer, Request};

/// What was stored: the document by its index and id.
#[derive(Clone, Default)]
pub struct FakeIndex(Arc<Mutex<BTreeMap<(String, String), Value>>>);

impl FakeIndex {
    /// The documents, in the order of their ids.
    pub fn documents(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Stores what `refuse` has nothing against, and answers item by item: 201, 409 for an id that is there, or the refusal's status and type.
    pub fn answer(&self, request: &Request, mut refuse: impl FnMut(&Value) -> Option<(u16, &'static str)>) -> Answer {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let items: Vec<Value> = actions(request)
            .into_iter()
            .map(|(index, id, document)| {
                let (status, kind) = match refuse(&document) {
                    Some(refusal) => refusal,
                    None if stored.contains_key(&(index.clone(), id.clone())) => {
                        (409, "version_conflict_engine_exception")
                    }
                    None => {
                        stored.insert((index, id), document);
                        return json!({"create": {"status": 201}});
                    }
                };
                json!({"create": {"status": status, "error": {"type": kind, "reason": "so"}}})
            })
            .collect();
        let errors = items.iter().any(|item| item["create"]["status"] != 201);
        Answer::json(json!({"took": 1, "errors": errors, "items": items}).to_string())
    }
}

/// The request's body, decompressed.
pub fn body(request: &Request) -> String {
    match request.header("content-encoding") {
        Some("gzip") => {
            let mut text = String::new();
            flate2::read::GzDecoder::new(&request.body[..]).read_to_string(&mut text).expect("it is gzip of text");
            text
        }
        _ => request.text(),
    }
}

/// Index, id and document of each action; what a real server would refuse the whole request for panics.
pub fn actions(request: &Request) -> Vec<(String, String, Value)> {
    assert_eq!((request.method.as_str(), request.header("content-type")), ("POST", Some("application/x-ndjson")));
    let text = body(request);
    assert!(text.ends_with('\n'), "the last line is finished");
    let read = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let lines: Vec<Value> = text.lines().map(read).collect();
    assert_eq!(lines.len() % 2, 0, "each action has a document");
    let pairs = lines.chunks(2).map(|pair| {
        let [action, document] = pair else { unreachable!("chunks of two") };
        let action = action["create"].as_object().expect("it is to be created");
        assert!(action.keys().all(|key| ["_index", "_id"].contains(&key.as_str())), "{action:?}");
        let word = |name: &str| action[name].as_str().expect("it is a word").to_owned();
        let id = word("_id");
        assert!((1..=512).contains(&id.len()), "{id}");
        assert!(document.is_object() && document["@timestamp"].is_string(), "{document}");
        (word("_index"), id, document.clone())
    });
    pairs.collect()
}
