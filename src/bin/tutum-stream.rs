//! tutum-stream: its flags and its wiring.

use std::process::ExitCode;

use tutum::cli::table::{Flag, Program, Section, Set, choice, store};
use tutum::flow::connection::{self, ConnectionArgs, Protocol as _, keep_connected};
use tutum::model::exit::{Exit, Failure};
use tutum::source::resync::{self, Resync, ResyncArgs, Threads, rest_base};
use tutum::source::tutum::{AuthForm, Tutum, TutumArgs, events_address};
use tutum::world::World;
use tutum::world::credentials::{self, TUTUM_ENVIRONMENT, TutumAuthArgs};
use tutum::world::proxy::{PROXY_ENVIRONMENT, Proxies};
use tutum::world::tls::{self, Tls, TlsArgs};

#[derive(Default)]
struct Args {
    stream: Option<()>,
    tutum: TutumArgs,
    auth: TutumAuthArgs,
    connection: ConnectionArgs,
    tls: TlsArgs,
    resync: ResyncArgs,
}

impl AsMut<ConnectionArgs> for Args {
    fn as_mut(&mut self) -> &mut ConnectionArgs {
        &mut self.connection
    }
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

impl AsMut<ResyncArgs> for Args {
    fn as_mut(&mut self) -> &mut ResyncArgs {
        &mut self.resync
    }
}

const PROGRAM: Program<Args> = Program {
    name: "tutum-stream",
    about: "stay connected to a Tutum Stream API and print every event",
    operands: "[events]",
    operand: Some(|a, v| match (v, a.stream) {
        ("events", None) => {
            a.stream = Some(());
            Ok(())
        }
        ("events", Some(())) => Err("once is enough".to_owned()),
        _ => Err("no such stream; there is: events".to_owned()),
    }),
    description: "\
Connects to the stream of events and prints every message as it came, one JSON object a line, with received_at appended. When the connection is lost \
it connects again, for ever, with growing waits. What happens to the connection itself is told in the same stream, as records of the type \"stream\": \
open, close, error, and after an interruption gap, since events sent meanwhile are lost. tutum-filter and the sinks understand them.

A connection counts as open when the first message came, not before. Refused credentials are final, after they were read again. TERM and INT end it in good order; HUP reads the \
credentials again and connects anew. A message that is no JSON object is a diagnostic and is counted, nothing more; the exit code does not remember it.

With --resync what changed during a gap is asked for over REST: after the gap record every stack, service, container, node cluster and node is listed, with the same \
credentials, and so is every action begun since. What differs from what was last seen is printed as ordinary events with \"origin\":\"resync\" appended: create, update, or delete with the state \
Terminated, and only if the object's own address confirms that it is gone. Events that come meanwhile are printed as always, and an object's event wins over the list. States between the two ends of \
the gap cannot be recovered. If the API does not answer, that is a diagnostic and a record (error, Failed), and it is tried again every five minutes and at the next gap. With --state a restart is such a gap too; \
the file never claims more than the reader was given, so that after a crash a change may be told twice, but never not at all. Up to 100,000 objects and 10,000 actions are remembered.

Notices (user-notifications) that the server repeats after a reconnect are left out if they were printed within the last minute.

The hosted service is gone, so a server must be named; tutum-serve is one.",
    sections: &[
        Section {
            title: "Server",
            flags: &[
                Flag {
                    spec: "--url URL",
                    help: "the server, e.g. wss://stream.example.org, or a base that ends in /v1/. Use ws:// only on this machine or in a trusted network",
                    set: Set::Value(|a, v| store(&mut a.tutum.url, v)),
                },
                Flag {
                    spec: "--auth header|query",
                    help: "where the credentials go, header by default. A query may end up in a server's logs",
                    set: Set::Value(|a, v| choice(&mut a.tutum.auth, &AuthForm::CHOICES, v)),
                },
            ],
        },
        Section { title: "Credentials", flags: &credentials::tutum_flags() },
        Section { title: "Connection", flags: &connection::link_flags() },
        Section { title: "What was missed", flags: &resync::flags() },
        Section { title: "TLS", flags: &tls::flags() },
        Section {
            title: "Format",
            flags: &[Flag {
                spec: "--raw",
                help: "leave the server's bytes alone: append no received_at. Only line breaks between values still go",
                set: Set::Switch(|a| a.tutum.raw = true),
            }],
        },
        Section { title: "Output", flags: &connection::output_flags() },
    ],
    environment: &ENVIRONMENT,
    examples: &[
        ("everything that happens, until Ctrl-C", "tutum-stream --url wss://stream.example.org"),
        (
            "what happens to services, and to the stream itself",
            "tutum-stream --url wss://stream.example.org | tutum-filter --lifecycle --type service",
        ),
        (
            "never miss a change, not even across a restart",
            "tutum-stream --url wss://stream.example.org --resync --state /var/lib/tutum/state",
        ),
        ("one event, within a minute", "tutum-stream --no-lifecycle --max-events 1 --for 1m"),
    ],
};

const ENVIRONMENT: [(&str, &str); 11] = {
    let [auth, apikey, token, pass, home] = TUTUM_ENVIRONMENT;
    let [own_proxy, any_proxy, no_proxy] = PROXY_ENVIRONMENT;
    [
        ("TUTUM_STREAM_URL", "the server, with /v1/ at the end, if --url is not given"),
        ("TUTUM_STREAM_HOST", "the server, scheme and host only, if neither is given"),
        ("TUTUM_BASE_URL, TUTUM_REST_HOST", "the REST API, if --rest-url is not given"),
        auth,
        apikey,
        token,
        pass,
        home,
        own_proxy,
        any_proxy,
        no_proxy,
    ]
};

fn main() -> ExitCode {
    PROGRAM.main(run)
}

fn run(args: Args, world: &mut World) -> Result<Exit, Failure> {
    args.connection.check()?;
    args.resync.check()?;
    let address = events_address(args.tutum.url.as_deref())?;
    let tls = Tls::load(&args.tls).map_err(Failure::usage)?;
    let base = rest_base(args.resync.rest_url.as_deref(), &address)?;
    let proxy = Proxies::from_environment().find(&address).map_err(Failure::usage)?;
    if let Some(proxy) = &proxy {
        proxy.announce(&address, &world.diagnostics);
    }
    let mut source = Tutum::new(address, args.tutum, args.auth, tls.clone(), proxy, args.connection.timeout)?;
    if source.is_exposed() {
        world.diagnostics.warn("--url: ws:// is not encrypted: anyone on the way can read the credentials");
    }
    if args.tls.insecure {
        world.diagnostics.warn("--insecure: the server's certificate is not verified");
    }
    if args.resync.is_asked() && source.exposes(&base) {
        world.diagnostics.warn(&format!("{base}: http is not encrypted: anyone on the way can read the credentials"));
    }
    if world.check {
        let facts: Vec<String> =
            [Ok(source.plan())].into_iter().chain(args.resync.plan(&base)).collect::<Result<_, _>>()?;
        return world.checked(&facts);
    }
    if args.resync.is_asked() {
        let lister = Box::new(Threads::new(base, &tls, &world.wake));
        let (name, diagnostics) = (source.source(), world.diagnostics.clone());
        source.set_resync(Resync::new(args.resync, &name, lister, diagnostics, world.clock.now())?);
    }
    keep_connected(world, &mut source, &args.connection)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_linted() {
        super::PROGRAM.lint();
    }
}
