//! Measures `cutover publish` against what one would do without it: `tar | pigz` or `tar | zstd -T0` into a file, then an upload by
//! curl. Both to the same server, in turns, in one run: to the S3 server of the tests over loopback and over a line of 1 Gbit/s, and to
//! Garage. `cutover publish` also records the build in a real Consul.
//!
//! The server of the tests copies all parts once more when an upload in parts ends, and takes a core for it. Only `cutover publish`
//! uploads in parts. Garage, like S3, only notes which parts belong together.
//!
//! `make bench-publish`, or `cargo bench --bench publish`; with `PERCENT=5` on trees of that part of the size. Garage is left out
//! without `GARAGE_BIN`. Always ends with exit code 0, because it is not a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]

#[path = "../tests/store/servers/garage.rs"]
mod garage;
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
use garage::Garage;
use tokio::runtime::Runtime;
use tree::Tree;

/// How often each is measured; the median counts.
const ROUNDS: usize = 7;
/// How often the memory of a running command is read.
const LOOK: Duration = Duration::from_millis(10);

const BUCKET: &str = "builds";

/// A format, and the tool that compresses to it on all cores.
struct Format {
    name: &'static str,
    tool: &'static str,
}

const FORMATS: [Format; 2] =
    [Format { name: "tar.gz", tool: "pigz" }, Format { name: "tar.zst", tool: "zstd -q -T0 -3" }];

/// Where builds are uploaded to.
#[derive(Clone, Copy)]
enum Place {
    Garage,
    /// The server of the tests, over a line of so many bytes per second.
    Line(u64),
    Loopback,
}

impl Place {
    const fn name(self) -> &'static str {
        match self {
            Self::Garage => "to Garage",
            Self::Line(_) => "over a line of 1 Gbit/s",
            Self::Loopback => "over loopback",
        }
    }
}

/// A server that answers.
struct Access {
    endpoint: String,
    region: &'static str,
    credentials: S3Credentials,
}

/// The one that everything runs against.
struct Rig {
    dir: tempfile::TempDir,
    consul: String,
    server: S3Server,
    /// Where the next builds go.
    access: Access,
    /// None without the program.
    garage: Option<Garage>,
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
        let places =
            [Some(Place::Loopback), Some(Place::Line(125_000_000)), rig.garage.as_ref().map(|_| Place::Garage)];
        for place in places.into_iter().flatten() {
            rig.take(place);
            println!(" {}", place.name());
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
    let packed =
        if median.packed_bytes > 0 { format!("   packed {:6.1} MB", mb(median.packed_bytes)) } else { String::new() };
    println!("  {what:32} median {middle:7.3} s   fastest {fastest:7.3} s   slowest {slowest:7.3} s{packed}{memory}");
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
        // Garage accepts no others.
        let credentials = garage::credentials();
        let store = dir.path().join("store");
        let server =
            runtime.block_on(S3Server::start(Ipv4Addr::LOCALHOST.into(), &store, BUCKET, &credentials)).unwrap();
        let program = std::env::var_os("GARAGE_BIN").filter(|path| !path.is_empty());
        let garage = program.map(|program| {
            let dir = dir.path().join("garage");
            fs::create_dir(&dir).unwrap();
            runtime.block_on(Garage::start(Path::new(&program), &dir, BUCKET))
        });
        let access = Access { endpoint: server.endpoint(), region: garage::REGION, credentials };
        let consul = cluster.node(0).unwrap().http_addr();
        Self { dir, consul, server, access, garage, published: 0, _cluster: cluster, runtime }
    }

    /// Sends all that follows there.
    fn take(&mut self, place: Place) {
        let address = match place {
            Place::Garage => self.garage.as_ref().unwrap().address,
            Place::Line(rate) => self.runtime.block_on(line::open(self.server.address(), rate)),
            Place::Loopback => self.server.address(),
        };
        self.access.endpoint = format!("http://{address}");
    }

    /// Packs with the tools, and uploads the file.
    fn tools(&self, tree: &Path, format: &Format) -> Took {
        let packed = self.dir.path().join("packed");
        let Access { endpoint, region, credentials: S3Credentials { access_key, secret_key } } = &self.access;
        let script = format!(
            "set -euo pipefail\n\
             tar -C \"$1\" -cf - . | {} >\"$2\"\n\
             curl --silent --show-error --fail --aws-sigv4 aws:amz:{region}:s3 --user \"$3\" \
             --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --upload-file \"$2\" \"$4\"",
            format.tool
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash"]).args([tree, &packed]);
        command.args([format!("{access_key}:{secret_key}"), format!("{endpoint}/{BUCKET}/tools")]);
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
        let Access { endpoint, region, credentials: S3Credentials { access_key, secret_key } } = &self.access;
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
        command.args(["publish", "--app", "bench", "--branch", "master", "--commit", &commit, "--format", format.name]);
        command.args(["--store", &format!("s3://{BUCKET}/archives"), "--store-region", region, "--store-path-style"]);
        command.args(["--store-endpoint", endpoint]).arg(tree);
        command
            .env("CONSUL_HTTP_ADDR", &self.consul)
            .env("SOURCE_DATE_EPOCH", "1600000000")
            .env("TMPDIR", self.dir.path());
        command.env("AWS_ACCESS_KEY_ID", access_key).env("AWS_SECRET_ACCESS_KEY", secret_key);
        let log = self.dir.path().join("publish.log");
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let begun = Instant::now();
        let (status, peak_bytes) = watched(command.spawn().unwrap());
        let time = begun.elapsed();
        assert!(status.success(), "cutover publish failed: {}", fs::read_to_string(&log).unwrap());
        Took { time, packed_bytes: self.take_objects(), peak_bytes }
    }

    /// Removes all objects of the server of the tests, and returns their size. Those of Garage stay.
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
