//! What happened, in plain words, for events that are not Tutum's own: those of an APIC, and those of Docker, Podman and Kubernetes as
//! scripts/adapters writes them. Tutum's have the tutorial's wording, which is the sinks' own.

use std::borrow::Cow;

use super::event::{self, Event};
use super::phrase::{self, text};

/// Where a source of ours connects to on an APIC, before the token.
const APIC_PATH: &str = "socket";

/// An event in words: no line breaks are added, nothing is escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Who and what: `container web-1 stopped with exit code 3`.
    pub what: String,
    /// What else is worth a glance: `image nginx:1.27`, `node node-1`.
    pub details: Vec<String>,
}

/// How bad it is, in PagerDuty's words, of which syslog and ACI have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// It works again.
    Good,
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warning,
    /// Something does not work.
    Error,
    /// Nothing works.
    Critical,
}

/// The event in words, if it is an APIC's or a container engine's: those name the object in the record itself, which Tutum never does.
pub fn news(event: &Event<'_>) -> Option<News> {
    if event.is_lifecycle() {
        return None;
    }
    if let Some(dn) = text(event, "/dn") {
        return Some(managed_object(event, &dn));
    }
    let name = text(event, "/name")?;
    match event.kind.as_deref()? {
        "container" => Some(container(event, &name)),
        "service" => Some(service(event, &name)),
        "node" => Some(node(event, &name)),
        "event" => Some(occurrence(event, &name)),
        _ => None,
    }
}

/// How bad a fault of an APIC is, or what an engine's own words say; `None` where only the state can tell.
pub fn grade(event: &Event<'_>) -> Option<Grade> {
    if is_fault(event) {
        if is_over(event) {
            return Some(Grade::Good);
        }
        return match text(event, "/attributes/severity")?.as_ref() {
            "critical" => Some(Grade::Critical),
            "major" => Some(Grade::Error),
            "minor" | "warning" => Some(Grade::Warning),
            _ => Some(Grade::Info),
        };
    }
    match (text(event, "/health")?.as_ref(), event.state.as_deref()) {
        ("unhealthy", Some("Running")) => Some(Grade::Error),
        _ => None,
    }
}

