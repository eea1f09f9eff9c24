//! TLS to the database, as libpq's table of `sslmode` says.
//!
//! <https://www.postgresql.org/docs/current/libpq-ssl.html>. Files are read anew for each connection, so that
//! certificates which are rotated where they are mounted are taken up.

use super::verify::Verifier;
use crate::config::{Roots, SslMode, TlsOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};
use tokio_postgres::config as postgres;

/// Why TLS cannot be set up. Parameters are named, what they say is not.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("the file of {parameter} cannot be read")]
    Read {
        /// The parameter that names it.
        parameter: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of a parameter has no PEM of what is wanted.
    #[error(
        "the file of {parameter} is not in PEM format, or what it should hold is missing; a key must not be encrypted"
    )]
    Pem {
        /// The parameter that names it.
        parameter: &'static str,
    },
    /// Sslmode asks to verify the server's certificate: sslrootcert must be a file that is there, or system.
    #[error("sslmode asks to verify the server's certificate: sslrootcert must be a file that is there, or system")]
    NoRoots,
    /// There is a certificate for the client and no key: set sslkey.
    #[error("there is a certificate for the client and no key: set sslkey")]
    NoKey,
    /// There are certificates that were revoked, which would be taken here.
    #[error("~/.postgresql/root.crl is there, and lists of revoked certificates are not supported: remove it")]
    Revocations,
    /// The certificates cannot be used.
    #[error("the certificates cannot be used")]
    Rustls(#[from] rustls::Error),
}

/// One way of connecting; the next is tried if the server does not agree to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Plain,
    /// With TLS if the server knows it.
    Opportunistic,
    Encrypted,
}

impl Attempt {
    /// What is tried, in this order.
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

/// The settings of rustls for a connection.
///
/// # Errors
/// A file that is needed is missing or is not what it should be. As in libpq, a missing `sslrootcert` matters only where
/// the certificate is to be verified, and a missing `sslcert` to nobody but the server.
pub(super) async fn client_config(options: &TlsOptions) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let anchors = anchors(options).await?;
    let verifier = Verifier::new(anchors, options.mode == SslMode::VerifyFull, provider.clone());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity(options).await? {
        Some((chain, key)) => {
            // Whether they belong together is for the server to say: rustls cannot read certificates of version 1.
            let key = config.crypto_provider().key_provider.load_private_key(key)?;
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))))
        }
        None => config.with_no_client_auth(),
    };
    if options.direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

/// Whom the server's certificate has to come from; none if anybody will do.
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
        // Whom it revokes libpq would refuse.
        Some(_) if usual(options, "root.crl").is_some() => Err(TlsError::Revocations),
        Some(pem) => Ok(Some(certificates(&pem, PARAMETER)?)),
        None if verifies => Err(TlsError::NoRoots),
        None => {
            if options.roots != Roots::Usual {
                // Once for the process: it is about a file, and connections to all databases come by here again and again.
                static WARNED: OnceLock<()> = OnceLock::new();
                WARNED.get_or_init(|| {
                    tracing::warn!("the file of sslrootcert is missing: the database's certificate is not verified");
                });
            }
            Ok(None)
        }
    }
}

/// The client's own certificate, with the key.
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

/// What a file holds; none if there is no such file.
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

/// A file where libpq looks for it, if it is there.
fn usual(options: &TlsOptions, name: &str) -> Option<PathBuf> {
    let file = options.usual_folder.as_ref()?.join(name);
    file.is_file().then_some(file)
}

fn system_roots() -> &'static [CertificateDer<'static>] {
    // Certificates of the system that cannot be read are no reason not to try the others.
    static ROOTS: LazyLock<Vec<CertificateDer<'static>>> =
        LazyLock::new(|| rustls_native_certs::load_native_certs().certs);
    &ROOTS
}

/// Settings for a connection that is not encrypted.
pub(super) fn unused() -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}
