//! Subscriptions with filters: a message costs by those that it matches, however many others there are.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use posthouse::{
    Durability, Engine, Message, Options, Start, Subscription, Threshold, Topic,
    sim::{SimDisk, take_longest_holds, take_steps},
};

use super::heap::{live, taken};

const FEW: usize = 100;
const MANY: usize = 10_000;

fn options() -> Options {
    Options::new().durability(Durability::Buffered).idle_kept(0)
}

/// A topic with so many subscriptions of other subjects, three that match `news.eu`, and one with a condition on headers.
fn topic(engine: &Engine, others: usize) -> Topic {
    let topic = engine.topic("t").create().unwrap();
    for n in 0..others {
        topic.subscription(&format!("s{n}")).pattern(format!("other.{n}.>")).create().unwrap();
    }
    for (name, pattern) in [("a", "news.*"), ("b", "news.>"), ("c", "*.eu")] {
        topic.subscription(name).pattern(pattern).create().unwrap();
    }
    let of_headers = topic.subscription("d").pattern("news.eu").header_equals("kind", "x");
    of_headers.create().unwrap();
    topic
}

fn news() -> Message<'static> {
    Message::new("news").subject("news.eu")
}

/// What is watched costs a publish nothing where nothing matches.
#[test]
fn thresholds_of_others_are_not_looked_at() {
    let steps = |others: usize| {
        let disk = SimDisk::new(7);
        let engine = options().sim(&disk).open("store").unwrap();
        let topic = topic(&engine, others);
        let watch = |name: String, subscription: Subscription| {
            (
                subscription.watch(Threshold::Depth(2), move |_| drop(name.clone())).unwrap(),
                subscription,
            )
        };
        let names = (0..others).map(|n| format!("s{n}"));
        let watched: Vec<_> =
            names.map(|it| watch(it.clone(), topic.subscription(&it).open().unwrap())).collect();
        // One gets its filter, and one loses it.
        let alarms = Arc::new(AtomicUsize::new(0));
        let counting = |name: &str| {
            let (subscription, alarms) = (topic.subscription(name), Arc::clone(&alarms));
            let count = move |_| _ = alarms.fetch_add(1, Ordering::Relaxed);
            subscription.create().unwrap().watch(Threshold::Depth(2), count).unwrap()
        };
        let counted = [counting("a"), counting("plain"), counting("later")];
        topic.subscription("later").pattern("news.>").create_or_update().unwrap();
        topic.publish(news()).unwrap();
        assert_eq!(alarms.load(Ordering::Relaxed), 0);
        _ = take_steps();
        topic.publish(news()).unwrap();
        let steps = take_steps();
        assert_eq!(alarms.load(Ordering::Relaxed), 3);
        drop((counted, watched));
        steps
    };
    assert_eq!(steps(10), steps(500));
}

/// The steps of each operation, the longest hold of a publish, and the allocations of a publish.
fn work(others: usize) -> (Vec<(&'static str, u64)>, u64, u64) {
    let disk = SimDisk::new(7);
    let engine = options().sim(&disk).open("store").unwrap();
    let topic = topic(&engine, others);
    topic.publish(news()).unwrap();
    engine.checkpoint().unwrap();
    topic.publish(news()).unwrap();
    let mut all = Vec::new();
    _ = take_longest_holds();
    let mut count = |what: &'static str, act: &dyn Fn()| {
        _ = take_steps();
        act();
        all.push((what, take_steps()));
    };
    count("publish what three get", &|| _ = topic.publish(news()).unwrap());
    count("publish what nobody gets", &|| {
        topic.publish(Message::new("m").subject("nothing.at.all")).unwrap();
    });
    let longest = take_longest_holds()["publish"];
    let before = taken().0;
    topic.publish(news()).unwrap();
    let allocations = taken().0 - before;
    count("publish a batch", &|| {
        topic.publish_batch((0..100).map(|_| news())).unwrap();
    });
    count("create", &|| {
        topic.subscription("new").pattern("news.us.>").pattern("other.*").create().unwrap();
    });
    count("change", &|| {
        topic.subscription("new").pattern("more.>").create_or_update().unwrap();
    });
    count("delete", &|| topic.subscription("new").delete().unwrap());
    let a = topic.subscription("a").open().unwrap();
    count("ack", &|| a.try_receive().unwrap().expect("it was published").ack().unwrap());
    (all, longest, allocations)
}

