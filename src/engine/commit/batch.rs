//! Commits of many messages, or of large ones. They are encoded before the core is locked, so other commits do not wait for
//! that.

use std::time::Duration;

use super::committer::Committer;
use crate::{
    engine::core::{
        Core,
        commit::{CommitResult, Receipt},
        waiters::LOGS_AT_ONCE,
    },
    error::Result,
    ids::{LogId, Now},
    message::Message,
    store::{Batch, BatchedMessage},
};

/// So many bytes of messages are encoded before the core is locked, however few they are.
const BATCH_BYTES_MIN: usize = 64 << 10;
/// A batch that has waited longer for space is given up: its messages have the time at which they were encoded, and lives
/// count from it. The time that it takes to match its messages with filters does not count, as it is spent all the same.
const STALE: Duration = Duration::from_secs(1);

impl Committer {
    /// Whether messages are worth to be encoded before the core is locked: with few it takes less time than the call needs
    /// beside that. Messages with more than a payload, a key and headers have changes beside them, which depend on the
    /// state.
    #[inline]
    pub fn is_batch<'a>(
        &self,
        messages: impl ExactSizeIterator<Item = &'a Message<'a>> + Clone,
    ) -> bool {
        let is_many = messages.len() >= self.config.batch_messages;
        let mut bytes = 0;
        if !is_many {
            messages.clone().for_each(|message| bytes += message.payload().len());
        }
        (is_many || bytes >= BATCH_BYTES_MIN)
            && messages.len() > 0
            && !messages.into_iter().any(Message::has_more)
    }

    /// Encodes messages for [`commit_batch`](Committer::commit_batch).
    pub fn encode(&self, messages: &[BatchedMessage<'_>], now: Now) -> Result<Batch> {
        Batch::of(&self.config, messages, now)
    }

    /// Commits a batch: calls `attempt` under the core, and again each time after it made space for the commit. `None` if
    /// the batch was encoded in vain, because it waited long, the clock was set, or `attempt` has found that something else has
    /// changed: the caller then commits its messages in the ordinary way.
    pub fn commit_batch<T>(
        &self,
        operation: &'static str,
        batch: &mut Batch,
        attempt: impl FnMut(&mut Core, &mut Batch) -> CommitResult<Option<(T, Receipt)>>,
    ) -> Result<Option<(T, Receipt)>> {
        self.commit_batch_within(operation, None, batch, attempt)
    }

    /// As [`commit_batch`](Committer::commit_batch), for a call that has time: see
    /// [`transact_within`](Committer::transact_within).
    pub fn commit_batch_within<T>(
        &self,
        operation: &'static str,
        left: Option<&dyn Fn() -> Duration>,
        batch: &mut Batch,
        mut attempt: impl FnMut(&mut Core, &mut Batch) -> CommitResult<Option<(T, Receipt)>>,
    ) -> Result<Option<(T, Receipt)>> {
        let begun = self.elapsed();
        let mut matching = Duration::ZERO;
        let (committed, receipt) = loop {
            let (mut pages, mut wants_match) = (None, false);
            let (committed, receipt) = self.transact_within(operation, left, |core| {
                let waited = self.elapsed().saturating_sub(begun).saturating_sub(matching);
                if waited > STALE || !core.suits(batch) {
                    return Ok((None, Receipt::NOTHING));
                }
                pages = core.store.pages_of(batch);
                wants_match = core.store.wants_match(batch);
                if pages.is_some() || wants_match {
                    return Ok((None, Receipt::NOTHING));
                }
                let attempted = attempt(core, batch)?;
                Ok(attempted.map_or((None, Receipt::NOTHING), |(it, receipt)| (Some(it), receipt)))
            })?;
            if wants_match {
                let begun = self.elapsed();
                self.match_early(batch);
                matching += self.elapsed().saturating_sub(begun);
            }
            match pages {
                Some(pages) => pages.make_ready(),
                None if wants_match => {}
                None => break (committed, receipt),
            }
        };
        let Some(committed) = committed else { return Ok(None) };
        self.note_batch(&batch.arrivals());
        Ok(Some((committed, receipt)))
    }

    /// Finds the subscriptions with filters that the messages of a batch match, in slices.
    fn match_early(&self, batch: &mut Batch) {
        loop {
            // A closed engine refuses the commit.
            let Ok(mut core) = self.lock_open("match a batch") else { return };
            let is_more = core.store.match_early(batch);
            self.end_slice(core);
            if !is_more {
                return;
            }
        }
    }

    /// Wakes the waiters of the logs of a batch, in slices.
    pub fn note_batch(&self, logs: &[(LogId, u64)]) {
        for some in logs.chunks(LOGS_AT_ONCE) {
            let mut core = self.lock("wake for a batch");
            core.note_batch(some);
            self.end_slice(core);
        }
    }
}
