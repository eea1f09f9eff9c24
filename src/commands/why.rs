//! `mana-sync why`: explains the values of a record's fields.

use super::{CommandError, written};
use crate::config::DatabaseConfig;
use crate::output::{escaped, plain};
use crate::protocol::Log;
use crate::protocol::json::ObjectWriter;
use crate::store::lifecycle::{Archive, position};
use crate::store::why::{Field, Limits, Lost, Write};
use clap::Args;
use std::io;

/// Maximum bytes shown of writes that lost.
const MAX_BYTES: usize = 64 << 20;

/// Arguments of `mana-sync why`.
#[derive(Args, Debug)]
pub struct WhyArgs {
    #[command(flatten)]
    database: DatabaseConfig,

    /// The user's id.
    #[arg(long)]
    user: String,

    /// The app's id.
    #[arg(long)]
    app: String,

    /// The table's name.
    #[arg(long)]
    table: String,

    /// The record's id.
    #[arg(long)]
    record: String,

    /// Only this field.
    #[arg(long)]
    field: Option<String>,

    /// Maximum number of writes listed per field: the latest it won against, and as many that came too late.
    #[arg(long, default_value_t = 100)]
    limit: usize,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints for each field what wins, what it won against, and what came too late.
pub async fn run(args: &WhyArgs) -> Result<(), CommandError> {
    let log = Log::new(args.user.as_str().into(), &args.app);
    let mut archive = Archive::connect_for(&args.user, &args.database, "why").await?;
    let limits = Limits { writes: args.limit, bytes: MAX_BYTES };
    let found = archive.why((&log, &args.table, &args.record), args.field.as_deref(), limits).await?;
    let Some(found) = found else {
        return Err(CommandError::NoRecord { table: args.table.clone(), record: args.record.clone() });
    };
    if let Some(name) = args.field.as_ref().filter(|_| found.is_empty()) {
        return Err(CommandError::NoField(name.clone()));
    }
    let mut out = io::stdout().lock();
    written(if args.json { write_json(&mut out, args, &found) } else { write_text(&mut out, args, &found) })
}

fn write_json(out: &mut impl io::Write, args: &WhyArgs, fields: &[Field]) -> io::Result<()> {
    let list = |lost: &Lost| {
        format!("[{}]", lost.writes.iter().map(|write| json(write).finish()).collect::<Vec<_>>().join(","))
    };
    let field = |field: &Field| {
        let mut object = ObjectWriter::new();
        object.text("field", &field.name);
        describe(&mut object, &field.winner);
        object.raw("wonAgainst", &list(&field.won_against));
        object.raw("cameTooLate", &list(&field.came_too_late));
        for (name, lost) in [("wonAgainstMore", &field.won_against), ("cameTooLateMore", &field.came_too_late)] {
            if lost.more > 0 {
                object.raw(name, &lost.more.to_string());
            }
        }
        object.finish()
    };
    let fields: Vec<String> = fields.iter().map(field).collect();
    let mut object = ObjectWriter::new();
    for (name, value) in [("user", &args.user), ("app", &args.app), ("table", &args.table), ("record", &args.record)] {
        object.text(name, value);
    }
    object.raw("fields", &format!("[{}]", fields.join(",")));
    writeln!(out, "{}", escaped(&object.finish()))
}

fn json(write: &Write) -> ObjectWriter {
    let mut object = ObjectWriter::new();
    describe(&mut object, write);
    object
}

fn describe(object: &mut ObjectWriter, write: &Write) {
    object.raw("value", &write.value);
    object.plain("stamp", write.stamp);
    object.text("device", &write.device);
    object.plain("storedAt", position(write.at));
    if let Some(at) = write.trimmed_at {
        object.plain("trimmedAt", position(at));
    }
}

fn write_text(out: &mut impl io::Write, args: &WhyArgs, fields: &[Field]) -> io::Result<()> {
    let names = [&args.table, &args.record, &args.user, &args.app].map(|name| plain(name));
    let [table, record, user, app] = &names;
    writeln!(out, "{table}/{record} of {user} in {app}")?;
    for field in fields {
        writeln!(out, "\n{} = {}", plain(&field.name), line(&field.winner))?;
        for (title, lost) in [("won against", &field.won_against), ("came too late", &field.came_too_late)] {
            if lost.writes.is_empty() && lost.more == 0 {
                continue;
            }
            writeln!(out, "  {title}:")?;
            for write in &lost.writes {
                writeln!(out, "    {}", line(write))?;
            }
            if lost.more > 0 {
                writeln!(out, "    and {} more that are not shown, most of them older (--limit)", lost.more)?;
            }
        }
    }
    Ok(())
}

/// Formats a write for a person.
fn line(write: &Write) -> String {
    let (value, stamp, device, stored) = (plain(&write.value), write.stamp, plain(&write.device), position(write.at));
    let trimmed = write.trimmed_at.map(|at| format!(", trimmed from the log {}", position(at)));
    format!("{value}  written {stamp} by {device}, stored {stored}{}", trimmed.unwrap_or_default())
}
