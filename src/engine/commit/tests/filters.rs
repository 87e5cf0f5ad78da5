//! Batches whose messages are matched with filters before they are committed.

use std::{cell::Cell, sync::Arc};

use super::{config, open};
use crate::{
    config::Config,
    disk::sim::SimDisk,
    engine::consume::calls::Consuming,
    format::{
        entity::{Delivering, Entity, EntityKind},
        filter::Filter,
    },
    message::Message,
    store::{BatchedMessage, Op},
};

/// What was found before the commit does not count if a filter has changed since.
#[test]
fn a_filter_that_changes_before_the_commit_of_a_batch_counts() {
    for (changed, expected) in [(None, 50), (Some("b"), 30), (Some(">"), 80), (Some("x"), 0)] {
        let disk = SimDisk::new(1);
        let engine = open(&disk, Config { journal_bytes: 1 << 20, ..config() });
        let topic = engine.topic("t").create().expect("there is space");
        let subscription = topic.subscription("s").pattern("a").create().expect("there is space");
        let (cursor, log) = (subscription.consumer().cursor(), subscription.consumer().log());
        let subject = |n: u64| if n.is_multiple_of(8) || n % 8 > 3 { "a" } else { "b" };
        let messages: Vec<_> = (0..80).map(|n| Message::new("m").subject(subject(n))).collect();
        let of = |message| BatchedMessage { log, message, keeps_acked: false };
        let of: Vec<_> = messages.iter().map(of).collect();
        let committer = engine.committer();
        let mut batch = committer.encode(&of, committer.now()).expect("they are not too large");
        let tries = Cell::new(0);
        let committed = committer.commit_batch("test", &mut batch, |core, batch| {
            tries.set(tries.get() + 1);
            assert!(!core.store.wants_match(batch), "it was matched before");
            if let Some(pattern) = changed {
                let there = core.store.entity(cursor.entity()).expect("it is there").clone();
                let EntityKind::Subscription { topic, delivering } = &there.kind else {
                    unreachable!("it is a subscription");
                };
                let filter = Filter::of(vec![pattern.to_owned()], Vec::new()).map(Arc::new);
                let delivering = Delivering { filter, ..Delivering::clone(delivering) }.into();
                let kind = EntityKind::Subscription { topic: *topic, delivering };
                let entity = Entity { kind, ..there };
                let _ = core.commit(&[Op::Update { entity: &entity }], committer.now())?;
            }
            Ok(Some(((), core.commit_batch(&[], batch)?)))
        });
        assert!(committed.expect("there is space").is_some());
        assert_eq!(tries.get(), 1);
        assert_eq!(subscription.depth().expect("it is open"), expected, "{changed:?}");
        drop((subscription, topic));
        engine.close().expect("the disk is well");
    }
}

/// Filters that change between the match and the commit have the messages matched again, and not in the commit. That ends.
#[test]
fn a_batch_is_matched_again_when_filters_change() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Config { journal_bytes: 1 << 20, ..config() });
    let topic = engine.topic("t").create().expect("there is space");
    let subscription = topic.subscription("s").pattern("a").create().expect("there is space");
    let log = subscription.consumer().log();
    let message = Message::new("m").subject("a");
    let of = [BatchedMessage { log, message: &message, keeps_acked: false }; 80];
    let committer = engine.committer();
    let mut batch = committer.encode(&of, committer.now()).expect("they are not too large");
    let mut wants = || {
        let mut core = committer.lock("test");
        let wants = core.store.wants_match(&mut batch);
        while wants && core.store.match_early(&mut batch) {}
        wants
    };
    assert!(wants());
    assert!(!wants(), "nothing has changed");
    let mut changes = 0;
    loop {
        let pattern = format!("b.{changes}");
        topic.subscription("other").pattern(pattern).create_or_update().expect("there is space");
        if !wants() {
            break;
        }
        assert!(!wants());
        changes += 1;
    }
    assert_eq!(changes, 7, "then the commit matches them");
    let committed = committer.commit_batch("test", &mut batch, |core, batch| {
        Ok(Some(((), core.commit_batch(&[], batch)?)))
    });
    assert!(committed.expect("there is space").is_some());
    assert_eq!(subscription.depth().expect("it is open"), 80);
    drop((subscription, topic));
    engine.close().expect("the disk is well");
}
