//! All that is said about flags, from one table a program: parser, help, man page, completions. Hides lexopt.

pub mod complete;
pub mod help;
pub mod man;
pub mod parse;
pub mod program;
pub mod table;
