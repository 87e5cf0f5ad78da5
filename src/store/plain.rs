//! The plain commits: one message that has only a payload, and one ack. They are by far the most frequent ones.
//!
//! They go the way of every commit ([`Store::commit`]): the operation is checked and encoded, the frame is written, the state
//! is changed. They save what only other commits need: a list of operations, a decision for each kind of operation, a second
//! look-up of the log. Tests compare them with `commit`: the journal has the same bytes, and the state is the same.

use super::{
    Store,
    commit::{Op, Receipt, Refused, make_space, shrink, write},
    state::{State, ack_in, note_run},
    tail::RunPlace,
};
use crate::{
    audit,
    config::COMMIT_BYTES_CEILING,
    format::{
        commit::{Change, OffsetRanges, PlainRun},
        frame::FRAME_HEADER_BYTES,
        lives::Lives,
    },
    ids::{CursorId, LogId, Lsn, Now, Offset},
    journal::Urgency,
    message::Message,
};

impl Store {
    /// Appends one message to a log.
    ///
    /// # Errors
    ///
    /// Those of [`commit`](Store::commit).
    #[inline]
    pub fn append_one(
        &mut self,
        log: LogId,
        message: &Message<'_>,
        now: Now,
    ) -> Result<Receipt, Refused> {
        match self.append_plain(log, message, now) {
            Some(appended) => appended,
            None => self.append_any(log, message, now),
        }
    }

    #[inline(never)]
    fn append_any(
        &mut self,
        log: LogId,
        message: &Message<'_>,
        now: Now,
    ) -> Result<Receipt, Refused> {
        let messages = std::slice::from_ref(message);
        self.commit(&[Op::Append { log, messages, delay_ms: 0 }], now)
    }

    /// Appends a message that has only a payload. `None`, and nothing was changed, if this is not a plain commit, or if it is
    /// an error.
    #[inline]
    fn append_plain(
        &mut self,
        id: LogId,
        message: &Message<'_>,
        now: Now,
    ) -> Option<Result<Receipt, Refused>> {
        let payload = message.payload();
        if !message.is_plain() || payload.len() as u64 > self.config.message_bytes_max {
            return None;
        }
        let Store { state, journal, config, draft, may_outgrow, .. } = self;
        let State { logs, expiring, changed, .. } = state;
        let log = logs.get_mut(&id)?;
        // Otherwise the record has a note that says when its life begins.
        if !log.keeps_acked && now.time_to_live_start(now.stamp).is_some() {
            return None;
        }
        // Subscriptions with filters are to match the message.
        if log.filters.is_some() {
            return None;
        }
        audit::step();
        let first = log.next();
        let run = PlainRun::new(id, first, now.stamp, payload);
        let len = run.len();
        if len as u64 > config.commit_bytes_max {
            return None;
        }
        draft.begin_plain(&run, (id, first, now.stamp));
        if let Err(refused) = make_space(journal, config, (Urgency::Ordinary, *may_outgrow), len) {
            return Some(Err(refused));
        }
        let lsn = match journal.append_with(len, &mut draft.frame, |out| run.put(out)) {
            Ok(lsn) => lsn,
            Err(error) => return Some(Err(error.into())),
        };
        let place = RunPlace { first, lsn: Lsn(lsn.0 + FRAME_HEADER_BYTES as u64), len };
        let lives = Lives { begin: now.stamp, end: None };
        note_run(log, expiring, changed, place, first.next(), || lives);
        shrink(&mut draft.frame);
        Some(Ok(Receipt { end: journal.tail() }))
    }

    /// Acks one message.
    ///
    /// # Errors
    ///
    /// Those of [`commit`](Store::commit).
    #[inline]
    pub fn ack_one(&mut self, cursor: CursorId, offset: Offset) -> Result<Receipt, Refused> {
        let Store { state, journal, config, draft, may_outgrow, .. } = self;
        let State { cursors, changed, .. } = state;
        let Some(found) = cursors.get_mut(&cursor) else {
            return Err(self.deleted(cursor.entity()).into());
        };
        audit::steps(2);
        let offsets = OffsetRanges::Listed(&[offset]);
        draft.begin();
        Change::Ack { cursor, offsets }.put(&mut draft.frame);
        let space = (Urgency::Freeing, *may_outgrow);
        write(journal, config, draft, space, COMMIT_BYTES_CEILING)?;
        let receipt = Receipt { end: journal.tail() };
        let floors = ack_in(found, changed, |acks| acks.ack(offset.only()));
        let floors = floors.expect("what is acked has an ack cursor");
        state.note_acked(floors, &offsets);
        Ok(receipt)
    }
}
