//! The handlers of the page's forms. Each calls the same function as the API, with the caller's token, and records `via` as
//! `ui`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse as _, Response};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::form::Form;
use super::sign_in::own;
use crate::api::attest::ClaimedAuthor;
use crate::api::body::At;
use crate::api::error::{Answer, Problem};
use crate::api::fields::{optional, ticked};
use crate::api::{Api, Caller, deploys, marks};
use crate::control::read;
use crate::protocol::ids::{App, ArtifactName, Epoch, Group, Unit};
use crate::protocol::record::{Author, Request, Selector, Wanted};

/// The longest freeze that the form offers, in hours.
const MOST_HOURS: i64 = 24 * 30;

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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    to: String,
    reason: String,
    #[serde(default)]
    freeze: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Abort {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    epoch: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Freeze {
    reason: String,
    #[serde(default, rename = "for")]
    hours: String,
}

/// The form that marks a build bad or good.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    #[serde(default)]
    reason: String,
    /// The address of the builds page that contains the form.
    #[serde(default)]
    next: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unfreeze {
    #[serde(default)]
    reason: String,
}

fn claim(reason: &str) -> ClaimedAuthor {
    ClaimedAuthor { by: None, via: Some("ui".to_owned()), reason: reason.trim().to_owned(), id: None }
}

fn require_reason(reason: &str, what: &str) -> Result<(), Problem> {
    if reason.trim().is_empty() {
        return Err(Problem::usage(format!("reason: {what} needs a reason"), "write why; the history shows it"));
    }
    Ok(())
}

/// Redirects the browser to the result, so that a reload does not send the form again.
fn redirect(address: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, address.to_owned())]).into_response()
}

async fn request(api: &Arc<Api>, caller: Caller, unit: &Unit, request: Request) -> Answer {
    let epoch = deploys::write(api, caller, unit, request).await?;
    Ok(redirect(&format!("/units/{unit}/deploys/{epoch}")))
}

fn request_for(wanted: Wanted, reason: &str) -> Request {
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
    let hint = "write a branch, the name of a build, commit:… or artifact:…";
    let selector = Selector::parse(&reference).map_err(|problem| Problem::usage(format!("ref: {problem}"), hint))?;
    let plain = request_for(Wanted::Deploy(selector), &reason);
    let wanted = Request { force: ticked("force", &force)?, again: ticked("again", &again)?, ..plain };
    request(&api, caller, &Unit { app, group }, wanted).await
}

/// `POST /units/<app>/<group>/rollback`: needs a target and a reason. The freeze is written before the request, so that no
/// deploy can start between them. A freeze does not block rollbacks.
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Form(Rollback { to, reason, freeze }): Form<Rollback>,
) -> Answer {
    require_reason(&reason, "a rollback")?;
    let Some(to) = optional::<ArtifactName>("to", &to)? else {
        return Err(Problem::usage("to: a rollback needs a target", "choose the build on the group's page"));
    };
    let unit = Unit { app, group };
    let status = read::status(caller.access(), &unit).await?;
    if status.running.is_some() || status.waiting.is_some() {
        // Checked first: otherwise the freeze would be written although the rollback is refused.
        let hint = "wait for it or abort it, then retry";
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "busy",
            format!("a deploy of {unit} is running or waiting"),
            hint,
        ));
    }
    if ticked("freeze", &freeze)? {
        let why = format!("rolled back to {to}: {}", reason.trim());
        deploys::freeze_unit(&api, caller.clone(), &unit, claim(&why), None).await?;
    }
    request(&api, caller, &unit, request_for(Wanted::Rollback(Some(to)), &reason)).await
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
        // The page may be old: do not abort a deploy that the viewer has not seen.
        let running = read::status(caller.access(), &unit).await?.running.map(|running| running.epoch);
        if running.is_some_and(|running| running != meant) {
            let message = format!("deploy #{meant} has ended, and another deploy is running");
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "busy",
                message,
                "open the running deploy and abort that one",
            ));
        }
    }
    let epoch = deploys::abort_running(&api, caller, &unit, claim(&reason)).await?;
    Ok(redirect(&format!("/units/{unit}/deploys/{epoch}")))
}

/// The end of a freeze: after the chosen hours, or the unchanged end of the current freeze. None for an invalid choice.
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
    require_reason(&reason, "a freeze")?;
    let now = Timestamp::now();
    let until = match hours.trim() {
        "" => None,
        chosen => Some(end(chosen, now).ok_or_else(|| {
            Problem::usage(format!("for: {chosen:?} is not 1 to {MOST_HOURS} hours"), "choose from the list")
        })?),
    };
    let unit = Unit { app, group };
    deploys::freeze_unit(&api, caller, &unit, claim(&reason), until).await?;
    Ok(redirect(&format!("/units/{unit}")))
}

/// `POST /units/<app>/<group>/unfreeze`.
pub(super) async fn unfreeze(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Form(Unfreeze { reason }): Form<Unfreeze>,
) -> Answer {
    let unit = Unit { app, group };
    deploys::unfreeze_unit(&api, caller, &unit, claim(&reason)).await?;
    Ok(redirect(&format!("/units/{unit}")))
}

/// The address of the build on the page from which it was marked.
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
    require_reason(&reason, "a bad mark")?;
    let place = listed(&app, &artifact, &next);
    marks::mark_bad(&api, caller, app, artifact, claim(&reason)).await?;
    Ok(redirect(&place))
}

/// `POST /apps/<app>/builds/<artifact>/good`.
pub(super) async fn mark_good(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, artifact)): At<(App, ArtifactName)>,
    Form(Mark { reason, next }): Form<Mark>,
) -> Answer {
    let place = listed(&app, &artifact, &next);
    marks::mark_good(&api, caller, app, artifact, claim(&reason)).await?;
    Ok(redirect(&place))
}
