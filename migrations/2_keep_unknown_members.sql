alter table sync_changes add column extra jsonb;
