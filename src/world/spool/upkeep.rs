//! Giving the disk back what settled records took.

use std::io::ErrorKind;

use super::segment::{COMPACT, Segment, name, rewrite};
use super::{Fresh, Spool};
use crate::model::exit::Failure;

impl Spool {
    /// Removes the segment if nothing in it waits, rewrites it if little does.
    pub(super) fn tidy(&mut self, first: u64) -> Result<(), Failure> {
        let Some(segment) = self.segments.get(&first) else { return Ok(()) };
        let (waiting, sparse) = (segment.waiting, segment.live * 2 < segment.size);
        let large = segment.size >= self.limits.segment / 4;
        if first == self.last().0 {
            if self.fresh.count > 0 || !((waiting == 0 && large) || (sparse && self.is_full())) {
                return Ok(());
            }
            self.rotate()?;
            if first == self.last().0 {
                return Ok(());
            }
        }
        let segment = &self.segments[&first];
        let (damaged, compactable) = (segment.damaged, segment.live < segment.compact_below);
        let rewritten = waiting > 0 && sparse && large && !damaged && compactable;
        if waiting == 0 || rewritten {
            // Its successor's name must be safe first, or the ids that go would be given again.
            self.sync_names()?;
        }
        if waiting == 0 {
            if damaged { self.set_aside(first).map(drop) } else { self.remove(first) }
        } else if rewritten {
            self.compact(first)
        } else {
            Ok(())
        }
    }

    pub(super) fn remove(&mut self, first: u64) -> Result<(), Failure> {
        match self.disk.remove(&name(first)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(self.failure(first, &error)),
            _ => {}
        }
        self.names_changed = true;
        self.forget_marks(first);
        self.segments.remove(&first);
        Ok(())
    }

    /// The file with the states in it is gone.
    pub(super) fn forget_marks(&mut self, first: u64) {
        let mut later = self.unmarked.split_off(&first);
        later = later.split_off(&self.below(first));
        self.unmarked.append(&mut later);
    }

    /// Writes what waits in the segment into a new file, which takes its place.
    pub(super) fn compact(&mut self, first: u64) -> Result<(), Failure> {
        let below = self.below(first);
        let segment = self.segments.get_mut(&first).expect("the caller has it");
        let size = segment.size;
        let replacement = name(first) + COMPACT;
        let unmarked = &self.unmarked;
        let rewritten = segment.open(&*self.disk, first).and_then(|file| {
            let rewritten = rewrite(&*self.disk, &replacement, file, size, first..below, |entry| {
                !unmarked.contains_key(&entry.id)
            })?;
            if !rewritten.damaged {
                self.disk.rename(&replacement, &name(first))?;
            }
            Ok(rewritten)
        });
        segment.compact_below = segment.live / 2;
        let rewritten = match rewritten {
            Ok(rewritten) if !rewritten.damaged => rewritten,
            other => {
                let _ = self.disk.remove(&replacement);
                self.names_changed = true;
                // A full disk is no trouble here: what waits is as safe as before.
                segment.damaged |= other.is_ok();
                return Ok(());
            }
        };
        self.names_changed = true;
        let live = rewritten.places.iter().map(|(_, place)| place.size).sum();
        *segment = Segment {
            file: Some(rewritten.file),
            live,
            waiting: rewritten.places.len() as u64,
            ..Segment::new(rewritten.size)
        };
        for (id, place) in rewritten.places {
            if let Some(old) = self.out.get_mut(&id) {
                *old = place;
            }
        }
        self.forget_marks(first);
        if self.cursor.segment == first {
            self.point_at(first);
        }
        Ok(())
    }

    /// The cursor is through a damaged segment: what was not found in it does not wait any more.
    pub(super) fn reconcile(&mut self, first: u64) {
        let below = self.below(first);
        let (mut waiting, mut live) = (0, 0);
        for (_, place) in self.out.range(first..below) {
            waiting += 1;
            live += place.size;
        }
        let shown = self.disk.show(&name(first));
        let is_last = first == self.last().0;
        let fresh = if is_last { self.fresh } else { Fresh::default() };
        let segment = self.segments.get_mut(&first).expect("the caller has it");
        let lost = segment.waiting.saturating_sub(waiting + fresh.count);
        (segment.waiting, segment.live) = (waiting + fresh.count, live + fresh.frames);
        if lost > 0 {
            self.notices.push(format!("{shown}: damaged while in use: {lost} records cannot be read any more"));
        }
    }
}