/// What a lifecycle record is about: `Tutum Stream` if it is one or nobody knows, else the source by its name.
///
/// The path tells: every path of Tutum's and Docker Cloud's has a version in it, an APIC's is `/socket`.
pub fn watched(event: &Event<'_>) -> Cow<'static, str> {
    let source = text(event, "/source").unwrap_or_default();
    let address = source.split_once("://").map_or("", |(_, address)| address);
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let path = event.resource_uri.as_deref().unwrap_or(path).trim_start_matches('/');
    if path.is_empty() || path.split('/').any(|segment| segment == "v1") {
        return "Tutum Stream".into();
    }
    match (path.starts_with(APIC_PATH), host) {
        (true, "") => "APIC".into(),
        (true, host) => format!("APIC {host}").into(),
        (false, "") => "Tutum Stream".into(),
        (false, host) => format!("Stream {host}").into(),
    }
}

fn is_fault(event: &Event<'_>) -> bool {
    event.is("faultInst") || event.is("faultDelegate")
}

/// A fault that is cleared, or was and is only kept for a while (Cisco APIC Faults Guide, "fault lifecycle").
fn is_over(event: &Event<'_>) -> bool {
    event.action.as_deref() == Some("delete")
        || text(event, "/attributes/severity").is_some_and(|severity| severity == "cleared")
        || text(event, "/attributes/lc").is_some_and(|phase| phase == "retaining")
}

/// An APIC's object: its distinguished name and what acitoolkit's tutorial prints of it; a fault by what it says.
fn managed_object(event: &Event<'_>, dn: &str) -> News {
    if event.action.as_deref() == Some("delete") {
        return News { what: format!("{dn} has been deleted"), details: Vec::new() };
    }
    let plain = News { what: format!("{dn} has been created/modified"), details: Vec::new() };
    if !is_fault(event) {
        let state = event.state.as_deref().map(|state| format!("state {state}"));
        return News { details: state.into_iter().collect(), ..plain };
    }
    let (object, name) = dn.rsplit_once("fault-").unwrap_or((dn, ""));
    let code = text(event, "/attributes/code").unwrap_or(name.into());
    let severity = text(event, "/attributes/severity").filter(|_| !is_over(event));
    let description = text(event, "/attributes/descr");
    if code.is_empty() || (severity.is_none() && description.is_none() && !is_over(event)) {
        return plain;
    }
    let severity = severity.map(|severity| format!("{severity} ")).unwrap_or_default();
    let object = object.trim_end_matches(['/', '-']);
    let fate = if is_over(event) { " has been cleared" } else { "" };
    let description = description.map(|description| format!(": {description}")).unwrap_or_default();
    let details = ["cause", "lc"].into_iter().filter_map(|name| {
        let value = text(event, &format!("/attributes/{name}"))?;
        Some(format!("{} {value}", if name == "lc" { "phase" } else { name }))
    });
    News { what: format!("{severity}fault {code} on {object}{fate}{description}"), details: details.collect() }
}

/// Docker's and Podman's containers, and Kubernetes' pods: those are known by a UUID, containers by 64 digits.
fn container(event: &Event<'_>, name: &str) -> News {
    let is_pod = event.resource_uri.as_deref().and_then(event::path_id).is_some_and(is_uuid);
    let who = if is_pod { "pod" } else { "container" };
    let (action, state) = (event.action.as_deref().unwrap_or_default(), event.state.as_deref().unwrap_or_default());
    let reason = text(event, "/reason");
    let because = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let fate = match (action, state) {
        ("delete", _) | (_, "Terminated") => "was removed".to_owned(),
        ("create", "" | "Starting") => format!("was created{because}"),
        (_, "Starting") if reason.is_some() => format!("is not running{because}"),
        (_, "Stopped") => match phrase::exit_code(event) {
            Some(code) => format!("stopped with exit code {code}{}{because}", signal(code)),
            None => format!("stopped{because}"),
        },
        (_, "Running") => match text(event, "/health").as_deref() {
            None => "is running".to_owned(),
            Some(health @ ("healthy" | "unhealthy")) => format!("is {health}"),
            Some(health) => format!("is running, health {health}"),
        },
        (_, "Terminating") => "is being removed".to_owned(),
        (_, state) => plainly(action, state) + &because,
    };
    News { what: format!("{who} {name} {fate}"), details: surroundings(event, is_pod) }
}

/// The signal behind an exit code above 128, where it says more than the number (POSIX shells; signal(7)).
fn signal(code: i64) -> &'static str {
    match code {
        134 => " (SIGABRT)",
        137 => " (SIGKILL)",
        139 => " (SIGSEGV)",
        143 => " (SIGTERM)",
        _ => "",
    }
}

fn service(event: &Event<'_>, name: &str) -> News {
    let workload = event.resource_uri.as_deref().and_then(event::path_id).and_then(workload);
    let who = workload.map_or("service", |(_, kind, _)| kind);
    let (action, state) = (event.action.as_deref().unwrap_or_default(), event.state.as_deref().unwrap_or_default());
    let fate = match (action, state, text(event, "/update_state").as_deref()) {
        ("delete", ..) | (_, "Terminated", _) => "was removed".to_owned(),
        (_, _, Some("completed")) => "was updated".to_owned(),
        (_, _, Some("updating")) => "is being updated".to_owned(),
        (_, _, Some("paused")) => "has stopped in the middle of an update".to_owned(),
        (_, _, Some("rollback_started")) => "is being rolled back".to_owned(),
        (_, _, Some("rollback_paused")) => "has stopped in the middle of being rolled back".to_owned(),
        (_, _, Some("rollback_completed")) => "was rolled back".to_owned(),
        ("create", "" | "Starting", _) => "was created".to_owned(),
        (_, "Stopped", _) => "has nothing running".to_owned(),
        (_, "Redeploying", _) => "is being updated".to_owned(),
        (_, state, _) => plainly(action, state),
    };
    News { what: format!("{who} {name} {fate}"), details: surroundings(event, workload.is_some()) }
}

