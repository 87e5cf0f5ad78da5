//! Others go on while a thread waits for the disk: no lock that they need is held at any call of it.

use std::{
    cell::Cell,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use super::config;
use crate::{
    Durability, Engine, Message, Queue,
    config::Config,
    disk::{
        sim::SimDisk,
        witness::{Witness, WitnessedDisk},
    },
};

thread_local! {
    /// Whether the calls of this thread are interrupted.
    static IS_SEEN: Cell<bool> = const { Cell::new(false) };
}

/// Another thread, which works once at each call that is interrupted.
struct Other {
    ask: Mutex<Sender<()>>,
    answers: Mutex<Receiver<()>>,
    times: AtomicUsize,
}

impl Other {
    fn works(&self, call: &str, path: &Path) {
        // A frame is copied into the map of the journal under the core: that is no call of a real disk.
        let is_copy = call == "write" && path.extension().is_some_and(|it| it == "journal");
        if IS_SEEN.get() && !is_copy {
            self.ask.lock().expect("no panic").send(()).expect("it is there");
            let answers = self.answers.lock().expect("no panic");
            // It is a guard: whoever waits for a lock of the interrupted thread waits for ever.
            let answer = answers.recv_timeout(Duration::from_secs(60));
            assert!(answer.is_ok(), "others wait during {call} of {}", path.display());
            self.times.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends, receives and acks whenever it is asked to.
fn work(queue: &Queue, asked: &Receiver<()>, answer: &Sender<()>) {
    while asked.recv().is_ok() {
        queue.send("work").expect("there is space");
        let delivery = queue.try_receive().expect("it is open").expect("it was sent");
        delivery.ack().expect("it is held");
        let _ = answer.send(());
    }
}

/// Does something while another thread works at each call of the disk that it makes. Returns how many calls that were.
fn interrupted(other: &Other, act: impl FnOnce()) -> usize {
    let before = other.times.load(Ordering::Relaxed);
    IS_SEEN.set(true);
    act();
    IS_SEEN.set(false);
    other.times.load(Ordering::Relaxed) - before
}

#[test]
fn others_go_on_at_each_call_that_changes_the_disk() {
    let ((ask, asked), (answer, answers)) = (channel(), channel());
    let (ask, answers, times) = (Mutex::new(ask), Mutex::new(answers), AtomicUsize::new(0));
    let other = Arc::new(Other { ask, answers, times });
    let seen = Arc::clone(&other);
    let witness = Witness::new(move |when, call, path| {
        if when == "before" {
            seen.works(call, path);
        }
        Ok(())
    });
    let disk = Arc::new(WitnessedDisk::new(Arc::new(SimDisk::new(1).process()), witness));
    let config = Config {
        durability: Durability::Buffered,
        delayed_in_memory: 16,
        // The journal is never full.
        journal_bytes: 64 << 20,
        segment_bytes: 64 << 10,
        ..config()
    };
    let engine = Engine::open_on(disk, Path::new("store"), config, true).expect("it is well");
    let probe = engine.queue("probe").create().expect("the disk is well");
    let worker = thread::spawn(move || work(&probe, &asked, &answer));

    let queue = engine.queue("q").create().expect("the disk is well");
    let small: Vec<Queue> = (0..20)
        .map(|n| engine.queue(&format!("small {n}")).create().expect("it is well"))
        .collect();
    let checkpoint = || engine.checkpoint().expect("the disk is well");
    for round in 0..4 {
        queue.send_batch((0..500).map(|_| vec![7; 200])).expect("there is space");
        let later = |n: u64| Message::new("later").deliver_after(Duration::from_secs(60 + n));
        queue.send_batch((0..40).map(later)).expect("there is space");
        small.iter().for_each(|it| _ = it.send("few").expect("there is space"));
        assert!(interrupted(&other, checkpoint) > 3, "round {round}: a checkpoint writes");
        // Most die, so that the next checkpoint rewrites segments.
        let received = queue.receive_batch(450, Duration::ZERO).expect("it is open");
        queue.ack_batch(&received).expect("they are held");
    }
    interrupted(&other, || _ = queue.purge().expect("it is open"));
    interrupted(&other, || engine.queue("small 3").delete().expect("it is there"));
    assert!(interrupted(&other, checkpoint) > 0, "it removes files");
    drop(other);
    engine.close().expect("the disk is well");
    drop(engine);
    let _ = worker;
}
