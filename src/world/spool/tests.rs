//! The spool's promises one by one: most on the simulated disk, those about files and locks on a real one.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::listing::list_on;
use super::simulation::SimulatedDisk;
use super::*;
use crate::model::exit::Exit;

const LIMITS: Limits = Limits { size: 100_000, segment: 1000 };

fn now() -> Timestamp {
    Timestamp::parse("2025-03-04T05:06:07.890Z").unwrap()
}

fn open(disk: &SimulatedDisk) -> Spool {
    Spool::open_on(Box::new(disk.clone()), LIMITS, now()).unwrap()
}

fn event(number: u64) -> String {
    format!(r#"{{"type":"node","n":{number}}}"#)
}

fn letter(number: u64) -> String {
    format!(r#"{{"sink":"slack","reason":"no_service","attempts":1,"at":"x","event":{}}}"#, event(number))
}

fn fill(spool: &mut Spool, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(spool.append(&event(number), now()).unwrap(), number);
    }
    spool.sync().unwrap();
}

fn ids(spool: &mut Spool) -> Vec<u64> {
    std::iter::from_fn(|| spool.hand_out().unwrap()).map(|record| record.id).collect()
}

fn texts(spool: &mut Spool) -> Vec<String> {
    std::iter::from_fn(|| spool.hand_out().unwrap()).map(|record| record.text).collect()
}

fn listed(disk: &SimulatedDisk) -> Vec<String> {
    let mut lines = Vec::new();
    list_on(disk, "slack", |line| {
        lines.push(line.to_owned());
        Ok(())
    })
    .unwrap();
    lines
}

fn segments(disk: &SimulatedDisk) -> Vec<String> {
    disk.names().unwrap().into_iter().filter(|name| segment::first_id(name).is_some()).collect()
}

#[test]
fn a_record_comes_out_as_it_went_in_and_only_once_it_is_synced() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    let text = r#"{ "type":"node" ,"n":1.10,"s":"é\u0000" } "#;
    let id = spool.append(text, now()).unwrap();
    assert_eq!(spool.hand_out().unwrap(), None);
    assert!(!spool.settle(id), "what is not accepted cannot be settled");
    spool.sync().unwrap();
    assert_eq!(spool.durable(), id);
    assert_eq!(spool.hand_out().unwrap(), Some(Record { id, accepted: now(), text: text.to_owned() }));
    assert_eq!(spool.hand_out().unwrap(), None);
    assert!(spool.settle(id) && !spool.settle(id) && !spool.settle(77));
    assert_eq!(spool.counts().waiting, 0);
}

#[test]
fn what_settled_out_of_order_does_not_come_again_after_a_kill() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=50);
    assert_eq!(ids(&mut spool), (1..=50).collect::<Vec<_>>());
    for id in (1..=50).filter(|id| id % 7 != 0) {
        assert!(spool.settle(id));
    }
    disk.stop_after(0);
    drop(spool);
    disk.kill();
    let mut spool = open(&disk);
    assert_eq!(spool.counts().waiting, 7);
    assert_eq!(ids(&mut spool), [7, 14, 21, 28, 35, 42, 49]);
    assert_eq!(spool.append(&event(51), now()).unwrap(), 51);
}

#[test]
fn a_record_can_be_settled_before_it_is_handed_out() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=50);
    assert_eq!(spool.hand_out().unwrap().unwrap().id, 1);
    assert!(spool.settle(2) && spool.settle(40));
    assert!(spool.bury(3, &letter(3)).unwrap());
    let expected: Vec<u64> = (4..=50).filter(|id| *id != 40).collect();
    assert_eq!(ids(&mut spool), expected);
}

#[test]
fn segments_go_as_their_records_settle_and_a_straggler_does_not_hold_them() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=400);
    let full = spool.counts().bytes;
    assert!(segments(&disk).len() > 20);
    ids(&mut spool);
    // One in a segment waits on.
    (1..=400).filter(|id| id % 20 != 0).for_each(|id| assert!(spool.settle(id)));
    spool.sync().unwrap();
    let counts = spool.counts();
    assert_eq!(counts.waiting, 20);
    assert!(counts.bytes * 4 < full, "{} of {full} bytes for 20 of 400 records", counts.bytes);
    (1..=400).filter(|id| id % 20 == 0).for_each(|id| assert!(spool.settle(id)));
    spool.sync().unwrap();
    assert_eq!(segments(&disk).len(), 1);
    assert!(spool.counts().bytes < LIMITS.segment);
    drop(spool);
    assert_eq!(open(&disk).append("{}", now()).unwrap(), 401, "ids go on when everything is settled");
}

