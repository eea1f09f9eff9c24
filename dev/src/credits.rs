//! Stands in for the credits service, which knows who pays for sync.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::json;

use super::{
    DevError,
    stub::{Mode, Stub, lock},
};

/// A running credits service. Every user is active until set otherwise. Dropping it stops it.
#[derive(Debug)]
pub struct Credits {
    stub: Stub,
    books: Arc<Books>,
}

#[derive(Debug)]
struct Books {
    service_key: String,
    inactive: Mutex<HashSet<String>>,
    asked: Mutex<HashMap<String, u64>>,
}

impl Credits {
    /// Listens on `address` (port 0: any free one); callers must send the service key.
    pub async fn start(address: SocketAddr, service_key: &str) -> Result<Self, DevError> {
        let books = Arc::new(Books {
            service_key: service_key.to_owned(),
            inactive: Mutex::default(),
            asked: Mutex::default(),
        });
        let router =
            Router::new().route("/api/v1/internal/sync/status/{user}", get(status)).with_state(Arc::clone(&books));
        let stub = Stub::start(address, router).await?;
        Ok(Self { stub, books })
    }

    /// Sets whether this user is active.
    pub fn set_active(&self, user: &str, active: bool) {
        let mut inactive = lock(&self.books.inactive);
        if active {
            inactive.remove(user);
        } else {
            inactive.insert(user.to_owned());
        }
    }

    /// Sets how it answers from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.stub.set_mode(mode);
    }

    /// The number of requests, whatever the answer was.
    pub fn requests(&self) -> u64 {
        self.stub.requests()
    }

    /// The number of answers about this user.
    pub fn requests_of(&self, user: &str) -> u64 {
        lock(&self.books.asked).get(user).copied().unwrap_or(0)
    }

    /// For `MANA_CREDITS_URL`: no path, no slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.stub.address())
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.stub.address()
    }

    /// Stops it and waits until its port is free again.
    pub async fn stop(self) {
        self.stub.stop().await;
    }
}

async fn status(State(books): State<Arc<Books>>, Path(user): Path<String>, headers: HeaderMap) -> Response {
    let key = headers.get("x-service-key").map(|key| key.as_bytes());
    if key != Some(books.service_key.as_bytes()) {
        return StatusCode::FORBIDDEN.into_response();
    }
    *lock(&books.asked).entry(user.clone()).or_default() += 1;
    let active = !lock(&books.inactive).contains(&user);
    let body = json!({ "active": active, "interval": "month", "pausedAt": null }).to_string();
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}
