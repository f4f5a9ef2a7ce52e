//! Who may come in: the credential forms of Tutum's clients, and the web pages that may not.

use crate::model::address::percent_decode;
use crate::model::digest::sha256_hex;
use crate::model::secret::Secret;
use crate::world::credentials::Authorization;
use crate::world::websocket::server::Head;

/// Whom the server lets in.
#[derive(Clone, Debug)]
pub enum Gate {
    /// Anyone who reaches a loopback address.
    Loopback,
    /// Anyone at all (`--open`).
    Open,
    /// Whoever shows this user's key.
    Guarded {
        /// The user's name.
        name: String,
        /// The API key.
        key: Secret,
    },
}

impl Gate {
    /// Whether the request shows what is asked, in any of the four forms (as a header `Basic` or `ApiKey`; as a query `token` and `user`,
    /// or `auth`).
    pub fn admits(&self, head: &Head) -> bool {
        let Gate::Guarded { name, key } = self else { return true };
        let shown = head.header("authorization").is_some_and(|value| admits_header(name, key, value));
        shown || admits_query(name, key, &head.query)
    }

    /// The name of the only user, if there is one.
    pub fn user(&self) -> Option<&str> {
        match self {
            Gate::Guarded { name, .. } => Some(name),
            Gate::Loopback | Gate::Open => None,
        }
    }

    /// Whether the request comes from no web page, or from one that was loaded from this very server.
    ///
    /// A browser sends `Origin` with every WebSocket, so a stranger's page cannot read a server on its reader's machine. Programs send none, or
    /// (websocket-client for Python) the address they dial, or (go-tutum before 0.21) `http://localhost`, whatever they dial. While no credential
    /// is asked, the address must not be a name: a page can make its own name point at 127.0.0.1.
    pub fn admits_origin(&self, head: &Head) -> bool {
        let Some(origin) = head.header("origin").map(|origin| origin.trim_end_matches('/')) else { return true };
        if origin == "http://localhost" {
            return true;
        }
        let Some((_, authority)) = origin.split_once("://") else { return false };
        let same = head.header("host").is_some_and(|host| without_port_80(host) == without_port_80(authority));
        same && (!matches!(self, Gate::Loopback) || is_no_name(authority))
    }
}

/// Lower case, and without a port that a scheme implies.
fn without_port_80(authority: &str) -> String {
    let authority = authority.to_ascii_lowercase();
    let bare = authority.strip_suffix(":80").or_else(|| authority.strip_suffix(":443"));
    bare.map(str::to_owned).unwrap_or(authority)
}

/// Whether the host is an address or `localhost`, which nobody else can claim.
fn is_no_name(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok()
}

fn admits_header(name: &str, key: &Secret, value: &str) -> bool {
    let (scheme, credential) = value.trim().split_once(' ').unwrap_or((value, ""));
    let credential = credential.trim();
    if scheme.eq_ignore_ascii_case("basic") {
        let authorization = Authorization::User { name: name.to_owned(), key: key.clone() }.header();
        let expected = authorization.expose().split_once(' ').map(|(_, encoded)| encoded).unwrap_or_default();
        // The padding is left out by some encoders.
        same(credential.trim_end_matches('='), expected.trim_end_matches('='))
    } else {
        scheme.eq_ignore_ascii_case("apikey") && same(credential, &format!("{name}:{}", key.expose()))
    }
}

fn admits_query(name: &str, key: &Secret, query: &str) -> bool {
    if let Some(auth) = parameter(query, "auth") {
        let auth = percent_decode(auth);
        let (scheme, credential) = auth.trim_start().split_once(' ').unwrap_or((&auth, ""));
        // Form decoding turned a raw "+" of the base64 (or of the key) into a space, and it may have been the last character.
        let mended = format!("{scheme} {}", credential.trim_start().replace(' ', "+"));
        return admits_header(name, key, &auth) || admits_header(name, key, &mended);
    }
    let (Some(token), Some(user)) = (parameter(query, "token"), parameter(query, "user")) else { return false };
    // The tutorial's client escapes nothing, so a "+" may be meant.
    let either = |sent: &str, expected: &str| {
        let plain = percent_decode(&sent.replace('+', "%2B"));
        same(&percent_decode(sent), expected) | same(&plain, expected)
    };
    either(token, key.expose()) & either(user, name)
}

/// A parameter's value as it was sent, the last if it comes more than once.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next_back()
}

