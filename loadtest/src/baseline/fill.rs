//! Fills logs with old changes: each log is started by a push through the server and then filled by SQL, because
//! millions of pushes would take an hour. Only what clients see of the table is written, besides copies of what the
//! push stored.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::BaselineError;

/// Changes before the oldest of every log, a millisecond apart, distributed over the log's tables in turn, in the
/// proportions and sizes of the histories in `loadtest/data`: mostly one short field of a record, some whole records, a
/// few deletes.
const FILL: &str = r#"
with logs as materialized (
    select h.log_id, h.user_id, h.app_id, min(c.created_at) as oldest, array_agg(distinct c.table_name) as tables
    from sync_heads h join sync_changes c using (log_id) group by h.log_id
)
insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                          log_id, size)
select lpad(to_hex(row_number() over ()), 32, '0')::uuid, app_id, table_name, 'record/' || n % {records}, user_id, op,
       data, stamps, 'device-' || n % 3, oldest - n * interval '1 millisecond', log_id,
       coalesce(octet_length(data::text), 0) + octet_length(stamps::text)
from (
    select log_id, user_id, app_id, oldest, n, tables[1 + n % cardinality(tables)] as table_name,
           case when turn % 50 = 0 then 'delete' when turn % 50 < 4 then 'insert' else 'update' end as op
    from generate_series({changes}, 1, -1) as n, logs, lateral (select n / cardinality(tables) as turn) turns
) change, lateral (
    select case op
        when 'update' then jsonb_build_object('devDependencies.typescript', '^5.5.' || n)
        when 'insert' then jsonb_build_object('title', 'Water the plants in the hall', 'priority', n, 'done', false,
            'notes', 'The ones by the window need more of it in July; ask for the long can at the desk.',
            'createdAt', '2024-07-05T16:01:06.000Z', 'updatedAt', '2024-07-05T16:01:06.000Z')
    end as data,
    case op
        when 'update' then '{"devDependencies.typescript": "2024-07-05T16:01:06.000Z"}'::jsonb
        when 'delete' then '{"deletedAt": "2024-07-05T16:01:06.000Z"}'::jsonb
        else '{}'::jsonb
    end as stamps
) written
"#;

/// Adds this many changes to every existing log. Indexes are created afterwards, all at once instead of row by row.
pub async fn fill(client: &Client, changes: u64) -> Result<(), BaselineError> {
    let failed = |source| BaselineError::Database { action: "be filled", source };
    let indexes = client
        .simple_query(
            "select indexname, indexdef from pg_indexes where tablename = 'sync_changes'
             and indexname not in (select conname from pg_constraint)",
        )
        .await
        .map_err(failed)?;
    let of = |column: usize| {
        let texts = indexes.iter().filter_map(move |message| match message {
            SimpleQueryMessage::Row(row) => row.get(column).map(str::to_owned),
            _ => None,
        });
        texts.collect::<Vec<_>>()
    };
    let drops: String = of(0).iter().map(|name| format!("drop index {name};")).collect();
    let creates: String = of(1).iter().map(|definition| format!("{definition};")).collect();
    let records = (changes / 4).max(1);
    let fill = FILL.replace("{changes}", &changes.to_string()).replace("{records}", &records.to_string());
    let settings = "set synchronous_commit = off; set maintenance_work_mem = '512MB'; set max_parallel_workers = 0;";
    let all = format!("{settings} begin; {drops} {fill}; {creates} commit;");
    client.batch_execute(&all).await.map_err(failed)?;
    // Autovacuum would start at some point, in the middle of a measurement. The statements are sent one by one: those
    // sent together form one transaction, which does not allow VACUUM.
    for statement in ["vacuum analyze sync_changes", "vacuum analyze sync_heads", "checkpoint"] {
        client.batch_execute(statement).await.map_err(failed)?;
    }
    Ok(())
}
