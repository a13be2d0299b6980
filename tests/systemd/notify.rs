//! What the agent tells a service manager: `sd_notify(3)`, heard on a socket of the test's own.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use cutover_rig::cluster::{Cluster, ClusterSpec};
use cutover_rig::process::Process;

use crate::{LIMIT, consul, wait_until};

/// The longest message that is read: a few lines.
const MESSAGE_BYTES: usize = 4096;

/// A service manager's ear.
struct Manager {
    socket: UnixDatagram,
    /// Every line so far.
    heard: Vec<String>,
}

impl Manager {
    /// Listens until a line satisfies `is_it`, from the first message on.
    fn hear(&mut self, what: &str, is_it: impl Fn(&str) -> bool) -> usize {
        wait_until(what, || {
            let mut message = [0; MESSAGE_BYTES];
            if let Ok(length) = self.socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]);
                self.heard.extend(text.lines().map(str::to_owned));
            }
            self.heard.iter().position(|line| is_it(line))
        })
    }
}

#[tokio::test]
async fn a_service_manager_hears_ready_status_watchdog_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut manager = Manager { socket, heard: Vec::new() };
    let spec = ClusterSpec { servers: 1, ..ClusterSpec::default() };
    let cluster = Cluster::start(consul(), &dir.path().join("consul"), spec).await.unwrap_or_else(|e| panic!("{e}"));
    let consul_address = cluster.node(0).unwrap().http_addr();
    let host = consul_address.trim_start_matches("http://").replace(":8500", "");
    let config = dir.path().join("cutover.toml");
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir(at("store")).unwrap();
    std::fs::create_dir(at("shop")).unwrap();
    let text = format!(
        "[consul]\naddress = \"{consul_address}\"\n[store]\nurl = \"dir://{}\"\n[api]\nlisten = \"{host}:0\"\n\
         [cache]\ndir = \"{}\"\n[deploy.\"shop/production\"]\ndeploy_to = \"{}\"\n",
        at("store"),
        at("cache"),
        at("shop")
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    command.arg("agent").arg("--config").arg(&config).env_clear();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut agent = Process::spawn("agent", command, &dir.path().join("log")).unwrap();
    let ready = manager.hear("READY=1", |line| line == "READY=1");
    let status = manager.hear("what runs", |line| line == "STATUS=shop/production: nothing yet");
    let beat = manager.hear("WATCHDOG=1", |line| line == "WATCHDOG=1");
    assert!(ready < status && status < beat, "out of order: {:?}", manager.heard);
    let ended = agent.stop(LIMIT).await.unwrap();
    assert!(ended.success(), "{ended}: {}", agent.log_tail(20));
    let stopping = manager.hear("STOPPING=1", |line| line == "STOPPING=1");
    assert!(!manager.heard[stopping..].iter().any(|line| line == "READY=1"), "{:?}", manager.heard);
}
