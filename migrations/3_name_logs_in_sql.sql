-- What programs that write SQL beside the replicas need to know: names, stamps and cursors, as the replicas have them.

-- SHA-256 of texts, each after its length, as a UUID of version 8: protocol/keys.rs.
create function sync_digest(variadic texts text[]) returns uuid
language plpgsql immutable strict parallel safe as $$
declare
    hashed bytea := '';
    each text;
    one bytea;
    length bytea;
    digest bytea;
begin
    foreach each in array texts loop
        one := convert_to(each, 'UTF8');
        -- Eight bytes, the lowest first.
        length := int4send(octet_length(one));
        hashed := hashed || substr(length, 4, 1) || substr(length, 3, 1) || substr(length, 2, 1)
            || substr(length, 1, 1) || '\x00000000'::bytea || one;
    end loop;
    digest := substr(sha256(hashed), 1, 16);
    digest := set_byte(digest, 6, get_byte(digest, 6) & 15 | 128);
    return encode(set_byte(digest, 8, get_byte(digest, 8) & 63 | 128), 'hex')::uuid;
end
$$;

-- Names a user: the key of sync_heads_by_user.
create function sync_user_key(user_id text) returns uuid
language plpgsql immutable strict parallel safe as $$
begin
    return sync_digest('user', user_id);
end
$$;

-- Names the log of a user in an app: the key of sync_heads, and of every index of sync_changes.
create function sync_log_id(user_id text, app_id text) returns uuid
language plpgsql immutable strict parallel safe as $$
begin
    return sync_digest('log', sync_digest('user', user_id)::text, app_id);
end
$$;

-- The instant as JavaScript's toISOString writes it; what is finer than a millisecond is cut off.
create function sync_iso(instant timestamptz) returns text
language sql immutable strict parallel safe as $$
    select case
        when instant < '0001-01-01 00:00:00+00'
            then '0000' || substr(to_char(instant at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 5)
        else to_char(instant at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    end
$$;

-- The cursor just after a position.
create function sync_cursor(at timestamptz) returns text
language sql immutable strict parallel safe as $$
    select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- A stamp in any spelling of RFC 3339, as it is stored: see protocol/stamp.rs. Null for what is no stamp. Past the year
-- 9999, in UTC, it is the last one that can be written.
create function sync_stamp(spelled text) returns text
language plpgsql immutable strict parallel safe as $$
declare
    year int;
    month int;
    day int;
    second int;
    millis text;
    ends text;
begin
    if spelled !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}' then
        return null;
    end if;
    ends := substr(spelled, 20);
    if ends !~ '^([.][0-9]+)?([Zz]|[-+−][0-9]{2}:[0-9]{2})$' then
        return null;
    end if;
    year := substr(spelled, 1, 4);
    month := substr(spelled, 6, 2);
    day := substr(spelled, 9, 2);
    second := substr(spelled, 18, 2);
    -- A second 60 is a leap second.
    if month not between 1 and 12 or day < 1 or second > 60
        or substr(spelled, 12, 2) > '23' or substr(spelled, 15, 2) > '59' then
        return null;
    end if;
    if day > 28 and day > (case
        when month in (4, 6, 9, 11) then 30
        when month <> 2 then 31
        when year % 4 = 0 and (year % 100 <> 0 or year % 400 = 0) then 29
        else 28
    end) then
        return null;
    end if;
    millis := case when ends like '.%' then rpad(left(regexp_replace(substr(ends, 2), '[^0-9].*', ''), 3), 3, '0') else '000' end;
    if right(ends, 1) in ('Z', 'z') and second < 60 then
        return substr(spelled, 1, 10) || 'T' || substr(spelled, 12, 8) || '.' || millis || 'Z';
    end if;
    return sync_stamp_elsewhere(spelled, year, millis);
end
$$;

-- The same for a stamp, whose digits have been checked, with an offset or with a leap second.
create function sync_stamp_elsewhere(spelled text, year int, millis text) returns text
language plpgsql immutable strict parallel safe as $$
declare
    ends text := case when right(spelled, 1) in ('Z', 'z') then '+00:00' else right(spelled, 6) end;
    instant timestamp;
begin
    if substr(ends, 2, 2) > '23' or substr(ends, 5, 2) > '59' then
        return null;
    end if;
    -- PostgreSQL has no year 0; it is the year before the first.
    instant := make_timestamp(case year when 0 then -1 else year end, substr(spelled, 6, 2)::int,
            substr(spelled, 9, 2)::int, substr(spelled, 12, 2)::int, substr(spelled, 15, 2)::int, 0)
        + substr(spelled, 18, 2)::int * interval '1 second'
        + millis::int * interval '1 millisecond'
        - (case left(ends, 1) when '+' then 1 else -1 end)
            * make_interval(hours => substr(ends, 2, 2)::int, mins => substr(ends, 5, 2)::int);
    if instant >= timestamp '10000-01-01' then
        return '9999-12-31T23:59:59.999Z';
    elsif instant < timestamp '0001-01-01 BC' then
        return null;
    end if;
    return sync_iso(instant at time zone 'UTC');
end
$$;
