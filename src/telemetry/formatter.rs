//! Formatting of log lines.

use super::{redact, request_id, traces};
use crate::clock::Clock;
use crate::config::LogFormat;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use std::error::Error;
use std::fmt::{self, Debug};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Formats events, with the ids of their request and sampled trace.
#[derive(Debug)]
pub(super) struct Formatter {
    pub(super) format: LogFormat,
    pub(super) clock: Clock,
}

/// A line's message and its other fields, in order.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl<S, N> FormatEvent<S, N> for Formatter
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Some(id) = request_id::current() {
            fields.others.push(("request_id", id.into()));
        }
        if let Some((trace, span)) = traces::current() {
            fields.others.push(("trace_id", trace.to_string().into()));
            fields.others.push(("span_id", span.to_string().into()));
        }
        let now = DateTime::<Utc>::from(self.clock.now()).to_rfc3339_opts(SecondsFormat::Micros, true);
        match self.format {
            LogFormat::Json => out.write_str(&json(&now, event.metadata(), &fields).map_err(|_| fmt::Error)?)?,
            LogFormat::Text => text(&mut out, &now, event.metadata(), &fields)?,
        }
        out.write_char('\n')
    }
}

fn json(now: &str, metadata: &Metadata<'_>, fields: &Fields) -> Result<String, Box<dyn Error>> {
    let mut line = Vec::with_capacity(256);
    let mut writer = serde_json::Serializer::new(&mut line);
    let mut map = writer.serialize_map(None)?;
    map.serialize_entry("timestamp", now)?;
    map.serialize_entry("level", metadata.level().as_str())?;
    map.serialize_entry("message", &fields.message)?;
    for (name, value) in &fields.others {
        map.serialize_entry(name, value)?;
    }
    map.serialize_entry("target", metadata.target())?;
    map.end()?;
    Ok(String::from_utf8(line)?)
}

fn text(out: &mut Writer<'_>, now: &str, metadata: &Metadata<'_>, fields: &Fields) -> fmt::Result {
    let level = *metadata.level();
    // The usual colors: red, yellow, green, blue, purple.
    let color = match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    };
    match out.has_ansi_escapes() {
        true => write!(out, "\x1b[2m{now}\x1b[0m \x1b[{color}m{level:>5}\x1b[0m {}", fields.message)?,
        false => write!(out, "{now} {level:>5} {}", fields.message)?,
    }
    fields.others.iter().try_for_each(|(name, value)| write!(out, " {name}={value}"))
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(message)) => self.message = message,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add(field, redact::describe(value).into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}").into());
    }
}
