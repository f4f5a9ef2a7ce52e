//! What a session asks and makes of the answers, over a scripted transport.

use std::path::Path;
use std::sync::Mutex;

use super::*;

type Script = Box<dyn FnMut(&str) -> Result<Response, TransportError> + Send>;

/// Answers by method and path, and notes what was asked.
pub struct Scripted {
    script: Mutex<Script>,
    pub asked: Mutex<Vec<Request>>,
}

impl Scripted {
    pub fn new(script: impl FnMut(&str) -> Result<Response, TransportError> + Send + 'static) -> Arc<Scripted> {
        Arc::new(Scripted { script: Mutex::new(Box::new(script)), asked: Mutex::new(Vec::new()) })
    }

    /// Everything asked for, as method and path.
    pub fn paths(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(line).collect()
    }
}

fn line(request: &Request) -> String {
    let word = if request.method == Method::Post { "POST" } else { "GET" };
    format!("{word} {}", request.address.expose().replace("https://apic.example", ""))
}

impl Transport for Scripted {
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        self.asked.lock().unwrap().push(request.clone());
        (self.script.lock().unwrap())(&line(request))
    }
}

pub fn answer(status: u16, body: &str) -> Result<Response, TransportError> {
    Ok(Response { status, body: body.as_bytes().to_vec(), ..Response::default() })
}

pub fn error(status: u16, text: &str) -> Result<Response, TransportError> {
    answer(
        status,
        &format!(
            r#"{{"totalCount":"1","imdata":[{{"error":{{"attributes":{{"code":"{status}","text":{}}}}}}}]}}"#,
            quote(text)
        ),
    )
}

pub fn welcome(token: &str, times: &str) -> Result<Response, TransportError> {
    answer(
        200,
        &format!(
            r#"{{"totalCount":"1","imdata":[{{"aaaLogin":{{"attributes":{{"token":"{token}"{times}}},"children":[]}}}}]}}"#
        ),
    )
}

pub fn password() -> Account {
    Account::Password { name: "apic:LDAP\\watcher".to_owned(), password: Secret::new("hun\"ter22") }
}

pub fn apic(transport: &Arc<Scripted>) -> Apic {
    let transport: Arc<dyn Transport> = Arc::clone(transport) as Arc<dyn Transport>;
    let base = Address::parse("https://apic.example", &["https"]).unwrap();
    Apic { base, quick: Arc::clone(&transport), patient: transport }
}

const TOKEN: &str = "eyJ+a/b/c=d==";

/// A session whose login went well; everything else is answered as said.
fn session(
    mut script: impl FnMut(&str) -> Result<Response, TransportError> + Send + 'static,
) -> (Session, Arc<Scripted>) {
    let transport = Scripted::new(move |path| {
        if path.ends_with("/aaaLogin.json") {
            welcome(TOKEN, r#","refreshTimeoutSeconds":"300""#)
        } else {
            script(path)
        }
    });
    (Session::begin(apic(&transport), password()).unwrap(), transport)
}

fn begin(answer: Result<Response, TransportError>) -> Result<Session, Trouble> {
    let mut answer = Some(answer);
    Session::begin(apic(&Scripted::new(move |_| answer.take().expect("a login is tried once"))), password())
}

fn class() -> Target {
    Target::Class("fvTenant".to_owned())
}

/// The kind of trouble and its words.
fn told(trouble: &Trouble) -> (&'static str, &str) {
    let kind = match trouble {
        Trouble::Expired(_) => "expired",
        Trouble::Refused(_) => "refused",
        Trouble::Wrong(_) => "wrong",
        Trouble::TooBig(_) => "too big",
        Trouble::Passing { .. } => "passing",
    };
    (kind, trouble.reason())
}

#[test]
fn a_login_says_who_and_reads_the_token_and_its_times() {
    let (session, transport) = session(|_| unreachable!());
    assert_eq!(session.socket(), format!("/socket{TOKEN}"));
    assert!(session.socket_cookie().is_none());
    assert_eq!((session.refresh_timeout.as_secs(), session.maximum_life.as_secs()), (300, 86_400));
    assert_eq!(transport.paths(), ["POST /api/aaaLogin.json"]);
    let asked = transport.asked.lock().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&asked[0].body),
        r#"{"aaaUser":{"attributes":{"name":"apic:LDAP\\watcher","pwd":"hun\"ter22"}}}"#
    );
    assert!(asked[0].cookie.is_none());
}

