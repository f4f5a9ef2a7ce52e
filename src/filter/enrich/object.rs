//! An object as it is attached: the server's bytes on one line, without the values that may be secrets.

use crate::model::json::{quote, select, string};

/// What stands in place of a value that may be a secret.
const MASKED: &str = "\"<masked>\"";

/// How an object is made fit to be attached.
pub struct Fitting<'f> {
    /// Leave the values of `container_envvars` and `link_variables` as they are.
    pub with_secrets: bool,
    /// Cuts our own credential out of a text, should the server echo it.
    pub redact: &'f (dyn Fn(&str) -> String + 'f),
}

impl Fitting<'_> {
    /// The object in `body`, on one line; everything that is not masked is byte for byte what came (white space goes only if there are line breaks in it).
    ///
    /// # Errors
    /// The body is not one JSON object.
    pub fn fit(&self, body: &[u8]) -> Result<String, &'static str> {
        const NOT_AN_OBJECT: &str = "the answer is not a JSON object";
        let text = std::str::from_utf8(body).map_err(|_| NOT_AN_OBJECT)?;
        let text = text.trim_start_matches('\u{feff}').trim_ascii();
        select(text, |_| false, |_, _| ()).map_err(|_| NOT_AN_OBJECT)?;
        Ok(self.rewrite(text))
    }

    /// `text` must be valid JSON.
    fn rewrite(&self, text: &str) -> String {
        // Most bodies hold no echo, and then only strings with escapes, which might hide one, need to be looked at.
        let echoes = (self.redact)(text) != text;
        let mut rewrite = Rewrite {
            text,
            at: 0,
            out: String::with_capacity(text.len()),
            // JSON allows no line break inside a string, so any there is stands between the tokens.
            compact: text.contains(['\n', '\r']),
            open: Vec::new(),
        };
        rewrite.run(self, echoes);
        rewrite.out
    }

    /// A raw string, without our own credential in it.
    fn redacted(&self, raw: &str) -> Option<String> {
        let plain = string(raw)?;
        let redacted = (self.redact)(&plain);
        (redacted != plain).then(|| quote(&redacted))
    }

    /// The request an action made, as a string of JSON: it may hold the same variables.
    fn fit_inner(&self, raw: &str) -> Option<String> {
        let plain =
            string(raw).filter(|plain| plain.contains("container_envvars") || plain.contains("link_variables"))?;
        match select(&plain, |_| false, |_, _| ()) {
            Ok(()) => {
                let fitted = self.rewrite(plain.trim_ascii());
                (fitted != plain).then(|| quote(&fitted))
            }
            Err(_) => Some(MASKED.to_owned()),
        }
    }
}

/// What a value is, by where it stands. Documented: `container_envvars` is an array of `{"key":…,"value":…}`, `link_variables` an object of
/// strings. Any other shape is masked whole rather than let through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing special.
    Plain,
    /// The value of `container_envvars`.
    Variables,
    /// An element of it.
    Variable,
    /// The value of `link_variables`.
    Links,
    /// A value that may be a secret.
    Secret,
    /// The `body` of an action.
    Body,
}

/// An object or array that was begun and not ended.
struct Open {
    is_object: bool,
    /// What its values are, unless their key says more.
    values: Role,
    /// A key comes next.
    at_key: bool,
    /// What the next value is.
    next: Role,
}

/// One pass over a valid JSON text. It keeps a stack of its own, so that no depth of nesting can exhaust the thread's.
struct Rewrite<'t> {
    text: &'t str,
    at: usize,
    out: String,
    compact: bool,
    open: Vec<Open>,
}

