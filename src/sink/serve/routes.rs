//! What a request is answered: which path means what, and the REST API's own answers. No socket, no thread.

use std::time::Instant;

use super::gate::{Gate, parameter};
use super::list;
use super::store::{Store, resource_path};
use crate::cli::program::VERSION;
use crate::model::address::percent_decode;
use crate::model::event::Event;
use crate::model::json::quote;
use crate::world::websocket::server::Head;

/// How a client without the right credential is told on Tutum's stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthFailure {
    /// As Tutum did: the upgrade succeeds, then comes an `error` message and a close.
    #[default]
    Message,
    /// As Docker Cloud did: the upgrade is refused with 401.
    Status,
}

/// An answer with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// A header line of its own, or nothing.
    pub header: &'static str,
    /// JSON.
    pub body: String,
}

impl Reply {
    /// A success.
    pub fn json(body: String) -> Reply {
        Reply { status: 200, header: "", body }
    }

    /// An error in Tutum's shape.
    pub fn error(status: u16, reason: &str) -> Reply {
        let header = match status {
            401 => "WWW-Authenticate: Basic realm=\"tutum-serve\"\r\n",
            405 => "Allow: GET, HEAD\r\n",
            426 => "Upgrade: websocket\r\n",
            503 => "Retry-After: 5\r\n",
            _ => "",
        };
        Reply { status, header, body: format!("{{\"error\":{}}}", quote(reason)) }
    }

    /// The whole answer as it is sent. The connection ends with it.
    pub fn bytes(&self, with_body: bool) -> Vec<u8> {
        let phrase = match self.status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            426 => "Upgrade Required",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let connection = if self.status == 426 { "Upgrade, close" } else { "close" };
        let head = format!(
            "HTTP/1.1 {} {phrase}\r\nServer: tutum-serve/{VERSION}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {connection}\r\n{}\r\n",
            self.status,
            self.body.len(),
            self.header,
        );
        let body = if with_body { self.body.as_bytes() } else { b"" };
        [head.as_bytes(), body].concat()
    }
}

/// Which events a client of Docker Cloud's path asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    kinds: Vec<String>,
    objects: Vec<String>,
    parents: Vec<String>,
}

impl Wish {
    fn parse(query: &str) -> Wish {
        let words = |names: &[&str]| -> Vec<String> {
            let values = names.iter().filter_map(|name| parameter(query, name)).map(percent_decode);
            let values: Vec<String> = values.collect();
            let words = values.iter().flat_map(|value| value.split(','));
            words.map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        Wish { kinds: words(&["type"]), objects: words(&["object"]), parents: words(&["parent", "parents"]) }
    }

    /// Whether the event is one of those; an empty list asks for all.
    pub fn includes(&self, event: &Event<'_>) -> bool {
        let named =
            |path: &str, wanted: &String| path == wanted || path.trim_matches('/').ends_with(wanted.trim_matches('/'));
        let kind = event.kind.as_deref().unwrap_or_default();
        let uri = event.resource_uri.as_deref().unwrap_or_default();
        (self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted.eq_ignore_ascii_case(kind)))
            && (self.objects.is_empty() || self.objects.iter().any(|wanted| named(uri, wanted)))
            && (self.parents.is_empty()
                || event.parents().iter().any(|parent| self.parents.iter().any(|wanted| named(parent, wanted))))
    }
}

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is answered.
    Answer(Reply),
    /// It becomes a WebSocket with this answer, and gets the events it asked for.
    Stream(String, Wish),
    /// It becomes a WebSocket with this answer, only to be told that its credential is wrong.
    Refuse(String),
}

