//! The basic encodings: little-endian integers of explicit width, varints (LEB128) and checksums.
//! `docs/FORMAT.md` has them under "Words and numbers" and "Checksums".

use crate::ids::StoreId;

/// Why bytes could not be decoded. The caller that knows the file and the position adds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

pub type Decoded<T> = Result<T, Malformed>;

/// Frames, blocks and files are aligned to multiples of this.
pub const ALIGN: u64 = 8;

#[inline]
pub fn aligned(n: u64) -> u64 {
    n.next_multiple_of(ALIGN)
}

/// Every number that the engine assigns (offsets, positions, ids, epochs) stays below this. So code can add to a number
/// from disk without an overflow.
pub const NUMBER_CEILING: u64 = 1 << 62;

/// Checks that the engine can have assigned these numbers.
#[inline]
pub fn check_numbers<const N: usize>(numbers: [u64; N]) -> Decoded<()> {
    match numbers.iter().all(|number| *number < NUMBER_CEILING) {
        true => Ok(()),
        false => Err(Malformed("a number is larger than any that the engine assigns")),
    }
}

/// A position in bytes that are being decoded.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    #[inline]
    pub fn new(all: &'a [u8]) -> Bytes<'a> {
        Bytes { all, at: 0 }
    }

    #[inline]
    pub fn starting_at(all: &'a [u8], at: usize) -> Bytes<'a> {
        Bytes { all, at: at.min(all.len()) }
    }

    #[inline]
    pub fn position(&self) -> usize {
        self.at
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.at == self.all.len()
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> Decoded<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.all.len());
        let end = end.ok_or(Malformed("a length reaches past the end"))?;
        let taken = &self.all[self.at..end];
        self.at = end;
        Ok(taken)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take returns the length asked for"))
    }

    #[inline]
    pub fn u8(&mut self) -> Decoded<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline(always)]
    pub fn varint(&mut self) -> Decoded<u64> {
        match self.all.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    #[inline]
    fn long_varint(&mut self) -> Decoded<u64> {
        let Some(bytes) = self.all.get(self.at..).and_then(<[u8]>::first_chunk) else {
            return self.longest_varint();
        };
        let bytes = u64::from_le_bytes(*bytes);
        let ends = !bytes & 0x8080_8080_8080_8080;
        if ends == 0 {
            return self.longest_varint();
        }
        // The bytes up to the first one that ends a varint.
        let mut digits = bytes & (ends ^ (ends - 1));
        let length = ends.trailing_zeros() as usize / 8 + 1;
        if length > 1 && digits >> (8 * (length - 1)) == 0 {
            return self.longest_varint();
        }
        // The reverse of `Head::varint`.
        digits &= 0x7F7F_7F7F_7F7F_7F7F;
        digits = (digits & 0x7F_007F_007F_007F) | ((digits & 0x7F00_7F00_7F00_7F00) >> 1);
        digits = (digits & 0x3FFF_0000_3FFF) | ((digits & 0x3FFF_0000_3FFF_0000) >> 2);
        digits = (digits & 0x0FFF_FFFF) | ((digits & 0x0FFF_FFFF_0000_0000) >> 4);
        self.at += length;
        Ok(digits)
    }

    #[inline(never)]
    fn longest_varint(&mut self) -> Decoded<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte == 0 && shift > 0 {
                return Err(Malformed("a varint is longer than it needs to be"));
            }
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a varint is longer than 64 bits"))
    }

    /// A varint that is an offset, a position or an id.
    #[inline]
    pub fn number(&mut self) -> Decoded<u64> {
        let number = self.varint()?;
        check_numbers([number]).map(|()| number)
    }

    /// A varint that is a length within these bytes.
    #[inline]
    pub fn length(&mut self) -> Decoded<usize> {
        let length = self.varint()?;
        if length > (self.all.len() - self.at) as u64 {
            return Err(Malformed("a length reaches past the end"));
        }
        Ok(length as usize)
    }
}

/// A few numbers that are encoded together and then appended at once, because appending costs more than encoding.
#[derive(Debug)]
pub struct Head {
    bytes: [u8; Head::BYTES],
    len: usize,
}

