//! Every call that blocks has a form that can be awaited.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Waker},
    thread,
    time::Duration,
};

use posthouse::{Engine, ErrorKind, Offset, Options, Start};

use crate::support::{Count, block_on, real};

#[test]
fn everything_that_blocks_can_be_awaited() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").lease(Duration::from_millis(50)).create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    let offset = block_on(queue.send_ticket("a").unwrap()).unwrap();
    assert_eq!(offset, Offset(0));
    let got = block_on(queue.receive_async()).unwrap();
    assert_eq!(got.payload(), b"a");
    // No consumer settles it, so it comes again.
    let got = block_on(queue.receive_async()).unwrap();
    assert_eq!((got.payload(), got.attempt()), (&b"a"[..], 2));
    block_on(got.ack_ticket().unwrap()).unwrap();

    let mut reader = stream.reader(Start::Earliest).unwrap();
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        stream.append("x").unwrap();
        queue.send("b").unwrap();
        queue
    });
    assert_eq!(block_on(reader.read_async()).unwrap().payload(), b"x");
    let queue = later.join().unwrap();

    // Dropping a future loses no message.
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let held = block_on(queue.receive_async()).unwrap();
    held.extend(Duration::from_secs(60)).unwrap();
    let mut waiting = Box::pin(queue.receive_async());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    queue.send("c").unwrap();
    drop(waiting);
    assert_eq!(queue.try_receive().unwrap().unwrap().payload(), b"c");
}

/// An engine whose journal is full again and again.
fn with_a_short_journal() -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().journal_bytes(1 << 20);
    (options.open(dir.path().join("store")).unwrap(), dir)
}

#[test]
fn every_send_and_every_settling_has_a_form_that_awaits() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").max_attempts(9).create().unwrap();
    let topic = engine.topic("t").create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    let group = stream.group("g").create().unwrap();
    block_on(async {
        assert_eq!(queue.send_async("a").await.unwrap(), Offset(0));
        assert_eq!(queue.send_batch_async(["b", "c"]).await.unwrap(), Offset(1)..Offset(3));
        assert_eq!(queue.send_within_async("d", Duration::ZERO).await.unwrap(), Offset(3));
        assert_eq!(queue.send_batch_ticket(["e"]).unwrap().await.unwrap(), Offset(4)..Offset(5));
        assert_eq!(topic.publish_async("a").await.unwrap(), Offset(0));
        assert_eq!(topic.publish_batch_async(["b"]).await.unwrap(), Offset(1)..Offset(2));
        assert_eq!(topic.publish_batch_ticket(["c"]).unwrap().await.unwrap().end, Offset(3));
        assert_eq!(stream.append_async("a").await.unwrap().offset, Offset(0));
        assert_eq!(stream.append_batch_async(["b", "c"]).await.unwrap().len(), 2);
        assert_eq!(stream.append_batch_ticket(["d"]).unwrap().await.unwrap().len(), 1);
        let mut reader = group.reader().unwrap();
        while reader.try_read().unwrap().is_some() {}
        group.commit_reader_async(&reader).await.unwrap();
        assert_eq!(group.lag().unwrap(), 0);

        let next = async || queue.receive_async().await.unwrap();
        next().await.nack_async().await.unwrap();
        next().await.nack_because_async("no").await.unwrap();
        next().await.release_async().await.unwrap();
        next().await.release_ticket().unwrap().await.unwrap();
        next().await.reject_async("no").await.unwrap();
        next().await.reject_ticket("no").unwrap().await.unwrap();
        next().await.nack_after_async(Duration::from_secs(60)).await.unwrap();
        next().await.nack_after_ticket(Duration::from_secs(60)).unwrap().await.unwrap();
        next().await.ack_async().await.unwrap();
        assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (2, 2));
        assert_eq!(engine.queue("q.dead").open().unwrap().depth().unwrap(), 2);

        queue.send_batch_async(["x", "y", "z"]).await.unwrap();
        let batch = queue.receive_batch_async(2).await.unwrap();
        queue.ack_batch_async(&batch).await.unwrap();
        let batch = queue.receive_batch_async(2).await.unwrap();
        queue.ack_batch_ticket(&batch).unwrap().await.unwrap();
        let mut tx = engine.transaction();
        tx.send(&queue, "last");
        assert_eq!(tx.commit_async().await.unwrap().len(), 1);
    });
    assert_eq!(queue.depth().unwrap(), 3);
}

/// A thread that blocks while the journal is full polls no other task meanwhile.
#[test]
fn a_task_does_not_block_its_thread_while_the_journal_is_full() {
    let (engine, _dir) = with_a_short_journal();
    let queue = engine.queue("q").create().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut awaited_space = 0;
    for _ in 0..600 {
        // Buffered, so that it awaits nothing but space.
        let fast = queue.durability(posthouse::Durability::Buffered);
        let mut sent = Box::pin(fast.send_async(vec![7; 16 << 10]));
        let pending = sent.as_mut().poll(&mut context).is_pending();
        awaited_space += u64::from(pending);
        if pending {
            block_on(sent).unwrap();
        }
    }
    assert!(awaited_space > 0, "the journal was never full");
    assert_eq!(queue.depth().unwrap(), 600);
    block_on(async {
        for _ in 0..600 {
            let delivery = queue.receive_async().await.unwrap();
            assert_eq!(delivery.payload().len(), 16 << 10);
            delivery.ack_async().await.unwrap();
        }
    });
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn a_send_within_a_time_awaits_capacity_and_is_refused_when_the_time_is_over() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").max_messages(1).create().unwrap();
    queue.send("a").unwrap();
    let short = Duration::from_millis(20);
    let refused = block_on(queue.send_within_async("b", short)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QueueFull);
    assert_eq!(queue.depth().unwrap(), 1);
    let other = queue.clone();
    let making = thread::spawn(move || {
        thread::sleep(short);
        other.try_receive().unwrap().unwrap().ack().unwrap();
    });
    let sent = block_on(queue.send_within_async("c", Duration::from_secs(60)));
    assert_eq!(sent.unwrap(), Offset(1));
    making.join().unwrap();
    // One that is dropped while it waits passes the capacity on, and sends nothing.
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut waiting = Box::pin(queue.send_within_async("d", Duration::from_secs(60)));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waiting);
    queue.try_receive().unwrap().unwrap().ack().unwrap();
    assert_eq!((woken.woken(), queue.depth().unwrap()), (0, 0));
}

#[test]
fn what_a_task_awaits_ends_when_the_engine_is_closed() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").max_messages(1).create().unwrap();
    queue.send("a").unwrap();
    let full = queue.clone();
    let sending =
        thread::spawn(move || block_on(full.send_within_async("b", Duration::from_secs(3600))));
    thread::sleep(Duration::from_millis(20));
    engine.close().unwrap();
    assert_eq!(sending.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
}
