//! Completions for bash, zsh and fish, from the same table.

use super::program::COMMON;
use super::table::{Flag, Program};

/// What a completion needs to know of a flag.
struct Row {
    short: Option<char>,
    long: &'static str,
    value: Option<&'static str>,
    summary: &'static str,
}

impl Row {
    fn of<A>(flag: &Flag<A>) -> Row {
        let long = if flag.spec.contains("--") { flag.long() } else { "" };
        Row { short: flag.short(), long, value: flag.value(), summary: flag.summary() }
    }

    /// The words a value can be, if the table lists them.
    fn choices(&self) -> Option<Vec<&'static str>> {
        self.value.filter(|value| value.contains('|')).map(|value| value.split('|').collect())
    }

    fn takes_file(&self) -> bool {
        matches!(self.value, Some("FILE" | "DIR"))
    }
}

fn rows<A>(program: &Program<A>) -> Vec<Row> {
    let own = program.sections.iter().flat_map(|section| section.flags).map(Row::of);
    own.chain(COMMON.iter().map(Row::of)).collect()
}

/// A script for bash-completion.
pub fn bash<A>(program: &Program<A>) -> String {
    let rows = rows(program);
    let function = format!("_{}", program.name.replace('-', "_"));
    let flags: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            [row.short.map(|letter| format!("-{letter}")), (!row.long.is_empty()).then(|| format!("--{}", row.long))]
        })
        .flatten()
        .collect();
    let mut cases = String::new();
    for row in &rows {
        let names = match row.short {
            Some(letter) => format!("-{letter}|--{}", row.long),
            None => format!("--{}", row.long),
        };
        if let Some(choices) = row.choices() {
            cases +=
                &format!("        {names}) COMPREPLY=($(compgen -W '{}' -- \"$cur\")); return ;;\n", choices.join(" "));
        } else if row.takes_file() {
            // The shell's own way with files, which knows folders and names with spaces.
            cases += &format!("        {names}) compopt -o default 2>/dev/null; return ;;\n");
        } else if row.value.is_some() {
            cases += &format!("        {names}) return ;;\n");
        }
    }
    format!(
        "{function}() {{\n    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}\n    COMPREPLY=()\n    \
         # --flag=VALUE comes as three words.\n    \
         [ \"$prev\" != = ] || prev=${{COMP_WORDS[COMP_CWORD-2]}}\n    [ \"$cur\" != = ] || cur=\n    case $prev in\n{cases}    esac\n    \
         COMPREPLY=($(compgen -W '{}' -- \"$cur\"))\n}}\ncomplete -F {function} {}\n",
        flags.join(" "),
        program.name,
    )
}

/// A function for zsh's fpath.
pub fn zsh<A>(program: &Program<A>) -> String {
    let mut specs = String::new();
    for row in rows(program) {
        let help = row.summary.replace('\'', "").replace('[', "(").replace(']', ")").replace(':', ";");
        let value = match (&row.value, row.choices()) {
            (_, Some(choices)) => format!(":value:({})", choices.join(" ")),
            (Some(_), None) if row.takes_file() => ":file:_files".to_owned(),
            (Some(kind), None) => format!(":{}:", kind.to_lowercase()),
            (None, None) => String::new(),
        };
        let equals = if row.value.is_some() { "=" } else { "" };
        match (row.short, row.long) {
            (Some(letter), "") => specs += &format!("    '*-{letter}[{help}]{value}' \\\n"),
            (Some(letter), long) => specs += &format!("    '*'{{-{letter},--{long}{equals}}}'[{help}]{value}' \\\n"),
            (None, long) => specs += &format!("    '*--{long}{equals}[{help}]{value}' \\\n"),
        }
    }
    format!("#compdef {}\n_arguments -s -S \\\n{specs}    '*:argument:'\n", program.name)
}

/// A file for fish's completions.
pub fn fish<A>(program: &Program<A>) -> String {
    let mut text = format!("complete -c {} -f\n", program.name);
    for row in rows(program) {
        text += &format!("complete -c {}", program.name);
        if let Some(letter) = row.short {
            text += &format!(" -s {letter}");
        }
        if !row.long.is_empty() {
            text += &format!(" -l {}", row.long);
        }
        match (row.choices(), row.takes_file()) {
            (Some(choices), _) => text += &format!(" -x -a '{}'", choices.join(" ")),
            (None, true) => text += " -r -F",
            (None, false) if row.value.is_some() => text += " -x",
            (None, false) => {}
        }
        text += &format!(" -d '{}'\n", row.summary.replace('\'', "\\'"));
    }
    text
}
