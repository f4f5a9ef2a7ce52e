//! What was last seen of every object, and what a subscription's answer says differently. Nothing but memory, and bounded.
//!
//! Of an attribute only digests are kept: what has changed can be told from them, what it was before cannot.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::dn;
use super::message::{Envelope, Object, Traits, event};
use crate::model::json::{self, quote};

/// So many objects are remembered: ten answers of the size that an APIC gives at most.
const MOST_OBJECTS: usize = 1_000_000;

/// `origin` of what was missed.
const RESYNC: &str = r#","origin":"resync""#;

/// `origin` of what there was at the start.
const SNAPSHOT: &str = r#","origin":"snapshot""#;

/// Attributes that differ between an answer and an event though the object is the same.
const VOLATILE: [&str; 3] = ["childAction", "rn", "status"];

/// An attribute's name and value.
type Attribute = (u32, u32);

/// What is known of an object.
#[derive(Clone, Debug)]
struct Seen {
    class: Arc<str>,
    /// In the order of their names.
    attributes: Box<[Attribute]>,
    /// The targets that showed it.
    targets: Vec<u16>,
    /// Whether an answer showed it: then all of its attributes are known, and another one is a change. An event may leave some out.
    whole: bool,
}

/// What a live event said of an object while an answer was under way, which is newer.
#[derive(Clone, Debug)]
enum Touch {
    Gone,
    Changed(HashSet<u32>),
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Known {
    objects: HashMap<Arc<str>, Seen>,
    classes: HashSet<Arc<str>>,
    /// What live events said since [`Known::listen`].
    touched: HashMap<String, Touch>,
    listening: bool,
    overflowed: bool,
}

/// What is to be told of an answer's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Nothing: they are learned.
    Nothing,
    /// What differs.
    Differences,
    /// Everything.
    Everything,
}

impl Known {
    /// An answer is about to be asked for: what events say from now on is newer than it.
    pub fn listen(&mut self) {
        self.touched.clear();
        self.listening = true;
    }

    /// All answers have come.
    pub fn settle(&mut self) {
        self.touched = HashMap::new();
        self.listening = false;
    }

    /// Whether an object was deleted since [`Known::listen`]: the pages of a list move up then, and one object may be on none of them.
    pub fn pages_moved(&self) -> bool {
        self.touched.values().any(|touch| matches!(touch, Touch::Gone))
    }

    /// Whether so many objects are known that some are not remembered. Says so once.
    pub fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    /// How many objects are known.
    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// A live event. `targets` are those whose subscription brought it, as far as their ids are known yet.
    pub fn heed(&mut self, object: &Object<'_>, traits: &Traits<'_>, targets: &[u16]) {
        let Some(name) = traits.dn.as_deref() else { return };
        let action = traits.action();
        if action == "delete" {
            self.objects.remove(name);
            if self.listening {
                self.touched.insert(name.to_owned(), Touch::Gone);
            }
            return;
        }
        let attributes = attributes(object.attributes);
        if self.listening {
            let names = attributes.iter().map(|(name, _)| *name);
            match self.touched.get_mut(name) {
                // After a deletion only a creation says all there is to say.
                Some(Touch::Changed(known)) => known.extend(names),
                _ => {
                    self.touched.insert(name.to_owned(), Touch::Changed(names.collect()));
                }
            }
        }
        if let Some(seen) = self.objects.get_mut(name) {
            if action == "create" {
                seen.attributes = attributes.into();
                seen.whole = false;
            } else {
                seen.overlay(&attributes)
            }
            for target in targets {
                seen.shown_by(*target);
            }
        } else {
            // Even of a modification that came first what it says is remembered: a deletion must be told one day.
            self.learn(name, object.class, attributes, targets, false);
        }
    }

    /// The subscription that brought a live event turned out to be this target's.
    pub fn place(&mut self, name: &str, target: u16) {
        if let Some(seen) = self.objects.get_mut(name) {
            seen.shown_by(target);
        }
    }

