//! Registers the unit in Consul: an instance of the service `cutover` with the agent's check, and a release check on
//! the app's own service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::health::Health;
use crate::agent::daemon::context::{Context, GOODBYE};
use crate::consul::{Check, CheckStatus, Error, Service};
use crate::control::recover::AGENT_STOPPED;
use crate::telemetry::chain;

/// How often the agent's own check is renewed.
const BEAT: Duration = Duration::from_secs(10);
/// How long the agent's own check stays passing without renewal: three beats.
const TTL: Duration = Duration::from_secs(30);
/// The TTL of the release check, 10 years: the check keeps its last status while the agent is stopped.
const FOR_GOOD: Duration = Duration::from_hours(10 * 365 * 24);

/// Updates the checks until shutdown.
pub(crate) async fn keep(ctx: Arc<Context>) {
    let mut health = ctx.published.health.clone();
    // After a restart the checks keep their last status until the node has read its own state.
    tokio::select! {
        () = ctx.agent.shutdown.cancelled() => return,
        _ = health.wait_for(|health| *health != Health::default()) => {}
    }
    let mut troubles = ctx.troubles.subscribe();
    let mut tick = tokio::time::interval(BEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_registered = false;
    // Whether the last update of the release check succeeded: repeated failures are logged once.
    let mut is_followed = true;
    loop {
        let due = troubles.borrow().due(Instant::now());
        tokio::select! {
            () = ctx.agent.shutdown.cancelled() => break,
            _ = tick.tick() => {}
            Ok(()) = health.changed() => {}
            Ok(()) = troubles.changed() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        let now = health.borrow_and_update().clone();
        let own = now.clone().with(troubles.borrow_and_update().complaint(Instant::now()));
        let beating = async {
            if !is_registered {
                register(&ctx, &own).await?;
            }
            beat(&ctx, &own).await
        };
        let beaten = tokio::select! {
            () = ctx.agent.shutdown.cancelled() => break,
            beaten = beating => beaten,
        };
        if let Err(error) = &beaten {
            let (unit, error) = (&ctx.unit, chain(error));
            tracing::debug!(%unit, error, "{unit}: {} cannot update the agent's check in Consul: {error}", ctx.agent.node);
        }
        // A failed update registers the service again: a Consul agent that restarted without its data has lost it.
        is_registered = beaten.is_ok();
        let Some(service) = &ctx.settings.service else { continue };
        // A failure here does not register the service again: that writes to Consul's catalog and would not help.
        let followed = tokio::select! {
            () = ctx.agent.shutdown.cancelled() => break,
            followed = follow_service(&ctx, service, &now) => followed,
        };
        if let Err(error) = &followed
            && is_followed
        {
            let (unit, error) = (&ctx.unit, chain(error));
            tracing::warn!(%unit, service, error, "{unit}: {} cannot update the check on the service {service}: {error}", ctx.agent.node);
        }
        is_followed = followed.is_ok();
    }
    // Only the agent's own check: the release check does not depend on the agent.
    let id = own_check(&ctx);
    let goodbye = ctx.agent.consul.check_update(&id, CheckStatus::Critical, AGENT_STOPPED);
    let _best_effort = tokio::time::timeout(GOODBYE, goodbye).await;
}

fn service_id(ctx: &Context) -> String {
    format!("cutover-{}-{}", ctx.unit.app, ctx.unit.group)
}

fn own_check(ctx: &Context) -> String {
    format!("service:{}", service_id(ctx))
}

/// Registers the unit as an instance of the service `cutover`, with the agent's own check.
async fn register(ctx: &Context, health: &Health) -> Result<(), Error> {
    let check = Check {
        id: own_check(ctx),
        name: format!("Cutover {}", ctx.unit),
        notes: "passing: the agent is alive and the node runs the committed release".to_owned(),
        ttl: TTL,
        status: health.status,
    };
    ctx.agent
        .consul
        .service_register(&Service {
            id: service_id(ctx),
            name: "cutover".to_owned(),
            tags: vec![ctx.unit.to_string()],
            meta: BTreeMap::from([("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
            port: None,
            check,
        })
        .await
}

/// Updates the agent's own check.
async fn beat(ctx: &Context, health: &Health) -> Result<(), Error> {
    ctx.agent.consul.check_update(&own_check(ctx), health.status, &health.output).await
}

/// Keeps a release check on every instance of the app's service on this node.
async fn follow_service(ctx: &Context, service: &str, health: &Health) -> Result<(), Error> {
    let status = if health.is_behind { CheckStatus::Critical } else { CheckStatus::Passing };
    let checks = ctx.agent.consul.agent_checks().await?;
    for (service_id, _) in ctx.agent.consul.agent_services().await?.iter().filter(|(_, found)| found.name == service) {
        let id = format!("cutover-release:{}-{}:{service_id}", ctx.unit.app, ctx.unit.group);
        let known = checks.get(&id);
        if known.is_none() {
            let check = Check {
                id: id.clone(),
                name: format!("release of {}", ctx.unit),
                notes: "critical only while the node knows of a committed release that it does not run".to_owned(),
                ttl: FOR_GOOD,
                status,
            };
            ctx.agent.consul.check_register(&check, Some(service_id)).await?;
        }
        if known.is_none_or(|known| known.status != status || known.output != health.output) {
            ctx.agent.consul.check_update(&id, status, &health.output).await?;
        }
    }
    Ok(())
}
