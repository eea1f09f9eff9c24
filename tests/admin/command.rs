//! The command line.

use super::*;

#[tokio::test]
async fn the_command_line_does_the_same() {
    let it = administered(2, &[]).await;
    it.acquainted().await;
    let user = with_token_id(&it.cluster, &it.cluster.user(), &json!("lost"));
    let mut phone = socket(&it.cluster, 1, &user, None, Some("phone")).await;
    it.cluster.pushed(&user, APP, json!({ "clientId": "laptop", "changes": [insert("tasks", "a", "Milk", AT)] })).await;
    support::live::woken(&mut phone).await;
    let run = async |words: &[&str], token: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        command.arg("admin").args(words).env_clear().env("ADMIN_URL", &it.admin[0]).env("ADMIN_TOKEN", token);
        let output = tokio::time::timeout(TIMEOUT, command.kill_on_drop(true).output()).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), text)
    };
    let done = async |words: &[&str]| {
        let (success, text) = run(words, TOKEN).await;
        assert!(success, "{words:?}: {text}");
        text
    };
    let cluster = done(&["cluster"]).await;
    assert!(
        cluster.contains("replica-1") && cluster.contains("replica-2") && cluster.contains("PostgreSQL"),
        "{cluster}"
    );
    let json: Value = serde_json::from_str(&done(&["cluster", "--json"]).await).unwrap();
    assert_eq!(names(&json["replicas"]).len(), 2);
    let shown = done(&["user", &user.id]).await;
    assert!(shown.contains("1 session\n") && shown.contains("laptop") && shown.contains("lost"), "{shown}");
    let record = done(&["record", "--user", &user.id, "--app", APP, "--table", "tasks", "--id", "a"]).await;
    assert!(record.contains("\"Milk\"") && record.contains("wins"), "{record}");
    assert!(done(&["drain", "replica-2"]).await.contains("drained"));
    assert_eq!(closed(&mut phone).await, Some(1012));
    assert!(done(&["take-back", "replica-2"]).await.contains("taken back"));
    assert!(done(&["disconnect", &user.id, "--device", "phone"]).await.contains("0 sessions"));
    done(&["refuse-token", "lost"]).await;
    assert!(done(&["refused-tokens"]).await.contains("lost"));
    assert!(done(&["accept-token", "lost"]).await.contains("replica-2: accepted again"));
    assert!(!done(&["refused-tokens"]).await.contains("lost"));
    assert!(done(&["rates", "--pulls", "3"]).await.contains("pull 3 times per second"));
    assert!(!done(&["cluster"]).await.contains("differ"));
    assert!(done(&["log", "debug", "--replica", "replica-1"]).await.contains("the log filter is now debug"));
    let cluster = done(&["cluster"]).await;
    assert!(
        cluster.contains("replica-1: 0 pushes and 3 pulls per second, log debug")
            && cluster.contains("replica-2: 0 pushes and 3 pulls per second, log "),
        "which replica has another filter is told: {cluster}"
    );
    for (words, token, said) in [
        (vec!["cluster"], "a-wrong-admin-token", "refuses this ADMIN_TOKEN: its replica has another one"),
        (vec!["drain", "replica-9"], TOKEN, "no replica is named replica-9"),
        (vec!["log", "loud"], TOKEN, "the form of RUST_LOG"),
    ] {
        let (success, text) = run(&words, token).await;
        assert!(!success && text.contains(said) && !text.contains("panicked"), "{words:?}: {text}");
    }
}

#[tokio::test]
async fn a_wrong_address_or_token_is_named() {
    let it = administered(1, &[]).await;
    let admin = &it.admin[0];
    let public = it.cluster.url(0);
    let with_user = admin.replace("http://", "http://alice:secret@");
    for (url, token, said) in [
        (
            admin.as_str(),
            "another-admin-token",
            format!("{admin}/ refuses this ADMIN_TOKEN: its replica has another one"),
        ),
        (public, TOKEN, format!("{public}/ is not an admin port: it answered 404 Not Found")),
        (&with_user, TOKEN, "ADMIN_URL must have no user name or password".to_owned()),
        ("ftp://127.0.0.1", TOKEN, "must start with http:// or https://".to_owned()),
        ("127.0.0.1:3090", TOKEN, "ADMIN_URL".to_owned()),
        ("http://127.0.0.1:9", TOKEN, "the admin port cannot be reached".to_owned()),
    ] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        command.args(["admin", "cluster"]).env_clear().env("ADMIN_URL", url).env("ADMIN_TOKEN", token);
        let done = tokio::time::timeout(TIMEOUT, command.kill_on_drop(true).output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && text.contains(&said), "{url}: {text}");
        assert!(!text.contains("unencrypted") && !text.contains("secret") && !text.contains(TOKEN), "{url}: {text}");
    }
}

