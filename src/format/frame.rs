//! Frames, of which a journal and a metalog consist.
//!
//! A frame repeats its own position, and its checksum covers that position. So a frame that is left over from an earlier
//! use of a file, or that was written to the wrong place, never verifies. `docs/FORMAT.md` has the table under "Frames".

use super::{
    encoded::EncodedRuns,
    wire::{ALIGN, Bytes, Decoded, Malformed, Seed, Sum, aligned},
};
use crate::ids::Lsn;

/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 24;

/// The stored distance of a watermark that lies too far back.
const FAR: u32 = u32::MAX;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// One commit: its payload is a sequence of records. In a metalog: one entry.
    Commit = 1,
    /// The rest of this file holds nothing; the journal goes on in the next file.
    Roll = 2,
    /// Holds nothing but the durable watermark in its header.
    Watermark = 3,
    /// The engine was closed here in good order.
    Close = 4,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Decoded<FrameKind> {
        Ok(match byte {
            1 => FrameKind::Commit,
            2 => FrameKind::Roll,
            3 => FrameKind::Watermark,
            4 => FrameKind::Close,
            _ => return Err(Malformed("unknown kind of frame")),
        })
    }
}

/// The first 24 bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub checksum: u32,
    pub payload_len: u32,
    pub lsn: Lsn,
    /// Everything before this position was durable when the frame was written.
    pub watermark: Lsn,
    pub kind: FrameKind,
}

impl FrameHeader {
    /// Reads the header of a frame that must stand at `at`. Does not check the checksum.
    pub fn peek(bytes: &[u8], at: Lsn) -> Decoded<FrameHeader> {
        let mut bytes = Bytes::new(bytes);
        let checksum = bytes.u32()?;
        let payload_len = bytes.u32()?;
        let lsn = Lsn(bytes.u64()?);
        if lsn != at {
            return Err(Malformed("no frame that belongs at this position"));
        }
        let watermark = match bytes.u32()? {
            FAR if lsn.0 >= u64::from(FAR) * ALIGN => Some(Lsn(0)),
            distance => lsn.0.checked_sub(u64::from(distance) * ALIGN).map(Lsn),
        };
        let watermark = watermark.ok_or(Malformed("a watermark before the journal's start"))?;
        let kind = FrameKind::from_byte(bytes.u8()?)?;
        if bytes.array::<3>()? != [0; 3] {
            return Err(Malformed("a frame's reserved bytes are not zero"));
        }
        if kind != FrameKind::Commit && payload_len != 0 {
            return Err(Malformed("a frame has a payload that its kind does not allow"));
        }
        Ok(FrameHeader { checksum, payload_len, lsn, watermark, kind })
    }

    /// The frame's length on disk.
    pub fn frame_len(&self) -> u64 {
        aligned(FRAME_HEADER_BYTES as u64 + u64::from(self.payload_len))
    }
}

/// Reads the frame that must stand at `at`, from bytes that begin there, and verifies it.
pub fn decode_frame(bytes: &[u8], at: Lsn, seed: Seed) -> Decoded<(FrameHeader, &[u8])> {
    let header = FrameHeader::peek(bytes, at)?;
    let end = FRAME_HEADER_BYTES.checked_add(header.payload_len as usize);
    let covered = end.and_then(|end| bytes.get(4..end));
    let covered = covered.ok_or(Malformed("a frame reaches past the end"))?;
    if seed.checksum(covered) != header.checksum && !seeded!(FrameIsNotVerified) {
        return Err(Malformed("a frame's checksum is wrong"));
    }
    Ok((header, &covered[FRAME_HEADER_BYTES - 4..]))
}

/// Begins a frame: clears `out` and reserves the bytes of the header. The caller then appends the payload.
#[inline]
pub fn begin_frame(out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
}

/// Finishes the frame that `begin_frame` began: fills in the header and pads to the next unit. `begun` is the checksum that
/// [`Seed::begin`] has begun: to begin one asks the processor what it can do, which takes longer than to copy it.
#[inline]
pub fn finish_frame(out: &mut Vec<u8>, kind: FrameKind, lsn: Lsn, watermark: Lsn, mut begun: Sum) {
    let end = out.len();
    put_header(out, end - FRAME_HEADER_BYTES, kind, lsn, watermark);
    begun.add(&out[4..end]);
    out[..4].copy_from_slice(&begun.checksum().to_le_bytes());
    out.extend_from_slice(&[0; ALIGN as usize]);
    out.truncate(aligned(end as u64) as usize);
}

/// Finishes a commit's frame whose payload stands in its place in `frame`, which has the frame's length on disk.
#[inline]
pub fn finish_whole_frame(
    frame: &mut [u8],
    payload_len: usize,
    (lsn, watermark): (Lsn, Lsn),
    mut begun: Sum,
) {
    let end = FRAME_HEADER_BYTES + payload_len;
    put_header(frame, payload_len, FrameKind::Commit, lsn, watermark);
    begun.add(&frame[4..end]);
    frame[..4].copy_from_slice(&begun.checksum().to_le_bytes());
}

/// Clears the place of a frame's padding, before the frame is written.
#[inline]
pub fn clear_padding(frame: &mut [u8]) {
    if let Some(last) = frame.last_chunk_mut::<{ ALIGN as usize }>() {
        *last = [0; ALIGN as usize];
    }
}

/// Finishes a frame of which `out` is only the begin: `rest` stands behind it. The padding that follows the rest is not
/// written here. Returns the length of the frame with its padding.
pub fn finish_split_frame(
    out: &mut [u8],
    rest: &EncodedRuns,
    lsn: Lsn,
    watermark: Lsn,
    mut sum: Sum,
) -> u64 {
    let end = out.len() + rest.len();
    put_header(out, end - FRAME_HEADER_BYTES, FrameKind::Commit, lsn, watermark);
    sum.add(&out[4..]);
    rest.add_to(&mut sum);
    out[..4].copy_from_slice(&sum.checksum().to_le_bytes());
    aligned(end as u64)
}

/// Fills in the header, all but the checksum.
#[inline]
fn put_header(out: &mut [u8], payload_len: usize, kind: FrameKind, lsn: Lsn, watermark: Lsn) {
    let payload_len = u32::try_from(payload_len).expect("commits are below 4 GiB");
    // The distance is rounded up, and is `FAR` if it does not fit. So the stored watermark may be lower
    // than the real one, but never higher.
    let distance = (lsn.0 - watermark.0).div_ceil(ALIGN);
    let distance = u32::try_from(distance).unwrap_or(FAR);
    let header: &mut [u8; FRAME_HEADER_BYTES] =
        out.first_chunk_mut().expect("begin_frame has left room for it");
    header[4..8].copy_from_slice(&payload_len.to_le_bytes());
    header[8..16].copy_from_slice(&lsn.0.to_le_bytes());
    header[16..20].copy_from_slice(&distance.to_le_bytes());
    // The place may hold other bytes: that of a frame in a journal file that is used again.
    header[20..].copy_from_slice(&[kind as u8, 0, 0, 0]);
}
