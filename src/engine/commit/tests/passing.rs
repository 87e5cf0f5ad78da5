//! Messages that only one subscription gets: between the slices in which they pass the others by.

use std::{path::Path, sync::Arc, time::Duration};

use super::config;
use crate::{
    Engine, Message, Offset, Subscription, Topic,
    config::Config,
    disk::{Disk, sim::SimDisk},
    engine::consume::calls::Consuming,
    inspect::salvage_on,
    store::Op,
};

/// More subscriptions than one slice has.
const MANY: usize = 40;

fn alone(disk: &SimDisk) -> Engine {
    let process = Arc::new(disk.process());
    let config = Config { journal_bytes: 8 << 20, ..config() };
    Engine::open_on(process, Path::new("store"), config, false).expect("the disk is well")
}

fn name(n: usize) -> String {
    format!("s{n:02}")
}

/// A topic with many subscriptions, which have acked its first message.
fn topic(engine: &Engine) -> (Topic, Vec<Subscription>) {
    let topic = engine.topic("t").create().expect("there is space");
    let subscription = |n| topic.subscription(&name(n)).create().expect("there is space");
    let all: Vec<Subscription> = (0..MANY).map(subscription).collect();
    topic.publish("all 0").expect("there is space");
    for subscription in &all {
        take(subscription).expect("it was published");
    }
    (topic, all)
}

/// Receives and acks the next message.
fn take(subscription: &Subscription) -> Option<String> {
    let delivery = subscription.try_receive().expect("it can be read")?;
    let payload = String::from_utf8(delivery.payload().to_vec()).expect("it is text");
    delivery.ack().expect("there is space");
    Some(payload)
}

/// Commits messages that one subscription gets, without a slice.
fn commit_for(engine: &Engine, keeper: &Subscription, payloads: &[&str]) {
    let committer = engine.committer();
    let (cursor, log) = (keeper.consumer().cursor(), keeper.consumer().log());
    let messages: Vec<Message<'_>> = payloads.iter().map(|it| Message::new(*it)).collect();
    let mut core = committer.lock("test");
    let first = core.bounds(log).expect("it is there").1;
    let ranges = [first.to(Offset(first.0 + messages.len() as u64))];
    let ops = [
        Op::Append { log, messages: &messages, delay_ms: 0 },
        Op::AckOthers { log, keeper: cursor, ranges: &ranges },
    ];
    let committed = core.commit(&ops, committer.now());
    assert!(committed.is_ok());
}

fn pass_some(engine: &Engine) -> bool {
    engine.committer().lock("test").pass_some()
}

fn depths(all: &[Subscription]) -> Vec<u64> {
    all.iter().map(|it| it.depth().expect("it is there")).collect()
}

#[test]
fn each_subscription_sees_its_own_messages_only_wherever_the_slices_are() {
    const KEEPER: usize = 17;
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let (topic, all) = topic(&engine);
    commit_for(&engine, &all[KEEPER], &["one 1", "one 2"]);
    topic.publish("all 3").expect("there is space");
    let mut slices = 0;
    loop {
        for (n, depth) in depths(&all).into_iter().enumerate() {
            let whole = if n == KEEPER { 3 } else { 1 };
            assert!(depth == 0 || depth == whole, "{n}: {depth}");
            let browsed = all[n].browse().expect("it is there").count();
            assert_eq!(browsed as u64, depth, "{n}");
            let stats = all[n].stats().expect("it is there");
            assert_eq!((stats.depth, stats.sent), (depth, 1 + depth), "{n}");
        }
        slices += 1;
        if !pass_some(&engine) {
            break;
        }
    }
    assert!(slices >= 3, "{slices}");
    for (n, subscription) in all.iter().enumerate() {
        if n == KEEPER {
            assert_eq!(take(subscription).as_deref(), Some("one 1"));
            assert_eq!(take(subscription).as_deref(), Some("one 2"));
        }
        assert_eq!(take(subscription).as_deref(), Some("all 3"));
        assert_eq!(take(subscription), None);
    }
    engine.close().expect("the disk is well");
}

