//! On the simulated disk there are no threads. Each call does what is due for all queues, as the threads would.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    task::{Context, Poll, Wake},
};

use posthouse::{Backoff, Message, Queue, Threshold};

use crate::support::{HOUR, MINUTE, SECOND, Sim, take, texts};

type Call = fn(&Sim, &Queue);

/// Calls that have nothing to do with another queue.
const CALLS: [(&str, Call); 6] = [
    ("send", |_, queue| _ = queue.send("other").unwrap()),
    ("receive", |_, queue| assert!(queue.try_receive().unwrap().is_none())),
    ("depth", |_, queue| assert_eq!(queue.depth().unwrap(), 0)),
    ("stats", |_, queue| assert_eq!(queue.stats().unwrap().depth, 0)),
    ("create", |sim, _| _ = sim.engine.topic("t").create().unwrap()),
    ("transaction", |sim, queue| {
        let mut tx = sim.engine.transaction();
        tx.send(queue, "other");
        tx.commit().unwrap();
    }),
];

#[test]
fn a_call_on_one_queue_tells_the_watch_of_another_one_what_has_come_due() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").create().unwrap();
        let (tell, told) = channel();
        let tell_age = tell.clone();
        let ready = move |_: posthouse::Alarm| tell.send("ready").unwrap();
        let _ready = queue.watch(Threshold::Ready(1), ready).unwrap();
        let age = Threshold::OldestAge(HOUR);
        let _age = queue.watch(age, move |_| tell_age.send("old").unwrap()).unwrap();
        queue.send(Message::new("later").deliver_after(MINUTE)).unwrap();
        sim.disk.advance(MINUTE - SECOND);
        call(&sim, &other);
        assert_eq!(told.try_iter().next(), None, "{name}: too early");
        let _ = other.purge().unwrap();
        sim.disk.advance(SECOND);
        call(&sim, &other);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["ready"], "{name}");
        let _ = other.purge().unwrap();
        sim.disk.advance(2 * HOUR);
        call(&sim, &other);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["old"], "{name}");
    }
}

#[test]
fn a_message_whose_last_lease_ran_out_is_a_dead_letter_for_who_receives_only_these() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").max_attempts(1).lease(MINUTE).create().unwrap();
        let letters = sim.engine.queue("b.dead").open().unwrap();
        queue.send("work").unwrap();
        let held = take(&queue).unwrap();
        assert_eq!(held.payload(), b"work");
        sim.disk.advance(2 * MINUTE);
        call(&sim, &other);
        let browsed: Vec<_> = letters.browse().unwrap().map(Result::unwrap).collect();
        assert_eq!(browsed.len(), 1, "{name}");
        assert_eq!(texts(&letters), ["work"], "{name}");
        assert!(held.ack().is_err());
    }
    // Nothing but the letters is received.
    let sim = Sim::new();
    let queue = sim.engine.queue("b").max_attempts(1).lease(MINUTE).create().unwrap();
    let letters = sim.engine.queue("b.dead").open().unwrap();
    queue.send("work").unwrap();
    let _held = take(&queue).unwrap();
    sim.disk.advance(2 * MINUTE);
    assert_eq!(take(&letters).unwrap().payload(), b"work");
}

#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_task_that_waits_for_a_queue_is_woken_by_a_call_on_another_one() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").lease(MINUTE).backoff(Backoff::None).create().unwrap();
        queue.send("leased").unwrap();
        let _held = take(&queue).unwrap();
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        let mut next = pin!(queue.receive_async());
        assert!(next.as_mut().poll(&mut context).is_pending());
        sim.disk.advance(2 * MINUTE);
        call(&sim, &other);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "{name}");
        let Poll::Ready(delivery) = next.as_mut().poll(&mut context) else { panic!("it waits") };
        assert_eq!(delivery.unwrap().attempt(), 2, "{name}");
    }
}
