//! Runs one attack after another against one replica: it survives, stays within its memory, and others do not notice.

use crate::replica::{LimitedReplica, MEMORY, Others, is_long, many};
use crate::{bodies, clients, readers, relatives, turns, unauthenticated};
use std::time::Duration;

/// Maximum time of a probe, and by which factor others' pushes may slow down, on an otherwise idle machine.
const PROBE: Duration = Duration::from_millis(50);
const SLOWER: u32 = 2;
/// Noise in times of a few milliseconds.
const NOISE: Duration = Duration::from_millis(15);
/// Maximum time of anything on a busy machine.
const BUSY: Duration = Duration::from_secs(30);
/// Maximum time of 99 in 100 of others' pushes while clients do all that they can to leave them no turn, and its maximum
/// as a multiple of what they take otherwise, on a busy machine.
const TURNS: Duration = Duration::from_secs(1);
const BUSIER: u32 = 10;
/// How long others are measured before the first attack.
const QUIET: Duration = Duration::from_secs(3);

/// True if this attack is to run: with `SIEGE_ATTACK`, only those whose names contain it.
fn is_wanted(name: &str) -> bool {
    std::env::var("SIEGE_ATTACK").map_or(true, |part| name.contains(&part))
}

/// An attack's row in the table.
struct Row {
    name: String,
    peak: u64,
    left: u64,
    probe: Duration,
    pushes: (Duration, Duration),
}

/// Measures others during an attack.
async fn watch(replica: &LimitedReplica, name: &str, attack: impl Future<Output = ()>) -> Row {
    replica.forget_peak();
    let others = Others::start(replica);
    attack.await;
    let mut seen = others.stop().await;
    assert!(replica.is_alive(), "{name}: the replica ended: {}", replica.cluster.nodes[0].log());
    assert!(seen.refused.is_empty(), "{name}: others were refused: {:?}", seen.refused);
    assert!(seen.pushes() > 0, "{name}: others did not push");
    let (left, peak) = replica.resident();
    Row { name: name.to_owned(), peak, left, probe: seen.slowest_probe(), pushes: seen.push_times() }
}

/// Compares rows with what others took before the first attack.
struct Judge {
    quiet: Row,
    /// What took too long on an idle machine; told at the end, so that one attack does not hide what the others do.
    too_long: Vec<String>,
}

impl Judge {
    fn judge(&mut self, row: &Row) {
        row.print();
        let (name, most) = (&row.name, row.pushes.1);
        assert!(row.peak < MEMORY, "{name}: {} MiB were resident", row.peak >> 20);
        assert!(row.probe < BUSY && most < BUSY, "{name}: somebody waited");
        if !is_long() {
            return;
        }
        if row.probe > PROBE {
            self.too_long.push(format!("{name}: a probe took {:.0?}", row.probe));
        }
        let allowed = self.quiet.pushes.1 * SLOWER + NOISE;
        if most > allowed {
            let told = format!("{name}: of others' pushes one in a hundred took {most:.1?}, allowed are {allowed:.1?}");
            self.too_long.push(told);
        }
    }

    fn end(self) {
        assert!(self.too_long.is_empty(), "too long:\n{}", self.too_long.join("\n"));
    }
}

impl Row {
    fn print(&self) {
        let (name, peak, left, probe) = (&self.name, self.peak >> 20, self.left >> 20, self.probe);
        let (half, most) = self.pushes;
        println!("| {name} | {peak} MiB | {left} MiB | {probe:.0?} | {half:.1?} | {most:.1?} |");
    }
}

