//! Tests of `journal/`. Bodies that can run on both disks do.
#![allow(clippy::disallowed_methods)]

mod grains;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{FrameSpace, Journal, Supply, Urgency, recover};
use crate::{
    disk::{Access, Disk, os::OsDisk, sim::SimDisk},
    error::{Error, ErrorKind, Result},
    format::frame::{FRAME_HEADER_BYTES, FrameKind, begin_frame},
    ids::{Lsn, StoreId},
    layout::Layout,
};

const STORE: StoreId = StoreId([7; 16]);

fn supply_on(disk: Arc<dyn Disk>, root: &Path, access: Access) -> Supply {
    let layout = Layout::new(root);
    disk.create_dir(&layout.journal_dir()).expect("the directory can be made");
    disk.sync_dir(root).expect("it can be synced");
    Supply {
        disk,
        layout,
        store: STORE,
        access,
        file_bytes_min: 16 << 10,
        file_bytes_max: 32 << 10,
        pool_bytes: 64 << 10,
    }
}

fn supply(disk: &SimDisk) -> Supply {
    let supply = supply_on(Arc::new(disk.process()), Path::new("s"), Access::Map);
    supply.disk.sync_dir(Path::new("")).expect("it can be synced");
    supply
}

fn append_as(journal: &mut Journal, payload: &[u8], urgency: Urgency) -> Result<Lsn> {
    while let FrameSpace::NeedsFile(bytes) = journal.make_space(payload.len(), urgency)? {
        let job = journal.begin_prepare(Some(bytes), urgency, 0).expect("nobody else prepares");
        journal.finish_prepare(job.run())?;
    }
    let mut frame = Vec::new();
    begin_frame(&mut frame);
    frame.extend_from_slice(payload);
    journal.append(&mut frame)
}

fn append(journal: &mut Journal, payload: &[u8]) -> Lsn {
    append_as(journal, payload, Urgency::Ordinary).expect("there is room")
}

fn sync(journal: &mut Journal) {
    if let Some(job) = journal.begin_sync() {
        job.run().expect("the disk is well");
        journal.finish_sync(&job);
    }
}

/// Recovers everything from the store's start.
fn recovered(supply: &Supply) -> Result<(Journal, Vec<Vec<u8>>)> {
    let (from, mut payloads) = (Lsn(4096), Vec::new());
    let recovered = recover(supply.clone(), from, from, &mut |_, payload| {
        payloads.push(payload.to_vec());
        Ok(())
    })?;
    for path in &recovered.leftovers {
        supply.disk.remove(path).expect("leftovers can be removed");
    }
    Ok((recovered.journal, payloads))
}

fn payload(n: usize) -> Vec<u8> {
    let mut payload = format!("commit {n} ").into_bytes();
    payload.resize(20 + n * 37 % 3000, n as u8);
    payload
}

fn payloads(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(payload).collect()
}

/// Makes the commits before the n-th and syncs each, and then the commits up to `count` without a sync.
fn fill(journal: &mut Journal, synced: usize, count: usize) -> Vec<Lsn> {
    (0..count)
        .map(|n| {
            let lsn = append(journal, &payload(n));
            if n < synced {
                sync(journal);
            }
            lsn
        })
        .collect()
}

/// Runs a body on both disks, through maps and through calls.
fn on_all_disks(body: impl Fn(&Supply)) {
    for access in [Access::Map, Access::Calls] {
        let disk = SimDisk::new(1);
        body(&supply_on(Arc::new(disk.process()), Path::new("s"), access));
        let dir = tempfile::tempdir().expect("a temporary directory");
        body(&supply_on(Arc::new(OsDisk::new()), dir.path(), access));
    }
}

#[test]
fn commits_come_back_in_order_across_files() {
    on_all_disks(|supply| {
        let mut journal = Journal::create(supply.clone()).expect("a new journal");
        let lsns = fill(&mut journal, 10, 60);
        assert!(lsns.is_sorted());
        assert!(journal.bytes_behind() > 32 << 10, "it has rolled");
        for (n, lsn) in lsns.iter().enumerate() {
            let at = Lsn(lsn.0 + FRAME_HEADER_BYTES as u64);
            let bytes = journal
                .bytes(at, payload(n).len())
                .and_then(super::JournalBytes::read)
                .expect("it was appended");
            assert_eq!(&*bytes, payload(n));
        }
        drop(journal);
        let (journal, found) = recovered(supply).expect("it is whole");
        assert_eq!(found, payloads(60));
        let at = Lsn(lsns[30].0 + FRAME_HEADER_BYTES as u64);
        assert_eq!(
            &*journal
                .bytes(at, payload(30).len())
                .and_then(super::JournalBytes::read)
                .expect("it stays"),
            payload(30)
        );
    });
}