    /// The answers to a target's subscription. Tells events, without `received_at`: those above before those below, deletions the other way round.
    pub fn compare(&mut self, target: u16, answers: &[String], complete: bool, telling: Telling) -> Vec<String> {
        let mut told: Vec<(usize, String)> = Vec::new();
        let mut listed: HashSet<String> = HashSet::new();
        for answer in answers {
            // It was read before, by whoever asked for it.
            let Ok(envelope) = Envelope::read(answer) else { continue };
            for object in &envelope.objects {
                let traits = Traits::of(object.attributes);
                let Some(name) = traits.dn.as_deref().map(str::to_owned) else { continue };
                if let Some(event) = self.compare_one(target, object, &traits, &name, telling) {
                    told.push((dn::depth(&name), event));
                }
                listed.insert(name);
            }
        }
        told.sort_by_key(|(depth, _)| *depth);
        let mut told: Vec<String> = told.into_iter().map(|(_, event)| event).collect();
        if complete {
            told.extend(self.missing(target, &listed, telling));
        }
        told
    }

    fn compare_one(
        &mut self,
        target: u16,
        object: &Object<'_>,
        traits: &Traits<'_>,
        name: &str,
        telling: Telling,
    ) -> Option<String> {
        let found = attributes(object.attributes);
        let newer = match self.touched.get(name) {
            Some(Touch::Gone) => return None,
            Some(Touch::Changed(names)) => Some(names.clone()),
            None => None,
        };
        let is_newer = |attribute: &Attribute| newer.as_ref().is_some_and(|names| names.contains(&attribute.0));
        let whole = |action, more| Some(event(object, traits, action, more));
        let Some(seen) = self.objects.get_mut(name) else {
            self.learn(name, object.class, found, &[target], true);
            return match telling {
                Telling::Nothing => None,
                Telling::Differences => whole("create", RESYNC),
                Telling::Everything => whole("update", SNAPSHOT),
            };
        };
        // Several targets may show it, and only the first of them tells it.
        let shown = seen.targets.contains(&target) || !seen.targets.is_empty();
        seen.shown_by(target);
        let was_known = |attribute: &Attribute| {
            seen.attributes.binary_search_by_key(&attribute.0, |known| known.0).map(|at| seen.attributes[at].1)
        };
        let changed: HashSet<u32> = found
            .iter()
            .filter(|attribute| {
                !is_newer(attribute) && was_known(attribute).map_or(seen.whole, |value| value != attribute.1)
            })
            .map(|attribute| attribute.0)
            .collect();
        let mut older: Vec<Attribute> = found.into_iter().filter(|attribute| !is_newer(attribute)).collect();
        older.sort_unstable();
        seen.overlay(&older);
        seen.whole = true;
        match telling {
            Telling::Nothing => None,
            Telling::Everything => {
                if shown {
                    None
                } else {
                    whole("update", SNAPSHOT)
                }
            }
            Telling::Differences if changed.is_empty() => None,
            Telling::Differences => {
                let sparse = sparse(object.attributes, name, &changed);
                let object = Object { attributes: &sparse, children: None, ..*object };
                Some(event(&object, traits, "update", RESYNC))
            }
        }
    }

