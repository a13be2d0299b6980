//! Deploys from chat: Slack's slash commands, answered with the token that a user is mapped to.
//!
//! ```text
//! headers, body ──► signature: really from Slack, new, and not seen before ──► command: what is asked, by which user
//! user ──► settings: a name and a Consul token ──► control: what everyone else asks by ──► reply
//! ```
//!
//! Refused: what is not signed with the configured secret, what is older than five minutes, what was seen before, and
//! users whom the settings do not name. What a user may do is what Consul lets the mapped token do; the agent's own
//! token never acts for chat.
//!
//! The caller must
//!
//! 1. pass the body as it came, byte for byte, and limit its size;
//! 2. give each token that it is asked for an [`Access`](crate::control::Access) of its own ([`Surroundings::delegate`]);
//! 3. carry each [`Order`] out to its end, also where nobody waits for the answer any more: its call is not taken again;
//! 4. keep one [`Chat`] for as long as it serves: it holds which calls were seen.
//!
//! What was seen is known to one agent, and until it ends: Slack is to call one agent, or a proxy before one.

mod answer;
mod command;
mod reply;
mod signature;

pub use answer::{Chat, Order, Surroundings};
pub use command::{Asked, Command};
pub use reply::Reply;
pub use signature::{Rejected, Replays, verify};
