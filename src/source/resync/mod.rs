//! Learns from the REST API what was missed: lists all objects after a gap, compares them with what was last seen, and tells the differences as events.
//!
//! `known` is what was last seen, `listing` asks the API in a thread, `difference` compares, `state` outlives a restart. What is here decides when.

pub mod difference;
pub mod known;
pub mod listing;
pub mod state;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use difference::{Difference, complete_parents, depth, difference};
use known::{ACTION, Known};
use listing::{Api, Found, Order, Patience, list};
use state::{State, StateFile, Unusable};

use crate::cli::table::{Flag, Set, store};
use crate::flow::accounts::Accounts;
use crate::flow::connection::{Aside, Heeded};
use crate::model::address::Address;
use crate::model::event::{Event, path_kind};
use crate::model::exit::Failure;
use crate::model::json::quote;
use crate::model::lifecycle::Change;
use crate::model::time::{Moment, Timestamp};
use crate::world::credentials::{Authorization, variable};
use crate::world::http::{Http, HttpLimits, Transport};
use crate::world::proxy::Proxies;
use crate::world::tls::Tls;
use crate::world::unix::Wake;
use crate::world::{Clock, Diagnostics};

/// After so long a listing that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(300);

/// At the end so long is waited for a disk that is slow.
const SLOW_DISK: Duration = Duration::from_secs(5);

/// `origin` of what was missed.
const RESYNC: &str = "resync";

/// `origin` of what there was at the start.
const SNAPSHOT: &str = "snapshot";

/// The state is written no more often than this.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// And so often when nothing but the time has changed: a gap after a restart begins at the last proof of life.
const WRITE_IDLE: Duration = Duration::from_secs(60);

/// What a user can say about it.
#[derive(Clone, Debug, Default)]
pub struct ResyncArgs {
    /// List after a gap and tell the differences.
    pub resync: bool,
    /// Tell what there is at the start.
    pub snapshot: bool,
    /// Where what was seen is kept.
    pub state: Option<PathBuf>,
    /// The API, if it is not at the stream's host.
    pub rest_url: Option<String>,
}

impl ResyncArgs {
    /// Looks for flags that do not go together.
    ///
    /// # Errors
    /// Wrong usage; names the flag.
    pub fn check(&self) -> Result<(), Failure> {
        if self.state.is_some() && !self.resync {
            return Err(Failure::usage("--state: needs --resync"));
        }
        Ok(())
    }

    /// Whether the API is asked at all.
    pub fn is_asked(&self) -> bool {
        self.resync || self.snapshot
    }

    /// What would be done, in words, one fact each.
    pub fn plan(&self, base: &Address) -> Vec<Result<String, Failure>> {
        let asked = self.is_asked().then(|| {
            let what = match (self.resync, self.snapshot) {
                (true, true) => "what there is at the start and what changed after a gap",
                (true, false) => "what changed after a gap",
                _ => "what there is at the start",
            };
            Ok(format!("would ask {} for {what}", base.without_query()))
        });
        let kept = self.state.as_ref().map(|path| match StateFile::look(path).load() {
            Ok(None) => Ok(format!("would learn what there is and keep it in {}", path.display())),
            Ok(Some(state)) => {
                Ok(format!("would go on from {} with {} objects", path.display(), state.known.all().count()))
            }
            Err(Unusable::Damaged(reason)) => {
                Ok(format!("would set {} aside ({reason}) and learn anew", path.display()))
            }
            Err(Unusable::Unreadable(reason)) => Err(Failure::usage(format!("--state: {}: {reason}", path.display()))),
        });
        asked.into_iter().chain(kept).collect()
    }
}

/// The rows of a source that can ask what it missed.
pub const fn flags<A: AsMut<ResyncArgs>>() -> [Flag<A>; 4] {
    [
        Flag {
            spec: "--resync",
            help: "after every gap ask the REST API what there is, and print what changed as events with \"origin\":\"resync\". \
                   The first start only learns what there is. The gap record then says \"resync\":true; states in between cannot be recovered",
            set: Set::Switch(|a| a.as_mut().resync = true),
        },
        Flag {
            spec: "--snapshot",
            help: "at the start ask the REST API what there is, and print all of it as updates with \"origin\":\"snapshot\"",
            set: Set::Switch(|a| a.as_mut().snapshot = true),
        },
        Flag {
            spec: "--state FILE",
            help: "keep what was last seen in FILE, so that a restart is a gap like any other. Needs --resync. One run at a time (FILE.lock); a damaged file is set aside",
            set: Set::Value(|a, v| store(&mut a.as_mut().state, v)),
        },
        Flag {
            spec: "--rest-url URL",
            help: "the REST API: scheme and host, or a base that ends in /api/v1/. Else TUTUM_BASE_URL, TUTUM_REST_HOST, or the stream's own host. The credentials are sent there",
            set: Set::Value(|a, v| store(&mut a.as_mut().rest_url, v)),
        },
    ]
}

