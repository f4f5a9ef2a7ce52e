//! A sink from its flags to its exit code: check, rehearse, test, or deliver.

use std::sync::Arc;

use super::Delivery;
use super::args::DeliveryArgs;
use super::destination::Destination;
use super::rehearsal::{DryRun, send_test};
use crate::flow::pump::{self, PumpArgs, pump};
use crate::model::exit::{Exit, Failure};
use crate::world::World;
use crate::world::http::{Http, HttpLimits};
use crate::world::tls::{Tls, TlsArgs};

/// So much of an answer is kept, in bytes: enough for any error text, and for the items of a bulk answer.
const MAX_ANSWER: u64 = 16 << 20;

/// What every sink can be told.
#[derive(Clone, Debug, Default)]
pub struct SinkArgs {
    /// About delivery.
    pub delivery: DeliveryArgs,
    /// About the carrying of lines.
    pub pump: PumpArgs,
    /// About TLS.
    pub tls: TlsArgs,
}

impl AsMut<DeliveryArgs> for SinkArgs {
    fn as_mut(&mut self) -> &mut DeliveryArgs {
        &mut self.delivery
    }
}

impl AsMut<PumpArgs> for SinkArgs {
    fn as_mut(&mut self) -> &mut PumpArgs {
        &mut self.pump
    }
}

impl AsMut<TlsArgs> for SinkArgs {
    fn as_mut(&mut self) -> &mut TlsArgs {
        &mut self.tls
    }
}

/// Runs a sink. `make` builds its destination; it is told whether nothing will be sent, so that a missing secret does not matter.
///
/// # Errors
/// Wrong configuration, refused credentials, or the outside world failed for good.
pub fn run<D: Destination>(
    make: impl FnOnce(bool, &World) -> Result<D, Failure>,
    args: &SinkArgs,
    world: &mut World,
) -> Result<Exit, Failure> {
    let rehearsal = args.delivery.dry_run;
    let destination = make(rehearsal, world)?;
    let tls = Tls::load(&args.tls).map_err(Failure::usage)?;
    if world.check {
        pump::open_rejects(&args.pump)?;
        args.delivery.open_dead_letters()?;
        let verb = if rehearsal { "would print the requests for" } else { "would send each event to" };
        return world.checked(&[format!("{verb} {}", destination.address())]);
    }
    if rehearsal {
        return pump(world, &mut DryRun::new(destination, world), &args.pump);
    }
    if tls.is_insecure() {
        world.diagnostics.warn("--insecure: the server's certificate is not verified");
    }
    let limits =
        HttpLimits { timeout: args.delivery.timeout, body: MAX_ANSWER, connections: destination.pacing().concurrency };
    let transport = Http::new(&tls, destination.address().is_secure(), limits);
    if args.delivery.send_test {
        return send_test(&destination, &transport, world);
    }
    let mut delivery = Delivery::new(destination, Arc::new(transport), &args.delivery, world)?;
    pump(world, &mut delivery, &args.pump)
}
