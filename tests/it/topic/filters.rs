//! Subjects, patterns and conditions on headers.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use posthouse::{
    Backoff, Durability, Engine, ErrorKind, HeaderFilter, Message, Subscription,
    SubscriptionBuilder, Topic, sim,
};

use crate::support::{Count, HOUR, MINUTE, Sim, everywhere, field, kind, poll};

fn open(engine: &Engine) -> Topic {
    engine.topic("t").create().unwrap()
}

fn on<'m>(subject: &'m str) -> Message<'m> {
    Message::new(subject).subject(subject)
}

fn publish(topic: &Topic, subjects: &[&str]) {
    subjects.iter().for_each(|subject| _ = topic.publish(on(subject)).unwrap());
}

/// The payloads of the messages that wait.
fn waiting(subscription: &Subscription) -> Vec<String> {
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    let all: Vec<_> =
        subscription.browse().unwrap().map(|it| text(it.unwrap().payload())).collect();
    assert_eq!(subscription.depth().unwrap(), all.len() as u64);
    all
}

/// Receives all messages, and acks them.
fn take(subscription: &Subscription) -> Vec<String> {
    let all = subscription.receive_batch(100, Duration::ZERO).unwrap();
    all.iter().for_each(|it| it.ack().unwrap());
    all.iter().map(|it| String::from_utf8(it.payload().to_vec()).unwrap()).collect()
}

const SUBJECTS: [&str; 6] =
    ["orders", "orders.eu", "orders.us", "orders.eu.paid", "orders.us.paid", "refunds.eu"];

#[test]
fn a_subscription_gets_what_its_patterns_match() {
    everywhere(|reopen| {
        let engine = reopen();
        let topic = open(&engine);
        let expected: [(&[&str], &[usize]); 7] = [
            (&["orders.eu"], &[1]),
            (&["orders.*"], &[1, 2]),
            (&["orders.>"], &[1, 2, 3, 4]),
            (&["*.eu"], &[1, 5]),
            (&["orders.*.paid", "refunds.>"], &[3, 4, 5]),
            (&["*"], &[0]),
            (&[], &[0, 1, 2, 3, 4, 5]),
        ];
        let name = |n: usize| format!("s{n}");
        for (n, (patterns, _)) in expected.iter().enumerate() {
            let builder = topic.subscription(&name(n));
            let builder = patterns.iter().fold(builder, |it, pattern| it.pattern(*pattern));
            builder.create().unwrap();
        }
        publish(&topic, &SUBJECTS);
        let check = |topic: &Topic| {
            for (n, (patterns, found)) in expected.iter().enumerate() {
                let subscription = topic.subscription(&name(n)).open().unwrap();
                let found: Vec<&str> = found.iter().map(|n| SUBJECTS[*n]).collect();
                assert_eq!(waiting(&subscription), found, "{patterns:?}");
                assert_eq!(subscription.stats().unwrap().depth, found.len() as u64);
            }
        };
        check(&topic);
        engine.checkpoint().unwrap();
        check(&topic);
        drop((topic, engine));
        let engine = reopen();
        let topic = open(&engine);
        check(&topic);
        for n in 0..expected.len() {
            let subscription = topic.subscription(&name(n)).open().unwrap();
            take(&subscription);
            assert_eq!(subscription.oldest_age().unwrap(), None);
        }
        drop((topic, engine));
        let engine = reopen();
        let topic = open(&engine);
        for n in 0..expected.len() {
            let subscription = topic.subscription(&name(n)).open().unwrap();
            assert_eq!(waiting(&subscription), [""; 0]);
        }
        assert!(engine.verify().unwrap().is_ok());
    });
}

#[test]
fn messages_in_one_commit_are_matched_one_by_one() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    let eu = topic.subscription("eu").pattern("*.eu.>").create().unwrap();
    let many: Vec<String> = (0..300).map(|n| format!("o.{}.{n}", ["eu", "us"][n % 2])).collect();
    let expected: Vec<String> = many.iter().step_by(2).cloned().collect();
    // A large batch is encoded before the core is locked.
    topic.publish_batch(many.iter().map(|it| on(it))).unwrap();
    assert_eq!(take(&eu), expected[..100]);
    assert_eq!(eu.purge().unwrap(), 50);
    let mut tx = sim.engine.transaction();
    many[..40].iter().for_each(|it| _ = tx.publish(&topic, on(it)));
    tx.commit().unwrap();
    assert_eq!(take(&eu), expected[..20]);
    topic.publish(on("o.eu.1").header("large", vec![7; 40 << 10])).unwrap();
    topic.publish_ticket(on("o.us.2")).unwrap().wait().unwrap();
    let sim = sim.kill();
    let eu = open(&sim.engine).subscription("eu").open().unwrap();
    assert_eq!(take(&eu), ["o.eu.1"]);
}

