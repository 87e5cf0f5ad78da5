//! The actions of a test, as values that proptest makes and shrinks.

use proptest::prelude::*;

/// The durability of one commit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    Sync,
    Buffered,
    /// A ticket that is dropped.
    Ticket,
    /// A ticket that is waited for.
    Waited,
}

/// One of the few names in use.
pub type Name = u8;

#[derive(Clone, Debug)]
pub enum Action {
    CreateQueue(Name),
    DeleteQueue(Name),
    /// Changes a setting of a queue.
    Update(Name, u8),
    /// Changes the time to live of a queue.
    Live(Name, u8),
    /// Changes the time to live of a subscription.
    LiveFor(Name, Name, u8),
    /// Has nothing of a queue be delivered, or has it be delivered again.
    Pause(Name, bool),
    /// As `Pause`, for a subscription.
    PauseFor(Name, Name, bool),
    /// Would have dead letters come back to their own queue.
    CloseTheCircle,
    /// Creates or replaces a schedule.
    Schedule {
        name: Name,
        target: u8,
        n: u8,
    },
    Unschedule(Name),
    /// Runs the schedules that are due after some moments.
    RunSchedules(u8),
    /// Fills a queue with messages of which some are over after some moments, and sends more.
    Fill {
        queue: Name,
        moments: u8,
        how: How,
    },
    CreateTopic(Name),
    DeleteTopic(Name),
    Subscribe(Name, Name),
    Unsubscribe(Name, Name),
    /// Changes the filter of a subscription.
    Filter(Name, Name, u8),
    /// Has a topic retain messages for those who come late, or not.
    Retain(Name, u8),
    /// Creates a subscription that begins with what its topic retains. One of that name is deleted before.
    Late(Name, Name, u8),
    CreateStream(Name),
    DeleteStream(Name),
    CreateGroup(Name, Name),
    /// Changes how many records the stream with limits keeps.
    Limit(u8),
    Send {
        queue: Name,
        messages: u8,
        bytes: u16,
        how: How,
    },
    Publish {
        topic: Name,
        messages: u8,
        bytes: u16,
        how: How,
    },
    Append {
        stream: Name,
        messages: u8,
        bytes: u16,
        how: How,
    },
    /// Appends to one partition, at its end or at another offset, which is a conflict.
    AppendIf {
        stream: Name,
        at: u8,
        messages: u8,
        bytes: u16,
        how: How,
    },
    Receive {
        queue: Name,
    },
    ReceiveFrom {
        topic: Name,
        subscription: Name,
    },
    Ack(u8),
    Nack(u8),
    /// As a nack, but the message waits.
    NackAfter(u8),
    /// Moves a delivery to the dead letters.
    Reject(u8),
    /// Sends a delayed message.
    SendLater {
        queue: Name,
        bytes: u16,
        how: How,
    },
    /// Sends a message with a short time to live.
    SendBrief {
        queue: Name,
        bytes: u16,
        how: How,
    },
    /// Sends a batch of messages, some of them with times to live of their own.
    SendMixed {
        queue: Name,
        messages: u8,
        bytes: u16,
        how: How,
    },
    /// Sends a message with a higher priority.
    SendUrgent {
        queue: Name,
        bytes: u16,
        how: How,
    },
    /// Publishes a message with a short time to live.
    PublishBrief {
        topic: Name,
        bytes: u16,
        how: How,
    },
    /// Publishes a message that only one subscription gets.
    PublishTo {
        topic: Name,
        subscription: Name,
        bytes: u16,
        how: How,
    },
    /// Deletes a message.
    Remove {
        queue: Name,
        which: u8,
    },
    Purge {
        queue: Name,
    },
    /// Moves the dead letters back.
    Redrive,
    /// Drops a delivery that is neither acked nor nacked.
    Drop(u8),
    Seek {
        stream: Name,
        group: Name,
        to: u8,
    },
    Trim {
        stream: Name,
        to: u8,
    },
    Transaction(Vec<TxPart>, How),
    /// Runs some rounds in which messages come and most of them go: journal files are filled again, and
    /// segments are removed.
    Churn {
        queue: Name,
        rounds: u8,
        how: How,
    },
    /// A message becomes a dead letter, some moments after it was sent.
    Die {
        moments: u8,
        how: How,
    },
    /// The store is idle for long.
    Rest,
    /// Lets all leases run out.
    LeasesEnd,
    /// Lets a quarter of a lease pass: some leases run out, some messages are due, some times to live are
    /// over.
    TimePasses,
    Sync,
    Checkpoint,
    Reopen,
    Kill,
    PowerCut,
    /// The power is cut at the n-th step of the following actions.
    PowerCutIn(u8),
    /// The n-th call of the following actions fails, with one of [`ERRORS`].
    CallFails(u8, u8),
    /// The n-th sync of the following actions fails.
    SyncFails(u8),
    /// A checkpoint, whose n-th sync fails.
    CheckpointFails(u8),
    /// The time of day jumps to one of [`TIMES`]. From twice their number on, a checkpoint and an opening follow: then the
    /// metalog alone has the clocks.
    Clock(u8),
}

