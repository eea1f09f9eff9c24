//! Has a new file in `migrations` build the program anew: it is built in, and cargo does not see what a macro reads. And
//! tells the program which commit it is, where whoever builds it says so.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-env-changed=MANA_SYNC_COMMIT");
    let said = std::env::var("MANA_SYNC_COMMIT").unwrap_or_default();
    let commit = Some(said.trim()).filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    println!("cargo:rustc-env=MANA_SYNC_COMMIT={commit}");
}
