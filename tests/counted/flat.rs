//! The work on one thing does not grow with how many others there are. The counts are taken beside numbers of others
//! that are a factor of ten apart: the steps of all loops, the longest hold of the core, and the calls of the disk.

use posthouse::{
    Backoff, Durability, Engine, Message, Offset, Options, Queue, Topic, partition_of,
    sim::{SimDisk, take_longest_holds, take_steps},
};

const FEW: usize = 30;
const MANY: usize = 10 * FEW;

/// The most steps of one hold.
const STEPS_MAX: u64 = 64;

/// A store with many queues and subscriptions, all of them in use and with messages in segments.
struct Crowd {
    disk: SimDisk,
    engine: Engine,
    queue: Queue,
    topic: Topic,
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
        // The first checkpoint of an epoch captures everything, and each looks once more at the segments that the one
        // before it has made.
        for _ in 0..3 {
            queue.send_batch(["work", "more"]).unwrap();
            topic.publish("news").unwrap();
            engine.checkpoint().unwrap();
        }
        queue.send("work").unwrap();
        engine.checkpoint().unwrap();
        Crowd { disk, engine, queue, topic, _others: kept }
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
    let [few, many] = [FEW, MANY].map(|others| work(&Crowd::new(others)));
    // A search in a tree takes a few steps more.
    let grown = many.steps.saturating_sub(few.steps);
    assert!(grown <= 8, "the steps grow: {few:?}, {many:?}");
    assert!(many.longest <= STEPS_MAX, "a hold is long: {few:?}, {many:?}");
    assert!(many.calls <= few.calls + 4, "the calls of the disk grow: {few:?}, {many:?}");
}

#[test]
fn a_checkpoint_with_one_changed_queue_does_not_grow_with_the_others() {
    assert_flat(|crowd| {
        crowd.queue.send("one more").unwrap();
        crowd.count(|| crowd.engine.checkpoint().unwrap())
    });
}

/// Of all streams with limits, a checkpoint looks at those that records came to.
#[test]
fn a_checkpoint_does_not_grow_with_the_streams_that_have_limits() {
    let hour = std::time::Duration::from_secs(3600);
    let works = [FEW, MANY].map(|others| {
        let disk = SimDisk::new(7);
        let options = Options::new().durability(Durability::Buffered);
        let engine = options.sim(&disk).open("store").unwrap();
        let limited = |name: &str| {
            let builder = engine.stream(name).max_records(5).max_bytes(1000).max_age(hour);
            builder.create().unwrap()
        };
        for n in 0..others {
            limited(&format!("other {n}")).append("record").unwrap();
        }
        let stream = limited("s");
        let checkpoint = || {
            stream.append_batch(["one", "more"]).unwrap();
            let _ = (take_longest_holds(), take_steps());
            engine.checkpoint().unwrap();
            take_steps()
        };
        // The first ones look at all of them.
        let _ = [checkpoint(), checkpoint(), checkpoint()];
        checkpoint()
    });
    assert!(works[1] <= works[0] + 8, "{works:?}");
}

/// What groups have not read is told by the one that is behind all others.
#[test]
fn a_trim_does_not_grow_with_the_groups_that_keep_what_they_have_not_read() {
    let works = [FEW, MANY].map(|groups| {
        let disk = SimDisk::new(7);
        let options = Options::new().durability(Durability::Buffered);
        let engine = options.sim(&disk).open("store").unwrap();
        let stream = engine.stream("s").max_records(5).create().unwrap();
        stream.append_batch(["record"; 100]).unwrap();
        for n in 0..groups {
            let builder = stream.group(&format!("{n}")).keeps_unread(true);
            builder.create().unwrap().commit(0, Offset(90 + n as u64 % 5)).unwrap();
        }
        engine.checkpoint().unwrap();
        assert_eq!(stream.len().unwrap(), 10);
        stream.append_batch(["one", "more"]).unwrap();
        let _ = (take_longest_holds(), take_steps());
        engine.checkpoint().unwrap();
        take_steps()
    });
    assert!(works[1] <= works[0] + 8, "{works:?}");
}

