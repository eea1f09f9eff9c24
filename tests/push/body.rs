//! The body of a push: its size, type and shape, and the unchanged storing of its contents.

use super::AT;
use super::support::*;
use bytes::Bytes;
use reqwest::{Body, Method, StatusCode};
use serde_json::json;

const TEN_MB: usize = 10 << 20;

/// A push that stores one change, padded to a length.
fn padded(length: usize) -> String {
    let push = json!({ "clientId": "phone", "changes": [insert("todos", "a", "Milk", AT)] }).to_string();
    format!("{push}{}", " ".repeat(length - push.len()))
}

#[tokio::test]
async fn a_body_of_10_mb_is_accepted_and_a_larger_one_is_413() {
    let cluster = shared().await;
    let user = cluster.user();
    for length in [TEN_MB + 1, TEN_MB + (1 << 20), 3 * TEN_MB] {
        let message = cluster.push_raw(&user, "todo", padded(length)).await.refused(413, "payload_too_large");
        assert!(message.contains("10485760"), "{message}");
    }
    assert_eq!(cluster.stored(&user).await, 0);
    assert_eq!(cluster.push_raw(&user, "todo", padded(TEN_MB)).await.status, StatusCode::OK);
    assert_eq!(cluster.stored(&user).await, 1);
}

