//! Numbers for people.

use crate::outcome::Unit;

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        n if n >= 99.95 => format!("{value:.0}"),
        n if n >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn scaled(value: f64, steps: &[(f64, &str)]) -> String {
    let step = steps.iter().find(|(least, _)| value.abs() >= *least).or(steps.last());
    let (least, name) = step.copied().unwrap_or((1.0, ""));
    format!("{} {name}", digits(value / least)).trim_end().to_owned()
}

/// Operations a second.
pub fn rate(value: f64) -> String {
    scaled(value, &[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")])
}

/// Bytes a second, in powers of ten, as disks are sold.
pub fn byte_rate(value: f64) -> String {
    scaled(value, &[(1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")])
}

/// Bytes, in powers of two, as memory is.
pub fn bytes(value: f64) -> String {
    if value < 1024.0 {
        return format!("{value:.0} B");
    }
    let mib = 1024.0 * 1024.0;
    scaled(value, &[(1024.0 * mib, "GiB"), (mib, "MiB"), (1024.0, "KiB")])
}

/// A time.
pub fn seconds(value: f64) -> String {
    scaled(value, &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")])
}

/// How many.
pub fn count(value: u64) -> String {
    if value < 10_000 {
        return value.to_string();
    }
    scaled(value as f64, &[(1e6, "M"), (1e3, "k")])
}

/// How many times.
pub fn ratio(value: f64) -> String {
    digits(value)
}

/// A value with its unit.
pub fn with_unit(value: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond => rate(value),
        Unit::BytesPerSecond => byte_rate(value),
        Unit::Seconds => seconds(value),
        Unit::Bytes => bytes(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        assert_eq!(rate(1_234_567.0), "1.23 M/s");
        assert_eq!(rate(99_960.0), "100 k/s");
        assert_eq!(seconds(0.000_012_34), "12.3 µs");
        assert_eq!(bytes(5.0 * 1024.0 * 1024.0), "5.00 MiB");
        assert_eq!(count(10_000_000), "10.0 M");
        assert_eq!(byte_rate(2.5e9), "2.50 GB/s");
    }
}
