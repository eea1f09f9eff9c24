//! Every way of starting that documents, compose files and manifests contain; and where the health check connects.

use crate::start::{assert_serves, document, migrate, program};
use crate::support::*;
use mana_dev::free_port;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The words after `beginning` in those lines of a document that start with it.
fn commands(path: &str, beginning: &str) -> Vec<Vec<String>> {
    let lines = document(path);
    let lines = lines.lines().filter_map(|line| line.trim().strip_prefix(beginning));
    let commands: Vec<_> =
        lines.map(|rest| rest.split_whitespace().map(str::to_owned).collect::<Vec<String>>()).collect();
    assert!(!commands.is_empty(), "{path} has no {beginning}");
    commands
}

/// The lists of words in those lines of a document that start with `beginning`: JSON, or YAML in one line.
fn lists(path: &str, beginning: &str) -> Vec<Vec<String>> {
    let word = |word: &str| word.trim().trim_matches('"').to_owned();
    let list = |rest: String| {
        let inside = rest.trim().strip_prefix('[')?.strip_suffix(']')?.to_owned();
        Some(inside.split(',').map(word).collect::<Vec<String>>())
    };
    commands(path, beginning).into_iter().filter_map(|words| list(words.join(" "))).collect()
}

/// The plain YAML files in a folder and its subfolders, without the chart's templates.
fn manifests(folder: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml");
        if path.is_dir() && !path.is_symlink() && path.file_name().unwrap() != "chart" {
            manifests(path.to_str().unwrap(), found);
        } else if is_yaml {
            found.push(path);
        }
    }
}

/// A container with one of our images: its source, program and arguments.
#[derive(Debug)]
struct Way {
    source: String,
    program: &'static str,
    words: Vec<String>,
}

/// Our images, with the program of each.
const IMAGES: [(&str, &str); 3] =
    [("mana-sync", "mana-sync"), ("mana-sync-dev", "mana-dev"), ("mana-load", "mana-load")];

/// Collects the containers of a compose file or a manifest.
fn containers(source: &str, value: &Value, ways: &mut Vec<Way>) {
    let Value::Object(members) = value else {
        for element in value.as_array().into_iter().flatten() {
            containers(source, element, ways);
        }
        return;
    };
    members.values().for_each(|member| containers(source, member, ways));
    let Some(image) = members.get("image").and_then(Value::as_str) else { return };
    // ${MANA_SYNC_IMAGE:-registry.example.com/mana-sync:0.2.0}
    let image = image.rsplit_once(":-").map_or(image, |(_, default)| default.trim_end_matches('}'));
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name).split([':', '@']).next().unwrap();
    let Some((_, program)) = IMAGES.iter().find(|(ours, _)| *ours == name) else { return };
    for what in ["command", "args", "entrypoint"] {
        let Some(given) = members.get(what) else { continue };
        let given = given.as_array().unwrap_or_else(|| panic!("{source}: {what} of {image} is no list: {given}"));
        let words: Vec<String> = given.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
        assert!(
            what != "entrypoint" && (what != "command" || source.contains("compose")),
            "{source}: {what} {words:?}"
        );
        ways.push(Way { source: source.to_owned(), program, words });
    }
}

/// Every documented way of running one of our programs.
fn documented() -> Vec<Way> {
    let mut ways = Vec::new();
    let mut add = |source: &str, program, commands: Vec<Vec<String>>| {
        ways.extend(commands.into_iter().map(|words| Way { source: source.to_owned(), program, words }));
    };
    let ours = "mana-sync";
    add("README.md", ours, commands("README.md", "target/release/mana-sync"));
    add(
        "deploy/mana-sync.service",
        ours,
        commands("deploy/mana-sync.service", "ExecStartPre=/usr/local/bin/mana-sync"),
    );
    add("deploy/mana-sync.service", ours, commands("deploy/mana-sync.service", "ExecStart=/usr/local/bin/mana-sync"));
    for (file, program) in
        [("deploy/Dockerfile", ours), ("dev/Dockerfile", "mana-dev"), ("loadtest/Dockerfile", "mana-load")]
    {
        let [entry] = &lists(file, "ENTRYPOINT")[..] else { panic!("the image of {file} has one entry point") };
        assert_eq!(entry.join(" "), format!("/{program}"));
        // Without a command, the image's own is used.
        add(file, program, lists(file, "CMD"));
    }
    add("no command", ours, vec![vec![]]);
    let mut files = Vec::new();
    ["deploy", "k8s"].iter().for_each(|folder| manifests(folder, &mut files));
    for file in &files {
        let source = file.display().to_string();
        let is_comment = |line: &str| line.trim().is_empty() || line.trim().starts_with('#');
        let texts = format!("\n{}", document(&source));
        for text in texts.split("\n---").filter(|text| !text.lines().all(is_comment)) {
            let value: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{source}: {error}"));
            containers(&source, &value, &mut ways);
        }
    }
    ways
}

