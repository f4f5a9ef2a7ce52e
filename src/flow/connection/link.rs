//! What is known of the link and what follows from it. It is told the moment and what happened, and says what is to be done: no socket, no clock, no sleep.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{ConnectionArgs, dial_limit};
use crate::model::backoff::{self, HEALTHY};
use crate::model::exit::{Exit, Failure};
use crate::model::lifecycle::Change;
use crate::model::quantity::show_duration;
use crate::model::time::{Moment, Timestamp};

/// The longest wait a server can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Start an attempt.
    Dial,
    /// Send a ping.
    Ping,
    /// Let go of the connection or of the attempt under way.
    HangUp,
    /// Write a lifecycle record.
    Tell(Change),
    /// Something is wrong and the program goes on.
    Warn(String),
    /// Something an operator wants to know.
    Inform(String),
    /// A step, for `--verbose`.
    Detail(String),
    /// The run is over: close in good order, flush, end.
    End(Result<Exit, Failure>),
}

/// The state of the link.
pub struct Link {
    args: ConnectionArgs,
    phase: Phase,
    effects: VecDeque<Effect>,
    /// Attempts since the last `open`.
    attempts: u32,
    /// Failures since the last time all was well: what the backoff grows with.
    failures: u32,
    /// The failure that was told last, while nothing else happened.
    told: Option<String>,
    /// Since when there is no proven link, if there is none. Waits the server asked for are added.
    unproven_since: Option<Instant>,
    /// The proven link that was lost, until the gap is told.
    lost: Option<Lost>,
    /// The output is blocked, so the socket is not read and silence proves nothing.
    blocked: bool,
    /// The output was blocked, and the socket was not read dry since.
    lagging: bool,
    /// Credentials that were refused since the link was last proven, by their fingerprints, and when.
    refused: Vec<(u64, Instant)>,
    /// Since when nothing is tried because the credentials are refused.
    holding: Option<Instant>,
    events: u64,
    /// When the run is over at the latest.
    end: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Waiting { until: Instant },
    Dialing { until: Instant },
    Linked(Linked),
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Linked {
    since: Instant,
    /// A message showed that we are let in.
    proven: bool,
    /// When bytes were read last.
    heard: Moment,
    /// When the server was last known to be alive: as `heard`, but bytes read after a blockage may be as old as that.
    alive: Timestamp,
    /// When the ping left that nothing has answered yet.
    pinged: Option<Instant>,
    /// When an event came last.
    event: Instant,
    /// When the server was last known to be alive, on the clock that never jumps.
    life: Instant,
    /// When the next heartbeat is due, if any is wanted.
    beat: Instant,
}

struct Lost {
    from: Timestamp,
    reason: String,
}

impl Link {
    /// A link that was never there; the first attempt is due at once.
    pub fn new(args: ConnectionArgs, now: Moment) -> Link {
        let mut link = Link {
            phase: Phase::Waiting { until: now.at },
            effects: VecDeque::new(),
            attempts: 0,
            failures: 0,
            told: None,
            unproven_since: Some(now.at),
            lost: None,
            blocked: false,
            lagging: false,
            refused: Vec::new(),
            holding: None,
            events: 0,
            end: args.run_for.map(|run_for| now.at + run_for),
            args,
        };
        link.limit();
        link
    }

    /// The next thing to be done.
    pub fn effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Link::tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let own = match &self.phase {
            Phase::Over => return None,
            Phase::Waiting { until } | Phase::Dialing { until } => Some(*until),
            Phase::Linked(_) if self.blocked => None,
            Phase::Linked(linked) => {
                let life = match linked.pinged {
                    Some(pinged) => pinged + self.args.timeout,
                    None => linked.heard.at + self.ping_after(linked),
                };
                [self.silent_at(linked), self.beat_at(linked)].into_iter().flatten().chain([life]).min()
            }
        };
        own.into_iter().chain(self.end).chain(self.give_up_at()).min()
    }

    /// A server that accepted and has said nothing is asked for a sign of life sooner; but not at once, since one that refuses us and
    /// leaves without having read the ping would reset the connection, and its last words could be lost.
    fn ping_after(&self, linked: &Linked) -> Duration {
        if linked.proven { self.args.ping } else { self.args.ping.min(self.args.timeout) }
    }

