//! Starts Garage as a single node with one bucket and one key. The benchmark of downloads shares this file.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cutover::artifact::store::S3Credentials;
use cutover_rig::process::Process;

/// The region in signatures, as Garage's own guide sets it.
pub(crate) const REGION: &str = "garage";

/// How long Garage may take to start.
const LIMIT: Duration = Duration::from_mins(3);

/// Garage accepts only keys of this form.
pub(crate) fn credentials() -> S3Credentials {
    S3Credentials { access_key: format!("GK{}", "1".repeat(24)), secret_key: "2".repeat(64) }
}

/// A running Garage; stops when dropped.
pub(crate) struct Garage {
    pub(crate) address: SocketAddr,
    /// Only held.
    _process: Process,
}

impl Garage {
    /// Starts the program, which keeps everything in `dir`.
    pub(crate) async fn start(program: &Path, dir: &Path, bucket: &str) -> Self {
        // Free when Garage starts, unless another program takes one just now: then Garage says so, and the start fails.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (api, rpc) = (free(), free());
        let (address, rpc_address) = (api.local_addr().unwrap(), rpc.local_addr().unwrap());
        drop((api, rpc));
        let secret = "3".repeat(64);
        let dir_text = dir.display();
        let text = format!(
            "metadata_dir = \"{dir_text}/meta\"\ndata_dir = \"{dir_text}/data\"\ndb_engine = \"sqlite\"\n\
             replication_factor = 1\nrpc_bind_addr = \"{rpc_address}\"\nrpc_public_addr = \"{rpc_address}\"\n\
             rpc_secret = \"{secret}\"\n[s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"{address}\"\n"
        );
        let config = dir.join("garage.toml");
        std::fs::write(&config, text).unwrap();
        let S3Credentials { access_key, secret_key } = credentials();
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).args(["server", "--single-node", "--default-bucket"]).current_dir(dir);
        command.env("GARAGE_DEFAULT_BUCKET", bucket).env("GARAGE_DEFAULT_ACCESS_KEY", access_key);
        command.env("GARAGE_DEFAULT_SECRET_KEY", secret_key);
        let mut process = Process::spawn("garage", command, &dir.join("log")).unwrap();
        let deadline = Instant::now() + LIMIT;
        // The bucket is made before the server listens.
        while TcpStream::connect(address).is_err() {
            let waits = process.ended().unwrap().is_none() && Instant::now() < deadline;
            assert!(waits, "garage does not start: {}", process.log_tail(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { address, _process: process }
    }
}
