-- Programs ask by user, app and table, not by log. One index serves them and the replicas: an index more would cost every
-- push, and this one costs what the other did. Compared byte by byte (text_pattern_ops), whatever the database's collation;
-- equality, which is all that is asked of the names, is the same.
create index sync_changes_by_user on sync_changes
    (user_id text_pattern_ops, app_id text_pattern_ops, table_name text_pattern_ops, created_at);

-- Replicas of the version before find a table's changes by log meanwhile.
drop index sync_changes_by_table;
