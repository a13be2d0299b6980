//! Handlers that read: the same documents as the command line prints, whole or by page.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::body::{Asked, At, Text, Written};
use super::error::{Answer, Problem};
use super::fields::{TICKS, ticked};
use super::paging::{self, Page, Paged};
use super::{Api, Caller, history};
use crate::control::{Access, Failure, read, ships};
use crate::document::{
    AppsDocument, BuildDocument, BuildRow, BuildState, BuildsDocument, DeployDocument, EntryKind, HistoryDocument,
    NodeRow, NodesDocument, NodesFilter, Presence, Selection, StatusDocument,
};
use crate::protocol::ids::{App, ArtifactName, Branch, Epoch, Group, InvalidName, Node, Unit};
use crate::protocol::record::Outcome;

/// How many history entries are listed by default, as in `cutover history`.
const DEFAULT_LINES: usize = 20;

/// The query of `/v1/apps`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AppsQuery {
    /// The maximum number of entries.
    #[schemars(range(min = 1, max = paging::MOST_ENTRIES))]
    limit: Option<usize>,
    /// Only entries after this one in the list: an app. The header `Link` names the next page.
    before: Option<App>,
}

/// `GET /v1/apps`.
pub(super) async fn apps(uri: Uri, caller: Caller, Asked(asked): Asked<AppsQuery>) -> Answer<Paged<AppsDocument>> {
    let limit = paging::limit(asked.limit, usize::MAX)?;
    let mut document = read::apps(caller.access()).await?;
    document.apps.retain(|row| asked.before.as_ref().is_none_or(|before| row.app > *before));
    let Page { entries, next } = Page::cut(document.apps, limit, |row| row.app.to_string());
    document.apps = entries;
    Ok(Paged::new(document, &uri, next.as_deref()))
}

/// The query of `/v1/builds/<app>`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct BuildsQuery {
    /// The maximum number of entries.
    #[schemars(range(min = 1, max = paging::MOST_ENTRIES))]
    limit: Option<usize>,
    /// Only entries after this one in the list: an artifact. The header `Link` names the next page.
    before: Option<ArtifactName>,
    /// Only builds in this state.
    state: Option<BuildState>,
    /// Only builds of this branch.
    branch: Option<Branch>,
}

/// `GET /v1/builds/<app>`.
pub(super) async fn builds(
    uri: Uri,
    caller: Caller,
    At(app): At<App>,
    Asked(asked): Asked<BuildsQuery>,
) -> Answer<Paged<BuildsDocument>> {
    let limit = paging::limit(asked.limit, usize::MAX)?;
    let mut document = read::builds(caller.access(), &app).await?;
    let place = |row: &BuildRow| (Reverse(row.at), Reverse(row.artifact.clone()));
    let from = match &asked.before {
        None => None,
        Some(before) => match document.builds.iter().find(|row| row.artifact == *before) {
            Some(row) => Some(place(row)),
            None => {
                return Err(Problem::usage(format!("before: there is no build {before}"), "start again without it"));
            }
        },
    };
    document.builds.retain(|row| {
        from.as_ref().is_none_or(|from| place(row) > *from)
            && asked.state.is_none_or(|state| row.state == state)
            && asked.branch.as_ref().is_none_or(|branch| row.branch == *branch)
    });
    let Page { entries, next } = Page::cut(document.builds, limit, |row| row.artifact.to_string());
    document.builds = entries;
    Ok(Paged::new(document, &uri, next.as_deref()))
}

/// The query of `/v1/builds/<app>/<artifact>`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct BuildQuery {
    /// The build to compare with; the build before it on its branch if left out.
    against: Option<ArtifactName>,
}

/// `GET /v1/builds/<app>/<artifact>`. The agent reads the lists of files with its own credentials; the caller's token was
/// allowed to read the records that name them.
pub(super) async fn build(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, artifact)): At<(App, ArtifactName)>,
    Asked(asked): Asked<BuildQuery>,
) -> Answer<Json<BuildDocument>> {
    let shown = ships::show(caller.access(), api.store.as_ref(), &app, &artifact, asked.against.as_ref());
    Ok(Json(Box::pin(shown).await?))
}

/// `GET /v1/status/<app>/<group>`.
pub(super) async fn status(caller: Caller, At((app, group)): At<(App, Group)>) -> Answer<Json<StatusDocument>> {
    Ok(Json(read::status(caller.access(), &Unit { app, group }).await?))
}

/// The status of every group, as `cutover status` prints it without a group.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Statuses(Vec<StatusDocument>);

