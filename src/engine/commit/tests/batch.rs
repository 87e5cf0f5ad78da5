//! Commits whose messages are encoded before the core is locked.

use std::{cell::Cell, path::Path, sync::Arc, time::Duration};

use super::{config, open};
use crate::{
    Engine, Timestamp,
    config::Config,
    disk::sim::SimDisk,
    engine::{
        commit::{append::Target, committer::Committer},
        core::{Core, commit::Receipt},
    },
    ids::Skew,
    journal::Urgency,
    message::Message,
    store::{BatchedMessage, Refused, Shortage},
};

const LARGE: usize = 64 << 10;

/// The lives of its messages count from the time at which they were encoded.
#[test]
fn a_batch_that_has_waited_long_is_given_up() {
    for (waited, is_kept) in [(900, true), (1100, false)] {
        let disk = SimDisk::new(1);
        let engine = open(&disk, Config { journal_bytes: 1 << 20, ..config() });
        let queue = engine.queue("q").create().expect("there is space");
        let log = crate::engine::consume::calls::Consuming::consumer(&queue).log();
        let committer = engine.committer();
        let message = Message::new(vec![7; LARGE]);
        let of = [BatchedMessage { log, message: &message, keeps_acked: false }];
        let mut batch = committer.encode(&of, committer.now()).expect("it is not too large");
        let tries = Cell::new(0);
        let committed = committer.commit_batch("test", &mut batch, |core, batch| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 {
                disk.advance(Duration::from_millis(waited));
                let (bytes, urgency) = (100, Urgency::Ordinary);
                return Err(Refused::NeedsSpace(Shortage::File { bytes, urgency }));
            }
            let receipt: Receipt = core.commit_batch(&[], batch)?;
            Ok(Some(((), receipt)))
        });
        let committed = committed.expect("there is space").is_some();
        assert_eq!((committed, tries.get() > 1), (is_kept, is_kept), "{waited} ms");
        assert_eq!(queue.depth().expect("it is open"), u64::from(is_kept));
        drop(queue);
        engine.close().expect("the disk is well");
    }
}

/// Its batch did not suit the clock, so it was encoded again under the core.
#[test]
fn a_large_record_is_a_batch_after_the_clock_was_set_too() {
    let disk = SimDisk::new(1);
    let config = Config { journal_bytes: 1 << 20, ..config() };
    // Without threads, each call looks at the clock.
    let process = Arc::new(disk.process());
    let engine = Engine::open_on(process, Path::new("store"), config, false).expect("it is well");
    let queue = engine.queue("q").create().expect("there is space");
    let stream = engine.stream("s").create().expect("there is space");
    for is_set in [false, true] {
        if is_set {
            disk.set_now(Timestamp(3_000_000_000_000));
        }
        assert!(queue.try_receive().expect("it is open").is_none());
        let skew = engine.committer().lock("test").skew();
        assert_eq!(skew != Skew::default(), is_set, "{skew:?}");
        stream.append(vec![7; LARGE]).expect("there is space");
        let core = engine.committer().lock("test");
        assert!(core.store.has_placed() && core.store.placed().next().is_none(), "{is_set}");
    }
    engine.close().expect("the disk is well");
}

/// A commit that had to wait for space looks again whether it may be made: meanwhile others have committed.
#[test]
fn what_forbids_an_append_is_looked_at_again_after_a_wait_for_space() {
    for bytes in [100, LARGE] {
        let disk = SimDisk::new(1);
        let engine = open(&disk, Config { journal_bytes: 256 << 10, ..config() });
        let stream = engine.stream("s").create().expect("there is space");
        let log = stream.shape().log(0);
        let target = Target { log, keeps_acked: true };
        let (message, mut appended) = (Message::new(vec![7; bytes]), 0);
        let is_refused = loop {
            assert!(appended < 10_000, "no commit has waited, or none has looked again");
            let looks = Cell::new(0);
            let forbids = |_: &Core| {
                looks.set(looks.get() + 1);
                (looks.get() > 1).then_some("it has waited")
            };
            let messages = std::slice::from_ref(&message);
            let now = Committer::now_plain;
            let outcome = engine.committer().append_unless("test", target, messages, now, forbids);
            match outcome.expect("there is space").0 {
                Ok(_) => appended += 1,
                Err(reason) => break reason,
            }
        };
        assert_eq!(is_refused, "it has waited");
        engine.sync().expect("the disk is well");
        assert_eq!(stream.len().expect("it is open"), appended);
        drop(stream);
        engine.close().expect("the disk is well");
    }
}
