//! Random operations on all models, with crashes, reopens and checkpoints in between, against a
//! plain model. A failure prints the shrunk actions and the seed of the disk.

use posthouse::{Durability, IoMode, sim::SimDisk};
use proptest::prelude::*;

use crate::model::{
    Real, Simulated,
    action::{Action, How, TxPart, actions},
    driver::Driver,
    small_options,
};
use crate::support::cases;

fn simulated(seed: u64, actions: &[Action], durability: Durability, io: IoMode, pessimal: bool) {
    let disk = SimDisk::new(seed);
    disk.set_pessimal(pessimal);
    let mut options = small_options().durability(durability).io(io);
    if seed % 2 == 1 {
        // The engine syncs no commit by itself, as time passes.
        options = options.sync_interval(std::time::Duration::from_secs(3600));
    }
    let world = Simulated { disk, options };
    Driver::new(&world, durability == Durability::Sync).run(actions);
}

/// Found by `simulated_sync`, in the model: a power cut undoes the second nack of a message, and it is due when
/// the first one says.
#[test]
fn a_nack_that_a_power_cut_has_undone_delays_nothing() {
    let receive = || Action::ReceiveFrom { topic: 0, subscription: 0 };
    let nack = || Action::Transaction(vec![TxPart::NackAfter(0)], How::Buffered);
    let actions = [
        Action::CreateTopic(0),
        Action::Subscribe(0, 0),
        Action::Publish { topic: 0, messages: 1, bytes: 0, how: How::Sync },
        receive(),
        nack(),
        Action::Sync,
        Action::TimePasses,
        Action::TimePasses,
        receive(),
        nack(),
        Action::PowerCut,
        Action::TimePasses,
        receive(),
    ];
    for seed in 0..16 {
        simulated(seed, &actions, Durability::Sync, IoMode::Map, false);
    }
}

/// Found by `simulated_without_maps`, in the model: a consumer that stands by drops what is over too, and its call fails
/// behind that.
#[test]
fn a_failing_call_of_a_consumer_that_stands_by_may_have_dropped_what_was_over() {
    let send = || Action::Transaction(vec![TxPart::SendBrief(0)], How::Sync);
    let receive = || Action::Receive { queue: 0 };
    let actions = [
        Action::CreateQueue(0),
        send(),
        Action::Update(0, 4),
        send(),
        receive(),
        Action::TimePasses,
        Action::CallFails(2, 0),
        Action::TimePasses,
        receive(),
    ];
    for calls in 0..8 {
        let mut actions = actions.to_vec();
        actions[6] = Action::CallFails(calls, 0);
        simulated(u64::from(calls), &actions, Durability::Sync, IoMode::Calls, true);
    }
}

/// Found by `simulated_sync`, in the model: where the failure cannot be counted of a delivery whose lease has run out, what is
/// over is dropped all the same.
#[test]
fn a_look_that_cannot_count_a_failure_may_have_dropped_what_was_over() {
    let (brief, how) = (Action::SendBrief { queue: 0, bytes: 0, how: How::Sync }, How::Sync);
    let mut actions = [
        Action::CreateQueue(0),
        Action::CreateTopic(0),
        Action::Subscribe(0, 0),
        Action::Publish { topic: 0, messages: 1, bytes: 0, how },
        brief.clone(),
        Action::ReceiveFrom { topic: 0, subscription: 0 },
        Action::PublishBrief { topic: 0, bytes: 0, how },
        Action::CallFails(2, 0),
        brief,
        Action::LeasesEnd,
    ];
    for (calls, seed) in (0..6).flat_map(|calls| (0..8).map(move |seed| (calls, seed))) {
        actions[7] = Action::CallFails(calls, 0);
        simulated(seed, &actions, Durability::Sync, IoMode::Map, false);
    }
}

