//! What can be said about an event in words: names, counts, the fields an enriched record has.

use std::borrow::Cow;

use super::event::{self, Event};
use super::json::{self, Pointer};

/// The text of the value at a pointer: a string's text, a number as it is written; `None` for null, an empty string, objects and arrays.
pub fn text<'l>(event: &Event<'l>, pointer: &str) -> Option<Cow<'l, str>> {
    plain_text(Pointer::parse(pointer).ok()?.find(event.text)?)
}

/// The same of a raw value.
pub fn plain_text(raw: &str) -> Option<Cow<'_, str>> {
    let text = json::plain(raw);
    (!raw.starts_with(['{', '[']) && raw != "null" && !text.trim().is_empty()).then_some(text)
}

/// What a person calls the object: its name where it is known, else its id.
pub fn name<'l>(event: &Event<'l>) -> Option<Cow<'l, str>> {
    let known = ["/resource/name", "/resource/nickname", "/resource/external_fqdn", "/name", "/dn"];
    known.into_iter().find_map(|pointer| text(event, pointer)).or_else(|| {
        let uri = event.resource_uri.as_ref()?;
        event::path_id(uri).map(|id| Cow::Owned(id.to_owned()))
    })
}

/// The exit code of a container, as the adapters write it or as the REST API tells it.
pub fn exit_code(event: &Event<'_>) -> Option<i64> {
    ["/exit_code", "/resource/exit_code"].into_iter().find_map(|pointer| text(event, pointer)?.parse().ok())
}

/// `create` → `created`; what is not a verb of the API is left as it is.
pub fn past<'a>(action: &'a str) -> Cow<'a, str> {
    match action {
        "create" => "created".into(),
        "update" => "updated".into(),
        "delete" => "deleted".into(),
        other => other.into(),
    }
}

/// At most `limit` characters of `text`; a cut shows as `…`, which counts.
pub fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    match text.char_indices().nth(limit) {
        None => text.into(),
        Some(_) => {
            let end = text.char_indices().nth(limit.saturating_sub(1)).map_or(0, |(at, _)| at);
            format!("{}…", &text[..end]).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_where_they_are_known() {
        let event = |text: &'static str| Event::parse(text.as_bytes()).unwrap();
        assert_eq!(
            name(&event(r#"{"resource_uri":"/api/v1/node/9c1e/","resource":{"name":"web-3"}}"#)).unwrap(),
            "web-3"
        );
        assert_eq!(name(&event(r#"{"resource_uri":"/api/v1/node/9c1e/","resource":{"name":null}}"#)).unwrap(), "9c1e");
        assert_eq!(name(&event("{}")), None);
        assert_eq!(exit_code(&event(r#"{"resource":{"exit_code":137}}"#)), Some(137));
        assert_eq!(exit_code(&event(r#"{"exit_code":"3"}"#)), Some(3));
        assert_eq!(exit_code(&event(r#"{"exit_code":null}"#)), None);
    }

    #[test]
    fn cuts_are_visible_and_fall_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüx", 3), "äö…");
    }
}
