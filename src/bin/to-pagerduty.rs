//! to-pagerduty: its flags and its wiring.

use std::process::ExitCode;

use tutum::cli::table::{Flag, Program, Section, Set, choice, store, words};
use tutum::flow::delivery::args::{self, DeliveryArgs};
use tutum::flow::delivery::run::{SinkArgs, run};
use tutum::flow::pump::{self, PumpArgs};
use tutum::sink::pagerduty::{Action, Api, PagerDuty, PagerDutyArgs};
use tutum::world::proxy::PROXY_ENVIRONMENT;
use tutum::world::tls::{self, TlsArgs};

#[derive(Default)]
struct Args {
    pagerduty: PagerDutyArgs,
    sink: SinkArgs,
}

impl AsMut<DeliveryArgs> for Args {
    fn as_mut(&mut self) -> &mut DeliveryArgs {
        &mut self.sink.delivery
    }
}

impl AsMut<PumpArgs> for Args {
    fn as_mut(&mut self) -> &mut PumpArgs {
        &mut self.sink.pump
    }
}

impl AsMut<TlsArgs> for Args {
    fn as_mut(&mut self) -> &mut TlsArgs {
        &mut self.sink.tls
    }
}

const PROGRAM: Program<Args> = Program {
    name: "to-pagerduty",
    about: "trigger and resolve PagerDuty alerts",
    operands: "",
    operand: None,
    description: "\
Reads events, triggers an alert for the bad ones, resolves it for the good ones, and writes each event on as soon as it is queued.

Bad: the stream closed, failed or was refused (for a minute); a node Unreachable; an action Failed; a container Stopped with an exit code that is not 0 (tutum-enrich \
knows it); a deletion, if --page-deletions asks for it. Good: the stream open; a node Deployed; a service, stack or container Running; an action's Success; anything \
Terminated. Everything else is passed on and not sent. A good state resolves only an alert that this program triggered (--state remembers them across restarts), or any with --resolve-unknown.

The dedup key is the object's resource_uri, for an action that of the object it applies to, for the stream --stream-key. Records of one key are sent in order; a key that must wait holds up no other.",
    sections: &[
        Section {
            title: "Alert",
            flags: &[
                Flag {
                    spec: "--key-file FILE",
                    help: "a file with the integration key, else PAGERDUTY_KEY",
                    set: Set::Value(|a, v| store(&mut a.pagerduty.key_file, v)),
                },
                Flag {
                    spec: "--event auto|trigger|acknowledge|resolve",
                    help: "what every event is sent as. The default, auto, goes by the event",
                    set: Set::Value(|a, v| {
                        let words = [
                            ("auto", None),
                            ("trigger", Some(Action::Trigger)),
                            ("acknowledge", Some(Action::Acknowledge)),
                            ("resolve", Some(Action::Resolve)),
                        ];
                        choice(&mut a.pagerduty.action, &words, v)
                    }),
                },
                Flag {
                    spec: "--trigger-after DURATION",
                    help: "hold a trigger so long, and send nothing if its resolve comes meanwhile. By default 60s for the stream's own, 0s for the rest. The end of input ends the wait",
                    set: Set::Value(|a, v| store(&mut a.pagerduty.trigger_after, v)),
                },
                Flag {
                    spec: "--page-deletions LIST",
                    help: "trigger when an object of these types is deleted, e.g. service,stack,node",
                    set: Set::Value(|a, v| {
                        a.pagerduty.page_deletions.extend(words(v)?);
                        Ok(())
                    }),
                },
                Flag {
                    spec: "--resolve-unknown",
                    help: "let a good state resolve even if no trigger of its key was seen",
                    set: Set::Switch(|a| a.pagerduty.resolve_unknown = true),
                },
                Flag {
                    spec: "--state FILE",
                    help: "remember the keys of open alerts in FILE across restarts. With --spool they are kept there by default",
                    set: Set::Value(|a, v| store(&mut a.pagerduty.state, v)),
                },
                Flag {
                    spec: "--dedup-key TEMPLATE",
                    help: "the alert's identity, instead of the object's. Beyond 255 characters its SHA-256 is sent",
                    set: Set::Value(|a, v| store(&mut a.pagerduty.dedup_key, v)),
                },
                Flag {
                    spec: "--stream-key KEY",
                    help: "the dedup key of the stream itself, tutum-stream by default. Give each source its own",
                    set: Set::Value(|a, v| store(&mut a.pagerduty.stream_key, v)),
                },
                Flag {
                    spec: "--summary TEMPLATE",
                    help: "what the alert says, cut at 1024 characters",
                    set: Set::Value(|a, v| store(&mut a.pagerduty.summary, v)),
                },
                Flag {
                    spec: "--severity critical|error|warning|info",
                    help: "the alert's severity. By default critical for the stream and nodes, error for the rest",
                    set: Set::Value(|a, v| {
                        let words = ["critical", "error", "warning", "info"].map(|word| (word, word));
                        let mut severity = "";
                        choice(&mut severity, &words, v)?;
                        a.pagerduty.severity = Some(severity.to_owned());
                        Ok(())
                    }),
                },
                Flag {
                    spec: "--client NAME",
                    help: "what is shown as the monitoring client, to-pagerduty by default",
                    set: Set::Value(|a, v| store(&mut a.pagerduty.client, v)),
                },
                Flag {
                    spec: "--client-url URL",
                    help: "the monitoring client's link",
                    set: Set::Value(|a, v| store(&mut a.pagerduty.client_url, v)),
                },
            ],
        },
        Section {
            title: "Service",
            flags: &[
                Flag {
                    spec: "--api v1|v2",
                    help: "the generation of the Events API, v2 by default. v1 is the tutorial's and needs a v1 key",
                    set: Set::Value(|a, v| choice(&mut a.pagerduty.api, &[("v1", Api::V1), ("v2", Api::V2)], v)),
                },
                Flag {
                    spec: "--region us|eu",
                    help: "the service region the key belongs to, us by default",
                    set: Set::Value(|a, v| choice(&mut a.pagerduty.eu, &[("us", false), ("eu", true)], v)),
                },
                Flag {
                    spec: "--url URL",
                    help: "the whole endpoint, instead",
                    set: Set::Value(|a, v| store(&mut a.pagerduty.url, v)),
                },
            ],
        },
        Section { title: "Delivery", flags: &args::flags() },
        Section { title: "Spool", flags: &args::spool_flags() },
        Section { title: "Input", flags: &pump::flags() },
        Section { title: "Network", flags: &tls::flags() },
    ],
    environment: &ENVIRONMENT,
    examples: &[
        ("page when the stream is down or a node is lost", "tutum-stream | tutum-enrich | to-pagerduty --state alerts.json"),
        ("pages that could not be sent go to Slack", "to-pagerduty --receipts | tutum-filter --where /status=dead | to-slack"),
    ],
};

const ENVIRONMENT: [(&str, &str); 5] = {
    let [own_proxy, any_proxy, no_proxy] = PROXY_ENVIRONMENT;
    [
        ("PAGERDUTY_KEY", "the integration key"),
        ("CREDENTIALS_DIRECTORY", "may hold it in a file pagerduty-key (systemd's LoadCredential=)"),
        own_proxy,
        any_proxy,
        no_proxy,
    ]
};

fn main() -> ExitCode {
    PROGRAM.main(|args, world| {
        let pagerduty = PagerDutyArgs { spool: args.sink.delivery.spool.clone(), ..args.pagerduty };
        run(|rehearsal, world| PagerDuty::new(pagerduty, rehearsal, &world.diagnostics), &args.sink, world)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_linted() {
        super::PROGRAM.lint();
    }
}