/// Starts a replica under its limit, and measures it without an attack.
async fn start() -> (LimitedReplica, Judge) {
    let replica = LimitedReplica::start(&[]).await;
    println!("| what | resident at most | afterwards | slowest probe | others' pushes, p50 | p99 |");
    let quiet = watch(&replica, "nothing", tokio::time::sleep(QUIET)).await;
    quiet.print();
    (replica, Judge { quiet, too_long: Vec::new() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_stands_every_attack_and_all_of_them_at_once() {
    let (replica, mut judge) = start().await;
    macro_rules! attack {
        ($name:literal, $attack:expr) => {
            if is_wanted($name) {
                judge.judge(&watch(&replica, $name, Box::pin($attack)).await)
            }
        };
    }
    attack!("updates and inserts of 100,000 fields, each sent twice", bodies::many_fields(&replica));
    attack!("pushes of 10 MB whose stamps are all ahead", bodies::stamps_ahead(&replica));
    attack!("pushes of 10 MiB of the shortest changes", bodies::short_changes(&replica));
    attack!("pushes of thousands of tables, and sockets that are not read", bodies::many_tables(&replica));
    attack!("bodies of 10 MiB that are no push: deep, long, wrong", bodies::wrong(&replica));
    attack!("27 bodies that stall, of one user", bodies::stalled(&replica));
    attack!("slow readers of a page of 10 MB", readers::slow(&replica));
    attack!("pages whose numbers grow", readers::growing(&replica));
    attack!("one change of a device that wrote a record often, 40 readers", readers::long_history(&replica));
    attack!("one change of a device that wrote a million fields of its record", readers::own_fields(&replica));
    attack!("streams of 16,000 and of 256 collections", readers::many_collections(&replica));
    attack!("polls without a pause", readers::polls(&replica));
    attack!("apps without end", clients::apps(&replica));
    attack!("sockets and streams without end of one user", clients::sessions(&replica));
    attack!(
        "sockets that never authenticate, each with an unfinished message",
        unauthenticated::sockets(&replica, many(10_000, 1_000))
    );
    attack!("heads that do not end", unauthenticated::heads(&replica, many(10_000, 1_000)));
    attack!("bodies without a token", unauthenticated::bodies(&replica));
    attack!("all at once", async {
        futures_util::join!(
            bodies::stamps_ahead(&replica),
            bodies::short_changes(&replica),
            bodies::many_tables(&replica),
            bodies::stalled(&replica),
            readers::slow(&replica),
            readers::long_history(&replica),
            unauthenticated::sockets(&replica, many(5_000, 1_000)),
            unauthenticated::heads(&replica, many(5_000, 1_000)),
        );
    });
    judge.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_stands_the_relatives_of_these_attacks() {
    let (replica, mut judge) = start().await;
    macro_rules! attack {
        ($name:literal, $attack:expr) => {
            if is_wanted($name) {
                judge.judge(&watch(&replica, $name, Box::pin($attack)).await)
            }
        };
    }
    attack!(
        "names that come again and again, and what is deep where nothing is read",
        relatives::repeated_names(&replica)
    );
    attack!("pushes of the shortest members, up to 10 MB", relatives::short_members(&replica));
    attack!("sockets that are to be told of hundreds of thousands of tables", relatives::greetings(&replica));
    attack!("names that fill a head", relatives::long_queries(&replica));
    attack!("streams of very many names that stay open", relatives::long_names(&replica));
    attack!("thousands of headers, and chunks of one byte", relatives::headers(&replica));
    attack!("messages in as many frames as they have bytes", relatives::fragments(&replica));
    attack!("compressed pages that are not read, and compressed bodies", relatives::compressed(&replica));
    attack!("a user with as many apps and tables as there may be, who is erased", relatives::erased(&replica));
    attack!("a device that wrote all fields of records with long names", readers::long_own_names(&replica));
    attack!("pages of 4 MB for everybody at once, not read by some", readers::large_pages(&replica));
    judge.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_pause_leave_turns_to_others() {
    let (replica, mut judge) = start().await;
    let mut check = |row: Row| {
        judge.judge(&row);
        let (took, allowed) = (row.pushes.1, TURNS.max(judge.quiet.pushes.1 * BUSIER));
        assert!(
            took < allowed,
            "{}: of others' pushes one in a hundred took {took:?}, allowed are {allowed:?}",
            row.name
        );
    };
    let user = replica.cluster.user();
    for (name, request) in turns::requests(&user).into_iter().filter(|(name, _)| is_wanted(name)) {
        check(watch(&replica, name, Box::pin(turns::without_answers(&replica, &request))).await);
    }
    for (name, request) in turns::requests(&user).into_iter().filter(|(name, _)| !name.contains("metrics")) {
        let name = &format!("{name}, each after the answer to the one before");
        if is_wanted(name) {
            check(watch(&replica, name, Box::pin(turns::with_answers(&replica, &request))).await);
        }
    }
    let compressed = "pages of 10 MB that become very small, read at once";
    if is_wanted(compressed) {
        check(watch(&replica, compressed, Box::pin(turns::compressed_pages(&replica))).await);
    }
    judge.end();
}
