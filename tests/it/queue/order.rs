//! Order by key: messages with one key come in order, and one at a time.

use std::time::Duration;

use posthouse::{Backoff, Delivery, ErrorKind, Message, Offset, Queue, Timestamp};

use super::keyed;
use crate::model::oracle::Chance;
use crate::support::{EIO, EMFILE, MINUTE, SECOND, Sim, field, kind, one_in, take};

#[test]
fn messages_with_one_key_come_in_order_and_one_at_a_time() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(Backoff::None).ordered_by_key(true).create().unwrap();
    queue.send_batch([keyed("a", 1), keyed("a", 2), keyed("b", 3), keyed("a", 4)]).unwrap();
    queue.send("no key").unwrap();
    queue.send("no key either").unwrap();
    let all = queue.receive_batch(9, Duration::ZERO).unwrap();
    let got: Vec<_> = all.iter().map(|it| it.offset().0).collect();
    assert_eq!(got, [0, 2, 4, 5], "the first of each key, and all without");
    assert!(take(&queue).is_none());
    all[0].nack().unwrap();
    let again = take(&queue).unwrap();
    assert_eq!((again.offset(), again.attempt()), (Offset(0), 2), "those behind it wait");
    assert!(take(&queue).is_none());
    again.nack_after(SECOND).unwrap();
    assert!(take(&queue).is_none(), "they wait while it waits");
    sim.disk.advance(SECOND);
    take(&queue).unwrap().ack().unwrap();
    let second = take(&queue).unwrap();
    assert_eq!(second.offset(), Offset(1));
    assert!(take(&queue).is_none());
    drop(second);
    assert_eq!(take(&queue).unwrap().offset(), Offset(1), "a drop is a failure");
    assert!(queue.remove(Offset(1)).unwrap());
    let fourth = take(&queue).unwrap();
    assert_eq!(fourth.offset(), Offset(3), "the one before it was deleted");
    let mut tx = sim.engine.transaction();
    tx.ack(&fourth).send(&queue, keyed("a", 5)).send(&queue, keyed("b", 6));
    tx.commit().unwrap();
    assert_eq!(take(&queue).unwrap().payload(), b"5");
}

#[test]
fn dead_letters_and_deletions_let_the_next_of_a_key_come() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").ordered_by_key(true).max_attempts(1).create().unwrap();
    queue.send_batch((0..6).map(|n| keyed("a", n))).unwrap();
    let first = take(&queue).unwrap();
    assert!(take(&queue).is_none());
    first.nack().unwrap();
    drop(take(&queue).unwrap());
    let third = take(&queue).unwrap();
    assert_eq!(third.offset(), Offset(2), "two died");
    assert!(queue.remove(Offset(2)).unwrap(), "it is on lease");
    assert!(take(&queue).is_none(), "its holder is still at work");
    third.nack().unwrap();
    assert_eq!(take(&queue).unwrap().offset(), Offset(3));
    assert_eq!(queue.purge().unwrap(), 2);
    queue.send(keyed("a", 9)).unwrap();
    assert_eq!(take(&queue).unwrap().payload(), b"9");
}

/// A failed message that waits keeps its key busy, also after a restart.
#[test]
fn the_order_of_a_key_survives_a_kill() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").ordered_by_key(true).create().unwrap();
    queue.send_batch([keyed("a", 0), keyed("a", 1), keyed("b", 2)]).unwrap();
    take(&queue).unwrap().nack_after(60 * SECOND).unwrap();
    drop(queue);
    sim = sim.kill();
    let queue = sim.engine.queue("q").open().unwrap();
    let b = take(&queue).unwrap();
    assert_eq!(b.offset(), Offset(2));
    assert!(take(&queue).is_none());
    sim.disk.advance(60 * SECOND);
    assert_eq!(take(&queue).unwrap().offset(), Offset(0));
}

