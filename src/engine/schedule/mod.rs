//! Schedules. A queue of their own keeps them; a scheduler runs them.

mod builder;
mod registry;
mod run;
mod scheduler;
mod snapshot;
mod stored;
mod target;
mod thread;

pub use self::{
    builder::ScheduleBuilder, run::ScheduleFailure, scheduler::SchedulerBuilder, stored::Schedule,
    thread::Scheduler,
};
