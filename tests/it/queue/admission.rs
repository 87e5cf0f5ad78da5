//! Which consumer may receive: a single active one, and how many deliveries one may hold.

use std::{thread, time::Duration};

use posthouse::{Delivery, Durability, Engine, ErrorKind};

use crate::model::small_options;
use crate::support::{SECOND, Sim, Task, field, kind, take};

#[test]
fn one_consumer_is_active_and_another_takes_over_when_it_is_gone() {
    let sim = Sim::new();
    let build =
        || sim.engine.queue("q").backoff(posthouse::Backoff::None).single_active_consumer(true);
    let first = build().create().unwrap();
    let second = build().create().unwrap();
    first.send_batch(["a", "b", "c", "d"]).unwrap();
    let held = take(&first).unwrap();
    assert_eq!((first.is_active().unwrap(), second.is_active().unwrap()), (true, false));
    assert!(take(&second).is_none());
    assert!(second.receive_batch(2, Duration::ZERO).unwrap().is_empty());
    // A clone is the same consumer, and so is a handle with another durability.
    let clone = first.durability(Durability::Buffered);
    assert_eq!(take(&clone).unwrap().payload(), b"b");
    // A handle that only watches or browses does not count.
    let _watch = first.watch(posthouse::Threshold::Depth(100), |_| {}).unwrap();
    let _browse = first.browse().unwrap();
    drop((first, clone));
    assert!(take(&second).is_none(), "a delivery of the first is out there");
    held.ack().unwrap();
    drop(held);
    assert_eq!(second.receive_batch(9, Duration::ZERO).unwrap().len(), 3);
    assert!(second.is_active().unwrap());
    assert_eq!(kind(build().single_active_consumer(false).create()), ErrorKind::AlreadyExists);
}

#[test]
fn standby_consumers_are_woken_when_the_active_one_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let topic = engine.topic("t").create().unwrap();
    let open = || topic.subscription("s").single_active_consumer(true).create().unwrap();
    let active = open();
    topic.publish_batch(["a", "b"]).unwrap();
    active.receive(60 * SECOND).unwrap().unwrap().ack().unwrap();
    let standbys: Vec<_> = (0..3)
        .map(|_| {
            let standby = open();
            thread::spawn(move || {
                let got = standby.receive(60 * SECOND).unwrap();
                got.map(|it| it.ack().unwrap()).is_some()
            })
        })
        .collect();
    // New messages are not for standby consumers.
    topic.publish_batch(["c", "d"]).unwrap();
    drop(active);
    let took = standbys.into_iter().map(|it| it.join().unwrap());
    assert_eq!(took.filter(|took| *took).count(), 3);
}

#[test]
fn a_consumer_holds_so_many_deliveries_at_most() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").lease(SECOND).create().unwrap();
    assert_eq!(field(queue.with_max_in_flight(0)), "max_in_flight");
    queue.send_batch((0..10).map(|n| n.to_string())).unwrap();
    let limited = queue.with_max_in_flight(2).unwrap();
    let mut held = limited.receive_batch(5, Duration::ZERO).unwrap();
    assert_eq!(held.len(), 2);
    assert!(take(&limited).is_none());
    // Other consumers are not limited by it.
    let of_others = queue.receive_batch(3, Duration::ZERO).unwrap();
    assert_eq!(of_others.len(), 3);
    held.pop().unwrap().ack().unwrap();
    let another = take(&limited.clone()).unwrap();
    assert!(take(&limited).is_none());
    another.nack().unwrap();
    let mut tx = sim.engine.transaction();
    tx.ack(&held[0]);
    tx.commit().unwrap();
    assert_eq!(limited.receive_batch(5, Duration::ZERO).unwrap().len(), 2);
    // The deliveries were dropped, so their messages are back.
    let held = limited.receive_batch(5, Duration::ZERO).unwrap();
    assert!(take(&limited).is_none());
    sim.disk.advance(SECOND);
    assert_eq!(limited.receive_batch(5, Duration::ZERO).unwrap().len(), 2, "the leases ran out");
    assert_eq!(kind(held[0].ack()), ErrorKind::LeaseLost);
}

