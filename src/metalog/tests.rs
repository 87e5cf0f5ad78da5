//! Tests of `metalog/`. Bodies that can run on both disks do.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Loaded, MetaPlace, MetaWriter, load};
use crate::{
    disk::{Disk, os::OsDisk, sim::SimDisk},
    error::{ErrorKind, Result},
    format::{
        Malformed,
        entity::{Entity, EntityKind},
        frame::{FRAME_HEADER_BYTES, FrameHeader},
        meta::{
            ChunkState, CursorState, LogState, META_HEADER_BYTES, MetaEntry, MetaHeader, Place,
            SegmentState,
        },
    },
    ids::{CursorId, EntityId, LogId, Lsn, Offset, StoreId, Timestamp},
    layout::Layout,
};

const STORE: StoreId = StoreId([7; 16]);

fn place_on(disk: Arc<dyn Disk>, root: &Path) -> MetaPlace {
    let layout = Layout::new(root);
    disk.create_dir(&layout.meta_dir()).expect("the directory can be made");
    disk.sync_dir(root).expect("it can be synced");
    MetaPlace { disk, layout }
}

/// A new process on a disk. An earlier process may have been cut off.
fn place(disk: &SimDisk) -> MetaPlace {
    let place = place_on(Arc::new(disk.process()), Path::new("s"));
    place.disk.sync_dir(Path::new("")).expect("it can be synced");
    place
}

fn path_of(number: u64) -> PathBuf {
    Layout::new(Path::new("s")).meta_file(number)
}

fn entries_of(place: &MetaPlace) -> Result<Option<(Loaded, Vec<MetaEntry>)>> {
    let mut entries = Vec::new();
    let loaded = load(place, &mut |entry| {
        entries.push(entry);
        Ok(())
    })?;
    Ok(loaded.map(|loaded| (loaded, entries)))
}

/// The floors of cursors: most tests store nothing else.
type Floors = BTreeMap<u64, u64>;

fn commit(writer: &mut MetaWriter, nth: u64, floors: &Floors) -> Result<()> {
    for (cursor, floor) in floors {
        let (cursor, floor) = (CursorId(*cursor), Offset(*floor));
        writer.put(&MetaEntry::Cursor(CursorState { cursor, floor, seen: None }))?;
        // So that each entry has a frame of its own.
        writer.end_frame();
    }
    writer.commit(Lsn(nth), Lsn(2 * nth), EntityId(nth))
}

/// An entry of a given size whose content does not matter.
fn ballast(bytes: usize) -> MetaEntry {
    let (cursor, attempts) = (CursorId(1), vec![vec![], vec![1; 9]]);
    MetaEntry::Chunk(ChunkState {
        cursor,
        chunk: 3,
        acked: vec![5; bytes],
        attempts,
        priorities: Vec::new(),
        due: Vec::new(),
        spilled: Vec::new(),
    })
}

/// The changes of the n-th checkpoint: one cursor that all checkpoints change, and one that some change.
fn change(nth: u64) -> Floors {
    Floors::from([(100, nth), (nth % 3, 10 * nth)])
}

fn state_at(nth: u64) -> Floors {
    (1..=nth).flat_map(change).collect()
}

/// The checkpoints from 1 to `count`, in a file of this number.
fn filled(place: &MetaPlace, number: u64, count: u64) -> MetaWriter {
    let mut writer = MetaWriter::create(place, STORE, number).expect("a new metalog");
    (1..=count).for_each(|nth| commit(&mut writer, nth, &change(nth)).expect("the disk is well"));
    writer
}

/// A disk whose newest metalog is file 1, with the checkpoints from 1 to `count`; its content.
fn with_file_1(count: u64) -> (SimDisk, Vec<u8>) {
    let disk = SimDisk::new(1);
    filled(&place(&disk), 1, count);
    let content = disk.content(&path_of(1)).expect("it was just written");
    (disk, content)
}

/// The places of a file's frames: from the begin of each to the end of its payload. Every checkpoint has three.
fn frames(content: &[u8]) -> Vec<Range<usize>> {
    let mut at = META_HEADER_BYTES as usize;
    let next = || {
        let frame = FrameHeader::peek(&content[at..], Lsn(at as u64)).ok()?;
        let found = at..at + FRAME_HEADER_BYTES + frame.payload_len as usize;
        at += frame.frame_len() as usize;
        Some(found)
    };
    std::iter::from_fn(next).collect()
}

