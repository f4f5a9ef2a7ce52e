//! Looking into a JSON text without copying it, and adding keys to it without touching the rest.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::exit::Fault;

/// Calls `each` with every key and raw value of the object `text`; the values are checked for syntax, not built.
///
/// # Errors
/// A fault if `text` is not one JSON object. The message tells the column and never the content.
pub fn object<'t>(text: &'t str, mut each: impl FnMut(&str, &'t str)) -> Result<(), Fault> {
    select(text, |_| true, |key, value| each(key, value))
}

/// Like [`object`], but only for the keys that `wanted` picks: the values of all others are checked and skipped, which is faster.
///
/// # Errors
/// As [`object`].
pub fn select<'t>(text: &'t str, wanted: impl Fn(&str) -> bool, each: impl FnMut(&str, &'t str)) -> Result<(), Fault> {
    // Said here, because serde's own "invalid type" message would quote the line.
    if text.trim_ascii_start().as_bytes().first() != Some(&b'{') {
        return Err(Fault::new(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => "not a JSON object".to_owned(),
            Err(error) => not_json(&error),
        }));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer
        .deserialize_map(Members { wanted, each })
        .and_then(|()| deserializer.end())
        .map_err(|error| Fault::new(not_json(&error)))
}

fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let cause = text.split(" at line ").next().unwrap_or_default();
    format!("not JSON: {cause} at column {}", error.column())
}

struct Members<W, E> {
    wanted: W,
    each: E,
}

impl<'de, W: Fn(&str) -> bool, E: FnMut(&str, &'de str)> Visitor<'de> for Members<W, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key_seed(Key(&self.wanted))? {
            match key {
                Some(key) => {
                    let value: &'de RawValue = map.next_value()?;
                    (self.each)(&key, value.get());
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads a key, and keeps it only if it is wanted.
struct Key<'w, W>(&'w W);

impl<'de, W: Fn(&str) -> bool> DeserializeSeed<'de> for Key<'_, W> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, W: Fn(&str) -> bool> Visitor<'de> for Key<'_, W> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok((self.0)(key).then_some(Cow::Borrowed(key)))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok((self.0)(key).then(|| Cow::Owned(key.to_owned())))
    }
}

/// The text of a raw JSON string; `None` for any other value.
///
/// Escapes that stand for no character (a lone surrogate) are left as they are written: a filter must not stumble over them.
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    Some(serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(inner), Cow::Owned))
}

/// The text of a raw value as a person would write it: a string's text, anything else's JSON.
pub fn plain(raw: &str) -> Cow<'_, str> {
    string(raw).unwrap_or(Cow::Borrowed(raw))
}

/// The elements of a raw JSON array; empty for any other value.
pub fn elements(raw: &str) -> Vec<&str> {
    struct Elements;
    impl<'de> Visitor<'de> for Elements {
        type Value = Vec<&'de str>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element::<&'de RawValue>()? {
                elements.push(element.get());
            }
            Ok(elements)
        }
    }
    serde_json::Deserializer::from_str(raw).deserialize_seq(Elements).unwrap_or_default()
}

/// The text without line breaks, which in JSON can only stand between values.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let text = text.trim_end_matches(['\r', '\n']);
    if text.contains(['\r', '\n']) { Cow::Owned(text.replace(['\r', '\n'], "")) } else { Cow::Borrowed(text) }
}

/// `text` as a JSON string, quotes included.
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The object `record` with `members` (`"key":value`, joined by commas) appended as its last keys; the rest byte for byte as it was.
///
/// `record` must be a JSON object, which every line that became an event is.
pub fn append(record: &str, members: &str) -> String {
    let close = record.rfind('}').unwrap_or(record.len());
    let (head, tail) = record.split_at(close);
    let comma = if head.trim_ascii_end().ends_with('{') || members.is_empty() { "" } else { "," };
    [head, comma, members, tail].concat()
}

