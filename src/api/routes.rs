//! The table of all addresses. The router is built from it, and so is the `OpenAPI` document.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::describe::Described;
use super::error::Problem;
use super::refusal::{CONFLICT, NOT_FOUND, NOT_READY, NOT_SLACK, Refusal, TOO_MANY_CALLS, TOO_MANY_STREAMS};
use super::route::{Route, Verb};
use super::{Api, builds, chat, checks, deploys, follow, guard, lists, marks, metrics, openapi, pages, session, watch};

/// The largest body, but for the doorbell's. A deploy request is at most 4 KiB.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What the signature of a handler does not say about its operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    /// Its name for programs that are generated from the document.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// Errors besides those of every operation.
    pub(super) refusals: &'static [Refusal],
    max_body_bytes: usize,
}

const fn about(id: &'static str, summary: &'static str) -> About {
    About { id, summary, refusals: &[], max_body_bytes: MAX_BODY_BYTES }
}

impl About {
    /// Adds the errors of this operation.
    const fn or(self, refusals: &'static [Refusal]) -> Self {
        Self { refusals, ..self }
    }

    /// With another limit for the body.
    const fn up_to(self, max_body_bytes: usize) -> Self {
        Self { max_body_bytes, ..self }
    }
}

/// A reader of the table: the router, and the document.
pub(super) trait Table {
    /// Takes one row.
    fn add<T: 'static, H: Described<T>>(&mut self, verb: Verb, path: &'static str, handler: H, about: About);

    fn get<T: 'static>(&mut self, path: &'static str, handler: impl Described<T>, about: About) {
        self.add(Verb::Get, path, handler, about);
    }

    fn post<T: 'static>(&mut self, path: &'static str, handler: impl Described<T>, about: About) {
        self.add(Verb::Post, path, handler, about);
    }

    fn delete<T: 'static>(&mut self, path: &'static str, handler: impl Described<T>, about: About) {
        self.add(Verb::Delete, path, handler, about);
    }
}

/// A group's requests, old and new.
const UNIT: &str = "/v1/deploys/{app}/{group}";

/// Every address except the pages, which are in [`pages::table`].
pub(super) fn fill(table: &mut impl Table) {
    of_agent(table);
    of_builds(table);
    of_units(table);
    of_requests(table);
}

/// The agent itself, and its callers.
fn of_agent(table: &mut impl Table) {
    let ring = about("ring", "For Consul's watches: makes the agent read its keys again");
    table.post("/v1/watch", watch::watch, ring.up_to(watch::MAX_BODY_BYTES));
    table.get("/v1/health/live", watch::live, about("live", "Whether the agent serves requests"));
    let ready = about("ready", "Whether every unit has a Consul session");
    table.get("/v1/health/ready", watch::ready, ready.or(&[NOT_READY]));
    table.get("/metrics", metrics::metrics, about("metrics", "The agent's metrics, as OpenMetrics"));
    table.get("/v1/openapi.json", openapi::document, about("describe", "This document"));
    table.get("/v1/settings", checks::settings, about("settings", "Settings of the answering agent"));
    table.get("/v1/session", session::who, about("who", "Who the caller is"));
    let sign_in = about("signIn", "Sign in: exchange a token for the session cookie");
    table.post("/v1/session", session::sign_in, sign_in.or(&[CONFLICT]));
    table.delete("/v1/session", session::sign_out, about("signOut", "Sign out: remove the session cookie"));
    let slack = about("chat", "A slash command, signed by Slack");
    table.post("/v1/chat/slack", chat::slack, slack.or(&[NOT_SLACK, NOT_FOUND, TOO_MANY_CALLS]));
    let stream = about("stream", "The current documents, and then each change, as Server-Sent Events");
    table.get("/v1/stream", follow::stream, stream.or(&[NOT_FOUND, TOO_MANY_STREAMS]));
}

fn of_builds(table: &mut impl Table) {
    const BUILDS: &str = "/v1/builds/{app}";
    const BAD: &str = "/v1/builds/{app}/{artifact}/bad";
    table.get(BUILDS, lists::builds, about("listBuilds", "Every build of an app").or(&[NOT_FOUND]));
    let build = about("build", "One build, and the commits and files that changed since an earlier one");
    table.get("/v1/builds/{app}/{artifact}", lists::build, build.or(&[NOT_FOUND]));
    let record = about("recordBuild", "Record a build whose archive is in the store, or the state of a CI run");
    table.post(BUILDS, builds::record, record.or(&[CONFLICT]));
    let mark = about("markBad", "Mark a build bad: deploys of it are refused");
    table.post(BAD, marks::mark, mark.or(&[NOT_FOUND, CONFLICT]));
    table.delete(BAD, marks::unmark, about("markGood", "Remove the bad mark").or(&[NOT_FOUND, CONFLICT]));
}

