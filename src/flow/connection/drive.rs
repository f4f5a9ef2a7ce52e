//! The loop of a source: waits on the socket, standard output, signals, the dialing thread and the deadlines at once, and carries out what the link wants.

use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::buffer::{Buffer, Next};
use super::link::{Effect, Link};
use super::{Aside, ConnectionArgs, Meaning, Overflow, Protocol, Rejection};
use crate::flow::accounts::Accounts;
use crate::model::exit::{Exit, Failure, Fault, FaultCount};
use crate::model::json;
use crate::model::lifecycle::Change;
use crate::model::time::{Moment, parse_retry_after};
use crate::world::World;
use crate::world::streams::Written;
use crate::world::unix::{self, Interest};
use crate::world::websocket::client::{Client, Received};

/// So many messages are taken before the output and the signals are looked at again.
const TURN: usize = 512;

/// A server's words are cut to so many characters.
const MAX_WORDS: usize = 300;

/// So long the closing handshake may take.
const CLOSING: Duration = Duration::from_secs(1);

/// While refused credentials are held on to, others are looked for so often; also how often a busy service manager is told again.
const LOOK: Duration = Duration::from_secs(1);

/// Connects, passes on what comes, and connects again, until it is stopped, its reader goes away, or there is no use in going on.
///
/// # Errors
/// Refused credentials; a world that failed for good; a broken output.
pub fn keep_connected(world: &mut World, protocol: &mut dyn Protocol, args: &ConnectionArgs) -> Result<Exit, Failure> {
    let now = world.clock.now();
    let limit = usize::try_from(args.buffer).unwrap_or(usize::MAX).max(1);
    let mut drive = Drive {
        source: protocol.source(),
        path: protocol.path(),
        link: Link::new(args.clone(), now),
        world,
        protocol,
        limit,
        drops: args.overflow == Overflow::Drop,
        drain: args.drain,
        lifecycle: !args.no_lifecycle,
        heartbeat: args.heartbeat.unwrap_or_default(),
        finite: args.finite,
        buffer: Buffer::new(args.overflow == Overflow::Drop, limit),
        attempt: None,
        used: 0,
        looked: now.at,
        status: String::new(),
        alive: now.at,
        client: None,
        received: 0,
        blocked: false,
        ending: None,
        stopped: None,
        progress: now.at,
        reader_gone: false,
        counts: Counts::default(),
    };
    let result = drive.run();
    if drive.buffer.is_empty() {
        let now = drive.world.clock.now();
        drive.protocol.written(true, now);
        // The next stage need not wait for the last words.
        drive.world.output.close();
    }
    drive.protocol.leave();
    if drive.world.stats {
        drive.report();
    }
    result
}

#[derive(Default)]
struct Counts {
    messages: u64,
    passed: u64,
    events: u64,
    faulty: FaultCount,
    errors: u64,
    lifecycle: u64,
    attempts: u64,
    connections: u64,
    blocked: u64,
}

struct Drive<'w> {
    world: &'w mut World,
    protocol: &'w mut dyn Protocol,
    /// The thing in diagnostics.
    source: String,
    path: String,
    link: Link,
    /// How much may wait for the reader, in bytes.
    limit: usize,
    /// Beyond that the oldest events go.
    drops: bool,
    drain: Duration,
    /// Whether lifecycle records are written.
    lifecycle: bool,
    /// How often a heartbeat is wanted, if it is.
    heartbeat: Duration,
    /// A server that closes in good order has sent everything.
    finite: bool,
    buffer: Buffer,
    /// The attempt under way.
    attempt: Option<Receiver<Result<Client, Rejection>>>,
    /// The fingerprint of the credentials that the last attempt took along.
    used: u64,
    /// When other credentials were last looked for.
    looked: Instant,
    /// What the service manager was told last.
    status: String,
    /// When the service manager was last told that the loop goes round.
    alive: Instant,
    client: Option<Client>,
    /// Bytes the connection had brought when it was last looked at.
    received: u64,
    /// The buffer was full and is not half empty yet.
    blocked: bool,
    ending: Option<Ending>,
    /// When a stop was asked for.
    stopped: Option<Instant>,
    /// When the output last took something, or had nothing to take.
    progress: Instant,
    /// A poll saw the reader's end.
    reader_gone: bool,
    counts: Counts,
}

