//! The pages of one unit: overview, one deploy, the review before a deploy, and the doctor.

use axum::http::HeaderMap;

use super::permissions;
use super::visit::Visit;
use crate::api::body::{Asked, At, Text};
use crate::api::checks::{self, refuse_cross_site};
use crate::api::error::Answer;
use crate::api::history;
use crate::api::review::Reviewed;
use crate::config::compare_link;
use crate::control::catalogue::known;
use crate::control::{Access, read};
use crate::document::{BuildInfo, Selection};
use crate::protocol::ids::{App, Commit, Epoch, Group, Unit};
use crate::protocol::record::{Author, Request, Wanted};
use crate::protocol::resolve::resolve;
use crate::ui::{self, DeployPage, DoctorPage, Review, ReviewPage, RollbackTarget, Tab, UnitPage};

/// The number of history entries on the page of a unit.
const RECENT_ENTRIES: usize = 8;

/// `GET /units/<app>/<group>`.
pub(super) async fn unit(visit: Visit, At((app, group)): At<(App, Group)>) -> Answer {
    let unit = Unit { app, group };
    let access = visit.access();
    let units = access.units().await?;
    let frame = visit.frame(&units).await?;
    let status = read::status(access, &unit).await?;
    let made: Vec<(Unit, Epoch)> = status.current.iter().map(|current| (unit.clone(), current.epoch)).collect();
    let (current_deploy, builds, past, rollback_target, denials) = tokio::join!(
        read::records(access, &made),
        read::builds(access, &unit.app),
        read::past(access, &unit),
        rollback_target(access, &unit),
        permissions::in_unit(access, &unit, &frame.viewer),
    );
    // The page is useful without this record, so a failed read is ignored.
    let current_deploy = current_deploy.unwrap_or_default().pop();
    let past = past.map(|past| past.document(&unit, &Selection::default(), RECENT_ENTRIES).entries).unwrap_or_default();
    let twin = format!("/v1/status/{unit}");
    let frame = frame.on(Tab::Overview, unit.to_string()).with_json(twin).following([&unit]);
    // Without builds, the page shows how to publish one.
    let builds = builds.map(|document| document.builds).unwrap_or_default();
    visit.answer(&UnitPage { frame, status, current_deploy, builds, past, rollback_target, denials })
}

/// The build that the coordinator would choose for a rollback without a target.
async fn rollback_target(access: &Access, unit: &Unit) -> RollbackTarget {
    let request = Request {
        wanted: Wanted::Rollback(None),
        author: Author { by: String::new(), via: "ui".to_owned(), reason: String::new(), id: String::new() },
        force: false,
        again: false,
    };
    match known(access.kv.client(), &access.keys, unit, &request).await {
        Ok(known) => match resolve(&request, &known.catalogue(unit, None)) {
            Ok(found) => RollbackTarget::Build(found.build.artifact),
            Err(fault) => RollbackTarget::None(fault.reason),
        },
        Err(_) => RollbackTarget::None("cannot read from Consul what a rollback would go back to".to_owned()),
    }
}

/// `GET /units/<app>/<group>/deploys/<epoch>`.
pub(super) async fn deploy(visit: Visit, At((app, group, Text(epoch))): At<(App, Group, Text<Epoch>)>) -> Answer {
    let unit = Unit { app, group };
    let access = visit.access();
    let units = access.units().await?;
    let frame = visit.frame(&units).await?;
    let document = history::request(&visit.api, access, &unit, epoch).await?;
    let record = document.record.as_ref();
    let from = record.and_then(|record| Some(&record.from.as_ref()?.artifact));
    let to = record.and_then(|record| record.commit.as_ref());
    let compare = compare(&visit, &unit, document.before.as_ref(), to);
    let (current, rollback_target, denials) = tokio::join!(
        read::committed(access, &unit),
        rollback_target(access, &unit),
        permissions::in_unit(access, &unit, &frame.viewer),
    );
    let current = current.unwrap_or_default();
    let title = match from.zip(record.and_then(|record| record.artifact.as_ref())) {
        Some((from, to)) => format!("{unit}: {from} → {to}"),
        None => format!("{unit}: deploy #{epoch}"),
    };
    let twin = format!("/v1/deploys/{unit}/{epoch}");
    let frame = frame.on(Tab::Overview, title).with_json(twin).following([&unit]);
    visit.answer(&DeployPage { frame, document, current, compare, rollback_target, denials })
}

/// The link that compares `to` with the commit of the build before; none without `compare_url` or an earlier build.
fn compare(visit: &Visit, unit: &Unit, before: Option<&BuildInfo>, to: Option<&Commit>) -> Option<String> {
    compare_link(visit.api.settings.compare_url.as_deref(), &unit.app, &before?.commit, to?)
}

/// `GET /units/<app>/<group>/review`.
pub(super) async fn review(
    visit: Visit,
    At((app, group)): At<(App, Group)>,
    headers: HeaderMap,
    Asked(reviewed): Asked<Reviewed>,
) -> Answer {
    refuse_cross_site(&visit.api, &headers)?;
    let unit = Unit { app, group };
    let request = reviewed.request()?;
    let access = visit.access();
    let frame = visit.frame(&access.units().await?).await?;
    // An unknown unit is a 404, not a failed review.
    read::status(access, &unit).await?;
    let (answer, denials) = tokio::join!(
        checks::dry_run_of(&visit.caller, &unit, &request),
        permissions::in_unit(access, &unit, &frame.viewer)
    );
    let review = match answer {
        Ok(document) => Review::Answered(Box::new(document)),
        Err(problem) => Review::Failed { message: problem.message, hint: problem.hint },
    };
    let compare = match &review {
        Review::Answered(document) => {
            compare(&visit, &unit, document.before.as_ref(), document.to.as_ref().map(|to| &to.build.commit))
        }
        Review::Failed { .. } => None,
    };
    let reviewed = ui::ReviewedRequest {
        to: match &request.wanted {
            Wanted::Rollback(to) => to.clone(),
            Wanted::Deploy(_) => None,
        },
        rollback: request.is_rollback(),
        reference: reviewed.reference,
        reason: request.author.reason,
        force: request.force,
        again: request.again,
    };
    let query = frame.address.split_once('?').map_or("", |(_, query)| query);
    let twin = format!("/v1/dry-run/{unit}?{query}");
    let frame = frame.on(Tab::Overview, format!("Review: {unit}")).with_json(twin);
    visit.answer(&ReviewPage { frame, unit, request: reviewed, review, compare, denials })
}

/// `GET /units/<app>/<group>/doctor`.
pub(super) async fn doctor(visit: Visit, At((app, group)): At<(App, Group)>, headers: HeaderMap) -> Answer {
    refuse_cross_site(&visit.api, &headers)?;
    let unit = Unit { app, group };
    let units = visit.access().units().await?;
    let frame = visit.frame(&units).await?;
    let document = checks::doctor_of(&visit.caller, &unit, "ui").await?;
    let frame = frame.on(Tab::Doctor, format!("Doctor: {unit}")).with_json(format!("/v1/doctor/{unit}"));
    visit.answer(&DoctorPage { frame, unit, document, units })
}
