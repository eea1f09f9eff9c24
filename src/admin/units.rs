//! Formats numbers for people.

use super::report::Replica;

/// Formats bytes with three digits: `12.3 MiB`.
pub fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Formats a rate or another number that may be less than one.
pub fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        ..9.95 => format!("{rate:.1}"),
        _ => format!("{rate:.0}"),
    }
}

/// Formats a latency; a dash if nothing was measured.
pub fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "–".to_owned(),
        Some(seconds) if seconds < 1.0 => format!("{} ms", (seconds * 10_000.0).round() / 10.0),
        Some(seconds) => format!("{seconds} s"),
    }
}

/// Formats a large number with thousands separators: `1,234,567`.
pub fn count(count: i64) -> String {
    let digits = count.unsigned_abs().to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if count < 0 { format!("-{out}") } else { out }
}

/// Adds a plus to a number that may be incomplete.
pub fn at_least(number: String, more: bool) -> String {
    if more { number + "+" } else { number }
}

impl Replica {
    /// Returns its state in one word.
    pub fn state(&self) -> &'static str {
        match self {
            Replica { stopping: true, .. } => "stopping",
            Replica { drained: true, .. } => "drained",
            Replica { ready: false, .. } => "not ready",
            _ => "ready",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let written = [0, 1023, 1024, 1 << 20, 130_000_000, 1 << 50].map(bytes);
        assert_eq!(written, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "124 MiB", "1024 TiB"]);
        assert_eq!([0.0, 0.04, 3.26, 9.97, 1234.5].map(rate), ["0", "0.0", "3.3", "10", "1234"]);
        assert_eq!([None, Some(0.0005), Some(0.02), Some(2.5)].map(latency), ["–", "0.5 ms", "20 ms", "2.5 s"]);
        assert_eq!([0, 999, 1000, -1_234_567].map(count), ["0", "999", "1,000", "-1,234,567"]);
        assert_eq!([false, true].map(|more| at_least(count(1000), more)), ["1,000", "1,000+"]);
    }
}