/// The run is over but for what is still on its way.
struct Ending {
    outcome: Result<Exit, Failure>,
    /// Until then the closing handshake may take.
    closing: Instant,
}

impl Drive<'_> {
    fn run(&mut self) -> Result<Exit, Failure> {
        // Units that come after a source must not wait for a server that may be down for days.
        self.world.service_manager.ready();
        let result = self.go_round();
        if self.ending.is_none() {
            self.world.service_manager.stopping();
        }
        result
    }

    fn go_round(&mut self) -> Result<Exit, Failure> {
        loop {
            let now = self.world.clock.now();
            self.heed_signals(now);
            self.heed_attempt(now);
            self.look_for_credentials(now);
            let more = self.read(now);
            self.link.tick(now, self.world.clock.random());
            self.carry_out(now);
            self.take_asides(now);
            if self.write(now)? == Written::ReaderGone || self.reader_gone {
                self.say_goodbye();
                return Ok(Exit::Success);
            }
            self.weigh(now);
            self.tell_manager(now);
            if let Some(over) = self.over(now) {
                return over;
            }
            if !more {
                self.wait(now)?;
            }
        }
    }

    fn heed_signals(&mut self, now: Moment) {
        if self.world.signals.take_report() {
            self.report();
        }
        if self.world.signals.take_reload() && self.ending.is_none() {
            self.world.service_manager.reloading();
            if let Err(reason) = self.protocol.reload() {
                self.world.diagnostics.warn(&format!("{reason}; the credentials from before are kept"));
            }
            if self.link.is_holding() {
                self.link.found(now, self.protocol.fingerprint());
                if self.protocol.fingerprint() == self.used {
                    let note = "HUP: the credentials are still those that were refused, and are not tried yet (--hold-on-auth)";
                    self.world.diagnostics.info(&format!("{}: {note}", self.source));
                }
            } else {
                self.link.renew(now);
            }
            self.world.service_manager.ready();
        }
        if self.stopped.is_none() && self.world.signals.stop_requested() {
            self.stopped = Some(now.at);
            let signal = if self.world.signals.interrupted() { "INT" } else { "TERM" };
            self.link.stop(&format!("asked to stop ({signal})"));
        }
        self.carry_out(now);
    }

    fn heed_attempt(&mut self, now: Moment) {
        let Some(attempt) = &self.attempt else { return };
        let result = match attempt.try_recv() {
            Err(TryRecvError::Empty) => return,
            Ok(result) => result,
            Err(TryRecvError::Disconnected) => {
                Err(Rejection::Failed { reason: "the attempt broke off".to_owned(), retry_after: None })
            }
        };
        self.attempt = None;
        match result {
            Ok(client) => {
                self.client = Some(client);
                self.received = 0;
                self.protocol.dialed();
                self.link.dialed(now);
            }
            Err(Rejection::Refused { reason }) => self.refuse(&reason, now),
            Err(Rejection::Failed { reason, retry_after }) => {
                let retry_after = retry_after.and_then(|text| parse_retry_after(&text, now.utc));
                let reason = self.redact(&reason);
                self.link.failed(now, &reason, retry_after, self.world.clock.random());
            }
        }
        self.carry_out(now);
    }

    /// Secrets are read again when they are refused, so that a rotation works.
    fn refuse(&mut self, reason: &str, now: Moment) {
        let reason = self.redact(reason);
        // What cannot be read now, for a file is just being replaced, counts as unchanged.
        let _ = self.protocol.reload();
        self.link.refused(now, &reason, self.used, self.protocol.fingerprint(), self.world.clock.random());
        self.looked = now.at;
    }

    /// A changed token file is found within a second while refused credentials are held on to.
    fn look_for_credentials(&mut self, now: Moment) {
        if self.link.is_holding() && self.looked + LOOK <= now.at {
            self.looked = now.at;
            if self.protocol.reload().is_ok_and(|changed| changed) {
                self.link.found(now, self.protocol.fingerprint());
            }
        }
    }

    /// Tells the service manager, if there is one: the state when it is another, and as often as it asks that the loop goes round.
    fn tell_manager(&mut self, now: Moment) {
        let manager = &mut self.world.service_manager;
        if !manager.is_listening() {
            return;
        }
        manager.retry();
        let status = self.link.status();
        if status != self.status {
            manager.status(&status);
            self.status = status;
        }
        // A loop that goes round and leaves undone what was due is no sign of life. A blocked output is: nothing is due then.
        let stuck = |period: Duration| self.link.deadline().is_some_and(|deadline| deadline + period < now.at);
        if let Some(period) = manager.watchdog().filter(|period| self.alive + *period <= now.at && !stuck(*period)) {
            manager.alive();
            // In step, so that the time between two is not the period and a bit.
            self.alive = (self.alive + period).max(now.at - period / 2);
        }
    }

    /// When the service manager is to be told something again.
    fn manager_deadline(&self, now: Moment) -> Option<Instant> {
        let watchdog = self.world.service_manager.watchdog().map(|period| self.alive + period);
        watchdog.into_iter().chain(self.world.service_manager.is_behind().then(|| now.at + LOOK)).min()
    }

    /// Takes what the connection has to offer, as long as there is room for it. Says whether there may be more.
    fn read(&mut self, now: Moment) -> bool {
        if self.blocked {
            return false;
        }
        for _ in 0..TURN {
            let Some(client) = &mut self.client else { return false };
            let received = client.read();
            if self.ending.is_some() {
                // Only the end of the closing handshake is waited for.
                match received {
                    Received::Nothing => return false,
                    Received::End(_) => self.client = None,
                    _ => {}
                }
                continue;
            }
            let bytes = client.received();
            if bytes > self.received {
                self.received = bytes;
                self.link.heard(now);
                self.protocol.heard(now);
            }
            match received {
                Received::Nothing => {
                    self.link.caught_up();
                    if self.succeed(false, now) {
                        continue;
                    }
                    return false;
                }
                Received::Control => {}
                Received::Text(text) => self.take(&text, now),
                Received::Unreadable(reason) => {
                    self.counts.messages += 1;
                    self.fault(&Fault::new(reason));
                }
                Received::End(end) if end.complete && self.finite => self.link.stop("the server has sent everything"),
                Received::End(_) if self.succeed(true, now) => {}
                Received::End(end) => {
                    let reason = self.redact(&end.reason);
                    self.link.ended(now, &reason, end.code, self.world.clock.random());
                }
            }
            self.carry_out(now);
            if self.buffer.len() >= self.room() {
                return true;
            }
        }
        true
    }

    /// Lets a connection that was made ready take the place of the one that has been read dry. Says whether there was one.
    fn succeed(&mut self, ended: bool, now: Moment) -> bool {
        let Some(successor) = self.protocol.successor(ended, now) else { return false };
        self.say_goodbye();
        self.client = Some(successor);
        self.received = 0;
        self.link.succeeded(now);
        true
    }

    /// How much may wait before the output is looked at again. Where events are let go of it is a little more, or each would be let go of by itself.
    fn room(&self) -> usize {
        if self.drops { self.limit.saturating_add(self.limit / 8) } else { self.limit }
    }

    fn take(&mut self, text: &str, now: Moment) {
        self.counts.messages += 1;
        match self.protocol.message(text, now.utc) {
            Meaning::Records(records) => {
                self.link.proven(now);
                // `open` and `gap` stand before the record that proved them.
                self.carry_out(now);
                self.counts.passed += u64::from(!records.is_empty());
                for record in records {
                    self.buffer.push(record.text.as_bytes(), record.is_event);
                    self.counts.events += u64::from(record.is_event);
                    if record.is_event {
                        self.link.event(now);
                        self.carry_out(now);
                    }
                    if self.ending.is_some() {
                        break;
                    }
                }
            }
            Meaning::Refused(reason) => {
                self.counts.errors += 1;
                self.refuse(&reason, now);
            }
            Meaning::Failed(reason) => {
                self.counts.errors += 1;
                let reason = self.redact(&reason);
                self.link.said_error(now, &reason, self.world.clock.random());
            }
            Meaning::Faulty(fault) => self.fault(&fault),
            Meaning::Nothing => {}
        }
    }

    /// Takes what the protocol has to tell beside the messages, as long as there is room for it.
    fn take_asides(&mut self, now: Moment) {
        for _ in 0..TURN {
            if self.blocked || self.ending.is_some() || self.buffer.len() >= self.room() {
                return;
            }
            match self.protocol.aside(now) {
                None => return,
                Some(Aside::Tell(change)) => self.tell(&change, now),
                Some(Aside::Proven) => self.link.proven(now),
                Some(Aside::Lost { reason, since, retry_after }) => {
                    let reason = self.redact(&reason);
                    self.link.useless(now, &reason, since, retry_after, self.world.clock.random());
                }
                Some(Aside::Refused(reason)) => self.refuse(&reason, now),
                Some(Aside::End(failure)) => {
                    let message = self.redact(&failure.message);
                    self.link.fail(now, Failure { message, ..failure });
                }
                Some(Aside::Event(text)) => {
                    self.buffer.push(text.as_bytes(), true);
                    self.counts.events += 1;
                    self.link.aside();
                }
            }
            self.carry_out(now);
        }
    }

    /// Writes a lifecycle record, and what the protocol says happened with it.
    fn tell(&mut self, change: &Change, now: Moment) {
        let heeded = self.protocol.changed(change, now);
        if matches!(change, Change::Open { .. }) {
            self.counts.connections += 1;
        }
        if self.lifecycle && !self.is_idle_talk(change, now) {
            self.counts.lifecycle += 1;
            let record = change.record(&self.path, &self.source, now.utc);
            self.buffer.push(json::append(&record, &heeded.members).as_bytes(), false);
        }
        if let Some(then) = heeded.then {
            self.tell(&then, now);
        }
    }

    /// A server's words as they may be told: first without secrets, then cut, since half a secret would not be found.
    fn redact(&self, words: &str) -> String {
        let words = self.protocol.redact(words);
        match words.char_indices().nth(MAX_WORDS) {
            Some((at, _)) => format!("{}…", &words[..at]),
            None => words,
        }
    }

    fn fault(&mut self, fault: &Fault) {
        if let Some(so_far) = self.counts.faulty.count("messages") {
            self.world.diagnostics.warn(&format!("message {}: {fault}; not passed on{so_far}", self.counts.messages));
        }
    }

    /// Does what the link wants done.
    fn carry_out(&mut self, now: Moment) {
        while let Some(effect) = self.link.effect() {
            match effect {
                Effect::Dial => self.dial(now),
                Effect::Ping => {
                    if let Some(client) = &mut self.client {
                        client.ping();
                    }
                }
                Effect::HangUp => {
                    self.attempt = None;
                    self.say_goodbye();
                    self.client = None;
                    self.protocol.hung_up();
                }
                Effect::Tell(change) => self.tell(&change, now),
                Effect::Warn(text) => self.world.diagnostics.warn(&format!("{}: {text}", self.source)),
                Effect::Inform(text) => self.world.diagnostics.info(&format!("{}: {text}", self.source)),
                Effect::Detail(text) => self.world.diagnostics.detail(&format!("{}: {text}", self.source)),
                Effect::End(outcome) => {
                    self.world.service_manager.stopping();
                    self.attempt = None;
                    self.say_goodbye();
                    self.protocol.hung_up();
                    let named = |failure: Failure| Failure {
                        message: format!("{}: {}", self.source, failure.message),
                        ..failure
                    };
                    self.ending = Some(Ending { outcome: outcome.map_err(named), closing: now.at + CLOSING });
                    self.progress = now.at;
                }
            }
        }
    }

    /// Heartbeats do not pile up before a reader that takes nothing.
    fn is_idle_talk(&self, change: &Change, now: Moment) -> bool {
        *change == Change::Heartbeat && !self.buffer.is_empty() && self.progress + self.heartbeat < now.at
    }

    /// Starts an attempt in a thread of its own: a name's look-up cannot be cut short, and TERM must be.
    fn dial(&mut self, now: Moment) {
        self.counts.attempts += 1;
        self.used = self.protocol.fingerprint();
        let (dial, wake) = (self.protocol.dial(), self.world.wake.clone());
        // Each attempt may be at another server.
        self.source = self.protocol.source();
        let (sender, receiver) = channel();
        let started = thread::Builder::new().name("dial".to_owned()).spawn(move || {
            // Nobody listens any more if the attempt was given up meanwhile; the connection is then let go of here.
            let _ = sender.send(dial());
            wake.wake();
        });
        match started {
            Ok(_) => self.attempt = Some(receiver),
            Err(error) => {
                let reason = format!("no thread can be started: {error}");
                self.link.failed(now, &reason, None, self.world.clock.random());
            }
        }
    }

    /// Begins the closing handshake, if there is a connection; nothing waits for it here.
    fn say_goodbye(&mut self) {
        if let Some(client) = &mut self.client {
            client.close();
        }
    }

    fn write(&mut self, now: Moment) -> Result<Written, Failure> {
        loop {
            let before = self.buffer.len();
            let written = self.world.output.write(self.buffer.front());
            if before == 0 || self.buffer.len() < before {
                self.progress = now.at;
            }
            let written = written.map_err(|error| Failure::failed(format!("standard output: {error}")))?;
            if written != Written::All {
                return Ok(written);
            }
            match self.buffer.advance() {
                Next::Nothing => {
                    if self.ending.is_none() {
                        self.protocol.written(false, now);
                    }
                    return Ok(written);
                }
                Next::Lines => {}
                Next::Gap(dropped) => {
                    self.world.diagnostics.detail(&format!("standard output: {dropped} events were dropped here"));
                    if self.lifecycle {
                        self.counts.lifecycle += 1;
                        let drop = Change::Drop { dropped };
                        self.buffer.push_front(drop.record(&self.path, &self.source, now.utc).as_bytes());
                    }
                }
            }
        }
    }

    /// Compares what waits with the buffer.
    fn weigh(&mut self, now: Moment) {
        if self.drops {
            let first = self.buffer.dropped() == 0;
            if self.buffer.shed(self.limit) > 0 && first {
                let warning = "standard output: slower than the stream, and the buffer is full (--buffer); the oldest events are dropped (--overflow)";
                self.world.diagnostics.warn(warning);
            }
        }
        // What is left over the limit after that can not be dropped, and memory ends somewhere.
        let waiting = self.buffer.len();
        let full = if self.drops { waiting > self.limit } else { waiting >= self.limit };
        let blocked = if self.blocked { waiting > self.limit / 2 } else { full };
        if blocked && !self.blocked {
            self.counts.blocked += 1;
            if self.counts.blocked == 1 {
                let warning = "standard output: slower than the stream, and the buffer is full (--buffer); the stream is not read meanwhile";
                self.world.diagnostics.warn(warning);
            }
        }
        self.blocked = blocked;
        self.link.block(now, blocked);
    }

    /// When a blocked output is given up, once the run is over.
    fn output_deadline(&self) -> Option<Instant> {
        let ending = self.ending.as_ref().filter(|_| !self.buffer.is_empty())?;
        match self.stopped {
            Some(stopped) => Some(stopped + self.drain),
            // A supervisor that would start us again must not wait for ever; a reader that moves is waited for.
            None if ending.outcome.is_err() => Some(self.progress + self.drain),
            // Somebody wanted so many events: they get them, however late.
            None => None,
        }
    }

    /// How the run went, once nothing is on its way any more or the time for it is up.
    fn over(&mut self, now: Moment) -> Option<Result<Exit, Failure>> {
        let ending = self.ending.as_ref()?;
        if ending.closing <= now.at {
            self.client = None;
        }
        let in_time = self.output_deadline().is_none_or(|deadline| deadline > now.at);
        let written = self.buffer.is_empty();
        if in_time && (!written || self.client.is_some()) {
            if written {
                // The next stage need not wait for the server's farewell.
                self.world.output.close();
            }
            return None;
        }
        let outcome = self.ending.take()?.outcome;
        if written {
            return Some(outcome);
        }
        let unwritten = self.buffer.waiting();
        let message = format!("standard output: {unwritten} records not written when the time to drain was over");
        self.world.diagnostics.error(&message);
        Some(outcome.map(|exit| exit.or_worse(Exit::Incomplete)))
    }

    /// Waits for the socket, room in the output, the reader's death, a signal, the dialing thread or a deadline.
    fn wait(&mut self, now: Moment) -> Result<(), Failure> {
        let behind = !self.buffer.is_empty();
        let closing = self.ending.as_ref().filter(|_| self.client.is_some()).map(|ending| ending.closing);
        let idle = !behind && !self.blocked && self.ending.is_none();
        let aside = self.protocol.due(now).filter(|_| idle);
        let look = self.link.is_holding().then(|| self.looked + LOOK);
        let others = [closing, look, self.output_deadline(), self.manager_deadline(now), aside];
        let deadline = self.link.deadline().into_iter().chain(others.into_iter().flatten()).min();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(now.at));
        let mut fds = vec![
            (self.world.output.fd(), if behind { Interest::Write } else { Interest::End }),
            (self.world.wake.as_fd(), Interest::Read),
        ];
        // A socket that is not to be read is not waited on, not even for its end, which poll would report again and again.
        if let Some(client) = self.client.as_ref().filter(|_| !self.blocked) {
            let interest = if client.is_unsent() { Interest::ReadWrite } else { Interest::Read };
            fds.push((client.as_fd(), interest));
        }
        let ready = unix::wait_all(&fds, timeout).map_err(|error| Failure::failed(format!("poll: {error}")))?;
        if ready[1].read {
            self.world.wake.clear();
        }
        self.reader_gone = ready[0].gone && !self.world.output.is_closed();
        Ok(())
    }

    /// in = passed + faulty + errors (+ repeated, empty); out + dropped = records of what was passed + lifecycle (+ resynced).
    /// What stands in parentheses the protocol counts.
    fn report(&self) {
        let counts = &self.counts;
        let accounts = Accounts::default()
            .with("in", counts.messages)
            .with("out", self.buffer.count())
            .with("passed", counts.passed)
            .with("faulty", counts.faulty.total())
            .with("errors", counts.errors)
            .with("events", counts.events)
            .with("dropped", self.buffer.dropped())
            .with("lifecycle", counts.lifecycle)
            .with("attempts", counts.attempts)
            .with("connections", counts.connections)
            .with("blocked", counts.blocked)
            .with("unwritten", self.buffer.waiting())
            .and(&self.protocol.accounts());
        self.world.diagnostics.plain(&accounts.json(self.world.program));
    }
}
