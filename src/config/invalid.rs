//! What is said of a setting or a command line that is not valid: which it is and what it must be, never what it was.
//! A value may be a password, or a URL with one in it, and may have been meant for another setting.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error as _;

/// The message of a command line that could not be read, without any value.
///
/// # Errors
/// Nothing is wrong where the error is clap's way to show a help or a version.
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
            format!("invalid value for {setting}: {}", without_value(&reason))
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
            Some(flag) => format!("there is no option {flag}"),
            None => "an argument that is not expected".to_owned(),
        },
        ErrorKind::InvalidSubcommand => match listed(ContextKind::SuggestedSubcommand) {
            none if none.is_empty() => "there is no such command".to_owned(),
            similar => format!("there is no such command; did you mean {similar}?"),
        },
        // Names of arguments is all that the others tell of.
        _ => {
            let text = error.to_string();
            return Some(text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned());
        }
    };
    Some(format!("{problem}\n\nFor more information, try '--help'."))
}

/// clap says of a number beyond its range which number it is: "5 is not in 1..=3".
fn without_value(reason: &str) -> String {
    match reason.split_once(" is not in ") {
        Some((_, range)) => format!("must be in {range}"),
        None => reason.to_owned(),
    }
}

/// The name of an option that is not known; none if this is something else, which might be a value.
fn flag(argument: &str) -> Option<&str> {
    let name = argument.split('=').next().unwrap_or_default();
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (name.len() <= 50 && name.strip_prefix("--").is_some_and(is_name)).then_some(name)
}
