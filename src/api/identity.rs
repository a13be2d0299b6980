//! The identity of a caller, from their Consul token.

use crate::consul::Client;
use crate::control::{Access, Failure};
use crate::protocol::record::{Identity, Means, clip};

/// The accessor of Consul's anonymous token, the same in every cluster. It does not identify a person.
const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";

/// The longest `by` that a request may have (`protocol::record::Request`).
const MAX_NAME_BYTES: usize = 128;

/// The identity of a token: its description, or its accessor id if the description is empty. None without ACLs and for the
/// anonymous token.
///
/// # Errors
///
/// [`Code::NotAllowed`](crate::control::Code::NotAllowed) for a token that Consul does not know; as any read of Consul.
///
/// # Cancel safety
///
/// Safe: reads only.
pub(crate) async fn of_token(consul: &Client) -> Result<Option<Identity>, Failure> {
    let Some(token) = consul.token_self().await?.filter(|token| token.accessor_id != ANONYMOUS) else {
        return Ok(None);
    };
    let name = plain(if token.description.trim().is_empty() { &token.accessor_id } else { &token.description });
    let (accessor, token) = (Some(token.accessor_id), plain(&token.description));
    Ok(Some(Identity { name, means: Means::Token, accessor, token }))
}

/// The identity of the user `name`, which `means` has verified, and the token of `access`. Records contain both.
///
/// # Errors
///
/// As [`of_token`].
///
/// # Cancel safety
///
/// Safe: reads only.
pub(crate) async fn of_delegate(access: &Access, name: &str, means: Means) -> Result<Identity, Failure> {
    let token = of_token(access.kv.client()).await?;
    let (accessor, token) = token.map_or((None, String::new()), |token| (token.accessor, token.token));
    Ok(Identity { name: plain(name), means, accessor, token })
}

/// The name without control characters, cut to the limit of `by`.
fn plain(name: &str) -> String {
    let name: String = name.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clip(&name, MAX_NAME_BYTES)
}
