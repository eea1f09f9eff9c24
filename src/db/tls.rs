//! TLS to the database, according to libpq's table of `sslmode`.
//!
//! <https://www.postgresql.org/docs/current/libpq-ssl.html>. Files are read again for each connection, to pick up
//! certificates that are rotated in place.

use super::verify::Verifier;
use crate::config::{Roots, SslMode, TlsOptions, TlsVersions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, SupportedProtocolVersion};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};
use tokio_postgres::config as postgres;

/// The reason that TLS cannot be set up. Parameters are named, their values are not.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("the file of {parameter} cannot be read")]
    Read {
        /// The parameter that names it.
        parameter: &'static str,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The file of a parameter does not contain the expected PEM.
    #[error(
        "the file of {parameter} is not in PEM format, or lacks what it should contain; a key must not be encrypted"
    )]
    Pem {
        /// The parameter that names it.
        parameter: &'static str,
    },
    /// `sslmode` asks to verify the server's certificate: sslrootcert must be an existing file, or system.
    #[error("sslmode asks to verify the server's certificate: sslrootcert must be an existing file, or system")]
    NoRoots,
    /// There is a client certificate but no key: set sslkey.
    #[error("there is a client certificate but no key: set sslkey")]
    NoKey,
    /// The client's key and certificate do not belong together.
    #[error("the file of sslkey does not hold the key of the certificate in the file of sslcert")]
    OtherKey,
    /// There is a revocation list, which would be ignored here.
    #[error("~/.postgresql/root.crl exists, but certificate revocation lists are not supported: remove it")]
    Revocations,
    /// The certificates cannot be used.
    #[error("the certificates cannot be used")]
    Rustls(#[from] rustls::Error),
}

/// One way of connecting; the next is tried if the server rejects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Plain,
    /// With TLS if the server supports it.
    Opportunistic,
    Encrypted,
}

impl Attempt {
    /// Returns the attempts to make, in order.
    pub(super) fn all(mode: SslMode) -> &'static [Attempt] {
        match mode {
            SslMode::Disable => &[Attempt::Plain],
            SslMode::Allow => &[Attempt::Plain, Attempt::Encrypted],
            SslMode::Prefer => &[Attempt::Opportunistic, Attempt::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Attempt::Encrypted],
        }
    }

    pub(super) fn mode(self) -> postgres::SslMode {
        match self {
            Attempt::Plain => postgres::SslMode::Disable,
            Attempt::Opportunistic => postgres::SslMode::Prefer,
            Attempt::Encrypted => postgres::SslMode::Require,
        }
    }
}

/// Returns the rustls configuration of a connection.
///
/// # Errors
/// A required file is missing or invalid. As in libpq, a missing `sslrootcert` matters only if the certificate is to be
/// verified, and a missing `sslcert` only to the server.
pub(super) async fn client_config(options: &TlsOptions) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let anchors = anchors(options).await?;
    let verifier = Verifier::new(anchors, options.mode == SslMode::VerifyFull, provider.clone());
    let versions: &[&'static SupportedProtocolVersion] = match options.versions {
        TlsVersions::All => &[&TLS13, &TLS12],
        TlsVersions::Only12 => &[&TLS12],
        TlsVersions::Only13 => &[&TLS13],
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity(options).await? {
        Some((chain, key)) => {
            let key = config.crypto_provider().key_provider.load_private_key(key)?;
            let certified = CertifiedKey::new(chain, key);
            // Otherwise it is for the server to decide: rustls cannot parse version 1 certificates.
            if matches!(certified.keys_match(), Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch))) {
                return Err(TlsError::OtherKey);
            }
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => config.with_no_client_auth(),
    };
    config.enable_sni = options.sends_name;
    if options.direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

/// Returns the trusted certificates; `None` if any server is accepted.
async fn anchors(options: &TlsOptions) -> Result<Option<Vec<CertificateDer<'static>>>, TlsError> {
    const PARAMETER: &str = "sslrootcert";
    let verifies = options.mode >= SslMode::VerifyCa;
    let file = match &options.roots {
        Roots::System => return Ok(Some(system_roots().to_vec())),
        Roots::File(file) => Some(file.clone()),
        Roots::Usual => usual(options, "root.crt"),
    };
    let pem = match &file {
        Some(file) => read(file, PARAMETER).await?,
        None => None,
    };
    match pem {
        // libpq would reject the certificates it revokes.
        Some(_) if usual(options, "root.crl").is_some() => Err(TlsError::Revocations),
        Some(pem) => Ok(Some(certificates(&pem, PARAMETER)?)),
        None if verifies => Err(TlsError::NoRoots),
        None => {
            if options.roots != Roots::Usual {
                // Once per process: it is about a file, and connections to all databases pass through here repeatedly.
                static WARNED: OnceLock<()> = OnceLock::new();
                WARNED.get_or_init(|| {
                    tracing::warn!("the file of sslrootcert is missing: the database's certificate is not verified");
                });
            }
            Ok(None)
        }
    }
}

/// Returns the client's certificate chain and key.
async fn identity(
    options: &TlsOptions,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, TlsError> {
    if options.hides_certificate {
        return Ok(None);
    }
    let Some(file) = options.certificate.clone().or_else(|| usual(options, "postgresql.crt")) else { return Ok(None) };
    let Some(pem) = read(&file, "sslcert").await? else { return Ok(None) };
    let chain = certificates(&pem, "sslcert")?;
    let file = options.key.clone().or_else(|| usual(options, "postgresql.key")).ok_or(TlsError::NoKey)?;
    let key = read(&file, "sslkey").await?.ok_or(TlsError::NoKey)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| TlsError::Pem { parameter: "sslkey" })?;
    Ok(Some((chain, key)))
}

/// Reads a file; `None` if it does not exist.
async fn read(file: &Path, parameter: &'static str) -> Result<Option<Vec<u8>>, TlsError> {
    match tokio::fs::read(file).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(TlsError::Read { parameter, source }),
    }
}

fn certificates(pem: &[u8], parameter: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|found| !found.is_empty()).ok_or(TlsError::Pem { parameter })
}

/// Returns the path of a file in libpq's default location, if it exists.
fn usual(options: &TlsOptions, name: &str) -> Option<PathBuf> {
    let file = options.usual_folder.as_ref()?.join(name);
    file.is_file().then_some(file)
}

fn system_roots() -> &'static [CertificateDer<'static>] {
    // An unreadable system certificate is no reason not to try the others.
    static ROOTS: LazyLock<Vec<CertificateDer<'static>>> =
        LazyLock::new(|| rustls_native_certs::load_native_certs().certs);
    &ROOTS
}

/// Returns a configuration for an unencrypted connection.
pub(super) fn unused() -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}
