//! to-elasticsearch: its flags and its wiring.

use std::process::ExitCode;

use tutum::cli::table::{Flag, Program, Section, Set, store};
use tutum::flow::delivery::args;
use tutum::flow::delivery::run::SinkCommand;
use tutum::flow::pump;
use tutum::sink::elasticsearch::{ElasticsearchArgs, run};
use tutum::world::proxy::PROXY_ENVIRONMENT;
use tutum::world::tls;

const PROGRAM: Program<SinkCommand<ElasticsearchArgs>> = Program {
    name: "to-elasticsearch",
    about: "index each event",
    operands: "",
    operand: None,
    description: "\
Reads events, indexes them in Elasticsearch (7, 8, 9) or OpenSearch, and writes each on as soon as it is queued.

Events go in batches to _bulk, each created under an id of its own: the event's uuid if it has one with a datetime, else a hash of the record. So a record that is sent twice is \
stored once, and two equal changes at different times are two documents. Every item of the answer is judged: what is stored already counts as delivered, what the server had no room \
for goes again, what it cannot map becomes a dead letter with its reason. @timestamp is the event's datetime, received_at, or the time it was taken.

The index is named by a template over the record. --index-template prints a mapping that suits these records (states and paths as keywords; objects of any shape kept but not \
indexed key by key, so that they cannot fill the mapping), --install-template puts it on the server, which must be Elasticsearch 7.8 or later or OpenSearch. A data stream needs it \
before the first event, unless a template of yours fits its name.

The credential needs create_doc on the target, auto_configure or create_index where the target does not exist yet, and manage_index_templates for --install-template. A missing \
privilege, an index that is missing and not made of itself, and a server that is elsewhere end the program with 3, the queue kept in the spool.",
    sections: &[
        Section {
            title: "Server",
            flags: &[
                Flag {
                    spec: "--url URL",
                    help: "the server, e.g. https://localhost:9200",
                    set: Set::Value(|a, v| store(&mut a.own.url, v)),
                },
                Flag {
                    spec: "--api-key-file FILE",
                    help: "a file with the API key, id:key or encoded, else ELASTICSEARCH_API_KEY",
                    set: Set::Value(|a, v| store(&mut a.own.api_key_file, v)),
                },
                Flag {
                    spec: "--user NAME",
                    help: "the user, instead of an API key",
                    set: Set::Value(|a, v| store(&mut a.own.user, v)),
                },
                Flag {
                    spec: "--password-file FILE",
                    help: "a file with the user's password, else ELASTICSEARCH_PASSWORD",
                    set: Set::Value(|a, v| store(&mut a.own.password_file, v)),
                },
            ],
        },
        Section {
            title: "Documents",
            flags: &[
                Flag {
                    spec: "--index TEMPLATE",
                    help: "the index's name, 'tutum-{{ received_at[:10] }}' by default: one a day",
                    set: Set::Value(|a, v| store(&mut a.own.index, v)),
                },
                Flag {
                    spec: "--data-stream NAME",
                    help: "the data stream, instead of an index",
                    set: Set::Value(|a, v| store(&mut a.own.data_stream, v)),
                },
                Flag {
                    spec: "--batch LIMITS",
                    help: "when a batch is sent, as a count, a size, a duration or a list of them. By default 500,5MiB,1s",
                    set: Set::Value(|a, v| a.own.batch.read(v)),
                },
                Flag {
                    spec: "--gzip",
                    help: "compress the requests, which is worth it over a slow line",
                    set: Set::Switch(|a| a.own.gzip = true),
                },
                Flag {
                    spec: "--index-template",
                    help: "print the index template and end",
                    set: Set::Switch(|a| a.own.print_template = true),
                },
                Flag {
                    spec: "--install-template",
                    help: "put the index template on the server and end. Its name is the part of the target's that is fixed, tutum by default",
                    set: Set::Switch(|a| a.own.install_template = true),
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
        ("everything into a data stream", "tutum-stream | tutum-enrich | to-elasticsearch --url https://localhost:9200 --data-stream tutum-events"),
        ("the template first", "to-elasticsearch --url https://localhost:9200 --data-stream tutum-events --install-template"),
    ],
};

const ENVIRONMENT: [(&str, &str); 6] = {
    let [own_proxy, any_proxy, no_proxy] = PROXY_ENVIRONMENT;
    [
        ("ELASTICSEARCH_API_KEY", "the API key"),
        ("ELASTICSEARCH_PASSWORD", "the password of --user"),
        (
            "CREDENTIALS_DIRECTORY",
            "may hold either in a file elasticsearch-api-key or elasticsearch-password (systemd's LoadCredential=)",
        ),
        own_proxy,
        any_proxy,
        no_proxy,
    ]
};

fn main() -> ExitCode {
    PROGRAM.main(|args, world| run(args.own, &args.sink, world))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_linted() {
        super::PROGRAM.lint();
    }
}
