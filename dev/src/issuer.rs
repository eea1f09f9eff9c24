//! Stands in for the service that issues tokens: publishes the public keys as a JWKS.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use serde_json::{Value, json};

use super::{
    DevError,
    signing::SigningKey,
    stub::{Mode, Stub, lock},
};

const PATH: &str = "/api/auth/jwks";

type Published = Arc<Mutex<Vec<Value>>>;

/// A running issuer. Dropping it stops it.
#[derive(Debug)]
pub struct Issuer {
    stub: Stub,
    published: Published,
}

impl Issuer {
    /// Listens on `address` (port 0: any free one) and publishes `keys`.
    pub async fn start(address: SocketAddr, keys: &[SigningKey]) -> Result<Self, DevError> {
        let published = Published::default();
        let router = Router::new().route(PATH, get(jwks)).with_state(Arc::clone(&published));
        let stub = Stub::start(address, router).await?;
        let issuer = Self { stub, published };
        issuer.set_keys(keys);
        Ok(issuer)
    }

    /// Rotates the keys: publishes these and no others from now on.
    pub fn set_keys(&self, keys: &[SigningKey]) {
        *lock(&self.published) = keys.iter().map(SigningKey::public_jwk).collect();
    }

    /// Publishes these JSON web keys, of any kind: an issuer has keys of other kinds too.
    pub fn set_jwks(&self, keys: Vec<Value>) {
        *lock(&self.published) = keys;
    }

    /// Sets how it answers from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.stub.set_mode(mode);
    }

    /// The number of requests.
    pub fn requests(&self) -> u64 {
        self.stub.requests()
    }

    /// For `JWKS_URL`.
    pub fn jwks_url(&self) -> String {
        format!("http://{}{PATH}", self.stub.address())
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

async fn jwks(State(published): State<Published>) -> impl IntoResponse {
    let body = json!({ "keys": *lock(&published) }).to_string();
    ([(CONTENT_TYPE, "application/json")], body)
}
