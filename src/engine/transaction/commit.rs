//! Commits a transaction: all its sends, acks and offsets in one frame.

use std::{collections::BTreeMap, slice, time::Duration};

use super::{Append, Seek, Transaction};
use crate::{
    audit,
    engine::{
        commit::asking::committed,
        consume::key_order::check_ordered,
        core::{
            Core,
            capacity::{Dropped, Load},
            commit::{CommitResult, Receipt},
            errors::leases_lost,
            rules::Rules,
            settlement::{Settlement, SettlementPlan},
        },
        runtime::wait::Attempt,
        stream::Position,
    },
    error::{ErrorKind, Result},
    format::entity::Limit,
    ids::{CursorId, IdMap, LogId, OffsetRange},
    store::{BatchedMessage, Op},
};

const OPERATION: &str = "commit a transaction";

/// The messages that are dropped from a queue to make capacity.
struct DroppedFrom {
    cursor: CursorId,
    dropped: Dropped,
}

impl Transaction {
    pub(super) fn make(mut self) -> Result<(Result<Vec<Position>>, Receipt)> {
        self.check()?;
        self.commit_once()
    }

    fn check(&mut self) -> Result<()> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.prepare_expectations()?;
        Settlement::check_once(&self.settlements)
    }

    /// Commits. If a partition ends elsewhere than it was expected to, that is returned with a receipt of the records that are
    /// there.
    fn commit_once(&self) -> Result<(Result<Vec<Position>>, Receipt)> {
        let committer = self.engine.committer();
        if committer.is_batch(self.appends.iter().map(|append| &append.message))
            && let Some((positions, receipt)) = self.commit_batch()?
        {
            return Ok((Ok(positions), receipt));
        }
        committer.transact(OPERATION, |core| self.attempt(core))
    }

    /// Commits with messages that are encoded before the core is locked. `None` if they have to be committed in the ordinary
    /// way: a queue has rules for messages that it gets.
    fn commit_batch(&self) -> Result<Option<(Vec<Position>, Receipt)>> {
        let committer = self.engine.committer();
        let changes = committer.lock_open(OPERATION)?.settings_changes;
        if !self.queues.values().all(|info| info.current.takes_plain()) {
            return Ok(None);
        }
        let messages: Vec<BatchedMessage<'_>> = self.appends.iter().map(Append::batched).collect();
        let added = self.added();
        let mut batch = committer.encode(&messages, committer.now())?;
        let committed = committer.commit_batch(OPERATION, &mut batch, |core, batch| {
            // The ordinary way finds a conflict, too.
            if core.settings_changes != changes || self.conflict(core)?.is_some() {
                return Ok(None);
            }
            self.revive(core)?;
            let plan = self.plan(core, committer.elapsed())?;
            if plan.has_letters() {
                return Ok(None);
            }
            let mut ops = Vec::new();
            plan.put_deferred(&mut ops);
            plan.put_acks(&mut ops);
            self.put_seeks(core, &added, &mut ops)?;
            audit::steps(ops.len() as u64);
            let receipt = core.commit_batch(&ops, batch)?;
            core.conclude(&self.settlements, &plan);
            Ok(Some(((), receipt)))
        })?;
        let Some(((), receipt)) = committed else { return Ok(None) };
        let places = self.appends.iter().zip(batch.offsets());
        let place =
            |(append, offset): (&Append, _)| Position { partition: append.partition, offset };
        Ok(Some((places.map(place).collect(), receipt)))
    }

    /// Adds the offsets that are set for groups. `added` are the messages that this transaction adds to each log.
    fn put_seeks(
        &self,
        core: &Core,
        added: &IdMap<LogId, u64>,
        ops: &mut Vec<Op<'_>>,
    ) -> Result<()> {
        for Seek { group, partition, next } in &self.seeks {
            audit::step();
            let log = group.shape().log(*partition);
            let added = added.get(&log).copied().unwrap_or(0);
            ops.push(group.seek(core, *partition, *next, added)?);
        }
        Ok(())
    }

    /// Commits as a future. It is ready when the commit is as durable as the transaction asks for. It never blocks its
    /// thread: it awaits space in a full journal, too.
    ///
    /// Nothing is committed before it is polled. If it is dropped before it is ready, all of it may have happened, or
    /// nothing.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let mut tx = engine.transaction();
    /// tx.send(&payments, "charge order 1");
    /// let committed = async { tx.commit_async().await };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut committed = std::pin::pin!(committed);
    /// # while committed.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
    /// # assert_eq!(payments.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`commit`](Transaction::commit).
    pub async fn commit_async(mut self) -> Result<Vec<Position>> {
        self.check()?;
        let (engine, durability) = (self.engine.clone(), self.durability);
        committed(engine, durability, || Ok(Attempt::Got(self.commit_once()?))).await?
    }

    /// One attempt to commit.
    fn attempt(&self, core: &mut Core) -> CommitResult<(Result<Vec<Position>>, Receipt)> {
        if let Some(conflict) = self.conflict(core)? {
            return Ok((Err(conflict), Receipt::of_what_is_there(&core.store)));
        }
        let committer = self.engine.committer();
        let elapsed = committer.elapsed();
        self.revive(core)?;
        let plan = self.plan(core, elapsed)?;
        let rules = self.rules(core)?;
        let dropped = self.make_capacity(core, &plan, &rules, elapsed)?;
        let mut ops = Vec::new();
        plan.put_deferred(&mut ops);
        for DroppedFrom { cursor, dropped } in &dropped {
            if !dropped.ranges.is_empty() {
                ops.push(Op::AckRanges { cursor: *cursor, ranges: &dropped.ranges });
            }
        }
        plan.put_acks(&mut ops);
        self.put_seeks(core, &self.added(), &mut ops)?;
        for Append { log, message, queue, .. } in &self.appends {
            let messages = slice::from_ref(message);
            let rules = queue.and_then(|queue| rules.get(&queue));
            let delay_ms = rules.map_or(0, |rules| rules.delay_ms);
            ops.push(Op::Append { log: *log, messages, delay_ms });
        }
        plan.put_letters(&mut ops);
        audit::steps(ops.len() as u64);
        let (positions, receipt) = if ops.is_empty() {
            // What it has compared may not be durable yet.
            (Vec::new(), Receipt::of_what_is_there(&core.store))
        } else {
            let receipt = core.commit(&ops, committer.now())?;
            (self.positions(core), receipt)
        };
        core.conclude(&self.settlements, &plan);
        for DroppedFrom { cursor, dropped } in &dropped {
            core.note_made_capacity(*cursor, dropped);
        }
        Ok((Ok(positions), receipt))
    }

    /// Plans the settlements. The error of lost leases names their messages.
    fn plan(&self, core: &mut Core, elapsed: Duration) -> Result<SettlementPlan<'_>> {
        core.plan_settlements(&self.settlements, elapsed).map_err(|error| {
            if error.kind() != ErrorKind::LeaseLost {
                return error;
            }
            let lost = core.lost(&self.settlements, elapsed);
            if lost.is_empty() {
                // The message was deleted.
                return error;
            }
            let named = lost.iter().map(|n| {
                let from = core.store.entity(self.settlements[*n].cursor.entity());
                (self.settled[*n], from.map(|from| &*from.name))
            });
            leases_lost(named, self.settlements.len(), "Nothing was committed")
        })
    }

    /// Prepares the queues of the settlements: the last handle of one may be gone. A queue with delayed messages keeps its
    /// state, so this is short.
    fn revive(&self, core: &mut Core) -> Result<()> {
        self.settlements.iter().try_for_each(|settlement| {
            audit::step();
            core.revive(settlement.cursor)
        })
    }

    /// The rules of the queues that messages are sent to, as they are now. Fails if a message does not fit them.
    fn rules(&self, core: &mut Core) -> Result<BTreeMap<CursorId, Rules>> {
        let mut all = BTreeMap::new();
        for queue in self.queues.keys() {
            audit::step();
            all.insert(*queue, core.consumption(*queue)?.rules);
        }
        if all.values().any(|rules| rules.is_ordered) {
            audit::steps(self.appends.len() as u64);
            let is_ordered = |append: &&Append| {
                append.queue.and_then(|queue| all.get(&queue)).is_some_and(|it| it.is_ordered)
            };
            let mut ordered = self.appends.iter().filter(is_ordered);
            ordered.try_for_each(|append| check_ordered(&append.message))?;
        }
        Ok(all)
    }

    /// Makes capacity in queues with limits. Returns the messages that it drops.
    fn make_capacity(
        &self,
        core: &mut Core,
        plan: &SettlementPlan<'_>,
        rules: &BTreeMap<CursorId, Rules>,
        elapsed: Duration,
    ) -> CommitResult<Vec<DroppedFrom>> {
        let mut loads: BTreeMap<CursorId, (Limit, Load)> = BTreeMap::new();
        if rules.values().any(|rules| rules.limit.is_some()) {
            audit::steps(self.appends.len() as u64);
            for Append { queue, message, .. } in &self.appends {
                let Some(queue) = queue else { continue };
                let Some(limit) = rules.get(queue).and_then(|rules| rules.limit) else { continue };
                loads.entry(*queue).or_insert((limit, Load::default())).1.add(limit, message);
            }
        }
        let mut all = Vec::with_capacity(loads.len());
        for (cursor, (limit, load)) in &loads {
            audit::step();
            let acked = plan.acked(*cursor);
            let dropped = core.make_capacity(*cursor, *limit, *load, acked, elapsed)?;
            all.push(DroppedFrom { cursor: *cursor, dropped });
        }
        Ok(all)
    }

    /// How many messages this transaction adds to each log, if it sets offsets.
    fn added(&self) -> IdMap<LogId, u64> {
        let mut added = IdMap::default();
        if !self.seeks.is_empty() {
            audit::steps(self.appends.len() as u64);
            self.appends.iter().for_each(|append| *added.entry(append.log).or_default() += 1);
        }
        added
    }

    /// The positions of the messages of the last commit. Each message is a run of its own.
    fn positions(&self, core: &Core) -> Vec<Position> {
        let placed = self.appends.iter().zip(core.store.placed());
        let position = |(append, (_, offsets)): (&Append, (LogId, OffsetRange))| Position {
            partition: append.partition,
            offset: offsets.start,
        };
        placed.map(position).collect()
    }
}
