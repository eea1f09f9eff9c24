//! Several hosts, some of them missing, silent, unknown or read-only.

use super::server::Server;
use super::support::proxy::Proxy;
use super::{connect, said};
use mana_dev::{Shutdown, TemporaryPostgres, free_port};
use mana_sync::config::Secret;
use mana_sync::db::{Admitted, ConnectError, Connector, Pool, PoolConfig, PoolStatus, Sql, identity};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Maximum time to find a primary once there is one.
const SOON: Duration = Duration::from_secs(2);
/// How long a silent host is waited for before another one is asked.
const STAGGER: Duration = Duration::from_millis(250);

/// Asserts that the server at this port was found soon. On a machine that is busy with other things it may take longer, by
/// as much as twenty connections now take to that server alone.
async fn assert_soon(port: u16, what: &str, took: Duration) {
    const CONNECTIONS: u32 = 20;
    if took < SOON {
        return;
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..CONNECTIONS {
        let begun = Instant::now();
        connect(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).await.unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    assert!(took < SOON + slowest * CONNECTIONS, "{what}: only after {took:?}");
}

/// Asserts that a connector asks the host first that answered last: it connects at least once without waiting for a
/// silent one.
async fn assert_asked_first(connector: &Connector, what: &str) {
    for _ in 0..20 {
        let begun = Instant::now();
        connector.open().await.unwrap();
        if begun.elapsed() < STAGGER {
            return;
        }
    }
    panic!("{what}: another one is asked first");
}

/// A host that accepts connections and sends nothing.
async fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn the_one_that_can_be_used_is_found_soon_whatever_the_others_are() {
    let server = Server::plain().await;
    let read_only = [("default_transaction_read_only".to_owned(), "on".to_owned())];
    let standby = TemporaryPostgres::start(Path::new(".dev"), read_only.into()).await.unwrap();
    let (_silent, silent) = silent().await;
    let (dead, primary) = (free_port().unwrap(), server.port());
    let standby = standby.server().port();
    for hosts in [
        format!("127.0.0.1:{dead},127.0.0.1:{primary}"),
        format!("nobody.invalid,127.0.0.1:{primary}"),
        format!("127.0.0.1:{silent},127.0.0.1:{primary}"),
        format!("127.0.0.1:{standby},127.0.0.1:{primary}"),
        format!("127.0.0.1:{silent},nobody.invalid,127.0.0.1:{dead},127.0.0.1:{standby},[::1]:{primary}"),
        format!("127.0.0.1:{primary},127.0.0.1:{silent}"),
    ] {
        let begun = Instant::now();
        let url = format!("postgres://postgres@{hosts}/postgres?application_name=x&target_session_attrs=primary");
        let connected = connect(&url).await;
        assert!(connected.is_ok(), "{hosts}: {:?}", connected.map_err(|error| said(&error)));
        assert_soon(primary, &hosts, begun.elapsed()).await;
    }
    let only = |hosts: String, more: &'static str| async move {
        connect(&format!("postgres://postgres@{hosts}/postgres?{more}")).await
    };
    let none = only(format!("127.0.0.1:{dead},127.0.0.1:{standby}"), "").await;
    assert!(matches!(none, Err(ConnectError::NoPrimary)), "{none:?}");
    let none = only(format!("127.0.0.1:{standby}"), "target_session_attrs=read-write").await;
    assert!(matches!(none, Err(ConnectError::NoPrimary)), "{none:?}");
    assert!(only(format!("127.0.0.1:{standby}"), "").await.is_ok(), "one host is what there is");
    for hosts in ["nobody.invalid".to_owned(), format!("127.0.0.1:{dead}"), format!("nobody.invalid,127.0.0.1:{dead}")]
    {
        let error = only(hosts.clone(), "").await.unwrap_err();
        assert!(error.is_passing(), "{hosts}: {}", said(&error));
    }
    let error = only(format!("127.0.0.1:{silent}"), "connect_timeout=1").await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout), "{}", said(&error));
}