fn node(event: &Event<'_>, name: &str) -> News {
    let (action, state) = (event.action.as_deref().unwrap_or_default(), event.state.as_deref().unwrap_or_default());
    let fate = match (action, state) {
        ("delete", _) | (_, "Terminated") => "was removed".to_owned(),
        (_, "Deployed") => "is ready".to_owned(),
        (_, "Deploying") => "is not ready yet".to_owned(),
        (_, state) => plainly(action, state),
    };
    News { what: format!("node {name} {fate}"), details: Vec::new() }
}

/// An `Event` of Kubernetes: what a controller says of an object.
fn occurrence(event: &Event<'_>, name: &str) -> News {
    let about = event.parents().into_iter().next().unwrap_or_default();
    let who = match (event::path_kind(&about), event::path_id(&about).and_then(workload)) {
        (Some("container"), _) => "pod ".to_owned(),
        (Some("node"), _) => "node ".to_owned(),
        // A deployment is also the parent of what is said about its replica sets.
        (Some("service"), Some((_, kind, of))) if of == name => format!("{kind} "),
        _ => String::new(),
    };
    let is_warning = text(event, "/level").is_some_and(|level| level == "Warning");
    let opening = match is_warning {
        true => "warning for ",
        false if who.is_empty() => "about ",
        false => "",
    };
    let reason = event.state.as_deref().unwrap_or_default();
    let message = text(event, "/message").unwrap_or_else(|| reason.into());
    let mut details = Vec::new();
    if !reason.is_empty() && message != reason {
        details.push(reason.to_owned());
    }
    if let Some(count) = text(event, "/count").filter(|count| count != "1") {
        details.push(format!("{count} times"));
    }
    details.extend(surroundings(event, true));
    News { what: format!("{opening}{who}{name}: {message}"), details }
}

/// A state as it is read after a name.
fn plainly(action: &str, state: &str) -> String {
    match (action, state) {
        (action, "") => format!("was {}", phrase::past(action)),
        // States are written with a capital, and read inside a sentence.
        (_, state) => format!("is {}", state.to_lowercase()),
    }
}

/// Image, restarts, and the objects it belongs to. Kubernetes' stack is a namespace.
fn surroundings(event: &Event<'_>, of_kubernetes: bool) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(image) = text(event, "/image") {
        told.push(format!("image {image}"));
    }
    if let Some(count) = ["/restarts", "/restart_count"].into_iter().find_map(|at| text(event, at)) {
        told.push(format!("{count} restarts"));
    }
    let parents = event.parents();
    let known = |kind: &str| {
        let parent = parents.iter().find(|parent| event::path_kind(parent) == Some(kind))?;
        event::path_id(parent)
    };
    let stack = known("stack");
    if let Some(id) = known("service").filter(|_| !event.is("event")) {
        told.push(match (workload(id), stack.and_then(|stack| id.strip_prefix(stack)?.strip_prefix('.'))) {
            (Some((_, kind, name)), _) => format!("{kind} {name}"),
            (None, Some(name)) => format!("service {name}"),
            (None, None) => format!("service {id}"),
        });
    }
    if let Some(stack) = stack {
        told.push(format!("{} {stack}", if of_kubernetes { "namespace" } else { "stack" }));
    }
    if let Some(node) = known("node").filter(|_| !event.is("event")) {
        told.push(format!("node {node}"));
    }
    told
}

