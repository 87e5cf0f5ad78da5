//! Appends messages to one log: the plain case of sending.

use std::convert::Infallible;

use super::committer::Committer;
use crate::{
    engine::core::{Core, commit::Receipt},
    error::Result,
    ids::{LogId, Now, Offset},
    message::Message,
    store::{BatchedMessage, Op},
};

/// The log to which messages are appended.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub log: LogId,
    /// Whether the log is a stream's. Its records never expire.
    pub keeps_acked: bool,
}

impl Committer {
    /// Appends messages to a log without limits or order. Returns the offset of the first message.
    #[inline]
    pub fn append(
        &self,
        operation: &'static str,
        target: Target,
        messages: &[Message<'_>],
        now: impl Fn(&Committer) -> Now,
    ) -> Result<(Offset, Receipt)> {
        let nothing = |_: &Core| None::<Infallible>;
        let (Ok(first), receipt) = self.append_unless(operation, target, messages, now, nothing)?;
        Ok((first, receipt))
    }

    /// Appends messages, unless something `forbids` it under the core: that is returned then, with a receipt of the commits on
    /// which it may depend. Returns the offset of the first message.
    #[inline]
    pub fn append_unless<R>(
        &self,
        operation: &'static str,
        target: Target,
        messages: &[Message<'_>],
        now: impl Fn(&Committer) -> Now,
        forbids: impl Fn(&Core) -> Option<R>,
    ) -> Result<(Result<Offset, R>, Receipt)> {
        if self.is_batch(messages.iter())
            && let Some((first, receipt)) =
                self.append_batch(operation, target, messages, &now, &forbids)?
        {
            return Ok((Ok(first), receipt));
        }
        let log = target.log;
        self.transact(operation, |core| {
            if let Some(reason) = forbids(core) {
                return Ok((Err(reason), Receipt::of_what_is_there(&core.store)));
            }
            if messages.is_empty() {
                let (_, next) = core.bounds(log)?;
                // What the caller may have compared is not durable yet.
                return Ok((Ok(next), Receipt::of_what_is_there(&core.store)));
            }
            let receipt = match messages {
                [message] => core.append_one(log, message, now(self))?,
                _ => core.commit(&[Op::Append { log, messages, delay_ms: 0 }], now(self))?,
            };
            Ok((Ok(core.first_placed()), receipt))
        })
    }

    /// Appends messages that are encoded before the core is locked. `None` if they have to be appended in the ordinary way.
    #[cold]
    fn append_batch<R>(
        &self,
        operation: &'static str,
        Target { log, keeps_acked }: Target,
        messages: &[Message<'_>],
        now: &impl Fn(&Committer) -> Now,
        forbids: &impl Fn(&Core) -> Option<R>,
    ) -> Result<Option<(Offset, Receipt)>> {
        let of = |message| BatchedMessage { log, message, keeps_acked };
        let of: Vec<BatchedMessage<'_>> = messages.iter().map(of).collect();
        let mut batch = self.encode(&of, now(self))?;
        self.commit_batch(operation, &mut batch, |core, batch| {
            if forbids(core).is_some() {
                // The ordinary way finds that, too.
                return Ok(None);
            }
            let receipt = core.commit_batch(&[], batch)?;
            Ok(Some((batch.first(), receipt)))
        })
    }
}
