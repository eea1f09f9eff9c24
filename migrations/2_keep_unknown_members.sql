-- What the protocol does not name in a change is kept as it came, and sent back with it.

alter table sync_changes
    -- A JSON object of those members, by their names on the wire; null if there are none.
    add column extra jsonb;

comment on column sync_changes.size is 'Bytes of data, field_timestamps and extra as they are written out, at most';
