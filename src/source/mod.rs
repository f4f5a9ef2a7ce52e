//! The sources: what to connect to, and what is a record.

pub mod tutum;
