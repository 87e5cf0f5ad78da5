//! The messages that a schedule sends, and their times.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Wake, Waker},
};

use posthouse::{
    Delivery, Engine, ErrorKind, Message, MissedRuns, Queue, Schedule, Start, Target, Timestamp,
    sim::SimDisk,
};

use super::{BEGIN, hourly, reopen, run_due, times};
use crate::support::{DAY, HOUR, MINUTE, SECOND, Sim, field, kind, open, take};

#[test]
fn it_runs_at_its_times_and_says_for_which() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("ticks").create().unwrap();
    let message = Message::new("tick").key("k").header("kind", "tick");
    let schedule = engine.schedule("minutely").cron("* * * * *").to_queue(&queue, message);
    let schedule = schedule.create().unwrap();
    assert_eq!(schedule.next_run(), Timestamp(BEGIN.0 + 40_000));
    assert_eq!(run_due(&engine), 0);
    disk.advance(39 * SECOND);
    assert_eq!(run_due(&engine), 0);
    disk.advance(SECOND);
    assert_eq!(run_due(&engine), 1);
    assert_eq!(run_due(&engine), 0);
    let delivery = take(&queue).unwrap();
    assert_eq!((delivery.payload(), delivery.key()), (&b"tick"[..], Some(&b"k"[..])));
    assert_eq!(delivery.header("kind"), Some(&b"tick"[..]));
    assert_eq!(delivery.header(Schedule::NAME_HEADER), Some(&b"minutely"[..]));
    assert_eq!(delivery.header(Schedule::TIME_HEADER), Some(&b"2023-11-14T22:14:00Z"[..]));
    assert_eq!(delivery.timestamp(), Timestamp(BEGIN.0 + 40_000));
    delivery.ack().unwrap();
    for _ in 0..5 {
        disk.advance(MINUTE);
        assert_eq!(run_due(&engine), 1);
    }
    assert_eq!(times(&queue).last().unwrap(), "2023-11-14T22:19:00Z");
    assert_eq!(queue.depth().unwrap(), 5);
}

#[test]
fn topics_and_streams_are_targets_too() {
    let Sim { disk, engine } = Sim::new();
    let topic = engine.topic("hours").create().unwrap();
    let subscription = topic.subscription("all").create().unwrap();
    let stream = engine.stream("hours").partitions(4).create().unwrap();
    engine.schedule("t").cron("@hourly").to_topic(&topic, "hour").create().unwrap();
    engine.schedule("s").cron("@hourly").to_stream(&stream, "hour").create().unwrap();
    for _ in 0..8 {
        disk.advance(HOUR);
        assert_eq!(run_due(&engine), 2);
    }
    assert_eq!(subscription.depth().unwrap(), 8);
    assert_eq!(stream.len().unwrap(), 8);
    // Without a key the records go to each partition in rotation, as all records do.
    let of = |partition| {
        let reader = stream.partition(partition).unwrap().reader(Start::Earliest).unwrap();
        reader.count()
    };
    assert!((0..4).filter(|it| of(*it) > 0).count() > 1, "all are in one partition");
    let targets: Vec<Target> =
        engine.schedules().unwrap().iter().map(|it| it.target().clone()).collect();
    assert_eq!(targets, [Target::Stream("hours".into()), Target::Topic("hours".into())]);
}

#[test]
fn a_message_may_have_a_time_to_live() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("ticks").create().unwrap();
    let message = Message::new("tick").expire_after(MINUTE);
    engine.schedule("h").cron("@hourly").to_queue(&queue, message).create().unwrap();
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 1);
    disk.advance(2 * MINUTE);
    assert!(take(&queue).is_none(), "it has expired");
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 1);
    assert!(take(&queue).is_some(), "each has a time to live of its own");
}

#[test]
fn it_goes_on_behind_a_restart_and_a_checkpoint() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("ticks").create().unwrap();
    hourly(&sim.engine, &queue).create().unwrap();
    drop(queue);
    for n in 0..6 {
        sim.disk.advance(HOUR);
        if n % 2 == 0 {
            sim.engine.checkpoint().unwrap();
        }
        sim = if n % 3 == 0 { sim.kill() } else { reopen(sim) };
        assert_eq!(run_due(&sim.engine), 1);
    }
    assert_eq!(sim.engine.queue("ticks").open().unwrap().depth().unwrap(), 6);
    assert!(sim.engine.verify().unwrap().is_ok());
}

