//! Recurring schedules: their documented behaviour, with crashes, on a simulated clock and on a real one.

mod crash;
mod damage;
mod queue;
mod runs;
mod scheduler;
mod settings;
mod threads;
mod trouble;

use posthouse::{Engine, Queue, Schedule, ScheduleBuilder, Timestamp};

use crate::support::{Sim, open};

const REGISTRY: &str = "posthouse.schedules";

/// The simulated time at which each test begins: 2023-11-14, 22:13:20.
const BEGIN: Timestamp = Timestamp(1_700_000_000_000);

fn minutely(engine: &Engine, queue: &Queue) -> ScheduleBuilder {
    engine.schedule("minutely").cron("* * * * *").to_queue(queue, "tick")
}

fn hourly(engine: &Engine, queue: &Queue) -> ScheduleBuilder {
    engine.schedule("hourly").cron("0 * * * *").to_queue(queue, "tick")
}

fn run_due(engine: &Engine) -> u64 {
    engine.scheduler().run_due().unwrap()
}

/// The scheduled times of the messages in a queue.
fn times(queue: &Queue) -> Vec<String> {
    let time = |browsed: posthouse::Browsed| {
        let time = browsed.header(Schedule::TIME_HEADER).unwrap().to_vec();
        String::from_utf8(time).unwrap()
    };
    queue.browse().unwrap().map(|it| time(it.unwrap())).collect()
}

fn reopen(sim: Sim) -> Sim {
    let Sim { disk, engine } = sim;
    engine.close().unwrap();
    drop(engine);
    let engine = open(&disk).unwrap();
    Sim { disk, engine }
}

/// A schedule on the real clock.
fn secondly(engine: &Engine, queue: &Queue) -> ScheduleBuilder {
    engine.schedule("secondly").cron("* * * * * *").to_queue(queue, "tick")
}
