//! The badge and the remarks of a unit, as several pages show them.

use super::parts::Badge;
use super::text::plain;
use super::tone::Tone;
use super::words;
use crate::document::{Presence, StatusDocument, counted, named};

/// The state of a unit in one badge. Problems come first, then a running deploy, then the normal state.
pub(super) fn badge(status: &StatusDocument) -> Badge<'_> {
    if status.needs_recovery {
        return ("needs recovery", Tone::Bad).into();
    }
    if status.coordinator.is_none() {
        return ("no coordinator", Tone::Bad).into();
    }
    if let Some(running) = &status.running {
        return words::phase(running.phase).into();
    }
    if status.waiting.is_some() {
        return ("request waiting", Tone::Busy).into();
    }
    if status.current.is_none() {
        return ("nothing deployed yet", Tone::Quiet).into();
    }
    ("in service", Tone::Good).into()
}

/// The announcement for screen readers: the running phase, or the outcome of the last request.
pub(super) fn announcement(status: &StatusDocument) -> String {
    let unit = &status.unit;
    match (&status.running, &status.last) {
        (Some(running), _) => format!("{unit}: {}", running.phase.as_str()),
        (None, Some(last)) => {
            let what = last.artifact.as_ref().map_or_else(String::new, |artifact| format!(" {artifact}"));
            format!("{unit}:{what} {}", words::outcome(last.outcome).0)
        }
        (None, None) => String::new(),
    }
}

/// Whether the unit needs attention. A freeze alone does not.
pub(super) fn needs_attention(status: &StatusDocument) -> bool {
    !remarks(status).is_empty() && (status.freeze.is_none() || remarks(status).len() > 1)
}

/// The remarks beside the badge, each with its own badge.
pub(super) fn remarks(status: &StatusDocument) -> Vec<(String, Badge<'static>)> {
    let mut found: Vec<(String, Badge<'static>)> = Vec::new();
    if let Some(freeze) = &status.freeze {
        found.push((
            format!("by {}: {}", plain(&freeze.author.by), plain(&freeze.author.reason)),
            ("frozen", Tone::Warn).into(),
        ));
    }
    if status.coordinator.is_none() {
        let text = "requests wait until an agent with coordinate = true runs";
        found.push((text.to_owned(), ("no coordinator", Tone::Bad).into()));
    }
    found.extend(status.troubles.iter().map(|trouble| (plain(trouble.text()), ("problem", Tone::Bad).into())));
    let absent = status.nodes.iter().filter(|node| node.state == Presence::Absent);
    let absent: Vec<&str> = absent.map(|node| node.node.as_str()).collect();
    if !absent.is_empty() {
        found.push((named(&absent), ("absent", Tone::Bad).into()));
    }
    let drifted = status.nodes.iter().filter(|node| !node.drift.is_empty());
    let drifted: Vec<&str> = drifted.map(|node| node.node.as_str()).collect();
    if !drifted.is_empty() {
        found.push((named(&drifted), ("drift", Tone::Warn).into()));
    }
    let alarmed =
        status.nodes.iter().filter_map(|node| Some(format!("{}: {}", node.node, plain(node.alarm.as_ref()?))));
    // A large fleet can have the same alarm on every node.
    found.extend(alarmed.take(3).map(|text| (text, ("alarm", Tone::Bad).into())));
    if !status.problems.is_empty() {
        let text = counted(status.problems.len(), "record cannot be read", "records cannot be read");
        found.push((text, ("unreadable", Tone::Bad).into()));
    }
    found
}
