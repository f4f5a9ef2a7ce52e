//! Which proxy leads to an address: curl's rules for `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, for HTTP and WebSockets alike.
//!
//! The rules are those of curl 8 (`detect_proxy` and `parse_proxy` in lib/url.c, `Curl_check_noproxy` in lib/noproxy.c), loopback included: it is
//! reached through the proxy like any other address unless `NO_PROXY` names it. Where they differ, on purpose:
//!
//! - `HTTP_PROXY` is heeded in capitals too, but not in a CGI program (`REQUEST_METHOD` is set), where a client's `Proxy:` header would set it.
//! - `NO_PROXY` also takes what other programs take and curl never matches: `*` among others, `*.example.org`, `host:port`, `[::1]`.
//! - Every connection is a tunnel (CONNECT), to `http` and `ws` as well; curl asks the proxy itself for `http`. So what the proxy says is never taken
//!   for what the service says: its 403 must not end a program with "credentials refused". It must allow CONNECT to that port.

use std::fmt;
use std::net::IpAddr;

use super::credentials::{self, variable};
use super::diagnostics::Diagnostics;
use crate::model::address::{Address, percent_decode};
use crate::model::secret::Secret;

/// The port of a proxy that is named without one, as in curl (`CURL_DEFAULT_PROXY_PORT`).
const DEFAULT_PORT: u16 = 1080;

/// The environment of every program that uses the network, for its help.
pub const PROXY_ENVIRONMENT: [(&str, &str); 3] = [
    (
        "HTTPS_PROXY, HTTP_PROXY",
        "the proxy for https and wss, and for http and ws: http://[user:password@]host[:port], port 1080 if none is given, user and password percent-encoded. Names in lower case win. The proxy must allow CONNECT",
    ),
    ("ALL_PROXY", "the proxy for whatever has none of its own"),
    (
        "NO_PROXY",
        "hosts reached without a proxy, localhost only if it is named: a comma list of domains with all below them, IP addresses, networks such as 10.0.0.0/8, or * for all",
    ),
];

/// A proxy spoken to in HTTP. It displays without its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is.
    pub address: Address,
    /// `Proxy-Authorization`, if it needs one.
    pub authorization: Option<Secret>,
    /// The variable that names it.
    variable: &'static str,
}

impl Proxy {
    /// Reads curl's `[http://][user[:password]@]host[:port]`.
    ///
    /// # Errors
    /// Says what is wrong without quoting the value, which may hold a password.
    fn parse(variable: &'static str, text: &str) -> Result<Proxy, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err("a proxy spoken to over TLS (https://) is not supported: name one by http://".into()),
            scheme if scheme.starts_with("socks") => {
                return Err("a SOCKS proxy is not supported: name an HTTP proxy by http://".into());
            }
            _ => return Err("expected http://[user:password@]host[:port]".into()),
        }
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let mut address = Address::parse(&format!("http://{host}"), &["http"])?;
        address.explicit_port = Some(address.explicit_port.unwrap_or(DEFAULT_PORT));
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            Ok::<_, String>(credentials::basic(&decoded(name)?, &decoded(password)?))
        });
        Ok(Proxy { address, authorization: authorization.transpose()?, variable })
    }
}

impl Proxy {
    /// Tells which way an address is reached; loudly if "this machine" would be whatever the proxy takes for it.
    pub fn announce(&self, address: &Address, diagnostics: &Diagnostics) {
        if address.is_loopback() && !self.address.is_loopback() {
            let host = &address.host;
            diagnostics.warn(&format!("{address}: goes through the proxy {self}, unless NO_PROXY names {host}"));
        } else {
            diagnostics.detail(&format!("{address}: through the proxy {self}"));
        }
    }
}