#[tokio::test]
async fn a_token_that_others_may_read_in_transit_is_warned_of() {
    // Nothing leaves this machine: the proxy does not exist.
    for (url, warned) in [("http://sync.example.com:3090", true), ("https://sync.example.com:3090", false)] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        let proxies = [("HTTP_PROXY", "http://127.0.0.1:9"), ("HTTPS_PROXY", "http://127.0.0.1:9")];
        command.args(["admin", "cluster"]).env_clear().envs(proxies).env("ADMIN_URL", url).env("ADMIN_TOKEN", TOKEN);
        let done = tokio::time::timeout(TIMEOUT, command.kill_on_drop(true).output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(text.contains("ADMIN_TOKEN is sent unencrypted to http://sync.example.com:3090/"), warned, "{text}");
        assert!(text.contains("the admin port cannot be reached") && !text.contains(TOKEN), "{text}");
    }
}

/// In a replica's own environment, like `kubectl exec … mana-sync admin`.
#[tokio::test]
async fn without_a_url_it_asks_where_the_replicas_own_admin_port_listens() {
    let it = administered(1, &[("ADMIN_HOST", "127.0.0.7")]).await;
    let port = it.admin[0].rsplit_once(':').unwrap().1;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
    // A proxy that does not exist: requests to this machine must not go through one.
    let settings = [("ADMIN_HOST", "127.0.0.7"), ("ADMIN_PORT", port), ("HTTP_PROXY", "http://127.0.0.1:9")];
    command.args(["admin", "cluster"]).env_clear().envs(settings).env("ADMIN_TOKEN", TOKEN);
    let done = tokio::time::timeout(TIMEOUT, command.kill_on_drop(true).output()).await.unwrap().unwrap();
    assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("replica-1"), "{done:?}");
}

/// On a terminal, people look at the first lines.
#[tokio::test]
async fn a_reader_that_has_had_enough_is_no_error_and_a_full_disk_is_one() {
    let it = administered(1, &[]).await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full_disk = std::fs::File::options().write(true).open("/dev/full").unwrap();
    for (output, status, complains) in [(std::process::Stdio::from(writer), 0, false), (full_disk.into(), 1, true)] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        command.args(["admin", "cluster"]).env_clear().env("ADMIN_URL", &it.admin[0]).env("ADMIN_TOKEN", TOKEN);
        let running = command.stdout(output).stderr(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let done = tokio::time::timeout(TIMEOUT, running.wait_with_output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{said}");
        assert!(said.contains("cannot write the output") == complains && !said.contains("panicked"), "{said}");
    }
}

#[tokio::test]
async fn health_asks_the_admin_port_where_there_is_one_for_it_says_what_is_missing() {
    let it = administered(1, &[("PUBLIC_METRICS", "false")]).await;
    it.acquainted().await;
    it.act(0, "drain", json!({ "replica": "replica-1", "drained": true })).await;
    let health = async |with_admin: bool| {
        let port = |url: &str| url.rsplit_once(':').unwrap().1.to_owned();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mana-sync"));
        command.env_clear().env("PORT", port(it.cluster.url(0)));
        if with_admin {
            command.env("ADMIN_PORT", port(&it.admin[0]));
        }
        let ended =
            tokio::time::timeout(TIMEOUT, command.arg("health").kill_on_drop(true).output()).await.unwrap().unwrap();
        (ended.status.success(), String::from_utf8(ended.stdout).unwrap())
    };
    let (passes, text) = health(true).await;
    assert!(!passes && text.contains("an operator has drained"), "{text}");
    let (passes, text) = health(false).await;
    assert!(!passes && !text.contains("an operator has drained"), "{text}");
    it.act(0, "drain", json!({ "replica": "replica-1", "drained": false })).await;
    assert!(health(true).await.0 && health(false).await.0);
}
