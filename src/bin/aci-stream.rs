//! aci-stream: its flags and its wiring.

use std::process::ExitCode;

use tutum::cli::table::{Flag, Program, Section, Set, choice, store, words};
use tutum::flow::connection::{self, ConnectionArgs, keep_connected};
use tutum::model::exit::{Exit, Failure};
use tutum::source::aci::target::{Reach, Target, class};
use tutum::source::aci::{Aci, AciArgs};
use tutum::world::World;
use tutum::world::proxy::{PROXY_ENVIRONMENT, Proxies};
use tutum::world::tls::{self, Tls, TlsArgs};

#[derive(Default)]
struct Args {
    aci: AciArgs,
    connection: ConnectionArgs,
    tls: TlsArgs,
}

impl AsMut<ConnectionArgs> for Args {
    fn as_mut(&mut self) -> &mut ConnectionArgs {
        &mut self.connection
    }
}

impl AsMut<TlsArgs> for Args {
    fn as_mut(&mut self) -> &mut TlsArgs {
        &mut self.tls
    }
}

const PROGRAM: Program<Args> = Program {
    name: "aci-stream",
    about: "stay connected to a Cisco APIC and print every event of classes and managed objects",
    operands: "CLASS|DN...",
    operand: Some(|a, v| {
        let target = Target::parse(v)?;
        if a.aci.targets.contains(&target) {
            return Err("once is enough".to_owned());
        }
        a.aci.targets.push(target);
        Ok(())
    }),
    description: "\
Logs in to an APIC, opens its event socket, subscribes to every class (fvTenant) and managed object (uni/tn-common) that is named, and prints what is created, modified or deleted, one \
JSON object a line, in the shape of the suite's events: type is the class, action create, update or delete, resource_uri the object's place in the REST API, parents the places of those above it, \
state its operSt, lc or severity, and attributes what the APIC sent: of a modification only what has changed, of a deletion only the name. An event that belongs to several subscriptions comes once.

The connection counts as open when everything is subscribed to, or when the first event comes; after an interruption a second gap then tells when everything was. At the start an unknown class or a filter with an error in it is exit 2 with the APIC's own words. What happens to the connection is told in the same \
stream, as records of the type \"stream\": open, close, error, and after an interruption gap, since an APIC sends nothing twice and nothing late. tutum-filter and the sinks understand them.

Every subscription lives for a minute unless it is refreshed, so each is every 20 seconds, and the session at half of its timeout. An APIC says nothing when a subscription has run out, so a refresh that fails is followed by \
another and then by a new subscription; if events may be missing meanwhile a gap says so. A session that is refused, or that can not be refreshed, is torn down and built up anew. A session lasts for a day at most: shortly before its \
end another one with its own socket and subscriptions is begun beside it, which then takes over without a gap, and no event comes twice. At the end it logs out.

Several APICs of one cluster are tried in turn, one at a time: events come only from the one connected to. Refused credentials are final (exit 3), after they were read again, since an APIC locks an account that is tried too often. \
TERM and INT end it in good order; HUP reads the credentials again and connects anew.

With --resync what changed during a gap is told from the answers to the new subscriptions: after the gap record, ordinary events with \"origin\":\"resync\" appended: create, update with the attributes that differ, and delete. \
Events that come meanwhile are printed as always, and are newer than the answers. States between the two ends of the gap cannot be recovered. Up to a million objects are remembered, as digests.

Under systemd (Type=notify, NotifyAccess=all) it is ready as soon as it begins to connect, tells the state of the connection as its status, and feeds the watchdog while its loop goes round, \
a slow reader notwithstanding.",
    sections: &[
        Section {
            title: "Server",
            flags: &[Flag {
                spec: "--url URL[,URL...]",
                help: "the APIC, or all of a cluster in the order to try them, e.g. https://apic1.example.org; else APIC_URL. A repeated flag adds to the list",
                set: Set::Value(|a, v| {
                    a.aci.urls.extend(words(v)?);
                    Ok(())
                }),
            }],
        },
        Section {
            title: "Credentials",
            flags: &[
                Flag {
                    spec: "--user NAME",
                    help: "the user's name, else APIC_USER or APIC_LOGIN",
                    set: Set::Value(|a, v| store(&mut a.aci.user, v)),
                },
                Flag {
                    spec: "--password-file FILE",
                    help: "a file with the password, else APIC_PASSWORD in $CREDENTIALS_DIRECTORY or in the environment",
                    set: Set::Value(|a, v| store(&mut a.aci.password_file, v)),
                },
                Flag {
                    spec: "--domain NAME",
                    help: "the login domain, if it is not the default one",
                    set: Set::Value(|a, v| store(&mut a.aci.domain, v)),
                },
                Flag {
                    spec: "--signing-key FILE",
                    help: "sign every request with this RSA key (PEM) instead of using a password. Subscriptions with signed requests work as in Cisco's aci-containers, and Cisco documents them nowhere",
                    set: Set::Value(|a, v| store(&mut a.aci.signing_key, v)),
                },
                Flag {
                    spec: "--signing-cert NAME",
                    help: "the name of the user's certificate on the APIC, or all of uni/userext/user-NAME/usercert-NAME",
                    set: Set::Value(|a, v| store(&mut a.aci.signing_cert, v)),
                },
            ],
        },
        Section {
            title: "Subscriptions",
            flags: &[
                Flag {
                    spec: "--query-target self|children|subtree",
                    help: "how far below each target to go, self by default",
                    set: Set::Value(|a, v| choice(&mut a.aci.query.reach, &Reach::CHOICES, v)),
                },
                Flag {
                    spec: "--subtree-class CLASS[,CLASS...]",
                    help: "of what --query-target reaches, only these classes (target-subtree-class)",
                    set: Set::Value(|a, v| {
                        for word in words(v)? {
                            a.aci.query.classes.push(class(&word)?);
                        }
                        Ok(())
                    }),
                },
                Flag {
                    spec: "--filter EXPRESSION",
                    help: "only objects this holds for, in the APIC's language (query-target-filter), e.g. eq(faultInst.severity,\"critical\")",
                    set: Set::Value(|a, v| store(&mut a.aci.query.filter, v)),
                },
                Flag {
                    spec: "--subscription-life DURATION",
                    help: "ask for subscriptions that live so long without a refresh (refresh-timeout), 60s by default; each is refreshed every third of it",
                    set: Set::Value(|a, v| store(&mut a.aci.query.life, v)),
                },
            ],
        },
        Section { title: "Connection", flags: &connection::link_flags() },
        Section {
            title: "What was missed",
            flags: &[
                Flag {
                    spec: "--resync",
                    help: "after every gap compare what there is with what was last seen, and print what changed as events with \"origin\":\"resync\". \
                           The start only learns what there is. The gap record then says \"resync\":true; states in between cannot be recovered",
                    set: Set::Switch(|a| a.aci.resync = true),
                },
                Flag {
                    spec: "--snapshot",
                    help: "at the start print everything there is as updates with \"origin\":\"snapshot\"",
                    set: Set::Switch(|a| a.aci.snapshot = true),
                },
            ],
        },
        Section { title: "TLS", flags: &tls::flags() },
        Section {
            title: "Format",
            flags: &[Flag {
                spec: "--raw",
                help: "leave the APIC's bytes alone: one message a line, in its own shape, also if it comes twice. Only line breaks between values still go",
                set: Set::Switch(|a| a.aci.raw = true),
            }],
        },
        Section { title: "Output", flags: &connection::output_flags() },
    ],
    environment: &ENVIRONMENT,
    examples: &[
        (
            "tell the chat which tenants and application profiles are deleted",
            "aci-stream --url https://apic.example.org --user watcher fvTenant fvAp | tutum-filter --action delete | to-slack",
        ),
        (
            "page about critical faults, whichever APIC of the cluster is up",
            "aci-stream --url https://apic1,https://apic2,https://apic3 --filter 'eq(faultInst.severity,\"critical\")' faultInst | to-pagerduty --event trigger --state alerts.json",
        ),
        (
            "everything below a tenant, indexed",
            "aci-stream --query-target subtree --resync uni/tn-common | to-elasticsearch --data-stream aci-events",
        ),
    ],
};

