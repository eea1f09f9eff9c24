-- A head past the year 9999, which only a statement of somebody's own can set, cannot be written as a cursor: whoever reads the
-- log starts over each time, and an infinite one is the position of one change only. It is refused from now on. Where there is
-- one, the log continues at the clock, and what was stored past that year comes next, in its order.
do $$
declare
    latest constant timestamptz := '9999-01-01 00:00:00+00';
    log sync_heads;
    last timestamptz;
    change uuid;
begin
    for log in select h.* from sync_heads h where h.head >= latest order by h.log_id for update loop
        last := greatest((select max(c.created_at) from sync_changes c where c.log_id = log.log_id and c.created_at < latest),
                         date_bin('20 microseconds', clock_timestamp(), 'epoch'));
        -- One by one: Citus computes nothing of a column in an update.
        for change in
            select c.id from sync_changes c where c.log_id = log.log_id and c.created_at >= latest order by c.created_at
        loop
            last := last + interval '20 microseconds';
            update sync_changes c set created_at = last where c.id = change;
        end loop;
        update sync_heads h set head = last, previous = 'epoch' where h.log_id = log.log_id;
    end loop;
    -- Not valid: it need not read the table to know that there is none. Citus sends its servers the text that a command came in,
    -- which must have no other one.
    execute 'alter table sync_heads add constraint sync_heads_head check (head < timestamptz ''9999-12-31 23:00:00+00'') not valid';
end
$$;
