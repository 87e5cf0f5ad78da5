//! Tests of the pieces in which files are zeroed.

use super::*;
use crate::disk::sim::traffic::Call;

const FILE: u64 = 256 << 10;
const COARSE: u64 = 64 << 10;

/// A journal whose files have one size, on a disk that notes what is written.
fn journal(pool_files: u64) -> (SimDisk, Journal) {
    let disk = SimDisk::new(1);
    disk.note_traffic();
    let sizes = Supply { file_bytes_min: FILE, file_bytes_max: FILE, ..supply(&disk) };
    let supply = Supply { pool_bytes: pool_files * FILE, ..sizes };
    (disk, Journal::create(supply).expect("a new journal"))
}

/// Makes the next file, as the engine does before it is needed.
fn prepare(journal: &mut Journal) {
    if let Some(job) = journal.begin_prepare(None, Urgency::Ordinary, 0) {
        journal.finish_prepare(job.run()).expect("there is space");
    }
}

/// Appends until the journal has rolled into the next file, and has made one behind it. With `bytes_a_sync` bytes
/// between two syncs, if that is given.
fn fill_one(journal: &mut Journal, bytes_a_sync: Option<u64>) -> Lsn {
    prepare(journal);
    let (before, mut synced) = (journal.boundary_keeping(0), journal.tail());
    while journal.boundary_keeping(0) == before {
        // The append that rolls is not followed by a sync.
        if bytes_a_sync.is_some_and(|most| journal.tail().0 - synced.0 >= most) {
            sync(journal);
            synced = journal.tail();
        }
        append(journal, &[7; 2000]);
    }
    prepare(journal);
    journal.boundary_keeping(0)
}

/// The lengths of the pieces in which the newest file was zeroed, and whether all of them are aligned.
fn newest_pieces(disk: &SimDisk) -> (u64, bool) {
    let newest = journal_files(disk).pop().expect("there is one");
    let written = disk.traffic(&newest, Call::Write);
    assert_eq!(written.iter().map(|(_, len)| len).sum::<u64>(), FILE, "each byte once");
    let largest = written.iter().map(|(_, len)| *len).max().expect("it was zeroed");
    (largest, written.iter().all(|(at, len)| at / largest == (at + len - 1) / largest))
}

#[test]
fn a_file_is_zeroed_in_large_pieces_if_the_one_before_filled_without_a_sync() {
    let (disk, mut journal) = journal(0);
    assert_eq!(newest_pieces(&disk), (4096, true), "nothing is known yet");
    prepare(&mut journal);
    assert_eq!(newest_pieces(&disk), (4096, true), "nothing is known yet");
    for _ in 0..3 {
        fill_one(&mut journal, None);
        assert_eq!(newest_pieces(&disk), (COARSE, true));
    }
    for _ in 0..3 {
        fill_one(&mut journal, Some(16 << 10));
        assert_eq!(newest_pieces(&disk), (4096, true), "it was synced often");
    }
}

#[test]
fn a_used_file_is_filled_again_only_if_it_was_zeroed_as_the_next_one_is_to_be() {
    let (disk, mut journal) = journal(2);
    let release = |journal: &mut Journal| {
        for path in journal.release_below(journal.tail()) {
            disk.plant(&path, None);
        }
    };
    for _ in 0..5 {
        fill_one(&mut journal, None);
    }
    release(&mut journal);
    // Fills a file, and says whether the next one was made new.
    let makes_new = |journal: &mut Journal, bytes_a_sync| {
        disk.note_traffic();
        fill_one(journal, bytes_a_sync);
        let newest = journal_files(&disk).pop().expect("there is one");
        !disk.traffic(&newest, Call::Write).is_empty()
    };
    let (never, often) = (None, Some(8 << 10));
    assert!(!makes_new(&mut journal, never), "a coarse file is filled again");
    assert!(makes_new(&mut journal, often), "the other coarse one stays where it is");
    assert!(makes_new(&mut journal, often));
    assert!(!makes_new(&mut journal, never), "and is filled once the file before was not synced");
    // Both kinds may wait. What is in use drives out the others.
    for _ in 0..4 {
        fill_one(&mut journal, never);
        release(&mut journal);
    }
    assert!(makes_new(&mut journal, often));
    for _ in 0..3 {
        fill_one(&mut journal, often);
        release(&mut journal);
    }
    for _ in 0..4 {
        assert!(!makes_new(&mut journal, often), "fine files are filled again");
        release(&mut journal);
    }
}

