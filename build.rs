//! Rebuilds the program when a file in `migrations` changes: migrations are built in, and cargo does not see what a macro
//! reads. Also tells the program its commit, if `MANA_SYNC_COMMIT` is set.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-env-changed=MANA_SYNC_COMMIT");
    let said = std::env::var("MANA_SYNC_COMMIT").unwrap_or_default();
    let commit = Some(said.trim()).filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    println!("cargo:rustc-env=MANA_SYNC_COMMIT={commit}");
}
