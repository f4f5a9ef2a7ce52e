//! A disk that can fill up, write short, fail to sync, stop in the middle of anything, and lose power.
//!
//! It is stricter than most file systems: a name is safe only once the directory is synced, changes of names are lost independently of one another,
//! unsynced bytes are lost or kept sector by sector, and bytes whose sync failed are never written by a later one unless they are written again:
//! the system forgets that they are unsynced, and has forgotten the bytes by the time the next process looks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Access, Disk, DiskFile};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// The disk, shared by everybody who has it open.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    holds_lock: bool,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    files: Vec<Content>,
    locked: bool,
    /// Bytes there is room for.
    room: Option<u64>,
    /// The most one write takes.
    most: Option<usize>,
    /// So many syncs fail from now on.
    failing_syncs: u32,
    /// One failed since the last crash.
    sync_failed: bool,
    /// So many operations from now on, everything stops.
    stop_after: Option<u32>,
    random: u64,
    faults: u64,
    /// Files whose bytes cannot be read in these ranges.
    bad: Vec<(String, u64, u64)>,
}

#[derive(Clone)]
enum Change {
    Made(String, usize),
    Removed(String),
    Renamed(String, String, usize),
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    safe: Vec<u8>,
    /// Sectors the system knows to be unsynced.
    dirty: BTreeSet<usize>,
}

struct SimulatedFile {
    disk: SimulatedDisk,
    name: String,
    number: usize,
}

impl State {
    fn random(&mut self) -> u64 {
        // SplitMix64, so that a seed gives the same faults every time.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn operate(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.stop_after {
            if *left == 0 {
                self.faults += 1;
                return Err(io::Error::other("stopped"));
            }
            *left -= 1;
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        let numbers: BTreeSet<usize> = self.names.values().copied().collect();
        numbers.iter().map(|number| self.files[*number].bytes.len() as u64).sum()
    }
}

fn sector(bytes: &[u8], number: usize) -> Vec<u8> {
    let from = (number * SECTOR).min(bytes.len());
    let mut sector = bytes[from..(from + SECTOR).min(bytes.len())].to_vec();
    sector.resize(SECTOR, 0);
    sector
}

fn put(bytes: &mut Vec<u8>, number: usize, sector: &[u8]) {
    let from = number * SECTOR;
    if bytes.len() < from + SECTOR {
        bytes.resize(from + SECTOR, 0);
    }
    bytes[from..from + SECTOR].copy_from_slice(sector);
}

#[allow(dead_code, reason = "each test uses its own part")]
impl SimulatedDisk {
    /// An empty one whose faults follow from the seed.
    pub fn new(seed: u64) -> SimulatedDisk {
        let disk = SimulatedDisk::default();
        disk.state().random = seed;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for so many bytes more; `None` for any number.
    pub fn give_room(&self, room: Option<u64>) {
        let mut state = self.state();
        let used = state.used();
        state.room = room.map(|room| used + room);
    }

    /// No write takes more than this.
    pub fn write_short(&self, most: Option<usize>) {
        self.state().most = most;
    }

    /// The next syncs fail.
    pub fn fail_syncs(&self, count: u32) {
        self.state().failing_syncs = count;
    }

    /// Everything fails after so many operations more, until the next crash.
    pub fn stop_after(&self, operations: u32) {
        self.state().stop_after = Some(operations);
    }

    /// Whether that has come.
    pub fn has_stopped(&self) -> bool {
        self.state().stop_after == Some(0)
    }

    /// Whether a sync failed since the last crash.
    pub fn has_failed_to_sync(&self) -> bool {
        self.state().sync_failed
    }

    /// How many operations failed so far.
    pub fn faults(&self) -> u64 {
        self.state().faults
    }

    /// Bytes that cannot be read.
    pub fn spoil(&self, name: &str, from: u64, to: u64) {
        self.state().bad.push((name.to_owned(), from, to));
    }

    /// The bytes of a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].bytes.clone()
    }

    /// Changes a file behind everybody's back; the change survives everything.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let number = match state.names.get(name) {
            Some(number) => *number,
            None => {
                state.files.push(Content::default());
                let number = state.files.len() - 1;
                state.names.insert(name.to_owned(), number);
                state.safe_names.insert(name.to_owned(), number);
                number
            }
        };
        change(&mut state.files[number].bytes);
        state.files[number].safe = state.files[number].bytes.clone();
    }

    /// The process was killed: what was written is there.
    pub fn kill(&self) {
        let mut state = self.state();
        (state.locked, state.stop_after, state.failing_syncs, state.sync_failed) = (false, None, 0, false);
        for content in &mut state.files {
            for number in 0..content.bytes.len().div_ceil(SECTOR) {
                if !content.dirty.contains(&number) {
                    let length = content.bytes.len();
                    let safe = sector(&content.safe, number);
                    put(&mut content.bytes, number, &safe);
                    content.bytes.truncate(length);
                }
            }
        }
    }

    /// The power went: what was not synced is there or not, sector by sector and name by name.
    pub fn cut_power(&self) {
        self.kill();
        let mut state = self.state();
        let changes = std::mem::take(&mut state.changes);
        let mut names = state.safe_names.clone();
        for change in changes {
            if state.random().is_multiple_of(2) {
                continue;
            }
            match change {
                Change::Made(name, number) => drop(names.insert(name, number)),
                Change::Removed(name) => drop(names.remove(&name)),
                Change::Renamed(from, to, number) => {
                    names.remove(&from);
                    names.insert(to, number);
                }
            }
        }
        (state.names, state.safe_names) = (names.clone(), names);
        for number in 0..state.files.len() {
            let content = std::mem::take(&mut state.files[number]);
            let lengths = [content.safe.len(), content.bytes.len()];
            let (shorter, longer) = (lengths[0].min(lengths[1]), lengths[0].max(lengths[1]));
            let choice = usize::try_from(state.random() % 3).unwrap();
            let some = usize::try_from(state.random() % (longer - shorter + 1) as u64).unwrap();
            let length = if choice < 2 { lengths[choice] } else { shorter + some };
            let mut kept = content.safe;
            for number in content.dirty {
                if state.random().is_multiple_of(2) {
                    put(&mut kept, number, &sector(&content.bytes, number));
                }
            }
            kept.resize(length, 0);
            state.files[number] = Content { safe: kept.clone(), bytes: kept, dirty: BTreeSet::new() };
        }
    }
}

