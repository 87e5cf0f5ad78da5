//! Payloads: text that does not compress to nothing, and is not the same each time.

/// How many bytes are drawn from: they stay in the processor's cache.
const POOL_BYTES: usize = 64 * 1024;
const STEP: usize = 61;

/// Payloads of one size, one after the other.
#[derive(Clone, Debug)]
pub struct Payloads {
    pool: Vec<u8>,
    size: usize,
    at: usize,
}

impl Payloads {
    /// Payloads of so many bytes each.
    pub fn new(size: usize) -> Payloads {
        // Letters and digits, since some sides store text; from a fixed seed, since runs are
        // compared.
        const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            SIGNS[(state >> 58) as usize]
        };
        let pool = (0..POOL_BYTES + size).map(|_| draw()).collect();
        Payloads { pool, size, at: 0 }
    }

    /// The next payload.
    #[inline]
    pub fn next(&mut self) -> &[u8] {
        self.at = (self.at + STEP) % POOL_BYTES;
        &self.pool[self.at..self.at + self.size]
    }

    /// The next payload, as text.
    pub fn next_text(&mut self) -> &str {
        std::str::from_utf8(self.next()).expect("payloads are letters and digits")
    }

    /// The next payloads, together.
    pub fn many(&mut self, count: u64) -> impl Iterator<Item = &[u8]> {
        let from = self.at;
        let place = move |n: u64| (from + STEP * n as usize) % POOL_BYTES;
        self.at = place(count);
        let (pool, size) = (&self.pool, self.size);
        (1..=count).map(move |n| &pool[place(n)..place(n) + size])
    }

    /// The next payloads, copied, to be sent again and again.
    pub fn batch(&mut self, count: u64) -> Vec<Vec<u8>> {
        self.many(count).map(<[u8]>::to_vec).collect()
    }
}
