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
        let appended = self.append_if(operation, log, messages, now, || true)?;
        Ok((appended.0.expect("nothing forbids it"), appended.1))
    }

    /// Appends messages if `may` says so under the core. Returns the offset of the first message.
    #[inline]
    pub fn append_if(
        &self,
        operation: &'static str,
        log: LogId,
        messages: &[Message<'_>],
        now: impl Fn(&Committer) -> Now,
        may: impl Fn() -> bool,
    ) -> Result<(Option<Offset>, Receipt)> {
        self.transact(operation, |core| {
            if !may() {
                return Ok((None, Receipt::NOTHING));
            }
            if messages.is_empty() {
                let (_, next) = core.bounds(log)?;
                return Ok((Some(next), Receipt::NOTHING));
            }
            let receipt = core.commit(&[Op::Append { log, messages, delay_ms: 0 }], now(self))?;
            Ok((Some(core.first_placed()), receipt))
        })
    }
}
