//! Different spellings of URLs.

use super::server::Server;
use super::{connect, said};
use mana_sync::config::Secret;
use mana_sync::db::Connector;

#[tokio::test]
async fn sockets_addresses_and_encoded_names_lead_to_the_server() {
    let server = Server::plain().await;
    let port = server.port();
    let socket = server.folder.display().to_string();
    let encoded = socket.replace('/', "%2F");
    let abstracted = &server.abstracted;
    let word = "word:p%40ss%2fw%3ard%3F%23%25%26%20%c3%bc";
    for url in [
        format!("postgres://any@[::1]:{port}/postgres"),
        format!("postgresql://any@localhost:{port}/postgres"),
        format!("postgres:///postgres?host={socket}&port={port}&user=any"),
        format!("postgres://any@{encoded}:{port}/postgres"),
        format!("postgres:///postgres?host={abstracted}&port={port}&user=any"),
        format!("postgres://any@{}:{port}/postgres", abstracted.replace('@', "%40")),
        // A Unix socket is not encrypted, as nobody else can listen in.
        format!("postgres://any@{encoded}:{port}/postgres?sslmode=verify-full"),
        format!("postgres://us%20er@127.0.0.1:{port}/postgres"),
        format!("\n  postgres://any@127.0.0.1:{port}/postgres\r\n"),
        format!("postgres://{word}@127.0.0.1:{port}/postgres"),
        format!("postgres://127.0.0.1:{port}/postgres?user=word&password=p%40ss/w:rd%3F%23%25%26%20%c3%bc"),
        format!("postgres://any@nobody.invalid:{port}/postgres?hostaddr=127.0.0.1"),
        format!("postgres://any@127.0.0.1:{port}/postgres?options=-c%20statement_timeout%3D5s&gssencmode=disable"),
        format!(
            "postgres://any@127.0.0.1:{port}/postgres?keepalives_idle=32767&keepalives_interval=32767&keepalives_count=127&tcp_user_timeout=2147483647"
        ),
    ] {
        let connected = connect(&url).await;
        assert!(connected.is_ok(), "{url}: {:?}", connected.map_err(|error| said(&error)));
    }
    let error = connect(&format!("postgres://word:s3cret@127.0.0.1:{port}/postgres")).await.unwrap_err();
    assert!(!error.is_passing() && !said(&error).contains("s3cret"), "{}", said(&error));
    let error = connect(&format!("postgres://word@127.0.0.1:{port}/postgres")).await.unwrap_err();
    assert!(!error.is_passing(), "{}", said(&error));
}

#[tokio::test]
async fn options_that_end_in_a_backslash_leave_ours_as_they_are() {
    let server = Server::plain().await;
    for (options, name) in [
        (r"-c my.word=a\ b", "a b"),
        (r"-c my.word=a\\", r"a\"),
        // PostgreSQL ignores a backslash with nothing behind it.
        (r"-c my.word=a\", "a"),
    ] {
        let options = options.replace('\\', "%5C").replace(' ', "%20");
        let url = server.url("any", "localhost", &format!("options={options}"));
        let connector = Connector::new(&Secret::from(&*url), "").unwrap().with_settings(&[("statement_timeout", 7)]);
        let session = connector.open().await.unwrap();
        let row = session.query_one("select current_setting('my.word'), current_setting('statement_timeout')", &[]);
        let row = row.await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (name, "7ms"), "{options}");
    }
}
