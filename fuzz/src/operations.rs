//! Any operations, with failing calls, kills and power cuts, against the model.

use std::time::Duration;

use posthouse::{Durability, IoMode, sim::SimDisk};

use super::{
    input::Input,
    model::{
        Simulated,
        action::{Action, How, Name, TxPart},
        driver::Driver,
        small_options,
    },
};

const ACTIONS_MOST: usize = 80;

pub fn run(settings: u8, mut input: Input<'_>) {
    let set = |bit: u8| settings >> bit & 1 == 1;
    let durability = if set(0) { Durability::Buffered } else { Durability::Sync };
    let io = if set(1) { IoMode::Calls } else { IoMode::Map };
    let disk = SimDisk::new(u64::from(input.byte()));
    disk.set_pessimal(set(2));
    let mut actions = vec![
        Action::CreateQueue(0),
        Action::CreateTopic(0),
        Action::Subscribe(0, 0),
        Action::CreateStream(0),
        Action::CreateGroup(0, 0),
    ];
    while !input.is_empty() && actions.len() < ACTIONS_MOST {
        actions.push(action(&mut input));
    }
    let mut options = small_options().durability(durability).io(io);
    if set(3) {
        // The engine syncs no commit by itself, as time passes.
        options = options.sync_interval(Duration::from_secs(3600));
    }
    let world = Simulated { disk, options };
    Driver::new(&world, durability == Durability::Sync).run(&actions);
}

/// Actions that came later have bytes that were none of the actions in the corpus.
fn action(input: &mut Input<'_>) -> Action {
    match input.byte() {
        240 => Action::Rest,
        241 => Action::TimePasses,
        245 => {
            let (queue, bytes) = (name(input), input.size());
            Action::SendBrief { queue, bytes, how: how(input) }
        }
        251 => Action::Live(name(input), input.byte()),
        253 => {
            let (topic, bytes) = (name(input), input.size());
            Action::PublishBrief { topic, bytes, how: how(input) }
        }
        254 => {
            let (topic, subscription, bytes) = (name(input), name(input), input.size());
            Action::PublishTo { topic, subscription, bytes, how: how(input) }
        }
        255 => {
            let (stream, at, messages) = (name(input), input.byte(), messages(input));
            let bytes = input.size();
            Action::AppendIf { stream, at, messages, bytes, how: how(input) }
        }
        byte => first_action(byte % 72, input),
    }
}

fn first_action(number: u8, input: &mut Input<'_>) -> Action {
    match number {
        0 => Action::CreateQueue(name(input)),
        1 => Action::DeleteQueue(name(input)),
        2 => Action::CreateTopic(name(input)),
        3 => Action::DeleteTopic(name(input)),
        4 | 5 => Action::Subscribe(name(input), name(input)),
        6 => Action::Unsubscribe(name(input), name(input)),
        7 => Action::CreateStream(name(input)),
        8 => Action::DeleteStream(name(input)),
        9 | 10 => Action::CreateGroup(name(input), name(input)),
        11..=17 => {
            let (queue, messages, bytes) = (name(input), messages(input), input.size());
            Action::Send { queue, messages, bytes, how: how(input) }
        }
        18..=21 => {
            let (topic, messages, bytes) = (name(input), messages(input), input.size());
            Action::Publish { topic, messages, bytes, how: how(input) }
        }
        22..=25 => {
            let (stream, messages, bytes) = (name(input), messages(input), input.size());
            Action::Append { stream, messages, bytes, how: how(input) }
        }
        26..=31 => Action::Receive { queue: name(input) },
        32..=35 => Action::ReceiveFrom { topic: name(input), subscription: name(input) },
        36..=41 => Action::Ack(input.byte()),
        42 | 43 => Action::Nack(input.byte()),
        44 => Action::Drop(input.byte()),
        45 | 46 => Action::Seek { stream: name(input), group: name(input), to: input.byte() },
        47 => Action::Trim { stream: name(input), to: input.byte() },
        48..=51 => {
            let parts = (0..=input.below(5)).map(|_| part(input)).collect();
            Action::Transaction(parts, how(input))
        }
        52 => Action::LeasesEnd,
        53 => Action::Sync,
        54..=56 => Action::Checkpoint,
        57 => Action::Reopen,
        58 => Action::Kill,
        59 => Action::PowerCut,
        60..=63 => Action::PowerCutIn(1 + input.byte() % 60),
        64 | 65 => Action::CallFails(input.byte() % 60, input.byte()),
        66 | 67 => Action::SyncFails(input.byte() % 8),
        68 | 69 => Action::CheckpointFails(input.byte() % 5),
        70 => {
            let (queue, rounds) = (name(input), 1 + input.byte() % 30);
            Action::Churn { queue, rounds, how: how(input) }
        }
        _ => Action::Clock(input.byte()),
    }
}

fn name(input: &mut Input<'_>) -> Name {
    u8::from(input.byte() >= 200)
}

fn messages(input: &mut Input<'_>) -> u8 {
    match input.byte() {
        0..150 => 1,
        few @ 150..240 => few % 6,
        many => many - 200,
    }
}

fn how(input: &mut Input<'_>) -> How {
    [How::Sync, How::Buffered, How::Ticket, How::Waited][input.below(4)]
}

fn part(input: &mut Input<'_>) -> TxPart {
    match input.below(6) {
        0 => TxPart::Send(name(input)),
        1 => TxPart::Publish(name(input)),
        2 => TxPart::Append(name(input)),
        3 => TxPart::Ack(input.byte()),
        4 => TxPart::Nack(input.byte()),
        _ => TxPart::Seek { stream: name(input), group: name(input), to: input.byte() },
    }
}