/// The number of the last checkpoint, after a check of its state.
fn loaded_nth(place: &MetaPlace) -> Result<u64> {
    let (loaded, entries) = entries_of(place)?.expect("there is a metalog");
    let floors = entries.into_iter().filter_map(|entry| match entry {
        MetaEntry::Cursor(state) => Some((state.cursor.0, state.floor.0)),
        _ => None,
    });
    let EntityId(nth) = loaded.checkpoint.next_id;
    assert_eq!(floors.collect::<Floors>(), state_at(nth));
    assert_eq!(loaded.checkpoint.replay_from, Lsn(nth));
    assert_eq!(loaded.checkpoint.reflects, Lsn(2 * nth));
    Ok(nth)
}

/// Loads a disk on which a file has this content. Returns the position of corruption, after a check that the error names
/// the file.
fn outcome(disk: &SimDisk, number: u64, content: Vec<u8>) -> Result<u64, Option<u64>> {
    let disk = disk.fork(2);
    disk.plant(&path_of(number), Some(content));
    loaded_nth(&place(&disk)).map_err(|error| {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(error.file(), Some(&*path_of(number)));
        error.position()
    })
}

#[test]
fn entries_of_every_kind_come_back_in_order_on_both_disks() {
    let base = Offset(40);
    let entries = [
        MetaEntry::Entity(Entity {
            id: EntityId(1),
            name: "q".into(),
            kind: EntityKind::Topic { retention: None },
        }),
        MetaEntry::EntityGone(EntityId(2)),
        MetaEntry::Log(LogState { log: LogId(1), start: base, moved: base, next: Offset(50) }),
        MetaEntry::Cursor(CursorState { cursor: CursorId(1), floor: Offset(u64::MAX), seen: None }),
        // The entries are large, so that some are written before their checkpoint.
        ballast(150 << 10),
        MetaEntry::Segment(SegmentState {
            log: LogId(1),
            base,
            generation: 2,
            end: Offset(60),
            bytes: 4096,
            records: 20,
            max_time: Timestamp(9),
            sealed: true,
            lives: None,
            place: Place::Former,
        }),
        MetaEntry::SegmentGone { log: LogId(1), base },
    ];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let on_sim = place_on(Arc::new(SimDisk::new(1).process()), Path::new("s"));
    for place in [on_sim, place_on(Arc::new(OsDisk::new()), dir.path())] {
        assert!(entries_of(&place).expect("an empty directory is fine").is_none());
        let mut writer = MetaWriter::create(&place, STORE, 5).expect("a new metalog");
        for nth in 1..=3 {
            entries.iter().for_each(|entry| writer.put(entry).expect("there is space"));
            writer.commit(Lsn(0), Lsn(nth), EntityId(nth)).expect("there is space");
        }
        let (loaded, found) = entries_of(&place).expect("it is whole").expect("it is there");
        assert_eq!(found, [&entries[..], &entries, &entries].concat());
        assert_eq!((loaded.store, loaded.number), (STORE, 5));
        assert_eq!((loaded.checkpoint.next_id, loaded.checkpoint.entries), (EntityId(3), 7));
    }
}

#[test]
fn the_newest_value_wins_and_a_new_file_takes_over_when_one_has_grown() {
    let disk = SimDisk::new(1);
    let here = place(&disk);
    let mut writer = filled(&here, 1, 1);
    for nth in 2..=30 {
        let number = writer.number() + u64::from(writer.wants_compaction(256 << 10));
        if number > writer.number() {
            writer = MetaWriter::create(&here, STORE, number).expect("a new metalog");
            commit(&mut writer, nth, &state_at(nth)).expect("the disk is well");
            let (loaded, found) = entries_of(&here).expect("it is whole").expect("it is there");
            assert_eq!((loaded.number, found.len()), (number, 4), "one entry a key");
            assert_eq!(loaded.leftovers, [path_of(number - 1)]);
            here.disk.remove(&path_of(number - 1)).expect("it is a leftover");
        } else {
            writer.put(&ballast(80 << 10)).expect("there is space");
            commit(&mut writer, nth, &change(nth)).expect("the disk is well");
        }
        assert!(disk.bytes_used() < 450 << 10, "what is out of date is given up");
        if nth % 3 == 0 {
            let disk = disk.fork(2);
            disk.power_cut_with(&mut |_| 0);
            assert_eq!(loaded_nth(&place(&disk)).expect("it was durable"), nth);
        }
    }
    assert!(writer.number() > 5, "{}", writer.number());
}

