//! Topics that retain messages for those who come late.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use posthouse::{
    Backoff, Durability, Engine, IoMode, Message, Offset, Start, Subscription, Timestamp, Topic,
    sim,
};

use crate::support::{HOUR, MINUTE, Sim, everywhere, field};

fn on<'m>(subject: &'m str) -> Message<'m> {
    Message::new(subject).subject(subject)
}

/// The payloads of the messages that wait.
fn waiting(subscription: &Subscription) -> Vec<String> {
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    let all: Vec<_> =
        subscription.browse().unwrap().map(|it| text(it.unwrap().payload())).collect();
    assert_eq!(subscription.depth().unwrap(), all.len() as u64);
    all
}

fn late(topic: &Topic, name: &str, start: Start) -> Subscription {
    topic.subscription(name).start(start).create_new().unwrap()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("m{n}")).collect()
}

fn publish(topic: &Topic, range: std::ops::Range<u32>) {
    topic.publish_batch(numbers(range)).unwrap();
}

#[test]
fn who_comes_late_gets_the_newest_messages() {
    everywhere(|reopen| {
        let engine = reopen();
        let topic = engine.topic("t").retain_messages(4).create().unwrap();
        publish(&topic, 0..3);
        assert_eq!(waiting(&late(&topic, "a", Start::Earliest)), numbers(0..3));
        publish(&topic, 3..10);
        engine.checkpoint().unwrap();
        assert_eq!(waiting(&late(&topic, "b", Start::Earliest)), numbers(6..10));
        // What a subscription has not acked stays in any case.
        assert_eq!(waiting(&topic.subscription("a").open().unwrap()), numbers(0..10));
        assert_eq!(waiting(&late(&topic, "new", Start::Latest)), numbers(0..0));
        drop((topic, engine));
        let engine = reopen();
        let topic = engine.topic("t").open().unwrap();
        assert_eq!(topic.settings().unwrap().retain_messages, Some(4));
        assert_eq!(waiting(&late(&topic, "c", Start::Earliest)), numbers(6..10));
        assert_eq!(waiting(&late(&topic, "d", Start::Offset(Offset(8)))), numbers(8..10));
        assert_eq!(waiting(&late(&topic, "e", Start::Offset(Offset(10)))), numbers(0..0));
        publish(&topic, 10..12);
        assert_eq!(waiting(&topic.subscription("e").open().unwrap()), numbers(10..12));
        assert!(engine.verify().unwrap().is_ok());
        drop((topic, engine));
        let engine = reopen();
        let topic = engine.topic("t").open().unwrap();
        for (name, from) in [("a", 0), ("b", 6), ("c", 6), ("d", 8), ("e", 10), ("new", 10)] {
            let subscription = topic.subscription(name).open().unwrap();
            assert_eq!(waiting(&subscription), numbers(from..12), "{name}");
        }
    });
}

#[test]
fn messages_leave_by_their_age() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").retain_age(HOUR).create().unwrap();
    for n in 0..10 {
        publish(&topic, n..n + 1);
        sim.disk.advance(10 * MINUTE);
        sim::rest(&sim.engine).unwrap();
    }
    // A hundred minutes have passed.
    let found = waiting(&late(&topic, "a", Start::Earliest));
    assert!((5..=7).contains(&found.len()) && found == numbers(10 - found.len() as u32..10));
    sim.disk.advance(2 * HOUR);
    sim::rest(&sim.engine).unwrap();
    assert_eq!(waiting(&late(&topic, "b", Start::Earliest)), numbers(0..0));
    assert_eq!(waiting(&topic.subscription("a").open().unwrap()), found);
}

#[test]
fn messages_leave_by_their_bytes_and_their_space_is_freed() {
    let disk = sim::SimDisk::new(3);
    let options = crate::model::small_options().segment_bytes(4096).block_bytes(512);
    let engine = options.sim(&disk).open("store").unwrap();
    let topic = engine.topic("t").retain_bytes(6000).create().unwrap();
    let payload = |n: u32| format!("{n:0100}");
    for round in 0..20 {
        topic.publish_batch((0..20).map(|n| payload(round * 20 + n))).unwrap();
        engine.checkpoint().unwrap();
    }
    let segments = || {
        let files = disk.files();
        let all = files.iter().filter(|it| it.starts_with("store/segments"));
        all.map(|it| disk.content(it).unwrap().len()).sum::<usize>()
    };
    let found = waiting(&late(&topic, "a", Start::Earliest));
    assert!((45..80).contains(&found.len()), "{}", found.len());
    assert_eq!(found.last(), Some(&payload(399)));
    assert!(segments() < 24_000, "{} bytes", segments());
    topic.subscription("a").delete().unwrap();
    engine.topic("t").without_retention().create_or_update().unwrap();
    for _ in 0..3 {
        engine.checkpoint().unwrap();
    }
    assert_eq!(segments(), 0);
}

