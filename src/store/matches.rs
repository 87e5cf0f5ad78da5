//! What a commit means to cursors with filters. Many messages may match many cursors, so the matches of one cursor are put
//! together again and again: memory holds some for each cursor.

use std::mem;

use crate::{
    audit,
    ids::{CursorId, LogId},
};

/// What a commit means to a cursor with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    pub log: LogId,
    pub cursor: CursorId,
    /// How many messages it gets.
    pub messages: usize,
    /// How many messages before them were rejected.
    pub rejected: u64,
}

/// So many are kept before they are put together.
const KEPT: usize = 1024;

#[derive(Debug, Default)]
pub struct Matches {
    all: Vec<Match>,
    /// How many there were when they were put together.
    joined: usize,
}

impl Matches {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn clear(&mut self) {
        self.all.clear();
        self.joined = 0;
    }

    pub fn push(&mut self, it: Match) {
        self.all.push(it);
        if self.all.len() > 2 * self.joined + KEPT {
            self.join();
        }
    }

    fn join(&mut self) {
        audit::steps(self.all.len() as u64);
        self.all.sort_unstable();
        self.all.dedup_by(|next, first| {
            let is_same = (next.log, next.cursor) == (first.log, first.cursor);
            if is_same {
                first.messages += next.messages;
                first.rejected += next.rejected;
            }
            is_same
        });
        self.joined = self.all.len();
    }

    /// Takes all of them. Each cursor is in it once.
    pub fn take(&mut self) -> Vec<Match> {
        self.join();
        self.joined = 0;
        mem::take(&mut self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matches_of_a_cursor_are_put_together() {
        let mut matches = Matches::default();
        for n in 0..100_000 {
            let (log, cursor) = (LogId(1), CursorId(n % 7));
            matches.push(Match { log, cursor, messages: 1, rejected: n % 2 });
            assert!(matches.all.len() <= KEPT + 2 * 7 + 1);
        }
        let all = matches.take();
        assert_eq!(all.len(), 7);
        assert_eq!(all.iter().map(|it| it.messages).sum::<usize>(), 100_000);
        assert_eq!(all.iter().map(|it| it.rejected).sum::<u64>(), 50_000);
        assert!(matches.is_empty());
    }
}
