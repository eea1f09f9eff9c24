//! Reads the machine-readable descriptions and validates against them.

use crate::support::{Cluster, Reply};
use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A method in lower case, and a path as in OpenAPI.
pub type Operation = (String, String);

pub fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Reads a YAML file of `docs/`.
pub fn yaml(name: &str) -> Value {
    let text = std::fs::read_to_string(docs().join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A validator for a schema whose references are relative to `docs/`.
pub fn validator(schema: &Value) -> Validator {
    let base = format!("file://{}/a-document", docs().display());
    jsonschema::options().with_base_uri(base).build(schema).unwrap_or_else(|error| panic!("{schema}: {error}"))
}

/// A validator for a file of `docs/schemas/`.
pub fn schema(name: &str) -> Validator {
    validator(&json!({ "$ref": format!("schemas/{name}") }))
}

/// Fails with everything that a schema finds wrong with a value.
#[track_caller]
pub fn assert_valid(what: &str, validator: &Validator, value: &Value) {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?} in {value:#}");
}

/// Resolves a reference within the document; any other value is returned unchanged.
pub fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
    match pointer {
        Some(pointer) => {
            let target = document.pointer(pointer).unwrap_or_else(|| panic!("nothing is at {pointer}"));
            resolve(document, target)
        }
        None => value,
    }
}

/// The operations of a running replica: the routes in its metrics, with the methods that it allows for each.
pub async fn routes(cluster: &Cluster) -> BTreeSet<Operation> {
    let mut routes = BTreeSet::new();
    let metrics = cluster.get("/metrics").await.text;
    let counted = metrics.lines().filter_map(|line| line.strip_prefix("mana_sync_http_responses_total{"));
    let labels = counted.filter_map(|line| line.split_once("route=\"")?.1.split_once('"')).map(|(route, _)| route);
    for route in labels.filter(|route| *route != "other").map(str::to_owned).collect::<BTreeSet<_>>() {
        let url = format!("{}{}", cluster.url(0), route.replace("{app}", "todo"));
        let reply = Reply::to(cluster.http.delete(url)).await;
        let methods = reply.header("allow").unwrap_or_else(|| panic!("{route}: {reply:?}")).to_lowercase();
        // All answer these two alike.
        let methods = methods.split(',').filter(|method| !["head", "options"].contains(method));
        routes.extend(methods.map(|method| (method.to_owned(), route.replace("{app}", "{appId}"))));
    }
    // A push to an app named "stream" is described like a push to any app.
    routes.remove(&("post".to_owned(), "/sync/stream".to_owned()));
    routes
}

/// `docs/openapi.yaml`.
pub struct OpenApi(Value);

impl OpenApi {
    pub fn load() -> OpenApi {
        OpenApi(yaml("openapi.yaml"))
    }

    /// All operations that it describes.
    pub fn operations(&self) -> BTreeSet<Operation> {
        let mut operations = BTreeSet::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys().filter(|key| matches!(key.as_str(), "get" | "post"));
            operations.extend(methods.map(|method| (method.clone(), path.clone())));
        }
        operations
    }

    fn responses(&self, (method, path): &Operation) -> &serde_json::Map<String, Value> {
        self.0["paths"][path][method]["responses"].as_object().unwrap_or_else(|| panic!("{method} {path}"))
    }

    /// The statuses described for an operation.
    pub fn statuses(&self, operation: &Operation) -> BTreeSet<u16> {
        self.responses(operation).keys().map(|status| status.parse().unwrap()).collect()
    }

    /// A validator for an operation's request body.
    pub fn request(&self, (method, path): &Operation) -> Validator {
        validator(&self.0["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"])
    }

    /// Fails unless the response is one of those described: its status, headers, content type and body.
    #[track_caller]
    pub fn check(&self, operation: &Operation, reply: &Reply) {
        let status = reply.status.as_u16();
        let described = self.responses(operation).get(&status.to_string());
        let described = described.unwrap_or_else(|| panic!("{operation:?} does not describe {reply:?}"));
        let described = resolve(&self.0, described);
        for (name, header) in described["headers"].as_object().into_iter().flatten() {
            let value = reply.header(name).unwrap_or_else(|| panic!("{operation:?}: {name} is missing in {reply:?}"));
            let header = resolve(&self.0, header);
            assert_valid(name, &validator(&header["schema"]), &json!(value));
        }
        let Some(content) = described["content"].as_object() else {
            assert_eq!(reply.text, "", "{operation:?} describes no body of {status}");
            return;
        };
        let given = reply.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        let content =
            content.get(given).unwrap_or_else(|| panic!("{operation:?} does not describe {given} of {status}"));
        if given == "application/json" {
            assert_valid(&format!("{operation:?} {status}"), &validator(&content["schema"]), &reply.json());
        }
    }
}
