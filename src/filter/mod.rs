//! The filters: what becomes of a line.

pub mod enrich;
pub mod select;
