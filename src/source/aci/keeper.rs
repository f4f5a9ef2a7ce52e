//! Keeps a session useful: subscribes to every target, refreshes session and subscriptions in time, and ends the session when nobody needs it any longer.
//! Blocks; it runs in a thread of its own and tells what happens.

use std::time::{Duration, Instant};

use super::session::{DEFAULT_LIFE, Session, Subscribed, Trouble};
use super::target::{Query, Target};
use crate::model::backoff;
use crate::model::secret::Secret;
use crate::model::time::{Moment, Timestamp, parse_retry_after};

/// Between two subscriptions, and between two refreshes that are due at once: what Cisco's aci-containers leaves to spare the APIC.
const SPACING: Duration = Duration::from_millis(100);

/// So often a question is asked that might be answered the next time.
const ATTEMPTS: u32 = 4;

/// A refresh that failed is tried again after so long, once; after that the target is subscribed to anew.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// So many pages are read of one list, a million objects; and so many bytes.
const MOST_PAGES: u64 = 100;
const MOST_BYTES: usize = 512 << 20;

/// What to keep up.
#[derive(Clone, Debug)]
pub struct Order {
    /// What to subscribe to.
    pub targets: Vec<Target>,
    /// With which options.
    pub query: Query,
    /// Whether the first answers are to tell what there is.
    pub list: bool,
    /// Whether those to a subscription made anew are.
    pub list_again: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The session's token, whenever it is another one.
    Token(Secret),
    /// So long the session lasts at most from then on, however often it is refreshed.
    Life(Instant, Duration),
    /// A target, by its number, is subscribed to.
    Subscribed {
        /// Which one.
        target: usize,
        /// Id and answers.
        subscribed: Subscribed,
        /// When it was asked for: what happened before does not come by it.
        asked: Instant,
        /// Events may be missing since then: it was subscribed to before, and that ran out.
        missing_since: Option<(Timestamp, String)>,
    },
    /// A subscription is about to be made anew.
    Renewing(usize),
    /// Everything asked for is subscribed to.
    Ready,
    /// The session or what it is good for is over.
    Lost {
        /// Why.
        reason: String,
        /// Every subscription was known to be alive at this time, and not since.
        since: Option<Timestamp>,
        /// The APIC asked to be left alone for so long.
        retry_after: Option<Duration>,
    },
    /// The account is refused.
    Refused(String),
    /// A target or an option is wrong, and stays so.
    Wrong(String),
}

/// Time, chance, and who listens; which a test plays.
pub trait Surroundings {
    /// Waits; says false if nobody is interested any longer.
    fn wait(&mut self, duration: Duration) -> bool;

    /// A number in 0..1.
    fn random(&mut self) -> f64;

    /// Now.
    fn now(&mut self) -> Moment;

    /// Tells what happened.
    fn tell(&mut self, report: Report);
}

/// A subscription that is kept up.
struct Subscription {
    id: String,
    /// When it was last known to be alive.
    alive: Moment,
    /// When it is to be refreshed.
    due: Instant,
    failed: bool,
    /// Why it is to be made anew, if it is.
    broken: Option<Trouble>,
}

/// Subscribes and refreshes until nobody is interested or it is of no use any more, then ends the session.
pub fn keep(mut session: Session, order: &Order, surroundings: &mut dyn Surroundings) {
    let now = surroundings.now().at;
    let mut keeper = Keeper {
        refreshed: now,
        refresh_due: now + session.refresh_timeout / 2,
        refreshes_failed: 0,
        answered: now,
        session: &mut session,
        order,
        surroundings,
        subscriptions: Vec::new(),
    };
    if let Err(Over(Some(report))) = keeper.run() {
        keeper.surroundings.tell(report);
    }
    session.end();
}

/// It is over, with a last report if anybody is there to hear it.
struct Over(Option<Report>);

