use super::super::channel_key::tests::keys;
use super::super::wakeup::tests::{push_span, wakeup};
use super::*;
use proptest::prelude::*;

const HEAD_WIDTH: usize = FORM.len() + SIGNATURE_WIDTH + LENGTH_WIDTH;

/// Decodes a payload, which must be valid.
fn decode(payload: &str) -> Vec<Wakeup> {
    let payload = Payload::parse(payload).unwrap().unwrap();
    payload.entries().map(|entry| entry.unwrap().read().unwrap()).collect()
}

#[test]
fn what_is_written_is_read_and_says_who_wrote_it() {
    let ours = keys(&["a key of ours"]);
    let mut traced = wakeup("u", "todo", Some("phone"), &["tasks", "lists"]);
    traced.pushes = vec![push_span(1), push_span(2)];
    let list = [wakeup("other", "é\"\n", None, &[]), traced];
    let payload = encode(&ours, Some(r#"{"é":1}"#), &list).remove(0);
    assert_eq!(decode(&payload), list);
    let read = Payload::parse(&payload).unwrap().unwrap();
    assert_eq!(read.said(), Some(r#"{"é":1}"#));
    assert!(read.is_signed(&ours) && !read.is_signed(&keys(&["another key"])));
    let changed = payload.replace("todo", "tudu");
    assert_eq!(decode(&changed)[1].app, "tudu".into());
    assert!(!Payload::parse(&changed).unwrap().unwrap().is_signed(&ours), "a name that was changed");
}

#[test]
fn a_replica_may_speak_of_itself_alone_and_need_not_say_anything() {
    let ours = keys(&["a key of ours"]);
    let alone = encode(&ours, Some("{}"), []);
    assert_eq!((alone.len(), decode(&alone[0]).len()), (1, 0));
    assert_eq!(encode(&ours, None, []), [""; 0]);
    let silent = encode(&ours, None, &[wakeup("u", "a", None, &[])]).remove(0);
    assert_eq!(Payload::parse(&silent).unwrap().unwrap().said(), None);
}

#[test]
fn a_wake_up_that_is_too_large_is_left_to_be_looked_up() {
    let name = "\u{1}".repeat(255);
    let large = wakeup(&"u".repeat(5_000), &name, Some(&name), &[&name]);
    let payloads = encode(&keys(&["key"]), None, std::slice::from_ref(&large));
    assert_eq!(payloads.len(), 1);
    assert!(payloads[0].len() <= MAX_PAYLOAD);
    let read = decode(&payloads[0]).remove(0);
    assert_eq!((read.user, &read.app, &read.tables, &read.client), (large.user, &large.app, &None, &None));
    assert_eq!(read.last(), large.last());
}

#[test]
fn members_and_traces_that_make_no_sense_do_not_keep_a_wake_up_from_being_heard() {
    let payload = encode(&keys(&["key"]), None, &[wakeup("u", "todo", None, &["tasks"])]).remove(0);
    let (head, body) = payload.split_at(payload.find('{').unwrap());
    for more in [r#""p":["x","","é-é"]"#, r#""p":[]"#, r#""new":{"a":[1]}"#] {
        let body = body.replace("\"r\"", &format!("{more},\"r\""));
        let head = &head[..head.len() - LENGTH_WIDTH];
        assert_eq!(decode(&format!("{head}{:04x}{body}", body.len()))[0].pushes, [], "{more}");
    }
}

#[test]
fn what_cannot_be_read_is_an_error_and_never_more() {
    for other in ["", "m", "todo", "{}", r#"{"v":1,"w":[]}"#, "M2"] {
        assert!(Payload::parse(other).is_none(), "{other}");
    }
    let good = encode(&keys(&["key"]), Some("{}"), &[wakeup("u", "todo", None, &["täsks"])]).remove(0);
    let read = |payload: &str| -> Result<(), PayloadError> {
        for entry in Payload::parse(payload).expect("its form")?.entries() {
            entry?.read()?;
        }
        Ok(())
    };
    read(&good).unwrap();
    for end in FORM.len()..good.len() {
        let Some(cut) = good.get(..end) else { continue };
        assert!(read(cut).is_err() || end == HEAD_WIDTH + 2, "{cut}");
    }
    for wrong in ["+005", "zzzz", "ffff", "é00"] {
        let at = HEAD_WIDTH + 2 + USER_WIDTH;
        let payload = format!("{}{wrong}{}", &good[..at], &good[at + LENGTH_WIDTH..]);
        assert!(read(&payload).is_err(), "{payload}");
    }
    let user = format!("{}!{}", &good[..HEAD_WIDTH + 2], &good[HEAD_WIDTH + 3..]);
    assert!(matches!(read(&user), Err(PayloadError::User)));
}

proptest! {
    #[test]
    fn wake_ups_survive_and_payloads_stay_under_the_limit(
        list in prop::collection::vec(
            (".{0,60}", ".{1,60}", prop::option::of(".{1,255}"), prop::collection::vec(".{1,255}", 0..8), 0..=MAX_PUSHES),
            0..40,
        ),
        said in prop::option::of("\\{[a-zé]{0,300}\\}"),
    ) {
        let list: Vec<Wakeup> = list
            .iter()
            .map(|(user, app, client, tables, pushes)| {
                let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
                let pushes = (0..*pushes).map(|n| push_span(n as u128 * u128::from(u64::MAX))).collect();
                Wakeup { pushes, ..wakeup(user, app, client.as_deref(), &tables) }
            })
            .collect();
        let keys = keys(&["key"]);
        let payloads = encode(&keys, said.as_deref(), &list);
        prop_assert!(payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD && !payload.contains('\0')));
        prop_assert!(payloads.iter().all(|payload| Payload::parse(payload).unwrap().unwrap().is_signed(&keys)));
        let told = payloads.iter().filter_map(|payload| Payload::parse(payload).unwrap().unwrap().said().map(str::to_owned));
        prop_assert_eq!(told.collect::<Vec<_>>(), said.into_iter().collect::<Vec<_>>());
        let read: Vec<Wakeup> = payloads.iter().flat_map(|payload| decode(payload)).collect();
        prop_assert_eq!(read.len(), list.len());
        for (read, sent) in read.iter().zip(&list) {
            prop_assert_eq!((read.user, &read.app, read.last()), (sent.user, &sent.app, sent.last()));
            if read.tables.is_some() {
                prop_assert_eq!(read, sent);
            }
        }
    }

    #[test]
    fn no_text_at_all_makes_a_reader_fail(text in "m2.{0,200}") {
        if let Some(Ok(payload)) = Payload::parse(&text) {
            prop_assert!(!payload.is_signed(&keys(&["key"])));
            payload.entries().for_each(|entry| drop(entry.map(|entry| entry.read().is_ok())));
        }
    }
}
