//! The HTTP API of the agent: what the command line can read and ask, for programs, the web page, and chat.
//!
//! ```text
//! connection ─► guard (host, origin, time, headers) ─► routes ─► caller ─► control::* with the caller's token
//!                                                                  └──► attest, with the agent's own
//! ```
//!
//! It has no rights of its own: each request acts with the Consul token that it carries, or with Consul's anonymous one.
//! The agent's token serves one purpose, the keys `attests/`, in which the agent says who has asked ([`attest`]).
//! Documents are those of `--output json`, errors have one form ([`Problem`]), and `routes` is the only table of what
//! there is; the `OpenAPI` document is checked against it.
//!
//! # What callers must know
//!
//! 1. [`serve`] answers until `shutdown`, and then finishes what is under way; whoever waits for it bounds that.
//! 2. A write that has begun is seen to its end, also where the caller hangs up: `Api::to_its_end`.
//! 3. Everything that this module knows of the agent comes through [`Host`].

pub mod attest;
mod body;
mod builds;
mod caller;
mod capacity;
mod chat;
mod connection;
mod cookie;
mod deploys;
mod doorbell;
mod error;
mod examine;
mod fields;
mod figures;
mod guard;
pub mod identity;
mod listen;
mod lists;
mod marks;
mod openapi;
mod page;
mod pages;
mod past;
mod peer;
mod review;
mod route;
mod routes;
mod session;
pub mod stream;
mod streams;

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
use crate::protocol::ids::{Node, Unit};
use crate::protocol::keys::Keys;

use stream::Hub;

pub use caller::Caller;
pub use connection::serve;
pub use error::{Answer, Problem};
pub use listen::{ListenError, Listener, read_tls};

/// What the API knows of the agent that serves it.
pub trait Host: fmt::Debug + Send + Sync + 'static {
    /// Has everything that is watched read again now.
    fn ring(&self);
    /// The units of this node.
    fn units(&self) -> Vec<Unit>;
    /// Those of them that have no Consul session yet.
    fn waiting(&self) -> Vec<Unit>;
}

/// What the agent gives to what it serves.
#[derive(Debug)]
pub struct Parts {
    /// Consul, with the agent's own token: never for what a caller asks for.
    pub own: Client,
    /// The names of keys.
    pub keys: Keys,
    /// The artifact store: for older history, and for whether a build's archive is there. None: neither.
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
    /// What the agent counts and times.
    pub metrics: Arc<Metrics>,
    /// Writes that are seen to their end; waited for at shutdown.
    pub tasks: TaskTracker,
}

/// What every request shares.
#[derive(Debug)]
pub struct Api {
    parts: Parts,
    /// Whether it was said that nothing can be vouched for.
    told_unattested: AtomicBool,
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
    /// Of what the agent gives.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let slots = Arc::new(Semaphore::new(capacity::MOST_CALLS));
        Self { parts, told_unattested: AtomicBool::new(false), slots }
    }

    /// Consul with the rights of this token; none: of the anonymous one.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] for what no token looks like.
    pub fn access(&self, token: Option<&Secret>) -> Result<Access, Failure> {
        // The cause would name the CONSUL_* variables, which are not what is wrong here.
        let client = self.own.with_token(token).map_err(|_| {
            Failure::new(Code::Usage, "the token holds characters that no token has").hint("send it as Consul shows it")
        })?;
        Ok(Access::new(client, self.keys.clone(), |line| tracing::info!("{line}")))
    }

    /// Consul with the rights of the token in this file, for a user who has none.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] where the file cannot be read, or holds no token. Never is it a reason to act with another token.
    ///
    /// # Cancel safety
    ///
    /// Safe: reads only.
    pub async fn delegate(&self, token_file: &Path) -> Result<Access, Failure> {
        let token = Secret::read(token_file).await.map_err(|error| {
            // Where our files lie is nothing for callers.
            tracing::error!(file = %token_file.display(), %error, "a user's token file cannot be read");
            Failure::new(Code::Failed, "the user's token file cannot be read")
                .hint("whoever runs this agent finds the file's name in its settings, and the reason in its log")
        })?;
        self.access(Some(&token))
    }

    /// Runs a write, or what may come to one, to its end, also where the caller hangs up or the request's time is over.
    ///
    /// # Errors
    ///
    /// Those of the write.
    ///
    /// # Cancel safety
    ///
    /// Safe: dropped, the write goes on.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        self: &Arc<Self>,
        write: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        match self.tasks.spawn(write).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "a request's work has failed: this is a bug");
                Err(Failure::new(Code::Failed, "the agent's own work failed").hint("its log says more").into())
            }
        }
    }
}
