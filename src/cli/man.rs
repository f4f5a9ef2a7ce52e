//! The man page, from the same table.

use super::help;
use super::program::{COMMON, VERSION};
use super::table::{Flag, Program};
use crate::model::exit::Exit;

/// The page in roff, section 1.
pub fn page<A>(program: &Program<A>) -> String {
    let name = program.name;
    let mut page = format!(".TH {} 1 \"\" \"tutum {VERSION}\" \"tutum\"\n", name.to_uppercase().replace('-', "\\-"));
    page += &format!(".SH NAME\n{} \\- {}\n", roff(name), roff(program.about));
    page += &format!(
        ".SH SYNOPSIS\n.B {}\n{}\n",
        roff(name),
        roff(help::usage(program).strip_prefix(name).unwrap_or("").trim())
    );
    if !program.description.is_empty() {
        page += ".SH DESCRIPTION\n";
        for paragraph in program.description.split("\n\n") {
            page += ".PP\n";
            for line in paragraph.lines() {
                // An indented line is an example: it keeps its shape.
                match line.strip_prefix(' ') {
                    Some(example) => page += &format!(".RS\n.nf\n{}\n.fi\n.RE\n", roff(example.trim_start())),
                    None => page += &format!("{}\n", roff(line)),
                }
            }
        }
    }
    for section in program.sections {
        page += &format!(".SH {}\n", quoted(&section.title.to_uppercase()));
        section.flags.iter().for_each(|flag| page += &entry(flag));
    }
    page += ".SH \"FLAGS OF EVERY PROGRAM\"\n";
    COMMON.iter().for_each(|flag| page += &entry(flag));
    if !program.environment.is_empty() {
        page += ".SH ENVIRONMENT\n";
        for (variable, meaning) in program.environment {
            page += &format!(".TP\n.B {}\n{}\n", roff(variable), roff(meaning));
        }
    }
    page += ".SH \"EXIT STATUS\"\n";
    for (exit, meaning, advice) in Exit::TABLE {
        let advice = if advice.is_empty() { String::new() } else { format!(" (a supervisor should {advice})") };
        page += &format!(".TP\n.B {}\n{}\n", exit.code(), roff(&format!("{meaning}{advice}")));
    }
    if !program.examples.is_empty() {
        page += ".SH EXAMPLES\n";
        for (what, command) in program.examples {
            page += &format!(".PP\n{}:\n.PP\n.RS\n.nf\n{}\n.fi\n.RE\n", roff(what), roff(command));
        }
    }
    page
}

fn entry<A>(flag: &Flag<A>) -> String {
    let (names, value) = match flag.value() {
        Some(value) => {
            (flag.spec.strip_suffix(value).unwrap_or(flag.spec).trim_end(), format!(" \\fI{}\\fR", roff(value)))
        }
        None => (flag.spec, String::new()),
    };
    format!(".TP\n\\fB{}\\fR{value}\n{}.\n", roff(names), roff(flag.help))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", roff(text))
}

/// Escapes what roff would read as its own: backslashes, hyphens that must be copied as typed, a control character that begins a line.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq");
    let lines =
        escaped.lines().map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}