    fn silent_at(&self, linked: &Linked) -> Option<Instant> {
        self.args.max_silence.map(|silence| linked.event + silence)
    }

    /// Until then what was heard last proves that the link is alive.
    fn proof_ends(&self, linked: &Linked) -> Instant {
        linked.life + self.args.ping + self.args.timeout
    }

    /// When a heartbeat is due, unless the proof of life will be too old by then; the next sign of life then makes it due.
    fn beat_at(&self, linked: &Linked) -> Option<Instant> {
        self.args.heartbeat?;
        let proven = linked.proven && !self.blocked && !self.lagging && linked.beat <= self.proof_ends(linked);
        proven.then_some(linked.beat)
    }

    /// A program that ended while its credentials are refused would be started again and try them again.
    fn give_up_at(&self) -> Option<Instant> {
        if self.holding.is_some() {
            return None;
        }
        Some(self.unproven_since? + self.args.give_up?)
    }

    /// Heeds the deadlines. `random` in 0..1 is for a backoff that may begin.
    pub fn tick(&mut self, now: Moment, random: f64) {
        if matches!(self.phase, Phase::Over) {
            return;
        }
        if self.end.is_some_and(|end| end <= now.at) {
            let run_for = show_duration(self.args.run_for.unwrap_or_default());
            return self.stop(&format!("ran for {run_for} (--for)"));
        }
        if self.give_up_at().is_some_and(|at| at <= now.at) {
            return self.give_up();
        }
        match self.phase {
            Phase::Waiting { until } if until <= now.at => self.dial(now),
            Phase::Dialing { until } if until <= now.at => {
                self.effects.push_back(Effect::HangUp);
                self.failed(now, "the attempt took too long (the host's name may not be answered)", None, random);
            }
            Phase::Linked(linked) if !self.blocked => self.watch(linked, now, random),
            _ => {}
        }
    }

    fn dial(&mut self, now: Moment) {
        self.let_go(now);
        self.attempts += 1;
        self.effects.push_back(Effect::Detail(format!("connecting, attempt {}", self.attempts)));
        self.phase = Phase::Dialing { until: now.at + dial_limit(&self.args) };
        self.effects.push_back(Effect::Dial);
    }

    fn watch(&mut self, mut linked: Linked, now: Moment, random: f64) {
        if linked.pinged.is_some_and(|pinged| pinged + self.args.timeout <= now.at) {
            let timeout = show_duration(self.args.timeout);
            return self.lose(
                now,
                &format!("the server went silent: no answer to a ping within {timeout}"),
                None,
                random,
            );
        }
        if self.silent_at(&linked).is_some_and(|silent| silent <= now.at) {
            let silence = show_duration(self.args.max_silence.unwrap_or_default());
            return self.lose(now, &format!("no event for {silence} (--max-silence)"), None, random);
        }
        if linked.pinged.is_none() && linked.heard.at + self.ping_after(&linked) <= now.at {
            linked.pinged = Some(now.at);
            self.phase = Phase::Linked(linked);
            self.effects.push_back(Effect::Ping);
        }
        if let (Some(every), Some(beat)) = (self.args.heartbeat, self.beat_at(&linked).filter(|beat| *beat <= now.at)) {
            let proof_ends = self.proof_ends(&linked);
            if now.at <= proof_ends {
                self.effects.push_back(Effect::Tell(Change::Heartbeat));
                // In step with the first one, unless some were missed.
                linked.beat = Some(beat + every).filter(|next| *next > now.at).unwrap_or(now.at + every);
            } else {
                linked.beat = proof_ends + Duration::from_millis(1);
            }
            self.phase = Phase::Linked(linked);
        }
    }

    /// The attempt brought a connection. It proves nothing yet.
    pub fn dialed(&mut self, now: Moment) {
        self.effects.push_back(Effect::Detail("connected; waiting for the first message".to_owned()));
        self.phase = Phase::Linked(Linked {
            since: now.at,
            proven: false,
            heard: now,
            alive: now.utc,
            pinged: None,
            event: now.at,
            life: now.at,
            beat: now.at,
        });
    }

