//! docs/admin-openapi.yaml describes exactly what is answered.

use super::*;
use jsonschema::Validator;
use std::collections::BTreeSet;

/// The description that a replica serves.
pub struct Description(Value);

impl Description {
    pub async fn of(it: &Administered) -> Description {
        let reply = Reply::to(it.request(0, Method::GET, "openapi.yaml")).await;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, Some("application/yaml")));
        let mut document: Value = serde_saphyr::from_str(&reply.text).unwrap();
        close(&mut document["components"]["schemas"]);
        close(&mut document["paths"]);
        Description(document)
    }

    fn operations(&self) -> BTreeSet<String> {
        let paths = self.0["paths"].as_object().unwrap();
        let methods = paths.iter().flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |m| (m, path)));
        methods.map(|(method, path)| format!("{} {}", method.to_uppercase(), &path[1..])).collect()
    }

    /// A validator for a schema of the document, which may refer to others.
    fn validator(&self, schema: &Value) -> Validator {
        let schema = json!({ "$ref": "#/whole", "whole": schema, "components": self.0["components"] });
        jsonschema::options().build(&schema).unwrap_or_else(|error| panic!("{schema}: {error}"))
    }

    /// Fails unless this is a response that is described for the operation.
    #[track_caller]
    pub fn check(&self, operation: &str, reply: &Reply) {
        let (method, path) = operation.split_once(' ').unwrap();
        let responses = &self.0["paths"][format!("/{path}")][method.to_lowercase()]["responses"];
        let described = responses.get(reply.status.as_str()).or_else(|| responses.get("default"));
        let mut described = described.unwrap_or_else(|| panic!("{operation} does not describe {reply:?}"));
        if let Some(reference) = described["$ref"].as_str() {
            described = self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        }
        let given = reply.header("content-type").unwrap_or_default();
        let content = described["content"].get(given).unwrap_or_else(|| panic!("{operation}: {given}: {reply:?}"));
        let validator = self.validator(&content["schema"]);
        let body = if given == "application/json" { reply.json() } else { json!(reply.text) };
        let errors: Vec<String> =
            validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{operation}: {errors:#?} in {body:#}");
    }
}

/// Has every object of an answer consist of exactly the members that are described. Requests keep those they may omit.
fn close(schemas: &mut Value) {
    match schemas {
        Value::Object(object) => {
            object.iter_mut().filter(|(name, _)| *name != "requestBody").for_each(|(_, value)| close(value));
            if let Some(Value::Object(properties)) = object.get("properties") {
                let names: Vec<String> = properties.keys().cloned().collect();
                object.insert("required".to_owned(), json!(names));
                object.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

#[tokio::test]
async fn every_answer_and_every_error_is_as_described() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    let description = Description::of(&it).await;
    let user = with_token_id(&it.cluster, &it.cluster.user(), &json!("lost"));
    let _phone = socket(&it.cluster, 1, &user, None, Some("phone")).await;
    let _stream = Events::open(stream_of(&it.cluster, 0, &user, COLLECTIONS)).await;
    it.cluster.pushed(&user, APP, json!({ "clientId": "laptop", "changes": [insert("tasks", "a", "Milk", AT)] })).await;
    let mut seen = BTreeSet::new();
    let mut see = |operation: &str, reply: &Reply, status: u16| {
        assert_eq!(reply.status.as_u16(), status, "{operation}: {reply:?}");
        description.check(operation, reply);
        seen.insert((operation.to_owned(), status));
    };

    let record = format!("record?user={}&app={APP}&table=tasks&id=a", user.id);
    let no_record = format!("record?user={}&app={APP}&table=tasks&id=b", user.id);
    for (path, status) in [
        ("cluster", 200),
        ("load", 200),
        (&format!("user?id={}", user.id), 200),
        ("user?id=nobody", 200),
        ("user", 400),
        ("user?id=a&sessions=many", 400),
        (&record, 200),
        (&no_record, 404),
        ("record?user=a", 400),
        ("refused-tokens", 200),
        ("openapi.yaml", 200),
    ] {
        let operation = format!("GET {}", path.split('?').next().unwrap());
        see(&operation, &Reply::to(it.request(0, Method::GET, path)).await, status);
    }
    for (path, body, status) in [
        ("refused-tokens", json!({ "tokenId": "lost" }), 200),
        ("refused-tokens", json!({ "tokenId": "lost", "until": "yesterday" }), 400),
        ("disconnect", json!({ "userId": user.id }), 200),
        ("disconnect", json!({ "userId": user.id, "replica": "replica-9" }), 404),
        ("disconnect", json!({}), 400),
        ("disconnect", json!({ "userId": "x".repeat(70_000) }), 413),
        ("drain", json!({ "replica": "replica-2", "drained": true }), 200),
        ("drain", json!({ "replica": "replica-2", "drained": false }), 200),
        ("drain", json!({ "replica": "replica-9", "drained": true }), 404),
        ("compact", json!({}), 200),
        ("settings", json!({ "maxUserPushesPerSecond": 3 }), 200),
        ("settings", json!({ "log": "info" }), 200),
        ("settings", json!({ "maxUserPushesPerSecond": 3, "log": "info" }), 400),
        ("settings", json!({}), 400),
    ] {
        let schema =
            &description.0["paths"][format!("/{path}")]["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert!(status != 200 || description.validator(schema).is_valid(&body), "{path}: {body}");
        see(&format!("POST {path}"), &it.post(0, path, body).await, status);
    }
    see("GET refused-tokens", &Reply::to(it.request(0, Method::GET, "refused-tokens")).await, 200);
    let accept = it.request(0, Method::DELETE, "refused-tokens?tokenId=lost");
    see("DELETE refused-tokens", &Reply::to(accept).await, 200);
    see("DELETE refused-tokens", &Reply::to(it.request(0, Method::DELETE, "refused-tokens")).await, 400);
    // Those of all operations: no token, another method, and for actions another kind of body.
    let operations = description.operations();
    for operation in &operations {
        let (method, path) = operation.split_once(' ').unwrap();
        let url = format!("{}/api/v1/{path}", it.admin[0]);
        see(operation, &Reply::to(it.cluster.http.request(method.parse().unwrap(), url).timeout(TIMEOUT)).await, 401);
        see(operation, &Reply::to(it.request(0, Method::PATCH, path)).await, 405);
        if method == "POST" {
            see(operation, &Reply::to(it.request(0, Method::POST, path).body("userId=a")).await, 415);
        }
    }
    let answered: BTreeSet<String> =
        seen.iter().filter(|(_, status)| *status == 200).map(|(operation, _)| operation.clone()).collect();
    assert_eq!(answered, operations);
}
