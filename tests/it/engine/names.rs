//! Names and settings of queues, topics, subscriptions, streams and groups.

use std::time::Duration;

use posthouse::{ErrorKind, Options};

use crate::support::{everywhere, kind, real};

#[test]
fn names_are_created_opened_listed_and_deleted() {
    everywhere(|open| {
        let longest = "é".repeat(127) + "x";
        let engine = open();
        for name in ["b", "a", "../../etc/passwd", "queue\0with\nodd/characters", "日本", &longest]
        {
            assert_eq!(kind(engine.queue(name).open()), ErrorKind::NotFound);
            assert_eq!(kind(engine.queue(name).delete()), ErrorKind::NotFound);
            engine.queue(name).create().unwrap();
            engine.queue(name).create().unwrap();
            assert_eq!(kind(engine.queue(name).create_new()), ErrorKind::AlreadyExists);
            // Queues, topics and streams have names of their own.
            engine.topic(name).create_new().unwrap().subscription(name).create_new().unwrap();
            engine.stream(name).create_new().unwrap().group(name).create_new().unwrap();
        }
        for name in ["", &"x".repeat(256)] {
            let invalid = ErrorKind::InvalidInput { field: "name" };
            assert_eq!(kind(engine.queue(name).create()), invalid);
            assert_eq!(kind(engine.topic(name).create()), invalid);
            assert_eq!(kind(engine.stream(name).create()), invalid);
            assert_eq!(kind(engine.queue(name).open()), invalid);
            assert_eq!(kind(engine.queue(name).delete()), invalid);
        }
        engine.queue("a").delete().unwrap();
        drop(engine);

        let engine = open();
        let queues = engine.queues().unwrap();
        assert_eq!(queues.len(), 5);
        assert!(queues.is_sorted() && !queues.contains(&"a".to_owned()));
        assert_eq!(engine.topics().unwrap().len(), 6);
        assert_eq!(engine.streams().unwrap().len(), 6);
        let topic = engine.topic("日本").open().unwrap();
        assert_eq!(topic.subscriptions().unwrap(), ["日本"]);
        assert_eq!(engine.stream("日本").open().unwrap().groups().unwrap(), ["日本"]);
        topic.subscription("日本").delete().unwrap();
        engine.topic("日本").delete().unwrap();
        assert_eq!(kind(topic.publish("for nobody")), ErrorKind::NotFound);
    });
}

#[test]
fn settings_are_checked_and_compared() {
    let (engine, _dir) = real();
    let queue = |seconds| engine.queue("q").lease(Duration::from_secs(seconds));
    queue(5).create().unwrap();
    queue(5).create().unwrap();
    assert_eq!(kind(queue(6).create()), ErrorKind::AlreadyExists);
    engine.queue("q").create().unwrap();
    for lease in [0, 24 * 60 * 60 + 1, u64::MAX / 4] {
        assert_eq!(kind(queue(lease).create()), ErrorKind::InvalidInput { field: "lease" });
    }
    for partitions in [0, 4097, u32::MAX] {
        let made = engine.stream("s").partitions(partitions).create();
        assert_eq!(kind(made), ErrorKind::InvalidInput { field: "partitions" });
    }
    engine.stream("s").partitions(3).create().unwrap();
    assert_eq!(kind(engine.stream("s").partitions(4).create()), ErrorKind::AlreadyExists);
    assert_eq!(engine.stream("s").create().unwrap().partitions(), 3);
    for options in [
        Options::new().message_bytes_max(0),
        Options::new().journal_file_bytes_min(1),
        Options::new().journal_bytes(1),
        Options::new().block_bytes(0),
        Options::new().maps_max(0),
        Options::new().sync_interval(Duration::ZERO),
        Options::new().commit_bytes_max(u64::MAX),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let opened = options.open(dir.path().join("store"));
        assert!(matches!(kind(opened), ErrorKind::InvalidInput { .. }), "{options:?}");
        assert!(!dir.path().join("store").exists(), "nothing is made for wrong settings");
    }
}

#[test]
fn handles_know_their_names() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let topic = engine.topic("t").create().unwrap();
    let subscription = topic.subscription("u").create().unwrap();
    let stream = engine.stream("s").partitions(2).create().unwrap();
    let group = stream.group("g").create().unwrap();
    let names = [queue.name(), topic.name(), subscription.name(), stream.name(), group.name()];
    assert_eq!(names, ["q", "t", "u", "s", "g"]);
    assert_eq!(format!("{queue:?}"), "Queue { name: \"q\", .. }");
    assert_eq!(format!("{topic:?}"), "Topic { name: \"t\", .. }");
    assert_eq!(format!("{subscription:?}"), "Subscription { name: \"u\", .. }");
    assert_eq!(format!("{stream:?}"), "Stream { name: \"s\", partitions: 2, .. }");
    assert_eq!(format!("{group:?}"), "Group { name: \"g\", stream: \"s\", .. }");
    assert!(format!("{:?}", group.reader().unwrap()).starts_with("Reader { stream: \"s\""));
}
