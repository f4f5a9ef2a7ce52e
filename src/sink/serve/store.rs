//! What is known of every object: the newest event's word over the last full object seen.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::model::event::{Event, path_kind};
use crate::model::json::{self, quote};
use crate::model::time::{Moment, Timestamp};

/// So many objects are remembered; those that nothing was heard of for the longest time are forgotten first.
pub const MAX_OBJECTS: usize = 100_000;

/// So many bytes of full objects are remembered, by the same rule.
const MAX_BYTES: usize = 256 << 20;

/// A terminated object can be read for so long, as on Tutum ("recently terminated").
pub const KEEP_TERMINATED: Duration = Duration::from_secs(3600);

/// The types that always have a list, if an empty one.
pub const KINDS: [&str; 8] =
    ["action", "container", "service", "stack", "node", "nodecluster", "volume", "volumegroup"];

/// More types that a Docker Cloud path may name after its namespace.
const OTHER_KINDS: [&str; 6] = ["provider", "region", "az", "nodetype", "registry", "image"];

/// Whether `word` is a type, and so no namespace.
pub fn is_kind(word: &str) -> bool {
    KINDS.contains(&word) || OTHER_KINDS.contains(&word)
}

/// What follows `/api/v1/`, or Docker Cloud's `/api/<subsystem>/v1/[namespace/]`, in words; and the part before.
pub fn resource_path(path: &str) -> Option<(String, Vec<&str>)> {
    let words: Vec<&str> = path.strip_prefix("/api/")?.split('/').filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        ["v1", rest @ ..] => Some(("/api/v1/".to_owned(), rest.to_vec())),
        [system, "v1", rest @ ..] => match rest {
            [namespace, kind, ..] if !is_kind(namespace) && (is_kind(kind) || *kind == "events") => {
                Some((format!("/api/{system}/v1/{namespace}/"), rest[1..].to_vec()))
            }
            _ => Some((format!("/api/{system}/v1/"), rest.to_vec())),
        },
        _ => None,
    }
}

/// The one spelling under which an object is kept, whichever of the two services it came from; `None` for a path that is no object's.
pub fn canonical(path: &str) -> Option<String> {
    let (_, words) = resource_path(path)?;
    (words.len() >= 2).then(|| format!("/api/v1/{}/", words.join("/")))
}

/// An object as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// Its path as it was told.
    uri: String,
    /// The last full object seen, raw.
    full: Option<String>,
    /// The newest event's state, if that event is newer than the full object.
    state: Option<String>,
    parents: Vec<String>,
    dates: Vec<(&'static str, Timestamp)>,
}

impl Object {
    fn size(&self) -> usize {
        self.uri.len() + self.full.as_ref().map_or(0, String::len) + self.parents.iter().map(String::len).sum::<usize>()
    }

    /// What events tell, as raw JSON by key.
    fn told(&self) -> Vec<(&'static str, String)> {
        let kind = path_kind(&self.uri).unwrap_or_default();
        let mut told = vec![
            ("uuid", quote(crate::model::event::path_id(&self.uri).unwrap_or_default())),
            ("resource_uri", quote(&self.uri)),
        ];
        told.extend(self.state.as_ref().map(|state| ("state", quote(state))));
        if kind == "action" {
            told.extend(self.parents.first().map(|object| ("object", quote(object))));
        } else {
            for (key, of) in
                [("service", "service"), ("stack", "stack"), ("node", "node"), ("node_cluster", "nodecluster")]
            {
                let parent = self.parents.iter().find(|parent| path_kind(parent) == Some(of));
                told.extend(parent.map(|parent| (key, quote(parent))));
            }
        }
        if kind == "service" && !told.iter().any(|(key, _)| *key == "stack") {
            told.push(("stack", "null".to_owned()));
        }
        told.extend(self.dates.iter().map(|(key, date)| (*key, quote(&date.rfc2822()))));
        told
    }

