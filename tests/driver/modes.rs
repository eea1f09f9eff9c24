//! libpq's table: the effect of each `sslmode` with a server with TLS, with one without, and with one that accepts only
//! one of the two.

use super::authority::{Authority, Kind};
use super::server::Server;
use super::{connect, said};
use mana_sync::config::{PostgresUrl, Secret};
use mana_sync::db::Connector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PLAIN: Option<bool> = Some(false);
const TLS: Option<bool> = Some(true);
const REFUSED: Option<bool> = None;

/// Connects with each mode; checks whether the connection is encrypted, unencrypted or refused.
async fn assert_modes(server: &Server, user: &str, more: &str, expected: [(&str, Option<bool>); 6]) {
    for (mode, expected) in expected {
        let url = server.url(user, "localhost", &format!("sslmode={mode}{more}"));
        let connected = connect(&url).await;
        let shown = connected.as_ref().map_err(|error| said(error));
        assert_eq!(connected.as_ref().ok().copied(), expected, "{mode}{more} as {user}: {shown:?}");
    }
}

#[tokio::test]
async fn every_mode_does_at_every_server_what_libpq_does() {
    let modes = |expected: [Option<bool>; 6]| {
        let names = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
        std::array::from_fn::<_, 6, _>(|at| (names[at], expected[at]))
    };
    let (authority, stranger) = (Authority::new(), Authority::new());
    let right = format!("&sslrootcert={}", authority.root().display());
    let wrong = format!("&sslrootcert={}", stranger.root().display());

    let server = Server::with_tls(authority.issue("server", "localhost", Kind::Named), None).await;
    // Without a root certificate, any certificate is accepted, except in the modes that verify.
    assert_modes(&server, "any", "", modes([PLAIN, PLAIN, TLS, TLS, REFUSED, REFUSED])).await;
    assert_modes(&server, "tls", "", modes([REFUSED, TLS, TLS, TLS, REFUSED, REFUSED])).await;
    assert_modes(&server, "plain", "", modes([PLAIN, PLAIN, PLAIN, REFUSED, REFUSED, REFUSED])).await;
    assert_modes(&server, "any", &right, modes([PLAIN, PLAIN, TLS, TLS, TLS, TLS])).await;
    // With one, the certificate is verified in every mode; where TLS is optional, the connection falls back to
    // plaintext.
    assert_modes(&server, "any", &wrong, modes([PLAIN, PLAIN, PLAIN, REFUSED, REFUSED, REFUSED])).await;
    assert_modes(&server, "tls", &wrong, modes([REFUSED; 6])).await;
    let missing = "&sslrootcert=/nowhere/ca.crt";
    assert_modes(&server, "any", missing, modes([PLAIN, PLAIN, TLS, TLS, REFUSED, REFUSED])).await;
    assert_eq!(connect(&server.url("any", "localhost", "")).await.ok(), TLS, "without sslmode it is prefer");

    let server = Server::plain().await;
    assert_modes(&server, "any", "", modes([PLAIN, PLAIN, PLAIN, REFUSED, REFUSED, REFUSED])).await;
    assert_modes(&server, "any", &right, modes([PLAIN, PLAIN, PLAIN, REFUSED, REFUSED, REFUSED])).await;
}

#[tokio::test]
async fn the_name_is_verified_by_verify_full_alone() {
    let authority = Authority::new();
    let root = authority.root().display().to_string();
    let server = Server::with_tls(authority.issue("server", "localhost", Kind::Named), None).await;
    for (mode, host, expected) in [
        ("require", "127.0.0.1", TLS),
        ("verify-ca", "127.0.0.1", TLS),
        ("verify-full", "127.0.0.1", REFUSED),
        ("verify-full", "LOCALHOST", TLS),
    ] {
        let url = server.url("any", host, &format!("sslmode={mode}&sslrootcert={root}"));
        assert_eq!(connect(&url).await.ok(), expected, "{mode} {host}");
    }
    // The address need not belong to the name.
    let url = server.url("any", "localhost", &format!("sslmode=verify-full&sslrootcert={root}&hostaddr=127.0.0.1"));
    assert_eq!(connect(&url).await.ok(), TLS);
    let url = server.url("any", "localhost", "sslrootcert=system");
    assert_eq!(connect(&url).await.ok(), REFUSED, "the system does not know this authority");
}