/// Queues with a delayed message keep their state. Each checkpoint looked at all of them.
#[test]
fn a_checkpoint_does_not_grow_with_the_queues_that_cannot_go_to_rest() {
    let works = [FEW, MANY].map(|others| {
        let disk = SimDisk::new(7);
        let options = Options::new().durability(Durability::Buffered).idle_kept(0);
        let engine = options.sim(&disk).open("store").unwrap();
        let queue = engine.queue("q").create().unwrap();
        let hour = std::time::Duration::from_secs(3600);
        let open = |n| engine.queue(&format!("other {n}")).create().unwrap();
        let others: Vec<Queue> = (0..others).map(open).collect();
        for other in &others {
            other.send(Message::new("later").deliver_after(hour)).unwrap();
        }
        let checkpoint = || {
            queue.send("work").unwrap();
            let _ = (take_longest_holds(), take_steps());
            engine.checkpoint().unwrap();
            take_steps()
        };
        let _ = [checkpoint(), checkpoint(), checkpoint()];
        let steps = checkpoint();
        // Those whose messages are gone go to rest.
        others.iter().for_each(|other| assert_eq!(other.purge().unwrap(), 1));
        let _ = [checkpoint(), checkpoint(), checkpoint()];
        assert!(posthouse::sim::awake(&engine) <= 1);
        steps
    });
    assert!(works[1] <= works[0] + 8, "the steps grow: {works:?}");
}

#[test]
fn a_checkpoint_after_one_ack_does_not_grow_with_the_others() {
    assert_flat(|crowd| {
        crowd.queue.try_receive().unwrap().expect("it was sent").ack().unwrap();
        crowd.queue.send("one more").unwrap();
        crowd.count(|| crowd.engine.checkpoint().unwrap())
    });
}

#[test]
fn a_checkpoint_that_drops_the_segments_of_one_queue_does_not_grow_with_the_others() {
    assert_flat(|crowd| {
        crowd.queue.purge().unwrap();
        crowd.count(|| crowd.engine.checkpoint().unwrap())
    });
}

#[test]
fn a_checkpoint_after_one_commit_of_a_group_does_not_grow_with_the_others() {
    assert_flat(|crowd| {
        let group = crowd.engine.stream("s").open().unwrap().group("g").open().unwrap();
        group.commit(3, Offset(1)).unwrap();
        crowd.queue.send("one more").unwrap();
        crowd.count(|| crowd.engine.checkpoint().unwrap())
    });
}

/// On the simulated disk, a call does what the engine's threads do in time.
#[test]
fn a_call_that_has_what_expired_leave_does_not_grow_with_the_queues_whose_messages_live() {
    assert_flat(|crowd| {
        let life = std::time::Duration::from_secs(1);
        let queues = crowd.engine.queues().unwrap();
        for (n, name) in queues.iter().enumerate() {
            let queue = crowd.engine.queue(name).open().unwrap();
            let life = if n < 3 { life } else { 1000 * life };
            queue.send(Message::new("brief").expire_after(life)).unwrap();
        }
        let before = crowd.count(|| _ = crowd.queue.depth().unwrap());
        assert!(before.steps <= 8 && before.calls == 0, "nothing has expired: {before:?}");
        crowd.disk.advance(life);
        let swept = crowd.count(|| _ = crowd.queue.depth().unwrap());
        let expired =
            |name: &String| crowd.engine.queue(name).open().unwrap().stats().unwrap().expired;
        assert_eq!(queues.iter().map(expired).sum::<u64>(), 3);
        assert!(swept.steps > before.steps, "{before:?}, {swept:?}");
        swept
    });
}

#[test]
fn deleting_one_queue_does_not_grow_with_the_others() {
    assert_flat(|crowd| {
        crowd.count(|| {
            crowd.engine.queue("q").delete().unwrap();
            crowd.engine.checkpoint().unwrap();
        })
    });
}

#[test]
fn deleting_a_queue_with_dead_letters_does_not_grow_with_the_others() {
    assert_flat(|crowd| {
        crowd.count(|| {
            let letters = crowd.engine.queue("other 1.dead");
            assert!(letters.delete().unwrap_err().to_string().contains("\"other 1\""));
            crowd.engine.queue("other 1").delete().unwrap();
            letters.delete().unwrap();
        })
    });
}

#[test]
fn deleting_one_subscription_does_not_grow_with_the_others() {
    assert_flat(|crowd| crowd.count(|| crowd.topic.subscription("s7").delete().unwrap()));
}

#[test]
fn creating_a_queue_does_not_grow_with_the_others() {
    assert_flat(|crowd| {
        crowd.count(|| _ = crowd.engine.queue("new").max_attempts(2).create().unwrap())
    });
}

/// The most steps of a hold of work that is done in slices.
const SLICE_MAX: u64 = 1200;

