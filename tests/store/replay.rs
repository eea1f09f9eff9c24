//! Real edit histories, replayed at full size: everybody holds the same records at the end (G3).

use crate::support::Cluster;
use mana_load::replay::{ReplayOptions, run};
use mana_load::token::TokenMint;
use std::path::Path;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dozens_of_devices_that_replay_real_histories_end_with_the_same_records() {
    let cluster = Cluster::start(3).await;
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key.json");
    cluster.key.save(&key).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("loadtest/data");
    let files = ["edits-registry.jsonl.gz", "edits-engine.jsonl.gz"].map(|name| data.join(name)).to_vec();
    let mut options = ReplayOptions::new(files, cluster.urls(), TokenMint::from_jwk_file(&key).unwrap());
    options.database_url = Some(cluster.database_url.clone());
    options.progress = false;
    let report = Box::pin(run(options)).await.unwrap();
    println!("{report}");
    assert!(report.is_good(), "{report}");
    assert_eq!(report.files.iter().map(|file| file.stored).collect::<Vec<_>>(), [Some(4175), Some(1355)]);
}