#[test]
fn frames_larger_than_a_file_work() {
    on_all_disks(|supply| {
        let mut journal = Journal::create(supply.clone()).expect("a new journal");
        append(&mut journal, b"before");
        let large = vec![9; 200 << 10];
        append(&mut journal, &large);
        append(&mut journal, b"behind");
        drop(journal);
        let (_, found) = recovered(supply).expect("it is whole");
        assert_eq!(found, [b"before".to_vec(), large, b"behind".to_vec()]);
    });
}

#[test]
fn a_power_cut_leaves_a_prefix_with_all_that_was_durable() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut journal = Journal::create(supply(&disk)).expect("a new journal");
        let durable = seed as usize % 30;
        fill(&mut journal, durable, 30);
        disk.power_cut();
        let (_, found) = recovered(&supply(&disk)).expect("a torn tail is no damage");
        assert!(found.len() >= durable, "seed {seed}");
        assert_eq!(found, payloads(found.len()), "seed {seed}");
    }
}

#[test]
fn nothing_is_appended_behind_a_recovered_tail() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let mut journal = Journal::create(supply(&disk)).expect("a new journal");
        fill(&mut journal, 3, 9);
        disk.power_cut();
        let mut expected = Vec::new();
        for life in 0..4 {
            let (mut journal, found) = recovered(&supply(&disk)).expect("no damage");
            assert!(found.starts_with(&expected), "seed {seed}, life {life}");
            expected = found;
            for n in 0..3 {
                let payload = format!("life {life} commit {n}").into_bytes();
                append(&mut journal, &payload);
                sync(&mut journal);
                expected.push(payload);
            }
            append(&mut journal, b"not synced");
            disk.power_cut();
        }
    }
}

#[test]
fn crashes_during_recovery_change_nothing() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let mut journal = Journal::create(supply(&disk)).expect("a new journal");
        fill(&mut journal, 5, 12);
        disk.kill();
        let mut served = 0;
        for steps in 1.. {
            disk.stop_at_step(disk.steps() + steps);
            let attempt = std::panic::catch_unwind(|| recovered(&supply(&disk)));
            let done = matches!(attempt, Ok(Ok(_)));
            if let Ok(Ok((_, found))) = attempt {
                assert_eq!(found, payloads(found.len()));
                served = found.len();
            }
            disk.power_cut();
            if done {
                break;
            }
        }
        assert!(served >= 5);
        let (_, found) = recovered(&supply(&disk)).expect("no damage");
        assert_eq!(found, payloads(served), "what was served is never taken back");
    }
}

fn journal_files(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "journal"))
        .collect()
}

fn damage(disk: &SimDisk, path: &Path, at: u64) {
    let mut content = disk.content(path).expect("the file is there");
    content[at as usize] ^= 0x10;
    disk.plant(path, Some(content));
}

