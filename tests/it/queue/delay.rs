//! Delayed messages.

use std::time::Duration;

use posthouse::{Message, Offset, Timestamp};

use crate::model::small_options;
use crate::support::{SECOND, Sim, field, take};

#[test]
fn delayed_messages_come_when_they_are_due() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").delay(10 * SECOND).create().unwrap();
    let now = sim.now();
    queue.send("by default").unwrap();
    queue.send(Message::new("after").deliver_after(5 * SECOND)).unwrap();
    queue.send(Message::new("at").deliver_at(Timestamp(now.0 + 20_000))).unwrap();
    let mut tx = sim.engine.transaction();
    tx.send(&queue, Message::new("at once").deliver_after(Duration::ZERO)).send(&queue, "tx");
    tx.commit().unwrap();
    assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (5, 4));
    let mut came = Vec::new();
    for second in 0..30 {
        while let Some(delivery) = take(&queue) {
            came.push((second, String::from_utf8(delivery.payload().to_vec()).unwrap()));
            assert_eq!(delivery.attempt(), 1);
            delivery.ack().unwrap();
        }
        sim.disk.advance(SECOND);
    }
    let expected = [(0, "at once"), (5, "after"), (10, "by default"), (10, "tx"), (20, "at")];
    assert_eq!(came, expected.map(|(second, text)| (second, text.to_owned())));
}

#[test]
fn a_moment_in_the_past_is_delivered_at_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").delay(10 * SECOND).create().unwrap();
    let Timestamp(now) = sim.now();
    for past in [1, 1000, now - 946_684_800_000] {
        queue.send(Message::new("x").deliver_at(Timestamp(now - past))).unwrap();
        take(&queue).unwrap_or_else(|| panic!("{past} ms ago")).ack().unwrap();
    }
    let earlier = || Message::new("x").deliver_at(Timestamp(now - 1));
    queue.send_batch([earlier(), earlier()]).unwrap();
    // The due time of one part passes while the transaction is put together.
    let mut tx = sim.engine.transaction();
    tx.send(&queue, Message::new("x").deliver_at(Timestamp(now + 1)));
    sim.disk.advance(SECOND);
    tx.send(&queue, earlier());
    tx.commit().unwrap();
    assert_eq!(queue.delayed().unwrap(), 0);
    assert_eq!(queue.depth().unwrap(), 4);
}

#[test]
fn a_moment_that_is_plainly_wrong_is_refused() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let Timestamp(now) = sim.now();
    for wrong in [0, 1, now / 1000, 946_684_799_999, 253_402_300_800_000, now * 1000, u64::MAX] {
        let message = || Message::new("x").deliver_at(Timestamp(wrong));
        assert_eq!(field(queue.send(message())), "deliver_at", "{wrong}");
        assert_eq!(field(queue.send_batch([Message::new("y"), message()])), "deliver_at");
        let mut tx = sim.engine.transaction();
        tx.send(&queue, message());
        assert_eq!(field(tx.commit()), "deliver_at", "{wrong}");
    }
    assert_eq!(queue.depth().unwrap(), 0, "nothing was sent");
    queue.send(Message::new("x").deliver_at(Timestamp(946_684_800_000))).unwrap();
    queue.send(Message::new("x").deliver_at(Timestamp(253_402_300_799_999))).unwrap();
    assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (2, 1));
}

#[test]
fn a_schedule_survives_a_power_cut_and_a_checkpoint() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    for n in 0..200u64 {
        let message = Message::new(n.to_string());
        queue.send(message.deliver_after(Duration::from_secs(1 + n * 7 % 200))).unwrap();
    }
    sim.engine.checkpoint().unwrap();
    queue.send(Message::new("200").deliver_after(Duration::from_secs(1000))).unwrap();
    drop(queue);
    let Sim { disk, engine } = sim;
    disk.power_cut();
    drop(engine);
    sim = Sim { engine: small_options().sim(&disk).open("store").unwrap(), disk };
    let queue = sim.engine.queue("q").open().unwrap();
    let browsed: Vec<_> = queue.browse().unwrap().map(|it| it.unwrap().due().unwrap()).collect();
    assert_eq!(browsed.len(), 201);
    let mut came = 0;
    for second in 1..=200u64 {
        sim.disk.advance(SECOND);
        let delivery = take(&queue).unwrap();
        let n: u64 = std::str::from_utf8(delivery.payload()).unwrap().parse().unwrap();
        assert_eq!(1 + n * 7 % 200, second);
        delivery.ack().unwrap();
        assert!(take(&queue).is_none());
        came += 1;
    }
    assert_eq!((came, queue.depth().unwrap(), queue.delayed().unwrap()), (200, 1, 1));
}

#[test]
fn a_scheduled_message_can_be_cancelled() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let offset = queue.send(Message::new("a").deliver_after(SECOND)).unwrap();
    assert!(queue.remove(offset).unwrap());
    assert!(!queue.remove(offset).unwrap(), "it is gone");
    assert!(!queue.remove(Offset(99)).unwrap(), "it never was");
    assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (0, 0));
    sim.disk.advance(2 * SECOND);
    assert!(take(&queue).is_none());
}
