//! FrameSpace for a frame, and what it may be taken from.

/// Whether a commit takes up space or gives it back.
///
/// As wide as a word: what holds one is handed on at every commit, and narrower parts, with padding
/// behind them, are copied in pieces that the processor must wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Urgency {
    /// A commit that adds something. It leaves a reserve.
    Ordinary,
    /// A commit that only acks, deletes or the like: on a full disk it may use the reserve, so
    /// that the disk can become less full.
    Freeing,
}

/// Whether there is room for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSpace {
    Ready,
    /// Not before a file was prepared that has room for so many bytes.
    NeedsFile(u64),
}
