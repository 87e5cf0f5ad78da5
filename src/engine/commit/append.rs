//! Appends messages to one log: the plain case of sending.

use super::committer::Committer;
use crate::{
    engine::core::commit::Receipt,
    error::Result,
    ids::{LogId, Now, Offset},
    message::Message,
    store::{BatchedMessage, Op},
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
        if self.is_batch(messages.iter())
            && let Some(appended) = self.append_batch(operation, log, messages, &now, &may)?
        {
            return Ok(appended);
        }
        self.transact(operation, |core| {
            if !may() {
                return Ok((None, Receipt::NOTHING));
            }
            if messages.is_empty() {
                let (_, next) = core.bounds(log)?;
                return Ok((Some(next), Receipt::NOTHING));
            }
            let receipt = match messages {
                [message] => core.append_one(log, message, now(self))?,
                _ => core.commit(&[Op::Append { log, messages, delay_ms: 0 }], now(self))?,
            };
            Ok((Some(core.first_placed()), receipt))
        })
    }

    /// Appends messages that are encoded before the core is locked. `None` if they have to be appended in the ordinary way.
    #[cold]
    fn append_batch(
        &self,
        operation: &'static str,
        log: LogId,
        messages: &[Message<'_>],
        now: &impl Fn(&Committer) -> Now,
        may: &impl Fn() -> bool,
    ) -> Result<Option<(Option<Offset>, Receipt)>> {
        let of = |message| BatchedMessage { log, message, keeps_acked: false };
        let of: Vec<BatchedMessage<'_>> = messages.iter().map(of).collect();
        let mut batch = self.encode(&of, now(self))?;
        self.commit_batch(operation, &mut batch, |core, batch| {
            if !may() {
                return Ok(None);
            }
            let receipt = core.commit_batch(&[], batch)?;
            Ok(Some((Some(batch.first()), receipt)))
        })
    }
}
