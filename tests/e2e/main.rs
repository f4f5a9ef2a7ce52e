//! The programs as a user meets them: real processes, real pipes, fakes that misbehave on purpose. A module per program.

mod adapters;
mod oracle;
mod pipeline;
mod readme;
mod secrets;
mod support;

mod to_pagerduty;
mod to_slack;
mod tutum_filter;
mod tutum_serve;
mod tutum_stream;
mod tutum_stream_link;
