//! The origins whose pages may call.

use std::fmt::Write as _;
use url::{Host, Url};

/// Most bytes of a domain and of one of its labels (RFC 1035, section 2.3.4).
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;
/// Domains of one label that no registry sells, so that whoever has a name below one of them is known.
const PRIVATE_DOMAINS: [&str; 4] = ["localhost", "internal", "local", "test"];

/// Schemes whose pages have no origin that could be named: browsers send `null`, or nothing.
const WITHOUT_ORIGIN: [&str; 8] = ["about", "blob", "data", "file", "ftp", "javascript", "ws", "wss"];

/// An element of the list; none where there is nothing between two commas.
pub type AllowedOrigin = Option<Origin>;

/// An origin that may call, or all those of a domain's subdomains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The origin as browsers send it; of a pattern `https://`, what stands before the subdomain.
    before: String,
    /// Of a pattern, what stands after the subdomain: `.example.com:8443`.
    after: Option<String>,
}

/// Why no page can have this origin. The messages do not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// It would let everybody in.
    #[error(
        "\"*\" cannot be combined with credentials; name each origin, or a domain's subdomains: https://*.example.com"
    )]
    Everything,
    /// An origin begins with http:// or https://, or with the scheme of an app or of an extension.
    #[error("an origin begins with http:// or https://, or with the scheme of an app such as capacitor://")]
    Scheme,
    /// There is more than scheme, host and port.
    #[error(
        "an origin has a scheme, a host and perhaps a port, and nothing else: no user, no path, no slash at the end"
    )]
    Surplus,
    /// "*" stands for subdomains only, before the first dot: https://*.example.com.
    #[error("\"*\" stands for subdomains only, before the first dot: https://*.example.com")]
    Wildcard,
    /// A pattern for a whole top-level domain would let everybody in; name the domain.
    #[error("a pattern for a whole top-level domain would let everybody in; name the domain")]
    TooWide,
    /// Browsers leave out port 80 of http and port 443 of https: leave it out.
    #[error("browsers leave out port 80 of http and port 443 of https: leave it out")]
    DefaultPort,
    /// Browsers spell it otherwise.
    #[error(
        "this is not how browsers write a host and a port: ASCII (xn--…), nothing abbreviated, a port from 1 to 65535"
    )]
    NotCanonical,
}

impl Origin {
    /// Reads an element of the list. Upper case is read as browsers send it, in lower case, but for the hosts of apps and
    /// extensions, which browsers do not change; what no browser can ever send is an error.
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
                // Any subdomain will do to see what browsers make of the rest.
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

    /// Whether a page of this origin, as its browser names it, may call.
    pub fn allows(&self, origin: &[u8]) -> bool {
        let Some(after) = &self.after else { return origin == self.before.as_bytes() };
        let subdomain =
            origin.strip_prefix(self.before.as_bytes()).and_then(|rest| rest.strip_suffix(after.as_bytes()));
        subdomain.is_some_and(|subdomain| {
            // Nothing but labels: what else may stand in a URL could end the host before our domain begins.
            let is_label = |label: &[u8]| {
                !label.is_empty() && label.iter().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
            };
            subdomain.split(|c| *c == b'.').all(is_label)
        })
    }
}

/// Whether pages of apps or of extensions may have this scheme. What begins like http is a slip of the pen.
fn is_of_apps(scheme: &str) -> bool {
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    is_scheme && !scheme.starts_with("ht") && !WITHOUT_ORIGIN.contains(&scheme)
}

/// Checks that browsers would write this origin just so.
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
