//! Stores changes without a notification.

use super::live::APP;
use super::{Cluster, User};
use mana_sync::protocol::Log;

/// Stores a change like a replica that dies between its commit and its notification.
pub async fn store_silently(cluster: &Cluster, user: &User, table: &str) {
    let log = Log::new(user.id.as_str().into(), APP);
    let sql = "
        with head as (
            insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous)
            values ($1, $2, $3, $4, date_bin('20 microseconds', clock_timestamp(), 'epoch'), 'epoch')
            on conflict (log_id) do update set
                previous = h.head,
                head = greatest(date_bin('20 microseconds', clock_timestamp(), 'epoch'),
                                h.head + interval '20 microseconds')
            returning head
        )
        insert into sync_changes (id, log_id, user_id, app_id, client_id, table_name, record_id, op, data, created_at)
        select gen_random_uuid(), $1, $3, $4, 'phone', $5, 'silent', 'insert', '{\"title\":\"T\"}', head from head";
    let query = sqlx::query(sql).bind(log.id.0).bind(log.user.0).bind(&user.id).bind(APP).bind(table);
    query.execute(&cluster.pool).await.unwrap();
}