/// The keys of the messages that wait for another attempt are read at the first receive after a restart. A read that fails
/// and may succeed later is an error of that receive: no later message of a key overtakes the one that waits.
#[test]
fn a_passing_error_at_the_first_receive_breaks_no_order() {
    let mut failures = 0;
    for (error, for_good) in [(EIO, false), (EMFILE, false), (EMFILE, true)] {
        for call in 0..4 {
            let mut sim = Sim::new();
            let queue = sim.engine.queue("q").ordered_by_key(true).create().unwrap();
            queue.send_batch([keyed("a", 0), keyed("b", 1)]).unwrap();
            take(&queue).unwrap().nack_after(MINUTE).unwrap();
            take(&queue).unwrap().nack_after(MINUTE).unwrap();
            sim.engine.checkpoint().unwrap();
            queue.send_batch([keyed("a", 2), keyed("b", 3)]).unwrap();
            drop(queue);
            sim = sim.kill();
            let queue = sim.engine.queue("q").open().unwrap();
            sim.disk.fail_call(sim.disk.calls() + call, error, for_good);
            match queue.try_receive() {
                Ok(early) => assert!(early.is_none(), "call {call}, error {error}: {early:?}"),
                Err(failed) => {
                    failures += 1;
                    assert_eq!(failed.kind(), ErrorKind::Io, "call {call}, error {error}");
                }
            }
            sim.disk.heal();
            let early = take(&queue);
            assert!(early.is_none(), "call {call}, error {error}: {early:?}");
            sim.disk.advance(MINUTE);
            let mut got = Vec::new();
            while let Some(delivery) = take(&queue) {
                got.push(delivery.offset().0);
                delivery.ack().unwrap();
            }
            let of_key = |key| got.iter().copied().filter(move |n| n % 2 == key);
            assert!(of_key(0).eq([0, 2]) && of_key(1).eq([1, 3]), "{got:?}");
        }
    }
    assert!(failures > 2, "only {failures} receives failed");
}

/// A message that cannot be read for the moment has claimed no key yet. No later one of its key overtakes it.
#[test]
fn a_passing_error_at_any_receive_breaks_no_order() {
    let mut failures = 0;
    for (had_a_retry, was_tried) in [(false, false), (true, false), (false, true)] {
        for batch in [false, true] {
            let mut sim = Sim::new();
            let queue = sim.engine.queue("q").ordered_by_key(true).create().unwrap();
            queue.send_batch([keyed("other", 7), keyed("a", 0), keyed("a", 1)]).unwrap();
            if was_tried {
                let all = queue.receive_batch(3, Duration::ZERO).unwrap();
                all.iter().for_each(|it| it.nack_after(Duration::ZERO).unwrap());
            }
            sim.engine.checkpoint().unwrap();
            queue.send_batch([keyed("a", 2), keyed("b", 3)]).unwrap();
            drop(queue);
            sim = sim.kill();
            let queue = sim.engine.queue("q").open().unwrap();
            let first = take(&queue).unwrap();
            if had_a_retry {
                first.nack_after(Duration::ZERO).unwrap();
                take(&queue).unwrap().ack().unwrap();
            } else {
                first.ack().unwrap();
            }
            drop(queue);
            sim = sim.kill();
            let queue = sim.engine.queue("q").open().unwrap();
            sim.disk.fail_call(sim.disk.calls(), EMFILE, true);
            for _ in 0..4 {
                let failed = match batch {
                    true => queue.receive_batch(3, Duration::ZERO).map(|it| it.len()),
                    false => {
                        queue.try_receive().map(|it| it.map_or(0, |it| it.offset().0 as usize))
                    }
                };
                let error = failed.expect_err("a later message overtakes, or none is told of");
                assert_eq!((error.kind(), error.offset()), (ErrorKind::Io, None), "{error}");
                assert!(error.to_string().contains("message 1 of \"q\""), "{error}");
                failures += 1;
            }
            sim.disk.heal();
            let mut got = Vec::new();
            while let Some(delivery) = take(&queue) {
                got.push(delivery.offset().0);
                delivery.ack().unwrap();
            }
            let of_a: Vec<u64> = got.iter().copied().filter(|n| *n != 4).collect();
            assert_eq!((of_a, got.len()), (vec![1, 2, 3], 4), "{got:?}");
        }
    }
    assert_eq!(failures, 24);
}

