//! Certificates as databases have them, and the public web has not.

use super::authority::{Authority, Kind};
use super::server::Server;
use super::{connect, said};
use std::path::{Path, PathBuf};

/// Whether a server with this certificate is taken, with each of the modes that verify.
async fn taken(pair: (PathBuf, PathBuf), root: &Path) -> [bool; 2] {
    let server = Server::with_tls(pair, None).await;
    let mut taken = [false; 2];
    for (mode, taken) in ["verify-ca", "verify-full"].into_iter().zip(&mut taken) {
        let url = server.url("any", "localhost", &format!("sslmode={mode}&sslrootcert={}", root.display()));
        let connected = connect(&url).await;
        if let Err(error) = &connected {
            println!("{mode}: {}", said(error));
            assert!(!error.is_passing(), "nobody need wait for another certificate");
        }
        *taken = connected.is_ok();
    }
    taken
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
