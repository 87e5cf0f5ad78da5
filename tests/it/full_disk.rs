//! A full disk stops producers only, whatever the sizes of the journal, its files, the reserve and the disk are.

use std::collections::BTreeSet;

use posthouse::{Durability, Engine, ErrorKind, Options, Queue, sim::SimDisk};
use proptest::prelude::*;

use crate::{
    model::small_options,
    support::{cases, one_in},
};

const PAGE: u64 = 4096;

/// The settings that bear on a full disk.
#[derive(Clone, Debug)]
struct Setting {
    file_min: u64,
    file_max: u64,
    journal: u64,
    segment: u64,
    /// The size of the disk.
    disk: u64,
    message: usize,
    queues: usize,
    durability: Durability,
    /// Whether another program takes the space that is left when the first send was refused.
    is_filled: bool,
    /// What happens between the last send and the first ack.
    between: Between,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Between {
    Nothing,
    Reopened,
    Killed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Acked,
    /// Every second message is acked first.
    AckedInTwoRounds,
    Purged,
    Deleted,
    Checkpointed,
}

impl Setting {
    fn options(&self) -> Options {
        small_options()
            .journal_file_bytes_min(self.file_min)
            .journal_file_bytes_max(self.file_max)
            .journal_bytes(self.journal)
            .segment_bytes(self.segment)
            .durability(self.durability)
    }

    fn open(&self, disk: &SimDisk) -> Result<Engine, posthouse::Error> {
        self.options().sim(disk).open("store")
    }
}

fn settings() -> impl Strategy<Value = Setting> {
    let journals = (2u32..5, 0u32..6, 0u32..4);
    let sizes = journals.prop_map(|(min, more, journal)| {
        let file_min = (4 << 10) << min.min(3) >> 1;
        let file_min = file_min.max(8 << 10);
        (file_min, file_min << more, (4 * file_min) << journal)
    });
    let ends = prop_oneof![
        3 => Just(End::Acked),
        2 => Just(End::AckedInTwoRounds),
        1 => Just(End::Purged),
        1 => Just(End::Deleted),
        1 => Just(End::Checkpointed),
    ];
    let betweens =
        prop_oneof![Just(Between::Nothing), Just(Between::Reopened), Just(Between::Killed)];
    (
        sizes,
        prop_oneof![Just(4096u64), Just(1 << 20)],
        40u64..250,
        prop_oneof![Just(20usize), Just(200), Just(900), Just(5000)],
        1usize..6,
        any::<bool>(),
        any::<bool>(),
        betweens,
        ends,
    )
        .prop_map(|(sizes, segment, pages, message, queues, sync, is_filled, between, end)| {
            let (file_min, file_max, journal) = sizes;
            let durability = if sync { Durability::Sync } else { Durability::Buffered };
            let disk = pages * PAGE + 6 * file_min;
            Setting {
                file_min,
                file_max,
                journal,
                segment,
                disk,
                message,
                queues,
                durability,
                is_filled,
                between,
                end,
            }
        })
}

/// Sends until a send is refused. Returns how many messages each queue has.
fn fill(queues: &[Queue], setting: &Setting) -> Vec<u64> {
    let mut sent = vec![0; queues.len()];
    for n in (0..queues.len()).cycle() {
        match queues[n].send(vec![7; setting.message]) {
            Ok(_) => sent[n] += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
                return sent;
            }
        }
    }
    sent
}

fn ack_all(queue: &Queue, sent: u64, every: u64) {
    let mut held = Vec::new();
    for n in 0..sent {
        let delivery = queue.try_receive().unwrap_or_else(|error| panic!("receive {n}: {error}"));
        let delivery = delivery.unwrap_or_else(|| panic!("message {n} of {sent} is missing"));
        if n % every == 0 {
            delivery.ack().unwrap_or_else(|error| panic!("ack {n} of {sent}: {error}"));
        } else {
            held.push(delivery);
        }
    }
    for (n, delivery) in held.iter().enumerate() {
        delivery.ack().unwrap_or_else(|error| panic!("late ack {n} of {sent}: {error}"));
    }
}

