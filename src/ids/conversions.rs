//! A timestamp as text, by RFC 3339, and as the system's time.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Timestamp;
use crate::error::{Error, Result};

/// The last millisecond of the year 9999, the last year that RFC 3339 can say.
const LAST_MS: u64 = 253_402_300_799_999;

/// RFC 3339, in UTC and to the millisecond. A time after the year 9999 is shown as its number of milliseconds.
///
/// ```
/// use posthouse::Timestamp;
///
/// assert_eq!(Timestamp(1_795_883_400_250).to_string(), "2026-11-28T16:30:00.250Z");
/// ```
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > LAST_MS {
            return write!(f, "{} ms after 1970-01-01T00:00:00Z", self.0);
        }
        fmt::Display::fmt(&humantime::format_rfc3339_millis((*self).into()), f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({})", self.0)
    }
}

/// Reads RFC 3339 in UTC. Parts of a millisecond are cut off.
///
/// ```
/// use posthouse::Timestamp;
///
/// assert_eq!("2026-11-28T16:30:00.250Z".parse::<Timestamp>()?, Timestamp(1_795_883_400_250));
/// assert!("half past four".parse::<Timestamp>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Timestamp> {
        let time = humantime::parse_rfc3339(text).map_err(|cause| {
            let what = format!(
                "{text:?} is no time in UTC by RFC 3339: write it like 2026-11-28T16:30:00.250Z"
            );
            Error::invalid("timestamp", what).because(cause)
        })?;
        Ok(Timestamp::from(time))
    }
}

/// Times before 1970 become 0. Parts of a millisecond are cut off.
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

/// ```
/// use std::time::{Duration, SystemTime, UNIX_EPOCH};
/// use posthouse::Timestamp;
///
/// assert_eq!(SystemTime::from(Timestamp(2000)), UNIX_EPOCH + Duration::from_secs(2));
/// ```
impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        // A year in the far future that the system's time cannot say does not exist here: 64 bits of
        // milliseconds are fewer than its 63 bits of seconds.
        UNIX_EPOCH + Duration::from_millis(time.0)
    }
}
