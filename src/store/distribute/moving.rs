//! Moving logs into their buckets, a few in each transaction, with their heads locked.

use super::entrances::{TABLES, columns, undistributed};
use super::{DistributeError, Progress};
use crate::protocol::UserKey;
use crate::store::layout::Layout;
use tokio_postgres::Client;
use uuid::Uuid;

/// Number of logs looked up at once.
const LOGS: i64 = 1_000;
/// Number of changes at which a transaction is large enough: if the process is killed, they have to be moved again.
const CHANGES: i64 = 20_000;

/// Some logs of one bucket.
#[derive(Debug, Default)]
struct Group {
    logs: Vec<Uuid>,
    changes: i64,
}

/// Moves all remaining logs.
pub(super) async fn move_all(
    connection: &Client,
    layout: Layout,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<Progress, DistributeError> {
    make_days(connection, layout).await?;
    let statements = Statements::read(connection, layout).await?;
    let count = format!("select count(*) from {}", undistributed("sync_heads"));
    let logs: i64 = connection.query_one(&count, &[]).await?.try_get(0)?;
    let mut progress = Progress { logs: logs.unsigned_abs(), ..Progress::default() };
    let next = format!(
        "select log_id, user_key, stored_changes from {} where log_id > $1 order by log_id limit {LOGS}",
        undistributed("sync_heads")
    );
    // Moved logs stay in the index until it is vacuumed: skip them once, not for each group.
    let mut last = Uuid::nil();
    loop {
        say(progress);
        let rows = connection.query(&next, &[&last]).await?;
        let Some(end) = rows.last() else {
            move_erased(connection, layout).await?;
            return Ok(progress);
        };
        last = end.try_get(0)?;
        let mut groups: Vec<Group> = std::iter::repeat_with(Group::default).take(layout.count()).collect();
        for row in rows {
            let (log, user, changes): (Uuid, Uuid, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let bucket = layout.bucket_of(UserKey(user));
            groups[bucket].logs.push(log);
            groups[bucket].changes += changes;
            if groups[bucket].changes >= CHANGES {
                let full = std::mem::take(&mut groups[bucket]);
                move_group(connection, &statements.0[bucket], &full, &mut progress).await?;
                say(progress);
            }
        }
        for (group, statements) in groups.iter().zip(&statements.0) {
            if !group.logs.is_empty() {
                move_group(connection, statements, group, &mut progress).await?;
                say(progress);
            }
        }
    }
}

/// For each bucket, the statements that move logs into it, by log id.
struct Statements(Vec<Vec<String>>);

impl Statements {
    async fn read(connection: &Client, layout: Layout) -> Result<Statements, DistributeError> {
        let mut of_bucket = vec![Vec::new(); layout.count()];
        for table in ["sync_history", "sync_changes", "sync_heads"] {
            let from = undistributed(table);
            let columns = columns(connection, &from).await?;
            for (statements, schema) in of_bucket.iter_mut().zip(layout.schemas()) {
                statements.push(format!(
                    "with moved as (delete from {from} where log_id = any($1) returning {columns})
                     insert into {schema}.{table} ({columns}) select {columns} from moved"
                ));
            }
        }
        Ok(Statements(of_bucket))
    }
}

async fn move_group(
    connection: &Client,
    statements: &[String],
    group: &Group,
    progress: &mut Progress,
) -> Result<(), DistributeError> {
    // The moved rows are not erased, so the trigger need not search for them.
    connection.batch_execute("begin; set local mana_sync.trimming = on").await?;
    let moved = async {
        let lock =
            format!("select from {} where log_id = any($1) order by log_id for update", undistributed("sync_heads"));
        connection.query(&lock, &[&group.logs]).await?;
        let mut counts = Vec::new();
        for statement in statements {
            counts.push(connection.execute(statement, &[&group.logs]).await?);
        }
        Ok::<_, tokio_postgres::Error>(counts)
    };
    let moved = moved.await;
    let ended = connection.batch_execute(if moved.is_ok() { "commit" } else { "rollback" }).await;
    let counts = moved?;
    ended?;
    if let [.., changes, heads] = counts[..] {
        progress.changes += changes;
        progress.moved += heads;
    }
    Ok(())
}

/// Moves the records of recently erased logs.
async fn move_erased(connection: &Client, layout: Layout) -> Result<(), DistributeError> {
    let from = undistributed("sync_erased");
    let columns = columns(connection, &from).await?;
    let users = connection.query(&format!("select distinct user_key from {from}"), &[]).await?;
    for row in users {
        let user: Uuid = row.try_get(0)?;
        let Some(schema) = layout.schema(layout.bucket_of(UserKey(user))) else { continue };
        let statement = format!(
            "with moved as (delete from {from} where user_key = $1 returning {columns})
             insert into {schema}.sync_erased ({columns}) select {columns} from moved"
        );
        connection.execute(&statement, &[&user]).await?;
    }
    Ok(())
}

/// Creates the existing history partitions in each bucket.
async fn make_days(connection: &Client, layout: Layout) -> Result<(), DistributeError> {
    let days = "
        select c.relname::text, pg_get_expr(c.relpartbound, c.oid)
        from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = to_regclass($1)";
    for row in connection.query(days, &[&undistributed("sync_history")]).await? {
        let (day, bounds): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        for schema in layout.schemas() {
            let make =
                format!("create table if not exists {schema}.\"{day}\" partition of {schema}.sync_history {bounds}");
            connection.batch_execute(&make).await?;
        }
    }
    Ok(())
}

/// Returns the number of rows that belong to no log.
pub(super) async fn left_behind(connection: &Client) -> Result<i64, DistributeError> {
    let mut left = 0;
    for table in TABLES {
        let count = format!("select count(*) from {}", undistributed(table));
        left += connection.query_one(&count, &[]).await?.try_get::<_, i64>(0)?;
    }
    Ok(left)
}