#[test]
fn a_rewritten_segment_hands_out_the_rest_of_it() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=30);
    let handed: Vec<u64> = (0..8).map(|_| spool.hand_out().unwrap().unwrap().id).collect();
    let before = spool.counts().bytes;
    handed.iter().skip(1).for_each(|id| assert!(spool.settle(*id)));
    (9..=12).for_each(|id| assert!(spool.settle(id)));
    assert!(spool.counts().bytes < before, "it was rewritten");
    assert_eq!(ids(&mut spool), (13..=30).collect::<Vec<_>>());
    assert!(spool.settle(1) && (13..=30).all(|id| spool.settle(id)));
    assert_eq!(spool.counts().waiting, 0);
}

#[test]
fn the_cap_is_reached_and_left_again() {
    let disk = SimulatedDisk::new(1);
    let limits = Limits { size: 2000, segment: 1000 };
    let mut spool = Spool::open_on(Box::new(disk.clone()), limits, now()).unwrap();
    for _ in 0..1000 {
        let mut count = 0;
        while !spool.is_full() {
            assert_eq!(spool.free(), 2000 - spool.counts().bytes);
            spool.append(&event(7), now()).unwrap();
            count += 1;
        }
        assert!(count > 0, "nothing waits and it is full for ever");
        spool.sync().unwrap();
        assert!(spool.counts().bytes < 2000 + 100);
        ids(&mut spool).into_iter().for_each(|id| assert!(spool.settle(id)));
    }
    assert!(Limits::of(64 << 10).segment * 4 <= 64 << 10 && Limits::of(1 << 40).segment == 4 << 20);
}

#[test]
fn a_full_disk_refuses_records_and_takes_settlements() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=50);
    disk.give_room(Some(100));
    let accepted = spool.append(&event(51), now()).unwrap();
    let failure = spool.append(&event(52), now()).unwrap_err();
    assert_eq!(failure.exit, Exit::Failed);
    assert!(failure.message.starts_with("/spool/0000"), "{}", failure.message);
    assert!(failure.message.ends_with("no storage space"), "{}", failure.message);
    spool.sync().unwrap();
    assert_eq!(spool.durable(), accepted, "those before it are accepted");
    assert_eq!(ids(&mut spool), (1..=51).collect::<Vec<_>>());
    // No room for a dead letter either: it stays in memory, and its record in the spool.
    assert!(spool.bury(51, &letter(51)).unwrap());
    assert!(spool.flush().unwrap_err().message.starts_with("/spool/dead.ndjson: "));
    spool.sync().unwrap();
    let notices = spool.take_notices();
    assert!(notices.len() == 1 && notices[0].contains("nothing is lost"), "{notices:?}");
    assert!((1..=50).all(|id| spool.settle(id)));
    assert!(spool.take_notices().is_empty());
    // What was settled made room.
    spool.flush().unwrap();
    assert_eq!(spool.append(&event(52), now()).unwrap(), 52);
    spool.sync().unwrap();
    drop(spool);
    assert_eq!(ids(&mut open(&disk)), [52]);
    assert_eq!(listed(&disk)[1..], [letter(51)]);
}

#[test]
fn a_failed_sync_takes_the_batch_back() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=3);
    let lost = spool.append(&event(4), now()).unwrap();
    disk.fail_syncs(1);
    assert!(spool.sync().unwrap_err().message.ends_with(".records: Input/output error"));
    assert_eq!(spool.durable(), 3);
    assert_eq!(ids(&mut spool), [1, 2, 3]);
    let id = spool.append(&event(5), now()).unwrap();
    assert!(id > lost, "the id is not given again");
    spool.sync().unwrap();
    disk.cut_power();
    drop(spool);
    assert_eq!(texts(&mut open(&disk)), [event(1), event(2), event(3), event(5)]);
}

