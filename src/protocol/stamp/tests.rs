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
