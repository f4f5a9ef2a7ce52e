//! What the suite talks about: lines, events, predicates, texts, quantities. No I/O, no clock, no environment.

pub mod address;
pub mod backoff;
pub mod digest;
pub mod event;
pub mod exit;
pub mod json;
pub mod lifecycle;
pub mod line;
pub mod news;
pub mod phrase;
pub mod predicate;
pub mod quantity;
pub mod secret;
pub mod template;
pub mod time;
