//! tutum-enrich: its flags and its wiring.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tutum::cli::table::{Flag, Program, Section, Set, store, words};
use tutum::filter::enrich::answer::LONGEST_BODY;
use tutum::filter::enrich::wanted::With;
use tutum::filter::enrich::workers::{Work, Workers};
use tutum::filter::enrich::{Enrich, EnrichArgs};
use tutum::flow::pump::{self, PumpArgs, pump};
use tutum::model::address::Address;
use tutum::model::exit::{Exit, Failure};
use tutum::model::quantity::show_duration;
use tutum::world::World;
use tutum::world::credentials::{self, Authorization, TUTUM_ENVIRONMENT, TutumAuthArgs, variable};
use tutum::world::http::{Http, HttpLimits};
use tutum::world::proxy::{PROXY_ENVIRONMENT, Proxies, Proxy};
use tutum::world::tls::{self, Tls, TlsArgs};

#[derive(Default)]
struct Args {
    url: Option<String>,
    auth: TutumAuthArgs,
    enrich: EnrichArgs,
    tls: TlsArgs,
    pump: PumpArgs,
}

impl AsMut<TutumAuthArgs> for Args {
    fn as_mut(&mut self) -> &mut TutumAuthArgs {
        &mut self.auth
    }
}

impl AsMut<TlsArgs> for Args {
    fn as_mut(&mut self) -> &mut TlsArgs {
        &mut self.tls
    }
}

impl AsMut<PumpArgs> for Args {
    fn as_mut(&mut self) -> &mut PumpArgs {
        &mut self.pump
    }
}

const ENVIRONMENT: [(&str, &str); 10] = {
    let [auth, user, tutorial, password, home] = TUTUM_ENVIRONMENT;
    let [own_proxy, any_proxy, no_proxy] = PROXY_ENVIRONMENT;
    [
        ("TUTUM_BASE_URL", "the API's base, e.g. https://host/api/v1/, if --url is not given"),
        ("TUTUM_REST_HOST", "the API's host, with or without https://, if TUTUM_BASE_URL is not set"),
        auth,
        user,
        tutorial,
        password,
        home,
        own_proxy,
        any_proxy,
        no_proxy,
    ]
};

