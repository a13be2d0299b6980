//! What the tests share: a cluster of one server for all tests that leave it whole, and waiting without sleeping blind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use cutover::consul::{BasicAuth, Change, Client, Secret, Subject, Watch};
use cutover_rig::cluster::{Cluster, ClusterSpec};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Far beyond what anything here takes; only a hang reaches it.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// A cluster and the directory that it lives in; the processes go first.
pub(crate) struct Fleet {
    pub(crate) cluster: Cluster,
    pub(crate) dir: TempDir,
}

/// The Consul binary, or a failure that says what to do.
pub(crate) fn bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/get-consul");
        let output = Command::new(script).output().expect("scripts/get-consul does not run");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "these tests need a Consul binary: {talk}");
        String::from_utf8(output.stdout).unwrap().trim().into()
    })
}

pub(crate) async fn start(spec: ClusterSpec) -> Fleet {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(bin(), dir.path(), spec).await.unwrap_or_else(|e| panic!("{e}"));
    Fleet { cluster, dir }
}

/// One server without ACLs, for every test that runs at the same time; the last one to finish ends it.
pub(crate) async fn shared() -> Arc<Fleet> {
    static OPEN: Mutex<Weak<Fleet>> = Mutex::const_new(Weak::new());
    shared_from(&OPEN, ClusterSpec { servers: 1, ..ClusterSpec::default() }).await
}

/// As [`shared`], with ACLs on and default policy deny.
pub(crate) async fn shared_with_acl() -> Arc<Fleet> {
    static OPEN: Mutex<Weak<Fleet>> = Mutex::const_new(Weak::new());
    shared_from(&OPEN, ClusterSpec { servers: 1, acl: true, ..ClusterSpec::default() }).await
}

async fn shared_from(open: &Mutex<Weak<Fleet>>, spec: ClusterSpec) -> Arc<Fleet> {
    let mut open = open.lock().await;
    if let Some(fleet) = open.upgrade() {
        return fleet;
    }
    let fleet = Arc::new(start(spec).await);
    *open = Arc::downgrade(&fleet);
    fleet
}

/// Clients on both ways to Consul: through `rs-consul`, and (as basic authentication is set) through our own calls.
pub(crate) fn both_ways(fleet: &Fleet) -> [(&'static str, Client); 2] {
    let settings = fleet.cluster.settings(0).unwrap();
    let mut own = settings.clone();
    own.auth = Some(BasicAuth { user: "ann".to_owned(), password: Secret::new("unused") });
    [("rs", Client::new(&settings).unwrap()), ("own", Client::new(&own).unwrap())]
}

/// The next thing that a watch sees; a failure fails the test.
pub(crate) async fn seen<T: Subject>(watch: &mut Watch<T>) -> T {
    match tokio::time::timeout(LIMIT, watch.next()).await.expect("the watch reports nothing") {
        Change::Seen(seen) => seen,
        Change::Failed(error) => panic!("the watch failed: {error}"),
    }
}

/// Asks `question` until it is answered with `Some`.
pub(crate) async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
