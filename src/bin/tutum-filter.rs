//! tutum-filter: its flags and its wiring.

use std::process::ExitCode;

use tutum::cli::table::{Flag, Program, Section, Set, store, words};
use tutum::filter::select::{Select, SelectArgs};
use tutum::flow::pump::{self, PumpArgs, pump};
use tutum::model::exit::{Exit, Failure};
use tutum::model::json::Pointer;
use tutum::model::predicate::{Glob, Group, Parent, Test};
use tutum::world::World;

#[derive(Default)]
struct Args {
    select: SelectArgs,
    pump: PumpArgs,
}

impl AsMut<PumpArgs> for Args {
    fn as_mut(&mut self) -> &mut PumpArgs {
        &mut self.pump
    }
}

impl Args {
    fn ask(&mut self, test: Test) -> Result<(), String> {
        self.select.predicate.add(test);
        Ok(())
    }
}

const PROGRAM: Program<Args> = Program {
    name: "tutum-filter",
    about: "pass on the events you ask for",
    operands: "",
    operand: None,
    description: "\
Reads events, one JSON object a line, and writes those that match, byte for byte as they came. Without a predicate everything passes.

Within a flag's list, and when a flag is repeated: or. Between flags: and. --or starts an alternative group; --except starts a group whose \
matches are dropped from all that the groups before it let through. Words are compared without regard to case; in a GLOB, * stands for any text and ? for one character.",
    sections: &[
        Section {
            title: "Predicates",
            flags: &[
                Flag {
                    spec: "-t, --type LIST",
                    help: "the event's type is one of these, e.g. service,stack",
                    set: Set::Value(|a, v| a.ask(Test::Kind(words(v)?))),
                },
                Flag {
                    spec: "-a, --action LIST",
                    help: "the event's action is one of these: create, update, delete",
                    set: Set::Value(|a, v| a.ask(Test::Action(words(v)?))),
                },
                Flag {
                    spec: "-s, --state LIST",
                    help: "the event's state is one of these, e.g. \"Not running\",Stopped",
                    set: Set::Value(|a, v| a.ask(Test::State(words(v)?))),
                },
                Flag {
                    spec: "-u, --uri GLOB",
                    help: "the event's resource_uri matches, e.g. '/api/v1/node/*'",
                    set: Set::Value(|a, v| a.ask(Test::Uri(vec![Glob::new(v)]))),
                },
                Flag {
                    spec: "-p, --parent GLOB",
                    help: "some parent's path matches. A bare word such as service means a parent of that type, a bare id that very object",
                    set: Set::Value(|a, v| a.ask(Test::Parent(vec![Parent::parse(v)]))),
                },
                Flag {
                    spec: "-w, --where POINTER[=GLOB]",
                    help: "the value at a JSON pointer matches, or is there at all, e.g. '/resource/name=web-*'. Numbers and others are compared as they are written",
                    set: Set::Value(|a, v| {
                        let (pointer, glob) = match v.split_once('=') {
                            Some((pointer, glob)) => (pointer, Some(Glob::new(glob))),
                            None => (v, None),
                        };
                        a.ask(Test::Where(Pointer::parse(pointer)?, glob))
                    }),
                },
                Flag {
                    spec: "--or",
                    help: "start an alternative group of predicates",
                    set: Set::Switch(|a| a.select.predicate.group(Group::Keep)),
                },
                Flag {
                    spec: "--except",
                    help: "start a group whose matches are dropped",
                    set: Set::Switch(|a| a.select.predicate.group(Group::Except)),
                },
                Flag {
                    spec: "--lifecycle",
                    help: "let the source's own records (open, close, gap ...) through whatever else is asked",
                    set: Set::Switch(|a| a.select.predicate.lifecycle = true),
                },
            ],
        },
        Section {
            title: "Output",
            flags: &[
                Flag {
                    spec: "-c, --count",
                    help: "print the number of matches instead, at the end",
                    set: Set::Switch(|a| a.select.count = true),
                },
                Flag {
                    spec: "--exit-status",
                    help: "exit 1 when nothing passed",
                    set: Set::Switch(|a| a.select.exit_status = true),
                },
                Flag {
                    spec: "-n, --max-events N",
                    help: "end after N events. Lifecycle records do not count",
                    set: Set::Value(|a, v| store(&mut a.select.max_events, v)),
                },
                Flag {
                    spec: "--key-tab POINTER",
                    help: "print the value at POINTER, a tab and the record, for kcat -P -K '\\t'",
                    set: Set::Value(|a, v| {
                        a.select.key_tab = Some(Pointer::parse(v)?);
                        Ok(())
                    }),
                },
            ],
        },
        Section { title: "Input", flags: &pump::flags() },
    ],
    environment: &[],
    examples: &[
        ("what happens to services, and to the stream itself", "tutum-stream | tutum-filter --lifecycle --type service"),
        (
            "unreachable nodes and failed actions, but not those of one service",
            "tutum-filter --type node --state Unreachable --or --type action --state Failed --except --parent 5b0f",
        ),
    ],
};

fn main() -> ExitCode {
    PROGRAM.main(run)
}

fn run(mut args: Args, world: &mut World) -> Result<Exit, Failure> {
    args.select.predicate.seal().map_err(Failure::usage)?;
    if world.check {
        pump::open_rejects(&args.pump)?;
        return world.checked(&["would read records from standard input and pass on those that match".to_owned()]);
    }
    pump(world, &mut Select::new(args.select), &args.pump)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_linted() {
        super::PROGRAM.lint();
    }
}
