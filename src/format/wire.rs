//! The alphabet: little-endian integers of explicit width, varints (LEB128) and checksums.
//! `docs/FORMAT.md` has them under "Words and numbers" and "Checksums".

use crate::ids::StoreId;

/// Why bytes could not be decoded. Whoever knows the file and the position adds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

pub type Decoded<T> = Result<T, Malformed>;

/// Units in which frames, blocks and files are laid out.
pub const ALIGN: u64 = 8;

pub fn aligned(n: u64) -> u64 {
    n.next_multiple_of(ALIGN)
}

/// Every number that the engine gives out (offsets, positions, ids, epochs) stays below this, so
/// that whoever has one from disk can add to it without a thought of overflow.
pub const NUMBER_CEILING: u64 = 1 << 62;

/// Lets numbers pass that the engine can have given out.
pub fn check_numbers<const N: usize>(numbers: [u64; N]) -> Decoded<()> {
    match numbers.iter().all(|number| *number < NUMBER_CEILING) {
        true => Ok(()),
        false => Err(Malformed("a number is larger than any that was given out")),
    }
}

/// A position in bytes that are being decoded.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(all: &'a [u8]) -> Bytes<'a> {
        Bytes { all, at: 0 }
    }

    pub fn starting_at(all: &'a [u8], at: usize) -> Bytes<'a> {
        Bytes { all, at: at.min(all.len()) }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.all.len()
    }

    pub fn take(&mut self, len: usize) -> Decoded<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.all.len());
        let end = end.ok_or(Malformed("a length reaches past the end"))?;
        let taken = &self.all[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take returns the length asked for"))
    }

    pub fn u8(&mut self) -> Decoded<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub fn varint(&mut self) -> Decoded<u64> {
        match self.all.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Decoded<u64> {
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

#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[must_use]
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Signed numbers as varints that are short near zero.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Where a checksum starts from. It binds bytes to their store and to one file of it, so that
/// what was copied, swapped or left over from elsewhere never verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    pub fn new(store: StoreId, parts: &[u64]) -> Seed {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&store.0);
        for part in parts {
            hasher.update(&part.to_le_bytes());
        }
        Seed(hasher.finalize())
    }

    #[inline]
    pub fn checksum(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        hasher.finalize()
    }
}