struct Keeper<'a> {
    session: &'a mut Session,
    order: &'a Order,
    surroundings: &'a mut dyn Surroundings,
    subscriptions: Vec<Subscription>,
    /// When the session was refreshed last.
    refreshed: Instant,
    /// When it is to be.
    refresh_due: Instant,
    refreshes_failed: u32,
    /// When the APIC last did what was asked of it.
    answered: Instant,
}

impl Keeper<'_> {
    fn run(&mut self) -> Result<(), Over> {
        self.surroundings.tell(Report::Life(self.refreshed, self.session.maximum_life));
        for number in 0..self.order.targets.len() {
            if number > 0 {
                self.wait(SPACING)?;
            }
            self.subscribe(number, None)?;
            // Many targets with long answers must not cost those that are subscribed to already.
            self.refresh_what_is_due()?;
            self.mend()?;
        }
        self.surroundings.tell(Report::Ready);
        loop {
            let now = self.surroundings.now().at;
            self.wait(self.next_due().saturating_duration_since(now))?;
            self.refresh_what_is_due()?;
            self.mend()?;
        }
    }

    /// A third of its life, so that two refreshes may fail.
    fn period(&self) -> Duration {
        self.life() / 3
    }

    fn life(&self) -> Duration {
        self.order.query.life.unwrap_or(DEFAULT_LIFE)
    }

    fn next_due(&self) -> Instant {
        let whole = self.subscriptions.iter().filter(|subscription| subscription.broken.is_none());
        whole.map(|subscription| subscription.due).fold(self.refresh_due, Instant::min)
    }

    /// Refreshes session and subscriptions. What cannot be refreshed any longer is noted as broken, so it may be called while a target is being listed.
    fn refresh_what_is_due(&mut self) -> Result<(), Over> {
        let mut first = true;
        for number in 0..self.subscriptions.len() {
            // Half of its time is there for it, but not more.
            self.refresh_session()?;
            let now = self.surroundings.now().at;
            let subscription = &self.subscriptions[number];
            if subscription.due > now || subscription.broken.is_some() {
                continue;
            }
            if !std::mem::take(&mut first) {
                let share = self.period() / u32::try_from(self.subscriptions.len() + 1).unwrap_or(u32::MAX);
                self.wait(SPACING.min(share))?;
            }
            self.refresh_subscription(number)?;
        }
        self.refresh_session()
    }

    /// Refreshes the session if it is time to; tried again until the session has run out, and nothing else waits for it.
    fn refresh_session(&mut self) -> Result<(), Over> {
        let asked = self.surroundings.now().at;
        if self.refresh_due > asked {
            return Ok(());
        }
        match self.session.refresh() {
            Ok(()) => {
                (self.refreshed, self.refreshes_failed) = (asked, 0);
                self.refresh_due = asked + self.session.refresh_timeout / 2;
                self.answered = self.surroundings.now().at;
                self.surroundings.tell(Report::Token(self.session.token().clone()));
                Ok(())
            }
            Err(Trouble::Passing { reason, retry_after }) => {
                self.refreshes_failed += 1;
                let wait = self.pause(self.refreshes_failed, retry_after.as_deref());
                self.refresh_due = self.surroundings.now().at + wait;
                if self.refresh_due >= self.refreshed + self.session.refresh_timeout {
                    return Err(self.lost(format!("the session could not be refreshed in time: {reason}"), None));
                }
                Ok(())
            }
            Err(trouble) => Err(self.lost(format!("the session is over: {}", trouble.reason()), None)),
        }
    }

    fn refresh_subscription(&mut self, number: usize) -> Result<(), Over> {
        let asked = self.surroundings.now();
        let result = self.session.refresh_subscription(&self.subscriptions[number].id);
        let (now, period, life) = (self.surroundings.now(), self.period(), self.life());
        let subscription = &mut self.subscriptions[number];
        match result {
            Ok(()) => {
                (subscription.alive, subscription.due, subscription.failed) = (asked, asked.at + period, false);
                self.answered = now.at;
            }
            Err(Trouble::Expired(reason)) => return Err(self.lost(format!("the session is over: {reason}"), None)),
            // Nothing is answered any more, whatever the socket says: with many subscriptions it would take long to find that out one by one.
            Err(Trouble::Passing { reason, retry_after }) if self.answered + life <= now.at => {
                let reason = format!("{}: the subscription cannot be refreshed: {reason}", self.order.targets[number]);
                return Err(self.lost(reason, self.asked_to_wait(retry_after.as_deref(), now.utc)));
            }
            Err(Trouble::Passing { ref retry_after, .. }) if !std::mem::replace(&mut subscription.failed, true) => {
                let asked_for = retry_after.as_deref().and_then(|value| parse_retry_after(value, now.utc));
                // As long as it lives there is time to do as asked.
                let most = (subscription.alive.at + life).saturating_duration_since(now.at + TRY_AGAIN);
                subscription.due = now.at + asked_for.unwrap_or_default().min(most).max(TRY_AGAIN);
            }
            Err(trouble) => subscription.broken = Some(trouble),
        }
        Ok(())
    }

    /// Makes every subscription anew that is broken.
    fn mend(&mut self) -> Result<(), Over> {
        for number in 0..self.subscriptions.len() {
            if let Some(trouble) = self.subscriptions[number].broken.clone() {
                self.surroundings.tell(Report::Renewing(number));
                self.subscribe(number, Some(&trouble))?;
            }
        }
        Ok(())
    }

    /// Subscribes to a target, for the first time or because of some trouble with the subscription there was, and lists what there is if that is wanted.
    fn subscribe(&mut self, number: usize, trouble: Option<&Trouble>) -> Result<(), Over> {
        let list = if trouble.is_some() { self.order.list_again } else { self.order.list };
        let asked = self.surroundings.now();
        let mut subscribed = self.ask_to_subscribe(number, list, trouble.is_none())?;
        let subscription = Subscription {
            id: subscribed.id.clone(),
            alive: asked,
            due: asked.at + self.period(),
            failed: false,
            broken: None,
        };
        let mut missing_since = None;
        if let Some(trouble) = trouble {
            // One that the APIC does not know any longer may have been gone since it was last refreshed. If it had run out, nothing on the socket said so.
            let alive = self.subscriptions[number].alive;
            let passing = matches!(trouble, Trouble::Passing { .. });
            if !passing || asked.at.saturating_duration_since(alive.at) >= self.life() {
                let target = &self.order.targets[number];
                missing_since = Some((alive.utc, format!("{target}: the subscription ran out: {}", trouble.reason())));
            }
            self.subscriptions[number] = subscription;
        } else {
            self.subscriptions.push(subscription);
        }
        if list && subscribed.answers.is_empty() {
            (subscribed.answers, subscribed.complete) = self.list(number)?;
        }
        self.surroundings.tell(Report::Subscribed { target: number, subscribed, asked: asked.at, missing_since });
        Ok(())
    }

    /// Asks until there is an answer. A target that is wrong from the start is the user's to mend; later on it is the APIC that has changed its mind.
    fn ask_to_subscribe(&mut self, number: usize, list: bool, from_the_start: bool) -> Result<Subscribed, Over> {
        let target = &self.order.targets[number];
        let (mut attempt, mut whole) = (0, list);
        loop {
            let (reason, retry_after) = match self.session.subscribe(target, &self.order.query, whole) {
                Ok(subscribed) => {
                    self.answered = self.surroundings.now().at;
                    return Ok(subscribed);
                }
                Err(Trouble::TooBig(_)) if whole => {
                    whole = false;
                    continue;
                }
                Err(Trouble::Wrong(reason)) if from_the_start => {
                    return Err(Over(Some(Report::Wrong(format!("{target}: {reason}")))));
                }
                Err(Trouble::Refused(reason)) if from_the_start => {
                    return Err(Over(Some(Report::Refused(format!("{target}: {reason}")))));
                }
                Err(Trouble::Passing { reason, retry_after }) => (reason, retry_after),
                Err(trouble) => return Err(self.lost(format!("{target}: {}", trouble.reason()), None)),
            };
            attempt += 1;
            let now = self.surroundings.now();
            // As long as it is not subscribed to the connection is not what it seems.
            let ran_out = !from_the_start && self.subscriptions[number].alive.at + self.life() <= now.at;
            self.bear(attempt, ran_out, &format!("{target}: {reason}"), retry_after.as_deref())?;
            // What is too much for it to answer in time is asked for page by page.
            whole = false;
        }
    }

    /// Everything there is of a target, page by page, and whether all pages together hold as many objects as the last one counted. Whatever is due meanwhile
    /// is refreshed.
    fn list(&mut self, number: usize) -> Result<(Vec<String>, bool), Over> {
        let target = &self.order.targets[number];
        let (mut answers, mut count, mut bytes, mut attempt) = (Vec::<String>::new(), 0, 0, 0);
        while (answers.len() as u64) < MOST_PAGES && bytes < MOST_BYTES {
            match self.session.page(target, &self.order.query, answers.len() as u64) {
                Ok(page) => {
                    self.answered = self.surroundings.now().at;
                    attempt = 0;
                    // One that knows no pages sends the same again and again.
                    if answers.last() == Some(&page.text) {
                        return Ok((answers, false));
                    }
                    count += page.count;
                    bytes += page.text.len();
                    answers.push(page.text);
                    let complete = page.total.is_some_and(|total| count >= total);
                    if page.count == 0 || complete {
                        return Ok((answers, complete));
                    }
                }
                Err(Trouble::Passing { reason, retry_after }) => {
                    attempt += 1;
                    self.bear(attempt, false, &format!("{target}: {reason}"), retry_after.as_deref())?;
                }
                Err(trouble) => return Err(self.lost(format!("{target}: {}", trouble.reason()), None)),
            }
            self.refresh_what_is_due()?;
        }
        Ok((answers, false))
    }

    /// Waits before another attempt, and refreshes meanwhile what is due; or finds that there is no use in one.
    fn bear(&mut self, attempt: u32, enough: bool, reason: &str, retry_after: Option<&str>) -> Result<(), Over> {
        let now = self.surroundings.now();
        let wait = self.pause(attempt, retry_after);
        let wish = self.asked_to_wait(retry_after, now.utc);
        // Who has to wait for long says so: that is no open connection.
        if enough || attempt >= ATTEMPTS || wish > Some(self.life()) {
            return Err(self.lost(reason.to_owned(), wish));
        }
        loop {
            let left = (now.at + wait).saturating_duration_since(self.surroundings.now().at);
            if left.is_zero() {
                return Ok(());
            }
            let due = self.next_due().saturating_duration_since(self.surroundings.now().at);
            self.wait(left.min(due))?;
            self.refresh_what_is_due()?;
        }
    }

    fn asked_to_wait(&self, retry_after: Option<&str>, now: Timestamp) -> Option<Duration> {
        retry_after.and_then(|value| parse_retry_after(value, now))
    }

    fn pause(&mut self, attempt: u32, retry_after: Option<&str>) -> Duration {
        let now = self.surroundings.now().utc;
        backoff::delay(attempt, self.surroundings.random())
            .max(self.asked_to_wait(retry_after, now).unwrap_or_default())
    }

    fn wait(&mut self, duration: Duration) -> Result<(), Over> {
        if self.surroundings.wait(duration) { Ok(()) } else { Err(Over(None)) }
    }

    fn lost(&self, reason: String, retry_after: Option<Duration>) -> Over {
        let since = self.subscriptions.iter().map(|subscription| subscription.alive.utc).min();
        Over(Some(Report::Lost { reason, since, retry_after }))
    }
}

#[cfg(test)]
mod tests;
