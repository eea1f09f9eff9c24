-- Whether any of these changes of a log has been stored and trimmed away since. One call for a log and push; replicas of the
-- version before ask for each change by itself.
create function sync_in_history(log uuid, changes uuid[]) returns boolean
language plpgsql stable as $$
begin
    return exists (select from sync_history t where t.id = any(changes) and t.log_id = log);
end
$$;