/// `GET /v1/status`.
pub(super) async fn statuses(caller: Caller) -> Answer<Json<Statuses>> {
    let units = caller.access().units().await?;
    Ok(Json(Statuses(read::statuses(caller.access(), &units).await?)))
}

/// The query of `/v1/deploys/<app>/<group>`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct DeploysQuery {
    /// The maximum number of entries.
    #[schemars(range(min = 1, max = paging::MOST_ENTRIES))]
    limit: Option<usize>,
    /// Only entries after this one in the list: an epoch. The header `Link` names the next page.
    before: Option<Text<Epoch>>,
    /// Only entries of this kind.
    kind: Option<EntryKind>,
    /// Only requests with this outcome.
    outcome: Option<Outcome>,
    /// Only entries by this author.
    by: Option<String>,
    /// Only entries about this build.
    artifact: Option<ArtifactName>,
}

/// `GET /v1/deploys/<app>/<group>`.
pub(super) async fn deploys(
    State(api): State<Arc<Api>>,
    uri: Uri,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Asked(asked): Asked<DeploysQuery>,
) -> Answer<Paged<HistoryDocument>> {
    let limit = paging::limit(asked.limit, DEFAULT_LINES)?;
    let DeploysQuery { before, kind, outcome, by, artifact, .. } = asked;
    let selection = Selection { before: before.map(|Text(epoch)| epoch), kind, outcome, by, artifact };
    let unit = Unit { app, group };
    let (document, next) = history::entries(&api, caller.access(), &unit, &selection, limit).await?;
    let next = next.map(|epoch| epoch.to_string());
    Ok(Paged::new(document, &uri, next.as_deref()))
}

/// `GET /v1/deploys/<app>/<group>/<epoch>`.
pub(super) async fn deploy(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group, Text(epoch))): At<(App, Group, Text<Epoch>)>,
) -> Answer<Json<DeployDocument>> {
    let unit = Unit { app, group };
    Ok(Json(history::request(&api, caller.access(), &unit, epoch).await?))
}

/// The query of `/v1/nodes`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct NodesQuery {
    /// The maximum number of entries.
    #[schemars(range(min = 1, max = paging::MOST_ENTRIES))]
    limit: Option<usize>,
    /// Only entries after this one in the list: `<app>/<group>/<node>`. The header `Link` names the next page.
    before: Option<Text<Place>>,
    /// Only nodes of this unit.
    unit: Option<Unit>,
    /// Only nodes that are alive, or absent.
    state: Option<Presence>,
    /// Only nodes with drift or an alarm.
    #[serde(default)]
    #[schemars(extend("enum" = TICKS))]
    drift: String,
    /// Only nodes whose name contains this text.
    #[serde(default)]
    named: String,
}

/// One row of `/v1/nodes`: `shop/production/web-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    unit: Unit,
    node: Node,
}

impl Written for Place {
    const PATTERN: &'static str =
        "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$";
    const EXAMPLE: &'static str = "shop/production/web-1";
    const DESCRIPTION: &'static str = "A node of a group.";
}

impl std::str::FromStr for Place {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || InvalidName { what: "place", given: text.to_owned(), problem: "is not <app>/<group>/<node>" };
        let (unit, node) = text.rsplit_once('/').ok_or_else(wrong)?;
        Ok(Self { unit: unit.parse().map_err(|_| wrong())?, node: node.parse().map_err(|_| wrong())? })
    }
}

/// `GET /v1/nodes`.
pub(super) async fn nodes(uri: Uri, caller: Caller, Asked(asked): Asked<NodesQuery>) -> Answer<Paged<NodesDocument>> {
    let limit = paging::limit(asked.limit, usize::MAX)?;
    let NodesQuery { before, unit, state, drift, named, .. } = asked;
    let filter = NodesFilter { unit, state, drift: ticked("drift", &drift)?, named };
    let mut document = read::nodes(caller.access(), &units(caller.access(), filter.unit.as_ref()).await?).await?;
    let place = |row: &NodeRow| Place { unit: row.unit.clone(), node: row.status.node.clone() };
    let is_after = |row: &NodeRow| before.as_ref().is_none_or(|Text(before)| place(row) > *before);
    document.nodes.retain(|row| is_after(row) && filter.matches(row));
    let name = |row: &NodeRow| format!("{}/{}", row.unit, row.status.node);
    let Page { entries, next } = Page::cut(document.nodes, limit, name);
    document.nodes = entries;
    Ok(Paged::new(document, &uri, next.as_deref()))
}

async fn units(access: &Access, asked: Option<&Unit>) -> Result<Vec<Unit>, Failure> {
    match asked {
        Some(unit) => Ok(vec![unit.clone()]),
        None => access.units().await,
    }
}
