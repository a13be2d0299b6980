//! Deploys from chat: Slack's slash commands, carried out with the Consul token that the settings give to the user.
//!
//! ```text
//! headers, body ──► signature: sent by Slack, recent, not seen before ──► command: what to do, and the user
//! user ──► settings: a name and a Consul token ──► control: the same requests as everywhere ──► reply
//! ```
//!
//! Refused: calls that are not signed with the configured secret, are older than five minutes or were seen before, and
//! users that are not in the settings. A user may do what Consul allows to the user's token; the agent's own token is
//! never used for chat.
//!
//! The caller must
//!
//! 1. pass the body as received, byte for byte, and limit its size;
//! 2. return a separate [`Access`](crate::control::Access) for each token ([`Backend::delegate`]);
//! 3. carry out each [`Order`](answer::Order) to its end, even if Slack no longer waits: the same call is not accepted again;
//! 4. keep one [`Chat`] while the agent serves: it remembers the calls that were seen.
//!
//! An agent remembers only its own calls, and only while it runs: let Slack call one agent, or a proxy in front of it.

mod answer;
mod command;
mod reply;
mod signature;

pub(crate) use answer::{Backend, Chat};
pub(crate) use reply::Reply;
