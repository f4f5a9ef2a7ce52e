//! The command line, read by the table.

use std::ffi::OsString;

use lexopt::Arg;

use super::program::{COMMON, Common};
use super::table::{Flag, Program, Set};

/// Reads the arguments after the program's name.
///
/// # Errors
/// Names the flag and the cause; never the value of a flag it does not know, which may be a secret.
pub fn parse<A: Default>(program: &Program<A>, arguments: Vec<OsString>) -> Result<(Common, A), String> {
    let (mut common, mut args) = (Common::default(), A::default());
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(|error| explain(&error))? {
        let name = match argument {
            Arg::Short(letter) => format!("-{letter}"),
            Arg::Long(name) => format!("--{name}"),
            Arg::Value(value) => {
                let operand = program.operand.ok_or_else(|| {
                    format!(
                        "{}: unexpected argument: {} takes its records from standard input",
                        value.to_string_lossy(),
                        program.name
                    )
                })?;
                let text = value.to_str().ok_or("an argument is not UTF-8")?;
                operand(&mut args, text).map_err(|reason| format!("{text}: {reason}"))?;
                continue;
            }
        };
        if let Some(flag) = find(&COMMON, &name) {
            apply(flag, &mut common, &name, &mut parser)?;
        } else if let Some(flag) = program.sections.iter().find_map(|section| find(section.flags, &name)) {
            apply(flag, &mut args, &name, &mut parser)?;
        } else {
            let known =
                COMMON.iter().map(Flag::long).chain(program.sections.iter().flat_map(|s| s.flags).map(Flag::long));
            return Err(unknown(&name, known));
        }
    }
    Ok((common, args))
}

fn find<'f, A>(flags: &'f [Flag<A>], name: &str) -> Option<&'f Flag<A>> {
    flags.iter().find(|flag| match name.strip_prefix("--") {
        Some(long) => flag.long() == long,
        None => flag.short() == name.chars().nth(1),
    })
}

fn apply<A>(flag: &Flag<A>, args: &mut A, name: &str, parser: &mut lexopt::Parser) -> Result<(), String> {
    match flag.set {
        Set::Switch(set) => {
            // What follows a short switch is the next one, as in -qv.
            if name.starts_with("--") && parser.optional_value().is_some() {
                return Err(format!("{name}: takes no value"));
            }
            set(args);
            Ok(())
        }
        Set::Value(set) => {
            let expected = flag.value().unwrap_or("VALUE");
            let value = parser.value().map_err(|_| format!("{name}: missing {expected}"))?;
            let value = value.to_str().ok_or_else(|| format!("{name}: the value is not UTF-8"))?;
            set(args, value).map_err(|reason| format!("{name}: {reason}"))
        }
    }
}

fn explain(error: &lexopt::Error) -> String {
    match error {
        lexopt::Error::UnexpectedValue { option, .. } => format!("{option}: takes no value"),
        lexopt::Error::MissingValue { option } => format!("{}: missing value", option.as_deref().unwrap_or("flag")),
        _ => "the arguments cannot be read".to_owned(),
    }
}

fn unknown(name: &str, known: impl Iterator<Item = &'static str>) -> String {
    let word = name.trim_start_matches('-');
    let near = known
        .filter(|known| word.len() > 2 && (known.starts_with(word) || distance(known, word) <= word.len() / 3))
        .min_by_key(|known| distance(known, word));
    match near {
        Some(near) => format!("{name}: unknown flag; did you mean --{near}?"),
        None => format!("{name}: unknown flag; --help lists them"),
    }
}

/// How many letters must change to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::table::{Section, store};
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Args {
        text: String,
        raw: bool,
        rest: Vec<String>,
    }

    const PROGRAM: Program<Args> = Program {
        name: "to-test",
        about: "be tested",
        operands: "[WORD...]",
        operand: Some(|args, word| {
            args.rest.push(word.to_owned());
            Ok(())
        }),
        description: "",
        sections: &[Section {
            title: "Message",
            flags: &[
                Flag {
                    spec: "-t, --text TEMPLATE",
                    help: "what to say",
                    set: Set::Value(|a, v| store(&mut a.text, v)),
                },
                Flag { spec: "--raw", help: "leave it alone", set: Set::Switch(|a| a.raw = true) },
            ],
        }],
        environment: &[],
        examples: &[],
    };

    fn parsed(line: &str) -> Result<(Common, Args), String> {
        parse(&PROGRAM, line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect())
    }

    #[test]
    fn both_spellings_of_a_value() {
        for line in ["--text x", "--text=x", "-t x", "-tx", "-t=x"] {
            assert_eq!(parsed(line).unwrap().1.text, "x", "{line}");
        }
        let (common, args) = parsed("-q --raw a -- --b").unwrap();
        assert!(common.quiet && args.raw);
        assert_eq!(args.rest, ["a", "--b"]);
        let (common, args) = parsed("-qvtx").unwrap();
        assert!(common.quiet && common.verbose && args.text == "x");
        assert_eq!(parsed("-q=x").unwrap_err(), "-q: takes no value");
    }

    #[test]
    fn an_error_names_the_flag_and_never_an_unknown_value() {
        for (line, reason) in [
            ("--text", "--text: missing TEMPLATE"),
            ("--raw=hunter22", "--raw: takes no value"),
            ("--tex x", "--tex: unknown flag; did you mean --text?"),
            ("--password=hunter22", "--password: unknown flag; --help lists them"),
            ("-z", "-z: unknown flag; --help lists them"),
        ] {
            assert_eq!(parsed(line).unwrap_err(), reason);
        }
    }

    #[test]
    fn the_table_is_linted() {
        PROGRAM.lint();
    }
}
