//! Commits of many messages, or to many logs, hold the core for one step for each log, and everything else is done outside.

use std::time::Duration;

use posthouse::{
    Durability, Engine, Message, Options,
    Overflow::DropOldest,
    Queue,
    sim::{SimDisk, take_longest_holds},
};

/// Logs whose waiters are woken in one hold.
const SLICE: u64 = 256;
/// The steps of a hold that do not grow.
const REST: u64 = 8;

fn open(durability: Durability) -> Engine {
    let disk = SimDisk::new(3);
    Options::new().durability(durability).sim(&disk).open("store").unwrap()
}

/// The longest holds of an operation, and of all others.
fn holds(of: &str, act: impl FnOnce()) -> (u64, u64) {
    let _ = take_longest_holds();
    act();
    let longest = take_longest_holds();
    let others = longest.iter().filter(|(operation, _)| **operation != of);
    (longest[of], others.map(|(_, steps)| *steps).max().unwrap_or(0))
}

#[test]
fn a_transaction_to_many_queues_holds_the_core_for_a_step_for_each() {
    for durability in [Durability::Buffered, Durability::Sync] {
        for count in [300, 3000] {
            let engine = open(durability);
            let make = |n| engine.queue(&format!("q{n}")).create().unwrap();
            let queues: Vec<Queue> = (0..count).map(make).collect();
            let (hold, others) = holds("commit a transaction", || {
                let mut tx = engine.transaction();
                queues.iter().for_each(|queue| _ = tx.send(queue, "work"));
                tx.commit().unwrap();
            });
            assert!(hold <= count + REST, "{durability:?}, {count} queues: {hold} steps");
            assert!(others <= SLICE, "{durability:?}, {count} queues: {others} steps");
            assert!(queues.iter().all(|queue| queue.depth().unwrap() == 1));
        }
    }
}

/// One to add its records, and one to note for readers that it got some.
#[test]
fn a_batch_over_many_partitions_holds_the_core_for_two_steps_for_each() {
    for durability in [Durability::Buffered, Durability::Sync] {
        for partitions in [300, 3000] {
            let engine = open(durability);
            let stream = engine.stream("s").partitions(partitions).create().unwrap();
            // Ten records of each partition, in any order.
            let records = (0..10 * partitions).map(|n| Message::new(n.to_string()));
            let records: Vec<_> = records.collect();
            let (hold, others) =
                holds("append a batch", || _ = stream.append_batch(&records).unwrap());
            let partitions = u64::from(partitions);
            assert!(hold <= 2 * partitions + REST, "{durability:?}, {partitions}: {hold} steps");
            assert!(others <= SLICE, "{durability:?}, {partitions}: {others} steps");
            assert_eq!(stream.len().unwrap(), 10 * partitions);
        }
    }
}

/// Also where the queue has rules for what it gets: each message was encoded under the core then.
#[test]
fn a_batch_to_one_queue_holds_the_core_for_a_step_for_each_run() {
    for messages in [320, 32_000] {
        let engine = open(Durability::Buffered);
        let queue = || engine.queue("q");
        let hour = Duration::from_secs(3600);
        let kinds = [
            ("plain", queue()),
            ("with a time to live", queue().time_to_live(hour)),
            ("with a limit", queue().max_messages(messages)),
            ("that drops its oldest", queue().max_messages(messages).overflow(DropOldest)),
            ("ordered by key", queue().ordered_by_key(true)),
        ];
        for (kind, builder) in kinds {
            let queue = builder.create().unwrap();
            let (hold, others) =
                holds("send", || _ = queue.send_batch((0..messages).map(|_| "work")).unwrap());
            assert!(hold <= messages / 32 + REST, "{messages} to a queue {kind}: {hold} steps");
            assert!(others <= SLICE, "{messages} to a queue {kind}: {others} steps");
            assert_eq!(queue.depth().unwrap(), messages);
            drop(queue);
            engine.queue("q").delete().unwrap();
        }
    }
}
