//! The partitions of a stream: which one a message goes to, by its key, and which ones got records last.

pub mod recent;

/// The partition of a key in a stream of `partitions` partitions.
///
/// The function is part of the format and never changes. It is FNV-1a of 64 bits over the bytes of the key,
/// then the mix of SplitMix64, then the upper half of the product with the number of partitions. Two
/// programs that use the same key get the same partition.
///
/// ```
/// use posthouse::{Message, partition_of};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
/// let history = engine.stream("order-history").partitions(8).create()?;
/// let position = history.append(Message::new("created").key("customer-17"))?;
/// assert_eq!(position.partition, partition_of(b"customer-17", 8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Panics
///
/// If `partitions` is 0.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    assert!(partitions > 0, "a stream has a partition");
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^= hash >> 31;
    ((u128::from(hash) * u128::from(partitions)) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use super::partition_of;

    /// Whoever changes the function loses the order of every key in every store.
    #[test]
    fn partitions_of_keys_are_pinned() {
        let keys: [&[u8]; 5] = [b"", b"a", b"customer-17", b"customer-18", &[0xFF; 300]];
        assert_eq!(keys.map(|key| partition_of(key, 8)), PINNED_OF_8);
        assert_eq!(keys.map(|key| partition_of(key, 1)), [0; 5]);
    }

    const PINNED_OF_8: [u32; 5] = [7, 0, 2, 6, 6];

    #[test]
    fn keys_spread_over_partitions() {
        let mut counts = [0; 16];
        for n in 0..16_000 {
            counts[partition_of(format!("customer-{n}").as_bytes(), 16) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