#[tokio::test]
async fn a_body_without_a_content_length_is_bounded_as_well() {
    let cluster = shared().await;
    let user = cluster.user();
    let chunked = |length| {
        let chunks: Vec<_> = padded(length).into_bytes().chunks(64 << 10).map(Bytes::copy_from_slice).collect();
        Body::wrap_stream(futures_util::stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    };
    cluster.push_raw(&user, "todo", chunked(2 * TEN_MB)).await.refused(413, "payload_too_large");
    assert_eq!(cluster.stored(&user).await, 0);
    assert_eq!(cluster.push_raw(&user, "todo", chunked(1 << 20)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_is_not_json_or_has_the_wrong_shape_is_400() {
    let cluster = shared().await;
    let user = cluster.user();
    let change = insert("todos", "a", "Milk", AT);
    let bodies: &[&[u8]] = &[
        b"",
        b"{",
        b"clientId=phone",
        b"null",
        b"7",
        b"\"push\"",
        b"[]",
        b"{}{}",
        b"{\"clientId\":\"phone\"} x",
        b"{\"clientId\":7}",
        b"{\"clientId\":\"phone\",\"since\":7}",
        b"{\"clientId\":\"phone\",\"changes\":{}}",
        b"{\"clientId\":\"phone\",\"changes\":\"none\"}",
        b"{\"clientId\":\"phone\",\"changes\":7}",
        b"{\"clientId\":\"phone\",\"clientId\":\"laptop\"}",
        b"{\"clientId\":\"ph\xffone\"}",
        b"{\"clientId\":\"ph\none\"}",
        b"\xef\xbb\xbf{\"clientId\":\"phone\"}",
    ];
    let list = json!(["phone", "", [change]]).to_string();
    let twice = format!(r#"{{"clientId":"phone","changes":[{change}],"changes":[]}}"#);
    let more = [list.into_bytes(), twice.into_bytes(), vec![b'['; 100_000]];
    for body in bodies.iter().map(|body| body.to_vec()).chain(more) {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let reply = cluster.push_raw(&user, "todo", body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{shown}: {reply:?}");
        let message = reply.refused(400, "bad_request");
        assert!(message.contains("JSON"), "{shown}: {message}");
    }
    assert_eq!(cluster.stored(&user).await, 0);
}

#[tokio::test]
async fn a_content_type_other_than_json_is_415() {
    let cluster = shared().await;
    let user = cluster.user();
    let push = async |content_type: Option<&str>| {
        let request = cluster.request(&user, Method::POST, "/sync/todo").body(padded(500));
        Reply::to(content_type.into_iter().fold(request, |request, value| request.header("Content-Type", value))).await
    };
    let refused = ["", "text/plain", "text/json", "application/x-www-form-urlencoded", "application/jsonp", "json"];
    for content_type in std::iter::once(None).chain(refused.into_iter().map(Some)) {
        push(content_type).await.refused(415, "unsupported_media_type");
    }
    assert_eq!(cluster.stored(&user).await, 0);
    for content_type in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"] {
        assert_eq!(push(Some(content_type)).await.status, StatusCode::OK, "{content_type}");
    }
}

#[tokio::test]
async fn members_of_the_body_and_of_fields_that_are_not_known_are_ignored() {
    let cluster = shared().await;
    let user = cluster.user();
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let body = format!(
        r#"{{"appId":"x","clientId":"phone","version":{{"a":[1]}},"deep":{deep},"changes":[
        {{"table":"todos","id":"a","op":"update","data":7,"deletedAt":[],
          "fields":{{"title":{{"value":"Eggs","updatedAt":"{AT}","by":"me"}}}}}},
        {{"table":"todos","id":"b","op":"delete","deletedAt":"{AT}","fields":"none","data":[]}}]}}"#
    );
    assert_eq!(cluster.push_raw(&user, "todo", body).await.status, StatusCode::OK);
    let delta = cluster.pushed(&user, "todo", json!({ "clientId": "laptop" })).await;
    let deleted = json!({ "table": "todos", "id": "b", "op": "delete", "deletedAt": AT });
    assert_eq!(changes(&delta), json!([update("todos", "a", "title", "Eggs", AT), deleted]));
}

#[tokio::test]
async fn at_is_another_name_of_updated_at() {
    let cluster = shared().await;
    let user = cluster.user();
    let change =
        json!({ "table": "todos", "id": "a", "op": "update", "fields": { "title": { "value": "Eggs", "at": AT } } });
    cluster.pushed(&user, "todo", json!({ "clientId": "phone", "changes": [change] })).await;
    let delta = cluster.pushed(&user, "todo", json!({ "clientId": "laptop" })).await;
    assert_eq!(changes(&delta), json!([update("todos", "a", "title", "Eggs", AT)]));
}

#[tokio::test]
async fn of_a_field_that_is_named_twice_the_last_one_counts() {
    let cluster = shared().await;
    let user = cluster.user();
    let change = format!(
        r#"{{"table":"todos","id":"a","op":"update","fields":{{
        "title":{{"value":1,"updatedAt":"2024-01-01T10:00:00.000Z"}},"title":{{"value":2,"updatedAt":"{AT}"}}}}}}"#
    );
    let record = format!(r#"{{"table":"todos","id":"b","op":"insert","data":{{"n":1,"updatedAt":"{AT}","n":2}}}}"#);
    let body = format!(r#"{{"clientId":"phone","changes":[{change},{record}]}}"#);
    assert_eq!(cluster.push_raw(&user, "todo", body).await.status, StatusCode::OK);
    let delta = cluster.pushed(&user, "todo", json!({ "clientId": "laptop" })).await;
    let inserted = json!({ "table": "todos", "id": "b", "op": "insert", "data": { "n": 2, "updatedAt": AT } });
    assert_eq!(changes(&delta), json!([update("todos", "a", "title", 2, AT), inserted]));
}

#[tokio::test]
async fn unicode_everywhere_comes_back_byte_for_byte_however_it_was_escaped() {
    let cluster = shared().await;
    let user = cluster.user();
    let text = "é e\u{301} 🍎 👩‍👩‍👧 \u{2028}\u{2029}\u{7f}\u{feff} \"\\/ \t\r\n\u{1}\u{ffff} ｘ";
    let raw = serde_json::to_string(text).unwrap();
    let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    for (id, spelled) in [("raw", raw), ("escaped", format!("\"{escaped}\""))] {
        let body = format!(
            r#"{{"clientId":{spelled},"changes":[
            {{"table":{spelled},"id":{spelled},"op":"update","fields":{{{spelled}:{{"value":{{{spelled}:{spelled}}},"updatedAt":"{AT}"}}}}}},
            {{"table":{spelled},"id":"{id}","op":"insert","data":{{{spelled}:[{spelled}],"updatedAt":"{AT}"}}}}]}}"#
        );
        assert_eq!(cluster.push_raw(&user, id, body).await.status, StatusCode::OK);
        let updated = update(text, text, text, json!({ text: text }), AT);
        let inserted = json!({ "table": text, "id": id, "op": "insert", "data": { text: [text], "updatedAt": AT } });
        let expected = json!([updated, inserted]);
        let delta = cluster.pushed(&user, id, json!({ "clientId": "laptop" })).await;
        assert_eq!(changes(&delta), expected, "{id}");
        let pulled = cluster.pulled(&user, id, text, BEGINNING, None).await;
        assert_eq!(changes(&pulled), expected, "{id}");
        // The same device, spelled differently.
        let own = cluster.pushed(&user, id, json!({ "clientId": text, "since": "1970-01-01T00:00:01Z" })).await;
        assert_eq!(own["serverChanges"], json!([]), "{id}");
    }
}
