use crate::clock::Clock;
use crate::config::Config;
use crate::protocol::push::{StampPolicy, read_push};
use crate::protocol::{Log, Stamp};
use crate::store::{Pushed, Store};
use crate::telemetry::Metrics;
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::runtime;

const PUSHES: usize = 500;

/// What is under way then is dropped, and with each of them whatever would have been next.
#[test]
fn a_runtime_that_ends_is_not_held_by_pushes_that_wait() {
    // It accepts connections and says nothing.
    let database = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://nobody@{}/none", database.local_addr().unwrap());
    let config = Config::with_defaults(&url).unwrap();
    let ((begin, begun), (end, ended)) = (mpsc::channel(), mpsc::channel());
    std::thread::spawn(move || {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::new(&config, Arc::new(Metrics::new()), Clock::system()).unwrap();
            for user in 0..PUSHES {
                let fields = r#"{"f":{"value":1,"updatedAt":"2024-01-01T10:00:00Z"}}"#;
                let body = format!(
                    r#"{{"clientId":"c","changes":[{{"table":"t","id":"a","op":"update","fields":{fields}}}]}}"#
                );
                let policy = StampPolicy { now: Stamp::from_millis(1_700_000_000_000), max_ahead: 0 };
                let push = Arc::new(read_push(body.as_bytes(), None, policy, usize::MAX).unwrap());
                let (pushes, log) = (store.pushes.clone(), Log::new(user.to_string().into(), "a"));
                tokio::spawn(async move { pushes.push(&log, push, |_: &Pushed| ()).await });
            }
        });
        begun.recv().unwrap();
        drop(runtime);
        end.send(()).unwrap();
    });
    // Some of them are under way.
    let _connection = database.accept().unwrap();
    begin.send(()).unwrap();
    assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(()));
}
