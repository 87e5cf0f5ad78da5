//! Schedules. A queue of their own keeps them; a scheduler runs them.

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