#[test]
fn a_torn_tail_is_cut_off_without_a_word() {
    for cut in 1..70 {
        let disk = SimulatedDisk::new(1);
        let mut spool = open(&disk);
        fill(&mut spool, 1..=3);
        drop(spool);
        let name = &segments(&disk)[0];
        disk.change(name, |bytes| bytes.truncate(bytes.len() - cut));
        let mut spool = open(&disk);
        assert!(spool.take_notices().is_empty());
        let kept = ids(&mut spool).len();
        assert_eq!(kept, if cut <= 56 { 2 } else { 1 }, "{cut}");
        spool.append(&event(9), now()).unwrap();
        spool.sync().unwrap();
        drop(spool);
        assert_eq!(ids(&mut open(&disk)).len(), kept + 1);
    }
}

#[test]
fn damage_in_the_middle_is_set_aside_and_the_rest_saved() {
    let (begin, size) = (16, 56);
    for at in [0, begin, begin + 4 * size + 3, begin + 4 * size + 13, begin + 4 * size + 17, begin + 5 * size - 9] {
        let disk = SimulatedDisk::new(1);
        let mut spool = open(&disk);
        fill(&mut spool, 1..=60);
        drop(spool);
        let name = segments(&disk)[0].clone();
        disk.change(&name, |bytes| bytes[at] ^= 0xff);
        let damaged = disk.bytes(&name);
        let mut spool = open(&disk);
        let aside = format!("{name}.corrupt-1741064767");
        let notices = spool.take_notices();
        assert_eq!(notices.len(), 1);
        assert!(notices[0].starts_with(&format!("/spool/{name}: damaged: ")), "{notices:?}");
        assert!(notices[0].contains(&format!("set aside as /spool/{aside}, ")), "{notices:?}");
        assert_eq!(disk.bytes(&aside), damaged);
        let lost: Vec<u64> = if at == 0 { vec![] } else { vec![((at - begin) / size) as u64 + 1] };
        let expected: Vec<u64> = (1..=60).filter(|id| !lost.contains(id)).collect();
        assert_eq!(ids(&mut spool), expected, "byte {at}");
        assert_eq!(spool.counts().waiting, expected.len() as u64);
        drop(spool);
        assert!(open(&disk).take_notices().is_empty(), "it is told once");
    }
}

#[test]
fn garbage_that_was_inserted_or_removed_hides_nothing_behind_it() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(Change, u64); 3] = [
        (|bytes| drop(bytes.splice(16 + 56..16 + 56, *b"\xf5rec\xf5wait\n")), 0),
        (|bytes| drop(bytes.drain(16 + 60..16 + 65)), 1),
        (|bytes| bytes[16 + 56..16 + 3 * 56].fill(0), 2),
    ];
    for (change, lost) in changes {
        let disk = SimulatedDisk::new(1);
        let mut spool = open(&disk);
        fill(&mut spool, 1..=60);
        drop(spool);
        disk.change(&segments(&disk)[0], change);
        let mut spool = open(&disk);
        assert_eq!(spool.take_notices().len(), 1);
        assert_eq!(ids(&mut spool).len() as u64, 60 - lost);
    }
}

#[test]
fn a_damaged_file_that_cannot_be_set_aside_is_read_as_it_is() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=60);
    drop(spool);
    let name = segments(&disk)[0].clone();
    disk.change(&name, |bytes| bytes[100] ^= 1);
    disk.give_room(Some(0));
    let mut spool = open(&disk);
    let notices = spool.take_notices();
    assert!(notices[0].contains("cannot be set aside"), "{notices:?}");
    let handed = ids(&mut spool);
    assert_eq!(handed.len(), 59);
    assert!(handed.into_iter().all(|id| spool.settle(id)));
    spool.sync().unwrap();
    assert_eq!(spool.counts().waiting, 0);
    assert!(disk.names().unwrap().iter().any(|name| name.contains(".corrupt-")), "what is left of it is kept");
}

#[test]
fn a_bad_sector_costs_what_is_in_it() {
    let disk = SimulatedDisk::new(1);
    let limits = Limits { size: 1 << 20, segment: 1 << 20 };
    let mut spool = Spool::open_on(Box::new(disk.clone()), limits, now()).unwrap();
    fill(&mut spool, 1..=1000);
    drop(spool);
    disk.spoil(&segments(&disk)[0], 8192, 8193);
    let mut spool = Spool::open_on(Box::new(disk.clone()), limits, now()).unwrap();
    assert_eq!(spool.take_notices().len(), 1);
    let lost = 1000 - ids(&mut spool).len();
    assert!((73..=76).contains(&lost), "{lost} records of 56 bytes in a page of 4096");
}

