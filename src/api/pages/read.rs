//! The pages over all units: overview, builds, nodes, history, settings.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::permissions;
use super::visit::Visit;
use crate::api::body::{Asked, At};
use crate::api::checks;
use crate::api::error::{Answer, Problem};
use crate::api::fields::{optional, ticked};
use crate::api::history;
use crate::control::{Code, read};
use crate::document::{BuildRow, BuildsDocument, NodesDocument, NodesFilter, Presence, Selection, StatusDocument};
use crate::protocol::ids::{App, ArtifactName, Epoch, Group, Unit};
use crate::protocol::record::History;
use crate::ui::{
    BuildsFilter, BuildsPage, EmptyPage, HistoryFilter, HistoryPage, NodesPage, OverviewPage, SettingsPage, Tab,
    UnitCard,
};

/// The number of builds on a page.
const BUILDS: usize = 100;
/// The number of history entries on a page.
const LINES: usize = 50;

/// The value that was chosen from a list; none if the field was left empty.
fn word<'de, T: Deserialize<'de>>(name: &str, value: &'de str) -> Result<Option<T>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    let reader: StrDeserializer<'de, ValueError> = value.into_deserializer();
    T::deserialize(reader)
        .map(Some)
        .map_err(|error| Problem::usage(format!("{name}: unknown value {value:?}: {error}"), "choose from the list"))
}

/// `GET /`.
pub(super) async fn overview(visit: Visit) -> Answer {
    let access = visit.access();
    let units = access.units().await?;
    let frame = visit.frame(&units).await?;
    let statuses = read::statuses(access, &units).await?;
    let current = |status: &StatusDocument| Some((status.unit.clone(), status.current.as_ref()?.epoch));
    let made: Vec<(Unit, Epoch)> = statuses.iter().filter_map(current).collect();
    // The overview is useful without these records, so a failed read is ignored.
    let current_deploy = read::records(access, &made).await.unwrap_or_default();
    let mut current_deploy: BTreeMap<Unit, History> =
        current_deploy.into_iter().map(|record| (record.unit.clone(), record)).collect();
    let card = |status: StatusDocument| UnitCard { current_deploy: current_deploy.remove(&status.unit), status };
    let cards = statuses.into_iter().map(card).collect();
    let frame = frame.on(Tab::Overview, "Overview").with_json("/v1/status").following([]);
    visit.answer(&OverviewPage { frame, cards, prefix: access.keys.prefix().to_owned() })
}

/// A navigation entry without a unit: leads to the page of the first unit or app, or shows how to create one.
struct Entrance {
    tab: Tab,
    title: &'static str,
    lacks: &'static str,
    next: &'static str,
    command: &'static str,
}

impl Entrance {
    /// Redirects to `first`; shows an empty page if there is none.
    async fn answer(self, visit: &Visit, first: Option<String>) -> Answer {
        if let Some(place) = first {
            return Ok((StatusCode::SEE_OTHER, [(LOCATION, place)]).into_response());
        }
        let Self { tab, title, lacks, next, command } = self;
        let frame = visit.frame(&[]).await?.on(tab, title).with_json("/v1/apps").following([]);
        visit.answer(&EmptyPage { frame, lacks, next, command })
    }
}

/// `GET /builds`: the builds of the first app.
pub(super) async fn any_builds(visit: Visit) -> Answer {
    let apps = read::apps(visit.access()).await?.apps;
    let first = apps.first().map(|row| format!("/apps/{}/builds", row.app));
    let entrance = Entrance {
        tab: Tab::Builds,
        title: "Builds",
        lacks: "There are no builds yet",
        next: "Publish a build in CI. It then appears here, with the nodes that have it ready.",
        command: "cutover publish --app shop DIR",
    };
    entrance.answer(&visit, first).await
}

/// `GET /history`: the history of the first unit.
pub(super) async fn any_history(visit: Visit) -> Answer {
    let first = visit.access().units().await?.first().map(|unit| format!("/units/{unit}/history"));
    let entrance = Entrance {
        tab: Tab::History,
        title: "History",
        lacks: "There are no groups yet",
        next: "The history starts when the first agent of a group coordinates.",
        command: "cutover agent --config /etc/cutover/cutover.toml",
    };
    entrance.answer(&visit, first).await
}

/// `GET /doctor`: the health check of the first unit.
pub(super) async fn any_doctor(visit: Visit) -> Answer {
    let first = visit.access().units().await?.first().map(|unit| format!("/units/{unit}/doctor"));
    let entrance = Entrance {
        tab: Tab::Doctor,
        title: "Doctor",
        lacks: "There are no groups yet",
        next: "Doctor queries the nodes of a group. If a group is missing here, run the command on its node.",
        command: "cutover doctor",
    };
    entrance.answer(&visit, first).await
}

/// The query of the builds page.
#[derive(Debug, Deserialize)]
pub(super) struct BuildsQuery {
    #[serde(default)]
    state: String,
    #[serde(default)]
    branch: String,
    #[serde(default)]
    before: String,
}

