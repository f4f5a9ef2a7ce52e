//! tutum-stream: its flags and its wiring.

use std::process::ExitCode;

use tutum::cli::table::{Flag, Program, Section, Set, choice, store};
use tutum::flow::connection::{self, ConnectionArgs, keep_connected};
use tutum::model::exit::{Exit, Failure};
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
        ("one event, within a minute", "tutum-stream --no-lifecycle --max-events 1 --for 1m"),
    ],
};

const ENVIRONMENT: [(&str, &str); 10] = {
    let [auth, apikey, token, pass, home] = TUTUM_ENVIRONMENT;
    let [own_proxy, any_proxy, no_proxy] = PROXY_ENVIRONMENT;
    [
        ("TUTUM_STREAM_URL", "the server, with /v1/ at the end, if --url is not given"),
        ("TUTUM_STREAM_HOST", "the server, scheme and host only, if neither is given"),
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
    let address = events_address(args.tutum.url.as_deref())?;
    let tls = Tls::load(&args.tls).map_err(Failure::usage)?;
    let proxy = Proxies::from_environment().find(&address).map_err(Failure::usage)?;
    if let Some(proxy) = &proxy {
        proxy.announce(&address, &world.diagnostics);
    }
    let mut source = Tutum::new(address, args.tutum, args.auth, tls, proxy, args.connection.timeout)?;
    if source.is_exposed() {
        world.diagnostics.warn("--url: ws:// is not encrypted: anyone on the way can read the credentials");
    }
    if args.tls.insecure {
        world.diagnostics.warn("--insecure: the server's certificate is not verified");
    }
    if world.check {
        return world.checked(&[source.plan()]);
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
