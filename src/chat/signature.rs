//! Checks whether a call is from Slack: its signature, its age, and whether it was seen before. Pure.
//!
//! `v0=` and HMAC-SHA256 over `v0:<timestamp>:<body>`.
//! <https://api.slack.com/authentication/verifying-requests-from-slack>

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use jiff::Timestamp;
use sha2::Sha256;

use crate::consul::Secret;
use crate::kind::HasKind;

/// How far a call's time may differ from the agent's clock, in seconds, as Slack recommends.
const WINDOW_SECS: i64 = 5 * 60;
/// How many calls are remembered: 27 a second over the whole window, more than people type. Only the owner of the secret
/// can fill it. When it is full, calls are refused, so that no call can be replayed.
const MOST_REMEMBERED: usize = 16 * 1024;

/// The time of the signature, in seconds since 1970.
const TIMESTAMP: &str = "x-slack-request-timestamp";
const SIGNATURE: &str = "x-slack-signature";

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    /// Too many calls in the window.
    #[error("too many calls within five minutes; try again later")]
    Crowded,
    /// The signature was not made with the configured secret.
    #[error("the signature does not match: check that signing_secret_file holds the signing secret of this Slack app")]
    Forged,
    /// The call is not from Slack, or a proxy removed its headers.
    #[error("the headers X-Slack-Request-Timestamp and X-Slack-Signature are missing or invalid")]
    NotSigned,
    /// The same call was answered before.
    #[error("this call was already answered")]
    Replayed,
    /// Too old, or from the future.
    #[error("the call's timestamp is more than five minutes off: check the clock of this machine")]
    Stale,
}

impl HasKind for Rejected {
    fn kind(&self) -> &'static str {
        match self {
            Self::Crowded => "crowded",
            Self::Forged => "forged",
            Self::NotSigned => "not_signed",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
        }
    }
}

/// A call with a valid signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    signature: [u8; 32],
    at_secs: i64,
}

/// The calls of the last minutes.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    /// By signature, the time that was signed with it.
    seen: BTreeMap<[u8; 32], i64>,
}

/// Whether `headers` sign `body` with `secret`, not more than five minutes from `now`.
///
/// # Errors
///
/// [`Rejected`], but for a replay, which [`Replays`] knows.
///
/// # Panics
///
/// Never: HMAC takes keys of every length.
pub(crate) fn verify(secret: &Secret, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<Signed, Rejected> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let timestamp = text(TIMESTAMP).ok_or(Rejected::NotSigned)?;
    let at_secs: i64 = timestamp.parse().map_err(|_| Rejected::NotSigned)?;
    let hex = text(SIGNATURE).and_then(|value| value.strip_prefix("v0=")).ok_or(Rejected::NotSigned)?;
    let mut signature = [0; 32];
    hex::decode_to_slice(hex, &mut signature).map_err(|_| Rejected::NotSigned)?;
    if at_secs.abs_diff(now.as_second()) > WINDOW_SECS.unsigned_abs() {
        return Err(Rejected::Stale);
    }
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104, section 2)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("any key will do");
    // The timestamp as sent, because the signature is over that text and not over the number.
    mac.update(format!("v0:{timestamp}:").as_bytes());
    mac.update(body);
    // Compares in constant time.
    mac.verify_slice(&signature).map_err(|_| Rejected::Forged)?;
    Ok(Signed { signature, at_secs })
}

