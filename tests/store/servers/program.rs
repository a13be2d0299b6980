//! Starts the servers: one of each for all tests that run at the same time. The last of these tests stops them, also one that
//! fails.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use cutover::artifact::store::{S3Credentials, S3Settings, S3Store, Store};
use cutover_rig::process::Process;
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::garage::{self, Garage};
use crate::{BUCKET, limits};

/// How long a server may take to start. Moto needs 3 s of a core, and a busy machine may have none for a minute.
const LIMIT: Duration = Duration::from_mins(3);

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    Garage,
    Moto,
    S3rver,
}

/// What not every server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ability {
    /// Aborts uploads in parts.
    Abort,
    /// Refuses unknown access keys.
    CheckKey,
    /// Refuses a wrong secret.
    CheckSecret,
    /// Compares entity tags with `If-Match`.
    IfMatch,
    /// Lists unfinished uploads.
    ListUploads,
    /// Tells when an unfinished upload began.
    TellStart,
}

impl Maker {
    /// The same is in docs/s3.md, "Servers tried".
    const fn lacks(self) -> &'static [Ability] {
        match self {
            Self::Garage => &[],
            Self::Moto => &[Ability::CheckKey, Ability::CheckSecret, Ability::TellStart],
            Self::S3rver => {
                &[Ability::Abort, Ability::CheckSecret, Ability::IfMatch, Ability::ListUploads, Ability::TellStart]
            }
        }
    }

    pub(crate) fn has(self, ability: Ability) -> bool {
        !self.lacks().contains(&ability)
    }

    pub(crate) fn credentials(self) -> S3Credentials {
        let keys = |key: &str| S3Credentials { access_key: key.to_owned(), secret_key: key.to_owned() };
        match self {
            Self::Garage => garage::credentials(),
            Self::Moto => keys("moto"),
            // The only account that it knows.
            Self::S3rver => keys("S3RVER"),
        }
    }

    /// What `store.region` must be; none: nothing.
    pub(crate) const fn region(self) -> Option<&'static str> {
        match self {
            Self::Garage => Some(garage::REGION),
            Self::Moto | Self::S3rver => None,
        }
    }
}

/// A running server.
struct Program {
    maker: Maker,
    address: SocketAddr,
    _running: Running,
    _dir: TempDir,
}

/// Only held.
enum Running {
    Garage { _garage: Garage },
    Other { _process: Process },
}

/// A server as one test sees it: with a prefix of its own in the bucket.
#[derive(Clone)]
pub(crate) struct Served {
    programs: Arc<Vec<Program>>,
    index: usize,
    pub(crate) prefix: String,
}

/// The servers of the suite: moto and s3rver, and Garage with `GARAGE_BIN`.
pub(crate) async fn servers() -> Vec<Served> {
    static OPEN: Mutex<Weak<Vec<Program>>> = Mutex::const_new(Weak::new());
    static TESTS: AtomicUsize = AtomicUsize::new(0);
    let mut open = OPEN.lock().await;
    let programs = if let Some(programs) = open.upgrade() {
        programs
    } else {
        let (moto, s3rver) = tokio::join!(moto(), s3rver());
        let mut programs = vec![moto, s3rver];
        if let Some(program) = std::env::var_os("GARAGE_BIN").filter(|path| !path.is_empty()) {
            programs.push(garage(Path::new(&program)).await);
        }
        Arc::new(programs)
    };
    *open = Arc::downgrade(&programs);
    let prefix = format!("test-{}", TESTS.fetch_add(1, Ordering::Relaxed));
    let served = |index| Served { programs: Arc::clone(&programs), index, prefix: prefix.clone() };
    (0..programs.len()).map(served).collect()
}

async fn moto() -> Program {
    let (program, dir) = (program("get-moto").await, tempfile::tempdir().unwrap());
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", "0"]).current_dir(dir.path());
    let (process, address) = listening("moto", command, &dir, "Running on http://").await;
    let keys = Maker::Moto.credentials();
    client(Maker::Moto, address, &keys).create_bucket().bucket(BUCKET).send().await.unwrap();
    Program { maker: Maker::Moto, address, _running: Running::Other { _process: process }, _dir: dir }
}

async fn s3rver() -> Program {
    let (program, dir) = (program("get-s3rver").await, tempfile::tempdir().unwrap());
    let mut command = Command::new(program);
    command.args(["--address", "127.0.0.1", "--port", "0", "--no-vhost-buckets", "--configure-bucket", BUCKET]);
    command.arg("--directory").arg(dir.path().join("objects")).current_dir(dir.path());
    let (process, address) = listening("s3rver", command, &dir, "S3rver listening on ").await;
    Program { maker: Maker::S3rver, address, _running: Running::Other { _process: process }, _dir: dir }
}

async fn garage(program: &Path) -> Program {
    let dir = tempfile::tempdir().unwrap();
    let garage = Garage::start(program, dir.path(), BUCKET).await;
    let address = garage.address;
    Program { maker: Maker::Garage, address, _running: Running::Garage { _garage: garage }, _dir: dir }
}

/// What a script of this repository finds or fetches.
pub(crate) async fn program(script: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let output = tokio::process::Command::new(&script).output().await.unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} failed: {talk}", script.display());
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// Starts a server on a free port, and reads which one from what it prints after these words.
async fn listening(name: &str, command: Command, dir: &TempDir, words: &str) -> (Process, SocketAddr) {
    let mut process = Process::spawn(name, command, &dir.path().join("log")).unwrap();
    let deadline = Instant::now() + LIMIT;
    loop {
        let said = process.log_tail(20);
        let address = said.lines().find_map(|line| line.split_once(words)?.1.trim().parse().ok());
        if let Some(address) = address {
            return (process, address);
        }
        let waits = process.ended().unwrap().is_none() && Instant::now() < deadline;
        assert!(waits, "{name} does not start: {said}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client besides the store's, for what the store does not do.
fn client(maker: Maker, address: SocketAddr, keys: &S3Credentials) -> Client {
    let S3Credentials { access_key, secret_key } = keys;
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "of the tests"))
        .region(Region::new(maker.region().unwrap_or("us-east-1")))
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    Client::from_conf(config.build())
}

impl Served {
    fn program(&self) -> &Program {
        &self.programs[self.index]
    }

    pub(crate) fn maker(&self) -> Maker {
        self.program().maker
    }

    pub(crate) fn has(&self, ability: Ability) -> bool {
        self.maker().has(ability)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.program().address
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn client(&self) -> Client {
        client(self.maker(), self.address(), &self.maker().credentials())
    }

    pub(crate) fn store(&self) -> Store {
        self.store_at(&self.endpoint())
    }

    /// The store behind something that is at another endpoint.
    pub(crate) fn store_at(&self, endpoint: &str) -> Store {
        self.open(BUCKET, endpoint, &self.maker().credentials())
    }

    pub(crate) fn open(&self, bucket: &str, endpoint: &str, keys: &S3Credentials) -> Store {
        let (region, endpoint) = (self.maker().region().map(str::to_owned), Some(endpoint.to_owned()));
        let settings = S3Settings { region, endpoint, force_path_style: true, limits: limits() };
        Store::S3(S3Store::with_credentials(bucket, &self.prefix, &settings, keys).unwrap())
    }
}