/// What a request asks for, and what it is told.
pub fn route(head: &Head, gate: &Gate, failure: AuthFailure, store: &Store, now: Instant) -> Route {
    let error = |status, reason: &str| Route::Answer(Reply::error(status, reason));
    if !gate.admits_origin(head) {
        return error(
            403,
            "the page's Origin is not this server; a server behind another name needs credentials or --open",
        );
    }
    let readable = matches!(head.method.as_str(), "GET" | "HEAD");
    let not_readable = || error(405, "this server is read-only: GET or HEAD");
    let unauthorized = || error(401, "Unauthorized");
    let path = head.path.as_str();
    let (prefix, words) = resource_path(path).unwrap_or_default();
    let is_tutum_stream = path.trim_end_matches('/') == "/v1/events";
    let is_cloud_stream = prefix.starts_with("/api/audit/v1/") && words == ["events"];
    if is_tutum_stream || is_cloud_stream {
        if !readable || (head.wants_upgrade() && head.method != "GET") {
            return not_readable();
        }
        if !head.wants_upgrade() {
            return error(426, "this is a WebSocket: connect with an upgrade");
        }
        let upgrade = match head.upgrade() {
            Ok(upgrade) => upgrade,
            Err(reason) => return error(400, reason),
        };
        let wish = if is_cloud_stream { Wish::parse(&head.query) } else { Wish::default() };
        return match failure {
            _ if gate.admits(head) => Route::Stream(upgrade, wish),
            AuthFailure::Message if is_tutum_stream => Route::Refuse(upgrade),
            AuthFailure::Message | AuthFailure::Status => unauthorized(),
        };
    }
    if path == "/" && readable {
        return Route::Answer(Reply::json(format!(
            r#"{{"program":"tutum-serve","version":"{VERSION}","events":"/v1/events","rest":"/api/v1/"}}"#
        )));
    }
    if prefix.is_empty() {
        return error(404, "no such path: events are at /v1/events, objects below /api/v1/");
    }
    if !gate.admits(head) {
        return unauthorized();
    }
    if !readable {
        return not_readable();
    }
    let answer = match words.as_slice() {
        [] => return error(404, "no such path: name a type, e.g. /api/v1/service/"),
        ["auth"] => {
            let name = gate.user().map(|name| format!(r#""username":{}"#, quote(name))).unwrap_or_default();
            Reply::json(format!("{{{name}}}"))
        }
        [kind] => match list::page(store, kind, &format!("{prefix}{kind}/"), &head.query, now) {
            Some(Ok(page)) => Reply::json(page),
            Some(Err(reason)) => Reply::error(400, &reason),
            None => Reply::error(404, "no such type"),
        },
        _ => match store.get(path) {
            Some(object) => Reply::json(object.json()),
            None => Reply::error(404, "no such object"),
        },
    };
    Route::Answer(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::stage::tests::start;
    use crate::model::secret::Secret;

    const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn ask(request: &str, headers: &str, gate: &Gate, failure: AuthFailure) -> Route {
        let (store, now) = (Store::default(), start());
        for uri in ["/api/v1/service/s1/", "/api/v1/service/s2/", "/api/v1/provider/aws/", "/api/v1/image/a/b/"] {
            store.put(&format!(r#"{{"resource_uri":"{uri}"}}"#), now).unwrap();
        }
        let head = Head::parse(format!("{request} HTTP/1.1\r\n{headers}\r\n").as_bytes()).unwrap().unwrap().0;
        route(&head, gate, failure, &store, now.at)
    }

    fn status(route: &Route) -> u16 {
        match route {
            Route::Answer(reply) => {
                assert!(reply.body.starts_with('{'), "{reply:?}");
                reply.status
            }
            Route::Stream(..) => 101,
            Route::Refuse(_) => 1008,
        }
    }

    fn guarded() -> Gate {
        Gate::Guarded { name: "jo".to_owned(), key: Secret::new("key1") }
    }

    #[test]
    fn what_each_path_is_answered() {
        for (request, expected) in [
            ("GET /", 200),
            ("GET /api/v1/auth/", 200),
            ("GET /api/v1/auth", 200),
            ("GET /api/v1/service/", 200),
            ("GET /api/v1/service", 200),
            ("HEAD /api/v1/service/", 200),
            ("GET /api/v1/service/s1/", 200),
            ("GET /api/v1/service/s1", 200),
            ("GET /api/app/v1/service/s1/", 200),
            ("GET /api/app/v1/acme/service/s1/", 200),
            ("GET /api/infra/v1/acme/node/", 200),
            ("GET /api/v1/volume/?limit=2", 200),
            ("GET /api/v1/provider/", 200),
            ("GET /api/v1/image/a/b/", 200),
            ("GET /api/v1/service/?limit=x", 400),
            ("GET /api/v1/service/s3/", 404),
            ("GET /api/v1/service/s1/logs/", 404),
            ("GET /api/v1/sausage/", 404),
            ("GET /api/v1/", 404),
            ("GET /api/", 404),
            ("GET /favicon.ico", 404),
            ("GET /v1/container/x/logs/", 404),
            ("POST /api/v1/service/", 405),
            ("DELETE /api/v1/service/s1/", 405),
            ("PATCH /api/v1/sausage/", 405),
            ("POST /v1/events", 405),
            ("GET /v1/events", 426),
            ("HEAD /v1/events", 426),
            ("GET /api/audit/v1/acme/events", 426),
        ] {
            let route = ask(request, "", &Gate::Loopback, AuthFailure::Message);
            assert_eq!(status(&route), expected, "{request}");
        }
    }

    #[test]
    fn a_list_of_docker_cloud_pages_on_its_own_paths() {
        let Route::Answer(reply) = ask("GET /api/app/v1/acme/service?limit=1", "", &Gate::Open, AuthFailure::Message)
        else {
            panic!("it is answered");
        };
        assert!(reply.body.contains(r#""next":"/api/app/v1/acme/service/?limit=1&offset=1""#), "{}", reply.body);
    }

    #[test]
    fn who_is_let_in_where() {
        let right = format!("{UPGRADE}Authorization: ApiKey jo:key1\r\n");
        let elsewhere = format!("{right}Origin: http://evil.example\r\nHost: h\r\n");
        for (path, headers, failure, expected) in [
            ("/v1/events", right.as_str(), AuthFailure::Message, 101),
            ("/v1/events/", &right, AuthFailure::Status, 101),
            ("/v1/events/?user=jo&token=key1", UPGRADE, AuthFailure::Message, 101),
            ("/v1/events", UPGRADE, AuthFailure::Message, 1008),
            ("/v1/events", UPGRADE, AuthFailure::Status, 401),
            ("/v1/events", &elsewhere, AuthFailure::Message, 403),
            ("/api/audit/v1/events", UPGRADE, AuthFailure::Message, 401),
            ("/api/audit/v1/acme/events/", &right, AuthFailure::Message, 101),
            ("/api/v1/auth/", "", AuthFailure::Message, 401),
            ("/api/v1/auth/", &right, AuthFailure::Message, 200),
            ("/api/v1/service/", "", AuthFailure::Message, 401),
            ("/api/v1/service/s1/", &right, AuthFailure::Message, 200),
            ("/", "", AuthFailure::Message, 200),
        ] {
            assert_eq!(status(&ask(&format!("GET {path}"), headers, &guarded(), failure)), expected, "{path}");
        }
        assert_eq!(status(&ask("GET /v1/events", &UPGRADE.replace("13", "12"), &guarded(), AuthFailure::Message)), 400);
    }

    #[test]
    fn docker_clouds_clients_choose_their_events() {
        let wish = Wish::parse("type=Service,container&parents=/api/v1/stack/t1/&auth=x");
        let includes = |text: &str| wish.includes(&Event::parse(text.as_bytes()).unwrap());
        assert!(includes(r#"{"type":"service","parents":["/api/v1/stack/t1/"]}"#));
        assert!(!includes(r#"{"type":"service","parents":["/api/v1/stack/t2/"]}"#));
        assert!(!includes(r#"{"type":"stack","parents":["/api/v1/stack/t1/"]}"#));
        let wish = Wish::parse("object=s1");
        assert!(wish.includes(&Event::parse(br#"{"resource_uri":"/api/v1/service/s1/"}"#).unwrap()));
        assert!(!wish.includes(&Event::parse(br#"{"resource_uri":"/api/v1/service/s2/"}"#).unwrap()));
        assert!(Wish::default().includes(&Event::default()));
    }

    #[test]
    fn an_answer_as_it_is_sent() {
        let reply = Reply::error(405, "a \"word\"");
        let text = String::from_utf8(reply.bytes(true)).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{text}");
        assert!(text.contains("\r\nAllow: GET, HEAD\r\n\r\n{\"error\":\"a \\\"word\\\"\"}"), "{text}");
        assert!(
            text.contains("Content-Length: 22\r\n") && text.contains("Content-Type: application/json\r\n"),
            "{text}"
        );
        assert!(String::from_utf8(reply.bytes(false)).unwrap().ends_with("\r\n\r\n"));
    }
}