fn refused(supply: &Supply) -> Error {
    let error = recovered(supply).expect_err("it is damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    error
}

#[test]
fn damage_to_what_was_durable_is_named_and_not_cut() {
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(supply(&disk)).expect("a new journal");
    let lsns = fill(&mut journal, 30, 30);
    disk.power_cut();
    // No later frame proves that the last commit was durable.
    for lsn in &lsns[..29] {
        let disk = disk.fork(2);
        let files = journal_files(&disk);
        let path = files.iter().rev().find(|path| start_of(path) <= lsn.0).expect("it is there");
        let at = lsn.0 - start_of(path);
        damage(&disk, path, at + 30);
        let error = refused(&supply(&disk));
        assert_eq!(error.file(), Some(path.as_path()));
        assert_eq!(error.position(), Some(at));
        // Every open refuses it, not only the first.
        refused(&supply(&disk));
    }
}

fn start_of(path: &Path) -> u64 {
    let name = path.file_stem().and_then(|name| name.to_str()).expect("a name of ours");
    name.parse().expect("a number")
}

#[test]
fn a_mark_tells_damage_to_the_last_commit_from_a_torn_tail() {
    for (marked, kind) in [(false, None), (true, Some(ErrorKind::Corrupt))] {
        let disk = SimDisk::new(1);
        let mut journal = Journal::create(supply(&disk)).expect("a new journal");
        let lsns = fill(&mut journal, 3, 3);
        if marked {
            journal.mark(FrameKind::Close).expect("there is room");
        }
        disk.kill();
        damage(&disk, &journal_files(&disk)[0], lsns[2].0 + 30);
        let outcome = recovered(&supply(&disk));
        assert_eq!(outcome.as_ref().err().map(Error::kind), kind);
        if let Ok((_, found)) = outcome {
            assert_eq!(found, payloads(2));
        }
    }
}

/// Where a commit left space for a roll frame only, no mark was written, and damage to that commit was cut as a torn tail.
#[test]
fn a_mark_has_a_place_behind_every_commit() {
    for urgency in [Urgency::Ordinary, Urgency::Freeing] {
        for left in (0..=96).step_by(8) {
            let disk = SimDisk::new(1);
            let mut journal = Journal::create(supply(&disk)).expect("a new journal");
            append(&mut journal, &payload(0));
            // There is a next file: then commits fill the current one.
            if let Some(job) = journal.begin_prepare(None, Urgency::Ordinary, 0) {
                journal.finish_prepare(job.run()).expect("there is space");
            }
            let end = journal.current().end();
            let room = end.0 - journal.tail().0 - FRAME_HEADER_BYTES as u64;
            let last = append_as(&mut journal, &vec![7; (room - left) as usize], urgency);
            let last = last.expect("there is room");
            sync(&mut journal);
            assert!(journal.wants_mark());
            journal.mark(FrameKind::Close).expect("there is room");
            drop(journal);
            disk.kill();
            let count = |disk: &SimDisk| recovered(&supply(disk)).map(|it| it.1.len());
            assert_eq!(count(&disk.fork(2)).expect("it is whole"), 2, "{left} left");
            let start = if last < end { Lsn(0) } else { end };
            let path = Layout::new(Path::new("s")).journal_file(start);
            damage(&disk, &path, last.0 - start.0 + 30);
            let outcome = count(&disk);
            let kind = outcome.as_ref().err().map(Error::kind);
            assert_eq!(kind, Some(ErrorKind::Corrupt), "{left} left: {outcome:?}");
        }
    }
}

#[test]
fn files_that_are_missing_swapped_cut_or_foreign_are_found_out() {
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(supply(&disk)).expect("a new journal");
    fill(&mut journal, 60, 60);
    disk.power_cut();
    let files = journal_files(&disk);
    assert!(files.len() >= 3);
    let content = |path: &PathBuf| disk.content(path).expect("it is there");
    for path in &files[..files.len() - 1] {
        let disk = disk.fork(2);
        disk.plant(path, None);
        refused(&supply(&disk));
        let cut = content(path);
        disk.plant(path, Some(cut[..cut.len() - 4096].to_vec()));
        refused(&supply(&disk));
        disk.plant(path, Some(Vec::new()));
        refused(&supply(&disk));
    }
    let swapped = disk.fork(2);
    swapped.plant(&files[0], Some(content(&files[1])));
    swapped.plant(&files[1], Some(content(&files[0])));
    refused(&supply(&swapped));

    let foreign = disk.fork(2);
    let other = SimDisk::new(3);
    let stranger = Supply { store: StoreId([8; 16]), ..supply(&other) };
    drop(Journal::create(stranger).expect("a new journal"));
    let theirs = other.content(&journal_files(&other)[0]).expect("it is there");
    foreign.plant(&files[1], Some(theirs));
    let error = refused(&supply(&foreign));
    assert!(error.to_string().contains("another store"), "{error}");
}

#[test]
fn an_empty_newest_file_is_fine() {
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(supply(&disk)).expect("a new journal");
    fill(&mut journal, 3, 3);
    disk.kill();
    let layout = Layout::new(Path::new("s"));
    for (name, content) in [
        (layout.journal_file(Lsn(16 << 10)), Vec::new()),
        (Layout::unfinished(&layout.journal_file(Lsn(32 << 10))), vec![1; 999]),
        (layout.journal_dir().join("notes.txt"), b"mine".to_vec()),
    ] {
        disk.plant(&name, Some(content));
    }
    let (_, found) = recovered(&supply(&disk)).expect("none of it matters");
    assert_eq!(found, payloads(3));
    let unknown = disk.content(&layout.journal_dir().join("notes.txt"));
    assert_eq!(unknown.as_deref(), Some(&b"mine"[..]), "it is none of ours");
}

#[test]
fn frames_of_a_files_former_life_and_payloads_like_frames_never_verify() {
    let disk = SimDisk::new(1);
    let supply = supply(&disk);
    let mut journal = Journal::create(supply.clone()).expect("a new journal");
    // Files are filled, released and filled again, several times.
    let mut image = Vec::new();
    for round in 0..40 {
        for n in 0..8 {
            let mut payload = payload(round * 8 + n);
            // Every payload holds the frames that stood at the same place in an earlier use of the file.
            payload.extend_from_slice(&image);
            append(&mut journal, &payload[..payload.len().min(3000)]);
        }
        sync(&mut journal);
        for path in journal.release_below(journal.tail()) {
            supply.disk.remove(&path).expect("it was let go of");
        }
        image = disk.content(journal_files(&disk).last().expect("a file")).expect("it is there");
        image.truncate(2500);
    }
    assert!(journal.tail().0 > 5 * disk.bytes_used(), "files were filled again");
    let tail = journal.tail();
    let last = append(&mut journal, b"last");
    sync(&mut journal);
    disk.power_cut();
    let mut found = Vec::new();
    recover(self::supply(&disk), tail, tail, &mut |lsn, payload| {
        found.push((lsn, payload.to_vec()));
        Ok(())
    })
    .expect("stale frames are nothing");
    assert_eq!(found, [(last, b"last".to_vec())]);
}

#[test]
fn a_journal_that_ends_before_what_the_metalog_reflects_is_refused() {
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(supply(&disk)).expect("a new journal");
    fill(&mut journal, 3, 3);
    let reflects = journal.tail();
    disk.power_cut();
    let from = Lsn(4096);
    assert!(recover(supply(&disk), from, reflects, &mut |_, _| Ok(())).is_ok());
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(supply(&disk)).expect("a new journal");
    fill(&mut journal, 0, 3);
    disk.power_cut_with(&mut |_| 0);
    let error = recover(supply(&disk), from, reflects, &mut |_, _| Ok(())).expect_err("lost");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_failed_sync_makes_nothing_durable() {
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(supply(&disk)).expect("a new journal");
    fill(&mut journal, 2, 5);
    let durable = journal.durable();
    let job = journal.begin_sync().expect("there is something to sync");
    disk.fail_call(disk.calls(), 5, false);
    let error = job.run().expect_err("the disk said so");
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert_eq!(journal.durable(), durable);
    // As on Linux, the next sync would report success, and the lost data stays lost.
    job.run().expect("it lies");
    disk.power_cut();
    let (_, found) = recovered(&supply(&disk)).expect("no damage");
    assert_eq!(found, payloads(2));
}

#[test]
fn on_a_full_disk_acks_go_on_and_sends_do_when_there_is_space() {
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(supply(&disk)).expect("a new journal");
    let job = journal.begin_prepare(None, Urgency::Ordinary, 0).expect("there is none yet");
    journal.finish_prepare(job.run()).expect("there is space");
    disk.set_capacity(Some(disk.bytes_used()));
    let mut sent = 0;
    let error = loop {
        match append_as(&mut journal, &payload(sent), Urgency::Ordinary) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    assert!(sent > 5, "both files were used");
    for _ in 0..50 {
        append_as(&mut journal, &[1; 32], Urgency::Freeing).expect("the reserve is for this");
    }
    sync(&mut journal);
    assert!(append_as(&mut journal, &payload(sent), Urgency::Ordinary).is_err());
    disk.set_capacity(None);
    append(&mut journal, b"space again");
    sync(&mut journal);
    disk.power_cut();
    let (_, found) = recovered(&supply(&disk)).expect("no damage");
    assert_eq!(found.len(), sent + 51);
    assert_eq!(found[..sent], payloads(sent));
}

#[test]
fn empty_files_of_recoveries_do_not_pile_up() {
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(supply(&disk)).expect("a new journal");
    fill(&mut journal, 3, 3);
    for _ in 0..20 {
        disk.kill();
        let (_, found) = recovered(&supply(&disk)).expect("no damage");
        assert_eq!(found, payloads(3));
    }
    assert!(journal_files(&disk).len() <= 3, "{:?}", journal_files(&disk));
}

/// The name of a spare file that was given up is used again only after the file was removed.
#[test]
fn nothing_is_prepared_while_spares_are_given_up() {
    let disk = SimDisk::new(1);
    let mut journal = Journal::create(supply(&disk)).expect("made");
    let prepare = |journal: &mut Journal| {
        let job = journal.begin_prepare(None, Urgency::Ordinary, 0);
        job.map(|job| journal.finish_prepare(job.run()).expect("there is space"))
    };
    prepare(&mut journal).expect("there is no next file yet");
    for (urgency, files) in [(Urgency::Ordinary, 1), (Urgency::Freeing, 2)] {
        let given_up = journal.give_up_spares(urgency).expect("nobody prepares");
        assert_eq!(given_up.len(), files, "{given_up:?}");
        assert!(prepare(&mut journal).is_none());
        assert!(journal.give_up_spares(urgency).is_none());
        for path in given_up {
            disk.plant(&path, None);
        }
        journal.spares_are_gone();
        prepare(&mut journal).expect("there is none any more");
    }
}
