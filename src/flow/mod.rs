//! The mechanisms: what carries lines through a stage, what keeps a source connected, what delivers records until they are settled.

pub mod accounts;
pub mod connection;
pub mod delivery;
pub mod pump;
pub mod stage;