    /// The attempt failed.
    pub fn failed(&mut self, now: Moment, reason: &str, retry_after: Option<Duration>, random: f64) {
        self.tell_failure(reason);
        self.retry(now, reason, retry_after, random);
    }

    /// Another connection takes the place of the one in use; nothing was missed in between.
    pub fn succeeded(&mut self, now: Moment) {
        if let Phase::Linked(linked) = &mut self.phase {
            linked.since = now.at;
            linked.heard = now;
            linked.pinged = None;
            self.effects.push_back(Effect::Detail("another connection took over".to_owned()));
        }
    }

    /// There is no use in going on.
    pub fn fail(&mut self, now: Moment, failure: Failure) {
        let reason = failure.message.clone();
        self.effects.push_back(Effect::Tell(Change::Failed { reason: reason.clone() }));
        self.close_proven(now, &reason, None);
        self.over(Err(failure));
    }

    /// Bytes came.
    pub fn heard(&mut self, now: Moment) {
        if let Phase::Linked(linked) = &mut self.phase {
            linked.heard = now;
            linked.pinged = None;
            if !self.lagging {
                (linked.alive, linked.life) = (now.utc, now.at);
            }
        }
    }

    /// The socket was read dry: what comes next is new.
    pub fn caught_up(&mut self) {
        self.lagging = false;
    }

    /// A message came that only those let in are sent.
    pub fn proven(&mut self, now: Moment) {
        let Phase::Linked(linked) = &mut self.phase else { return };
        if linked.proven {
            return;
        }
        linked.proven = true;
        linked.beat = now.at + self.args.heartbeat.unwrap_or_default();
        self.refused.clear();
        let attempts = self.attempts;
        self.effects.push_back(Effect::Tell(Change::Open { attempts }));
        match self.lost.take() {
            None => self.effects.push_back(Effect::Inform("open".to_owned())),
            Some(Lost { from, reason }) => {
                let gap = show_duration(now.utc.since(from));
                self.effects.push_back(Effect::Inform(format!("open again; events of {gap} may be missing")));
                self.effects.push_back(Effect::Tell(Change::Gap { from, to: now.utc, reason, attempts }));
            }
        }
        self.attempts = 0;
        self.told = None;
        self.unproven_since = None;
    }

    /// An event was passed on.
    pub fn event(&mut self, now: Moment) {
        if let Phase::Linked(linked) = &mut self.phase {
            linked.event = now.at;
        }
        self.aside();
    }

    /// An event was passed on that the stream did not send: it counts, and proves nothing.
    pub fn aside(&mut self) {
        self.events += 1;
        self.limit();
    }

    fn limit(&mut self) {
        if let Some(enough) = self.args.max_events.filter(|enough| self.events >= *enough) {
            self.stop(&format!("{enough} events (--max-events)"));
        }
    }

    /// The connection ended by itself.
    pub fn ended(&mut self, now: Moment, reason: &str, code: Option<u16>, random: f64) {
        self.lose(now, reason, code, random);
    }

    /// The connection turned out to be of no use any more: `since` then, if that is before its last sign of life. `retry_after` is the server's wish.
    pub fn useless(
        &mut self,
        now: Moment,
        reason: &str,
        since: Option<Timestamp>,
        retry_after: Option<Duration>,
        random: f64,
    ) {
        if let (Phase::Linked(linked), Some(since)) = (&mut self.phase, since) {
            linked.alive = linked.alive.min(since);
        }
        self.lose_for(now, reason, None, retry_after, random);
    }

    /// The server said that something is wrong.
    pub fn said_error(&mut self, now: Moment, reason: &str, random: f64) {
        self.tell_failure(reason);
        self.lose(now, reason, None, random);
    }