#[test]
fn limits_come_change_and_go() {
    let sim = Sim::new();
    let engine = &sim.engine;
    let topic = engine.topic("t").create().unwrap();
    publish(&topic, 0..2);
    assert_eq!(field(topic.subscription("a").start(Start::Earliest).create()), "start");
    engine.topic("t").retain_messages(3).create_or_update().unwrap();
    // What was published before is gone.
    publish(&topic, 2..4);
    assert_eq!(waiting(&late(&topic, "a", Start::Earliest)), numbers(2..4));
    let other = engine.topic("t").retain_messages(4).create().unwrap_err();
    assert_eq!(other.kind(), posthouse::ErrorKind::AlreadyExists);
    assert!(other.to_string().contains("retain_messages"), "{other}");
    engine.topic("t").retain_age(HOUR).create_or_update().unwrap();
    engine.topic("t").retain_messages(3).retain_age(HOUR).create().unwrap();
    engine.topic("t").retain_messages(1).create_or_update().unwrap();
    engine.checkpoint().unwrap();
    assert_eq!(waiting(&late(&topic, "b", Start::Earliest)), numbers(3..4));
    engine.topic("t").without_retention().create_or_update().unwrap();
    assert_eq!(field(topic.subscription("c").start(Start::Earliest).create()), "start");
    // An existing one goes on where it is.
    assert_eq!(waiting(&topic.subscription("b").start(Start::Earliest).create().unwrap()), ["m3"]);
    drop(topic);
    let sim = sim.kill();
    let topic = sim.engine.topic("t").open().unwrap();
    assert_eq!(topic.settings().unwrap().retain_messages, None);
    sim.engine.topic("t").retain_messages(9).create_or_update().unwrap();
    publish(&topic, 4..6);
    sim.engine.checkpoint().unwrap();
    drop(topic);
    let sim = sim.power_cut();
    let topic = sim.engine.topic("t").open().unwrap();
    assert_eq!(waiting(&late(&topic, "d", Start::Earliest)), numbers(4..6));
    assert_eq!(waiting(&topic.subscription("a").open().unwrap()), numbers(2..6));
    assert!(sim.engine.verify().unwrap().is_ok());
    for builder in [
        sim.engine.topic("u").retain_messages(0),
        sim.engine.topic("u").retain_bytes(0),
        sim.engine.topic("u").retain_age(Duration::ZERO),
    ] {
        assert!(field(builder.create()).starts_with("retain_"));
    }
}

#[test]
fn a_start_is_a_place_that_is_retained() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").retain_messages(4).create().unwrap();
    let own = topic.subscription("own").create().unwrap();
    for n in 0..10 {
        publish(&topic, n..n + 1);
        sim.disk.advance(MINUTE);
    }
    let times: Vec<_> = own.browse().unwrap().map(|it| it.unwrap().timestamp()).collect();
    sim.engine.checkpoint().unwrap();
    for offset in [5, 11] {
        let builder = topic.subscription("x").start(Start::Offset(Offset(offset)));
        assert_eq!(field(builder.create()), "start");
        let refused = builder.create().unwrap_err();
        assert!(refused.to_string().contains("from 6 on, and ends at 10"), "{refused}");
    }
    for (n, time, from) in [
        (0, Timestamp(0), 6),
        (1, times[2], 6),
        (2, times[7], 7),
        (3, Timestamp(times[9].0 + 1), 10),
    ] {
        assert_eq!(waiting(&late(&topic, &format!("t{n}"), Start::Time(time))), numbers(from..10));
    }
}

