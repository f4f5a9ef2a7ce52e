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
                Some(self.silent_at(linked).map_or(life, |silent| silent.min(life)))
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

    fn give_up_at(&self) -> Option<Instant> {
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
        self.attempts += 1;
        self.effects.push_back(Effect::Detail(format!("connecting, attempt {}", self.attempts)));
        self.phase = Phase::Dialing { until: now.at + dial_limit(self.args.timeout) };
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
        });
    }

    /// The attempt failed.
    pub fn failed(&mut self, now: Moment, reason: &str, retry_after: Option<Duration>, random: f64) {
        self.tell_failure(reason);
        self.retry(now, reason, retry_after, random);
    }

    /// Bytes came.
    pub fn heard(&mut self, now: Moment) {
        if let Phase::Linked(linked) = &mut self.phase {
            linked.heard = now;
            linked.pinged = None;
            if !self.lagging {
                linked.alive = now.utc;
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

    /// The server said that something is wrong.
    pub fn said_error(&mut self, now: Moment, reason: &str, random: f64) {
        self.tell_failure(reason);
        self.lose(now, reason, None, random);
    }

    /// The credentials are refused. With others at hand (`rotated`) it is worth another attempt.
    pub fn refused(&mut self, now: Moment, reason: &str, rotated: bool, random: f64) {
        if rotated && !self.args.no_reconnect {
            let reason = format!("the credentials were refused and have changed since: {reason}");
            self.effects.push_back(Effect::HangUp);
            return if self.is_proven() {
                self.lose(now, &reason, None, random)
            } else {
                self.failed(now, &reason, None, random)
            };
        }
        self.effects.push_back(Effect::Tell(Change::Unauthorized { reason: reason.to_owned() }));
        if self.is_proven() {
            self.effects.push_back(Effect::Tell(Change::Close { reason: reason.to_owned(), code: None }));
        }
        self.over(Err(Failure::refused(format!("the credentials are refused: {reason}"))));
    }

    fn is_proven(&self) -> bool {
        matches!(self.phase, Phase::Linked(Linked { proven: true, .. }))
    }

    /// The connection is to be let go of and another one made at once: secrets were read again.
    pub fn renew(&mut self, now: Moment) {
        if matches!(self.phase, Phase::Over) {
            return;
        }
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
        let Phase::Linked(linked) = self.phase else { return };
        self.effects.push_back(Effect::HangUp);
        if linked.heard.at.saturating_duration_since(linked.since) >= HEALTHY {
            self.failures = 0;
        }
        if linked.proven {
            self.close_proven(now, reason, code);
            if !self.args.no_reconnect {
                self.effects.push_back(Effect::Warn(format!("closed: {reason}")));
            }
        } else {
            // Nothing was ever open, so nothing is closed: an attempt that failed late.
            self.tell_failure(reason);
        }
        self.retry(now, reason, None, random);
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
        if !self.args.no_reconnect {
            self.effects.push_back(Effect::Warn(format!("{reason}; trying again")));
        }
    }

    fn retry(&mut self, now: Moment, reason: &str, retry_after: Option<Duration>, random: f64) {
        if self.args.no_reconnect {
            return self.over(Err(Failure::failed(format!("{reason} (--no-reconnect)"))));
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
mod tests {
    use super::*;
    use crate::flow::stage::tests::start;

    const SECOND: Duration = Duration::from_secs(1);

    fn link(change: impl FnOnce(&mut ConnectionArgs)) -> (Link, Moment) {
        let now = start();
        let mut args = ConnectionArgs::default();
        change(&mut args);
        (Link::new(args, now), now)
    }

    /// Everything that is to be done, without what is only said.
    fn effects(link: &mut Link) -> Vec<Effect> {
        let all = std::iter::from_fn(|| link.effect());
        all.filter(|effect| !matches!(effect, Effect::Warn(_) | Effect::Inform(_) | Effect::Detail(_))).collect()
    }

    /// The lifecycle records alone.
    fn told(link: &mut Link) -> Vec<Change> {
        let changes = effects(link).into_iter().filter_map(|effect| match effect {
            Effect::Tell(change) => Some(change),
            _ => None,
        });
        changes.collect()
    }

    /// Dials, connects and is let in.
    fn open(link: &mut Link, now: Moment) {
        link.tick(now, 0.5);
        assert!(effects(link).contains(&Effect::Dial));
        link.dialed(now);
        link.heard(now);
        link.proven(now);
    }

    fn wait_of(link: &Link, now: Moment) -> Duration {
        link.deadline().expect("an attempt is due") - now.at
    }

    fn failed(reason: &str) -> Change {
        Change::Failed { reason: reason.to_owned() }
    }

    #[test]
    fn a_handshake_proves_nothing_and_the_first_message_does() {
        let (mut link, now) = link(|_| ());
        link.tick(now, 0.0);
        assert_eq!(effects(&mut link), [Effect::Dial]);
        link.dialed(now);
        assert_eq!(effects(&mut link), []);
        link.heard(now);
        link.proven(now);
        link.proven(now);
        assert_eq!(effects(&mut link), [Effect::Tell(Change::Open { attempts: 1 })]);
    }

    #[test]
    fn a_server_that_accepts_and_is_dead_is_found_out_sooner() {
        let (mut link, now) = link(|_| ());
        link.tick(now, 0.0);
        link.dialed(now);
        effects(&mut link);
        assert_eq!(wait_of(&link, now), 10 * SECOND);
        link.tick(now.after(10 * SECOND), 0.0);
        assert_eq!(wait_of(&link, now), 20 * SECOND);
        link.tick(now.after(20 * SECOND), 0.0);
        let reason = "the server went silent: no answer to a ping within 10s";
        assert_eq!(effects(&mut link), [Effect::Ping, Effect::HangUp, Effect::Tell(failed(reason))]);
    }

    #[test]
    fn a_server_that_only_answers_pings_lives_and_is_never_called_open() {
        let (mut link, mut now) = link(|_| ());
        link.tick(now, 0.0);
        link.dialed(now);
        for _ in 0..100 {
            now = now.after(SECOND);
            link.heard(now);
            now = now.after(20 * SECOND);
            link.tick(now, 0.0);
        }
        assert!(effects(&mut link).iter().all(|effect| matches!(effect, Effect::Dial | Effect::Ping)));
    }

    #[test]
    fn silence_is_pinged_and_silence_after_that_is_the_end() {
        let (mut link, now) = link(|_| ());
        open(&mut link, now);
        effects(&mut link);
        link.tick(now.after(19 * SECOND), 0.0);
        assert_eq!(effects(&mut link), []);
        let pinged = now.after(20 * SECOND);
        link.tick(pinged, 0.0);
        link.tick(pinged.after(9 * SECOND), 0.0);
        assert_eq!(effects(&mut link), [Effect::Ping]);
        // Any byte is a sign of life, so the next ping is due 20s after it.
        link.heard(pinged.after(9 * SECOND));
        link.tick(pinged.after(28 * SECOND), 0.0);
        assert_eq!(effects(&mut link), []);
        link.tick(pinged.after(29 * SECOND), 0.0);
        link.tick(pinged.after(39 * SECOND), 0.0);
        let reason = "the server went silent: no answer to a ping within 10s".to_owned();
        assert_eq!(
            effects(&mut link),
            [Effect::Ping, Effect::HangUp, Effect::Tell(Change::Close { reason, code: None })]
        );
    }

    #[test]
    fn while_the_output_is_blocked_silence_proves_nothing() {
        let (mut link, now) = link(|args| args.max_silence = Some(60 * SECOND));
        open(&mut link, now);
        effects(&mut link);
        link.block(now, true);
        let later = now.after(3600 * SECOND);
        assert_eq!(link.deadline(), None);
        link.tick(later, 0.0);
        link.block(later, false);
        link.tick(later.after(19 * SECOND), 0.0);
        assert_eq!(effects(&mut link), []);
    }

    #[test]
    fn bytes_read_after_a_blockage_may_be_as_old_as_that() {
        let (mut link, now) = link(|_| ());
        open(&mut link, now);
        link.block(now, true);
        let later = now.after(3600 * SECOND);
        link.block(later, false);
        link.heard(later);
        link.ended(later, "gone", None, 0.0);
        let to = later.after(SECOND);
        open(&mut link, to);
        let from = |changes: &[Change]| match changes.last() {
            Some(Change::Gap { from, .. }) => *from,
            other => panic!("{other:?}"),
        };
        assert_eq!(from(&told(&mut link)), now.utc);
        link.caught_up();
        link.heard(to.after(SECOND));
        link.ended(to.after(2 * SECOND), "gone", None, 0.0);
        open(&mut link, to.after(60 * SECOND));
        assert_eq!(from(&told(&mut link)), to.after(SECOND).utc);
    }

    #[test]
    fn a_gap_runs_from_the_last_proof_of_life_to_the_next_open() {
        let (mut link, now) = link(|_| ());
        open(&mut link, now);
        let heard = now.after(7 * SECOND);
        link.heard(heard);
        link.ended(heard.after(5 * SECOND), "it broke", Some(1011), 0.0);
        assert_eq!(
            told(&mut link),
            [Change::Open { attempts: 1 }, Change::Close { reason: "it broke".to_owned(), code: Some(1011) }]
        );
        // An attempt in between fails, another one is let down before it was let in: neither is a close.
        link.tick(heard.after(6 * SECOND), 0.0);
        link.failed(heard.after(7 * SECOND), "refused", None, 0.0);
        link.tick(heard.after(8 * SECOND), 0.0);
        link.dialed(heard.after(9 * SECOND));
        link.ended(heard.after(10 * SECOND), "no room", Some(1013), 0.0);
        assert_eq!(told(&mut link), [failed("refused"), failed("no room")]);
        let to = heard.after(20 * SECOND);
        open(&mut link, to);
        let gap = Change::Gap { from: heard.utc, to: to.utc, reason: "it broke".to_owned(), attempts: 3 };
        assert_eq!(told(&mut link), [Change::Open { attempts: 3 }, gap]);
    }

    #[test]
    fn of_a_run_of_equal_failures_the_first_is_told() {
        let (mut link, mut now) = link(|_| ());
        for reason in ["refused", "refused", "no such host", "refused", "refused"] {
            link.tick(now, 0.0);
            link.failed(now, reason, None, 0.0);
            now = now.after(60 * SECOND);
        }
        assert_eq!(told(&mut link), [failed("refused"), failed("no such host"), failed("refused")]);
        open(&mut link, now);
        link.ended(now, "gone", None, 0.0);
        now = now.after(SECOND);
        link.tick(now, 0.0);
        link.failed(now, "refused", None, 0.0);
        assert_eq!(told(&mut link).last(), Some(&failed("refused")));
    }

    #[test]
    fn the_backoff_grows_never_falls_below_its_floor_and_heals() {
        let (mut link, mut now) = link(|_| ());
        for random in [0.0, 1.0] {
            for _ in 0..40 {
                link.tick(now, random);
                link.failed(now, "refused", None, random);
                let wait = wait_of(&link, now);
                assert!(wait >= backoff::FLOOR && wait <= backoff::CEILING);
                now = now.after(wait);
            }
        }
        assert_eq!(wait_of(&link, now), Duration::ZERO);
        // A link that dies young does not heal it; one that lived for half a minute does.
        open(&mut link, now);
        link.ended(now, "gone", None, 1.0);
        assert_eq!(wait_of(&link, now), backoff::CEILING);
        now = now.after(backoff::CEILING);
        open(&mut link, now);
        now = now.after(HEALTHY);
        link.heard(now);
        link.ended(now, "gone", None, 1.0);
        assert_eq!(wait_of(&link, now), 2 * SECOND);
    }

    #[test]
    fn a_wait_the_server_asks_for_is_obeyed_and_does_not_count_towards_giving_up() {
        let (mut link, now) = link(|args| args.give_up = Some(30 * SECOND));
        link.tick(now, 0.0);
        link.failed(now, "HTTP 429", Some(100 * SECOND), 0.0);
        assert_eq!(wait_of(&link, now), 100 * SECOND);
        let later = now.after(100 * SECOND);
        effects(&mut link);
        link.tick(later, 0.0);
        assert_eq!(effects(&mut link), [Effect::Dial]);
        link.failed(later, "HTTP 429", Some(Duration::ZERO), 0.0);
        assert_eq!(wait_of(&link, later), backoff::FLOOR);
    }

    #[test]
    fn gives_up_after_so_long_without_a_proven_link() {
        let (mut link, now) = link(|args| args.give_up = Some(30 * SECOND));
        open(&mut link, now);
        let lost = now.after(3600 * SECOND);
        link.heard(lost);
        link.ended(lost, "gone", None, 0.0);
        link.tick(lost.after(SECOND), 0.0);
        link.dialed(lost.after(SECOND));
        link.heard(lost.after(29 * SECOND));
        effects(&mut link);
        assert_eq!(link.deadline(), Some(lost.at + 30 * SECOND));
        link.tick(lost.after(30 * SECOND), 0.0);
        let reason = "no connection for 30s (--give-up)";
        assert_eq!(effects(&mut link), [Effect::Tell(failed(reason)), Effect::End(Err(Failure::failed(reason)))]);
        assert_eq!(link.deadline(), None);
    }

    #[test]
    fn without_reconnecting_the_first_failure_is_the_end() {
        let (mut link, now) = link(|args| args.no_reconnect = true);
        open(&mut link, now);
        effects(&mut link);
        link.ended(now, "gone", Some(1000), 0.0);
        let close = Change::Close { reason: "gone".to_owned(), code: Some(1000) };
        let end = Effect::End(Err(Failure::failed("gone (--no-reconnect)")));
        assert_eq!(effects(&mut link), [Effect::HangUp, Effect::Tell(close), end]);
    }

    #[test]
    fn refused_credentials_are_final_unless_they_have_changed() {
        let (mut refused, now) = link(|_| ());
        refused.tick(now, 0.0);
        effects(&mut refused);
        refused.refused(now, "HTTP 401", true, 0.0);
        assert_eq!(wait_of(&refused, now), backoff::FLOOR);
        let later = now.after(SECOND);
        refused.tick(later, 0.0);
        effects(&mut refused);
        refused.refused(later, "HTTP 401", false, 0.0);
        let end = Effect::End(Err(Failure::refused("the credentials are refused: HTTP 401")));
        assert_eq!(effects(&mut refused), [Effect::Tell(Change::Unauthorized { reason: "HTTP 401".to_owned() }), end]);
    }

    #[test]
    fn limits_end_it_in_good_order() {
        let (mut link, now) = link(|args| {
            args.max_events = Some(2);
            args.run_for = Some(60 * SECOND);
        });
        open(&mut link, now);
        effects(&mut link);
        link.event(now);
        assert_eq!(effects(&mut link), []);
        link.event(now);
        let stopped = Change::Stopped { reason: "2 events (--max-events)".to_owned() };
        assert_eq!(effects(&mut link), [Effect::Tell(stopped), Effect::End(Ok(Exit::Success))]);
        link.tick(now.after(60 * SECOND), 0.0);
        link.stop("asked");
        assert_eq!(effects(&mut link), []);
    }

    #[test]
    fn no_event_for_too_long_is_a_lost_connection_however_alive_it_seems() {
        let (mut link, now) = link(|args| args.max_silence = Some(30 * SECOND));
        open(&mut link, now);
        link.event(now.after(SECOND));
        link.heard(now.after(30 * SECOND));
        effects(&mut link);
        link.tick(now.after(30 * SECOND), 0.0);
        assert_eq!(effects(&mut link), []);
        link.tick(now.after(31 * SECOND), 0.0);
        let reason = "no event for 30s (--max-silence)".to_owned();
        assert_eq!(told(&mut link), [Change::Close { reason, code: None }]);
    }

    #[test]
    fn a_renewal_dials_at_once_and_leaves_a_gap() {
        let (mut link, now) = link(|_| ());
        open(&mut link, now);
        effects(&mut link);
        link.renew(now);
        link.tick(now, 0.0);
        let close = Change::Close { reason: "asked to connect anew (HUP)".to_owned(), code: None };
        assert_eq!(effects(&mut link), [Effect::HangUp, Effect::Tell(close), Effect::Dial]);
    }
}
