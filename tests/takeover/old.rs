//! Databases of the previous server.

use super::{script, support};

/// The form of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Older,
    Newest,
}

impl Form {
    /// The table with its indexes and, in the newest form, its row-level security, as the previous server has them.
    pub fn schema(self) -> String {
        let columns = match self {
            Form::Older => "field_timestamps jsonb default '{}'",
            Form::Newest => {
                "field_meta jsonb default '{}', schema_version int not null default 1, actor jsonb, origin text, space_id text"
            }
        };
        let more = match self {
            Form::Older => "",
            Form::Newest => {
                "create index idx_sync_changes_space on sync_changes (space_id, created_at) where space_id is not null;
                 alter table sync_changes enable row level security, force row level security;
                 create policy own_rows on sync_changes using (user_id = current_setting('app.current_user_id', true));
                 create policy space_rows on sync_changes for select using (space_id = any(string_to_array(current_setting('app.current_user_spaces', true), ',')));"
            }
        };
        format!(
            "create table sync_changes (
                 id uuid primary key default gen_random_uuid(), app_id text not null, table_name text not null,
                 record_id text not null, user_id text not null,
                 op text not null check (op in ('insert', 'update', 'delete')), data jsonb, {columns},
                 client_id text not null, created_at timestamptz not null default now());
             create index idx_sync_changes_user_app on sync_changes (user_id, app_id, created_at);
             create index idx_sync_changes_table_record on sync_changes (table_name, record_id, created_at);
             create index idx_sync_changes_since on sync_changes (user_id, app_id, table_name, created_at);
             {more}"
        )
    }

    /// Rows as clients and services have left them: stamps in any spelling, empty or missing, times that tie or are
    /// odd, in three apps of `users` users.
    pub fn fill(self, rows: u32, users: u32) -> String {
        let (stamps, columns, values) = match self {
            Form::Older => ("field_timestamps", "", ""),
            Form::Newest => (
                "field_meta",
                ", actor, origin, space_id",
                ", case when n % 3 = 0 then jsonb_build_object('kind', 'ai', 'n', n) end,
                   case when n % 5 <> 0 then 'user' end, case when n % 11 = 0 then 'space-' || n % 4 end",
            ),
        };
        format!(
            "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, {stamps}, client_id, created_at{columns})
             select (array['todo', 'notes', 'ai'])[1 + n % 3], (array['tasks', 'lists'])[1 + n / 7 % 2],
                    'rec-' || n * 7 % 23, 'user-' || n * 13 % {users}, op,
                    case op
                        when 'insert' then jsonb_build_object('title', 'Title \\ ' || chr(10) || n, 'n', n)
                            || case when n % 4 = 0 then '{{}}' else jsonb_build_object('createdAt', iso) end
                            || case when n % 4 < 2 then '{{}}' else jsonb_build_object('updatedAt', odd) end
                        when 'update' then jsonb_build_object('title', 'Edited ' || n, 'n', n / 2.0, 'done', n % 2 = 0)
                        else case when n % 3 = 0 then jsonb_build_object('deletedAt', odd) end
                    end,
                    case op
                        when 'update' then jsonb_build_object('title', iso, 'n', odd) || case when n % 9 = 0 then '{{\"done\": \"\"}}' when n % 9 = 1 then '{{}}' else jsonb_build_object('done', iso) end
                        when 'delete' then case when n % 3 = 1 then jsonb_build_object('deletedAt', iso) else '{{}}' end
                        else '{{}}'
                    end,
                    'device-' || n % 5, timestamptz '2024-01-02 00:00:00+00' + n / 153 * interval '1331 microseconds'{values}
             from (
                 select n, (array['insert', 'update', 'update', 'update', 'delete'])[1 + n % 5] as op,
                        to_char(stamp, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as iso,
                        (array[to_char(stamp, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                               to_char(stamp + interval '2 hours', 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || '789+02:00',
                               to_char(stamp - interval '90 minutes', 'YYYY-MM-DD\"t\"HH24:MI:SS.MS') || '-01:30'])[1 + n % 3] as odd
                 from (select n, timestamp '2024-01-01' + (n % 50000 * 7919 % 50000) * interval '1731 milliseconds' as stamp
                       from generate_series(1, {rows}) as n) as stamped
             ) as g"
        )
    }
}

/// Creates a database of this form with this many rows.
pub async fn database(form: Form, rows: u32, users: u32) -> String {
    let url = support::create_database().await;
    script(&url, form.schema()).await;
    script(&url, form.fill(rows, users)).await;
    url
}
