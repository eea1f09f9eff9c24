//! What would stop a distribution half-way stops it before it begins: from then on no replica may serve.

use super::*;

async fn refused(url: &str, sentence: &str) {
    let said = failed(url, &["distribute", "--buckets", "4"]).await;
    assert!(said.contains(sentence) && said.contains("Nothing was changed"), "{said}");
    assert_eq!(number(url, "select count(*) from sync_layout").await, 0);
    assert_eq!(number(url, "select count(*) from pg_namespace where nspname like 'sync%'").await, 0);
}

#[tokio::test]
async fn columns_that_buckets_would_not_have_are_named() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    for (change, named, undo) in [
        ("sync_changes add mine int", "mine of sync_changes", "sync_changes drop mine"),
        ("sync_heads add mine text not null default 'x'", "mine of sync_heads", "sync_heads drop mine"),
        ("sync_history add mine int", "mine of sync_history", "sync_history drop mine"),
        (
            "sync_changes add mine text generated always as (upper(table_name)) stored",
            "mine of sync_changes",
            "sync_changes drop mine",
        ),
        (
            "sync_changes alter table_name type varchar(300)",
            "table_name of sync_changes",
            "sync_changes alter table_name type text",
        ),
        (
            "sync_erased alter app_id type text collate \"C\"",
            "app_id of sync_erased",
            "sync_erased alter app_id type text collate \"default\"",
        ),
    ] {
        sql(&url, format!("alter table {change}")).await;
        refused(&url, named).await;
        sql(&url, format!("alter table {undo}")).await;
    }
    // A column that was dropped again is in nobody's way.
    distribute(&url).await;
}

#[tokio::test]
async fn a_database_that_does_not_let_a_bucket_be_created_stays_as_it_is() {
    let url = create_database().await;
    succeeded(&url, &["migrate"]).await;
    let trigger = "
        create function no_schemas() returns event_trigger language plpgsql as $$
        begin
            if tg_tag = 'CREATE SCHEMA' then raise 'ask the owner'; end if;
        end $$;
        create event trigger no_schemas on ddl_command_start execute function no_schemas()";
    sql(&url, trigger).await;
    refused(&url, "ask the owner").await;
    sql(&url, "drop event trigger no_schemas").await;
    distribute(&url).await;
}