#[test]
fn a_publish_costs_by_what_matches() {
    let ((few, few_longest, few_taken), (many, longest, taken)) = (work(FEW), work(MANY));
    assert_eq!(few, many);
    assert_eq!((few_longest, few_taken), (longest, taken));
    assert!(longest <= 64, "{longest} steps");
    let plain = work(0).2;
    assert!(taken <= plain, "{taken} allocations, and {plain} without the others");
    let steps = |of: &str| many.iter().find(|(what, _)| *what == of).expect("it was counted").1;
    assert!(steps("publish what nobody gets") < steps("publish what three get"));
    assert!(steps("publish what three get") <= 64, "{many:?}");
}

/// A checkpoint of messages that nobody needs looks at no subscription.
#[test]
fn a_checkpoint_of_rejected_messages_costs_by_them() {
    let steps = |others: usize| {
        let disk = SimDisk::new(7);
        let engine = options().sim(&disk).open("store").unwrap();
        let topic = topic(&engine, others);
        // The metalog begins anew once.
        for _ in 0..2 {
            engine.checkpoint().unwrap();
            topic.publish(Message::new("m").subject("nothing")).unwrap();
        }
        for n in 0..500 {
            topic.publish(Message::new("m").subject(format!("nothing.{n}"))).unwrap();
        }
        _ = take_steps();
        engine.checkpoint().unwrap();
        let steps = take_steps();
        assert!(!disk.files().iter().any(|it| it.starts_with("store/segments")));
        steps
    };
    let (few, many) = (steps(FEW), steps(MANY));
    assert!(many <= few + few / 10, "{few} steps, and {many}");
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many tasks are woken of those that wait for messages of so many subscriptions, and the steps of the publish.
fn woken(durability: Durability, others: usize) -> (usize, u64) {
    let dir = tempfile::tempdir().unwrap();
    let engine = options().durability(durability).open(dir.path().join("store")).unwrap();
    let topic = topic(&engine, others).durability(Durability::Buffered);
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let names = (0..others).map(|n| format!("s{n}"));
    let names = names.chain(["a", "b", "c", "d"].map(str::to_owned));
    let all: Vec<_> = names.map(|name| topic.subscription(&name).open().unwrap()).collect();
    let mut waits: Vec<_> = all.iter().map(Subscription::receive_async).collect();
    waits.iter_mut().for_each(|it| assert!(Pin::new(it).poll(&mut context).is_pending()));
    _ = take_steps();
    topic.publish(news()).unwrap();
    engine.sync().unwrap();
    let steps = take_steps();
    while count.0.load(Ordering::Relaxed) < 3 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(20));
    let woken = count.0.load(Ordering::Relaxed);
    let ready = waits.iter_mut().filter_map(|it| match Pin::new(it).poll(&mut context) {
        Poll::Ready(delivery) => Some(delivery.unwrap()),
        Poll::Pending => None,
    });
    assert_eq!(ready.count(), 3);
    (woken, steps)
}

#[test]
fn a_publish_wakes_those_that_it_matches() {
    for durability in [Durability::Buffered, Durability::Sync] {
        let (few, many) = (woken(durability, 10), woken(durability, 1000));
        assert_eq!((few.0, many.0), (3, 3), "{durability:?}");
        assert!(many.1 <= few.1 + 16, "{durability:?}: {few:?}, {many:?}");
    }
}

/// What is published between two syncs takes memory for each subscription that it matches, and not for each message.
#[test]
fn a_sync_costs_by_the_subscriptions_that_were_matched() {
    let steps = |messages: usize| {
        let disk = SimDisk::new(7);
        let engine = options().durability(Durability::Sync).sim(&disk).open("store").unwrap();
        let topic = topic(&engine, 10).durability(Durability::Buffered);
        (0..messages).for_each(|_| _ = topic.publish(news()).unwrap());
        _ = take_steps();
        engine.sync().unwrap();
        take_steps()
    };
    assert_eq!(steps(10), steps(1000));
}

