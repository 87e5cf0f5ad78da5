//! Looks at logs for messages whose lives are over, under the core: whose turn it is, and what a look leaves behind.
//! `slices.rs` says which messages to read, and `expired.rs` has them leave. `engine/commit/sweep.rs` reads them.
//!
//! A cursor needs no handle for that: a subscriber may be away.

use std::{collections::hash_map::Entry, sync::Arc, time::Duration};

use super::{
    Core,
    lives::REST,
    slices::{Slice, SliceOf, Step},
    walk::{LogLook, WalkOf},
};
use crate::{
    audit,
    engine::runtime::wait::Waiting,
    error::{Error, ErrorKind},
    format::lives::Lives,
    ids::{CursorId, LogId, Offset, Timestamp},
};

/// What the thread that looks does next.
#[derive(Debug)]
pub enum Turn {
    Read(Slice),
    /// Nothing to read was found so far.
    GoOn,
    /// Another thread reads the next slice.
    Busy(Waiting),
    /// The look is over.
    End,
}

/// What was found in a slice.
#[derive(Debug, Default)]
pub struct Seen {
    /// The ends of the lives of messages.
    pub ends: Vec<(Timestamp, Offset)>,
    /// Messages that have left. The offsets grow.
    pub gone: Vec<Offset>,
    /// Messages that could not be read.
    pub unread: Vec<(Offset, Error)>,
    /// Messages that cannot leave for a while.
    pub stuck: Vec<Offset>,
    /// The slice was not read from here on: it had too many bytes.
    pub upto: Option<Offset>,
    /// The lives of all messages of the segment, if the slice is one.
    pub lives: Option<Lives>,
}

impl Core {
    /// Sets the timer for the first time at which a life may be over.
    #[inline]
    pub fn arm_lives(&mut self) {
        let Core { store, clock, effects, lives, .. } = self;
        lives.arm(store, clock, effects);
    }

    /// Sets that timer anew: the even time has gone forward.
    pub(super) fn arm_lives_again(&mut self) {
        self.lives.armed = None;
        self.arm_lives();
    }

    /// Begins to look at all messages whose lives may be over, unless that was done a moment ago. A caller that `must`
    /// does not rest.
    pub fn begin_sweep(&mut self, now: Duration, must: bool) -> bool {
        let may = must || self.lives.swept.is_none_or(|swept| now >= swept + REST);
        let is_due = may && self.has_expired(now);
        if is_due {
            (self.lives.armed, self.lives.swept) = (None, Some(now));
        } else {
            // The timer may have come a moment too early.
            self.arm_lives_again();
        }
        is_due
    }

    /// Has the thread that makes checkpoints go on at once with a look that a call has broken off.
    pub(super) fn look_on(&mut self) {
        self.break_off_sweep();
        self.arm_lives_again();
    }

    /// Notes that the look at all messages was broken off: the next one need not rest.
    pub fn break_off_sweep(&mut self) {
        self.lives.swept = None;
    }

    /// Whether a life in a log may be over.
    #[inline]
    pub fn may_have_expired(&self, log: LogId, elapsed: Duration) -> bool {
        self.store.next_end(log).is_some_and(|end| end <= self.even(elapsed))
    }

    /// Whether any life may be over.
    pub fn has_expired(&self, elapsed: Duration) -> bool {
        self.store.first_end().is_some_and(|(end, _)| end <= self.even(elapsed))
    }

    /// Takes the next turn of the look at a log.
    pub fn take_turn(&mut self, log: LogId, now: Timestamp) -> Turn {
        let Some((cursor, look)) = self.whose_turn(log) else { return Turn::End };
        if let Some(walk) = self.lives.walks.get(&cursor).filter(|walk| walk.is_busy) {
            return Turn::Busy(walk.watch.begin());
        }
        // A walk that began before the look at the log does not know what came since.
        let begun = self.lives.walks.remove(&cursor).filter(|walk| walk.look >= look);
        let begun = begun.or_else(|| self.begin_walk((cursor, log), look, now));
        let Some(mut walk) = begun else { return self.end_walk(log, cursor, None) };
        match self.next_slice(&mut walk, now) {
            Ok(Step::Read(slice)) => {
                walk.is_busy = true;
                self.lives.walks.insert(cursor, walk);
                Turn::Read(slice)
            }
            Ok(Step::GoOn) => {
                self.lives.walks.insert(cursor, walk);
                Turn::GoOn
            }
            Ok(Step::End(next)) => self.end_walk(log, cursor, next),
            // The cursor or the log was deleted.
            Err(_) => self.end_walk(log, cursor, None),
        }
    }

