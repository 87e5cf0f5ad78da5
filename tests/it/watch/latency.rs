//! Latencies, counted in buckets.

use std::time::Duration;

use posthouse::{Latency, Message, Timestamp};

use crate::support::{SECOND, Sim, ms, take};

fn counted(latency: &Latency) -> Vec<(u64, u64)> {
    latency.buckets().map(|(time, count)| (time.as_millis() as u64, count)).collect()
}

#[test]
fn latencies_count_how_long_messages_have_waited_and_were_handled() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    assert_eq!(queue.latencies().unwrap(), posthouse::Latencies::default());
    queue.send_batch(["a", "b", "c", "d"]).unwrap();
    sim.disk.advance(ms(7));
    let a = take(&queue).unwrap();
    sim.disk.advance(ms(3));
    let rest = queue.receive_batch(2, Duration::ZERO).unwrap();
    a.ack().unwrap();
    let latencies = queue.latencies().unwrap();
    assert_eq!(counted(&latencies.waiting), [(7, 1), (10, 2)]);
    assert_eq!(counted(&latencies.handling), [(3, 1)]);
    sim.disk.advance(ms(2));
    let mut tx = sim.engine.transaction();
    tx.ack(&rest[0]);
    tx.commit().unwrap();
    queue.ack_batch([&rest[1]]).unwrap();
    let later = queue.latencies().unwrap();
    assert_eq!(counted(&later.handling), [(2, 2), (3, 1)]);
    assert_eq!(counted(&later.since(&latencies).handling), [(2, 2)]);
    assert_eq!(later.since(&latencies).waiting.count(), 0);
    assert_eq!((later.waiting.quantile(0.5), later.waiting.mean()), (Some(ms(10)), Some(ms(9))));
    // All handles of a queue show the same.
    assert_eq!(sim.engine.queue("q").open().unwrap().latencies().unwrap(), later);
}

#[test]
fn only_first_deliveries_have_waited_and_only_acked_ones_were_handled() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    let subscription =
        topic.subscription("s").backoff(posthouse::Backoff::None).max_attempts(9).create().unwrap();
    topic.publish("a").unwrap();
    for _ in 0..3 {
        sim.disk.advance(ms(5));
        subscription.try_receive().unwrap().unwrap().nack().unwrap();
    }
    sim.disk.advance(ms(5));
    drop(subscription.try_receive().unwrap().unwrap());
    let latencies = subscription.latencies().unwrap();
    assert_eq!(counted(&latencies.waiting), [(5, 1)]);
    assert_eq!(latencies.handling.count(), 0);
    let last = subscription.try_receive().unwrap().unwrap();
    sim.disk.advance(ms(1));
    last.ack().unwrap();
    let latencies = subscription.latencies().unwrap();
    assert_eq!((latencies.waiting.count(), counted(&latencies.handling)), (1, vec![(1, 1)]));
}

#[test]
fn a_delayed_message_has_waited_since_it_was_due() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(Message::new("a").deliver_after(60 * SECOND)).unwrap();
    sim.engine.checkpoint().unwrap();
    sim.disk.advance(60 * SECOND + ms(9));
    take(&queue).unwrap().ack().unwrap();
    // A message whose timestamp lies ahead has not waited at all.
    queue.send(Message::new("b").timestamp(Timestamp(u64::MAX))).unwrap();
    take(&queue).unwrap().ack().unwrap();
    assert_eq!(counted(&queue.latencies().unwrap().waiting), [(0, 1), (9, 1)]);
}

#[test]
fn a_queue_that_was_deleted_has_no_latencies() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    sim.engine.queue("q").delete().unwrap();
    assert_eq!(queue.latencies().unwrap_err().kind(), posthouse::ErrorKind::NotFound);
}
