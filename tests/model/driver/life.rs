//! Times to live of queues and subscriptions, which change, and pauses.

use std::time::Duration;

use posthouse::Error;

use super::{Driver, Whose};
use crate::state::{MOMENT, limit_lives};

/// The times to live that are set, in moments. 0 is none.
const LIVES: [u32; 6] = [0, 1, 2, 3, 5, 12];

impl Driver<'_> {
    /// Changes the time to live of a queue or a subscription, or takes it away. It counts for what is there, from the times at
    /// which it came.
    pub(super) fn change_life(&mut self, whose: &Whose, n: u8) -> Result<Option<()>, Error> {
        if super::unacked(self.now(), whose).is_none() {
            return Ok(Some(()));
        }
        let moments = LIVES[usize::from(n) % LIVES.len()];
        let life: Option<Duration> = (moments > 0).then_some(MOMENT * moments);
        let updated = match whose {
            Whose::Queue(name) => {
                let builder = self.engine().queue(name);
                match life {
                    Some(life) => builder.time_to_live(life).create_or_update().map(drop),
                    None => builder.without_time_to_live().create_or_update().map(drop),
                }
            }
            Whose::Subscription(topic, name) => self.topic(topic).and_then(|topic| {
                let builder = topic.subscription(name);
                match life {
                    Some(life) => builder.time_to_live(life).create_or_update().map(drop),
                    None => builder.without_time_to_live().create_or_update().map(drop),
                }
            }),
        };
        let done = self.commit(updated, |state| match whose {
            Whose::Queue(name) => {
                let queue = state.queues.get_mut(name).unwrap();
                queue.time_to_live = life;
                limit_lives(&mut queue.unacked, life);
            }
            Whose::Subscription(topic, name) => {
                let topic = state.topics.get_mut(topic).unwrap();
                let subscription = topic.subscriptions.get_mut(name).unwrap();
                subscription.time_to_live = life;
                limit_lives(&mut subscription.unacked, life);
            }
        })?;
        if done.is_none() {
            // The call that failed may have had messages leave before.
            self.all_were_swept(false);
        }
        Ok(done)
    }

    /// Has nothing be delivered, or has messages delivered again.
    pub(super) fn set_paused(&mut self, whose: &Whose, pauses: bool) -> Result<Option<()>, Error> {
        if super::unacked(self.now(), whose).is_none() {
            return Ok(Some(()));
        }
        let done = match whose {
            Whose::Queue(name) => {
                self.queue(name).and_then(|it| if pauses { it.pause() } else { it.resume() })
            }
            Whose::Subscription(topic, name) => self
                .subscription(topic, name)
                .and_then(|it| if pauses { it.pause() } else { it.resume() }),
        };
        self.commit(done, |state| match whose {
            Whose::Queue(name) => state.queues.get_mut(name).unwrap().is_paused = pauses,
            Whose::Subscription(topic, name) => {
                let topic = state.topics.get_mut(topic).unwrap();
                topic.subscriptions.get_mut(name).unwrap().is_paused = pauses;
            }
        })
    }

    pub(super) fn is_paused(&self, whose: &Whose) -> bool {
        match whose {
            Whose::Queue(name) => self.now().queues.get(name).is_some_and(|it| it.is_paused),
            Whose::Subscription(topic, name) => {
                let topic = self.now().topics.get(topic);
                topic.and_then(|it| it.subscriptions.get(name)).is_some_and(|it| it.is_paused)
            }
        }
    }
}
