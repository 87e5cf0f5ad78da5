//! Schedules: the times at which they run, and the decision for a schedule that is due. Every function takes `now` as an
//! argument. The crate `jiff` has the calendar and the time zones, and `croner` the cron expressions.

#[cfg(test)]
mod tests;

mod known;

pub use known::KnownSchedules;

use std::panic::{AssertUnwindSafe, catch_unwind};

use croner::{Cron, errors::CronError, parser::CronParser};
use jiff::{
    Zoned,
    tz::{TimeZone, TimeZoneTransition},
};

use crate::{
    error::{Error, ErrorKind, Result},
    format::schedule::MissedRuns,
    ids::Timestamp,
};

/// The longest cron expression, in bytes.
const CRON_BYTES_MAX: usize = 1024;

/// Clocks differ by so much where nobody has set one.
const EARLY_MS: u64 = 1000;

/// `croner` searches for the end of a gap this long.
const GAP_SECONDS_MAX: i32 = 7200;

/// How many changes of a zone's clocks are looked at. All long gaps are in the past.
const TRANSITIONS_MAX: usize = 1000;

/// A run is missed when it is so late.
const LATE_MS: u64 = 60_000;

/// The times of a cron expression, by the calendar and the clocks of a time zone.
#[derive(Clone, Debug)]
pub struct Rhythm {
    cron: Cron,
    zone: TimeZone,
}

/// What is to be done about a schedule that has come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The time for which a message is sent, if one is.
    pub run: Option<Timestamp>,
    /// When the schedule comes up again. If never, it has ended.
    pub next: Option<Timestamp>,
}

impl Rhythm {
    pub fn parse(cron: &str, time_zone: &str) -> Result<Rhythm> {
        let zone = zone(time_zone)?;
        if cron.len() > CRON_BYTES_MAX {
            let length = cron.len();
            let what =
                format!("a cron expression of {length} bytes: it has {CRON_BYTES_MAX} at most");
            return Err(Error::invalid("cron", what));
        }
        let parsed = guarded(|| CronParser::new().parse(cron));
        match parsed {
            Some(Ok(parsed)) => Ok(Rhythm { cron: parsed, zone }),
            Some(Err(error)) => {
                let what = format!("{cron:?} is no cron expression");
                Err(Error::invalid("cron", what).because(error))
            }
            None => Err(Error::invalid("cron", format!("{cron:?} is no cron expression"))),
        }
    }

    /// The name of the time zone, as the database of time zones spells it.
    pub fn time_zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The first time after another.
    pub fn next(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        let start = self.zoned(after)?;
        let mut found = self.search(|cron| cron.find_next_occurrence(&start, false))?;
        if found.is_none() {
            let gaps = self.zone.following(start.timestamp()).take(TRANSITIONS_MAX);
            found = self.behind_gap(gaps, |end| {
                self.search(|cron| cron.find_next_occurrence(&end, true))
            })?;
        }
        match found {
            // Who relied on that would never come to an end.
            Some(next) if next <= after => Err(self.failed()),
            found => Ok(found),
        }
    }

    /// The last time up to another, which may be that.
    fn last(&self, until: Timestamp) -> Result<Option<Timestamp>> {
        let until = self.zoned(until)?;
        let found = self.search(|cron| cron.find_previous_occurrence(&until, true))?;
        if found.is_some() {
            return Ok(found);
        }
        let gaps = self.zone.preceding(until.timestamp()).take(TRANSITIONS_MAX);
        self.behind_gap(gaps, |end| {
            // The last second before the gap.
            let Ok(before) = end.checked_sub(jiff::Span::new().seconds(1)) else { return Ok(None) };
            self.search(|cron| cron.find_previous_occurrence(&before, true))
        })
    }

    /// Searches on behind the long gaps of the time zone. `croner` gives up a time that falls into a gap of more
    /// than two hours: an island that crossed the date line left out a whole day.
    fn behind_gap<'t>(
        &self,
        transitions: impl Iterator<Item = TimeZoneTransition<'t>>,
        search: impl Fn(Zoned) -> Result<Option<Timestamp>>,
    ) -> Result<Option<Timestamp>> {
        for transition in transitions {
            let end = transition.timestamp();
            let Ok(before) = end.checked_sub(jiff::Span::new().seconds(1)) else { break };
            let gap = transition.offset().seconds() - self.zone.to_offset(before).seconds();
            if gap > GAP_SECONDS_MAX
                && let Some(found) = search(end.to_zoned(self.zone.clone()))?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn search(
        &self,
        find: impl FnOnce(&Cron) -> Result<Zoned, CronError>,
    ) -> Result<Option<Timestamp>> {
        match guarded(|| find(&self.cron)) {
            Some(Ok(found)) => {
                let ms = found.timestamp().as_millisecond();
                Ok(Some(Timestamp(u64::try_from(ms).unwrap_or(0))))
            }
            Some(Err(CronError::TimeSearchLimitExceeded)) => Ok(None),
            Some(Err(error)) => Err(self.failed().because(error)),
            None => Err(self.failed()),
        }
    }

    fn failed(&self) -> Error {
        let what = format!("the times of {:?} cannot be found", self.cron.as_str());
        Error::invalid("cron", what)
    }

    fn zoned(&self, at: Timestamp) -> Result<Zoned> {
        let at = calendar(at)?;
        Ok(at.to_zoned(self.zone.clone()))
    }

    /// What is to be done now about a schedule whose next run was to be at a time.
    pub fn turn(&self, planned: Timestamp, missed: MissedRuns, now: Timestamp) -> Result<Turn> {
        if now.0.saturating_add(EARLY_MS) < planned.0 {
            // The clock was set back meanwhile.
            return Ok(Turn { run: None, next: Some(planned) });
        }
        let following = self.next(planned)?;
        let is_alone = following.is_none_or(|following| following > now);
        let makes_all = missed == MissedRuns::RunAll && !seeded!(MissedRunsAreLeftOut);
        let (time, next) = if is_alone || makes_all {
            (planned, following)
        } else {
            let latest = self.last(now)?.map_or(planned, |last| last.max(planned));
            (latest, self.next(latest.max(now))?)
        };
        let is_late = now.0.saturating_sub(time.0) > LATE_MS;
        let is_skipped = missed == MissedRuns::Skip && is_late;
        Ok(Turn { run: (!is_skipped).then_some(time), next })
    }
}

/// A time as text for people and other programs: RFC 3339, in UTC.
pub fn text(at: Timestamp) -> Result<String> {
    Ok(calendar(at)?.to_string())
}

fn calendar(at: Timestamp) -> Result<jiff::Timestamp> {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_err(|error| {
        let what = format!("no calendar has the time {at}: the clock is wrong");
        Error::new(ErrorKind::Io, what).because(error)
    })
}

fn zone(name: &str) -> Result<TimeZone> {
    if name.eq_ignore_ascii_case("UTC") {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|error| {
        let what = format!(
            "the system knows no time zone {name:?}; give its name in the database of time zones, \
             such as \"Europe/Berlin\""
        );
        Error::invalid("time_zone", what).because(error)
    })
}

/// What users give as an expression must not end their process, whatever the library makes of it.
fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}
