//! What changed between what was last seen and a listing: a pure function.

use std::collections::{BTreeSet, HashMap};

use super::known::{ACTION, KINDS, Known, Seen, is_over};
use crate::model::event::path_kind;

/// What the API told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// What there is, each path once; the parents are those that the objects name themselves.
    pub objects: Vec<(String, Seen)>,
    /// The types whose list was read to its end.
    pub complete: BTreeSet<&'static str>,
    /// What is no more: known before, missing in a complete list, and its own path confirmed it.
    pub gone: Vec<String>,
}

/// One change, and what the object is like after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `create`, `update` or `delete`.
    pub action: &'static str,
    /// The object's path.
    pub uri: String,
    /// What it is like now.
    pub seen: Seen,
}

/// What changed, in the order to tell it: what is new or different, those above before those below; what is gone, those below before those above; actions.
///
/// An object about which an event came after `mark`, when the listing began, is left out: the event is newer. Objects that are new count as such only
/// where all were known before (`learned`, by type); otherwise they were merely not heard of.
pub fn difference(known: &Known, listing: &Listing, mark: u64, learned: impl Fn(&str) -> bool) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (uri, seen) in &listing.objects {
        let kind = path_kind(uri).unwrap_or_default();
        if known.is_newer(uri, mark) {
            continue;
        }
        let over = kind != ACTION && is_over(seen.state.as_deref());
        let action = match known.get(uri) {
            Some(_) if over => "delete",
            None if over => continue,
            None if kind == ACTION || learned(kind) => "create",
            None => continue,
            Some(before) if is_other(before, seen) => "update",
            Some(_) => continue,
        };
        differences.push(Difference { action, uri: uri.clone(), seen: seen.clone() });
    }
    for uri in &listing.gone {
        let is_action = path_kind(uri) == Some(ACTION);
        if let Some(before) = known.get(uri).filter(|_| !is_action && !known.is_newer(uri, mark)) {
            let seen = Seen { state: Some("Terminated".to_owned()), parents: before.parents.clone() };
            differences.push(Difference { action: "delete", uri: uri.clone(), seen });
        }
    }
    differences.sort_by_key(|difference| place(difference.action, &difference.uri));
    differences
}

/// Stacks say `Not Running`, services `Not running`: the spelling is no difference. A listing without a state says nothing about it.
fn is_other(before: &Seen, after: &Seen) -> bool {
    match (&before.state, &after.state) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(before), Some(after)) => !before.eq_ignore_ascii_case(after),
    }
}

/// The order in which objects are told, those above first.
pub fn depth(uri: &str) -> usize {
    KINDS.iter().position(|kind| path_kind(uri) == Some(kind)).unwrap_or(KINDS.len())
}

fn place(action: &str, uri: &str) -> (u8, usize) {
    match (action, depth(uri)) {
        (_, depth) if depth == KINDS.len() => (2, 0),
        ("delete", depth) => (1, KINDS.len() - depth),
        (_, depth) => (0, depth),
    }
}

