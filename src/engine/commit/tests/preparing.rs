//! A cursor with many delayed messages comes into use, and commits change it while they are copied.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use crate::{
    Engine, Message,
    config::Config,
    disk::sim::SimDisk,
    engine::{consume::calls::Consuming, core::consumption::CursorInfo},
    ids::{CursorId, Due, Offset, Skew, Timestamp},
    journal::Urgency,
    store::Op,
};

const MANY: u64 = 2500;

fn open(disk: &SimDisk) -> Engine {
    let process = Arc::new(disk.process());
    let config = Config { idle_kept: 0, ..Config::default() };
    Engine::open_on(process, Path::new("store"), config, false).expect("the disk is well")
}

fn later(n: u64) -> Message<'static> {
    Message::new("work").deliver_after(Duration::from_secs(3600 + n))
}

#[test]
fn what_changes_while_delayed_messages_are_copied_is_looked_at_again() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queue = engine.queue("q").create().expect("there is space");
    let (cursor, log) = (queue.consumer().cursor(), queue.consumer().log());
    queue.send_batch((0..MANY).map(later)).expect("there is space");
    drop(queue);
    engine.close().expect("the disk is well");

    let engine = open(&disk);
    let committer = engine.committer();
    let commit = |ops: &[Op<'_>]| {
        let committed = committer.lock("test").commit(ops, committer.now());
        assert!(committed.is_ok());
    };
    let mut preparing = committer.lock("test").begin_preparing(cursor).expect("there are many");
    let mut number = 0;
    loop {
        let goes_on = committer.lock("test").go_on_preparing(&mut preparing);
        // Some of these were copied, and some were not.
        let at = |n: u64| Offset(n * 500 + number);
        let all: Vec<Offset> = (0..5).map(at).collect();
        let offset = Offset(7 * number + 100);
        let due = Due::even(Timestamp(5 + number));
        let urgency = Urgency::Freeing;
        commit(&[
            Op::Ack { cursor, offsets: &all },
            Op::Defer { cursor, offset, attempts: 1, due, urgency },
            Op::Defer {
                cursor,
                offset: Offset(2000 + number),
                attempts: 1,
                due: Due::NOW,
                urgency,
            },
        ]);
        commit(&[Op::AckRanges {
            cursor,
            ranges: &[Offset(0).to(Offset(10)), Offset(990).to(Offset(1010))],
        }]);
        commit(&[Op::Append { log, messages: &[later(number)], delay_ms: 0 }]);
        number += 1;
        if !goes_on {
            break;
        }
    }
    assert_eq!(number, 3);
    let prepared = preparing.end();
    commit(&[Op::Defer {
        cursor,
        offset: Offset(50),
        attempts: 2,
        due: Due::even(Timestamp(9)),
        urgency: Urgency::Freeing,
    }]);

    let mut core = committer.lock("test");
    let rules = core.store.entity(cursor.entity()).and_then(|it| it.delivering().cloned());
    let rules = crate::engine::core::rules::Rules::of(&rules.expect("it is there"), Duration::ZERO);
    let rules = core.share(rules);
    let info = CursorInfo::new((cursor, log), "q".into(), None, rules);
    core.begin_consuming(info, Some(prepared)).expect("it is there");
    assert_waits(&mut core, cursor);
}

fn assert_waits(core: &mut crate::engine::core::Core, cursor: CursorId) {
    let acks = core.store.acks_of(cursor).expect("it is there");
    let stored: BTreeSet<(Due, Offset)> =
        acks.deferred(Offset(0)).map(|(offset, due)| (due, offset)).collect();
    let deliveries = &core.consumption(cursor).expect("it is there").deliveries;
    let waiting: BTreeSet<(Due, Offset)> =
        deliveries.latest(u64::MAX, Skew(0)).into_iter().collect();
    assert!(stored.len() > 2000);
    assert_eq!(waiting, stored);
    // They are known by offset, too: a purge and a full queue look there.
    let offsets: BTreeSet<Offset> = deliveries.waits_from(Offset(0)).collect();
    assert_eq!(offsets, stored.iter().map(|(_, offset)| *offset).collect());
}
