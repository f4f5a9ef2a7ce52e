//! The records a source writes about its own connection, in the shape of events.

use std::time::Duration;

use super::json::quote;
use super::time::Timestamp;

/// What happened to the connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Authenticated: the first proof that events will come.
    Open { attempts: u32 },
    /// The connection ended or went silent.
    Close { reason: String, code: Option<u16> },
    /// The program was asked to stop, or reached its limit.
    Stopped { reason: String },
    /// The credentials were refused.
    Unauthorized { reason: String },
    /// An attempt failed, or the server said `error`.
    Failed { reason: String },
    /// Events may be missing between the last proof of life and this `open`.
    Gap { from: Timestamp, to: Timestamp, reason: String, attempts: u32 },
    /// The reader was too slow and so many events were let go.
    Drop { dropped: u64 },
    /// The link is proven alive.
    Heartbeat,
}

impl Change {
    /// The record. `resource_uri` is the stream's path, `source` its scheme, host and path: no query, no secret.
    pub fn record(&self, resource_uri: &str, source: &str, now: Timestamp) -> String {
        let (action, state, more) = match self {
            Change::Open { attempts } => ("open", "Connected", format!(r#","attempts":{attempts}"#)),
            Change::Close { reason, code } => {
                let code = code.map(|code| format!(r#","code":{code}"#)).unwrap_or_default();
                ("close", "Disconnected", format!(r#","reason":{}{code}"#, quote(reason)))
            }
            Change::Stopped { reason } => ("close", "Stopped", format!(r#","reason":{}"#, quote(reason))),
            Change::Unauthorized { reason } => ("error", "Unauthorized", format!(r#","reason":{}"#, quote(reason))),
            Change::Failed { reason } => ("error", "Failed", format!(r#","reason":{}"#, quote(reason))),
            Change::Gap { from, to, reason, attempts } => (
                "gap",
                "Connected",
                format!(
                    r#","from":"{}","to":"{}","seconds":{},"reason":{},"attempts":{attempts}"#,
                    from.rfc3339(),
                    to.rfc3339(),
                    seconds(to.since(*from)),
                    quote(reason),
                ),
            ),
            Change::Drop { dropped } => ("drop", "Connected", format!(r#","dropped":{dropped}"#)),
            Change::Heartbeat => ("heartbeat", "Connected", String::new()),
        };
        format!(
            r#"{{"type":"stream","action":"{action}","state":"{state}","resource_uri":{},"source":{}{more},"received_at":"{}"}}"#,
            quote(resource_uri),
            quote(source),
            now.rfc3339(),
        )
    }
}

/// Seconds with at most three decimals, as a JSON number.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_tells_from_when_to_when_and_why() {
        let from = Timestamp::parse("2025-03-04T05:06:07.000Z").unwrap();
        let to = Timestamp::parse("2025-03-04T05:06:19.340Z").unwrap();
        let gap = Change::Gap { from, to, reason: "no \"pong\"".to_owned(), attempts: 2 };
        assert_eq!(
            gap.record("/v1/events", "wss://h/v1/events", to),
            r#"{"type":"stream","action":"gap","state":"Connected","resource_uri":"/v1/events","source":"wss://h/v1/events","from":"2025-03-04T05:06:07.000Z","to":"2025-03-04T05:06:19.340Z","seconds":12.34,"reason":"no \"pong\"","attempts":2,"received_at":"2025-03-04T05:06:19.340Z"}"#
        );
    }
}
