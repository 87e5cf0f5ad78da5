//! Damage: `verify` finds it and changes nothing, `salvage` copies what is good and says exactly
//! what is not.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod model;

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::PathBuf,
    time::Duration,
};

use model::{Simulated, World, action::actions, driver::Driver, small_options};
use posthouse::{Engine, ErrorKind, sim::SimDisk};
use proptest::prelude::*;

fn files(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.files().into_iter().map(|path| (path.clone(), disk.content(&path).unwrap())).collect()
}

/// A simulated disk whose store is verified before and after each opening.
struct Verified {
    world: Simulated,
    reports: Cell<usize>,
}

impl World for Verified {
    fn open(&self) -> posthouse::Result<Engine> {
        let disk = self.world.disk.fork(1);
        let (before, steps) = (files(&disk), disk.steps());
        let report = self.world.options.clone().sim(&disk).verify("store");
        assert_eq!((&files(&disk), disk.steps()), (&before, steps), "verify changes nothing");
        let engine = self.world.open()?;
        match report {
            Ok(report) => {
                assert!(report.is_ok(), "before it was opened: {report}");
                self.reports.set(self.reports.get() + 1);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
        if let Ok(report) = engine.verify() {
            assert!(report.is_ok(), "after it was opened: {report}");
        }
        Ok(engine)
    }
    fn copy(&self) -> Option<Box<dyn World>> {
        self.world.copy()
    }
    fn kill(&self) -> bool {
        self.world.kill()
    }
    fn cut_power(&self) -> bool {
        self.world.cut_power()
    }
    fn cut_power_in(&self, steps: u64) {
        self.world.cut_power_in(steps);
    }
    fn fail_call_in(&self, calls: u64, error: i32) -> bool {
        self.world.fail_call_in(calls, error)
    }
    fn set_clock(&self, time: u64) {
        self.world.set_clock(time);
    }
    fn advance(&self, by: Duration) -> bool {
        self.world.advance(by)
    }
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("POSTHOUSE_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(default),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(100))]

    /// Whatever happens to a store without damage, verify has nothing to say.
    #[test]
    fn crashes_are_no_damage(seed: u64, actions in actions(80), pessimal: bool) {
        let disk = SimDisk::new(seed);
        disk.set_pessimal(pessimal);
        let world = Verified {
            world: Simulated { disk, options: small_options() },
            reports: Cell::new(0),
        };
        Driver::new(&world, true).run(&actions);
    }
}
