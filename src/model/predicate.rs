//! What tutum-filter asks of an event: tests joined by and, groups joined by or and except.

use std::borrow::Cow;

/// A pattern in which `*` stands for any text and `?` for one character.
pub use wildmatch::WildMatch as Glob;

use super::event::{self, Event};
use super::json::{self, Pointer};

/// One question about an event.
#[derive(Clone, Debug)]
pub enum Test {
    /// `type` is one of these.
    Kind(Vec<String>),
    /// `action` is one of these.
    Action(Vec<String>),
    /// `state` is one of these.
    State(Vec<String>),
    /// `resource_uri` matches one of these.
    Uri(Vec<Glob>),
    /// Some parent matches one of these.
    Parent(Vec<Parent>),
    /// A value is there and, if a glob is given, matches it. Each is a test of its own.
    Where(Pointer, Option<Glob>),
}

/// What is asked of a parent.
#[derive(Clone, Debug)]
pub enum Parent {
    /// Its path matches.
    Path(Glob),
    /// Its type or its id is this word.
    Word(String),
}

impl Parent {
    /// A glob over the path if it has a slash or a wildcard, else a bare word.
    pub fn parse(text: &str) -> Parent {
        if text.contains(['/', '*', '?']) { Parent::Path(Glob::new(text)) } else { Parent::Word(text.to_owned()) }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Parent::Path(glob) => glob.matches(path),
            Parent::Word(word) => [event::path_kind(path), event::path_id(path)]
                .into_iter()
                .flatten()
                .any(|segment| segment.eq_ignore_ascii_case(word)),
        }
    }
}

impl Test {
    fn matches(&self, event: &Event<'_>) -> bool {
        match self {
            Test::Kind(words) => any(words, event.kind.as_ref()),
            Test::Action(words) => any(words, event.action.as_ref()),
            Test::State(words) => any(words, event.state.as_ref()),
            Test::Uri(globs) => {
                event.resource_uri.as_ref().is_some_and(|uri| globs.iter().any(|glob| glob.matches(uri)))
            }
            Test::Parent(wanted) => event.parents().iter().any(|path| wanted.iter().any(|parent| parent.matches(path))),
            Test::Where(pointer, glob) => pointer
                .find(event.text)
                .is_some_and(|raw| glob.as_ref().is_none_or(|glob| glob.matches(&json::plain(raw)))),
        }
    }
}

fn any(words: &[String], value: Option<&Cow<'_, str>>) -> bool {
    // Case-insensitive because stacks say `Not Running` where services say `Not running`.
    value.is_some_and(|value| words.iter().any(|word| same_word(word, value)))
}

fn same_word(word: &str, value: &str) -> bool {
    word.eq_ignore_ascii_case(value) || (!value.is_ascii() && word.to_lowercase() == value.to_lowercase())
}

/// What a group's matches are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// They pass.
    Keep,
    /// They are dropped, whatever the groups before said.
    Except,
}

/// Groups of tests, asked in order.
#[derive(Clone, Debug)]
pub struct Predicate {
    groups: Vec<(Group, Vec<Test>)>,
    /// Lifecycle records pass whatever is asked.
    pub lifecycle: bool,
}

impl Default for Predicate {
    fn default() -> Predicate {
        Predicate { groups: vec![(Group::Keep, Vec::new())], lifecycle: false }
    }
}

impl Predicate {
    /// Adds a test to the last group; the values of a test that is there already are joined to it (or).
    pub fn add(&mut self, test: Test) {
        let (_, tests) = self.groups.last_mut().expect("there is always a first group");
        for known in tests.iter_mut() {
            match (known, &test) {
                (Test::Kind(known), Test::Kind(more))
                | (Test::Action(known), Test::Action(more))
                | (Test::State(known), Test::State(more)) => return known.extend_from_slice(more),
                (Test::Uri(known), Test::Uri(more)) => return known.extend_from_slice(more),
                (Test::Parent(known), Test::Parent(more)) => return known.extend_from_slice(more),
                _ => {}
            }
        }
        tests.push(test);
    }

    /// Starts another group.
    pub fn group(&mut self, group: Group) {
        self.groups.push((group, Vec::new()));
    }