impl Replays {
    /// Lets a call through once.
    ///
    /// # Errors
    ///
    /// [`Rejected::Replayed`], [`Rejected::Crowded`].
    pub(crate) fn admit(&mut self, signed: Signed, now: Timestamp) -> Result<(), Rejected> {
        let oldest = now.as_second() - WINDOW_SECS;
        self.seen.retain(|_, at_secs| *at_secs >= oldest);
        if self.seen.contains_key(&signed.signature) {
            return Err(Rejected::Replayed);
        }
        if self.seen.len() >= MOST_REMEMBERED {
            return Err(Rejected::Crowded);
        }
        self.seen.insert(signed.signature, signed.at_secs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Slack's documentation.
    const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
    const BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
                        channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&\
                        response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F\
                        96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const SIGNED: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    const AT: i64 = 1_531_420_618;

    fn headers(at: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TIMESTAMP, at.parse().unwrap());
        headers.insert(SIGNATURE, signature.parse().unwrap());
        headers
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    fn check(secret: &str, headers: &HeaderMap, body: &str, now: i64) -> Result<Signed, Rejected> {
        verify(&Secret::new(secret), headers, body.as_bytes(), at(now))
    }

    #[test]
    fn the_example_of_slack_is_accepted_and_changed_ones_are_not() {
        let good = headers(&AT.to_string(), SIGNED);
        assert!(check(SECRET, &good, BODY, AT + 10).is_ok());
        assert_eq!(check("other", &good, BODY, AT), Err(Rejected::Forged));
        assert_eq!(check(SECRET, &good, &BODY.replace("text=", "text=x"), AT), Err(Rejected::Forged));
        assert_eq!(check(SECRET, &headers(&(AT + 1).to_string(), SIGNED), BODY, AT), Err(Rejected::Forged));
        let flipped = SIGNED.replace("v0=a2", "v0=a3");
        assert_eq!(check(SECRET, &headers(&AT.to_string(), &flipped), BODY, AT), Err(Rejected::Forged));
        for signature in ["", "v0=", "v1=a211", "v0=zz", &SIGNED[..40]] {
            assert_eq!(check(SECRET, &headers(&AT.to_string(), signature), BODY, AT), Err(Rejected::NotSigned));
        }
        assert_eq!(check(SECRET, &headers("soon", SIGNED), BODY, AT), Err(Rejected::NotSigned));
        assert_eq!(check(SECRET, &HeaderMap::new(), BODY, AT), Err(Rejected::NotSigned));
    }

    #[test]
    fn a_call_is_valid_for_five_minutes() {
        let good = headers(&AT.to_string(), SIGNED);
        for (now, expected) in [(AT - 301, false), (AT - 300, true), (AT + 300, true), (AT + 301, false)] {
            assert_eq!(check(SECRET, &good, BODY, now).is_ok(), expected, "{}", now - AT);
        }
        assert_eq!(check(SECRET, &headers(&i64::MIN.to_string(), SIGNED), BODY, AT), Err(Rejected::Stale));
    }

    #[test]
    fn a_call_is_accepted_only_once() {
        let mut replays = Replays::default();
        let signed = Signed { signature: [7; 32], at_secs: AT + 300 };
        assert_eq!(replays.admit(signed, at(AT)), Ok(()));
        for now in [AT, AT + 300, AT + 600] {
            assert_eq!(replays.admit(signed, at(now)), Err(Rejected::Replayed));
        }
        let other = Signed { signature: [8; 32], at_secs: AT + 700 };
        assert_eq!(replays.admit(other, at(AT + 700)), Ok(()));
        assert_eq!(replays.seen.len(), 1, "what is stale anyway is not remembered");
    }

    #[test]
    fn a_full_memory_refuses_calls_and_forgets_none() {
        let mut replays = Replays::default();
        let signed = |number: usize| {
            let mut signature = [0; 32];
            signature[..8].copy_from_slice(&number.to_be_bytes());
            Signed { signature, at_secs: AT }
        };
        for number in 0..MOST_REMEMBERED {
            replays.seen.insert(signed(number).signature, AT);
        }
        assert_eq!(replays.admit(signed(MOST_REMEMBERED), at(AT)), Err(Rejected::Crowded));
        assert_eq!(replays.admit(signed(0), at(AT)), Err(Rejected::Replayed));
        assert_eq!(replays.admit(Signed { at_secs: AT + 301, ..signed(0) }, at(AT + 301)), Ok(()));
    }
}
