//! tutum-stream: its flags and its wiring.

use std::process::ExitCode;

use tutum::cli::table::{Flag, Program, Section, Set, choice, store};
use tutum::flow::connection::{self, ConnectionArgs, Protocol as _, keep_connected};
use tutum::model::exit::{Exit, Failure};
use tutum::source::resync::{self, Resync, ResyncArgs, Threads, rest_base};
use tutum::source::tutum::{AuthForm, Dialect, Logged, Stream, Tutum, TutumArgs, stream_address};
use tutum::world::World;
use tutum::world::credentials::{self, DOCKER_CLOUD_ENVIRONMENT, TUTUM_ENVIRONMENT, TutumAuthArgs};
use tutum::world::proxy::{PROXY_ENVIRONMENT, Proxies};
use tutum::world::tls::{self, Tls, TlsArgs};

#[derive(Default)]
struct Args {
    words: Vec<String>,
    tail: Option<u64>,
    no_follow: bool,
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
    operands: "[events | logs container|service|action UUID]",
    operand: Some(|a, v| {
        check_word(&a.words, v)?;
        a.words.push(v.to_owned());
        Ok(())
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

With logs it prints the log of one container, service or action instead, one record a message. A log is not resumed: a connection that is lost is code 4, and with --no-follow a server that \
closes in good order has sent everything, which is code 0.

Under systemd (Type=notify, NotifyAccess=all) it is ready as soon as it begins to connect, tells the state of the connection as its status, and feeds the watchdog while its loop goes round, \
a slow reader notwithstanding.

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
                    spec: "--dialect tutum|dockercloud",
                    help: "whose paths, variables and credentials hold, tutum by default. Docker Cloud is what Tutum became; its base ends in /api/audit/v1/",
                    set: Set::Value(|a, v| choice(&mut a.tutum.dialect, &Dialect::CHOICES, v)),
                },
                Flag {
                    spec: "--namespace NAME",
                    help: "with --dialect dockercloud: an organisation's events instead of one's own, else DOCKERCLOUD_NAMESPACE",
                    set: Set::Value(|a, v| store(&mut a.tutum.namespace, v)),
                },
                Flag {
                    spec: "--auth header|query",
                    help: "where the credentials go, header by default. A query may end up in a server's logs",
                    set: Set::Value(|a, v| choice(&mut a.tutum.auth, &AuthForm::CHOICES, v)),
                },
            ],
        },
        Section {
            title: "Logs",
            flags: &[
                Flag {
                    spec: "--tail N",
                    help: "begin with the last N messages, 300 by default",
                    set: Set::Value(|a, v| store(&mut a.tail, v)),
                },
                Flag {
                    spec: "--no-follow",
                    help: "end after what is logged already, instead of waiting for more",
                    set: Set::Switch(|a| a.no_follow = true),
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
        ("what a container has logged", "tutum-stream logs container 7d1c0e6e-3f2b-4c55-9a53-0c9f5c0a1b11 --no-follow"),
        (
            "tell a dead man's switch every minute that server, connection and pipeline are alive; it calls somebody when that stops",
            "tutum-stream --heartbeat 1m | tutum-filter --type stream --action heartbeat | while read -r beat; do curl -fsS -m 10 -o /dev/null \"$SWITCH_URL\"; done",
        ),
    ],
};

const ENVIRONMENT: [(&str, &str); 16] = {
    let [auth, apikey, token, pass, home] = TUTUM_ENVIRONMENT;
    let [own_proxy, any_proxy, no_proxy] = PROXY_ENVIRONMENT;
    let [cloud_auth, cloud_user] = DOCKER_CLOUD_ENVIRONMENT;
    [
        ("TUTUM_STREAM_URL", "the server, with /v1/ at the end, if --url is not given"),
        ("TUTUM_STREAM_HOST", "the server, scheme and host only, if neither is given"),
        ("TUTUM_BASE_URL, TUTUM_REST_HOST", "the REST API, if --rest-url is not given"),
        auth,
        apikey,
        token,
        pass,
        home,
        ("DOCKERCLOUD_STREAM_HOST", "with --dialect dockercloud, the server if --url is not given"),
        ("DOCKERCLOUD_NAMESPACE", "with --dialect dockercloud, the namespace if --namespace is not given"),
        cloud_auth,
        cloud_user,
        (
            "NOTIFY_SOCKET, WATCHDOG_USEC",
            "set by systemd, which is then told how it goes (sd_notify); WATCHDOG_PID is ignored, since in a pipeline it is the shell's",
        ),
        own_proxy,
        any_proxy,
        no_proxy,
    ]
};

/// Whether `word` can follow the operands before it.
fn check_word(before: &[String], word: &str) -> Result<(), String> {
    match (before, word) {
        ([], "events" | "logs") => Ok(()),
        ([], _) => Err("no such stream; there are: events, logs".to_owned()),
        ([logs], word) if logs == "logs" => choice(&mut { Logged::Container }, &Logged::CHOICES, word),
        ([logs, _], uuid) if logs == "logs" => {
            let fits = !uuid.is_empty() && uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if fits { Ok(()) } else { Err("expected a UUID".to_owned()) }
        }
        ([events], "events") if events == "events" => Err("once is enough".to_owned()),
        _ => Err("nothing more is expected".to_owned()),
    }
}

/// The stream that the operands and the flags for logs ask for.
fn stream(args: &Args) -> Result<Stream, Failure> {
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["events"] if args.tail.is_some() => Err(Failure::usage("--tail: only logs have one")),
        [] | ["events"] if args.no_follow => Err(Failure::usage("--no-follow: only logs have an end")),
        ["logs", of, uuid] => {
            let mut logged = Logged::Container;
            choice(&mut logged, &Logged::CHOICES, of).map_err(Failure::usage)?;
            let tail = args.tail.unwrap_or(300);
            Ok(Stream::Logs { of: logged, uuid: uuid.to_owned(), tail, follow: !args.no_follow })
        }
        ["logs", ..] => Err(Failure::usage("logs: expected container, service or action, and a UUID")),
        _ => Ok(Stream::Events),
    }
}

fn main() -> ExitCode {
    PROGRAM.main(run)
}

fn run(mut args: Args, world: &mut World) -> Result<Exit, Failure> {
    args.connection.check()?;
    args.resync.check()?;
    let stream = stream(&args)?;
    if let Stream::Logs { follow, .. } = stream {
        if args.connection.hold_on_auth.is_some() {
            return Err(Failure::usage("--hold-on-auth: a log is connected to once"));
        }
        // Connecting anew would repeat what the tail holds; whoever supervises it decides.
        args.connection.once = true;
        args.connection.finite = !follow;
    }
    let address = stream_address(&args.tutum, &stream)?;
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