#[test]
fn damage_while_it_is_in_use_is_told_and_does_not_stop_it() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=60);
    let names = segments(&disk);
    disk.change(&names[1], |bytes| bytes[20..200].fill(0));
    disk.change(names.last().unwrap(), |bytes| bytes[33] = 0xff);
    let handed = ids(&mut spool);
    assert!(handed.len() < 60);
    assert_eq!(spool.counts().waiting, handed.len() as u64, "nobody waits for what is gone");
    let notices = spool.take_notices();
    assert!(notices.len() == 2 && notices[0].contains("damaged while in use: 4 records"), "{notices:?}");
    assert!(handed.into_iter().all(|id| spool.settle(id)));
    fill_after(&mut spool);
}

fn fill_after(spool: &mut Spool) {
    let id = spool.append("{}", now()).unwrap();
    spool.sync().unwrap();
    assert_eq!(ids(spool), [id]);
}

#[test]
fn empty_and_foreign_files_are_no_trouble() {
    let disk = SimulatedDisk::new(1);
    for name in
        ["notes.txt", "x.records", "00000000000000000007.records", "00000000000000000003.records.compact", "a.salvaged"]
    {
        disk.change(name, |bytes| *bytes = if name.contains("007") { Vec::new() } else { b"hello".to_vec() });
    }
    let mut spool = open(&disk);
    assert!(spool.take_notices().is_empty());
    assert_eq!(spool.append("{}", now()).unwrap(), 7);
    spool.sync().unwrap();
    assert_eq!(ids(&mut spool), [7]);
    let names = disk.names().unwrap();
    assert!(["notes.txt", "x.records", "a.salvaged"].iter().all(|name| names.contains(&(*name).to_owned())));
    assert!(!names.iter().any(|name| name.ends_with(".compact")));
}

#[test]
fn a_segment_of_another_version_is_left_alone() {
    let disk = SimulatedDisk::new(1);
    disk.change("00000000000000000007.records", |bytes| *bytes = b"tutum spool v2\r\nsomething".to_vec());
    let failure = Spool::open_on(Box::new(disk.clone()), LIMITS, now()).err().unwrap();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.message.contains("007.records: written by another version"), "{}", failure.message);
    assert_eq!(disk.bytes("00000000000000000007.records"), b"tutum spool v2\r\nsomething");
}

#[test]
fn a_dead_letter_is_kept_and_its_record_settled() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=300);
    ids(&mut spool);
    // More than wait in memory.
    (1..=200).for_each(|id| assert!(spool.bury(id, &letter(id)).unwrap()));
    assert!(!spool.bury(1, &letter(1)).unwrap() && !spool.settle(1) && !spool.settle(200));
    let counts = spool.counts();
    assert_eq!((counts.waiting, counts.dead), (100, 200));
    spool.flush().unwrap();
    disk.stop_after(0);
    drop(spool);
    disk.kill();
    let mut spool = open(&disk);
    let counts = spool.counts();
    assert_eq!((counts.waiting, counts.dead), (100, 200));
    assert_eq!(ids(&mut spool), (201..=300).collect::<Vec<_>>());
    assert_eq!(listed(&disk)[100..], (1..=200).map(letter).collect::<Vec<_>>());
}

#[test]
fn an_end_without_a_flush_writes_the_dead_letters_still() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=2);
    spool.bury(2, &letter(2)).unwrap();
    drop(spool);
    let mut spool = open(&disk);
    assert_eq!((spool.counts().dead, ids(&mut spool)), (1, vec![1]));
    spool.settle(1);
    spool.close().unwrap();
    disk.cut_power();
    assert_eq!(open(&disk).counts().waiting, 0);
}

#[test]
fn a_retry_makes_records_of_dead_letters() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=5);
    for id in [2, 4] {
        spool.bury(id, &letter(id)).unwrap();
    }
    let later = now().after(std::time::Duration::from_secs(3600));
    assert_eq!(spool.retry(later).unwrap(), 2);
    let counts = spool.counts();
    assert_eq!((counts.waiting, counts.dead, counts.dead_bytes), (5, 0, 0));
    let records: Vec<Record> = std::iter::from_fn(|| spool.hand_out().unwrap()).collect();
    assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [1, 3, 5, 6, 7]);
    assert_eq!((records[3].text.clone(), records[3].accepted), (event(2), later));
    assert_eq!(spool.retry(later).unwrap(), 0);
    // They can die again.
    spool.bury(6, &letter(2)).unwrap();
    spool.flush().unwrap();
    assert_eq!(listed(&disk).last(), Some(&letter(2)));
}

