//! tutum-filter: passes on the events that were asked for.

use crate::flow::accounts::Accounts;
use crate::flow::stage::Stage;
use crate::model::event::Event;
use crate::model::exit::Exit;
use crate::model::json::{self, Pointer};
use crate::model::line::Lines;
use crate::model::predicate::Predicate;
use crate::model::time::Moment;

/// What is done with an event that passes.
#[derive(Clone, Debug, Default)]
pub struct SelectArgs {
    /// What is asked.
    pub predicate: Predicate,
    /// Written before the record, with a tab: the key a partitioned bus wants.
    pub key_tab: Option<Pointer>,
    /// Only the number of matches is written, at the end.
    pub count: bool,
    /// Nothing passed is exit 1.
    pub exit_status: bool,
    /// Enough after so many events; lifecycle records do not count.
    pub max_events: Option<u64>,
}

/// The stage.
pub struct Select {
    args: SelectArgs,
    passed: u64,
    events: u64,
    dropped: u64,
}

impl Select {
    /// A filter that has seen nothing yet.
    pub fn new(args: SelectArgs) -> Select {
        Select { args, passed: 0, events: 0, dropped: 0 }
    }
}

impl Stage for Select {
    fn take(&mut self, event: &Event<'_>, _now: Moment, lines: &mut Lines) {
        if !self.args.predicate.passes(event) {
            self.dropped += 1;
            return;
        }
        self.passed += 1;
        self.events += u64::from(!event.is_lifecycle());
        match &self.args.key_tab {
            _ if self.args.count => {}
            None => lines.push(event.text.as_bytes()),
            Some(pointer) => {
                let key = pointer.find(event.text).map(json::plain).unwrap_or_default();
                // A tab or a line break in the key would make it another key, or another record.
                let key: String = key.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                lines.push_pieces(&[key.as_bytes(), b"\t", event.text.as_bytes()]);
            }
        }
    }

    fn satisfied(&self) -> bool {
        self.args.max_events.is_some_and(|enough| self.events >= enough)
    }

    fn finish(&mut self, _now: Moment, lines: &mut Lines) {
        if self.args.count {
            lines.push(self.passed.to_string().as_bytes());
        }
    }

    fn accounts(&self) -> Accounts {
        let accounts = Accounts::default().with("dropped", self.dropped);
        if self.args.count { accounts.with("counted", self.passed) } else { accounts }
    }

    fn exit(&self) -> Exit {
        if self.args.exit_status && self.passed == 0 { Exit::Incomplete } else { Exit::Success }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::stage::tests::run_over;
    use crate::model::predicate::Test;

    const INPUT: &str = concat!(
        r#"{ "n" : 1.10, "type":"service","state":"Running" }"#,
        "\n",
        r#"{"type":"stream","action":"open"}"#,
        "\n",
        r#"{"type":"node","resource_uri":"/api/v1/node/a\tb/"}"#,
        "\n",
    );

    fn services() -> SelectArgs {
        let mut args = SelectArgs::default();
        args.predicate.add(Test::Kind(vec!["service".to_owned()]));
        args
    }

    #[test]
    fn what_passes_is_the_very_bytes_that_came() {
        assert_eq!(run_over(&mut Select::new(SelectArgs::default()), INPUT), INPUT);
        let mut filter = Select::new(services());
        assert_eq!(run_over(&mut filter, INPUT), "{ \"n\" : 1.10, \"type\":\"service\",\"state\":\"Running\" }\n");
        assert_eq!(filter.accounts().count("dropped"), 2);
    }

    #[test]
    fn lifecycle_records_pass_if_asked_and_do_not_count_as_events() {
        let mut args = services();
        args.predicate.lifecycle = true;
        args.max_events = Some(2);
        let mut filter = Select::new(args);
        assert_eq!(run_over(&mut filter, INPUT).lines().count(), 2);
        assert!(!filter.satisfied());
    }

    #[test]
    fn a_key_for_the_bus_holds_no_tab() {
        let args = SelectArgs { key_tab: Some(Pointer::parse("resource_uri").unwrap()), ..SelectArgs::default() };
        let output = run_over(&mut Select::new(args), INPUT);
        let last = output.lines().last().unwrap();
        assert_eq!(last.split_once('\t').unwrap().0, "/api/v1/node/a b/");
        assert!(output.lines().all(|line| line.matches('\t').count() == 1));
    }

    #[test]
    fn counting_writes_one_number() {
        let args = SelectArgs { count: true, exit_status: true, ..services() };
        assert_eq!(run_over(&mut Select::new(args.clone()), INPUT), "1\n");
        let mut filter = Select::new(args);
        assert_eq!((run_over(&mut filter, ""), filter.exit()), ("0\n".to_owned(), Exit::Incomplete));
    }
}