    /// What a complete answer does not show, and no other target either.
    fn missing(&mut self, target: u16, listed: &HashSet<String>, telling: Telling) -> Vec<String> {
        let mut gone: Vec<Arc<str>> = Vec::new();
        for (name, seen) in &mut self.objects {
            if seen.targets.contains(&target) && !listed.contains(&**name) && !self.touched.contains_key(&**name) {
                seen.targets.retain(|known| *known != target);
                if seen.targets.is_empty() {
                    gone.push(Arc::clone(name));
                }
            }
        }
        gone.sort_by_key(|name| (usize::MAX - dn::depth(name), Arc::clone(name)));
        let told = gone.into_iter().filter_map(|name| {
            let seen = self.objects.remove(&name)?;
            let attributes = format!(r#"{{"dn":{},"status":"deleted"}}"#, quote(&name));
            let object = Object { class: &seen.class, raw: &attributes, attributes: &attributes, children: None };
            Some(event(&object, &Traits::of(&attributes), "delete", RESYNC))
        });
        let told: Vec<String> = told.collect();
        if telling == Telling::Differences { told } else { Vec::new() }
    }

    fn learn(&mut self, name: &str, class: &str, attributes: Vec<Attribute>, targets: &[u16], whole: bool) {
        if self.objects.len() >= MOST_OBJECTS {
            self.overflowed = true;
            return;
        }
        let class = self.classes.get(class).map_or_else(|| Arc::from(class), Arc::clone);
        self.classes.insert(Arc::clone(&class));
        self.objects
            .insert(name.into(), Seen { class, attributes: attributes.into(), targets: targets.to_vec(), whole });
    }
}

impl Seen {
    fn shown_by(&mut self, target: u16) {
        if !self.targets.contains(&target) {
            self.targets.push(target);
        }
    }

