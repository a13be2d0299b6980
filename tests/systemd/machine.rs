//! A small Debian in a container, with a systemd, a Consul, and an operator in it.
//!
//! Its root is an overlay: what the machine writes is in memory and ends with it. Dropped, the machine is ended, with
//! everything in it; so it is, by the kernel, if this process is killed. If a test has failed, its journal is shown.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cutover_rig::process::Process;
use cutover_rig::slots::{Pool, Slots};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{POLL, consul, found_by, wait_until};

/// How long a machine may take to end before it is killed; 0.2 s is usual.
const PATIENCE: Duration = Duration::from_secs(10);

/// Machines that run at the same time. Only one: without a systemd of this machine they would share its cgroups, and one that
/// ends would remove those of another.
static MACHINES: Pool = Pool::new(1);

/// The one Consul agent in the machine.
const CONSUL_UNIT: &str = "[Service]\nExecStart=/usr/bin/consul agent -dev -log-level=warn -node=web-1\n";
/// The agent's settings.
const CONFIG: &str = include_str!("cutover.toml");

/// A running machine.
pub(crate) struct Machine {
    container: Process,
    /// Its first process, as this machine numbers it.
    leader: u32,
    _dir: TempDir,
    _slots: Slots,
}

/// What a command in the machine came to.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {:?}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}

impl Machine {
    /// Boots a machine, and waits until its systemd has started everything.
    pub(crate) fn boot() -> Self {
        static TREE: OnceLock<PathBuf> = OnceLock::new();
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let slots = MACHINES.take(1);
        let tree = TREE.get_or_init(|| found_by("get-systemd-machine"));
        let dir = tempfile::Builder::new().prefix("cutover-systemd-").tempdir().unwrap();
        let name = format!("cutover-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // If this process is killed, the kernel asks the container to end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "systemd-nspawn"]);
        // Neither registered with this machine's machined nor given a unit of its systemd: there may be none.
        command.args(["--quiet", "--register=no", "--keep-unit", "--settings=no", "--link-journal=no"]);
        command.args(["--console=pipe", "--private-network", "--volatile=overlay", "--resolv-conf=off", "--boot"]);
        command.arg(format!("--directory={}", tree.display())).arg(format!("--machine={name}"));
        command.arg(format!("--bind-ro={}:/usr/bin/cutover", env!("CARGO_BIN_EXE_cutover")));
        command.arg(format!("--bind-ro={}:/usr/bin/consul", consul().display()));
        let container = Process::spawn(name, command, &dir.path().join("log")).unwrap();
        let mut machine = Self { container, leader: 0, _dir: dir, _slots: slots };
        wait_until("systemd in the container is up", || {
            machine.assert_runs();
            // nspawn's first child is only a step on the way; so this is read anew until systemd answers in there.
            let pid = machine.container.pid();
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            machine.leader = children.split(' ').next()?.parse().ok()?;
            (machine.run(&["systemctl", "is-system-running"]).stdout.trim() == "running").then_some(())
        });
        machine
    }

    fn assert_runs(&mut self) {
        assert!(self.container.ended().unwrap().is_none(), "the container has ended: {}", self.container.log_tail(20));
    }

    /// Does by hand what `docs/operations.md` says: the files in their places, then the commands. Starts nothing.
    pub(crate) fn install(&self) {
        self.put("/etc/systemd/system/consul.service", CONSUL_UNIT);
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        let read = |name: &str| std::fs::read_to_string(files.join(name)).unwrap();
        self.put("/usr/lib/systemd/system/cutover.service", &read("cutover.service"));
        self.put("/usr/lib/sysusers.d/cutover.conf", &read("cutover.sysusers.conf"));
        self.put("/usr/lib/tmpfiles.d/cutover.conf", &read("cutover.tmpfiles.conf"));
        self.put(
            "/etc/tmpfiles.d/cutover-shop.conf",
            "d /srv/shop 0755 cutover cutover -\nd /srv/artifacts 0755 root root -\n",
        );
        self.ok(&["systemd-sysusers"]);
        self.ok(&["systemd-tmpfiles", "--create"]);
        self.ok(&["systemctl", "daemon-reload"]);
    }

    /// Puts the settings there, and the rights on them right.
    pub(crate) fn configure(&self) {
        self.put("/etc/cutover/cutover.toml", CONFIG);
        self.ok(&["systemd-tmpfiles", "--create"]);
    }

    /// Installs, configures, and starts Consul and the agent.
    pub(crate) fn start_all(&self) {
        self.install();
        self.configure();
        self.ok(&["systemctl", "start", "consul", "cutover"]);
    }

    /// Publishes a build whose one file says `version`, and deploys it: `cutover deploy` must succeed.
    pub(crate) fn deploy(&self, version: &str, commit: &str) {
        // Ready means that the agent serves its node; the very first of a fleet makes the unit's keys a moment later, and says
        // that it is there.
        for key in ["coordinator", "nodes/web-1"] {
            wait_until(&format!("a session holds {key}"), || {
                let key = self.run(&["consul", "kv", "get", "-detailed", &format!("cutover/shop/production/{key}")]);
                key.stdout.lines().any(|line| line.starts_with("Session") && !line.ends_with('-')).then_some(())
            });
        }
        self.put(&format!("/root/{version}/version"), version);
        let dir = format!("/root/{version}");
        self.ok(&["cutover", "publish", "--app", "shop", "--branch", "master", "--commit", commit, &dir]);
        self.ok(&["cutover", "deploy", "shop/production", "master"]);
    }

    /// Writes a file in the machine, and what directories it needs.
    pub(crate) fn put(&self, path: &str, text: &str) {
        let path = PathBuf::from(format!("/proc/{}/root{path}", self.leader));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs a command in the machine as its root, to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.leader));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--wd=/", "timeout", "100"]);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        let output = command.stdin(Stdio::null()).output().expect("nsenter (util-linux) does not run");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Output { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Runs a command that must succeed, and gives what it prints.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, Some(0), "{arguments:?}: {output}");
        output.stdout.trim_end().to_owned()
    }

    /// A property of the agent's unit.
    pub(crate) fn show(&self, property: &str) -> String {
        self.ok(&["systemctl", "show", "cutover", "--value", "--property", property])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader != 0 {
            let journal = self.run(&["journalctl", "--no-pager", "--lines=60"]);
            eprintln!("--- the machine's journal: {journal}");
        }
        // The second request ends it without a shutdown, and nspawn still tidies up; a kill would leave its directory.
        // All of these fail only where it has ended.
        for _ in 0..2 {
            _ = self.container.signal(Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.container.ended(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        _ = self.container.kill();
    }
}
