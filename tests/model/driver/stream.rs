//! Streams and groups.

use posthouse::{Error, ErrorKind, Offset, Start, Stream, Ticket, sim};

use super::{Driver, durability, seek_in, text};
use crate::{
    action::{How, Name},
    state::{Msg, PartitionState, RECORDS_MAX, RETAINING, SPARING, StreamState},
};

impl Driver<'_> {
    pub(super) fn stream(&self, name: &str) -> Result<Stream, Error> {
        self.engine().stream(name).open()
    }

    pub(super) fn create_stream(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("stream", name);
        let builder = self.engine().stream(&name).partitions(2);
        // One that exists may have another limit by now.
        let is_limited = name == RETAINING && !self.now().streams.contains_key(&name);
        let builder = if is_limited { builder.max_records(RECORDS_MAX) } else { builder };
        let made = builder.create().map(drop);
        self.commit(made, |state| {
            let partitions = vec![PartitionState::default(); 2];
            let limit = (name == RETAINING).then_some(RECORDS_MAX);
            let fresh = StreamState { partitions, limit, ..StreamState::default() };
            state.streams.entry(name).or_insert(fresh);
        })
    }

    pub(super) fn delete_stream(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("stream", name);
        if !self.now().streams.contains_key(&name) {
            return Ok(Some(()));
        }
        let gone = self.engine().stream(&name).delete();
        self.commit(gone, |state| drop(state.streams.remove(&name)))
    }

    pub(super) fn create_group(&mut self, stream: Name, name: Name) -> Result<Option<()>, Error> {
        let (stream, name) = (text("stream", stream), text("group", name));
        let Some(known) = self.now().streams.get(&stream) else { return Ok(Some(())) };
        let (mut starts, mut builder) = (known.starts(), self.stream(&stream)?.group(&name));
        if stream == RETAINING {
            // Where its records begin depends on whether a checkpoint was before it. So it begins behind all of them.
            let end = known.partitions.iter().map(|it| it.next).max().unwrap();
            starts.fill(end);
            builder = builder.start(Start::Offset(Offset(end))).keeps_unread(name == SPARING);
        }
        let made = builder.create().map(drop);
        self.commit(made, |state| {
            let stream = state.streams.get_mut(&stream).unwrap();
            stream.groups.entry(name).or_insert(starts);
        })
    }

    pub(super) fn append(
        &mut self,
        stream: Name,
        count: u8,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let name = text("stream", stream);
        if !self.now().streams.contains_key(&name) {
            return Ok(Some(()));
        }
        let mut messages = self.messages(count.max(1), bytes);
        // The handle chooses the partition of a message without a key.
        for message in &mut messages {
            message.key.get_or_insert_with(|| b"no key".to_vec());
        }
        let stream = self.stream(&name)?;
        let batch = messages.iter().map(Msg::message);
        let appended = match how {
            How::Waited if messages.len() == 1 => {
                stream.append_ticket(messages[0].message()).and_then(Ticket::wait).map(|p| vec![p])
            }
            _ => stream.durability(durability(how)).append_batch(batch),
        };
        let how = if how == How::Waited { How::Sync } else { how };
        let mut expected = Vec::new();
        let done = self.commit_as(how, appended, |state| {
            let stream = state.streams.get_mut(&name).unwrap();
            expected.extend(messages.iter().map(|message| stream.append(message)));
        })?;
        if let Some(positions) = done {
            let got: Vec<_> = positions.iter().map(|it| (it.partition, it.offset.0)).collect();
            assert_eq!(got, expected);
            return Ok(Some(()));
        }
        Ok(None)
    }

    /// A message for a partition: with its key, if that belongs to the partition.
    pub(super) fn for_partition(&self, message: &mut Msg, number: u32) {
        message.key.take_if(|key| posthouse::partition_of(key, 2) != number);
    }

    /// The place that a number stands for: a partition, and an offset at which one may expect it to end. One time in four
    /// it is wrong.
    pub(super) fn end_expected(partitions: &[PartitionState], at: u8) -> (u32, u64) {
        let number = u32::from(at % 2);
        let next = partitions[number as usize].next;
        match at / 2 % 16 {
            0 | 1 => (number, next + 1),
            2 => (number, next.saturating_sub(1)),
            3 => (number, 0),
            _ => (number, next),
        }
    }

    pub(super) fn append_if(
        &mut self,
        stream: Name,
        at: u8,
        (count, bytes): (u8, u16),
        how: How,
    ) -> Result<Option<()>, Error> {
        let name = text("stream", stream);
        let Some(known) = self.now().streams.get(&name) else { return Ok(Some(())) };
        let (number, expected) = Self::end_expected(&known.partitions, at);
        let next = known.partitions[number as usize].next;
        let mut messages = self.messages(count.max(1), bytes);
        messages.iter_mut().for_each(|message| self.for_partition(message, number));
        let stream = self.stream(&name)?.durability(durability(how));
        let partition = stream.partition(number)?;
        let (end, batch) = (Offset(expected), messages.iter().map(Msg::message));
        let appended = match how {
            How::Ticket => {
                partition.append_batch_if_ticket(end, batch).map(|it| it.value().cloned().unwrap())
            }
            How::Waited => partition.append_batch_if_ticket(end, batch).and_then(Ticket::wait),
            _ if messages.len() == 1 => {
                partition.append_if(end, messages[0].message()).map(|offset| offset..offset.next())
            }
            _ => partition.append_batch_if(end, batch),
        };
        if expected != next {
            return self.expect_conflict(appended.map(drop), (number, expected, next), how);
        }
        let done = self.commit_as(how, appended, |state| {
            let stream = state.streams.get_mut(&name).unwrap();
            messages.iter().for_each(|message| _ = stream.append_to(number, message));
        })?;
        let Some(offsets) = done else { return Ok(None) };
        assert_eq!(offsets, end..Offset(next + messages.len() as u64));
        Ok(Some(()))
    }

    /// Takes the outcome of a commit that expects another end than a partition has. A call that waits is answered when the
    /// records are durable that are there.
    pub(super) fn expect_conflict(
        &mut self,
        result: Result<(), Error>,
        (partition, expected, actual): (u32, u64, u64),
        how: How,
    ) -> Result<Option<()>, Error> {
        let (expected, actual) = (Offset(expected), Offset(actual));
        let done = self.expect(result, ErrorKind::Conflict { partition, expected, actual })?;
        if done.is_some() && how == How::Sync {
            self.is_durable();
        }
        Ok(done)
    }

    pub(super) fn seek(&mut self, stream: Name, group: Name, to: u8) -> Result<Option<()>, Error> {
        let (stream, group) = (text("stream", stream), text("group", group));
        let Some((partition, offset)) = self.seek_target(&stream, &group, to) else {
            return Ok(Some(()));
        };
        let handle = self.stream(&stream).and_then(|stream| stream.group(&group).open());
        let behind = Offset(self.now().streams[&stream].partitions[partition as usize].next + 1);
        if let Ok(handle) = &handle
            && !self.doomed
        {
            let error = handle.commit(partition, behind).expect_err("behind the end");
            assert!(matches!(error.kind(), ErrorKind::InvalidInput { field: "offset" }));
        }
        let committed = handle.and_then(|group| group.commit(partition, Offset(offset)));
        self.commit(committed, |state| seek_in(state, &stream, &group, partition, offset))
    }

    pub(super) fn seek_target(&self, name: &str, group: &str, to: u8) -> Option<(u32, u64)> {
        let stream = self.now().streams.get(name)?;
        stream.groups.get(group)?;
        let partition = u32::from(to % 2);
        let next = stream.partitions[partition as usize].next;
        let to = u64::from(to) % (next + 1);
        if name != RETAINING {
            return Some((partition, to));
        }
        // It does not go back: a checkpoint may have been before.
        let at = stream.groups[group][partition as usize];
        (at <= next).then(|| (partition, to.max(at)))
    }

    pub(super) fn trim(&mut self, stream: Name, to: u8) -> Result<Option<()>, Error> {
        let name = text("stream", stream);
        let Some(stream) = self.now().streams.get(&name) else {
            return Ok(Some(()));
        };
        let number = u32::from(to % 2);
        let offset = u64::from(to) % (stream.partitions[number as usize].next + 1);
        let trimmed = self
            .stream(&name)
            .and_then(|stream| stream.partition(number)?.trim_before(Offset(offset)));
        self.commit(trimmed, |state| {
            let stream = state.streams.get_mut(&name).unwrap();
            stream.partitions[number as usize].trim(offset);
        })
    }

    /// Changes how many records the stream with limits keeps.
    pub(super) fn limit(&mut self, n: u8) -> Result<Option<()>, Error> {
        // With a disk that fails, it is not known which of the limits have let records leave.
        if self.doomed || !self.now().streams.contains_key(RETAINING) {
            return Ok(Some(()));
        }
        // What leaves by the former limits has left.
        self.stream(RETAINING)?.len()?;
        self.follow_retention(false);
        let limit = [None, Some(3), Some(RECORDS_MAX), Some(40)][usize::from(n) % 4];
        let builder = self.engine().stream(RETAINING);
        let builder = match limit {
            Some(limit) => builder.max_records(limit),
            None => builder.without_max_records(),
        };
        let made = builder.create_or_update().map(drop);
        let done = self.commit(made, |state| {
            state.streams.get_mut(RETAINING).unwrap().limit = limit;
        })?;
        if done.is_some() {
            self.stream(RETAINING)?.len()?;
        }
        Ok(done)
    }

    /// Follows what has left the stream with limits meanwhile. After a checkpoint, `all` that may leave has left, unless a group
    /// had it kept: then it leaves within a minute.
    pub(super) fn follow_retention(&mut self, all: bool) {
        let Some(stream) = self.now().streams.get(RETAINING) else { return };
        let (known, mut trims) = (stream.clone(), Vec::new());
        let all = all && !known.groups.contains_key(SPARING);
        for number in 0..known.partitions.len() {
            let start = |stream: Stream| stream.partition(number as u32)?.start();
            // A failure is met again. And this look takes nothing that is over.
            let start = sim::still(|| self.stream(RETAINING).and_then(start));
            let Ok(start) = start else { return };
            let (from, most) = (known.partitions[number].start, known.may_leave(number));
            assert!((from..=most).contains(&start.0), "{start} of partition {number}: {known:?}");
            assert!(!all || start.0 == most, "{start} of partition {number} is there: {known:?}");
            if start.0 != from {
                trims.push((number, start.0));
            }
        }
        for (number, start) in trims {
            self.committed(|state| {
                state.streams.get_mut(RETAINING).unwrap().partitions[number].trim(start);
            });
        }
    }
}
