use super::*;

fn parse(text: &str) -> PostgresUrl {
    PostgresUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn tcp(name: &str, port: u16) -> Endpoint {
    Endpoint { host: Host::Tcp { name: name.to_owned(), address: name.parse().ok() }, port }
}

#[test]
fn every_part_is_found_and_decoded() {
    let url =
        parse(" \n\tpostgresql://us%40er:p%3A%2F%3F%23%5B%5D%40%25%20w@db.example:6000/my%20db?options=-c%20a%3Db\n");
    assert_eq!(url.user.as_deref(), Some("us@er"));
    assert_eq!(url.password.as_deref(), Some(&b"p:/?#[]@% w"[..]));
    assert_eq!((url.hosts, url.database.as_deref()), (vec![tcp("db.example", 6000)], Some("my db")));
    assert_eq!(url.options.as_deref(), Some("-c a=b"));
    assert_eq!((url.tls.mode, url.needs_primary), (SslMode::Prefer, false));
    assert_eq!(parse("postgres://u:p@ss@h/db").password.as_deref(), Some(&b"p@ss"[..]));
    let raw = parse("postgres://u:p?w%rd@h/db?options=a@b");
    assert_eq!(raw.password.as_deref(), Some(&b"p?w%rd"[..]));
    assert_eq!((raw.hosts, raw.options.as_deref()), (vec![tcp("h", 5432)], Some("a@b")));
    assert_eq!(parse("postgres://u:@h").password, None);
    assert_eq!(parse("postgres://u:%ff@h").password.as_deref(), Some(&[0xff][..]), "a password is no text");
}

#[test]
fn hosts_are_names_addresses_and_sockets() {
    let url = parse("postgres://u:p@a:1,[::1]:2,c/db");
    assert_eq!(url.hosts, [tcp("a", 1), tcp("::1", 2), tcp("c", 5432)]);
    assert!(url.needs_primary, "one of several");
    let socket = Endpoint { host: Host::Unix("/run/pg".into()), port: 5433 };
    for text in [
        "postgres://u@%2Frun%2Fpg:5433/db",
        "postgres:///db?host=/run/pg&port=5433",
        "postgres://:5433/db?host=%2Frun%2Fpg",
    ] {
        assert_eq!(parse(text).hosts, std::slice::from_ref(&socket), "{text}");
    }
    assert_eq!(parse("postgres://a:1/db?host=b&port=2").hosts, [tcp("b", 2)], "what is said later wins");
    let named = parse("postgres://a/db?hostaddr=10.0.0.1").hosts;
    let host = Host::Tcp { name: "a".into(), address: Some([10, 0, 0, 1].into()) };
    assert_eq!(named, [Endpoint { host, port: 5432 }]);
    assert_eq!(parse("postgres:///db?hostaddr=::1&port=7").hosts, [tcp("::1", 7)]);
    let some = parse("postgres:///db?host=a,/run/pg,c&hostaddr=,,10.0.0.3&port=,2,").hosts;
    let socket = Endpoint { host: Host::Unix("/run/pg".into()), port: 2 };
    let known = Host::Tcp { name: "c".into(), address: Some([10, 0, 0, 3].into()) };
    assert_eq!(some, [tcp("a", 5432), socket, Endpoint { host: known, port: 5432 }]);
    assert_eq!(parse("postgres:///db?host=a,b&port=7").hosts, [tcp("a", 7), tcp("b", 7)]);
}

#[test]
fn tls_is_read_as_libpq_does() {
    assert_eq!(parse("postgres://h?ssl=true").tls.mode, SslMode::Require);
    let system = parse("postgres://h?sslrootcert=system").tls;
    assert_eq!((system.mode, system.roots), (SslMode::VerifyFull, Roots::System));
    let files = parse("postgres://h?sslmode=verify-ca&sslrootcert=/ca.crt&sslcert=/tls.crt&sslkey=/tls.key").tls;
    assert_eq!((files.mode, files.roots), (SslMode::VerifyCa, Roots::File("/ca.crt".into())));
    assert_eq!((files.certificate, files.key), (Some("/tls.crt".into()), Some("/tls.key".into())));
    assert!(
        !files.hides_certificate && parse("postgres://h?sslcertmode=disable&sslcert=/tls.crt").tls.hides_certificate
    );
    assert!(parse("postgres://h?gssencmode=prefer&sslcertmode=allow") == parse("postgres://h?gssencmode=disable"));
    assert_eq!(parse("postgres://h?channel_binding=require").channel_binding, ChannelBinding::Require);
    for mode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
        assert_eq!(Some(parse(&format!("postgres://h?sslmode={mode}")).tls.mode), SslMode::from_name(mode));
    }
}

#[test]
fn what_cannot_be_meant_is_refused_and_no_part_of_it_is_said() {
    for (text, error) in [
        ("mysql://s3cret@h", UrlError::Form),
        ("host=s3cret", UrlError::Form),
        ("", UrlError::Form),
        ("postgres://u:s3cret@/db", UrlError::NoHost),
        ("postgres://u:s3cret@a,,b/db", UrlError::NoHost),
        ("postgres://u:s3cret@h:s3cret/db", UrlError::Port),
        ("postgres://h:0/db", UrlError::Port),
        ("postgres://h:65536/db", UrlError::Port),
        ("postgres://[::1/db", UrlError::Form),
        ("postgres:///db?host=a,b,c&port=1,2", UrlError::Counts),
        ("postgres://a,b/db?hostaddr=10.0.0.1", UrlError::Counts),
        ("postgres:///db?hostaddr=,10.0.0.1", UrlError::NoHost),
        ("postgres://u%00:s3cret@h", UrlError::Encoding),
        ("postgres://%ffs3cret@h", UrlError::Encoding),
        ("postgres://h/db?s3cret=1", UrlError::UnknownParameter),
        ("postgres://h/db?s3cret", UrlError::UnknownParameter),
        ("postgres://h?sslcrl=s3cret", UrlError::Unsupported { name: "sslcrl" }),
        ("postgres://h?gssencmode=require", UrlError::Unsupported { name: "gssencmode=require" }),
        ("postgres://h?sslcertmode=require", UrlError::Unsupported { name: "sslcertmode=require" }),
        ("postgres://h?sslmode=require&sslrootcert=system", UrlError::WeakWithSystem),
        ("postgres://h?target_session_attrs=standby", UrlError::ReadOnlyTarget),
    ] {
        assert_eq!(PostgresUrl::parse(text).err(), Some(error), "{text}");
        assert!(!error.to_string().contains("s3cret"), "{text}");
    }
    for parameter in [
        "sslmode",
        "connect_timeout",
        "channel_binding",
        "hostaddr",
        "keepalives",
        "sslnegotiation",
        "sslcertmode",
        "gssencmode",
    ] {
        let error = PostgresUrl::parse(&format!("postgres://h?{parameter}=s3cret")).err().unwrap().to_string();
        assert!(error.contains(parameter) && !error.contains("s3cret"), "{error}");
    }
}