const PROGRAM: Program<Args> = Program {
    name: "tutum-enrich",
    about: "attach what the REST API says about an event's object and its parents",
    operands: "",
    operand: None,
    description: "\
Reads events, one JSON object a line, asks the REST API for the object of each and for its parents, and writes the events in the order they came. \
Appended as the last keys are \"resource\", the object, and \"parent\", the parents by their type, e.g. {\"service\":{...},\"stack\":{...}}; of two \
parents of one type the first. The rest of the line stays byte for byte as it came.

An event is never held back for long. What could not be had is told in \"enrich_error\", in the same shape, e.g. \
{\"resource\":\"404 not found\",\"parent\":{\"stack\":\"timed out: 503 service unavailable\"}}, and the event goes on; that alone is no error of \
the program. A request that failed is repeated, with a growing pause or as the server's Retry-After says, for as long as the event's --timeout allows. After 5 \
failures in a row all events go on at once, without what the API knows, until a probe every 10 seconds succeeds.

Refused credentials (401) stop nothing either, because events are worth more than what is attached to them: the secrets are read again, and if they are still \
refused, that is told once on standard error, events go on with \"401 unauthorized\", and the API is probed every 10 seconds and at HUP. If \
they are refused to the end, the exit code is 3.

Lifecycle records, other messages of the stream, and records without a resource_uri pass untouched, in their turn. A record that has \"resource\" or \
\"parent\" already keeps it, and nothing is asked in its place; one that has \"enrich_error\" passes untouched. Only plain paths under /api/ are asked for; \
anything else (another host, .., an escape) is told in enrich_error and never requested. Redirects are followed within the same scheme, host and port only.

An object asked for less than --ttl ago is not asked for again, unless an event about it came since; the same holds for one that does not exist. Values of \
container_envvars and link_variables are replaced by \"<masked>\", also in the request an action tells of. HUP reads the secrets again.",
    sections: &[
        Section {
            title: "API",
            flags: &[Flag {
                    spec: "--url URL",
                    help: "the REST API: scheme and host, or a base that ends in /api/v1/. Else TUTUM_BASE_URL or TUTUM_REST_HOST; there is no default, since the hosted service is gone",
                    set: Set::Value(|a, v| store(&mut a.url, v)),
            }],
        },
        Section { title: "Credentials", flags: &credentials::tutum_flags() },
        Section {
            title: "Enriching",
            flags: &[
                Flag {
                    spec: "--with LIST",
                    help: "what to attach: resource, parents, or types of parents such as service,stack. Everything by default",
                    set: Set::Value(|a, v| {
                        let with = a.enrich.with.get_or_insert(With::NOTHING);
                        words(v)?.iter().try_for_each(|word| with.add(word))
                    }),
                },
                Flag {
                    spec: "--with-secrets",
                    help: "leave the values of container_envvars and link_variables as they are. Whoever reads the events then reads those",
                    set: Set::Switch(|a| a.enrich.with_secrets = true),
                },
                Flag {
                    spec: "--timeout DURATION",
                    help: "the longest an event waits for what is to be attached, 10s by default",
                    set: Set::Value(|a, v| {
                        store(&mut a.enrich.timeout, v)?;
                        if a.enrich.timeout.is_zero() { Err("expected more than 0s".to_owned()) } else { Ok(()) }
                    }),
                },
                Flag {
                    spec: "--concurrency N",
                    help: "so many requests at once, 8 by default, and never two for one object",
                    set: Set::Value(|a, v| {
                        store(&mut a.enrich.concurrency, v)?;
                        let fine = (1..=256).contains(&a.enrich.concurrency);
                        if fine { Ok(()) } else { Err(format!("expected a number from 1 to 256, got \"{v}\"")) }
                    }),
                },
                Flag {
                    spec: "--ttl DURATION",
                    help: "how long an answer is used again, 5s by default. 0s asks for every event",
                    set: Set::Value(|a, v| store(&mut a.enrich.ttl, v)),
                },
            ],
        },
        Section { title: "TLS", flags: &tls::flags() },
        Section { title: "Input", flags: &pump::flags() },
    ],
    environment: &ENVIRONMENT,
    examples: &[
        (
            "tell of services by name, with their stacks",
            "tutum-stream | tutum-filter --type service | tutum-enrich --with resource,stack | to-slack",
        ),
        (
            "containers of one service that stopped with an error",
            "tutum-stream | tutum-filter --type container --state Stopped | tutum-enrich |\n  tutum-filter --where '/parent/service/name=web' --except --where /resource/exit_code=0",
        ),
    ],
};

fn main() -> ExitCode {
    PROGRAM.main(run)
}

fn run(args: Args, world: &mut World) -> Result<Exit, Failure> {
    let (origin, dropped) = origin(args.url.as_deref()).map_err(Failure::usage)?;
    let tls = Tls::load(&args.tls).map_err(Failure::usage)?;
    let proxies = Proxies::from_environment();
    let proxy = proxies.find(&origin).map_err(Failure::usage)?;
    let authorization = credentials::tutum(&args.auth).map_err(Failure::usage)?;
    if authorization.is_none() && !origin.is_loopback() {
        return Err(Failure::usage(
            "credentials: none found: set TUTUM_USER and TUTUM_APIKEY, or TUTUM_AUTH, or give --user and --token-file",
        ));
    }
    if let Some(prefix) = dropped {
        world
            .diagnostics
            .warn(&format!("{origin}: the path {prefix} before /api/ is not used: events name whole paths"));
    }
    if authorization.is_some() && !origin.is_secure() && !origin.is_loopback() {
        world.diagnostics.warn(&format!("{origin}: credentials go over http, and anyone on the way can read them"));
    }
    if tls.is_insecure() {
        world.diagnostics.warn("--insecure: the server's certificate is not verified");
    }
    if let Some(proxy) = &proxy {
        proxy.announce(&origin, &world.diagnostics);
    }
    if world.check {
        pump::open_rejects(&args.pump)?;
        return world.checked(&facts(&args.enrich, &origin, proxy.as_ref(), authorization.as_ref()));
    }
    let limits = HttpLimits {
        timeout: args.enrich.timeout.min(LONGEST_REQUEST),
        body: LONGEST_BODY,
        connections: args.enrich.concurrency,
    };
    let work = Work {
        transport: Arc::new(Http::new(&tls, proxies, limits)),
        origin,
        with_secrets: args.enrich.with_secrets,
        wake: world.wake.clone(),
    };
    let diagnostics = world.diagnostics.clone();
    let workers = Workers::start(args.enrich.concurrency, work, authorization, args.auth, diagnostics.clone());
    let workers = workers.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    pump(world, &mut Enrich::new(&args.enrich, workers, diagnostics), &args.pump)
}