/// The cost of a message does not depend on how many messages of a key wait behind a leased one.
#[test]
fn a_stuck_key_is_walked_past_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").ordered_by_key(true).create().unwrap();
    let stuck = 20_000;
    for _ in 0..20 {
        queue.send_batch((0..stuck / 20).map(|n| keyed("stuck", n))).unwrap();
    }
    sim.engine.checkpoint().unwrap();
    queue.send_batch((0..500).map(|n| keyed(&format!("key {n}"), n))).unwrap();
    sim.engine.checkpoint().unwrap();
    let held = take(&queue).unwrap();
    take(&queue).unwrap().ack().unwrap();
    let before = sim.disk.bytes_read();
    let mut rest = 0;
    while let Some(delivery) = take(&queue) {
        delivery.ack().unwrap();
        rest += 1;
    }
    let read = sim.disk.bytes_read() - before;
    assert_eq!(rest, 499);
    assert!(read < 200_000, "{read} bytes were read for {rest} messages");
    held.ack().unwrap();
    assert_eq!(take(&queue).unwrap().offset(), Offset(1));
}

/// Over failures, deletions and dead letters: two messages of a key are never on lease at once, and each
/// comes for the first time only when the messages before it are gone.
#[test]
fn the_order_of_keys_holds_whatever_happens() {
    for seed in 0..60 / one_in(2) as u64 {
        let mut chance = Chance(seed);
        let mut sim = Sim::new();
        let options = |sim: &Sim| {
            let builder = sim.engine.queue("q").ordered_by_key(true).lease(5 * SECOND);
            let builder = builder.backoff(Backoff::Fixed(SECOND));
            if seed % 2 == 0 { builder.max_attempts(3) } else { builder }
        };
        let mut queue = options(&sim).create().unwrap();
        // Including the second in which the lease runs out.
        let mut held: Vec<(String, Delivery, u64)> = Vec::new();
        let mut seconds = 0;
        // The messages of each key, in order.
        let mut there: std::collections::BTreeMap<String, Vec<u64>> = Default::default();
        let refresh = |queue: &Queue, there: &mut std::collections::BTreeMap<String, Vec<u64>>| {
            there.clear();
            for it in queue.browse().unwrap() {
                let it = it.unwrap();
                let key = String::from_utf8(it.key().unwrap().to_vec()).unwrap();
                there.entry(key).or_default().push(it.offset().0);
            }
        };
        for step in 0..400u64 {
            let pick = |chance: &mut Chance, n: usize| chance.below(n as u64) as usize;
            match chance.below(100) {
                0..30 => {
                    let key = format!("k{}", chance.below(5));
                    queue.send(keyed(&key, step)).unwrap();
                }
                30..60 => {
                    let Some(delivery) = take(&queue) else { continue };
                    let key = String::from_utf8(delivery.key().unwrap().to_vec()).unwrap();
                    refresh(&queue, &mut there);
                    let first = there[&key][0];
                    assert_eq!(delivery.offset().0, first, "seed {seed}, step {step}: {key}");
                    assert!(held.iter().all(|it| it.0 != key), "seed {seed}, step {step}: {key}");
                    held.push((key, delivery, seconds + 5));
                }
                60..80 if !held.is_empty() => {
                    held.swap_remove(pick(&mut chance, held.len())).1.ack().unwrap();
                }
                80..86 if !held.is_empty() => {
                    held.swap_remove(pick(&mut chance, held.len())).1.nack().unwrap();
                }
                86..89 if !held.is_empty() => {
                    drop(held.swap_remove(pick(&mut chance, held.len())));
                }
                89..92 => {
                    refresh(&queue, &mut there);
                    let all: Vec<u64> = there.values().flatten().copied().collect();
                    if !all.is_empty() {
                        let offset = Offset(all[pick(&mut chance, all.len())]);
                        if held.iter().all(|it| it.1.offset() != offset) {
                            queue.remove(offset).unwrap();
                        }
                    }
                }
                92..96 => {
                    let by = if chance.below(4) == 0 { 6 } else { 1 };
                    sim.disk.advance(by * SECOND);
                    seconds += u64::from(by);
                    held.retain(|it| it.2 > seconds);
                }
                96 => sim.engine.checkpoint().unwrap(),
                97 => {
                    held.into_iter().for_each(std::mem::forget);
                    held = Vec::new();
                    drop(queue);
                    sim = sim.kill();
                    queue = sim.engine.queue("q").open().unwrap();
                }
                _ => {}
            }
        }
        held.clear();
        let mut idle = 0;
        while queue.depth().unwrap() > 0 && idle < 20 {
            sim.disk.advance(6 * SECOND);
            idle += 1;
            while let Some(delivery) = take(&queue) {
                delivery.ack().unwrap();
                idle = 0;
            }
        }
        assert_eq!(queue.depth().unwrap(), 0, "seed {seed}: some never come");
    }
}

