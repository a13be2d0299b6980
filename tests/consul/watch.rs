//! Blocking queries: what they report, what not, and that an index that goes backwards does not put them to sleep.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cutover::consul::{Change, Client, Consistency, Observer, RequestReport, Watch};
use cutover_rig::cluster::ClusterSpec;

use crate::support::{LIMIT, bin, eventually, seen, shared, start};

#[tokio::test]
async fn a_key_is_reported_when_it_appears_changes_and_goes() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    for consistency in [Consistency::Default, Consistency::Stale, Consistency::Consistent] {
        let key = format!("watch/life/{consistency:?}/key");
        let mut watch = Watch::key(&client, &key, consistency);
        assert_eq!(seen(&mut watch).await, None);
        // A sibling and a key below wake the query of an absent key, and are no change.
        client.kv_put(&format!("{key}-sibling"), "x").await.unwrap();
        client.kv_put(&format!("{key}/below"), "x").await.unwrap();
        client.kv_put(&key, "one").await.unwrap();
        assert_eq!(seen(&mut watch).await.unwrap().value, b"one");
        client.kv_put(&key, "one").await.unwrap();
        client.kv_put(&key, "two").await.unwrap();
        let entry = seen(&mut watch).await.unwrap();
        assert_eq!(entry.value, b"two");
        assert!(client.kv_delete_cas(&key, entry.modify_index).await.unwrap());
        assert_eq!(seen(&mut watch).await, None);
    }
}

#[tokio::test]
async fn a_prefix_is_reported_whole() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    let mut watch = Watch::prefix(&client, "watch/prefix/", Consistency::Default);
    assert_eq!(seen(&mut watch).await, []);
    for count in 1..=3 {
        client.kv_put(&format!("watch/prefix/n{count}"), [count]).await.unwrap();
        let entries = seen(&mut watch).await;
        assert_eq!(entries.len(), usize::from(count), "{entries:?}");
    }
}

/// Counts the requests to Consul.
#[derive(Debug, Default)]
struct Count(AtomicUsize);

impl Observer for Count {
    fn request_ended(&self, _: &RequestReport) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Connections that a server on this IPv4 address holds.
fn held(server: SocketAddr) -> usize {
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let SocketAddr::V4(server) = server else { panic!("{server}") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(server.ip().octets()), server.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = sockets.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[1] == local && ![TIME_WAIT, LISTEN].contains(&fields[3])).count()
}

/// Consul keeps the connection of a query that was given up until its wait is over, and takes 200 from one address.
#[tokio::test]
async fn wake_ups_cost_reads_but_no_new_connections() {
    const RINGS: usize = 12;
    let fleet = start(ClusterSpec { servers: 1, ..ClusterSpec::default() }).await;
    let plain = fleet.cluster.client(0).unwrap();
    plain.kv_put("watch/rung/key", "one").await.unwrap();
    let (count, address) = (Arc::new(Count::default()), plain.address().trim_start_matches("http://").parse().unwrap());
    let client = plain.clone().observed_by(Arc::<Count>::clone(&count));
    let mut watch = Watch::key(&client, "watch/rung/key", Consistency::Default);
    assert_eq!(seen(&mut watch).await.unwrap().value, b"one");
    let bell = watch.waker();
    let follow = tokio::spawn(async move { seen(&mut watch).await });
    for _ in 0..RINGS {
        let before = count.0.load(Ordering::Relaxed);
        bell.wake();
        eventually("it has read again", async || (count.0.load(Ordering::Relaxed) > before).then_some(())).await;
    }
    assert!(held(address) < RINGS / 2, "{} connections after {RINGS} rings", held(address));
    plain.kv_put("watch/rung/key", "two").await.unwrap();
    assert_eq!(follow.await.unwrap().unwrap().value, b"two");
}

#[tokio::test]
async fn constant_wake_ups_hide_no_change() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    client.kv_put("watch/flood/key", "one").await.unwrap();
    let mut watch = Watch::key(&client, "watch/flood/key", Consistency::Default);
    assert_eq!(seen(&mut watch).await.unwrap().value, b"one");
    let bell = watch.waker();
    let ringing = tokio::spawn(async move {
        loop {
            bell.wake();
            tokio::task::yield_now().await;
        }
    });
    for value in ["two", "three"] {
        client.kv_put("watch/flood/key", value).await.unwrap();
        assert_eq!(seen(&mut watch).await.unwrap().value, value.as_bytes());
    }
    ringing.abort();
}

