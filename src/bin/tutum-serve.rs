//! tutum-serve: its flags and its wiring.

use std::process::ExitCode;

use tutum::cli::table::{Flag, Program, Section, Set, choice, store, store_size};
use tutum::flow::pump::{self, PumpArgs, pump};
use tutum::model::exit::{Exit, Failure};
use tutum::sink::serve::routes::AuthFailure;
use tutum::sink::serve::{Prepared, ServeArgs};
use tutum::world::World;

#[derive(Default)]
struct Args {
    serve: ServeArgs,
    pump: PumpArgs,
}

impl AsMut<PumpArgs> for Args {
    fn as_mut(&mut self) -> &mut PumpArgs {
        &mut self.pump
    }
}

const PROGRAM: Program<Args> = Program {
    name: "tutum-serve",
    about: "serve the events on standard input as a Tutum Stream API and REST API",
    operands: "",
    operand: None,
    description: "\
Reads events, one JSON object a line, and passes each on to standard output byte for byte. Every event read is sent to all clients that are \
connected at that moment, and what it tells of its object can be read over REST. It is the inverse of tutum-stream, and stands in for the hosted \
service, which is gone. Where it listens is told on standard error; port 0 picks one.

The stream is at /v1/events (and at Docker Cloud's /api/audit/v1/[namespace/]events, with its filters type, object and parent): first comes \
{\"type\":\"auth\"}, then every event from then on. Records of type auth are passed on and not served. A client that falls behind by more than \
--client-buffer, or takes nothing for 30s, is closed with 1013; it never slows the others or the input. A page in a browser is let in only if it was loaded from this very server (Origin).

Objects are at /api/v1/<type>/ and /api/v1/<type>/<uuid>/, with or without the last slash (and at Docker Cloud's /api/app/v1/[namespace/]... and the like). An object \
is what tutum-enrich attached to its last event (\"resource\"), or what --resources loaded, with the state of the newest event; else what the events tell: uuid, resource_uri, \
state, parents, dates. Lists have Tutum's pages (limit 25, at most 1000, which limit=0 also means) and its documented filters; other parameters are ignored. A deleted object \
is Terminated, and a terminated one can be read for an hour. 100,000 objects (or 256 MiB of them) are kept; those not heard of for the longest time are forgotten first.

Credentials are a user's name and API key: --user or TUTUM_USER or TUTUM_USERNAME, and --token-file or TUTUM_APIKEY or TUTUM_TOKEN (in $CREDENTIALS_DIRECTORY or the \
environment). A client may show them as Authorization: Basic or ApiKey, or in the query as token and user, or as auth. Without an API key anyone who reaches a loopback address is let in, \
credential or not, and any other address is refused at the start (exit 2) unless --open says so. HUP reads the key again.

After the end of input it closes its output and serves on until TERM or INT, or ends if --exit was given. Then it accepts nobody, sends each client what it still has to get and closes it with 1001. \
Up to 256 connections are served at once, each answered request on one of its own.",
    sections: &[
        Section {
            title: "Server",
            flags: &[
                Flag {
                    spec: "-l, --listen ADDR:PORT",
                    help: "where to listen, 127.0.0.1:8765 by default. Port 0 picks one, which standard error tells. An address in use is exit 4",
                    set: Set::Value(|a, v| store(&mut a.serve.listen, v)),
                },
                Flag {
                    spec: "--tls-cert FILE",
                    help: "serve https and wss with the certificate in FILE (PEM, those above it after it). Needs --tls-key",
                    set: Set::Value(|a, v| store(&mut a.serve.tls_cert, v)),
                },
                Flag {
                    spec: "--tls-key FILE",
                    help: "the certificate's private key (PEM)",
                    set: Set::Value(|a, v| store(&mut a.serve.tls_key, v)),
                },
                Flag {
                    spec: "--client-buffer SIZE",
                    help: "what one client may fall behind, 8MiB by default. Clients that wait for the same events share the memory",
                    set: Set::Value(|a, v| store_size(&mut a.serve.client_buffer, v)),
                },
            ],
        },
        Section {
            title: "Credentials",
            flags: &[
                Flag {
                    spec: "--user NAME",
                    help: "the only user let in, else TUTUM_USER or TUTUM_USERNAME",
                    set: Set::Value(|a, v| store(&mut a.serve.user, v)),
                },
                Flag {
                    spec: "--token-file FILE",
                    help: "a file with that user's API key, else TUTUM_APIKEY or TUTUM_TOKEN",
                    set: Set::Value(|a, v| store(&mut a.serve.token_file, v)),
                },
                Flag {
                    spec: "--open",
                    help: "let anyone in, whatever the address",
                    set: Set::Switch(|a| a.serve.open = true),
                },
                Flag {
                    spec: "--auth-failure message|401",
                    help: "how a wrong credential is told on the stream, message by default. With message the connection opens, says UNAUTHORIZED and closes with 1008, as Tutum did; \
                           with 401 it does not open, as on Docker Cloud, whose path always answers so",
                    set: Set::Value(|a, v| {
                        choice(&mut a.serve.failure, &[("message", AuthFailure::Message), ("401", AuthFailure::Status)], v)
                    }),
                },
            ],
        },
        Section {
            title: "Events and objects",
            flags: &[
                Flag {
                    spec: "--resources FILE",
                    help: "objects to begin with: a JSON array of objects with a resource_uri, a list as the REST API answers it, or one object a line",
                    set: Set::Value(|a, v| store(&mut a.serve.resources, v)),
                },
                Flag {
                    spec: "--lifecycle",
                    help: "serve the source's own records (open, close, gap ...) too. They are passed on in any case",
                    set: Set::Switch(|a| a.serve.lifecycle = true),
                },
                Flag {
                    spec: "-r, --rate N/s",
                    help: "read no more than so many events a second (or N/m; a bare N is a second's), for demonstrations. TERM or INT then leaves the rest of the input unread",
                    set: Set::Value(|a, v| store(&mut a.serve.rate, v)),
                },
                Flag {
                    spec: "--exit",
                    help: "end once the input has ended and every client has everything. Nobody is waited for: with no client connected it ends at once",
                    set: Set::Switch(|a| a.serve.exit = true),
                },
            ],
        },
        Section { title: "Input", flags: &pump::flags() },
    ],
    environment: &[
        ("TUTUM_USER, TUTUM_APIKEY", "the user's name and API key that clients must show"),
        ("TUTUM_USERNAME, TUTUM_TOKEN", "the same under the tutorial's names"),
        ("CREDENTIALS_DIRECTORY", "systemd's LoadCredential=: files named like these variables, which come before them"),
    ],
    examples: &[
        ("a service to try things with, one event a second", "tutum-serve --rate 1 <events.ndjson"),
        (
            "one connection to the source, many clients on this network",
            "tutum-stream | tutum-enrich | tutum-serve --listen 0.0.0.0:8765 --user jo --token-file key >events.ndjson",
        ),
        ("listen to it", "tutum-stream --url ws://127.0.0.1:8765"),
    ],
};

fn main() -> ExitCode {
    PROGRAM.main(run)
}

fn run(args: Args, world: &mut World) -> Result<Exit, Failure> {
    let prepared = Prepared::new(args.serve, world.clock.now())?;
    pump::open_rejects(&args.pump)?;
    if world.check {
        return world.checked(&prepared.facts());
    }
    let mut serve = prepared.listen(world)?;
    let ended = pump(world, &mut serve, &args.pump);
    serve.say_goodbye(world);
    ended
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_linted() {
        super::PROGRAM.lint();
    }
}
