//! Queues with a limit of messages: what leaves them for messages that come.

use std::time::Duration;

use posthouse::{Error, ErrorKind, sim};

use super::{Driver, Whose, queue_name};
use crate::{
    action::{How, Name},
    state::{BOUNDED, MESSAGES_MAX, MOMENT, Msg, REFUSING},
};

pub(super) fn is_refused<T>(sent: &Result<T, Error>) -> bool {
    sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::QueueFull)
}

impl Driver<'_> {
    /// Fills a queue. Some of the messages are over when more come.
    pub(super) fn fill(&mut self, queue: Name, moments: u8, how: How) -> Result<Option<()>, Error> {
        let name = queue_name(queue);
        let depth = self.now().queues.get(&name).map_or(MESSAGES_MAX, |it| it.unacked.len() as u64);
        let free = MESSAGES_MAX.saturating_sub(depth) as u8;
        let messages = self.messages(free, 20).into_iter().enumerate();
        let messages: Vec<Msg> = messages
            .map(|(n, message)| if n % 3 == 1 { message.brief() } else { message })
            .collect();
        if self.send_all(&name, &messages, how)?.is_none() {
            return Ok(None);
        }
        let by = MOMENT * u32::from(moments);
        if self.numbered.is_multiple_of(2) && self.no_lease_ends(by) {
            // Nobody but the sender has what is over leave: it looks for room by itself.
            self.pass_time(by);
            return sim::still(|| self.send(queue, 1 + moments, 20, how));
        }
        if self.time_passes(by)?.is_none() {
            return Ok(None);
        }
        self.send(queue, 1 + moments, 20, how)
    }

    fn no_lease_ends(&self, by: Duration) -> bool {
        self.held.iter().all(|it| it.until > self.time + by.as_millis() as u64)
    }

    /// Messages were sent to a queue. What is over has left it for them, if they did not fit. Returns the messages that the
    /// commit has dropped beside; `None` if there was no room.
    pub(super) fn make_room(
        &mut self,
        name: &str,
        more: usize,
        is_refused: bool,
    ) -> Option<Vec<u64>> {
        let queue = &self.now().queues[name];
        let excess = (queue.unacked.len() + more).saturating_sub(MESSAGES_MAX as usize);
        let is_bounded = [BOUNDED, REFUSING].contains(&name);
        if !is_bounded || excess == 0 {
            assert!(!is_refused, "{name} has room");
            return Some(Vec::new());
        }
        let whose = Whose::Queue(name.to_owned());
        let over = self.over(&whose);
        let swept = self.find_gone(&whose, &over);
        let mut left = self.idle(name).unwrap_or_default();
        left.retain(|offset| !swept.contains(offset));
        let unacked = &self.now().queues[name].unacked;
        left.sort_by_key(|offset| unacked[offset].msg.priority);
        let excess = excess.saturating_sub(swept.len());
        let has_room = excess == 0 || (name == BOUNDED && left.len() >= excess);
        if excess > 0 && !self.doomed {
            // Nothing is dropped or refused while there is something that is over.
            self.check_swept(&whose, &over, &swept);
        }
        self.commit_sweep(vec![(whose, swept)]);
        if !has_room {
            assert!(is_refused || self.doomed, "{name} is full");
            return None;
        }
        assert!(!is_refused || self.doomed, "{name} has room");
        left.truncate(excess);
        Some(left)
    }
}