/// Asserts that the work follows what changed, in slices: at most so many steps for each thing that changed.
fn assert_follows(steps_of_each: u64, work: impl Fn(usize) -> Work) {
    for changed in [FEW, MANY] {
        let work = work(changed);
        assert!(work.steps >= changed as u64, "the steps are not counted: {work:?}");
        let most = steps_of_each * changed as u64 + 200;
        assert!(work.steps <= most, "{changed} things changed: {work:?}");
        assert!(work.longest <= SLICE_MAX, "a hold is long: {changed} things changed: {work:?}");
    }
}

#[test]
fn a_checkpoint_of_many_changed_queues_works_in_slices() {
    assert_follows(16, |changed| {
        let crowd = Crowd::new(10);
        for n in 0..changed {
            let new = crowd.engine.queue(&format!("new {n}")).create().unwrap();
            new.send_batch(["work", "more"]).unwrap();
            new.try_receive().unwrap().expect("it was sent").ack().unwrap();
        }
        crowd.count(|| crowd.engine.checkpoint().unwrap())
    });
}

/// The first checkpoint after an open captures everything, and looks at all segments.
#[test]
fn the_first_checkpoint_of_an_epoch_works_in_slices() {
    assert_follows(30, |others| {
        let mut crowd = Crowd::new(others);
        crowd.engine.close().unwrap();
        let options = Options::new().durability(Durability::Buffered);
        crowd.engine = options.sim(&crowd.disk).open("store").unwrap();
        crowd.engine.queue("q").open().unwrap().send("work").unwrap();
        crowd.count(|| crowd.engine.checkpoint().unwrap())
    });
}

#[test]
fn a_checkpoint_of_a_long_queue_works_in_slices() {
    assert_follows(4, |messages| {
        let crowd = Crowd::new(10);
        (0..10 * messages).for_each(|_| _ = crowd.queue.send("work").unwrap());
        (0..messages as u64).for_each(|n| {
            crowd.queue.remove(Offset(20 + 3 * n)).unwrap();
        });
        let work = crowd.count(|| crowd.engine.checkpoint().unwrap());
        Work { steps: work.steps / 10, ..work }
    });
}

/// Each subscription has acked another message, and all of them the first ones.
#[test]
fn a_checkpoint_of_a_topic_takes_as_many_steps_as_it_has_messages_and_subscriptions() {
    assert_follows(30, |subscriptions| {
        let crowd = Crowd::new(subscriptions);
        crowd.engine.checkpoint().unwrap();
        (0..200).for_each(|_| _ = crowd.topic.publish("news").unwrap());
        for n in 0..subscriptions {
            let subscription = crowd.topic.subscription(&format!("s{n}")).open().unwrap();
            let received = subscription.receive_batch(30, std::time::Duration::ZERO).unwrap();
            subscription.ack_batch(&received).unwrap();
        }
        crowd.count(|| crowd.engine.checkpoint().unwrap())
    });
}

/// Under the core, each message of a block was looked at for each subscription.
#[test]
fn a_rewrite_of_a_topic_takes_as_many_steps_as_it_has_messages_and_subscriptions() {
    assert_follows(30, |subscriptions| {
        let crowd = Crowd::new(subscriptions);
        let stays = |offset: u64| offset.is_multiple_of(8);
        (0..400).for_each(|_| _ = crowd.topic.publish("news").unwrap());
        crowd.engine.checkpoint().unwrap();
        for n in 0..subscriptions {
            let subscription = crowd.topic.subscription(&format!("s{n}")).open().unwrap();
            let received = subscription.receive_batch(500, std::time::Duration::ZERO).unwrap();
            let acked: Vec<_> = received.iter().filter(|it| !stays(it.offset().0)).collect();
            subscription.ack_batch(acked).unwrap();
        }
        let before = crowd.disk.bytes_written("segments");
        let work = crowd.count(|| crowd.engine.checkpoint().unwrap());
        assert!(crowd.disk.bytes_written("segments") > before, "nothing was rewritten");
        work
    });
}

