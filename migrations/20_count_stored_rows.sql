-- What a trigger of the tables' owner drops without an error is not taken for stored; and the stamps that a device claims for
-- an insert are written out here, not sent: they are the same for all of its members, and may be many times as long as it is.

-- The stamps that a device claims, by field. `claimed` is a JSON text, the claim for each member of `data`.
create function sync_claimed_stamps(claimed text, data jsonb) returns jsonb
language sql immutable strict parallel safe as $$
    select jsonb_object_agg(member, claimed::jsonb) from jsonb_object_keys(data) as member
$$;

-- As before, all or none.
create or replace function sync_store_rows(rows sync_row[], log uuid, of_user text, of_app text, client text) returns void
language plpgsql as $$
declare
    fresh sync_row[] := (select array_agg(r order by n) from (
        select distinct on (rows[n].id) n, rows[n] as r from generate_subscripts(rows, 1) as n
        where not sync_in_history(log, rows[n].id) order by rows[n].id, n
    ) as once);
    count int := coalesce(cardinality(fresh), 0);
    stored int;
    taken record;
begin
    if count = 0 then
        return;
    end if;
    taken := sync_take_head(log, of_user, of_app, count);
    insert into sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                              log_id, size, held, extra)
    select r.id, of_app, r.table_name, r.record_id, of_user, r.op, r.data, r.field_timestamps, client,
           taken.head - (count - r.ordinality) * interval '20 microseconds', log, r.size, r.held, r.extra
    from unnest(fresh) with ordinality as r;
    get diagnostics stored = row_count;
    if stored < count then
        raise exception using errcode = 'triggered_action_exception',
            message = 'a trigger on sync_changes drops rows: see to it that no BEFORE INSERT trigger returns null';
    end if;
    update sync_heads h set stored_changes = h.stored_changes + count,
                            stored_bytes = h.stored_bytes + (select sum(r.size) from unnest(fresh) as r)
    where h.log_id = log;
    if coalesce(current_setting('mana_sync.notify', true), '') not in ('off', 'false', 'no', '0') then
        perform sync_notify(h, client, (select array_agg(distinct r.table_name) from unnest(fresh) as r), taken.previous)
        from sync_heads h where h.log_id = log;
    end if;
end
$$;