    /// The credentials are refused: those `used`, by their fingerprint. With others `at_hand` it is worth another attempt.
    pub fn refused(&mut self, now: Moment, reason: &str, used: u64, at_hand: u64, random: f64) {
        self.refused.retain(|(known, _)| *known != used);
        self.refused.push((used, now.at));
        if self.free_at(at_hand).is_none() && !self.args.is_single() {
            let reason = format!("the credentials were refused and have changed since: {reason}");
            self.effects.push_back(Effect::HangUp);
            return if self.is_proven() {
                self.lose(now, &reason, None, random)
            } else {
                self.failed(now, &reason, None, random)
            };
        }
        let hold = self.args.hold_on_auth.filter(|_| !self.args.is_single());
        let words = format!("the credentials are refused: {reason}");
        if hold.is_none() || self.told.as_ref() != Some(&words) {
            self.effects.push_back(Effect::Tell(Change::Unauthorized { reason: reason.to_owned() }));
        }
        let Some(hold) = hold else {
            if self.is_proven() {
                self.effects.push_back(Effect::Tell(Change::Close { reason: reason.to_owned(), code: None }));
            }
            return self.over(Err(Failure::refused(words)));
        };
        self.effects.push_back(Effect::HangUp);
        self.close_proven(now, reason, None);
        let hold = show_duration(hold);
        self.effects.push_back(Effect::Warn(format!("{words}; next attempt in {hold}, or when they change")));
        self.told = Some(words);
        self.holding = Some(now.at);
        self.phase = Phase::Waiting { until: self.free_at(at_hand).unwrap_or(now.at).max(now.at + backoff::FLOOR) };
    }

    /// Until when credentials are not to be tried because they were refused, if they were.
    fn free_at(&self, credentials: u64) -> Option<Instant> {
        let (_, when) = self.refused.iter().find(|(known, _)| *known == credentials)?;
        Some(*when + self.args.hold_on_auth.unwrap_or_default())
    }

    /// Whether it waits because the credentials are refused; [`Link::found`] is then to be told of others.
    pub fn is_holding(&self) -> bool {
        self.holding.is_some()
    }

    /// These are the credentials now. Others than those refused end the waiting.
    pub fn found(&mut self, now: Moment, at_hand: u64) {
        let Some(since) = self.holding else { return };
        let soonest = since + backoff::FLOOR;
        let until = match self.free_at(at_hand) {
            Some(free_at) => free_at.max(soonest),
            None => soonest.max(now.at),
        };
        if self.free_at(at_hand).is_none()
            && !matches!(self.phase, Phase::Waiting { until } if until <= soonest.max(now.at))
        {
            self.effects.push_back(Effect::Inform("the credentials have changed and are tried".to_owned()));
        }
        self.phase = Phase::Waiting { until };
    }

    /// The waiting for other credentials is over; it does not count towards giving up.
    fn let_go(&mut self, now: Moment) {
        if let (Some(since), Some(unproven)) = (self.holding.take(), &mut self.unproven_since) {
            *unproven += now.at.saturating_duration_since(since);
        }
    }

    fn is_proven(&self) -> bool {
        matches!(self.phase, Phase::Linked(Linked { proven: true, .. }))
    }

    /// The connection is to be let go of and another one made at once: secrets were read again.
    pub fn renew(&mut self, now: Moment) {
        if matches!(self.phase, Phase::Over) {
            return;
        }
        self.let_go(now);
        let reason = "asked to connect anew (HUP)";
        self.effects.push_back(Effect::Inform(reason.to_owned()));
        self.effects.push_back(Effect::HangUp);
        self.close_proven(now, reason, None);
        self.failures = 0;
        self.phase = Phase::Waiting { until: now.at };
    }

    /// The output is blocked, or no longer.
    pub fn block(&mut self, now: Moment, blocked: bool) {
        if self.blocked == blocked {
            return;
        }
        self.blocked = blocked;
        self.lagging = true;
        if let Phase::Linked(linked) = &mut self.phase {
            // The silence was ours; what came meanwhile is about to be read.
            if !blocked {
                linked.heard = now;
                linked.pinged = None;
                linked.event = now.at;
            }
        }
    }

    /// The run is to end in good order.
    pub fn stop(&mut self, reason: &str) {
        if !matches!(self.phase, Phase::Over) {
            self.effects.push_back(Effect::Tell(Change::Stopped { reason: reason.to_owned() }));
            self.effects.push_back(Effect::Detail(format!("stopping: {reason}")));
            self.over(Ok(Exit::Success));
        }
    }