#[test]
fn the_name_of_a_topic_is_the_subject_of_messages_without_one() {
    let sim = Sim::new();
    let topic = sim.engine.topic("order.created").create().unwrap();
    let [created, any, other] = [("a", "order.created"), ("b", "order.*"), ("c", "other.>")]
        .map(|(name, pattern)| topic.subscription(name).pattern(pattern).create().unwrap());
    topic.publish("plain").unwrap();
    topic.publish(Message::new("full").key("k").header("h", "v")).unwrap();
    topic.publish(on("order.deleted")).unwrap();
    assert_eq!(waiting(&created), ["plain", "full"]);
    assert_eq!(waiting(&any), ["plain", "full", "order.deleted"]);
    assert_eq!(waiting(&other), [""; 0]);
    let subjects =
        |it: posthouse::Result<posthouse::Browsed>| it.unwrap().subject().map(str::to_owned);
    let all: Vec<_> = any.browse().unwrap().map(subjects).collect();
    assert_eq!(all, [None, None, Some("order.deleted".to_owned())]);
}

#[test]
fn conditions_on_headers_hold_together_and_beside_patterns() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    let with = |name: &str, set: &dyn Fn(SubscriptionBuilder) -> SubscriptionBuilder| {
        set(topic.subscription(name)).create().unwrap()
    };
    let json = with("json", &|it| it.header_equals("type", "json"));
    let traced = with("traced", &|it| it.header_exists("trace"));
    let texts = with("texts", &|it| it.header_prefix("type", "text/").pattern("a.*"));
    let both = with("both", &|it| it.header_exists("trace").header_equals("type", "json"));
    let message =
        |n: &'static str, subject: &'static str, headers: &[(&'static str, &'static str)]| {
            let message = Message::new(n).subject(subject);
            headers.iter().fold(message, |message, (name, value)| message.header(*name, *value))
        };
    topic
        .publish_batch([
            message("1", "a.b", &[("type", "json")]),
            message("2", "a.b", &[("type", "json"), ("trace", "")]),
            message("3", "a.b", &[("type", "text/html")]),
            message("4", "b.a", &[("type", "text/html"), ("trace", "x")]),
            // One of several headers with a name is enough.
            message("5", "a.c", &[("type", "text/plain"), ("type", "json")]),
            message("6", "a.b", &[]),
        ])
        .unwrap();
    assert_eq!(waiting(&json), ["1", "2", "5"]);
    assert_eq!(waiting(&traced), ["2", "4"]);
    assert_eq!(waiting(&texts), ["3", "5"]);
    assert_eq!(waiting(&both), ["2"]);
}

#[test]
fn impossible_subjects_and_filters_are_refused() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    let queue = sim.engine.queue("q").create().unwrap();
    let stream = sim.engine.stream("s").create().unwrap();
    let long = "x".repeat(256);
    let deep = vec!["x"; 33].join(".");
    for subject in ["", ".", "a.", ".a", "a..b", "a.*", ">", "a.>", "a b", "a.\n", &long, &deep] {
        assert_eq!(
            field(topic.publish(Message::new("m").subject(subject))),
            "subject",
            "{subject:?}"
        );
        assert_eq!(field(queue.send(Message::new("m").subject(subject))), "subject");
        assert_eq!(field(stream.append(Message::new("m").subject(subject))), "subject");
        let batch = (0..100).map(|_| Message::new("m").subject(subject));
        assert_eq!(field(topic.publish_batch(batch)), "subject");
        let mut tx = sim.engine.transaction();
        tx.publish(&topic, Message::new("m").subject(subject));
        assert_eq!(field(tx.commit()), "subject");
    }
    topic.publish(Message::new("m").subject("x".repeat(255))).unwrap();
    let with = |pattern: &str| topic.subscription("s").pattern(pattern).create();
    for pattern in ["", ".", "a.", "a..b", "a.>.b", ">.a", "a.b*", "**", "a b", &long, &deep] {
        assert_eq!(field(with(pattern)), "pattern", "{pattern:?}");
        let update = topic.subscription("s").pattern(pattern).create_or_update();
        assert_eq!(field(update), "pattern");
    }
    let many = |count: usize| {
        (0..count).fold(topic.subscription("many"), |it, n| it.pattern(format!("a.{n}")))
    };
    assert_eq!(field(many(65).create()), "pattern");
    many(64).create().unwrap();
    let conditions = |count: usize| {
        (0..count).fold(topic.subscription("h"), |it, n| it.header_exists(n.to_string()))
    };
    assert_eq!(field(conditions(17).create()), "header_filter");
    conditions(16).create().unwrap();
    assert_eq!(field(topic.subscription("s").header_exists("").create()), "header_filter");
    let value = topic.subscription("s").header_equals("h", vec![7; 1025]).create();
    assert_eq!(field(value), "header_filter");
    assert_eq!(kind(topic.subscription("s").open()), ErrorKind::NotFound);
}

