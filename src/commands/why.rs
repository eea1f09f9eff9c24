//! `mana-sync why`: why the fields of a record are what they are.

use super::{CommandError, written};
use crate::config::DatabaseConfig;
use crate::protocol::Log;
use crate::protocol::json::ObjectWriter;
use crate::store::lifecycle::{Archive, position};
use crate::store::why::{Field, Write, fields};
use clap::Args;
use std::io;

/// What `mana-sync why` is told.
#[derive(Args, Debug)]
pub struct WhyArgs {
    #[command(flatten)]
    database: DatabaseConfig,

    #[arg(long)]
    user: String,

    #[arg(long)]
    app: String,

    #[arg(long)]
    table: String,

    /// The record's id.
    #[arg(long)]
    record: String,

    /// This field only.
    #[arg(long)]
    field: Option<String>,

    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Says of each field what wins, what it won against, and what came too late.
pub async fn run(args: &WhyArgs) -> Result<(), CommandError> {
    let log = Log::new(args.user.as_str().into(), &args.app);
    let mut archive = Archive::connect_for(&args.user, &args.database, "why").await?;
    let changes = archive.record(&log, &args.table, &args.record).await?;
    if changes.is_empty() {
        return Err(CommandError::NoRecord { table: args.table.clone(), record: args.record.clone() });
    }
    let mut found = fields(&changes)?;
    if let Some(name) = &args.field {
        found.retain(|field| field.name == *name);
        if found.is_empty() {
            return Err(CommandError::NoField(name.clone()));
        }
    }
    let mut out = io::stdout().lock();
    written(if args.json { write_json(&mut out, args, &found) } else { write_text(&mut out, args, &found) })
}

fn write_json(out: &mut impl io::Write, args: &WhyArgs, fields: &[Field]) -> io::Result<()> {
    let list = |writes: &[Write]| {
        format!("[{}]", writes.iter().map(|write| json(write).finish()).collect::<Vec<_>>().join(","))
    };
    let field = |field: &Field| {
        let mut object = ObjectWriter::new();
        object.text("field", &field.name);
        describe(&mut object, &field.winner);
        object.raw("wonAgainst", &list(&field.won_against));
        object.raw("cameTooLate", &list(&field.came_too_late));
        object.finish()
    };
    let fields: Vec<String> = fields.iter().map(field).collect();
    let mut object = ObjectWriter::new();
    for (name, value) in [("user", &args.user), ("app", &args.app), ("table", &args.table), ("record", &args.record)] {
        object.text(name, value);
    }
    object.raw("fields", &format!("[{}]", fields.join(",")));
    writeln!(out, "{}", object.finish())
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
    writeln!(out, "{}/{} of {} in {}", args.table, args.record, args.user, args.app)?;
    for field in fields {
        writeln!(out, "\n{} = {}", field.name, line(&field.winner))?;
        for (title, writes) in [("won against", &field.won_against), ("came too late", &field.came_too_late)] {
            if writes.is_empty() {
                continue;
            }
            writeln!(out, "  {title}:")?;
            for write in writes {
                writeln!(out, "    {}", line(write))?;
            }
        }
    }
    Ok(())
}

/// One write, for a person.
fn line(write: &Write) -> String {
    let (value, stamp, device, stored) = (&write.value, write.stamp, &write.device, position(write.at));
    let trimmed = write.trimmed_at.map(|at| format!(", out of the log since {}", position(at)));
    format!("{value}  written {stamp} by {device}, stored {stored}{}", trimmed.unwrap_or_default())
}