/// Found by `simulated_sync`, in the model: a sync that fails may lose the clocks that the store recorded when it was opened.
/// If the time of day was set meanwhile, the even time is not known.
#[test]
fn a_failing_sync_may_lose_the_time_after_the_clock_was_set() {
    let how = How::Sync;
    for clock in [0, 3] {
        let actions = [
            Action::CreateQueue(0),
            Action::SendBrief { queue: 0, bytes: 0, how },
            Action::Transaction(vec![TxPart::SendLater(0)], how),
            Action::Send { queue: 0, messages: 1, bytes: 0, how },
            Action::PowerCut,
            if clock == 0 { Action::LeasesEnd } else { Action::Sync },
            Action::Clock(clock),
            Action::SyncFails(0),
            Action::CreateQueue(0),
            Action::Receive { queue: 0 },
            Action::Receive { queue: 0 },
        ];
        for seed in 0..16 {
            simulated(seed, &actions, Durability::Sync, IoMode::Map, false);
        }
    }
}

/// Found by random actions: a store that was opened after a power cut had no journal file to record the clocks in, and waited
/// for the first commit. If the clock was set before that, lives went on too long.
#[test]
fn a_clock_that_is_set_before_the_first_commit_of_a_boot_extends_no_life() {
    let how = How::Sync;
    for end in [Action::Reopen, Action::Kill] {
        let actions = [
            Action::CreateQueue(0),
            Action::SendBrief { queue: 0, bytes: 0, how },
            Action::PowerCut,
            Action::LeasesEnd,
            Action::Clock(0),
            end,
            Action::Receive { queue: 0 },
        ];
        for seed in 0..16 {
            simulated(seed, &actions, Durability::Sync, IoMode::Map, false);
        }
    }
}

/// The same actions, with the power cut at each of many steps.
fn cut_at_each_step(before: &[Action], cut: &[Action]) {
    for steps in 1..40 {
        let mut actions = before.to_vec();
        actions.push(Action::PowerCutIn(steps));
        actions.extend_from_slice(cut);
        actions.push(Action::PowerCut);
        actions.extend_from_slice(cut);
        simulated(u64::from(steps), &actions, Durability::Sync, IoMode::Map, steps % 2 == 0);
    }
}

#[test]
fn what_is_over_makes_room_in_a_full_queue_wherever_it_crashes() {
    let how = How::Sync;
    for queue in [3, 5] {
        let fill = |moments| Action::Fill { queue, moments, how };
        let send = Action::Transaction(vec![TxPart::SendBrief(queue)], how);
        let cut = [fill(2), fill(1), send, fill(3)];
        cut_at_each_step(&[Action::CreateQueue(queue), fill(0)], &cut);
    }
}

#[test]
fn a_time_to_live_that_changes_counts_for_what_is_there_wherever_it_crashes() {
    let how = How::Sync;
    let send = Action::SendMixed { queue: 1, messages: 6, bytes: 30, how };
    let publish = Action::Publish { topic: 0, messages: 2, bytes: 30, how };
    let before = [
        Action::CreateQueue(1),
        Action::CreateTopic(0),
        Action::Subscribe(0, 0),
        send.clone(),
        publish.clone(),
        Action::Checkpoint,
    ];
    let cut = [
        Action::Live(1, 1),
        Action::LiveFor(0, 0, 2),
        Action::TimePasses,
        send,
        Action::Live(1, 0),
        Action::TimePasses,
        Action::Checkpoint,
        publish,
        Action::Live(1, 2),
        Action::Receive { queue: 1 },
    ];
    cut_at_each_step(&before, &cut);
}

#[test]
fn lives_go_on_in_segments_that_are_rewritten() {
    let churn = |rounds| Action::Churn { queue: 0, rounds, how: How::Buffered };
    let before = [Action::CreateQueue(0), churn(12)];
    let cut = [
        Action::Checkpoint,
        Action::Reopen,
        Action::TimePasses,
        churn(6),
        Action::Checkpoint,
        Action::TimePasses,
        Action::TimePasses,
        Action::TimePasses,
        Action::Checkpoint,
    ];
    cut_at_each_step(&before, &cut);
}

