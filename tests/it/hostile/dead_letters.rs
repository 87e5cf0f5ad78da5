//! Findings of a hostile review of the queues: dead letters, and redriven messages.

use posthouse::{Durability, Engine, Message, Options, Timestamp, sim::SimDisk};

use crate::model::small_options;
use crate::support::{HOUR, SECOND, Sim, field, ms, take};

#[test]
fn a_letter_of_a_subscription_does_not_go_to_a_queue_of_its_name() {
    let Sim { engine, .. } = Sim::new();
    let topic = engine.topic("orders").create().unwrap();
    let billing = topic.subscription("billing").max_attempts(1).create().unwrap();
    let other = engine.queue("orders/billing").create().unwrap();
    topic.publish("secret").unwrap();
    billing.try_receive().unwrap().unwrap().nack().unwrap();
    let dead = engine.queue("orders.billing.dead").open().unwrap();
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    assert_eq!((billing.depth().unwrap(), other.depth().unwrap()), (1, 0));
}

#[test]
fn a_letter_that_waited_and_is_redriven_waits_no_more() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    queue.send("a").unwrap();
    take(&queue).unwrap().nack().unwrap();
    take(&dead).unwrap().nack_after(HOUR).unwrap();
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    assert_eq!((dead.depth().unwrap(), dead.delayed().unwrap()), (0, 0));
}

#[test]
fn the_field_that_says_when_is_named() {
    let topic = Sim::new().engine.topic("t").create().unwrap();
    let at = Message::new("x").deliver_at(Timestamp(2_000_000_000_000));
    assert_eq!(field(topic.publish(at)), "deliver_at");
    assert_eq!(field(topic.publish(Message::new("x").deliver_after(SECOND))), "deliver_after");
}

#[test]
fn a_letter_that_its_note_makes_too_large_is_moved_all_the_same() {
    let disk = SimDisk::new(7);
    let options = small_options().commit_bytes_max((64 << 10) + 100);
    let engine = options.sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    queue.send(vec![1; 64 << 10]).unwrap();
    take(&queue).unwrap().nack_because(&"r".repeat(2000)).unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1));
}

#[test]
fn a_letter_above_a_limit_that_was_lowered_is_moved_all_the_same() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    queue.send(vec![1; 10 << 10]).unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    let engine = small_options().message_bytes_max(4 << 10).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    take(&queue).unwrap().nack().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1));
}

#[test]
fn a_dead_letter_in_a_transaction_is_no_ack() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    queue.send("a").unwrap();
    let delivery = take(&queue).unwrap();
    let mut tx = engine.transaction();
    tx.nack(&delivery);
    tx.commit().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.acked, stats.dead, stats.failed), (0, 1, 1));
}

#[test]
fn the_last_failure_is_a_failure_too() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    queue.send("a").unwrap();
    take(&queue).unwrap().nack().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.acked, stats.dead, stats.failed), (0, 1, 1));
}

#[test]
fn an_expired_message_was_not_acked() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").time_to_live(SECOND).create().unwrap();
    queue.send("a").unwrap();
    disk.advance(2 * SECOND);
    assert!(take(&queue).is_none());
    assert_eq!(queue.stats().unwrap().acked, 0);
}

#[test]
fn letters_with_a_way_back_are_redriven_beside_those_without() {
    let Sim { engine, .. } = Sim::new();
    let a = engine.queue("a").max_attempts(1).dead_letter_queue("dead").create().unwrap();
    let b = engine.queue("b").max_attempts(1).dead_letter_queue("dead").create().unwrap();
    a.send("1").unwrap();
    take(&a).unwrap().nack().unwrap();
    b.send("2").unwrap();
    take(&b).unwrap().nack().unwrap();
    drop(b);
    engine.queue("b").delete().unwrap();
    let dead = engine.queue("dead").open().unwrap();
    assert!(dead.redrive().run().is_err());
    assert_eq!(a.depth().unwrap(), 1);
}

#[test]
fn the_time_to_live_of_a_redriven_letter_starts_again() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).time_to_live(10 * SECOND).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    queue.send("a").unwrap();
    take(&queue).unwrap().nack().unwrap();
    disk.advance(20 * SECOND);
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    assert!(take(&queue).is_some());
}

#[test]
fn letters_larger_than_a_commit_together_are_redriven() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    for _ in 0..5 {
        queue.send(vec![1; 40 << 10]).unwrap();
        take(&queue).unwrap().nack().unwrap();
    }
    assert_eq!(dead.redrive().run().unwrap().moved, 5);
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (5, 0));
}

#[test]
fn a_hundred_letters_with_large_headers_are_redriven() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().durability(Durability::Buffered);
    let engine = options.open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    let big = vec![7u8; 1 << 20];
    for _ in 0..100 {
        queue.send(Message::new("").header("h", &big)).unwrap();
        take(&queue).unwrap().nack().unwrap();
    }
    assert_eq!(dead.redrive().run().unwrap().moved, 100);
}

#[test]
fn a_message_due_at_the_end_of_time_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send(Message::new("x").deliver_at(Timestamp(253_402_300_799_999))).unwrap();
    queue.send(Message::new("y").deliver_after(ms(100))).unwrap();
    let delivery = queue.receive(60 * SECOND).unwrap().expect("one is due soon");
    assert_eq!(delivery.payload(), b"y");
}

#[test]
fn a_redriven_message_keeps_the_length_of_its_time_to_live() {
    let Sim { disk, engine } = Sim::new();
    let (a, b) = (engine.queue("a").create().unwrap(), engine.queue("b").create().unwrap());
    a.send(Message::new("x").expire_after(10 * SECOND)).unwrap();
    a.redrive().to(&b).run().unwrap();
    disk.advance(9 * SECOND);
    take(&b).expect("it lives ten seconds").nack_after(ms(0)).unwrap();
    disk.advance(SECOND);
    assert!(take(&b).is_none());
}

#[test]
fn salvage_keeps_notes_attempts_and_waits() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_attempts(2).create().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    take(&queue).unwrap().nack_after(HOUR).unwrap();
    take(&queue).unwrap().reject("why").unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    small_options().sim(&disk).salvage("store", "rescued").unwrap();
    let engine = small_options().sim(&disk).open("rescued").unwrap();
    let queue = engine.queue("q").open().unwrap();
    let waiting = queue.browse().unwrap().next().unwrap().unwrap();
    assert_eq!((waiting.attempts(), waiting.due().is_some()), (1, true));
    assert_eq!(queue.delayed().unwrap(), 1);
    let dead = engine.queue("q.dead").open().unwrap();
    let letter = dead.browse().unwrap().next().unwrap().unwrap();
    assert_eq!(letter.dead_letter().unwrap().unwrap().reason, "why");
}
