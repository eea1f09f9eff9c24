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

/// Every parameter of libpq 18.
const OF_LIBPQ: [&str; 51] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];

#[test]
fn a_parameter_of_libpq_is_honoured_or_refused_by_its_name() {
    for name in OF_LIBPQ.into_iter().chain(["user"]) {
        for value in ["1", "true", "s3cret", "/s3cret"] {
            let Err(error) = PostgresUrl::parse(&format!("postgres://h?{name}={value}")) else { continue };
            assert_ne!(error, UrlError::UnknownParameter, "{name}={value}");
            assert!(!error.to_string().contains("s3cret"), "{name}: {error}");
        }
    }
    for name in [
        "gsslib",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_issuer",
        "oauth_scope",
        "passfile",
        "replication",
        "require_auth",
        "requirepeer",
        "scram_client_key",
        "scram_server_key",
        "service",
        "servicefile",
        "sslcrl",
        "sslcrldir",
        "sslkeylogfile",
        "sslpassword",
    ] {
        let text = format!("postgres://h?{name}=s3cret");
        assert_eq!(PostgresUrl::parse(&text).err(), Some(UrlError::Unsupported { name }), "{text}");
    }
}

#[test]
fn of_a_parameter_that_is_repeated_the_last_one_counts() {
    for (text, same) in [
        ("h?sslmode=bad&sslmode=disable", "h?sslmode=disable"),
        ("h?target_session_attrs=read-write&target_session_attrs=any", "h"),
        ("h?target_session_attrs=standby&target_session_attrs=primary", "h?target_session_attrs=primary"),
        ("h?sslrootcert=/ca.crt&sslrootcert=", "h"),
        ("h?sslcertmode=require&sslcertmode=disable", "h?sslcertmode=disable"),
        ("h?sslcrl=/list&sslcrl=", "h"),
        ("h?ssl=true&sslmode=disable", "h?sslmode=disable"),
        ("h?sslmode=disable&ssl=true", "h?sslmode=require"),
        ("h?sslmode=disable&requiressl=1", "h?sslmode=require"),
        ("h?requiressl=0", "h?sslmode=prefer"),
        ("h?keepalives=0&keepalives=1", "h"),
        ("h?keepalives_idle=5&keepalives_idle=0", "h"),
        ("u:word@h/db?user=&password=&dbname=", "h"),
        ("h:1?port=", "h"),
        ("a?host=b&%68ost=c", "c"),
        ("a?hostaddr=10.0.0.1&hostaddr=", "a"),
        ("h?options=-c%20a%3Db&options=", "h"),
        ("h?connect_timeout=%205%20", "h?connect_timeout=5"),
    ] {
        assert!(parse(&format!("postgres://{text}")) == parse(&format!("postgres://{same}")), "{text}");
    }
    for text in ["a?host=", "a?host=b&host="] {
        assert_eq!(PostgresUrl::parse(&format!("postgres://{text}")).err(), Some(UrlError::NoHost), "{text}");
    }
    // libpq refuses these too: an empty value is not the default.
    for name in [
        "channel_binding",
        "connect_timeout",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "sslcertmode",
        "sslmode",
        "sslnegotiation",
        "target_session_attrs",
        "tcp_user_timeout",
    ] {
        let error = PostgresUrl::parse(&format!("postgres://h?{name}=disable&{name}=")).err();
        assert!(matches!(error, Some(UrlError::Parameter { name: named, .. }) if named == name), "{name}: {error:?}");
    }
}

#[test]
fn times_that_the_kernel_would_refuse_are_refused() {
    for (name, most) in [
        ("connect_timeout", i32::MAX),
        ("tcp_user_timeout", i32::MAX),
        ("keepalives_idle", 32_767),
        ("keepalives_interval", 32_767),
        ("keepalives_count", 127),
    ] {
        let read = |value: i64| PostgresUrl::parse(&format!("postgres://h?{name}={value}")).map(drop);
        assert_eq!(read(most.into()), Ok(()), "{name}");
        assert_eq!(read(-1), Ok(()), "{name}: as if it were not given");
        for beyond in [i64::from(most) + 1, 5_000_000_000, -5_000_000_000] {
            let error = read(beyond).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(&most.to_string()), "{beyond}: {error}");
        }
    }
}

#[test]
fn names_and_versions_of_tls_are_read_as_libpq_does() {
    assert!(parse("postgres://h").tls.sends_name && parse("postgres://h?sslsni=1").tls.sends_name);
    assert!(!parse("postgres://h?sslsni=0").tls.sends_name);
    let versions =
        |parameters: &str| PostgresUrl::parse(&format!("postgres://h?{parameters}")).map(|url| url.tls.versions);
    for (parameters, expected) in [
        ("", TlsVersions::All),
        ("ssl_min_protocol_version=TLSv1&ssl_max_protocol_version=TLSv1.3", TlsVersions::All),
        ("ssl_min_protocol_version=tlsv1.3", TlsVersions::Only13),
        ("ssl_max_protocol_version=TLSv1.2", TlsVersions::Only12),
        ("ssl_min_protocol_version=&ssl_max_protocol_version=", TlsVersions::All),
    ] {
        assert_eq!(versions(parameters), Ok(expected), "{parameters}");
    }
    for (parameters, name) in [
        ("ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2", "ssl_max_protocol_version"),
        ("ssl_max_protocol_version=TLSv1.1", "ssl_max_protocol_version"),
        ("ssl_min_protocol_version=s3cret", "ssl_min_protocol_version"),
        ("sslsni=true", "sslsni"),
        ("load_balance_hosts=s3cret", "load_balance_hosts"),
        ("min_protocol_version=s3cret", "min_protocol_version"),
        ("max_protocol_version=s3cret", "max_protocol_version"),
    ] {
        let error = PostgresUrl::parse(&format!("postgres://h?{parameters}")).err().unwrap().to_string();
        assert!(error.contains(name) && !error.contains("s3cret"), "{parameters}: {error}");
    }
    // The protocol that is spoken here is 3.0.
    assert!(parse("postgres://h?min_protocol_version=3.0&max_protocol_version=latest") == parse("postgres://h"));
    let name = "min_protocol_version";
    let newer = PostgresUrl::parse("postgres://h?min_protocol_version=3.2");
    assert_eq!(newer.err(), Some(UrlError::Unsupported { name }));
}

#[test]
fn a_socket_may_be_abstract() {
    let socket = Endpoint { host: Host::Unix("@name".into()), port: 5433 };
    for text in ["postgres://u@%40name:5433/db", "postgres:///db?host=@name&port=5433"] {
        assert_eq!(parse(text).hosts, std::slice::from_ref(&socket), "{text}");
    }
}
