//! Code of the application that the engine calls: it may use the engine, also within the call of a task.

use std::sync::{Arc, Mutex};

use super::*;
use crate::{Queue, Threshold};

/// Sends that need more space than the journal has, and their failures.
#[derive(Default)]
struct Sends(Mutex<Vec<Result<()>>>);

const SENDS: usize = 1000;

impl Sends {
    fn send(&self, to: &Queue) {
        let sent = (0..SENDS).map(|_| to.send(vec![7; 1000]).map(drop));
        let sent: Vec<_> = sent.collect();
        self.0.lock().expect("no send panics").extend(sent);
    }

    fn check(&self) {
        let all = self.0.lock().expect("no send panics");
        let failed: Vec<_> = all.iter().filter_map(|sent| sent.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {} failed: {}", failed.len(), all.len(), failed[0]);
        assert_eq!(all.len(), SENDS);
    }
}

/// A callback that sends, for an alarm.
fn sending(sends: &Arc<Sends>, to: &Queue) -> impl Fn(crate::Alarm) + Send + Sync + 'static {
    let (sends, to) = (Arc::clone(sends), to.clone());
    move |_| sends.send(&to)
}

#[test]
fn the_alarm_of_a_dropped_delivery_may_send() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    let alerts = engine.queue("alerts").create().unwrap();
    let sends = Arc::new(Sends::default());
    let _watch = dead.watch(Threshold::Depth(1), sending(&sends, &alerts)).unwrap();
    queue.send("a").unwrap();
    drop(queue.try_receive().unwrap().unwrap());
    while sends.0.lock().unwrap().is_empty() {
        thread::yield_now(); // the alarm may come from a thread of the engine
    }
    sends.check();
}

#[test]
fn an_alarm_within_the_call_of_a_task_may_send() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").create().unwrap();
    let alerts = engine.queue("alerts").create().unwrap();
    let sends = Arc::new(Sends::default());
    let _watch = queue.watch(Threshold::Depth(1), sending(&sends, &alerts)).unwrap();
    block_on(queue.send_async("a")).unwrap();
    sends.check();
    assert_eq!(queue.depth().unwrap(), 1, "the call itself has committed once");
}

struct SendsWhenWoken {
    sends: Sends,
    to: Queue,
}

impl Wake for SendsWhenWoken {
    fn wake(self: Arc<Self>) {
        self.sends.send(&self.to);
    }
}

#[test]
fn a_waker_within_the_call_of_a_task_may_send() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").create().unwrap();
    let to = engine.queue("alerts").create().unwrap();
    let alarm = Arc::new(SendsWhenWoken { sends: Sends::default(), to });
    let waker = Waker::from(Arc::clone(&alarm));
    let mut next = std::pin::pin!(queue.receive_async());
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    block_on(queue.send_async("a")).unwrap();
    alarm.sends.check();
}