fn check(setting: &Setting) {
    let disk = SimDisk::new(1);
    let engine = setting.open(&disk).unwrap();
    disk.set_capacity(Some(setting.disk));
    let name = |n: usize| format!("q{n}");
    let made: Result<Vec<Queue>, _> =
        (0..setting.queues).map(|n| engine.queue(&name(n)).create()).collect();
    // On a disk that is too small for the reserve, nothing can be sent in the first place.
    let Ok(mut queues) = made else { return };
    let mut sent = fill(&queues, setting);
    if setting.is_filled {
        disk.set_capacity(Some(disk.bytes_used()));
        let more = fill(&queues, setting);
        sent.iter_mut().zip(more).for_each(|(sent, more)| *sent += more);
    }
    let mut engine = engine;
    if setting.between != Between::Nothing {
        if setting.between == Between::Reopened {
            engine.close().unwrap();
        } else {
            disk.kill();
        }
        drop((queues, engine));
        if setting.is_filled {
            // A kill gives back files that were removed while they were open.
            disk.set_capacity(Some(disk.bytes_used()));
        }
        engine = setting.open(&disk).unwrap_or_else(|error| panic!("it does not open: {error}"));
        queues = (0..setting.queues).map(|n| engine.queue(&name(n)).open().unwrap()).collect();
    }
    match setting.end {
        End::Checkpointed => engine.checkpoint().unwrap(),
        End::Acked | End::AckedInTwoRounds => {
            let every = if setting.end == End::Acked { 1 } else { 2 };
            queues.iter().zip(&sent).for_each(|(queue, sent)| ack_all(queue, *sent, every));
            engine.checkpoint().unwrap();
        }
        End::Purged => {
            for (queue, sent) in queues.iter().zip(&sent) {
                assert_eq!(queue.purge().unwrap(), *sent);
            }
            engine.checkpoint().unwrap();
        }
        End::Deleted => {
            (0..setting.queues).for_each(|n| engine.queue(&name(n)).delete().unwrap());
            engine.checkpoint().unwrap();
            queues = vec![];
        }
    }
    let mut there: Vec<u64> = queues.iter().map(|queue| queue.depth().unwrap()).collect();
    // Space returns.
    disk.set_capacity(None);
    if let Some(queue) = queues.first() {
        queue.send("again").unwrap();
        there[0] += 1;
    }
    assert!(engine.verify().unwrap().is_ok());
    engine.close().unwrap();
    drop((queues, engine));
    disk.power_cut();
    let engine = setting.open(&disk).unwrap();
    let names: BTreeSet<String> = engine.queues().unwrap().into_iter().collect();
    assert_eq!(names.len(), there.len());
    for (n, there) in there.iter().enumerate() {
        assert_eq!(engine.queue(&name(n)).open().unwrap().depth().unwrap(), *there);
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn a_full_disk_stops_producers_only(setting in settings()) {
        check(&setting);
    }
}

/// A journal of 1 MiB had files of up to 8 MiB. The commit that would free space met the wall at three times the
/// journal's length, and the reserve was never given up.
#[test]
fn a_short_journal_with_large_files_on_a_full_disk_takes_acks() {
    let journals = [32 << 10, 64 << 10, 128 << 10];
    let ends = [End::Acked, End::Purged, End::Deleted, End::Checkpointed];
    let all = journals.into_iter().flat_map(|journal| ends.map(|end| (journal, end)));
    for (journal, end) in all.step_by(one_in(12)) {
        check(&Setting {
            file_min: 8 << 10,
            file_max: 256 << 10,
            journal,
            segment: 1 << 20,
            disk: 2 << 20,
            message: 200,
            queues: 1,
            durability: Durability::Buffered,
            is_filled: true,
            between: Between::Nothing,
            end,
        });
    }
}

/// A disk that was filled while the store was closed: the reserve is given up for the new journal file.
#[test]
fn a_store_opens_on_a_disk_that_was_filled_while_it_was_closed() {
    let ends = [End::Acked, End::Purged, End::Deleted, End::Checkpointed];
    let betweens = [Between::Reopened, Between::Killed];
    let all = betweens.into_iter().flat_map(|between| ends.map(|end| (between, end)));
    for (between, end) in all.step_by(one_in(8)) {
        check(&Setting {
            file_min: 8 << 10,
            file_max: 64 << 10,
            journal: 256 << 10,
            segment: 1 << 20,
            disk: 2 << 20,
            message: 200,
            queues: 2,
            durability: Durability::Sync,
            is_filled: true,
            between,
            end,
        });
    }
}

/// A crash may leave the name of the reserve without its space.
#[test]
fn a_reserve_without_space_is_not_left_behind() {
    let disk = SimDisk::new(1);
    Options::new().sim(&disk).open("store").unwrap().close().unwrap();
    disk.plant(std::path::Path::new("store/journal/reserve.new"), Some(Vec::new()));
    let engine = Options::new().sim(&disk).open("store").unwrap();
    engine.checkpoint().unwrap();
    let report = engine.verify().unwrap();
    assert!(report.unreferenced.is_empty(), "{report}");
}

/// A reserve that could not grow was removed and made anew. When something had taken a page of its space meanwhile, there
/// was none from then on, and no checkpoint could be made behind the acks.
#[test]
fn a_reserve_that_cannot_grow_is_kept() {
    check(&Setting {
        file_min: 16384,
        file_max: 32768,
        journal: 131072,
        segment: 4096,
        disk: 454656,
        message: 20,
        queues: 1,
        durability: Durability::Buffered,
        is_filled: true,
        between: Between::Reopened,
        end: End::Acked,
    });
}

/// The last attempt of a message has failed, and the disk has no space for its letter. Once it has, the engine moves it, though
/// nobody receives from the queue.
#[test]
fn letters_that_found_no_space_move_without_a_receiver() {
    for priority in [0, 5] {
        let disk = SimDisk::new(3);
        let engine = small_options().sim(&disk).open("store").unwrap();
        let dead = engine.queue("q.dead").create().unwrap();
        let queue = engine.queue("q").max_attempts(1).create().unwrap();
        for n in 0..3_u8 {
            queue.send(posthouse::Message::new(vec![n; 6000]).priority(priority)).unwrap();
        }
        let held: Vec<_> = (0..3).map(|_| queue.try_receive().unwrap().unwrap()).collect();
        held.iter().for_each(|it| assert_eq!(it.payload().len(), 6000));
        let filler = engine.queue("filler").create().unwrap();
        disk.set_capacity(Some(disk.bytes_used()));
        while filler.send(vec![9; 1000]).is_ok() {}
        while filler.send(vec![9; 10]).is_ok() {}
        drop(held);
        let second = std::time::Duration::from_secs(1);
        for _ in 0..3 {
            disk.advance(second);
            assert_eq!(dead.depth().unwrap() + queue.depth().unwrap(), 3);
        }
        assert!(queue.depth().unwrap() > 0, "there was space for all letters");
        disk.set_capacity(None);
        // The longer there was no space, the later they are tried again.
        for _ in 0..120 {
            disk.advance(second);
            _ = dead.stats().unwrap();
        }
        assert_eq!((dead.depth().unwrap(), queue.depth().unwrap()), (3, 0), "{priority}");
    }
}

/// Without space for the letter the worker gave the message back as if it had not run: its handler ran again each second.
#[test]
fn a_worker_runs_a_last_attempt_once_although_the_letter_has_no_space() {
    let disk = SimDisk::new(3);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let dead = engine.queue("q.dead").create().unwrap();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    queue.send(vec![1; 6000]).unwrap();
    let filler = engine.queue("filler").create().unwrap();
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = std::sync::Arc::clone(&runs);
    let is_full = disk.clone();
    let worker = queue.worker().run_async(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        is_full.set_capacity(Some(is_full.bytes_used()));
        while filler.send(vec![9; 1000]).is_ok() {}
        while filler.send(vec![9; 10]).is_ok() {}
        async { Err::<(), _>("it fails") }
    });
    let mut worker = crate::support::Task::waiting(worker);
    let runs = || runs.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..10 {
        assert!(worker.poll().is_none());
        disk.advance(std::time::Duration::from_secs(1));
        assert_eq!(dead.depth().unwrap() + queue.depth().unwrap(), 1);
    }
    assert_eq!((queue.depth().unwrap(), runs()), (1, 1), "there was space, or it ran again");
    disk.set_capacity(None);
    for _ in 0..120 {
        disk.advance(std::time::Duration::from_secs(1));
        assert!(worker.poll().is_none());
    }
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap(), runs()), (0, 1, 1));
}