/// A JSON pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    steps: Vec<String>,
}

impl Pointer {
    /// Reads `/resource/name`; a bare word stands for a key at the top, `name` for `/name`.
    ///
    /// # Errors
    /// Says what is wrong with the pointer.
    pub fn parse(text: &str) -> Result<Pointer, String> {
        let rest = match text.strip_prefix('/') {
            Some(rest) => rest,
            None if text.is_empty() => return Err("expected a JSON pointer such as /resource/name".to_owned()),
            None if text.contains('/') => return Err(format!("a JSON pointer begins with \"/\", got \"{text}\"")),
            None => text,
        };
        let unescape = |step: &str| {
            let after_tilde = step.split('~').skip(1);
            if after_tilde.clone().all(|rest| rest.starts_with(['0', '1'])) {
                Ok(step.replace("~1", "/").replace("~0", "~"))
            } else {
                Err(format!("in a JSON pointer \"~\" is written \"~0\", got \"{text}\""))
            }
        };
        Ok(Pointer { steps: rest.split('/').map(unescape).collect::<Result<_, _>>()? })
    }

    /// The raw value it points at in the object `text`, of keys that come twice the last.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.steps.iter().try_fold(text, |value, step| {
            if value.trim_ascii_start().starts_with('[') {
                // "01" and "+1" are no indices (RFC 6901, section 4).
                let index: usize = step.parse().ok().filter(|index: &usize| index.to_string() == *step)?;
                return elements(value).get(index).copied();
            }
            let mut found = None;
            select(value, |key| key == step, |_, raw| found = Some(raw)).ok()?;
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_appended_and_the_rest_stays() {
        assert_eq!(append(r#"{ "a" : 1.10 } "#, r#""b":2"#), r#"{ "a" : 1.10 ,"b":2} "#);
        assert_eq!(append("{ }", r#""b":2"#), r#"{ "b":2}"#);
        assert_eq!(append(r#"{"a":"}"}"#, r#""b":2"#), r#"{"a":"}","b":2}"#);
    }

    #[test]
    fn pointers_find_raw_values() {
        let text = r#"{"a":{"b/c":[10,{"d~":1.10}]},"n":null,"a2":"x","a2":"y"}"#;
        let find = |pointer: &str| Pointer::parse(pointer).unwrap().find(text);
        assert_eq!(find("/a/b~1c/1/d~0"), Some("1.10"));
        assert_eq!(find("/a/b~1c/0"), Some("10"));
        assert_eq!(find("/a/b~1c/01"), None);
        assert_eq!(find("/n"), Some("null"));
        assert_eq!(find("a2"), Some("\"y\""));
        assert_eq!(find("/a/x/y"), None);
        assert!(Pointer::parse("a/b").is_err() && Pointer::parse("").is_err() && Pointer::parse("/a~2").is_err());
    }

    #[test]
    fn a_fault_tells_the_column_and_not_the_content() {
        let fault = |text: &str| object(text, |_, _| ()).unwrap_err().reason;
        assert_eq!(fault("\"hunter22\""), "not a JSON object");
        assert_eq!(fault("hunter22"), "not JSON: expected value at column 1");
        assert_eq!(fault(r#"{"a":tru}"#), "not JSON: expected ident at column 9");
        assert_eq!(fault(r#"{"a":1} x"#), "not JSON: trailing characters at column 9");
    }

    #[test]
    fn what_a_value_rewrites_is_left_alone() {
        let text = r#"{"n":1e400,"s":"\ud800","deep":[[[[[[]]]]]],"i":18446744073709551616}"#;
        let mut seen = Vec::new();
        object(text, |key, raw| seen.push(format!("{key}={}", plain(raw)))).unwrap();
        assert_eq!(seen, ["n=1e400", r"s=\ud800", "deep=[[[[[[]]]]]]", "i=18446744073709551616"]);
    }
}
