//! The plain case: what a send, a receive and an ack allocate.

use posthouse::{Durability, Engine, Options};

use super::{beside_others, heap::taken};

fn engine(dir: &std::path::Path) -> Engine {
    Options::new().durability(Durability::Buffered).open(dir.join("store")).unwrap()
}

/// How often this thread allocates in each of the rounds of an act, the most frequent number.
fn allocations(rounds: usize, mut act: impl FnMut()) -> u64 {
    let mut all: Vec<u64> = (0..rounds)
        .map(|_| {
            let before = taken().0;
            act();
            taken().0 - before
        })
        .collect();
    all.sort_unstable();
    // The index of the journal grows now and then.
    all[rounds / 2]
}

#[test]
fn a_plain_send_receive_and_ack_allocate_nothing() {
    let _beside_others = beside_others();
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let queue = engine.queue("q").create().unwrap();
    let round = || {
        queue.send(&[7; 100]).unwrap();
        queue.try_receive().unwrap().unwrap().ack().unwrap();
    };
    (0..100).for_each(|_| round());
    assert_eq!(allocations(200, || _ = queue.send(&[7; 100]).unwrap()), 0, "a send");
    let mut held = Vec::with_capacity(200);
    assert_eq!(
        allocations(200, || held.push(queue.try_receive().unwrap().unwrap())),
        0,
        "a receive"
    );
    let mut acked = held.iter();
    assert_eq!(allocations(200, || acked.next().unwrap().ack().unwrap()), 0, "an ack");
    let stream = engine.stream("s").create().unwrap();
    (0..100).for_each(|_| _ = stream.append(&[7; 100]).unwrap());
    assert_eq!(allocations(200, || _ = stream.append(&[7; 100]).unwrap()), 0, "an append");
}
