//! Ack states of cursors with filters against plain sets.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::{
    format::meta::ChunkState,
    ids::{CursorId, Offset},
    store::acks::{AckSet, acked_by_all},
};

/// Two chunks and a bit.
const OFFSETS: u64 = 2 * 65_536 + 100;

#[derive(Clone, Debug)]
enum Step {
    /// A message is published so far behind the last one, and matches.
    Take(u64),
    /// The log goes on without a match.
    Pass(u64),
    /// The n-th of the pending messages, and some behind it, are acked.
    Ack(usize, usize),
    BeginFilter,
    EndFilter,
    /// Into a metalog and back.
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let gap = || prop_oneof![4 => 0..4u64, 1 => 60_000..70_000u64];
    prop_oneof![
        8 => gap().prop_map(Step::Take),
        2 => gap().prop_map(Step::Pass),
        6 => (0..6usize, 1..4usize).prop_map(|(n, count)| Step::Ack(n, count)),
        1 => Just(Step::BeginFilter),
        1 => Just(Step::EndFilter),
        2 => Just(Step::Restore),
    ]
}

/// A cursor and what it should be.
struct Pair {
    acks: AckSet,
    pending: BTreeSet<u64>,
    chunks: BTreeMap<u64, ChunkState>,
}

impl Pair {
    fn new() -> Pair {
        let mut acks = AckSet::new(Offset(0));
        acks.begin_filter(Offset(0));
        Pair { acks, pending: BTreeSet::new(), chunks: BTreeMap::new() }
    }

    fn restore(&mut self) {
        while let Some(chunk) = self.acks.capture_changed(CursorId(1)) {
            self.chunks.insert(chunk.chunk, chunk);
        }
        let mut restored = AckSet::default();
        if self.acks.seen().is_some() {
            restored.begin_filter(Offset(0));
        }
        for chunk in self.chunks.values() {
            restored.restore(chunk).expect("it was captured");
        }
        restored.restore_floor(self.acks.floor());
        restored.restore_seen(self.acks.seen());
        self.acks = restored;
    }

    /// Does a step. `end` is the end of the log.
    fn step(&mut self, step: &Step, end: &mut u64) {
        match step {
            Step::Take(gap) => {
                let at = *end + gap;
                if at >= OFFSETS {
                    return;
                }
                if self.acks.seen().is_none() {
                    self.pending.extend(*end..at);
                }
                self.acks.take(Offset(at).only());
                self.pending.insert(at);
                *end = at + 1;
            }
            Step::Pass(count) => {
                let to = (*end + count).min(OFFSETS);
                if self.acks.seen().is_none() {
                    self.pending.extend(*end..to);
                }
                *end = to;
            }
            Step::Ack(n, count) => {
                let first = self.pending.iter().nth(*n % self.pending.len().max(1));
                let Some(first) = first.copied() else { return };
                let behind = (first + *count as u64).min(*end);
                self.acks.ack(Offset(first).to(Offset(behind)));
                self.pending.retain(|it| !(first..behind).contains(it));
            }
            Step::BeginFilter if self.acks.seen().is_none() => self.acks.begin_filter(Offset(*end)),
            Step::BeginFilter => {}
            Step::EndFilter => drop(self.acks.end_filter(Offset(*end))),
            Step::Restore => self.restore(),
        }
    }

    fn check(&self, end: u64) {
        let log = Offset(0).to(Offset(end));
        let unacked = self.acks.unacked_in(log).into_iter().flatten().map(|it| it.0);
        assert!(unacked.eq(self.pending.iter().copied()));
        assert_eq!(self.acks.unacked(Offset(end)), self.pending.len() as u64);
        assert_eq!(self.acks.next_unacked(log).map(|it| it.0), self.pending.first().copied());
        let near = self.pending.iter().flat_map(|at| [at.saturating_sub(1), *at, at + 1]);
        for at in near.chain([0, end.saturating_sub(1)]).filter(|at| *at < end) {
            assert_eq!(self.acks.is_acked(Offset(at)), !self.pending.contains(&at), "{at}");
        }
        let is_needed = self.acks.held().is_some_and(|held| held < Offset(end));
        assert_eq!(is_needed, !self.pending.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_cursor_with_a_filter_needs_what_it_took(
        steps in prop::collection::vec((0..3usize, step()), 1..50),
        cuts in prop::collection::vec((0..OFFSETS, 0..70_000u64), 8),
    ) {
        let mut pairs = [Pair::new(), Pair::new(), Pair::new()];
        // All of them are over one log.
        let mut end = 0;
        for (n, step) in &steps {
            let before = end;
            pairs[*n].step(step, &mut end);
            for (_, other) in pairs.iter_mut().enumerate().filter(|(other, _)| other != n) {
                if other.acks.seen().is_none() {
                    other.pending.extend(before..end);
                }
            }
            pairs.iter().for_each(|pair| pair.check(end));
        }
        let pending: BTreeSet<u64> = pairs.iter().flat_map(|it| it.pending.iter().copied()).collect();
        for (from, len) in cuts {
            let range = Offset(from.min(end)).to(Offset((from + len).min(end)));
            for some in [&pairs[..1], &pairs[..2], &pairs[..]] {
                let sets: Vec<&AckSet> = some.iter().map(|it| &it.acks).collect();
                let needed: BTreeSet<u64> = match some.len() {
                    3 => pending.clone(),
                    _ => some.iter().flat_map(|it| it.pending.iter().copied()).collect(),
                };
                let needed = needed.range(range.start.0..range.end.0).count() as u64;
                prop_assert_eq!(acked_by_all(&sets, range), range.len() - needed);
                // Put together chunk by chunk, as a checkpoint does.
                let (index, lows) = (range.start.0 / 65_536, 10..65_000u32);
                let mut acked = None;
                sets.iter().for_each(|it| it.also_acked(index, &lows, &mut acked));
                let base = index * 65_536;
                let here = some.iter().flat_map(|it| it.pending.iter().copied());
                let mut here = here.filter(|at| (base + 10..base + 65_000).contains(at));
                let is_alive = |at: u64| acked.as_ref().is_none_or(|it| it.contains((at - base) as u32));
                prop_assert!(!here.any(is_alive));
            }
        }
    }
}
