//! Whether there is space for a frame, and which space a commit may use.

/// Whether a commit takes up space or frees it.
///
/// It is as wide as a word. Operations with such a field are copied at every commit, and a narrower field with padding
/// is copied in pieces, which stalls the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Urgency {
    /// A commit that adds data. It leaves the reserve alone.
    Ordinary,
    /// A commit that only acks, deletes or the like. On a full disk it may use the reserve, because it frees
    /// space.
    Freeing,
}

/// Whether there is space for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSpace {
    Ready,
    /// There is no space until a file is prepared that holds a frame of this many bytes.
    NeedsFile(u64),
}
