//! Certificate chains that OpenSSL, and therefore libpq, accepts or limits in ways that webpki does not support.

use rustls::CertificateError;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::oid::{AssociatedOid, ObjectIdentifier};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints, SubjectAltName,
    SubjectKeyIdentifier,
};

/// Maximum number of certificates between a server's and a trusted one.
const MAX_INTERMEDIATES: usize = 8;
/// id-kp-serverAuth, RFC 5280, section 4.2.1.12.
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
/// Extensions that are handled here, or were handled by webpki.
const KNOWN_EXTENSIONS: [ObjectIdentifier; 5] =
    [BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID, SubjectAltName::OID, NameConstraints::OID];

/// The contents of `sslrootcert` at a given time.
#[derive(Debug, Default)]
pub(super) struct Trusted {
    /// Self-signed authorities, where a chain must end.
    pub(super) roots: Vec<(CertificateDer<'static>, Certificate)>,
    /// Certificates issued by another authority. Used as if the server had sent them, but not as trust anchors: OpenSSL
    /// follows a chain to its end.
    pub(super) intermediates: Vec<(CertificateDer<'static>, Certificate)>,
    /// Authorities that have expired, or are not valid yet.
    untimely: Vec<(Certificate, CertificateError)>,
    /// Self-signed certificates that are trusted only as themselves.
    alone: Vec<(CertificateDer<'static>, Certificate)>,
}

impl Trusted {
    pub(super) fn at(certificates: &[CertificateDer<'static>], now: UnixTime) -> Trusted {
        let mut trusted = Trusted::default();
        for der in certificates {
            // Unreadable certificates are ignored.
            let Ok(certificate) = Certificate::from_der(der.as_ref()) else { continue };
            if !is_self_signed(&certificate) {
                trusted.intermediates.push((der.clone(), certificate));
            } else if let Err(error) = is_timely(&certificate, now) {
                trusted.untimely.push((certificate, error));
            } else if may_sign(&certificate) && suits_tls(&certificate) {
                trusted.roots.push((der.clone(), certificate));
            } else {
                trusted.alone.push((der.clone(), certificate));
            }
        }
        trusted
    }

    /// Returns the error of a trusted authority that issued part of this chain and has expired, or is not valid yet.
    pub(super) fn untimely(&self, chain: &[&Certificate]) -> Option<CertificateError> {
        let signed =
            |root: &Certificate| chain.iter().any(|one| one.tbs_certificate.issuer == root.tbs_certificate.subject);
        self.untimely.iter().find(|(root, _)| signed(root)).map(|(_, error)| error.clone())
    }

    /// Returns true if the certificate itself is trusted as self-signed.
    fn holds(&self, der: &CertificateDer<'_>) -> bool {
        self.roots.iter().chain(&self.alone).any(|(known, _)| known.as_ref() == der.as_ref())
    }

    /// Returns true if a root limits the length of chains below it, which webpki does not check.
    pub(super) fn limits_length(&self) -> bool {
        self.roots.iter().any(|(_, root)| path_length(root).is_some())
    }
}

/// A verifier for a server's certificate and those sent with it.
pub(super) struct Chain<'a> {
    pub(super) trusted: &'a Trusted,
    pub(super) algorithms: &'a WebPkiSupportedAlgorithms,
    pub(super) now: UnixTime,
    /// True if authorities with name constraints may be used, because webpki has checked the names.
    pub(super) names_are_checked: bool,
}

impl Chain<'_> {
    /// Returns true for certificates that webpki does not support but OpenSSL accepts: those of version 1, those that
    /// are trusted themselves, and those of authorities.
    pub(super) fn is_needed(&self, der: &CertificateDer<'_>, leaf: &Certificate) -> bool {
        leaf.tbs_certificate.version != Version::V3 || is_authority(leaf) || self.trusted.holds(der)
    }

    /// Returns true if the chain leads to a root.
    pub(super) fn holds(
        &self,
        der: &CertificateDer<'_>,
        leaf: &Certificate,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<bool, CertificateError> {
        is_timely(leaf, self.now)?;
        if has_unknown_critical(leaf) {
            return Ok(false);
        }
        if self.trusted.holds(der) {
            return Ok(true);
        }
        let sent = intermediates.iter().filter_map(|der| Certificate::from_der(der.as_ref()).ok());
        let known: Vec<Certificate> =
            self.trusted.intermediates.iter().map(|(_, known)| known.clone()).chain(sent).collect();
        let mut current = leaf.clone();
        // Number of authorities below the one to be found, not counting those that merely have a new key.
        let mut below = 0;
        for _ in 0..=MAX_INTERMEDIATES {
            let signed = |issuer: &Certificate| self.has_signed(issuer, &current);
            let allows = |issuer: &Certificate| path_length(issuer).is_none_or(|length| below <= usize::from(length));
            if self.trusted.roots.iter().any(|(_, root)| allows(root) && signed(root)) {
                return Ok(true);
            }
            let fits = |issuer: &&Certificate| {
                is_authority(issuer)
                    && may_sign(issuer)
                    && suits_tls(issuer)
                    && !has_unknown_critical(issuer)
                    && allows(issuer)
                    && **issuer != current
                    && signed(issuer)
            };
            let Some(issuer) = known.iter().find(fits) else { return Ok(false) };
            is_timely(issuer, self.now)?;
            below += usize::from(issuer.tbs_certificate.subject != issuer.tbs_certificate.issuer);
            current = issuer.clone();
        }
        Ok(false)
    }

    /// Returns true if the issuer's key made the signature.
    fn has_signed(&self, issuer: &Certificate, signed: &Certificate) -> bool {
        let (of_issuer, of_signed) = (&issuer.tbs_certificate, &signed.tbs_certificate);
        let is_limited = !matches!(of_issuer.get::<NameConstraints>(), Ok(None));
        if of_issuer.subject != of_signed.issuer || (is_limited && !self.names_are_checked) {
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

/// Returns true if OpenSSL would accept it as a server certificate: by its key usage, which webpki does not check, and
/// by its extended key usage.
pub(super) fn suits_server(leaf: &Certificate) -> bool {
    let suits = match leaf.tbs_certificate.get::<KeyUsage>() {
        Ok(None) => true,
        Ok(Some((_, usage))) => usage.digital_signature() || usage.key_encipherment() || usage.key_agreement(),
        Err(_) => false,
    };
    suits && suits_tls(leaf)
}

/// Returns true if it is valid for TLS servers, or does not specify a purpose.
fn suits_tls(certificate: &Certificate) -> bool {
    match certificate.tbs_certificate.get::<ExtendedKeyUsage>() {
        Ok(None) => true,
        Ok(Some((_, ExtendedKeyUsage(purposes)))) => purposes.contains(&SERVER_AUTH),
        Err(_) => false,
    }
}

/// Returns true if it claims to be an authority.
fn is_authority(certificate: &Certificate) -> bool {
    matches!(certificate.tbs_certificate.get::<BasicConstraints>(), Ok(Some((_, constraints))) if constraints.ca)
}

/// Returns true if it may sign other certificates. Version 1 roots predate the extension that says so.
fn may_sign(certificate: &Certificate) -> bool {
    let key_may = match certificate.tbs_certificate.get::<KeyUsage>() {
        Ok(None) => None,
        Ok(Some((_, usage))) => Some(usage.key_cert_sign()),
        Err(_) => Some(false),
    };
    let is_one = match certificate.tbs_certificate.get::<BasicConstraints>() {
        Ok(Some((_, constraints))) => constraints.ca,
        Ok(None) => certificate.tbs_certificate.version == Version::V1 || key_may == Some(true),
        Err(_) => false,
    };
    is_one && key_may != Some(false)
}

/// Returns the maximum number of authorities between it and a server's certificate, if it specifies one.
fn path_length(certificate: &Certificate) -> Option<u8> {
    certificate.tbs_certificate.get::<BasicConstraints>().ok()??.1.path_len_constraint
}

/// Returns true if it is self-signed.
fn is_self_signed(certificate: &Certificate) -> bool {
    let tbs = &certificate.tbs_certificate;
    let own_key = tbs.get::<SubjectKeyIdentifier>().ok().flatten().map(|(_, SubjectKeyIdentifier(key))| key);
    let signing_key = tbs.get::<AuthorityKeyIdentifier>().ok().flatten().and_then(|(_, of)| of.key_identifier);
    let is_other_key = own_key.zip(signing_key).is_some_and(|(own, signing)| own != signing);
    tbs.subject == tbs.issuer && !is_other_key
}

/// Returns true if it has a critical extension that is not supported.
fn has_unknown_critical(certificate: &Certificate) -> bool {
    let mut extensions = certificate.tbs_certificate.extensions.iter().flatten();
    extensions.any(|extension| extension.critical && !KNOWN_EXTENSIONS.contains(&extension.extn_id))
}

fn is_timely(certificate: &Certificate, now: UnixTime) -> Result<(), CertificateError> {
    let validity = &certificate.tbs_certificate.validity;
    let now = now.as_secs();
    if now < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

/// Returns an algorithm's identifier in the form rustls uses: without its sequence header.
pub(super) fn algorithm_id(algorithm: &x509_cert::spki::AlgorithmIdentifierOwned) -> Result<Vec<u8>, CertificateError> {
    let der = algorithm.to_der().map_err(|_| CertificateError::BadEncoding)?;
    // The header is two bytes for identifiers shorter than 128 bytes; rustls has none that are longer.
    Ok(der.get(2..).unwrap_or_default().to_vec())
}
