//! The log before trimming, compared with what is left of it and what the history has.

use super::support::*;
use mana_load::snapshot::Snapshot;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Values with their ranks, by table, record and field.
type Best = BTreeMap<(String, String, String), ((i64, i64), Value)>;

fn millis(text: &Value) -> Option<i64> {
    Some(chrono::DateTime::parse_from_rfc3339(text.as_str()?).ok()?.timestamp_millis())
}

/// Folds a user's records in an app by the rules alone, from everything that was ever stored.
pub async fn untrimmed(cluster: &Cluster, user: &User, app: &str) -> Snapshot {
    folded(cluster, user, app, true).await
}

/// The same from what is in the log.
pub async fn trimmed(cluster: &Cluster, user: &User, app: &str) -> Snapshot {
    folded(cluster, user, app, false).await
}

async fn folded(cluster: &Cluster, user: &User, app: &str, with_history: bool) -> Snapshot {
    let query = "
        select table_name, record_id, op, data, field_timestamps, (extract(epoch from created_at) * 1000000)::int8, false
        from sync_changes where log_id = sync_log_id($1, $2)
        union all
        select table_name, record_id, op, data, field_timestamps, (extract(epoch from created_at) * 1000000)::int8, true
        from sync_history where log_id = sync_log_id($1, $2) and $3";
    type Row = (String, String, String, Option<Value>, Value, i64, bool);
    let rows: Vec<Row> =
        sqlx::query_as(query).bind(&user.id).bind(app).bind(with_history).fetch_all(&cluster.pool).await.unwrap();
    let mut best = Best::new();
    for (table, record, op, data, stamps, at, is_past) in rows {
        let data: Map<String, Value> = data.and_then(|data| data.as_object().cloned()).unwrap_or_default();
        let member = |name: &str| data.get(name).and_then(millis);
        let whole = member("updatedAt").or_else(|| member("createdAt")).unwrap_or(0);
        let fields: Vec<(String, Value, i64)> = match (op.as_str(), is_past) {
            ("insert", false) => data.into_iter().map(|(name, value)| (name, value, whole)).collect(),
            ("delete", _) => {
                vec![("deletedAt".to_owned(), stamps["deletedAt"].clone(), millis(&stamps["deletedAt"]).unwrap())]
            }
            _ => data.into_iter().map(|(name, value)| (name.clone(), value, millis(&stamps[&name]).unwrap())).collect(),
        };
        for (field, value, stamp) in fields {
            let rank = (stamp, at);
            let entry = best.entry((table.clone(), record.clone(), field)).or_insert((rank, value.clone()));
            if rank >= entry.0 {
                *entry = (rank, value);
            }
        }
    }
    let mut snapshot = Snapshot::default();
    for ((table, record, field), (_, value)) in best {
        snapshot.0.entry(table).or_default().entry(record).or_default().insert(field, value);
    }
    snapshot
}
