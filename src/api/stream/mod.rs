//! `GET /v1/stream`: what stands, and then what changes, as Server-Sent Events.
//!
//! Each document is read by one feed for all streams whose callers have the same token: 500 open pages cost Consul as
//! much as one. A feed is one blocking query that rests at Consul, and one read of the document per change; what it read
//! is encoded once and lies in a watch channel, from which each stream takes the newest. So a slow reader skips what was
//! overtaken meanwhile, and nothing piles up for it.
//!
//! Nothing here remembers streams that have gone: the ids of events are of Consul's indexes, so that any agent of the same
//! datacenter can go on where another one stopped.
//!
//! # What it refuses
//!
//! More than [`MOST_STREAMS`] streams, more than [`MOST_STREAMS_PER_TOKEN`] with one token, streams that need more than
//! [`MOST_FEEDS`] documents to be read at once, or more than [`MOST_FEEDS_PER_TOKEN`] with one token, and units that do not
//! exist. A document that the caller's token may not read ends the stream;
//! it is never served from what another token has read.
//!
//! # The caller's duties
//!
//! The [`Access`](crate::control::Access) carries the caller's own token, never the agent's. The tasks of the hub's
//! tracker are waited for after the token that was given to [`Hub::new`] is cancelled.

mod answer;
mod events;
mod feed;
mod hub;
mod open;
mod subject;
mod wanted;

use std::time::Duration;

pub use self::answer::answer;
pub use self::hub::Hub;
pub use self::open::Open;
pub use self::wanted::{EventId, Wanted};

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
pub const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Why no stream is opened.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The query or `Last-Event-ID` is not understood.
    #[error("{problem}")]
    BadRequest {
        /// What is wrong, and with what.
        problem: String,
    },
    /// There are [`MOST_STREAMS`].
    #[error("{MOST_STREAMS} streams are open at this agent, which is as many as it serves")]
    TooManyStreams,
    /// There are [`MOST_STREAMS_PER_TOKEN`] of this caller.
    #[error("{MOST_STREAMS_PER_TOKEN} streams are open with this token, which is as many as one may have")]
    TooManyOfToken,
    /// There are [`MOST_FEEDS_PER_TOKEN`] of this caller, or would be.
    #[error("{MOST_FEEDS_PER_TOKEN} documents are as many as are followed with one token")]
    TooManyFeedsOfToken,
    /// There are [`MOST_FEEDS`].
    #[error("this agent follows {MOST_FEEDS} documents already, which is as many as it can")]
    TooManyFeeds,
    /// The agent is on its way out.
    #[error("this agent stops")]
    Stopping,
}

impl Refused {
    /// A word for metrics and programs, of a fixed set.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
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
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => "as in /v1/stream?unit=shop/production&unit=shop/staging; see docs/http.md",
            Self::TooManyStreams | Self::Stopping => "ask another agent, or try again later",
            Self::TooManyOfToken => "close some of them, or come with a token of your own",
            Self::TooManyFeedsOfToken => "name fewer units, or come with a token of your own",
            Self::TooManyFeeds => "name fewer units, ask another agent, or try again later",
        }
    }
}
