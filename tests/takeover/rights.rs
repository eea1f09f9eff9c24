//! Row-level security hides rows from the table's own owner, and programs keep their rights.

use super::old::{Form, database};
use super::{migrated, script, value};

#[tokio::test]
async fn an_owner_from_whom_rows_are_hidden_takes_over_all_of_them_and_rights_are_kept() {
    let url = database(Form::Newest, 3_000, 5).await;
    let role = format!("owner_{}", uuid::Uuid::new_v4().simple());
    let service = format!("service_{}", uuid::Uuid::new_v4().simple());
    script(
        &url,
        format!(
            "create role {role} login; create role {service};
             grant create, usage on schema public to {role}; alter table sync_changes owner to {role};
             grant select, insert, update on sync_changes to {service};
             create role {service}_columns; grant select (user_id, data), insert (user_id, field_meta), update (data), delete
             on sync_changes to {service}_columns"
        ),
    )
    .await;
    let mut as_owner: url::Url = url.parse().unwrap();
    as_owner.set_username(&role).unwrap();
    let said = migrated(as_owner.as_str(), &[]).await;
    assert!(said.contains("Row-level security is turned off") && said.contains("own_rows, space_rows"), "{said}");
    assert!(said.contains("3000 rows were taken over"), "{said}");
    assert_eq!(value::<i64>(&url, "select count(*) from sync_changes").await, 3_000);
    let kept =
        "select string_agg(privilege_type, ',' order by privilege_type) from information_schema.role_table_grants
                where table_name = 'sync_changes' and grantee like 'service\\_%' and grantor like 'owner\\_%'
                  and grantee not like '%\\_columns'";
    assert_eq!(value::<String>(&url, kept).await, "INSERT,SELECT");
    let of_columns =
        "select string_agg(distinct privilege_type || ' ' || column_name, ',' order by privilege_type || ' ' || column_name)
         from information_schema.role_column_grants where table_name = 'sync_changes' and grantee like 'service\\_%\\_columns'";
    assert_eq!(value::<String>(&url, of_columns).await, "INSERT field_meta,INSERT user_id,SELECT data,SELECT user_id");
    // Its transactions still set what the policies required.
    let writes = format!(
        "begin; set local role {service}; select set_config('app.current_user_id', 'user-1', true);
         insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, schema_version, actor, origin)
         values ('todo', 'tasks', 'a', 'user-1', 'update', '{{\"a\":1}}', '{{}}', 'svc', 1, null, 'agent');
         select 1 from sync_changes where table_name = 'tasks' and record_id = 'singleton' and user_id = 'user-1' limit 1; commit"
    );
    script(&url, writes).await;
    assert_eq!(value::<i64>(&url, "select count(*) from sync_changes").await, 3_001);
}

#[tokio::test]
async fn an_owner_for_whom_somebody_else_takes_over_keeps_reading_and_writing() {
    let url = database(Form::Older, 100, 3).await;
    let owner = format!("owner_{}", uuid::Uuid::new_v4().simple());
    script(&url, format!("create role {owner}; alter table sync_changes owner to {owner}")).await;
    migrated(&url, &[]).await;
    let goes_on = format!(
        "set role {owner};
         insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id)
         values ('todo', 'tasks', 'a', 'user-1', 'update', '{{\"a\":1}}', '{{}}', 'svc');
         select 1 from sync_changes where table_name = 'tasks' and record_id = 'singleton' and user_id = 'user-1' limit 1;
         delete from sync_changes where user_id = 'user-2'"
    );
    script(&url, goes_on).await;
    let left = "select count(*) filter (where user_id = 'user-2') || ' ' || count(*) filter (where record_id = 'a') from sync_changes";
    assert_eq!(value::<String>(&url, left).await, "0 1");
}
