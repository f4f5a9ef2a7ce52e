//! The spool against a queue in memory, on a disk that does its worst: whatever happens, nothing accepted is lost, nothing that was safely settled
//! comes again, order holds, nothing is invented, and the books balance.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::simulation::SimulatedDisk;
use super::{Limits, Spool};
use crate::model::time::Timestamp;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u16>),
    Sync,
    Flush,
    Next(u8),
    Settle(u8),
    SettleAny(u8),
    Bury(u8),
    /// And then a crash, because only the spool knows the new ids: a power cut or a kill.
    Retry(bool),
    /// As well.
    Purge(bool),
    Kill,
    CutPower,
    /// After so many operations, then a power cut or a kill.
    StopAfter(u8, bool),
    /// The next start is interrupted after so many operations, by a power cut or a kill.
    Interrupt(u8, bool),
    /// Room in bytes.
    Room(Option<u16>),
    FailSyncs(u8),
    WriteShort(Option<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => prop::collection::vec(prop_oneof![8 => 0_u16..120, 1 => 0_u16..1500], 1..6).prop_map(Step::Append),
        10 => Just(Step::Sync),
        3 => Just(Step::Flush),
        12 => (1_u8..8).prop_map(Step::Next),
        14 => any::<u8>().prop_map(Step::Settle),
        2 => any::<u8>().prop_map(Step::SettleAny),
        5 => any::<u8>().prop_map(Step::Bury),
        1 => any::<bool>().prop_map(Step::Retry),
        1 => any::<bool>().prop_map(Step::Purge),
        2 => Just(Step::Kill),
        3 => Just(Step::CutPower),
        4 => (0_u8..40, any::<bool>()).prop_map(|(after, power)| Step::StopAfter(after, power)),
        3 => (0_u8..25, any::<bool>()).prop_map(|(after, power)| Step::Interrupt(after, power)),
        2 => prop::option::of(0_u16..2000).prop_map(Step::Room),
        2 => (1_u8..3).prop_map(Step::FailSyncs),
        1 => prop::option::of(1_u8..40).prop_map(Step::WriteShort),
    ];
    prop::collection::vec(step, 1..120)
}

/// What is known about an accepted record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    /// Settled in the spool's memory at least: after a crash it may wait or not.
    Settling,
    /// Written: after a kill it does not come again, after a power cut it may.
    Written,
    /// Synced: it never comes again.
    Settled,
    /// Given up in the spool's memory at least.
    Burying,
    /// Its dead letter is safe; whether it comes again as with `Written`.
    Buried,
    /// Its dead letter is safe and it never comes again.
    Dead,
    /// Removed, or a dead letter that went again, by a call that failed or was interrupted: anything goes.
    Unknown,
}

#[derive(Clone, Debug)]
struct Known {
    text: String,
    fate: Fate,
    handed: bool,
}

struct Model {
    disk: SimulatedDisk,
    spool: Option<Spool>,
    limits: Limits,
    number: u64,
    accepted: BTreeMap<u64, Known>,
    fresh: BTreeMap<u64, String>,
    /// Given to append, and never said to be accepted: they may be there after a crash.
    possible: BTreeSet<String>,
    /// The highest id that was accepted or handed out.
    highest: u64,
    stop_with_power: bool,
    interrupt: Option<(u32, bool)>,
    last_next: u64,
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_763_700_000_000).unwrap()
}

