//! `GET /v1/stream`: the current documents, and then each change, as Server-Sent Events.
//!
//! One feed reads each document for all streams with the same token, so 500 open pages cost Consul as much as one. A feed
//! has one blocking query open, and reads the document once per change. The document is encoded once and put into a watch
//! channel, from which each stream takes the newest version. So a slow client skips versions, and nothing piles up.
//!
//! The agent keeps no state of closed streams: event ids are made of Consul's indexes, so that any agent of the same
//! datacenter can resume a stream.
//!
//! # What it refuses
//!
//! More than [`MOST_STREAMS`] streams, more than [`MOST_STREAMS_PER_TOKEN`] with one token, streams that need more than
//! [`MOST_FEEDS`] documents to be read at once, or more than [`MOST_FEEDS_PER_TOKEN`] with one token, and units that do not
//! exist. A document that the caller's token may not read ends the stream;
//! it is never served from a feed of another token.
//!
//! # The caller's duties
//!
//! The [`Access`](crate::control::Access) carries the caller's own token, never the agent's. The tasks of the hub's
//! tracker are joined after the cancellation token that was given to [`Hub::new`] is cancelled.

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
pub use self::hub::Hub;
pub use self::wanted::Wanted;

/// Streams that are open at one agent at a time: more than a fleet's people and screens need. Each is a file descriptor,
/// and the unit that we ship allows 4,096.
pub const MOST_STREAMS: usize = 1_000;
/// Streams with one token: where there are no ACLs all callers have the same one.
pub const MOST_STREAMS_PER_TOKEN: usize = 600;
/// Feeds at a time, over all tokens. Each keeps one connection to Consul's agent, which takes 200 from one address
/// (`http_max_conns_per_client`, its default). Requests take up to 32 besides, and each unit of the node some 5, or 17
/// where the agent coordinates it.
pub const MOST_FEEDS: usize = 80;
/// Feeds with one token, so that it leaves some to others. A stream of every unit needs one for each, and one more.
pub const MOST_FEEDS_PER_TOKEN: usize = 64;
/// When a caller who was refused may try again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Why a stream is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The query or `Last-Event-ID` is not understood.
    #[error("{problem}")]
    BadRequest {
        /// What is wrong, and with what.
        problem: String,
    },
    /// There are [`MOST_STREAMS`].
    #[error("this agent already serves {MOST_STREAMS} streams, which is its limit")]
    TooManyStreams,
    /// There are [`MOST_STREAMS_PER_TOKEN`] of this caller.
    #[error("{MOST_STREAMS_PER_TOKEN} streams are already open with this token, which is the limit")]
    TooManyOfToken,
    /// There are [`MOST_FEEDS_PER_TOKEN`] of this caller, or would be.
    #[error("one token may follow at most {MOST_FEEDS_PER_TOKEN} documents")]
    TooManyFeedsOfToken,
    /// There are [`MOST_FEEDS`].
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
    /// What the caller can do.
    #[must_use]
    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => {
                "write for example /v1/stream?unit=shop/production&unit=shop/staging; see docs/http.md"
            }
            Self::TooManyStreams | Self::Stopping => "ask another agent, or try again later",
            Self::TooManyOfToken => "close some streams, or use a token of your own",
            Self::TooManyFeedsOfToken => "name fewer units, or use a token of your own",
            Self::TooManyFeeds => "name fewer units, ask another agent, or try again later",
        }
    }
}