#[test]
fn a_retry_that_does_not_fit_changes_nothing() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=100);
    (1..=99).for_each(|id| assert!(spool.bury(id, &letter(id)).unwrap()));
    spool.sync().unwrap();
    disk.give_room(Some(3000));
    assert!(spool.retry(now()).unwrap_err().message.ends_with("no storage space"));
    let counts = spool.counts();
    assert_eq!((counts.waiting, counts.dead), (1, 99));
    assert_eq!(ids(&mut spool), [100]);
    spool.sync().unwrap();
    drop(spool);
    disk.give_room(None);
    let mut spool = open(&disk);
    assert_eq!(spool.retry(now()).unwrap(), 99);
    assert_eq!(texts(&mut spool)[1..], (1..=99).map(event).collect::<Vec<_>>());
}

#[test]
fn damaged_dead_letters_are_set_aside_and_the_others_saved() {
    let disk = SimulatedDisk::new(1);
    let original = format!("{}\n\n\0\0\0\n{}\nnot json\n{}\n{{\"sink\":\"sla", letter(1), letter(2), letter(3));
    disk.change(dead::NAME, |bytes| *bytes = original.clone().into_bytes());
    let mut spool = open(&disk);
    let notices = spool.take_notices();
    assert_eq!(
        notices,
        [
            "/spool/dead.ndjson: damaged: 2 lines are no dead letters; set aside as /spool/dead.ndjson.corrupt-1741064767, 3 dead letters saved"
        ]
    );
    assert_eq!(spool.counts().dead, 3);
    assert_eq!(listed(&disk), [letter(1), letter(2), letter(3)]);
    spool.append(&event(4), now()).unwrap();
    spool.sync().unwrap();
    spool.bury(1, &letter(4)).unwrap();
    spool.flush().unwrap();
    assert_eq!(listed(&disk).len(), 4);
}

#[test]
fn a_dead_letter_without_its_line_break_is_one_if_it_is_whole() {
    for (end, dead) in [(letter(2), 2), (letter(2)[..20].to_owned(), 1)] {
        let disk = SimulatedDisk::new(1);
        disk.change(dead::NAME, |bytes| *bytes = format!("{}\n{end}", letter(1)).into_bytes());
        let mut spool = open(&disk);
        assert_eq!((spool.counts().dead, spool.take_notices()), (dead, vec![]));
        assert_eq!(spool.retry(now()).unwrap(), dead);
    }
}

#[test]
fn a_purge_leaves_nothing_and_ids_go_on() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=100);
    spool.bury(3, &letter(3)).unwrap();
    spool.bury(4, &letter(4)).unwrap();
    spool.flush().unwrap();
    let counts = spool.purge().unwrap();
    assert_eq!((counts.waiting, counts.dead), (98, 2));
    assert_eq!(spool.counts(), Counts::default());
    assert!(listed(&disk).is_empty());
    assert_eq!(spool.hand_out().unwrap(), None);
    assert_eq!(spool.append(&event(101), now()).unwrap(), 101);
    spool.sync().unwrap();
    disk.cut_power();
    drop(spool);
    assert_eq!(ids(&mut open(&disk)), [101]);
    let mut empty = open(&SimulatedDisk::new(2));
    assert_eq!(empty.purge().unwrap(), Counts::default());
}

#[test]
fn a_listing_is_input_for_a_sink_and_needs_no_lock() {
    let disk = SimulatedDisk::new(1);
    let mut spool = open(&disk);
    fill(&mut spool, 1..=40);
    spool.settle(1);
    (3..=40).for_each(|id| assert!(spool.settle(id)));
    spool.append(&event(41), now()).unwrap();
    let lines = listed(&disk);
    let waiting = |number| {
        format!(
            r#"{{"sink":"slack","status":"waiting","accepted":"2025-03-04T05:06:07.890Z","event":{}}}"#,
            event(number)
        )
    };
    assert_eq!(lines, [waiting(2), waiting(41)]);
    assert_eq!(dead::record(&lines[0]), event(2));
    // In the middle of being written.
    let name = segments(&disk).pop().unwrap();
    disk.change(&name, |bytes| bytes.truncate(bytes.len() - 5));
    assert_eq!(listed(&disk), [waiting(2)]);
}

fn list_dir(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let all = list(dir, "slack", |line| {
        lines.push(line.to_owned());
        Ok(())
    });
    all.unwrap();
    lines
}

