//! A schema that was renamed, for example because a restored copy took its place. Functions whose search path names the
//! schema that they were created in would find nothing there, or the tables of the copy.

/// Has these functions of the schema that has the tables look there.
pub(super) const FOLLOW: &str = "
do $$
declare
    here oid := (select c.relnamespace from pg_class c where c.oid = to_regclass('sync_heads'));
    called text;
begin
    for called in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = here
          and p.proname in ('sync_accept_row', 'sync_delete_in_bucket', 'sync_end_statement', 'sync_erase', 'sync_forget_deleted',
                            'sync_history_days', 'sync_insert_in_bucket', 'sync_mark_trimmed', 'sync_push', 'sync_records',
                            'sync_trim_rows', 'sync_usage')
          and exists (select from unnest(p.proconfig) as setting
                      where setting like 'search_path=%' and setting <> format('search_path=%s, pg_temp', here::regnamespace))
    loop
        execute format('alter function %s set search_path = %s, pg_temp', called, here::regnamespace);
    end loop;
end
$$";