#[cfg(feature = "cron")]
#[test]
fn runs_of_schedules_are_made_once_wherever_they_crash() {
    let before = [
        Action::CreateQueue(0),
        Action::CreateTopic(0),
        Action::Subscribe(0, 0),
        // Each 20 seconds, all runs; and one for all.
        Action::Schedule { name: 0, target: 0, n: 4 },
        Action::Schedule { name: 1, target: 0, n: 0 },
    ];
    let cut = [
        Action::RunSchedules(2),
        Action::RunSchedules(4),
        Action::Clock(1),
        Action::RunSchedules(1),
        Action::Clock(2),
        Action::RunSchedules(5),
        Action::DeleteTopic(0),
        Action::RunSchedules(4),
        Action::Unschedule(0),
        Action::RunSchedules(4),
    ];
    cut_at_each_step(&before, &cut);
}

/// A checkpoint takes the clocks out of the journal: from then on the metalog has them.
#[test]
fn a_clock_that_was_set_changes_no_life_behind_a_checkpoint() {
    let receive = || Action::Receive { queue: 0 };
    for time in 0..5 {
        for opened in [Action::Kill, Action::Reopen] {
            let actions = [
                Action::CreateQueue(0),
                Action::SendBrief { queue: 0, bytes: 0, how: How::Sync },
                Action::Clock(time),
                Action::SendBrief { queue: 0, bytes: 0, how: How::Sync },
                Action::Checkpoint,
                opened,
                receive(),
                Action::TimePasses,
                Action::TimePasses,
                receive(),
            ];
            for io in [IoMode::Map, IoMode::Calls] {
                simulated(u64::from(time), &actions, Durability::Sync, io, false);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn simulated_sync(seed: u64, actions in actions(80)) {
        simulated(seed, &actions, Durability::Sync, IoMode::Map, false);
    }

    #[test]
    fn simulated_sync_with_pessimal_names(seed: u64, actions in actions(80)) {
        simulated(seed, &actions, Durability::Sync, IoMode::Map, true);
    }

    #[test]
    fn simulated_buffered(seed: u64, actions in actions(80)) {
        simulated(seed, &actions, Durability::Buffered, IoMode::Map, false);
    }

    #[test]
    fn simulated_without_maps(seed: u64, actions in actions(80)) {
        simulated(seed, &actions, Durability::Sync, IoMode::Calls, true);
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn real_disk(actions in actions(60), io in prop_oneof![Just(IoMode::Auto), Just(IoMode::Calls)]) {
        let dir = tempfile::tempdir().unwrap();
        let options = small_options().io(io);
        Driver::new(&Real { dir, options }, true).run(&actions);
    }
}

/// Found by `simulated_sync`, in the engine on the simulated disk: while it brought delayed messages back for a timer, it
/// began with the other timers anew, and counted the failures of some cursors in a commit of their own.
#[test]
fn leases_that_end_together_are_counted_together_while_delayed_messages_come_back() {
    let actions = [
        Action::CreateQueue(0),
        Action::CreateTopic(0),
        Action::Subscribe(0, 0),
        Action::CreateStream(0),
        Action::CreateGroup(0, 0),
        Action::CreateQueue(2),
        Action::CreateQueue(1),
        Action::CreateQueue(3),
        Action::CreateQueue(5),
        Action::Fill { queue: 3, moments: 0, how: How::Sync },
        Action::Churn { queue: 0, rounds: 1, how: How::Sync },
        Action::Receive { queue: 3 },
        Action::SendUrgent { queue: 0, bytes: 0, how: How::Sync },
        Action::SendLater { queue: 0, bytes: 115, how: How::Sync },
        Action::Publish { topic: 0, messages: 1, bytes: 121, how: How::Sync },
        Action::PowerCutIn(3),
        Action::LeasesEnd,
    ];
    simulated(10307969976505901306, &actions, Durability::Sync, IoMode::Auto, false);
}

/// Found by the explorer, in the model (`--seed 4711 --case 173`): while the deliveries of a deleted subscription were
/// dropped, the model took all other deliveries for free.
#[cfg(feature = "cron")]
#[test]
fn a_delivery_stays_on_lease_while_those_of_a_deleted_subscription_are_dropped() {
    let send = |queue| Action::Send { queue, messages: 1, bytes: 10, how: How::Sync };
    let mut actions: Vec<Action> = (0..4).map(Action::CreateQueue).collect();
    for queue in [0, 1, 3, 0, 1, 3, 0, 1] {
        actions.extend([send(queue), Action::Checkpoint]);
    }
    actions.extend([
        Action::CreateTopic(0),
        Action::Subscribe(0, 0),
        Action::Publish { topic: 0, messages: 1, bytes: 0, how: How::Sync },
        Action::RunSchedules(2),
        Action::Receive { queue: 1 },
        Action::TimePasses,
        Action::ReceiveFrom { topic: 0, subscription: 0 },
        Action::Unsubscribe(0, 0),
    ]);
    let disk = SimDisk::new(4810);
    let options =
        small_options().durability(Durability::Buffered).io(IoMode::Map).batch_messages(1);
    let options = options.sync_interval(std::time::Duration::from_secs(3600));
    let world = Simulated { disk, options };
    Driver::new(&world, false).run(&actions);
}

/// Found by the explorer (`--seed 20261129 --case 1692`): after a power cut the journal was full, and the clocks of the new
/// boot were not recorded. The clock was set, a checkpoint made space, and the engine was closed. The next one took the
/// setting for time that had passed.
#[test]
fn a_checkpoint_that_makes_space_records_the_clocks() {
    let mut case = posthouse_model::explore::random(20261129, 1692).case;
    let (queue, stream) = (0, 0);
    let parts = vec![
        TxPart::Append(stream),
        TxPart::SendLater(queue),
        TxPart::Seek { stream, group: 0, to: 253 },
        TxPart::Send(1),
        TxPart::Nack(91),
    ];
    case.one_in = 1_000_000;
    case.actions = vec![
        Action::CreateQueue(queue),
        Action::Fill { queue: 3, moments: 2, how: How::Waited },
        Action::Send { queue, messages: 4, bytes: 14_986, how: How::Ticket },
        Action::SendUrgent { queue: 3, bytes: 195, how: How::Sync },
        Action::Transaction(parts, How::Buffered),
        Action::Send { queue: 1, messages: 3, bytes: 67, how: How::Sync },
        Action::CheckpointFails(4),
        Action::Clock(14),
        Action::Churn { queue, rounds: 14, how: How::Sync },
    ];
    case.examine();
}

/// Found by `simulated_sync_with_pessimal_names`, in the model: an attempt that could not be counted when it began, as a file
/// could not be made, is counted with the rejection or the failure.
#[test]
fn an_attempt_that_was_not_counted_when_it_began_is_counted_when_it_ends() {
    let how = How::Sync;
    let nack = || {
        let send = Action::Send { queue: 1, messages: 1, bytes: 60, how };
        [send, Action::Receive { queue: 1 }, Action::Transaction(vec![TxPart::Nack(0)], how)]
    };
    let ends = [vec![Action::Die { moments: 0, how }], nack().to_vec()];
    for (calls, seed) in (0..6).flat_map(|calls| (0..4).map(move |seed| (calls, seed))) {
        for end in &ends {
            let mut actions = vec![
                Action::CreateQueue(0),
                Action::CreateTopic(0),
                Action::Subscribe(0, 0),
                Action::CreateStream(0),
                Action::CreateGroup(0, 0),
                Action::CreateQueue(1),
                Action::CreateQueue(4),
                Action::CreateQueue(5),
                Action::CallFails(calls, 1),
            ];
            actions.extend(end.iter().cloned());
            simulated(seed, &actions, Durability::Sync, IoMode::Map, true);
        }
    }
}