/// Whether two texts are equal, in a time that tells nothing about either.
fn same(a: &str, b: &str) -> bool {
    // Digests have one length, so that not even the secret's length shows.
    let (a, b) = (sha256_hex(a.as_bytes()), sha256_hex(b.as_bytes()));
    a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(query: &str, headers: &[(&str, &str)]) -> Head {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("GET /v1/events?{query} HTTP/1.1\r\n{headers}\r\n");
        Head::parse(text.as_bytes()).unwrap().unwrap().0
    }

    fn gate() -> Gate {
        // The base64 of "jo:k>>y?" has a "+" and a "/" in it.
        Gate::Guarded { name: "jo".to_owned(), key: Secret::new("k>>y?\u{fb}") }
    }

    #[test]
    fn all_forms_of_a_credential() {
        let key = "k>>y?\u{fb}";
        let basic = Authorization::User { name: "jo".to_owned(), key: Secret::new(key) }.header().expose().to_owned();
        assert!(basic.contains('+'), "{basic}");
        let lower = basic.replace("Basic", "basic");
        let unpadded = basic.trim_end_matches('=').to_owned();
        for value in [basic.as_str(), &lower, &unpadded, &format!("ApiKey jo:{key}"), &format!("APIKEY  jo:{key}")] {
            assert!(gate().admits(&head("", &[("Authorization", value)])), "{value}");
        }
        let raw = basic.replace(' ', "%20");
        let form = basic.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").replace(' ', "+");
        for query in [
            "token=k%3E%3Ey%3F%C3%BB&user=jo",
            "user=jo&token=k%3E%3Ey%3F%C3%BB&x=y",
            &format!("auth={raw}"),
            &format!("auth={form}"),
            "auth=ApiKey%20jo:k%3E%3Ey%3F%C3%BB",
            "auth=ApiKey+jo%3Ak%3E%3Ey%3F%C3%BB",
        ] {
            assert!(gate().admits(&head(query, &[])), "{query}");
        }
    }

    #[test]
    fn a_plus_in_a_key_survives_clients_that_escape_nothing() {
        let gate = Gate::Guarded { name: "jo".to_owned(), key: Secret::new("a+b") };
        for query in ["token=a+b&user=jo", "token=a%2Bb&user=jo", "auth=ApiKey%20jo:a+b", "auth=ApiKey+jo%3Aa%2Bb"] {
            assert!(gate.admits(&head(query, &[])), "{query}");
        }
    }

    #[test]
    fn a_plus_at_the_end_of_raw_base64_survives() {
        let gate = Gate::Guarded { name: "bob".to_owned(), key: Secret::new(">>>???~~") };
        // "bob:>>>???~~" in base64.
        for query in
            ["auth=Basic%20Ym9iOj4+Pj8/P35+", "auth=Basic+Ym9iOj4+Pj8/P35+", "auth=Basic+Ym9iOj4%2BPj8%2FP35%2B"]
        {
            assert!(gate.admits(&head(query, &[])), "{query}");
        }
    }

    #[test]
    fn what_is_not_a_credential() {
        for headers in [
            &[][..],
            &[("Authorization", "")],
            &[("Authorization", "Basic")],
            &[("Authorization", "Basic am86eA==")],
            &[("Authorization", "ApiKey jo:x")],
            &[("Authorization", "Bearer k>>y?")],
        ] {
            assert!(!gate().admits(&head("", headers)), "{headers:?}");
        }
        for query in ["token=x&user=jo", "token=k%3E%3Ey%3F%C3%BB", "user=jo", "auth=", "auth=Basic", "token=&user="] {
            assert!(!gate().admits(&head(query, &[])), "{query}");
        }
        assert!(Gate::Loopback.admits(&head("", &[])) && Gate::Open.admits(&head("auth=x", &[])));
    }

    #[test]
    fn a_strangers_page_is_not_let_in() {
        let ask = |gate: &Gate, origin: &str, host: &str| {
            gate.admits_origin(&head("", &[("Origin", origin), ("Host", host)]))
        };
        for (origin, host) in [
            ("http://127.0.0.1:8765", "127.0.0.1:8765"),
            ("http://LOCALHOST:8765", "localhost:8765"),
            ("http://[::1]:8765", "[::1]:8765"),
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("http://localhost", "127.0.0.1:8765"),
        ] {
            assert!(ask(&Gate::Loopback, origin, host), "{origin}");
        }
        for (origin, host) in [
            ("http://evil.example", "127.0.0.1:8765"),
            ("http://evil.example:8765", "evil.example:8765"),
            ("http://localhost:3000", "localhost:8765"),
            ("null", "127.0.0.1:8765"),
        ] {
            assert!(!ask(&Gate::Loopback, origin, host), "{origin}");
        }
        assert!(ask(&gate(), "http://events.example:8765", "events.example:8765"));
        assert!(ask(&Gate::Open, "http://events:8765", "events:8765"));
        assert!(!ask(&Gate::Open, "http://evil.example", "events:8765"));
        assert!(Gate::Loopback.admits_origin(&head("", &[])));
    }
}