/// Messages between two that a subscription gets take some bytes for each 65,536 of them.
#[test]
fn rejected_messages_take_next_to_no_memory() {
    alone!();
    let measure = |rejected: usize| {
        let dir = tempfile::tempdir().unwrap();
        let engine = options().open(dir.path().join("store")).unwrap();
        let topic = topic(&engine, 10);
        topic.publish(news()).unwrap();
        let reject = || {
            for _ in 0..rejected / 1000 {
                let messages = (0..1000).map(|_| Message::new("m").subject("nothing"));
                topic.publish_batch(messages).unwrap();
            }
        };
        reject();
        topic.publish(news()).unwrap();
        reject();
        engine.checkpoint().unwrap();
        let a = topic.subscription("a").open().unwrap();
        assert_eq!((a.depth().unwrap(), a.oldest_age().unwrap().is_some()), (2, true));
        live()
    };
    _ = measure(1000);
    let (small, large) = (measure(2_000), measure(40_000));
    assert!(large < small + (40 << 10), "{small} bytes became {large}");
    // With others that match both messages, and for each of them as many messages in between as fill ten chunks.
    let huge = measure(650_000);
    let chunks = 10 * 3;
    println!("{} bytes for each chunk", huge.saturating_sub(large) / chunks);
    assert!(huge < large + (40 << 10) + chunks * 400, "{large} bytes became {huge}");
}

/// The messages of a large batch are matched in slices, before the hold that commits them. That takes a step for each run
/// of 32, and for each range of messages that a subscription gets.
#[test]
fn a_large_batch_is_matched_in_slices() {
    let holds = |messages: usize, one_in: usize| {
        let disk = SimDisk::new(7);
        let engine = options().sim(&disk).open("store").unwrap();
        let topic = topic(&engine, 100);
        let subject = |n: usize| if n.is_multiple_of(one_in) { "news.eu" } else { "news.us.x" };
        _ = take_longest_holds();
        let batch = (0..messages).map(|n| Message::new("m").subject(subject(n)));
        topic.publish_batch(batch).unwrap();
        let holds = take_longest_holds();
        let depth = |name: &str| topic.subscription(name).open().unwrap().depth().unwrap();
        assert_eq!(depth("a"), messages.div_ceil(one_in) as u64);
        assert_eq!(depth("b"), messages as u64);
        (holds["publish"], holds["match a batch"])
    };
    for one_in in [1, 100] {
        let (small, large) = (holds(1_000, one_in), holds(20_000, one_in));
        assert!(large.1 <= 600, "{large:?}");
        let (runs, ranges) = (20_000 / 32, 3 * 20_000 / one_in as u64);
        let ranges = if one_in == 1 { 3 } else { ranges };
        assert!(large.0 <= small.0 + 2 * (runs + 2 * ranges), "{small:?}, {large:?}");
    }
}

/// What the guide says of memory.
#[test]
fn a_filter_takes_about_a_kibibyte_of_memory() {
    alone!();
    const COUNT: usize = 2_000;
    let measure = |patterns: usize| {
        let dir = tempfile::tempdir().unwrap();
        let engine = options().open(dir.path().join("store")).unwrap();
        let topic = engine.topic("t").create().unwrap();
        for n in 0..COUNT {
            let builder = topic.subscription(&format!("s{n}"));
            let pattern = |k: usize| format!("other.{n}.{k}.>");
            let builder = (0..patterns).fold(builder, |it, k| it.pattern(pattern(k)));
            builder.create().unwrap();
        }
        engine.checkpoint().unwrap();
        live() / COUNT
    };
    let [none, one, four] = [0, 1, 4].map(measure);
    println!("{none} bytes for a subscription, {one} with a pattern, {four} with four");
    assert!(one < none + 1200 && four < one + 3 * 300, "{none}, {one}, {four}");
}

/// A subscription that exists is opened, whatever its topic retains: nothing is read for its start.
#[test]
fn a_start_reads_nothing_where_the_subscription_exists() {
    let steps = |messages: usize| {
        let disk = SimDisk::new(7);
        let engine = options().sim(&disk).open("store").unwrap();
        let topic = engine.topic("t").retain_messages(1 << 20).create().unwrap();
        let late = || topic.subscription("late").pattern("news.*").start(Start::Earliest);
        late().create().unwrap();
        (0..messages / 100)
            .for_each(|_| _ = topic.publish_batch((0..100).map(|_| news())).unwrap());
        engine.checkpoint().unwrap();
        _ = take_steps();
        late().create().unwrap();
        assert!(late().create_new().is_err());
        late().create_or_update().unwrap();
        take_steps()
    };
    assert_eq!(steps(100), steps(10_000));
}
