//! Deletions of what has many subscriptions, groups and partitions. The deletion is one commit; its holds do not grow.

use posthouse::{Engine, ErrorKind, Stream, Subscription};

use crate::slices::{assert_sliced, count, open};

fn subscriptions(engine: &Engine, many: usize) -> Vec<Subscription> {
    let topic = engine.topic("t").create().unwrap();
    let all = (0..many).map(|n| topic.subscription(&format!("s{n}")).create().unwrap());
    let all: Vec<Subscription> = all.collect();
    topic.publish("news").unwrap();
    all
}

#[test]
fn the_subscriptions_of_a_deleted_topic_leave_in_slices() {
    assert_sliced(|many| {
        let (_disk, engine) = open();
        let all = subscriptions(&engine, many);
        // Half of them have their state in memory.
        all.iter().step_by(2).for_each(|it| it.try_receive().unwrap().unwrap().nack().unwrap());
        let work = count(|| engine.topic("t").delete().unwrap());
        let error = |it: &Subscription| it.try_receive().unwrap_err();
        assert!(all.iter().all(|it| error(it).kind() == ErrorKind::NotFound));
        engine.topic("t").create().unwrap().subscription("s7").create().unwrap();
        assert_eq!(engine.topics().unwrap(), ["t"]);
        work
    });
}

const GROUPS: usize = 9;

fn stream(engine: &Engine, partitions: usize) -> Stream {
    let stream = engine.stream("s").partitions(partitions as u32).create().unwrap();
    (0..GROUPS).for_each(|n| _ = stream.group(&format!("g{n}")).create().unwrap());
    stream.append_batch((0..partitions).map(|n| n.to_string())).unwrap();
    stream
}

#[test]
fn the_partitions_and_groups_of_a_deleted_stream_leave_in_slices() {
    assert_sliced(|many| {
        let (_disk, engine) = open();
        let stream = stream(&engine, many / (1 + GROUPS));
        let work = count(|| engine.stream("s").delete().unwrap());
        assert_eq!(stream.append("more").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(stream.groups().unwrap_err().kind(), ErrorKind::NotFound);
        work
    });
}

/// A group has a cursor for each partition.
#[test]
fn the_cursors_of_a_deleted_group_leave_in_slices() {
    let [few, many] = [400, 4000].map(|partitions| {
        let (_disk, engine) = open();
        let stream = stream(&engine, partitions);
        let work = count(|| stream.group("g3").delete().unwrap());
        assert_eq!(stream.groups().unwrap().len(), GROUPS - 1);
        assert_eq!(stream.len().unwrap(), partitions as u64);
        work
    });
    assert_eq!(few.longest["delete"], many.longest["delete"]);
    assert!(many.longest["delete"] < 300, "{many:?}");
    assert!(many.steps >= 4000 && many.steps <= 12 * few.steps, "{few:?}, {many:?}");
}