#[tokio::test]
async fn a_client_shows_its_certificate_and_binds_the_channel() {
    let authority = Authority::new();
    let (root, stranger) = (authority.root(), Authority::new());
    let server = Server::with_tls(authority.issue("server", "localhost", Kind::Named), Some(&root)).await;
    let (certificate, key) = authority.issue("client", "cert", Kind::Old);
    let with = |certificate: &std::path::Path, key: &std::path::Path| {
        format!("sslmode=require&sslcert={}&sslkey={}", certificate.display(), key.display())
    };
    assert_eq!(connect(&server.url("cert", "localhost", &with(&certificate, &key))).await.ok(), TLS);
    let hidden = format!("{}&sslcertmode=disable", with(&certificate, &key));
    assert_eq!(connect(&server.url("cert", "localhost", &hidden)).await.ok(), REFUSED, "it is not shown");
    assert_eq!(connect(&server.url("any", "localhost", &hidden)).await.ok(), TLS);
    let (other, other_key) = stranger.issue("client", "cert", Kind::Named);
    for refused in ["sslmode=require".to_owned(), with(&other, &other_key), with(&certificate, &other_key)] {
        let error = connect(&server.url("cert", "localhost", &refused)).await.unwrap_err();
        assert!(!said(&error).contains("client.crt"), "{}", said(&error));
    }
    let password = "p%40ss%2Fw%3Ard%3F%23%25%26%20%C3%BC";
    for (user, parameters, expected) in [
        (format!("word:{password}"), "sslmode=require&channel_binding=require", TLS),
        (format!("word:{password}"), "sslmode=require&channel_binding=disable", TLS),
        (format!("word:{password}"), "sslmode=disable&channel_binding=prefer", PLAIN),
        (format!("word:{password}"), "sslmode=disable&channel_binding=require", REFUSED),
        // Without a password, there is no channel binding.
        ("any".to_owned(), "sslmode=require&channel_binding=require", REFUSED),
    ] {
        assert_eq!(connect(&server.url(&user, "localhost", parameters)).await.ok(), expected, "{user} {parameters}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_by_their_parameter_alone() {
    let authority = Authority::new();
    let server = Server::with_tls(authority.issue("server", "localhost", Kind::Named), None).await;
    let root = authority.root();
    let garbage = authority.file("garbage");
    std::fs::write(&garbage, "s3cret").unwrap();
    let (certificate, _) = authority.issue("client", "any", Kind::Named);
    for (parameters, parameter) in [
        (format!("sslmode=verify-ca&sslrootcert={}", garbage.display()), "sslrootcert"),
        ("sslmode=verify-full&sslrootcert=/nowhere/s3cret".to_owned(), "sslrootcert"),
        (format!("sslmode=require&sslcert={}", root.display()), "sslkey"),
        (format!("sslmode=require&sslcert={}&sslkey={}", root.display(), garbage.display()), "sslkey"),
        (format!("sslmode=require&sslcert={}", garbage.display()), "sslcert"),
        (
            format!("sslmode=require&sslcert={}&sslkey={}", certificate.display(), authority.file("ca.key").display()),
            "does not hold the key of the certificate",
        ),
    ] {
        let error = connect(&server.url("any:s3cret", "localhost", &parameters)).await.unwrap_err();
        let text = said(&error);
        assert!(text.contains(parameter) && !text.contains("s3cret") && !text.contains("garbage"), "{text}");
        assert!(!error.is_passing(), "{text}");
    }
    let connector = Connector::new(&Secret::from(&*server.url("any:s3cret", "localhost", "")), "test").unwrap();
    assert!(!format!("{connector:?}").contains("s3cret"));
    assert!(
        PostgresUrl::parse("postgres://h?sslpassword=s3cret").is_err_and(|error| !error.to_string().contains("s3cret"))
    );
}

#[tokio::test]
async fn where_there_is_no_tls_a_refusal_is_told_as_it_was_and_what_passes_is_waited_for() {
    let server = Server::plain().await;
    server.run("create role full login connection limit 0").await;
    for mode in ["disable", "allow", "prefer"] {
        let error = connect(&server.url("full", "localhost", &format!("sslmode={mode}"))).await.unwrap_err();
        assert!(said(&error).contains("too many connections"), "{mode}: {}", said(&error));
        assert!(error.is_passing(), "{mode}: {}", said(&error));
        let url = server.url("word:wrong", "localhost", &format!("sslmode={mode}"));
        let error = connect(&url).await.unwrap_err();
        assert!(said(&error).contains("password authentication failed"), "{mode}: {}", said(&error));
        assert!(!error.is_passing(), "{mode}: {}", said(&error));
    }
    let authority = Authority::new();
    let server = Server::with_tls(authority.issue("server", "localhost", Kind::Named), None).await;
    server.run("create role full login connection limit 0").await;
    for mode in ["disable", "allow", "prefer", "require"] {
        let error = connect(&server.url("full", "localhost", &format!("sslmode={mode}"))).await.unwrap_err();
        assert!(error.is_passing(), "{mode}: {}", said(&error));
    }
    // Refused without TLS, and with TLS for another reason: the latter is the one to fix.
    server.run("alter role tls nologin").await;
    let error = connect(&server.url("tls", "localhost", "sslmode=allow")).await.unwrap_err();
    assert!(said(&error).contains("not permitted to log in"), "{}", said(&error));
}

#[tokio::test]
async fn a_version_of_tls_that_the_url_rules_out_is_not_used() {
    let authority = Authority::new();
    let server = Server::with_tls(authority.issue("server", "localhost", Kind::Named), None).await;
    let version = async |parameters: &str| {
        let url = server.url("any", "localhost", &format!("sslmode=require&{parameters}"));
        let session = Connector::new(&Secret::from(&*url), "driver test").unwrap().open().await?;
        let row = session.query_one("select version from pg_stat_ssl where pid = pg_backend_pid()", &[]).await;
        Ok::<_, mana_sync::db::ConnectError>(row.unwrap().get::<_, String>(0))
    };
    assert_eq!(version("").await.unwrap(), "TLSv1.3");
    assert_eq!(version("ssl_min_protocol_version=TLSv1.3").await.unwrap(), "TLSv1.3");
    assert_eq!(version("ssl_max_protocol_version=TLSv1.2").await.unwrap(), "TLSv1.2");
    server.run("alter system set ssl_max_protocol_version = 'TLSv1.2'").await;
    server.reload().await;
    assert_eq!(version("ssl_min_protocol_version=TLSv1.2").await.unwrap(), "TLSv1.2");
    let error = version("ssl_min_protocol_version=TLSv1.3").await.unwrap_err();
    assert!(!error.is_passing(), "{}", said(&error));
}

/// Answers one request for TLS; returns what the client says first.
async fn hello_to_a_server(parameters: &str) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://any@named.invalid:{port}/postgres?hostaddr=127.0.0.1&sslmode=require{parameters}");
    let hear = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_exact(&mut [0; 8]).await.unwrap();
        socket.write_all(b"S").await.unwrap();
        let mut head = [0; 5];
        socket.read_exact(&mut head).await.unwrap();
        let mut hello = vec![0; u16::from_be_bytes([head[3], head[4]]).into()];
        socket.read_exact(&mut hello).await.unwrap();
        hello
    };
    let (error, hello) = tokio::join!(connect(&url), hear);
    assert!(error.is_err(), "the server closes");
    hello
}

#[tokio::test]
async fn the_name_of_the_host_is_sent_in_the_clear_unless_the_url_forbids_it() {
    let names = |hello: &[u8]| hello.windows(13).any(|bytes| bytes == b"named.invalid");
    assert!(names(&hello_to_a_server("").await));
    assert!(names(&hello_to_a_server("&sslsni=1").await));
    assert!(!names(&hello_to_a_server("&sslsni=0").await));
}
