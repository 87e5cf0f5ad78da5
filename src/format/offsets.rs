//! Sorted offsets of one commit, as ranges. `docs/FORMAT.md` has the table under "Changes".

use super::wire::{Bytes, Decoded, Malformed, NUMBER_CEILING, put_varint};
use crate::ids::{Offset, OffsetRange};

/// Sorted offsets. The iterator gives growing ranges with gaps between them.
#[derive(Clone, Copy, Debug)]
pub enum OffsetRanges<'a> {
    /// As encoded in a commit frame.
    Encoded(EncodedRanges<'a>),
    /// One by one, distinct.
    Listed(&'a [Offset]),
    /// As ranges with gaps between them.
    Ranges(&'a [OffsetRange]),
}

/// Encoded ranges. A range is encoded as its distance to the range before, and its length less one.
#[derive(Clone, Copy, Debug)]
pub struct EncodedRanges<'a> {
    count: u64,
    input: Bytes<'a>,
    /// The end of the range before.
    at: u64,
}

impl Iterator for OffsetRanges<'_> {
    type Item = OffsetRange;

    #[inline]
    fn next(&mut self) -> Option<OffsetRange> {
        match self {
            OffsetRanges::Listed(offsets) => {
                let (first, mut rest) = offsets.split_first()?;
                let mut end = first.next();
                while let Some((next, more)) = rest.split_first()
                    && *next == end
                {
                    (end, rest) = (end.next(), more);
                }
                *offsets = rest;
                Some(first.to(end))
            }
            OffsetRanges::Ranges(ranges) => {
                let (first, rest) = ranges.split_first()?;
                *ranges = rest;
                Some(*first)
            }
            OffsetRanges::Encoded(encoded) => encoded.next(),
        }
    }
}

impl PartialEq for OffsetRanges<'_> {
    fn eq(&self, other: &Self) -> bool {
        Iterator::eq(*self, *other)
    }
}

impl EncodedRanges<'_> {
    fn next(&mut self) -> Option<OffsetRange> {
        self.count = self.count.checked_sub(1)?;
        // Decoding the change has walked these bytes before, so they are valid.
        let start = self.at.checked_add(self.input.varint().ok()?)?;
        let end = start.checked_add(self.input.varint().ok()?)?.checked_add(1)?;
        self.at = end;
        Some(Offset(start).to(Offset(end)))
    }
}

impl<'a> OffsetRanges<'a> {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        put_varint(out, self.count() as u64);
        let mut at = 0;
        for range in self {
            debug_assert!(at == 0 || at < range.start.0, "offsets are not sorted");
            put_varint(out, range.start.0 - at);
            put_varint(out, range.len() - 1);
            at = range.end.0;
        }
    }

    pub(super) fn take(input: &mut Bytes<'a>) -> Decoded<OffsetRanges<'a>> {
        let count = input.varint()?;
        let ranges = EncodedRanges { count, input: *input, at: 0 };
        let mut at = 0u64;
        for n in 0..count {
            let (gap, more) = (input.number()?, input.number()?);
            if n > 0 && gap == 0 {
                return Err(Malformed("ranges of offsets without a gap between them"));
            }
            // Each of the three is below the ceiling, so the sum does not overflow.
            at += gap + more + 1;
            if at > NUMBER_CEILING {
                return Err(Malformed("an impossible range of offsets"));
            }
        }
        Ok(OffsetRanges::Encoded(ranges))
    }
}
