//! A URL, cut into its parts and printed without what may be a secret.

use std::fmt;

/// An absolute URL. It displays as scheme and host and `…`: a path (a webhook's) or a query (a token) may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// The scheme, in lower case.
    pub scheme: String,
    /// The host, without the brackets of an IPv6 address.
    pub host: String,
    /// The port, if it is given.
    pub explicit_port: Option<u16>,
    /// The path, `/` at least.
    pub path: String,
    /// The query, without `?`.
    pub query: Option<String>,
}

impl Address {
    /// Reads a URL whose scheme is one of `schemes`.
    ///
    /// # Errors
    /// Says what is wrong without quoting the URL.
    pub fn parse(url: &str, schemes: &[&str]) -> Result<Address, String> {
        let url = url.trim();
        let expected = || format!("expected a URL that begins with {}://", schemes.join(":// or "));
        let (scheme, rest) = url.split_once("://").ok_or_else(expected)?;
        let scheme = scheme.to_ascii_lowercase();
        if !schemes.contains(&scheme.as_str()) {
            return Err(expected());
        }
        if url.chars().any(|c| c.is_control() || c == ' ') {
            return Err("a URL holds no white space".to_owned());
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(
                "a URL with a user or password in it is refused: credentials come from a file or the environment"
                    .to_owned(),
            );
        }
        let (host, port) = split_port(authority)?;
        if host.is_empty() {
            return Err("the URL has no host".to_owned());
        }
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
        Ok(Address { scheme, host: host.to_owned(), explicit_port: port, path, query })
    }

    /// The port, given or the scheme's own.
    pub fn port(&self) -> u16 {
        self.explicit_port.unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// Whether it is spoken to over TLS.
    pub fn is_secure(&self) -> bool {
        matches!(self.scheme.as_str(), "https" | "wss")
    }

    /// Host and port as in a `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.explicit_port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority())
    }

    /// Origin and path: no query, so no token.
    pub fn without_query(&self) -> String {
        format!("{}{}", self.origin(), self.path)
    }

    /// The whole URL, for the one place that sends it.
    pub fn expose(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", self.without_query())
    }

    /// The same origin with another path and no query.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Address {
        Address { path: path.to_owned(), query: None, ..self.clone() }
    }

    /// Whether it names this very machine.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("the URL's IPv6 address has no closing bracket")?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    match port {
        None | Some("") => Ok((host, None)),
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => Ok((host, Some(port))),
            _ => Err("the URL's port is not a number from 1 to 65535".to_owned()),
        },
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = if self.path == "/" && self.query.is_none() { "" } else { "/…" };
        write!(f, "{}{rest}", self.origin())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `text` percent-encoded for a query value: only letters, digits and `-._~` stay.
pub fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |encoded, byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            encoded + char::from(byte).encode_utf8(&mut [0; 4])
        }
        _ => encoded + &format!("%{byte:02X}"),
    })
}

/// `text` with `%XX` and `+` decoded; what is not valid stays as it is, bytes that are not UTF-8 become `U+FFFD`.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(url, &["https", "http"])
    }

    #[test]
    fn parts_of_a_url() {
        let address = parse("HTTPS://Hooks.example:8443/services/T0/secret?token=x#f").unwrap();
        assert_eq!((address.scheme.as_str(), address.host.as_str(), address.port()), ("https", "Hooks.example", 8443));
        assert_eq!((address.path.as_str(), address.query.as_deref()), ("/services/T0/secret", Some("token=x")));
        assert_eq!(address.to_string(), "https://Hooks.example:8443/…");
        assert_eq!(format!("{address:?}"), "https://Hooks.example:8443/…");
        assert_eq!(address.expose(), "https://Hooks.example:8443/services/T0/secret?token=x");
        let v6 = parse("http://[::1]:80").unwrap();
        assert_eq!((v6.host.as_str(), v6.authority().as_str(), v6.path.as_str()), ("::1", "[::1]:80", "/"));
        assert!(v6.is_loopback() && !address.is_loopback());
        assert_eq!(parse("http://h").unwrap().to_string(), "http://h");
    }

    #[test]
    fn a_wrong_url_is_told_without_being_quoted() {
        for url in [
            "hooks.example/secret",
            "ftp://h/secret",
            "https:///secret",
            "https://h:0/secret",
            "https://u:secret@h/",
            "https://h/a secret",
        ] {
            let error = parse(url).unwrap_err();
            assert!(!error.contains("secret") && !error.is_empty(), "{error}");
        }
    }

    #[test]
    fn query_values_round_trip() {
        let value = "a b+c&d=ü/%";
        assert_eq!(percent_encode(value), "a%20b%2Bc%26d%3D%C3%BC%2F%25");
        assert_eq!(percent_decode(&percent_encode(value)), value);
        assert_eq!(percent_decode("ApiKey+user%3Akey%zz%"), "ApiKey user:key%zz%");
    }
}
