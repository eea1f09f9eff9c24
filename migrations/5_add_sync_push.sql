-- sync_push: what POST /sync/{appId} stores, from SQL and in the caller's transaction.

-- A row of sync_changes in the making. A type of its own, so that no function depends on the table.
create type sync_row as (
    id uuid, app_id text, table_name text, record_id text, user_id text, op text, data jsonb, field_timestamps jsonb,
    client_id text, created_at timestamptz, log_id uuid, size int, held jsonb, extra jsonb
);

-- A member that must be a name.
create function sync_name_of(change jsonb, place text, member text, bytes int) returns text
language plpgsql as $$
declare
    name text := change ->> member;
begin
    if coalesce(jsonb_typeof(change -> member), 'string') not in ('string', 'null') then
        perform sync_refuse(format('%s: %s must be a text', place, member));
    end if;
    perform sync_check_name(format('%s: %s', place, member), name, bytes);
    return name;
end
$$;

-- One change of the wire as a row, without its place. `place` names it in errors, `latest` is the latest stamp allowed,
-- `now` the time of storing. The id is null where the change has no stamp and counts each time it comes.
create function sync_read_change(change jsonb, place text, latest text, now text) returns sync_row
language plpgsql as $$
declare
    row sync_row;
begin
    if jsonb_typeof(change) <> 'object' then
        perform sync_refuse(place || ' must be a JSON object');
    end if;
    row.table_name := sync_name_of(change, place, 'table', 255);
    row.record_id := sync_name_of(change, place, 'id', 1024);
    row.op := change ->> 'op';
    if row.op is null or row.op not in ('insert', 'update', 'delete') then
        perform sync_refuse(place || ': op must be insert, update or delete'
            || coalesce(format(', and is %L', left(row.op, 40)), ''));
    end if;
    row.extra := sync_check_extra(place || ': the members that the protocol does not name', change);
    case row.op
        when 'insert' then
            select * from sync_read_insert(change -> 'data', place, latest) into row.data, row.held;
            row.field_timestamps := '{}';
        when 'update' then
            select * from sync_read_update(change -> 'fields', place, latest)
            into row.data, row.field_timestamps, row.held;
        else
            select jsonb_build_object('deletedAt', least(coalesce(stamp, now) collate "C", latest)),
                   case when stamp collate "C" > latest then jsonb_build_object('deletedAt', stamp) end
            into row.field_timestamps, row.held
            from sync_read_stamp(place || ': deletedAt', change -> 'deletedAt', false) as stamp;
    end case;
    row.size := sync_size(row.data, row.field_timestamps, row.extra);
    return row;
end
$$;

-- An insert's data as it is stored, and what its device holds where its stamp was too late.
create function sync_read_insert(given jsonb, place text, latest text, out data jsonb, out held jsonb)
language plpgsql as $$
declare
    carrier text;
    stamp text;
begin
    data := sync_object(place || ': data', given);
    perform sync_check_value(place || ': data', data), sync_check_fields(place || ': data', data);
    foreach carrier in array array['updatedAt', 'createdAt'] loop
        stamp := sync_stamp(case jsonb_typeof(data -> carrier) when 'string' then data ->> carrier end);
        if stamp is not null then
            data := data || jsonb_build_object(carrier, least(stamp collate "C", latest));
            if stamp collate "C" > latest then
                select jsonb_object_agg(name, stamp) into held from jsonb_object_keys(data) as name;
            end if;
            return;
        end if;
    end loop;
end
$$;

-- An update's values and stamps by field, and what its device holds where stamps were too late.
create function sync_read_update(fields jsonb, place text, latest text, out data jsonb, out stamps jsonb, out held jsonb)
language plpgsql as $$
declare
    name text;
    field jsonb;
    stamp text;
begin
    if coalesce(jsonb_typeof(fields), 'null') <> 'object' then
        perform sync_refuse(place || ': an update needs fields: {"<field>":{"value":…,"updatedAt":"…"}}');
    end if;
    perform sync_check_fields(place || ': an update', fields);
    data := '{}';
    stamps := '{}';
    for name, field in select * from jsonb_each(fields) loop
        if jsonb_typeof(field) <> 'object' then
            perform sync_refuse(format('%s: field "%s" must look like {"value":…,"updatedAt":"…"}', place, name));
        end if;
        perform sync_check_value(format('%s: field "%s"', place, name), field -> 'value');
        field := field || jsonb_build_object('at', coalesce(nullif(field -> 'updatedAt', 'null'), field -> 'at'));
        stamp := sync_read_stamp(format('%s: updatedAt of field "%s"', place, name), field -> 'at', false);
        if stamp is null then
            perform sync_refuse(format('%s: field "%s" has no updatedAt', place, name));
        end if;
        data := data || jsonb_build_object(name, field -> 'value');
        stamps := stamps || jsonb_build_object(name, least(stamp collate "C", latest));
        if stamp collate "C" > latest then
            held := coalesce(held, '{}') || jsonb_build_object(name, stamp);
        end if;
    end loop;
end
$$;

-- The id of a change, the same whenever it comes again: 48 bits of its latest stamp, so that ids of one time lie together
-- in the primary key, then digest. Null for a delete without a stamp, which is another one each time.
create function sync_change_id(log uuid, client text, change jsonb) returns uuid
language plpgsql immutable as $$
declare
    digest bytea := uuid_send(sync_digest(log::text, client, (change - 'eventId')::text));
    stamp text;
