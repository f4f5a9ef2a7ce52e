//! Asks the API for all its objects, page by page, and confirms one by one what is missing. Blocks; it runs in a thread of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::difference::Listing;
use super::known::{ACTION, KINDS, Seen, is_under_way, key};
use crate::model::address::{Address, percent_encode};
use crate::model::backoff;
use crate::model::event::path_kind;
use crate::model::json;
use crate::model::time::{Timestamp, parse_retry_after};
use crate::world::credentials::Authorization;
use crate::world::http::{Request, Response, Transport, TransportError};

/// For one request with its answer: what the vendor's own HAProxy allowed (protocol page of the API, section 9).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest page that is read, in bytes.
pub const LONGEST_PAGE: u64 = 64 << 20;

/// So many objects are asked for at once; a server may give fewer.
const PAGE: usize = 100;

/// So many objects of one type are read.
const MOST_LISTED: usize = 100_000;

/// So often a request is made before it is given up.
const ATTEMPTS: u32 = 5;

/// So long a listing waits in all for an API in trouble.
const LONGEST_WAIT: Duration = Duration::from_secs(180);

/// So often a list is read that changes under our eyes.
const PASSES: usize = 3;

/// So many redirects are followed (protocol page of the API, section 7).
const MOST_REDIRECTS: usize = 5;

/// A server's clock may be behind ours by so much: actions are asked for from so long before.
const SKEW_MILLIS: i64 = 60_000;

/// Where to ask, and who we are.
#[derive(Clone)]
pub struct Api {
    /// What carries requests.
    pub transport: Arc<dyn Transport>,
    /// Scheme, host, port, and the path that ends in `/api/v1/`.
    pub base: Address,
    /// The credential, for this origin and no other.
    pub authorization: Option<Authorization>,
}

/// What to find out.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// What is known to be there; what of it a list does not show is asked for by itself.
    pub known: Vec<String>,
    /// Actions begun since then are listed too.
    pub since: Option<Timestamp>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What the API told.
    pub listing: Listing,
    /// What could not be found out, and why: never a secret.
    pub failures: Vec<String>,
    /// The credential was refused, so nothing more was asked.
    pub refused: bool,
}

/// Time and chance, which a test plays.
pub trait Patience {
    /// Waits; says false if nobody is interested any longer.
    fn wait(&mut self, duration: Duration) -> bool;

    /// A number in 0..1.
    fn random(&mut self) -> f64;

    /// Now.
    fn now(&mut self) -> Timestamp;
}

/// Why there is no answer.
enum Trouble {
    /// What went wrong.
    Failed(String),
    /// No credential, no use in asking on.
    Refused(String),
    /// Nobody is interested any longer.
    Abandoned,
}

/// Finds out; `None` if nobody is interested any longer.
pub fn list(api: &Api, order: &Order, patience: &mut dyn Patience) -> Option<Found> {
    let redact = |reason: String| match &api.authorization {
        Some(authorization) => authorization.redact(&reason),
        None => reason,
    };
    let mut asking = Asking { api, patience, waited: Duration::ZERO, attempts: ATTEMPTS };
    let mut found = Found::default();
    let mut missing: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for uri in &order.known {
        missing.entry(path_kind(uri).unwrap_or_default()).or_default().push(uri);
    }
    let lists = KINDS.into_iter().map(|kind| (kind, format!("limit={PAGE}")));
    let since = order.since.and_then(|since| Timestamp::from_millis(since.millis() - SKEW_MILLIS));
    let actions =
        since.map(|since| (ACTION, format!("limit={PAGE}&start_date__gte={}", percent_encode(&since.rfc3339()))));
    for (kind, query) in lists.chain(actions) {
        let mut objects = HashMap::new();
        let mut outcome = asking.objects(kind, &query, &mut objects);
        if outcome.is_ok() {
            let absent: Vec<&String> = missing.remove(kind).into_iter().flatten().collect();
            let absent = absent.into_iter().filter(|uri| !objects.contains_key(*uri)).collect::<Vec<_>>();
            outcome = asking.confirm(&absent, &mut objects, &mut found.listing.gone);
        }
        let mut objects: Vec<(String, Seen)> = objects.into_iter().collect();
        objects.sort_by(|one, other| one.0.cmp(&other.0));
        found.listing.objects.append(&mut objects);
        match outcome {
            Ok(()) => {
                found.listing.complete.insert(kind);
            }
            Err(Trouble::Abandoned) => return None,
            Err(Trouble::Failed(reason)) => {
                found.failures.push(redact(format!("{kind}: {reason}")));
                // The others are tried once each: what one list waited for in vain, the next need not wait for again.
                asking.attempts = 1;
            }
            Err(Trouble::Refused(reason)) => {
                found.failures.push(redact(format!("{kind}: {reason}")));
                found.refused = true;
                return Some(found);
            }
        }
    }
    Some(found)
}

