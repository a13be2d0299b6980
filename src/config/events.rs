//! The kinds of events that can be notified, and the kinds of receivers.

use serde::{Deserialize, Serialize};

/// The format of notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NotifyKind {
    /// An activity with a thread, for Flowdock's API.
    Flowdock,
    /// An incoming webhook of Slack, Mattermost, Rocket.Chat, Discord.
    Slack,
    /// A signed event document.
    Webhook,
}

impl NotifyKind {
    /// The word in the configuration.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Flowdock => "flowdock",
            Self::Slack => "slack",
            Self::Webhook => "webhook",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum EventKind {
    #[serde(rename = "build.published")]
    BuildPublished,
    /// A group has no coordinator.
    #[serde(rename = "coordinator.missing")]
    CoordinatorMissing,
    /// A deploy ended before any node switched.
    #[serde(rename = "deploy.aborted")]
    DeployAborted,
    /// A deploy ended, and every member runs the build.
    #[serde(rename = "deploy.done")]
    DeployDone,
    /// A request was refused before it started.
    #[serde(rename = "deploy.refused")]
    DeployRefused,
    /// The nodes were reverted after the switch, completely or not.
    #[serde(rename = "deploy.rolled_back")]
    DeployRolledBack,
    #[serde(rename = "deploy.started")]
    DeployStarted,
    #[serde(rename = "group.frozen")]
    GroupFrozen,
    /// A freeze was lifted.
    #[serde(rename = "group.unfrozen")]
    GroupUnfrozen,
    #[serde(rename = "node.drift")]
    NodeDrift,
    /// The event of `cutover notify test`. It goes to every receiver, and cannot be selected.
    #[serde(rename = "test", skip_deserializing)]
    Test,
}

impl EventKind {
    /// The word in the configuration, in notifications and in JSON.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BuildPublished => "build.published",
            Self::CoordinatorMissing => "coordinator.missing",
            Self::DeployAborted => "deploy.aborted",
            Self::DeployDone => "deploy.done",
            Self::DeployRefused => "deploy.refused",
            Self::DeployRolledBack => "deploy.rolled_back",
            Self::DeployStarted => "deploy.started",
            Self::GroupFrozen => "group.frozen",
            Self::GroupUnfrozen => "group.unfrozen",
            Self::NodeDrift => "node.drift",
            Self::Test => "test",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_kinds_are_read_and_written_alike() {
        let words = ["build.published", "coordinator.missing", "deploy.rolled_back", "node.drift", "group.unfrozen"];
        for word in words {
            let kind: EventKind = serde_json::from_value(serde_json::json!(word)).unwrap();
            assert_eq!(kind.as_str(), word);
            assert_eq!(serde_json::to_value(kind).unwrap(), word);
        }
        assert!(serde_json::from_str::<EventKind>("\"test\"").is_err(), "the test event cannot be selected");
    }
}
