//! What the tests share: the command in an empty environment, and one Consul for all of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use assert_cmd::assert::OutputAssertExt as _;
use cutover::consul::Client;
use cutover::control::Code;
use cutover_rig::cluster::{Cluster, ClusterSpec};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Far beyond what anything here takes; only a hang reaches it.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// `cutover` with nothing of this machine's environment but PATH.
pub(crate) fn cutover(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("USER", "ann");
    command.stdin(Stdio::null());
    command
}

/// What a command printed, after its exit code was checked.
pub(crate) struct Printed {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs to the end, off the runtime's threads, and checks the exit code.
pub(crate) async fn ends(command: Command, code: Code) -> Printed {
    tokio::task::spawn_blocking(move || ends_now(command, code)).await.unwrap()
}

/// As [`ends`], for tests without a runtime.
pub(crate) fn ends_now(mut command: Command, code: Code) -> Printed {
    let assert = command.output().unwrap().assert().code(i32::from(code as u8));
    let output = assert.get_output();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Printed { stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A Consul with ACLs on, default policy deny, and the directory that it lives in; the processes go first.
pub(crate) struct Fleet {
    pub(crate) cluster: Cluster,
    _dir: TempDir,
}

impl Fleet {
    /// A client that may do everything.
    pub(crate) fn client(&self) -> Client {
        self.cluster.client(0).unwrap()
    }

    /// `cutover` with every right.
    pub(crate) fn cutover(&self, args: &[&str]) -> Command {
        let token = self.cluster.management_token().unwrap().expose().to_owned();
        self.cutover_as(args, &token)
    }

    /// `cutover` with another token.
    pub(crate) fn cutover_as(&self, args: &[&str], token: &str) -> Command {
        let mut command = cutover(args);
        command.env("CONSUL_HTTP_ADDR", self.cluster.node(0).unwrap().http_addr()).env("CONSUL_HTTP_TOKEN", token);
        command
    }
}

/// One server for every test that runs at the same time, each under an app of its own; the last one ends it.
pub(crate) async fn consul() -> Arc<Fleet> {
    static OPEN: Mutex<Weak<Fleet>> = Mutex::const_new(Weak::new());
    let mut open = OPEN.lock().await;
    if let Some(fleet) = open.upgrade() {
        return fleet;
    }
    let dir = tempfile::tempdir().unwrap();
    let spec = ClusterSpec { servers: 1, acl: true, ..ClusterSpec::default() };
    let cluster = Cluster::start(bin(), dir.path(), spec).await.unwrap_or_else(|e| panic!("{e}"));
    let fleet = Arc::new(Fleet { cluster, _dir: dir });
    *open = Arc::downgrade(&fleet);
    fleet
}

/// The Consul binary, or a failure that says what to do.
fn bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/get-consul");
        let output = Command::new(script).output().expect("scripts/get-consul does not run");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "these tests need a Consul binary: {talk}");
        String::from_utf8(output.stdout).unwrap().trim().into()
    })
}

/// Asks `question` until it is answered with `Some`.
pub(crate) async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::task::yield_now().await;
    }
}
