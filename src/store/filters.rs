//! Which subscriptions of a topic get a message: those without a filter, and those whose filter matches.
//!
//! A message is matched when its commit is applied, live and in recovery alike. So who gets it follows from the journal: from
//! the creations and changes of filters, and from the messages, in their order. The trie of the topic tells which cursors
//! match. Each of them [takes](super::AckSet::take) the message. The others are not touched, however many there are.
//!
//! The messages of a commit are matched behind all of its changes. One that only one cursor is to get, as of a redrive, goes
//! to that cursor, whatever its filter says, and to no other that has a filter.

use std::sync::Arc;

use super::{
    Op, Store,
    changed::Changed,
    log::{Cursor, Log, Progress},
    matches::{Match, Matches},
    state::State,
};
use crate::{
    audit,
    format::{
        Malformed,
        commit::{Change, Run, changes},
        entity::Entity,
        filter::Filter,
        record::Headers,
    },
    ids::{CursorId, IdMap, LogId, Offset, OffsetRange},
    subject::Trie,
};

/// The filters of the subscriptions of one topic.
#[derive(Debug)]
pub struct Filters {
    /// The name of the topic: the subject of messages that have none.
    topic: Arc<str>,
    trie: Trie<CursorId>,
    /// The filters with conditions on headers.
    headers: IdMap<CursorId, Arc<Filter>>,
    /// Another one after each change, among the filters of all logs.
    version: u64,
}

/// A cursor that gets messages of its log.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    pub log: LogId,
    pub cursor: CursorId,
}

/// What is known of all filters.
#[derive(Debug, Default)]
pub struct Filtering {
    /// How many logs have filters.
    pub(super) logs: usize,
    /// How often filters were changed.
    pub(super) version: u64,
    /// Whether filters are not known for sure, as in a damaged store. Then no cursor follows its filter.
    pub is_in_doubt: bool,
    /// Whether at least all that the metalog says is known.
    pub is_whole: bool,
    /// What the last commit means to cursors with filters.
    pub(super) matched: Matches,
    /// Memory for the cursors that one message matches.
    pub(super) found: Vec<CursorId>,
}

/// Messages of a log that only one cursor gets, by their offsets.
type Kept = Vec<(OffsetRange, CursorId)>;

impl Filters {
    pub fn version(&self) -> u64 {
        self.version
    }

    fn insert(&mut self, cursor: CursorId, filter: &Arc<Filter>) {
        filter.patterns().for_each(|pattern| self.trie.insert(pattern, cursor));
        if !filter.headers.is_empty() {
            self.headers.insert(cursor, Arc::clone(filter));
        }
    }

    fn remove(&mut self, cursor: CursorId, filter: &Filter) {
        filter.patterns().for_each(|pattern| self.trie.remove(pattern, cursor));
        self.headers.remove(&cursor);
    }

    /// The cursors that a message matches, each once.
    pub fn find(&self, headers: Headers<'_>, found: &mut Vec<CursorId>) {
        let subject = headers.subject().unwrap_or(&self.topic);
        self.trie.find(subject, &mut |cursor| found.push(cursor));
        found.sort_unstable();
        found.dedup();
        if !self.headers.is_empty() {
            let admits = |cursor: &CursorId| {
                audit::step();
                self.headers.get(cursor).is_none_or(|filter| filter.admits(headers))
            };
            found.retain(admits);
        }
    }
}

impl Filtering {
    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

impl Log {
    fn add_filter(
        &mut self,
        topic: &Arc<str>,
        cursor: CursorId,
        filter: &Arc<Filter>,
        version: u64,
    ) -> bool {
        let is_first = self.filters.is_none();
        let filters = self.filters.get_or_insert_with(|| {
            let (topic, trie, headers) = (Arc::clone(topic), Trie::default(), IdMap::default());
            Box::new(Filters { topic, trie, headers, version })
        });
        filters.version = version;
        filters.insert(cursor, filter);
        is_first
    }

    fn remove_filter(&mut self, cursor: CursorId, filter: &Filter, version: u64) -> bool {
        let Some(filters) = &mut self.filters else { return false };
        filters.version = version;
        filters.remove(cursor, filter);
        let is_last = filters.trie.is_empty();
        if is_last {
            self.filters = None;
        }
        is_last
    }

