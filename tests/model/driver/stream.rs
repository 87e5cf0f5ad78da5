//! Streams and groups.

use posthouse::{Error, ErrorKind, Offset, Stream, Ticket};

use super::{Driver, durability, seek_in, text};
use crate::{
    action::{How, Name},
    state::{Msg, PartitionState, StreamState},
};

impl Driver<'_> {
    pub(super) fn stream(&self, name: &str) -> Result<Stream, Error> {
        self.engine().stream(name).open()
    }

    pub(super) fn create_stream(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("stream", name);
        let made = self.engine().stream(&name).partitions(2).create().map(drop);
        self.commit(made, |state| {
            let partitions = vec![PartitionState::default(); 2];
            let fresh = StreamState { partitions, ..StreamState::default() };
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
        if !self.now().streams.contains_key(&stream) {
            return Ok(Some(()));
        }
        let made = self.stream(&stream).and_then(|it| it.group(&name).create().map(drop));
        self.commit(made, |state| {
            let stream = state.streams.get_mut(&stream).unwrap();
            let starts = stream.partitions.iter().map(|partition| partition.start).collect();
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

    pub(super) fn seek_target(&self, stream: &str, group: &str, to: u8) -> Option<(u32, u64)> {
        let stream = self.now().streams.get(stream)?;
        stream.groups.get(group)?;
        let partition = u32::from(to % 2);
        let next = stream.partitions[partition as usize].next;
        Some((partition, u64::from(to) % (next + 1)))
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
            let partition = &mut stream.partitions[number as usize];
            partition.start = partition.start.max(offset);
            partition.records = partition.records.split_off(&partition.start);
        })
    }
}