impl Disk for SimulatedDisk {
    fn lock(&mut self) -> io::Result<bool> {
        let taken = std::mem::replace(&mut self.state().locked, true);
        self.holds_lock = !taken;
        Ok(self.holds_lock)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.operate()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.operate()?;
        let number = match state.names.get(name) {
            Some(number) => *number,
            None if matches!(access, Access::Read | Access::Change) => return Err(ErrorKind::NotFound.into()),
            None => {
                state.files.push(Content::default());
                let number = state.files.len() - 1;
                state.names.insert(name.to_owned(), number);
                state.changes.push(Change::Made(name.to_owned(), number));
                number
            }
        };
        if access == Access::Fresh {
            state.files[number].bytes.clear();
            state.files[number].dirty.clear();
        }
        drop(state);
        let disk = SimulatedDisk { state: self.state.clone(), holds_lock: false };
        Ok(Box::new(SimulatedFile { disk, name: name.to_owned(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let number = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), number);
        state.changes.push(Change::Renamed(from.to_owned(), to.to_owned(), number));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.names.remove(name).ok_or(ErrorKind::NotFound)?;
        state.changes.push(Change::Removed(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            state.sync_failed = true;
            state.faults += 1;
            return Err(io::Error::other("Input/output error"));
        }
        state.safe_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }

    fn show(&self, name: &str) -> String {
        format!("/spool/{name}")
    }
}

impl Drop for SimulatedDisk {
    fn drop(&mut self) {
        if self.holds_lock {
            self.state().locked = false;
        }
    }
}

impl DiskFile for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.operate()?;
        Ok(state.files[self.number].bytes.len() as u64)
    }

    fn read_at(&self, room: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.operate()?;
        let end = at + room.len() as u64;
        if state.bad.iter().any(|(name, from, to)| *name == self.name && *from < end && at < *to) {
            return Err(io::Error::other("Input/output error"));
        }
        let bytes = &state.files[self.number].bytes;
        let from = usize::try_from(at).unwrap().min(bytes.len());
        let count = room.len().min(bytes.len() - from);
        room[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let stopping = state.stop_after == Some(0);
        let mut count = bytes.len().min(state.most.unwrap_or(usize::MAX));
        if state.stop_after == Some(1) {
            // The last one before everything stops is cut short.
            count = usize::try_from(state.random() % (count as u64 + 1)).unwrap();
        }
        if state.operate().is_err() || (count == 0 && !stopping) {
            state.faults += 1;
            return Err(io::Error::other("stopped"));
        }
        let length = state.files[self.number].bytes.len();
        let from = usize::try_from(at).unwrap();
        if let Some(room) = state.room {
            let free = usize::try_from(room.saturating_sub(state.used())).unwrap();
            let fitting = (length + free).saturating_sub(from);
            if fitting < count {
                state.faults += 1;
                count = fitting;
            }
            if count == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
        }
        let content = &mut state.files[self.number];
        content.bytes.resize(length.max(from + count), 0);
        content.bytes[from..from + count].copy_from_slice(&bytes[..count]);
        content.dirty.extend(from.min(length) / SECTOR..=(from + count - 1) / SECTOR);
        Ok(count)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        let content = &mut state.files[self.number];
        let size = usize::try_from(size).unwrap();
        let (old, new) = (content.bytes.len(), size);
        content.bytes.resize(size, 0);
        content.dirty.extend(old.min(new) / SECTOR..=old.max(new) / SECTOR);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        let mut content = std::mem::take(&mut state.files[self.number]);
        let failing = state.failing_syncs > 0;
        let length = content.bytes.len();
        for number in std::mem::take(&mut content.dirty) {
            if !failing || state.random().is_multiple_of(2) {
                put(&mut content.safe, number, &sector(&content.bytes, number));
            }
        }
        content.safe.resize(length, 0);
        state.files[self.number] = content;
        if failing {
            state.failing_syncs -= 1;
            state.sync_failed = true;
            state.faults += 1;
            return Err(io::Error::other("Input/output error"));
        }
        Ok(())
    }
}