#[test]
fn a_consumer_at_its_prefetch_limit_is_woken_when_one_is_settled() {
    let sim = Sim::new();
    let queue =
        sim.engine.queue("q").backoff(posthouse::Backoff::None).lease(SECOND).create().unwrap();
    let limited = queue.with_max_in_flight(1).unwrap();
    queue.send_batch((0..6).map(|n| n.to_string())).unwrap();
    let ways: [fn(&Sim, Delivery); 4] = [
        |_, it| it.ack().unwrap(),
        |_, it| it.nack().unwrap(),
        |_, it| drop(it),
        |sim, it| {
            let mut tx = sim.engine.transaction();
            tx.ack(&it);
            tx.commit().unwrap();
        },
    ];
    for (n, settle) in ways.into_iter().enumerate() {
        let held = take(&limited).unwrap();
        let mut waiting = Task::waiting(limited.receive_async());
        settle(&sim, held);
        assert!(waiting.is_woken(), "way {n}");
        waiting.poll().expect("it may hold one more").unwrap().ack().unwrap();
    }
}

#[test]
fn a_consumer_at_its_prefetch_limit_leaves_a_message_to_others() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let limited = queue.with_max_in_flight(1).unwrap();
    let mut of_one: Vec<_> = (0..2).map(|_| Task::waiting(limited.receive_async())).collect();
    let mut other = Task::waiting(queue.receive_async());
    queue.send("a").unwrap();
    assert!(of_one[0].is_woken());
    let _held = of_one[0].poll().unwrap().unwrap();
    queue.send("b").unwrap();
    assert!(of_one[1].is_woken() && !other.is_woken());
    assert!(of_one[1].poll().is_none(), "it holds as much as it may");
    assert!(other.is_woken());
    assert_eq!(other.poll().unwrap().unwrap().payload(), b"b");
}

#[test]
fn the_first_standby_consumer_is_woken_when_the_active_one_is_gone() {
    let sim = Sim::new();
    let open = || sim.engine.queue("q").single_active_consumer(true).create().unwrap();
    let active = open();
    active.send_batch(["a", "b"]).unwrap();
    take(&active).unwrap().ack().unwrap();
    let mut standbys: Vec<_> = (0..2).map(|_| Task::waiting(open().receive_async())).collect();
    active.send("c").unwrap();
    assert!(!standbys.iter().any(Task::is_woken), "a message is not for those who stand by");
    drop(active);
    assert_eq!(standbys.iter().map(Task::is_woken).collect::<Vec<_>>(), [true, false]);
    // It is gone without having received: the next consumer is woken.
    drop(standbys.remove(0));
    assert!(standbys[0].is_woken());
    assert_eq!(standbys[0].poll().unwrap().unwrap().payload(), b"b");
}

#[test]
fn fencing_tokens_grow_from_delivery_to_delivery_and_over_restarts() {
    let mut sim = Sim::new();
    let mut last = 0;
    for epoch in 0..4 {
        let queue = sim.engine.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
        if epoch == 0 {
            queue.send_batch(["a", "b"]).unwrap();
        }
        for _ in 0..5 {
            let delivery = take(&queue).unwrap();
            assert!(delivery.fencing_token() > last);
            last = delivery.fencing_token();
            assert!(last < 1 << 63);
        }
        if epoch == 1 {
            sim.engine.close().unwrap();
        }
        drop(queue);
        // The power fails, and nothing was synced since the opening.
        let Sim { disk, engine } = sim;
        if epoch == 2 {
            disk.power_cut();
        } else {
            disk.kill();
        }
        drop(engine);
        let engine = small_options().sim(&disk).open("store").unwrap();
        sim = Sim { disk, engine };
    }
}
