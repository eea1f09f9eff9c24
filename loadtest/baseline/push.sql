with head as (
    insert into sync_heads as h (log_id, user_key, user_id, app_id, head, previous,
                                 untrimmed_since, stored_changes, stored_bytes)
    values ($1, $2, $3, $4,
            date_bin('20 microseconds', clock_timestamp(), 'epoch') + ($5 - 1) * interval '20 microseconds',
            'epoch', now(), $5,
            (select sum(coalesce(octet_length(c.data), 0) + octet_length(c.stamps))
             from unnest($11::text[], $12::text[]) as c (data, stamps)))
    on conflict (log_id) do update set
        previous = h.head,
        head = greatest(date_bin('20 microseconds', clock_timestamp(), 'epoch'), h.head + interval '20 microseconds')
               + ($5 - 1) * interval '20 microseconds',
        untrimmed_since = coalesce(h.untrimmed_since, excluded.untrimmed_since),
        stored_changes = h.stored_changes + excluded.stored_changes,
        stored_bytes = h.stored_bytes + excluded.stored_bytes
    returning head, previous
), stored as (
    insert into sync_changes (id, log_id, user_id, app_id, client_id, table_name, record_id, op, data,
                              field_timestamps, held, extra, size, created_at)
    select c.id, $1, $3, $4, $6, c.table_name, c.record_id, c.op, c.data::jsonb, c.stamps::jsonb, c.held::jsonb,
           null::jsonb, coalesce(octet_length(c.data), 0) + octet_length(c.stamps),
           head.head - ($5 - c.position) * interval '20 microseconds'
    from head,
         unnest($7::uuid[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
             with ordinality as c (id, table_name, record_id, op, data, stamps, held, position)
)
select head, previous from head
