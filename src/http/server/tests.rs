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
