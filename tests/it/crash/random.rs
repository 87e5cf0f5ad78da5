//! Random operations on all models, with crashes, reopens and checkpoints in between, against a
//! plain model. A failure prints the shrunk actions and the seed of the disk.

use posthouse::{Durability, IoMode, sim::SimDisk};
use proptest::prelude::*;

use crate::model::{Real, Simulated, action::actions, driver::Driver, small_options};
use crate::support::cases;

fn simulated(
    seed: u64,
    actions: &[crate::model::action::Action],
    durability: Durability,
    io: IoMode,
    pessimal: bool,
) {
    let disk = SimDisk::new(seed);
    disk.set_pessimal(pessimal);
    let options = small_options().durability(durability).io(io);
    let world = Simulated { disk, options };
    Driver::new(&world, durability == Durability::Sync).run(actions);
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
