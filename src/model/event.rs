//! A borrowed view of a line: what the suite needs to know of an event, and nothing copied.

use std::borrow::Cow;

use super::exit::Fault;
use super::json;

/// An event: a JSON object in which `type`, `action`, `state`, `resource_uri` and `parents` have a meaning, each optional.
///
/// A key whose value is not of the documented type counts as absent; the record as a whole is never changed.
#[derive(Clone, Debug, Default)]
pub struct Event<'l> {
    /// The whole record as it came.
    pub text: &'l str,
    /// `type`: what kind of object changed, or `stream` for a lifecycle record.
    pub kind: Option<Cow<'l, str>>,
    /// `action`: `create`, `update`, `delete`.
    pub action: Option<Cow<'l, str>>,
    /// `state`: the object's state now.
    pub state: Option<Cow<'l, str>>,
    /// `resource_uri`: the object's path.
    pub resource_uri: Option<Cow<'l, str>>,
    parents: Option<&'l str>,
}

impl<'l> Event<'l> {
    /// Reads the view from a line.
    ///
    /// # Errors
    /// A fault if the line is not UTF-8 or not one JSON object.
    pub fn parse(line: &'l [u8]) -> Result<Event<'l>, Fault> {
        // Checked first: serde_json skips invalid UTF-8 inside strings nobody asks for.
        let text = std::str::from_utf8(line)
            .map_err(|error| Fault::new(format!("not UTF-8 at byte {}", error.valid_up_to() + 1)))?;
        let mut event = Event { text, ..Event::default() };
        let wanted = |key: &str| matches!(key, "type" | "action" | "state" | "resource_uri" | "parents");
        json::select(text, wanted, |key, raw| match key {
            "type" => event.kind = json::string(raw),
            "action" => event.action = json::string(raw),
            "state" => event.state = json::string(raw),
            "resource_uri" => event.resource_uri = json::string(raw),
            _ => event.parents = Some(raw),
        })?;
        Ok(event)
    }

    /// The paths of the objects above this one, in the order they came.
    pub fn parents(&self) -> Vec<Cow<'l, str>> {
        self.parents.map(json::elements).unwrap_or_default().into_iter().filter_map(json::string).collect()
    }

    /// Whether it is of this type.
    pub fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Whether it is a record a source wrote about its own connection.
    pub fn is_lifecycle(&self) -> bool {
        self.is("stream")
    }
}

/// The type in an object's path: the word before its id, `service` in `/api/v1/service/5b0f…/`.
pub fn path_kind(path: &str) -> Option<&str> {
    path.split('/').rev().filter(|segment| !segment.is_empty()).nth(1)
}

/// The id in an object's path: its last word.
pub fn path_id(path: &str) -> Option<&str> {
    path.split('/').rev().find(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_borrows_and_tolerates_the_unexpected() {
        let event =
            Event::parse(br#" {"type":"service","state":7,"parents":["/api/v1/stack/1/",3,"x"],"z":[]} "#).unwrap();
        assert!(event.is("service") && event.state.is_none());
        assert!(matches!(event.kind, Some(Cow::Borrowed(_))));
        assert_eq!(event.parents(), ["/api/v1/stack/1/", "x"]);
        assert!(Event::parse(br#"{"parents":"none"}"#).unwrap().parents().is_empty());
    }

    #[test]
    fn faulty_lines_say_what_is_wrong() {
        for (line, reason) in [
            (&b"[1]"[..], "not a JSON object"),
            (b"{\"a\":\"\xff\"}", "not UTF-8 at byte 7"),
            (b"{\"a\":1", "not JSON: EOF while parsing an object at column 6"),
        ] {
            assert_eq!(Event::parse(line).unwrap_err().reason, reason);
        }
    }

    #[test]
    fn paths_tell_type_and_id() {
        assert_eq!(path_kind("/api/v1/service/5b0f/"), Some("service"));
        assert_eq!(path_kind("/api/app/v1/service/5b0f"), Some("service"));
        assert_eq!(path_id("/api/v1/service/5b0f/"), Some("5b0f"));
        assert_eq!(path_kind("x"), None);
    }
}