    /// The cursor whose turn it is in the look at a log, and the number of the look. It begins a look if there is none.
    fn whose_turn(&mut self, log: LogId) -> Option<(CursorId, u64)> {
        let Core { lives, store, .. } = self;
        let look = match lives.begun.entry(log) {
            Entry::Occupied(look) => look.into_mut(),
            Entry::Vacant(free) => free.insert(LogLook::new(store.begin_look(log)?)),
        };
        match look.turn(|from| store.cursor_to_look_at(log, from)) {
            Some(cursor) => Some((cursor, look.number)),
            None => {
                self.end_look(log);
                None
            }
        }
    }

    fn end_look(&mut self, log: LogId) {
        if let Some(LogLook { number, next, .. }) = self.lives.begun.remove(&log) {
            self.store.end_look(log, number, next);
            self.arm_lives();
        }
    }

    /// Notes that the walk of a cursor is over. `next` is the time before which no other life is over.
    fn end_walk(&mut self, log: LogId, cursor: CursorId, next: Option<Timestamp>) -> Turn {
        let Some(look) = self.lives.begun.get_mut(&log) else { return Turn::End };
        look.end(cursor);
        look.next = [look.next, next].into_iter().flatten().min();
        match self.whose_turn(log) {
            Some(_) => Turn::GoOn,
            None => Turn::End,
        }
    }

    /// Ends the walk of a cursor because messages could not leave. They are looked at again later.
    pub fn give_up_walk(&mut self, of: &WalkOf) {
        self.lives.walks.remove(&of.cursor);
        self.end_walk(of.log, of.cursor, Some(of.again()));
    }

    /// Breaks a look at a log off. It goes on later: where it was, but with another cursor, and after the other logs.
    pub fn break_off(&mut self, log: LogId, now: Timestamp) {
        if let Some(look) = self.lives.begun.get_mut(&log) {
            look.break_off();
        }
        self.store.put_off(log, now);
        self.arm_lives();
    }

    /// Ends a slice, and notes what was found in it.
    pub fn end_slice(&mut self, slice: Slice, seen: &Seen) {
        let Slice { of, what, watch, .. } = slice;
        self.effects.wake_all(&watch);
        let walk = self.lives.walks.get_mut(&of.cursor);
        if let Some(walk) = walk.filter(|walk| Arc::ptr_eq(&walk.watch, &watch)) {
            walk.is_busy = false;
            if let (SliceOf::Range(_), Some(upto)) = (&what, seen.upto) {
                walk.go_back_to(upto);
            }
        }
        if let (Some(first), Some(last)) = (seen.gone.first(), seen.gone.last()) {
            self.store.note_dead(of.log, first.to(last.next()));
        }
        let damaged = seen.unread.iter().filter(|(_, error)| error.kind() == ErrorKind::Corrupt);
        damaged.for_each(|(offset, error)| self.set_aside_unread(of.cursor, *offset, error));
        let Some(looks) = self.lives.looks.get_mut(&of.cursor) else { return };
        let is_unread =
            |error: &Error| !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound);
        let unread = || seen.unread.iter().filter(|(_, error)| is_unread(error));
        let stay = seen.ends.iter().filter(|(_, offset)| {
            seen.gone.binary_search(offset).is_err() && !looks.is_left_out(*offset)
        });
        let next_look = |&(end, offset): &(Timestamp, Offset)| match end > of.now {
            true => (end, offset),
            false if seen.stuck.contains(&offset) => (of.much_later(), offset),
            false => (of.again(), offset),
        };
        let stay =
            stay.map(next_look).chain(unread().map(|(offset, _)| (of.much_later(), *offset)));
        let mut stay: Vec<(Timestamp, Offset)> = stay.collect();
        audit::steps(stay.len() as u64);
        match what {
            // A message that is over and stays is looked at again alone.
            SliceOf::Range(range) => {
                let range = range.start.to(seen.upto.unwrap_or(range.end));
                let is_over = |(end, _): &(Timestamp, Offset)| *end <= of.now;
                let expires = seen.ends.iter().any(is_over) || unread().next().is_some();
                looks.see(range, &stay, expires);
            }
            SliceOf::Due(due) => {
                let upto = seen.upto.unwrap_or(Offset(u64::MAX));
                stay.extend(due.iter().filter(|it| **it >= upto).map(|it| (of.now, *it)));
                looks.see_again(&due, &stay);
            }
            SliceOf::Segment(segment) => {
                let (log, state) = (of.log, &segment.0);
                if self.store.learn_lives(state, seen.lives) && seen.lives.is_none() {
                    self.lives.opaque.insert((log, state.base, state.generation));
                }
            }
        }
    }
}