#[test]
fn missed_runs_are_made_once_or_all_or_not() {
    let sim = Sim::new();
    for (name, missed) in
        [("once", MissedRuns::RunOnce), ("all", MissedRuns::RunAll), ("skip", MissedRuns::Skip)]
    {
        let queue = sim.engine.queue(name).create().unwrap();
        let schedule = sim.engine.schedule(name).cron("0 * * * *").missed_runs(missed);
        schedule.to_queue(&queue, "x").create().unwrap();
    }
    sim.disk.advance(HOUR);
    assert_eq!(run_due(&sim.engine), 2, "13 minutes late, one is skipped");
    let Sim { disk, engine } = reopen(sim);
    disk.advance(5 * HOUR);
    let sim = reopen(Sim { disk, engine });
    assert_eq!(run_due(&sim.engine), 1 + 5);
    let times = |name: &str| times(&sim.engine.queue(name).open().unwrap());
    assert_eq!(times("once"), ["2023-11-14T23:00:00Z", "2023-11-15T04:00:00Z"]);
    let all: Vec<String> = (0..5).map(|n| format!("2023-11-15T0{n}:00:00Z")).collect();
    assert_eq!(times("all")[0], "2023-11-14T23:00:00Z");
    assert_eq!(times("all")[1..], all);
    assert!(times("skip").is_empty());
    // A run in time is not skipped.
    sim.disk.advance(MINUTE * 46 + 41 * SECOND);
    assert_eq!(run_due(&sim.engine), 3);
    assert_eq!(times("skip"), ["2023-11-15T05:00:00Z"]);
}

#[test]
fn a_schedule_with_a_year_comes_to_its_end_and_is_told_and_kept() {
    let sim = Sim::new();
    let Sim { disk, engine } = &sim;
    let queue = engine.queue("q").create().unwrap();
    let schedule = engine.schedule("once").cron("0 0 12 24 12 * 2023").to_queue(&queue, "x");
    assert!(!schedule.create().unwrap().has_ended());
    disk.advance(41 * DAY);
    let told = Arc::new(Mutex::new(Vec::new()));
    let scheduler = engine.scheduler().on_failure({
        let told = Arc::clone(&told);
        move |end| told.lock().unwrap().push((end.schedule.clone(), end.has_ended))
    });
    assert_eq!(scheduler.run_due().unwrap(), 1);
    assert_eq!(*told.lock().unwrap(), [(Some("once".to_owned()), true)]);
    assert_eq!(times(&queue), ["2023-12-24T12:00:00Z"]);
    assert_eq!(field(schedule.create()), "cron", "it would never run");

    let sim = reopen(sim);
    sim.disk.advance(10_000 * DAY);
    assert_eq!(run_due(&sim.engine), 0, "it runs no more");
    let ended = sim.engine.schedule("once").open().unwrap();
    assert_eq!((ended.has_ended(), ended.next_run()), (true, Timestamp(u64::MAX)));
    sim.engine.schedule("once").delete().unwrap();
    assert!(sim.engine.schedules().unwrap().is_empty());
}

/// Samoa crossed the date line, and left out December 30th, 2011.
#[test]
fn a_daily_schedule_goes_on_where_a_zone_leaves_out_a_day() {
    let disk = SimDisk::new(7);
    disk.set_now(Timestamp(1_325_149_200_000)); // 2011-12-29T09:00:00Z
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let daily = engine.schedule("daily").cron("0 6 * * *").time_zone("Pacific/Apia");
    daily.to_queue(&queue, "x").create().unwrap();
    for _ in 0..3 {
        disk.advance(DAY);
        assert_eq!(run_due(&engine), 1);
    }
    let all = ["2011-12-29T16:00:00Z", "2011-12-30T16:00:00Z", "2011-12-31T16:00:00Z"];
    assert_eq!(times(&queue), all);
    assert!(!engine.schedule("daily").open().unwrap().has_ended());
}

#[test]
fn time_zones_have_their_clocks_changed() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    let nightly = engine.schedule("nightly").cron("30 2 * * *").time_zone("Europe/Berlin");
    nightly.to_queue(&queue, "x").create().unwrap();
    let mut days = 0;
    while days < 400 {
        disk.advance(HOUR);
        days += run_due(&engine);
    }
    let times = times(&queue);
    assert_eq!(times.len(), 400);
    assert_eq!(times[0], "2023-11-15T01:30:00Z");
    let of = |day: &str| times.iter().filter(|it| it.starts_with(day)).collect::<Vec<_>>();
    // 02:30 is left out on March 31st 2024, and comes twice on October 27th.
    assert_eq!(of("2024-03-30"), ["2024-03-30T01:30:00Z"]);
    assert_eq!(of("2024-03-31"), ["2024-03-31T01:00:00Z"]);
    assert_eq!(of("2024-04-01"), ["2024-04-01T00:30:00Z"]);
    assert_eq!(of("2024-10-27"), ["2024-10-27T00:30:00Z"]);
    assert_eq!(of("2024-10-28"), ["2024-10-28T01:30:00Z"]);
}

