//! Measures how a node downloads an archive against `curl` with four ranges at once, and against s5cmd. All from the same server, in
//! turns, in one run: from nginx without a limit, and with one for each connection, as S3 has it; and from Garage.
//!
//! The node's download is the library's: it writes the archive into the cache, and passes all bytes on in their order, to a reader
//! that drops them. `curl` writes the ranges into four files, which would still have to be joined.
//!
//! `make bench-fetch`, or `NGINX_BIN=… cargo bench --bench fetch`; with `PERCENT=5` of an archive of that part of the size. s5cmd is
//! left out without `S5CMD_BIN`, and Garage without `GARAGE_BIN`. Always ends with exit code 0, because it is not a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]

#[path = "../tests/store/servers/garage.rs"]
mod garage;
#[path = "fetch/line.rs"]
mod line;
#[path = "fetch/nginx.rs"]
mod nginx;

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cutover::artifact::cache::{Cache, CacheLimits};
use cutover::artifact::fetch::{FetchSettings, Fetcher};
use cutover::artifact::store::{Limits, S3Credentials, S3Settings, S3Store, Store, Upload};
use cutover::protocol::ids::App;
use cutover::protocol::record::Build;
use cutover_rig::build::sample;
use fastrand::Rng;
use garage::Garage;
use nginx::Nginx;
use tokio::runtime::Runtime;

/// How often each is measured; the median counts.
const ROUNDS: usize = 7;
/// The size of the archive.
const ARCHIVE_BYTES: u64 = 512 << 20;
/// The ranges of `curl`.
const RANGES: u64 = 4;

const BUCKET: &str = "artifacts";

/// A way to the server.
struct Line {
    name: &'static str,
    /// What each connection gets; none for no limit.
    bytes_per_sec: Option<u64>,
}

const LINES: [Line; 2] = [
    Line { name: "without a limit", bytes_per_sec: None },
    Line { name: "with 40 MiB/s for each connection", bytes_per_sec: Some(40 << 20) },
];

/// The server at the near end of a line.
struct Server {
    endpoint: String,
    access: Access,
    /// An agent has it from its start on.
    store: Store,
}

/// Who may read.
enum Access {
    /// Everybody: signatures are not checked.
    Everybody,
    /// Who signs with these, for this region.
    Signed { credentials: S3Credentials, region: &'static str },
}

impl Server {
    fn new(endpoint: String, access: Access) -> Self {
        Self { store: store(&endpoint, &access), endpoint, access }
    }
}

/// A way to download.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Cutover,
    Curl,
    S5cmd,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Cutover => "cutover",
            Self::Curl => "curl, 4 ranges",
            Self::S5cmd => "s5cmd",
        }
    }
}

/// What everything runs against.
struct Rig {
    dir: tempfile::TempDir,
    nginx: PathBuf,
    s5cmd: Option<PathBuf>,
    app: App,
    build: Build,
    /// The path of the archive below that of the server.
    object: String,
    runtime: Runtime,
}

fn main() {
    let percent = std::env::var("PERCENT").map_or(100, |text| text.parse().expect("PERCENT is a number from 1 to 100"));
    let rig = Rig::new(ARCHIVE_BYTES * percent / 100);
    let mut ways = vec![Way::Cutover, Way::Curl];
    match rig.s5cmd {
        Some(_) => ways.push(Way::S5cmd),
        None => println!("s5cmd is left out: S5CMD_BIN is not set"),
    }
    println!("an archive of {:.1} MB, {ROUNDS} rounds", mb(rig.build.packed_bytes));
    let dir = rig.dir.path();
    let server = Nginx::start(&rig.nginx, &dir.join("nginx"), &dir.join("root"), BUCKET);
    for line in &LINES {
        println!(" {}", line.name);
        let address = match line.bytes_per_sec {
            None => server.address(),
            Some(rate) => rig.runtime.block_on(line::open(server.address(), rate)),
        };
        compare(&rig, &Server::new(format!("http://{address}"), Access::Everybody), &ways);
    }
    drop(server);
    let Some(program) = std::env::var_os("GARAGE_BIN").filter(|path| !path.is_empty()) else {
        println!("Garage is left out: GARAGE_BIN is not set");
        return;
    };
    println!(" from Garage");
    let dir = rig.dir.path().join("garage");
    fs::create_dir(&dir).unwrap();
    let garage = rig.runtime.block_on(Garage::start(Path::new(&program), &dir, BUCKET));
    let access = Access::Signed { credentials: garage::credentials(), region: garage::REGION };
    let server = Server::new(format!("http://{}", garage.address), access);
    rig.upload(&server);
    compare(&rig, &server, &ways);
}

/// Measures all ways in turns; which one goes first changes.
fn compare(rig: &Rig, server: &Server, ways: &[Way]) {
    let mut rounds = vec![Vec::new(); ways.len()];
    // The first round is only for the caches.
    for round in 0..=ROUNDS {
        for turn in 0..ways.len() {
            let at = (round + turn) % ways.len();
            let took = rig.download(server, ways[at]);
            if round > 0 {
                rounds[at].push(took);
            }
        }
    }
    for (way, times) in ways.iter().zip(&rounds) {
        let [fastest, median, slowest] = spread(times.iter().map(Duration::as_secs_f64).collect());
        let speed = mb(rig.build.packed_bytes) / median;
        println!(
            "  {:16} median {median:7.3} s   fastest {fastest:7.3} s   slowest {slowest:7.3} s   {speed:7.1} MB/s",
            way.name()
        );
    }
    for (way, times) in ways.iter().zip(&rounds).skip(1) {
        let ratios = rounds[0].iter().zip(times).map(|(own, other)| own.as_secs_f64() / other.as_secs_f64());
        let [least, median, most] = spread(ratios.collect());
        println!("  time of cutover to that of {}: {median:.2} ({least:.2} to {most:.2})", way.name());
    }
}

