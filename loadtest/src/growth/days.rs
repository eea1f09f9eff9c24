//! The size of the tables by days of editing the same records. A day takes seconds: its changes are written with
//! positions of that day, and then everything older than that day's horizon is trimmed and vacuumed.

use std::time::{Duration, Instant};

use super::limits::DAYS_BYTES;
use super::{Log, Measured, Plan};
use crate::baseline::BaselineError;
use crate::local::Surroundings;
use crate::report::model::{Growth, GrowthLine, Unit};
use crate::report::units::{number, seconds};

const DATABASE: &str = "bench_days";
const USERS: u64 = 5;
/// Records of each user.
const RECORDS: u64 = 500;
const FIELDS: u64 = 10;
/// Edits of each user per day.
const EDITS: u64 = 2_000;
/// Days that a change stays whole: the default of `COMPACT_AFTER_MS`.
const HORIZON: u64 = 7;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The logs, as the first push of each user would start them.
const LOGS: &str = "
insert into sync_heads (log_id, user_key, user_id, app_id, head, previous, untrimmed_since)
select sync_log_id(u, 'bench'), sync_user_key(u), u, 'bench', now() - {ago} * interval '1 day', 'epoch', now() - {ago} * interval '1 day'
from (select 'bench-user-' || n as u from generate_series(1, {users}) as n) users";

/// A day's edits of all users, spread over the day: each sets one field, and from day to day another one of a record.
/// The first day begins with inserts of all records.
const EDIT: &str = "
insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                          log_id, size)
select lpad(to_hex(({day} * {each} + n) * {users} + row_number() over (partition by n)), 32, '0')::uuid, h.app_id, 'packages',
       'record/' || n % {records}, h.user_id, o.op, w.data, w.stamps, 'device-' || n % 3, a.at, h.log_id,
       octet_length(w.data::text) + octet_length(w.stamps::text)
from sync_heads h, generate_series(1, {each}) as n,
     lateral (select date_trunc('milliseconds', now() - {ago} * interval '1 day' - interval '1 minute'
                                                - ({each} - n) * (interval '23 hours' / {each})) as at) a,
     lateral (select case when {day} = 1 and n <= {records} then 'insert' else 'update' end as op) o,
     lateral (
         select jsonb_object_agg('field' || f % {fields}, 'value ' || {day} || ' ' || n) as data,
                jsonb_object_agg('field' || f % {fields}, sync_iso(a.at)) as stamps
         from generate_series(n * 7 + {day}, n * 7 + {day} + case o.op when 'insert' then {fields} - 1 else 0 end) as f
     ) w;
update sync_heads set previous = head, head = date_trunc('milliseconds', now() - {ago} * interval '1 day')";

const SIZES: &str = "
select pg_table_size('sync_changes')::float8, pg_indexes_size('sync_changes')::float8, count(*)::float8,
       (select coalesce(sum(pg_total_relation_size(inhrelid)), 0)::float8 from pg_inherits where inhparent = 'sync_history'::regclass)
from sync_changes";

/// The sizes at the end of a day.
#[derive(Clone, Copy, Debug)]
struct Evening {
    table: f64,
    indexes: f64,
    rows: f64,
    history: f64,
}

pub async fn measure(at: &Surroundings, plan: &Plan, log: Log<'_>) -> Result<Measured, BaselineError> {
    let last = plan.days.iter().copied().max().unwrap_or(0);
    at.fresh_database(DATABASE).await?;
    let database = at.connect(DATABASE).await?;
    let failed = |source| BaselineError::Database { action: "be filled", source };
    let run = async |sql: &str, day: u64| {
        let of = [("{day}", day), ("{ago}", last - day), ("{users}", USERS), ("{each}", EDITS), ("{records}", RECORDS)];
        let sql = of.iter().fold(sql.to_owned(), |sql, (name, value)| sql.replace(name, &value.to_string()));
        database.batch_execute(&sql.replace("{fields}", &FIELDS.to_string())).await.map_err(failed)
    };
    run(LOGS, 0).await?;
    let mut evenings = Vec::with_capacity(plan.days.len());
    for day in 1..=last {
        let begun = Instant::now();
        run(EDIT, day).await?;
        // The horizon of that day, seen from today.
        let horizon = (DAY * (HORIZON + last - day) as u32).as_millis().to_string();
        at.command("compact", DATABASE, &[("COMPACT_AFTER_MS", &horizon)]).await?;
        // Autovacuum's work; it has a day for it.
        run("vacuum analyze sync_changes", day).await?;
        if plan.days.contains(&day) {
            let row = database.query_one(SIZES, &[]).await.map_err(failed)?;
            let evening = Evening { table: row.get(0), indexes: row.get(1), rows: row.get(2), history: row.get(3) };
            log(&format!(
                "days {day}: {} rows, {} MB of table and {} MB of indexes; the day took {}",
                number(evening.rows),
                number(evening.table / 1e6),
                number(evening.indexes / 1e6),
                seconds(begun.elapsed().as_secs_f64())
            ));
            evenings.push((day, evening));
        }
    }
    let of = |value: fn(u64, Evening) -> f64| evenings.iter().map(|&(day, evening)| value(day, evening)).collect();
    let lines = vec![
        GrowthLine::new("sync_changes", Unit::Bytes, of(|_, evening| evening.table), Some(DAYS_BYTES)),
        GrowthLine::new("its indexes", Unit::Bytes, of(|_, evening| evening.indexes), Some(DAYS_BYTES)),
        GrowthLine::new("rows", Unit::Number, of(|_, evening| evening.rows), Some(DAYS_BYTES)),
        GrowthLine::new("changes that were made", Unit::Number, of(|day, _| (day * USERS * EDITS) as f64), None),
        GrowthLine::new("history of each day", Unit::Bytes, of(|day, evening| evening.history / day as f64), None),
    ];
    let note = format!(
        "{USERS} users with {} records of {FIELDS} fields each make {} edits of one field a day each; changes stay whole for \
         {HORIZON} days; vacuumed each day, as autovacuum does",
        number(RECORDS as f64),
        number(EDITS as f64)
    );
    let sizes = evenings.iter().map(|&(day, _)| day as f64).collect();
    let growth = Growth { name: "days".to_owned(), size: "days".to_owned(), note, sizes, lines };
    Ok(Measured { growth, generator_busy: None })
}
