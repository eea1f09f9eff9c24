//! Whether a server's certificate is the right one, where libpq would say so.
//!
//! rustls checks what the public web's certificates are like. Databases also have self-signed ones, those of version 1
//! as PostgreSQL's own manual makes them, and names in the subject only: OpenSSL, and so libpq, takes all of them.

use super::tls::root_store;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, NameConstraints, SubjectAltName};

/// id-at-commonName, RFC 5280, appendix A.1.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// Certificates between a server's and one that is trusted, at most.
const MAX_INTERMEDIATES: usize = 8;

/// Checks the certificate of a server, as far as that is wanted.
#[derive(Debug)]
pub(super) struct Verifier {
    trusted: Option<Trusted>,
    checks_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Whose certificates are taken.
#[derive(Debug)]
struct Trusted {
    anchors: Vec<CertificateDer<'static>>,
    webpki: Arc<WebPkiServerVerifier>,
}

impl Verifier {
    /// A verifier that takes what these have signed, or anything; and that looks at the name, or not.
    pub(super) fn new(
        anchors: Option<Vec<CertificateDer<'static>>>,
        checks_name: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, Error> {
        let trust = |anchors: Vec<CertificateDer<'static>>| {
            let roots = Arc::new(root_store(&anchors));
            let webpki = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
            let webpki = webpki.map_err(|_| Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
            Ok::<_, Error>(Trusted { anchors, webpki })
        };
        let trusted = anchors.map(trust).transpose()?;
        Ok(Verifier { trusted, checks_name, algorithms: provider.signature_verification_algorithms })
    }

    /// Whether this signature was made with the certificate's key.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = parse(certificate)?;
        let mapped = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, algorithms) = mapped.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let key = &certificate.tbs_certificate.subject_public_key_info;
        let algorithm_id = algorithm_id(&key.algorithm)?;
        let fits = |algorithm: &&&dyn SignatureVerificationAlgorithm| *algorithm.public_key_alg_id() == *algorithm_id;
        let mut fitting = algorithms.iter().filter(fits);
        let bits = key.subject_public_key.raw_bytes();
        match fitting.any(|algorithm| algorithm.verify_signature(bits, message, signed.signature()).is_ok()) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        // The chain first, then the name.
        let verified = trusted.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Ok(verified) => return Ok(verified),
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => {
                let chain = OldChain { trusted, algorithms: &self.algorithms, now };
                if !chain.holds(end_entity, intermediates)? {
                    return Err(error);
                }
            }
        }
        if self.checks_name && !is_named(&parse(end_entity)?, server_name) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What of chains webpki has no notion of: a certificate that is itself trusted, and servers' certificates of version 1.
struct OldChain<'a> {
    trusted: &'a Trusted,
    algorithms: &'a WebPkiSupportedAlgorithms,
    now: UnixTime,
}

