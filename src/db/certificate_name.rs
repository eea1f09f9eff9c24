//! Matching of a server's name against a certificate, as libpq does it.

use rustls::pki_types::ServerName;
use x509_cert::Certificate;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// id-at-commonName, RFC 5280, appendix A.1.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Returns true if the certificate names the server: among its alternative names, or in its subject if it has no
/// alternative names of the server's kind (addresses or names).
pub(super) fn is_named(certificate: &Certificate, server: &ServerName<'_>) -> bool {
    let host = server.to_str();
    let Ok(alternative) = certificate.tbs_certificate.get::<SubjectAltName>() else { return false };
    let alternative = alternative.map(|(_, SubjectAltName(names))| names).unwrap_or_default();
    let is_address = matches!(server, ServerName::IpAddress(_));
    let mut has_kind = false;
    for name in &alternative {
        match name {
            GeneralName::DnsName(name) => {
                has_kind |= !is_address;
                if matches(name.as_str(), &host) {
                    return true;
                }
            }
            GeneralName::IpAddress(address) => {
                has_kind |= is_address;
                if is_address && host.parse().is_ok_and(|host| bytes_of(host) == address.as_bytes()) {
                    return true;
                }
            }
            _ => {}
        }
    }
    !has_kind && common_name(certificate).is_some_and(|name| matches(&name, &host))
}

/// Returns the first common name of the subject; libpq ignores any others.
fn common_name(certificate: &Certificate) -> Option<String> {
    let mut parts = certificate.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let name = parts.find(|attribute| attribute.oid == COMMON_NAME)?;
    String::from_utf8(name.value.value().to_vec()).ok()
}

/// Returns true if a name in a certificate matches the host; `*.` stands for one label.
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