#[test]
fn leftovers_are_told_and_are_in_nobodys_way() {
    let disk = SimDisk::new(1);
    filled(&place(&disk), 3, 4);
    let good = disk.content(&path_of(3)).expect("it is there");
    let unfinished = [3, 4].map(|number| Layout::unfinished(&path_of(number)));
    let leftovers = [&path_of(1), &path_of(2), &unfinished[0], &unfinished[1]];
    for (path, content) in leftovers.into_iter().zip([b"rubbish", &[][..], &good, b"rubbish"]) {
        disk.plant(path, Some(content.to_vec()));
    }
    for stranger in ["notes.txt", "9.meta.bak", "x9.meta", "9.seg"] {
        disk.plant(&path_of(3).with_file_name(stranger), Some(b"mine".to_vec()));
    }
    let (loaded, _) = entries_of(&place(&disk)).expect("none of it matters").expect("it is there");
    assert_eq!(loaded.number, 3);
    assert_eq!(loaded.leftovers.iter().collect::<BTreeSet<_>>(), leftovers.into());
    assert_eq!(loaded_nth(&place(&disk)).expect("none of it matters"), 4);
    // A file that is begun under the name of an unfinished file begins empty.
    filled(&place(&disk), 4, 1);
    assert_eq!(loaded_nth(&place(&disk)).expect("it is whole"), 1);
}

#[test]
fn entries_without_a_checkpoint_behind_them_do_not_count() {
    let disk = SimDisk::new(1);
    let mut writer = filled(&place(&disk), 1, 0);
    writer.put(&ballast(300 << 10)).expect("there is space");
    let found = entries_of(&place(&disk)).expect("nothing is wrong");
    assert!(found.is_none(), "a file has no real name before its first checkpoint");
    let mut writer = filled(&place(&disk), 1, 2);
    let entry =
        MetaEntry::Cursor(CursorState { cursor: CursorId(100), floor: Offset(999), seen: None });
    writer.put(&entry).expect("there is space");
    writer.end_frame();
    // There is so much that all of it is written at once.
    writer.put(&ballast(300 << 10)).expect("there is space");
    disk.kill();
    let content = disk.content(&path_of(1)).expect("it is there");
    assert_eq!(frames(&content).len(), 3 + 3 + 2);
    assert_eq!(loaded_nth(&place(&disk)).expect("no damage"), 2);
}

#[test]
fn entries_share_frames_and_a_frame_stays_short() {
    let disk = SimDisk::new(1);
    let mut writer = MetaWriter::create(&place(&disk), STORE, 1).expect("a new metalog");
    let entry =
        |n| MetaEntry::Cursor(CursorState { cursor: CursorId(n), floor: Offset(n), seen: None });
    let all: Vec<MetaEntry> = (0..10_000).map(entry).collect();
    writer.put_all(&all).expect("there is space");
    writer.commit(Lsn(1), Lsn(2), EntityId(1)).expect("the disk is well");
    let (_, found) = entries_of(&place(&disk)).expect("no damage").expect("there is a metalog");
    assert_eq!(found, all);
    let content = disk.content(&path_of(1)).expect("it is there");
    let lens: Vec<usize> = frames(&content).iter().map(ExactSizeIterator::len).collect();
    assert!(lens.len() < 20 && lens.iter().all(|len| *len < 4200), "{lens:?}");
    assert!(content.len() < 8 * all.len(), "{} bytes", content.len());
    let survey =
        super::survey::read(&place(&disk), 1, path_of(1)).expect("it can be read").survey(STORE);
    assert_eq!((survey.committed, survey.damage), (all.len() + 1, vec![]));
}

