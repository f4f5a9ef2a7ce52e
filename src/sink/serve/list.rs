//! Lists: Tutum's paging and filters over a snapshot of the store.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::store::{Object, Store, canonical, text_of};
use crate::model::address::percent_decode;
use crate::model::event::path_id;
use crate::model::json::{self, quote};
use crate::model::time::Timestamp;

/// Objects on a page unless told otherwise (Tutum's own).
const LIMIT: usize = 25;

/// The most objects on a page, and what `limit=0` means (tastypie's `max_limit`, on which Tutum's API was built).
const MAX_LIMIT: usize = 1000;

/// The filters that Tutum documented for one list or another; here they hold for all lists. Any other parameter is ignored.
const FILTERS: [&str; 16] = [
    "uuid",
    "state",
    "name",
    "nickname",
    "service",
    "node",
    "stack",
    "object",
    "node_cluster",
    "node_type",
    "region",
    "docker_version",
    "containers",
    "volumes",
    "services",
    "image_name",
];

/// Those of them that are dates, compared with `__gte` and `__lte`.
const DATES: [&str; 6] =
    ["start_date", "end_date", "deployed_datetime", "destroyed_datetime", "started_datetime", "stopped_datetime"];

/// What a list's query asks.
#[derive(Debug, Default)]
struct Query<'q> {
    limit: usize,
    offset: usize,
    /// The filters, by name; values of the same name are alternatives.
    filters: Vec<(String, Vec<String>)>,
    related: bool,
    /// The parameters that go into the next page's address, as they were sent.
    kept: Vec<&'q str>,
}

impl Query<'_> {
    fn parse(query: &str) -> Result<Query<'_>, String> {
        let mut asked = Query { limit: LIMIT, ..Query::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (percent_decode(name), percent_decode(value));
            let number = || value.parse().map_err(|_| format!("{name}: expected a whole number"));
            match name.as_str() {
                "limit" => {
                    asked.limit = match number()? {
                        0 => MAX_LIMIT,
                        limit => limit.min(MAX_LIMIT),
                    }
                }
                "offset" => asked.offset = number()?,
                "include_related" => {
                    asked.related = matches!(value.to_ascii_lowercase().as_str(), "true" | "1");
                    asked.kept.push(pair);
                }
                _ if value.is_empty() || !is_filter(&name) => {}
                _ => {
                    let dated = name.ends_with("__gte") || name.ends_with("__lte");
                    if dated && Timestamp::parse(&value).is_none() {
                        return Err(format!("{name}: expected a date of RFC 3339 or RFC 2822"));
                    }
                    asked.kept.push(pair);
                    match asked.filters.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, values)) => values.push(value),
                        None => asked.filters.push((name, vec![value])),
                    }
                }
            }
        }
        Ok(asked)
    }

    fn passes(&self, object: &Object, store: &Store, related: Option<&HashSet<String>>) -> bool {
        if self.filters.is_empty() {
            return true;
        }
        let json = object.json();
        self.filters.iter().all(|(name, wanted)| match related {
            Some(related) if name == "object" => {
                text_of(&json, "object").and_then(|object| canonical(&object)).is_some_and(|o| related.contains(&o))
            }
            _ => values(&json, name, store).iter().any(|value| wanted.iter().any(|wanted| meets(name, value, wanted))),
        })
    }
}

fn is_filter(name: &str) -> bool {
    match name.split_once("__") {
        None => FILTERS.contains(&name),
        Some((field, "gte" | "lte")) => DATES.contains(&field),
        Some((field, "startswith")) => FILTERS.contains(&field),
        Some(("stack" | "service" | "node" | "node_cluster" | "object", rest)) => is_filter(rest),
        Some(_) => false,
    }
}

/// What a filter looks at: a field's text, or those of a field that is a list; `stack__name` goes by way of the stack.
fn values(json: &str, name: &str, store: &Store) -> Vec<String> {
    let (field, rest) = name.split_once("__").unwrap_or((name, ""));
    let mut raw = None;
    let _ = json::select(json, |key| key == field, |_, value| raw = Some(value));
    let Some(raw) = raw.filter(|raw| *raw != "null") else { return Vec::new() };
    if rest.is_empty() || matches!(rest, "gte" | "lte" | "startswith") {
        let listed = json::elements(raw);
        let all = if raw.starts_with('[') { listed } else { vec![raw] };
        return all.into_iter().map(json::plain).map(Cow::into_owned).collect();
    }
    let other = json::string(raw).and_then(|uri| store.get(&uri));
    other.map(|other| values(&other.json(), rest, store)).unwrap_or_default()
}