#[test]
fn a_filter_is_a_setting() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    let builder = || topic.subscription("s").pattern("b.>").pattern("a.*").header_exists("h");
    let created = builder().create().unwrap();
    let settings = created.settings().unwrap();
    assert_eq!(settings.patterns, ["a.*", "b.>"]);
    assert_eq!(settings.header_filters, [HeaderFilter::Exists { name: "h".to_owned() }]);
    // The order does not matter, and neither does what is given twice. What is not given may have any value.
    topic.subscription("s").pattern("a.*").pattern("b.>").pattern("a.*").create().unwrap();
    topic.subscription("s").header_exists("h").create().unwrap();
    topic.subscription("s").create().unwrap();
    for other in [
        topic.subscription("s").pattern("a.*"),
        topic.subscription("s").without_patterns(),
        topic.subscription("s").header_exists("i"),
        topic.subscription("s").header_equals("h", ""),
        topic.subscription("s").without_header_filters(),
    ] {
        let error = other.create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(
            error.to_string().contains("a.*") || error.to_string().contains("header"),
            "{error}"
        );
    }
    let plain = topic.subscription("plain").create().unwrap().settings().unwrap();
    assert!(plain.patterns.is_empty() && plain.header_filters.is_empty());
    topic.subscription("s").pattern("c").create_or_update().unwrap();
    let changed = created.settings().unwrap();
    assert_eq!(changed.patterns, ["c"]);
    assert_eq!(changed.header_filters.len(), 1, "it was not given");
    let sim = sim.power_cut();
    let settings = open(&sim.engine).subscription("s").open().unwrap().settings().unwrap();
    assert_eq!((settings.patterns, settings.header_filters.len()), (vec!["c".to_owned()], 1));
}

#[test]
fn a_changed_filter_holds_for_later_messages() {
    for checkpoints in [false, true] {
        let mut sim = Sim::new();
        let steps: [(&[&str], &[&str]); 6] = [
            // What the filter becomes, and what waits once all subjects were published under it.
            (&["a"], &["a"]),
            (&["b", "c"], &["a", "b", "c"]),
            (&[], &["a", "b", "c", "a", "b", "c"]),
            (&["c"], &["a", "b", "c", "a", "b", "c", "c"]),
            (&["b"], &["a", "b", "c", "a", "b", "c", "c", "b"]),
            (&[], &["a", "b", "c", "a", "b", "c", "c", "b", "a", "b", "c"]),
        ];
        for (patterns, expected) in steps {
            let topic = open(&sim.engine);
            let builder = topic.subscription("s").without_patterns();
            let builder = patterns.iter().fold(builder, |it, pattern| it.pattern(*pattern));
            let subscription = builder.create_or_update().unwrap();
            publish(&topic, &["a", "b", "c"]);
            assert_eq!(waiting(&subscription), expected);
            if checkpoints {
                sim.engine.checkpoint().unwrap();
            }
            drop((topic, subscription));
            sim = if patterns.len() == 1 { sim.kill() } else { sim.power_cut() };
            let subscription = open(&sim.engine).subscription("s").open().unwrap();
            assert_eq!(waiting(&subscription), expected);
        }
        let subscription = open(&sim.engine).subscription("s").open().unwrap();
        assert_eq!(take(&subscription).len(), 11);
        let sim = sim.kill();
        assert!(waiting(&open(&sim.engine).subscription("s").open().unwrap()).is_empty());
    }
}