#[tokio::test]
async fn a_watch_can_be_cancelled_woken_and_reset_without_losing_a_change() {
    let fleet = shared().await;
    let client = fleet.cluster.client(0).unwrap();
    client.kv_put("watch/bell/key", "one").await.unwrap();
    let mut watch = Watch::key(&client, "watch/bell/key", Consistency::Default);
    assert_eq!(seen(&mut watch).await.unwrap().value, b"one");
    // Cancelled while it waits.
    assert!(tokio::time::timeout(Duration::from_millis(20), watch.next()).await.is_err());
    client.kv_put("watch/bell/key", "two").await.unwrap();
    assert_eq!(seen(&mut watch).await.unwrap().value, b"two");
    // Rung while it waits and before: no report without a change, and none is lost.
    let bell = watch.waker();
    bell.wake();
    watch.poke();
    let ringing = async {
        for _ in 0..20 {
            bell.wake();
            tokio::task::yield_now().await;
        }
        client.kv_put("watch/bell/key", "three").await.unwrap();
        bell.wake();
    };
    let (entry, ()) = tokio::join!(seen(&mut watch), ringing);
    assert_eq!(entry.unwrap().value, b"three");
    watch.reset();
    assert_eq!(seen(&mut watch).await.unwrap().value, b"three", "after a reset all is reported again");
}

fn snapshot(client: &Client, verb: &str, file: &std::path::Path) {
    let output = Command::new(bin())
        .args(["snapshot", verb, &format!("-http-addr={}", client.address())])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "snapshot {verb}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn an_index_that_goes_backwards_does_not_stall_a_watch() {
    let fleet = start(ClusterSpec { servers: 1, ..ClusterSpec::default() }).await;
    let client = fleet.cluster.client(0).unwrap();
    let file = fleet.dir.path().join("snapshot");
    client.kv_put("watch/restore", "before").await.unwrap();
    snapshot(&client, "save", &file);
    client.kv_put("watch/restore", "after").await.unwrap();
    // Waits far longer than the test may: only a fresh start from index 0 sees the next write in time.
    let mut watch = Watch::key(&client, "watch/restore", Consistency::Default).with_wait(LIMIT * 4);
    let newest = seen(&mut watch).await.unwrap();
    assert_eq!(newest.value, b"after");
    // On a thread of its own: the query rests at Consul long before the command line has started.
    let restore = tokio::task::spawn_blocking({
        let (client, file) = (client.clone(), file.clone());
        move || snapshot(&client, "restore", &file)
    });
    let (entry, restored) = tokio::join!(seen(&mut watch), restore);
    restored.unwrap();
    let entry = entry.unwrap();
    assert_eq!(entry.value, b"before");
    assert!(entry.modify_index < newest.modify_index);
    client.kv_put("watch/restore", "next").await.unwrap();
    assert_eq!(seen(&mut watch).await.unwrap().value, b"next");
}

#[tokio::test]
async fn an_outage_is_reported_and_ends_with_a_report() {
    let mut fleet = start(ClusterSpec { servers: 1, ..ClusterSpec::default() }).await;
    let client = fleet.cluster.client(0).unwrap();
    client.kv_put("watch/outage", "x").await.unwrap();
    let mut watch = Watch::key(&client, "watch/outage", Consistency::Default);
    assert!(seen(&mut watch).await.is_some());
    fleet.cluster.kill(0).unwrap();
    match tokio::time::timeout(LIMIT, watch.next()).await.unwrap() {
        Change::Failed(error) => assert!(error.is_unreachable(), "{error}"),
        Change::Seen(seen) => panic!("{seen:?}"),
    }
    fleet.cluster.restart(0).await.unwrap_or_else(|e| panic!("{e}"));
    let entry = eventually("the watch recovers", async || match watch.next().await {
        Change::Failed(_) => None,
        Change::Seen(seen) => Some(seen),
    })
    .await;
    assert_eq!(entry.unwrap().value, b"x", "the same value is reported again after a failure");
}