#[test]
fn a_torn_tail_leaves_the_checkpoint_before() {
    let (disk, content) = with_file_1(3);
    let frames = frames(&content);
    let whole = &content[..frames[8].end];
    for kept in frames[6].start..=content.len() {
        let behind = content.len() - kept;
        for tail in [vec![], vec![0; behind], vec![0; behind + 5000], vec![0xA5; behind + 99]] {
            let torn = [&content[..kept], &tail].concat();
            let expected = if torn.starts_with(whole) { 3 } else { 2 };
            assert_eq!(outcome(&disk, 1, torn), Ok(expected), "{kept} bytes, then {}", tail.len());
        }
    }
    // The frames of another file are not accepted.
    let other = SimDisk::new(1);
    filled(&place(&other), 2, 3);
    let theirs = other.content(&path_of(2)).expect("it is there");
    let spliced = [&content[..frames[6].start], &theirs[frames[6].start..]].concat();
    assert_eq!(outcome(&disk, 1, spliced), Ok(2));
}

/// The explorer found a cut within the padding of the only checkpoint: seed 7, case 52.
#[test]
fn an_only_checkpoint_is_there_or_it_is_damage() {
    let (disk, content) = with_file_1(1);
    let whole = frames(&content).last().expect("there is a frame").end;
    for kept in 0..=content.len() {
        let expected = kept >= whole;
        assert_eq!(outcome(&disk, 1, content[..kept].to_vec()).is_ok(), expected, "{kept} bytes");
    }
}

#[test]
fn every_flipped_bit_of_what_was_known_to_be_durable_is_named() {
    let (disk, content) = with_file_1(3);
    let frames = frames(&content);
    for bit in 0..content.len() * 8 {
        let mut flipped = content.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let expected = match frames.iter().position(|frame| frame.contains(&(bit / 8))) {
            None if bit / 8 < META_HEADER_BYTES as usize => Err(Some(0)),
            // Damage in padding does not matter.
            None => Ok(3),
            Some(nth @ ..6) => Err(Some(frames[nth].start as u64)),
            // Nothing proves that the last checkpoint was durable.
            Some(_) => Ok(2),
        };
        assert_eq!(outcome(&disk, 1, flipped), expected, "bit {bit}");
    }
    let mut zeroed = content.clone();
    zeroed[frames[1].start..frames[5].end].fill(0);
    assert_eq!(outcome(&disk, 1, zeroed), Err(Some(frames[1].start as u64)));
}

#[test]
fn a_newest_file_that_is_not_what_it_says_is_refused_and_no_older_one_is_taken() {
    let (disk, content) = with_file_1(3);
    filled(&place(&disk), 2, 3);
    let ours = disk.content(&path_of(2)).expect("it is there");
    let body = META_HEADER_BYTES as usize;
    let headed = |store, number| [&MetaHeader { store, number }.encode(), &ours[body..]].concat();
    let mut other_magic = ours.clone();
    other_magic[0] ^= 1;
    for (planted, position) in [
        (content, 0),
        (headed(StoreId([8; 16]), 2), body),
        (headed(STORE, 3), 0),
        (other_magic, 0),
        (Vec::new(), 0),
        (ours[..body - 1].to_vec(), 0),
        (ours[..body].to_vec(), body),
        (ours[..frames(&ours)[2].start].to_vec(), body),
    ] {
        assert_eq!(outcome(&disk, 2, planted), Err(Some(position as u64)));
    }
    let mut newer = ours;
    newer[8] += 1;
    let sum = crc32fast::hash(&[&newer[..12], &newer[16..body]].concat());
    newer[12..16].copy_from_slice(&sum.to_le_bytes());
    disk.plant(&path_of(2), Some(newer.clone()));
    let error = entries_of(&place(&disk)).expect_err("it is of another version");
    assert_eq!((error.kind(), error.file()), (ErrorKind::UnsupportedVersion, Some(&*path_of(2))));
    assert_eq!(disk.content(&path_of(2)), Some(newer), "it is as it was");
}

#[test]
fn an_entry_that_contradicts_the_state_is_damage_where_it_stands() {
    let (disk, content) = with_file_1(2);
    let mut left = 3;
    let refuse_fourth = &mut |_| {
        left = u32::checked_sub(left, 1).ok_or(Malformed("no such cursor"))?;
        Ok(())
    };
    let error = load(&place(&disk), refuse_fourth).expect_err("it was refused");
    // One of the frames before it is a checkpoint, which is not passed on.
    assert_eq!(error.position(), Some(frames(&content)[4].start as u64));
    assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(&*path_of(1))));
}