    /// Puts the cheapest tests first and drops a first group that asks nothing before an `--or`.
    ///
    /// # Errors
    /// Names a group that was started and asks nothing.
    pub fn seal(&mut self) -> Result<(), String> {
        if let Some((group, _)) = self.groups.iter().skip(1).find(|(_, tests)| tests.is_empty()) {
            let flag = if *group == Group::Keep { "--or" } else { "--except" };
            return Err(format!("{flag}: no predicate follows"));
        }
        if self.groups.len() > 1 && self.groups[0].1.is_empty() && self.groups[1].0 == Group::Keep {
            self.groups.remove(0);
        }
        for (_, tests) in &mut self.groups {
            tests.sort_by_key(|test| matches!(test, Test::Parent(_)) as u8 + 2 * matches!(test, Test::Where(..)) as u8);
        }
        Ok(())
    }

    /// Whether the event passes.
    pub fn passes(&self, event: &Event<'_>) -> bool {
        if self.lifecycle && event.is_lifecycle() {
            return true;
        }
        self.groups.iter().fold(false, |passes, (group, tests)| {
            // A group that could not change the answer is not asked.
            if passes == (*group == Group::Keep) {
                return passes;
            }
            if tests.iter().all(|test| test.matches(event)) { *group == Group::Keep } else { passes }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &str) -> Vec<String> {
        list.split(',').map(str::to_owned).collect()
    }

    const EVENT: &str = r#"{"type":"container","action":"update","state":"Not Running","resource_uri":"/api/v1/container/7d1c/",
        "parents":["/api/v1/service/5b0f/","/api/v1/stack/11aa/"],"resource":{"name":"web-1","n":1.10}}"#;

    fn passes(predicate: &Predicate) -> bool {
        predicate.passes(&Event::parse(EVENT.as_bytes()).unwrap())
    }

    fn one(test: Test) -> bool {
        let mut predicate = Predicate::default();
        predicate.add(test);
        passes(&predicate)
    }

    #[test]
    fn every_kind_of_test() {
        assert!(passes(&Predicate::default()));
        assert!(one(Test::Kind(words("service,CONTAINER"))) && !one(Test::Kind(words("service"))));
        assert!(one(Test::State(words("not running"))) && !one(Test::State(words("Running"))));
        assert!(one(Test::Uri(vec![Glob::new("/api/*/container/*")])));
        for (parent, expected) in
            [("service", true), ("5b0f", true), ("5b0", false), ("*/stack/*", true), ("node", false)]
        {
            assert_eq!(one(Test::Parent(vec![Parent::parse(parent)])), expected, "{parent}");
        }
        let ask =
            |pointer: &str, glob: Option<&str>| one(Test::Where(Pointer::parse(pointer).unwrap(), glob.map(Glob::new)));
        assert!(ask("/resource/name", Some("web-*")) && ask("/resource/n", Some("1.10")) && ask("/resource", None));
        assert!(!ask("/resource/x", None) && !ask("/resource/name", Some("db-*")));
    }

    #[test]
    fn and_within_a_group_or_and_except_between() {
        let mut predicate = Predicate::default();
        predicate.add(Test::Kind(words("container")));
        predicate.add(Test::State(words("Running")));
        assert!(!passes(&predicate));
        predicate.add(Test::State(words("Not running")));
        assert!(passes(&predicate), "a repeated flag adds to its list");
        predicate.group(Group::Except);
        predicate.add(Test::Parent(vec![Parent::parse("stack")]));
        assert!(!passes(&predicate));
        predicate.group(Group::Keep);
        predicate.add(Test::Action(words("update")));
        assert!(passes(&predicate), "an or-group after except is not subject to it");
    }

    #[test]
    fn a_group_that_asks_nothing_is_an_error() {
        let mut predicate = Predicate::default();
        predicate.group(Group::Except);
        assert_eq!(predicate.seal(), Err("--except: no predicate follows".to_owned()));
    }

    #[test]
    fn except_alone_drops_from_everything() {
        let mut predicate = Predicate::default();
        predicate.group(Group::Except);
        predicate.add(Test::Kind(words("node")));
        predicate.seal().unwrap();
        assert!(passes(&predicate));
    }
}