    /// The object as JSON: the full one with the newest state in it, completed by what events tell.
    pub fn json(&self) -> String {
        let told = self.told();
        let mut members: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        if let Some(full) = &self.full {
            let added = json::object(full, |key, raw| members.push((key.to_owned().into(), raw.into())));
            added.expect("only objects are kept as full");
        }
        for (key, raw) in &told {
            match members.iter_mut().find(|(known, _)| known == key) {
                // What is younger than the full object; a date only where the full one has none.
                Some((_, value)) if *key == "state" || value == "null" => *value = raw.into(),
                Some(_) => {}
                None => members.push(((*key).into(), raw.into())),
            }
        }
        let members: Vec<String> = members.iter().map(|(key, raw)| format!("{}:{raw}", quote(key))).collect();
        format!("{{{}}}", members.join(","))
    }

    /// The object as an item of a list, which is shorter: without what Tutum's API tells only of a single object.
    pub fn item_json(&self) -> String {
        let mut members = Vec::new();
        let whole = self.json();
        let told = json::object(&whole, |key, raw| {
            if !is_detail(key) {
                members.push(format!("{}:{raw}", quote(key)));
            }
        });
        told.expect("json() writes an object");
        format!("{{{}}}", members.join(","))
    }

    fn dated(&mut self, key: &'static str, date: Timestamp) {
        if !self.dates.iter().any(|(known, _)| *known == key) {
            self.dates.push((key, date));
        }
    }

    /// What an event says about time: the moment of a creation, a start, an end.
    fn heed_dates(&mut self, kind: &str, action: &str, state: &str, date: Timestamp) {
        let state = state.to_ascii_lowercase();
        if kind == "action" {
            self.dated("start_date", date);
            if matches!(state.as_str(), "success" | "failed" | "canceled") {
                self.dated("end_date", date);
            }
            return;
        }
        if action == "create" {
            self.dated("deployed_datetime", date);
        }
        match state.as_str() {
            "running" => {
                self.dates.retain(|(key, _)| *key != "started_datetime");
                self.dated("started_datetime", date);
            }
            "stopped" => {
                self.dates.retain(|(key, _)| *key != "stopped_datetime");
                self.dated("stopped_datetime", date);
            }
            "terminated" => self.dated("destroyed_datetime", date),
            _ => {}
        }
    }
}

/// An object's place in the store.
struct Kept {
    object: Arc<Object>,
    kind: String,
    /// When it was first heard of, as a number that grows: the order of lists, which must not change while someone pages through one.
    order: u64,
    /// When it was last heard of, in the same numbers.
    touched: u64,
}

/// All objects. Reading takes a snapshot, so that a long list never holds up the events.
#[derive(Default)]
pub struct Store(Mutex<Shelves>);

#[derive(Default)]
struct Shelves {
    objects: HashMap<Arc<str>, Kept>,
    by_touch: BTreeMap<u64, Arc<str>>,
    by_kind: HashMap<String, BTreeMap<u64, Arc<str>>>,
    terminated: VecDeque<(Instant, u64, Arc<str>)>,
    count: u64,
    bytes: usize,
}

impl Store {
    /// Remembers what an event tells, of its object and of those attached to it.
    pub fn heed(&self, event: &Event<'_>, now: Moment) {
        let (mut resource, mut parents, mut date) = (None, None, None);
        let wanted = |key: &str| matches!(key, "resource" | "parent" | "datetime" | "received_at");
        // It was read once already, so it can be read again.
        let _ = json::select(event.text, wanted, |key, raw| match key {
            "resource" => resource = Some(raw),
            "parent" => parents = Some(raw),
            "datetime" => date = json::string(raw).and_then(|text| Timestamp::parse(&text)),
            _ => date = date.or_else(|| json::string(raw).and_then(|text| Timestamp::parse(&text))),
        });
        let mut shelves = self.shelves();
        if let Some(parents) = parents {
            let _ = json::object(parents, |_, raw| {
                let uri = text_of(raw, "resource_uri").unwrap_or_default();
                shelves.change(&uri, |object| object.replace(raw));
            });
        }
        let Some(uri) = event.resource_uri.as_deref() else { return };
        let deleted = event.action.as_deref() == Some("delete");
        let state = event.state.as_deref().or(deleted.then_some("Terminated"));
        shelves.change(uri, |object| {
            uri.clone_into(&mut object.uri);
            if let Some(resource) = resource {
                object.replace(resource);
            }
            if let Some(state) = state {
                object.state = Some(state.to_owned());
            }
            let parents = event.parents();
            if !parents.is_empty() {
                object.parents = parents.into_iter().map(Cow::into_owned).collect();
            }
            let kind = path_kind(uri).unwrap_or_default();
            let action = event.action.as_deref().unwrap_or_default();
            object.heed_dates(kind, action, state.unwrap_or_default(), date.unwrap_or(now.utc));
        });
        if state.is_some_and(|state| state.eq_ignore_ascii_case("Terminated")) {
            shelves.will_be_forgotten(uri, now.at);
        }
        shelves.forget(now.at);
    }

