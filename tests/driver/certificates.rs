//! Certificates of the kinds that databases use and the public web doesn't.

use super::authority::{Authority, Kind};
use super::server::Server;
use super::{connect, said};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Returns whether a server with this certificate is accepted, in each of the verifying modes.
async fn taken(pair: (PathBuf, PathBuf), root: &Path) -> [bool; 2] {
    let server = Server::with_tls(pair, None).await;
    taken_at(&server, "localhost", root).await
}

/// The same for a running server, under this name. If psql is installed, libpq must agree.
async fn taken_at(server: &Server, host: &str, root: &Path) -> [bool; 2] {
    let mut taken = [false; 2];
    for (mode, taken) in ["verify-ca", "verify-full"].into_iter().zip(&mut taken) {
        let url = server.url("any", host, &format!("sslmode={mode}&sslrootcert={}", root.display()));
        let connected = connect(&url).await;
        if let Err(error) = &connected {
            println!("{mode}: {}", said(error));
            assert!(!error.is_passing(), "nobody need wait for another certificate");
        }
        *taken = connected.is_ok();
        if let Some(by_libpq) = taken_by_psql(&url) {
            assert_eq!(*taken, by_libpq, "{mode}: libpq says otherwise");
        }
    }
    taken
}

/// Returns whether psql connects; `None` if it is not installed.
fn taken_by_psql(url: &str) -> Option<bool> {
    let mut psql = Command::new("psql");
    psql.args(["-XAtc", "select 1", url]).env("HOME", "/nonexistent").stdin(Stdio::null());
    match psql.output() {
        Ok(done) => {
            println!("psql: {}", String::from_utf8_lossy(&done.stderr));
            Some(done.status.success())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("psql: {error}"),
    }
}

#[tokio::test]
async fn one_of_the_kind_in_postgresqls_manual_is_taken() {
    let authority = Authority::new();
    assert_eq!(taken(authority.issue("server", "localhost", Kind::Old), &authority.root()).await, [true, true]);
    assert_eq!(taken(authority.issue("other", "db.example", Kind::Old), &authority.root()).await, [true, false]);
    let stranger = Authority::new();
    assert_eq!(taken(stranger.issue("server", "localhost", Kind::Old), &authority.root()).await, [false, false]);
}

#[tokio::test]
async fn one_that_is_itself_trusted_is_taken() {
    let authority = Authority::new();
    let (certificate, key) = authority.self_signed();
    assert_eq!(taken((certificate.clone(), key), &certificate).await, [true, true]);
    let stranger = Authority::new();
    let (other, key) = stranger.self_signed();
    assert_eq!(taken((other, key), &certificate).await, [false, false]);
}

#[tokio::test]
async fn one_from_an_authority_below_is_taken_with_its_chain() {
    let authority = Authority::new();
    assert_eq!(taken(authority.issue_below(), &authority.root()).await, [true, true]);
}

#[tokio::test]
async fn one_for_another_host_or_of_another_time_is_not() {
    let authority = Authority::new();
    assert_eq!(taken(authority.issue("server", "localhost", Kind::ForAnother), &authority.root()).await, [true, false]);
    assert_eq!(taken(authority.issue("late", "localhost", Kind::Expired), &authority.root()).await, [false, false]);
}

const NAMED: &str = "subjectAltName=DNS:localhost\n";

#[tokio::test]
async fn what_a_certificate_is_for_counts_as_it_does_for_openssl() {
    let authority = Authority::new();
    let server = Server::with_tls(authority.issue("first", "localhost", Kind::Named), None).await;
    for (name, extensions, expected) in [
        // As made by `openssl req -x509 -CA`.
        ("authority", "basicConstraints=critical,CA:TRUE\n", [true, true]),
        ("leaf", "basicConstraints=critical,CA:FALSE\n", [true, true]),
        (
            "for_tls",
            "basicConstraints=CA:TRUE\nkeyUsage=digitalSignature,keyCertSign\nextendedKeyUsage=serverAuth\n",
            [true, true],
        ),
        ("for_signing", "basicConstraints=CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n", [false, false]),
        ("leaf_for_signing", "keyUsage=critical,keyCertSign\n", [false, false]),
        ("for_clients", "extendedKeyUsage=clientAuth\n", [false, false]),
        ("authority_for_clients", "basicConstraints=CA:TRUE\nextendedKeyUsage=clientAuth\n", [false, false]),
        ("unknown", "basicConstraints=CA:TRUE\n1.2.3.4=critical,DER:0500\n", [false, false]),
    ] {
        server.show(&authority.issue_with(name, "/CN=localhost", &format!("{NAMED}{extensions}"), "ca")).await;
        assert_eq!(taken_at(&server, "localhost", &authority.root()).await, expected, "{name}");
        let stranger = Authority::new();
        assert_eq!(taken_at(&server, "localhost", &stranger.root()).await, [false, false], "{name}, of another");
    }
}

#[tokio::test]
async fn a_chain_ends_at_a_root_that_may_sign_now() {
    let authority = Authority::new();
    let server = Server::with_tls(authority.issue("first", "localhost", Kind::Named), None).await;
    let is_authority = "basicConstraints=critical,CA:TRUE\n";
    // The root itself: its validity period, and its permitted uses.
    for (name, extensions, days, expected) in [
        ("good", is_authority, 30, [true, true]),
        ("expired", is_authority, -1, [false, false]),
        ("no_authority", "basicConstraints=CA:FALSE\n", 30, [false, false]),
        ("says_nothing", "subjectKeyIdentifier=hash\n", 30, [false, false]),
        ("for_signatures", "basicConstraints=CA:TRUE\nkeyUsage=digitalSignature\n", 30, [false, false]),
        ("for_clients", "basicConstraints=CA:TRUE\nextendedKeyUsage=clientAuth\n", 30, [false, false]),
    ] {
        let root = authority.add_root(name, extensions, days);
        for (kind, extensions) in [("leaf", "basicConstraints=CA:FALSE\n"), ("authority", is_authority)] {
            let leaf = format!("{name}_{kind}");
            server.show(&authority.issue_with(&leaf, "/CN=localhost", &format!("{NAMED}{extensions}"), name)).await;
            assert_eq!(taken_at(&server, "localhost", &root).await, expected, "{kind} of {name}");
        }
    }

    // Below an intermediate authority.
    let (_, key) = authority.issue_below();
    let (leaf, chain) = (authority.file("leaf.crt"), authority.file("chain.crt"));
    server.show(&(chain.clone(), key.clone())).await;
    let below = authority.file("below.crt");
    assert_eq!(taken_at(&server, "localhost", &below).await, [false, false], "nobody vouches for it");
    let both = authority.together("both.crt", &["below.crt", "ca.crt"]);
    assert_eq!(taken_at(&server, "localhost", &both).await, [true, true]);
    server.show(&(leaf.clone(), key)).await;
    assert_eq!(taken_at(&server, "localhost", &authority.root()).await, [false, false], "a part is missing");
    assert_eq!(taken_at(&server, "localhost", &both).await, [true, true], "it is known here");
    assert_eq!(taken_at(&server, "localhost", &leaf).await, [false, false], "somebody else vouches for it");

    // Within the path length that the root allows.
    authority.add_root("short", "basicConstraints=critical,CA:TRUE,pathlen:0\n", 30);
    authority.issue_with("between", "/CN=between", is_authority, "short");
    let (leaf, key) = authority.issue_with("short_leaf", "/CN=localhost", NAMED, "short");
    server.show(&(leaf, key)).await;
    assert_eq!(taken_at(&server, "localhost", &authority.file("short.crt")).await, [true, true]);
    let (_, key) = authority.issue_with("long_leaf", "/CN=localhost", NAMED, "between");
    server.show(&(authority.together("long.crt", &["long_leaf.crt", "between.crt"]), key)).await;
    assert_eq!(taken_at(&server, "localhost", &authority.file("short.crt")).await, [false, false]);
}

#[tokio::test]
async fn a_server_is_named_where_libpq_looks_for_its_name() {
    let authority = Authority::new();
    let server = Server::with_tls(authority.issue("first", "localhost", Kind::Named), None).await;
    for (name, subject, names, host, expected) in [
        ("cn", "/CN=127.0.0.1", "", "127.0.0.1", true),
        ("address", "/CN=other", "subjectAltName=IP:127.0.0.1\n", "127.0.0.1", true),
        ("dns_and_cn", "/CN=127.0.0.1", "subjectAltName=DNS:db\n", "127.0.0.1", true),
        ("other_address", "/CN=127.0.0.1", "subjectAltName=IP:10.0.0.1\n", "127.0.0.1", false),
        ("address_and_cn", "/CN=localhost", "subjectAltName=IP:127.0.0.1\n", "localhost", true),
        ("dns_of_another", "/CN=localhost", "subjectAltName=DNS:db\n", "localhost", false),
        ("first_cn", "/CN=localhost/CN=db", "", "localhost", true),
        ("second_cn", "/CN=db/CN=localhost", "", "localhost", false),
        ("wildcard", "/CN=*.0.0.1", "", "127.0.0.1", true),
    ] {
        let extensions = format!("{names}basicConstraints=CA:FALSE\n");
        server.show(&authority.issue_with(name, subject, &extensions, "ca")).await;
        assert_eq!(taken_at(&server, host, &authority.root()).await, [true, expected], "{name}");
    }
}