/// The API's base, which ends in `/api/v1/`: `--rest-url`, else `TUTUM_BASE_URL`, else `TUTUM_REST_HOST`, else the stream's own host.
///
/// # Errors
/// It is no such address: wrong usage. Never quotes it.
pub fn rest_base(url: Option<&str>, stream: &Address) -> Result<Address, Failure> {
    let named = url.map(|url| ("--rest-url", url.to_owned()));
    let named = named.or_else(|| variable("TUTUM_BASE_URL").map(|url| ("TUTUM_BASE_URL", url)));
    let named = named.or_else(|| {
        let host = variable("TUTUM_REST_HOST")?;
        Some(("TUTUM_REST_HOST", if host.contains("://") { host } else { format!("https://{host}") }))
    });
    let Some((name, url)) = named else {
        let scheme = if stream.is_secure() { "https" } else { "http" };
        return Ok(Address { scheme: scheme.to_owned(), ..stream.with_path("/api/v1/") });
    };
    base(&url).map_err(|reason| Failure::usage(format!("{name}: {reason}")))
}

fn base(url: &str) -> Result<Address, String> {
    let address = Address::parse(url, &["https", "http"])?;
    if address.query.is_some() {
        return Err("a URL with a query is refused: credentials come from a file or the environment".to_owned());
    }
    match address.path.trim_end_matches('/') {
        "" | "/api/v1" => Ok(address.with_path("/api/v1/")),
        _ => Err("expected scheme and host, or a base that ends in /api/v1/".to_owned()),
    }
}

/// Who makes listings: a thread, or a test's script.
pub trait Lister: Send {
    /// Begins one. Letting go of the receiver abandons it.
    fn begin(&mut self, order: Order, authorization: Option<Authorization>) -> Underway;
}

/// A listing under way.
pub struct Underway {
    found: Receiver<Found>,
    /// Dropped with the rest, which tells the thread.
    _interest: Sender<()>,
}

/// Lists in a thread of its own, so that the socket is read however slow the API is.
pub struct Threads {
    transport: Arc<dyn Transport>,
    base: Address,
    wake: Wake,
}

impl Threads {
    /// Listings of the API at `base`.
    pub fn new(base: Address, tls: &Tls, wake: &Wake) -> Threads {
        let limits = HttpLimits { timeout: listing::REQUEST_TIMEOUT, body: listing::LONGEST_PAGE, connections: 1 };
        let transport = Arc::new(Http::new(tls, Proxies::from_environment(), limits));
        Threads { transport, base, wake: wake.clone() }
    }
}

impl Lister for Threads {
    fn begin(&mut self, order: Order, authorization: Option<Authorization>) -> Underway {
        let ((tell, found), (interest, interested)) = (channel(), channel());
        let api = Api { transport: Arc::clone(&self.transport), base: self.base.clone(), authorization };
        let wake = self.wake.clone();
        let failed = tell.clone();
        let started = thread::Builder::new().name("list".to_owned()).spawn(move || {
            if let Some(found) = list(&api, &order, &mut Real(interested)) {
                let _ = tell.send(found);
            }
            // If it broke off, its end of the channel is what is noticed.
            drop(tell);
            wake.wake();
        });
        if let Err(error) = started {
            let failures = vec![format!("no thread can be started: {error}")];
            let _ = failed.send(Found { failures, ..Found::default() });
            self.wake.wake();
        }
        Underway { found, _interest: interest }
    }
}

/// Real time, cut short when nobody is interested any longer.
struct Real(Receiver<()>);

impl Patience for Real {
    fn wait(&mut self, duration: Duration) -> bool {
        !matches!(self.0.recv_timeout(duration), Err(RecvTimeoutError::Disconnected))
    }

    fn random(&mut self) -> f64 {
        Clock.random()
    }

    fn now(&mut self) -> Timestamp {
        Clock.now().utc
    }
}