begin
    if change ->> 'op' = 'delete' and coalesce(change -> 'deletedAt', 'null') = 'null' then
        return null;
    end if;
    stamp := case change ->> 'op'
        when 'insert' then coalesce(sync_stamp(change -> 'data' ->> 'updatedAt'), sync_stamp(change -> 'data' ->> 'createdAt'))
        when 'delete' then sync_stamp(change ->> 'deletedAt')
        else (select max(sync_stamp(coalesce(f.field ->> 'updatedAt', f.field ->> 'at')) collate "C")
              from jsonb_each(change -> 'fields') as f (name, field))
    end;
    if stamp is null or stamp < '1970' then
        stamp := '1970-01-01T00:00:00.000Z';
    end if;
    digest := substr(int8send((extract(epoch from stamp::timestamptz) * 1000)::int8), 3, 6) || substr(digest, 1, 10);
    digest := set_byte(digest, 6, get_byte(digest, 6) & 15 | 128);
    return encode(set_byte(digest, 8, get_byte(digest, 8) & 63 | 128), 'hex')::uuid;
end
$$;

-- Tells the replicas what was stored, after the commit: the payload of fanout/wakeup.rs.
create function sync_notify(log sync_heads, client text, tables text[], first timestamptz) returns void
language plpgsql as $$
declare
    key text := translate(rtrim(encode(uuid_send(log.user_key), 'base64'), '='), '+/', '-_');
    last int8 := extract(epoch from log.head) * 1000000;
    entry jsonb := jsonb_build_array(key, log.app_id, client, to_jsonb(tables),
        jsonb_build_array(jsonb_build_array((extract(epoch from first) * 1000000)::int8, last)));
begin
    -- What is too long to say is looked up by whoever hears it.
    if octet_length(entry::text) > 2000 then
        entry := jsonb_build_array(key, log.app_id, null, null, jsonb_build_array(jsonb_build_array(last, last)));
    end if;
    perform pg_notify('mana_sync', jsonb_build_object('v', 1, 'w', jsonb_build_array(entry))::text);
end
$$;

-- Takes a log's head without moving it, and makes one if there is none.
create function sync_lock_head(log uuid, of_user text, of_app text) returns void
language plpgsql as $$
begin
    perform from sync_heads where log_id = log for update;
    if not found then
        insert into sync_heads (log_id, user_key, user_id, app_id, head, previous)
        values (log, sync_user_key(of_user), of_user, of_app, 'epoch', 'epoch') on conflict do nothing;
        perform from sync_heads where log_id = log for update;
    end if;
end
$$;

-- Stores rows that have no places yet in a log whose head is held, each id once, and tells the replicas.
create function sync_store_rows(rows sync_row[], log uuid, of_user text, of_app text, client text) returns void
language plpgsql as $$
declare
    fresh sync_row[] := (select array_agg(r order by n) from (
        select distinct on (rows[n].id) n, rows[n] as r from generate_subscripts(rows, 1) as n order by rows[n].id, n
    ) as once);
    count int := coalesce(cardinality(fresh), 0);
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
    if coalesce(current_setting('mana_sync.notify', true), '') not in ('off', 'false', 'no', '0') then
        perform sync_notify(h, client, (select array_agg(distinct r.table_name) from unnest(fresh) as r), taken.previous)
        from sync_heads h where h.log_id = log;
    end if;
end
$$;

-- Stores changes as a push of a device of that user would, all or none, in the caller's transaction. `changes` is the
-- list of the wire. Answers the cursor of the log's newest change. A change that is stored already is not stored again.
-- Devices are woken at the commit, unless mana_sync.notify is off: then within the reconciler's period.
create function sync_push(user_id text, app_id text, client_id text, changes jsonb) returns text
language plpgsql security definer as $$
#variable_conflict use_column
declare
    log uuid := sync_log_id(sync_push.user_id, sync_push.app_id);
    client text := coalesce(nullif(sync_push.client_id, ''), 'sql');
    latest text := sync_latest_stamp();
    now text := sync_iso(clock_timestamp());
    change jsonb;
    index int := -1;
    row sync_row;
    rows sync_row[] := '{}';
begin
    perform sync_check_name('user_id', sync_push.user_id, 255), sync_check_name('app_id', sync_push.app_id, 255),
            sync_check_name('client_id', client, 255);
    if coalesce(jsonb_typeof(changes), 'null') <> 'array' then
        perform sync_refuse('changes must be a list of changes');
    elsif jsonb_array_length(changes) > 10000 then
        perform sync_refuse(format('this push has %s changes; send at most 10000 in one', jsonb_array_length(changes)));
    end if;
    if (select count(*) > 5000 or sum(octet_length(named)) > 131072
        from (select distinct c ->> 'table' as named from jsonb_array_elements(changes) as c where jsonb_typeof(c) = 'object') t) then
        perform sync_refuse('this push writes to more than 5000 tables, or their names have more than 128 KiB together');
    end if;
    perform sync_write_taken();
    if jsonb_array_length(changes) > 0 then
        -- First, so that what others store meanwhile is seen to be there.
        perform sync_lock_head(log, sync_push.user_id, sync_push.app_id);
    end if;
    for change in select * from jsonb_array_elements(changes) loop
        index := index + 1;
        row := sync_read_change(change, format('changes[%s]', index), latest, now);
        row.id := coalesce(sync_change_id(log, client, change), gen_random_uuid());
        if not exists (select from sync_changes s where s.id = row.id) then
            rows := rows || row;
        end if;
    end loop;
    perform sync_store_rows(rows, log, sync_push.user_id, sync_push.app_id, client);
    return sync_cursor(coalesce((select h.head from sync_heads h where h.log_id = log), 'epoch'));
end
$$;

revoke execute on function sync_push(text, text, text, jsonb) from public;
do $$
begin
    execute format('alter function sync_push(text, text, text, jsonb) set search_path = %I, pg_temp', current_schema());
end
$$;
