//! to-slack: its flags and its wiring.

use std::process::ExitCode;

use tutum::cli::table::{Flag, Program, Section, Set, store};
use tutum::flow::delivery::args::{self, DeliveryArgs};
use tutum::flow::delivery::run::{SinkArgs, run};
use tutum::flow::pump::{self, PumpArgs};
use tutum::sink::slack::{Slack, SlackArgs};
use tutum::world::proxy::PROXY_ENVIRONMENT;
use tutum::world::tls::{self, TlsArgs};

#[derive(Default)]
struct Args {
    slack: SlackArgs,
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
    name: "to-slack",
    about: "post each event to a Slack incoming webhook",
    operands: "",
    operand: None,
    description: "\
Reads events, posts each to a Slack incoming webhook, and writes each on as soon as it is queued, so that a slow Slack delays no other stage until the queue is full.

At most one message a second is sent, sustained; short bursts are allowed, and what comes faster is folded into one message with a count, the first lines and the newest \
states. A 429 never loses a message: Retry-After is obeyed. Values are escaped, so that no event can notify a channel. Records of type auth and heartbeats are passed on and not sent.

A TEMPLATE is Jinja over the record: {{ type }}, {{ resource.name }}, {{ received_at[:10] }}. What is not there prints as nothing.",
    sections: &[
        Section {
            title: "Message",
            flags: &[
                Flag {
                    spec: "--webhook-file FILE",
                    help: "a file with the webhook's URL, which is a secret, else SLACK_URL",
                    set: Set::Value(|a, v| store(&mut a.slack.webhook_file, v)),
                },
                Flag {
                    spec: "-t, --text TEMPLATE",
                    help: "what to say, instead of the tutorial's texts",
                    set: Set::Value(|a, v| store(&mut a.slack.text, v)),
                },
                Flag {
                    spec: "--text-file FILE",
                    help: "a file with the template",
                    set: Set::Value(|a, v| store(&mut a.slack.text_file, v)),
                },
                Flag {
                    spec: "--color",
                    help: "show a coloured bar by the event's state",
                    set: Set::Switch(|a| a.slack.color = true),
                },
                Flag {
                    spec: "--username NAME",
                    help: "the sender's name, for webhooks that honour it",
                    set: Set::Value(|a, v| store(&mut a.slack.username, v)),
                },
                Flag {
                    spec: "--icon ICON",
                    help: "the sender's picture, an emoji such as :whale: or a URL, for webhooks that honour it",
                    set: Set::Value(|a, v| store(&mut a.slack.icon, v)),
                },
                Flag {
                    spec: "--channel CHANNEL",
                    help: "the channel, for webhooks that honour it",
                    set: Set::Value(|a, v| store(&mut a.slack.channel, v)),
                },
                Flag {
                    spec: "--fold N",
                    help: "show N events in a folded message, 10 by default. It always counts all and tells the newest state of each object",
                    set: Set::Value(|a, v| store(&mut a.slack.fold, v)),
                },
                Flag {
                    spec: "--no-fold",
                    help: "give every event a message of its own, however long that takes",
                    set: Set::Switch(|a| a.slack.no_fold = true),
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
        ("what happens to services", "tutum-stream | tutum-filter --type service | tutum-enrich | to-slack"),
        ("your own words", "to-slack --text '*{{ resource.name }}* is now {{ state }}'"),
        ("see what would be sent", "to-slack --dry-run <recording.ndjson"),
    ],
};

const ENVIRONMENT: [(&str, &str); 5] = {
    let [own_proxy, any_proxy, no_proxy] = PROXY_ENVIRONMENT;
    [
        ("SLACK_URL", "the webhook's URL"),
        ("CREDENTIALS_DIRECTORY", "may hold it in a file slack-url (systemd's LoadCredential=)"),
        own_proxy,
        any_proxy,
        no_proxy,
    ]
};

fn main() -> ExitCode {
    PROGRAM.main(|args, world| {
        let slack = args.slack;
        run(|rehearsal, world| Slack::new(slack, rehearsal, &world.diagnostics), &args.sink, world)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_linted() {
        super::PROGRAM.lint();
    }
}
