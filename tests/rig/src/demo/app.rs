//! The app that the demo deploys: an HTTP server that knows only the version it has loaded, and its check.
//!
//! It loads `current/` at start and on SIGHUP, as real apps do: switching the link alone changes no answer, the
//! `switched` hook must tell it. It writes `shared/app.pid` and `shared/app.url` once it listens.
//!
//! * `GET /` answers the loaded release's `version.txt`;
//! * `GET /health` answers 200, or 503 where the release needs a newer database (`schema.txt`) than the node has
//!   (`shared/schema.txt`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::RwLock;
use tokio::time::Instant;

use super::http::{self, Answer};

/// What the app answers before anything is deployed.
pub(super) const NOTHING: &str = "nothing deployed yet";
/// How long the check waits until the app has loaded the release: the app handles SIGHUP asynchronously.
const LOAD_LIMIT: Duration = Duration::from_secs(5);
/// How often the check asks the app.
const POLL: Duration = Duration::from_millis(10);

/// Why the app ended, or what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The address cannot be served.
    #[error("cannot serve on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Signal handlers cannot be set.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
    /// The app does not answer with the release's version.
    #[error("the app answers {seen:?} instead of {expected:?}, {LOAD_LIMIT:?} after the switch")]
    Version {
        /// The release's version.
        expected: String,
        /// The app's answer.
        seen: String,
    },
    /// The app is not healthy with this release.
    #[error("{0}")]
    Unhealthy(String),
}

#[derive(Clone, Debug)]
struct Loaded {
    version: Option<String>,
    schema: u32,
}

struct App {
    root: PathBuf,
    loaded: RwLock<Loaded>,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
///
/// [`AppError::Listen`], [`AppError::File`], [`AppError::Signals`].
///
/// # Cancel safety
///
/// Safe: dropped, it stops serving.
pub async fn serve(listen: SocketAddr, root: &Path) -> Result<(), AppError> {
    let mut hangup = signal(SignalKind::hangup()).map_err(AppError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
    let cannot = |source| AppError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let app = Arc::new(App { root: root.to_owned(), loaded: RwLock::new(load(root).await) });
    let router = Router::new().route("/", get(version)).route("/health", get(health)).with_state(Arc::clone(&app));
    // The pid last: whoever sees it may send SIGHUP.
    write(&root.join("shared/app.url"), &format!("http://{address}")).await?;
    write(&root.join("shared/app.pid"), &std::process::id().to_string()).await?;
    let serving = async move { axum::serve(listener, router).await.map_err(cannot) };
    tokio::pin!(serving);
    loop {
        tokio::select! {
            served = &mut serving => return served,
            _ = hangup.recv() => *app.loaded.write().await = load(root).await,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Waits until the app at `url` has loaded `release`, and then asks whether it is healthy.
///
/// # Errors
///
/// [`AppError::Version`], [`AppError::Unhealthy`], [`AppError::File`].
///
/// # Cancel safety
///
/// Safe.
pub async fn check(url: &str, release: &Path) -> Result<(), AppError> {
    let path = release.join("version.txt");
    let expected = tokio::fs::read_to_string(&path).await;
    let expected = expected.map_err(|source| AppError::File { action: "read", path, source })?.trim().to_owned();
    let deadline = Instant::now() + LOAD_LIMIT;
    loop {
        let seen = match http::get(url).await {
            Ok(answer) if answer.text == expected => break,
            Ok(answer) => answer.text,
            Err(problem) => problem,
        };
        if Instant::now() >= deadline {
            return Err(AppError::Version { expected, seen });
        }
        tokio::time::sleep(POLL).await;
    }
    match http::get(&format!("{url}/health")).await {
        Ok(Answer { status: StatusCode::OK, .. }) => Ok(()),
        Ok(answer) => Err(AppError::Unhealthy(answer.text)),
        Err(problem) => Err(AppError::Unhealthy(problem)),
    }
}

async fn version(State(app): State<Arc<App>>) -> (StatusCode, String) {
    match app.loaded.read().await.version.clone() {
        Some(version) => (StatusCode::OK, version),
        None => (StatusCode::SERVICE_UNAVAILABLE, NOTHING.to_owned()),
    }
}

async fn health(State(app): State<Arc<App>>) -> (StatusCode, String) {
    let Loaded { version, schema } = app.loaded.read().await.clone();
    let Some(version) = version else { return (StatusCode::SERVICE_UNAVAILABLE, NOTHING.to_owned()) };
    let has = number(&app.root.join("shared/schema.txt")).await;
    if has < schema {
        let text = format!("{version} needs database schema {schema}, but this node's database has {has}");
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    (StatusCode::OK, format!("{version} is healthy"))
}

/// Reads the release that `current` points to; nothing where it points to none.
async fn load(root: &Path) -> Loaded {
    let current = root.join("current");
    let version = tokio::fs::read_to_string(current.join("version.txt")).await.ok();
    Loaded { version: version.map(|text| text.trim().to_owned()), schema: number(&current.join("schema.txt")).await }
}

/// The number in a file; 0 where there is none, as for a database that was never migrated.
async fn number(path: &Path) -> u32 {
    let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

async fn write(path: &Path, text: &str) -> Result<(), AppError> {
    let written = tokio::fs::write(path, text).await;
    written.map_err(|source| AppError::File { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_release_that_needs_a_newer_schema_than_the_node_has_is_unhealthy() {
        let root = tempfile::tempdir().unwrap();
        let release = root.path().join("current");
        std::fs::create_dir_all(&release).unwrap();
        std::fs::create_dir(root.path().join("shared")).unwrap();
        std::fs::write(release.join("version.txt"), "version 7\n").unwrap();
        std::fs::write(release.join("schema.txt"), "2\n").unwrap();
        let app = Arc::new(App { root: root.path().to_owned(), loaded: RwLock::new(load(root.path()).await) });
        assert_eq!(version(State(Arc::clone(&app))).await, (StatusCode::OK, "version 7".to_owned()));
        let (status, text) = health(State(Arc::clone(&app))).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("needs database schema 2") && text.contains("has 0"), "{text}");
        std::fs::write(root.path().join("shared/schema.txt"), "2\n").unwrap();
        assert_eq!(health(State(app)).await.0, StatusCode::OK);
    }
}