#[test]
fn a_redriven_letter_reaches_its_subscription_whatever_the_filter_says() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    let filtered = |name: &str, pattern: &str| {
        let builder = topic.subscription(name).pattern(pattern).backoff(Backoff::None);
        builder.max_attempts(1).dead_letter_queue("dead").create().unwrap()
    };
    let own = filtered("own", "a.>");
    let same = filtered("same", "a.*");
    let all = topic.subscription("all").create().unwrap();
    topic.publish_batch(["a.1", "a.2"].map(on)).unwrap();
    let fail = |subscription: &Subscription| {
        for delivery in subscription.receive_batch(10, Duration::ZERO).unwrap() {
            delivery.reject("no").unwrap();
        }
    };
    fail(&own);
    let dead = sim.engine.queue("dead").open().unwrap();
    let subjects = |it: posthouse::Result<posthouse::Browsed>| {
        it.unwrap().subject().map(str::to_owned).unwrap()
    };
    let letters: Vec<_> = dead.browse().unwrap().map(subjects).collect();
    assert_eq!(letters, ["a.1", "a.2"], "a letter keeps its subject");
    // Now the filter rejects them.
    topic.subscription("own").pattern("b").create_or_update().unwrap();
    topic.publish(on("b")).unwrap();
    assert_eq!(dead.redrive().run().unwrap().moved, 2);
    topic.publish_batch(["b", "a.3"].map(on)).unwrap();
    let check = |topic: &Topic| {
        let [own, same, all] =
            ["own", "same", "all"].map(|name| topic.subscription(name).open().unwrap());
        assert_eq!(waiting(&own), ["b", "a.1", "a.2", "b"]);
        assert_eq!(waiting(&same), ["a.1", "a.2", "a.3"], "the others do not get them");
        assert_eq!(waiting(&all), ["a.1", "a.2", "b", "b", "a.3"]);
    };
    check(&topic);
    drop((own, same, all, dead, topic));
    let sim = sim.kill();
    check(&open(&sim.engine));
    sim.engine.checkpoint().unwrap();
    let sim = sim.power_cut();
    check(&open(&sim.engine));
    assert!(sim.engine.verify().unwrap().is_ok());
}

#[test]
fn letters_of_several_subscriptions_go_back_in_one_commit() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    let filtered = |name: &str, pattern: &str| {
        let builder = topic.subscription(name).pattern(pattern).backoff(Backoff::None);
        builder.max_attempts(1).dead_letter_queue("dead").create().unwrap()
    };
    let [a, b] = [("a", "x.>"), ("b", "x.*")].map(|(name, pattern)| filtered(name, pattern));
    for n in 0..6 {
        topic.publish(on(&format!("x.{n}"))).unwrap();
        for subscription in [&a, &b] {
            subscription.try_receive().unwrap().unwrap().reject("no").unwrap();
        }
    }
    let dead = sim.engine.queue("dead").open().unwrap();
    assert_eq!(dead.redrive().run().unwrap().moved, 12);
    let expected: Vec<String> = (0..6).map(|n| format!("x.{n}")).collect();
    assert_eq!((waiting(&a), waiting(&b)), (expected.clone(), expected.clone()));
    let sim = sim.kill();
    let topic = open(&sim.engine);
    for name in ["a", "b"] {
        assert_eq!(take(&topic.subscription(name).open().unwrap()), expected);
    }
}

#[test]
fn nothing_of_a_rejected_message_is_seen() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    let eu = topic.subscription("eu").pattern("eu.>").create().unwrap();
    topic.publish(on("us.1")).unwrap();
    topic.publish(on("eu.1")).unwrap();
    (0..50).for_each(|_| _ = topic.publish(on("us.2")).unwrap());
    let stats = eu.stats().unwrap();
    assert_eq!((stats.sent, stats.depth, stats.ready), (1, 1, 1));
    let first = eu.try_receive().unwrap().unwrap();
    topic.publish(on("eu.2")).unwrap();
    topic.publish(on("us.3")).unwrap();
    let stats = eu.stats().unwrap();
    assert_eq!((stats.sent, stats.depth, stats.ready, stats.in_flight), (2, 2, 1, 1));
    // A rejected message cannot be removed: it is not there.
    assert!(!eu.remove(posthouse::Offset(first.offset().0 + 1)).unwrap());
    first.ack().unwrap();
    assert_eq!(eu.purge().unwrap(), 1);
    assert_eq!(eu.depth().unwrap(), 0);
    topic.publish(on("eu.3")).unwrap();
    assert_eq!(eu.stats().unwrap().sent, 3);
    topic.subscription("eu").without_patterns().create_or_update().unwrap();
    topic.publish(on("us.4")).unwrap();
    let stats = eu.stats().unwrap();
    assert_eq!((stats.sent, stats.depth), (4, 2));
}

