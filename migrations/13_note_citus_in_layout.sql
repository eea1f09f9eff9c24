-- Whether the buckets are distributed over a Citus cluster: pushes are stored by another statement there, which replicas of the
-- version before do not know. They keep working on buckets that are not.
alter table sync_layout add column on_citus boolean not null default false;
