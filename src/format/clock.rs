//! What a store knows of the clocks. `docs/FORMAT.md` has the table under "Clocks".

use serde::{Deserialize, Serialize};

use super::wire::{Bytes, Decoded, Malformed, put_varint, unzigzag, zigzag};
use crate::ids::{Skew, Timestamp};

/// The clocks, as of the last time at which they were recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// The boot of the machine; zeros if the system does not tell.
    pub boot: [u8; 16],
    /// The even time less the time since the machine has booted, in milliseconds. It holds within this boot.
    pub base_ms: i64,
    /// The even time less the time of day.
    pub skew: Skew,
    /// The even time at which this was recorded.
    pub latest: Timestamp,
    /// Whether the time of day was behind the store's when the machine had booted. Then `skew` is that from before,
    /// and counts again once the time of day has caught up.
    pub is_doubtful: bool,
}

/// All times and differences are below this.
const TIME_CEILING: u64 = 1 << 62;

impl ClockState {
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.boot);
        put_varint(out, zigzag(self.base_ms));
        put_varint(out, zigzag(self.skew.0));
        put_varint(out, self.latest.0);
        out.push(u8::from(self.is_doubtful));
    }

    pub fn take(input: &mut Bytes<'_>) -> Decoded<ClockState> {
        let mut boot = [0; 16];
        boot.copy_from_slice(input.take(16)?);
        let base_ms = unzigzag(input.varint()?);
        let skew = Skew(unzigzag(input.varint()?));
        let latest = Timestamp(input.varint()?);
        let is_doubtful = match input.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("an impossible state of the clocks")),
        };
        let state = ClockState { boot, base_ms, skew, latest, is_doubtful };
        state.check()?;
        Ok(state)
    }

    /// The skew of a record that does not say which time of day it was.
    pub fn skew_of_unknown_day(latest: Timestamp) -> Skew {
        Skew(latest.0 as i64)
    }

    /// Whether the record does not say which time of day it was: its time of day is the beginning of 1970.
    pub fn day_is_unknown(&self) -> bool {
        !self.is_doubtful && self.skew == ClockState::skew_of_unknown_day(self.latest)
    }

    pub fn check(&self) -> Decoded<()> {
        let largest = self.base_ms.unsigned_abs().max(self.skew.0.unsigned_abs());
        match largest.max(self.latest.0) {
            TIME_CEILING.. => Err(Malformed("an impossible state of the clocks")),
            _ => Ok(()),
        }
    }
}