    /// `newer`, in the order of names, replaces and adds.
    fn overlay(&mut self, newer: &[Attribute]) {
        let kept = self.attributes.iter().filter(|known| newer.binary_search_by_key(&known.0, |new| new.0).is_err());
        let mut attributes: Vec<Attribute> = kept.chain(newer).copied().collect();
        attributes.sort_unstable();
        self.attributes = attributes.into();
    }
}

fn hash(text: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    #[allow(clippy::cast_possible_truncation, reason = "a digest is cut on purpose")]
    let short = hasher.finish() as u32;
    short
}

/// The attributes that say what an object is like, in the order of their names' digests.
fn attributes(raw: &str) -> Vec<Attribute> {
    let mut found = Vec::new();
    let _ = json::object(raw, |key, value| {
        if !VOLATILE.contains(&key) {
            found.push((hash(key), hash(&json::plain(value))));
        }
    });
    found.sort_unstable();
    found.dedup_by_key(|attribute| attribute.0);
    found
}

/// The attributes of a modification: the name of the object and what has changed.
fn sparse(raw: &str, name: &str, changed: &HashSet<u32>) -> String {
    let mut members = vec![format!(r#""dn":{}"#, quote(name))];
    let _ = json::object(raw, |key, value| {
        if key != "dn" && changed.contains(&hash(key)) {
            members.push(format!("{}:{value}", quote(key)));
        }
    });
    members.push(r#""status":"modified""#.to_owned());
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(objects: &[&str]) -> Vec<String> {
        let objects: Vec<String> =
            objects.iter().map(|attributes| format!(r#"{{"fvTenant":{{"attributes":{{{attributes}}}}}}}"#)).collect();
        vec![format!(r#"{{"subscriptionId":"1","imdata":[{}]}}"#, objects.join(","))]
    }

    fn live(known: &mut Known, attributes: &str, targets: &[u16]) {
        let text = format!(r#"{{"imdata":[{{"fvTenant":{{"attributes":{{{attributes}}}}}}}]}}"#);
        let envelope = Envelope::read(&text).unwrap();
        let object = envelope.objects[0];
        known.heed(&object, &Traits::of(object.attributes), targets);
    }

    fn short(events: Vec<String>) -> Vec<String> {
        events
            .iter()
            .map(|event| {
                let event: serde_json::Value = serde_json::from_str(event).unwrap();
                format!(
                    "{} {} {}",
                    event["action"].as_str().unwrap(),
                    event["dn"].as_str().unwrap(),
                    event["attributes"]
                )
            })
            .collect()
    }

    const A: &str = r#""dn":"uni/tn-A","descr":"a","uid":"1""#;
    const B: &str = r#""dn":"uni/tn-B","descr":"b","uid":"2""#;

    #[test]
    fn differences_are_creations_sparse_modifications_and_deletions() {
        let mut known = Known::default();
        assert!(known.compare(0, &answer(&[A, B]), true, Telling::Nothing).is_empty());
        live(&mut known, r#""dn":"uni/tn-B","descr":"b2","status":"modified""#, &[0]);
        known.listen();
        let told = known.compare(
            0,
            &answer(&[
                r#""dn":"uni/tn-A","descr":"x","uid":"1","childAction":"","status":"""#,
                r#""dn":"uni/tn-C","uid":"3""#,
            ]),
            true,
            Telling::Differences,
        );
        assert_eq!(
            short(told),
            [
                r#"update uni/tn-A {"dn":"uni/tn-A","descr":"x","status":"modified"}"#,
                r#"create uni/tn-C {"dn":"uni/tn-C","uid":"3"}"#,
                r#"delete uni/tn-B {"dn":"uni/tn-B","status":"deleted"}"#,
            ]
        );
        assert!(
            known
                .compare(
                    0,
                    &answer(&[r#""dn":"uni/tn-A","descr":"x""#, r#""dn":"uni/tn-C","uid":"3""#]),
                    true,
                    Telling::Differences
                )
                .is_empty()
        );
    }

    #[test]
    fn an_attribute_that_was_not_there_is_a_change_unless_only_an_event_told_of_the_object() {
        let mut known = Known::default();
        known.compare(0, &answer(&[A]), true, Telling::Nothing);
        live(&mut known, r#""dn":"uni/tn-C","uid":"3","status":"created""#, &[0]);
        let more =
            [r#""dn":"uni/tn-A","descr":"a","uid":"1","nameAlias":"x""#, r#""dn":"uni/tn-C","uid":"3","ownerTag":"""#];
        let told = known.compare(0, &answer(&more), true, Telling::Differences);
        assert_eq!(short(told), [r#"update uni/tn-A {"dn":"uni/tn-A","nameAlias":"x","status":"modified"}"#]);
        assert!(known.compare(0, &answer(&more), true, Telling::Differences).is_empty());
    }

    #[test]
    fn what_live_events_say_is_newer_than_an_answer() {
        let mut known = Known::default();
        known.compare(0, &answer(&[A, B]), true, Telling::Nothing);
        known.listen();
        live(&mut known, r#""dn":"uni/tn-A","descr":"live","status":"modified""#, &[]);
        live(&mut known, r#""dn":"uni/tn-B","status":"deleted""#, &[]);
        live(&mut known, r#""dn":"uni/tn-N","descr":"n","status":"created""#, &[]);
        let told =
            known.compare(0, &answer(&[r#""dn":"uni/tn-A","descr":"old","uid":"9""#, B]), true, Telling::Differences);
        // The attribute that the event did not speak of has changed meanwhile; what was created or deleted live is not told again.
        assert_eq!(short(told), [r#"update uni/tn-A {"dn":"uni/tn-A","uid":"9","status":"modified"}"#]);
        known.settle();
        known.listen();
        let again =
            known.compare(0, &answer(&[r#""dn":"uni/tn-A","descr":"live","uid":"9""#]), true, Telling::Differences);
        assert!(again.is_empty(), "{again:?}");
    }

    #[test]
    fn an_object_that_another_target_still_shows_is_not_gone_and_a_part_proves_nothing() {
        let mut known = Known::default();
        known.compare(0, &answer(&[A]), true, Telling::Nothing);
        known.compare(1, &answer(&[A, B]), true, Telling::Nothing);
        assert!(known.compare(0, &answer(&[]), true, Telling::Differences).is_empty());
        assert!(known.compare(1, &answer(&[]), false, Telling::Differences).is_empty());
        let told = known.compare(1, &answer(&[]), true, Telling::Differences);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(known.count(), 0);
    }

    #[test]
    fn a_snapshot_tells_each_object_once() {
        let mut known = Known::default();
        let told = known.compare(0, &answer(&[A, B]), true, Telling::Everything);
        assert_eq!(told.len(), 2);
        assert!(told[0].ends_with(r#","origin":"snapshot"}"#), "{told:?}");
        assert!(known.compare(1, &answer(&[A]), true, Telling::Everything).is_empty());
    }
}
