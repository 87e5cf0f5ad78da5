//! A cursor with many delayed messages that comes into use: they are copied in slices before its first consumer is opened.
//!
//! What commits change of the cursor meanwhile is noted, and is looked at again at the end. If the cursor comes into use by
//! another way, what was copied counts for nothing.

use super::Core;
use crate::{
    audit,
    delivery::Delayed,
    ids::{CursorId, Due, Offset, OffsetRange},
    store::Op,
};

/// So many delayed messages are copied in one hold of the core.
const AT_ONCE: usize = 1000;

/// The delayed messages of a cursor, as far as they were copied.
#[derive(Debug)]
pub struct Preparing {
    cursor: CursorId,
    number: u64,
    upto: Offset,
    copied: Vec<(Offset, Due)>,
}

/// The delayed messages of a cursor, as they were when each was copied.
#[derive(Debug)]
pub struct Prepared {
    number: u64,
    copied: Vec<(Offset, Due)>,
    delayed: Delayed,
}

/// What has changed of the cursors that are prepared, since they are.
#[derive(Debug, Default)]
pub(super) struct Notes {
    all: Vec<Noted>,
    /// The number of the last preparation.
    last: u64,
}

#[derive(Debug)]
struct Noted {
    cursor: CursorId,
    number: u64,
    changed: Vec<OffsetRange>,
}

impl Notes {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn drop_those_of(&mut self, cursor: CursorId) {
        self.all.retain(|noted| noted.cursor != cursor);
    }

    fn begin(&mut self, cursor: CursorId) -> u64 {
        self.last += 1;
        self.all.push(Noted { cursor, number: self.last, changed: Vec::new() });
        self.last
    }

    fn end(&mut self, number: u64) -> Option<Noted> {
        let at = self.all.iter().position(|noted| noted.number == number)?;
        Some(self.all.swap_remove(at))
    }
}

impl Preparing {
    /// Sorts what was copied. The caller does not hold the core.
    pub fn end(self) -> Prepared {
        let delayed = Delayed::of(&self.copied);
        Prepared { number: self.number, copied: self.copied, delayed }
    }
}

impl Core {
    /// Begins to copy the delayed messages of a cursor that is not in use. `None` if there are few.
    pub fn begin_preparing(&mut self, cursor: CursorId) -> Option<Preparing> {
        let acks = self.store.acks(cursor)?;
        if self.consumers.contains_key(&cursor) || !acks.has_deferred(AT_ONCE) {
            return None;
        }
        let number = self.dormancy.notes.begin(cursor);
        Some(Preparing { cursor, number, upto: acks.floor(), copied: Vec::new() })
    }

    /// Copies some more messages. Returns whether there are others.
    pub fn go_on_preparing(&self, preparing: &mut Preparing) -> bool {
        let Some(acks) = self.store.acks(preparing.cursor) else { return false };
        let before = preparing.copied.len();
        preparing.copied.extend(acks.deferred(preparing.upto).take(AT_ONCE));
        let copied = preparing.copied.len() - before;
        audit::steps(copied as u64);
        preparing.upto = preparing.copied.last().map_or(Offset(0), |(offset, _)| offset.next());
        copied == AT_ONCE
    }

    /// Ends the copying: what has changed is looked at again. `None` if the cursor was in use meanwhile.
    pub(super) fn end_preparing(&mut self, prepared: Prepared) -> Option<Delayed> {
        let Prepared { number, copied, mut delayed } = prepared;
        let noted = self.dormancy.notes.end(number);
        let acks = noted.as_ref().and_then(|noted| self.store.acks(noted.cursor));
        let (Some(noted), Some(acks)) = (noted, acks) else {
            // It may be much, and nobody needs it.
            self.effects.drop_after(Some(delayed));
            return None;
        };
        for range in noted.changed {
            audit::step();
            let from = copied.partition_point(|(offset, _)| *offset < range.start);
            let there = copied[from..].iter().take_while(|(offset, _)| *offset < range.end);
            for (offset, due) in there {
                audit::step();
                delayed.remove(*offset, *due);
            }
            let now = acks.deferred(range.start).take_while(|(offset, _)| *offset < range.end);
            for (offset, due) in now {
                audit::step();
                delayed.insert(offset, due);
            }
        }
        Some(delayed)
    }

    /// Notes what the operations of a commit have changed of the cursors that are prepared.
    #[cold]
    pub(super) fn note_changed(&mut self, ops: &[Op<'_>]) {
        self.note_operations(ops);
        let Core { dormancy, store, .. } = self;
        for Noted { cursor, changed, .. } in &mut dormancy.notes.all {
            let deferred = store.deferred().iter().filter(|it| it.cursor == *cursor);
            changed.extend(deferred.map(|it| it.offset.only()));
        }
    }

    /// As [`note_changed`](Core::note_changed), without what the commit has deferred.
    #[cold]
    pub(super) fn note_operations(&mut self, ops: &[Op<'_>]) {
        for Noted { cursor, changed, .. } in &mut self.dormancy.notes.all {
            let of = |it: &CursorId| it == cursor;
            for op in ops {
                audit::step();
                match op {
                    Op::Ack { cursor, offsets } | Op::Spill { cursor, offsets } if of(cursor) => {
                        changed.extend(offsets.iter().map(|offset| offset.only()));
                    }
                    Op::AckRanges { cursor, ranges } if of(cursor) => changed.extend(*ranges),
                    _ => {}
                }
            }
        }
    }
}
