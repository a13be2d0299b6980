//! Measures `cutover publish` against what one would do without it: `tar | pigz` or `tar | zstd -T0` into a file, then an upload by
//! curl. Both to the S3 server of the tests, in turns, in one run, over loopback and over a line of 1 Gbit/s. `cutover publish`
//! also records the build in a real Consul.
//!
//! `make bench-publish`, or `cargo bench --bench publish`; with `PERCENT=5` on trees of that part of the size. Always ends with exit
//! code 0, because it is not a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]

#[path = "publish/line.rs"]
mod line;
#[allow(dead_code, reason = "each benchmark packs its own trees")]
#[path = "shared/tree.rs"]
mod tree;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cutover::artifact::store::S3Credentials;
use cutover_rig::cluster::{Cluster, ClusterSpec};
use cutover_rig::s3::S3Server;
use tokio::runtime::Runtime;
use tree::Tree;

/// How often each is measured; the median counts.
const ROUNDS: usize = 7;
/// How often the memory of a running command is read.
const LOOK: Duration = Duration::from_millis(10);

const BUCKET: &str = "builds";
const REGION: &str = "eu-west-1";
const CREDENTIALS: [&str; 2] = ["cutover", "not-a-secret"];

/// A format, and the tool that compresses to it on all cores.
struct Format {
    name: &'static str,
    tool: &'static str,
}

const FORMATS: [Format; 2] =
    [Format { name: "tar.gz", tool: "pigz" }, Format { name: "tar.zst", tool: "zstd -q -T0 -3" }];

/// A way to the S3 server.
struct Line {
    name: &'static str,
    /// None for loopback as it is.
    bytes_per_sec: Option<u64>,
}

const LINES: [Line; 2] = [
    Line { name: "loopback", bytes_per_sec: None },
    Line { name: "a line of 1 Gbit/s", bytes_per_sec: Some(125_000_000) },
];

/// The one that everything runs against.
struct Rig {
    dir: tempfile::TempDir,
    consul: String,
    server: S3Server,
    endpoint: String,
    published: usize,
    /// The cluster lives as long as this.
    _cluster: Cluster,
    runtime: Runtime,
}

/// What one way took.
#[derive(Clone, Copy, Default)]
struct Took {
    time: Duration,
    packed_bytes: u64,
    peak_bytes: u64,
}

fn main() {
    for tool in ["bash", "curl", "pigz", "tar", "zstd"] {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", tool]).stdout(Stdio::null()).status();
        assert!(found.is_ok_and(|status| status.success()), "{tool} is not installed: scripts/setup bench installs it");
    }
    let percent = std::env::var("PERCENT").map_or(100, |text| text.parse().expect("PERCENT is a number from 1 to 100"));
    let mut rig = Rig::start();
    for tree in
        [tree::small_files(&rig.dir.path().join("small"), percent), tree::large(&rig.dir.path().join("large"), percent)]
    {
        println!("{}: {} files, {:.1} MB, {ROUNDS} rounds", tree.what, tree.files, mb(tree.bytes));
        for line in &LINES {
            rig.take(line);
            println!(" over {}", line.name);
            for format in &FORMATS {
                compare(&mut rig, &tree, format);
            }
        }
    }
}

/// Measures both ways in turns; which one goes first changes, because the second finds warmer caches.
fn compare(rig: &mut Rig, tree: &Tree, format: &Format) {
    let (mut tools, mut own) = (Vec::new(), Vec::new());
    // The first round is only for the caches.
    for round in 0..=ROUNDS {
        if round % 2 == 0 {
            tools.push(rig.tools(&tree.dir, format));
            own.push(rig.publish(&tree.dir, format));
        } else {
            own.push(rig.publish(&tree.dir, format));
            tools.push(rig.tools(&tree.dir, format));
        }
    }
    let tools = report(&format!("tar | {}, curl", format.tool), &tools[1..]);
    let own = report(&format!("cutover publish --format {}", format.name), &own[1..]);
    println!("  ratio {:.2}", own.time.as_secs_f64() / tools.time.as_secs_f64());
}

