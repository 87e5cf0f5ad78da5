//! Damage: `verify` finds it and changes nothing. `salvage` copies all good data, and says exactly which are
//! lost.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use posthouse::{Backoff, ErrorKind, Message, sim::SimDisk};

use super::check::{Tally, check_damaged, files};
use super::sample::{Builder, Sample, dumped, filtered_sample, open, options, sample};
use crate::support::{EIO, one_in};

/// Takes a file, its content, and a function that tries a damage to it.
type EachFile<'a> = dyn FnMut(&Path, &[u8], &mut dyn FnMut(&str, Option<Vec<u8>>)) + 'a;

fn damage_each(sample: &Sample, each: &mut EachFile<'_>) -> Tally {
    let mut tally = Tally::default();
    for (path, content) in files(&sample.disk) {
        if path.ends_with("LOCK") {
            continue;
        }
        each(&path, &content, &mut |what, damaged| {
            let disk = sample.disk.fork(1);
            disk.plant(&path, damaged);
            check_damaged(sample, &disk, &path, what, &mut tally);
        });
    }
    println!("{} elsewhere, such as {:?}", tally.elsewhere.len(), tally.elsewhere.first());
    tally.elsewhere.iter().for_each(|it| println!("{it}"));
    println!("{:?}", Tally { elsewhere: Vec::new(), ..tally });
    tally
}

#[test]
fn an_intact_store_is_salvaged_whole() {
    for close in [true, false] {
        let sample = sample(close);
        let report = options().sim(&sample.disk).verify("store").unwrap();
        assert!(report.is_ok(), "{report}");
        assert!(report.read.segments > 3 && report.read.records > 100, "{report}");
        let report = options().sim(&sample.disk).salvage("store", "to").unwrap();
        assert!(report.is_complete() && report.problems.is_empty(), "{report}");
        assert_eq!(&dumped(&sample.disk, "to").unwrap(), sample.states.last().unwrap());
        assert!(options().sim(&sample.disk).verify("to").unwrap().is_ok());
    }
}

#[test]
fn a_flipped_bit_is_named_and_all_else_is_salvaged() {
    let sample = sample(true);
    let step = 7 * one_in(1201);
    let tally = damage_each(&sample, &mut |_, content, damaged| {
        for at in (0..content.len()).step_by(step) {
            let mut flipped = content.to_vec();
            flipped[at] ^= 1 << (at % 8);
            damaged(&format!("bit flipped at {at}"), Some(flipped));
        }
    });
    assert!(tally.named > 10, "{tally:?}");
}

#[test]
fn a_file_that_is_cut_zeroed_missing_or_swapped_costs_only_itself() {
    let sample = sample(true);
    let all = files(&sample.disk);
    let mut harm = 0;
    let tally = damage_each(&sample, &mut |path, content, check_damaged| {
        let mut damaged = |what: &str, content| {
            harm += 1;
            if harm % one_in(2) == 0 {
                check_damaged(what, content);
            }
        };
        damaged("missing", None);
        damaged("empty", Some(Vec::new()));
        for part in [4, 1, 7].into_iter().step_by(one_in(3)) {
            let at = content.len() * part / 8 + part;
            damaged(&format!("cut at {at}"), Some(content[..at.min(content.len())].to_vec()));
            let mut zeroed = content.to_vec();
            let end = (at + 512).min(zeroed.len());
            zeroed[at.min(end)..end].fill(0);
            damaged(&format!("zeros from {at} to {end}"), Some(zeroed.clone()));
            zeroed[..at.min(content.len())].fill(0);
            damaged(&format!("zeros up to {end}"), Some(zeroed));
        }
        let mut longer = content.to_vec();
        longer.extend_from_slice(&content[..content.len().min(5000)]);
        damaged("longer", Some(longer));
        let same_kind = |other: &&PathBuf| other.extension() == path.extension() && *other != path;
        for other in all.keys().filter(same_kind).take(2) {
            damaged(&format!("replaced by {}", other.display()), Some(all[other].clone()));
        }
    });
    assert!(tally.named > 50 / one_in(12), "{tally:?}");
}

