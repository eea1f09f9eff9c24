//! Our table's indexes are dropped while it is filled: building them afterwards takes a fraction of the time. Its
//! triggers are disabled too, because they make PostgreSQL store rows one by one.

use super::{LOCK_TIMEOUT, TakeoverError, connect, script};
use crate::config::Secret;
use crate::db::Session;

/// Drops the indexes and the primary key, disables the triggers, and records their definitions, unless done before.
pub(super) async fn put_aside(connection: &Session) -> Result<(), TakeoverError> {
    let put_aside = "
    do $$
    declare
        made text[] := '{}';
        i record;
    begin
        if (select indexes from sync_takeover) is not null then
            return;
        end if;
        for i in
            select x.indexrelid::regclass as name, pg_get_indexdef(x.indexrelid) as definition, c.conname,
                   pg_get_constraintdef(c.oid) as key
            from pg_index x left join pg_constraint c on c.conindid = x.indexrelid and c.conrelid = x.indrelid
            where x.indrelid = 'sync_changes_incoming'::regclass
        loop
            if i.conname is not null then
                made := made || format('alter table sync_changes_incoming add constraint %I %s', i.conname, i.key);
                execute format('alter table sync_changes_incoming drop constraint %I', i.conname);
            else
                made := made || i.definition;
                execute format('drop index %s', i.name);
            end if;
        end loop;
        alter table sync_changes_incoming disable trigger user;
        update sync_takeover set indexes = made;
    end
    $$";
    Ok(script(connection, put_aside.to_owned()).await?)
}

/// Rebuilds the dropped indexes, two at a time, each in a transaction that also removes it from the list.
pub(super) async fn build(
    direct_url: &Secret,
    connection: &Session,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<(), TakeoverError> {
    let left = connection.query("select unnest(indexes) from sync_takeover", &[]).await?;
    let left: Vec<String> = left.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !left.is_empty() {
        say(format!("All rows are copied; building {} indexes.", left.len()));
    }
    let other = connect(direct_url).await?;
    // Adding the primary key blocks the other indexes, and waits for them, for as long as one takes. Nobody else knows
    // the table.
    for session in [connection, &other] {
        session.batch_execute("set lock_timeout = 0").await?;
    }
    // The largest take about the same time.
    let (first, second): (Vec<_>, Vec<_>) = left.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    tokio::try_join!(build_each(connection, first), build_each(&other, second))?;
    Ok(connection.batch_execute(LOCK_TIMEOUT).await?)
}

async fn build_each(connection: &Session, indexes: Vec<(usize, String)>) -> Result<(), TakeoverError> {
    for (_, index) in indexes {
        connection.batch_execute("begin").await?;
        script(connection, index.clone()).await?;
        let cross_off = "update sync_takeover set indexes = array_remove(indexes, $1)";
        connection.execute(cross_off, &[&index]).await?;
        connection.batch_execute("commit").await?;
    }
    Ok(())
}
