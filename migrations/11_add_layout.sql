-- Over how many buckets the logs are distributed: schemas sync_b00, sync_b01, … by a hash of the user. No row: they are not,
-- and stand in the tables of this schema. The table in a bucket's own schema stays empty.
create table sync_layout (
    one       boolean primary key default true check (one),
    buckets   integer not null check (buckets between 2 and 64),
    -- Logs are on their way into the buckets: no replica may serve.
    is_moving boolean not null
);

-- Every replica asks every second, whatever its role may do otherwise.
grant select on sync_layout to public;