    /// Notes that the log ends at an offset at least, for an inspector that does not read its messages.
    pub fn note_end(&mut self, end: Offset) {
        if end > self.next() {
            self.tail.skip_to(end);
        }
    }
}

impl Cursor {
    /// Takes messages. Returns how many before them were rejected, unless the cursor has no filter, or has seen them.
    fn take(&mut self, range: OffsetRange) -> Option<u64> {
        match &mut self.progress {
            Progress::Acks(acks) => acks.take(range),
            Progress::At(_) => None,
        }
    }
}

impl State {
    /// Whether any subscription has a filter.
    #[inline]
    pub fn has_filters(&self) -> bool {
        self.filtering.logs > 0
    }

    /// Makes a cursor follow the filter of its entity.
    pub(super) fn attach_filter(&mut self, entity: &Entity, id: CursorId, log: LogId) {
        if let Some(filter) = entity.filter().filter(|_| !self.filtering.is_in_doubt)
            && self.add_filter(id, log, filter)
            && let Some(Progress::Acks(acks)) = self.cursors.get_mut(&id).map(|it| &mut it.progress)
        {
            acks.begin_filter(acks.floor());
        }
    }

    /// `false` if there is no such topic. Then the cursor gets whatever comes.
    fn add_filter(&mut self, id: CursorId, log: LogId, filter: &Arc<Filter>) -> bool {
        let (Some(log), Some(topic)) = (self.logs.get_mut(&log), self.catalog.get(log.entity()))
        else {
            return false;
        };
        let version = self.filtering.next_version();
        self.filtering.logs += usize::from(log.add_filter(&topic.name, id, filter, version));
        true
    }

    /// Forgets the filter of a cursor that was deleted.
    pub(super) fn detach_filter(&mut self, (cursor, log): (CursorId, LogId), filter: &Filter) {
        if let Some(log) = self.logs.get_mut(&log) {
            let version = self.filtering.next_version();
            self.filtering.logs -= usize::from(log.remove_filter(cursor, filter, version));
        }
    }

    /// Follows a filter that changes. Messages that are there stay as they are: pending, or rejected.
    pub(super) fn change_filter(&mut self, there: &Entity, entity: &Entity) {
        let (before, after) = (there.filter(), entity.filter());
        if before == after || self.filtering.is_in_doubt || seeded!(ChangedFilterIsNotFollowed) {
            return;
        }
        for (id, log_id) in entity.cursors() {
            let State { logs, cursors, changed, filtering, .. } = self;
            let (Some(log), Some(cursor)) = (logs.get_mut(&log_id), cursors.get_mut(&id)) else {
                continue;
            };
            let (next, held) = (log.next(), cursor.held());
            changed.cursor(cursor);
            if let Progress::Acks(acks) = &mut cursor.progress {
                match (before, after) {
                    (None, Some(_)) => acks.begin_filter(next),
                    (Some(_), None) => {
                        let rejected = acks.end_filter(next);
                        let of = Match { log: log_id, cursor: id, messages: 0, rejected };
                        filtering.matched.push(of);
                    }
                    _ => {}
                }
            }
            log.note_floor(held, cursor.held());
            if let Some(before) = before {
                let version = filtering.next_version();
                filtering.logs -= usize::from(log.remove_filter(id, before, version));
            }
            if let Some(after) = after {
                // The topic is there: its log is.
                self.add_filter(id, log_id, after);
            }
        }
    }

    /// Ends the doubt about the filters of a log that ends at `next`. Nobody knows any more which messages they have rejected:
    /// so that nothing is lost, all that are there and were not acked are pending.
    pub fn end_doubts(&mut self, log: LogId, next: Offset) {
        if !self.filtering.is_in_doubt {
            return;
        }
        let cursors = self.logs.get(&log).map_or(Vec::new(), |log| log.cursors.clone());
        for id in cursors {
            let is_filtered = self.catalog.get(id.entity()).and_then(Entity::filter).is_some();
            if let Some(cursor) = self.cursors.get_mut(&id).filter(|_| is_filtered)
                && let Progress::Acks(acks) = &mut cursor.progress
            {
                acks.begin_filter(next.max(acks.floor()));
            }
        }
    }

