//! The target of a schedule, and the checks of the message that it sends.

use super::stored::{REGISTRY, Schedule};
use crate::{
    config::no_priority,
    delivery::weights::weight_of,
    engine::{commit::lifetime::Engine, queue::Queue, stream::Stream, topic::Topic},
    error::{Error, ErrorKind, Result},
    format::{
        record::RecordParts,
        schedule::{Target, Template},
    },
    ids::Timestamp,
    message::{Delay, Message},
};

/// The most bytes that the commit of a run holds beside its two messages.
const COMMIT_BESIDE_BYTES: u64 = 256;

/// The queue, topic or stream to which a schedule sends.
#[derive(Clone, Debug)]
pub enum Aim {
    Queue(Queue),
    Topic(Topic),
    Stream(Stream),
}

impl Aim {
    pub fn engine(&self) -> &Engine {
        match self {
            Aim::Queue(queue) => queue.engine(),
            Aim::Topic(topic) => topic.engine(),
            Aim::Stream(stream) => &stream.shape().engine,
        }
    }

    pub fn target(&self) -> Target {
        match self {
            Aim::Queue(queue) => Target::Queue(queue.name().to_owned()),
            Aim::Topic(topic) => Target::Topic(topic.name().to_owned()),
            Aim::Stream(stream) => Target::Stream(stream.name().to_owned()),
        }
    }

    /// Refuses a message that cannot go there, as far as it is known now.
    pub fn admit(&self, engine: &Engine, message: &Message<'_>) -> Result<()> {
        if !engine.is_same(self.engine()) {
            let what = "a schedule's target must come from the engine that keeps the schedule";
            return Err(Error::invalid("target", what));
        }
        let (is_queue, is_ordered) = match self {
            Aim::Queue(queue) => (true, queue.is_ordered()),
            Aim::Topic(_) | Aim::Stream(_) => (false, false),
        };
        message.check_priority(no_priority(is_queue, is_ordered))?;
        match self {
            Aim::Queue(queue) if queue.name() == REGISTRY => {
                let what = format!("the queue {REGISTRY:?} keeps schedules, and nothing else");
                Err(Error::invalid("target", what))
            }
            Aim::Queue(queue) => {
                let delay = queue.settings()?.delay.as_millis();
                if message.time_to_live_ms().is_some_and(|it| u128::from(it) <= delay) {
                    let what = "each message would expire before it is due: give it a time to live that is longer \
                                than the delay of the queue";
                    return Err(Error::invalid("expire_after", what));
                }
                queue.check_message(message)
            }
            Aim::Stream(_) if message.time_to_live_ms().is_some() => {
                let what = "a stream keeps its records until it is trimmed; set no expire_after";
                Err(Error::invalid("expire_after", what))
            }
            Aim::Topic(_) | Aim::Stream(_) => Ok(()),
        }
    }
}

impl Aim {
    /// Refuses a message that is larger than a queue may ever be. `sent` is the message of a run.
    pub fn admit_size(&self, sent: &Message<'_>) -> Result<()> {
        let Aim::Queue(queue) = self else { return Ok(()) };
        let (weight, most) = (weight_of(sent), queue.settings()?.max_bytes);
        match most.filter(|most| weight > *most) {
            Some(most) => {
                let what = format!(
                    "each message has {weight} bytes, and queue {:?} holds at most {most} (max_bytes)",
                    queue.name()
                );
                Err(Error::new(ErrorKind::TooLarge, what))
            }
            None => Ok(()),
        }
    }
}

/// The parts of a message that can be sent again and again.
pub fn template(message: &Message<'_>) -> Result<Template> {
    if let Some(delay) = message.delay() {
        let field = if matches!(delay, Delay::At(_)) { "deliver_at" } else { "deliver_after" };
        return Err(Error::invalid(field, "the schedule says when its messages are sent"));
    }
    if message.timestamp_set().is_some() {
        let what = "each message of a schedule bears the time at which it is sent";
        return Err(Error::invalid("timestamp", what));
    }
    if message.time_to_live_ms() == Some(0) {
        return Err(Error::invalid("expire_after", "a message that lives for no time at all"));
    }
    message.check_subject()?;
    let ours = [Schedule::NAME_HEADER, Schedule::TIME_HEADER];
    if let Some((name, _)) = message.headers().find(|(it, _)| it.is_empty() || ours.contains(it)) {
        let what = format!("a header named {name:?}: it needs a name, and not one of {ours:?}");
        return Err(Error::invalid("header", what));
    }
    Ok(Template {
        payload: message.payload().to_vec(),
        key: message.key_bytes().map(<[u8]>::to_vec),
        headers: Template::headers_of(message),
        time_to_live_ms: message.time_to_live_ms(),
        priority: message.priority_set(),
    })
}

/// Refuses a schedule that does not fit into one commit together with its message: its runs would always
/// fail.
pub fn check_size(engine: &Engine, schedule: &Schedule) -> Result<()> {
    let config = &engine.committer().config;
    let (sent, stored) = (schedule.message_of(schedule.plan.next)?, schedule.stored());
    let weigh = |message: &Message<'_>| RecordParts::of(message, Timestamp(0)).weight();
    let (sent, stored) = (weigh(&sent), weigh(&stored));
    let is_large = sent.max(stored) > config.message_bytes_max
        || sent + stored + COMMIT_BESIDE_BYTES > config.commit_bytes_max;
    if !is_large {
        return Ok(());
    }
    let what = format!(
        "a schedule of {stored} bytes and its message of {sent}; at most {} are configured for \
         each (message_bytes_max), and {} for a commit of both (commit_bytes_max)",
        config.message_bytes_max, config.commit_bytes_max
    );
    Err(Error::new(ErrorKind::TooLarge, what))
}
