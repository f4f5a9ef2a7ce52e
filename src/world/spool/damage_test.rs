//! The spool on a real disk, where somebody else has been at its files.

use std::path::Path;

use super::{Limits, Spool};
use crate::model::time::Timestamp;

fn open(dir: &Path) -> Spool {
    Spool::open(dir, Limits::of(1 << 20), Timestamp::from_millis(0).unwrap()).unwrap()
}

/// A spool with one record, whose only segment is then changed.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> (tempfile::TempDir, Spool) {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    spool.append(r#"{"type":"node"}"#, Timestamp::from_millis(0).unwrap()).unwrap();
    spool.close().unwrap();
    let segment = dir.path().join(super::name(1));
    let mut bytes = std::fs::read(&segment).unwrap();
    change(&mut bytes);
    std::fs::write(segment, bytes).unwrap();
    let spool = open(dir.path());
    (dir, spool)
}

#[test]
fn damage_at_the_end_is_set_aside_and_named() {
    let (dir, mut spool) = changed(|bytes| bytes[50] ^= 1);
    let (foreign, mut other) = changed(|bytes| bytes.iter_mut().for_each(|byte| *byte = b'x'));
    for (dir, spool) in [(&dir, &mut spool), (&foreign, &mut other)] {
        let notices = spool.take_notices();
        assert!(notices.len() == 1 && notices[0].contains("set aside"), "{notices:?}");
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.filter(|name| name.to_string_lossy().contains(".corrupt-")).count(), 1);
        let id = spool.append("{}", Timestamp::from_millis(0).unwrap()).unwrap();
        assert!(id > 1, "its id was given");
    }
}

#[test]
fn a_write_that_was_cut_short_is_no_damage() {
    for length in [0, 7, 16, 18, 30, 60] {
        let (_dir, mut spool) = changed(|bytes| bytes.truncate(length));
        assert_eq!((spool.take_notices(), spool.counts().waiting), (Vec::new(), 0), "{length} bytes");
    }
    let (_dir, mut spool) = changed(|bytes| bytes.extend([0; 100]));
    assert_eq!((spool.take_notices(), spool.counts().waiting), (Vec::new(), 1));
}
