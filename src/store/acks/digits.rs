//! A bit-sliced index (O'Neil and Quass, 1997): a small number for each member of a set. There is
//! one bitmap for each binary digit, the lowest digit first. A number that is not 0 costs a few
//! bits.

use std::ops::Range;

use roaring::RoaringBitmap;

/// The number of one member.
#[inline]
pub fn number(digits: &[RoaringBitmap], low: u32) -> u32 {
    let digit = |(n, digit): (usize, &RoaringBitmap)| u32::from(digit.contains(low)) << n;
    digits.iter().enumerate().map(digit).sum()
}

/// Sets the numbers of a range of members.
pub fn put_number(digits: &mut Vec<RoaringBitmap>, range: Range<u32>, number: u32) {
    let needed = (u32::BITS - number.leading_zeros()) as usize;
    if digits.len() < needed {
        digits.resize_with(needed, RoaringBitmap::new);
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

/// The members whose number is not 0, by number.
pub fn by_number(digits: &[RoaringBitmap]) -> Vec<(u32, RoaringBitmap)> {
    let any = digits.iter().fold(RoaringBitmap::new(), |a, b| a | b);
    let mut parts = vec![(0, any)];
    for (n, digit) in digits.iter().enumerate() {
        let split = |(number, members): (u32, RoaringBitmap)| {
            let with = &members & digit;
            [(number | 1 << n, with), (number, members - digit)]
        };
        parts = parts.into_iter().flat_map(split).collect();
        parts.retain(|(_, members)| !members.is_empty());
    }
    parts.retain(|(_, members)| !members.is_empty());
    parts
}
