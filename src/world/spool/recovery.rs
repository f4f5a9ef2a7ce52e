//! What a spool does when it is opened: takes stock, cuts off what a crash left half-written, sets damaged files aside and saves what is readable.

use std::collections::BTreeSet;
use std::io;

use super::Spool;
use super::dead::{self, DeadLetters};
use super::disk::{Access, write_all_at};
use super::frame::{self, Found, HEAD, HEADER, Scanner};
use super::segment::{COMPACT, SALVAGED, Segment, first_id, name, rewrite};
use crate::model::exit::Failure;

/// What was found in a segment.
#[derive(Default)]
struct Survey {
    size: u64,
    waiting: u64,
    live: u64,
    settled: bool,
    last: u64,
    /// Unreadable stretches before the last sound frame, or that are not the last segment's end.
    stretches: u64,
    unreadable: u64,
    /// Where what follows the last sound frame begins.
    tail: Option<u64>,
    /// What follows it is what a write that was cut short leaves.
    torn: bool,
}

impl Spool {
    pub(super) fn recover(&mut self) -> Result<(), Failure> {
        let listed = self.disk.names().map_err(|error| super::unusable(&self.disk.show(""), &error))?;
        let mut names: BTreeSet<String> = listed.into_iter().collect();
        self.finish_replacements(&mut names)?;
        let firsts: Vec<u64> = names.iter().filter_map(|name| first_id(name)).collect();
        let last = firsts.last().copied();
        let mut usable = false;
        for (index, first) in firsts.iter().copied().enumerate() {
            let below = firsts.get(index + 1).copied().unwrap_or(u64::MAX);
            let mut survey = self.survey(first, below)?;
            let mut segment = Segment::new(survey.size);
            self.next_id = self.next_id.max(first).max(survey.last + 1);
            if let Some(from) = survey.tail {
                if last == Some(first) && survey.stretches == 0 && survey.torn {
                    // A crash while it was written, and never accepted. A header alone is as good as nothing.
                    segment.size = if from <= HEADER.len() as u64 { 0 } else { from };
                    self.torn = true;
                } else {
                    survey.stretches += 1;
                    survey.unreadable += survey.size - from;
                }
            }
            (segment.waiting, segment.live) = (survey.waiting, survey.live);
            // A killed run wrote that perhaps and did not sync it.
            segment.dirty = survey.settled;
            segment.damaged = survey.stretches > 0;
            let damaged = segment.damaged;
            usable = !damaged;
            self.segments.insert(first, segment);
            if damaged {
                // The ids in there may have been given.
                self.next_id += survey.unreadable / HEAD as u64;
                self.salvage(first, below, &survey);
            }
        }
        if !usable {
            self.begin(self.next_id)?;
        }
        self.durable = self.next_id - 1;
        self.recover_dead(&names)?;
        // A crash without a power cut may have left it unsynced; from now on it counts as durable.
        if self.mend().is_ok() {
            let (first, segment, disk) = self.last_mut();
            segment.sync(disk, first).map_err(|error| super::failure(&*self.disk, first, &error))?;
        }
        self.names_changed = true;
        self.sync_names()?;
        if let Err(failure) = self.sync_settlements() {
            self.trouble(failure.message);
        }
        let first = *self.segments.keys().next().expect("there is always one");
        self.point_at(first);
        Ok(())
    }

    /// Finishes or removes what a crash left of a replacement.
    fn finish_replacements(&mut self, names: &mut BTreeSet<String>) -> Result<(), Failure> {
        let leftover: Vec<String> =
            names.iter().filter(|name| name.ends_with(COMPACT) || name.ends_with(SALVAGED)).cloned().collect();
        for name in &leftover {
            let original = name.strip_suffix(SALVAGED).filter(|original| {
                !names.contains(*original) && (first_id(original).is_some() || *original == dead::NAME)
            });
            let ours = original.is_some()
                || [COMPACT, SALVAGED].iter().any(|suffix| {
                    name.strip_suffix(suffix).is_some_and(|name| first_id(name).is_some() || name == dead::NAME)
                });
            let done = match original {
                // The damaged file was set aside already, which happens only when this one is complete.
                Some(original) => self.disk.rename(name, original),
                None if ours => self.disk.remove(name),
                None => Ok(()),
            };
            done.map_err(|error| Failure::failed(format!("{}: {error}", self.disk.show(name))))?;
            if let Some(original) = original {
                names.insert(original.to_owned());
            }
            names.remove(name);
            self.names_changed = true;
        }
        self.sync_names()
    }

    fn survey(&mut self, first: u64, below: u64) -> Result<Survey, Failure> {
        let mut segment = Segment::new(0);
        let opened = segment.open(&*self.disk, first).and_then(|file| Ok((file.size()?, file)));
        let (size, file) = opened.map_err(|error| super::failure(&*self.disk, first, &error))?;
        let mut begin = [0; HEADER.len()];
        let read = file.read_at(&mut begin, 0).unwrap_or(0);
        if read == HEADER.len() && begin.starts_with(frame::FAMILY) && begin != HEADER {
            let path = self.disk.show(&name(first));
            return Err(Failure::usage(format!("{path}: written by another version of this program")));
        }
        let mut survey = Survey { size, ..Survey::default() };
        let mut scanner = Scanner::new(first, below);
        while let Some(found) = scanner.next(file, size) {
            match found {
                Found::Record(entry) => {
                    survey.last = entry.id;
                    if entry.settled {
                        survey.settled = true;
                    } else {
                        survey.waiting += 1;
                        survey.live += entry.size;
                    }
                }
                Found::Damage(bytes) => {
                    survey.stretches += 1;
                    survey.unreadable += bytes;
                }
                Found::Tail(from) => survey.tail = Some(from),
            }
        }
        if let Some(from) = survey.tail {
            let mut head = [0; HEAD];
            let read = file.read_at(&mut head, from).unwrap_or(0);
            survey.torn = frame::is_torn(&head[..read], size - from, from == 0);
        }
        Ok(survey)
    }

