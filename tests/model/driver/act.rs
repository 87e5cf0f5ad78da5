//! Does each action on the engine and on the model.

use std::time::Duration;

use posthouse::Error;

use super::{Driver, Ended, LEASE, Settling, Whose, is_of_power, queue_name, text};
use crate::{
    action::{Action, ERRORS, TIMES},
    state::MOMENT,
};

impl Driver<'_> {
    pub(super) fn act(&mut self, action: &Action) -> Ended {
        let done = match action {
            Action::CreateQueue(name) => self.create_queue(*name),
            Action::DeleteQueue(name) => self.delete_queue(*name),
            Action::Update(name, n) => self.update_queue(*name, *n),
            Action::CreateTopic(name) => self.create_topic(*name),
            Action::DeleteTopic(name) => self.delete_topic(*name),
            Action::Subscribe(topic, name) => self.subscribe(*topic, *name),
            Action::Unsubscribe(topic, name) => self.unsubscribe(*topic, *name),
            Action::Filter(topic, name, n) => self.change_filter(*topic, *name, *n),
            Action::Pause(queue, pauses) => {
                self.set_paused(&Whose::Queue(queue_name(*queue)), *pauses)
            }
            Action::PauseFor(topic, name, pauses) => {
                let (topic, name) = (text("topic", *topic), text("subscription", *name));
                self.set_paused(&Whose::Subscription(topic, name), *pauses)
            }
            Action::Retain(topic, n) => self.retain(*topic, *n),
            Action::Late(topic, name, n) => self.subscribe_late(*topic, *name, *n),
            Action::CreateStream(name) => self.create_stream(*name),
            Action::DeleteStream(name) => self.delete_stream(*name),
            Action::CreateGroup(stream, name) => self.create_group(*stream, *name),
            Action::Limit(n) => self.limit(*n),
            Action::Send { queue, messages, bytes, how } => {
                self.send(*queue, *messages, *bytes, *how)
            }
            Action::Publish { topic, messages, bytes, how } => {
                self.publish(*topic, *messages, *bytes, *how)
            }
            Action::Append { stream, messages, bytes, how } => {
                self.append(*stream, *messages, *bytes, *how)
            }
            Action::AppendIf { stream, at, messages, bytes, how } => {
                self.append_if(*stream, *at, (*messages, *bytes), *how)
            }
            Action::Receive { queue } => self.receive(Whose::Queue(queue_name(*queue))),
            Action::ReceiveFrom { topic, subscription } => self.receive(Whose::Subscription(
                text("topic", *topic),
                text("subscription", *subscription),
            )),
            Action::Ack(n) => self.settle(*n, Settling::Ack),
            Action::Nack(n) => self.settle(*n, Settling::Nack),
            Action::NackAfter(n) => self.settle(*n, Settling::NackAfter),
            Action::Reject(n) => self.settle(*n, Settling::Reject),
            Action::SendLater { queue, bytes, how } => self.send_later(*queue, *bytes, *how),
            Action::SendBrief { queue, bytes, how } => self.send_brief(*queue, *bytes, *how),
            Action::SendMixed { queue, messages, bytes, how } => {
                self.send_mixed(*queue, *messages, *bytes, *how)
            }
            Action::SendUrgent { queue, bytes, how } => self.send_urgent(*queue, *bytes, *how),
            Action::PublishBrief { topic, bytes, how } => self.publish_brief(*topic, *bytes, *how),
            Action::PublishTo { topic, subscription, bytes, how } => {
                self.publish_to(*topic, *subscription, *bytes, *how)
            }
            Action::Remove { queue, which } => self.remove(*queue, *which),
            Action::Purge { queue } => self.purge(&Whose::Queue(queue_name(*queue))),
            Action::Live(name, n) => self.change_life(&Whose::Queue(queue_name(*name)), *n),
            Action::LiveFor(topic, name, n) => {
                let (topic, name) = (text("topic", *topic), text("subscription", *name));
                self.change_life(&Whose::Subscription(topic, name), *n)
            }
            Action::CloseTheCircle => self.close_the_circle(),
            #[cfg(feature = "cron")]
            Action::Schedule { name, target, n } => self.schedule(*name, *target, *n),
            #[cfg(feature = "cron")]
            Action::Unschedule(name) => self.unschedule(*name),
            #[cfg(feature = "cron")]
            Action::RunSchedules(moments) => self.run_schedules_after(*moments),
            #[cfg(not(feature = "cron"))]
            Action::Schedule { .. } | Action::Unschedule(_) | Action::RunSchedules(_) => {
                Ok(Some(()))
            }
            Action::Fill { queue, moments, how } => self.fill(*queue, *moments, *how),
            Action::Redrive => self.redrive(),
            Action::Drop(n) => self.drop_delivery(*n),
            Action::Seek { stream, group, to } => self.seek(*stream, *group, *to),
            Action::Trim { stream, to } => self.trim(*stream, *to),
            Action::Transaction(parts, how) => self.transact(parts, *how),
            Action::Churn { queue, rounds, how } => self.churn(*queue, *rounds, *how),
            Action::Die { moments, how } => self.die(*moments, *how),
            Action::LeasesEnd => self.time_passes(LEASE + Duration::from_millis(1)),
            Action::TimePasses => self.time_passes(MOMENT),
            Action::Sync
            | Action::Checkpoint
            | Action::Rest
            | Action::Reopen
            | Action::Kill
            | Action::PowerCut
            | Action::PowerCutIn(_)
            | Action::CallFails(..)
            | Action::SyncFails(_)
            | Action::CheckpointFails(_)
            | Action::Clock(_) => self.act_on_the_whole(action),
        };
        if !self.doomed {
            self.follow_retention(matches!(action, Action::Checkpoint));
        }
        match done {
            Ok(Some(())) => Ended::Fine,
            Ok(None) => Ended::Dead,
            // The action failed before there was anything to commit.
            Err(error) if self.doomed && is_of_power(&error) => Ended::Dead,
            Err(error) => panic!("{action:?}: {error:?}"),
        }
    }

    /// An action on the engine as a whole, on the disk, or on the clock.
    fn act_on_the_whole(&mut self, action: &Action) -> Result<Option<()>, Error> {
        match action {
            Action::Sync => {
                let synced = self.engine().sync();
                self.durably(synced)
            }
            Action::Checkpoint => self.checkpoint(),
            Action::Rest => {
                let rested = posthouse::sim::rest(self.engine());
                if self.numbered.is_multiple_of(3) {
                    // Handles go while their queues are at rest.
                    self.kept.borrow_mut().clear();
                }
                self.outcome(rested)
            }
            Action::Reopen if self.doomed => Ok(Some(())),
            Action::Reopen => {
                self.reopen();
                Ok(Some(()))
            }
            Action::Kill => {
                self.crash(false);
                Ok(Some(()))
            }
            Action::PowerCut => {
                self.crash(true);
                Ok(Some(()))
            }
            Action::PowerCutIn(steps) => {
                self.world.cut_power_in(u64::from(*steps));
                self.doomed = self.world.copy().is_some();
                self.powerless = self.doomed;
                Ok(Some(()))
            }
            Action::CallFails(calls, error) => {
                let error = ERRORS[usize::from(*error) % ERRORS.len()];
                self.doomed |= self.world.fail_call_in(u64::from(*calls), error);
                Ok(Some(()))
            }
            Action::SyncFails(which) => {
                self.doomed |= self.world.fail_sync_in(u64::from(*which));
                Ok(Some(()))
            }
            Action::CheckpointFails(which) => {
                self.doomed |= self.world.fail_sync_in(u64::from(*which));
                self.checkpoint()
            }
            Action::Clock(time) => {
                let is_followed = usize::from(*time) >= 2 * TIMES.len();
                let time = TIMES[usize::from(*time) % TIMES.len()];
                if self.world.set_clock(time) {
                    self.clock_was_set = true;
                    self.day = Some(time);
                }
                if !is_followed || self.doomed {
                    return Ok(Some(()));
                }
                let made = self.checkpoint()?;
                if made.is_some() && !self.doomed {
                    self.reopen();
                }
                Ok(made)
            }
            _ => unreachable!("an action on a model"),
        }
    }
}