/// How the fourth checkpoint is made: in a new file, or in the file of the three others.
const WAYS: [fn(&MetaPlace, MetaWriter) -> Result<()>; 2] = [
    |place, _| commit(&mut MetaWriter::create(place, STORE, 2)?, 4, &state_at(4)),
    |_, mut writer| commit(&mut writer, 4, &change(4)),
];

/// redb 4.2.0 and Kafka 8812: a checkpoint that was loaded once is never lost later.
#[test]
fn a_crash_at_any_step_leaves_the_old_state_or_the_new_one_for_good() {
    for (way, steps) in WAYS.iter().zip([5, 2]) {
        let mut outcomes = BTreeSet::new();
        for step in 1..=steps + 1 {
            for seed in 0..60 {
                let disk = SimDisk::new(seed);
                disk.set_pessimal(seed % 2 == 0);
                let (here, writer) = (place(&disk), filled(&place(&disk), 1, 3));
                disk.stop_at_step(disk.steps() + step);
                let done = way(&here, writer).is_ok();
                assert_eq!(done, step > steps, "every step was stopped at");
                match seed % 3 {
                    0 => disk.kill(),
                    _ => disk.power_cut(),
                }
                let found = loaded_nth(&place(&disk)).expect("a crash does no damage");
                assert!(found == 4 || (found == 3 && !done), "step {step}, seed {seed}: {found}");
                outcomes.insert((done, found));
                disk.power_cut_with(&mut |_| 0);
                let again = loaded_nth(&place(&disk)).expect("a crash does no damage");
                assert_eq!(again, found, "step {step}, seed {seed}");
            }
        }
        assert_eq!(outcomes, [(false, 3), (false, 4), (true, 4)].into());
    }
}

#[test]
fn every_call_may_fail_and_a_failed_sync_makes_nothing_durable() {
    use ErrorKind::{DiskFull, Io, Poisoned};
    for (way, kinds) in WAYS.iter().zip([
        // A new file is opened, written and synced, its directory is opened, the file is renamed, and the directory
        // is synced.
        &[Io, Io, Poisoned, Io, Io, Poisoned][..],
        &[Io, Poisoned],
    ]) {
        for (call, expected) in kinds.iter().enumerate() {
            for (number, plain) in [(5, Io), (28, DiskFull)] {
                let disk = SimDisk::new(1);
                let (here, writer) = (place(&disk), filled(&place(&disk), 1, 3));
                disk.fail_call(disk.calls() + call as u64, number, false);
                let error = way(&here, writer).expect_err("a call has failed");
                let kind = if *expected == Io { plain } else { *expected };
                assert_eq!(error.kind(), kind, "call {call}: {error}");
                assert!(error.file().is_some_and(|path| path.starts_with("s/meta")), "{error}");
                disk.heal();
                let reopened = disk.fork(2);
                disk.power_cut_with(&mut |_| 0);
                assert_eq!(loaded_nth(&place(&disk)).expect("no damage"), 3);
                // The next open may see bytes that are not durable. Then it makes them durable.
                let seen = loaded_nth(&place(&reopened)).expect("no damage");
                reopened.power_cut_with(&mut |_| 0);
                assert_eq!(loaded_nth(&place(&reopened)).expect("no damage"), seen, "call {call}");
            }
        }
    }
    let (disk, _) = with_file_1(3);
    let kind_at = |call| {
        let disk = disk.fork(2);
        let here = place(&disk);
        disk.fail_call(disk.calls() + call, 5, false);
        entries_of(&here).err().map(|error| error.kind())
    };
    let kinds: Vec<_> = (0..).map_while(kind_at).collect();
    // Loading also ends with a sync of the file and of its directory, which is opened in between.
    let (before, syncs) = kinds.split_at(kinds.len() - 3);
    assert!(before.len() >= 4 && before.iter().all(|kind| *kind == Io), "{before:?}");
    assert_eq!(syncs, [Poisoned, Io, Poisoned]);
}
