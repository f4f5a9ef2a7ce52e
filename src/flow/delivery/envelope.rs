//! What is written about a record: receipts and dead letters. Both are read again as the event inside.

use crate::model::event::Event;
use crate::model::json::{self, quote};
use crate::model::time::Timestamp;

/// How a record was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// In a message of its own.
    Delivered,
    /// In a message with others.
    Folded,
    /// Given up; it is a dead letter.
    Dead,
    /// Not for this destination.
    Skipped,
    /// On disk, for the next run.
    Spooled,
}

impl Status {
    /// Its word in receipts and accounts.
    pub fn word(self) -> &'static str {
        match self {
            Status::Delivered => "delivered",
            Status::Folded => "folded",
            Status::Dead => "dead",
            Status::Skipped => "skipped",
            Status::Spooled => "spooled",
        }
    }
}

/// What is known about a settled record.
#[derive(Clone, Debug)]
pub struct Settlement<'r> {
    /// The sink's name.
    pub sink: &'static str,
    /// How it ended.
    pub status: Status,
    /// Requests that were made for it, throttled ones not counted.
    pub attempts: u32,
    /// The last answer's status.
    pub http_status: Option<u16>,
    /// Why, unless it was simply delivered.
    pub reason: Option<&'r str>,
    /// The event.
    pub event: &'r str,
}

impl Settlement<'_> {
    /// The receipt of the record with number `seq` on this input (none if an earlier run accepted it), settled `ms` milliseconds after it was accepted.
    pub fn receipt(&self, seq: Option<u64>, ms: u128) -> String {
        format!(
            r#"{{"type":"receipt","sink":"{}","status":"{}"{},"attempts":{}{},"ms":{ms}{},"event":{}}}"#,
            self.sink,
            self.status.word(),
            seq.map(|seq| format!(r#","seq":{seq}"#)).unwrap_or_default(),
            self.attempts,
            self.http_status.map(|status| format!(r#","http_status":{status}"#)).unwrap_or_default(),
            self.reason.map(|reason| format!(r#","reason":{}"#, quote(reason))).unwrap_or_default(),
            self.event.trim(),
        )
    }

    /// The dead letter.
    pub fn dead_letter(&self, at: Timestamp) -> String {
        format!(
            r#"{{"sink":"{}","reason":{}{},"attempts":{},"at":"{}","event":{}}}"#,
            self.sink,
            quote(self.reason.unwrap_or_default()),
            self.http_status.map(|status| format!(r#","http_status":{status}"#)).unwrap_or_default(),
            self.attempts,
            at.rfc3339(),
            self.event.trim(),
        )
    }
}

/// The event a record speaks of: the one inside, if the record is a receipt or a dead letter, else itself.
pub fn subject<'l>(event: &Event<'l>) -> &'l str {
    let is_envelope = event.is("receipt") || event.kind.is_none();
    if is_envelope {
        let (mut sink, mut inner) = (false, None);
        let read = json::select(
            event.text,
            |key| key == "sink" || key == "event",
            |key, raw| match key {
                "sink" => sink = json::string(raw).is_some(),
                _ => inner = Some(raw).filter(|raw| raw.starts_with('{')),
            },
        );
        if let (Ok(()), true, Some(inner)) = (read, sink, inner) {
            // A fallback's receipt of a receipt; every turn is shorter than the one before.
            return Event::parse(inner.as_bytes()).map_or(inner, |event| subject(&event));
        }
    }
    event.text
}

/// What an event is, in a few words for a diagnostic: no value that could be a secret.
pub fn name(event: &Event<'_>) -> String {
    let words = [event.kind.as_deref(), event.action.as_deref(), event.resource_uri.as_deref()];
    let name: Vec<&str> = words.into_iter().flatten().collect();
    if name.is_empty() { "a record without a type".to_owned() } else { name.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_and_dead_letters_are_read_as_the_event_inside() {
        let event = r#"{ "type":"node","n":1.10 }"#;
        let settlement = Settlement {
            sink: "slack",
            status: Status::Dead,
            attempts: 2,
            http_status: Some(404),
            reason: Some("no_service"),
            event,
        };
        let receipt = settlement.receipt(Some(7), 41);
        assert_eq!(
            receipt,
            r#"{"type":"receipt","sink":"slack","status":"dead","seq":7,"attempts":2,"http_status":404,"ms":41,"reason":"no_service","event":{ "type":"node","n":1.10 }}"#
        );
        let letter = settlement.dead_letter(Timestamp::parse("2025-03-04T05:06:07Z").unwrap());
        assert_eq!(
            letter,
            r#"{"sink":"slack","reason":"no_service","http_status":404,"attempts":2,"at":"2025-03-04T05:06:07.000Z","event":{ "type":"node","n":1.10 }}"#
        );
        let nested = Settlement { event: &receipt, ..settlement }.dead_letter(Timestamp::from_millis(0).unwrap());
        for text in [event, &receipt, &letter, &nested] {
            assert_eq!(subject(&Event::parse(text.as_bytes()).unwrap()), event);
        }
    }

    #[test]
    fn an_event_that_only_looks_like_one_is_itself() {
        for text in [r#"{"event":{"a":1}}"#, r#"{"sink":"x","event":3}"#, r#"{"type":"node","sink":"x","event":{}}"#] {
            assert_eq!(subject(&Event::parse(text.as_bytes()).unwrap()), text);
        }
    }
}
