//! Every call that blocks has a form that can be awaited.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Waker},
    thread,
    time::Duration,
};

use posthouse::{Offset, Start};

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
