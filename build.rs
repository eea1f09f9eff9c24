//! Has a new file in `migrations` build the program anew: it is built in, and cargo does not see what a macro reads.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
