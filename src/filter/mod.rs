//! The filters: what becomes of a line.

pub mod select;
