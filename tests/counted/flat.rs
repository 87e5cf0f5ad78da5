//! The work on one thing does not grow with how many others there are. The counts are taken beside numbers of others
//! that are a factor of ten apart: the steps of all loops, the longest hold of the core, and the calls of the disk.

use posthouse::{
    Backoff, Durability, Engine, Message, Options, Queue,
    sim::{SimDisk, take_longest_holds, take_steps},
};

use super::beside_others;

const FEW: usize = 60;
const MANY: usize = 10 * FEW;

/// The most steps of one hold.
const STEPS_MAX: u64 = 64;

/// A store with many queues and subscriptions, all of them in use and with messages in segments.
struct Crowd {
    disk: SimDisk,
    engine: Engine,
    _others: Vec<Box<dyn std::any::Any>>,
}

/// What a piece of work took.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    steps: u64,
    longest: u64,
    calls: u64,
}

impl Crowd {
    fn new(others: usize) -> Crowd {
        let disk = SimDisk::new(7);
        let options = Options::new().durability(Durability::Buffered);
        let engine = options.sim(&disk).open("store").unwrap();
        let queue = engine.queue("q").backoff(Backoff::None).create().unwrap();
        let topic = engine.topic("t").create().unwrap();
        let stream = engine.stream("s").partitions(others as u32).create().unwrap();
        let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
        for n in 0..others {
            let other = engine.queue(&format!("other {n}")).max_attempts(3).create().unwrap();
            other.send_batch(["work", "more"]).unwrap();
            other.try_receive().unwrap().expect("it was sent").ack().unwrap();
            kept.push(Box::new(other));
            kept.push(Box::new(topic.subscription(&format!("s{n}")).create().unwrap()));
            // Records without a key go round the partitions.
            stream.append("event").unwrap();
        }
        kept.push(Box::new(stream.group("g").create().unwrap()));
        // The first checkpoint of an epoch captures everything.
        for _ in 0..3 {
            queue.send_batch(["work", "more"]).unwrap();
            topic.publish("news").unwrap();
            engine.checkpoint().unwrap();
        }
        kept.push(Box::new((queue, topic)));
        Crowd { disk, engine, _others: kept }
    }

    fn count(&self, work: impl FnOnce()) -> Work {
        let _ = (take_longest_holds(), take_steps());
        let calls = self.disk.calls();
        work();
        let longest = take_longest_holds().values().max().copied().unwrap_or(0);
        Work { steps: take_steps(), longest, calls: self.disk.calls() - calls }
    }
}

/// Asserts that the work is the same beside few and beside many others.
fn assert_flat(work: impl Fn(&Crowd) -> Work) {
    let _beside = beside_others();
    let [few, many] = [FEW, MANY].map(|others| work(&Crowd::new(others)));
    // A search in a tree takes a few steps more.
    let grown = many.steps.saturating_sub(few.steps);
    assert!(grown <= 8, "the steps grow: {few:?}, {many:?}");
    assert!(many.longest <= STEPS_MAX, "a hold is long: {few:?}, {many:?}");
    assert!(many.calls <= few.calls + 4, "the calls of the disk grow: {few:?}, {many:?}");
}

#[test]
fn creating_a_queue_does_not_grow_with_the_others() {
    assert_flat(|crowd| {
        crowd.count(|| _ = crowd.engine.queue("new").max_attempts(2).create().unwrap())
    });
}

/// As many records as there are, over many partitions, in one commit.
#[test]
fn a_batch_over_many_partitions_takes_as_many_steps_as_it_has_records() {
    let _beside = beside_others();
    let [few, many] = [FEW, MANY].map(|partitions| {
        let crowd = Crowd::new(10);
        let stream = crowd.engine.stream("wide").partitions(partitions as u32).create().unwrap();
        let records = (0..10 * partitions).map(|n| Message::new("event").key(n.to_string()));
        let records: Vec<_> = records.collect();
        crowd.count(|| assert_eq!(stream.append_batch(&records).unwrap().len(), 10 * partitions))
    });
    assert!(few.steps >= 10 * FEW as u64, "the steps are not counted: {few:?}");
    assert!(many.steps <= 11 * few.steps, "the work is not linear: {few:?}, {many:?}");
}

#[test]
fn a_transaction_to_many_queues_takes_as_many_steps_as_there_are_queues() {
    let _beside = beside_others();
    let [few, many] = [FEW, MANY].map(|queues| {
        let crowd = Crowd::new(queues);
        let open = |n| crowd.engine.queue(&format!("other {n}")).open().unwrap();
        let queues: Vec<Queue> = (0..queues).map(open).collect();
        let stream = crowd.engine.stream("s").open().unwrap();
        let group = stream.group("g").open().unwrap();
        crowd.count(|| {
            let mut tx = crowd.engine.transaction();
            for (n, queue) in queues.iter().enumerate() {
                tx.send(queue, "work");
                tx.commit_offset(&group, n as u32, posthouse::Offset(1));
            }
            tx.commit().unwrap();
        })
    });
    assert!(few.steps >= FEW as u64, "the steps are not counted: {few:?}");
    assert!(many.steps <= 11 * few.steps, "the work is not linear: {few:?}, {many:?}");
}