impl Head {
    /// The capacity: a byte and four varints of any size, and the bytes that writing a varint may overwrite.
    pub const BYTES: usize = 48;

    #[inline]
    pub fn new(first: u8) -> Head {
        let mut bytes = [0; Head::BYTES];
        bytes[0] = first;
        Head { bytes, len: 1 }
    }

    #[inline(always)]
    pub fn varint(&mut self, value: u64) {
        if value < 0x80 {
            self.bytes[self.len] = value as u8;
            self.len += 1;
        } else {
            self.long_varint(value);
        }
    }

    #[inline]
    fn long_varint(&mut self, value: u64) {
        if value >= 1 << 56 {
            return self.longest_varint(value);
        }
        // This spreads all digits at once: it moves halves of 28 bits apart, then of 14, then of 7.
        let length = varint_len(value);
        let mut digits = value;
        digits = (digits & 0x0FFF_FFFF) | ((digits & 0x00FF_FFFF_F000_0000) << 4);
        digits = (digits & 0x3FFF_0000_3FFF) | ((digits & 0x0FFF_C000_0FFF_C000) << 2);
        digits = (digits & 0x7F_007F_007F_007F) | ((digits & 0x3F80_3F80_3F80_3F80) << 1);
        let more = 0x8080_8080_8080_8080 & ((1 << (8 * (length - 1))) - 1);
        self.bytes[self.len..self.len + 8].copy_from_slice(&(digits | more).to_le_bytes());
        self.len += length;
    }

    #[cold]
    fn longest_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
    }

    /// Adds four bytes as they are.
    #[inline]
    pub fn four(&mut self, bytes: [u8; 4]) {
        self.bytes[self.len..self.len + 4].copy_from_slice(&bytes);
        self.len += 4;
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Appends the bytes. To append them all, and to take back those that mean nothing, is quicker than to append as many as
    /// there are: the compiler knows the number. So `out` gets memory for [`Head::BYTES`] bytes.
    #[inline]
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.len;
        out.extend_from_slice(&self.bytes);
        out.truncate(end);
    }

    /// Writes the bytes to the begin of `out`. Up to [`Head::BYTES`] bytes of it are overwritten.
    #[inline]
    pub fn put(&self, out: &mut [u8]) {
        match out.first_chunk_mut() {
            Some(first) => *first = self.bytes,
            None => out[..self.len].copy_from_slice(self.bytes()),
        }
    }
}

#[inline]
pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
        return;
    }
    let mut head = Head { bytes: [0; Head::BYTES], len: 0 };
    head.varint(value);
    head.append_to(out);
}

#[must_use]
#[inline]
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Maps a signed number to an unsigned one, so that its varint is short near zero.
#[inline]
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The start value of a checksum. It binds bytes to their store and to one file of it. So bytes that were copied, swapped
/// or left over from elsewhere never verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    #[inline]
    pub fn new(store: StoreId, parts: &[u64]) -> Seed {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&store.0);
        for part in parts {
            hasher.update(&part.to_le_bytes());
        }
        Seed(hasher.finalize())
    }

    /// Begins a checksum that is made in parts.
    #[inline]
    pub fn begin(self) -> Sum {
        Sum(crc32fast::Hasher::new_with_initial(self.0))
    }

    #[inline]
    pub fn checksum(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// A checksum that is made in parts. The sum of bytes can be made before the bytes in front of them are known.
#[derive(Clone, Debug)]
pub struct Sum(crc32fast::Hasher);

impl Sum {
    /// The sum of bytes that stand behind others.
    pub fn of(bytes: &[u8]) -> Sum {
        let mut sum = Sum(crc32fast::Hasher::new());
        sum.add(bytes);
        sum
    }

    /// Adds the bytes that follow.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds the bytes that follow, by their sum.
    pub fn append(&mut self, sum: &Sum) {
        self.0.combine(&sum.0);
    }

    #[inline]
    pub fn checksum(self) -> u32 {
        self.0.finalize()
    }
}
