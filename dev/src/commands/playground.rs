//! The playground: two devices side by side on two replicas, with a network switch for each and a button that kills a
//! replica. It is served on loopback from the checkout that this program was built in, and only if that exists.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path as Segment, Request, State},
    http::{HeaderMap, StatusCode, header::CACHE_CONTROL, header::CONTENT_TYPE},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::supervise::Supervised;
use mana_dev::{DevError, SigningKey, lock::FolderLock, npm, place, say::note, stub::Stub};

/// The user of both devices.
const USER: &str = "alice";
/// Longer than anyone uses the page with one token.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The path of the module in Dexie's package.
const DEXIE: &str = "dist/modern/dexie.min.mjs";

/// A replica as the page shows it.
#[derive(Debug)]
pub struct Shown {
    pub name: String,
    /// The URL that it alone listens on.
    pub url: String,
    pub supervised: Arc<Supervised>,
}

/// The page's server. Dropping it stops it.
#[derive(Debug)]
pub struct Playground(Stub);

#[derive(Debug)]
struct Inner {
    /// The checkout.
    root: PathBuf,
    data_dir: PathBuf,
    replicas: Vec<Shown>,
    key: SigningKey,
}

type Page = Arc<Inner>;

impl Playground {
    /// Listens on `address` (port 0: any free one). None if the page's files don't exist.
    pub async fn start(
        address: SocketAddr,
        replicas: Vec<Shown>,
        key: &SigningKey,
        data_dir: &Path,
    ) -> Result<Option<Self>, DevError> {
        let Some(root) = Path::new(env!("CARGO_MANIFEST_DIR")).parent().filter(|root| has_files(root)) else {
            return Ok(None);
        };
        let inner = Inner { root: root.into(), data_dir: data_dir.into(), replicas, key: key.clone() };
        Stub::start(address, router(Arc::new(inner))).await.map(|stub| Some(Self(stub)))
    }

    /// The URL to open in a browser.
    pub fn url(&self) -> String {
        format!("http://{}/", self.0.address())
    }

    /// The origins that replicas must allow.
    pub fn origins(&self) -> [String; 2] {
        let port = self.0.address().port();
        ["127.0.0.1", "localhost"].map(|host| format!("http://{host}:{port}"))
    }

    /// Stops it and waits until its port is free again.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

fn has_files(root: &Path) -> bool {
    root.join("dev/playground/index.html").is_file() && root.join("tests/browser/client/engine.js").is_file()
}

fn router(page: Page) -> Router {
    Router::new()
        .route("/", get(async |State(page): State<Page>| file(&page.root.join("dev/playground/index.html"))))
        .route("/{file}", get(own_file))
        .route("/client/{file}", get(client_file))
        .route("/dexie.mjs", get(dexie))
        .route("/cluster", get(cluster))
        .route("/token", post(token))
        .route("/replicas/{number}/kill", post(kill))
        .layer(from_fn(from_here_only))
        .with_state(page)
}

/// No other page may ask for tokens or kill replicas: neither under a host name of its own for this address, nor across
/// origins.
async fn from_here_only(request: Request, next: Next) -> Response {
    if is_from_here(request.headers()) { next.run(request).await } else { StatusCode::FORBIDDEN.into_response() }
}

fn is_from_here(headers: &HeaderMap) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = header("host").unwrap_or_default();
    let is_here = matches!(host.split(':').next(), Some("127.0.0.1" | "localhost"));
    let is_same_site = header("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    let is_own = header("origin").is_none_or(|origin| origin.strip_prefix("http://") == Some(host));
    is_here && is_same_site && is_own
}

async fn own_file(State(page): State<Page>, Segment(name): Segment<String>) -> Response {
    named(&page.root.join("dev/playground"), &name)
}

async fn client_file(State(page): State<Page>, Segment(name): Segment<String>) -> Response {
    named(&page.root.join("tests/browser/client"), &name)
}

/// Serves a file from the folder, and from no other.
fn named(folder: &Path, name: &str) -> Response {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'.') && !name.starts_with('.');
    if is_plain { file(&folder.join(name)) } else { StatusCode::NOT_FOUND.into_response() }
}

fn file(path: &Path) -> Response {
    let kind = match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/javascript; charset=utf-8",
    };
    match fs::read(path) {
        Ok(text) => ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Serves Dexie in the version that the tests use: the tests' own copy if they have been set up, else fetched once.
async fn dexie(State(page): State<Page>) -> Response {
    let of_tests = page.root.join("tests/browser/node_modules/dexie").join(DEXIE);
    if of_tests.is_file() {
        return file(&of_tests);
    }
    match fetched(&page).await {
        Ok(module) => file(&module),
        Err(error) => {
            note(format_args!("The playground needs Dexie, which could not be fetched: {error}"));
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

async fn fetched(page: &Inner) -> Result<PathBuf, DevError> {
    let list = page.root.join("tests/browser/package.json");
    let text = fs::read_to_string(&list).map_err(DevError::io(format!("read {}", list.display())))?;
    let list: Value = serde_json::from_str(&text).unwrap_or_default();
    let version = list["devDependencies"]["dexie"].as_str().unwrap_or("latest");
    let home = page.data_dir.join(format!("dexie-{version}"));
    let _turn = FolderLock::wait_for(&home.with_extension("lock")).await?;
    if !home.join(DEXIE).is_file() {
        let work = home.with_extension("part");
        let _ = fs::remove_dir_all(&work);
        place::create(&work)?;
        let package = npm::unpack(&format!("dexie@{version}"), &work).await?;
        let _ = fs::remove_dir_all(&home);
        fs::rename(package, &home).map_err(DevError::io(format!("put Dexie into {}", home.display())))?;
        let _ = fs::remove_dir_all(&work);
    }
    Ok(home.join(DEXIE))
}

fn answer(body: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body.to_string()).into_response()
}

async fn cluster(State(page): State<Page>) -> Response {
    let shown = page.replicas.iter();
    let replicas = shown.map(|one| json!({ "name": one.name, "url": one.url, "runs": one.supervised.runs() }));
    answer(&json!({ "replicas": replicas.collect::<Vec<_>>() }))
}

async fn token(State(page): State<Page>) -> Response {
    answer(&json!({ "token": page.key.token(USER, TTL) }))
}

async fn kill(State(page): State<Page>, Segment(number): Segment<usize>) -> Response {
    let Some(shown) = number.checked_sub(1).and_then(|index| page.replicas.get(index)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    shown.supervised.kill();
    answer(&json!({}))
}
