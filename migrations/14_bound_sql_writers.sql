-- What programs write by SQL costs in proportion to its length, and is bounded like a push.

-- The position of the next row of a statement. Only the first row of each log writes that log's head: each version of it
-- would have to be passed over by the next. Which logs those are is kept in a setting of the transaction, one after the
-- other, and their heads are written at the statement's end. Savepoints take it back like everything else. How far a log
-- has come is what stands in the table, so whoever sets the setting moves nothing.
create or replace function sync_next_position(log uuid, of_user text, of_app text) returns timestamptz
language plpgsql as $$
declare
    taken text := coalesce(current_setting('mana_sync.taken', true), '');
    at timestamptz;
begin
    if strpos(taken, log::text) > 0 then
        select greatest(date_bin('20 microseconds', clock_timestamp(), 'epoch'),
                        h.head + interval '20 microseconds',
                        (select c.created_at from sync_changes c where c.log_id = log
                         order by c.log_id desc, c.created_at desc limit 1) + interval '20 microseconds')
        into at from sync_heads h where h.log_id = log for update;
    end if;
    if at is null then
        -- Reading the setting must not cost more than the row does.
        if length(taken) > 37000 then
            perform sync_write_taken();
            taken := '';
        end if;
        at := (sync_take_head(log, of_user, of_app, 1)).head;
        perform set_config('mana_sync.taken', taken || log || ' ', true);
    end if;
    return at;
end
$$;

-- Writes the heads of the logs that the statement has taken, as far as their rows go.
create or replace function sync_write_taken() returns void
language plpgsql as $$
declare
    taken text := coalesce(current_setting('mana_sync.taken', true), '');
begin
    if taken = '' then
        return;
    end if;
    update sync_heads h set previous = h.head, head = t.head
    from (
        select l.log::uuid as log, (select c.created_at from sync_changes c where c.log_id = l.log::uuid
                                    order by c.log_id desc, c.created_at desc limit 1) as head
        from string_to_table(taken, ' ') as l (log) where length(l.log) = 36
        offset 0
    ) as t
    where h.log_id = t.log and h.head < t.head;
    perform set_config('mana_sync.taken', '', true);
end
$$;

-- The stamp of a field of an update, which is checked.
create function sync_read_field(place text, name text, field jsonb) returns text
language plpgsql as $$
declare
    stamp text;
begin
    if jsonb_typeof(field) <> 'object' then
        perform sync_refuse(format('%s: field "%s" must look like {"value":…,"updatedAt":"…"}', place, name));
    end if;
    perform sync_check_value(format('%s: field "%s"', place, name), field -> 'value');
    stamp := sync_read_stamp(format('%s: updatedAt of field "%s"', place, name),
                             coalesce(nullif(field -> 'updatedAt', 'null'), field -> 'at'), false);
    if stamp is null then
        perform sync_refuse(format('%s: field "%s" has no updatedAt', place, name));
    end if;
    return stamp;
end
$$;

-- As before; its cost grows with the fields, not with their square.
create or replace function sync_read_update(fields jsonb, place text, latest text, out data jsonb, out stamps jsonb, out held jsonb)
language plpgsql as $$
begin
    if coalesce(jsonb_typeof(fields), 'null') <> 'object' then
        perform sync_refuse(place || ': an update needs fields: {"<field>":{"value":…,"updatedAt":"…"}}');
    end if;
    perform sync_check_fields(place || ': an update', fields);
    select coalesce(jsonb_object_agg(f.name, f.field -> 'value'), '{}'),
           coalesce(jsonb_object_agg(f.name, least(f.stamp collate "C", latest)), '{}'),
           jsonb_object_agg(f.name, f.stamp) filter (where f.stamp collate "C" > latest)
    into data, stamps, held
    from (
        select e.name, e.field, sync_read_field(place, e.name, e.field) as stamp
        from jsonb_each(fields) as e (name, field)
    ) as f;
end
$$;

-- The id of a change that has been checked, the same whenever it comes again, however its stamps are spelled and whichever
-- of their names they have: 48 bits of its latest stamp, so that ids of one time lie together in the primary key, then
-- digest. Null for a delete without a stamp, which is another one each time. `nth`: which of equal inserts in one push it
-- is; where they have no stamp each counts, as in a push of a device, and in the next push they are the same again.
drop function sync_change_id(uuid, text, jsonb);
create function sync_change_id(log uuid, client text, change jsonb, nth bigint) returns uuid
language plpgsql immutable as $$
declare
    same jsonb := change - 'eventId';
    fields jsonb;
    stamp text;
    digest bytea;