impl OldChain<'_> {
    fn holds(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<bool, Error> {
        let mut current = parse(end_entity)?;
        if self.trusted.anchors.iter().any(|anchor| anchor.as_ref() == end_entity.as_ref()) {
            return self.is_timely(&current);
        }
        if current.tbs_certificate.version == Version::V3 {
            return Ok(false);
        }
        let anchors: Vec<Certificate> = self.trusted.anchors.iter().filter_map(|anchor| parse(anchor).ok()).collect();
        let intermediates: Vec<Certificate> = intermediates.iter().filter_map(|der| parse(der).ok()).collect();
        for _ in 0..=MAX_INTERMEDIATES {
            if !self.is_timely(&current)? {
                return Ok(false);
            }
            if let Some(anchor) = anchors.iter().find(|anchor| self.has_signed(anchor, &current)) {
                return self.is_timely(anchor);
            }
            match intermediates.iter().find(|issuer| is_authority(issuer) && self.has_signed(issuer, &current)) {
                Some(issuer) => current = issuer.clone(),
                None => break,
            }
        }
        Ok(false)
    }

    fn is_timely(&self, certificate: &Certificate) -> Result<bool, Error> {
        let validity = &certificate.tbs_certificate.validity;
        let now = self.now.as_secs();
        if now < validity.not_before.to_unix_duration().as_secs() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.to_unix_duration().as_secs() {
            return Err(CertificateError::Expired.into());
        }
        Ok(true)
    }

    /// Whether the signature of the one is the other's. Issuers that limit whom they sign for are left to webpki.
    fn has_signed(&self, issuer: &Certificate, signed: &Certificate) -> bool {
        let (of_issuer, of_signed) = (&issuer.tbs_certificate, &signed.tbs_certificate);
        if of_issuer.subject != of_signed.issuer || !matches!(of_issuer.get::<NameConstraints>(), Ok(None)) {
            return false;
        }
        let key = &of_issuer.subject_public_key_info;
        let (Ok(message), Ok(key_id), Ok(signature_id)) =
            (of_signed.to_der(), algorithm_id(&key.algorithm), algorithm_id(&signed.signature_algorithm))
        else {
            return false;
        };
        let fits = |algorithm: &&&dyn SignatureVerificationAlgorithm| {
            *algorithm.public_key_alg_id() == *key_id && *algorithm.signature_alg_id() == *signature_id
        };
        let (bits, signature) = (key.subject_public_key.raw_bytes(), signed.signature.raw_bytes());
        let mut fitting = self.algorithms.all.iter().filter(fits);
        fitting.any(|algorithm| algorithm.verify_signature(bits, &message, signature).is_ok())
    }
}

/// Whether it may sign others' certificates.
fn is_authority(certificate: &Certificate) -> bool {
    matches!(certificate.tbs_certificate.get::<BasicConstraints>(), Ok(Some((_, constraints))) if constraints.ca)
}

/// Whether the certificate names the server: among its alternative names, else in its subject, as libpq looks for it.
fn is_named(certificate: &Certificate, server: &ServerName<'_>) -> bool {
    let host = server.to_str();
    let Ok(alternative) = certificate.tbs_certificate.get::<SubjectAltName>() else { return false };
    let alternative = alternative.map(|(_, SubjectAltName(names))| names).unwrap_or_default();
    let mut has_names = false;
    for name in &alternative {
        match name {
            GeneralName::DnsName(name) => {
                has_names = true;
                if matches(name.as_str(), &host) {
                    return true;
                }
            }
            GeneralName::IpAddress(address) => {
                let is_address = matches!(server, ServerName::IpAddress(_));
                has_names |= is_address;
                if is_address && host.parse().is_ok_and(|host| bytes_of(host) == address.as_bytes()) {
                    return true;
                }
            }
            _ => {}
        }
    }
    !has_names && common_names(certificate).any(|name| matches(&name, &host))
}

fn common_names(certificate: &Certificate) -> impl Iterator<Item = String> + '_ {
    let parts = certificate.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let names = parts.filter(|attribute| attribute.oid == COMMON_NAME);
    names.filter_map(|attribute| String::from_utf8(attribute.value.value().to_vec()).ok())
}

/// Whether a name in a certificate is the host's; `*.` stands for one label.
fn matches(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => !label.is_empty() && domain.eq_ignore_ascii_case(rest),
        _ => false,
    }
}

fn bytes_of(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate.as_ref()).map_err(|_| CertificateError::BadEncoding.into())
}

/// An algorithm's identifier as rustls names it: without the header of its sequence.
fn algorithm_id(algorithm: &x509_cert::spki::AlgorithmIdentifierOwned) -> Result<Vec<u8>, Error> {
    let bad = |_| Error::from(CertificateError::BadEncoding);
    let der = algorithm.to_der().map_err(bad)?;
    // Two bytes for identifiers of less than 128 bytes; rustls knows no longer ones.
    Ok(der.get(2..).unwrap_or_default().to_vec())
}
