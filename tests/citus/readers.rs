//! Devices that read streams all the time, each through another replica than the user who writes.

use crate::support::live::*;
use crate::support::*;
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

/// What one of them has read.
struct Reader {
    user: User,
    read: Arc<Mutex<Vec<String>>>,
    reading: JoinHandle<()>,
}

pub struct Readers(Vec<Reader>);

impl Readers {
    /// Starts one for each user.
    pub async fn start(cluster: &Cluster, users: &[User]) -> Readers {
        let mut readers = Vec::new();
        for (n, user) in users.iter().enumerate() {
            let mut stream = Events::open(stream_of(cluster, n + 1, user, "collections=todos")).await;
            stream.backlog().await;
            let read = Arc::<Mutex<Vec<String>>>::default();
            let to = read.clone();
            let reading = tokio::spawn(async move {
                loop {
                    let ids = stream.delta().await.ids();
                    to.lock().unwrap().extend(ids);
                }
            });
            readers.push(Reader { user: user.clone(), read, reading });
        }
        Readers(readers)
    }

    /// Checks that each has read exactly what was acknowledged to its user, in that order, and that no stream ended.
    pub async fn assert_read(self, written: &[(User, Vec<String>)]) {
        for Reader { user, read, reading } in self.0 {
            let (_, acknowledged) = written.iter().find(|(writer, _)| writer.id == user.id).unwrap();
            eventually("everything is read", async || {
                assert!(!reading.is_finished(), "the stream of {} ended", user.id);
                read.lock().unwrap().len() >= acknowledged.len()
            })
            .await;
            assert_eq!(&*read.lock().unwrap(), acknowledged, "of {}", user.id);
            reading.abort();
        }
    }
}
