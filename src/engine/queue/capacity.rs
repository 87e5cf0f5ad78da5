//! Sends to a full queue: waits until there is capacity.

use std::{slice, time::Duration};

use super::Queue;
use crate::{
    engine::{
        core::commit::Receipt,
        runtime::wait::{Attempt, Deadline, blocking_while},
    },
    error::{Error, ErrorKind, Result},
    ids::Offset,
    message::Message,
};

impl Queue {
    /// Sends a message. If the queue is full, the call waits for capacity, for at most `timeout`. The commit itself takes as
    /// long as the disk needs, as with [`send`](Queue::send).
    ///
    /// The engine wakes the call when there is capacity: the call does not poll. If messages may have expired, the call drops
    /// them in small steps, and looks at its time after each step. See also
    /// [`max_messages`](crate::QueueBuilder::max_messages).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let thumbnails = engine.queue("thumbnails").max_messages(1).create()?;
    /// thumbnails.send_within("image 1", Duration::from_secs(5))?;
    /// let refused = thumbnails.send_within("image 2", Duration::from_millis(1));
    /// assert_eq!(refused.unwrap_err().kind(), posthouse::ErrorKind::QueueFull);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`send`](Queue::send); [`QueueFull`](ErrorKind::QueueFull) if the time is over;
    /// [`Closed`](ErrorKind::Closed) if the engine is closed meanwhile.
    pub fn send_within<'m>(
        &self,
        message: impl Into<Message<'m>>,
        timeout: Duration,
    ) -> Result<Offset> {
        let message = message.into();
        let committer = self.consumer.committer();
        let messages = slice::from_ref(&message);
        let deadline = Deadline::default();
        let left = || deadline.left(timeout, || committer.disk.stopwatch());
        let sent = blocking_while(|| Some(left()), || self.send_or_wait(messages, Some(&left)))?;
        let sent = sent.ok_or_else(|| self.was_full(timeout))?;
        committer.complete(sent, self.durability_of_commits())
    }

    /// Sends messages, or begins to wait for capacity. `left` is the time that a thread has.
    pub(super) fn send_or_wait(
        &self,
        messages: &[Message<'_>],
        left: Option<&dyn Fn() -> Duration>,
    ) -> Result<Attempt<(Offset, Receipt)>> {
        let cursor = self.cursor();
        let mut waiting = None;
        let sent = self.append_or(messages, left, |core| waiting = core.wait_for_capacity(cursor));
        match (sent, waiting) {
            (Ok(sent), _) => Ok(Attempt::Got(sent)),
            (Err(error), Some(waiting)) if error.kind() == ErrorKind::QueueFull => {
                Ok(Attempt::Wait(waiting))
            }
            (Err(error), _) => {
                // The capacity that there may be is for the next sender.
                self.consumer.committer().lock("send").note_capacity(cursor, 1);
                Err(error)
            }
        }
    }

    /// The error of a send that found no capacity in time.
    pub(super) fn was_full(&self, timeout: Duration) -> Error {
        let name = self.name();
        let what = format!("queue {name:?} was full for {timeout:?}; the message was not sent");
        Error::new(ErrorKind::QueueFull, what)
    }
}