/// Decides when to list and what to tell. Told the moment; the listing itself is elsewhere.
pub struct Resync {
    args: ResyncArgs,
    source: String,
    lister: Box<dyn Lister>,
    diagnostics: Diagnostics,
    known: Known,
    /// The types all of whose objects were listed once.
    learned: BTreeSet<&'static str>,
    keeper: Option<Keeper>,
    /// An earlier run left its state, and the first connection is yet to come: since when it saw nothing.
    earlier: Option<Option<Timestamp>>,
    /// A connection was open before.
    opened: bool,
    /// A connection is open.
    connected: bool,
    /// A listing is to be made.
    wanted: bool,
    underway: Option<Listed>,
    /// Since when events may have been missed and no listing has told yet.
    from: Option<Timestamp>,
    /// The next listing tells differences; the first of a first start does not.
    telling: bool,
    /// The types whose snapshot is still to be told.
    unshown: BTreeSet<&'static str>,
    /// When a listing that failed is tried again.
    again: Option<Instant>,
    /// The failure that was told last.
    told: Option<String>,
    /// The credential that was refused: never shown again.
    refused: Option<Option<Authorization>>,
    /// Where the credential is to be read again.
    stale: bool,
    /// What is still to be told.
    queue: VecDeque<Untold>,
    /// Since when events may have been missed that stand in the queue.
    untold_from: Option<Timestamp>,
    changes: VecDeque<Change>,
    listings: u64,
    resynced: u64,
}

/// What is still to be told.
struct Untold {
    difference: Difference,
    origin: &'static str,
    /// An event that came after this is newer.
    mark: u64,
}

/// A listing under way, and what was known when it began.
struct Listed {
    answer: Underway,
    mark: u64,
    authorization: Option<Authorization>,
}

/// Keeps the state on disk.
struct Keeper {
    file: StateFile,
    /// Something changed since the state was written last.
    changed: bool,
    /// The last proof of life.
    at: Option<Timestamp>,
    /// When the state was written last.
    written: Option<Instant>,
    writing: Option<Receiver<Result<(), String>>>,
    /// Why it could not be written; told once.
    told: Option<String>,
}

impl Resync {
    /// What the flags ask for; `None` if they ask for nothing.
    ///
    /// # Errors
    /// Flags that do not go together, or a state file that cannot be kept: wrong usage. A state file of another run: failed.
    pub fn new(
        args: ResyncArgs,
        source: &str,
        lister: Box<dyn Lister>,
        diagnostics: Diagnostics,
        now: Moment,
    ) -> Result<Resync, Failure> {
        let mut resync = Resync {
            source: source.to_owned(),
            lister,
            diagnostics,
            known: Known::default(),
            learned: BTreeSet::new(),
            keeper: None,
            earlier: None,
            opened: false,
            connected: false,
            wanted: false,
            underway: None,
            from: None,
            telling: false,
            unshown: if args.snapshot { known::KINDS.into() } else { BTreeSet::new() },
            again: None,
            told: None,
            refused: None,
            stale: false,
            queue: VecDeque::new(),
            untold_from: None,
            changes: VecDeque::new(),
            listings: 0,
            resynced: 0,
            args,
        };
        if let Some(path) = resync.args.state.clone() {
            let file = StateFile::take(&path)?;
            resync.resume(file, now)?;
        }
        Ok(resync)
    }

    /// Goes on from where an earlier run stopped, if it left a state of use.
    fn resume(&mut self, file: StateFile, now: Moment) -> Result<(), Failure> {
        let unusable = match file.load() {
            Ok(None) => None,
            Ok(Some(state)) if state.source == self.source => {
                self.known = state.known;
                self.learned = state.learned;
                self.earlier = Some(state.at);
                None
            }
            Ok(Some(_)) => Some("it is of another stream".to_owned()),
            Err(Unusable::Damaged(reason)) => Some(reason),
            Err(Unusable::Unreadable(reason)) => {
                return Err(Failure::usage(format!("--state: {}: {reason}", file.path().display())));
            }
        };
        if let Some(reason) = unusable {
            let aside = file.set_aside(now.utc).map_err(|reason| Failure::usage(format!("--state: {reason}")))?;
            self.diagnostics.error(&format!(
                "--state: {}: {reason}; set aside as {}, and what there is is learned anew: what changed before this start is not told",
                file.path().display(),
                aside.display()
            ));
        }
        self.keeper = Some(Keeper { file, changed: false, at: None, written: None, writing: None, told: None });
        Ok(())
    }

