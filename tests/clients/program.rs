//! Runs a scenario of `tests/browser/` as a child process.

use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// Runs a scenario to its end, calling `step` for each line that it prints; fails the test with its errors.
pub async fn run(program: &str, settings: Value, mut step: impl AsyncFnMut(&str)) {
    let mut command = Command::new("node");
    command.arg(program).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("scripts/bootstrap tests installs node");
    let mut stdin = child.stdin.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    stdin.write_all(settings.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let errors = tokio::spawn(async move {
        let mut errors = String::new();
        stderr.read_to_string(&mut errors).await.unwrap();
        errors
    });
    let mut last = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        step(&line).await;
        last = line;
    }
    let (status, errors) = (child.wait().await.unwrap(), errors.await.unwrap());
    let (scenario, seed) = (&settings["scenario"], &settings["seed"]);
    assert!(status.success(), "{program} with {scenario}, seed {seed}: {status} after {last:?}\n{errors}");
    println!("{scenario}, seed {seed}: {last}");
}
