//! How far a commit looks for messages whose lives are over, so that they make room in a full queue.
//!
//! A look counts *steps*: one for each message, and one for each 4 KiB of messages. A call may look about as far as it
//! needs room. Then it gets room, is refused, or drops messages, whatever else has expired. The thread that makes
//! checkpoints goes on with the look.

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
    /// The look of a call that has `looked` so far.
    #[inline]
    pub fn of(looked: u64) -> RoomLook {
        RoomLook { looked, allowed: 0 }
    }

    /// How much further the call may look.
    pub(super) fn left(&self) -> u64 {
        self.allowed.saturating_sub(self.looked)
    }

    /// Asks for room for messages in one more queue.
    pub(super) fn allow(&mut self, messages: u64, bytes: u64) {
        self.allowed += STEPS + messages + bytes / BYTES_EACH;
    }
}
