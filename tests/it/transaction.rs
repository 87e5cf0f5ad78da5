//! Transactions over queues, topics and streams.

use posthouse::{ErrorKind, Message, Offset};

use crate::support::{SECOND, Sim, everywhere, kind, real};

#[test]
fn a_transaction_is_all_or_nothing() {
    everywhere(|open| {
        let engine = open();
        let queue = engine.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
        let topic = engine.topic("t").create().unwrap();
        let subscription =
            topic.subscription("s").backoff(posthouse::Backoff::None).create().unwrap();
        let stream = engine.stream("s").partitions(2).create().unwrap();
        let group = stream.group("g").create().unwrap();
        queue.send_batch(["1", "2", "3"]).unwrap();
        let held: Vec<_> = (0..3).map(|_| queue.try_receive().unwrap().unwrap()).collect();

        let mut tx = engine.transaction();
        tx.ack(&held[0]).nack(&held[1]).send(&queue, "4").publish(&topic, "5");
        tx.append(&stream, Message::new("6").key("a")).append(&stream, "7");
        let positions = tx.commit().unwrap();
        assert_eq!(positions.len(), 4);
        assert_eq!(positions[0].offset, Offset(3));
        engine.sync().unwrap();
        assert_eq!(queue.depth().unwrap(), 3);
        assert_eq!(subscription.depth().unwrap(), 1);
        assert_eq!(stream.len().unwrap(), 2);

        // One part that is not possible is enough.
        let fails = |spoil: &dyn Fn(&mut posthouse::Transaction)| {
            let mut tx = engine.transaction();
            tx.send(&queue, "x").publish(&topic, "x").append(&stream, "x").ack(&held[2]);
            spoil(&mut tx);
            let failure = kind(tx.commit());
            assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (3, 1));
            assert_eq!((subscription.depth().unwrap(), stream.len().unwrap()), (1, 2));
            failure
        };
        let invalid = |field| ErrorKind::InvalidInput { field };
        assert_eq!(
            fails(&|tx| {
                tx.ack(&held[0]);
            }),
            ErrorKind::LeaseLost
        );
        assert_eq!(
            fails(&|tx| {
                tx.nack(&held[2]);
            }),
            invalid("delivery")
        );
        assert_eq!(
            fails(&|tx| {
                tx.commit_offset(&group, 9, Offset(0));
            }),
            invalid("partition")
        );
        assert_eq!(
            fails(&|tx| {
                tx.commit_offset(&group, 0, Offset(9));
            }),
            invalid("offset")
        );
        assert_eq!(
            fails(&|tx| {
                tx.send(&queue, vec![0; 17 << 20]);
            }),
            ErrorKind::TooLarge
        );
        let (other, _dir) = real();
        let stranger = other.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
        assert_eq!(
            fails(&|tx| {
                tx.send(&stranger, "x");
            }),
            invalid("handle")
        );
        assert_eq!(stranger.depth().unwrap(), 0);
        let gone = engine.queue("gone").backoff(posthouse::Backoff::None).create().unwrap();
        engine.queue("gone").delete().unwrap();
        assert_eq!(
            fails(&|tx| {
                tx.send(&gone, "x");
            }),
            ErrorKind::NotFound
        );

        let mut tx = engine.transaction();
        tx.ack(&held[2]);
        tx.commit_ticket().unwrap().wait().unwrap();
        assert!(engine.transaction().commit().unwrap().is_empty(), "nothing is done at once");
        drop((queue, topic, subscription, stream, group, held, gone, engine));
        let engine = open();
        let queue = engine.queue("q").open().unwrap();
        let mut left = Vec::new();
        while let Some(got) = queue.try_receive().unwrap() {
            left.push((got.offset().0, got.attempt()));
            got.ack().unwrap();
        }
        assert_eq!(left, [(1, 2), (3, 1)]);
    });
}

#[test]
fn lost_leases_are_named() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").lease(SECOND).create().unwrap();
    let subscription = engine.topic("t").create().unwrap().subscription("s");
    let subscription = subscription.lease(SECOND).create().unwrap();
    queue.send_batch((0..20).map(|n| n.to_string())).unwrap();
    engine.topic("t").open().unwrap().publish("first").unwrap();
    let mut held = queue.receive_batch(20, SECOND).unwrap();
    held.push(subscription.try_receive().unwrap().unwrap());
    disk.advance(2 * SECOND);
    let kept = queue.receive_batch(1, SECOND).unwrap();
    let commit = |lost: &[usize], messages: u64| {
        let mut tx = engine.transaction();
        tx.ack(&kept[0]);
        lost.iter().for_each(|n| _ = tx.ack(&held[*n]));
        // Many messages are encoded before the leases are checked.
        (0..messages)
            .for_each(|_| _ = tx.append(&engine.stream("s").create().unwrap(), vec![7; 100]));
        let error = tx.commit().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LeaseLost);
        error.to_string()
    };
    for messages in [0, 1000] {
        let one = commit(&[7], messages);
        assert!(one.contains("1 of 2 leases are lost: of message 7 of \"q\""), "{one}");
        let two = commit(&[3, 20], messages);
        assert!(two.contains("message 3 of \"q\", 0 of \"s\""), "{two}");
        assert!(two.contains("Nothing was committed"), "{two}");
        let many = commit(&(0..20).collect::<Vec<_>>(), messages);
        assert!(many.contains("20 of 21") && many.contains("9 of \"q\", ..."), "{many}");
    }
    assert_eq!(queue.depth().unwrap(), 20);
}
