//! The sinks: one `Destination` each (which request, what the answer means), and the server that is the inverse of tutum-stream.

pub mod pagerduty;
pub mod serve;
pub mod slack;