/// A request takes no longer, however long an event may wait: what the vendor's own HAProxy allowed.
const LONGEST_REQUEST: Duration = Duration::from_secs(15);

/// The API's scheme, host and port, and a path before `/api/` that is lost.
fn origin(url: Option<&str>) -> Result<(Address, Option<String>), String> {
    let (name, url) = if let Some(url) = url {
        ("--url", url.to_owned())
    } else if let Some(url) = variable("TUTUM_BASE_URL") {
        ("TUTUM_BASE_URL", url)
    } else if let Some(host) = variable("TUTUM_REST_HOST") {
        ("TUTUM_REST_HOST", if host.contains("://") { host } else { format!("https://{host}") })
    } else {
        return Err(
            "--url: missing: say where a compatible REST API is, such as tutum-serve; the hosted service is gone"
                .to_owned(),
        );
    };
    let address = Address::parse(&url, &["https", "http"]).map_err(|reason| format!("{name}: {reason}"))?;
    if address.query.is_some() {
        return Err(format!("{name}: expected no query: credentials come from a file or the environment"));
    }
    let path = format!("{}/", address.path.trim_end_matches('/'));
    let prefix = match path.find("/api/") {
        Some(at) => &path[..at],
        None if path == "/" => "",
        None => return Err(format!("{name}: expected scheme and host, or a base that ends in /api/v1/")),
    };
    let dropped = (!prefix.is_empty()).then(|| prefix.to_owned());
    Ok((address.with_path("/"), dropped))
}

fn facts(
    args: &EnrichArgs,
    origin: &Address,
    proxy: Option<&Proxy>,
    authorization: Option<&Authorization>,
) -> Vec<String> {
    let way = proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    let who = match authorization {
        None => "without credentials".to_owned(),
        Some(Authorization::User { name, .. }) => format!("as user {name}"),
        Some(Authorization::Header(_)) => "with a complete Authorization header".to_owned(),
    };
    vec![
        format!("would ask {origin}{way} {who}, {} requests at once", args.concurrency),
        format!(
            "would hold an event for {} at most, and use an answer for {}",
            show_duration(args.timeout),
            show_duration(args.ttl)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_linted() {
        PROGRAM.lint();
    }

    #[test]
    fn a_url_is_a_host_or_a_base() {
        let shown = |url| origin(Some(url)).map(|(address, dropped)| (address.origin(), dropped));
        for url in
            ["https://h:1", "https://h:1/", "https://h:1/api/v1", "https://h:1/api/v1/", "https://h:1/api/app/v1/"]
        {
            assert_eq!(shown(url), Ok(("https://h:1".to_owned(), None)), "{url}");
        }
        assert_eq!(shown("http://h/gate/api/v1/"), Ok(("http://h".to_owned(), Some("/gate".to_owned()))));
        for (url, reason) in [
            ("wss://h", "--url: expected a URL that begins with https:// or http://"),
            ("h", "--url: expected a URL that begins with https:// or http://"),
            ("https://h/elsewhere", "--url: expected scheme and host, or a base that ends in /api/v1/"),
            ("https://h/?token=x", "--url: expected no query: credentials come from a file or the environment"),
        ] {
            assert_eq!(shown(url), Err(reason.to_owned()));
        }
    }
}