/// With a filter, what matches before the creation and behind it, and in the right order. Letters of others are not retained.
#[test]
fn who_comes_late_with_a_filter_gets_what_matches() {
    for checkpoints in [false, true] {
        let sim = Sim::new();
        let topic = sim.engine.topic("t").retain_messages(1000).create().unwrap();
        let own = topic.subscription("own").create().unwrap();
        let subject = |n: usize| ["a.1", "b", "a.2", "c.3.4", "b"][n % 5];
        for n in 0..40 {
            topic.publish(Message::new(format!("m{n}")).subject(subject(n))).unwrap();
            if n % 7 == 3 {
                sim::publish_to(&own, on("a.1"), Durability::Sync).unwrap();
            }
            if checkpoints && n % 9 == 5 {
                sim.engine.checkpoint().unwrap();
            }
        }
        let expected = |of: &[&str]| -> Vec<String> {
            (0..40).filter(|n| of.contains(&subject(*n))).map(|n| format!("m{n}")).collect()
        };
        let subscribe = |name: &str, patterns: &[&str]| {
            let builder = topic.subscription(name).start(Start::Earliest);
            let builder = patterns.iter().fold(builder, |it, pattern| it.pattern(*pattern));
            builder.create_new().unwrap()
        };
        let all = late(&topic, "all", Start::Earliest);
        assert_eq!(waiting(&all), expected(&["a.1", "b", "a.2", "c.3.4"]));
        let one = subscribe("one", &["a.*"]);
        assert_eq!(waiting(&one), expected(&["a.1", "a.2"]));
        assert_eq!(waiting(&subscribe("two", &["b", "c.>"])), expected(&["b", "c.3.4"]));
        assert_eq!(waiting(&subscribe("none", &["d"])), numbers(0..0));
        topic.publish_batch(["b", "a.9", "d"].map(on)).unwrap();
        let check = |topic: &Topic| {
            let open = |name: &str| waiting(&topic.subscription(name).open().unwrap());
            let with = |mut before: Vec<String>, last: &[&str]| {
                before.extend(last.iter().map(|it| (*it).to_owned()));
                before
            };
            assert_eq!(open("one"), with(expected(&["a.1", "a.2"]), &["a.9"]));
            assert_eq!(open("two"), with(expected(&["b", "c.3.4"]), &["b"]));
            assert_eq!(open("none"), ["d"]);
        };
        check(&topic);
        drop((own, all, one, topic));
        let sim = sim.kill();
        check(&sim.engine.topic("t").open().unwrap());
        sim.engine.checkpoint().unwrap();
        let sim = sim.power_cut();
        check(&sim.engine.topic("t").open().unwrap());
        assert!(sim.engine.verify().unwrap().is_ok());
    }
}

/// Others publish while it is created: it gets each message that matches once, wherever that falls.
#[test]
fn who_comes_late_while_others_publish_misses_nothing() {
    for io in [IoMode::Map, IoMode::Calls] {
        let dir = tempfile::tempdir().unwrap();
        let options = posthouse::Options::new().durability(Durability::Buffered).io(io);
        let engine = options.open(dir.path().join("store")).unwrap();
        let topic = engine.topic("t").retain_messages(1 << 20).create().unwrap();
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let publisher = scope.spawn(|| {
                let mut n = 0;
                while !is_done.load(Ordering::Relaxed) {
                    let message = |n: usize| Message::new("m").subject(["a", "b"][n % 2]);
                    topic.publish_batch((n..n + 50).map(message)).unwrap();
                    n += 50;
                    thread::sleep(Duration::from_micros(500));
                }
                n
            });
            let mut made = Vec::new();
            for round in 0..8 {
                thread::sleep(Duration::from_millis(5));
                let builder = topic.subscription(&format!("s{round}")).start(Start::Earliest);
                made.push(builder.pattern("a").create_new());
            }
            // The publisher ends also if a creation has failed.
            is_done.store(true, Ordering::Relaxed);
            let n = publisher.join().unwrap();
            made.into_iter().for_each(|it| drop(it.unwrap()));
            for round in 0..8 {
                let subscription = topic.subscription(&format!("s{round}")).open().unwrap();
                assert_eq!(subscription.depth().unwrap(), n as u64 / 2, "{io:?}, {round}");
            }
        });
    }
}

/// A message that expires is not delivered, retained or not.
#[test]
fn a_retained_message_whose_life_is_over_is_not_delivered() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").retain_messages(10).create().unwrap();
    topic.publish(Message::new("brief").expire_after(MINUTE)).unwrap();
    topic.publish("long").unwrap();
    sim.disk.advance(HOUR);
    sim::rest(&sim.engine).unwrap();
    let late = late(&topic, "late", Start::Earliest);
    let next = late.try_receive().unwrap().unwrap();
    assert_eq!(next.payload(), b"long");
    next.ack().unwrap();
    assert!(late.try_receive().unwrap().is_none());
    assert_eq!(late.depth().unwrap(), 0);
}