/// What runs, and the history.
fn of_units(table: &mut impl Table) {
    table.get("/v1/apps", lists::apps, about("listApps", "Every app and its groups"));
    table.get("/v1/nodes", lists::nodes, about("listNodes", "Every node of every unit"));
    let statuses = about("statuses", "Status of every group: what runs on each node, and the running deploy");
    table.get("/v1/status", lists::statuses, statuses);
    let status = about("status", "Status of a group: what runs on each node, and the running deploy");
    table.get("/v1/status/{app}/{group}", lists::status, status.or(&[NOT_FOUND]));
    let doctor = about("doctor", "Health check of a group, with every node's own answer");
    table.get("/v1/doctor/{app}/{group}", checks::doctor, doctor.or(&[NOT_FOUND, CONFLICT]));
    let dry_run = about("dryRun", "Dry run of a deploy or rollback; nothing is changed");
    table.get("/v1/dry-run/{app}/{group}", checks::dry_run, dry_run.or(&[NOT_FOUND, CONFLICT]));
    let history = about("listDeploys", "History of requests and actions, with outcomes");
    table.get(UNIT, lists::deploys, history.or(&[NOT_FOUND]));
    let deploy = about("deployOf", "State or outcome of a request");
    table.get("/v1/deploys/{app}/{group}/{epoch}", lists::deploy, deploy.or(&[NOT_FOUND]));
}

/// What callers ask of a group.
fn of_requests(table: &mut impl Table) {
    const REFUSALS: &[Refusal] = &[NOT_FOUND, CONFLICT];
    table.post(UNIT, deploys::deploy, about("deploy", "Request a deploy").or(REFUSALS));
    let abort =
        about("abort", "Abort the running deploy: before the commit no node switches, after it every node reverts");
    table.post("/v1/deploys/{app}/{group}/abort", deploys::abort, abort.or(REFUSALS));
    let rollback = about("rollback", "Request a rollback");
    table.post("/v1/deploys/{app}/{group}/rollback", deploys::rollback, rollback.or(REFUSALS));
    let freeze = about("freeze", "Freeze the group: deploys are refused, rollbacks are allowed");
    table.post("/v1/deploys/{app}/{group}/freeze", deploys::freeze, freeze.or(REFUSALS));
    let unfreeze = about("unfreeze", "Unfreeze the group");
    table.post("/v1/deploys/{app}/{group}/unfreeze", deploys::unfreeze, unfreeze.or(REFUSALS));
}

/// The rows, as the router takes them.
impl Table for Vec<Route> {
    fn add<T: 'static, H: Described<T>>(&mut self, verb: Verb, path: &'static str, handler: H, about: About) {
        self.push(Route::new(verb, path, H::query(), handler).up_to(about.max_body_bytes));
    }
}

/// The router of the table, behind its guard.
pub(super) fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    let user_header = api.settings.proxy.as_ref().map(|proxy| proxy.user_header.clone());
    let shared = Arc::new(pages::Cache::new(user_header));
    let pages = pages::table().into_iter().map(|route| {
        let handler = route.handler.route_layer(from_fn_with_state(Arc::clone(&shared), pages::share));
        Route { handler, ..route }
    });
    let mut rows = Vec::new();
    fill(&mut rows);
    for Route { path, query, handler, .. } in rows.into_iter().chain(pages) {
        let known = move |request: Request, next: Next| only(query, request, next);
        router = router.route(path, handler.route_layer(from_fn(known)));
    }
    router
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&api), guard::check))
        .layer(from_fn(guard::within_limit))
        .layer(from_fn_with_state(Arc::clone(&api), pages::error_page))
        .layer(from_fn(guard::seal))
        .with_state(api)
}

/// Refuses unknown query parameters: a filter with a typo in its name would silently show everything.
async fn only(known: &'static [&'static str], request: Request, next: Next) -> Response {
    let pairs = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let unknown: BTreeSet<String> =
        pairs.map(|(name, _)| name.into_owned()).filter(|name| !known.contains(&name.as_str())).collect();
    let Some(name) = unknown.first() else { return next.run(request).await };
    let hint = match known {
        [] => "this address has no query parameters".to_owned(),
        _ => format!("the parameters are {}", known.join(", ")),
    };
    Problem::usage(format!("unknown query parameter {name:?}"), hint).into_response()
}

async fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "no such address", "GET /v1/openapi.json lists all addresses")
}

async fn wrong_method() -> Problem {
    let (message, hint) = ("this address does not support that method", "the Allow header lists its methods");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message, hint)
}
