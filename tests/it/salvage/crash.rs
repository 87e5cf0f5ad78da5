//! Crashes during a salvage, and frames that a recovery had cut off before it.

use std::{path::Path, time::Duration};

use posthouse::{ErrorKind, Message, sim::SimDisk};

use super::check::files;
use super::sample::{dumped, open, options, sample};
use crate::model::state::dump;
use crate::support::one_in;

#[test]
fn a_crash_during_salvage_leaves_a_whole_store_or_a_refused_one() {
    let sample = sample(true);
    // Some damage, so that there is something to settle.
    let disk = sample.disk.fork(1);
    let segment = disk.files().into_iter().find(|it| it.starts_with("store/segments")).unwrap();
    let mut content = disk.content(&segment).unwrap();
    content[400] ^= 1;
    disk.plant(&segment, Some(content));
    let before = files(&disk);
    let whole = disk.fork(1);
    options().sim(&whole).salvage("store", "to").unwrap();
    let expected = dumped(&whole, "to").unwrap();
    let steps = whole.steps() - disk.fork(1).steps();
    assert!(steps > 30, "{steps}");
    let (mut absent, mut refused, mut complete) = (0, 0, 0);
    // Nothing is there after the first step.
    for step in (1..=steps + 1).rev().step_by(one_in(9)).chain([1]) {
        for pessimal in [false, true] {
            for end in 0..4 {
                let disk = disk.fork(step * 8 + end);
                disk.set_pessimal(pessimal);
                disk.stop_at_step(disk.steps() + step);
                let salvaged = options().sim(&disk).salvage("store", "to");
                if end == 0 {
                    disk.kill();
                } else {
                    disk.power_cut();
                }
                let mut after = files(&disk);
                after.retain(|path, _| path.starts_with("store"));
                assert_eq!(after, before, "step {step}");
                let is_there = disk.files().iter().any(|path| path.starts_with("to"));
                if !disk
                    .files()
                    .iter()
                    .any(|path| path.starts_with("to") && !path.ends_with("LOCK"))
                {
                    assert!(salvaged.is_err(), "step {step}: it said that all is there");
                    if let Err(error) = options().sim(&disk).salvage("store", "to") {
                        // Directories are in the way.
                        assert_eq!(
                            error.kind(),
                            ErrorKind::InvalidInput { field: "to" },
                            "{error}"
                        );
                    }
                    absent += usize::from(!is_there);
                    // The files decide: after an opening, the test could not tell an empty store from a
                    // salvaged one.
                    continue;
                }
                match dumped(&disk, "to") {
                    Ok(state) => {
                        assert_eq!(state, expected, "step {step}, pessimal {pessimal}, end {end}");
                        assert!(options().sim(&disk).verify("to").unwrap().is_ok());
                        complete += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "step {step}: {error}");
                        assert!(salvaged.is_err(), "step {step}: it said that all is there");
                        refused += 1;
                    }
                }
            }
        }
    }
    println!("{steps} steps: {absent} absent, {refused} refused, {complete} complete");
    assert!(absent > 0 && refused > 50 / one_in(9) && complete > 0);
}

/// Verify and salvage on the real disk, beside commits and checkpoints of other threads.
#[test]
fn the_real_disk_is_verified_beside_commits_and_salvaged() {
    let dir = tempfile::tempdir().unwrap();
    let (store, to) = (dir.path().join("store"), dir.path().join("to"));
    let engine = options().open(&store).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            for n in 0..3000 {
                drop(queue.send_ticket(format!("message {n} {}", "x".repeat(n % 300))).unwrap());
                drop(stream.append_ticket(Message::new(n.to_string()).key("k")).unwrap());
                if n % 3 > 0 {
                    queue.try_receive().unwrap().into_iter().for_each(|it| it.ack().unwrap());
                }
            }
        });
        let mut verified = 0;
        while !worker.is_finished() || verified < 3 {
            let report = engine.verify().unwrap();
            assert!(report.is_ok() && report.unreferenced.is_empty(), "{report}");
            verified += 1;
        }
    });
    engine.close().unwrap();
    let report = options().verify(&store).unwrap();
    assert!(report.is_ok(), "{report}");
    assert!(options().salvage(&store, &to).unwrap().is_complete());
    let original = dump(&options().open(&store).unwrap()).unwrap();
    assert_eq!(dump(&options().open(&to).unwrap()).unwrap(), original);
}

/// A recovery cuts off a frame that was never durable, and its offset is given again. The frame stays cut,
/// even if the header of the file that says so is damaged.
#[test]
fn a_frame_that_a_recovery_cut_off_does_not_come_back() {
    let disk = SimDisk::new(1);
    let buffered = options().durability(posthouse::Durability::Buffered).sim(&disk);
    let engine = buffered.open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    engine.sync().unwrap();
    for text in ["never durable, and torn", "never durable, and whole"] {
        queue.send(text).unwrap();
    }
    disk.kill();
    let path = Path::new("store/journal/00000000000000000000.journal");
    let mut content = disk.content(path).unwrap();
    let torn = content.windows(8).position(|it| it == b"and torn").unwrap();
    content[torn] ^= 1;
    disk.plant(path, Some(content));

    let engine = open(&disk, "store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    assert_eq!(queue.send("durable").unwrap().0, 0);
    engine.close().unwrap();
    let newest = disk.files().into_iter().filter(|it| it.starts_with("store/journal"));
    let newest = newest.filter(|it| it.extension().unwrap() == "journal").max().unwrap();
    for at in [13, 70, 2000] {
        let disk = disk.fork(1);
        let mut content = disk.content(&newest).unwrap();
        content[at] ^= 4;
        disk.plant(&newest, Some(content));
        assert_eq!(open(&disk, "store").expect_err("refused").kind(), ErrorKind::Corrupt);
        let verified = options().sim(&disk).verify("store").unwrap();
        assert!(verified.problems.iter().any(|it| it.file == newest), "{verified}");
        let report = options().sim(&disk).salvage("store", "to").unwrap();
        let queue = open(&disk, "to").unwrap().queue("q").open().unwrap();
        let all = queue.receive_batch(10, Duration::ZERO).unwrap();
        let texts: Vec<_> = all.iter().map(|it| it.payload().to_vec()).collect();
        assert_eq!(texts, [b"durable".to_vec()], "{report}");
        assert!(report.lost.is_empty(), "{report}");
    }
}