/// Completes the parents of what was listed: a container names its service and its node, and those name the stack and the node cluster. What the listing
/// does not tell is taken from what was seen before.
pub fn complete_parents(listing: &mut Listing, known: &Known) {
    let above: HashMap<String, Vec<String>> = listing
        .objects
        .iter()
        .filter(|(uri, seen)| matches!(path_kind(uri), Some("service" | "node")) && !seen.parents.is_empty())
        .map(|(uri, seen)| (uri.clone(), seen.parents.clone()))
        .collect();
    let of = |uri: &str| above.get(uri).map(Vec::as_slice).or_else(|| known.get(uri).map(|seen| &seen.parents[..]));
    for (uri, seen) in &mut listing.objects {
        if path_kind(uri) == Some(ACTION) {
            continue;
        }
        let find = |paths: &[String], kind: &str| paths.iter().find(|path| path_kind(path) == Some(kind)).cloned();
        let before = known.get(uri).map_or(&[][..], |seen| &seen.parents[..]);
        let direct = |kind: &str| find(&seen.parents, kind).or_else(|| find(before, kind));
        let (service, node) = (direct("service"), direct("node"));
        let inherited = |from: &Option<String>, kind: &str| find(of(from.as_deref()?)?, kind);
        let stack =
            find(&seen.parents, "stack").or_else(|| inherited(&service, "stack")).or_else(|| find(before, "stack"));
        let cluster = find(&seen.parents, "nodecluster")
            .or_else(|| inherited(&node, "nodecluster"))
            .or_else(|| find(before, "nodecluster"));
        // The order of the events that were recorded.
        seen.parents = [service, node, stack, cluster].into_iter().flatten().collect();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn seen(state: &str) -> Seen {
        Seen { state: Some(state.to_owned()), parents: Vec::new() }
    }

    fn uri(kind: &str, number: usize) -> String {
        format!("/api/v1/{kind}/{number}/")
    }

    fn shown(differences: &[Difference]) -> Vec<String> {
        let state = |difference: &Difference| difference.seen.state.clone().unwrap_or_default();
        differences
            .iter()
            .map(|difference| format!("{} {} {}", difference.action, &difference.uri[8..], state(difference)))
            .collect()
    }

    #[test]
    fn new_changed_and_gone_in_the_order_to_tell_them() {
        let mut known = Known::default();
        for (kind, state) in
            [("service", "Running"), ("container", "Running"), ("stack", "Not Running"), ("action", "In progress")]
        {
            known.learn(&uri(kind, 1), seen(state));
            known.learn(&uri(kind, 2), seen(state));
        }
        let mut listing = Listing { complete: KINDS.into(), ..Listing::default() };
        for (kind, number, state) in [
            ("action", 1, "Success"),
            ("action", 3, "Failed"),
            ("container", 1, "Terminated"),
            ("container", 3, "Starting"),
            ("container", 4, "Terminated"),
            ("service", 1, "Stopped"),
            ("service", 3, "Running"),
            ("stack", 1, "Not running"),
            ("node", 7, "Deployed"),
        ] {
            listing.objects.push((uri(kind, number), seen(state)));
        }
        listing.gone = vec![uri("stack", 2), uri("container", 2), uri("action", 2), uri("service", 9)];
        assert_eq!(
            shown(&difference(&known, &listing, known.mark(), |kind| kind != "node")),
            [
                "update service/1/ Stopped",
                "create service/3/ Running",
                "create container/3/ Starting",
                "delete container/1/ Terminated",
                "delete container/2/ Terminated",
                "delete stack/2/ Terminated",
                "update action/1/ Success",
                "create action/3/ Failed",
            ]
        );
    }

    #[test]
    fn parents_are_completed_from_the_listing_then_from_what_was_seen() {
        let mut known = Known::default();
        let with = |parents: &[String]| Seen { state: None, parents: parents.to_vec() };
        known.learn(&uri("node", 1), with(&[uri("nodecluster", 1)]));
        known.learn(&uri("container", 2), with(&[uri("service", 2), uri("node", 1), uri("stack", 5)]));
        let mut listing = Listing::default();
        listing.objects.push((uri("container", 1), with(&[uri("node", 1), uri("service", 1)])));
        listing.objects.push((uri("container", 2), with(&[])));
        listing.objects.push((uri("service", 1), with(&[uri("stack", 1)])));
        listing.objects.push((uri("action", 1), with(&[uri("container", 1)])));
        complete_parents(&mut listing, &known);
        let parents: Vec<Vec<String>> = listing.objects.into_iter().map(|(_, seen)| seen.parents).collect();
        assert_eq!(
            parents,
            [
                vec![uri("service", 1), uri("node", 1), uri("stack", 1), uri("nodecluster", 1)],
                vec![uri("service", 2), uri("node", 1), uri("stack", 5), uri("nodecluster", 1)],
                vec![uri("stack", 1)],
                vec![uri("container", 1)],
            ]
        );
    }

    /// Objects by kind and number, with one of three living states.
    fn objects() -> impl Strategy<Value = BTreeMap<(usize, usize), usize>> {
        proptest::collection::btree_map((0..KINDS.len(), 0..6_usize), 0..3_usize, 0..20)
    }

    const STATES: [&str; 3] = ["Running", "Stopped", "Partly running"];

    fn world(objects: &BTreeMap<(usize, usize), usize>) -> BTreeMap<String, Seen> {
        objects.iter().map(|((kind, number), state)| (uri(KINDS[*kind], *number), seen(STATES[*state]))).collect()
    }

    fn known(objects: &BTreeMap<String, Seen>) -> Known {
        let mut known = Known::default();
        objects.iter().for_each(|(uri, seen)| known.learn(uri, seen.clone()));
        known
    }

    fn contents(known: &Known) -> BTreeMap<String, Seen> {
        known.all().map(|(uri, seen)| (uri.to_owned(), seen.clone())).collect()
    }

    fn apply(known: &mut Known, differences: &[Difference]) {
        for difference in differences {
            match difference.action {
                "delete" => known.forget(&difference.uri),
                _ => known.learn(&difference.uri, difference.seen.clone()),
            }
        }
    }

    proptest! {
        #[test]
        fn the_differences_lead_from_what_was_known_to_the_listing(before in objects(), after in objects()) {
            let (before, after) = (world(&before), world(&after));
            let mut known = known(&before);
            let listing = Listing {
                objects: after.clone().into_iter().collect(),
                complete: KINDS.into(),
                gone: before.keys().filter(|uri| !after.contains_key(*uri)).cloned().collect(),
            };
            let differences = difference(&known, &listing, known.mark(), |_| true);
            for (at, difference) in differences.iter().enumerate() {
                // Each once, and truly a change; nothing new before what is above it, nothing gone after it.
                prop_assert!(differences[..at].iter().all(|earlier| earlier.uri != difference.uri));
                match difference.action {
                    "create" => prop_assert!(!before.contains_key(&difference.uri)),
                    "update" => prop_assert!(before[&difference.uri] != after[&difference.uri]),
                    _ => prop_assert!(before.contains_key(&difference.uri) && !after.contains_key(&difference.uri)),
                }
                let later = &differences[at + 1..];
                let out_of_order = |other: &Difference| match (difference.action, other.action) {
                    ("delete", "delete") => depth(&other.uri) > depth(&difference.uri),
                    ("delete", _) => true,
                    (_, "delete") => false,
                    _ => depth(&other.uri) < depth(&difference.uri),
                };
                prop_assert!(!later.iter().any(out_of_order));
            }
            apply(&mut known, &differences);
            prop_assert_eq!(contents(&known), after);
            prop_assert!(difference(&known, &listing, known.mark(), |_| true).is_empty());
        }

        #[test]
        fn what_is_equal_makes_no_difference(objects in objects()) {
            let objects = world(&objects);
            let known = known(&objects);
            let listing = Listing { objects: objects.into_iter().collect(), complete: KINDS.into(), gone: Vec::new() };
            prop_assert!(difference(&known, &listing, known.mark(), |_| true).is_empty());
        }

        #[test]
        fn an_event_after_the_listing_began_wins(before in objects(), after in objects(), live in objects(), deleted in objects()) {
            let (before, after, live) = (world(&before), world(&after), world(&live));
            let deleted = world(&deleted);
            let mut known = known(&before);
            let mark = known.mark();
            live.iter().for_each(|(uri, seen)| known.heed(uri, Some("update"), seen.state.as_deref(), Vec::new()));
            deleted.keys().for_each(|uri| known.heed(uri, Some("delete"), None, Vec::new()));
            let listing = Listing {
                objects: after.clone().into_iter().collect(),
                complete: KINDS.into(),
                gone: before.keys().filter(|uri| !after.contains_key(*uri)).cloned().collect(),
            };
            let differences = difference(&known, &listing, mark, |_| true);
            prop_assert!(differences.iter().all(|d| !live.contains_key(&d.uri) && !deleted.contains_key(&d.uri)));
            apply(&mut known, &differences);
            known.bury();
            let mut expected = after;
            expected.extend(live);
            expected.retain(|uri, _| !deleted.contains_key(uri));
            prop_assert_eq!(contents(&known), expected);
        }

        #[test]
        fn nothing_is_deleted_that_was_not_confirmed(before in objects(), after in objects(), confirmed in proptest::collection::vec(any::<bool>(), 20)) {
            let (before, after) = (world(&before), world(&after));
            let mut known = known(&before);
            let missing = before.keys().filter(|uri| !after.contains_key(*uri));
            let gone: Vec<String> = missing.zip(confirmed).filter(|(_, yes)| *yes).map(|(uri, _)| uri.clone()).collect();
            let listing = Listing { objects: after.into_iter().collect(), complete: KINDS.into(), gone: gone.clone() };
            let differences = difference(&known, &listing, known.mark(), |_| true);
            let deleted = differences.iter().filter(|difference| difference.action == "delete");
            prop_assert!(deleted.clone().all(|difference| gone.contains(&difference.uri)));
            prop_assert_eq!(deleted.count(), gone.len());
            apply(&mut known, &differences);
            prop_assert!(before.keys().all(|uri| known.get(uri).is_some() || gone.contains(uri)));
        }
    }
}
