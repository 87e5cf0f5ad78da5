//! The thresholds that are watched, and their callbacks.

use std::{fmt, sync::Arc};

use crate::{
    delivery::thresholds::{Alarm, Probe},
    engine::runtime::application,
};

/// A function of the application that is called with alarms.
pub type OnAlarm = Arc<dyn Fn(Alarm) + Send + Sync>;

/// A threshold that is watched.
pub struct WatchedThreshold {
    pub(super) number: u64,
    pub probe: Probe,
    pub(super) call: OnAlarm,
}

impl fmt::Debug for WatchedThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedThreshold").field("probe", &self.probe).finish_non_exhaustive()
    }
}

/// A call of a function of the application.
pub struct Callback {
    pub(super) call: OnAlarm,
    pub(super) alarm: Alarm,
}

impl Callback {
    pub fn run(self) {
        // A panic must not end the thread that crossed the threshold. If the threshold is no longer watched, the function
        // is dropped here, too.
        application::run(move || (self.call)(self.alarm));
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback").field("alarm", &self.alarm).finish_non_exhaustive()
    }
}
