//! What a service behind a sink must know how to do: build a request, and judge the answer.

use std::time::Duration;

use crate::model::address::Address;
use crate::model::event::Event;
use crate::model::quantity::Rate;
use crate::model::time::Moment;
use crate::world::http::{Request, Response};

/// What is to become of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is not for this destination; it is passed on and counted.
    Skip {
        /// Why, for the receipt.
        reason: &'static str,
    },
    /// It is sent.
    Send {
        /// Records of one key are sent in order; other keys do not wait for them.
        key: String,
        /// What it does to the others of its key.
        role: Role,
        /// It goes before the others when there is a queue.
        urgent: bool,
    },
}

/// Why no sink sends this event, if none does: what is said about the connection's health is passed on and is no news.
pub fn never_sent(event: &Event<'_>) -> Option<&'static str> {
    match (event.kind.as_deref(), event.action.as_deref()) {
        (Some("auth"), _) => Some("auth is not an event"),
        (Some("stream"), Some("heartbeat")) => Some("a heartbeat is not news"),
        _ => None,
    }
}

/// What a record does to the others of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing: it waits its turn.
    Plain,
    /// It is held so long before it is sent, in case its relief comes.
    Held(Duration),
    /// What is still held of its key need not be sent, and neither need this, unless it is `needed` or something of its key was sent before.
    Relief {
        /// The destination knows that there is something to relieve.
        needed: bool,
    },
    /// What is still held of its key need not be sent, and this is never sent.
    Calm,
}

/// A record on its way, as a destination sees it.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'q> {
    /// The event's text.
    pub text: &'q str,
    /// Its key.
    pub key: &'q str,
    /// When it was accepted.
    pub accepted: Moment,
    /// Its number in the order of acceptance; with a spool it keeps it across restarts.
    pub place: u64,
}

impl Letter<'_> {
    /// The event.
    pub fn event(&self) -> Event<'_> {
        // It was one when it was accepted; a spool gives back what it was given, or says it is damaged.
        Event::parse(self.text.as_bytes()).unwrap_or_default()
    }
}

/// How much of a request is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Everything.
    Full,
    /// Only the essential, after the destination found the full form too large or too fancy.
    Reduced,
}

/// What an answer means for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The destination has it.
    Delivered,
    /// The destination may take it later.
    Retry {
        /// Why.
        reason: String,
        /// It asked for less, which is no failure: no attempt is counted and no patience lost.
        throttled: bool,
    },
    /// Not in this form: larger batches are halved, single records sent once more in the reduced form.
    TooLarge {
        /// Why.
        reason: String,
    },
    /// It never will; the record becomes a dead letter.
    Rejected {
        /// Why.
        reason: String,
        /// The record's own status, where one answer judges many; else the answer's counts.
        status: Option<u16>,
    },
    /// It does not believe us; nothing can be sent until the secret is another.
    Refused {
        /// Why.
        reason: String,
    },
}

/// How records are put together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batching {
    /// The most records in a request.
    pub most: usize,
    /// The most bytes of records in a request.
    pub bytes: usize,
    /// How long an incomplete batch waits for more.
    pub linger: Duration,
    /// Records are put together only if the pace does not allow to send each by itself: they are folded.
    pub fold: bool,
}

impl Batching {
    /// A request for each record.
    pub const ONE: Batching = Batching { most: 1, bytes: usize::MAX, linger: Duration::ZERO, fold: false };
}

/// How fast records are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pacing {
    /// The sustained pace; `None` is as fast as the destination answers.
    pub rate: Option<Rate>,
    /// So many may go at once after a quiet time.
    pub burst: u32,
    /// Requests under way at once; records of one key are never under way twice.
    pub concurrency: usize,
    /// A throttled record holds up its own key only, not all.
    pub throttled_by_key: bool,
}

/// A service behind a sink. It has no loop, no sleep, no socket: delivery does all that.
pub trait Destination {
    /// Its name in receipts and dead letters.
    fn name(&self) -> &'static str;

    /// Where it is. It displays without a secret.
    fn address(&self) -> &Address;

    /// What is to become of an event.
    fn plan(&mut self, event: &Event<'_>) -> Plan;

    /// How fast.
    fn pacing(&self) -> Pacing;

    /// How many together.
    fn batching(&self) -> Batching {
        Batching::ONE
    }

    /// The request for these records, which are of one key.
    ///
    /// # Errors
    /// They cannot be sent at all; the reason goes into the dead letter.
    fn request(&self, letters: &[Letter<'_>], form: Form) -> Result<Request, String>;

    /// What the answer means, one outcome for each of `count` records, in order. The outcomes of all but batch destinations are alike.
    fn outcomes(&self, count: usize, answer: &Response) -> Vec<Outcome>;

    /// A record of it was settled; `delivered` tells how.
    fn settled(&mut self, _letter: Letter<'_>, _delivered: bool) {}

    /// Reads its secret again. Says whether it is another now.
    ///
    /// # Errors
    /// It cannot be read any more.
    fn reload(&mut self) -> Result<bool, String>;

    /// `text` without the secret.
    fn redact(&self, text: &str) -> String;

    /// The record `--send-test` sends.
    fn test_record(&self) -> String;
}