fn letter(text: &str) -> String {
    format!(r#"{{"sink":"s","reason":"r","attempts":1,"at":"x","event":{text}}}"#)
}

impl Model {
    fn new(seed: u64) -> Model {
        let disk = SimulatedDisk::new(seed);
        let limits = Limits { size: 6000, segment: 1200 };
        let mut spool = Spool::open_on(Box::new(disk.clone()), limits, now()).unwrap();
        // So that a batch of dead letters is written in the middle of things.
        spool.most_burials = 3;
        let spool = Some(spool);
        Model {
            disk,
            spool,
            limits,
            number: 0,
            accepted: BTreeMap::new(),
            fresh: BTreeMap::new(),
            possible: BTreeSet::new(),
            highest: 0,
            stop_with_power: false,
            interrupt: None,
            last_next: 0,
        }
    }

    fn spool(&mut self) -> &mut Spool {
        self.spool.as_mut().unwrap()
    }

    fn pick(&self, choice: u8, eligible: impl Fn(&Known) -> bool) -> Option<u64> {
        let ids: Vec<u64> = self.accepted.iter().filter(|(_, known)| eligible(known)).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[usize::from(choice) % ids.len()])
    }

    fn raise(&mut self, from: &[Fate], to: Fate) {
        for known in self.accepted.values_mut() {
            if from.contains(&known.fate) {
                known.fate = to;
            }
        }
    }

    fn written(&mut self) {
        self.raise(&[Fate::Settling], Fate::Written);
        self.raise(&[Fate::Burying], Fate::Buried);
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append(lengths) => {
                for length in lengths {
                    self.number += 1;
                    let padding = "x".repeat(usize::from(*length));
                    let text = format!(r#"{{"n":{},"p":"{padding}"}}"#, self.number);
                    self.possible.insert(text.clone());
                    if let Ok(id) = self.spool().append(&text, now()) {
                        assert!(id > self.highest, "id {id} was given before");
                        assert!(self.fresh.insert(id, text).is_none());
                    }
                }
            }
            Step::Sync => self.sync(),
            Step::Flush => {
                if self.spool().flush().is_ok() {
                    self.written();
                }
            }
            Step::Next(count) => {
                for _ in 0..*count {
                    // Rotation may have made part of a batch safe already.
                    self.accept();
                    let Ok(Some(record)) = self.spool().hand_out() else { break };
                    assert!(record.id > self.last_next, "{} after {}", record.id, self.last_next);
                    self.last_next = record.id;
                    let known = self.accepted.get_mut(&record.id).expect("what is handed out was accepted");
                    assert_eq!(known.text, record.text);
                    assert_eq!(record.accepted, now());
                    assert!(!known.handed && matches!(known.fate, Fate::Waiting | Fate::Unknown), "{known:?}");
                    known.handed = true;
                }
            }
            Step::Settle(choice) => self.settle(*choice, true),
            Step::SettleAny(choice) => self.settle(*choice, false),
            Step::Bury(choice) => {
                let Some(id) = self.pick(*choice, |known| known.handed && known.fate == Fate::Waiting) else { return };
                let letter = letter(&self.accepted[&id].text);
                if let Ok(was_waiting) = self.spool().bury(id, &letter) {
                    assert!(was_waiting);
                    self.accepted.get_mut(&id).unwrap().fate = Fate::Burying;
                }
            }
            Step::Retry(power) => {
                let before = self.spool().counts();
                self.sync();
                // One that fails leaves them dead, or does it and is stopped then.
                if let Ok(count) = self.spool().retry(now()) {
                    assert_eq!((count, self.spool().counts().dead), (before.dead, 0));
                    // The retry synced them.
                    self.written();
                    // If the power goes before that is synced they are both.
                    let both = *power || self.interrupt.is_some();
                    self.crash(*power);
                    assert!(both || self.dead_letters().is_empty());
                }
            }
            Step::Purge(power) => {
                let purged = self.spool().purge().is_ok();
                if purged {
                    let counts = self.spool().counts();
                    assert_eq!((counts.waiting, counts.dead), (0, 0));
                }
                self.accepted.values_mut().for_each(|known| {
                    known.fate = if purged { Fate::Settled } else { Fate::Unknown };
                });
                self.fresh.clear();
                self.crash(*power);
                assert!(!purged || self.dead_letters().is_empty());
            }
            Step::Kill => self.crash(false),
            Step::CutPower => self.crash(true),
            Step::StopAfter(operations, power) => {
                self.disk.stop_after(u32::from(*operations));
                self.stop_with_power = *power;
            }
            Step::Interrupt(operations, power) => self.interrupt = Some((u32::from(*operations), *power)),
            Step::Room(room) => self.disk.give_room(room.map(u64::from)),
            Step::FailSyncs(count) => self.disk.fail_syncs(u32::from(*count)),
            Step::WriteShort(most) => self.disk.write_short(most.map(usize::from)),
        }
        if self.disk.has_stopped() {
            self.crash(self.stop_with_power);
        }
    }

    /// What became durable is accepted.
    fn accept(&mut self) {
        let durable = self.spool().durable();
        let later = self.fresh.split_off(&(durable + 1));
        for (id, text) in std::mem::replace(&mut self.fresh, later) {
            self.highest = self.highest.max(id);
            self.accepted.insert(id, Known { text, fate: Fate::Waiting, handed: false });
        }
    }

    fn sync(&mut self) {
        let synced = self.spool().sync();
        self.accept();
        if synced.is_ok() {
            assert!(self.fresh.is_empty(), "a sync that succeeds makes everything durable");
        }
        self.fresh.clear();
        let troubled = !self.spool().take_notices().is_empty() || self.spool().trouble.is_some();
        if !troubled {
            self.written();
            self.raise(&[Fate::Written], Fate::Settled);
            self.raise(&[Fate::Buried], Fate::Dead);
        }
        self.check_books();
    }

    fn settle(&mut self, choice: u8, handed: bool) {
        let eligible = |known: &Known| known.fate == Fate::Waiting && (known.handed || !handed);
        let Some(id) = self.pick(choice, eligible) else { return };
        let faults = self.disk.faults();
        let settled = self.spool().settle(id);
        let clean = self.disk.faults() == faults;
        // A disk that is stopped cannot even be searched for a record that was not handed out.
        assert!(settled || !clean, "{id} waits and cannot be settled");
        if settled {
            self.accepted.get_mut(&id).unwrap().fate = if clean { Fate::Written } else { Fate::Settling };
            assert!(!self.spool().settle(id), "twice");
        }
    }

    fn dead_letters(&self) -> Vec<String> {
        let mut letters = Vec::new();
        let listed = super::listing::list_on(&self.disk, "s", |line| {
            if !line.contains("\"status\":\"waiting\"") {
                letters.push(line.to_owned());
            }
            Ok(())
        });
        if listed.is_ok() { letters } else { Vec::new() }
    }

    fn check_books(&mut self) {
        if self.accepted.values().any(|known| known.fate == Fate::Unknown) || self.disk.has_stopped() {
            return;
        }
        let waiting = self.accepted.values().filter(|known| known.fate == Fate::Waiting).count() as u64;
        assert_eq!(self.spool().counts().waiting, waiting, "{:?}", self.accepted);
        let size = |fates: &[Fate]| -> u64 {
            let known = self.accepted.values().filter(|known| fates.contains(&known.fate));
            known.map(|known| super::frame::frame_size(known.text.len())).sum()
        };
        let (least, live) = (size(&[Fate::Waiting]), size(&[Fate::Waiting, Fate::Burying]));
        let counts = self.spool.as_ref().unwrap().counts();
        assert!(counts.bytes >= least);
        // Twice what waits, a header each, one segment that is being written and the record that overflowed it.
        let most = 2 * live + 2 * self.limits.segment + 2000;
        let roomy = self.disk.faults() == 0;
        assert!(!roomy || counts.bytes <= most, "{} bytes for {live} that wait", counts.bytes);
    }

    /// Ends the process and opens the spool again.
    fn crash(&mut self, mut power: bool) {
        // What was written and could not be synced may be gone without a power cut.
        let mut unsafe_writes = power || self.disk.has_failed_to_sync();
        // Nothing of what the process would do at its end happens.
        self.disk.stop_after(0);
        drop(self.spool.take());
        if power {
            self.disk.cut_power()
        } else {
            self.disk.kill()
        }
        if let Some((operations, cut)) = self.interrupt.take() {
            self.disk.stop_after(operations);
            drop(Spool::open_on(Box::new(self.disk.clone()), self.limits, now()));
            if cut {
                self.disk.cut_power();
            } else {
                self.disk.kill();
            }
            (power, unsafe_writes) = (power || cut, unsafe_writes || cut);
        }
        let mut spool = match Spool::open_on(Box::new(self.disk.clone()), self.limits, now()) {
            Ok(spool) => spool,
            Err(failure) => panic!("it cannot be opened: {}", failure.message),
        };
        let counts = spool.counts();
        let next_given = spool.next_id;
        // Everything that waits, read by a second run: the first was killed again at once.
        let mut waiting = BTreeMap::new();
        let mut before = 0;
        while let Some(record) = spool.hand_out().unwrap() {
            assert!(record.id > before, "{} after {before}", record.id);
            before = record.id;
            waiting.insert(record.id, record.text);
        }
        assert_eq!(counts.waiting, waiting.len() as u64, "the books after a crash");
        assert!(next_given > self.highest, "id {next_given} was given before");
        self.disk.stop_after(0);
        drop(spool);
        self.disk.kill();
        let letters: BTreeSet<String> = self.dead_letters().into_iter().collect();
        for (id, known) in &self.accepted {
            let waits = waiting.get(id) == Some(&known.text);
            let is_dead = letters.contains(&letter(&known.text));
            let went_again = waiting.iter().any(|(other, text)| other != id && *text == known.text);
            let holds = match known.fate {
                Fate::Waiting => waits,
                Fate::Settling => true,
                Fate::Written => unsafe_writes || !waits,
                Fate::Settled => !waits,
                Fate::Burying => waits || is_dead,
                Fate::Buried => (is_dead || went_again) && (unsafe_writes || !waits),
                Fate::Dead => (is_dead || went_again) && !waits,
                Fate::Unknown => true,
            };
            assert!(
                holds,
                "{id} {known:?} after {}: waits {waits}, dead {is_dead}",
                if power { "cut" } else { "kill" }
            );
        }
        for (id, text) in &waiting {
            assert!(self.possible.contains(text), "{id} was invented: {text}");
            if let Some(known) = self.accepted.get(id) {
                assert_eq!(known.text, *text, "{id} is another record");
            }
        }
        for letter in &letters {
            assert!(self.possible.iter().any(|text| letter.contains(text.as_str())), "invented: {letter}");
        }
        // The model goes on from what is there.
        self.highest = self.highest.max(before);
        let previous = std::mem::take(&mut self.accepted);
        for (id, text) in waiting {
            self.accepted.insert(id, Known { text, fate: Fate::Waiting, handed: false });
        }
        for (id, known) in previous {
            let is_dead = letters.contains(&letter(&known.text));
            let fate = match known.fate {
                Fate::Settled => Fate::Settled,
                Fate::Written if !unsafe_writes => Fate::Written,
                _ if is_dead && !self.accepted.contains_key(&id) => Fate::Dead,
                // Found to be settled after all: what the second run found is synced.
                _ => continue,
            };
            self.accepted.entry(id).or_insert(Known { fate, handed: true, ..known });
        }
        self.fresh.clear();
        self.last_next = 0;
        self.spool = Some(Spool::open_on(Box::new(self.disk.clone()), self.limits, now()).unwrap());
        self.spool().most_burials = 3;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_accepted_is_lost_and_nothing_settled_comes_again(seed in any::<u64>(), steps in steps()) {
        let mut model = Model::new(seed);
        for step in &steps {
            model.run(step);
        }
        model.disk.give_room(None);
        model.disk.write_short(None);
        model.crash(seed.is_multiple_of(2));
    }
}