impl Rewrite<'_> {
    fn run(&mut self, fitting: &Fitting<'_>, echoes: bool) {
        while let Some(byte) = self.text.as_bytes().get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {
                    if !self.compact {
                        self.out.push(char::from(*byte));
                    }
                    self.at += 1;
                }
                b'}' | b']' => {
                    self.open.pop();
                    self.copy_byte();
                }
                b',' => {
                    if let Some(open) = self.open.last_mut() {
                        open.at_key = open.is_object;
                        open.next = open.values;
                    }
                    self.copy_byte();
                }
                b':' => self.copy_byte(),
                b'"' if self.open.last().is_some_and(|open| open.at_key) => self.key(fitting, echoes),
                _ => self.value(fitting, echoes),
            }
        }
    }

    fn key(&mut self, fitting: &Fitting<'_>, echoes: bool) {
        let end = value_end(self.text.as_bytes(), self.at);
        let raw = &self.text[self.at..end];
        if let Some(open) = self.open.last_mut() {
            open.at_key = false;
            open.next = match (string(raw).as_deref(), open.values) {
                (_, Role::Secret) => Role::Secret,
                (Some("value"), Role::Variable) => Role::Secret,
                (Some("container_envvars"), _) => Role::Variables,
                (Some("link_variables"), _) => Role::Links,
                (Some("body"), _) => Role::Body,
                _ => Role::Plain,
            };
        }
        self.copy_string(end, fitting, echoes);
    }

    fn value(&mut self, fitting: &Fitting<'_>, echoes: bool) {
        let role = match self.open.last() {
            _ if fitting.with_secrets => Role::Plain,
            Some(open) => open.next,
            None => Role::Plain,
        };
        let first = self.text.as_bytes()[self.at];
        let values = match (role, first) {
            (Role::Plain | Role::Body, b'{' | b'[') => Role::Plain,
            (Role::Variables, b'[') | (Role::Variable, b'{') => Role::Variable,
            (Role::Variables, b'{') | (Role::Links, b'{' | b'[') => Role::Secret,
            _ => return self.scalar(role, fitting, echoes),
        };
        self.open.push(Open { is_object: first == b'{', values, at_key: first == b'{', next: values });
        self.copy_byte();
    }

    /// A value that is taken as a whole: a string, number or word, or whatever is masked.
    fn scalar(&mut self, role: Role, fitting: &Fitting<'_>, echoes: bool) {
        let end = value_end(self.text.as_bytes(), self.at);
        let raw = &self.text[self.at..end];
        match role {
            // Nothing is no secret.
            _ if raw == "null" => self.copy_to(end),
            Role::Plain => self.copy_string(end, fitting, echoes),
            Role::Body => match fitting.fit_inner(raw) {
                Some(inner) => self.replace(end, &inner),
                None => self.copy_string(end, fitting, echoes),
            },
            Role::Variables | Role::Variable | Role::Links | Role::Secret => self.replace(end, MASKED),
        }
    }

    fn copy_string(&mut self, end: usize, fitting: &Fitting<'_>, echoes: bool) {
        let raw = &self.text[self.at..end];
        let redacted = if echoes || raw.contains('\\') { fitting.redacted(raw) } else { None };
        match redacted {
            Some(redacted) => self.replace(end, &redacted),
            None => self.copy_to(end),
        }
    }

    fn copy_byte(&mut self) {
        self.copy_to(self.at + 1);
    }

    fn copy_to(&mut self, end: usize) {
        self.out.push_str(&self.text[self.at..end]);
        self.at = end;
    }

    fn replace(&mut self, end: usize, with: &str) {
        self.out.push_str(with);
        self.at = end;
    }
}

