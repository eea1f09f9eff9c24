//! Formats numbers for people: three significant digits, and a unit that fits the size.

use super::model::{Limit, Unit};

/// Stands for a missing value.
pub const NONE: &str = "–";

/// Formats a value with its unit.
pub fn show(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds => seconds(value),
        Unit::Bytes => bytes(value),
        Unit::PerSecond => format!("{}/s", number(value)),
        Unit::Share => format!("{} %", number(value * 100.0)),
        Unit::Number => number(value),
    }
}

/// The same, or [`NONE`].
pub fn show_or_none(unit: Unit, value: Option<f64>) -> String {
    value.map_or(NONE.to_owned(), |value| show(unit, value))
}

/// `at most 10 ms`
pub fn show_limit(unit: Unit, limit: Limit) -> String {
    match limit {
        Limit::AtMost(most) => format!("at most {}", show(unit, most)),
        Limit::AtLeast(least) => format!("at least {}", show(unit, least)),
    }
}

/// Formats a time in a suitable unit.
pub fn seconds(value: f64) -> String {
    match value.abs() {
        0.0 => "0 s".to_owned(),
        size if size < 0.000_999_5 => format!("{} µs", number(value * 1e6)),
        size if size < 0.999_5 => format!("{} ms", number(value * 1e3)),
        size if size < 599.5 => format!("{} s", number(value)),
        _ => format!("{} min", number(value / 60.0)),
    }
}

/// Formats an amount of memory in a suitable unit.
pub fn bytes(value: f64) -> String {
    const STEP: f64 = 1024.0;
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (value, 0);
    while value.abs() >= 999.5 && unit + 1 < units.len() {
        value /= STEP;
        unit += 1;
    }
    format!("{} {}", number(value), units[unit])
}

/// Formats three significant digits, more if they are before the decimal point, with thousands separated.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        0.0 => 0,
        _ if size >= 99.95 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ if size >= 0.09995 => 3,
        _ if size >= 0.009_995 => 4,
        _ => 5,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text.as_str() };
    let (whole, rest) = text.find('.').map_or((text, ""), |point| text.split_at(point));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 1.0, 12.345, 123.45, 1234.5, 1_234_567.0, 0.123_45, 0.001_234, -1234.0].map(number);
        assert_eq!(shown, ["0", "1", "12.3", "123", "1,234", "1,234,567", "0.123", "0.00123", "-1,234"]);
    }

    #[test]
    fn units_fit_the_size() {
        assert_eq!([0.000_25, 0.0042, 1.5, 7200.0].map(seconds), ["250 µs", "4.2 ms", "1.5 s", "120 min"]);
        assert_eq!([512.0, 1000.0, 10_485_760.0].map(bytes), ["512 B", "0.977 KiB", "10 MiB"]);
        assert_eq!(show(Unit::Share, 0.0123), "1.23 %");
        assert_eq!(show_limit(Unit::Seconds, Limit::AtMost(0.01)), "at most 10 ms");
        assert_eq!(show_or_none(Unit::PerSecond, None), NONE);
    }
}