#[test]
fn what_no_subscription_wants_takes_no_space() {
    let disk = sim::SimDisk::new(3);
    let options = crate::model::small_options();
    let engine = options.sim(&disk).open("store").unwrap();
    let topic = open(&engine);
    for n in 0..20 {
        topic.subscription(&format!("s{n}")).pattern(format!("wanted.{n}")).create().unwrap();
    }
    let pinned = topic.subscription("pinned").pattern("wanted.*").create().unwrap();
    topic.publish(on("wanted.99")).unwrap();
    engine.checkpoint().unwrap();
    let segment_bytes = || -> usize {
        let files = disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
        files.map(|it| disk.content(&it).unwrap().len()).sum()
    };
    let before = segment_bytes();
    for n in 0..2000 {
        topic.publish(Message::new(vec![7; 100]).subject(format!("not.{n}"))).unwrap();
    }
    engine.checkpoint().unwrap();
    assert!(segment_bytes() <= before, "{} bytes, {before} before", segment_bytes());
    assert_eq!(waiting(&pinned), ["wanted.99"]);
    assert_eq!(take(&pinned), ["wanted.99"]);
    engine.checkpoint().unwrap();
    sim::rest(&engine).unwrap();
    assert_eq!(segment_bytes(), 0);
    topic.publish(on("wanted.3")).unwrap();
    let s3 = topic.subscription("s3").open().unwrap();
    assert_eq!(
        (waiting(&s3), waiting(&pinned)),
        (vec!["wanted.3".into()], vec!["wanted.3".into()])
    );
}

#[test]
fn messages_of_filtered_subscriptions_expire() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    let brief = topic.subscription("brief").pattern("a").time_to_live(MINUTE).create().unwrap();
    let long = topic.subscription("long").pattern("a").create().unwrap();
    publish(&topic, &["b", "a", "b", "a", "b"]);
    topic.publish(on("a").expire_after(HOUR)).unwrap();
    sim.disk.advance(2 * MINUTE);
    assert_eq!((brief.depth().unwrap(), brief.stats().unwrap().expired), (0, 3));
    assert_eq!(waiting(&long).len(), 3);
    sim.disk.advance(2 * HOUR);
    assert_eq!(waiting(&long).len(), 2);
    topic.publish(on("a")).unwrap();
    assert_eq!((brief.depth().unwrap(), long.depth().unwrap()), (1, 3));
    let sim = sim.kill();
    sim.disk.advance(2 * MINUTE);
    let topic = open(&sim.engine);
    assert_eq!(topic.subscription("brief").open().unwrap().depth().unwrap(), 0);
    assert_eq!(topic.subscription("long").open().unwrap().depth().unwrap(), 3);
}

#[test]
fn a_new_subscription_of_an_old_name_has_its_own_filter() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    topic.subscription("s").pattern("a").create().unwrap();
    topic.publish(on("a")).unwrap();
    topic.subscription("s").delete().unwrap();
    topic.publish(on("a")).unwrap();
    let s = topic.subscription("s").pattern("b").create().unwrap();
    publish(&topic, &["a", "b"]);
    assert_eq!(waiting(&s), ["b"]);
    sim.engine.topic("t").delete().unwrap();
    let topic = open(&sim.engine);
    let s = topic.subscription("s").pattern("c").create().unwrap();
    publish(&topic, &["b", "c"]);
    assert_eq!(waiting(&s), ["c"]);
    let sim = sim.kill();
    assert_eq!(waiting(&open(&sim.engine).subscription("s").open().unwrap()), ["c"]);
}