#[test]
fn settings_that_contradict_order_by_key_are_refused_by_name() {
    let sim = Sim::new();
    let queue = || sim.engine.queue("q").ordered_by_key(true);
    assert_eq!(field(queue().delay(SECOND).create()), "delay");
    let made = queue().create().unwrap();
    assert_eq!(kind(queue().ordered_by_key(false).create()), ErrorKind::AlreadyExists);
    assert_eq!(field(made.send(Message::new("a").key("k".repeat(1 << 20)))), "key");
    assert_eq!(field(made.send(keyed("a", 1).deliver_after(SECOND))), "deliver_after");
    assert_eq!(field(made.send(keyed("a", 1).deliver_at(Timestamp(u64::MAX)))), "deliver_at");
    let mut tx = sim.engine.transaction();
    tx.send(&made, keyed("a", 1).deliver_after(SECOND));
    assert_eq!(field(tx.commit()), "deliver_after");
    assert_eq!(made.depth().unwrap(), 0);
}

/// The messages between two of a key have left. They are passed over in slices, by the engine's threads or by a receive.
#[test]
fn the_next_message_of_a_key_comes_though_thousands_before_it_have_left() {
    let dir = tempfile::tempdir().unwrap();
    let options = posthouse::Options::new().durability(posthouse::Durability::Buffered);
    let engine = options.open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").ordered_by_key(true).create().unwrap();
    queue.send_batch((0..=20_000).map(|n| keyed("hot", n))).unwrap();
    let park = || {
        let head = take(&queue).unwrap();
        assert!(take(&queue).is_none(), "the others are parked");
        head
    };
    let head = park();
    assert_eq!(queue.purge().unwrap(), 20_000);
    queue.send_batch([keyed("hot", 20_001), keyed("hot", 20_002)]).unwrap();
    assert!(take(&queue).is_none(), "they are parked");
    head.ack().unwrap();
    let next = take(&queue).expect("a receive that does not wait finds it");
    assert_eq!(next.payload(), b"20001");
    assert!(take(&queue).is_none(), "one at a time");
    queue.send_batch((0..20_000).map(|n| keyed("hot", n))).unwrap();
    assert!(take(&queue).is_none(), "they are parked");
    assert_eq!(queue.purge().unwrap(), 20_001);
    queue.send(keyed("hot", 30_000)).unwrap();
    std::thread::scope(|scope| {
        let begun = std::time::Instant::now();
        let waiter = scope.spawn(|| queue.receive(MINUTE).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        next.ack().unwrap();
        assert_eq!(waiter.join().unwrap().expect("it is woken").payload(), b"30000");
        assert!(begun.elapsed() < MINUTE, "it found the message when its time was over");
    });
}

/// The last lease of a message ran out, and the message could not be read for a moment.
#[test]
fn a_letter_of_an_ordered_queue_that_cannot_be_read_for_the_moment_moves_later() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").ordered_by_key(true).max_attempts(1).lease(SECOND);
    let queue = queue.create().unwrap();
    let dead = sim.engine.queue("q.dead").open().unwrap();
    queue.send_batch([keyed("a", 0), keyed("a", 1)]).unwrap();
    sim.engine.checkpoint().unwrap();
    let held = take(&queue).unwrap();
    assert_eq!(held.offset(), Offset(0));
    sim.engine.sync().unwrap();
    sim.disk.fail_call(sim.disk.calls(), EMFILE, true);
    sim.disk.advance(2 * SECOND);
    for _ in 0..4 {
        if let Ok(early) = queue.try_receive() {
            assert!(early.is_none(), "{early:?}");
        }
    }
    sim.disk.heal();
    sim.disk.advance(2 * SECOND);
    assert_eq!(dead.depth().unwrap(), 1);
    assert_eq!(take(&queue).unwrap().offset(), Offset(1));
}
