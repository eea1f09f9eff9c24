//! `mana-sync export`: exports what is stored for a user, one JSON object per line.

use super::{CommandError, written};
use crate::config::DatabaseConfig;
use crate::output::escaped;
use crate::protocol::json::ObjectWriter;
use crate::store::compaction::{CompactionError, LogName};
use crate::store::lifecycle::{Archive, LoggedChange, Record, position};
use clap::Args;
use std::io::{BufWriter, Write};

/// Arguments of `mana-sync export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    database: DatabaseConfig,

    /// The user.
    #[arg(long)]
    user: String,

    /// Only this app's logs.
    #[arg(long)]
    app: Option<String>,

    /// Export every stored change and what is kept of trimmed ones, instead of the current records.
    #[arg(long)]
    log: bool,
}

/// Writes to standard output. Everything is from a single snapshot.
pub async fn run(args: &ExportArgs) -> Result<(), CommandError> {
    let mut archive = Archive::connect_for(&args.user, &args.database, "export").await?;
    let logs = archive.logs(&args.user, args.app.as_deref()).await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let exported = if args.log {
        archive.changes(&logs, |log, change| write(&mut out, change_line(log, change)?)).await
    } else {
        archive.records(&logs, |log, record| write(&mut out, record_line(log, record))).await
    };
    match exported {
        Err(CommandError::Output(error)) => written(Err(error)),
        Err(error) => Err(error),
        Ok(()) => written(out.flush()),
    }
}

fn write(out: &mut impl Write, line: String) -> Result<(), CommandError> {
    writeln!(out, "{}", escaped(&line)).map_err(CommandError::Output)
}

/// Encodes a record: its current values, and the stamp of each.
fn record_line(log: &LogName, record: &Record) -> String {
    let (mut data, mut stamps) = (ObjectWriter::new(), ObjectWriter::new());
    for (field, ((stamp, _), value)) in &record.fields {
        data.raw(field, value);
        stamps.plain(field, stamp);
    }
    let mut line = ObjectWriter::new();
    line.text("app", &log.app);
    line.text("table", &record.table);
    line.text("id", &record.id);
    line.raw("deleted", if record.is_deleted() { "true" } else { "false" });
    line.raw("data", &data.finish());
    line.raw("fieldTimestamps", &stamps.finish());
    line.finish()
}

/// Encodes a stored change: values and stamps of its fields, who stored it, and its position.
fn change_line(log: &LogName, logged: &LoggedChange) -> Result<String, CompactionError> {
    let change = &logged.change;
    let (mut data, mut stamps) = (ObjectWriter::new(), ObjectWriter::new());
    for (field, value, stamp) in logged.fields()? {
        data.raw(&field, &value);
        stamps.plain(&field, stamp);
    }
    let mut line = ObjectWriter::new();
    line.text("app", &log.app);
    line.text("table", &change.table);
    line.text("id", &change.record);
    line.text("op", change.op.name());
    line.raw("data", &data.finish());
    line.raw("fieldTimestamps", &stamps.finish());
    if let Some(extra) = &change.extra {
        line.raw("extra", extra);
    }
    line.text("clientId", &logged.client);
    line.plain("eventId", change.id);
    line.plain("storedAt", position(change.at));
    if let Some(at) = logged.trimmed_at {
        line.plain("trimmedAt", position(at));
    }
    Ok(line.finish())
}
