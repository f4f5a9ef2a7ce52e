//! A sink from its flags to its exit code: check, rehearse, test, or deliver.

use std::path::Path;
use std::sync::Arc;

use super::Delivery;
use super::args::DeliveryArgs;
use super::destination::Destination;
use super::rehearsal::{DryRun, send_test};
use super::store::open_spool;
use crate::flow::pump::{self, PumpArgs, pump};
use crate::model::exit::{Exit, Failure};
use crate::model::line::Lines;
use crate::world::World;
use crate::world::http::{Http, HttpLimits};
use crate::world::proxy::Proxies;
use crate::world::spool;
use crate::world::streams::{StandardOutput, Written};
use crate::world::tls::{Tls, TlsArgs};
use crate::world::unix::{self, Interest};

/// So much of an answer is kept, in bytes: enough for any error text, and for the items of a bulk answer.
const MAX_ANSWER: u64 = 16 << 20;

/// So much of a list is kept back before it is written, in bytes.
const MAX_LISTED: usize = 64 << 10;

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

/// A sink's command line: what is its own, and what every sink can be told.
#[derive(Clone, Debug, Default)]
pub struct SinkCommand<O> {
    /// The destination's.
    pub own: O,
    /// Every sink's.
    pub sink: SinkArgs,
}

impl<O> AsMut<DeliveryArgs> for SinkCommand<O> {
    fn as_mut(&mut self) -> &mut DeliveryArgs {
        &mut self.sink.delivery
    }
}

impl<O> AsMut<PumpArgs> for SinkCommand<O> {
    fn as_mut(&mut self) -> &mut PumpArgs {
        &mut self.sink.pump
    }
}

impl<O> AsMut<TlsArgs> for SinkCommand<O> {
    fn as_mut(&mut self) -> &mut TlsArgs {
        &mut self.sink.tls
    }
}

impl SinkArgs {
    /// The real transport to this destination.
    pub fn transport(&self, tls: &Tls, destination: &impl Destination) -> Http {
        let limits = HttpLimits {
            timeout: self.delivery.timeout,
            body: MAX_ANSWER,
            connections: destination.pacing().concurrency,
        };
        Http::new(tls, Proxies::from_environment(), limits)
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
    if let Some(dir) = &args.delivery.spool {
        if args.delivery.list {
            return list(dir, world);
        }
        if args.delivery.purge {
            return purge(dir, &args.delivery, world);
        }
    } else if args.delivery.list || args.delivery.retry || args.delivery.purge {
        return Err(Failure::usage("--list, --retry and --purge are about a spool: give --spool DIR"));
    }
    let rehearsal = args.delivery.dry_run;
    let destination = make(rehearsal, world)?;
    let tls = Tls::load(&args.tls).map_err(Failure::usage)?;
    let proxies = Proxies::from_environment();
    let proxy = if rehearsal { None } else { proxies.find(destination.address()).map_err(Failure::usage)? };
    if let Some(proxy) = &proxy {
        proxy.announce(destination.address(), &world.diagnostics);
    }
    if world.check {
        pump::open_rejects(&args.pump)?;
        args.delivery.open_dead_letters()?;
        if let Some(dir) = args.delivery.spool.as_ref().filter(|dir| dir.exists() && !dir.is_dir()) {
            return Err(Failure::usage(format!("--spool: {}: not a directory", dir.display())));
        }
        let verb = if rehearsal { "would print the requests for" } else { "would send each event to" };
        let way = proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
        return world.checked(&[format!("{verb} {}{way}", destination.address())]);
    }
    if rehearsal {
        return pump(world, &mut DryRun::new(destination, world), &args.pump);
    }
    if tls.is_insecure() {
        world.diagnostics.warn("--insecure: the server's certificate is not verified");
    }
    let transport = args.transport(&tls, &destination);
    if args.delivery.send_test {
        return send_test(&destination, &transport, world);
    }
    if let Some(dir) = args.delivery.spool.as_ref().filter(|_| args.delivery.retry) {
        let now = world.clock.now().utc;
        let mut spool = open_spool(dir, &args.delivery, now)?;
        let count = spool.retry(now);
        tell(&mut spool, world);
        let count = count?;
        world.diagnostics.info(&format!("{}: {count} dead letters go again", dir.display()));
        world.input.close();
    }
    let mut delivery = Delivery::new(destination, Arc::new(transport), &args.delivery, world)?;
    pump(world, &mut delivery, &args.pump)
}

/// What was damaged is named by the run that finds it.
fn tell(spool: &mut spool::Spool, world: &World) {
    spool.take_notices().iter().for_each(|notice| world.diagnostics.warn(&format!("--spool: {notice}")));
}

/// `--list`: what waits and what is dead, beside a run that may be using the spool.
fn list(dir: &Path, world: &mut World) -> Result<Exit, Failure> {
    let sink = world.program.trim_start_matches("to-");
    let mut lines = Lines::default();
    let output = &mut world.output;
    let mut gone = false;
    spool::list(dir, sink, |line| {
        lines.push(line.as_bytes());
        while !gone && lines.pending().len() > MAX_LISTED {
            gone = write(output, &mut lines)? == Written::ReaderGone;
        }
        Ok(())
    })?;
    while !gone && !lines.pending().is_empty() {
        gone = write(output, &mut lines)? == Written::ReaderGone;
    }
    Ok(Exit::Success)
}

fn write(output: &mut StandardOutput, lines: &mut Lines) -> Result<Written, Failure> {
    let written = output.write(lines).map_err(|error| Failure::failed(format!("standard output: {error}")))?;
    if written == Written::Some {
        let waited = unix::wait([(output.fd(), Interest::Write)], None);
        waited.map_err(|error| Failure::failed(format!("poll: {error}")))?;
    }
    Ok(written)
}

/// `--purge`: asks a person, or wants `--yes`.
fn purge(dir: &Path, args: &DeliveryArgs, world: &mut World) -> Result<Exit, Failure> {
    let mut spool = open_spool(dir, args, world.clock.now().utc)?;
    tell(&mut spool, world);
    let counts = spool.counts();
    let what = format!("{}: {} waiting records and {} dead letters", dir.display(), counts.waiting, counts.dead);
    if !args.yes {
        if !world.input.is_terminal() {
            return Err(Failure::usage(format!("{what}: --purge needs --yes where nobody can be asked")));
        }
        world.diagnostics.plain(&format!("{what}: remove all of them? [y/N]"));
        let mut answer = [0; 64];
        let count = world.input.read(&mut answer);
        let count = count.map_err(|error| Failure::failed(format!("standard input: {error}")))?;
        if !answer[..count].trim_ascii().eq_ignore_ascii_case(b"y") {
            return Ok(Exit::Success);
        }
    }
    spool.purge()?;
    world.diagnostics.info(&format!("{what}: removed"));
    Ok(Exit::Success)
}
