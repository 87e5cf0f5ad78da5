//! Reads the weights of the messages that a queue with a limit in bytes holds when it is first opened.

use super::consumer::Consumer;
use crate::{
    delivery::weights::{Weights, weight_of_stored},
    engine::core::weights::Unweighed,
    error::{ErrorKind, Result},
    ids::Offset,
};

/// How many messages are read between two holds of the core.
const MESSAGES_AT_ONCE: usize = 64;

impl Consumer {
    /// Reads the weights of a queue's messages, unless they are known. Other threads may send and receive
    /// meanwhile: commits keep the weights up to date from the beginning.
    pub fn weigh(&self) -> Result<()> {
        let operation = "weigh a queue";
        let (cursor, committer) = (self.cursor(), self.committer());
        let Some(end) = committer.lock_open(operation)?.begin_weighing(cursor)? else {
            return Ok(());
        };
        let mut from = Offset(0);
        loop {
            let unweighed =
                committer.lock_open(operation)?.unweighed(cursor, from, end, MESSAGES_AT_ONCE)?;
            let Some(last) = unweighed.last() else { break };
            from = last.offset.next();
            let mut read = Vec::with_capacity(unweighed.len());
            for Unweighed { offset, source } in unweighed {
                match source.and_then(|source| self.load(source, offset)) {
                    Ok(stored) => read.push((offset, weight_of_stored(&stored))),
                    // The weight of a damaged message is unknown, and counts as 0. So does that of a message that
                    // was deleted meanwhile.
                    Err(error)
                        if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            committer.lock_open(operation)?.set_weights(cursor, &read)?;
        }
        committer.lock_open(operation)?.finish_weighing(cursor)
    }

    /// The sum of the weights of all unacked messages. `None` if the queue has no limit in bytes.
    pub fn bytes(&self) -> Result<Option<u64>> {
        let mut core = self.lock_looked("bytes")?;
        let consumption = core.consumption(self.cursor())?;
        let weights = consumption.weights.as_ref().filter(|_| consumption.rules.weighs());
        Ok(weights.map(Weights::sum))
    }
}
