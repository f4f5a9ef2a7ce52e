//! The help texts, short and long.

use super::program::COMMON;
use super::table::{Flag, Program};
use crate::model::exit::Exit;

const WIDTH: usize = 100;

/// `-h`: the usage and a line a flag.
pub fn short<A>(program: &Program<A>) -> String {
    let mut text = format!("{}: {}\n\nUsage: {}\n", program.name, program.about, usage(program));
    for section in program.sections {
        text += &format!("\n{}:\n", section.title);
        section.flags.iter().for_each(|flag| text += &summary(flag));
    }
    text += "\nEverywhere:\n";
    COMMON.iter().for_each(|flag| text += &summary(flag));
    text
}

/// `--help`: everything.
pub fn long<A>(program: &Program<A>) -> String {
    let mut text = format!("{}: {}\n\nUsage: {}\n", program.name, program.about, usage(program));
    if !program.description.is_empty() {
        text += "\n";
        for paragraph in program.description.split("\n\n") {
            text += &format!("{}\n\n", wrapped(paragraph, 0));
        }
        text.pop();
    }
    for section in program.sections {
        text += &format!("\n{}:\n", section.title);
        section.flags.iter().for_each(|flag| text += &entry(flag));
    }
    text += "\nEverywhere:\n";
    COMMON.iter().for_each(|flag| text += &entry(flag));
    if !program.environment.is_empty() {
        text += "\nEnvironment:\n";
        for (name, meaning) in program.environment {
            text += &format!("  {name}\n{}\n", wrapped(meaning, 8));
        }
    }
    text += "\nExit codes:\n";
    for (exit, meaning, advice) in Exit::TABLE {
        let advice = if advice.is_empty() { String::new() } else { format!(" (a supervisor should {advice})") };
        text += &format!("  {}  {}\n", exit.code(), wrapped(&format!("{meaning}{advice}"), 5).trim_start());
    }
    if !program.examples.is_empty() {
        text += "\nExamples:\n";
        for (what, command) in program.examples {
            text += &format!("  # {what}\n  {}\n", command.replace('\n', "\n  "));
        }
    }
    text
}

/// The usage line's text.
pub fn usage<A>(program: &Program<A>) -> String {
    let operands = if program.operands.is_empty() { String::new() } else { format!(" {}", program.operands) };
    format!("{} [FLAG...]{operands}", program.name)
}

fn summary<A>(flag: &Flag<A>) -> String {
    let spec = flag.spec;
    let indent = if flag.short().is_some() { 2 } else { 6 };
    let head = format!("{:indent$}{spec}", "");
    if head.len() > 32 {
        format!("{head}\n{:34}{}\n", "", flag.summary())
    } else {
        format!("{head:34}{}\n", flag.summary())
    }
}

fn entry<A>(flag: &Flag<A>) -> String {
    let indent = if flag.short().is_some() { 2 } else { 6 };
    format!("{:indent$}{}\n{}\n", "", flag.spec, wrapped(flag.help, 10))
}

/// Folds a text at spaces; lines that begin with white space are left alone.
pub fn wrapped(text: &str, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for part in text.lines() {
        if part.starts_with(' ') {
            lines.push(format!("{:indent$}{part}", ""));
            continue;
        }
        let mut line = " ".repeat(indent);
        for word in part.split_whitespace() {
            if line.len() + word.len() > WIDTH && line.trim() != "" {
                lines.push(line.trim_end().to_owned());
                line = " ".repeat(indent);
            }
            line += word;
            line.push(' ');
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}