/// EIO, ENOSPC, EMFILE, ENOMEM, EINTR, EACCES.
pub const ERRORS: [i32; 6] = [5, 28, 24, 12, 4, 13];

/// Times of day, in milliseconds, that a hostile clock shows.
pub const TIMES: [u64; 5] = [0, 1, 1_000_000_000_000, u64::MAX / 2, u64::MAX];

#[derive(Clone, Debug)]
pub enum TxPart {
    Send(Name),
    SendLater(Name),
    SendBrief(Name),
    SendUrgent(Name),
    Publish(Name),
    Append(Name),
    /// Appends at the end of a partition, or at another offset, which is a conflict.
    AppendIf(Name, u8),
    Ack(u8),
    Nack(u8),
    NackAfter(u8),
    Seek {
        stream: Name,
        group: Name,
        to: u8,
    },
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![4 => Just(0u8), 1 => Just(1u8)]
}

/// Subscriptions, the one with a filter included.
fn subscription() -> impl Strategy<Value = Name> {
    prop_oneof![4 => Just(0u8), 1 => Just(1u8), 4 => Just(2u8)]
}

/// Queues to receive from, the dead letters included.
fn from() -> impl Strategy<Value = Name> {
    prop_oneof![4 => Just(0u8), 3 => Just(1u8), 2 => Just(2u8), 2 => Just(3u8), 2 => Just(4u8), 1 => Just(5u8)]
}

/// Queues to send to: all but the dead letters.
fn to() -> impl Strategy<Value = Name> {
    prop_oneof![4 => Just(0u8), 2 => Just(1u8), 2 => Just(3u8), 1 => Just(4u8), 2 => Just(5u8)]
}

/// Queues that get messages with a short time to live.
fn brief() -> impl Strategy<Value = Name> {
    prop_oneof![
        2 => Just(0u8),
        2 => Just(1u8),
        3 => Just(3u8),
        2 => Just(4u8),
        3 => Just(5u8)
    ]
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Sync),
        2 => Just(How::Buffered),
        1 => Just(How::Ticket),
        1 => Just(How::Waited)
    ]
}

fn bytes() -> impl Strategy<Value = u16> {
    prop_oneof![6 => 0..200u16, 2 => 200..2000u16, 1 => 2000..20000u16]
}

fn messages() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(1u8), 2 => 0..6u8, 1 => 30..70u8]
}

fn part() -> impl Strategy<Value = TxPart> {
    prop_oneof![
        to().prop_map(TxPart::Send),
        name().prop_map(TxPart::SendLater),
        brief().prop_map(TxPart::SendBrief),
        to().prop_map(TxPart::SendUrgent),
        name().prop_map(TxPart::Publish),
        name().prop_map(TxPart::Append),
        (name(), any::<u8>()).prop_map(|(stream, at)| TxPart::AppendIf(stream, at)),
        any::<u8>().prop_map(TxPart::Ack),
        any::<u8>().prop_map(TxPart::Nack),
        any::<u8>().prop_map(TxPart::NackAfter),
        (name(), name(), any::<u8>()).prop_map(|(stream, group, to)| TxPart::Seek {
            stream,
            group,
            to
        }),
    ]
}

