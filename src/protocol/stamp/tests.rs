use super::*;
use proptest::prelude::*;

fn stamp(text: &str) -> Stamp {
    Stamp::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn stamps_are_written_as_to_iso_string_writes_them() {
    for (text, written) in [
        ("2024-01-01T10:05:00Z", "2024-01-01T10:05:00.000Z"),
        ("2024-01-01T10:05:00.5Z", "2024-01-01T10:05:00.500Z"),
        ("2024-01-01T12:05:00.123456789+02:00", "2024-01-01T10:05:00.123Z"),
        ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
        ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ("2024-02-29t10:05:00z", "2024-02-29T10:05:00.000Z"),
    ] {
        assert_eq!(stamp(text).to_string(), written);
    }
}

#[test]
fn stamps_compare_as_instants_not_as_strings() {
    assert_eq!(stamp("2024-01-01T10:00:00Z"), stamp("2024-01-01T10:00:00.000+00:00"));
    assert_eq!(stamp("2024-01-01T10:00:00Z"), stamp("2024-01-01T12:00:00+02:00"));
    assert!(stamp("2024-01-01T10:00:00Z") < stamp("2024-01-01T10:00:00.001Z"));
}

#[test]
fn what_is_not_a_stamp_is_refused() {
    for text in ["", "yesterday", "2024-01-01", "2024-01-01T10:05:00", "2024-13-01T10:05:00Z", "1704103500000"] {
        assert_eq!(Stamp::parse(text), Err(StampError::NotRfc3339), "{text}");
    }
    assert_eq!(Stamp::parse("0000-01-01T00:30:00+01:00"), Err(StampError::OutOfRange));
}

#[test]
fn a_stamp_past_the_year_9999_is_its_last_millisecond() {
    assert_eq!(stamp("9999-12-31T23:30:00-01:00"), stamp("9999-12-31T23:59:59.999Z"));
}

proptest! {
    #[test]
    fn written_stamps_read_back_and_order_as_strings(a in FIRST..=LAST, b in FIRST..=LAST) {
        let (a, b) = (Stamp::from_millis(a), Stamp::from_millis(b));
        prop_assert_eq!(stamp(&a.to_string()), a);
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
    }
}

proptest! {
    #[test]
    fn what_is_spelled_as_we_write_it_is_read_as_any_other_spelling_is(
        year in 0u32..=9_999, rest in (0u32..=13, 0u32..=32, 0u32..=25, 0u32..=61, 0u32..=61), millis in 0u32..=999,
    ) {
        let (month, day, hour, minute, second) = rest;
        let written = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
        let otherwise = written.replace('Z', "+00:00");
        prop_assert_eq!(Stamp::parse(&written), Stamp::parse(&otherwise), "{}", written);
    }

    #[test]
    fn nothing_else_of_that_length_is_taken_for_a_stamp(text in "[0-9TZ:.+-]{24}") {
        prop_assert_eq!(parse_as_written(text.as_bytes()).is_some_and(|stamp| stamp.to_string() != text), false);
    }
}
