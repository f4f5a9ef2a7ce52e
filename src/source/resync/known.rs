//! What was last seen of every object: fed by events and listings, bounded, and nothing but memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::event::path_kind;

/// The types that are listed, those above before those below them: the order in which what is new is told.
pub const KINDS: [&str; 5] = ["nodecluster", "node", "stack", "service", "container"];

/// The type of actions, which begin, end, and are never deleted.
pub const ACTION: &str = "action";

/// So many objects are remembered; beyond that those nothing was heard of for the longest time are forgotten.
pub const MOST_OBJECTS: usize = 100_000;

/// So many actions, by the same rule. They have a shelf of their own, since a busy account makes thousands a day.
pub const MOST_ACTIONS: usize = 10_000;

/// What an object was like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its state, if it was told.
    pub state: Option<String>,
    /// The paths of the objects above it.
    pub parents: Vec<String>,
}

/// Whether an object in this state is no more.
pub fn is_over(state: Option<&str>) -> bool {
    state.is_some_and(|state| state.eq_ignore_ascii_case("Terminated"))
}

/// Whether an action in this state can still change.
pub fn is_under_way(state: Option<&str>) -> bool {
    !state.is_some_and(|state| ["Success", "Failed", "Canceled"].iter().any(|end| state.eq_ignore_ascii_case(end)))
}

/// A path as a key: with its last slash. `None` for anything that is not the plain path of an object of a type that is followed,
/// and so must never be asked for with credentials.
pub fn key(uri: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let uri = uri.trim_end_matches('/');
    let kind = path_kind(uri)?;
    let fine = uri.starts_with("/api/")
        && uri.chars().all(plain)
        && uri.split('/').skip(1).all(|word| !word.is_empty() && !word.starts_with('.'))
        && (KINDS.contains(&kind) || kind == ACTION);
    fine.then(|| format!("{uri}/"))
}

/// All that is known.
#[derive(Clone, Debug)]
pub struct Known {
    objects: Shelf,
    actions: Shelf,
    /// Counts what is heard of, live or listed.
    count: u64,
    /// The paths of what is gone and still kept.
    gone: Vec<String>,
}

impl Default for Known {
    fn default() -> Known {
        Known { objects: Shelf::new(MOST_OBJECTS), actions: Shelf::new(MOST_ACTIONS), count: 0, gone: Vec::new() }
    }
}

#[derive(Clone, Debug)]
struct Shelf {
    entries: HashMap<Arc<str>, Entry>,
    by_order: BTreeMap<u64, Arc<str>>,
    limit: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    seen: Seen,
    /// The count when it was last heard of.
    order: u64,
    /// The count when an event about it came last.
    live: u64,
    /// It is no more, and kept only so that a listing that is older does not bring it back.
    gone: bool,
}

impl Known {
    /// An event about an object came. Of an unknown kind of path nothing is kept.
    pub fn heed(&mut self, uri: &str, action: Option<&str>, state: Option<&str>, parents: Vec<String>) {
        let Some(key) = key(uri) else { return };
        let gone = path_kind(&key) != Some(ACTION) && (action == Some("delete") || is_over(state));
        if gone {
            self.gone.push(key.clone());
        }
        self.put(key, Seen { state: state.map(str::to_owned), parents }, true, gone);
    }

    /// A listing showed the object, and nobody needs to be told, or was.
    pub fn learn(&mut self, uri: &str, seen: Seen) {
        self.put(uri.to_owned(), seen, false, false);
    }

    fn put(&mut self, key: String, mut seen: Seen, is_live: bool, gone: bool) {
        self.count += 1;
        let count = self.count;
        let shelf = self.shelf(&key);
        let old = shelf.entries.remove_entry(key.as_str());
        let (key, live) = match old {
            Some((key, old)) => {
                shelf.by_order.remove(&old.order);
                if seen.parents.is_empty() {
                    seen.parents = old.seen.parents;
                }
                (key, old.live)
            }
            None => (key.into(), 0),
        };
        shelf.by_order.insert(count, Arc::clone(&key));
        shelf.entries.insert(key, Entry { seen, order: count, live: if is_live { count } else { live }, gone });
        while shelf.entries.len() > shelf.limit {
            let Some((_, oldest)) = shelf.by_order.pop_first() else { break };
            shelf.entries.remove(&oldest);
        }
    }

    /// The object is no more.
    pub fn forget(&mut self, uri: &str) {
        let shelf = self.shelf(uri);
        if let Some(entry) = shelf.entries.remove(uri) {
            shelf.by_order.remove(&entry.order);
        }
    }