fn meets(name: &str, value: &str, wanted: &str) -> bool {
    if name.ends_with("__startswith") {
        return value.starts_with(wanted);
    }
    if name.ends_with("__gte") || name.ends_with("__lte") {
        let (Some(value), Some(wanted)) = (Timestamp::parse(value), Timestamp::parse(wanted)) else { return false };
        return if name.ends_with("__gte") { value >= wanted } else { value <= wanted };
    }
    // Stacks say "Not Running", services "Not running"; and an object may be named by its path or by its id alone.
    value.eq_ignore_ascii_case(wanted)
        || (canonical(value).is_some() && (canonical(value) == canonical(wanted) || path_id(value) == Some(wanted)))
}

/// A page of a list as JSON; `None` for a type nobody knows. `path` is the list's own, which the addresses of the other pages begin with.
///
/// # Errors
/// Says what is wrong with the query.
pub fn page(store: &Store, kind: &str, path: &str, query: &str, now: Instant) -> Option<Result<String, String>> {
    let objects = store.list(kind, now)?;
    let asked = match Query::parse(query) {
        Ok(asked) => asked,
        Err(reason) => return Some(Err(reason)),
    };
    let related = asked.filters.iter().find(|(name, _)| asked.related && name == "object");
    let related =
        related.map(|(_, paths)| paths.iter().flat_map(|path| store.related(path, now)).collect::<HashSet<String>>());
    let found: Vec<&Arc<Object>> =
        objects.iter().filter(|object| asked.passes(object, store, related.as_ref())).collect();
    let (limit, offset, total) = (asked.limit, asked.offset, found.len());
    let to = |offset: usize| {
        let kept: String = asked.kept.iter().map(|pair| format!("&{pair}")).collect();
        quote(&format!("{path}?limit={limit}&offset={offset}{kept}"))
    };
    let null = || "null".to_owned();
    let next = if offset.saturating_add(limit) < total { to(offset + limit) } else { null() };
    let previous = if offset > 0 { to(offset.saturating_sub(limit)) } else { null() };
    let objects: Vec<String> = found.iter().skip(offset).take(limit).map(|object| object.item_json()).collect();
    Some(Ok(format!(
        r#"{{"meta":{{"limit":{limit},"next":{next},"offset":{offset},"previous":{previous},"total_count":{total}}},"objects":[{}]}}"#,
        objects.join(",")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::stage::tests::start;

    fn store() -> Store {
        let (store, now) = (Store::default(), start());
        for object in [
            r#"{"resource_uri":"/api/v1/stack/t1/","name":"shop","state":"Not Running"}"#,
            r#"{"resource_uri":"/api/v1/service/s1/","name":"web","state":"Running","stack":"/api/v1/stack/t1/","containers":["/api/v1/container/c1/"]}"#,
            r#"{"resource_uri":"/api/v1/service/s2/","name":"db","state":"Not running","stack":null}"#,
            r#"{"resource_uri":"/api/v1/container/c1/","name":"web-1","service":"/api/v1/service/s1/"}"#,
            r#"{"resource_uri":"/api/v1/container/c2/","name":"db-1","service":"/api/v1/service/s2/"}"#,
            r#"{"resource_uri":"/api/v1/action/a1/","object":"/api/v1/service/s1/","start_date":"Thu, 16 Oct 2014 12:04:08 +0000"}"#,
            r#"{"resource_uri":"/api/v1/action/a2/","object":"/api/v1/container/c1/","start_date":"Fri, 17 Oct 2014 12:04:08 +0000"}"#,
            r#"{"resource_uri":"/api/v1/action/a3/","object":"/api/v1/container/c2/","start_date":null}"#,
        ] {
            store.put(object, now).unwrap();
        }
        store
    }

    fn ids(kind: &str, query: &str) -> String {
        let text = page(&store(), kind, "/x/", query, start().at).unwrap().unwrap();
        let mut objects = None;
        json::object(&text, |key, raw| objects = (key == "objects").then_some(raw).or(objects)).unwrap();
        let uris = json::elements(objects.unwrap()).into_iter().filter_map(|object| text_of(object, "uuid"));
        uris.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_item_is_shorter_than_its_object() {
        let (store, now) = (Store::default(), start());
        let whole = r#"{"resource_uri":"/api/v1/container/c1/","name":"web","container_envvars":[{"key":"A","value":"b"}],"link_variables":{"A":"b"},"bindings":[],"roles":["global"],"linked_to_container":[],"exit_code":1.0}"#;
        store.put(whole, now).unwrap();
        let text = page(&store, "container", "/x/", "", now.at).unwrap().unwrap();
        assert!(text.contains(r#""name":"web","exit_code":1.0"#), "{text}");
        for key in ["container_envvars", "link_variables", "bindings", "roles", "linked_to_container"] {
            assert!(!text.contains(key), "{text}");
            assert!(store.get("/api/v1/container/c1/").unwrap().json().contains(key));
        }
    }

    #[test]
    fn filters() {
        for (kind, query, expected) in [
            ("service", "", "s1 s2"),
            ("service", "name=web", "s1"),
            ("service", "state=not%20running", "s2"),
            ("service", "state=Not+running&state=Running", "s1 s2"),
            ("service", "uuid=s2", "s2"),
            ("service", "uuid__startswith=s", "s1 s2"),
            ("service", "stack=/api/v1/stack/t1/", "s1"),
            ("service", "stack=%2Fapi%2Fapp%2Fv1%2Fstack%2Ft1", "s1"),
            ("service", "stack=t1", "s1"),
            ("service", "stack__name=shop", "s1"),
            ("service", "containers=/api/v1/container/c1/", "s1"),
            ("service", "name=&format=json&_=1&user=jo", "s1 s2"),
            ("service", "name=web&state=Stopped", ""),
            ("container", "service__stack__name=shop", "c1"),
            ("container", "service__name=db", "c2"),
            ("action", "start_date__gte=2014-10-17T00:00:00Z", "a2"),
            ("action", "start_date__lte=Thu,%2016%20Oct%202014%2012:04:08%20%2B0000", "a1"),
            ("action", "object=/api/v1/service/s1/", "a1"),
            ("action", "object=/api/v1/service/s1/&include_related=true", "a1 a2"),
            ("action", "object=/api/v1/container/c1/&include_related=true", "a1 a2"),
            ("volume", "", ""),
        ] {
            assert_eq!(ids(kind, query), expected, "{kind} {query}");
        }
    }

    #[test]
    fn wrong_queries_are_told_and_unknown_types_are_not_lists() {
        let ask = |kind: &str, query: &str| page(&store(), kind, "/x/", query, start().at);
        assert_eq!(ask("service", "limit=x").unwrap().unwrap_err(), "limit: expected a whole number");
        assert!(ask("service", "offset=-1").unwrap().is_err());
        assert!(ask("action", "start_date__gte=yesterday").unwrap().is_err());
        assert!(ask("sausage", "").is_none());
    }

    #[test]
    fn pages_and_the_way_from_one_to_the_next() {
        let (store, now) = (Store::default(), start());
        for number in 0..41 {
            store.put(&format!(r#"{{"resource_uri":"/api/v1/service/{number}/","state":"Running"}}"#), now).unwrap();
        }
        let meta = |query: &str| {
            let text = page(&store, "service", "/api/v1/service/", query, now.at).unwrap().unwrap();
            text[r#"{"meta":"#.len()..text.find(r#","objects""#).unwrap()].to_owned()
        };
        for (query, expected) in [
            (
                "",
                r#"{"limit":25,"next":"/api/v1/service/?limit=25&offset=25","offset":0,"previous":null,"total_count":41}"#,
            ),
            (
                "limit=25&offset=25",
                r#"{"limit":25,"next":null,"offset":25,"previous":"/api/v1/service/?limit=25&offset=0","total_count":41}"#,
            ),
            (
                "offset=10&limit=20&state=Running&token=secret&user=jo&x=y",
                r#"{"limit":20,"next":"/api/v1/service/?limit=20&offset=30&state=Running","offset":10,"previous":"/api/v1/service/?limit=20&offset=0&state=Running","total_count":41}"#,
            ),
            ("limit=0", r#"{"limit":1000,"next":null,"offset":0,"previous":null,"total_count":41}"#),
            (
                "limit=9999&offset=41",
                r#"{"limit":1000,"next":null,"offset":41,"previous":"/api/v1/service/?limit=1000&offset=0","total_count":41}"#,
            ),
            (
                "limit=20&offset=21",
                r#"{"limit":20,"next":null,"offset":21,"previous":"/api/v1/service/?limit=20&offset=1","total_count":41}"#,
            ),
        ] {
            assert_eq!(meta(query), expected, "{query}");
        }
    }
}