    /// Matches the messages of a run that was just committed. `kept` are those that only one cursor gets, sorted.
    pub(super) fn match_run(&mut self, run: &Run<'_>, kept: &Kept) {
        audit::step();
        let State { logs, cursors, changed, filtering, .. } = self;
        let Filtering { matched, found, .. } = filtering;
        let Some(log) = logs.get_mut(&run.log) else { return };
        let Some(filters) = log.filters.take() else { return };
        for (offset, spans) in run.records().map_while(Result::ok) {
            audit::step();
            match keeper_of(kept, offset) {
                Some(_) if seeded!(KeeperIsFiltered) => {}
                Some(keeper) => found.push(keeper),
                None => filters.find(Headers::new(spans.headers(run.body)), found),
            }
            for id in found.drain(..) {
                if let Some(cursor) = cursors.get_mut(&id) {
                    let given = give(log, cursor, changed, offset.only());
                    given.into_iter().for_each(|it| matched.push(it));
                }
            }
        }
        log.filters = Some(filters);
    }

    /// Gives messages that match to a cursor.
    pub(super) fn give(&mut self, to: Given, ranges: impl Iterator<Item = OffsetRange>) {
        let State { logs, cursors, changed, filtering, .. } = self;
        if let (Some(log), Some(cursor)) = (logs.get_mut(&to.log), cursors.get_mut(&to.cursor)) {
            let given = ranges.filter_map(|range| give(log, cursor, changed, range));
            given.for_each(|it| filtering.matched.push(it));
        }
    }

    /// Matches the messages of a commit that is read again. All its changes were applied.
    pub fn match_again(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        if !self.has_filters() || seeded!(FilterForgottenAtRecovery) {
            return Ok(());
        }
        let (mut kept, mut has_some) = (KeptByLog::default(), false);
        for change in changes(payload) {
            let change = change?.1;
            kept.add(&change);
            if let Change::Run(run) = change {
                has_some |= self.logs.get(&run.log).is_some_and(|log| log.filters.is_some());
            }
        }
        if !has_some {
            return Ok(());
        }
        kept.sort();
        for change in changes(payload) {
            if let Change::Run(run) = change?.1 {
                self.match_run(&run, kept.of(run.log));
            }
        }
        self.filtering.matched.clear();
        Ok(())
    }
}

/// Gives messages that follow each other to a cursor.
fn give(
    log: &mut Log,
    cursor: &mut Cursor,
    changed: &mut Changed,
    range: OffsetRange,
) -> Option<Match> {
    audit::step();
    if cursor.log != log.id {
        return None;
    }
    let before = cursor.held();
    let rejected = cursor.take(range)?;
    if !seeded!(MatchIsNotCaptured) {
        changed.cursor(cursor);
    }
    let held = cursor.held();
    if held != before {
        log.note_floor(before, held);
    }
    let (log, cursor, messages) = (log.id, cursor.id, range.len() as usize);
    Some(Match { log, cursor, messages, rejected })
}

impl Store {
    /// Matches the messages of a commit that was made.
    pub(super) fn match_messages(&mut self, ops: &[Op<'_>]) {
        let Store { draft, state, .. } = self;
        let mut kept = KeptByLog::default();
        for op in ops.iter().filter(|op| matches!(op, Op::AckOthers { .. })) {
            audit::step();
            op.change().into_iter().for_each(|change| kept.add(&change));
        }
        kept.sort();
        for run in &draft.runs {
            state.match_run(&run.of(&draft.frame), kept.of(run.log));
        }
    }
}

/// The messages of a commit that only one cursor gets.
#[derive(Default)]
struct KeptByLog {
    logs: IdMap<LogId, Kept>,
    nothing: Kept,
}

impl KeptByLog {
    fn add(&mut self, change: &Change<'_>) {
        if let Change::AckOthers { log, keeper, offsets } = change {
            let of_log = self.logs.entry(*log).or_default();
            offsets.for_each(|range| of_log.push((range, *keeper)));
        }
    }

    fn sort(&mut self) {
        for kept in self.logs.values_mut() {
            audit::steps(kept.len() as u64);
            kept.sort_unstable_by_key(|(range, _)| range.start);
        }
    }

    fn of(&self, log: LogId) -> &Kept {
        self.logs.get(&log).unwrap_or(&self.nothing)
    }
}

/// The only cursor that gets a message, if there is one.
fn keeper_of(kept: &Kept, offset: Offset) -> Option<CursorId> {
    let behind = kept.partition_point(|(range, _)| range.start <= offset);
    let (range, keeper) = kept.get(behind.checked_sub(1)?)?;
    range.contains(offset).then_some(*keeper)
}
