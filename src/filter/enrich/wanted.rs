//! What of an event is to be looked up, and which paths may be asked for at all.

use crate::model::event::{Event, path_kind};
use crate::model::json;

/// The types of objects an event can be about or have above it.
pub const KINDS: [&str; 8] =
    ["action", "container", "service", "stack", "node", "nodecluster", "volume", "volumegroup"];

/// The messages of a stream that are about no object.
const MESSAGES: [&str; 5] = ["stream", "auth", "error", "user-notification", "user-notifications"];

/// What is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct With {
    /// The object an event is about.
    resource: bool,
    /// Every parent.
    parents: bool,
    /// Parents of these types.
    kinds: Vec<String>,
}

impl With {
    /// Everything.
    pub const EVERYTHING: With = With { resource: true, parents: true, kinds: Vec::new() };
    /// Nothing yet; [`With::add`] adds to it.
    pub const NOTHING: With = With { resource: false, parents: false, kinds: Vec::new() };

    /// Adds `resource`, `parents` or a type of parent.
    ///
    /// # Errors
    /// Names the words it knows.
    pub fn add(&mut self, word: &str) -> Result<(), String> {
        match word.to_ascii_lowercase().as_str() {
            "resource" => self.resource = true,
            "parents" => self.parents = true,
            kind if KINDS.contains(&kind) => self.kinds.push(kind.to_owned()),
            _ => return Err(format!("expected resource, parents, {}, got \"{word}\"", KINDS.join(", "))),
        }
        Ok(())
    }

    fn takes(&self, kind: &str) -> bool {
        self.parents || self.kinds.iter().any(|wanted| wanted == kind)
    }
}

/// Where an object is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `resource`.
    Resource,
    /// `parent`, under this type.
    Parent(String),
}

/// A path that is not asked for, in the words of `enrich_error`.
pub const NOT_A_PATH: &str = "not a path under /api/";

/// The objects to attach to this event: where, and the path to ask for, or why it is not asked.
///
/// Of two parents of one type the first wins, unless only the second can be asked for. What the record has already is left as it is: with
/// `resource` no object is attached, with `parent` no parent, and with `enrich_error`, the mark of an earlier enricher, nothing.
pub fn wanted(event: &Event<'_>, with: &With) -> Vec<(Place, Result<String, &'static str>)> {
    let Some(uri) = event.resource_uri.as_deref().filter(|_| !MESSAGES.iter().any(|kind| event.is(kind))) else {
        return Vec::new();
    };
    let (mut has_resource, mut has_parent, mut has_error) = (false, false, false);
    let ours = |key: &str| matches!(key, "resource" | "parent" | "enrich_error");
    // The line became an event, so it is an object.
    let _ = json::select(event.text, ours, |key, _| match key {
        "resource" => has_resource = true,
        "parent" => has_parent = true,
        _ => has_error = true,
    });
    let mut wanted = Vec::new();
    if has_error {
        return wanted;
    }
    if with.resource && !has_resource {
        wanted.push((Place::Resource, askable(uri).ok_or(NOT_A_PATH)));
    }
    if has_parent {
        return wanted;
    }
    for parent in event.parents() {
        let kind = path_kind(&parent).unwrap_or("unknown");
        if !with.takes(kind) {
            continue;
        }
        let path = askable(&parent).ok_or(NOT_A_PATH);
        match wanted.iter_mut().find(|(place, _)| matches!(place, Place::Parent(known) if known == kind)) {
            None => wanted.push((Place::Parent(kind.to_owned()), path)),
            Some((_, known)) if known.is_err() => *known = path,
            Some(_) => {}
        }
    }
    wanted
}

