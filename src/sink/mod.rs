//! The sinks: one `Destination` each (which request, what the answer means), and the server that is the inverse of tutum-stream.

pub mod elasticsearch;
pub mod pagerduty;
pub mod serve;
pub mod slack;

#[cfg(test)]
mod tests {
    use crate::flow::delivery::destination::{Destination, Outcome};
    use crate::sink::pagerduty::{Api, PagerDuty, PagerDutyArgs};
    use crate::sink::slack::{Slack, SlackArgs};
    use crate::world::Diagnostics;
    use crate::world::http::Response;

    fn fate(destination: &dyn Destination, status: u16) -> &'static str {
        // The body that a success of this service has, so that only the status speaks.
        let answer = Response { status, body: b"ok".to_vec(), ..Response::default() };
        match destination.outcomes(1, &answer).remove(0) {
            Outcome::Delivered => "delivered",
            Outcome::Retry { throttled: true, .. } => "waited out",
            Outcome::Retry { .. } => "retried",
            Outcome::TooLarge { .. } => "once more, smaller",
            Outcome::Rejected { .. } => "dead",
            Outcome::Refused { .. } => "stop",
        }
    }

    /// Every status of HTTP, every sink: is it retried, dead, or does the program stop?
    #[test]
    fn what_every_status_means_to_every_sink() {
        let diagnostics = Diagnostics::memory("test");
        let slack = Slack::new(SlackArgs::default(), true, &diagnostics).unwrap();
        let pagerduty =
            |api| PagerDuty::new(PagerDutyArgs { api, ..PagerDutyArgs::default() }, true, &diagnostics).unwrap();
        let (v1, v2) = (pagerduty(Api::V1), pagerduty(Api::V2));
        for status in 200..600 {
            let [on_slack, on_v1, on_v2] = match status {
                200..=299 => ["delivered"; 3],
                401 => ["stop"; 3],
                403 => ["stop", "waited out", "dead"],
                404 | 410 => ["stop", "dead", "dead"],
                408 => ["retried"; 3],
                413 => ["once more, smaller"; 3],
                414 => ["once more, smaller", "dead", "dead"],
                429 => ["waited out"; 3],
                500.. => ["retried"; 3],
                _ => ["dead"; 3],
            };
            assert_eq!(fate(&slack, status), on_slack, "slack {status}");
            assert_eq!(fate(&v1, status), on_v1, "pagerduty v1 {status}");
            assert_eq!(fate(&v2, status), on_v2, "pagerduty v2 {status}");
        }
    }
}
