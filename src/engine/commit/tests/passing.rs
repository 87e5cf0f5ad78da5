//! Messages that only one subscription gets: between the slices in which they pass the others by.

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use super::config;
use crate::{
    Backoff, Engine, Message, Offset, Subscription, SubscriptionBuilder, Threshold, Topic,
    config::Config,
    disk::{Disk, sim::SimDisk},
    engine::consume::calls::Consuming,
    ids::{CursorId, OffsetRange},
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

/// Commits messages, each of which one subscription gets, without a slice.
fn commit_for_each(engine: &Engine, keepers: &[&Subscription], payload: &str) {
    let committer = engine.committer();
    let log = keepers[0].consumer().log();
    let messages: Vec<Message<'_>> = keepers.iter().map(|_| Message::new(payload)).collect();
    let mut core = committer.lock("test");
    let first = core.bounds(log).expect("it is there").1.0;
    // As a redrive does: by the subscriptions, and not by the messages.
    let mut kept: BTreeMap<CursorId, Vec<OffsetRange>> = BTreeMap::new();
    for (keeper, offset) in keepers.iter().zip(first..) {
        let ranges = kept.entry(keeper.consumer().cursor()).or_default();
        match ranges.last_mut().filter(|last| last.end == Offset(offset)) {
            Some(last) => last.end = last.end.next(),
            None => ranges.push(Offset(offset).only()),
        }
    }
    let mut ops = vec![Op::Append { log, messages: &messages, delay_ms: 0 }];
    ops.extend(kept.iter().map(|(keeper, ranges)| Op::AckOthers { log, keeper: *keeper, ranges }));
    let committed = core.commit(&ops, committer.now());
    assert!(committed.is_ok());
}

fn pass_some(engine: &Engine) -> bool {
    engine.committer().lock("test").pass_some()
}

/// What a subscription shows without being given its turn.
fn shown(engine: &Engine, subscription: &Subscription) -> (u64, u64) {
    let (cursor, log) = (subscription.consumer().cursor(), subscription.consumer().log());
    let mut core = engine.committer().lock("test");
    let end = core.end_for(cursor, log).expect("it is there");
    let unacked = core.store.acks_of(cursor).expect("it is there").unacked_in(Offset(0).to(end));
    let listed: u64 = unacked.iter().map(|range| range.len()).sum();
    let stats = core.stats(cursor).expect("it is there");
    assert_eq!((stats.depth, core.depth(cursor)), (listed, listed));
    (stats.depth, stats.sent)
}

/// Whatever the order of the messages in one commit, and with a message before them that is not acked.
#[test]
fn each_subscription_sees_its_own_messages_only_wherever_the_slices_are() {
    let (a, b) = (5, 17);
    for keepers in [&[a, a][..], &[a, b], &[b, a], &[a, b, a, b, b], &[b, b, a], &[0, MANY - 1]] {
        let disk = SimDisk::new(1);
        let engine = alone(&disk);
        let (topic, all) = topic(&engine);
        topic.publish("all 1").expect("there is space");
        let of: Vec<&Subscription> = keepers.iter().map(|n| &all[*n]).collect();
        commit_for_each(&engine, &of, "one");
        topic.publish("all 2").expect("there is space");
        let own = |n: usize| keepers.iter().filter(|it| **it == n).count() as u64;
        let mut slices = 0;
        loop {
            let mut seen = 0;
            for (n, subscription) in all.iter().enumerate() {
                let (depth, sent) = shown(&engine, subscription);
                assert!(depth == 1 || depth == 2 + own(n), "{keepers:?}, {n}: {depth}");
                assert_eq!(sent, 1 + depth, "{keepers:?}, {n}");
                seen += usize::from(depth > 1);
            }
            assert!(slices > 0 || seen == 0, "{seen}");
            slices += 1;
            if !pass_some(&engine) {
                break;
            }
        }
        assert!(slices >= 3, "{slices}");
        for (n, subscription) in all.iter().enumerate() {
            assert_eq!(take(subscription).as_deref(), Some("all 1"));
            for _ in 0..own(n) {
                assert_eq!(take(subscription).as_deref(), Some("one"));
            }
            assert_eq!(take(subscription).as_deref(), Some("all 2"));
            assert_eq!(take(subscription), None);
            assert_eq!(subscription.stats().expect("it is there").sent, 3 + own(n));
        }
        engine.close().expect("the disk is well");
    }
}

/// Subscriptions come and go between the slices, and further messages of this kind come.
#[test]
fn subscriptions_go_on_between_the_slices() {
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let (topic, all) = topic(&engine);
    commit_for_each(&engine, &[&all[MANY - 1]], "one 1");
    topic.publish("all 2").expect("there is space");
    assert!(pass_some(&engine));
    commit_for_each(&engine, &[&all[0]], "one 3");
    let late = topic.subscription("late").create().expect("there is space");
    topic.subscription(&name(20)).delete().expect("it is there");
    topic.publish("all 4").expect("there is space");
    assert_eq!(shown(&engine, &all[1]).0, 1, "its turn was the first, and the second is to come");
    assert_eq!(shown(&engine, &all[MANY - 1]).0, 0);
    assert_eq!(shown(&engine, &late), (1, 1), "it came behind both commits");
    while pass_some(&engine) {}
    assert_eq!(late.stats().expect("it is there").sent, 1);
    let rest = |it: &Subscription| std::iter::from_fn(|| take(it)).collect::<Vec<_>>();
    assert_eq!(rest(&all[0]), ["all 2", "one 3", "all 4"]);
    assert_eq!(rest(&all[1]), ["all 2", "all 4"]);
    assert_eq!(rest(&all[MANY - 1]), ["one 1", "all 2", "all 4"]);
    assert_eq!(rest(&late), ["all 4"]);
    engine.close().expect("the disk is well");
}

/// Who looks at a subscription goes on with the slices until it sees all that was published.
#[test]
fn calls_see_what_was_published_before_them() {
    type Look = fn(&Subscription) -> u64;
    let looks: [(&str, Look); 7] = [
        ("receive", |it| take(it).map_or(0, |_| 1)),
        ("depth", |it| it.depth().expect("it is there")),
        ("browse", |it| it.browse().expect("it is there").count() as u64),
        ("remove", |it| u64::from(it.remove(Offset(2)).expect("it is there"))),
        ("purge", |it| it.purge().expect("it is there")),
        ("stats", |it| it.stats().expect("it is there").depth),
        ("batch", |it| it.receive_batch(9, Duration::ZERO).expect("it is there").len() as u64),
    ];
    for has_threads in [false, true] {
        for (name, look) in looks {
            let disk = SimDisk::new(1);
            let process = Arc::new(disk.process());
            let engine = Engine::open_on(process, Path::new("store"), config(), has_threads)
                .expect("the disk is well");
            let (topic, all) = topic(&engine);
            commit_for_each(&engine, &[&all[0]], "one 1");
            topic.publish("all 2").expect("there is space");
            assert_eq!(shown(&engine, &all[MANY - 1]).0, 0);
            assert_eq!(look(&all[MANY - 1]), 1, "{name}");
            engine.close().expect("the disk is well");
        }
    }
}

/// A consumer that waits is woken by the commit, and gives itself its turn when it looks.
#[test]
fn a_task_that_waits_receives_between_the_slices() {
    struct Counted(AtomicUsize);
    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for n in [0, MANY - 1] {
        let disk = SimDisk::new(1);
        let engine = alone(&disk);
        let (topic, all) = topic(&engine);
        let woken = Arc::new(Counted(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let subscription = all[n].clone();
        let mut received = pin!(async move { subscription.receive_async().await });
        let mut poll = || received.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(poll().is_pending());
        commit_for_each(&engine, &[&all[0]], "one 1");
        topic.publish("all 2").expect("there is space");
        assert!(woken.0.load(Ordering::SeqCst) > 0, "it was not woken");
        let Poll::Ready(Ok(delivery)) = poll() else { panic!("it finds nothing") };
        let expected = if n == 0 { "one 1" } else { "all 2" };
        assert_eq!(delivery.payload(), expected.as_bytes());
    }
}

/// One that gets some of the letters of a commit rejects those between them, and sees nothing of that before its turn: its depth
/// is what it was.
#[test]
fn a_depth_between_the_slices_is_that_before_the_letters() {
    for is_filtered in [true, false] {
        let disk = SimDisk::new(1);
        let engine = alone(&disk);
        let (topic, all) = topic(&engine);
        let pattern = |n: usize| {
            let builder = topic.subscription(&name(n)).pattern("t");
            drop(builder.create_or_update().expect("there is space"));
        };
        (0..2).filter(|_| is_filtered).for_each(pattern);
        topic.publish_batch(["all 1", "all 2", "all 3"]).expect("there is space");
        let alarms = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&alarms);
        let alarm = move |alarm| told.lock().expect("no panic").push(format!("{alarm:?}"));
        let watched = all[1].watch(Threshold::Depth(3), alarm).expect("it is there");
        let raised = alarms.lock().expect("no panic").len();
        commit_for_each(&engine, &[&all[0], &all[1], &all[0], &all[1]], "one");
        loop {
            for (n, subscription) in all.iter().enumerate() {
                let depth = shown(&engine, subscription).0;
                assert!(depth == 3 || n < 2 && depth == 5, "{n}: {depth}");
            }
            if !pass_some(&engine) {
                break;
            }
        }
        assert_eq!(shown(&engine, &all[1]).0, 5);
        assert_eq!(alarms.lock().expect("no panic").len(), raised, "{alarms:?}");
        drop(watched);
        engine.close().expect("the disk is well");
    }
}

/// Filters that are given, changed and taken away while messages pass the subscription by: a message is counted once, and
/// a threshold of a subscription that sees more behind its turn is looked at.
#[test]
fn filters_change_between_the_slices() {
    type Change = fn(SubscriptionBuilder) -> SubscriptionBuilder;
    let given: Change = |it| it.pattern("t");
    let taken: Change = |it| it.without_patterns().without_header_filters();
    for (before, after) in [(given, taken), (taken, given), (given, given), (taken, taken)] {
        for slices in 0..3 {
            let disk = SimDisk::new(1);
            let engine = alone(&disk);
            let (topic, all) = topic(&engine);
            let changed = |n: usize, change: Change| {
                let builder = change(topic.subscription(&name(n)));
                builder.create_or_update().expect("there is space")
            };
            for n in 1..MANY {
                drop(changed(n, before));
            }
            let alarms = Arc::new(AtomicUsize::new(0));
            let watched = all.iter().skip(1).map(|it| {
                let alarms = Arc::clone(&alarms);
                let alarm = move |_| _ = alarms.fetch_add(1, Ordering::SeqCst);
                it.watch(Threshold::Depth(2), alarm).expect("it is there")
            });
            let watched: Vec<_> = watched.collect();
            commit_for_each(&engine, &[&all[0]], "one");
            topic.publish("all 2").expect("there is space");
            for _ in 0..slices {
                assert!(pass_some(&engine));
            }
            for n in 1..MANY {
                drop(changed(n, after));
            }
            topic.publish("all 3").expect("there is space");
            while pass_some(&engine) {}
            assert_eq!(alarms.load(Ordering::SeqCst), MANY - 1, "{slices} slices");
            for (n, subscription) in all.iter().enumerate() {
                let own = 2 + u64::from(n == 0);
                assert_eq!(shown(&engine, subscription), (own, own + 1), "{slices}, {n}");
            }
            drop(watched);
            engine.close().expect("the disk is well");
        }
    }
}

#[test]
fn a_crash_a_checkpoint_and_a_salvage_between_the_slices_double_and_lose_nothing() {
    for checkpoints in [false, true] {
        let disk = SimDisk::new(1);
        let engine = alone(&disk);
        let (topic, all) = topic(&engine);
        commit_for_each(&engine, &[&all[7], &all[3], &all[7]], "one");
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
                let expected: &[&str] = match n {
                    3 => &["one", "all 2"],
                    7 => &["one", "one", "all 2"],
                    _ => &["all 2"],
                };
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
    commit_for_each(&engine, &[&all[0]], "one 1");
    let brief = Message::new("brief").expire_after(Duration::from_millis(10));
    topic.publish(brief).expect("there is space");
    assert!(pass_some(&engine));
    disk.advance(Duration::from_secs(1));
    // A call looks for what is over, while some see nothing of it.
    drop(engine.queue("q").create().expect("there is space").try_receive());
    assert!(engine.committer().lock("test").store.is_passing());
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

/// The acks of slices are few bytes in the journal, and take a recovery as long as they took before. So many of them call for
/// a checkpoint, which spares a recovery all of them. An open that has given them again does not forget them.
#[test]
fn many_acks_of_slices_call_for_one_checkpoint() {
    let disk = SimDisk::new(1);
    let mut engine = alone(&disk);
    let (mut topic, mut all) = topic(&engine);
    let wants = |engine: &Engine| engine.committer().lock("test").wants_checkpoint();
    let mut rounds = 0;
    while !wants(&engine) {
        // A recovery takes messages that follow each other as one range.
        topic.publish("all").expect("there is space");
        commit_for_each(&engine, &[&all[3]], "one");
        while pass_some(&engine) {}
        rounds += 1;
        assert!(rounds < 100, "nothing calls for a checkpoint");
        if rounds == 10 {
            engine.sync().expect("the disk is well");
            all.clear();
            drop(topic);
            drop(engine);
            engine = alone(&disk);
            assert!(!wants(&engine));
            topic = engine.topic("t").open().expect("it is there");
            all.extend(
                (0..MANY).map(|n| topic.subscription(&name(n)).open().expect("it is there")),
            );
        }
    }
    assert!((11..16).contains(&rounds), "{rounds}");
    // Those of a slice that is done for the checkpoint itself are captured, too.
    commit_for_each(&engine, &[&all[3]], "one");
    engine.checkpoint().expect("the disk is well");
    assert!(!wants(&engine));
    commit_for_each(&engine, &[&all[3]], "one");
    while pass_some(&engine) {}
    assert!(!wants(&engine));
}

/// A call gives the core away behind its turn, and a woken task publishes. The call finds that all the same: the waiters were
/// woken before it is one of them.
#[test]
fn what_comes_behind_the_turn_of_a_call_is_found() {
    type Work = Box<dyn FnOnce() + Send>;
    struct Works(Mutex<Option<Work>>);
    impl Wake for Works {
        fn wake(self: Arc<Self>) {
            let work = self.0.lock().expect("no panic").take();
            work.into_iter().for_each(|work| work());
        }
    }
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let topic = engine.topic("t").create().expect("there is space");
    let subscription = |n| {
        let builder = topic.subscription(&name(n)).backoff(Backoff::None);
        builder.lease(Duration::from_secs(1)).create().expect("there is space")
    };
    let all: Vec<Subscription> = (0..2).map(subscription).collect();
    topic.publish("all 0").expect("there is space");
    take(&all[1]);
    // The lease of the first one ends in a call on the second one, and that wakes a task.
    let held = all[0].try_receive().expect("it can be read");
    let (other, keeper, publishes) = (engine.clone(), all[0].clone(), topic.clone());
    let works = Arc::new(Works(Mutex::new(Some(Box::new(move || {
        commit_for_each(&other, &[&keeper], "one");
        publishes.publish("all 2").expect("there is space");
    })))));
    let waiting = all[0].clone();
    let mut received = pin!(async move { waiting.receive_async().await });
    let waker = Waker::from(Arc::clone(&works));
    assert!(received.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    disk.advance(Duration::from_secs(2));
    assert_eq!(take(&all[1]).as_deref(), Some("all 2"));
    assert!(works.0.lock().expect("no panic").is_none(), "it was not woken");
    drop(held);
}