    /// Lets go of what was kept only because a listing was under way.
    pub fn bury(&mut self) {
        for uri in std::mem::take(&mut self.gone) {
            // It may have come back meanwhile.
            if self.entry(&uri).is_some_and(|entry| entry.gone) {
                self.forget(&uri);
            }
        }
    }

    /// What an object was like, if it is known and not gone.
    pub fn get(&self, uri: &str) -> Option<&Seen> {
        self.entry(uri).filter(|entry| !entry.gone).map(|entry| &entry.seen)
    }

    /// The place in the order of what is heard of, to compare with later.
    pub fn mark(&self) -> u64 {
        self.count
    }

    /// Whether an event about the object came since `mark`.
    pub fn is_newer(&self, uri: &str, mark: u64) -> bool {
        self.entry(uri).is_some_and(|entry| entry.live > mark)
    }

    /// Everything known and not gone, what was heard of last at the end, so that the order of forgetting outlives a restart.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Seen)> {
        let shelves = [&self.objects, &self.actions];
        let all = shelves.into_iter().flat_map(|shelf| shelf.by_order.values().map(|key| (key, &shelf.entries[key])));
        all.filter(|(_, entry)| !entry.gone).map(|(key, entry)| (&**key, &entry.seen))
    }

    /// Whether so many objects are known that some may have been forgotten.
    pub fn is_full(&self) -> bool {
        self.objects.entries.len() >= self.objects.limit
    }

    fn entry(&self, uri: &str) -> Option<&Entry> {
        let shelf = if path_kind(uri) == Some(ACTION) { &self.actions } else { &self.objects };
        shelf.entries.get(uri)
    }

    fn shelf(&mut self, uri: &str) -> &mut Shelf {
        if path_kind(uri) == Some(ACTION) { &mut self.actions } else { &mut self.objects }
    }
}

impl Shelf {
    fn new(limit: usize) -> Shelf {
        Shelf { entries: HashMap::new(), by_order: BTreeMap::new(), limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_of_followed_types_are_kept() {
        for uri in ["/api/v1/service/s1/", "/api/v1/service/s1", "/api/infra/v1/acme/nodecluster/7/"] {
            assert_eq!(key(uri).unwrap().trim_end_matches('/'), uri.trim_end_matches('/'));
        }
        for uri in [
            "",
            "service",
            "/v1/events",
            "/api/v1/volume/v1/",
            "//evil/api/v1/service/s1/",
            "https://evil/api/v1/service/s1/",
            "/api/v1/../service/s1/",
            "/api/v1//service/s1/",
            "/api/v1/service/s1?x",
            "/api/v1/service/%2e%2e/",
            "/api/v1/service/a b/",
        ] {
            assert_eq!(key(uri), None, "{uri}");
        }
    }

    #[test]
    fn events_are_newer_than_a_mark_and_what_is_listed_is_not() {
        let mut known = Known::default();
        let (one, two) = ("/api/v1/node/1/", "/api/v1/node/2/");
        known.heed(one, Some("create"), Some("Deployed"), vec!["/api/v1/nodecluster/9/".to_owned()]);
        let mark = known.mark();
        known.learn(two, Seen::default());
        assert!(!known.is_newer(one, mark) && !known.is_newer(two, mark));
        known.heed(one, None, Some("terminated"), Vec::new());
        assert!(known.is_newer(one, mark) && known.get(one).is_none());
        assert_eq!(known.all().map(|(uri, _)| uri).collect::<Vec<_>>(), [two]);
        known.bury();
        assert!(!known.is_newer(one, mark));
        known.forget(two);
        assert_eq!(known.all().count(), 0);
    }

    #[test]
    fn it_is_bounded_and_a_flood_of_actions_pushes_no_object_out() {
        let mut known = Known { objects: Shelf::new(2), actions: Shelf::new(3), ..Known::default() };
        for number in 0..100 {
            known.heed(&format!("/api/v1/action/{number}/"), None, Some("Success"), Vec::new());
        }
        for number in [1, 2, 1, 3] {
            known.heed(&format!("/api/v1/node/{number}/"), None, Some("Deployed"), Vec::new());
        }
        let uris: Vec<&str> = known.all().map(|(uri, _)| uri).collect();
        assert_eq!(
            uris,
            ["/api/v1/node/1/", "/api/v1/node/3/", "/api/v1/action/97/", "/api/v1/action/98/", "/api/v1/action/99/"]
        );
    }
}
