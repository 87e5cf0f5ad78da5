//! Appends frames to the journal's current file.

use super::{frame_space::Urgency, writer::Journal};
use crate::{
    disk::Ahead,
    error::Result,
    format::{
        encoded::EncodedRuns,
        frame::{
            FRAME_HEADER_BYTES, FrameKind, begin_frame, clear_padding, finish_frame,
            finish_split_frame, finish_whole_frame,
        },
        wire::{ALIGN, aligned},
    },
    ids::Lsn,
};

/// Other commits may come before a frame whose pages are made ready.
const AHEAD_BYTES: u64 = 64 << 10;

impl Journal {
    /// Appends the frame that was begun in `frame`. There must be space for it. Returns its position.
    #[inline]
    pub fn append(&mut self, frame: &mut Vec<u8>) -> Result<Lsn> {
        let lsn = self.put(frame, FrameKind::Commit)?;
        self.content_tail = self.tail;
        Ok(lsn)
    }

    /// Appends a frame of so many bytes of payload, which `put` writes. There must be space for it. Returns its position.
    #[inline]
    pub fn append_with(
        &mut self,
        payload_len: usize,
        scratch: &mut Vec<u8>,
        put: impl Fn(&mut [u8]),
    ) -> Result<Lsn> {
        let (lsn, watermark) = (self.tail, self.watermark());
        let begun = self.begun.clone();
        let len = aligned((FRAME_HEADER_BYTES + payload_len) as u64);
        let mut fill = |frame: &mut [u8]| {
            clear_padding(frame);
            put(&mut frame[FRAME_HEADER_BYTES..][..payload_len]);
            finish_whole_frame(frame, payload_len, (lsn, watermark), begun.clone());
        };
        self.current().write_with(lsn, len as usize, scratch, &mut fill)?;
        self.tail = Lsn(lsn.0 + len);
        self.content_tail = self.tail;
        Ok(lsn)
    }

    /// Appends a frame that was begun in `begin`, and goes on with `rest`. There must be space for it. Returns its position.
    pub fn append_split(&mut self, begin: &mut [u8], rest: &EncodedRuns) -> Result<Lsn> {
        let (lsn, watermark) = (self.tail, self.watermark());
        let len = finish_split_frame(begin, rest, lsn, watermark, self.begun.clone()) as usize;
        let current = self.current();
        let padding = &[0; ALIGN as usize][..len - begin.len() - rest.len()];
        let mut parts = [&*begin].into_iter().chain(rest.parts()).chain([padding]);
        current.write_parts(lsn, len, &mut parts)?;
        self.tail = Lsn(lsn.0 + len as u64);
        self.content_tail = self.tail;
        Ok(lsn)
    }

    /// The file in which a frame of `len` bytes is going to stand, and the pages that it is going to take up. `None` if it has
    /// no place yet, or if no map is used.
    pub fn ahead(&mut self, len: u64) -> Option<(Lsn, Ahead)> {
        let file = match self.has_place(len, Urgency::Ordinary) {
            true => self.files.back()?,
            false => self.next.as_ref()?,
        };
        let at = self.tail.max(file.header.first_frame());
        let pages = file.window.ahead(at.0 - file.start().0, len + AHEAD_BYTES)?;
        Some((file.start(), pages))
    }

    /// The watermark of the next frame.
    #[inline]
    fn watermark(&self) -> Lsn {
        let durable = if seeded!(WatermarkIsNeverMoved) { Lsn(0) } else { self.durable };
        if seeded!(WatermarkClaimsTheTail) { self.tail } else { durable }
    }

    #[inline]
    pub(super) fn put(&mut self, frame: &mut Vec<u8>, kind: FrameKind) -> Result<Lsn> {
        let (lsn, watermark) = (self.tail, self.watermark());
        finish_frame(frame, kind, lsn, watermark, self.begun.clone());
        self.current().write(lsn, frame)?;
        self.tail = Lsn(lsn.0 + frame.len() as u64);
        Ok(lsn)
    }

    /// Writes a frame with the durable watermark. With it, recovery tells damage to the last commits from a torn
    /// tail. Behind a commit there is space for one mark. Where there is none for another, the first one says enough.
    pub fn mark(&mut self, kind: FrameKind) -> Result<()> {
        debug_assert!(matches!(kind, FrameKind::Watermark | FrameKind::Close));
        let end = self.current().end();
        // Behind every frame there must be space for a roll frame.
        let has_space = self.tail.0 + 2 * FRAME_HEADER_BYTES as u64 <= end.0;
        debug_assert!(has_space || self.tail > self.content_tail, "a commit has left no space");
        if has_space {
            let mut frame = Vec::new();
            begin_frame(&mut frame);
            self.put(&mut frame, kind)?;
        }
        Ok(())
    }
}
