//! The admin port: any replica answers for all, and executes operators' actions everywhere.

mod absent;
mod access;
mod actions;
mod command;
mod description;
mod forms;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
mod views;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use support::live::{APP, Events, closed, socket, store, stream_of};
use support::*;

const TOKEN: &str = "an-admin-token-for-tests";
/// A stream of these tables has an event for each, even if they are empty.
const COLLECTIONS: &str = "collections=tasks,lists";
const AT: &str = "2024-01-01T10:05:00.000Z";

/// A cluster whose replicas all have an admin port.
struct Administered {
    cluster: Cluster,
    /// The base URLs of the admin ports.
    admin: Vec<String>,
}

async fn administered(replicas: u16, settings: &[(&str, &str)]) -> Administered {
    let admin = [("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)];
    let cluster = Cluster::start_with(replicas, &[&admin, settings].concat()).await;
    let admin = cluster.nodes.iter().map(Node::admin_url).collect();
    Administered { cluster, admin }
}

impl Administered {
    fn request(&self, index: usize, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1/{path}", self.admin[index]);
        self.cluster.http.request(method, url).bearer_auth(TOKEN).timeout(TIMEOUT)
    }

    async fn get(&self, index: usize, path: &str) -> Value {
        let (status, answer) = answer(self.request(index, Method::GET, path)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn post(&self, index: usize, path: &str, body: Value) -> Reply {
        let request = self.request(index, Method::POST, path).header("Content-Type", "application/json");
        Reply::to(request.body(body.to_string())).await
    }

    /// Sends an action, which must succeed; returns its outcomes by replica.
    async fn act(&self, index: usize, path: &str, body: Value) -> Vec<(String, String)> {
        let reply = self.post(index, path, body).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        let answer = reply.json();
        assert_eq!((&answer["silent"], &answer["problem"]), (&json!([]), &Value::Null), "{answer}");
        let outcome = |outcome: &Value| {
            assert_eq!(outcome["done"], true, "{outcome}");
            let text = |name: &str| outcome[name].as_str().unwrap().to_owned();
            (text("replica"), text("message"))
        };
        let mut outcomes: Vec<_> = answer["outcomes"].as_array().unwrap().iter().map(outcome).collect();
        outcomes.sort();
        outcomes
    }

    async fn user(&self, index: usize, user: &User) -> Value {
        self.get(index, &format!("user?id={}", user.id)).await
    }

    /// Waits until all replicas know each other.
    async fn acquainted(&self) {
        for index in 0..self.admin.len() {
            eventually("they know each other", async || {
                names(&self.get(index, "cluster").await["replicas"]).len() == self.admin.len()
            })
            .await;
        }
    }
}

fn names(replicas: &Value) -> Vec<String> {
    let mut names: Vec<String> =
        replicas.as_array().unwrap().iter().map(|replica| replica["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Returns the user with a token that has an id.
fn with_token_id(cluster: &Cluster, user: &User, token_id: &Value) -> User {
    let expires = now_millis() / 1000 + 3600;
    let token = cluster.key.mint(&json!({ "sub": user.id, "exp": expires, "jti": token_id }));
    User { id: user.id.clone(), token }
}
