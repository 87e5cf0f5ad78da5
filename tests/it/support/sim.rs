//! An engine on a simulated disk, for tests of documented behaviour.

use posthouse::{Delivery, Engine, Queue, Timestamp, sim::SimDisk};

use super::open;

/// An engine on a simulated disk, whose clocks move only when the test moves them.
pub struct Sim {
    pub disk: SimDisk,
    pub engine: Engine,
}

impl Sim {
    pub fn new() -> Sim {
        let disk = SimDisk::new(7);
        disk.set_now(Timestamp(1_700_000_000_000));
        let engine = open(&disk).unwrap();
        Sim { disk, engine }
    }

    pub fn now(&self) -> Timestamp {
        // The timestamp of a message that is sent now.
        let probe = self.engine.stream("probe").create().unwrap();
        let at = probe.append("now").unwrap();
        let reader = probe.partition(at.partition).unwrap().reader(posthouse::Start::Earliest);
        reader.unwrap().last().unwrap().unwrap().timestamp()
    }

    /// Cuts the power, and opens the store after the next boot.
    pub fn power_cut(self) -> Sim {
        let Sim { disk, engine } = self;
        disk.power_cut();
        drop(engine);
        let engine = open(&disk).unwrap();
        Sim { disk, engine }
    }

    /// Kills the process, and opens the store in the next one.
    pub fn kill(self) -> Sim {
        let Sim { disk, engine } = self;
        disk.kill();
        drop(engine);
        let engine = open(&disk).unwrap();
        Sim { disk, engine }
    }
}

pub fn take(queue: &Queue) -> Option<Delivery> {
    queue.try_receive().unwrap()
}

pub fn texts(queue: &Queue) -> Vec<String> {
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    queue.browse().unwrap().map(|it| text(it.unwrap().payload())).collect()
}
