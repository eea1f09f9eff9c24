//! Error messages for invalid settings and command lines. They say which setting is wrong and what it must be, but
//! never repeat its value, which may be a password, or a URL containing one, and may have been meant for another
//! setting.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error as _;

/// Formats the error of a command line that could not be parsed, without any value.
///
/// Returns `None` if the error is clap's way of showing a help or a version.
pub fn explain(error: &clap::Error) -> Option<String> {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let listed = |kind| match error.get(kind) {
        Some(ContextValue::Strings(list)) => list.join(", "),
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let setting = named(ContextKind::InvalidArg).unwrap_or("a setting");
    let problem = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return None;
        }
        ErrorKind::ValueValidation => {
            let reason = error.source().map(ToString::to_string).unwrap_or_default();
            format!("invalid value for {setting}: {}", expected(&reason))
        }
        ErrorKind::InvalidValue if named(ContextKind::InvalidValue).is_some_and(str::is_empty) => {
            format!("a value is missing for {setting}")
        }
        ErrorKind::InvalidValue => {
            format!("invalid value for {setting}: must be one of {}", listed(ContextKind::ValidValue))
        }
        ErrorKind::TooManyValues | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("wrong number of values for {setting}")
        }
        ErrorKind::UnknownArgument => match named(ContextKind::InvalidArg).and_then(flag) {
            Some(flag) => format!("unknown option {flag}"),
            None => "unexpected argument".to_owned(),
        },
        ErrorKind::InvalidSubcommand => match listed(ContextKind::SuggestedSubcommand) {
            none if none.is_empty() => "unknown command".to_owned(),
            similar => format!("unknown command; did you mean {similar}?"),
        },
        // The messages of all other kinds contain nothing but argument names.
        _ => {
            let text = error.to_string();
            return Some(text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned());
        }
    };
    Some(format!("{problem}\n\nFor more information, try '--help'."))
}

/// Returns what the value must be, for messages of parsers that say what it is instead.
fn expected(reason: &str) -> String {
    // clap's message repeats the value: "5 is not in 1..=3".
    if let Some((_, range)) = reason.split_once(" is not in ") {
        return match range.split_once("..=") {
            Some((least, most)) => format!("must be a whole number from {least} to {most}"),
            None => format!("must be in {range}"),
        };
    }
    let expected = match reason {
        "invalid digit found in string" => "must be a whole number",
        "number too large to fit in target type" => "the number is too large",
        "relative URL without a base" => "must be a whole URL, such as https://example.com",
        "invalid IP address syntax" => "must be an IP address",
        other => other,
    };
    expected.to_owned()
}

/// Returns the name of an unknown option, or `None` if the argument is anything else, which might be a value.
fn flag(argument: &str) -> Option<&str> {
    let name = argument.split('=').next().unwrap_or_default();
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (name.len() <= 50 && name.strip_prefix("--").is_some_and(is_name)).then_some(name)
}
