//! A small number for each member of a set, as one bitmap for each of its binary digits, the lowest first:
//! a bit-sliced index (O'Neil and Quass, 1997). It costs a few bits for each number that is not 0.

use std::ops::Range;

use roaring::RoaringBitmap;

/// The number of one.
#[inline]
pub fn number(digits: &[RoaringBitmap], low: u32) -> u32 {
    let digit = |(n, digit): (usize, &RoaringBitmap)| u32::from(digit.contains(low)) << n;
    digits.iter().enumerate().map(digit).sum()
}

/// Sets those of a range.
pub fn put_number(digits: &mut Vec<RoaringBitmap>, range: Range<u32>, number: u32) {
    let wanted = (u32::BITS - number.leading_zeros()) as usize;
    if digits.len() < wanted {
        digits.resize_with(wanted, RoaringBitmap::new);
    }
    for (n, digit) in digits.iter_mut().enumerate() {
        if number >> n & 1 == 1 {
            digit.insert_range(range.clone());
        } else {
            digit.remove_range(range.clone());
        }
    }
    while digits.last().is_some_and(RoaringBitmap::is_empty) {
        digits.pop();
    }
}
