//! `verify` before and after every opening in random runs with crashes, and salvages of stores
//! that were damaged at random.

use std::{cell::Cell, time::Duration};

use posthouse::{Engine, ErrorKind, sim::SimDisk};
use proptest::prelude::*;

use super::check::files;
use super::compare::Comparison;
use super::sample::{Sample, dumped, options, sample};
use crate::model::{Simulated, World, action::actions, driver::Driver, small_options};
use crate::support::cases;

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
    fn set_clock(&self, time: u64) -> bool {
        self.world.set_clock(time)
    }
    fn advance(&self, by: Duration) -> bool {
        self.world.advance(by)
    }
}

proptest! {
    #![proptest_config(cases(100))]

    /// On a store without damage, verify finds nothing, whatever happens to the store.
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

/// Several damages at once, anywhere: no panic, nothing wrong, and nothing missing in silence but a tail that
/// looks torn.
fn damage_many(seed: u64) {
    let mut state = seed;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n.max(1)
    };
    thread_local!(static SAMPLES: [Sample; 2] = [sample(true), sample(false)]);
    SAMPLES.with(|samples| {
        let sample = &samples[below(2)];
        let disk = sample.disk.fork(seed);
        let mut done = Vec::new();
        for _ in 0..1 + below(4) {
            let all: Vec<_> = disk.files().into_iter().filter(|it| !it.ends_with("LOCK")).collect();
            if all.is_empty() {
                break;
            }
            let path = &all[below(all.len())];
            let mut content = disk.content(path).unwrap();
            let (at, kind) = (below(content.len()), below(6));
            done.push(format!("{} {kind} {at}", path.display()));
            match kind {
                0 => content.truncate(at),
                1 => {
                    let end = content.len().min(at + below(3000));
                    content[at..end].fill(0);
                }
                2 => content = disk.content(&all[below(all.len())]).unwrap(),
                _ if content.is_empty() => {}
                _ => content[at] ^= 1 << below(8),
            }
            disk.plant(path, if below(12) == 0 { None } else { Some(content) });
        }
        let before = files(&disk);
        let verified = options().sim(&disk).verify("store");
        let opened = dumped(&disk, "store");
        if let (Ok(report), Err(error)) = (&verified, &opened) {
            assert!(!report.is_ok(), "{done:?}: verify finds nothing, and {error}");
        }
        let report = match options().sim(&disk).salvage("store", "to") {
            Ok(report) => report,
            Err(error) => {
                let typed = [ErrorKind::Corrupt, ErrorKind::NotFound];
                assert!(typed.contains(&error.kind()), "{done:?}: {error:?}");
                return;
            }
        };
        let mut after = files(&disk);
        after.retain(|path, _| path.starts_with("store"));
        assert_eq!(after, before, "{done:?}");
        let is = dumped(&disk, "to").unwrap_or_else(|error| panic!("{done:?}: {error}\n{report}"));
        let verified = options().sim(&disk).verify("to").unwrap();
        assert!(verified.is_ok(), "{done:?}: {verified}");
        // A cut torn tail leaves one of the states before.
        let fits = sample.states.iter().rev().any(|was| {
            std::panic::catch_unwind(|| {
                let (history, report) = (&sample.history, &report);
                Comparison { history, report, names_are_in_metalog: false }.all(was, &is);
            })
            .is_ok()
        });
        assert!(fits, "{done:?}:\n{report}");
    });
}

/// Found by `many_damages_at_once_are_survived`: the only metalog was cut off before its checkpoint, and salvage did not
/// report that acks were lost with the rest.
#[test]
fn a_metalog_that_is_cut_off_before_its_checkpoint_leaves_all_consumers_uncertain() {
    damage_many(1279427969466482745);
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn many_damages_at_once_are_survived(seed: u64) {
        damage_many(seed);
    }
}

/// Verify found nothing, and the store did not open.
#[test]
fn a_damage_that_was_found_at_random_9758460715572107351() {
    damage_many(9_758_460_715_572_107_351);
}
