-- Programs may insert into sync_changes in the words of the server before us. Rows that name no log, as theirs do, get
-- their log, cursor and size here. The replicas name the log, so for their rows nothing of this runs.

alter table sync_changes
    alter column id set default gen_random_uuid(),
    -- The words of programs: folded into field_timestamps and extra, and null in every stored row.
    add column field_meta jsonb,
    add column schema_version int,
    add column actor jsonb,
    add column origin text,
    add column space_id text;

-- What is wrong with a value, said to whoever wrote it.
create function sync_refuse(message text) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'invalid_parameter_value', message = message;
end
$$;

-- A name that can be stored: not empty, at most so many bytes. The limits are those of protocol/push.
create function sync_check_name(what text, name text, bytes int) returns void
language plpgsql as $$
begin
    if coalesce(name, '') = '' then
        perform sync_refuse(what || ' is missing or empty');
    elsif octet_length(name) > bytes then
        perform sync_refuse(format('%s is longer than %s bytes', what, bytes));
    end if;
end
$$;

-- An object, or null as an empty one.
create function sync_object(what text, value jsonb) returns jsonb
language plpgsql as $$
begin
    if coalesce(jsonb_typeof(value), 'null') = 'null' then
        return '{}';
    elsif jsonb_typeof(value) <> 'object' then
        perform sync_refuse(what || ' must be a JSON object');
    end if;
    return value;
end
$$;

-- Refuses what clients could not read, or what would be many times as long as its program meant. Looks closely only at
-- values that could be such.
create function sync_check_value(what text, value jsonb) returns void
language plpgsql as $$
declare
    written text := value::text;
begin
    if octet_length(written) > 10485760 then
        perform sync_refuse(what || ' is longer than 10 MB');
    end if;
    if length(written) - length(translate(written, '[{', '')) > 512
        and jsonb_path_exists(value, 'lax $.**{512}') then
        perform sync_refuse(what || ' is nested more than 512 levels deep');
    end if;
    if octet_length(written) > 1000 and written ~ '[0-9.]{250}' and exists (
        select from jsonb_path_query(value, 'lax $.** ? (@.type() == "number")') as number
        where octet_length(number::text) > 1001
    ) then
        perform sync_refuse(what || ' has a number of more than 1000 digits');
    end if;
end
$$;

-- Refuses records of more fields than a push may write, or with longer names.
create function sync_check_fields(what text, fields jsonb) returns void
language plpgsql as $$
begin
    if octet_length(fields::text) > 1024 and (
        select count(*) > 4096 or max(octet_length(name)) > 1024 from jsonb_object_keys(fields) as name
    ) then
        perform sync_refuse(what || ' may have 4096 fields, with names of 1024 bytes');
    end if;
end
$$;

-- What is kept with a change beside what the protocol names.
create function sync_check_extra(what text, extra jsonb) returns jsonb
language plpgsql as $$
declare
    kept jsonb := extra - array['table', 'id', 'op', 'data', 'fields', 'deletedAt', 'eventId'];
begin
    if coalesce(kept, '{}') = '{}' then
        return null;
    elsif octet_length(kept::text) > 16384 then
        perform sync_refuse(what || ' take more than 16 KiB');
    end if;
    perform sync_check_value(what, kept);
    return kept;
end
$$;

