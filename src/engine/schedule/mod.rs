//! Schedules: kept in a queue of their own, and run by a thread or step by step.

mod builder;
mod registry;
mod run;
mod scheduler;
mod stored;
mod target;

pub use self::{
    builder::ScheduleBuilder,
    run::ScheduleFailure,
    scheduler::{Scheduler, SchedulerBuilder},
    stored::Schedule,
};