    /// Something happened to the connection.
    pub fn changed(&mut self, change: &Change, now: Moment) -> Heeded {
        match change {
            Change::Open { attempts } => {
                self.connected = true;
                let first = !std::mem::replace(&mut self.opened, true);
                if let Some(at) = self.earlier.take() {
                    // A restart is a gap like any other, and is told like one.
                    let reason = "the program was not running".to_owned();
                    let gap = Change::Gap { from: at.unwrap_or(now.utc), to: now.utc, reason, attempts: *attempts };
                    return Heeded { then: Some(gap), ..Heeded::default() };
                }
                if first {
                    self.want();
                }
                Heeded::default()
            }
            Change::Gap { from, .. } if self.args.resync => {
                self.from = [self.from, self.untold_from, Some(*from)].into_iter().flatten().min();
                self.telling = true;
                self.want();
                Heeded::resync()
            }
            // The stream is open all the while: who is paged when it is not must be able to tell the two apart.
            Change::Failed { reason } if self.told.as_ref() == Some(reason) => {
                Heeded { members: r#""during":"resync""#.to_owned(), then: None }
            }
            Change::Close { .. } | Change::Stopped { .. } | Change::Unauthorized { .. } => {
                self.connected = false;
                Heeded::default()
            }
            _ => Heeded::default(),
        }
    }

    fn want(&mut self) {
        self.wanted = true;
        self.again = None;
        // Each gap's failure is told anew.
        self.told = None;
        // One that began before the gap may have missed what happened in it.
        self.underway = None;
    }

    /// Bytes came: the stream is alive.
    pub fn heard(&mut self, now: Moment) {
        if let Some(keeper) = &mut self.keeper {
            keeper.at = Some(now.utc);
        }
    }

    /// An event is passed on.
    pub fn heed(&mut self, event: &Event<'_>) {
        let Some(uri) = event.resource_uri.as_deref().filter(|_| self.args.resync || self.wants_more()) else { return };
        let parents = event.parents().into_iter().map(|parent| parent.into_owned()).collect();
        self.known.heed(uri, event.action.as_deref(), event.state.as_deref(), parents);
        if let Some(keeper) = &mut self.keeper {
            keeper.changed = true;
        }
        if !self.wants_more() {
            self.known.bury();
        }
    }

    /// A listing is wanted, under way, or not told to its end.
    fn wants_more(&self) -> bool {
        self.wanted || self.underway.is_some() || !self.queue.is_empty()
    }

    /// Whether the credential that was refused should be read again now. Says so once.
    pub fn take_refusal(&mut self, now: Moment) -> bool {
        let due = self.refused.is_some() && (self.wanted || self.again.is_some_and(|again| again <= now.at));
        std::mem::take(&mut self.stale) || due
    }

    /// The next thing to be told; begins and ends listings on the way.
    pub fn next(&mut self, authorization: Option<&Authorization>, now: Moment) -> Option<Aside> {
        self.begin(authorization, now);
        self.collect(now);
        if let Some(change) = self.changes.pop_front() {
            return Some(Aside::Tell(change));
        }
        while let Some(Untold { difference, origin, mark }) = self.queue.pop_front() {
            let newer = self.known.is_newer(&difference.uri, mark);
            if self.queue.is_empty() {
                self.told_all();
            }
            if newer {
                continue;
            }
            let record = record(&difference, origin, now.utc);
            if difference.action == "delete" {
                self.known.forget(&difference.uri);
            } else {
                self.known.learn(&difference.uri, difference.seen);
            }
            self.resynced += 1;
            if let Some(keeper) = &mut self.keeper {
                keeper.changed = true;
            }
            return Some(Aside::Event(record));
        }
        None
    }

    fn told_all(&mut self) {
        self.untold_from = None;
        if !self.wants_more() {
            self.known.bury();
        }
    }

    fn begin(&mut self, authorization: Option<&Authorization>, now: Moment) {
        let renewed = self.refused.as_ref().is_some_and(|refused| refused.as_ref() != authorization);
        if self.connected && self.again.is_some_and(|again| again <= now.at || renewed) {
            self.again = None;
            self.wanted = true;
        }
        if !std::mem::take(&mut self.wanted) {
            return;
        }
        if renewed {
            self.refused = None;
        }
        if self.refused.is_some() {
            if self.told.is_none() {
                self.failed(&["the credentials were refused and are still the same".to_owned()], now);
            }
            self.again = Some(now.at + TRY_AGAIN);
            return;
        }
        // A difference that is not told yet is found again, for it is not known yet; a snapshot is not.
        self.queue.retain(|untold| untold.origin == SNAPSHOT);
        self.from = [self.from, self.untold_from].into_iter().flatten().min();
        if self.queue.is_empty() {
            self.told_all();
        }
        let known = self.known.all().filter(|(uri, seen)| listing::to_confirm(uri, seen));
        let order = Order { known: known.map(|(uri, _)| uri.to_owned()).collect(), since: self.from };
        self.diagnostics.detail(&format!("resync: listing, with {} objects known", order.known.len()));
        self.listings += 1;
        let authorization = authorization.cloned();
        let answer = self.lister.begin(order, authorization.clone());
        self.underway = Some(Listed { answer, mark: self.known.mark(), authorization });
    }

    fn collect(&mut self, now: Moment) {
        let Some(underway) = &self.underway else { return };
        let found = match underway.answer.found.try_recv() {
            Err(TryRecvError::Empty) => return,
            Ok(found) => found,
            Err(TryRecvError::Disconnected) => {
                Found { failures: vec!["the listing broke off".to_owned()], ..Found::default() }
            }
        };
        let Some(Listed { mark, authorization, .. }) = self.underway.take() else { return };
        if found.refused {
            self.refused = Some(authorization);
            self.stale = true;
        }
        self.take(found, mark, now);
    }

    /// Compares, remembers what nobody needs to be told, and queues the rest.
    fn take(&mut self, found: Found, mark: u64, now: Moment) {
        let Found { mut listing, failures, .. } = found;
        complete_parents(&mut listing, &self.known);
        let differences = if self.telling {
            difference(&self.known, &listing, mark, |kind| self.learned.contains(kind))
        } else {
            Vec::new()
        };
        let mut told: BTreeSet<&str> = differences.iter().map(|difference| difference.uri.as_str()).collect();
        let mut shown = Vec::new();
        for (uri, seen) in &listing.objects {
            let over = path_kind(uri) != Some(ACTION) && known::is_over(seen.state.as_deref());
            if self.known.is_newer(uri, mark) || !told.insert(uri) {
                continue;
            }
            if over {
                self.known.forget(uri);
                continue;
            }
            // Of what is known already the listing may say less.
            let mut seen = seen.clone();
            seen.state = seen.state.or_else(|| self.known.get(uri)?.state.clone());
            self.known.learn(uri, seen.clone());
            let kind = path_kind(uri).unwrap_or_default();
            if self.unshown.contains(kind) && listing.complete.contains(kind) {
                shown.push(Difference { action: "update", uri: uri.clone(), seen });
            }
        }
        for uri in &listing.gone {
            if !told.contains(uri.as_str()) && !self.known.is_newer(uri, mark) {
                self.known.forget(uri);
            }
        }
        shown.sort_by_key(|difference| depth(&difference.uri));
        let count = differences.len();
        let objects = listing.objects.len();
        self.queue.extend(differences.into_iter().map(|difference| Untold { difference, origin: RESYNC, mark }));
        self.queue.extend(shown.into_iter().map(|difference| Untold { difference, origin: SNAPSHOT, mark }));
        self.unshown.retain(|kind| !listing.complete.contains(kind));
        self.learned.extend(listing.complete.iter().filter(|kind| **kind != ACTION));
        if let Some(keeper) = &mut self.keeper {
            keeper.changed = true;
        }
        self.untold_from = self.from;
        if self.queue.is_empty() {
            self.told_all();
        }
        if self.known.is_full() {
            self.diagnostics
                .warn("resync: more objects than can be remembered; changes of some may be missed or told as new");
        }
        if failures.is_empty() {
            let what = if self.telling { format!("{count} differences") } else { "now known".to_owned() };
            self.diagnostics.info(&format!("resync: {objects} objects listed, {what}"));
            (self.from, self.telling, self.told, self.refused) = (None, false, None, None);
        } else {
            self.failed(&failures, now);
        }
    }

    /// Something could not be found out; it is tried again, and what could not be told now is told then.
    fn failed(&mut self, failures: &[String], now: Moment) {
        self.again = Some(now.at + TRY_AGAIN);
        let reason = format!("resync: what was missed is not known yet: {}", failures.join("; "));
        if self.told.as_ref() != Some(&reason) {
            self.diagnostics.error(&format!("{reason}; trying again in {} min", TRY_AGAIN.as_secs() / 60));
            self.changes.push_back(Change::Failed { reason: reason.clone() });
            self.told = Some(reason);
        }
    }

    /// When [`Resync::next`] or [`Resync::written`] is due without anything having happened.
    pub fn due(&self, now: Moment) -> Option<Instant> {
        let at_once = self.wanted || !self.queue.is_empty() || !self.changes.is_empty();
        let again = self.again.filter(|_| self.connected);
        let write = self.keeper.as_ref().and_then(|keeper| self.write_at(keeper, now));
        at_once.then_some(now.at).into_iter().chain(again).chain(write).min()
    }

    fn write_at(&self, keeper: &Keeper, now: Moment) -> Option<Instant> {
        if keeper.writing.is_some() || !self.is_worth_keeping() {
            return None;
        }
        let every = if keeper.changed { WRITE_EVERY } else { WRITE_IDLE };
        Some(keeper.written.map_or(now.at, |written| written + every))
    }

    /// Before anything was learned a state would make all there is look new.
    fn is_worth_keeping(&self) -> bool {
        !self.learned.is_empty()
    }

    /// All that was told is with the reader: what is known may be kept. `last` is the end of the run.
    pub fn written(&mut self, last: bool, now: Moment) {
        let Some(keeper) = &mut self.keeper else { return };
        if let Some(writing) = &keeper.writing {
            let result = if last {
                match writing.recv_timeout(SLOW_DISK) {
                    // It may still come to its end; two must not write at once.
                    Err(RecvTimeoutError::Timeout) => return self.kept(Err("the disk takes too long".to_owned())),
                    result => result.unwrap_or(Ok(())),
                }
            } else {
                match writing.try_recv() {
                    Err(TryRecvError::Empty) => return,
                    result => result.unwrap_or(Ok(())),
                }
            };
            keeper.writing = None;
            self.kept(result);
        }
        let Some(keeper) = &self.keeper else { return };
        let due = self.write_at(keeper, now).is_some_and(|at| at <= now.at);
        if !(due || last && self.is_worth_keeping()) {
            return;
        }
        // A restart that never came to its first connection leaves the gap's beginning as it was.
        let at = if self.opened || self.earlier.is_none() { keeper.at } else { self.earlier.flatten() };
        let at = [self.from, self.untold_from].into_iter().flatten().min().or(at);
        let state = State { source: self.source.clone(), at, learned: self.learned.clone(), known: Known::default() };
        let known = std::mem::take(&mut self.known);
        let state = State { known, ..state };
        let bytes = state::write(&state);
        self.known = state.known;
        let Some(keeper) = &mut self.keeper else { return };
        keeper.changed = false;
        keeper.written = Some(now.at);
        let path = keeper.file.path().to_owned();
        if last {
            let result = state::replace(&path, &bytes);
            return self.kept(result);
        }
        // A disk takes its time, and the socket is to be read meanwhile.
        let (tell, writing) = channel();
        let started =
            thread::Builder::new().name("state".to_owned()).spawn(move || tell.send(state::replace(&path, &bytes)));
        match started {
            Ok(_) => keeper.writing = Some(writing),
            Err(error) => self.kept(Err(format!("no thread can be started: {error}"))),
        }
    }

    /// A state was written, or not.
    fn kept(&mut self, result: Result<(), String>) {
        let Some(keeper) = &mut self.keeper else { return };
        let reason = result.err();
        if let Some(reason) = &reason {
            keeper.changed = true;
            if keeper.told.as_ref() != Some(reason) {
                self.diagnostics.error(&format!("--state: {reason}; a restart will tell changes again that were told"));
            }
        }
        keeper.told = reason;
    }

    /// How much was listed and told.
    pub fn accounts(&self) -> Accounts {
        Accounts::default().with("resynced", self.resynced).with("listings", self.listings)
    }
}

/// The difference as an event.
fn record(difference: &Difference, origin: &str, now: Timestamp) -> String {
    let Difference { action, uri, seen } = difference;
    let state = seen.state.as_ref().map(|state| format!(r#","state":{}"#, quote(state))).unwrap_or_default();
    let parents: Vec<String> = seen.parents.iter().map(|parent| quote(parent)).collect();
    format!(
        r#"{{"type":{},"action":"{action}"{state},"resource_uri":{},"parents":[{}],"received_at":"{}","origin":"{origin}"}}"#,
        quote(path_kind(uri).unwrap_or_default()),
        quote(uri),
        parents.join(","),
        now.rfc3339(),
    )
}

#[cfg(test)]
mod tests;
