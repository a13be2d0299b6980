//! The HTTP API of the agent: what the command line can read and request, for programs, the web page, and chat.
//!
//! ```text
//! connection ─► guard (host, origin, time, headers) ─► routes ─► caller ─► control::* with the caller's token
//!                                                                  └──► attest, with the agent's own token
//! ```
//!
//! It has no permissions of its own: each request uses the Consul token that it carries, or Consul's anonymous token.
//! The agent's token serves one purpose: the keys `attests/`, in which the agent records who made a request ([`attest`]).
//! Documents are those of `--output json`, all errors have one form ([`Problem`]), and `routes` is the only table of what
//! there is; the `OpenAPI` document is made from it and from the types.
//!
//! # What callers must know
//!
//! 1. [`serve`] answers until `shutdown`, and then finishes the open requests; the caller limits how long that takes.
//! 2. A write that has started is finished even if the client disconnects: `Api::finish`.
//! 3. This module knows the agent only through [`Host`].

pub mod attest;
mod body;
mod builds;
mod caller;
mod capacity;
mod chat;
mod checks;
mod connection;
mod cookie;
mod deploys;
mod describe;
mod error;
mod fields;
mod follow;
mod guard;
mod history;
pub(crate) mod identity;
mod listen;
mod lists;
mod marks;
mod metrics;
mod openapi;
mod pages;
mod paging;
mod peer;
mod refusal;
mod review;
mod route;
mod routes;
mod schema;
mod session;
mod spec;
pub mod stream;
mod watch;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::artifact::store::Store;
use crate::chat::Chat;
use crate::config::ApiSection;
use crate::consul::{Client, Secret};
use crate::control::{Access, Code, Failure};
use crate::metrics::Metrics;
use crate::protocol::ids::{App, Node, Unit};
use crate::protocol::keys::Keys;
use crate::protocol::record::Build;

use stream::Hub;

pub(crate) use caller::Caller;
pub use connection::serve;
pub(crate) use error::Problem;
pub use listen::Listener;
pub(crate) use listen::{ListenError, read_tls};

/// What the API knows of the agent that serves it.
pub trait Host: fmt::Debug + Send + Sync + 'static {
    /// Makes the agent read its watched keys again now.
    fn ring(&self);
    /// The units of this node.
    fn units(&self) -> Vec<Unit>;
    /// The units of this node that have no Consul session yet.
    fn waiting(&self) -> Vec<Unit>;
    /// Why the node would not accept the signature of this build, by the keys in its settings; none: it would, or has none.
    fn rejects(&self, _app: &App, _build: &Build) -> Option<String> {
        None
    }
}

/// What the API needs from the agent.
#[derive(Debug)]
pub struct Parts {
    /// Consul with the agent's own token. Never used for a caller's request.
    pub own: Client,
    /// The names of keys.
    pub keys: Keys,
    /// The artifact store, for older history and to check archives; none where no store is configured.
    pub store: Option<Store>,
    /// The settings under `[api]`.
    pub settings: ApiSection,
    /// This node.
    pub node: Node,
    /// The agent.
    pub host: Box<dyn Host>,
    /// Deploys from chat; none: it is off.
    pub chat: Option<Chat>,
    /// The open streams.
    pub hub: Hub,
    /// The agent's metrics.
    pub metrics: Arc<Metrics>,
    /// Writes that are finished even at shutdown.
    pub tasks: TaskTracker,
}

/// The state that all requests share.
#[derive(Debug)]
pub struct Api {
    parts: Parts,
    /// Whether the log already says that this agent may not write attestations.
    logged_unattested: AtomicBool,
    /// Slots for requests that ask Consul.
    slots: Arc<Semaphore>,
}

impl Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Api {
    /// An API over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let slots = Arc::new(Semaphore::new(capacity::MOST_CALLS));
        Self { parts, logged_unattested: AtomicBool::new(false), slots }
    }

    /// Consul with the permissions of this token, or of the anonymous token if there is none.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] for a token that cannot be sent in a header.
    pub(crate) fn access(&self, token: Option<&Secret>) -> Result<Access, Failure> {
        // The cause would name the CONSUL_* variables, which have nothing to do with the caller's token.
        let client = self.own.with_token(token).map_err(|_| {
            Failure::new(Code::Usage, "the token contains characters that a Consul token cannot have")
                .hint("send it exactly as Consul shows it")
        })?;
        Ok(Access::new(client, self.keys.clone(), |line| tracing::info!("{line}")))
    }

    /// Consul with the permissions of the token in this file, for a user without a token.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where the file cannot be read, or contains no token. Another token is never used instead.
    ///
    /// # Cancel safety
    ///
    /// Safe: reads only.
    pub(crate) async fn delegate(&self, token_file: &Path) -> Result<Access, Failure> {
        let token = Secret::read(token_file).await.map_err(|error| {
            // The answer does not name the file: callers need not know the agent's paths.
            let file = token_file.display();
            tracing::error!(%file, %error, "cannot read a user's token file {file}: {error}");
            Failure::new(Code::Failed, "the user's token file cannot be read")
                .hint("the operator of this agent finds the reason in its log")
        })?;
        self.access(Some(&token))
    }

    /// Finishes a write even if the client disconnects or the request times out.
    ///
    /// # Errors
    ///
    /// Those of the write.
    ///
    /// # Cancel safety
    ///
    /// Safe: the write continues if this future is dropped.
    pub(crate) async fn finish<T: Send + 'static>(
        self: &Arc<Self>,
        write: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        match self.tasks.spawn(write).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "a request's task panicked, which is a bug: {error}");
                Err(Failure::new(Code::Failed, "the agent failed to carry out the request")
                    .hint("see the agent's log")
                    .into())
            }
        }
    }
}
