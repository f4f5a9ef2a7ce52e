//! What can be subscribed to: a class or a managed object, and the options of the query.

use std::fmt;
use std::time::Duration;

/// A class or a managed object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every object of a class, e.g. `fvTenant`.
    Class(String),
    /// One object, by its distinguished name, e.g. `uni/tn-common`.
    Object(String),
}

impl Target {
    /// Tells the two by their shape: a class is a package in small letters and a name that begins with a capital one. The addresses that our own
    /// records hold (`/api/mo/uni/tn-common.json`) are taken too.
    ///
    /// # Errors
    /// It can be neither.
    pub fn parse(text: &str) -> Result<Target, String> {
        let text = text.trim();
        let addressed = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".json"));
        if let Some(class) = addressed("/api/class/").or_else(|| addressed("/api/node/class/")) {
            return if is_class(class) {
                Ok(Target::Class(class.to_owned()))
            } else {
                Err(format!("\"{class}\" is no class"))
            };
        }
        let dn = addressed("/api/mo/").or_else(|| addressed("/api/node/mo/")).unwrap_or(text);
        if is_class(dn) {
            return Ok(Target::Class(dn.to_owned()));
        }
        let fits = !dn.is_empty()
            && !dn.starts_with('/')
            && !dn.ends_with('/')
            && dn.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !dn.chars().any(|c| c.is_control() || c.is_whitespace() || c == '?' || c == '#')
            && dn.split('/').all(|name| name != ".." && name != ".");
        if fits {
            Ok(Target::Object(dn.to_owned()))
        } else {
            Err("expected a class such as fvTenant or a distinguished name such as uni/tn-common".to_owned())
        }
    }

    /// The address of the query, without the host.
    pub fn path(&self) -> String {
        match self {
            Target::Class(class) => format!("/api/class/{class}.json"),
            Target::Object(dn) => format!("/api/mo/{}.json", encode(dn, b"?&")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Class(name) | Target::Object(name) => f.write_str(name),
        }
    }
}

fn is_class(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.contains(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// `text` with as little encoded as can be: an APIC compares a query as it comes, and stumbles over `%28` and its like. What no URL can hold must be,
/// and so must what would end this part of it.
fn encode(text: &str, ends: &[u8]) -> String {
    text.bytes().fold(String::new(), |encoded, byte| match byte {
        b'%' | b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0..=b' ' | 0x7f.. => {
            encoded + &format!("%{byte:02X}")
        }
        byte if ends.contains(&byte) => encoded + &format!("%{byte:02X}"),
        _ => encoded + char::from(byte).encode_utf8(&mut [0; 4]),
    })
}

/// Options of the query, for every target alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `query-target`.
    pub reach: Reach,
    /// `target-subtree-class`: only these classes.
    pub classes: Vec<String>,
    /// `query-target-filter`, as typed.
    pub filter: Option<String>,
    /// `refresh-timeout`: how long a subscription lives unless it is refreshed; the APIC's own default is 60 s.
    pub life: Option<Duration>,
}

/// How far below a target the query goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// The target itself.
    #[default]
    Itself,
    /// What is directly below it.
    Children,
    /// It and everything below it.
    Subtree,
}

impl Reach {
    /// The words for it.
    pub const CHOICES: [(&str, Reach); 3] =
        [("self", Reach::Itself), ("children", Reach::Children), ("subtree", Reach::Subtree)];
}

impl Query {
    /// The options that say what belongs to the query, joined by `&`; empty for none.
    pub fn selection(&self) -> String {
        let mut options = Vec::new();
        match self.reach {
            Reach::Itself => {}
            Reach::Children => options.push("query-target=children".to_owned()),
            Reach::Subtree => options.push("query-target=subtree".to_owned()),
        }
        if !self.classes.is_empty() {
            options.push(format!("target-subtree-class={}", self.classes.join(",")));
        }
        if let Some(filter) = &self.filter {
            options.push(format!("query-target-filter={}", encode(filter, b"&+")));
        }
        options.join("&")
    }
}

/// A class name, for an option that takes some.
///
/// # Errors
/// It is none.
pub fn class(text: &str) -> Result<String, String> {
    if is_class(text) { Ok(text.to_owned()) } else { Err(format!("expected a class such as fvTenant, got \"{text}\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_told_from_a_name_by_its_shape() {
        for text in ["fvTenant", "faultInst", "l3extOut", "aaaModLR", "/api/class/fvTenant.json"] {
            assert!(matches!(Target::parse(text).unwrap(), Target::Class(_)), "{text}");
        }
        for (text, path) in [
            ("uni", "/api/mo/uni.json"),
            ("topology/pod-1", "/api/mo/topology/pod-1.json"),
            ("/api/mo/uni/tn-X.json", "/api/mo/uni/tn-X.json"),
            ("uni/tn-X/subnet-[10.0.0.1/24]", "/api/mo/uni/tn-X/subnet-[10.0.0.1/24].json"),
            ("uni/userext/user-a\"b%", "/api/mo/uni/userext/user-a%22b%25.json"),
        ] {
            assert_eq!(Target::parse(text).unwrap().path(), path, "{text}");
        }
        for text in ["", "/", "/uni", "uni/", "uni/../x", "uni tn", "uni?x", "[x]", "/api/class/x-y.json", "-x"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn of_a_filter_only_what_no_query_can_hold_is_encoded() {
        let query = Query {
            reach: Reach::Subtree,
            classes: vec!["fvAp".to_owned(), "fvBD".to_owned()],
            filter: Some("and(eq(faultInst.severity,\"critical\"),wcard(faultInst.dn,\"tn-a b&c\"))".to_owned()),
            life: None,
        };
        assert_eq!(
            query.selection(),
            "query-target=subtree&target-subtree-class=fvAp,fvBD&query-target-filter=and(eq(faultInst.severity,%22critical%22),wcard(faultInst.dn,%22tn-a%20b%26c%22))"
        );
        assert_eq!(Query::default().selection(), "");
    }
}