/// The first half of the subscriptions receives, acks and purges while the turn of the others is still to come.
#[test]
fn subscriptions_go_on_between_the_slices() {
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let (topic, all) = topic(&engine);
    commit_for(&engine, &all[MANY - 1], &["one 1"]);
    topic.publish("all 2").expect("there is space");
    assert!(pass_some(&engine));
    // A second commit of this kind, and a subscription that comes, and one that goes.
    commit_for(&engine, &all[0], &["one 3"]);
    let late = topic.subscription("late").create().expect("there is space");
    topic.subscription(&name(20)).delete().expect("it is there");
    topic.publish("all 4").expect("there is space");
    let received = take(&all[1]);
    assert_eq!(received.as_deref(), Some("all 2"), "its turn was the first");
    assert_eq!(all[1].purge().expect("it is there"), 0, "it sees nothing of the second commit");
    assert_eq!(take(&all[MANY - 1]), None);
    assert_eq!(take(&late).as_deref(), Some("all 4"), "it came behind both commits");
    while pass_some(&engine) {}
    assert_eq!(take(&all[1]).as_deref(), Some("all 4"));
    let rest = |it: &Subscription| std::iter::from_fn(|| take(it)).collect::<Vec<_>>();
    assert_eq!(rest(&all[0]), ["all 2", "one 3", "all 4"]);
    assert_eq!(rest(&all[MANY - 1]), ["one 1", "all 2", "all 4"]);
    assert_eq!(rest(&all[2]), ["all 2", "all 4"]);
    assert_eq!(rest(&late), [""; 0]);
    assert_eq!(late.stats().expect("it is there").sent, 1);
    engine.close().expect("the disk is well");
}

/// A consumer that waits is woken when it sees what was published meanwhile.
#[test]
fn a_task_that_waits_is_woken_at_the_end() {
    use std::{
        future::Future,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
        task::{Context, Wake, Waker},
    };
    struct Counted(AtomicUsize);
    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let (topic, all) = topic(&engine);
    commit_for(&engine, &all[0], &["one 1"]);
    topic.publish("all 2").expect("there is space");
    let last = all[MANY - 1].clone();
    let woken = Arc::new(Counted(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut received = pin!(async move { last.receive_async().await });
    assert!(received.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    while pass_some(&engine) {}
    assert!(woken.0.load(Ordering::SeqCst) > 0, "it was not woken");
    assert!(received.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
}

#[test]
fn a_crash_a_checkpoint_and_a_salvage_between_the_slices_double_and_lose_nothing() {
    for checkpoints in [false, true] {
        let disk = SimDisk::new(1);
        let engine = alone(&disk);
        let (topic, all) = topic(&engine);
        commit_for(&engine, &all[3], &["one 1"]);
        topic.publish("all 2").expect("there is space");
        assert!(pass_some(&engine));
        if checkpoints {
            engine.checkpoint().expect("the disk is well");
            assert!(!engine.committer().lock("test").store.is_passing());
        } else {
            engine.sync().expect("the disk is well");
        }
        drop((topic, all));
        drop(engine);
        disk.power_cut();
        let process: Arc<dyn Disk> = Arc::new(disk.process());
        let salvaged = salvage_on(&process, Path::new("store"), Path::new("salvaged"), config());
        assert!(salvaged.expect("the disk is well").is_complete());
        for store in ["store", "salvaged"] {
            let process = Arc::new(disk.process());
            let engine = Engine::open_on(process, Path::new(store), config(), false);
            let engine = engine.expect("the disk is well");
            let topic = engine.topic("t").open().expect("it is there");
            for n in 0..MANY {
                let subscription = topic.subscription(&name(n)).open().expect("it is there");
                let rest: Vec<String> = std::iter::from_fn(|| take(&subscription)).collect();
                let expected: &[&str] = if n == 3 { &["one 1", "all 2"] } else { &["all 2"] };
                assert_eq!(rest, expected, "{store}, {n}");
            }
            engine.close().expect("the disk is well");
        }
    }
}

/// A message with a short life comes for all while the slices are to be done: it leaves all of them in time.
#[test]
fn lives_that_are_over_are_found_behind_the_slices() {
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let (topic, all) = topic(&engine);
    commit_for(&engine, &all[0], &["one 1"]);
    let brief = Message::new("brief").expire_after(Duration::from_millis(10));
    topic.publish(brief).expect("there is space");
    assert!(pass_some(&engine));
    disk.advance(Duration::from_secs(1));
    // A call looks for what is over, while some see nothing of it.
    assert_eq!(take(&all[MANY - 1]), None);
    while pass_some(&engine) {}
    disk.advance(Duration::from_secs(1));
    for subscription in &all[1..] {
        assert_eq!(subscription.depth().expect("it is there"), 0);
        assert_eq!(subscription.stats().expect("it is there").expired, 1);
    }
    assert_eq!(all[0].depth().expect("it is there"), 1);
    assert_eq!(take(&all[0]).as_deref(), Some("one 1"));
    engine.close().expect("the disk is well");
}
