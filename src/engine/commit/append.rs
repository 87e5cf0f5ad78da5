//! Appends messages to one log: the plain case of sending.

use super::committer::Committer;
use crate::{
    engine::core::commit::Receipt,
    error::Result,
    ids::{LogId, Now, Offset},
    message::Message,
    store::Op,
};

impl Committer {
    /// Appends messages to a log without limits or order. Returns the offset of the first message.
    #[inline]
    pub fn append(
        &self,
        operation: &'static str,
        log: LogId,
        messages: &[Message<'_>],
        now: impl Fn(&Committer) -> Now,
    ) -> Result<(Offset, Receipt)> {
        self.transact(operation, |core| {
            if messages.is_empty() {
                let (_, next) = core.bounds(log)?;
                return Ok((next, Receipt::NOTHING));
            }
            let receipt = core.commit(&[Op::Append { log, messages, delay_ms: 0 }], now(self))?;
            Ok((core.first_placed(), receipt))
        })
    }
}
