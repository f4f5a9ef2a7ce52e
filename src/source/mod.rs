//! The sources: what to connect to, and what is a record.

pub mod aci;
pub mod notices;
pub mod resync;
pub mod tutum;