begin
    case change ->> 'op'
        when 'insert' then
            stamp := coalesce(sync_stamp(change -> 'data' ->> 'updatedAt'), sync_stamp(change -> 'data' ->> 'createdAt'));
        when 'delete' then
            stamp := sync_stamp(change ->> 'deletedAt');
            if stamp is null then
                return null;
            end if;
            same := same || jsonb_build_object('deletedAt', stamp);
        else
            select max(f.stamp collate "C"),
                   jsonb_object_agg(f.name, (f.field - array['at', 'updatedAt']) || jsonb_build_object('updatedAt', f.stamp))
            into stamp, fields
            from (
                select e.name, e.field,
                       sync_stamp(coalesce(nullif(e.field -> 'updatedAt', 'null'), e.field -> 'at') #>> '{}') as stamp
                from jsonb_each(change -> 'fields') as e (name, field)
                offset 0
            ) as f;
            same := same || jsonb_build_object('fields', coalesce(fields, '{}'));
    end case;
    if stamp is null and nth > 1 then
        digest := uuid_send(sync_digest(log::text, client, same::text, nth::text));
    else
        digest := uuid_send(sync_digest(log::text, client, same::text));
    end if;
    if stamp is null or stamp < '1970' then
        stamp := '1970-01-01T00:00:00.000Z';
    end if;
    digest := substr(int8send((extract(epoch from stamp::timestamptz) * 1000)::int8), 3, 6) || substr(digest, 1, 10);
    digest := set_byte(digest, 6, get_byte(digest, 6) & 15 | 128);
    return encode(set_byte(digest, 8, get_byte(digest, 8) & 63 | 128), 'hex')::uuid;
end
$$;

-- Stores changes as a push of a device of that user would, all or none, in the caller's transaction. `changes` is the
-- list of the wire, of at most 10 MB. Answers the cursor of the log's newest change. A change that is stored already is
-- not stored again. Devices are woken at the commit, unless mana_sync.notify is off: then within the reconciler's period.
create or replace function sync_push(user_id text, app_id text, client_id text, changes jsonb) returns text
language plpgsql security definer as $$
#variable_conflict use_column
declare
    log uuid := sync_log_id(sync_push.user_id, sync_push.app_id);
    client text := coalesce(nullif(sync_push.client_id, ''), 'sql');
    latest text := sync_latest_stamp();
    now text := sync_iso(clock_timestamp());
    change jsonb;
    index bigint;
    nth bigint;
    row sync_row;
    rows sync_row[] := '{}';
    ids uuid[] := '{}';
    known uuid[];
begin
    perform sync_check_name('user_id', sync_push.user_id, 255), sync_check_name('app_id', sync_push.app_id, 255),
            sync_check_name('client_id', client, 255);
    -- First: whatever else is asked of them costs more.
    if octet_length(changes::text) > 10485760 then
        perform sync_refuse('this push has more than 10 MB; send its changes in several');
    elsif coalesce(jsonb_typeof(changes), 'null') <> 'array' then
        perform sync_refuse('changes must be a list of changes');
    elsif jsonb_array_length(changes) > 10000 then
        perform sync_refuse(format('this push has %s changes; send at most 10000 in one', jsonb_array_length(changes)));
    end if;
    if (select count(*) > 5000 or sum(octet_length(named)) > 131072
        from (select distinct c ->> 'table' as named from jsonb_array_elements(changes) as c where jsonb_typeof(c) = 'object') t) then
        perform sync_refuse('this push writes to more than 5000 tables, or their names have more than 128 KiB together');
    end if;
    for change, index, nth in
        select c.change, c.number - 1,
               row_number() over (partition by case c.change ->> 'op' when 'insert' then c.change - 'eventId' end order by c.number)
        from jsonb_array_elements(changes) with ordinality as c (change, number)
        order by c.number
    loop
        row := sync_read_change(change, format('changes[%s]', index), latest, now);
        row.id := coalesce(sync_change_id(log, client, change, nth), gen_random_uuid());
        rows := rows || row;
        ids := ids || row.id;
    end loop;
    perform sync_write_taken();
    if cardinality(ids) > 0 then
        -- All has been checked, which may take a while. What others store from here on is seen to be there.
        perform sync_lock_head(log, sync_push.user_id, sync_push.app_id);
        select array_agg(s.id) into known from sync_changes s where s.id = any(ids);
        if known is not null then
            rows := array(
                select rows[n.n] from generate_subscripts(ids, 1) as n (n)
                where not exists (select from unnest(known) as k (id) where k.id = ids[n.n]) order by n.n);
        end if;
        perform sync_store_rows(rows, log, sync_push.user_id, sync_push.app_id, client);
    end if;
    return sync_cursor(coalesce((select h.head from sync_heads h where h.log_id = log), 'epoch'));
end
$$;

do $$
begin
    execute format('alter function sync_push(text, text, text, jsonb) set search_path = %I, pg_temp', current_schema());
end
$$;