/// Where two metalogs were swapped, nobody knows which filter held for each message: one subscription is uncertain.
#[test]
fn two_files_that_were_swapped_are_found_again() {
    for (sample, uncertain) in [(sample(true), 0), (filtered_sample(true), 1)] {
        let all = files(&sample.disk);
        let mut tally = Tally::default();
        for (n, (path, content)) in all.iter().enumerate() {
            let next = all.iter().skip(n + 1).find(|(other, _)| {
                other.extension() == path.extension() && other.extension().is_some()
            });
            let Some((other, other_content)) = next else { continue };
            let disk = sample.disk.fork(1);
            disk.plant(path, Some(other_content.clone()));
            disk.plant(other, Some(content.clone()));
            let what = format!("swapped with {}", other.display());
            check_damaged(&sample, &disk, path, &what, &mut tally);
            let report = options().sim(&disk).salvage("store", "again").unwrap();
            assert!(report.lost.is_empty(), "{}: {what}: {report}", path.display());
        }
        assert!(tally.named > 3 && tally.lossy == uncertain, "{tally:?}");
    }
}

#[test]
fn faults_of_the_disk_are_typed_errors() {
    let sample = sample(true);
    let calls = |act: &dyn Fn(&SimDisk)| {
        let disk = sample.disk.fork(1);
        let before = disk.calls();
        act(&disk);
        disk.calls() - before
    };
    let salvage = |disk: &SimDisk| options().sim(disk).salvage("store", "to").map(drop);
    let verify = |disk: &SimDisk| options().sim(disk).verify("store").map(drop);
    for (act, step) in [(&salvage as &dyn Fn(&SimDisk) -> posthouse::Result<()>, 7), (&verify, 5)] {
        for call in (0..calls(&|disk| act(disk).unwrap())).step_by(step) {
            for error in [5, 28] {
                let disk = sample.disk.fork(1);
                let before = files(&disk);
                disk.fail_call(disk.calls() + call, error, false);
                if let Err(error) = act(&disk) {
                    let kind = error.kind();
                    let typed = [ErrorKind::Io, ErrorKind::DiskFull, ErrorKind::Poisoned];
                    assert!(typed.contains(&kind), "call {call}: {error:?}");
                }
                disk.heal();
                let mut after = files(&disk);
                after.retain(|path, _| path.starts_with("store"));
                assert_eq!(after, before, "call {call}");
            }
        }
    }
}

/// A fault that may pass is no damage, also where only the presence of a file is looked at: that of a queue that was deleted
/// since the last checkpoint.
#[test]
fn verify_takes_no_passing_fault_for_damage() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    engine.queue("q").create().unwrap().send("a").unwrap();
    engine.checkpoint().unwrap();
    disk.record(1);
    // This ends with a checkpoint, which removes the segment.
    engine.queue("q").delete().unwrap();
    let verify = |disk: &SimDisk| options().sim(disk).verify("store");
    let (moments, mut failures) = (disk.take_moments(), 0);
    assert!(!moments.is_empty());
    for moment in moments {
        let before = moment.calls();
        assert!(verify(&moment).unwrap().is_ok());
        for call in 0..moment.calls() - before {
            let disk = moment.fork(1);
            disk.fail_call(disk.calls() + call, EIO, false);
            match verify(&disk) {
                Ok(report) => assert!(report.is_ok(), "call {call}: {report}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io, "call {call}");
                    failures += 1;
                }
            }
        }
    }
    assert!(failures > 100, "only {failures}");
}