pub fn action() -> impl Strategy<Value = Action> {
    use Action::*;
    prop_oneof![
        2 => prop_oneof![9 => to(), 1 => Just(2)].prop_map(CreateQueue),
        1 => to().prop_map(DeleteQueue),
        3 => (name(), any::<u8>()).prop_map(|(queue, n)| Update(queue, n)),
        3 => (from(), any::<u8>()).prop_map(|(queue, n)| Live(queue, n)),
        2 => (name(), subscription(), any::<u8>()).prop_map(|(t, s, n)| LiveFor(t, s, n)),
        3 => (name(), subscription(), any::<u8>()).prop_map(|(t, s, n)| Filter(t, s, n)),
        2 => (name(), any::<u8>()).prop_map(|(t, n)| Retain(t, n)),
        3 => (name(), subscription(), any::<u8>()).prop_map(|(t, s, n)| Late(t, s, n)),
        1 => (from(), any::<bool>()).prop_map(|(queue, pauses)| Pause(queue, pauses)),
        1 => (name(), subscription(), any::<bool>())
            .prop_map(|(t, s, pauses)| PauseFor(t, s, pauses)),
        1 => Just(CloseTheCircle),
        3 => (name(), any::<u8>(), any::<u8>())
            .prop_map(|(name, target, n)| Schedule { name, target, n }),
        1 => name().prop_map(Unschedule),
        6 => (0..6u8).prop_map(RunSchedules),
        3 => (prop_oneof![Just(3), Just(5)], 0..4u8, how())
            .prop_map(|(queue, moments, how)| Fill { queue, moments, how }),
        2 => name().prop_map(CreateTopic),
        1 => name().prop_map(DeleteTopic),
        3 => (name(), subscription()).prop_map(|(t, s)| Subscribe(t, s)),
        1 => (name(), subscription()).prop_map(|(t, s)| Unsubscribe(t, s)),
        2 => name().prop_map(CreateStream),
        1 => name().prop_map(DeleteStream),
        2 => (name(), name()).prop_map(|(s, g)| CreateGroup(s, g)),
        2 => any::<u8>().prop_map(Limit),
        12 => (to(), messages(), bytes(), how())
            .prop_map(|(queue, messages, bytes, how)| Send { queue, messages, bytes, how }),
        8 => (name(), messages(), bytes(), how())
            .prop_map(|(topic, messages, bytes, how)| Publish { topic, messages, bytes, how }),
        8 => (name(), messages(), bytes(), how())
            .prop_map(|(stream, messages, bytes, how)| Append { stream, messages, bytes, how }),
        4 => (name(), any::<u8>(), messages(), bytes(), how()).prop_map(
            |(stream, at, messages, bytes, how)| AppendIf { stream, at, messages, bytes, how }
        ),
        16 => from().prop_map(|queue| Receive { queue }),
        20 => (name(), subscription())
            .prop_map(|(topic, subscription)| ReceiveFrom { topic, subscription }),
        16 => any::<u8>().prop_map(Ack),
        4 => any::<u8>().prop_map(Nack),
        2 => any::<u8>().prop_map(NackAfter),
        2 => any::<u8>().prop_map(Reject),
        3 => (name(), bytes(), how())
            .prop_map(|(queue, bytes, how)| SendLater { queue, bytes, how }),
        4 => (brief(), bytes(), how())
            .prop_map(|(queue, bytes, how)| SendBrief { queue, bytes, how }),
        4 => (brief(), any::<u8>(), bytes(), how())
            .prop_map(|(queue, messages, bytes, how)| SendMixed { queue, messages, bytes, how }),
        4 => (to(), bytes(), how())
            .prop_map(|(queue, bytes, how)| SendUrgent { queue, bytes, how }),
        1 => (name(), bytes(), how())
            .prop_map(|(topic, bytes, how)| PublishBrief { topic, bytes, how }),
        3 => (name(), subscription(), bytes(), how())
            .prop_map(|(topic, subscription, bytes, how)| PublishTo { topic, subscription, bytes, how }),
        2 => (from(), any::<u8>()).prop_map(|(queue, which)| Remove { queue, which }),
        1 => from().prop_map(|queue| Purge { queue }),
        2 => Just(Redrive),
        3 => any::<u8>().prop_map(Drop),
        3 => (name(), name(), any::<u8>())
            .prop_map(|(stream, group, to)| Seek { stream, group, to }),
        2 => (name(), any::<u8>()).prop_map(|(stream, to)| Trim { stream, to }),
        8 => (proptest::collection::vec(part(), 1..6), how())
            .prop_map(|(parts, how)| Transaction(parts, how)),
        2 => (name(), 1..30u8, how())
            .prop_map(|(queue, rounds, how)| Churn { queue, rounds, how }),
        5 => (0..3u8, how()).prop_map(|(moments, how)| Die { moments, how }),
        2 => Just(LeasesEnd),
        8 => Just(TimePasses),
        2 => Just(Sync),
        4 => Just(Checkpoint),
        2 => Just(Rest),
        3 => Just(Reopen),
        3 => Just(Kill),
        3 => Just(PowerCut),
        4 => (1..60u8).prop_map(PowerCutIn),
        4 => (0..60u8, 0..6u8).prop_map(|(calls, error)| CallFails(calls, error)),
        5 => (0..8u8).prop_map(SyncFails),
        6 => (0..5u8).prop_map(CheckpointFails),
        2 => (0..15u8).prop_map(Clock),
    ]
}

pub fn actions(most: usize) -> impl Strategy<Value = Vec<Action>> {
    // An empty store is of little interest.
    (proptest::collection::vec(action(), 1..most), 0..72u8).prop_map(|(mut actions, more)| {
        let mut first = vec![
            Action::CreateQueue(0),
            Action::CreateTopic(0),
            Action::Subscribe(0, 0),
            Action::CreateStream(0),
            Action::CreateGroup(0, 0),
        ];
        let queues = [2, 1, 3, 4, 5].map(Action::CreateQueue);
        let others = queues.into_iter().chain([Action::Subscribe(0, 1)]);
        if more % 3 > 0 {
            first.push(Action::Subscribe(0, 2));
        }
        if more % 4 == 1 {
            // What was published before is not retained.
            let publish = Action::Publish { topic: 0, messages: 3, bytes: 20, how: How::Sync };
            let others = [Action::CreateTopic(1), Action::Retain(1, 1)];
            first.extend([publish, Action::Retain(0, 1)].into_iter().chain(others));
        }
        let chosen = others.enumerate().filter(|(n, _)| more >> n & 1 == 1);
        first.extend(chosen.map(|(_, action)| action));
        if more >= 64 {
            // A message lives while the clock is set, and the metalog has the clocks.
            first.push(Action::SendBrief { queue: 0, bytes: 0, how: How::Sync });
            first.push(Action::Clock(10 + more % 5));
        }
        actions.splice(0..0, first);
        actions
    })
}
