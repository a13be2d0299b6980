//! What a client follows, from the query of the address.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;

use super::Refused;
use super::subject::Subject;
use crate::protocol::ids::{App, InvalidName, ModifyIndex, Unit};

/// What a stream is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(default)]
pub struct Wanted {
    /// The units whose status is followed; every unit if this and `builds` are empty.
    #[schemars(rename = "unit", with = "Vec<Unit>")]
    pub(crate) units: BTreeSet<Unit>,
    /// The apps whose builds are followed.
    #[schemars(with = "Vec<App>")]
    pub(crate) builds: BTreeSet<App>,
    /// `last_event_id`, for callers who cannot set the header.
    pub(crate) last_event_id: Option<EventId>,
}

/// The written form of an [`EventId`].
pub(super) const EVENT_ID_PATTERN: &str = "^[0-9]+-[0-9a-f]{8}$";

/// The point up to which a client has every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(inline, with = "String", extend("pattern" = EVENT_ID_PATTERN))]
pub struct EventId {
    /// Consul's index.
    pub(crate) index: ModifyIndex,
    /// Tells the document that stood there from others of the same index.
    pub(crate) digest: u32,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.index.0, self.digest)
    }
}

impl FromStr for EventId {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let read = |text: &str| {
            let (index, digest) = text.split_once('-')?;
            Some(Self { index: ModifyIndex(index.parse().ok()?), digest: u32::from_str_radix(digest, 16).ok()? })
        };
        let problem = || format!("{text:?} is not an event id such as 1847-5f3a90c1");
        read(text.trim()).ok_or_else(|| Refused::BadRequest { problem: problem() })
    }
}

impl Wanted {
    /// Reads `unit=shop/production&builds=shop&last_event_id=123`; the first two as often as needed.
    ///
    /// # Errors
    ///
    /// [`Refused::BadRequest`], naming what is invalid. Nothing is ignored.
    pub fn parse(query: Option<&str>) -> Result<Self, Refused> {
        let mut wanted = Self::default();
        let refused = |error: InvalidName| Refused::BadRequest { problem: error.to_string() };
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "unit" => _ = wanted.units.insert(value.parse().map_err(refused)?),
                "builds" => _ = wanted.builds.insert(value.parse().map_err(refused)?),
                "last_event_id" => wanted.last_event_id = event_id(&value)?,
                other => {
                    let problem =
                        format!("unknown parameter {other:?}: the parameters are unit, builds and last_event_id");
                    return Err(Refused::BadRequest { problem });
                }
            }
        }
        Ok(wanted)
    }

    pub(super) fn subjects(&self) -> Vec<Subject> {
        let units = self.units.iter().cloned().map(Subject::Status);
        let named: Vec<Subject> = units.chain(self.builds.iter().cloned().map(Subject::Builds)).collect();
        if named.is_empty() { vec![Subject::Units] } else { named }
    }
}

/// The id of an event as a caller gives it back; an empty one is none.
///
/// # Errors
///
/// [`Refused::BadRequest`] for an invalid id.
pub(super) fn event_id(text: &str) -> Result<Option<EventId>, Refused> {
    if text.trim().is_empty() { Ok(None) } else { text.parse().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_units_and_builds_and_nothing_else() {
        let query = "unit=shop%2Fproduction&unit=shop/staging&unit=shop/staging&builds=shop&last_event_id=12-0000ab01";
        let wanted = Wanted::parse(Some(query)).unwrap();
        let unit = |text: &str| Subject::Status(text.parse().unwrap());
        let subjects = [unit("shop/production"), unit("shop/staging"), Subject::Builds("shop".parse().unwrap())];
        assert_eq!(wanted.subjects(), subjects);
        assert_eq!(wanted.last_event_id, Some(EventId { index: ModifyIndex(12), digest: 0xab01 }));
        assert_eq!(wanted.last_event_id.unwrap().to_string(), "12-0000ab01");
        assert_eq!(Wanted::parse(None).unwrap().subjects(), [Subject::Units]);
        assert_eq!(Wanted::parse(Some("last_event_id=")).unwrap(), Wanted::default());
        for (query, named) in
            [("unit=shop", "shop"), ("units=a/b", "\"units\""), ("last_event_id=x", "\"x\""), ("builds=a/b", "a/b")]
        {
            let refused = Wanted::parse(Some(query)).unwrap_err().to_string();
            assert!(refused.contains(named), "{query}: {refused}");
        }
    }
}