/// The path to ask for, with its final slash, if `uri` is a plain path under `/api/`.
///
/// An event's author must not be able to choose where our credential goes: no other host, no way out of `/api/` (`..`, also percent-encoded or
/// with a backslash), nothing that one parser of URLs reads differently from another.
pub fn askable(uri: &str) -> Option<String> {
    // No path of the API comes near it; and a request line of megabytes is nobody's wish.
    const LONGEST: usize = 1024;
    let rest = uri.strip_prefix("/api/").filter(|_| uri.len() <= LONGEST)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:+,=".contains(c);
    let fine = |segment: &str| !segment.is_empty() && segment != "." && segment != ".." && segment.chars().all(plain);
    rest.split('/').all(fine).then(|| format!("/api/{rest}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_under_api_are_asked_for() {
        for (uri, path) in [
            ("/api/v1/service/5b0f/", "/api/v1/service/5b0f/"),
            ("/api/v1/service/5b0f", "/api/v1/service/5b0f/"),
            ("/api/app/v1/my-org/service/5b0f/", "/api/app/v1/my-org/service/5b0f/"),
            ("/api/v1/image/registry.example:5000/a_b/", "/api/v1/image/registry.example:5000/a_b/"),
        ] {
            assert_eq!(askable(uri).as_deref(), Some(path));
        }
        for uri in [
            "",
            "/",
            "/api",
            "/api/",
            "/api//",
            "api/v1/service/1/",
            "/API/v1/service/1/",
            "/v1/events",
            "/apiv1/service/1/",
            "https://evil.example/api/v1/service/1/",
            "//evil.example/api/v1/service/1/",
            "/\\evil.example/api/",
            "\\\\evil.example\\api\\",
            "/api/../admin/",
            "/api/v1/..",
            "/api/v1/./service/1/",
            "/api/%2e%2e/admin/",
            "/api/v1/%2f%2fevil.example/",
            "/api//evil.example/",
            "/api/v1/service/1//",
            "/api/v1/..\\..\\admin/",
            "/api/v1/a@evil.example/",
            "@evil.example/api/v1/service/1/",
            "/api/v1/service/1/?limit=1",
            "/api/v1/service/1/#x",
            "/api/v1/service/1 HTTP/1.1/",
            "/api/v1/service/1\r\nX-Evil: 1/",
            "/api/v1/service/1\0/",
            "/api/v1/service/1\u{7f}/",
            "/api/v1/s\u{e9}rvice/1/",
            "/api/v1/service/1;x/",
            " /api/v1/service/1/",
            &format!("/api/v1/{}/", "x".repeat(2000)),
        ] {
            assert_eq!(askable(uri), None, "{uri:?}");
        }
    }

    fn of(line: &str, with: &With) -> Vec<String> {
        let event = Event::parse(line.as_bytes()).unwrap();
        let show = |(place, path): (Place, Result<String, &str>)| {
            let place = match place {
                Place::Resource => "resource".to_owned(),
                Place::Parent(kind) => kind,
            };
            format!("{place} {}", path.unwrap_or_else(|reason| reason.to_owned()))
        };
        wanted(&event, with).into_iter().map(show).collect()
    }

    fn with(words: &[&str]) -> With {
        let mut with = With::NOTHING;
        words.iter().for_each(|word| with.add(word).unwrap());
        with
    }

    const EVENT: &str = r#"{"resource_uri":"/api/v1/container/1/","parents":["/api/v1/node/2/","/api/v1/service/3","/api/v1/service/4/"]}"#;

    #[test]
    fn the_object_and_its_parents_by_type_the_first_of_each() {
        let everything = ["resource /api/v1/container/1/", "node /api/v1/node/2/", "service /api/v1/service/3/"];
        assert_eq!(of(EVENT, &With::EVERYTHING), everything);
        assert_eq!(of(EVENT, &with(&["resource"])), everything[..1]);
        assert_eq!(of(EVENT, &with(&["parents"])), everything[1..]);
        assert_eq!(of(EVENT, &with(&["service", "stack"])), everything[2..]);
        assert_eq!(of(EVENT, &with(&["Resource", "node"])), everything[..2]);
        assert!(With::NOTHING.clone().add("sevice").unwrap_err().contains("got \"sevice\""));
    }

    #[test]
    fn a_parent_that_can_be_asked_for_wins_over_one_that_cannot() {
        let line =
            r#"{"resource_uri":"//x/","parents":["https://x/stack/1/","/api/v1/stack/2/","/api/v1/stack/3/","?"]}"#;
        assert_eq!(
            of(line, &With::EVERYTHING),
            ["resource not a path under /api/", "stack /api/v1/stack/2/", "unknown not a path under /api/"]
        );
    }

    #[test]
    fn messages_and_records_without_an_object_want_nothing() {
        for kind in MESSAGES {
            let line = format!(r#"{{"type":"{kind}","resource_uri":"/api/v1/container/1/"}}"#);
            assert!(of(&line, &With::EVERYTHING).is_empty(), "{kind}");
        }
        for line in [r#"{"parents":["/api/v1/stack/1/"]}"#, r#"{"resource_uri":7}"#, "{}"] {
            assert!(of(line, &With::EVERYTHING).is_empty(), "{line}");
        }
    }

    #[test]
    fn what_the_record_has_is_left_as_it_is() {
        let having = |key: &str| EVENT.replacen('{', &format!("{{\"{key}\":null,"), 1);
        assert_eq!(of(&having("resource"), &With::EVERYTHING), ["node /api/v1/node/2/", "service /api/v1/service/3/"]);
        assert_eq!(of(&having("parent"), &With::EVERYTHING), ["resource /api/v1/container/1/"]);
        assert!(of(&having("enrich_error"), &With::EVERYTHING).is_empty());
    }
}
