//! Keeps the weights of a queue's messages up to date as commits add and ack messages.

use super::Core;
use crate::{
    audit,
    delivery::weights::{Weights, weight_of},
    error::Result,
    ids::{CursorId, Offset},
    store::{Op, Source},
};

impl Core {
    /// Notes the messages that a commit added and acked in queues with a limit in bytes.
    #[cold]
    pub(super) fn note_weights(&mut self, ops: &[Op<'_>]) {
        for op in ops {
            audit::step();
            let cursor = match op {
                // A queue has one cursor, whose id follows from the id of its log.
                Op::Append { log, .. } => log.queue_cursor(),
                Op::Ack { cursor, .. } | Op::AckRanges { cursor, .. } => *cursor,
                _ => continue,
            };
            let consumption = self.consumers.get_mut(&cursor);
            let Some(weights) = consumption.and_then(|it| it.weights.as_mut()) else { continue };
            match op {
                Op::Append { messages, .. } => {
                    messages.iter().for_each(|message| weights.push(weight_of(message)));
                }
                Op::Ack { offsets, .. } => {
                    offsets.iter().for_each(|offset| weights.ack(offset.only()));
                }
                Op::AckRanges { ranges, .. } => {
                    ranges.iter().for_each(|range| weights.ack(*range));
                }
                _ => {}
            }
        }
    }

    /// Begins to keep the weights of a queue, unless it does already. Returns the offset before which weights
    /// must still be read. `None` if all are known.
    pub fn begin_weighing(&mut self, cursor: CursorId) -> Result<Option<Offset>> {
        let log = self.consumption(cursor)?.info.log;
        let end = self.end_for(cursor, log)?;
        self.weighs = true;
        let weights = &mut self.consumption(cursor)?.weights;
        Ok(weights.get_or_insert_with(|| Weights::new(end)).unread_before())
    }

    /// The next messages of a queue whose weights are to be read, and where to read them.
    pub fn unweighed(
        &mut self,
        cursor: CursorId,
        mut from: Offset,
        end: Offset,
        most: usize,
    ) -> Result<Vec<Unweighed>> {
        let log = self.consumption(cursor)?.info.log;
        let mut unweighed = Vec::with_capacity(most);
        while unweighed.len() < most {
            audit::step();
            let acks = self.store.acks_of(cursor)?;
            let Some(offset) = acks.next_unacked(from.to(end)) else { break };
            unweighed.push(Unweighed { offset, source: self.store.locate(log, offset) });
            from = offset.next();
        }
        Ok(unweighed)
    }

    /// Sets weights that were read. Messages that were acked meanwhile weigh nothing.
    pub fn set_weights(&mut self, cursor: CursorId, read: &[(Offset, u64)]) -> Result<()> {
        let (store, consumption) = self.store_and(cursor)?;
        let acks = store.acks_of(cursor)?;
        let Some(weights) = &mut consumption.weights else { return Ok(()) };
        for (offset, weight) in read {
            audit::step();
            if !acks.is_acked(*offset) {
                weights.set(*offset, *weight);
            }
        }
        Ok(())
    }

    /// Notes that all weights are known.
    pub fn finish_weighing(&mut self, cursor: CursorId) -> Result<()> {
        if let Some(weights) = &mut self.consumption(cursor)?.weights {
            weights.finish_reading();
        }
        Ok(())
    }
}

/// A message whose weight is not known, and where to read it.
#[derive(Debug)]
pub struct Unweighed {
    pub offset: Offset,
    pub source: Result<Source>,
}
