//! Allowed origins (CORS).

use std::fmt::Write as _;
use url::{Host, Url};

/// Maximum bytes of a domain name and of one of its labels (RFC 1035, section 2.3.4).
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;
/// Single-label domains that no registry sells, making the owner of any name below them known.
const PRIVATE_DOMAINS: [&str; 4] = ["localhost", "internal", "local", "test"];

/// Schemes whose pages have no origin to name: browsers send `null`, or nothing.
const WITHOUT_ORIGIN: [&str; 8] = ["about", "blob", "data", "file", "ftp", "javascript", "ws", "wss"];

/// An element of the list; `None` if there is nothing between two commas.
pub type AllowedOrigin = Option<Origin>;

/// An allowed origin, or a pattern for all subdomains of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The origin as browsers send it; for a pattern, the part before the subdomain: `https://`.
    before: String,
    /// For a pattern, the part after the subdomain: `.example.com:8443`.
    after: Option<String>,
}

/// The reason that no page can have this origin. The messages do not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// "*" would let everybody in.
    #[error(
        "\"*\" cannot be combined with credentials; name each origin, or a domain's subdomains: https://*.example.com"
    )]
    Everything,
    /// An origin begins with http:// or https://, or with the scheme of an app or of an extension.
    #[error("an origin must begin with http:// or https://, or with the scheme of an app such as capacitor://")]
    Scheme,
    /// There is more than a scheme, a host and a port.
    #[error(
        "an origin is a scheme, a host and optionally a port, and nothing else: no user, no path, no trailing slash"
    )]
    Surplus,
    /// "*" stands for subdomains only, before the first dot: https://*.example.com.
    #[error("\"*\" stands for subdomains only, before the first dot: https://*.example.com")]
    Wildcard,
    /// A pattern for a whole top-level domain would let everybody in; name the domain.
    #[error("a pattern for a whole top-level domain would let everyone in; name the domain")]
    TooWide,
    /// Browsers omit port 80 for http and port 443 for https: omit it too.
    #[error("browsers omit port 80 for http and port 443 for https: omit it too")]
    DefaultPort,
    /// Browsers spell it differently.
    #[error(
        "browsers write the host and port differently: in ASCII (xn--…), unabbreviated, with a port from 1 to 65535"
    )]
    NotCanonical,
}

impl Origin {
    /// Parses an element of the list. Letters are lower-cased, as browsers do, except in the hosts of apps and
    /// extensions, which browsers leave unchanged. An origin that no browser can ever send is an error.
    pub fn parse(text: &str) -> Result<AllowedOrigin, OriginError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if text == "*" {
            return Err(OriginError::Everything);
        }
        let (scheme, rest) = text.split_once("://").ok_or(OriginError::Scheme)?;
        let scheme = scheme.to_ascii_lowercase();
        let is_of_web = matches!(&*scheme, "http" | "https");
        if !is_of_web && !is_of_apps(&scheme) {
            return Err(OriginError::Scheme);
        }
        let rest = if is_of_web { rest.to_ascii_lowercase() } else { rest.to_owned() };
        if rest.contains(|c: char| matches!(c, '/' | '\\' | '?' | '#' | '@') || c.is_whitespace()) {
            return Err(OriginError::Surplus);
        }
        let subdomains = rest.strip_prefix("*.").filter(|_| is_of_web);
        let host = subdomains.unwrap_or(&rest);
        if host.contains('*') {
            return Err(OriginError::Wildcard);
        }
        let before = format!("{scheme}://");
        match subdomains {
            Some(domain) => {
                // Any subdomain serves to check the rest.
                check(&format!("{before}a.{domain}"), true)?;
                Ok(Some(Origin { before, after: Some(format!(".{domain}")) }))
            }
            None => {
                let origin = before + host;
                check(&origin, false)?;
                Ok(Some(Origin { before: origin, after: None }))
            }
        }
    }

    /// Returns true if a page of this origin, as sent by its browser, is allowed.
    pub fn allows(&self, origin: &[u8]) -> bool {
        let Some(after) = &self.after else { return origin == self.before.as_bytes() };
        let subdomain =
            origin.strip_prefix(self.before.as_bytes()).and_then(|rest| rest.strip_suffix(after.as_bytes()));
        subdomain.is_some_and(|subdomain| {
            // Only labels may precede our domain: any other character allowed in a URL could end the host early.
            let is_label = |label: &[u8]| {
                !label.is_empty() && label.iter().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
            };
            subdomain.split(|c| *c == b'.').all(is_label)
        })
    }
}

/// Returns true if pages of apps or extensions may have this scheme. A scheme starting with "ht" is a typo for http.
fn is_of_apps(scheme: &str) -> bool {
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    is_scheme && !scheme.starts_with("ht") && !WITHOUT_ORIGIN.contains(&scheme)
}

/// Checks that browsers would write this origin in exactly this form.
fn check(origin: &str, is_pattern: bool) -> Result<(), OriginError> {
    let url = Url::parse(origin).map_err(|_| OriginError::NotCanonical)?;
    let (Some(host), scheme) = (url.host(), url.scheme()) else { return Err(OriginError::NotCanonical) };
    let mut canonical = format!("{scheme}://{host}");
    if let Some(port) = url.port() {
        // Writing to a string cannot fail.
        let _ = write!(canonical, ":{port}");
    }
    let default_port = if scheme == "http" { ":80" } else { ":443" };
    if origin.strip_suffix(default_port) == Some(&canonical) {
        return Err(OriginError::DefaultPort);
    }
    if origin != canonical || url.port() == Some(0) {
        return Err(OriginError::NotCanonical);
    }
    match host {
        Host::Domain(domain) => check_domain(domain, is_pattern),
        // Addresses have no subdomains.
        Host::Ipv4(_) | Host::Ipv6(_) if is_pattern => Err(OriginError::Wildcard),
        Host::Ipv4(_) | Host::Ipv6(_) => Ok(()),
    }
}

fn check_domain(domain: &str, is_pattern: bool) -> Result<(), OriginError> {
    let labels: Vec<&str> = domain.split('.').collect();
    if domain.len() > MAX_DOMAIN || labels.iter().any(|label| label.is_empty() || label.len() > MAX_LABEL) {
        return Err(OriginError::NotCanonical);
    }
    match labels[..] {
        [_, top] if is_pattern && !PRIVATE_DOMAINS.contains(&top) => Err(OriginError::TooWide),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