    /// Remembers a full object, raw.
    ///
    /// # Errors
    /// It is not a JSON object, or has no `resource_uri` that is an object's path.
    pub fn put(&self, full: &str, now: Moment) -> Result<(), String> {
        json::object(full, |_, _| ()).map_err(|fault| fault.reason)?;
        let uri = text_of(full, "resource_uri").ok_or("no resource_uri")?;
        canonical(&uri).ok_or("resource_uri is not a path such as /api/v1/service/5b0f/")?;
        let mut shelves = self.shelves();
        shelves.change(&uri, |object| object.replace(full));
        shelves.forget(now.at);
        Ok(())
    }

    /// The object of a path, in whatever spelling.
    pub fn get(&self, path: &str) -> Option<Arc<Object>> {
        self.shelves().objects.get(canonical(path)?.as_str()).map(|kept| Arc::clone(&kept.object))
    }

    /// All objects of a type, in the order they were first heard of; `None` for a type nobody knows.
    pub fn list(&self, kind: &str, now: Instant) -> Option<Vec<Arc<Object>>> {
        let mut shelves = self.shelves();
        shelves.forget(now);
        let Some(shelf) = shelves.by_kind.get(kind) else {
            return is_kind(kind).then(Vec::new);
        };
        Some(shelf.values().map(|uri| Arc::clone(&shelves.objects[uri].object)).collect())
    }

    /// The paths of an object and of those related to it, by `include_related` of Tutum's action list.
    pub fn related(&self, path: &str, now: Instant) -> HashSet<String> {
        let Some(own) = canonical(path) else { return HashSet::new() };
        let mut related = HashSet::from([own.clone()]);
        let (above, below): (&[&str], &[&str]) = match path_kind(&own).unwrap_or_default() {
            "container" => (&["service", "stack"], &[]),
            "service" => (&["stack"], &["container"]),
            "stack" => (&[], &["service", "container"]),
            "node" => (&["node_cluster"], &[]),
            "nodecluster" => (&[], &["node"]),
            _ => (&[], &[]),
        };
        if let Some(object) = self.get(&own) {
            let json = object.json();
            related.extend(above.iter().filter_map(|key| canonical(&text_of(&json, key)?)));
        }
        for object in below.iter().flat_map(|kind| self.list(kind, now).unwrap_or_default()) {
            let json = object.json();
            let mut parents = ["service", "stack", "node_cluster"].iter().filter_map(|key| text_of(&json, key));
            if parents.any(|parent| canonical(&parent).as_ref() == Some(&own)) {
                related.extend(canonical(&object.uri));
            }
        }
        related
    }