#[test]
fn what_every_answer_to_a_login_means() {
    let html = "<html><body>Please log in to the guest network</body></html>";
    for (answer, kind, words) in [
        (error(401, "Authentication failed"), "refused", "HTTP 401: Authentication failed"),
        (error(403, "no rights"), "refused", "HTTP 403: no rights"),
        (error(400, "bad name"), "refused", "HTTP 400: bad name"),
        (error(200, "no"), "refused", "HTTP 200: no"),
        (answer(401, html), "refused", "HTTP 401"),
        (answer(404, ""), "wrong", "HTTP 404"),
        (answer(302, ""), "passing", "HTTP 302"),
        (answer(429, "slow down"), "passing", "HTTP 429"),
        (answer(500, html), "passing", "HTTP 500"),
        (answer(503, ""), "passing", "HTTP 503"),
        (answer(200, html), "passing", "the answer is not what an APIC says: XML, not JSON"),
        (answer(200, ""), "passing", "the answer is not what an APIC says"),
        (answer(200, r#"{"imdata":[{"aaaLogin":{"attr"#), "passing", "the answer is not what an APIC says"),
        (answer(200, r#"{"imdata":[]}"#), "passing", "the answer to the login holds no token"),
        (welcome("", ""), "passing", "the answer to the login holds no token"),
        (welcome("a; b", ""), "passing", "the token holds a character that no cookie can"),
        (welcome("a\\nb", ""), "passing", "the token holds a character that no cookie can"),
        (Err(TransportError::Unreachable("no such host".to_owned())), "passing", "no such host"),
    ] {
        let shown = format!("{answer:?}");
        let trouble = begin(answer).err().unwrap();
        assert_eq!(told(&trouble).0, kind, "{shown}: {trouble:?}");
        assert!(trouble.reason().starts_with(words), "{shown}: {trouble:?}");
    }
}

#[test]
fn times_that_make_no_sense_are_the_defaults_and_no_clock_runs_over() {
    for (times, refresh, life) in [
        ("", 600, 86_400),
        (r#","refreshTimeoutSeconds":"0","maximumLifetimeSeconds":"-1""#, 600, 86_400),
        (r#","refreshTimeoutSeconds":"soon","maximumLifetimeSeconds":null"#, 600, 86_400),
        (r#","refreshTimeoutSeconds":600,"maximumLifetimeSeconds":3600"#, 600, 3600),
        (
            r#","refreshTimeoutSeconds":"18446744073709551615","maximumLifetimeSeconds":"18446744073709551615""#,
            LONGEST.as_secs(),
            LONGEST.as_secs(),
        ),
    ] {
        let session = begin(welcome(TOKEN, times)).unwrap();
        assert_eq!((session.refresh_timeout.as_secs(), session.maximum_life.as_secs()), (refresh, life), "{times}");
    }
}

#[test]
fn an_answer_that_repeats_the_password_is_redacted_in_either_spelling() {
    let echo = r#"{"aaaUser":{"attributes":{"name":"x","pwd":"hun\"ter22"}}} hun"ter22"#;
    let trouble = begin(error(401, echo)).err().unwrap();
    assert!(!trouble.reason().contains("ter22") && trouble.reason().contains("<redacted>"), "{trouble:?}");
}

#[test]
fn every_request_names_the_session_in_exactly_one_cookie() {
    let (mut session, transport) = session(|path| {
        if path.contains("aaaRefresh") {
            welcome("second+/=", "")
        } else {
            answer(200, r#"{"subscriptionId":"1","imdata":[]}"#)
        }
    });
    session.subscribe(&class(), &Query::default(), true).unwrap();
    session.refresh().unwrap();
    session.refresh_subscription("72057611234574337").unwrap();
    session.end();
    let asked = transport.asked.lock().unwrap();
    let cookies: Vec<&str> =
        asked.iter().map(|request| request.cookie.as_ref().map_or("", |cookie| cookie.expose())).collect();
    let first = format!("APIC-cookie={TOKEN}");
    assert_eq!(cookies, ["", &first, &first, "APIC-cookie=second+/=", "APIC-cookie=second+/="]);
    assert!(asked.iter().all(|request| !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("cookie"))));
    drop(asked);
    assert_eq!(
        transport.paths()[1..],
        [
            "GET /api/class/fvTenant.json?subscription=yes",
            "GET /api/aaaRefresh.json",
            "GET /api/subscriptionRefresh.json?id=72057611234574337",
            "POST /api/aaaLogout.json",
        ]
    );
    assert_eq!(session.socket(), "/socketsecond+/=");
}

#[test]
fn what_every_answer_to_a_session_refresh_means() {
    for (answer, kind) in [
        (error(403, "Token was invalid (Error: Token timeout)"), "expired"),
        (error(403, "no"), "expired"),
        (error(401, "no"), "expired"),
        (error(400, "no"), "expired"),
        (error(200, "no"), "expired"),
        (answer(429, ""), "passing"),
        (answer(503, ""), "passing"),
        (answer(200, "<html>"), "passing"),
        (answer(200, r#"{"imdata":[]}"#), "passing"),
        (Err(TransportError::Unreachable("timed out".to_owned())), "passing"),
    ] {
        let shown = format!("{answer:?}");
        let mut answer = Some(answer);
        let (mut session, _) = session(move |_| answer.take().unwrap());
        assert_eq!(told(&session.refresh().unwrap_err()).0, kind, "{shown}");
        assert_eq!(session.token().expose(), TOKEN, "{shown}");
    }
}

#[test]
fn what_every_answer_to_a_subscription_means() {
    let whole = r#"{"totalCount":"1","subscriptionId":"7","imdata":[{"fvTenant":{"attributes":{"dn":"uni/tn-A"}}}]}"#;
    for (text, id, complete) in [
        (whole.to_owned(), "7", true),
        (whole.replace(r#""7""#, r#"["7"]"#), "7", true),
        (whole.replace(r#""totalCount":"1""#, r#""totalCount":"2""#), "7", false),
        (r#"{"subscriptionId":"72057611234574337","imdata":[]}"#.to_owned(), "72057611234574337", true),
    ] {
        let said = text.clone();
        let (session, _) = session(move |_| answer(200, &said));
        let subscribed = session.subscribe(&class(), &Query::default(), true).unwrap();
        assert_eq!((&*subscribed.id, subscribed.complete, &subscribed.answers), (id, complete, &vec![text]));
    }
    for (answer, kind) in [
        (error(400, "class noSuch not found"), "wrong"),
        (answer(404, "<html>"), "wrong"),
        (error(200, "filter"), "wrong"),
        (error(400, "Unable to process the query, result dataset is too big"), "too big"),
        (Ok(Response { status: 200, body: b"{\"imda".to_vec(), truncated: true, ..Response::default() }), "too big"),
        (error(403, "Token was invalid (Error: Token timeout)"), "expired"),
        (error(401, ""), "expired"),
        (error(403, "not allowed"), "refused"),
        (answer(200, r#"{"imdata":[]}"#), "passing"),
        (answer(200, r#"{"subscriptionId":"","imdata":[]}"#), "passing"),
        (answer(200, "<html>Guest network</html>"), "passing"),
        (answer(200, whole.split_at(60).0), "passing"),
        (answer(302, ""), "passing"),
        (answer(429, ""), "passing"),
        (answer(502, "<html>"), "passing"),
        (Err(TransportError::Unreachable("reset".to_owned())), "passing"),
    ] {
        let shown = format!("{answer:?}");
        let mut answer = Some(answer);
        let (session, _) = session(move |_| answer.take().unwrap());
        let trouble = session.subscribe(&class(), &Query::default(), true).unwrap_err();
        assert_eq!(told(&trouble).0, kind, "{shown}: {trouble:?}");
    }
}

#[test]
fn without_a_list_the_answer_is_cut_to_one_object_and_pages_are_in_order() {
    let (session, transport) = session(|_| {
        answer(
            200,
            r#"{"totalCount":"9","subscriptionId":"7","imdata":[{"fvTenant":{"attributes":{"dn":"uni/tn-A"}}}]}"#,
        )
    });
    let query = Query { life: Some(Duration::from_secs(90)), ..Query::default() };
    let subscribed = session.subscribe(&class(), &query, false).unwrap();
    assert!(subscribed.answers.is_empty() && !subscribed.complete);
    let page = session.page(&class(), &query, 3).unwrap();
    assert_eq!((page.count, page.total), (1, Some(9)));
    session
        .page(
            &Target::Object("uni/tn-A".to_owned()),
            &Query { reach: super::super::target::Reach::Subtree, ..query },
            0,
        )
        .unwrap();
    assert_eq!(
        transport.paths()[1..],
        [
            "GET /api/class/fvTenant.json?subscription=yes&refresh-timeout=90&page=0&page-size=1",
            "GET /api/class/fvTenant.json?page=3&page-size=10000&order-by=fvTenant.dn|asc",
            "GET /api/mo/uni/tn-A.json?query-target=subtree&page=0&page-size=10000",
        ]
    );
}

#[test]
fn a_proxys_page_is_no_refresh_of_a_subscription() {
    for (answer, kind) in [
        (answer(200, "<html>Guest network</html>"), "passing"),
        (answer(200, ""), "passing"),
        (answer(302, ""), "passing"),
        (answer(503, ""), "passing"),
        (error(400, "Unable to find subscription"), "wrong"),
        (error(403, "Token was invalid (Error: Token timeout)"), "expired"),
        (error(403, "no"), "refused"),
        (answer(404, ""), "wrong"),
    ] {
        let shown = format!("{answer:?}");
        let mut answer = Some(answer);
        let (session, _) = session(move |_| answer.take().unwrap());
        assert_eq!(told(&session.refresh_subscription("7").unwrap_err()).0, kind, "{shown}");
    }
}

#[test]
fn a_servers_wish_to_be_left_alone_is_kept() {
    let busy = || Ok(Response { status: 503, retry_after: Some("17".to_owned()), ..Response::default() });
    let (session, _) = session(move |_| busy());
    let trouble = session.refresh_subscription("7").unwrap_err();
    let expected = Trouble::Passing { reason: "HTTP 503".to_owned(), retry_after: Some("17".to_owned()) };
    assert_eq!(trouble, expected);
    assert_eq!(
        Rejection::from(trouble),
        Rejection::Failed { reason: "HTTP 503".to_owned(), retry_after: Some("17".to_owned()) }
    );
}

#[test]
fn a_signed_request_has_four_cookies_and_the_sockets_token_makes_five() {
    let transport = Scripted::new(|path| {
        if path.ends_with("/webtokenSession.json") {
            answer(200, &format!(r#"{{"imdata":[{{"webtokenSession":{{"attributes":{{"token":"{TOKEN}"}}}}}}]}}"#))
        } else {
            answer(200, r#"{"subscriptionId":"1","imdata":[]}"#)
        }
    });
    let key = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/aci/watcher.key");
    let account = Account::Signature {
        certificate: "uni/userext/user-watcher/usercert-watcher.crt".to_owned(),
        signer: RequestSigner::load("--signing-key", &key).unwrap(),
    };
    let mut session = Session::begin(apic(&transport), account).unwrap();
    session.subscribe(&class(), &Query::default(), true).unwrap();
    // Nothing to refresh, and nobody to log out.
    session.refresh().unwrap();
    session.end();
    assert_eq!(transport.paths(), ["GET /api/webtokenSession.json", "GET /api/class/fvTenant.json?subscription=yes"]);
    let asked = transport.asked.lock().unwrap();
    let cookies: Vec<&str> = asked.iter().map(|request| request.cookie.as_ref().unwrap().expose()).collect();
    let names = |cookie: &str| -> Vec<String> {
        cookie.split("; ").map(|pair| pair.split_once('=').unwrap().0.to_owned()).collect()
    };
    let four =
        ["APIC-Request-Signature", "APIC-Certificate-Algorithm", "APIC-Certificate-Fingerprint", "APIC-Certificate-DN"];
    assert_eq!(names(cookies[0]), four);
    // Made with: printf %s 'GET/api/class/fvTenant.json?subscription=yes' | openssl dgst -sha256 -sign watcher.key | base64 -w0
    let signature = "ZPlsZt862peoEMWkfHkqN/YL/dg10c118uKnWX5h0DqP85w2tXpfAOr1uXXDFKHM3qoKDhbMXbIeCb1+lxpyHSUMzaUO4f6AVJlI/RRZUfSpAqVQrks84eDQ6CZJV0i89hwvqE7zmmTLXpbRKPmibGtH2XEPFAozfvEaP5Lv1ksrAWa7ip84czmT8NUZm4L6e2Ix4T8VCZh1Mm1hoAj1RDLoscJEFdfOykUVxAzVPuU97Tx3DrjQ0tI4JX8mmlkBmQqlf88Vy4mvZhwXQun+npQ5CHWnijNMYNhR3NeNuDfvFNKXpfr4G1N7WHJiU53RFUAf2aRaVztKP3SFy6OGNQ==";
    assert_eq!(
        cookies[1],
        format!(
            "APIC-Request-Signature={signature}; APIC-Certificate-Algorithm=v1.0; APIC-Certificate-Fingerprint=fingerprint; APIC-Certificate-DN=uni/userext/user-watcher/usercert-watcher.crt; APIC-WebSocket-Session={TOKEN}"
        )
    );
    let socket = session.socket_cookie().unwrap();
    assert_eq!(names(socket.expose())[..4], four);
}
