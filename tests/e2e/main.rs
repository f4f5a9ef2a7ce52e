//! The programs as a user meets them: real processes, real pipes, fakes that misbehave on purpose. A module per program.

mod adapters;
mod bus;
mod netns;
mod network;
mod oracle;
mod package;
mod pipeline;
mod readme;
mod recipes;
mod secrets;
mod support;
mod systemd;

mod aci_stream;
mod resync;
mod to_elasticsearch;
mod to_pagerduty;
mod to_slack;
mod tutum_enrich;
mod tutum_filter;
mod tutum_serve;
mod tutum_stream;
mod tutum_stream_link;