    /// How many objects are known.
    pub fn count(&self) -> usize {
        self.shelves().objects.len()
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object {
    /// Takes a full object, which is newer than any event so far.
    fn replace(&mut self, full: &str) {
        // An attached value that is no object tells nothing.
        if full.starts_with('{') {
            self.full = Some(full.to_owned());
            self.state = None;
        }
        if self.uri.is_empty() {
            self.uri = text_of(full, "resource_uri").unwrap_or_default().into_owned();
        }
    }
}

impl Shelves {
    fn change(&mut self, uri: &str, change: impl FnOnce(&mut Object)) {
        let Some(key) = canonical(uri) else { return };
        self.count += 1;
        let count = self.count;
        let key: Arc<str> = key.into();
        let kept = self.objects.entry(Arc::clone(&key)).or_insert_with(|| {
            // The canonical path is built with a type and an id in it.
            let kind = key.split('/').nth(3).unwrap_or_default().to_owned();
            self.by_kind.entry(kind.clone()).or_default().insert(count, Arc::clone(&key));
            Kept { object: Arc::default(), kind, order: count, touched: count }
        });
        self.by_touch.remove(&kept.touched);
        self.by_touch.insert(count, key);
        kept.touched = count;
        let object = Arc::make_mut(&mut kept.object);
        self.bytes -= object.size();
        change(object);
        self.bytes += object.size();
    }

    fn will_be_forgotten(&mut self, uri: &str, now: Instant) {
        let Some(key) = canonical(uri) else { return };
        if let Some((key, kept)) = self.objects.get_key_value(key.as_str()) {
            self.terminated.push_back((now + KEEP_TERMINATED, kept.touched, Arc::clone(key)));
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some((when, touched, key)) = self.terminated.front() {
            if *when > now {
                break;
            }
            let (touched, key) = (*touched, Arc::clone(key));
            self.terminated.pop_front();
            // Unless it was heard of again.
            if self.objects.get(&key).is_some_and(|kept| kept.touched == touched) {
                self.remove(&key);
            }
        }
        while self.objects.len() > MAX_OBJECTS || self.bytes > MAX_BYTES {
            let Some((_, key)) = self.by_touch.first_key_value() else { break };
            let key = Arc::clone(key);
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &str) {
        let Some(kept) = self.objects.remove(key) else { return };
        self.bytes -= kept.object.size();
        self.by_touch.remove(&kept.touched);
        if let Some(shelf) = self.by_kind.get_mut(&kept.kind) {
            shelf.remove(&kept.order);
        }
    }
}

/// The text of a key in a raw object.
pub fn text_of<'t>(object: &'t str, key: &str) -> Option<Cow<'t, str>> {
    let mut found = None;
    json::select(object, |known| known == key, |_, raw| found = json::string(raw)).ok()?;
    found
}

/// Documented as left out of lists: variables (which may be secrets), bindings, links and roles.
fn is_detail(key: &str) -> bool {
    matches!(key, "container_envvars" | "link_variables" | "bindings" | "roles")
        || key.starts_with("linked_from_")
        || key.starts_with("linked_to_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::stage::tests::start;

    fn heed(store: &Store, text: &str, now: Moment) {
        store.heed(&Event::parse(text.as_bytes()).unwrap(), now);
    }

    fn json(store: &Store, path: &str) -> String {
        store.get(path).map(|object| object.json()).unwrap_or_default()
    }

    #[test]
    fn an_object_from_events_alone() {
        let (store, now) = (Store::default(), start());
        heed(
            &store,
            r#"{"type":"container","action":"create","state":"Starting","resource_uri":"/api/v1/container/c1/","parents":["/api/v1/service/s1/","/api/v1/nodecluster/n1/"],"received_at":"2014-10-16T12:04:08.000Z"}"#,
            now,
        );
        heed(&store, r#"{"type":"container","state":"Running","resource_uri":"/api/v1/container/c1/"}"#, now);
        assert_eq!(
            json(&store, "/api/v1/container/c1"),
            r#"{"uuid":"c1","resource_uri":"/api/v1/container/c1/","state":"Running","service":"/api/v1/service/s1/","node_cluster":"/api/v1/nodecluster/n1/","deployed_datetime":"Thu, 16 Oct 2014 12:04:08 +0000","started_datetime":"Tue, 4 Mar 2025 05:06:07 +0000"}"#
        );
        heed(
            &store,
            r#"{"type":"action","state":"Success","resource_uri":"/api/v1/action/a1/","parents":["/api/v1/container/c1/"],"datetime":"2014-10-16T12:04:08Z"}"#,
            now,
        );
        assert_eq!(
            json(&store, "/api/v1/action/a1/"),
            r#"{"uuid":"a1","resource_uri":"/api/v1/action/a1/","state":"Success","object":"/api/v1/container/c1/","start_date":"Thu, 16 Oct 2014 12:04:08 +0000","end_date":"Thu, 16 Oct 2014 12:04:08 +0000"}"#
        );
        heed(&store, r#"{"type":"service","state":"Running","resource_uri":"/api/v1/service/s1/"}"#, now);
        assert!(json(&store, "/api/v1/service/s1/").contains(r#""stack":null"#));
    }

    #[test]
    fn the_newest_state_over_the_last_full_object() {
        let (store, now) = (Store::default(), start());
        let uri = "/api/v1/service/s1/";
        heed(
            &store,
            r#"{"state":"Starting","resource_uri":"/api/v1/service/s1/","resource":{"name":"web","n":1.10,"state":"Starting","stack":null},"parent":{"stack":{"resource_uri":"/api/v1/stack/t1/","name":"shop","state":"Running"}},"parents":["/api/v1/stack/t1/"]}"#,
            now,
        );
        heed(&store, r#"{"state":"Running","resource_uri":"/api/v1/service/s1/"}"#, now);
        assert_eq!(
            json(&store, uri),
            r#"{"name":"web","n":1.10,"state":"Running","stack":"/api/v1/stack/t1/","uuid":"s1","resource_uri":"/api/v1/service/s1/","started_datetime":"Tue, 4 Mar 2025 05:06:07 +0000"}"#
        );
        assert!(json(&store, "/api/v1/stack/t1/").contains(r#""name":"shop""#));
    }

    #[test]
    fn one_object_under_both_services_paths() {
        let (store, now) = (Store::default(), start());
        heed(&store, r#"{"state":"Running","resource_uri":"/api/app/v1/acme/service/s1/"}"#, now);
        for path in ["/api/v1/service/s1/", "/api/app/v1/service/s1", "/api/app/v1/acme/service/s1/"] {
            assert!(json(&store, path).contains(r#""resource_uri":"/api/app/v1/acme/service/s1/""#), "{path}");
        }
        for path in ["/api/v1/service/", "/api/mo/uni/tn-X.json", "x", "", "/api/v1/"] {
            assert_eq!(canonical(path), None, "{path}");
        }
        assert_eq!(canonical("/api/v1/image/a/b/tag/c"), Some("/api/v1/image/a/b/tag/c/".to_owned()));
    }

    #[test]
    fn a_deleted_object_is_terminated_and_forgotten_after_a_while() {
        let (store, now) = (Store::default(), start());
        heed(&store, r#"{"action":"delete","resource_uri":"/api/v1/stack/t1/"}"#, now);
        heed(&store, r#"{"state":"Terminated","resource_uri":"/api/v1/stack/t2/"}"#, now);
        assert!(json(&store, "/api/v1/stack/t1/").contains(r#""state":"Terminated""#));
        let later = now.after(KEEP_TERMINATED / 2);
        heed(&store, r#"{"state":"Running","resource_uri":"/api/v1/stack/t2/"}"#, later);
        let left = store.list("stack", now.after(KEEP_TERMINATED).at).unwrap();
        assert_eq!(left.iter().map(|object| object.uri.as_str()).collect::<Vec<_>>(), ["/api/v1/stack/t2/"]);
    }

    #[test]
    fn the_store_is_bounded_and_forgets_what_was_silent_longest() {
        let (store, now) = (Store::default(), start());
        for number in 0..=MAX_OBJECTS {
            heed(&store, &format!(r#"{{"state":"x","resource_uri":"/api/v1/action/{number}/"}}"#), now);
            if number == 10 {
                heed(&store, r#"{"state":"y","resource_uri":"/api/v1/action/0/"}"#, now);
            }
        }
        assert_eq!(store.count(), MAX_OBJECTS);
        assert!(store.get("/api/v1/action/0/").is_some() && store.get("/api/v1/action/1/").is_none());
        assert_eq!(store.list("action", now.at).unwrap().len(), MAX_OBJECTS);
    }

    #[test]
    fn related_objects_up_and_down() {
        let (store, now) = (Store::default(), start());
        heed(
            &store,
            r#"{"resource_uri":"/api/v1/container/c1/","parents":["/api/v1/service/s1/","/api/v1/stack/t1/","/api/v1/node/n1/"]}"#,
            now,
        );
        heed(&store, r#"{"resource_uri":"/api/v1/service/s1/","parents":["/api/v1/stack/t1/"]}"#, now);
        let related = |path: &str| {
            let mut related: Vec<String> = store.related(path, now.at).into_iter().collect();
            related.sort();
            related
        };
        assert_eq!(
            related("/api/v1/container/c1/"),
            ["/api/v1/container/c1/", "/api/v1/service/s1/", "/api/v1/stack/t1/"]
        );
        assert_eq!(related("/api/v1/stack/t1/"), related("/api/v1/container/c1/"));
        assert_eq!(related("/api/v1/node/n1/"), ["/api/v1/node/n1/"]);
    }
}
