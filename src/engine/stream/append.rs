//! Commits records to the partitions of a stream.

use super::{Partition, Position, Stream};
use crate::{
    engine::{
        commit::{append::Target, committer::Committer},
        core::{Core, commit::Receipt},
    },
    error::Result,
    ids::Offset,
    message::Message,
    store::{BatchedMessage, Op},
    stream::partition_of,
};

impl Stream {
    /// The partition of the records with a key: [`partition_of`](crate::partition_of) for this stream.
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// let position = history.append(Message::new("created").key("customer-17"))?;
    /// assert_eq!(history.partition_of_key("customer-17"), position.partition);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn partition_of_key(&self, key: impl AsRef<[u8]>) -> u32 {
        partition_of(key.as_ref(), self.shape.partitions)
    }

    pub(super) fn commit_one(&self, message: &Message<'_>) -> Result<(Position, Receipt)> {
        let partition = self.shape.partition_for(message);
        let target = Target { log: self.shape.log(partition), keeps_acked: true };
        let messages = std::slice::from_ref(message);
        let (offset, receipt) = self.shape.engine.committer().append(
            "append",
            target,
            messages,
            Committer::now_plain,
        )?;
        Ok((Position { partition, offset }, receipt))
    }

    pub(super) fn commit(&self, messages: &[Message<'_>]) -> Result<(Vec<Position>, Receipt)> {
        let shape = &self.shape;
        let partitions: Vec<u32> = messages.iter().map(|it| shape.partition_for(it)).collect();
        if shape.engine.committer().is_batch(messages.iter())
            && let Some(committed) = self.commit_batch(messages, &partitions)?
        {
            return Ok(committed);
        }
        // Neighbouring records of one partition go into one run.
        let mut ops = Vec::new();
        let mut at = 0;
        for same in partitions.chunk_by(|a, b| a == b) {
            let messages = &messages[at..at + same.len()];
            ops.push(Op::Append { log: shape.log(same[0]), messages, delay_ms: 0 });
            at += same.len();
        }
        let committer = shape.engine.committer();
        committer.transact("append a batch", |core| {
            if messages.is_empty() {
                core.bounds(shape.log(0))?;
                return Ok((Vec::new(), Receipt::NOTHING));
            }
            let receipt = core.commit(&ops, committer.now_plain())?;
            let offsets = core.store.placed().flat_map(|(_, it)| it);
            let position = |(&partition, offset)| Position { partition, offset };
            Ok((partitions.iter().zip(offsets).map(position).collect(), receipt))
        })
    }

    /// Appends records that are encoded before the core is locked. `None` if they have to be appended in the ordinary way.
    fn commit_batch(
        &self,
        messages: &[Message<'_>],
        partitions: &[u32],
    ) -> Result<Option<(Vec<Position>, Receipt)>> {
        let (shape, committer) = (&self.shape, self.shape.engine.committer());
        let of = |(message, partition): (_, &u32)| BatchedMessage {
            log: shape.log(*partition),
            message,
            keeps_acked: true,
        };
        let records: Vec<BatchedMessage<'_>> = messages.iter().zip(partitions).map(of).collect();
        let mut batch = committer.encode(&records, committer.now_plain())?;
        let committed = committer.commit_batch("append a batch", &mut batch, |core, batch| {
            Ok(Some(((), core.commit_batch(&[], batch)?)))
        })?;
        let Some(((), receipt)) = committed else { return Ok(None) };
        let places = partitions.iter().zip(batch.offsets());
        let place = |(partition, offset): (&u32, _)| Position { partition: *partition, offset };
        Ok(Some((places.map(place).collect(), receipt)))
    }
}

impl Partition {
    /// Appends records if the partition ends at an offset. Otherwise it returns the conflict, with a receipt of the records that
    /// are there.
    pub(super) fn commit_if(
        &self,
        expected_end: Offset,
        messages: &[Message<'_>],
    ) -> Result<(Result<Offset>, Receipt)> {
        let Partition { shape, number, .. } = self;
        messages.iter().try_for_each(|message| shape.check_key(message, *number))?;
        let target = Target { log: self.log(), keeps_acked: true };
        let forbids = |core: &Core| shape.conflict(core, *number, expected_end);
        let committer = shape.engine.committer();
        committer.append_unless("append", target, messages, Committer::now_plain, forbids)
    }
}
