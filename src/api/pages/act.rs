//! What the page's forms ask for. Each does what the API does, with the caller's token, and says `ui`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse as _, Response};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::form::Form;
use super::sign::own;
use crate::api::attest::Claim;
use crate::api::body::At;
use crate::api::error::{Answer, Problem};
use crate::api::fields::{optional, ticked};
use crate::api::{Api, Caller, deploys, marks};
use crate::control::read;
use crate::protocol::ids::{App, ArtifactName, Epoch, Group, Unit};
use crate::protocol::record::{Author, Request, Selector, Wanted};

/// The longest freeze that the form offers, in hours.
const MOST_HOURS: i64 = 24 * 30;

/// The form of a deploy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deploy {
    #[serde(rename = "ref")]
    reference: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    force: String,
    #[serde(default)]
    again: String,
}

/// The form of a rollback.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    to: String,
    reason: String,
    #[serde(default)]
    freeze: String,
}

/// The form of an abort.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Abort {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    epoch: String,
}

/// The form of a freeze.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Freeze {
    reason: String,
    #[serde(default, rename = "for")]
    hours: String,
}

/// The form of a mark.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    #[serde(default)]
    reason: String,
    /// The list in which it was made.
    #[serde(default)]
    next: String,
}

/// The form of what needs no more than a reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    #[serde(default)]
    reason: String,
}

fn claim(reason: &str) -> Claim {
    Claim { by: None, via: Some("ui".to_owned()), reason: reason.trim().to_owned(), id: None }
}

fn needed(reason: &str, what: &str) -> Result<(), Problem> {
    if reason.trim().is_empty() {
        return Err(Problem::usage(format!("reason: {what} needs one"), "say why: whoever comes after you reads it"));
    }
    Ok(())
}

/// Sends the browser to what came of it.
fn see(address: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, address.to_owned())]).into_response()
}

async fn request(api: &Arc<Api>, caller: Caller, unit: &Unit, request: Request) -> Answer {
    let epoch = deploys::write(api, caller, unit, request).await?;
    Ok(see(&format!("/units/{unit}/deploys/{epoch}")))
}

fn asking(wanted: Wanted, reason: &str) -> Request {
    let (via, reason) = ("ui".to_owned(), reason.trim().to_owned());
    let author = Author { by: String::new(), via, reason, id: String::new() };
    Request { wanted, author, force: false, again: false }
}

/// `POST /units/<app>/<group>/deploy`.
pub(super) async fn deploy(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Form(Deploy { reference, reason, force, again }): Form<Deploy>,
) -> Answer {
    let hint = "write a branch, a build's name, commit:… or artifact:…";
    let selector = Selector::parse(&reference).map_err(|problem| Problem::usage(format!("ref: {problem}"), hint))?;
    let asked = asking(Wanted::Deploy(selector), &reason);
    let asked = Request { force: ticked("force", &force)?, again: ticked("again", &again)?, ..asked };
    request(&api, caller, &Unit { app, group }, asked).await
}

/// `POST /units/<app>/<group>/rollback`: to a build that is named, and for a reason. The freeze comes first, so that no
/// deploy comes between; a rollback goes all the same.
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Form(Rollback { to, reason, freeze }): Form<Rollback>,
) -> Answer {
    needed(&reason, "a rollback")?;
    let Some(to) = optional::<ArtifactName>("to", &to)? else {
        return Err(Problem::usage("to: a rollback names its target", "choose it on the group's page"));
    };
    let unit = Unit { app, group };
    let status = read::status(caller.access(), &unit).await?;
    if status.running.is_some() || status.waiting.is_some() {
        // Else the group would be frozen for a rollback that nobody began.
        let hint = "wait for it or abort it, then ask again";
        return Err(Problem::new(StatusCode::CONFLICT, "busy", format!("a deploy of {unit} runs or waits"), hint));
    }
    if ticked("freeze", &freeze)? {
        let why = format!("rolled back to {to}: {}", reason.trim());
        deploys::hold(&api, caller.clone(), &unit, claim(&why), (None, Timestamp::now())).await?;
    }
    request(&api, caller, &unit, asking(Wanted::Rollback(Some(to)), &reason)).await
}

/// `POST /units/<app>/<group>/abort`.
pub(super) async fn abort(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Form(Abort { reason, epoch }): Form<Abort>,
) -> Answer {
    let unit = Unit { app, group };
    if let Some(meant) = optional::<Epoch>("epoch", &epoch)? {
        // Whoever looks at an older page does not end a deploy that they have not seen.
        let running = read::status(caller.access(), &unit).await?.running.map(|running| running.epoch);
        if running.is_some_and(|running| running != meant) {
            let message = format!("the deploy with epoch {meant} has ended, and another runs");
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "busy",
                message,
                "look at the one that runs, and abort that",
            ));
        }
    }
    let epoch = deploys::end(&api, caller, &unit, claim(&reason)).await?;
    Ok(see(&format!("/units/{unit}/deploys/{epoch}")))
}

/// When a freeze ends: after so many hours, or, where it is only changed, when it would have.
fn end(chosen: &str, now: Timestamp) -> Option<Timestamp> {
    let latest = now.checked_add(SignedDuration::from_hours(MOST_HOURS)).ok()?;
    let until = match chosen.parse::<i64>() {
        Ok(hours) => now.checked_add(SignedDuration::try_from_hours(hours)?).ok()?,
        Err(_) => return chosen.parse().ok(),
    };
    (now < until && until <= latest).then_some(until)
}

/// `POST /units/<app>/<group>/freeze`.
pub(super) async fn freeze(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Form(Freeze { reason, hours }): Form<Freeze>,
) -> Answer {
    needed(&reason, "a freeze")?;
    let now = Timestamp::now();
    let until = match hours.trim() {
        "" => None,
        chosen => Some(end(chosen, now).ok_or_else(|| {
            Problem::usage(format!("for: {chosen:?} is not 1 to {MOST_HOURS} hours"), "choose one of the list")
        })?),
    };
    let unit = Unit { app, group };
    deploys::hold(&api, caller, &unit, claim(&reason), (until, now)).await?;
    Ok(see(&format!("/units/{unit}")))
}

/// `POST /units/<app>/<group>/unfreeze`.
pub(super) async fn unfreeze(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Form(Why { reason }): Form<Why>,
) -> Answer {
    let unit = Unit { app, group };
    deploys::release(&api, caller, &unit, claim(&reason)).await?;
    Ok(see(&format!("/units/{unit}")))
}

/// Where a build stands in the list in which it was marked.
fn listed(app: &App, artifact: &ArtifactName, next: &str) -> String {
    let builds = format!("/apps/{app}/builds");
    let list = if next.split('?').next() == Some(builds.as_str()) { own(next) } else { &builds };
    format!("{list}#build-{artifact}")
}

/// `POST /apps/<app>/builds/<artifact>/bad`.
pub(super) async fn mark_bad(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, artifact)): At<(App, ArtifactName)>,
    Form(Mark { reason, next }): Form<Mark>,
) -> Answer {
    needed(&reason, "a bad mark")?;
    let place = listed(&app, &artifact, &next);
    marks::bad(&api, caller, (app, artifact), claim(&reason)).await?;
    Ok(see(&place))
}

/// `POST /apps/<app>/builds/<artifact>/good`.
pub(super) async fn mark_good(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, artifact)): At<(App, ArtifactName)>,
    Form(Mark { reason, next }): Form<Mark>,
) -> Answer {
    let place = listed(&app, &artifact, &next);
    marks::good(&api, caller, (app, artifact), claim(&reason)).await?;
    Ok(see(&place))
}
