use super::*;
use crate::limits::turns::tests::count_turns;
use axum::http::StatusCode;
use axum::routing::get;
use futures_util::future::join_all;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// Reads until this many requests have been answered.
async fn read_answers(client: &mut TcpStream, count: usize) {
    let mut read = Vec::new();
    while String::from_utf8_lossy(&read).matches("HTTP/1.1 200 ").count() < count {
        assert!(client.read_buf(&mut read).await.unwrap() > 0, "the connection ended");
    }
}

#[tokio::test]
async fn requests_behind_one_another_leave_turns_to_others() {
    const REQUESTS: usize = 12;
    const CONNECTIONS: usize = 3;
    let (turns, answered) = (count_turns(), Arc::<Mutex<Vec<usize>>>::default());
    let note = answered.clone();
    let router = Router::new().route("/", get(async move || note.lock().unwrap().push(turns.load(Ordering::Relaxed))));
    let config = Config::with_defaults("postgres://localhost/none").unwrap();
    let server = Server::new(&config, router, Shutdown::default(), Arc::new(Metrics::new()));
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients = join_all((0..CONNECTIONS).map(|_| TcpStream::connect(address))).await;
    for client in clients.iter_mut().map(|client| client.as_mut().unwrap()) {
        // All of them are there before the first is read.
        client.write_all(REQUEST.repeat(REQUESTS).as_bytes()).await.unwrap();
    }
    tokio::spawn(server.accept(listener));
    join_all(clients.iter_mut().map(|client| read_answers(client.as_mut().unwrap(), REQUESTS))).await;
    let answered = answered.lock().unwrap();
    // The first of a connection does not wait.
    let together = answered.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(answered.len() == CONNECTIONS * REQUESTS && together <= CONNECTIONS, "{answered:?}");
}

#[tokio::test]
async fn only_answers_to_whoever_is_refused_wait_for_a_turn() {
    let requests = Arc::new(Semaphore::new(0));
    let noted = requests.clone();
    let refuse = get(async move || {
        noted.add_permits(1);
        StatusCode::UNAUTHORIZED
    });
    let router = Router::new().route("/refused", refuse).route("/", get(async || ()));
    let config = Config::with_defaults("postgres://localhost/none").unwrap();
    let server = Server::new(&config, router, Shutdown::default(), Arc::new(Metrics::new()));
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
    let address = listener.local_addr().unwrap();
    let held = server.free_of_cost.hold().await;
    tokio::spawn(server.accept(listener));

    let mut refused = join_all((0..3).map(|_| TcpStream::connect(address))).await;
    for client in refused.iter_mut().map(|client| client.as_mut().unwrap()) {
        client.write_all(b"GET /refused HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    }
    let mut preflight = TcpStream::connect(address).await.unwrap();
    preflight.write_all(b"OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let _all_were_refused = requests.acquire_many(3).await.unwrap();
    let mut served = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        served.write_all(REQUEST.as_bytes()).await.unwrap();
        read_answers(&mut served, 1).await;
    }
    let mut byte = [0];
    for client in refused.iter().map(|client| client.as_ref().unwrap()).chain([&preflight]) {
        assert_eq!(client.try_read(&mut byte).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    drop(held);
    for client in refused.iter_mut().map(|client| client.as_mut().unwrap()).chain([&mut preflight]) {
        assert_eq!(client.read(&mut byte).await.unwrap(), 1);
    }
}

/// Sends requests right behind one another, and reads the answers until the server ends the connection, or for as long as it
/// answers soon. Returns the number of answers, and whether the connection ended.
async fn ask(address: SocketAddr, requests: &str) -> (usize, bool) {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(requests.as_bytes()).await.unwrap();
    let (mut read, count) = (Vec::new(), requests.matches("HTTP/1.1\r\n").count());
    loop {
        let answers = String::from_utf8_lossy(&read).matches("HTTP/1.1 ").count();
        let says_so = String::from_utf8_lossy(&read).contains("connection: close");
        if answers == count && !says_so {
            return (answers, false);
        }
        if client.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return (answers, true);
        }
    }
}

#[tokio::test]
async fn a_connection_ends_once_much_was_sent_on_it_to_be_refused_or_without_a_token() {
    let refuse = axum::routing::post(async |_body: bytes::Bytes| StatusCode::UNAUTHORIZED);
    let router = Router::new().route("/refused", refuse).route("/", get(async || ()));
    let config = Config::with_defaults("postgres://localhost/none").unwrap();
    let server = Server::new(&config, router, Shutdown::default(), Arc::new(Metrics::new()));
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.accept(listener));
    let post = |length: usize| {
        format!("POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{}", " ".repeat(length))
    };
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(3_400));
    assert_eq!(ask(address, &post(4_000)).await, (1, false));
    assert_eq!(ask(address, &post(20_000)).await, (1, true));
    assert_eq!(ask(address, &long).await, (1, false));
    // None of them is long, and the buffer grows for what is left of the one before.
    let (answers, has_ended) = ask(address, &long.repeat(16)).await;
    assert!(answers < 16 && has_ended, "{answers} answers");
    assert_eq!(ask(address, &REQUEST.repeat(200)).await, (200, false), "short ones leave little behind");
}