/// Prints a row, and returns the medians.
fn report(what: &str, rounds: &[Took]) -> Took {
    let mut rounds = rounds.to_vec();
    rounds.sort_by_key(|took| took.time);
    let peak_bytes = rounds.iter().map(|took| took.peak_bytes).max().unwrap_or_default();
    let median = Took { peak_bytes, ..rounds[rounds.len() / 2] };
    let [fastest, middle, slowest] = [rounds[0], median, rounds[rounds.len() - 1]].map(|took| took.time.as_secs_f64());
    let memory = if peak_bytes > 0 { format!("   memory {:6.1} MB", mb(peak_bytes)) } else { String::new() };
    println!(
        "  {what:32} median {middle:7.3} s   fastest {fastest:7.3} s   slowest {slowest:7.3} s   packed {:6.1} MB{memory}",
        mb(median.packed_bytes)
    );
    median
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Rig {
    fn start() -> Self {
        let consul =
            PathBuf::from(std::env::var_os("CONSUL_BIN").expect("CONSUL_BIN is set, as `make bench-publish` does"));
        let (dir, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let spec = ClusterSpec { servers: 1, ..ClusterSpec::default() };
        let cluster = runtime.block_on(Cluster::start(&consul, &dir.path().join("consul"), spec)).unwrap();
        let [access_key, secret_key] = CREDENTIALS.map(str::to_owned);
        let credentials = S3Credentials { access_key, secret_key };
        let store = dir.path().join("store");
        let server =
            runtime.block_on(S3Server::start(Ipv4Addr::LOCALHOST.into(), &store, BUCKET, &credentials)).unwrap();
        let (consul, endpoint) = (cluster.node(0).unwrap().http_addr(), server.endpoint());
        Self { dir, consul, server, endpoint, published: 0, _cluster: cluster, runtime }
    }

    /// Sends all that follows over this line.
    fn take(&mut self, line: &Line) {
        self.endpoint = match line.bytes_per_sec {
            None => self.server.endpoint(),
            Some(rate) => format!("http://{}", self.runtime.block_on(line::open(self.server.address(), rate))),
        };
    }

    /// Packs with the tools, and uploads the file.
    fn tools(&self, tree: &Path, format: &Format) -> Took {
        let packed = self.dir.path().join("packed");
        let script = format!(
            "set -euo pipefail\n\
             tar -C \"$1\" -cf - . | {} >\"$2\"\n\
             curl --silent --show-error --fail --aws-sigv4 aws:amz:{REGION}:s3 --user \"$3\" \
             --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --upload-file \"$2\" \"$4\"",
            format.tool
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash"]).args([tree, &packed]);
        command.args([CREDENTIALS.join(":"), format!("{}/{BUCKET}/tools", self.endpoint)]);
        let (begun, status) = (Instant::now(), command.status().unwrap());
        let time = begun.elapsed();
        assert!(status.success(), "the tools failed: {status}");
        Took { time, packed_bytes: self.take_objects(), peak_bytes: 0 }
    }

    /// Publishes the tree as a new commit.
    fn publish(&mut self, tree: &Path, format: &Format) -> Took {
        self.published += 1;
        // A build's name has the first eight digits.
        let commit = format!("{:08x}{:032x}", self.published, 0);
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
        command.args(["publish", "--app", "bench", "--branch", "master", "--commit", &commit, "--format", format.name]);
        command.args(["--store", &format!("s3://{BUCKET}/archives"), "--store-region", REGION, "--store-path-style"]);
        command.args(["--store-endpoint", &self.endpoint]).arg(tree);
        command
            .env("CONSUL_HTTP_ADDR", &self.consul)
            .env("SOURCE_DATE_EPOCH", "1600000000")
            .env("TMPDIR", self.dir.path());
        command.envs(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].into_iter().zip(CREDENTIALS));
        let log = self.dir.path().join("publish.log");
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let begun = Instant::now();
        let (status, peak_bytes) = watched(command.spawn().unwrap());
        let time = begun.elapsed();
        assert!(status.success(), "cutover publish failed: {}", fs::read_to_string(&log).unwrap());
        Took { time, packed_bytes: self.take_objects(), peak_bytes }
    }

    /// Removes all objects, and returns their size.
    fn take_objects(&self) -> u64 {
        let bucket = self.dir.path().join("store").join(BUCKET);
        let bytes = files_below(&bucket).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        fs::remove_dir_all(&bucket).unwrap();
        fs::create_dir(&bucket).unwrap();
        bytes
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (dirs, mut files): (Vec<_>, Vec<_>) =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).partition(|path| path.is_dir());
    files.extend(dirs.iter().flat_map(|dir| files_below(dir)));
    files
}

/// Waits for the end of a command. Returns the most memory that it had, as it was shortly before.
fn watched(mut child: Child) -> (ExitStatus, u64) {
    let status_file = format!("/proc/{}/status", child.id());
    let (ended, has_ended) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let looking = scope.spawn(move || {
            let mut peak = 0;
            while has_ended.recv_timeout(LOOK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                peak = fs::read_to_string(&status_file).ok().and_then(|status| peak_in(&status)).unwrap_or(peak);
            }
            peak
        });
        let status = child.wait().unwrap();
        drop(ended);
        (status, looking.join().unwrap())
    })
}

/// `VmHWM` of `/proc/PID/status`; none for a process that has ended.
fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