-- The stamp in a member, null where there is none, refused where it is something else. An empty text is none in rows of
-- programs, but not in a push.
create function sync_read_stamp(what text, member jsonb, empty_is_none boolean default true) returns text
language plpgsql as $$
declare
    stamp text := sync_stamp(member #>> '{}');
begin
    if coalesce(member, 'null') = 'null' or empty_is_none and member = '""' then
        return null;
    elsif jsonb_typeof(member) <> 'string' or stamp is null then
        perform sync_refuse(what || ' is not an RFC 3339 date and time such as 2024-01-01T10:05:00.000Z');
    end if;
    return stamp;
end
$$;

-- The latest stamp that may be stored now: see MAX_CLOCK_SKEW_MS, whose default this is.
create function sync_latest_stamp() returns text
language plpgsql as $$
begin
    return sync_iso(clock_timestamp() + interval '5 minutes');
end
$$;

-- Bytes of a change as JSON: a page is cut by their sum.
create function sync_size(data jsonb, stamps jsonb, extra jsonb) returns int
language plpgsql immutable as $$
begin
    return coalesce(octet_length(data::text), 0) + coalesce(octet_length(stamps::text), 0)
        + coalesce(octet_length(extra::text), 0);
end
$$;

-- Takes the head of a log, so many positions further. Whoever has taken it holds its lock until the transaction ends, so
-- what is stored in a log becomes visible in the order of its cursors. Answers the new head and the one before.
create function sync_take_head(log uuid, of_user text, of_app text, changes int, out head timestamptz, out previous timestamptz)
language plpgsql as $$
begin
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous)
    values (log, sync_user_key(of_user), of_user, of_app,
            date_bin('20 microseconds', clock_timestamp(), 'epoch') + (changes - 1) * interval '20 microseconds', 'epoch')
    on conflict (log_id) do update set
        previous = h.head,
        head = greatest(date_bin('20 microseconds', clock_timestamp(), 'epoch') + (changes - 1) * interval '20 microseconds',
                        h.head + changes * interval '20 microseconds')
    returning h.head, h.previous into head, previous;
end
$$;

-- The position of the next row of a statement. Only the first row of a statement writes the head: each version of it
-- would have to be passed over by the next (10,000 rows took 4.8 s). How far the statement has come is kept in a setting
-- of the transaction, `<log> <µs>`, and written at its end. Savepoints take it back like everything else. It is believed
-- only as far as the clock goes: whoever sets it can move nothing but their own row.
create function sync_next_position(log uuid, of_user text, of_app text) returns timestamptz
language plpgsql as $$
declare
    taken text[] := string_to_array(current_setting('mana_sync.taken', true), ' ');
    at timestamptz;
begin
    if taken[1] = log::text then
        select greatest(date_bin('20 microseconds', clock_timestamp(), 'epoch'),
                        h.head + interval '20 microseconds',
                        timestamptz 'epoch' + (taken[2]::int8 + 20) * interval '1 microsecond')
        into at from sync_heads h where h.log_id = log for update;
        if at > clock_timestamp() + interval '1 hour' then
            at := null;
        end if;
    end if;
    if at is null then
        perform sync_write_taken();
        at := (sync_take_head(log, of_user, of_app, 1)).head;
    end if;
    perform set_config('mana_sync.taken', log || ' ' || (extract(epoch from at) * 1000000)::int8, true);
    return at;
end
$$;

-- Writes the head as far as the statement has come.
create function sync_write_taken() returns void
language plpgsql as $$
declare
    taken text[] := string_to_array(current_setting('mana_sync.taken', true), ' ');
begin
    if cardinality(taken) = 2 then
        update sync_heads h set previous = h.head, head = t.head
        from (select timestamptz 'epoch' + taken[2]::int8 * interval '1 microsecond' as head) as t
        where h.log_id = taken[1]::uuid and h.head < t.head and t.head < clock_timestamp() + interval '1 hour';
        perform set_config('mana_sync.taken', '', true);
    end if;
end
$$;

-- Makes a row that a program wrote one of ours.
create function sync_accept_row() returns trigger
language plpgsql security definer as $$
declare
    stamps jsonb := sync_object('field_meta', new.field_meta) || sync_object('field_timestamps', new.field_timestamps);
    latest text := sync_latest_stamp();
