//! Bytes as choices. Behind their end every choice is 0.

/// The bytes that are left.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Input<'a> {
        Input(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `limit`, evenly enough; 0 if there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        let bytes = if limit > 1 << 8 { 3 } else { 1 };
        let number = (0..bytes).fold(0, |number, _| number << 8 | usize::from(self.byte()));
        if limit <= 1 << 8 { number % limit.max(1) } else { (number * limit) >> 24 }
    }

    /// Most sizes are small.
    pub fn size(&mut self) -> u16 {
        match self.byte() {
            small @ 0..200 => u16::from(small),
            large => u16::from(large - 199) * 97,
        }
    }
}
