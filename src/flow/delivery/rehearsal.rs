//! `--dry-run` prints what would be sent; `--send-test` sends one message and tells how it went.

use super::destination::{Destination, Form, Letter, Outcome, Plan, Role};
use super::envelope;
use crate::flow::accounts::Accounts;
use crate::flow::stage::Stage;
use crate::model::event::Event;
use crate::model::exit::{Exit, Failure};
use crate::model::line::Lines;
use crate::model::time::Moment;
use crate::world::http::Transport;
use crate::world::{Diagnostics, World};

/// The stage that writes request bodies in place of the records.
pub struct DryRun<D> {
    destination: D,
    diagnostics: Diagnostics,
    printed: u64,
    skipped: u64,
    dead: u64,
}

impl<D: Destination> DryRun<D> {
    /// A rehearsal for this destination, whose secret should be a stand-in.
    pub fn new(destination: D, world: &World) -> DryRun<D> {
        DryRun { destination, diagnostics: world.diagnostics.clone(), printed: 0, skipped: 0, dead: 0 }
    }
}

impl<D: Destination> Stage for DryRun<D> {
    fn take(&mut self, event: &Event<'_>, now: Moment, lines: &mut Lines) {
        let text = envelope::subject(event);
        let subject = Event::parse(text.as_bytes()).unwrap_or_default();
        let key = match self.destination.plan(&subject) {
            Plan::Send { key, role: Role::Plain | Role::Held(_) | Role::Relief { needed: true }, .. } => key,
            Plan::Send { .. } | Plan::Skip { .. } => {
                self.skipped += 1;
                return;
            }
        };
        let letter = Letter { text, key: &key, accepted: now, place: self.printed + 1 };
        match self.destination.request(&[letter], Form::Full) {
            Ok(request) => {
                self.printed += 1;
                self.destination.settled(letter, true);
                let body = self.destination.redact(&String::from_utf8_lossy(&request.body));
                body.lines().for_each(|line| lines.push(line.as_bytes()));
            }
            Err(reason) => {
                self.dead += 1;
                self.diagnostics.error(&format!("{}: cannot be sent: {reason}", envelope::name(&subject)));
            }
        }
    }

    fn accounts(&self) -> Accounts {
        Accounts::default().with("printed", self.printed).with("skipped", self.skipped).with("dead", self.dead)
    }

    fn exit(&self) -> Exit {
        if self.dead > 0 { Exit::Incomplete } else { Exit::Success }
    }
}

/// Sends the destination's test record once, without retries.
///
/// # Errors
/// 3 if the credentials are refused, 4 if there is no answer or the service has trouble, 1 is [`Exit::Incomplete`] for a message it rejects.
pub fn send_test<D: Destination>(destination: &D, transport: &dyn Transport, world: &World) -> Result<Exit, Failure> {
    let text = destination.test_record();
    let letter = Letter { text: &text, key: "test", accepted: world.clock.now(), place: 1 };
    let request = destination.request(&[letter], Form::Full).map_err(Failure::usage)?;
    let address = destination.address();
    let answer = transport.send(&request);
    let answer =
        answer.map_err(|error| Failure::failed(format!("{address}: {}", destination.redact(error.reason()))))?;
    match destination.outcomes(1, &super::without_secret(destination, &answer)).remove(0) {
        Outcome::Delivered => {
            world.diagnostics.info(&format!("{address}: the test message was taken ({})", answer.status));
            Ok(Exit::Success)
        }
        Outcome::Refused { reason } => Err(Failure::refused(format!("{address}: {reason}"))),
        Outcome::Retry { reason, .. } => Err(Failure::failed(format!("{address}: {reason}"))),
        Outcome::Rejected { reason, .. } | Outcome::TooLarge { reason } => {
            world.diagnostics.error(&format!("{address}: {reason}"));
            Ok(Exit::Incomplete)
        }
    }
}
