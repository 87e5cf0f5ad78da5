//! An error that something was deleted says what: a program has many handles, and its log shows only the error.

use std::{future::poll_fn, pin::Pin, time::Duration};

use futures_core::Stream as _;
use posthouse::{
    Delivery, Engine, ErrorKind, Offset, Queue, Result, Start, Stream, Subscription, Threshold,
};

use crate::support::{HOUR, Sim, block_on};

/// The outcome of each call, by its name.
type Calls = Vec<(&'static str, Result<()>)>;

fn assert_all_name(what: &str, calls: Calls) {
    for (call, outcome) in calls {
        let Err(error) = outcome else { panic!("{call}: {what} was deleted, but it succeeds") };
        assert_eq!(error.kind(), ErrorKind::NotFound, "{call}: {error}");
        let expected = format!(
            "{what} was deleted; this handle is of no use any more: create or open it again"
        );
        assert_eq!(error.to_string(), expected, "{call}");
    }
}

fn first_of(mut deliveries: posthouse::Deliveries) -> Result<()> {
    let next = poll_fn(|context| Pin::new(&mut deliveries).poll_next(context));
    block_on(next).expect("it tells the error").map(drop)
}

macro_rules! calls_of_a_consumer {
    ($handle:expr, $delivery:expr, $browse:expr) => {{
        let handle = &$handle;
        let calls: Calls = vec![
            ("settings", handle.settings().map(drop)),
            ("with_max_in_flight", handle.with_max_in_flight(1).map(drop)),
            ("is_active", handle.is_active().map(drop)),
            ("receive", handle.receive(Duration::ZERO).map(drop)),
            ("try_receive", handle.try_receive().map(drop)),
            ("receive_batch", handle.receive_batch(2, Duration::ZERO).map(drop)),
            ("receive_async", block_on(handle.receive_async()).map(drop)),
            ("receive_batch_async", block_on(handle.receive_batch_async(2)).map(drop)),
            ("deliveries", first_of(handle.deliveries())),
            ("depth", handle.depth().map(drop)),
            ("in_flight", handle.in_flight().map(drop)),
            ("delayed", handle.delayed().map(drop)),
            ("oldest_age", handle.oldest_age().map(drop)),
            ("stats", handle.stats().map(drop)),
            ("latencies", handle.latencies().map(drop)),
            ("watch", handle.watch(Threshold::Depth(1), drop).map(drop)),
            ("browse", handle.browse().map(drop)),
            ("a browse that has begun", $browse.next().expect("it tells the error").map(drop)),
            ("remove", handle.remove(Offset(0)).map(drop)),
            ("purge", handle.purge().map(drop)),
            ("redrive", handle.redrive().run().map(drop)),
            ("run_async", block_on(handle.worker().run_async(async |_| Ok::<(), String>(())))),
        ];
        calls.into_iter().chain(calls_of_a_delivery(&$delivery)).collect::<Calls>()
    }};
}

fn calls_of_a_delivery(delivery: &Delivery) -> Calls {
    vec![
        ("extend", delivery.extend(HOUR)),
        ("hold", delivery.hold(HOUR)),
        ("nack", delivery.nack()),
        ("ack", delivery.ack()),
    ]
}

#[test]
fn the_error_of_a_deleted_queue_says_which() {
    let sim = Sim::new();
    let queue = sim.engine.queue("payments").create().unwrap();
    queue.send_batch(["a", "b", "c"]).unwrap();
    let delivery = queue.try_receive().unwrap().unwrap();
    let mut browse = queue.browse().unwrap();
    sim.engine.queue("payments").delete().unwrap();
    // Another queue with its name is another queue.
    sim.engine.queue("payments").create().unwrap();
    let calls = calls_of_a_consumer!(queue, delivery, browse);
    assert_all_name("queue \"payments\"", calls);
    let sends = vec![
        ("send", queue.send("a").map(drop)),
        ("send_batch", queue.send_batch(["a", "b"]).map(drop)),
        ("send_batch of none", queue.send_batch::<&str>([]).map(drop)),
        ("send_ticket", queue.send_ticket("a").map(drop)),
        ("send_within", queue.send_within("a", HOUR).map(drop)),
        ("send_async", block_on(queue.send_async("a")).map(drop)),
        ("send_delayed", queue.send(posthouse::Message::new("a").deliver_after(HOUR)).map(drop)),
        ("bytes", queue.bytes().map(drop)),
    ];
    assert_all_name("queue \"payments\"", sends);
}

#[test]
fn the_error_of_a_deleted_subscription_says_which_and_of_which_topic() {
    let sim = Sim::new();
    let topic = sim.engine.topic("orders").create().unwrap();
    let open = |name: &str| -> (Subscription, Delivery, posthouse::Browse) {
        let subscription = topic.subscription(name).create().unwrap();
        topic.publish_batch(["a", "b", "c"]).unwrap();
        let delivery = subscription.try_receive().unwrap().unwrap();
        let browse = subscription.browse().unwrap();
        (subscription, delivery, browse)
    };
    let (subscription, delivery, mut browse) = open("shipping");
    topic.subscription("shipping").delete().unwrap();
    let calls = calls_of_a_consumer!(subscription, delivery, browse);
    assert_all_name("subscription \"shipping\" of topic \"orders\"", calls);

    let (subscription, delivery, mut browse) = open("billing");
    sim.engine.topic("orders").delete().unwrap();
    for (call, outcome) in calls_of_a_consumer!(subscription, delivery, browse) {
        let error = outcome.expect_err(call).to_string();
        assert!(error.contains("topic \"orders\" was deleted"), "{call}: {error}");
    }
    let calls = vec![
        ("settings", topic.settings().map(drop)),
        ("publish", topic.publish("a").map(drop)),
        ("publish_batch", topic.publish_batch(["a", "b"]).map(drop)),
        ("publish_batch of none", topic.publish_batch::<&str>([]).map(drop)),
        ("publish_ticket", topic.publish_ticket("a").map(drop)),
        ("publish_async", block_on(topic.publish_async("a")).map(drop)),
        ("subscription", topic.subscription("new").create().map(drop)),
        ("subscriptions", topic.subscriptions().map(drop)),
    ];
    assert_all_name("topic \"orders\"", calls);
}

fn stream(engine: &Engine) -> Stream {
    let stream = engine.stream("clicks").partitions(3).create().unwrap();
    stream.append_batch(["a", "b", "c", "d", "e", "f"]).unwrap();
    stream
}

#[test]
fn the_error_of_a_deleted_stream_or_group_says_which() {
    let sim = Sim::new();
    let stream = stream(&sim.engine);
    let last = stream.partition(2).unwrap();
    let group = stream.group("counters").create().unwrap();
    let other = stream.group("others").create().unwrap();
    let until = stream.reader(Start::Latest).unwrap();
    let (mut reader, mut of_group) = (stream.reader(Start::Latest).unwrap(), group.reader());
    stream.group("counters").delete().unwrap();
    let calls = |group: &posthouse::Group, reader: &posthouse::Reader| -> Calls {
        vec![
            ("committed", group.committed(2).map(drop)),
            ("commit", group.commit(2, Offset(1))),
            ("commit_reader", group.commit_reader(reader)),
            ("commit_reader_async", block_on(group.commit_reader_async(reader))),
            ("lags", group.lags().map(drop)),
            ("lag", group.lag().map(drop)),
            ("reader", group.reader().map(drop)),
        ]
    };
    assert_all_name("group \"counters\" of stream \"clicks\"", calls(&group, &reader));
    assert!(of_group.as_mut().unwrap().next().unwrap().is_ok(), "its reader goes on");

    sim.engine.stream("clicks").delete().unwrap();
    for (call, outcome) in calls(&other, &reader) {
        let error = outcome.expect_err(call).to_string();
        assert!(error.contains("stream \"clicks\" was deleted"), "{call}: {error}");
    }
    let calls = vec![
        ("settings", stream.settings().map(drop)),
        ("len", stream.len().map(drop)),
        ("append", stream.append("a").map(drop)),
        ("append_batch", stream.append_batch(["a", "b"]).map(drop)),
        ("append_batch of none", stream.append_batch::<&str>([]).map(drop)),
        ("append_ticket", stream.append_ticket("a").map(drop)),
        ("append_async", block_on(stream.append_async("a")).map(drop)),
        ("start", last.start().map(drop)),
        ("end", last.end().map(drop)),
        ("last", last.last().map(drop)),
        ("append_if", last.append_if(Offset(0), "a").map(drop)),
        ("append_if_async", block_on(last.append_if_async(Offset(0), "a")).map(drop)),
        ("append_batch_if of none", last.append_batch_if::<&str>(Offset(0), []).map(drop)),
        ("reader_at", stream.reader_at([]).map(drop)),
        ("until_now", until.until_now().map(drop)),
        ("trim_before", last.trim_before(Offset(0))),
        ("reader of a partition", last.reader(Start::Earliest).map(drop)),
        ("reader of the latest", stream.reader(Start::Latest).map(drop)),
        ("reader from an offset", last.reader(Start::Offset(Offset(1))).map(drop)),
        ("reader from a time", stream.reader(Start::Time(sim.now())).map(drop)),
        ("try_read", reader.try_read().map(drop)),
        ("read", reader.read(HOUR).map(drop)),
        ("read_async", block_on(reader.read_async()).map(drop)),
        ("skip_damaged", reader.skip_damaged().map(drop)),
        ("next", reader.next().expect("it tells the error").map(drop)),
        ("group", stream.group("new").create().map(drop)),
        ("groups", stream.groups().map(drop)),
    ];
    assert_all_name("stream \"clicks\"", calls);
}

#[test]
fn the_error_of_a_transaction_says_which_of_its_handles_was_deleted() {
    let sim = Sim::new();
    let engine = &sim.engine;
    let stays = engine.queue("stays").create().unwrap();
    let queue: Queue = engine.queue("payments").create().unwrap();
    let topic = engine.topic("orders").create().unwrap();
    let stream = stream(engine);
    let group = stream.group("counters").create().unwrap();
    queue.send("a").unwrap();
    let delivery = queue.try_receive().unwrap().unwrap();
    stream.group("counters").delete().unwrap();
    let of_group = {
        let mut tx = engine.transaction();
        tx.send(&stays, "a").commit_offset(&group, 2, Offset(1));
        tx.commit()
    };
    let calls = vec![("commit_offset", of_group.map(drop))];
    assert_all_name("group \"counters\" of stream \"clicks\"", calls);
    engine.queue("payments").delete().unwrap();
    engine.topic("orders").delete().unwrap();
    engine.stream("clicks").delete().unwrap();
    let failed = |add: &dyn Fn(&mut posthouse::Transaction)| {
        let begun = || {
            let mut tx = engine.transaction();
            tx.send(&stays, "a");
            add(&mut tx);
            tx
        };
        vec![
            ("commit", begun().commit().map(drop)),
            ("commit_ticket", begun().commit_ticket().map(drop)),
            ("commit_async", block_on(begun().commit_async()).map(drop)),
        ]
    };
    assert_all_name(
        "queue \"payments\"",
        failed(&|tx| {
            tx.send(&queue, "b");
        }),
    );
    assert_all_name(
        "queue \"payments\"",
        failed(&|tx| {
            tx.ack(&delivery);
        }),
    );
    assert_all_name(
        "queue \"payments\"",
        failed(&|tx| {
            tx.nack(&delivery);
        }),
    );
    assert_all_name(
        "topic \"orders\"",
        failed(&|tx| {
            tx.publish(&topic, "b");
        }),
    );
    assert_all_name(
        "stream \"clicks\"",
        failed(&|tx| {
            tx.append(&stream, "b");
        }),
    );
    assert_eq!(stays.depth().unwrap(), 0, "all or nothing");
}