#[test]
fn paths_that_cannot_be_salvaged_are_refused() {
    let disk = SimDisk::new(1);
    let verify = |path: &str| options().sim(&disk).verify(path).expect_err("refused").kind();
    let salvage = |from: &str, to: &str| {
        let salvaged = options().sim(&disk).salvage(from, to);
        salvaged.expect_err("refused").kind()
    };
    assert_eq!(verify("store"), ErrorKind::NotFound);
    assert_eq!(salvage("store", "to"), ErrorKind::NotFound);
    assert!(disk.files().is_empty());
    let engine = open(&disk, "store").unwrap();
    engine.queue("q").create().unwrap().send("a").unwrap();
    assert!(matches!(verify("store"), ErrorKind::Locked { .. }));
    assert!(matches!(salvage("store", "to"), ErrorKind::Locked { .. }));
    assert!(engine.verify().unwrap().is_ok());
    engine.close().unwrap();
    assert_eq!(engine.verify().expect_err("closed").kind(), ErrorKind::Closed);
    let invalid = ErrorKind::InvalidInput { field: "to" };
    assert_eq!(salvage("store", "store"), invalid);
    assert_eq!(salvage("store", "store/inside"), invalid);
    disk.plant(Path::new("other"), Some(b"a file".to_vec()));
    drop(open(&disk, "taken").unwrap());
    assert_eq!(salvage("store", "taken"), invalid);
    options().sim(&disk).salvage("store", "to").unwrap();
    assert_eq!(salvage("store", "to"), invalid);
    assert_eq!(open(&disk, "to").unwrap().queue("q").open().unwrap().depth().unwrap(), 1);
}

#[test]
fn files_that_nothing_refers_to_are_listed() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    for _ in 0..200 {
        queue.send("x".repeat(100)).unwrap();
    }
    engine.checkpoint().unwrap();
    let report = engine.verify().unwrap();
    assert!(report.is_ok() && report.unreferenced.is_empty(), "{report}");
    let segment = disk.files().into_iter().find(|it| it.starts_with("store/segments")).unwrap();
    let content = disk.content(&segment).unwrap();
    let planted = [
        "store/journal/00000000000099999744.journal.new",
        "store/meta/00000000000000000000.meta",
        "store/segments/00000000000000000/00000000000000000900.seg",
        "store/segments/00000000000000000/00000000000000000901.seg.new",
    ];
    for path in planted {
        disk.plant(Path::new(path), Some(content.clone()));
    }
    // The directory is not a store.
    for name in ["notes.txt", "7.seg"] {
        let stray = Path::new("store/segments/00000000000000000").join(name);
        disk.plant(&stray, Some(content.clone()));
    }
    let planted = planted.map(PathBuf::from).to_vec();
    let report = engine.verify().unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.unreferenced, planted);
    engine.close().unwrap();
    let report = options().sim(&disk).verify("store").unwrap();
    assert!(report.is_ok(), "{report}");
    assert!(planted.iter().all(|path| report.unreferenced.contains(path)), "{report}");
}

/// A stream with a hole is still used: read, trimmed, checkpointed, and salvaged again.
#[test]
fn a_stream_that_was_salvaged_around_a_hole_goes_on() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    let stream = engine.stream("s").create().unwrap();
    for n in 0..100 {
        stream.append(Message::new(format!("record {n} {}", "x".repeat(100)))).unwrap();
    }
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let segments = disk.files().into_iter().filter(|it| it.extension().is_some_and(|e| e == "seg"));
    let segments: Vec<_> = segments.collect();
    assert!(segments.len() > 2);
    let mut content = disk.content(&segments[1]).unwrap();
    content[1500] ^= 1;
    disk.plant(&segments[1], Some(content));
    let report = options().sim(&disk).salvage("store", "to").unwrap();
    let [lost] = &report.lost[..] else { panic!("{report}") };
    let (hole, is_certain) = (lost.offsets[0].clone(), lost.is_certain);
    assert!(is_certain && lost.offsets.len() == 1, "{report}");

    let report = options().sim(&disk).salvage("to", "again").unwrap();
    assert!(report.is_complete(), "what was lost once is not reported twice: {report}");
    for path in ["to", "again"] {
        let engine = open(&disk, path).unwrap();
        let stream = engine.stream("s").open().unwrap();
        let partition = stream.partition(0).unwrap();
        let read = || -> Vec<u64> {
            let reader = partition.reader(posthouse::Start::Earliest).unwrap();
            reader.map(|record| record.unwrap().offset().0).collect()
        };
        let kept = |n: &u64| !(hole.start.0..hole.end.0).contains(n);
        assert!(read().into_iter().eq((0..100).filter(kept)));
        for start in [1, hole.start.0, hole.start.0 + 1, hole.end.0 + 1, 100] {
            partition.trim_before(posthouse::Offset(start)).unwrap();
            engine.checkpoint().unwrap();
            assert!(engine.verify().unwrap().is_ok());
            assert!(read().into_iter().eq((start..100).filter(kept)), "trimmed before {start}");
        }
        stream.append(Message::new("more")).unwrap();
        assert_eq!(read(), [100]);
    }
}

