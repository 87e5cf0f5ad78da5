//! What others see between the slices of a deletion.

use super::*;
use crate::{engine::core::commit::CommitResult, ids::EntityId};

const SUBSCRIPTIONS: usize = 200;
const PARTITIONS: u32 = 100;
const HOUR: Duration = Duration::from_secs(3600);

/// Deletes a topic or a stream as `definition::delete` does, and leaves what belongs to it to later slices.
fn begin_to_delete(engine: &Engine, space: Space, name: &str) {
    let committer = engine.committer();
    let begun = committer.transact("delete", |core| -> CommitResult<_> {
        let entity: EntityId = core.store.find(space, name).expect("it is there").id;
        let receipt = core.commit(&[Op::Delete { entity }], committer.now_plain())?;
        assert!(core.follow_deletions(), "something is left");
        Ok(((), receipt))
    });
    let ((), _receipt) = begun.expect("there is space");
}

fn entities(engine: &Engine) -> usize {
    engine.committer().lock("test").store.state().catalog.all().len()
}

/// A topic with many subscriptions that have messages on lease, and a stream with groups. All are deleted. If they have segments,
/// the checkpointer comes at once.
fn deleted(disk: &SimDisk, has_segments: bool) -> Engine {
    let engine = open(disk, Config { journal_bytes: 4 << 20, ..config() });
    let letters = engine.queue("letters").create().expect("there is space");
    letters.send("a letter").expect("there is space");
    let topic = engine.topic("t").create().expect("there is space");
    let name = |n: usize| format!("s{n}");
    let subscriptions: Vec<_> = (0..SUBSCRIPTIONS)
        .map(|n| {
            let subscription = topic.subscription(&name(n)).dead_letter_queue("letters");
            let subscription = subscription.max_attempts(3).lease(HOUR);
            subscription.create().expect("there is space")
        })
        .collect();
    let stream = engine.stream("s").partitions(PARTITIONS).create().expect("there is space");
    let groups = ["g", "h"].map(|name| stream.group(name).create().expect("there is space"));
    topic.publish("news").expect("there is space");
    let position = stream.append("event").expect("there is space");
    if has_segments {
        engine.checkpoint().expect("the disk is well");
    }
    topic.publish("more news").expect("there is space");
    let receive = |n: usize| subscriptions[n].try_receive().expect("it is there").expect("news");
    let held = [0, SUBSCRIPTIONS - 1].map(receive);

    begin_to_delete(&engine, Space::Topics, "t");
    begin_to_delete(&engine, Space::Streams, "s");
    for (n, delivery) in [0, SUBSCRIPTIONS - 1].into_iter().zip(held) {
        let error = subscriptions[n].try_receive().expect_err("it was deleted");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let expected = format!("subscription {:?} of topic \"t\" was deleted", name(n));
        assert!(error.to_string().starts_with(&expected), "{error}");
        let mut tx = engine.transaction();
        tx.ack(&delivery);
        tx.send(&letters, "done");
        assert_eq!(tx.commit().expect_err("it was deleted").kind(), ErrorKind::NotFound);
        assert!(topic.subscription(&name(n)).open().is_err());
        assert!(topic.subscription(&name(n)).create().is_err());
        assert!(subscriptions[n].stats().is_err());
        assert!(delivery.extend(Duration::from_secs(60)).is_err());
        assert_eq!(delivery.ack().expect_err("it was deleted").kind(), ErrorKind::NotFound);
    }
    assert!(topic.subscriptions().is_err() && topic.publish("news").is_err());
    assert!(stream.groups().is_err() && stream.append("event").is_err());
    for group in groups {
        for partition in [0, position.partition, PARTITIONS - 1] {
            let error = group.commit(partition, Offset(0)).expect_err("it was deleted");
            assert_eq!(error.kind(), ErrorKind::NotFound);
            let part = stream.partition(partition);
            assert!(part.and_then(|part| part.trim_before(Offset(0))).is_err());
            let to_it = stream.append(Message::new("event").key(partition.to_string()));
            assert!(to_it.is_err());
        }
        assert!(group.lag().is_err() && group.reader().is_err());
    }
    assert!(stream.reader(crate::Start::Earliest).is_err());
    // Their leases run out.
    disk.advance(2 * HOUR);
    engine.committer().sync_soon();
    engine
}

#[test]
fn a_deletion_is_whole_for_all_others_before_its_slices_end() {
    let disk = SimDisk::new(3);
    let engine = deleted(&disk, false);
    assert!(engine.committer().lock("test").store.has_dying());
    assert!(entities(&engine) > SUBSCRIPTIONS / 2);
    let topic = engine.topic("t").create().expect("the name is free");
    let subscription = topic.subscription("s0").create().expect("the name is free");
    topic.publish("new").expect("there is space");
    let delivery = subscription.try_receive().expect("it is there").expect("it was published");
    assert_eq!(delivery.payload(), b"new");
    delivery.ack().expect("it is held");
    engine.stream("s").create().expect("the name is free");
    assert!(engine.committer().lock("test").store.has_dying());
    engine.queue("letters").delete().expect("only what is gone has used it");
    assert_eq!(entities(&engine), 3, "the deletion has taken out what was left of the others");
    subscription.stats().expect("it is there");
    engine.close().expect("the disk is well");
}

#[test]
fn a_checkpoint_between_the_slices_of_a_deletion_knows_all_that_is_gone() {
    for (is_full, has_segments) in [(false, false), (false, true), (true, false), (true, true)] {
        let disk = SimDisk::new(3);
        let engine = deleted(&disk, has_segments);
        if is_full {
            engine.committer().lock("test").store.begin_metalog_anew();
        }
        engine.checkpoint().expect("the disk is well");
        assert_eq!(entities(&engine), 1, "only the queue is left");
        let report = engine.verify().expect("the disk is well");
        assert!(report.is_ok(), "{report}");
        disk.power_cut();
        drop(engine);
        let engine = open(&disk, config());
        assert_eq!(entities(&engine), 1, "only the queue is left");
        assert_eq!(engine.topics().expect("it is open"), Vec::<String>::new());
        engine.close().expect("the disk is well");
    }
}

/// Without a checkpoint, recovery does all slices at once.
#[test]
fn a_crash_between_the_slices_of_a_deletion_leaves_nothing_of_it() {
    let disk = SimDisk::new(3);
    let engine = deleted(&disk, false);
    engine.sync().expect("the disk is well");
    disk.power_cut();
    drop(engine);
    let engine = open(&disk, config());
    assert_eq!(entities(&engine), 1, "only the queue is left");
    engine.close().expect("the disk is well");
}

/// A consumer of a subscription that waits is woken.
#[test]
fn a_deletion_wakes_those_that_wait() {
    let disk = SimDisk::new(3);
    let engine = open(&disk, config());
    let topic = engine.topic("t").create().expect("there is space");
    let all: Vec<_> = (0..SUBSCRIPTIONS)
        .map(|n| topic.subscription(&format!("s{n}")).create().expect("there is space"))
        .collect();
    let waiting: Vec<_> = [0, 70, SUBSCRIPTIONS - 1]
        .map(|n| all[n].clone())
        .map(|it| {
            thread::spawn(move || {
                it.receive(Duration::from_secs(60)).expect_err("it was deleted").kind()
            })
        })
        .into();
    thread::sleep(Duration::from_millis(30));
    engine.topic("t").delete().expect("it is there");
    for thread in waiting {
        assert_eq!(thread.join().expect("it does not panic"), ErrorKind::NotFound);
    }
}