#[test]
fn a_coarse_file_is_left_when_commits_become_small_and_synced() {
    let (disk, mut journal) = journal(12);
    for _ in 0..3 {
        fill_one(&mut journal, None);
    }
    sync(&mut journal);
    let mut commits = 0;
    let mut begins = vec![journal.boundary_keeping(0)];
    while commits < 1000 {
        append(&mut journal, b"a small commit");
        sync(&mut journal);
        prepare(&mut journal);
        commits += 1;
        if journal.boundary_keeping(0) != begins[begins.len() - 1] {
            begins.push(journal.boundary_keeping(0));
        }
    }
    // The current file was coarse, and so was the next one. The one behind them is fine, and is not left.
    assert_eq!(begins.len(), 3, "{begins:?}");
    assert!(journal.tail().0 - begins[2].0 > 900 * 40, "{begins:?}");
    assert_eq!(newest_pieces(&disk), (4096, true));
    drop(journal);
    disk.power_cut();
    let (_, found) = recovered(&supply(&disk)).expect("files that were left early are no damage");
    let small = found.iter().filter(|payload| *payload == b"a small commit").count();
    assert_eq!(small, 1000);
}

#[test]
fn a_coarse_file_is_not_left_early_on_a_full_disk() {
    for urgency in [Urgency::Ordinary, Urgency::Freeing] {
        let (_, mut journal) = journal(12);
        // The last append has rolled, and no next file was made yet.
        fill_one(&mut journal, None);
        fill_one(&mut journal, None);
        fill_one(&mut journal, None);
        journal.next = None;
        let job = journal.begin_prepare(None, urgency, 0).expect("there is none");
        journal.finish_prepare(job.run()).expect("there is space");
        let begin = journal.boundary_keeping(0);
        for _ in 0..300 {
            append_as(&mut journal, b"a small commit", urgency).expect("there is space");
            sync(&mut journal);
        }
        // A file that was made for commits that free space is for them when nothing else is left.
        assert_eq!(journal.boundary_keeping(0) == begin, urgency == Urgency::Freeing);
    }
}

/// What is skipped counts like what is written. In a journal that is long already, whoever writes next would pay for it.
#[test]
fn a_coarse_file_of_a_long_journal_is_filled_to_its_end() {
    let (_, mut journal) = journal(4);
    for _ in 0..4 {
        fill_one(&mut journal, None);
    }
    let begins = journal.boundary_keeping(0);
    for _ in 0..100 {
        append(&mut journal, b"a small commit");
        sync(&mut journal);
        prepare(&mut journal);
    }
    assert_eq!(journal.boundary_keeping(0), begins);
}

#[test]
fn on_a_full_disk_a_used_file_of_the_other_kind_is_filled_again() {
    let (disk, mut journal) = journal(2);
    for _ in 0..4 {
        fill_one(&mut journal, None);
    }
    for path in journal.release_below(journal.tail()) {
        disk.plant(&path, None);
    }
    disk.set_capacity(Some(disk.bytes_used()));
    for _ in 0..2 {
        // With syncs, the next file should be a fine one. There is no space for it.
        fill_one(&mut journal, Some(8 << 10));
    }
    let kept = journal.kept_paths();
    assert!(journal_files(&disk).iter().all(|path| kept.contains(path)));
}