/// Attempts stand in a chunk, which is written when it changes. The cursor's floor is written more often. If
/// the chunk is damaged and a newer floor is not, the consumer's attempts are lost all the same, and the
/// report says so.
#[test]
fn a_consumer_whose_attempts_are_lost_is_uncertain() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    let queue = engine.queue("q").backoff(Backoff::None).create().unwrap();
    let mut builder = Builder {
        engine,
        history: BTreeMap::new(),
        number: 0,
        message_bytes: 60,
        has_filters: false,
    };
    builder.send("q", 6);
    let held = queue.receive_batch(6, Duration::ZERO).unwrap();
    held[3].nack().unwrap();
    builder.engine.checkpoint().unwrap();
    held[0].ack().unwrap();
    builder.engine.checkpoint().unwrap();
    disk.kill();
    drop(held);
    let states = vec![dumped(&disk, "store").unwrap()];
    let sample = Sample { disk, states, history: builder.history };
    assert_eq!(sample.states[0].queues["q"].unacked[&3].attempts, 1);
    let mut tally = Tally::default();
    for (path, content) in files(&sample.disk) {
        if path.extension().is_none_or(|it| it != "meta") {
            continue;
        }
        for at in (0..content.len()).step_by(one_in(2)) {
            let disk = sample.disk.fork(1);
            let mut flipped = content.clone();
            flipped[at] ^= 1 << (at % 8);
            disk.plant(&path, Some(flipped));
            check_damaged(&sample, &disk, &path, &at.to_string(), &mut tally);
        }
    }
    assert!(tally.named > 100, "{tally:?}");
}

/// One damaged place of the metalog brought a deleted queue back.
#[test]
fn a_deleted_queue_stays_deleted_whichever_place_of_the_metalog_is_damaged() {
    let disk = SimDisk::new(1);
    let engine = options().sim(&disk).open("store").unwrap();
    let [stays, goes] = ["stays", "goes"].map(|name| engine.queue(name).create().unwrap());
    // The file of the metalog begins without them.
    for queue in [&stays, &goes] {
        queue.send_batch(["1", "2"]).unwrap();
        engine.checkpoint().unwrap();
    }
    engine.queue("goes").delete().unwrap();
    for n in 3..6 {
        engine.checkpoint().unwrap();
        stays.send(format!("{n}")).unwrap();
    }
    engine.checkpoint().unwrap();
    drop((stays, goes, engine));
    disk.kill();
    let is_meta = |path: &PathBuf| path.extension().is_some_and(|it| it == "meta");
    let meta = disk.files().into_iter().rfind(is_meta).unwrap();
    let whole = disk.content(&meta).unwrap();
    let mut damaged_places = 0;
    for at in (64..whole.len()).step_by(8 * one_in(2)) {
        let disk = disk.fork(1);
        let mut content = whole.clone();
        content[at] ^= 1;
        disk.plant(&meta, Some(content));
        let report = options().sim(&disk).salvage("store", "to").unwrap();
        damaged_places += usize::from(!report.problems.is_empty());
        let found = dumped(&disk, "to").unwrap();
        // The other one may lose its name.
        let names: Vec<_> = found.queues.keys().map(String::as_str).collect();
        assert!(
            ["stays", "salvaged-queue-1"].iter().any(|it| [*it] == names[..]),
            "{at}: {names:?}"
        );
        if names == ["salvaged-queue-1"] {
            let engine = options().sim(&disk).open("to").unwrap();
            let settings = engine.queue("salvaged-queue-1").open().unwrap().settings().unwrap();
            assert_eq!(settings.backoff, Backoff::default(), "a dropped delivery does not spin");
        }
    }
    assert!(damaged_places > 10, "{damaged_places} damaged places");
}
