//! The time of day, for applications.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    disk::{Disk, os::OsDisk},
    ids::Timestamp,
};

impl Timestamp {
    /// The system's time of day. On a simulated disk the engine has a clock of its own, which this
    /// is not.
    #[must_use]
    pub fn now() -> Timestamp {
        OsDisk::new().now()
    }
}

/// Times before 1970 become 0; what is less than a millisecond is cut off.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use posthouse::Timestamp;
///
/// assert_eq!(Timestamp::from(UNIX_EPOCH + Duration::from_secs(2)), Timestamp(2000));
/// ```
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
