//! Notices that a server repeats: right after every connect it sends the last minute's again. Those that were passed on already are left out.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::model::json;
use crate::model::time::Timestamp;

/// What a server repeats is no older than a minute (protocol page, section 4.1), so what we received earlier cannot come again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// So many notices are remembered; beyond that the oldest are forgotten, and may be passed on twice.
const MOST: usize = 10_000;

/// So many bytes of them.
const MOST_BYTES: usize = 8 << 20;

/// The notices of the last minute. Told the moment.
///
/// Their content was never documented, so equal means equal byte for byte; and only what comes before the first event of a connection that is not the
/// first can be a repetition. Whatever is in doubt is passed on: twice is better than never.
#[derive(Default)]
pub struct Notices {
    remembered: VecDeque<(Timestamp, String)>,
    bytes: usize,
    /// A connection was lost, so notices may be repeated.
    again: bool,
    /// What may be repeated on this connection: how often each was passed on before.
    repeatable: Option<HashMap<String, usize>>,
}

impl Notices {
    /// A connection was lost: the next one begins with a repetition.
    pub fn lost(&mut self) {
        self.again = true;
        self.repeatable = None;
    }

    /// An event came: from now on every notice is a new one.
    pub fn live(&mut self) {
        self.repeatable = None;
        self.again = false;
    }

    /// What is left of a notice, or of a batch of them: the text as it came if all is new, `None` if nothing is. With `whole` a batch is never cut.
    pub fn fresh<'t>(&mut self, text: &'t str, whole: bool, now: Timestamp) -> Option<Cow<'t, str>> {
        while self.remembered.front().is_some_and(|(at, _)| now.since(*at) > REMEMBERED) {
            self.forget_one();
        }
        if self.again && self.repeatable.is_none() {
            let mut repeatable = HashMap::new();
            for (_, notice) in &self.remembered {
                *repeatable.entry(notice.clone()).or_default() += 1;
            }
            (self.repeatable, self.again) = (Some(repeatable), false);
        }
        let Some((at, notices)) = batch(text) else {
            // No list: the message as a whole is the notice.
            let known = self.is_repeated(text);
            self.remember(text, now);
            return (!known).then_some(Cow::Borrowed(text));
        };
        let kept: Vec<&str> = notices.iter().copied().filter(|notice| !self.is_repeated(notice)).collect();
        for notice in &notices {
            self.remember(notice, now);
        }
        if kept.len() == notices.len() {
            // An empty batch says nothing new, but nothing old either.
            return Some(Cow::Borrowed(text));
        }
        if kept.is_empty() {
            return None;
        }
        if whole {
            return Some(Cow::Borrowed(text));
        }
        let (start, end) = at;
        Some(Cow::Owned(format!("{}[{}]{}", &text[..start], kept.join(","), &text[end..])))
    }

    /// Whether it was passed on before and not yet repeated on this connection.
    fn is_repeated(&mut self, notice: &str) -> bool {
        match self.repeatable.as_mut().and_then(|repeatable| repeatable.get_mut(notice)) {
            Some(count @ 1..) => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }

    fn remember(&mut self, notice: &str, now: Timestamp) {
        self.bytes += notice.len();
        self.remembered.push_back((now, notice.to_owned()));
        while self.remembered.len() > MOST || self.bytes > MOST_BYTES {
            self.forget_one();
        }
    }

    fn forget_one(&mut self) {
        if let Some((_, notice)) = self.remembered.pop_front() {
            self.bytes -= notice.len();
        }
    }
}

/// The only list among a message's values: where it stands, and what is in it. A single notice counts as a list of one, if it is plain where it is.
fn batch(text: &str) -> Option<((usize, usize), Vec<&str>)> {
    let mut lists = Vec::new();
    json::object(text, |key, raw| {
        if raw.starts_with('[') || (raw.starts_with('{') && key == "data") {
            lists.push(raw);
        }
    })
    .ok()?;
    let [raw] = lists.as_slice() else { return None };
    let start = raw.as_ptr() as usize - text.as_ptr() as usize;
    let items = if raw.starts_with('[') { json::elements(raw) } else { vec![*raw] };
    Some(((start, start + raw.len()), items))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::stage::tests::start;

    fn at(seconds: u64) -> Timestamp {
        start().after(Duration::from_secs(seconds)).utc
    }

    fn fresh(notices: &mut Notices, text: &str, seconds: u64) -> Option<String> {
        notices.fresh(text, false, at(seconds)).map(Cow::into_owned)
    }

    #[test]
    fn a_repeated_batch_is_left_out_after_a_reconnect_and_only_then() {
        let batch = r#"{"type":"user-notifications","data":[{"n":1},{"n":2}]}"#;
        let mut notices = Notices::default();
        assert_eq!(fresh(&mut notices, batch, 0).as_deref(), Some(batch));
        // On the same connection it would be a second failure that looks alike.
        assert_eq!(fresh(&mut notices, batch, 1).as_deref(), Some(batch));
        notices.lost();
        assert_eq!(fresh(&mut notices, batch, 10), None);
        assert_eq!(fresh(&mut notices, batch, 10), None);
        assert_eq!(
            fresh(&mut notices, batch, 10).as_deref(),
            Some(batch),
            "it came twice before, and a third time now"
        );
    }

    #[test]
    fn what_is_new_in_a_batch_stays_and_the_rest_is_cut_out() {
        let mut notices = Notices::default();
        fresh(&mut notices, r#"{"type":"user-notification","data":{"n":1}}"#, 0);
        notices.lost();
        let batch = r#"{ "type":"user-notifications", "data" : [ {"n":1}, {"n":2} ] }"#;
        assert_eq!(
            fresh(&mut notices, batch, 5).as_deref(),
            Some(r#"{ "type":"user-notifications", "data" : [{"n":2}] }"#)
        );
        notices.lost();
        assert_eq!(notices.fresh(batch, true, at(6)), None);
        let more = r#"{"data":[{"n":1},{"n":3}]}"#;
        notices.lost();
        assert_eq!(notices.fresh(more, true, at(7)).as_deref(), Some(more));
    }

    #[test]
    fn after_a_minute_or_an_event_nothing_is_a_repetition() {
        let text = r#"{"type":"user-notifications","message":"disk full"}"#;
        let mut notices = Notices::default();
        fresh(&mut notices, text, 0);
        notices.lost();
        assert_eq!(fresh(&mut notices, text, 61).as_deref(), Some(text));
        notices.lost();
        notices.live();
        assert_eq!(fresh(&mut notices, text, 62).as_deref(), Some(text));
        notices.lost();
        assert_eq!(fresh(&mut notices, text, 63), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut notices = Notices::default();
        for number in 0..3 * MOST {
            fresh(&mut notices, &format!(r#"{{"n":{number}}}"#), 0);
        }
        assert_eq!(notices.remembered.len(), MOST);
        fresh(&mut notices, &"x".repeat(MOST_BYTES + 1), 0);
        assert_eq!((notices.remembered.len(), notices.bytes), (0, 0));
    }
}