const ENVIRONMENT: [(&str, &str); 7] = {
    let [own_proxy, any_proxy, no_proxy] = PROXY_ENVIRONMENT;
    [
        ("APIC_URL", "the APICs, if --url is not given"),
        ("APIC_USER, APIC_LOGIN", "the user's name, if --user is not given"),
        ("APIC_PASSWORD", "the password, if --password-file is not given"),
        (
            "NOTIFY_SOCKET, WATCHDOG_USEC",
            "set by systemd, which is then told how it goes (sd_notify); WATCHDOG_PID is ignored, since in a pipeline it is the shell's",
        ),
        own_proxy,
        any_proxy,
        no_proxy,
    ]
};

fn main() -> ExitCode {
    PROGRAM.main(run)
}

fn run(mut args: Args, world: &mut World) -> Result<Exit, Failure> {
    args.connection.check()?;
    args.aci.check()?;
    // The login, and the socket.
    args.connection.round_trips = 2;
    let bases = args.aci.bases()?;
    let tls = Tls::load(&args.tls).map_err(Failure::usage)?;
    for base in &bases {
        if let Some(proxy) = Proxies::from_environment().find(base).map_err(Failure::usage)? {
            proxy.announce(base, &world.diagnostics);
        }
        if !base.is_secure() && !base.is_loopback() {
            world
                .diagnostics
                .warn(&format!("{base}: http is not encrypted: anyone on the way can read the credentials"));
        }
    }
    if args.tls.insecure {
        world.diagnostics.warn("--insecure: the server's certificate is not verified");
    }
    let timeout = args.connection.timeout;
    let mut source = Aci::new(args.aci, bases, tls, timeout, &world.wake, world.diagnostics.clone())?;
    if world.check {
        return world.checked(&source.plan());
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
