//! Verification of a server's certificate that accepts what libpq would accept.
//!
//! rustls verifies certificates as used on the public web. Databases also have self-signed ones, version 1 certificates
//! as in PostgreSQL's own manual, authorities' own certificates, and names only in the subject: OpenSSL, and therefore
//! libpq, accepts all of them. It also rejects some that rustls accepts: below an expired root, or below no root.

use super::certificate_name::is_named;
use super::chain::{Chain, Trusted, algorithm_id, suits_server};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, SignatureScheme};
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Verifies a server's certificate to the extent configured.
#[derive(Debug)]
pub(super) struct Verifier {
    /// The trusted certificates; `None` if any server is accepted.
    anchors: Option<Vec<CertificateDer<'static>>>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Creates a verifier that accepts what these have signed, or anything, and checks the name if asked to.
    pub(super) fn new(
        anchors: Option<Vec<CertificateDer<'static>>>,
        checks_name: bool,
        provider: Arc<CryptoProvider>,
    ) -> Verifier {
        Verifier { anchors, checks_name, provider }
    }

    /// Verifies that a signature was made with the certificate's key.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = parse(certificate)?;
        let algorithms = &self.provider.signature_verification_algorithms;
        let mapped = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
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

    fn chain<'a>(&'a self, trusted: &'a Trusted, now: UnixTime, names_are_checked: bool) -> Chain<'a> {
        Chain { trusted, algorithms: &self.provider.signature_verification_algorithms, now, names_are_checked }
    }

    /// Verifies like rustls, with the certificates trusted now, and checks path lengths limited by roots.
    fn verify_by_webpki(
        &self,
        trusted: &Trusted,
        presented: &Presented<'_>,
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
    ) -> Result<ServerCertVerified, Error> {
        let Presented { leaf, end_entity, intermediates, now } = *presented;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.roots.iter().map(|(der, _)| der.clone()));
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let webpki = webpki.map_err(|_| Error::from(CertificateError::UnknownIssuer))?;
        let known = trusted.intermediates.iter().map(|(der, _)| der.clone());
        let intermediates: Vec<CertificateDer<'_>> = intermediates.iter().cloned().chain(known).collect();
        let verified = webpki.verify_server_cert(end_entity, &intermediates, server_name, ocsp_response, now);
        let has_chain = matches!(
            verified,
            Ok(_)
                | Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                ))
        );
        let is_too_long = has_chain
            && trusted.limits_length()
            && !self.chain(trusted, now, true).holds(end_entity, leaf, &intermediates)?;
        if is_too_long { Err(CertificateError::UnknownIssuer.into()) } else { verified }
    }
}

/// What a server presents.
#[derive(Clone, Copy)]
struct Presented<'a> {
    leaf: &'a Certificate,
    end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    now: UnixTime,
}

impl Presented<'_> {
    /// Returns the error of a trusted authority that issued part of it and has expired, or is not valid yet.
    fn untimely(&self, trusted: &Trusted) -> Option<CertificateError> {
        let sent: Vec<Certificate> = self.intermediates.iter().filter_map(|der| parse(der).ok()).collect();
        let all: Vec<&Certificate> = sent.iter().chain([self.leaf]).collect();
        trusted.untimely(&all)
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
        let Some(anchors) = &self.anchors else { return Ok(ServerCertVerified::assertion()) };
        let leaf = parse(end_entity)?;
        let trusted = Trusted::at(anchors, now);
        let presented = Presented { leaf: &leaf, end_entity, intermediates, now };
        // The chain first, then the name.
        let is_named = match self.verify_by_webpki(&trusted, &presented, server_name, ocsp_response) {
            Ok(_) => true,
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => is_named(&leaf, server_name),
            Err(error) => {
                let chain = self.chain(&trusted, now, false);
                if !chain.is_needed(end_entity, &leaf) || !chain.holds(end_entity, &leaf, intermediates)? {
                    return Err(presented.untimely(&trusted).map_or(error, Error::from));
                }
                is_named(&leaf, server_name)
            }
        };
        if !suits_server(&leaf) {
            return Err(CertificateError::InvalidPurpose.into());
        }
        if self.checks_name && !is_named {
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
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate.as_ref()).map_err(|_| CertificateError::BadEncoding.into())
}