#[test]
fn on_a_real_disk_from_the_first_record_to_the_last() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("a/spool");
    let limits = Limits { size: 1 << 20, segment: 4000 };
    let mut spool = Spool::open(&dir, limits, now()).unwrap();
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(dir.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let failure = Spool::open(&dir, limits, now()).err().unwrap();
    assert_eq!(failure, Failure::failed(format!("{}: in use by another run", dir.display())));
    fill(&mut spool, 1..=500);
    ids(&mut spool);
    (1..=500).filter(|id| id % 100 != 0).for_each(|id| assert!(spool.settle(id)));
    spool.bury(100, &letter(100)).unwrap();
    assert_eq!(list_dir(&dir).len(), 5, "beside the run");
    // The process is killed: nothing is flushed, the lock goes with it.
    spool.burials.clear();
    drop(spool);
    let mut spool = Spool::open(&dir, limits, now()).unwrap();
    assert_eq!(ids(&mut spool), [100, 200, 300, 400, 500]);
    spool.bury(100, &letter(100)).unwrap();
    spool.flush().unwrap();
    assert_eq!(list_dir(&dir).last(), Some(&letter(100)));
    assert_eq!(spool.retry(now()).unwrap(), 1);
    assert_eq!(texts(&mut spool), [event(100)]);
    for id in [200, 300, 400, 500, 501] {
        assert!(spool.settle(id));
    }
    spool.close().unwrap();
    assert!(list_dir(&dir).is_empty());
    for file in std::fs::read_dir(&dir).unwrap() {
        let metadata = file.unwrap().metadata().unwrap();
        assert!(metadata.len() < 4096 && metadata.permissions().mode() & 0o777 == 0o600);
    }
    let mut spool = Spool::open(&dir, limits, now()).unwrap();
    assert_eq!((spool.counts().waiting, spool.append("{}", now()).unwrap()), (0, 502));
}

#[test]
fn a_directory_that_cannot_be_is_wrong_configuration() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for dir in [file.clone(), file.join("below")] {
        let failure = Spool::open(&dir, LIMITS, now()).err().unwrap();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
        assert!(failure.message.starts_with(&format!("{}: ", dir.display())), "{failure}");
    }
    let missing = scratch.path().join("missing");
    let failure = list(&missing, "slack", |_| Ok(())).unwrap_err();
    assert!(failure.message.starts_with(&format!("{}: ", missing.display())), "{failure}");
    assert!(!missing.exists());
}

#[test]
fn a_burst_of_ten_thousand_is_accepted_and_read_within_seconds() {
    let scratch = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let mut spool = Spool::open(scratch.path(), Limits::of(1 << 30), now()).unwrap();
    let text = format!(r#"{{"type":"node","padding":"{}"}}"#, "x".repeat(400));
    for _ in 0..10 {
        for _ in 0..1000 {
            spool.append(&text, now()).unwrap();
        }
        spool.sync().unwrap();
    }
    assert_eq!(spool.counts().waiting, 10_000);
    let accepted = start.elapsed();
    while let Some(record) = spool.hand_out().unwrap() {
        spool.settle(record.id);
    }
    spool.close().unwrap();
    println!("accepted in {accepted:?}, all in {:?}", start.elapsed());
    assert!(start.elapsed().as_secs() < 20);
}

#[test]
fn a_start_that_is_interrupted_while_it_saves_loses_nothing() {
    for seed in 0..40 {
        for operations in 0..40 {
            let disk = SimulatedDisk::new(seed);
            let mut spool = open(&disk);
            fill(&mut spool, 1..=10);
            spool.bury(10, &letter(10)).unwrap();
            spool.close().unwrap();
            disk.change(&segments(&disk)[0], |bytes| bytes[16 + 56] ^= 1);
            disk.change(dead::NAME, |bytes| bytes.extend_from_slice(b"garbage\n"));
            disk.stop_after(operations);
            drop(Spool::open_on(Box::new(disk.clone()), LIMITS, now()));
            if seed % 2 == 0 {
                disk.cut_power();
            } else {
                disk.kill();
            }
            let mut spool = open(&disk);
            assert_eq!(ids(&mut spool), [1, 3, 4, 5, 6, 7, 8, 9], "after {operations} operations");
            assert_eq!((spool.counts().waiting, spool.counts().dead), (8, 1));
        }
    }
}