/// A standby may have an entry for nobody but its own users, while the primary is being restarted.
#[tokio::test]
async fn one_that_refuses_for_good_is_no_reason_to_give_up_while_another_is_unavailable() {
    let server = Server::plain().await;
    let (refusing, dead, (_silent, silent)) = (server.port(), free_port().unwrap(), silent().await);
    let only =
        async |hosts: String| connect(&format!("postgres://word:wrong@{hosts}/postgres?connect_timeout=1")).await;
    for hosts in [
        format!("127.0.0.1:{refusing},127.0.0.1:{dead}"),
        format!("127.0.0.1:{silent},127.0.0.1:{refusing}"),
        format!("nobody.invalid,127.0.0.1:{refusing}"),
    ] {
        let error = only(hosts.clone()).await.unwrap_err();
        assert!(error.is_passing() && error.sentence().contains("28P01"), "{hosts}: {}", error.sentence());
    }
    for hosts in [format!("127.0.0.1:{refusing}"), format!("127.0.0.1:{refusing},[::1]:{refusing}")] {
        let error = only(hosts.clone()).await.unwrap_err();
        assert!(!error.is_passing() && error.sentence().contains("28P01"), "{hosts}: {}", error.sentence());
    }
}

#[tokio::test]
async fn the_host_that_answered_last_is_asked_first() {
    let server = Server::plain().await;
    let (_silent, silent) = silent().await;
    let url = format!("postgres://any@127.0.0.1:{silent},127.0.0.1:{}/postgres", server.port());
    let connector = Connector::new(&Secret::from(&*url), "test").unwrap();
    connector.open().await.unwrap();
    assert_asked_first(&connector, "after a silent one").await;
}

/// Two servers, their ports, and a pool of this size that may use either.
async fn pool_over_two(size: usize) -> (Vec<TemporaryPostgres>, Vec<i32>, Pool) {
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap());
    }
    let ports = servers.iter().map(|server| server.server().port().into()).collect();
    let connector =
        |server: &TemporaryPostgres| Connector::new(&Secret::from(&*server.server().admin_url()), "test").unwrap();
    let limit = Duration::from_secs(20);
    let config = PoolConfig { size, acquire_timeout: limit, statement_timeout: limit, settings: vec![], prepare: true };
    let pool = Pool::over(servers.iter().map(connector).collect(), config);
    (servers, ports, pool)
}

#[tokio::test]
async fn of_servers_that_all_will_do_the_best_is_used_while_it_is_there() {
    let (mut servers, ports, pool) = pool_over_two(2).await;
    let port = async || pool.query(&PORT, &[]).await.unwrap()[0].get::<_, i32>(0);
    assert_eq!(port().await, ports[0], "the first, until another is said to be better");
    pool.prefer(1).await;
    assert_eq!(port().await, ports[1]);
    servers[1].server_mut().kill().await.unwrap();
    assert_eq!(port().await, ports[0], "another will do");
    servers[1].server_mut().restart(Shutdown::Immediate).await.unwrap();
    assert_eq!(port().await, ports[0], "what is open is used");
    pool.prefer(1).await;
    assert_eq!(port().await, ports[1], "until it is looked at again");
    pool.prefer(1).await;
    assert_eq!(port().await, ports[1]);
    pool.admit(1, Admitted::Nobody);
    assert_eq!(port().await, ports[0], "nor is one that is open used where it may not be any more");
    pool.admit(1, Admitted::Any);
}

#[tokio::test]
async fn a_connection_to_another_server_that_was_in_use_when_the_best_was_set_is_replaced() {
    let (_servers, ports, pool) = pool_over_two(1).await;
    let port = async || pool.query(&PORT, &[]).await.unwrap()[0].get::<_, i32>(0);
    let sleeping = async || pool.query(&SLEEP, &[]).await.unwrap();
    tokio::join!(biased; sleeping(), async {
        while pool.status() != (PoolStatus { open: 1, idle: 0, waiting: 0 }) {
            tokio::task::yield_now().await;
        }
        pool.prefer(1).await;
    });
    assert_eq!(port().await, ports[1]);
    // What leads there stays.
    let process = async || pool.query(&PROCESS, &[]).await.unwrap()[0].get::<_, i32>(0);
    let before = process().await;
    pool.prefer(1).await;
    assert_eq!(process().await, before);
}

