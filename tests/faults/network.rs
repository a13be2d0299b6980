//! Network namespaces: one per host, around a hub with a bridge, where the test itself, its store and its judge live.
//!
//! Nothing of it touches the machine's own network: every interface is made inside a namespace, and the /24 between
//! them leads nowhere else. The names carry this process's id, so that what a killed run has left is found, and removed
//! with everything that still runs in it. Needs root, iproute2 and nftables.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use cutover_rig::cluster::Place;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::fleet::DIR;

/// What the names of all namespaces of this test begin with; this process's id follows.
const PREFIX: &str = "cutover-faults-";
/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// The hub's place in the /24; the hosts count from 1.
const HUB: u8 = 254;

/// Tells the rigs of one process apart.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A hub and its hosts. Dropping it kills what runs in them and removes them.
#[derive(Debug)]
pub(crate) struct Net {
    prefix: String,
    hosts: usize,
}

impl Net {
    /// Makes the hub and `hosts` hosts, and removes what killed runs have left.
    pub(crate) fn make(hosts: usize) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces, which needs root: run it as root (sudo make test)"
        );
        remove_leftovers();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = Self { prefix: format!("{PREFIX}{}-{number}-", std::process::id()), hosts };
        let hub = net.name(None);
        ip(&["netns", "add", &hub]);
        let mut batch = format!(
            "link set lo up\nlink add br0 type bridge\naddress add {}/24 dev br0\nlink set br0 up\n",
            Self::address(None)
        );
        for host in 0..hosts {
            let name = net.name(Some(host));
            ip(&["netns", "add", &name]);
            writeln!(batch, "link add port{host} type veth peer name eth0 netns {name}").unwrap();
            writeln!(batch, "link set port{host} master br0\nlink set port{host} up").unwrap();
        }
        run(Command::new("ip").args(["-n", &hub, "-batch", "-"]), &batch);
        for host in 0..hosts {
            let batch =
                format!("link set lo up\naddress add {}/24 dev eth0\nlink set eth0 up\n", Self::address(Some(host)));
            run(Command::new("ip").args(["-n", &net.name(Some(host)), "-batch", "-"]), &batch);
        }
        net
    }

    /// Where each host lives.
    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |host| Place { address: Self::address(Some(host)), netns: Some(self.name(Some(host))) };
        (0..self.hosts).map(place).collect()
    }

    /// A host's address, or the hub's.
    pub(crate) fn address(host: Option<usize>) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, host.map_or(HUB, |host| u8::try_from(host + 1).unwrap()))
    }

    /// Moves the calling thread into the hub, and with it the threads and processes that it starts from now on.
    pub(crate) fn enter(&self) {
        let file = File::open(format!("{NAMES}/{}", self.name(None))).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Cuts a host off from everybody, the hub included.
    pub(crate) fn isolate(&self, host: usize) {
        self.rules(host, "drop");
    }

    /// Nobody of `one` and of `other` hear each other; the hub hears all.
    pub(crate) fn split(&self, one: &[usize], other: &[usize]) {
        for (these, those) in [(one, other), (other, one)] {
            let those: Vec<_> = those.iter().map(|host| Self::address(Some(*host)).to_string()).collect();
            for host in these {
                self.rules(*host, &format!("ip saddr {{ {} }} drop", those.join(", ")));
            }
        }
    }

    /// Every host loses so many of a hundred packets that come in.
    pub(crate) fn lose(&self, percent: u8) {
        for host in 0..self.hosts {
            self.rules(host, &format!("numgen random mod 100 < {percent} drop"));
        }
    }

    /// Takes every rule away.
    pub(crate) fn heal(&self) {
        for host in 0..self.hosts {
            // Adding it first makes the deletion right for a host without rules.
            self.nft(host, "add table inet faults\ndelete table inet faults\n");
        }
    }

    fn rules(&self, host: usize, verdict: &str) {
        self.nft(
            host,
            &format!(
                "table inet faults {{\n\
                 chain in {{ type filter hook input priority 0; iif lo accept; {verdict}; }}\n\
                 chain out {{ type filter hook output priority 0; oif lo accept; {} }}\n}}\n",
                // What goes out of an isolated host would still be heard.
                if verdict == "drop" { "drop;" } else { "" }
            ),
        );
    }

    fn nft(&self, host: usize, rules: &str) {
        run(Command::new("ip").args(["netns", "exec", &self.name(Some(host)), "nft", "-f", "-"]), rules);
    }

    fn name(&self, host: Option<usize>) -> String {
        format!("{}{}", self.prefix, host.map_or_else(|| "hub".to_owned(), |host| host.to_string()))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in (0..self.hosts).map(Some).chain([None]) {
            remove(&self.name(host));
        }
    }
}

/// Removes the namespaces of runs that are over, and then their directories.
fn remove_leftovers() {
    for name in leftovers(Path::new(NAMES), PREFIX) {
        remove(&name);
    }
    for name in leftovers(&std::env::temp_dir(), DIR) {
        let path = std::env::temp_dir().join(name);
        std::fs::remove_dir_all(&path).unwrap_or_else(|error| eprintln!("{} stays: {error}", path.display()));
    }
}

/// The names in a directory that begin so, with the id of a process that is gone.
fn leftovers(dir: &Path, prefix: &str) -> Vec<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_over = |name: &String| {
        let pid = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    names.filter(is_over).collect()
}

/// Kills what runs in a namespace, by id, and removes it; never fails, since it also runs while a test fails.
fn remove(name: &str) {
    if !Path::new(NAMES).join(name).exists() {
        return;
    }
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid != own) {
        // It may have ended by itself.
        _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
    }
    let removed = Command::new("ip").args(["netns", "delete", name]).output();
    if !removed.is_ok_and(|output| output.status.success()) {
        eprintln!("the network namespace {name} could not be removed");
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments), "");
}

/// Runs a command with something on stdin; it must succeed.
fn run(command: &mut Command, input: &str) {
    let line = format!("{command:?}");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child =
        child.unwrap_or_else(|error| panic!("{line}: {error} (scripts/setup tests installs what is missing)"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{line} with {input:?}: {}", String::from_utf8_lossy(&output.stderr));
}