struct Asking<'a> {
    api: &'a Api,
    patience: &'a mut dyn Patience,
    /// How long it has waited in all.
    waited: Duration,
    attempts: u32,
}

impl Asking<'_> {
    /// All objects of a type. What was read before a failure is kept: it is true.
    fn objects(&mut self, kind: &'static str, query: &str, objects: &mut HashMap<String, Seen>) -> Result<(), Trouble> {
        for _ in 0..PASSES {
            if self.pass(kind, query, objects)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads the list once. Says whether it held still meanwhile: one that shrinks moves an object over the page's edge, unseen.
    fn pass(&mut self, kind: &'static str, query: &str, objects: &mut HashMap<String, Seen>) -> Result<bool, Trouble> {
        let mut address = self.api.base.with_path(&format!("{}{kind}/", self.api.base.path));
        address.query = Some(query.to_owned());
        let (mut asked, mut totals, mut seen) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut nameless = 0;
        loop {
            if !asked.insert(address.expose()) {
                return Err(failed("the list's pages lead in a circle"));
            }
            let response = self.get(&address)?.ok_or_else(|| failed("HTTP 404"))?;
            let page = Page::read(&response)?;
            totals.extend(page.total);
            for raw in &page.objects {
                match object(raw).filter(|(uri, _)| path_kind(uri) == Some(kind)) {
                    Some((uri, state)) => {
                        seen.insert(uri.clone());
                        objects.insert(uri, state);
                    }
                    None => nameless += 1,
                }
            }
            if objects.len() > MOST_LISTED {
                return Err(failed(&format!("more than {MOST_LISTED} objects")));
            }
            match page.next {
                Some(next) => address = within(&address, &next).map_err(|reason| failed(&reason))?,
                None => break,
            }
        }
        let still = totals.len() <= 1 && totals.iter().all(|total| *total <= seen.len() as u64 + nameless);
        Ok(still)
    }

    /// Asks for each object that no list showed: it may be gone, or have slipped through between two pages.
    fn confirm(
        &mut self,
        absent: &[&String],
        objects: &mut HashMap<String, Seen>,
        gone: &mut Vec<String>,
    ) -> Result<(), Trouble> {
        for uri in absent {
            match self.get(&self.api.base.with_path(uri))? {
                None => gone.push((*uri).clone()),
                Some(response) => {
                    let (_, seen) = std::str::from_utf8(&response.body)
                        .ok()
                        .and_then(object)
                        .filter(|(found, _)| found == *uri)
                        .ok_or_else(|| failed("the answer about an object is not that object"))?;
                    objects.insert((*uri).clone(), seen);
                }
            }
        }
        Ok(())
    }

    /// Asks until there is an answer; `None` if there is no such object.
    fn get(&mut self, address: &Address) -> Result<Option<Response>, Trouble> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (reason, asked) = match self.ask(address)? {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            let now = self.patience.now();
            let asked = asked.and_then(|value| parse_retry_after(&value, now));
            let backoff = backoff::delay(attempt, self.patience.random());
            let wait = asked.map_or(backoff, |asked| asked.max(backoff::FLOOR));
            self.waited += wait;
            if attempt >= self.attempts || self.waited > LONGEST_WAIT {
                return Err(Trouble::Failed(reason));
            }
            if !self.patience.wait(wait) {
                return Err(Trouble::Abandoned);
            }
        }
    }

    /// Asks once, redirects followed: an answer, or what may pass and the wait that was asked for.
    #[allow(clippy::type_complexity, reason = "two kinds of failure: one ends the list, the other is tried again")]
    fn ask(&mut self, address: &Address) -> Result<Result<Option<Response>, (String, Option<String>)>, Trouble> {
        // Notices that nobody is interested any longer, between any two requests.
        if !self.patience.wait(Duration::ZERO) {
            return Err(Trouble::Abandoned);
        }
        let mut address = address.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::get(address.clone());
            request.headers.push(("accept", "application/json".to_owned()));
            request.authorization = self.api.authorization.as_ref().map(Authorization::header);
            let response = match self.api.transport.send(&request) {
                Ok(response) => response,
                Err(TransportError::Certificate(reason)) => return Err(Trouble::Failed(reason)),
                Err(TransportError::Unreachable(reason)) => return Ok(Err((reason, None))),
            };
            let status = response.status;
            match status {
                200..=299 if response.truncated => {
                    return Err(failed(&format!("an answer is longer than {} MiB", LONGEST_PAGE >> 20)));
                }
                200..=299 => return Ok(Ok(Some(response))),
                301 | 302 | 303 | 307 | 308 => {
                    let location = response.location.as_deref().unwrap_or_default();
                    let to = within(&address, location);
                    address = to.map_err(|reason| failed(&format!("HTTP {status}: {reason}")))?;
                }
                401 | 403 => return Err(Trouble::Refused(format!("HTTP {status}: the credentials are refused"))),
                404 | 410 => return Ok(Ok(None)),
                408 | 425 | 429 | 500..=599 => return Ok(Err((format!("HTTP {status}"), response.retry_after))),
                _ => return Err(failed(&format!("HTTP {status}"))),
            }
        }
        Err(failed(&format!("redirected more than {MOST_REDIRECTS} times")))
    }
}