    /// Saves what is readable in a damaged segment and sets the file aside; if the disk has no room for that, it stays and is read as it is.
    fn salvage(&mut self, first: u64, below: u64, survey: &Survey) {
        let what = format!(
            "{}: damaged: {} bytes in {} places cannot be read",
            self.disk.show(&name(first)),
            survey.unreadable,
            survey.stretches
        );
        let (saved, result) = (survey.waiting, self.replace(first, below, survey));
        self.notices.push(match result {
            Ok(aside) => format!("{what}; set aside as {aside}, {saved} waiting records saved"),
            Err(error) => {
                format!("{what}, and the file cannot be set aside: {error}; {saved} waiting records are readable")
            }
        });
    }

    fn replace(&mut self, first: u64, below: u64, survey: &Survey) -> Result<String, Failure> {
        if survey.waiting == 0 {
            return self.set_aside(first);
        }
        let replacement = name(first) + SALVAGED;
        let segment = self.segments.get_mut(&first).expect("it was just put there");
        let file = segment.open(&*self.disk, first).map_err(|error| super::failure(&*self.disk, first, &error))?;
        let rewritten = rewrite(&*self.disk, &replacement, file, survey.size, first..below, |_| true);
        self.names_changed = true;
        let rewritten = match rewritten {
            Ok(rewritten) => rewritten,
            Err(error) => {
                let _ = self.disk.remove(&replacement);
                return Err(Failure::failed(format!("{}: {error}", self.disk.show(&replacement))));
            }
        };
        // Its name must be safe before the other one goes.
        self.sync_names()?;
        let aside = self.set_aside(first)?;
        self.sync_names()?;
        let renamed = self.disk.rename(&replacement, &name(first));
        // The next start finishes it.
        renamed.map_err(|error| super::failure(&*self.disk, first, &error))?;
        self.names_changed = true;
        let live = rewritten.places.iter().map(|(_, place)| place.size).sum();
        let waiting = rewritten.places.len() as u64;
        let segment = Segment { file: Some(rewritten.file), live, waiting, ..Segment::new(rewritten.size) };
        self.segments.insert(first, segment);
        Ok(aside)
    }

    /// Renames a damaged segment, which is ours no more. Says its new path.
    pub(super) fn set_aside(&mut self, first: u64) -> Result<String, Failure> {
        let aside = self.move_aside(&name(first)).map_err(|error| super::failure(&*self.disk, first, &error))?;
        self.forget_marks(first);
        self.segments.remove(&first);
        Ok(aside)
    }

    pub(super) fn move_aside(&mut self, name: &str) -> io::Result<String> {
        let names = self.disk.names()?;
        let plain = format!("{name}.corrupt-{}", self.opened.millis() / 1000);
        let others = (2..).map(|number| format!("{plain}-{number}"));
        let aside = std::iter::once(plain.clone()).chain(others).find(|aside| !names.contains(aside));
        let aside = aside.expect("there is no end to them");
        self.disk.rename(name, &aside)?;
        self.names_changed = true;
        Ok(self.disk.show(&aside))
    }

    fn recover_dead(&mut self, names: &BTreeSet<String>) -> Result<(), Failure> {
        let failed = |path: String, error: &io::Error| Failure::failed(format!("{path}: {error}"));
        let path = self.disk.show(dead::NAME);
        let opened = DeadLetters::open(&*self.disk, names.contains(dead::NAME));
        let (dead, survey) = opened.map_err(|error| failed(path.clone(), &error))?;
        self.dead = dead;
        if survey.bad > 0 {
            let what = format!("{path}: damaged: {} lines are no dead letters", survey.bad);
            let (saved, result) = (survey.good, self.replace_dead());
            self.notices.push(match result {
                Ok(aside) => format!("{what}; set aside as {aside}, {saved} dead letters saved"),
                Err(error) => {
                    format!("{what}, and the file cannot be set aside: {error}; {saved} dead letters are readable")
                }
            });
        }
        Ok(())
    }

    fn replace_dead(&mut self) -> io::Result<String> {
        let replacement = dead::NAME.to_owned() + SALVAGED;
        let written = (|| {
            let file = self.disk.open(&replacement, Access::Fresh)?;
            let (mut lines, mut at) = (dead::Lines::default(), 0);
            while let Some(letter) = self.dead.read(&mut lines) {
                write_all_at(&*file, format!("{letter}\n").as_bytes(), at)?;
                at += letter.len() as u64 + 1;
            }
            file.sync()
        })();
        self.names_changed = true;
        if let Err(error) = written {
            let _ = self.disk.remove(&replacement);
            return Err(error);
        }
        self.disk.sync()?;
        let aside = self.move_aside(dead::NAME)?;
        self.disk.sync()?;
        self.disk.rename(&replacement, dead::NAME)?;
        self.dead = DeadLetters::open(&*self.disk, true)?.0;
        Ok(aside)
    }
}
