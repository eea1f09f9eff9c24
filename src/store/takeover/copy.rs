//! Copies the rows of some logs in order, from the old table into the new one, in one transaction.

use super::rows::{NewRow, OldRow, Positions, convert};
use super::{HIDDEN, TakeoverError};
use crate::db::{Micros, Session};
use crate::protocol::{Cursor, LogId};
use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use std::fmt::Write;
use std::pin::{Pin, pin};
use tokio_postgres::{CopyInSink, Row};
use uuid::Uuid;

/// Bytes sent at once.
const CHUNK: usize = 256 << 10;
/// Maximum combined length of names that one of our indexes can hold.
const MAX_NAMES: usize = 2_400;

/// The result for the rows of one part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    pub(super) rows: i64,
    /// Rows that no device could read; they remain only in the old table.
    pub(super) left_behind: i64,
}

/// A log whose rows are being copied.
struct CurrentLog {
    id: LogId,
    positions: Positions,
}

/// Copies a part's rows and heads, and records that it is done, in one transaction of `writer`. `columns` is the select
/// list for the old table. A process that was killed a moment ago may still be committing the same part: this waits for
/// it, and does not copy a finished part again.
pub(super) async fn copy_part(
    reader: &Session,
    writer: &Session,
    columns: &str,
    part: i32,
) -> Result<Copied, TakeoverError> {
    writer.batch_execute("begin").await?;
    let is_left = "select from sync_takeover_parts where part = $1 and copied is null for update";
    if writer.query_opt(is_left, &[&part]).await?.is_none() {
        writer.batch_execute("rollback").await?;
        return Ok(Copied::default());
    }
    let (copied, heads) = copy_rows(reader, writer, columns, part).await?;
    let (logs, (last, previous)): (Vec<Uuid>, (Vec<Micros>, Vec<Micros>)) =
        heads.into_iter().map(|log| (log.id.0, (Micros(log.positions.last), Micros(log.positions.previous)))).unzip();
    let store_heads = "
        insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous)
        select l.log_id, l.user_key, l.user_id, l.app_id, u.head, u.previous
        from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) as u (log_id, head, previous)
        join sync_takeover_logs l on l.log_id = u.log_id
        on conflict (log_id) do update set head = greatest(h.head, excluded.head)";
    writer.execute(store_heads, &[&logs, &last, &previous]).await?;
    let done = "update sync_takeover_parts set copied = $2, left_behind = $3 where part = $1";
    writer.execute(done, &[&part, &copied.rows, &copied.left_behind]).await?;
    writer.batch_execute("commit").await?;
    Ok(copied)
}

async fn copy_rows(
    reader: &Session,
    writer: &Session,
    columns: &str,
    part: i32,
) -> Result<(Copied, Vec<CurrentLog>), TakeoverError> {
    // For rows stored in the same microsecond, ctid tells which was stored first: they were read in that order until
    // now.
    // `offset 0` makes each log use the index: a join would read the whole table for each part.
    let select = format!(
        "select {columns}, l.log_id, b.user_id::text, b.app_id::text
         from sync_takeover_logs l cross join lateral (
             select b.*, b.ctid as place from sync_changes_before b
             where b.user_id = l.user_id and b.app_id = l.app_id offset 0
         ) b
         where l.part = $1 order by l.log_id, b.created_at, b.place"
    );
    let target = format!(
        "copy {HIDDEN} (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                        log_id, size, extra) from stdin"
    );
    let mut copy = pin!(writer.copy_in(&target).await?);
    let mut rows = pin!(reader.query_raw(&select, [part]).await?);
    let (mut copied, mut logs, mut chunk) = (Copied::default(), Vec::<CurrentLog>::new(), String::new());
    while let Some(row) = rows.try_next().await? {
        let id = LogId(row.try_get(12)?);
        if logs.last().is_none_or(|log| log.id != id) {
            logs.push(CurrentLog { id, positions: Positions::new() });
        }
        let Some(log) = logs.last_mut() else { continue };
        match write_row(&mut chunk, &row, log)? {
            true => copied.rows += 1,
            false => copied.left_behind += 1,
        }
        if chunk.len() >= CHUNK {
            send(copy.as_mut(), &mut chunk).await?;
        }
    }
    send(copy.as_mut(), &mut chunk).await?;
    copy.finish().await?;
    logs.retain(|log| log.positions.last > 0);
    Ok((copied, logs))
}

async fn send(mut copy: Pin<&mut CopyInSink<Bytes>>, chunk: &mut String) -> Result<(), TakeoverError> {
    copy.send(Bytes::copy_from_slice(chunk.as_bytes())).await?;
    chunk.clear();
    Ok(())
}

/// Writes a row in COPY's text format; false if it has to be left behind.
fn write_row(out: &mut String, row: &Row, log: &mut CurrentLog) -> Result<bool, TakeoverError> {
    let text = |index: usize| row.try_get::<_, Option<&str>>(index);
    let created_at: Option<Micros> = row.try_get(7)?;
    let (Some(table), Some(record), Some(op), Some(created_at)) = (text(1)?, text(2)?, text(3)?, created_at) else {
        return Ok(false);
    };
    let (user, app): (&str, &str) = (row.try_get(13)?, row.try_get(14)?);
    let old = OldRow {
        op,
        data: text(4)?,
        stamps: text(5)?,
        created_at: created_at.0,
        schema_version: row.try_get(8)?,
        actor: text(9)?,
        origin: text(10)?,
        space: text(11)?,
    };
    let fits = |first: &str, names: &[&str]| {
        !first.is_empty() && names.iter().map(|name| name.len()).sum::<usize>() <= MAX_NAMES
    };
    if !(fits(table, &[user, app, table]) && fits(record, &[table, record])) {
        return Ok(false);
    }
    let Some(new) = convert(&old) else { return Ok(false) };
    let position = Cursor::after(log.positions.next(old.created_at.max(0)));
    let client = text(6)?.filter(|client| !client.is_empty()).unwrap_or("sql");
    let id: Uuid = row.try_get(0)?;
    let log = log.id.0;
    // Writing to a String cannot fail.
    let _ = write!(out, "{id}\t");
    for name in [app, table, record, user] {
        escape(out, name);
    }
    let NewRow { op, data, stamps, extra } = &new;
    let _ = write!(out, "{op}\t");
    nullable(out, data.as_deref());
    escape(out, stamps);
    escape(out, client);
    let _ = write!(out, "{position}\t{log}\t{}\t", new.size());
    nullable(out, extra.as_deref());
    out.pop();
    out.push('\n');
    Ok(true)
}

fn nullable(out: &mut String, value: Option<&str>) {
    match value {
        Some(value) => escape(out, value),
        None => out.push_str("\\N\t"),
    }
}

/// Writes a column in COPY's text format, and a tab.
fn escape(out: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '\t', '\n', '\r']) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'\t' => "\\t",
            b'\n' => "\\n",
            _ => "\\r",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('\t');
}