/// `shop.deployment.web` is a workload of Kubernetes: its namespace, its kind, its name.
fn workload(id: &str) -> Option<(&str, &str, &str)> {
    const KINDS: [&str; 7] =
        ["deployment", "statefulset", "daemonset", "replicaset", "replicationcontroller", "job", "cronjob"];
    let mut words = id.splitn(3, '.');
    let found = (words.next()?, words.next()?, words.next()?);
    KINDS.contains(&found.1).then_some(found)
}

/// RFC 9562's text form.
fn is_uuid(id: &str) -> bool {
    id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(record: &str) -> Option<String> {
        let news = news(&Event::parse(record.as_bytes()).unwrap())?;
        Some([&[news.what], &news.details[..]].concat().join(" | "))
    }

    #[test]
    fn what_an_apic_says() {
        for (record, expected) in [
            (
                r#"{"type":"fvTenant","action":"create","resource_uri":"/api/mo/uni/tn-X.json","parents":["/api/mo/uni.json"],"dn":"uni/tn-X","attributes":{"dn":"uni/tn-X","name":"X","status":"created"}}"#,
                "uni/tn-X has been created/modified",
            ),
            (
                r#"{"type":"fvTenant","action":"update","dn":"uni/tn-X","attributes":{"descr":"y"}}"#,
                "uni/tn-X has been created/modified",
            ),
            (r#"{"type":"fvTenant","action":"delete","dn":"uni/tn-X"}"#, "uni/tn-X has been deleted"),
            (
                r#"{"type":"ethpmPhysIf","action":"update","state":"down","dn":"topology/pod-1/node-101/sys/phys-[eth1/1]/phys"}"#,
                "topology/pod-1/node-101/sys/phys-[eth1/1]/phys has been created/modified | state down",
            ),
            (
                r#"{"type":"faultInst","action":"create","dn":"uni/tn-X/ap-a/epg-e/fault-F0467","attributes":{"severity":"major","code":"F0467","descr":"Configuration failed","cause":"configuration-failed","lc":"raised"}}"#,
                "major fault F0467 on uni/tn-X/ap-a/epg-e: Configuration failed | cause configuration-failed | phase raised",
            ),
            // Of a change only what changed is told.
            (
                r#"{"type":"faultInst","action":"update","dn":"uni/tn-X/fault-F0467","attributes":{"severity":"critical"}}"#,
                "critical fault F0467 on uni/tn-X",
            ),
            (
                r#"{"type":"faultInst","action":"update","dn":"uni/tn-X/fault-F0467","attributes":{"severity":"cleared"}}"#,
                "fault F0467 on uni/tn-X has been cleared",
            ),
            (
                r#"{"type":"faultInst","action":"update","dn":"uni/tn-X/fault-F0467","attributes":{"ack":"yes"}}"#,
                "uni/tn-X/fault-F0467 has been created/modified",
            ),
            (
                r#"{"type":"faultDelegate","action":"create","dn":"uni/tn-X/fd-[uni/tn-X/BD-b]-fault-F1","attributes":{"severity":"minor","descr":"no"}}"#,
                "minor fault F1 on uni/tn-X/fd-[uni/tn-X/BD-b]: no",
            ),
            (
                r#"{"type":"faultInst","action":"delete","dn":"uni/tn-X/fault-F0467"}"#,
                "uni/tn-X/fault-F0467 has been deleted",
            ),
        ] {
            assert_eq!(said(record).as_deref(), Some(expected), "{record}");
        }
    }

    /// What the adapters print for the recorded output of real engines (tests/data/adapters).
    #[test]
    fn what_container_engines_say() {
        let id = "a".repeat(64);
        let docker = format!(
            r#""type":"container","resource_uri":"/api/v1/container/{id}/","parents":["/api/v1/service/shop.web/","/api/v1/stack/shop/","/api/v1/node/node-1/"],"name":"web-1","image":"nginx:1.27""#
        );
        let around = "image nginx:1.27 | service web | stack shop | node node-1";
        let pod = r#""type":"container","resource_uri":"/api/v1/container/6f2d1c3e-0b7a-4d59-9c41-00000000000c/","parents":["/api/v1/service/shop.deployment.web/","/api/v1/stack/shop/","/api/v1/node/node-2/"],"name":"web-x","image":"web:2""#;
        let there = "image web:2 | deployment web | namespace shop | node node-2";
        let swarm = r#""type":"service","resource_uri":"/api/v1/service/unvvv/","parents":[],"name":"shop_web""#;
        let apps = r#""type":"service","resource_uri":"/api/v1/service/shop.statefulset.db/","parents":["/api/v1/stack/shop/"],"name":"db""#;
        let event = r#""type":"event","action":"update","resource_uri":"/api/v1/event/1/""#;
        for (whose, rest, expected) in [
            (
                docker.as_str(),
                r#""action":"create","state":"Starting""#,
                format!("container web-1 was created | {around}"),
            ),
            (&docker, r#""action":"update","state":"Running""#, format!("container web-1 is running | {around}")),
            (
                &docker,
                r#""action":"update","state":"Running","health":"unhealthy""#,
                format!("container web-1 is unhealthy | {around}"),
            ),
            (
                &docker,
                r#""action":"update","state":"Running","health":"starting""#,
                format!("container web-1 is running, health starting | {around}"),
            ),
            (&docker, r#""action":"update","state":"Paused""#, format!("container web-1 is paused | {around}")),
            (&docker, r#""action":"update","state":"Stopping""#, format!("container web-1 is stopping | {around}")),
            (
                &docker,
                r#""action":"update","state":"Stopped","exit_code":3"#,
                format!("container web-1 stopped with exit code 3 | {around}"),
            ),
            (
                &docker,
                r#""action":"update","state":"Stopped","exit_code":137"#,
                format!("container web-1 stopped with exit code 137 (SIGKILL) | {around}"),
            ),
            (&docker, r#""action":"update","state":"Stopped""#, format!("container web-1 stopped | {around}")),
            (&docker, r#""action":"delete","state":"Terminated""#, format!("container web-1 was removed | {around}")),
            (
                pod,
                r#""action":"update","state":"Starting","reason":"CrashLoopBackOff""#,
                format!("pod web-x is not running: CrashLoopBackOff | {there}"),
            ),
            (pod, r#""action":"create","state":"Running""#, format!("pod web-x is running | {there}")),
            (
                pod,
                r#""action":"update","state":"Stopped","exit_code":137,"reason":"OOMKilled""#,
                format!("pod web-x stopped with exit code 137 (SIGKILL): OOMKilled | {there}"),
            ),
            (
                pod,
                r#""action":"update","state":"Stopped","reason":"Evicted""#,
                format!("pod web-x stopped: Evicted | {there}"),
            ),
            (pod, r#""action":"update","state":"Terminating""#, format!("pod web-x is being removed | {there}")),
            (
                pod,
                r#""action":"update","state":"Running","restarts":4"#,
                "pod web-x is running | image web:2 | 4 restarts | deployment web | namespace shop | node node-2"
                    .to_owned(),
            ),
            (
                swarm,
                r#""action":"update","state":"Redeploying","update_state":"rollback_started""#,
                "service shop_web is being rolled back".to_owned(),
            ),
            (swarm, r#""action":"update","state":"Scaling""#, "service shop_web is scaling".to_owned()),
            (
                apps,
                r#""action":"update","state":"Partly running""#,
                "statefulset db is partly running | namespace shop".to_owned(),
            ),
            (
                apps,
                r#""action":"delete","state":"Terminated""#,
                "statefulset db was removed | namespace shop".to_owned(),
            ),
            (
                r#""type":"node","name":"node-2""#,
                r#""action":"update","state":"Unreachable""#,
                "node node-2 is unreachable".to_owned(),
            ),
            (
                r#""type":"node","name":"node-2""#,
                r#""action":"update","state":"Deployed""#,
                "node node-2 is ready".to_owned(),
            ),
            (
                event,
                r#""state":"BackOff","parents":["/api/v1/container/6f2d/","/api/v1/stack/shop/"],"name":"web-x","count":2,"level":"Warning","message":"Back-off restarting failed container""#,
                "warning for pod web-x: Back-off restarting failed container | BackOff | 2 times | namespace shop"
                    .to_owned(),
            ),
            (
                event,
                r#""state":"FailedCreate","parents":["/api/v1/service/shop.deployment.web/","/api/v1/stack/shop/"],"name":"web-66b6c48dd5","count":1,"level":"Warning","message":"forbidden""#,
                "warning for web-66b6c48dd5: forbidden | FailedCreate | namespace shop".to_owned(),
            ),
            (
                event,
                r#""state":"NodeNotReady","parents":["/api/v1/node/node-2/"],"name":"node-2","count":1,"level":"Normal","message":"Node node-2 status is now: NodeNotReady""#,
                "node node-2: Node node-2 status is now: NodeNotReady | NodeNotReady".to_owned(),
            ),
        ] {
            assert_eq!(said(&format!("{{{whose},{rest}}}")).as_deref(), Some(expected.as_str()), "{whose} {rest}");
        }
    }

    #[test]
    fn tutums_own_events_are_left_to_the_tutorials_words() {
        for record in [
            r#"{"type":"container","action":"create","state":"Starting","resource_uri":"/api/v1/container/7d1c/"}"#,
            r#"{"type":"container","resource":{"name":"web-1"},"state":"Stopped"}"#,
            r#"{"type":"service","uuid":"5b0f","datetime":"2025-03-04T05:06:07Z"}"#,
            r#"{"type":"stream","action":"open","name":"x","dn":"y"}"#,
            r#"{"name":"x"}"#,
        ] {
            assert_eq!(said(record), None, "{record}");
        }
    }

    #[test]
    fn how_bad_it_is() {
        let judge = |record: &str| grade(&Event::parse(record.as_bytes()).unwrap());
        let fault =
            |attributes: &str| judge(&format!(r#"{{"type":"faultInst","dn":"x","attributes":{{{attributes}}}}}"#));
        assert_eq!(fault(r#""severity":"critical""#), Some(Grade::Critical));
        assert_eq!(fault(r#""severity":"major""#), Some(Grade::Error));
        assert_eq!(fault(r#""severity":"minor""#), Some(Grade::Warning));
        assert_eq!(fault(r#""severity":"critical","lc":"retaining""#), Some(Grade::Good));
        assert_eq!(fault(""), None);
        assert_eq!(judge(r#"{"type":"container","state":"Running","health":"unhealthy"}"#), Some(Grade::Error));
        assert_eq!(judge(r#"{"type":"container","state":"Running"}"#), None);
    }

    #[test]
    fn lifecycle_names_its_source() {
        for (record, expected) in [
            (r#"{"type":"stream"}"#, "Tutum Stream"),
            (r#"{"resource_uri":"/v1/events","source":"wss://h/v1/events"}"#, "Tutum Stream"),
            (r#"{"resource_uri":"/api/audit/v1/events","source":"wss://h/api/audit/v1/events"}"#, "Tutum Stream"),
            (r#"{"source":"wss://h/v1/container/1/logs"}"#, "Tutum Stream"),
            (r#"{"resource_uri":"/feed"}"#, "Tutum Stream"),
            (r#"{"resource_uri":"/socket","source":"wss://apic1.example/socket"}"#, "APIC apic1.example"),
            (r#"{"source":"wss://apic1.example:8443/socket"}"#, "APIC apic1.example:8443"),
            (r#"{"resource_uri":"/socket"}"#, "APIC"),
            (r#"{"resource_uri":"/feed","source":"wss://feeds.example/feed"}"#, "Stream feeds.example"),
        ] {
            assert_eq!(watched(&Event::parse(record.as_bytes()).unwrap()), expected, "{record}");
        }
    }
}
