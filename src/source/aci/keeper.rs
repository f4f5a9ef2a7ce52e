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

/// What to keep up.
#[derive(Clone, Debug)]
pub struct Order {
    /// What to subscribe to.
    pub targets: Vec<Target>,
    /// With which options.
    pub query: Query,
    /// Whether the answers are to tell what there is.
    pub list: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The session's token, whenever it is another one.
    Token(Secret),
    /// So long the session lasts at most, however often it is refreshed.
    Life(Duration),
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
    Lost(String),
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
}

/// Subscribes and refreshes until nobody is interested or it is of no use any more, then ends the session.
pub fn keep(mut session: Session, order: &Order, surroundings: &mut dyn Surroundings) {
    let mut keeper = Keeper { session: &mut session, order, surroundings, subscriptions: Vec::new() };
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
}

impl Keeper<'_> {
    fn run(&mut self) -> Result<(), Over> {
        self.surroundings.tell(Report::Life(self.session.maximum_life));
        let mut refreshed = self.surroundings.now().at;
        for number in 0..self.order.targets.len() {
            if number > 0 {
                self.wait(SPACING)?;
            }
            let asked = self.surroundings.now();
            let subscribed = self.subscribe(number, true)?;
            self.subscriptions.push(Subscription {
                id: subscribed.id.clone(),
                alive: asked,
                due: asked.at + self.period(),
                failed: false,
            });
            self.surroundings.tell(Report::Subscribed {
                target: number,
                subscribed,
                asked: asked.at,
                missing_since: None,
            });
            // Many targets with long answers must not cost those that are subscribed to already.
            self.refresh_what_is_due(&mut refreshed)?;
        }
        self.surroundings.tell(Report::Ready);
        loop {
            let now = self.surroundings.now().at;
            let due = self.subscriptions.iter().map(|subscription| subscription.due);
            let due = due.chain([self.token_due(refreshed)]).min().unwrap_or(now);
            self.wait(due.saturating_duration_since(now))?;
            self.refresh_what_is_due(&mut refreshed)?;
        }
    }

    /// A third of its life, so that two refreshes may fail.
    fn period(&self) -> Duration {
        self.life() / 3
    }

    fn life(&self) -> Duration {
        self.order.query.life.unwrap_or(DEFAULT_LIFE)
    }

    /// Half of it, as Cisco's acitoolkit does.
    fn token_due(&self, refreshed: Instant) -> Instant {
        refreshed + self.session.refresh_timeout / 2
    }

    fn refresh_what_is_due(&mut self, refreshed: &mut Instant) -> Result<(), Over> {
        if self.token_due(*refreshed) <= self.surroundings.now().at {
            self.refresh_session(refreshed)?;
        }
        let mut first = true;
        for number in 0..self.subscriptions.len() {
            let now = self.surroundings.now().at;
            if self.subscriptions[number].due > now {
                continue;
            }
            if !std::mem::take(&mut first) {
                let share = self.period() / u32::try_from(self.subscriptions.len() + 1).unwrap_or(u32::MAX);
                self.wait(SPACING.min(share))?;
            }
            self.refresh_subscription(number)?;
        }
        Ok(())
    }

    /// Tries until the session has run out.
    fn refresh_session(&mut self, refreshed: &mut Instant) -> Result<(), Over> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let asked = self.surroundings.now().at;
            match self.session.refresh() {
                Ok(()) => {
                    *refreshed = asked;
                    self.surroundings.tell(Report::Token(self.session.token().clone()));
                    return Ok(());
                }
                Err(Trouble::Passing { reason, retry_after }) => {
                    let wait = self.pause(attempt, retry_after.as_deref());
                    if asked + wait > *refreshed + self.session.refresh_timeout {
                        return Err(lost(format!("the session could not be refreshed in time: {reason}")));
                    }
                    self.wait(wait)?;
                }
                Err(trouble) => return Err(lost(format!("the session is over: {}", trouble.reason()))),
            }
        }
    }

    fn refresh_subscription(&mut self, number: usize) -> Result<(), Over> {
        let asked = self.surroundings.now();
        let period = self.period();
        let subscription = &mut self.subscriptions[number];
        match self.session.refresh_subscription(&subscription.id) {
            Ok(()) => {
                (subscription.alive, subscription.due, subscription.failed) = (asked, asked.at + period, false);
                Ok(())
            }
            Err(Trouble::Passing { .. }) if !subscription.failed => {
                subscription.failed = true;
                subscription.due = asked.at + TRY_AGAIN;
                Ok(())
            }
            Err(Trouble::Expired(reason)) => Err(lost(format!("the session is over: {reason}"))),
            Err(trouble) => self.resubscribe(number, &trouble),
        }
    }

    /// Makes a subscription anew. If it had run out meanwhile, nothing on the socket said so.
    fn resubscribe(&mut self, number: usize, trouble: &Trouble) -> Result<(), Over> {
        let target = &self.order.targets[number];
        self.surroundings.tell(Report::Renewing(number));
        let asked = self.surroundings.now();
        let subscribed = self.subscribe(number, false)?;
        let subscription = &self.subscriptions[number];
        // One that the APIC does not know any longer may have been gone since it was last refreshed.
        let passing = matches!(trouble, Trouble::Passing { .. });
        let gone = !passing || asked.at.saturating_duration_since(subscription.alive.at) >= self.life();
        let reason = format!("{target}: the subscription ran out: {}", trouble.reason());
        let missing_since = gone.then_some((subscription.alive.utc, reason));
        let due = asked.at + self.period();
        self.subscriptions[number] = Subscription { id: subscribed.id.clone(), alive: asked, due, failed: false };
        self.surroundings.tell(Report::Subscribed { target: number, subscribed, asked: asked.at, missing_since });
        Ok(())
    }

    /// Asks until there is an answer. A target that is wrong from the start is the user's to mend; later on it is the APIC that has changed its mind.
    fn subscribe(&mut self, number: usize, from_the_start: bool) -> Result<Subscribed, Over> {
        let target = &self.order.targets[number];
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (reason, retry_after) = match self.session.subscribe(target, &self.order.query, self.order.list) {
                Ok(subscribed) => return Ok(subscribed),
                Err(Trouble::Wrong(reason)) if from_the_start => {
                    return Err(Over(Some(Report::Wrong(format!("{target}: {reason}")))));
                }
                Err(Trouble::Refused(reason)) if from_the_start => {
                    return Err(Over(Some(Report::Refused(format!("{target}: {reason}")))));
                }
                Err(Trouble::Passing { reason, retry_after }) => (reason, retry_after),
                Err(trouble) => return Err(lost(format!("{target}: {}", trouble.reason()))),
            };
            if attempt >= ATTEMPTS {
                return Err(lost(format!("{target}: {reason}")));
            }
            let wait = self.pause(attempt, retry_after.as_deref());
            self.wait(wait)?;
        }
    }

    fn pause(&mut self, attempt: u32, retry_after: Option<&str>) -> Duration {
        let now = self.surroundings.now().utc;
        let asked = retry_after.and_then(|value| parse_retry_after(value, now)).unwrap_or_default();
        backoff::delay(attempt, self.surroundings.random()).max(asked)
    }

    fn wait(&mut self, duration: Duration) -> Result<(), Over> {
        if self.surroundings.wait(duration) { Ok(()) } else { Err(Over(None)) }
    }
}

fn lost(reason: String) -> Over {
    Over(Some(Report::Lost(reason)))
}
