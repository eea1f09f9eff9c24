//! The origins whose pages may call.

use std::fmt::Write as _;
use url::{Host, Url};

/// Most bytes of a domain and of one of its labels (RFC 1035, section 2.3.4).
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;
/// Domains of one label that no registry sells, so that whoever has a name below one of them is known.
const PRIVATE_DOMAINS: [&str; 4] = ["localhost", "internal", "local", "test"];

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
    /// An origin begins with http:// or https://.
    #[error("an origin begins with http:// or https://")]
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
    /// Reads an element of the list. Upper case is read as browsers send it, in lower case; what no browser can ever
    /// send is an error.
    pub fn parse(text: &str) -> Result<AllowedOrigin, OriginError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if text == "*" {
            return Err(OriginError::Everything);
        }
        let text = text.to_ascii_lowercase();
        let (scheme, rest) = text.split_once("://").ok_or(OriginError::Scheme)?;
        if !matches!(scheme, "http" | "https") {
            return Err(OriginError::Scheme);
        }
        if rest.contains(|c: char| matches!(c, '/' | '\\' | '?' | '#' | '@') || c.is_whitespace()) {
            return Err(OriginError::Surplus);
        }
        let subdomains = rest.strip_prefix("*.");
        let host = subdomains.unwrap_or(rest);
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
                check(&text, false)?;
                Ok(Some(Origin { before: text, after: None }))
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
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_one_or_more_labels_of_its_scheme_domain_and_port() {
        let pattern = Origin::parse("https://*.example.com").unwrap().unwrap();
        for allowed in ["https://a.example.com", "https://a.b-c.d_1.example.com", "https://xn--mnchen-3ya.example.com"]
        {
            assert!(pattern.allows(allowed.as_bytes()), "{allowed}");
        }
        for other in [
            "https://example.com",
            "https://.example.com",
            "https://a..example.com",
            "https://.a.example.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://a.example.com:443",
            "https://aexample.com",
            "https://a.example.com.evil.com",
            "https://a.example.com.",
            "https://evil.com/.example.com",
            "https://evil.com?.example.com",
            "https://evil.com#.example.com",
            "https://evil.com\\.example.com",
            "https://evil.com:80.example.com",
            "https://evil.com@a.example.com",
            "https://user:password@a.example.com",
            "https://*.example.com",
            "https://a .example.com",
            "https://a\t.example.com",
            "https://ü.example.com",
            "https://https://a.example.com",
            "null",
            "",
        ] {
            assert!(!pattern.allows(other.as_bytes()), "{other}");
        }
        let with_port = Origin::parse("https://*.example.com:8443").unwrap().unwrap();
        assert!(with_port.allows(b"https://a.example.com:8443"));
        for other in [
            "https://a.example.com",
            "https://a.example.com:443",
            "https://a.example.com:18443",
            "https://example.com:8443",
        ] {
            assert!(!with_port.allows(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn upper_case_is_read_as_browsers_send_it() {
        let [exact, pattern] =
            ["HTTPS://Todo.Example.COM", " https://*.Example.com "].map(|text| Origin::parse(text).unwrap().unwrap());
        assert!(exact.allows(b"https://todo.example.com") && pattern.allows(b"https://a.example.com"));
        assert_eq!(Origin::parse(" "), Ok(None));
    }

    #[test]
    fn what_no_browser_can_send_is_refused() {
        use OriginError::*;
        let long = format!("https://{}.com", "a".repeat(64));
        let longer = format!("https://*.{}com", "abcdefg.".repeat(32));
        for (text, error) in [
            ("*", Everything),
            ("*.example.com", Scheme),
            ("example.com", Scheme),
            ("//example.com", Scheme),
            ("ftp://*.example.com", Scheme),
            ("null", Scheme),
            ("*://*.example.com", Scheme),
            ("http*://a.example.com", Scheme),
            ("https://*", Wildcard),
            ("https://*:8443", Wildcard),
            ("https://a.*.com", Wildcard),
            ("https://*.*.example.com", Wildcard),
            ("https://**.example.com", Wildcard),
            ("https://*example.com", Wildcard),
            ("https://a*.example.com", Wildcard),
            ("https://*.example.*", Wildcard),
            ("https://*.example.com:*", Wildcard),
            ("https://*.127.0.0.1", NotCanonical),
            ("https://*.1.2.3", NotCanonical),
            ("https://*.[::1]", NotCanonical),
            ("https://*.", NotCanonical),
            ("https://*..com", NotCanonical),
            ("https://*.a..com", NotCanonical),
            ("https://*.example.com.", NotCanonical),
            ("https://*.com", TooWide),
            ("https://*.com:8443", TooWide),
            ("https://*.example.com/", Surplus),
            ("https://todo.example.com/", Surplus),
            ("https://*.example.com/path", Surplus),
            ("https://*.example.com?a", Surplus),
            ("https://*.example.com#a", Surplus),
            ("https://user@*.example.com", Surplus),
            ("https://*.user:password@example.com", Surplus),
            ("https://*.exam ple.com", Surplus),
            ("https://*.example.com:443", DefaultPort),
            ("http://*.example.com:80", DefaultPort),
            ("https://x:443", DefaultPort),
            ("http://[::1]:80", DefaultPort),
            ("https://*.example.com:0", NotCanonical),
            ("https://*.example.com:", NotCanonical),
            ("https://*.example.com:08443", NotCanonical),
            ("https://*.example.com:99999", NotCanonical),
            ("https://*.example.com:port", NotCanonical),
            ("https://*.münchen.de", NotCanonical),
            ("https://0x7f.1", NotCanonical),
            ("https://", NotCanonical),
            (&long, NotCanonical),
            (&longer, NotCanonical),
        ] {
            assert_eq!(Origin::parse(text), Err(error), "{text}");
        }
        for fine in [
            "http://*.example.com:443",
            "https://*.example.com:80",
            "http://*.localhost:5173",
            "https://*.co.uk",
            "http://127.0.0.1:5173",
            "http://[::1]:5173",
            "https://localhost",
        ] {
            assert!(Origin::parse(fine).unwrap().is_some(), "{fine}");
        }
    }
}