/// A task waits for a message that matches. It is woken for that only, and once its filter has changed, for others.
#[test]
fn those_who_wait_are_woken_for_what_matches() {
    for durability in [Durability::Sync, Durability::Buffered] {
        let dir = tempfile::tempdir().unwrap();
        let options = posthouse::Options::new().durability(durability);
        let engine = options.open(dir.path().join("store")).unwrap();
        let topic = open(&engine);
        let subscription =
            |name: &str, pattern: &str| topic.subscription(name).pattern(pattern).create().unwrap();
        let (a, b) = (subscription("a", "a"), subscription("b", "b"));
        let all = topic.subscription("all").create().unwrap();
        let counts = [(); 3].map(|()| Arc::<Count>::default());
        let mut waits = [&a, &b, &all].map(Subscription::receive_async);
        for (waiting, count) in waits.iter_mut().zip(&counts) {
            assert!(poll(waiting, count).is_pending());
        }
        let woken = || [0, 1, 2].map(|n| counts[n].woken());
        topic.publish(on("b")).unwrap();
        assert_eq!(woken(), [0, 1, 1], "{durability:?}");
        topic.publish(on("c")).unwrap();
        assert_eq!(woken()[0], 0);
        topic.publish_batch((0..200).map(|_| on("a"))).unwrap();
        while woken()[0] == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (mut c, count) = (subscription("c", "none").receive_async(), Count::default());
        let count = Arc::new(count);
        assert!(poll(&mut c, &count).is_pending());
        topic.publish(on("a")).unwrap();
        assert_eq!(count.woken(), 0);
        topic.subscription("c").pattern("x").create_or_update().unwrap();
        assert!(poll(&mut c, &count).is_pending());
        let before = count.woken();
        topic.publish(on("x")).unwrap();
        assert!(count.woken() > before);
        assert!(poll(&mut c, &count).is_ready());
    }
}

/// The watch of a topic goes while nobody needs it. Whoever waits for a message that is not visible yet is woken by its sync.
#[test]
fn who_waits_for_a_batch_that_nobody_watched_is_woken_by_its_sync() {
    for messages in [1, 200] {
        let disk = sim::SimDisk::new(5);
        let options = crate::model::small_options().durability(Durability::Sync);
        let engine = options.sim(&disk).open("store").unwrap();
        let topic = open(&engine).durability(Durability::Buffered);
        let subscription = topic.subscription("s").pattern("a").create().unwrap();
        assert!(subscription.try_receive().unwrap().is_none());
        drop(subscription);
        engine.sync().unwrap();
        topic.publish_batch((0..messages).map(|_| on("a"))).unwrap();
        let subscription = topic.subscription("s").open().unwrap();
        let count = Arc::<Count>::default();
        let mut waiting = subscription.receive_async();
        assert!(poll(&mut waiting, &count).is_pending(), "it is not durable");
        engine.sync().unwrap();
        assert!(count.woken() > 0, "{messages} messages");
        assert!(poll(&mut waiting, &count).is_ready());
    }
}

#[test]
fn a_message_for_another_subscription_counts_nowhere() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    let [own, other] =
        ["own", "other"].map(|name| topic.subscription(name).pattern("a").create().unwrap());
    for _ in 0..3 {
        sim::publish_to(&own, on("a"), Durability::Sync).unwrap();
    }
    assert_eq!((own.stats().unwrap().sent, other.stats().unwrap().sent), (3, 0));
    publish(&topic, &["a", "b", "a"]);
    assert_eq!((own.stats().unwrap().sent, other.stats().unwrap().sent), (5, 2));
    // One that gets a filter meanwhile has the messages that were there.
    topic.subscription("other").without_patterns().create_or_update().unwrap();
    sim::publish_to(&own, on("b"), Durability::Sync).unwrap();
    publish(&topic, &["c"]);
    assert_eq!((own.stats().unwrap().sent, other.stats().unwrap().sent), (6, 3));
    assert_eq!((waiting(&own).len(), waiting(&other).len()), (6, 3));
}

