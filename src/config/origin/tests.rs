use super::*;

#[test]
fn a_pattern_stands_for_one_or_more_labels_of_its_scheme_domain_and_port() {
    let pattern = Origin::parse("https://*.example.com").unwrap().unwrap();
    for allowed in ["https://a.example.com", "https://a.b-c.d_1.example.com", "https://xn--mnchen-3ya.example.com"] {
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
fn apps_and_extensions_have_schemes_of_their_own() {
    for (text, origin) in [
        ("capacitor://localhost", "capacitor://localhost"),
        ("Tauri://localhost", "tauri://localhost"),
        ("app://todo.example.com:8443", "app://todo.example.com:8443"),
        ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://abcdefghijklmnopabcdefghijklmnop"),
        (
            "safari-web-extension://0F3E5D3A-93A1-4C6B-8F0A-0C7B6F0B7F11",
            "safari-web-extension://0F3E5D3A-93A1-4C6B-8F0A-0C7B6F0B7F11",
        ),
    ] {
        let allowed = Origin::parse(text).unwrap().unwrap();
        assert!(allowed.allows(origin.as_bytes()), "{text}");
        assert!(!allowed.allows(b"https://localhost") && !allowed.allows(b"null"), "{text}");
    }
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
        ("htps://a.example.com", Scheme),
        ("file://localhost", Scheme),
        ("wss://a.example.com", Scheme),
        ("my app://localhost", Scheme),
        ("://localhost", Scheme),
        ("capacitor://", NotCanonical),
        ("capacitor://localhost/", Surplus),
        ("capacitor://*.localhost", Wildcard),
        ("chrome-extension://*", Wildcard),
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
