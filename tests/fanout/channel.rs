//! The channel shared by all replicas, and everybody else who may connect to the database: a notification not signed by
//! a replica is only a reason to check; and replicas know of each other.

use crate::overheard::*;
use crate::support::live::*;
use crate::support::silent::store_silently;
use crate::support::*;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mana_sync::protocol::UserKey;
use nix::sys::signal::Signal;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Replicas do not reconcile unless they have a reason to: what arrives was notified.
const NO_ROUNDS: (&str, &str) = ("RECONCILE_MS", "3600000");
/// Sockets are not told what was stored before they connected.
const NO_GREETING: (&str, &str) = ("ANNOUNCE_RECENT_MS", "0");

async fn notified_only() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::start_with(2, &[NO_ROUNDS, NO_GREETING])).await
}

async fn notify(cluster: &Cluster, payload: &str) {
    sqlx::query("select pg_notify('mana_sync', $1)").bind(payload).execute(&cluster.pool).await.unwrap();
}

/// A notification in the unsigned form.
fn unsigned(user: &User, rest: &str) -> String {
    let key = URL_SAFE_NO_PAD.encode(UserKey::of(&user.id).0.as_bytes());
    format!(r#"{{"v":1,"w":[["{key}",{rest}]]}}"#)
}

#[tokio::test]
async fn what_somebody_else_says_is_looked_up_and_never_believed() {
    let (cluster, user) = (notified_only().await, notified_only().await.user());
    let mut sockets = [socket(cluster, 0, &user, None, None).await, socket(cluster, 1, &user, None, None).await];
    let forged = [
        r#""forged","phone",["forged"],[[0,9000000000000000000]]"#,
        r#""todo","forged",["forged"],[[0,9000000000000000000]]"#,
        r#""todo",null,["forged"],[[-9223372036854775808,9223372036854775807]]"#,
        r#""todo",null,null,[[0,9000000000000000000]]"#,
        r#""todo","phone",["forged"],[]"#,
    ];
    for (n, forged) in forged.iter().enumerate() {
        // If nothing is new, nobody is woken. If something is, it is delivered, although the forgery claims that
        // everything is known.
        notify(cluster, &unsigned(&user, forged)).await;
        let table = format!("silent {n}");
        store_silently(cluster, &user, &table).await;
        notify(cluster, &unsigned(&user, forged)).await;
        for socket in &mut sockets {
            assert_eq!(woken(socket).await, (APP.to_owned(), vec![table.clone()]), "{forged}");
        }
    }
    store(cluster, 0, &user, "phone", &[("told", "a")]).await;
    for socket in &mut sockets {
        assert_eq!(woken(socket).await.1, ["told"]);
    }
    assert!(metric(cluster, 0, "mana_sync_notifications_unsigned_total").await >= 10.0);
}

#[tokio::test]
async fn a_notification_that_was_changed_or_cut_is_not_believed_either() {
    changed_or_cut(notified_only().await).await;
    // The publisher's notifications, too.
    changed_or_cut(&Cluster::start_with(2, &[NO_ROUNDS, NO_GREETING, ("COMMIT_NOTIFY_RATE", "0")]).await).await;
}

async fn changed_or_cut(cluster: &Cluster) {
    let user = cluster.user();
    let mut socket = socket(cluster, 1, &user, None, None).await;
    let mut listener = overhear(cluster).await;
    store(cluster, 0, &user, "phone", &[("genuine", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["genuine"]);
    let payload = said(&mut listener, "genuine").await;
    let unsigned = metric(cluster, 1, "mana_sync_notifications_unsigned_total").await;
    for changed in [
        payload.replace("genuine", "changed"),
        payload.replace("\"todo\"", "\"tudo\""),
        payload.replace("\"phone\"", "\"phony\""),
        format!("{}{}{}", &payload[..2], "A".repeat(16), &payload[18..]),
    ] {
        assert_ne!(changed, payload);
        notify(cluster, &changed).await;
    }
    notify(cluster, &payload[..payload.len() - 1]).await;
    store(cluster, 0, &user, "phone", &[("end", "b")]).await;
    let seen = woken_until(&mut socket, "end").await;
    assert_eq!(seen, ["end"]);
    assert!(metric(cluster, 1, "mana_sync_notifications_unsigned_total").await >= unsigned + 4.0);
}

#[tokio::test]
async fn forged_notifications_are_counted_by_themselves_whomever_they_are_about() {
    let cluster = &Cluster::start_with(2, &[NO_ROUNDS, NO_GREETING]).await;
    let user = cluster.user();
    let mut socket = socket(cluster, 1, &user, None, None).await;
    let unverified = async |index| metric(cluster, index, "mana_sync_notifications_unverified_total").await;
    store(cluster, 0, &user, "phone", &[("first", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["first"]);
    // About no user, and without content.
    let forge =
        "select pg_notify('mana_sync', 'm2' || lpad(n::text, 16, 'x') || '0000') from generate_series(1, 1000) n";
    sqlx::query(forge).execute(&cluster.pool).await.unwrap();
    let forge = "select pg_notify('mana_sync', 'm3' || lpad(n::text, 88, '0') || repeat('A', 22) || '{}')
                 from generate_series(1, 1000) n";
    sqlx::query(forge).execute(&cluster.pool).await.unwrap();
    for index in 0..2 {
        eventually("they are counted", async || unverified(index).await >= 2_000.0).await;
        assert_eq!(metric(cluster, index, "mana_sync_notifications_unsigned_total").await, 0.0, "nobody is looked up");
    }
    store(cluster, 0, &user, "phone", &[("second", "b")]).await;
    assert_eq!(woken(&mut socket).await.1, ["second"]);
}

#[tokio::test]
async fn an_old_notification_that_is_repeated_harms_nothing() {
    // A cluster of its own: unreadable notifications from other tests make replicas look everything up.
    let cluster = &Cluster::start_with(2, &[NO_ROUNDS, NO_GREETING]).await;
    let user = cluster.user();
    let mut socket = socket(cluster, 1, &user, None, None).await;
    let mut listener = overhear(cluster).await;
    store(cluster, 0, &user, "phone", &[("repeated", "a")]).await;
    assert_eq!(woken(&mut socket).await.1, ["repeated"]);
    let payload = said(&mut listener, "repeated").await;
    store_silently(cluster, &user, "lost").await;
    for _ in 0..20 {
        notify(cluster, &payload).await;
    }
    store(cluster, 0, &user, "phone", &[("later", "b")]).await;
    let seen = woken_until(&mut socket, "later").await;
    assert!(seen.iter().all(|table| table == "repeated" || table == "later"), "{seen:?}");
    // The gap is not hidden: a lookup finds it.
    notify(cluster, &unsigned(&user, r#""todo",null,[],[]"#)).await;
    let seen = woken_until(&mut socket, "lost").await;
    assert!(seen.iter().all(|table| ["repeated", "later", "lost"].contains(&table.as_str())), "{seen:?}");
}

/// Who can listen can repeat: devices would be woken for nothing, and deliveries would seem late.
#[tokio::test]
async fn what_somebody_repeats_wakes_nobody() {
    for with_commit in ["0", "250"] {
        let settings = [NO_ROUNDS, NO_GREETING, ("COMMIT_NOTIFY_RATE", with_commit)];
        let cluster = &Cluster::start_with(2, &settings).await;
        let user = cluster.user();
        let mut socket = socket(cluster, 1, &user, None, None).await;
        let mut listener = overhear(cluster).await;
        store(cluster, 0, &user, "phone", &[("first", "a")]).await;
        assert_eq!(woken(&mut socket).await.1, ["first"]);
        let payload = said(&mut listener, "first").await;
        assert!(payload.starts_with(if with_commit == "0" { "m2" } else { "m3" }), "{payload}");
        let repeat = async {
            loop {
                notify(cluster, &payload).await;
            }
        };
        let repeated = async |index| metric(cluster, index, "mana_sync_notifications_repeated_total").await;
        let told = async {
            eventually("they are noticed", async || repeated(0).await >= 500.0 && repeated(1).await >= 500.0).await;
            for n in 0..10 {
                let table = format!("table {n}");
                store(cluster, 0, &user, "phone", &[(&table, "a")]).await;
                assert_eq!(woken(&mut socket).await.1, [table]);
            }
        };
        tokio::select! {
            () = repeat => {}
            () = told => {}
        }
        let deliveries = metric(cluster, 1, "mana_sync_delivery_seconds_count").await;
        assert_eq!(deliveries, 11.0, "each counts once");
        assert_eq!(metric(cluster, 1, "mana_sync_wakeups_received_total").await, 11.0);
    }
}

#[tokio::test]
async fn the_key_is_changed_while_replicas_run_side_by_side() {
    let keys = [
        "an old key of the channel",
        "a new key of the channel, an old key of the channel",
        "a new key of the channel",
    ];
    let admin = admin_of(notified_only().await);
    let cluster = Cluster::start_each(&admin, 3, move |index, _| {
        let settings = [NO_ROUNDS, NO_GREETING, ("CHANNEL_KEY", keys[index])];
        settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    });
    let cluster = &cluster.await;
    let user = cluster.user();
    let mut sockets = Vec::new();
    for index in 0..3 {
        sockets.push(socket(cluster, index, &user, None, None).await);
    }
    for n in 0..6 {
        let table = format!("table {n}");
        store(cluster, n, &user, "phone", &[(&table, "a")]).await;
        for socket in &mut sockets {
            assert_eq!(woken(socket).await.1, std::slice::from_ref(&table));
        }
    }
    let unsigned = async |index| metric(cluster, index, "mana_sync_notifications_unsigned_total").await;
    assert_eq!(unsigned(1).await, 0.0, "the one in between knows both keys");
    assert!(unsigned(0).await > 0.0 && unsigned(2).await > 0.0, "the others do not, and look");
    // The first does not know the key that the second signs with.
    for (index, known) in [(0, 1.0), (1, 3.0), (2, 2.0)] {
        eventually("they know whose key they know", async || {
            metric(cluster, index, "mana_sync_replicas").await == known
        })
        .await;
    }
}

/// The URL of the server's administrative database.
fn admin_of(cluster: &Cluster) -> String {
    let mut url: url::Url = cluster.database_url.parse().unwrap();
    url.set_path("postgres");
    url.to_string()
}

#[tokio::test]
async fn replicas_know_how_many_they_are() {
    let cluster = &Cluster::start_with(3, &[("PRESENCE_MS", "200")]).await;
    let replicas = async |index| metric(cluster, index, "mana_sync_replicas").await;
    for index in 0..3 {
        eventually("each knows of three", async || replicas(index).await == 3.0).await;
    }
    cluster.nodes[2].process.kill().await;
    for index in 0..2 {
        eventually("one is gone without a word", async || replicas(index).await == 2.0).await;
    }
}

#[tokio::test]
async fn a_replica_that_stops_says_goodbye() {
    // No replica would be missed within the hour.
    let settings = [("PRESENCE_MS", "3600000"), ("DRAIN_DELAY_MS", "0"), ("DRAIN_WINDOW_MS", "0")];
    let cluster = &Cluster::start_with(1, &settings).await;
    let mut listener = overhear(cluster).await;
    let process = &cluster.nodes[0].process;
    process.signal(Signal::SIGTERM);
    let goodbye = said(&mut listener, "\"gone\":true").await;
    assert!(goodbye.contains("\"draining\":true"), "{goodbye}");
    let status = timeout(TIMEOUT, process.ended()).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn what_a_replica_says_of_itself_goes_with_what_it_sends_anyway() {
    let cluster = &Cluster::start_with(1, &[("PRESENCE_MS", "1000"), NO_ROUNDS, NO_GREETING]).await;
    let mut listener = overhear(cluster).await;
    let user = cluster.user();
    let mut socket = socket(cluster, 0, &user, None, None).await;
    let mut n = 0;
    let together = async {
        loop {
            let table = format!("table {n}");
            store(cluster, 0, &user, "phone", &[(&table, "a")]).await;
            n += 1;
            assert_eq!(woken(&mut socket).await.1, std::slice::from_ref(&table));
            let payload = said(&mut listener, &table).await;
            if payload.contains("\"presence\"") {
                return payload;
            }
        }
    };
    let payload = timeout(TIMEOUT, together).await.expect("before long");
    assert!(payload.contains("\"connections\":1"), "{payload}");
}