/// A subscription gets a filter, or loses it, between two redrives to another one whose letters follow each other. A recovery
/// gives all turns at once, at its end.
#[test]
fn filters_that_change_between_letters_of_others_mean_the_same_after_a_crash() {
    type Change = fn(SubscriptionBuilder) -> SubscriptionBuilder;
    let given: Change = |it| it.pattern("x");
    let taken: Change = SubscriptionBuilder::without_patterns;
    for changes in [[given, taken, given], [taken, given, taken], [taken, taken, given]] {
        for is_late in [false, true] {
            let sim = Sim::new();
            let topic = open(&sim.engine);
            let own = topic.subscription("own").create().unwrap();
            let change = |change: Change| {
                let other = change(topic.subscription("other")).create_or_update();
                drop(other.unwrap());
            };
            let redrive = || _ = sim::publish_to(&own, on("a"), Durability::Sync).unwrap();
            if !is_late {
                change(changes[0]);
            }
            redrive();
            change(changes[1]);
            redrive();
            change(changes[2]);
            redrive();
            topic.publish(on("x")).unwrap();
            redrive();
            let other = topic.subscription("other").open().unwrap();
            assert_eq!(waiting(&other), ["x"]);
            drop((own, other, topic));
            let sim = sim.kill();
            let topic = open(&sim.engine);
            let own = topic.subscription("own").open().unwrap();
            assert_eq!(waiting(&own), ["a", "a", "a", "x", "a"]);
            let other = topic.subscription("other").open().unwrap();
            assert_eq!(waiting(&other), ["x"], "late: {is_late}");
        }
    }
}

type Receiving = Pin<Box<dyn Future<Output = posthouse::Result<posthouse::Delivery>> + Send>>;

/// Polls a future whenever it is woken, as a runtime with a thread for it may do at once.
struct Eager {
    future: Mutex<Option<Receiving>>,
    is_done: AtomicBool,
}

impl Eager {
    fn poll(self: &Arc<Eager>) {
        // Nobody else polls it: the future is there unless it is just being polled.
        let Some(mut future) = self.future.lock().unwrap().take() else { return };
        let waker = Waker::from(Arc::clone(self));
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(delivery) => {
                delivery.unwrap();
                self.is_done.store(true, Ordering::SeqCst);
            }
            Poll::Pending => *self.future.lock().unwrap() = Some(future),
        }
    }
}

impl Wake for Eager {
    fn wake(self: Arc<Eager>) {
        self.poll();
    }
}

/// The filter of a subscription changes while a message for it is not durable yet. Who waits looks when the filter changes, sees
/// nothing, and waits for something else from then on. The sync of the change makes the message visible, and wakes it.
#[test]
fn who_waits_while_the_filter_changes_is_woken_for_what_was_not_visible_yet() {
    type Change = fn(SubscriptionBuilder) -> SubscriptionBuilder;
    let x: Change = |it| it.pattern("x");
    let y: Change = |it| it.pattern("y");
    let all: Change = SubscriptionBuilder::without_patterns;
    for (before, after) in [(all, x), (all, y), (x, all), (x, y), (x, x), (all, all)] {
        for messages in [1, 200] {
            let disk = sim::SimDisk::new(5);
            let options = crate::model::small_options().durability(Durability::Sync);
            let engine = options.sim(&disk).open("store").unwrap();
            let topic = open(&engine).durability(Durability::Buffered);
            let subscription = before(topic.subscription("s")).create().unwrap();
            let waits = subscription.clone();
            let future = Box::pin(async move { waits.receive_async().await });
            let (future, is_done) = (Mutex::new(Some(future as _)), AtomicBool::new(false));
            let eager = Arc::new(Eager { future, is_done });
            eager.poll();
            topic.publish_batch((0..messages).map(|_| on("x"))).unwrap();
            assert!(!eager.is_done.load(Ordering::SeqCst), "it is not durable");
            // Another setting changes in any case.
            let builder = after(topic.subscription("s")).backoff(Backoff::None);
            drop(builder.create_or_update().unwrap());
            engine.sync().unwrap();
            assert!(eager.is_done.load(Ordering::SeqCst), "{messages} messages: it sleeps on");
        }
    }
}

/// A recovery applies the change of a filter anew. What it counts then concerns no later message.
#[test]
fn a_filter_that_was_taken_away_before_a_crash_counts_nothing_behind_it() {
    let sim = Sim::new();
    let topic = open(&sim.engine);
    drop(topic.subscription("s").pattern("x").create().unwrap());
    publish(&topic, &["y"; 5]);
    drop(topic.subscription("s").without_patterns().create_or_update().unwrap());
    drop(topic);
    let sim = sim.kill();
    let topic = open(&sim.engine);
    let subscription = topic.subscription("s").open().unwrap();
    topic.publish("plain").unwrap();
    assert_eq!(subscription.stats().unwrap().sent, 1);
}
