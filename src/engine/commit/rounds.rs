//! Rounds over the queues and subscriptions that have their state in memory. `core/rounds.rs` has what they do.

use super::committer::Committer;

const OPERATION: &str = "let queues rest";

impl Committer {
    /// Makes a round, in slices.
    pub fn make_round(&self, is_idle: bool) {
        let mut core = self.lock(OPERATION);
        let mut round = core.begin_round(is_idle);
        while core.go_round(&mut round) {
            core = self.give_way(OPERATION, core);
        }
    }

    /// Makes a round that was asked for.
    pub fn make_awaited_round(&self) {
        let mut core = self.lock(OPERATION);
        let mut round = core.begin_round(false);
        while core.go_round(&mut round) {
            core = self.give_way(OPERATION, core);
        }
        core.end_round(&round);
    }
}