    /// The state in a sentence, for a service manager. It holds the reasons it was told, so no secret if they held none.
    pub fn status(&self) -> String {
        let trouble = self.told.as_ref().or(self.lost.as_ref().map(|lost| &lost.reason));
        let after = trouble.map(|trouble| format!(" ({trouble})")).unwrap_or_default();
        match &self.phase {
            Phase::Waiting { .. } if self.holding.is_some() => {
                format!("not connected, waiting for other credentials{after}")
            }
            Phase::Waiting { .. } if self.attempts == 0 && trouble.is_none() => "connecting".to_owned(),
            Phase::Waiting { .. } => format!("not connected, will try again{after}"),
            Phase::Dialing { .. } => format!("connecting, attempt {}{after}", self.attempts),
            Phase::Linked(Linked { proven: false, .. }) => format!("connected, waiting for the first message{after}"),
            Phase::Linked(_) if self.blocked => {
                "open, but standard output is blocked: the stream is not read".to_owned()
            }
            Phase::Linked(_) => "open".to_owned(),
            Phase::Over => "stopping".to_owned(),
        }
    }

    fn give_up(&mut self) {
        let time = show_duration(self.args.give_up.unwrap_or_default());
        let reason = format!("no connection for {time} (--give-up)");
        self.effects.push_back(Effect::Tell(Change::Failed { reason: reason.clone() }));
        self.over(Err(Failure::failed(reason)));
    }

    fn over(&mut self, outcome: Result<Exit, Failure>) {
        self.phase = Phase::Over;
        self.effects.push_back(Effect::End(outcome));
    }

    /// The connection is over, from whichever side.
    fn lose(&mut self, now: Moment, reason: &str, code: Option<u16>, random: f64) {
        self.lose_for(now, reason, code, None, random);
    }

    fn lose_for(&mut self, now: Moment, reason: &str, code: Option<u16>, retry_after: Option<Duration>, random: f64) {
        let Phase::Linked(linked) = self.phase else { return };
        self.effects.push_back(Effect::HangUp);
        if linked.heard.at.saturating_duration_since(linked.since) >= HEALTHY {
            self.failures = 0;
        }
        if linked.proven {
            self.close_proven(now, reason, code);
            if !self.args.is_single() {
                self.effects.push_back(Effect::Warn(format!("closed: {reason}")));
            }
        } else {
            // Nothing was ever open, so nothing is closed: an attempt that failed late.
            self.tell_failure(reason);
        }
        self.retry(now, reason, retry_after, random);
    }

    fn close_proven(&mut self, now: Moment, reason: &str, code: Option<u16>) {
        let Phase::Linked(Linked { proven: true, alive, .. }) = self.phase else { return };
        self.effects.push_back(Effect::Tell(Change::Close { reason: reason.to_owned(), code }));
        self.lost = Some(Lost { from: alive, reason: reason.to_owned() });
        self.unproven_since = Some(now.at);
    }

    /// Tells a failure, but only the first of a run of equal ones.
    fn tell_failure(&mut self, reason: &str) {
        if self.told.as_deref() == Some(reason) {
            self.effects.push_back(Effect::Detail(reason.to_owned()));
            return;
        }
        self.told = Some(reason.to_owned());
        self.effects.push_back(Effect::Tell(Change::Failed { reason: reason.to_owned() }));
        if !self.args.is_single() {
            self.effects.push_back(Effect::Warn(format!("{reason}; trying again")));
        }
    }

    fn retry(&mut self, now: Moment, reason: &str, retry_after: Option<Duration>, random: f64) {
        if self.args.is_single() {
            let why = if self.args.no_reconnect { "--no-reconnect" } else { "it is not taken up again" };
            return self.over(Err(Failure::failed(format!("{reason} ({why})"))));
        }
        self.failures = self.failures.saturating_add(1);
        let delay = backoff::delay(self.failures, random);
        let asked = retry_after.map(|asked| asked.min(MAX_RETRY_AFTER)).filter(|asked| *asked > delay);
        if let (Some(asked), Some(since)) = (asked, &mut self.unproven_since) {
            *since += asked;
        }
        let wait = asked.unwrap_or(delay);
        self.effects.push_back(Effect::Detail(format!("next attempt in {}", show_duration(wait))));
        self.phase = Phase::Waiting { until: now.at + wait };
    }
}

#[cfg(test)]
mod tests;
