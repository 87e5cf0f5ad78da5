//! How far a commit looks for messages whose lives are over, so that they make room in a full queue.
//!
//! A look counts *steps*: one for each message, and one for each 4 KiB of messages. A call may look about as far as it
//! needs room. Then it gets room, is refused, or drops messages, whatever else has expired. The thread that makes
//! checkpoints goes on with the look.

use super::{Core, capacity::Load};

/// How far a call looks in any case: four slices.
const STEPS: u64 = 1024;

/// So many bytes of messages are read in one step.
pub const BYTES_A_STEP: u64 = 4096;

/// The bytes of the smallest messages that a call with many bytes can count on.
const BYTES_EACH: u64 = 64;

/// The look of the call whose attempt holds the core.
#[derive(Debug, Default)]
pub struct RoomLook {
    /// How far the call has looked before this attempt.
    looked: u64,
    /// How far it may look, for the queues of this attempt that were asked for room so far.
    allowed: u64,
}

impl RoomLook {
    /// How much further the call may look.
    pub(super) fn left(&self) -> u64 {
        self.allowed.saturating_sub(self.looked)
    }

    /// Asks for room in one more queue.
    pub(super) fn allow(&mut self, load: Load) {
        self.allowed += STEPS + load.messages + load.bytes / BYTES_EACH;
    }
}

impl Core {
    /// Begins an attempt of a call that has `looked` so far.
    #[inline]
    pub fn begin_attempt(&mut self, looked: u64) {
        self.room = RoomLook { looked, allowed: 0 };
    }

    /// Has the thread that makes checkpoints go on with a look that a call has broken off.
    pub(super) fn look_on(&mut self) {
        self.lives.swept = None;
        self.arm_lives_again();
    }
}
