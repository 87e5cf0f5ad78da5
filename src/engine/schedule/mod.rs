//! Schedules. A queue of their own keeps them; a scheduler runs them.

mod builder;
mod instant;
mod registry;
mod run;
mod scheduler;
mod stored;
mod target;
mod thread;

pub use self::{
    builder::ScheduleBuilder, run::ScheduleFailure, scheduler::SchedulerBuilder, stored::Schedule,
    thread::Scheduler,
};
