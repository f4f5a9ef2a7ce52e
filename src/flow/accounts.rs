//! What came in and what became of it; the books balance.

use crate::model::json::quote;

/// Named counts, in the order they are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts(Vec<(&'static str, u64)>);

impl Accounts {
    /// Adds a count under a name, or to it.
    #[must_use]
    pub fn with(mut self, name: &'static str, count: u64) -> Accounts {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((name, count)),
        }
        self
    }

    /// Adds the counts of another.
    #[must_use]
    pub fn and(self, other: &Accounts) -> Accounts {
        other.0.iter().fold(self, |sum, (name, count)| sum.with(name, *count))
    }

    /// The count under a name, 0 if there is none.
    pub fn count(&self, name: &str) -> u64 {
        self.0.iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count)
    }

    /// One JSON object.
    pub fn json(&self, program: &str) -> String {
        let counts: String = self.0.iter().map(|(name, count)| format!(",\"{name}\":{count}")).collect();
        format!("{{\"program\":{}{counts}}}", quote(program))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_under_one_name_are_added_up() {
        let accounts = Accounts::default().with("in", 3).and(&Accounts::default().with("out", 1).with("in", 1));
        assert_eq!(accounts.json("to-slack"), r#"{"program":"to-slack","in":4,"out":1}"#);
        assert_eq!((accounts.count("out"), accounts.count("dead")), (1, 0));
    }
}
