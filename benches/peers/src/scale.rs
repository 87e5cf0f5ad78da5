//! The scale of a run: in full, quickly, or a smoke test.

use std::time::Duration;

/// How long a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each side is touched; the figures mean nothing.
    Smoke,
    /// Under a minute; rough figures.
    Quick,
    /// As long as it takes.
    Full,
}

impl Mode {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Smoke => "smoke",
            Mode::Quick => "quick",
            Mode::Full => "full",
        }
    }
}

/// The sizes of a mode.
#[derive(Clone, Debug)]
pub struct Scale {
    /// How many rounds are counted.
    pub rounds: usize,
    /// How long a lap is at most.
    pub slot: Duration,
    /// How many messages a lap has at most where they are kept: within a journal's length, and
    /// little beside the page cache.
    pub burst: u64,
    /// How long the sustained row appends.
    pub sustained: Duration,
    /// How many records are replayed.
    pub replay: u64,
    /// How long the filling for a row may take a side, where the row can do with less.
    pub fill: Duration,
    /// The backlog under a queue.
    pub backlog: u64,
    /// How many messages are published in a round of the fan-out.
    pub fan_out: u64,
    /// How many messages are handed over, in all rounds.
    pub hand_overs: u64,
    /// How long messages are handed over where the longest time counts.
    pub hand_over_long: Duration,
    /// How many queues are opened.
    pub queues: u64,
    /// How many bytes of journal are recovered.
    pub journal: u64,
    /// How many messages are sent, received and acked while bytes are counted.
    pub written: u64,
    /// How many events the long replay has.
    pub events: u64,
    /// The backlog at which memory is measured.
    pub memory_backlog: u64,
    /// Of how many points of a curve one is measured.
    pub curve_step: usize,
    /// How much memory is touched before anything is timed, at most.
    pub touch: u64,
}

const GIB: u64 = 1 << 30;

impl Scale {
    /// The sizes of a mode.
    pub fn of(mode: Mode) -> Scale {
        match mode {
            Mode::Smoke => Scale {
                rounds: 1,
                slot: Duration::from_millis(2),
                burst: 2_000,
                sustained: Duration::from_millis(5),
                replay: 2_000,
                fill: Duration::from_millis(50),
                backlog: 2_000,
                fan_out: 50,
                hand_overs: 20,
                hand_over_long: Duration::from_millis(20),
                queues: 50,
                journal: 1 << 20,
                written: 1_000,
                events: 20_000,
                memory_backlog: 20_000,
                curve_step: 8,
                touch: 0,
            },
            Mode::Quick => Scale {
                rounds: 3,
                slot: Duration::from_millis(40),
                burst: 200_000,
                sustained: Duration::from_millis(250),
                replay: 200_000,
                fill: Duration::from_millis(400),
                backlog: 200_000,
                fan_out: 10_000,
                hand_overs: 300,
                hand_over_long: Duration::ZERO,
                queues: 10_000,
                journal: 64 << 20,
                written: 100_000,
                events: 0,
                memory_backlog: 0,
                curve_step: 1,
                touch: GIB,
            },
            Mode::Full => Scale {
                rounds: 5,
                slot: Duration::from_millis(800),
                burst: 1_000_000,
                sustained: Duration::from_secs(10),
                replay: 10_000_000,
                fill: Duration::from_secs(20),
                backlog: 10_000_000,
                fan_out: 100_000,
                hand_overs: 30_000,
                hand_over_long: Duration::from_secs(600),
                queues: 10_000,
                journal: 512 << 20,
                written: 2_000_000,
                events: 500_000_000,
                memory_backlog: 100_000_000,
                curve_step: 1,
                touch: 64 * GIB,
            },
        }
    }
}
