//! How much space the reserve for a full disk needs.

use super::Store;
use crate::journal::{PrepareJob, Urgency};

/// File systems give out space in blocks of this size.
const BLOCK_BYTES: u64 = 4096;
/// What a segment's footer takes up for each block of records.
const FOOTER_ENTRY_BYTES: u64 = 40;
/// No more logs than this are reckoned with. Each may need a directory and a segment.
const LOGS_MAX: u64 = 1024;
/// The least and the most that [`Store::metalog_slack`] comes to.
const SLACK_BYTES: std::ops::RangeInclusive<u64> = 16 << 10..=256 << 10;

impl Store {
    /// The job that makes the next journal file, with the reserve: see [`Journal::begin_prepare`].
    ///
    /// [`Journal::begin_prepare`]: crate::journal::Journal::begin_prepare
    pub fn begin_prepare(&mut self, frame: Option<u64>, urgency: Urgency) -> Option<PrepareJob> {
        let overhead_bytes = self.overhead_bytes();
        self.journal.begin_prepare(frame, urgency, overhead_bytes)
    }

    /// What the checkpoints that move the whole journal into segments, file by file, take up at most beside the space
    /// that they free: the last blocks of segments, their footers, new directories, and the metalog.
    fn overhead_bytes(&self) -> u64 {
        let journal = 2 * self.config.journal_bytes + self.config.journal_file_bytes();
        let logs = LOGS_MAX.min(self.state.logs.len() as u64);
        let segments = journal / self.config.segment_bytes;
        let footer = FOOTER_ENTRY_BYTES * (1 + self.config.segment_bytes / self.config.block_bytes);
        let blocks = BLOCK_BYTES * (segments + 2 * logs + 4);
        blocks + footer * (segments + 1) + 2 * self.meta.snapshot_bytes + self.metalog_slack()
    }

    /// How much longer than twice the whole state a metalog may become.
    pub(super) fn metalog_slack(&self) -> u64 {
        (self.config.journal_bytes / 256).clamp(*SLACK_BYTES.start(), *SLACK_BYTES.end())
    }
}
