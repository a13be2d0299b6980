//! `GET /v1/stream`: the current documents, and then each change, as Server-Sent Events.
//!
//! One feed reads each document for all streams with the same token, so 500 open pages cost Consul as much as one. A feed
//! has one blocking query open, and reads the document once per change. The document is encoded once and put into a watch
//! channel, from which each stream takes the newest version. So a slow client skips versions, and no queue grows.
//!
//! The agent keeps no state of closed streams. Event ids consist of Consul's indexes, so any agent of the same datacenter
//! can resume a stream.
//!
//! # Refused requests
//!
//! More than [`MOST_STREAMS`] streams, more than [`MOST_STREAMS_PER_TOKEN`] with one token, streams that need more than
//! [`MOST_FEEDS`] documents to be read at once, or more than [`MOST_FEEDS_PER_TOKEN`] with one token, and units that do not
//! exist. A document that the caller's token may not read ends the stream;
//! it is never served from a feed of another token.
//!
//! # The caller's duties
//!
//! Pass an [`Access`](crate::control::Access) with the caller's own token, never the agent's. Join the tasks of the hub's
//! tracker after cancelling the token that was given to [`Hub::new`].

mod answer;
mod events;
mod feed;
mod hub;
mod open;
mod subject;
mod wanted;

use std::time::Duration;

use crate::kind::HasKind;

pub(crate) use self::answer::answer;
pub(crate) use self::events::event_schema;
pub use self::hub::Hub;
pub use self::wanted::Wanted;

/// The most open streams of an agent: more than all users and wall screens of a fleet need. Each stream is a file
/// descriptor, and the systemd unit of the package allows 4,096.
pub const MOST_STREAMS: usize = 1_000;
/// The most open streams with one token. High, because without ACLs all callers have the same token.
pub const MOST_STREAMS_PER_TOKEN: usize = 600;
/// The most feeds of an agent. Each keeps one connection to the Consul agent, which accepts 200 from one address
/// (`http_max_conns_per_client`, its default). Requests use up to 32 more, and each unit of the node about 5, or 17 if the
/// agent coordinates it.
pub const MOST_FEEDS: usize = 80;
/// The most feeds with one token, so that other tokens can have some, too. A stream of all units needs a feed for each
/// unit, and one more.
pub const MOST_FEEDS_PER_TOKEN: usize = 64;
/// The pause before a refused caller should retry.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Why a stream is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The query or `Last-Event-ID` is invalid.
    #[error("{problem}")]
    BadRequest {
        /// The invalid part and the problem.
        problem: String,
    },
    /// The agent has [`MOST_STREAMS`] streams.
    #[error("this agent already serves {MOST_STREAMS} streams, which is its limit")]
    TooManyStreams,
    /// The caller's token has [`MOST_STREAMS_PER_TOKEN`] streams.
    #[error("{MOST_STREAMS_PER_TOKEN} streams are already open with this token, which is the limit")]
    TooManyOfToken,
    /// The stream would need more than [`MOST_FEEDS_PER_TOKEN`] feeds with the caller's token.
    #[error("one token may follow at most {MOST_FEEDS_PER_TOKEN} documents")]
    TooManyFeedsOfToken,
    /// The agent has [`MOST_FEEDS`] feeds.
    #[error("this agent already follows {MOST_FEEDS} documents, which is its limit")]
    TooManyFeeds,
    /// The agent is stopping.
    #[error("this agent is stopping")]
    Stopping,
}

impl HasKind for Refused {
    fn kind(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => "bad_request",
            Self::TooManyStreams => "too_many_streams",
            Self::TooManyOfToken => "too_many_of_token",
            Self::TooManyFeedsOfToken => "too_many_feeds_of_token",
            Self::TooManyFeeds => "too_many_feeds",
            Self::Stopping => "stopping",
        }
    }
}

impl Refused {
    /// The advice for the caller.
    #[must_use]
    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => {
                "write for example /v1/stream?unit=shop/production&unit=shop/staging; see docs/http.md"
            }
            Self::TooManyStreams | Self::Stopping => "use another agent, or try again later",
            Self::TooManyOfToken => "close some streams, or use a token of your own",
            Self::TooManyFeedsOfToken => "name fewer units, or use a token of your own",
            Self::TooManyFeeds => "name fewer units, use another agent, or try again later",
        }
    }
}