/// A topic with a keeper is deleted whole, also in the journal and after a crash.
#[test]
fn a_topic_that_retains_messages_is_deleted_whole() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").retain_messages(10).create().unwrap();
    let dead = topic.subscription("s").backoff(Backoff::None).max_attempts(1).create().unwrap();
    publish(&topic, 0..5);
    sim.engine.checkpoint().unwrap();
    drop((topic, dead));
    sim.engine.topic("t").delete().unwrap();
    let again = sim.engine.topic("t").create().unwrap();
    assert_eq!(again.settings().unwrap().retain_messages, None);
    drop(again);
    let sim = sim.kill();
    sim.engine.checkpoint().unwrap();
    let sim = sim.power_cut();
    assert!(sim.engine.verify().unwrap().is_ok());
    let engine: &Engine = &sim.engine;
    assert!(engine.topic("t").open().unwrap().subscriptions().unwrap().is_empty());
}

/// Letters of others were the last messages, and are gone: nothing is to be read there.
#[test]
fn who_comes_late_behind_many_letters_of_others_does_not_wait() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").retain_messages(1000).create().unwrap();
    let own = topic.subscription("own").create().unwrap();
    publish(&topic, 0..1);
    sim.engine.checkpoint().unwrap();
    for _ in 0..300 {
        sim::publish_to(&own, on("a"), Durability::Buffered).unwrap();
    }
    assert_eq!(own.purge().unwrap(), 301);
    sim.engine.checkpoint().unwrap();
    let late = topic.subscription("late").pattern(">").start(Start::Earliest).create().unwrap();
    assert_eq!(waiting(&late), numbers(0..1));
    let end = Start::Offset(Offset(301));
    let late = topic.subscription("end").pattern(">").start(end).create().unwrap();
    assert_eq!(waiting(&late), numbers(0..0));
    publish(&topic, 1..3);
    assert_eq!(waiting(&late), numbers(1..3));
}

/// Its keeper has the number that the cursor of a queue has.
#[test]
fn a_topic_that_retains_messages_takes_none_with_a_delay() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").retain_messages(10).create().unwrap();
    let after = Message::new("m").deliver_after(HOUR);
    assert_eq!(field(topic.publish(after.clone())), "deliver_after");
    let mut tx = sim.engine.transaction();
    tx.publish(&topic, after);
    assert_eq!(field(tx.commit()), "deliver_after");
    assert_eq!(
        field(topic.publish(Message::new("m").deliver_at(Timestamp(u64::MAX >> 20)))),
        "deliver_at"
    );
    assert_eq!(field(topic.publish(Message::new("m").priority(3))), "priority");
}

#[test]
fn a_start_of_a_topic_that_is_gone_says_so() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").retain_messages(10).create().unwrap();
    sim.engine.topic("t").delete().unwrap();
    for start in [Start::Earliest, Start::Latest, Start::Time(Timestamp(5))] {
        let made = topic.subscription("late").pattern("a").start(start).create();
        assert_eq!(crate::support::kind(made), posthouse::ErrorKind::NotFound, "{start:?}");
    }
}

/// Older messages that others need lie in one block with newer ones, and between them some have left.
#[test]
fn a_number_of_messages_is_kept_exactly_where_others_need_older_ones() {
    let disk = sim::SimDisk::new(3);
    // With large blocks.
    let engine = posthouse::Options::new().sim(&disk).open("store").unwrap();
    let topic = engine.topic("t").retain_messages(50).create().unwrap();
    for round in 0..30 {
        for n in 0..40 {
            let subject = if n % 3 == 0 { "k.a" } else { "k.b" };
            topic.publish(Message::new("m").subject(subject)).unwrap();
        }
        if round % 3 == 1 {
            let late = topic.subscription(&format!("s{round}")).start(Start::Earliest);
            late.pattern("k.a").create().unwrap();
        }
        engine.checkpoint().unwrap();
        let all = late(&topic, "all", Start::Earliest);
        assert_eq!(all.depth().unwrap(), if round == 0 { 40 } else { 50 }, "round {round}");
        topic.subscription("all").delete().unwrap();
    }
}
