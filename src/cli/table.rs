//! The table of a program's flags: each row is a spelling, a sentence of help, and what it sets.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::quantity::{self, Rate};

/// A program's whole surface.
pub struct Program<A: 'static> {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one line without a final period; README's table has the same line.
    pub about: &'static str,
    /// What it takes besides flags, e.g. `"[events]"`; empty for nothing.
    pub operands: &'static str,
    /// Takes one operand, in order; absent if the program takes none.
    pub operand: Option<SetValue<A>>,
    /// The long help's prose, before the flags.
    pub description: &'static str,
    /// Its flags, by subject.
    pub sections: &'static [Section<A>],
    /// Environment variables: name and meaning.
    pub environment: &'static [(&'static str, &'static str)],
    /// Pipelines a reader can copy: what for, and the command.
    pub examples: &'static [(&'static str, &'static str)],
}

/// Flags of one subject.
pub struct Section<A: 'static> {
    /// The heading.
    pub title: &'static str,
    /// The rows.
    pub flags: &'static [Flag<A>],
}

/// A row.
pub struct Flag<A> {
    /// `-t, --text TEMPLATE`, `--raw`: an optional letter, the name, a value's kind in capitals.
    pub spec: &'static str,
    /// What it does. The first sentence is the short help.
    pub help: &'static str,
    /// What it sets. Rows record and validate; they do not act.
    pub set: Set<A>,
}

/// Reads a value into the arguments, or says what is expected.
pub type SetValue<A> = fn(&mut A, &str) -> Result<(), String>;

/// What a flag does to the arguments.
pub enum Set<A> {
    /// Stands alone.
    Switch(fn(&mut A)),
    /// Takes a value; the error is a reason, to which the parser adds the flag's name.
    Value(SetValue<A>),
}

impl<A> Flag<A> {
    /// The letter, if it has one.
    pub fn short(&self) -> Option<char> {
        self.spec.strip_prefix('-').filter(|rest| !rest.starts_with('-')).and_then(|rest| rest.chars().next())
    }

    /// The name, without dashes.
    pub fn long(&self) -> &'static str {
        let start = self.spec.find("--").map_or(0, |at| at + 2);
        self.spec[start..].split(' ').next().unwrap_or_default()
    }

    /// The kind of its value, if it takes one.
    pub fn value(&self) -> Option<&'static str> {
        let start = self.spec.find("--").unwrap_or(0);
        self.spec[start..].split_once(' ').map(|(_, value)| value)
    }

    /// The first sentence of its help.
    pub fn summary(&self) -> &'static str {
        let end = self.help.match_indices(". ").find(|(at, _)| self.help[at + 2..].starts_with(char::is_uppercase));
        end.map_or(self.help, |(at, _)| &self.help[..at])
    }
}

/// A type that can stand as a flag's value.
pub trait Value: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// Says what is expected.
    fn read(text: &str) -> Result<Self, String>;
}

impl Value for String {
    fn read(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    fn read(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() { Err("expected a file name, got nothing".to_owned()) } else { Ok(text.into()) }
    }
}

impl Value for u64 {
    fn read(text: &str) -> Result<u64, String> {
        text.parse().map_err(|_| format!("expected a whole number, got \"{text}\""))
    }
}

impl Value for usize {
    fn read(text: &str) -> Result<usize, String> {
        text.parse().map_err(|_| format!("expected a whole number, got \"{text}\""))
    }
}

impl Value for Duration {
    fn read(text: &str) -> Result<Duration, String> {
        quantity::parse_duration(text)
    }
}

impl Value for Rate {
    fn read(text: &str) -> Result<Rate, String> {
        quantity::parse_rate(text)
    }
}

impl<T: Value> Value for Option<T> {
    fn read(text: &str) -> Result<Option<T>, String> {
        T::read(text).map(Some)
    }
}

/// Reads a value into its place; a repeated flag replaces what was there.
///
/// # Errors
/// The value's reason.
pub fn store<T: Value>(place: &mut T, text: &str) -> Result<(), String> {
    *place = T::read(text)?;
    Ok(())
}

/// Reads a size into its place.
///
/// # Errors
/// The value's reason.
pub fn store_size(place: &mut u64, text: &str) -> Result<(), String> {
    *place = quantity::parse_size(text)?;
    Ok(())
}

/// Reads one of some words.
///
/// # Errors
/// Names the words.
pub fn choice<T: Copy>(place: &mut T, choices: &[(&str, T)], text: &str) -> Result<(), String> {
    match choices.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => {
            *place = *value;
            Ok(())
        }
        None => {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            Err(format!("expected one of {}, got \"{text}\"", words.join(", ")))
        }
    }
}

/// The words of a comma list; a repeated flag adds to it.
///
/// # Errors
/// A list without a word.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    let words: Vec<String> =
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    if words.is_empty() { Err("expected a comma list, got nothing".to_owned()) } else { Ok(words) }
}

impl<A> Program<A> {
    /// Looks for slips in the table; each program's tests call it.
    ///
    /// # Panics
    /// On a duplicate, a row without help, a value name that is not in capitals, a character beyond ASCII.
    pub fn lint(&self) {
        let common =
            super::program::COMMON.iter().map(|flag| (flag.spec, flag.help, flag.short(), flag.long(), flag.value()));
        let own = self.sections.iter().flat_map(|section| section.flags);
        let own = own.map(|flag| (flag.spec, flag.help, flag.short(), flag.long(), flag.value()));
        let mut seen = Vec::new();
        for (spec, help, short, long, value) in common.chain(own) {
            assert!(spec.is_ascii() && help.is_ascii(), "{spec}: not ASCII");
            assert!(
                !long.is_empty() && long.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit()),
                "{spec}: the name"
            );
            assert!(help.len() > 10 && !help.ends_with('.'), "{spec}: the help");
            assert!(help.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_uppercase()), "{spec}: the help");
            assert!(
                value.is_none_or(|value| value.starts_with(|c: char| c.is_ascii_uppercase() || c.is_ascii_lowercase())),
                "{spec}: the value"
            );
            assert!(!seen.contains(&long.to_owned()), "{spec}: twice");
            seen.push(long.to_owned());
            if let Some(short) = short {
                assert!(!seen.contains(&short.to_string()), "{spec}: the letter is taken");
                seen.push(short.to_string());
            }
        }
        assert!(self.about.is_ascii() && !self.about.ends_with('.'), "{}: about", self.name);
    }
}
