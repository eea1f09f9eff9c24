//! What users store does not make operators' questions expensive.

use crate::replica::LimitedReplica;
use crate::support::TIMEOUT;
use crate::support::live::NO_DELTA;

const TOKEN: &str = "an-admin-token-for-tests";
/// Maximum bytes that a replica takes to answer about a record of one large change.
const TAKES: u64 = 200 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_shown_in_little_more_than_what_is_stored_of_it() {
    let replica = LimitedReplica::start(&[("ADMIN_PORT", "0"), ("ADMIN_TOKEN", TOKEN)]).await;
    let user = replica.cluster.user();
    // The shortest objects there are.
    let value = vec![r#"{"":1}"#; 1_200_000].join(",");
    let change = format!(r#"{{"table":"t","id":"1","op":"insert","data":{{"updatedAt":"2024-01-01","v":[{value}]}}}}"#);
    replica.store(&user, format!(r#"{{"clientId":"a","since":"{NO_DELTA}","changes":[{change}]}}"#)).await;
    replica.forget_peak();
    let (before, _) = replica.resident();
    let url = format!("{}/api/v1/record?user={}&app=todo&table=t&id=1", replica.cluster.nodes[0].admin_url(), user.id);
    let request = replica.cluster.http.get(url).bearer_auth(TOKEN).timeout(TIMEOUT);
    let answer = request.send().await.expect("the replica lives");
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    assert!(text.len() > 2 * value.len(), "as the current value, and in its history");
    let (_, peak) = replica.resident();
    println!("a record of {} MiB: {} MiB before, {} at most", value.len() >> 20, before >> 20, peak >> 20);
    assert!(peak < before + TAKES, "{} MiB more were resident", (peak - before) >> 20);
}