/// The acks of each subscription were copied for each segment that was judged.
#[test]
fn judging_the_segments_of_a_topic_copies_no_acks() {
    alone!();
    let of = |subscriptions: usize| {
        let disk = SimDisk::new(7);
        let options = Options::new().durability(Durability::Buffered);
        let options = options.segment_bytes(16 << 10).block_bytes(4 << 10);
        let engine = options.sim(&disk).open("store").unwrap();
        let topic = engine.topic("t").create().unwrap();
        let subscribe = |n| topic.subscription(&format!("s{n}")).create().unwrap();
        let all: Vec<_> = (0..subscriptions).map(subscribe).collect();
        for _ in 0..40 {
            topic.publish_batch((0..100).map(|_| vec![b'x'; 100])).unwrap();
        }
        engine.checkpoint().unwrap();
        for subscription in &all {
            for _ in 0..4 {
                let got = subscription.receive_batch(1000, std::time::Duration::ZERO).unwrap();
                // Too few are dead for a rewrite, and in each segment some are.
                let acked: Vec<_> = got.iter().filter(|it| it.offset().0 % 5 > 2).collect();
                subscription.ack_batch(acked).unwrap();
                std::mem::forget(got);
            }
        }
        let before = super::heap::taken().1;
        engine.checkpoint().unwrap();
        super::heap::taken().1 - before
    };
    let (few, many) = (of(3), of(12));
    // Each one's acks are captured, in a chunk of some 3 kB.
    assert!(many - few <= 9 * (32 << 10), "{few} and {many} bytes");
}

/// Subscriptions that leave a segment behind do not look at each other.
#[test]
fn subscriptions_that_catch_up_take_as_many_steps_as_there_are() {
    let [few, many] = [FEW, MANY].map(|subscriptions| {
        let crowd = Crowd::new(subscriptions);
        crowd.count(|| {
            for n in 0..subscriptions {
                let subscription = crowd.topic.subscription(&format!("s{n}")).open().unwrap();
                let received = subscription.receive_batch(3, std::time::Duration::ZERO).unwrap();
                assert_eq!(received.len(), 3);
                subscription.ack_batch(&received).unwrap();
            }
        })
    });
    assert!(few.steps >= FEW as u64, "the steps are not counted: {few:?}");
    assert!(many.steps <= 11 * few.steps, "the work is not linear: {few:?}, {many:?}");
}

/// The records of one commit over many partitions: a step for each run of a partition, one to note it for readers, and one
/// to wake them.
#[test]
fn a_batch_over_many_partitions_takes_as_many_steps_as_there_are_partitions() {
    let [few, many] = [FEW, MANY].map(|partitions| {
        let crowd = Crowd::new(10);
        let stream = crowd.engine.stream("wide").partitions(partitions as u32).create().unwrap();
        let records = (0..10 * partitions).map(|n| Message::new("event").key(n.to_string()));
        let records: Vec<_> = records.collect();
        crowd.count(|| assert_eq!(stream.append_batch(&records).unwrap().len(), 10 * partitions))
    });
    assert!(few.steps >= FEW as u64, "the steps are not counted: {few:?}");
    for (cost, partitions) in [(few, FEW), (many, MANY)] {
        assert!(cost.steps <= 3 * partitions as u64 + 10, "{cost:?}");
    }
}

#[test]
fn a_transaction_to_many_queues_takes_as_many_steps_as_there_are_queues() {
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
                tx.commit_offset(&group, n as u32, Offset(1));
            }
            tx.commit().unwrap();
        })
    });
    assert!(few.steps >= FEW as u64, "the steps are not counted: {few:?}");
    assert!(many.steps <= 11 * few.steps, "the work is not linear: {few:?}, {many:?}");
}

/// The end is compared under the core: that takes the lookup of the log, and no walk.
#[test]
fn an_append_at_the_expected_end_takes_the_steps_of_a_plain_one() {
    for durability in [Durability::Buffered, Durability::Sync] {
        let crowd = Crowd::new(FEW);
        let stream = crowd.engine.stream("s").open().unwrap().durability(durability);
        let key = (0..).map(|n| n.to_string()).find(|key| partition_of(key.as_bytes(), 30) == 7);
        let (key, partition) = (key.unwrap(), stream.partition(7).unwrap());
        let record = || Message::new("event").key(key.clone());
        let end = || Offset(partition.end().unwrap().0);
        for is_first in [true, false] {
            let plain = crowd.count(|| _ = stream.append(record()).unwrap());
            let at = end();
            let expecting = crowd.count(|| _ = partition.append_if(at, record()).unwrap());
            let refused = crowd.count(|| _ = partition.append_if(at, record()).unwrap_err());
            let in_many = crowd.count(|| {
                let mut tx = crowd.engine.transaction();
                tx.durability(durability).append_if(&partition, at.next(), record());
                tx.expect_end(&stream.partition(0).unwrap(), Offset(1));
                tx.commit().unwrap();
            });
            if !is_first {
                assert_eq!(plain, expecting, "{durability:?}");
                assert!(refused.steps <= plain.steps && refused.calls == 0, "{refused:?}");
                assert!(in_many.steps <= plain.steps + 6, "{plain:?}, {in_many:?}");
            }
        }
    }
}