#[tokio::test]
async fn a_url_is_used_only_while_it_leads_to_the_server_that_was_admitted() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap());
    }
    let urls: Vec<String> = servers.iter().map(|server| server.server().admin_url()).collect();
    let ports: Vec<u16> = servers.iter().map(|server| server.server().port()).collect();
    let at = |server: usize| SocketAddr::from(([127, 0, 0, 1], ports[server]));
    let proxy = Proxy::start(at(1)).await;
    let connector = |url: &str| Connector::new(&Secret::from(url), "test").unwrap();
    let admitted = async |url: &str| {
        let session = connector(url).open().await.unwrap();
        Admitted::Only(identity(&session).await.unwrap().unwrap().into())
    };
    let limit = Duration::from_secs(20);
    let config =
        PoolConfig { size: 2, acquire_timeout: limit, statement_timeout: limit, settings: vec![], prepare: true };
    let pool = Pool::over(vec![connector(&urls[0]), connector(&proxy.url(&urls[1]))], config);
    let port = async || pool.query(&PORT, &[]).await.unwrap()[0].get::<_, i32>(0);
    pool.prefer(1).await;
    pool.admit(1, admitted(&urls[1]).await);
    assert_eq!(port().await, i32::from(ports[1]));
    proxy.lead_to(at(2));
    assert_eq!(port().await, i32::from(ports[1]), "what is open leads where it did");
    proxy.cut();
    assert_eq!(port().await, i32::from(ports[0]), "the other one is used");
    assert!(!pool.is_usable(1), "it is not tried again");
    pool.admit(1, admitted(&urls[2]).await);
    pool.distrust();
    assert_eq!(port().await, i32::from(ports[2]), "it has been admitted since");
    pool.admit(1, admitted(&urls[1]).await);
    assert_eq!(port().await, i32::from(ports[0]), "nor is what was open before used");
}

/// A connector whose host has these addresses.
fn named(addresses: &[u16], more: &str) -> Connector {
    let url = format!("postgres://postgres@db.example/postgres?{more}");
    let addresses: Vec<SocketAddr> = addresses.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
    let resolver = Arc::new(move |_, _| {
        let addresses = addresses.clone();
        Box::pin(async move { Ok(addresses) }) as futures_util::future::BoxFuture<'static, _>
    });
    Connector::new(&Secret::from(&*url), "test").unwrap().with_resolver(resolver)
}

static SLEEP: Sql = Sql { text: "select pg_sleep(0.3)", types: &[] };
static PROCESS: Sql = Sql { text: "select pg_backend_pid()", types: &[] };
static PORT: Sql = Sql { text: "select current_setting('port')::int", types: &[] };

async fn port_of(connector: &Connector) -> u16 {
    let session = connector.open().await.unwrap();
    u16::try_from(session.query_one(PORT.text, &[]).await.unwrap().get::<_, i32>(0)).unwrap()
}

#[tokio::test]
async fn of_the_addresses_of_a_name_the_one_that_can_be_used_is_found_soon() {
    let server = Server::plain().await;
    let read_only = [("default_transaction_read_only".to_owned(), "on".to_owned())];
    let standby = TemporaryPostgres::start(Path::new(".dev"), read_only.into()).await.unwrap();
    let (_silent, silent) = silent().await;
    let (dead, primary, standby) = (free_port().unwrap(), server.port(), standby.server().port());
    for addresses in [
        vec![primary],
        vec![silent, primary],
        vec![dead, primary],
        vec![standby, primary],
        vec![silent, silent, silent, silent, silent, silent, standby, primary],
        vec![primary, silent],
    ] {
        for more in ["", "sslmode=disable", "target_session_attrs=read-write"] {
            let begun = Instant::now();
            let connector = named(&addresses, more);
            assert_eq!(port_of(&connector).await, primary, "{addresses:?} {more}");
            assert_soon(primary, &format!("{addresses:?} {more}"), begun.elapsed()).await;
            assert_asked_first(&connector, &format!("{addresses:?} {more}")).await;
            assert_eq!(port_of(&connector).await, primary);
            assert_eq!(connector.has_choice(), addresses.len() > 1);
        }
    }
    // A standby will do, unless the URL asks for more.
    assert_eq!(port_of(&named(&[dead, standby], "")).await, standby);
    let none = named(&[dead, standby], "target_session_attrs=read-write").open().await.err().unwrap();
    assert!(matches!(none, ConnectError::NoPrimary), "{}", said(&none));
    let none = named(&[], "").open().await.err().unwrap();
    assert!(matches!(none, ConnectError::Resolve(_)), "{}", said(&none));
}

/// The name server's answer.
#[derive(Clone, Copy, Debug)]
enum Named {
    Port(u16),
    Unknown,
    /// The name server does not respond.
    Unanswered,
}

/// How long there is no primary after the old one has died.
const INTERREGNUM: Duration = Duration::from_millis(500);

