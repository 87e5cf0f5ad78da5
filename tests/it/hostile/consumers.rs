//! Findings of a hostile review of the queues: consumers that must be told apart.

use std::{sync::mpsc, thread};

use posthouse::{Delivery, Threshold};

use crate::support::{SECOND, Sim, Task, take};

#[test]
fn all_waiting_tasks_of_the_consumer_that_takes_over_receive() {
    let sim = Sim::new();
    let open = || sim.engine.queue("q").single_active_consumer(true).create().unwrap();
    let (active, next, last) = (open(), open(), open());
    active.send_batch(["a", "b", "c"]).unwrap();
    take(&active).unwrap().ack().unwrap();
    let mut of_next: Vec<_> = (0..2).map(|_| Task::waiting(next.receive_async())).collect();
    let of_last = Task::waiting(last.receive_async());
    drop(active);
    assert!(of_next.iter().all(Task::is_woken) && !of_last.is_woken());
    let got = of_next.iter_mut().map(|it| it.poll().expect("there are two").unwrap());
    let got: Vec<Delivery> = got.collect();
    assert_eq!([got[0].payload(), got[1].payload()], [b"b", b"c"]);
}

#[test]
fn a_new_consumer_does_not_overtake_a_waiting_one() {
    let sim = Sim::new();
    let open = || {
        sim.engine
            .queue("q")
            .backoff(posthouse::Backoff::None)
            .single_active_consumer(true)
            .create()
            .unwrap()
    };
    let (active, early, late) = (open(), open(), open());
    active.send_batch(["a", "b"]).unwrap();
    take(&active).unwrap().ack().unwrap();
    // It asked first, but it does not wait.
    assert!(take(&late).is_none());
    let mut waiting = Task::waiting(early.receive_async());
    drop(active);
    assert!(take(&late).is_none(), "another one has waited for that");
    assert!(early.is_active().unwrap() && waiting.is_woken());
    assert_eq!(waiting.poll().unwrap().unwrap().payload(), b"b");
    drop((waiting, early));
    assert!(take(&late).is_some(), "no consumer waits: it is for the first that comes");
}

#[test]
fn a_watch_may_hold_the_last_handle_of_a_consumer() {
    for is_deleted in [false, true] {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let sim = Sim::new();
            let queue = sim.engine.queue("q").single_active_consumer(true).create().unwrap();
            let held = queue.clone();
            let watch = queue.watch(Threshold::Depth(1), move |_| drop(held.depth())).unwrap();
            drop(queue);
            if is_deleted {
                sim.engine.queue("q").delete().unwrap();
            }
            drop(watch);
            tell.send(()).unwrap();
        });
        assert!(told.recv_timeout(60 * SECOND).is_ok(), "it waits for itself");
    }
}

#[test]
fn fencing_tokens_grow_although_the_queue_is_made_anew() {
    let sim = Sim::new();
    let mut last = 0;
    for _ in 0..3 {
        let queue = sim.engine.queue("q").create().unwrap();
        queue.send("a").unwrap();
        let token = take(&queue).unwrap().fencing_token();
        assert!(token > last);
        last = token;
        sim.engine.queue("q").delete().unwrap();
    }
}
