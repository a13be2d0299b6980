//! The artifact store and fetching, against a real S3 server and a real directory, with a proxy between that breaks
//! things; and packing, against the system's `tar`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test")]

mod aws;
mod child;
mod credentials;
mod fetch;
mod gate;
mod log;
mod network;
mod objects;
mod pack;
mod parts;
mod policies;
#[allow(dead_code, reason = "the fault matrix shares it, and also holds and turns connections")]
mod proxy;
mod room;
mod servers;
mod uploads;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cutover::artifact::cache::{Cache, CacheLimits, Room};
use cutover::artifact::fetch::{FetchError, FetchReader, FetchSettings, FetchTask, Fetched, Fetcher};
use cutover::artifact::store::{Limits, S3Credentials, S3Settings, S3Store, Store, StoreUrl};
use cutover::protocol::ids::App;
use cutover::protocol::record::Build;
use cutover_rig::build::sample;
use cutover_rig::s3::S3Server;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BUCKET: &str = "artifacts";

/// Ends a test that hangs; far above what one takes.
const DEADLINE: Duration = Duration::from_mins(1);

/// A server with a bucket, its disk, and the keys to it.
struct Bucket {
    server: S3Server,
    disk: TempDir,
}

impl Bucket {
    async fn start() -> Self {
        let disk = tempfile::tempdir().unwrap();
        let server = S3Server::start(LOCALHOST, disk.path(), BUCKET, &credentials("secret")).await.unwrap();
        Self { server, disk }
    }

    fn store(&self) -> Store {
        store_at(&self.server.endpoint(), limits())
    }
}

fn credentials(secret: &str) -> S3Credentials {
    S3Credentials { access_key: "test".to_owned(), secret_key: secret.to_owned() }
}

/// Fast retries, and 5 MiB parts, the smallest that S3 takes.
fn limits() -> Limits {
    Limits { attempts: 3, backoff: Duration::from_millis(1), part_bytes: 5 << 20, ..Limits::default() }
}

fn settings_at(endpoint: &str, limits: Limits) -> S3Settings {
    S3Settings { region: None, endpoint: Some(endpoint.to_owned()), force_path_style: true, limits }
}

fn store_at(endpoint: &str, limits: Limits) -> Store {
    let settings = settings_at(endpoint, limits);
    Store::S3(S3Store::with_credentials(BUCKET, "builds", &settings, &credentials("secret")).unwrap())
}

async fn dir_store(root: &Path) -> Store {
    let url = StoreUrl::parse(&format!("dir://{}", root.display())).unwrap();
    Store::open(&url, &S3Settings::default()).await.unwrap()
}

/// A node's cache, and what fetches into it.
struct Node {
    fetcher: Fetcher,
    cache: Arc<Cache>,
}

impl Node {
    fn new(store: Store, cache: &Path, limits: CacheLimits) -> Self {
        Self::with(store, cache, limits, FetchSettings::default().part_bytes)
    }

    fn with(store: Store, cache: &Path, limits: CacheLimits, part_bytes: u64) -> Self {
        let cache = Arc::new(Cache::new(cache.to_owned(), limits, []));
        // So that a busy machine does not look like a slow line.
        let part_bytes_per_sec = 1;
        let settings = FetchSettings { tries: 3, backoff: Duration::from_millis(1), part_bytes, part_bytes_per_sec };
        Self { fetcher: Fetcher::new(store, Arc::clone(&cache), settings), cache }
    }

    fn admit(&self, build: &Build) -> Room {
        self.cache.admit(&app(), build, None).unwrap()
    }

    fn start(&self, build: &Build) -> (FetchReader, Running) {
        let room = self.admit(build);
        let (reader, task) = self.fetcher.start(&app(), build, &room);
        (reader, Running { task, _room: room })
    }
}

/// A download in its room.
struct Running {
    task: FetchTask,
    _room: Room,
}

impl Running {
    async fn finish(self) -> Result<Fetched, FetchError> {
        self.task.finish().await
    }
}

/// Bytes that do not repeat at any distance that matters, so that a piece in the wrong place shows.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    fastrand::Rng::with_seed(bytes as u64).fill(&mut noise);
    noise
}

fn write(dir: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

fn app() -> App {
    "shop".parse().unwrap()
}

/// The record of a build with this archive.
fn build_of(content: &[u8]) -> Build {
    Build { sha256: digest(content).parse().unwrap(), packed_bytes: content.len() as u64, ..sample() }
}

/// An error and everything below it, as `cutover` prints it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text = format!("{text}: {cause}");
        below = cause.source();
    }
    text
}