begin
    new.client_id := coalesce(nullif(new.client_id, ''), 'sql');
    perform sync_check_name('user_id', new.user_id, 255), sync_check_name('app_id', new.app_id, 255),
            sync_check_name('table_name', new.table_name, 255), sync_check_name('record_id', new.record_id, 1024),
            sync_check_name('client_id', new.client_id, 255), sync_check_value('data', new.data);
    if new.op not in ('insert', 'update', 'delete') then
        -- The table's own check refuses it.
        return new;
    end if;
    new.extra := sync_check_extra('extra, actor, origin and space_id', sync_object('extra', new.extra)
        || jsonb_strip_nulls(jsonb_build_object('origin', new.origin, 'spaceId', new.space_id,
                                                'schemaVersion', new.schema_version))
        || case when coalesce(new.actor, 'null') = 'null' then '{}' else jsonb_build_object('actor', new.actor) end);
    new.field_meta := null;
    new.schema_version := null;
    new.actor := null;
    new.origin := null;
    new.space_id := null;
    new.id := coalesce(new.id, gen_random_uuid());
    new.held := null;
    new.log_id := sync_log_id(new.user_id, new.app_id);
    new.created_at := sync_next_position(new.log_id, new.user_id, new.app_id);
    select * from sync_fold_row(new.op, new.data, stamps, latest, sync_iso(new.created_at))
    into new.op, new.data, new.field_timestamps;
    new.size := sync_size(new.data, new.field_timestamps, new.extra);
    return new;
end
$$;

-- Operation, data and stamps of a row as it is stored. `latest` is the latest stamp allowed, `stored` the time of storing.
create function sync_fold_row(inout op text, inout data jsonb, inout stamps jsonb, latest text, stored text)
language plpgsql as $$
declare
    carrier text;
    stamp text;
begin
    if op = 'delete' then
        stamp := coalesce(sync_read_stamp('the stamp of deletedAt', stamps -> 'deletedAt'),
                          sync_read_stamp('deletedAt of data', case jsonb_typeof(data) when 'object' then data -> 'deletedAt' end),
                          stored);
        data := null;
        stamps := jsonb_build_object('deletedAt', least(stamp collate "C", latest));
        return;
    end if;
    data := sync_object('data', data);
    perform sync_check_fields('data', data), sync_check_fields('the stamps', stamps);
    if op = 'insert' then
        foreach carrier in array array['updatedAt', 'createdAt'] loop
            stamp := sync_stamp(case jsonb_typeof(data -> carrier) when 'string' then data ->> carrier end);
            if stamp is not null then
                data := data || jsonb_build_object(carrier, least(stamp collate "C", latest));
                stamps := '{}';
                return;
            end if;
        end loop;
        select coalesce(jsonb_object_agg(name, value), '{}') into stamps
        from jsonb_each(stamps) as s (name, value) where value not in ('null', '""');
        if stamps = '{}' then
            return;
        end if;
        -- Its stamps stand beside the data instead: it is an update, whose other fields are as old as can be.
        op := 'update';
        stored := '1970-01-01T00:00:00.000Z';
    end if;
    -- A field that has a stamp and no value is written as null.
    select coalesce(jsonb_object_agg(name, null), '{}') || data into data
    from jsonb_each(stamps) as s (name, value) where value not in ('null', '""');
    select coalesce(jsonb_object_agg(name, least(coalesce(
        sync_read_stamp(format('the stamp of field "%s"', name), stamps -> name), stored) collate "C", latest)), '{}')
    into stamps from jsonb_object_keys(data) as name;
end
$$;

create function sync_end_statement() returns trigger
language plpgsql security definer as $$
begin
    perform sync_write_taken();
    return null;
end
$$;

create trigger sync_changes_accept before insert on sync_changes
for each row when (new.log_id is null) execute function sync_accept_row();

create trigger sync_changes_end_statement after insert on sync_changes
for each statement when (coalesce(current_setting('mana_sync.taken', true), '') <> '')
execute function sync_end_statement();

-- They run with the rights of the tables' owner, so they must not be led to tables of others by the caller's settings.
do $$
begin
    execute format('alter function sync_accept_row() set search_path = %I, pg_temp', current_schema());
    execute format('alter function sync_end_statement() set search_path = %I, pg_temp', current_schema());
end
$$;