/// `GET /apps/<app>/builds`.
pub(super) async fn builds(visit: Visit, At(app): At<App>, Asked(asked): Asked<BuildsQuery>) -> Answer {
    let access = visit.access();
    let filter = BuildsFilter { state: word("state", &asked.state)?, branch: asked.branch.trim().to_owned() };
    let before = optional::<ArtifactName>("before", &asked.before)?;
    let units = access.units().await?;
    let frame = visit.frame(&units).await?;
    let apps: Vec<App> = read::apps(access).await?.apps.into_iter().map(|row| row.app).collect();
    let mut document = match read::builds(access, &app).await {
        Ok(document) => document,
        // For an app without builds, the page shows how to publish one.
        Err(failure) if failure.code == Code::NotFound && apps.contains(&app) => {
            BuildsDocument { app: app.clone(), builds: Vec::new(), problems: Vec::new() }
        }
        Err(failure) => return Err(failure.into()),
    };
    let total = document.builds.len();
    let mut branches: Vec<String> = document.builds.iter().map(|row| row.branch.to_string()).collect();
    branches.sort_unstable();
    branches.dedup();
    let position = |row: &BuildRow| (Reverse(row.at), Reverse(row.artifact.clone()));
    let from = before.and_then(|before| document.builds.iter().find(|row| row.artifact == before).map(position));
    document.builds.retain(|row| {
        from.as_ref().is_none_or(|from| position(row) > *from)
            && filter.state.is_none_or(|state| row.state == state)
            && (filter.branch.is_empty() || row.branch.as_str() == filter.branch)
    });
    let has_more = document.builds.len() > BUILDS;
    document.builds.truncate(BUILDS);
    let next = document.builds.last().filter(|_| has_more).map(|row| {
        address(
            &format!("/apps/{app}/builds"),
            &[("state", &asked.state), ("branch", &filter.branch), ("before", row.artifact.as_str())],
        )
    });
    let no_marks = permissions::to_mark(access, &app, &units, &frame.viewer).await;
    let twin = address(
        &format!("/v1/builds/{app}"),
        &[("state", &asked.state), ("branch", &filter.branch), ("before", &asked.before)],
    );
    let frame = frame.on(Tab::Builds, format!("Builds of {app}")).with_json(twin).following_builds(&app);
    visit.answer(&BuildsPage { frame, document, total, filter, apps, branches, next, no_marks })
}

/// An address with the parameters that are not empty.
fn address(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// The query of the nodes page.
#[derive(Debug, Deserialize)]
pub(super) struct NodesQuery {
    #[serde(default)]
    unit: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    drift: String,
    #[serde(default)]
    named: String,
}

/// `GET /nodes`.
pub(super) async fn nodes(visit: Visit, Asked(asked): Asked<NodesQuery>) -> Answer {
    let access = visit.access();
    let filter = NodesFilter {
        unit: optional::<Unit>("unit", &asked.unit)?,
        state: word::<Presence>("state", &asked.state)?,
        drift: ticked("drift", &asked.drift)?,
        named: asked.named.trim().to_owned(),
    };
    let units = access.units().await?;
    let frame = visit.frame(&units).await?;
    let NodesDocument { mut nodes } = read::nodes(access, &units).await?;
    let total = nodes.len();
    nodes.retain(|row| filter.matches(row));
    let NodesQuery { unit, state, drift, named } = &asked;
    let twin = address("/v1/nodes", &[("unit", unit), ("state", state), ("drift", drift), ("named", named)]);
    let frame = frame.on(Tab::Nodes, "Nodes").with_json(twin).following(filter.unit.as_ref());
    visit.answer(&NodesPage { frame, nodes: NodesDocument { nodes }, total, filter, units })
}

/// The query of the history page.
#[derive(Debug, Deserialize)]
pub(super) struct HistoryQuery {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    outcome: String,
    #[serde(default)]
    by: String,
    #[serde(default)]
    artifact: String,
    #[serde(default)]
    before: String,
}

/// `GET /units/<app>/<group>/history`.
pub(super) async fn history(
    visit: Visit,
    At((app, group)): At<(App, Group)>,
    Asked(asked): Asked<HistoryQuery>,
) -> Answer {
    let access = visit.access();
    let unit = Unit { app, group };
    let (by, artifact) = (asked.by.trim(), asked.artifact.trim());
    let selection = Selection {
        before: optional::<Epoch>("before", &asked.before)?,
        kind: word("kind", &asked.kind)?,
        outcome: word("outcome", &asked.outcome)?,
        by: Some(by.to_owned()).filter(|by| !by.is_empty()),
        artifact: optional("artifact", artifact)?,
    };
    let units = access.units().await?;
    let frame = visit.frame(&units).await?;
    let (document, next) = history::entries(&visit.api, access, &unit, &selection, LINES).await?;
    let shared = [("kind", asked.kind.as_str()), ("outcome", &asked.outcome), ("by", by), ("artifact", artifact)];
    let next = next.map(|epoch| {
        let epoch = epoch.to_string();
        let parameters: Vec<(&str, &str)> = shared.iter().copied().chain([("before", epoch.as_str())]).collect();
        address(&format!("/units/{unit}/history"), &parameters)
    });
    let twin: Vec<(&str, &str)> = shared.iter().copied().chain([("before", asked.before.as_str())]).collect();
    let twin = address(&format!("/v1/deploys/{unit}"), &twin);
    let frame = frame.on(Tab::History, format!("History of {unit}")).with_json(twin).following([&unit]);
    let (kind, outcome) = (selection.kind, selection.outcome);
    let filter = HistoryFilter { kind, outcome, by: by.to_owned(), artifact: artifact.to_owned() };
    visit.answer(&HistoryPage { frame, document, filter, units, next })
}

/// `GET /settings`.
pub(super) async fn settings(visit: Visit) -> Answer {
    let units = visit.access().units().await?;
    let frame = visit.frame(&units).await?.on(Tab::Settings, "Settings").with_json("/v1/settings");
    let document = checks::settings_of(&visit.api, &visit.caller);
    visit.answer(&SettingsPage { frame, document })
}
