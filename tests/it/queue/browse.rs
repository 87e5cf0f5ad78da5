//! Browsing a queue, removing single messages, and purging it.

use std::time::Duration;

use posthouse::{Message, Offset};

use crate::support::{SECOND, Sim, take, texts};

#[test]
fn browsing_takes_nothing() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send_batch((0..300).map(|n| n.to_string())).unwrap();
    sim.engine.checkpoint().unwrap();
    queue.send_batch((300..310).map(|n| n.to_string())).unwrap();
    let held = take(&queue).unwrap();
    take(&queue).unwrap().ack().unwrap();
    take(&queue).unwrap().nack_after(SECOND).unwrap();
    let looking = queue.browse().unwrap();
    queue.send("too late").unwrap();
    let seen: Vec<_> = looking.map(Result::unwrap).collect();
    let offsets: Vec<u64> = seen.iter().map(|it| it.offset().0).collect();
    assert_eq!(offsets, std::iter::once(0).chain(2..310).collect::<Vec<_>>());
    assert_eq!((seen[1].attempts(), seen[1].due().is_some()), (1, true));
    assert_eq!((seen[2].attempts(), seen[2].due()), (0, None));
    assert!(seen.iter().all(|it| it.payload() == it.offset().0.to_string().as_bytes()));
    assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (310, 1));
    held.ack().unwrap();
}

#[test]
fn deleted_messages_do_not_come() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send_batch((0..10).map(|n| n.to_string())).unwrap();
    let (zero, one) = (take(&queue).unwrap(), take(&queue).unwrap());
    take(&queue).unwrap().nack().unwrap();
    for offset in [0, 2, 4] {
        assert!(queue.remove(Offset(offset)).unwrap());
    }
    // Consumers that had one of them on lease are not disturbed.
    zero.nack().unwrap();
    one.ack().unwrap();
    let mut rest = Vec::new();
    while let Some(delivery) = take(&queue) {
        rest.push(delivery.offset().0);
        std::mem::forget(delivery);
    }
    assert_eq!(rest, [3, 5, 6, 7, 8, 9]);
    drop(queue);
    sim = sim.kill();
    assert_eq!(texts(&sim.engine.queue("q").open().unwrap()), ["3", "5", "6", "7", "8", "9"]);
}

#[test]
fn purging_leaves_messages_on_lease() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
    queue.send_batch((0..1000).map(|n| n.to_string())).unwrap();
    let all = queue.receive_batch(20, Duration::ZERO).unwrap();
    let held: Vec<_> = all.into_iter().step_by(2).collect();
    queue.send(Message::new("later").deliver_after(SECOND)).unwrap();
    assert_eq!(queue.purge().unwrap(), 1001 - 10);
    assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (10, 10));
    assert_eq!(queue.purge().unwrap(), 0);
    sim.disk.advance(2 * SECOND);
    assert!(take(&queue).is_none());
    for delivery in &held {
        delivery.nack().unwrap();
    }
    assert_eq!(take(&queue).unwrap().offset(), Offset(0));
    assert_eq!(queue.purge().unwrap(), 10);
    queue.send("fresh").unwrap();
    assert_eq!(take(&queue).unwrap().payload(), b"fresh");
}