fn failed(reason: &str) -> Trouble {
    Trouble::Failed(reason.to_owned())
}

/// A page of a list.
struct Page<'r> {
    next: Option<String>,
    total: Option<u64>,
    objects: Vec<&'r str>,
}

impl<'r> Page<'r> {
    fn read(response: &'r Response) -> Result<Page<'r>, Trouble> {
        let text = std::str::from_utf8(&response.body).map_err(|_| failed("the answer is not UTF-8"))?;
        let (mut meta, mut objects) = (None, None);
        let looked = json::object(text, |key, raw| match key {
            "meta" => meta = Some(raw),
            "objects" => objects = Some(raw),
            _ => {}
        });
        looked.map_err(|fault| failed(&format!("the answer is {fault}")))?;
        let objects = objects.filter(|raw| raw.starts_with('[')).ok_or_else(|| failed("the answer is not a list"))?;
        let (mut next, mut total) = (None, None);
        // A list without pages is a list.
        let _ = json::object(meta.unwrap_or("{}"), |key, raw| match key {
            "next" => next = json::string(raw).filter(|next| !next.is_empty()).map(|next| next.into_owned()),
            "total_count" => total = raw.parse().ok(),
            _ => {}
        });
        Ok(Page { next, total, objects: json::elements(objects) })
    }
}

/// Path, state and direct parents of a listed object.
fn object(raw: &str) -> Option<(String, Seen)> {
    let (mut uri, mut state, mut above, mut object) = (None, None, Vec::new(), None);
    json::object(raw, |key, raw| match key {
        "resource_uri" => uri = json::string(raw),
        "state" => state = json::string(raw).map(|state| state.into_owned()),
        "service" | "stack" | "node" | "node_cluster" | "nodecluster" => above.extend(json::string(raw)),
        "object" => object = json::string(raw),
        _ => {}
    })
    .ok()?;
    let uri = key(&uri?)?;
    // Of an action only the object it applies to is above it.
    if path_kind(&uri) == Some(ACTION) {
        above = object.into_iter().collect();
    }
    let parents = above.iter().filter_map(|path| key(path)).collect();
    Some((uri, Seen { state, parents }))
}

/// Where a server's `next` or `Location` leads, if it stays with the origin: the credential is for nobody else.
fn within(from: &Address, to: &str) -> Result<Address, String> {
    let to = to.trim();
    let absolute = match to {
        "" => return Err("it leads nowhere".to_owned()),
        _ if to.starts_with("//") => format!("{}:{to}", from.scheme),
        _ if to.starts_with('/') => format!("{}{to}", from.origin()),
        // Some servers give the query alone.
        _ if to.starts_with('?') => format!("{}{to}", from.without_query()),
        _ => to.to_owned(),
    };
    let to =
        Address::parse(&absolute, &["https", "http"]).map_err(|_| "it leads to something that is not understood")?;
    let origin = |address: &Address| (address.scheme.clone(), address.host.to_ascii_lowercase(), address.port());
    if origin(&to) != origin(from) {
        return Err(format!("it leads to another origin, {}", to.origin()));
    }
    // Written as we write it, so that nothing but path and query comes from the server.
    Ok(Address { query: to.query, ..from.with_path(&to.path) })
}

/// Which of what is known must be asked for if no list shows it: every object, and actions that had not ended.
pub fn to_confirm(uri: &str, seen: &Seen) -> bool {
    path_kind(uri) != Some(ACTION) || is_under_way(seen.state.as_deref())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::flow::stage::tests::start;
    use crate::model::secret::Secret;

    type Script = Box<dyn Fn(&str, usize) -> Result<Response, TransportError> + Send + Sync>;

    /// Answers by path and query, and by how often these were asked for before.
    struct Scripted {
        script: Script,
        asked: Mutex<Vec<String>>,
    }

    impl Transport for Scripted {
        fn send(&self, request: &Request) -> Result<Response, TransportError> {
            assert_eq!(request.address.origin(), "https://api.example");
            assert!(request.authorization.is_some());
            let mut asked = self.asked.lock().unwrap();
            let url = request.address.expose().replace("https://api.example", "");
            let before = asked.iter().filter(|known| **known == url).count();
            asked.push(url.clone());
            drop(asked);
            (self.script)(&url, before)
        }
    }

    #[derive(Default)]
    struct Patient {
        waits: Vec<Duration>,
        enough: usize,
    }

    impl Patience for Patient {
        fn wait(&mut self, duration: Duration) -> bool {
            if !duration.is_zero() {
                self.waits.push(duration);
            }
            self.enough == 0 || self.waits.len() < self.enough
        }

        fn random(&mut self) -> f64 {
            0.0
        }

        fn now(&mut self) -> Timestamp {
            start().utc
        }
    }

    fn answer(status: u16, body: &str) -> Result<Response, TransportError> {
        Ok(Response { status, body: body.as_bytes().to_vec(), ..Response::default() })
    }

    fn page(uris: &[&str], total: usize, next: &str) -> Result<Response, TransportError> {
        let objects: Vec<String> =
            uris.iter().map(|uri| format!(r#"{{"resource_uri":"/api/v1/{uri}/","state":"Running"}}"#)).collect();
        let next = if next.is_empty() { "null".to_owned() } else { json::quote(next) };
        answer(200, &format!(r#"{{"meta":{{"next":{next},"total_count":{total}}},"objects":[{}]}}"#, objects.join(",")))
    }

    fn empty() -> Result<Response, TransportError> {
        page(&[], 0, "")
    }

    struct Run {
        found: Option<Found>,
        asked: Vec<String>,
        waits: Vec<Duration>,
    }

    fn run_with(
        known: &[&str],
        since: Option<Timestamp>,
        enough: usize,
        script: impl Fn(&str, usize) -> Result<Response, TransportError> + Send + Sync + 'static,
    ) -> Run {
        let transport = Arc::new(Scripted { script: Box::new(script), asked: Mutex::default() });
        let api = Api {
            transport: Arc::clone(&transport) as Arc<dyn Transport>,
            base: Address::parse("https://api.example/api/v1/", &["https"]).unwrap(),
            authorization: Some(Authorization::Header(Secret::new("ApiKey jo:hunter22"))),
        };
        let mut patient = Patient { enough, ..Patient::default() };
        let known = known.iter().map(|uri| format!("/api/v1/{uri}/")).collect();
        let found = list(&api, &Order { known, since }, &mut patient);
        let asked = transport.asked.lock().unwrap().clone();
        Run { found, asked, waits: patient.waits }
    }

    fn run(
        known: &[&str],
        script: impl Fn(&str, usize) -> Result<Response, TransportError> + Send + Sync + 'static,
    ) -> Run {
        run_with(known, None, 0, script)
    }

    fn uris(found: &Found) -> Vec<&str> {
        found.listing.objects.iter().map(|(uri, _)| uri.trim_start_matches("/api/v1/").trim_end_matches('/')).collect()
    }

    #[test]
    fn every_page_of_every_list_is_read() {
        let run = run(&[], |url, _| match url {
            "/api/v1/stack/?limit=100" => page(&["stack/1"], 2, "/api/v1/stack/?limit=1&offset=1"),
            "/api/v1/stack/?limit=1&offset=1" => page(&["stack/2"], 2, ""),
            _ => empty(),
        });
        let found = run.found.unwrap();
        assert_eq!((uris(&found), found.listing.complete.len()), (vec!["stack/1", "stack/2"], 5));
        assert_eq!((run.asked.len(), found.failures.len(), run.waits.len()), (6, 0, 0));
    }

    #[test]
    fn a_failing_page_is_tried_again_then_told_and_takes_only_its_own_type_along() {
        let run = run(&["stack/1", "stack/9", "service/9"], |url, _| match url {
            "/api/v1/stack/?limit=100" => page(&["stack/1"], 2, "/api/v1/stack/?offset=1"),
            "/api/v1/stack/?offset=1" => answer(500, "hunter22"),
            "/api/v1/service/9/" => answer(404, ""),
            _ => empty(),
        });
        let found = run.found.unwrap();
        assert_eq!(found.failures, ["stack: HTTP 500"]);
        assert_eq!(run.asked.iter().filter(|url| url.ends_with("offset=1")).count(), 5);
        assert_eq!(run.waits.len(), 4);
        assert!(run.waits.iter().all(|wait| *wait >= backoff::FLOOR));
        assert!(!found.listing.complete.contains("stack") && found.listing.complete.contains("service"));
        // What was read is true; what was not cannot be gone.
        assert_eq!((uris(&found), &found.listing.gone), (vec!["stack/1"], &vec!["/api/v1/service/9/".to_owned()]));
    }

    #[test]
    fn the_next_attempt_can_be_the_good_one_and_retry_after_is_obeyed() {
        let run = run(&[], |url, before| match (url, before) {
            ("/api/v1/node/?limit=100", 0) => {
                let retry_after = Some("7".to_owned());
                Ok(Response { status: 429, retry_after, ..Response::default() })
            }
            ("/api/v1/node/?limit=100", 1) => Err(TransportError::Unreachable("reset".to_owned())),
            ("/api/v1/node/?limit=100", _) => page(&["node/1"], 1, ""),
            _ => empty(),
        });
        assert_eq!(run.waits, [Duration::from_secs(7), backoff::FLOOR]);
        assert_eq!(uris(&run.found.unwrap()), ["node/1"]);
    }

    #[test]
    fn a_wait_beyond_all_patience_is_a_failure_and_so_is_an_api_that_is_down_for_all() {
        let run_long =
            run(&[], |_, _| Ok(Response { status: 429, retry_after: Some("3600".to_owned()), ..Response::default() }));
        assert_eq!((run_long.found.unwrap().failures.len(), run_long.waits.len()), (5, 0));
        let run = run(&[], |_, _| Err(TransportError::Unreachable("refused".to_owned())));
        assert_eq!(run.found.unwrap().failures[4], "container: refused");
        assert_eq!(run.asked.len(), 5 + 4, "the first list is tried five times, the others once");
    }

    #[test]
    fn refused_credentials_are_shown_once() {
        for status in [401, 403] {
            let run = run(&["node/1"], move |_, _| answer(status, ""));
            let found = run.found.unwrap();
            assert!(found.refused && found.listing.gone.is_empty() && found.listing.complete.is_empty());
            assert_eq!((run.asked.len(), found.failures.len()), (1, 1));
        }
    }

    #[test]
    fn what_is_missing_is_asked_for_by_itself() {
        let run = run(&["node/1", "node/2", "node/3"], |url, _| match url {
            "/api/v1/node/?limit=100" => page(&["node/1"], 1, ""),
            "/api/v1/node/2/" => answer(404, ""),
            "/api/v1/node/3/" => answer(200, r#"{"resource_uri":"/api/v1/node/3/","state":"Terminated"}"#),
            _ => empty(),
        });
        let found = run.found.unwrap();
        assert_eq!(
            (uris(&found), &found.listing.gone),
            (vec!["node/1", "node/3"], &vec!["/api/v1/node/2/".to_owned()])
        );
        assert_eq!(found.listing.objects[1].1.state.as_deref(), Some("Terminated"));
    }

    #[test]
    fn a_confirmation_that_fails_deletes_nothing() {
        for body in [answer(500, ""), answer(200, "<html>"), answer(200, r#"{"resource_uri":"/api/v1/node/1/"}"#)] {
            let run = run(&["node/2"], move |url, _| match url {
                "/api/v1/node/2/" => body.clone(),
                _ => empty(),
            });
            let found = run.found.unwrap();
            assert!(found.listing.gone.is_empty() && !found.listing.complete.contains("node"));
            assert_eq!(found.failures.len(), 1);
        }
    }

    #[test]
    fn a_list_that_changes_meanwhile_is_read_again() {
        let run = run(&[], |url, before| match (url, before) {
            // The first was deleted between the pages, so the third slipped to the front.
            ("/api/v1/node/?limit=100", 0) => page(&["node/1", "node/2"], 4, "/api/v1/node/?offset=2"),
            ("/api/v1/node/?offset=2", 0) => page(&["node/4"], 3, ""),
            ("/api/v1/node/?limit=100", _) => page(&["node/2", "node/3"], 3, "/api/v1/node/?offset=2"),
            ("/api/v1/node/?offset=2", _) => page(&["node/4"], 3, ""),
            _ => empty(),
        });
        assert_eq!(uris(&run.found.unwrap()), ["node/1", "node/2", "node/3", "node/4"]);
        // One that never holds still is taken as it is.
        let restless = super::tests::run(&[], |url, before| match url {
            "/api/v1/node/?limit=100" => page(&["node/1"], before + 7, ""),
            _ => empty(),
        });
        assert_eq!(restless.asked.len(), 4 + PASSES);
    }

    #[test]
    fn pages_stay_with_their_origin_and_lead_on() {
        for (next, reason) in [
            ("https://evil.example/api/v1/node/?offset=1", "node: it leads to another origin, https://evil.example"),
            ("//evil.example/", "node: it leads to another origin, https://evil.example"),
            ("http://api.example/", "node: it leads to another origin, http://api.example"),
            ("/api/v1/node/?limit=100", "node: the list's pages lead in a circle"),
        ] {
            let run = run(&[], move |url, _| if url.contains("/node/") { page(&["node/1"], 2, next) } else { empty() });
            assert_eq!(run.found.unwrap().failures, [reason]);
        }
        let run = run(&[], |url, _| match url {
            "/api/v1/node/?limit=100" => {
                let location = Some("https://API.example/api/v2/node/".to_owned());
                Ok(Response { status: 301, location, ..Response::default() })
            }
            "/api/v2/node/" => page(&["node/1"], 1, ""),
            _ => empty(),
        });
        assert_eq!(uris(&run.found.unwrap()), ["node/1"]);
    }

    #[test]
    fn actions_since_are_listed_and_those_under_way_looked_up() {
        let since = Timestamp::parse("2025-03-04T05:06:07Z");
        let run = run_with(&["action/7"], since, 0, |url, _| match url {
            "/api/v1/action/?limit=100&start_date__gte=2025-03-04T05%3A05%3A07.000Z" => answer(
                200,
                r#"{"objects":[{"resource_uri":"/api/v1/action/8/","state":"Success","object":"/api/v1/service/1/","node":"x"}]}"#,
            ),
            "/api/v1/action/7/" => answer(404, ""),
            _ => empty(),
        });
        let found = run.found.unwrap();
        assert_eq!(found.failures, Vec::<String>::new());
        assert_eq!(uris(&found), ["action/8"]);
        assert_eq!(found.listing.objects[0].1.parents, ["/api/v1/service/1/"]);
    }

    #[test]
    fn garbage_is_a_failure_and_an_abandoned_listing_ends() {
        for (body, reason) in [
            ("<html>", "node: the answer is not JSON: expected value at column 1"),
            ("[]", "node: the answer is not a JSON object"),
            (r#"{"objects":{}}"#, "node: the answer is not a list"),
        ] {
            let run = run(&[], move |url, _| if url.contains("/node/") { answer(200, body) } else { empty() });
            assert_eq!(run.found.unwrap().failures, [reason]);
        }
        assert!(run_with(&[], None, 2, |_, _| answer(503, "")).found.is_none());
    }
}