#[tokio::test]
async fn every_documented_way_of_starting_starts() {
    let url = create_database().await;
    let (ours, others): (Vec<Way>, Vec<Way>) = documented().into_iter().partition(|way| way.program == "mana-sync");
    let first = |way: &Way| way.words.first().cloned().unwrap_or_default();
    let (migrating, rest): (Vec<_>, Vec<_>) = ours.into_iter().partition(|way| first(way) == "migrate");
    let (distributing, serving): (Vec<_>, Vec<_>) = rest.into_iter().partition(|way| first(way) == "distribute");
    assert!(migrating.len() >= 4 && serving.len() >= 5 && distributing.len() == 1, "{migrating:?} {serving:?}");
    for Way { source, words, .. } in migrating {
        assert!(words.len() == 1 || words[1..] == ["--grant"], "{source}: {words:?}");
        let settings = [("DATABASE_URL", &*url), ("REPLICA_PASSWORD", "of-a-test")];
        let done = program(&words, &settings).status().await.unwrap();
        assert!(done.success(), "{source}: {done}");
    }
    for Way { source, words, .. } in serving {
        let port = free_port().unwrap();
        let settings = [("DATABASE_URL", &*url), ("BIND_ADDRESS", "127.0.0.1"), ("PORT", &port.to_string())];
        assert_serves(&format!("{source}: {words:?}"), &words, &settings, port).await;
    }
    for Way { source, words, .. } in distributing {
        let url = create_database().await;
        migrate(&url).await;
        let done = program(&words, &[("DATABASE_URL", &url)]).status().await.unwrap();
        assert!(done.success(), "{source}: {done}");
    }
    // Development programs: their arguments must be understood.
    let programs: BTreeSet<&str> = others.iter().map(|way| way.program).collect();
    assert_eq!(programs, BTreeSet::from(["mana-dev", "mana-load"]));
    for Way { source, program, words } in others {
        // All programs of the workspace are in the same folder.
        let path = Path::new(env!("CARGO_BIN_EXE_mana-sync")).with_file_name(program);
        let shown = tokio::process::Command::new(path).args(&words).arg("--help").stdout(Stdio::null()).status().await;
        assert!(shown.unwrap().success(), "{source}: {program} {words:?}");
    }
}

#[tokio::test]
async fn the_health_check_asks_where_the_replica_listens() {
    let url = create_database().await;
    migrate(&url).await;
    let is_ready = async |settings: &[(&str, &str)]| {
        let mut health = program(&["health".to_owned()], settings);
        health.stderr(Stdio::null()).status().await.unwrap().success()
    };
    let mut places = vec![
        vec![("BIND_ADDRESS", "127.0.0.9")],
        // The check speaks for no client, like a load balancer in its own probes.
        vec![("BIND_ADDRESS", "127.0.0.1"), ("PROXY_PROTOCOL", "true"), ("TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.0/8")],
        vec![("BIND_ADDRESS", "127.0.0.1"), ("PROXY_PROTOCOL", "true"), ("TRUSTED_PROXIES", "10.0.0.0/8")],
    ];
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        places.extend([vec![("BIND_ADDRESS", "::1")], vec![("BIND_ADDRESS", "::")]]);
    }
    for place in places {
        let port = free_port().unwrap().to_string();
        let settings = [&place[..], &[("PORT", &*port), ("DATABASE_URL", &*url)]].concat();
        let mut replica = program(&[], &settings).spawn().unwrap();
        eventually(&format!("{place:?}"), async || {
            assert_eq!(replica.try_wait().unwrap(), None, "{place:?}: it ended");
            is_ready(&settings).await
        })
        .await;
        replica.kill().await.unwrap();
        assert!(!is_ready(&settings).await, "{place:?}: nobody is there");
    }
}

/// The admin port is not behind the clients' load balancers, and several people may use it from one address.
#[tokio::test]
async fn the_admin_port_expects_no_proxy_protocol_and_counts_no_addresses() {
    let url = create_database().await;
    migrate(&url).await;
    let (port, admin) = (free_port().unwrap().to_string(), free_port().unwrap().to_string());
    let settings = [
        ("DATABASE_URL", &*url),
        ("BIND_ADDRESS", "127.0.0.1"),
        ("PORT", &port),
        ("PROXY_PROTOCOL", "true"),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("ADMIN_PORT", &admin),
        ("ADMIN_TOKEN", "an-admin-token-for-tests"),
    ];
    let mut replica = program(&[], &settings).spawn().unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async || {
        let asked = http.get(format!("http://127.0.0.1:{admin}/health/ready")).timeout(TIMEOUT).send().await;
        asked.is_ok_and(|answer| answer.status() == 200)
    };
    eventually("it is ready", async || ask().await).await;
    let held: Vec<_> = (0..5).map(|_| std::net::TcpStream::connect(format!("127.0.0.1:{admin}")).unwrap()).collect();
    assert!(ask().await, "beside {} connections", held.len());
    replica.kill().await.unwrap();
}