/// The least, the median and the most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Rig {
    fn new(size_bytes: u64) -> Self {
        let nginx = PathBuf::from(std::env::var_os("NGINX_BIN").expect("NGINX_BIN is set, as `make bench-fetch` does"));
        let s5cmd = std::env::var_os("S5CMD_BIN").filter(|path| !path.is_empty()).map(PathBuf::from);
        let curl = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
        assert!(curl.is_ok_and(|it| it.success()), "curl is not installed: scripts/setup bench installs it");
        // Nothing looks at its digest.
        let build = Build { packed_bytes: size_bytes, ..sample() };
        let (dir, app) = (tempfile::tempdir().unwrap(), "bench".parse().unwrap());
        let runtime = Runtime::new().unwrap();
        let key = store("http://127.0.0.1:1", &Access::Everybody).key(&app, &build);
        let object = format!("{BUCKET}/{key}");
        write_archive(&dir.path().join("root").join(&object), size_bytes);
        Self { dir, nginx, s5cmd, app, build, object, runtime }
    }

    /// Puts the archive into a server that does not serve the directory.
    fn upload(&self, server: &Server) {
        let (key, file) = (server.store.key(&self.app, &self.build), self.dir.path().join("root").join(&self.object));
        self.runtime.block_on(server.store.put_file(&key, &file, &Upload::default())).unwrap();
    }

    /// Downloads the archive, checks its size, and removes it.
    fn download(&self, server: &Server, way: Way) -> Duration {
        let to = self.dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let begun = Instant::now();
        match way {
            Way::Cutover => self.runtime.block_on(self.fetch(server, &to)),
            Way::Curl => run(&mut self.curl(server, &to)),
            Way::S5cmd => run(&mut self.s5cmd(server, &to)),
        }
        let took = begun.elapsed();
        let found: u64 = files_below(&to).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert_eq!(found, self.build.packed_bytes, "{} did not download everything", way.name());
        fs::remove_dir_all(&to).unwrap();
        took
    }

    async fn fetch(&self, server: &Server, to: &Path) {
        let limits = CacheLimits { budget_bytes: u64::MAX, min_free_bytes: Some(1) };
        let cache = Arc::new(Cache::new(to.to_owned(), limits, []));
        let room = cache.admit(&self.app, &self.build, None).unwrap();
        let fetcher = Fetcher::new(server.store.clone(), cache, FetchSettings::default());
        let (mut reader, task) = fetcher.start(&self.app, &self.build, &room);
        let reading = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; 128 << 10];
            while reader.read(&mut piece).unwrap() > 0 {}
        });
        task.finish().await.unwrap();
        reading.await.unwrap();
    }

    fn curl(&self, server: &Server, to: &Path) -> Command {
        let mut command = Command::new("curl");
        command.args(["--parallel", "--parallel-immediate", "--parallel-max", &RANGES.to_string()]);
        let (size, url) = (self.build.packed_bytes, format!("{}/{}", server.endpoint, self.object));
        for part in 0..RANGES {
            if part > 0 {
                command.arg("--next");
            }
            let (from, end) = (size * part / RANGES, size * (part + 1) / RANGES);
            command.args(["--silent", "--show-error", "--fail", "--range", &format!("{from}-{}", end - 1)]);
            if let Access::Signed { credentials: S3Credentials { access_key, secret_key }, region } = &server.access {
                command.arg("--aws-sigv4").arg(format!("aws:amz:{region}:s3"));
                command.arg("--user").arg(format!("{access_key}:{secret_key}"));
            }
            command.arg("--output").arg(to.join(part.to_string())).arg(&url);
        }
        command
    }

    fn s5cmd(&self, server: &Server, to: &Path) -> Command {
        let mut command = Command::new(self.s5cmd.as_ref().unwrap());
        match &server.access {
            Access::Everybody => command.arg("--no-sign-request"),
            Access::Signed { credentials: S3Credentials { access_key, secret_key }, region } => command
                .env("AWS_ACCESS_KEY_ID", access_key)
                .env("AWS_SECRET_ACCESS_KEY", secret_key)
                .env("AWS_REGION", region),
        };
        command.args(["--endpoint-url", &server.endpoint, "cp"]);
        command.arg(format!("s3://{}", self.object)).arg(to.join("archive"));
        command
    }
}

/// Runs a command, and fails with its messages.
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (dirs, mut files): (Vec<_>, Vec<_>) =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).partition(|path| path.is_dir());
    files.extend(dirs.iter().flat_map(|dir| files_below(dir)));
    files
}

fn write_archive(path: &Path, size_bytes: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (mut out, mut random) = (BufWriter::new(File::create(path).unwrap()), Rng::with_seed(1));
    let (mut piece, mut left) = (vec![0; 1 << 20], usize::try_from(size_bytes).unwrap());
    while left > 0 {
        random.fill(&mut piece);
        let now = piece.len().min(left);
        out.write_all(&piece[..now]).unwrap();
        left -= now;
    }
    out.flush().unwrap();
}

fn store(endpoint: &str, access: &Access) -> Store {
    let endpoint = Some(endpoint.to_owned());
    let (region, credentials) = match access {
        Access::Everybody => {
            (None, S3Credentials { access_key: "bench".to_owned(), secret_key: "not-a-secret".to_owned() })
        }
        Access::Signed { credentials, region } => (Some((*region).to_owned()), credentials.clone()),
    };
    let settings = S3Settings { region, endpoint, force_path_style: true, limits: Limits::default() };
    Store::S3(S3Store::with_credentials(BUCKET, "builds", &settings, &credentials).unwrap())
}
