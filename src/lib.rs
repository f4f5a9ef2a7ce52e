//! The suite's library. Its folders are its floors; a floor uses those below it, never one above, and the wings never use one another
//! (`tests/floors.rs` holds this).
//!
//! | floor | what it is |
//! | --- | --- |
//! | `bin/` | one file a program: its flag table and its wiring, no logic |
//! | [`source`], [`filter`], [`sink`] | the wings: one file for each kind of stage |
//! | [`flow`] | the mechanisms: the pump, the connection, the delivery |
//! | [`cli`] | flags, help, man page, completions, from one table a program |
//! | [`world`] | everything real: streams, signals, clock, transports, secrets |
//! | [`model`] | what the suite talks about; no I/O, no clock, no environment |
//!
//! Four decisions hold everywhere.
//!
//! - **A stage that waits notices its reader's death.** Nothing blocks in read, write or sleep: the pump waits in one `poll` on standard input,
//!   standard output (which reports POLLERR when its reader is gone), the wake pipe and the next deadline ([`flow::pump`]).
//! - **A signal wakes it.** Handlers set a flag and write to the same wake pipe that worker threads use ([`world::signals`], [`world::unix::Wake`]).
//! - **A line that is not changed stays byte for byte.** A stage sees a borrowed view ([`model::event::Event`]) and passes on `event.text`; what it
//!   adds is spliced in before the closing brace ([`model::json::append`]). No record is ever rebuilt from a parsed value.
//! - **A sink's delivery is separate from its destination.** A [`flow::delivery::destination::Destination`] builds a request for some records and judges the
//!   answer; queueing, pacing, retrying, receipts and dead letters are [`flow::delivery`]'s, and requests run on worker threads.
//!
//! Time is a parameter: state machines are told the moment, so that their tests need neither sleep nor clock.

pub mod cli;
pub mod filter;
pub mod flow;
pub mod model;
pub mod sink;
pub mod source;
pub mod world;
