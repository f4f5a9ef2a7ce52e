//! The programs as a user meets them: real processes, real pipes, fakes that misbehave on purpose. A module per program.

mod support;

mod tutum_enrich;
mod tutum_filter;