/// The old message of the schedule was acked, and the new one not yet durable.
#[test]
fn a_schedule_that_runs_is_listed_and_found() {
    let sim = Sim::new();
    let reports = sim.engine.queue("reports").create().unwrap();
    sim.engine.schedule("x").cron("@hourly").to_queue(&reports, "report").create().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let engine = sim.engine.clone();
    let look = move |_| {
        let listed = engine.schedules().map(|all| all.len());
        tell.send((listed.unwrap(), engine.schedule("x").open().is_ok())).unwrap();
    };
    let _watch = reports.watch(posthouse::Threshold::Depth(1), look).unwrap();
    sim.disk.advance(HOUR);
    assert_eq!(run_due(&sim.engine), 1);
    assert_eq!(told.try_iter().next(), Some((1, true)));
    drop(sim);
}

type Receive = Pin<Box<dyn Future<Output = posthouse::Result<Delivery>> + Send>>;

/// A waker that runs the schedule each time that it is called, and waits for the next call.
struct Runs {
    disk: SimDisk,
    engine: Engine,
    ticks: Queue,
    left: AtomicU64,
    /// The receives that have waited. They hold the wakers.
    waits: Mutex<Vec<Receive>>,
}

impl Runs {
    fn wait(self: &Arc<Runs>) {
        let ticks = self.ticks.clone();
        let mut wait = Box::pin(async move { ticks.receive_async().await });
        let waker = Waker::from(Arc::clone(self));
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        self.waits.lock().unwrap().push(wait);
    }
}

impl Wake for Runs {
    fn wake(self: Arc<Runs>) {
        if self.left.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.left.fetch_sub(1, Ordering::SeqCst);
        take(&self.ticks).expect("it is due").ack().unwrap();
        self.disk.advance(HOUR);
        assert!(run_due(&self.engine) > 0);
        self.ticks.send(Message::new("tick").deliver_after(HOUR)).unwrap();
        Runs::wait(&self);
        self.disk.advance(HOUR);
    }
}

/// Each look found another run, and looked once more.
#[test]
fn schedules_are_listed_and_looked_for_while_one_runs_all_the_time() {
    const RUNS: u64 = 200;
    let looks: [fn(&Engine); 4] = [
        |engine| assert_eq!(engine.schedules().unwrap().len(), 2),
        |engine| assert_eq!(kind(engine.schedule("absent").open()), ErrorKind::NotFound),
        |engine| assert_eq!(engine.schedule("x").open().unwrap().name(), "x"),
        |engine| assert_eq!(engine.schedule("y").open().unwrap().name(), "y"),
    ];
    for look in looks {
        let Sim { disk, engine } = Sim::new();
        let reports = engine.queue("reports").create().unwrap();
        let schedule = |name: &str| engine.schedule(name).to_queue(&reports, "report");
        schedule("x").cron("@hourly").create().unwrap();
        schedule("y").cron("@yearly").create().unwrap();
        let ticks = engine.queue("ticks").create().unwrap();
        ticks.send(Message::new("tick").deliver_after(HOUR)).unwrap();
        let left = AtomicU64::new(RUNS);
        let (disk_too, engine_too) = (disk.clone(), engine.clone());
        let waits = Mutex::default();
        let runs = Arc::new(Runs { disk: disk_too, engine: engine_too, ticks, left, waits });
        runs.wait();
        disk.advance(HOUR);
        look(&engine);
        let made = RUNS - runs.left.swap(0, Ordering::SeqCst);
        assert!((1..20).contains(&made), "it went on until {made} runs were made");
        runs.waits.lock().unwrap().clear();
    }
}

#[test]
fn the_messages_of_a_schedule_have_its_subject() {
    let sim = Sim::new();
    let engine = &sim.engine;
    let topic = engine.topic("hours").create().unwrap();
    let subscription =
        |name: &str, pattern: &str| topic.subscription(name).pattern(pattern).create().unwrap();
    let (berlin, paris) = (subscription("a", "hour.berlin"), subscription("b", "hour.paris"));
    let hour = |subject: &'static str| Message::new("hour").header("h", "v").subject(subject);
    let schedule = engine.schedule("t").cron("@hourly");
    let created = schedule.clone().to_topic(&topic, hour("hour.berlin")).create().unwrap();
    assert_eq!(created.message().subject_set(), Some("hour.berlin"));
    assert_eq!(created.message().headers().count(), 1);
    assert_eq!(field(schedule.clone().to_topic(&topic, hour("hour.*")).create()), "subject");
    drop((berlin, paris, schedule, topic));
    let Sim { disk, engine } = reopen(sim);
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 1);
    let got = |name: &str| {
        let topic = engine.topic("hours").open().unwrap();
        topic.subscription(name).open().unwrap().try_receive().unwrap()
    };
    assert_eq!(got("a").expect("it matches").subject(), Some("hour.berlin"));
    assert!(got("b").is_none());
}
