//! An nginx that serves a directory as a bucket: ranges, entity tags and `If-Match`, as S3 has them. It asks for no credentials.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long nginx may take to start.
const LIMIT: Duration = Duration::from_secs(10);

/// A running nginx; stops when dropped.
pub(crate) struct Nginx {
    address: SocketAddr,
    process: Child,
}

impl Nginx {
    /// Serves `bucket` and what is in it below `root`.
    pub(crate) fn start(binary: &Path, dir: &Path, root: &Path, bucket: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        // Free when nginx starts, unless another program takes it just now: then nginx says so, and the benchmark ends.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (dir_text, root) = (dir.display(), root.display());
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {dir_text}/{name};"))
            .join(" ");
        let text = format!(
            "daemon off; master_process off; pid {dir_text}/pid; error_log {dir_text}/error.log warn;\n\
             events {{ worker_connections 64; }}\n\
             http {{\n\
             access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; {temporary}\n\
             server {{ listen {address}; root {root}; location = /{bucket} {{ return 200; }} }}\n\
             }}\n"
        );
        let config = dir.join("nginx.conf");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(binary);
        command.arg("-p").arg(dir).arg("-c").arg(&config).arg("-e").arg(dir.join("error.log"));
        let nginx = Self { address, process: command.spawn().unwrap() };
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(address).is_err() {
            let log = || fs::read_to_string(dir.join("error.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "nginx does not start: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        nginx
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.process.kill();
        let _ended = self.process.wait();
    }
}