/// Whatever happens to the name of a dead primary: pushes work again soon after another server has become the primary.
#[tokio::test]
async fn after_a_failover_in_which_the_primarys_name_goes_away_statements_work_soon() {
    let (_silent, silent) = silent().await;
    for gone in [Named::Unknown, Named::Unanswered, Named::Port(silent), Named::Port(free_port().unwrap())] {
        let mut primary = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
        let standby = TemporaryPostgres::start(Path::new(".dev"), vec![]).await.unwrap();
        let elsewhere = Secret::from(&*standby.server().url("template1"));
        let control = Connector::new(&elsewhere, "test").unwrap().open().await.unwrap();
        let read_only = "alter database postgres set default_transaction_read_only = on";
        control.batch_execute(read_only).await.unwrap();
        let primary_is = Arc::new(Mutex::new(Named::Port(primary.server().port())));
        let (named, second) = (primary_is.clone(), standby.server().port());
        let resolver = Arc::new(move |name: String, _| {
            let named = if name == "first.example" { *named.lock().unwrap() } else { Named::Port(second) };
            Box::pin(async move {
                match named {
                    Named::Port(port) => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
                    Named::Unknown => Err(std::io::ErrorKind::NotFound.into()),
                    Named::Unanswered => std::future::pending().await,
                }
            }) as futures_util::future::BoxFuture<'static, _>
        });
        let url = "postgres://postgres@first.example,second.example/postgres";
        let connector = Connector::new(&Secret::from(url), "test").unwrap().with_resolver(resolver);
        // The replicas' defaults.
        let (acquire, statement) = (Duration::from_secs(3), Duration::from_secs(15));
        let config = PoolConfig {
            size: 4,
            acquire_timeout: acquire,
            statement_timeout: statement,
            settings: vec![],
            prepare: true,
        };
        let pool = Pool::new(connector, config);
        let port = async || pool.query(&PORT, &[]).await.map(|rows| rows[0].get::<_, i32>(0));
        assert_eq!(port().await.unwrap(), i32::from(primary.server().port()));

        *primary_is.lock().unwrap() = gone;
        primary.server_mut().kill().await.unwrap();
        let waiting = async {
            // Statements sent before then succeed, or fail because there is no primary.
            while port().await.is_err() {}
            Instant::now()
        };
        let promoting = async {
            tokio::time::sleep(INTERREGNUM).await;
            control.batch_execute("alter database postgres reset default_transaction_read_only").await.unwrap();
            Instant::now()
        };
        let (served, promoted) = tokio::join!(waiting, promoting);
        let took = served.saturating_duration_since(promoted);
        assert_soon(second, &format!("{gone:?}"), took).await;
        assert_eq!(port().await.unwrap(), i32::from(second));
    }
}

#[tokio::test]
async fn a_pool_finds_the_address_that_is_left_when_the_first_goes_silent() {
    let server = Server::plain().await;
    let (_silent, silent) = silent().await;
    // Less than it takes until the first one is given up.
    let limit = Duration::from_millis(2_500);
    let config =
        PoolConfig { size: 2, acquire_timeout: limit, statement_timeout: limit, settings: vec![], prepare: true };
    let pool = Pool::new(named(&[silent, server.port()], ""), config);
    let rows = pool.query(&PORT, &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, i32>(0), i32::from(server.port()));
}

#[tokio::test]
async fn hosts_and_addresses_share_the_connections_if_the_url_says_so() {
    let server = Server::plain().await;
    let port = server.port();
    let both = |name: &str| {
        let resolver = Arc::new(move |_: String, port: u16| {
            let addresses = ["127.0.0.1", "::1"].map(|address| SocketAddr::new(address.parse().unwrap(), port));
            Box::pin(async move { Ok(addresses.to_vec()) }) as futures_util::future::BoxFuture<'static, _>
        });
        Connector::new(&Secret::from(name), "driver test").unwrap().with_resolver(resolver)
    };
    for hosts in [format!("127.0.0.1:{port},[::1]:{port}"), format!("twins.invalid:{port}")] {
        for (parameters, expected) in [("", 1), ("?load_balance_hosts=disable", 1), ("?load_balance_hosts=random", 2)] {
            let connector = both(&format!("postgres://any@{hosts}/postgres{parameters}"));
            let mut seen = std::collections::HashSet::new();
            // That random choices are all the same is less likely than one in 2^39.
            for _ in 0..40 {
                let session = connector.open().await.unwrap();
                let row = session.query_one("select host(inet_server_addr())", &[]).await.unwrap();
                seen.insert(row.get::<_, String>(0));
            }
            assert_eq!(seen.len(), expected, "{hosts} {parameters}: {seen:?}");
        }
    }
}