/// Where the JSON value that begins at `start` ends. The text must be valid.
fn value_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            _ => {
                let rest = &bytes[at..];
                let length = rest.iter().position(|byte| b",]} \t\r\n".contains(byte)).unwrap_or(rest.len());
                return at + length;
            }
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(text: &str) -> Result<String, &'static str> {
        Fitting { with_secrets: false, redact: &str::to_owned }.fit(text.as_bytes())
    }

    #[test]
    fn what_is_not_masked_is_byte_for_byte_what_came() {
        for text in [
            r#"{"n":1.10,"e":1E5,"big":18446744073709551616,"huge":1e400,"u":"\u00e9\/","lone":"\ud800","twice":1,"twice":2}"#,
            r#"{ "a" : [ 1 , {"b":"}]\"" } ] , "t":true,"x":null }"#,
            "{}",
            r#"{"value":"not a variable","key":"k","body":"plain text","inner":{"value":[1]}}"#,
        ] {
            assert_eq!(fit(text).as_deref(), Ok(text));
        }
        assert_eq!(fit(" \u{feff}").ok(), None);
        assert_eq!(fit("\u{feff} {\"a\":1}\n").as_deref(), Ok(r#"{"a":1}"#));
    }

    #[test]
    fn line_breaks_between_the_tokens_go_and_those_inside_strings_stay() {
        assert_eq!(
            fit("{\r\n  \"a b\": [1,\n 2],\n\t\"c\": \"x\\n y\"\n}\n").as_deref(),
            Ok(r#"{"a b":[1,2],"c":"x\n y"}"#)
        );
    }

    #[test]
    fn variables_are_masked_at_any_depth_and_in_any_shape() {
        for (text, expected) in [
            (
                r#"{"container_envvars":[{"key":"DB","value":"hunter22"},{"value" : "a\"b]","key":"B","order":1.0}],"z":1}"#,
                r#"{"container_envvars":[{"key":"DB","value":"<masked>"},{"value" : "<masked>","key":"B","order":1.0}],"z":1}"#,
            ),
            (
                r#"{"link_variables":{"A":"hunter22","B":["x",{"y":1}],"C":7,"D":null},"name":"web"}"#,
                r#"{"link_variables":{"A":"<masked>","B":"<masked>","C":"<masked>","D":null},"name":"web"}"#,
            ),
            (
                r#"{"deep":[{"container\u005fenvvars":[{"v\u0061lue":"hunter22"}]}]}"#,
                r#"{"deep":[{"container\u005fenvvars":[{"v\u0061lue":"<masked>"}]}]}"#,
            ),
            (
                r#"{"container_envvars":["DB=hunter22"],"a":{"container_envvars":{"key":"x"}},"b":{"container_envvars":"DB=x"}}"#,
                r#"{"container_envvars":["<masked>"],"a":{"container_envvars":{"key":"<masked>"}},"b":{"container_envvars":"<masked>"}}"#,
            ),
            (
                r#"{"link_variables":["hunter22"],"x":{"link_variables":true},"container_envvars":[],"y":[null]}"#,
                r#"{"link_variables":["<masked>"],"x":{"link_variables":"<masked>"},"container_envvars":[],"y":[null]}"#,
            ),
            (
                r#"{"body":"{\"name\":\"web\",\"container_envvars\":[{\"key\":\"A\",\"value\":\"hunter22\"}]}"}"#,
                r#"{"body":"{\"name\":\"web\",\"container_envvars\":[{\"key\":\"A\",\"value\":\"<masked>\"}]}"}"#,
            ),
            (r#"{"body":"container_envvars=hunter22"}"#, r#"{"body":"<masked>"}"#),
        ] {
            assert_eq!(fit(text).as_deref(), Ok(expected));
            let open = Fitting { with_secrets: true, redact: &str::to_owned }.fit(text.as_bytes());
            assert_eq!(open.as_deref(), Ok(text));
        }
    }

    #[test]
    fn our_own_credential_is_cut_out_even_with_secrets() {
        let redact = |text: &str| text.replace("key/22", "<redacted>");
        let fitting = Fitting { with_secrets: true, redact: &redact };
        let fitted = fitting.fit(br#"{"a":"is key/22","b":"key\/22","key/22":[1],"c":"\n"}"#);
        assert_eq!(fitted.as_deref(), Ok(r#"{"a":"is <redacted>","b":"<redacted>","<redacted>":[1],"c":"\n"}"#));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "\"x\"", "<html></html>", "{\"a\":1", "{} {}", "{\"a\":\"\n\"}", "null"] {
            assert_eq!(fit(text), Err("the answer is not a JSON object"), "{text}");
        }
        assert!(Fitting { with_secrets: true, redact: &str::to_owned }.fit(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn no_depth_of_nesting_is_too_deep() {
        let text = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(fit(&text).as_deref(), Ok(text.as_str()));
    }

    /// Damaged bodies are refused or come out as valid JSON on one line.
    #[test]
    fn every_changed_byte_of_a_body_is_refused_or_stays_an_object() {
        let body = "{\"container_envvars\":[{\"key\":\"A\",\"value\":\"s3\"}],\n\"body\":\"{}\",\"link_variables\":{\"x\":\"y\\\"\"}}";
        for at in 0..body.len() {
            for byte in *b"\"\\{}[],:x \n0" {
                let mut changed = body.as_bytes().to_vec();
                changed[at] = byte;
                if let Ok(fitted) = (Fitting { with_secrets: false, redact: &str::to_owned }).fit(&changed) {
                    assert!(select(&fitted, |_| false, |_, _| ()).is_ok() && !fitted.contains('\n'), "{fitted}");
                }
            }
        }
    }
}