/// A user's name or a password out of a URL, where `+` is itself.
fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode(&text.replace('+', "%2B"));
    if text.contains(char::REPLACEMENT_CHARACTER) { Err("user or password is not UTF-8".into()) } else { Ok(text) }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address.origin(), self.variable)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the environment says about proxies. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// For https and wss.
    secure: Option<(&'static str, Secret)>,
    /// For http and ws.
    plain: Option<(&'static str, Secret)>,
    /// The hosts reached without.
    exempt: String,
}

impl Proxies {
    /// What the variables say now.
    pub fn from_environment() -> Proxies {
        Proxies::read(variable)
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Proxies {
        // What is set and empty counts as not set, as in curl.
        let first = |names: &[&'static str]| {
            let mut found = names.iter().map(|name| (*name, variable(name)));
            found.find_map(|(name, text)| Some((name, Secret::new(&text?))))
        };
        let plain: &[&str] =
            if variable("REQUEST_METHOD").is_none() { &["http_proxy", "HTTP_PROXY"] } else { &["http_proxy"] };
        let any = first(&["all_proxy", "ALL_PROXY"]);
        Proxies {
            secure: first(&["https_proxy", "HTTPS_PROXY"]).or_else(|| any.clone()),
            plain: first(plain).or(any),
            exempt: variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default(),
        }
    }

    /// The proxy that leads to an address; `None` is the direct way.
    ///
    /// # Errors
    /// The variable's value is of no use. Names the variable, never the value.
    pub fn find(&self, address: &Address) -> Result<Option<Proxy>, String> {
        let chosen = if address.is_secure() { &self.secure } else { &self.plain };
        let Some((variable, text)) = chosen.as_ref().filter(|_| !is_exempt(&self.exempt, address)) else {
            return Ok(None);
        };
        Proxy::parse(variable, text.expose()).map(Some).map_err(|reason| format!("{variable}: {reason}"))
    }
}

/// Whether a list of hosts names the address.
fn is_exempt(list: &str, address: &Address) -> bool {
    let items = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    let host = without_last_dot(&address.host).to_ascii_lowercase();
    let number = host.parse::<IpAddr>().ok();
    items.into_iter().any(|item| {
        let (name, port) = split_port(item);
        if port.is_some_and(|port| port != address.port()) {
            return false;
        }
        match number {
            _ if name == "*" => true,
            Some(number) => holds(name, number),
            None => {
                let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
                let name = without_last_dot(name.strip_prefix('.').unwrap_or(name)).to_ascii_lowercase();
                let below = host.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                !name.is_empty() && below
            }
        }
    })
}

fn without_last_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Name and port of an item; of an IPv6 address only one in brackets can have a port.
fn split_port(item: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = item.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match item.split_once(':') {
        Some((host, port)) if !port.contains(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (item, None),
        },
        _ => (item, None),
    }
}

/// Whether an address is the one that is written, or in the network (`10.0.0.0/8`).
fn holds(network: &str, number: IpAddr) -> bool {
    let (base, length) = network.split_once('/').map_or((network, None), |(base, length)| (base, Some(length)));
    let Ok(base) = base.parse::<IpAddr>() else { return false };
    let width: u32 = if base.is_ipv4() { 32 } else { 128 };
    let length = match length.map(str::parse) {
        None => width,
        Some(Ok(length)) if length <= width => length,
        Some(_) => return false,
    };
    let left_aligned = |number: IpAddr| match number {
        IpAddr::V4(number) => u128::from(number.to_bits()) << 96,
        IpAddr::V6(number) => number.to_bits(),
    };
    base.is_ipv4() == number.is_ipv4() && (left_aligned(base) ^ left_aligned(number)).leading_zeros() >= length
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: [&str; 4] = ["https", "http", "wss", "ws"];

    fn found(environment: &[(&str, &str)], url: &str) -> Result<String, String> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned()).filter(|value| !value.is_empty())
        };
        let found = Proxies::read(variable).find(&Address::parse(url, &SCHEMES).unwrap());
        found.map(|proxy| proxy.map_or("direct".to_owned(), |proxy| proxy.address.host))
    }

    #[test]
    fn the_scheme_chooses_the_variable() {
        let all = [("HTTPS_PROXY", "s"), ("HTTP_PROXY", "p"), ("ALL_PROXY", "a")];
        let lower = [("https_proxy", "ls"), ("http_proxy", "lp"), ("all_proxy", "la")];
        for (environment, secure, plain) in [
            (&[][..], "direct", "direct"),
            (&all[..1], "s", "direct"),
            (&all[1..2], "direct", "p"),
            (&all[2..], "a", "a"),
            (&all[..], "s", "p"),
            (&[all[0], all[2]], "s", "a"),
            (&[&all[..], &lower[..]].concat(), "ls", "lp"),
            (&[all[2], lower[2]], "la", "la"),
            // The variable of the scheme wins over the one for all, whichever their letters.
            (&[all[0], all[1], lower[2]], "s", "p"),
            // Set and empty is not set.
            (&[("https_proxy", ""), all[0], ("HTTP_PROXY", ""), lower[2]], "s", "la"),
            // A CGI program's HTTP_PROXY may be a client's header.
            (&[("REQUEST_METHOD", "GET"), all[1]], "direct", "direct"),
            (&[("REQUEST_METHOD", "GET"), all[1], all[2]], "a", "a"),
            (&[("REQUEST_METHOD", "GET"), all[0], lower[1]], "s", "lp"),
        ] {
            for scheme in SCHEMES {
                let expected = if matches!(scheme, "https" | "wss") { secure } else { plain };
                let url = format!("{scheme}://example.org/");
                assert_eq!(found(environment, &url).as_deref(), Ok(expected), "{scheme} {environment:?}");
            }
        }
    }

    #[test]
    fn hosts_without_a_proxy() {
        let exempt = |list: &str, url: &str| {
            let direct = found(&[("ALL_PROXY", "p"), ("NO_PROXY", list)], url).unwrap() == "direct";
            assert_eq!(
                direct,
                found(&[("ALL_PROXY", "p"), ("NO_PROXY", "other"), ("no_proxy", list)], url).unwrap() == "direct"
            );
            direct
        };
        for (list, url) in [
            ("*", "http://example.org"),
            (" * ", "http://10.1.2.3"),
            ("other, *", "http://example.org"),
            ("example.org", "http://example.org"),
            ("example.org", "http://example.org:8080"),
            ("example.org", "wss://EXAMPLE.org."),
            ("Example.ORG.", "http://example.org"),
            ("example.org", "http://www.example.org"),
            (".example.org", "http://www.example.org"),
            (".example.org", "http://example.org"),
            ("*.example.org", "http://www.example.org"),
            ("org", "http://example.org"),
            ("a,b , example.org", "http://example.org"),
            ("a b\texample.org", "http://example.org"),
            (",,a,,example.org,,", "http://example.org"),
            ("localhost", "ws://localhost:1"),
            ("example.org:8080", "http://example.org:8080"),
            ("example.org:443", "https://example.org"),
            ("127.0.0.1", "http://127.0.0.1:9"),
            ("127.0.0.1:9", "http://127.0.0.1:9"),
            ("10.0.0.0/8", "http://10.255.0.1"),
            ("192.168.2.0/23", "http://192.168.3.9"),
            ("192.168.3.9/32", "http://192.168.3.9"),
            ("0.0.0.0/0", "http://192.168.3.9"),
            ("::1", "http://[::1]:80"),
            ("[::1]", "http://[::1]:80"),
            ("[::1]:80", "http://[::1]"),
            ("0:0::1", "http://[::1]"),
            ("fd00::/8", "wss://[fdff::1]"),
        ] {
            assert!(exempt(list, url), "{list:?} names {url}");
        }
        for (list, url) in [
            ("", "http://example.org"),
            (", ,", "http://example.org"),
            (".", "http://example.org"),
            ("example.org", "http://nonexample.org"),
            ("*.example.org", "http://nonexample.org"),
            ("www.example.org", "http://example.org"),
            ("example.org", "http://example.org.evil.test"),
            ("example", "http://example.org"),
            ("example.org:8080", "http://example.org"),
            ("localhost", "http://127.0.0.1"),
            ("127.0.0.1", "http://localhost"),
            ("0.0.1", "http://127.0.0.1"),
            (".0.0.1", "http://127.0.0.1"),
            ("10.0.0.0/8", "http://11.0.0.1"),
            ("10.0.0.0/8", "http://10.example.org"),
            ("10.0.0.0", "http://10.0.0.1"),
            ("10.0.0.0/33", "http://10.0.0.0"),
            ("10.0.0.0/x", "http://10.0.0.0"),
            ("10.0.0.0/", "http://10.0.0.0"),
            ("192.168.2.0/23", "http://192.168.4.0"),
            ("::/0", "http://10.0.0.1"),
            ("0.0.0.0/0", "http://[::1]"),
            ("::1", "http://[::2]"),
            ("fd00::/8", "http://[fe00::1]"),
        ] {
            assert!(!exempt(list, url), "{list:?} does not name {url}");
        }
    }

    #[test]
    fn a_proxys_url() {
        for (text, origin, authorization) in [
            ("proxy", "http://proxy:1080", None),
            ("proxy:3128", "http://proxy:3128", None),
            ("http://proxy", "http://proxy:1080", None),
            ("HTTP://proxy:80/", "http://proxy:80", None),
            ("http://proxy:3128/path?x#y", "http://proxy:3128", None),
            ("http://10.0.0.1:8", "http://10.0.0.1:8", None),
            ("http://[::1]:8", "http://[::1]:8", None),
            ("[::1]", "http://[::1]:1080", None),
            // jo:hunter22
            ("http://jo:hunter22@proxy:3128", "http://proxy:3128", Some("Basic am86aHVudGVyMjI=")),
            ("jo:hunter22@proxy:3128", "http://proxy:3128", Some("Basic am86aHVudGVyMjI=")),
            ("http://jo@proxy", "http://proxy:1080", Some("Basic am86")),
            // jo:p@:+ ü
            ("http://jo:p@:+%20%C3%BC@proxy", "http://proxy:1080", Some("Basic am86cEA6KyDDvA==")),
        ] {
            let proxy = Proxy::parse("HTTP_PROXY", text).unwrap();
            assert_eq!(
                (proxy.address.origin().as_str(), proxy.authorization.as_ref().map(Secret::expose)),
                (origin, authorization)
            );
            assert_eq!(format!("{proxy} {proxy:?}"), format!("{origin} (HTTP_PROXY) {origin} (HTTP_PROXY)"));
        }
    }

    #[test]
    fn a_wrong_value_is_told_by_its_variable_and_not_quoted() {
        for (text, reason) in [
            (
                "https://jo:hunter22@proxy",
                "a proxy spoken to over TLS (https://) is not supported: name one by http://",
            ),
            ("SOCKS5h://jo:hunter22@proxy", "a SOCKS proxy is not supported: name an HTTP proxy by http://"),
            ("socks://proxy", "a SOCKS proxy is not supported: name an HTTP proxy by http://"),
            ("ftp://jo:hunter22@proxy", "expected http://[user:password@]host[:port]"),
            ("http://jo:hunter22@", "the URL has no host"),
            ("http://jo:hunter/22@proxy", "the URL's port is not a number from 1 to 65535"),
            ("http://jo:hunter22@proxy:http", "the URL's port is not a number from 1 to 65535"),
            ("http://jo:hunter22@[::1", "the URL's IPv6 address has no closing bracket"),
            ("http://jo:hunter22@a proxy", "a URL holds no white space"),
            ("http://jo:%ff@proxy", "user or password is not UTF-8"),
        ] {
            let error = found(&[("https_proxy", text)], "https://example.org").unwrap_err();
            assert_eq!(error, format!("https_proxy: {reason}"));
        }
        // What is not used does no harm.
        let socks = ("ALL_PROXY", "socks5://proxy");
        assert_eq!(found(&[socks, ("NO_PROXY", "example.org")], "https://example.org").as_deref(), Ok("direct"));
        assert_eq!(found(&[socks, ("HTTPS_PROXY", "p")], "https://example.org").as_deref(), Ok("p"));
        let shown = format!("{:?}", Proxies::read(|_| Some("http://jo:hunter22@proxy".to_owned())).secure);
        assert!(!shown.contains("hunter22"), "{shown}");
    }
}
