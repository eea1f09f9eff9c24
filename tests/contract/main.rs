//! docs/openapi.yaml, docs/asyncapi.yaml and docs/schemas/ describe exactly what a running replica does.

#[path = "../support/mod.rs"]
mod support;

mod documents;
mod endpoints;
mod live;
mod pushes;

use documents::*;
use std::collections::BTreeSet;

#[tokio::test]
async fn every_route_is_described_and_every_description_is_of_a_route() {
    let routes = routes(support::shared().await).await;
    assert!(routes.len() >= 9, "{routes:?}");
    assert_eq!(OpenApi::load().operations(), routes);
    let protocol = std::fs::read_to_string(docs().join("protocol.md")).unwrap();
    for (_, path) in routes {
        assert!(protocol.contains(&path), "docs/protocol.md does not describe {path}");
    }
}

#[test]
fn every_schema_is_one_and_allows_its_own_examples() {
    let mut shown = 0;
    let list = std::fs::read_to_string(docs().join("schemas/README.md")).unwrap();
    for file in std::fs::read_dir(docs().join("schemas")).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(list.contains(&format!("[{name}]({name})")), "docs/schemas/README.md does not list {name}");
        let text: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert!(jsonschema::meta::is_valid(&text), "{name}");
        let validator = schema(name);
        for example in text["examples"].as_array().into_iter().flatten() {
            assert_valid(name, &validator, example);
            shown += 1;
        }
    }
    assert!(shown >= 20, "{shown} examples");
}

#[test]
fn every_channel_is_an_endpoint_and_every_message_allows_its_examples() {
    let document = yaml("asyncapi.yaml");
    let endpoints: BTreeSet<String> = OpenApi::load().operations().into_iter().map(|(_, path)| path).collect();
    let channels = document["channels"].as_object().unwrap();
    for channel in channels.values() {
        let address = channel["address"].as_str().unwrap();
        assert!(endpoints.contains(address), "{address}");
        for message in channel["messages"].as_object().unwrap().values() {
            let message = resolve(&document, message);
            let validator = validator(&message["payload"]);
            for example in message["examples"].as_array().into_iter().flatten() {
                assert_valid(address, &validator, &example["payload"]);
            }
        }
    }
    for operation in document["operations"].as_object().unwrap().values() {
        assert!(resolve(&document, &operation["channel"]).is_object(), "{operation}");
        for message in operation["messages"].as_array().unwrap() {
            assert!(resolve(&document, message).is_object(), "{message}");
        }
    }
}
