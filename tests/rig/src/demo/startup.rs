//! Before and after the steps: starts the fleet and waits until it is ready; prints what to try on it afterwards.

use std::path::Path;

use super::app::NOTHING;
use super::consul_binary::find_consul;
use super::documents::status;
use super::error::DemoError;
use super::evidence::{answers, listed, until};
use super::fleet::{BRANCH, Fleet, UNIT};
use super::print::{Screen, succeeded};
use super::steps::{NEW_SCHEMA, unhealthy_index};
use super::{Options, http};

/// Starts the fleet, from Consul to the agents.
///
/// # Errors
///
/// [`DemoError`] names what cannot be started.
///
/// # Cancel safety
///
/// Safe: what was started is killed, or in `place`.
pub(super) async fn start<'a>(
    options: &Options,
    dir: &Path,
    place: &'a mut Option<Fleet>,
    screen: &mut Screen,
) -> Result<&'a mut Fleet, DemoError> {
    let bin = find_consul().await?;
    screen.begin("consul", &bin.display().to_string())?;
    let fleet = place.insert(Fleet::start(dir, bin, options.nodes, options.store).await?);
    let names: Vec<String> = fleet.members().iter().map(|member| member.name.clone()).collect();
    let roles =
        names.iter().enumerate().map(|(i, name)| if i == 0 { format!("{name} (server)") } else { name.clone() });
    screen.end(&format!("{} see each other", roles.collect::<Vec<_>>().join(" ")))?;

    screen.begin("apps", "an HTTP server on each node, which loads `current` at start and on SIGHUP")?;
    fleet.start_apps()?;
    let answered = until(fleet, screen.step(), "every app answers", async |fleet: &Fleet| {
        let answers = answers(fleet.members()).await;
        if answers.iter().all(|(_, answer)| answer == NOTHING) { Ok(answers) } else { Err(listed(&answers)) }
    });
    let answered = answered.await?;
    screen.end(&listed(&answered))?;

    screen.begin("agents", &format!("`cutover agent` on each node, its store {}", fleet.store().shown()))?;
    fleet.start_agents()?;
    let ready = until(fleet, screen.step(), "every agent is ready", async |fleet: &Fleet| {
        for member in fleet.members() {
            let answer = http::get(&format!("{}/v1/health/ready", member.agent_url())).await?;
            if !answer.status.is_success() {
                return Err(format!("{} answers {} {}", member.name, answer.status, answer.text));
            }
        }
        Ok(())
    });
    ready.await?;
    let coordinator = until(fleet, screen.step(), "all are alive, and one coordinates", async |fleet: &Fleet| {
        let status = status(fleet).await?;
        let alive = status.nodes.iter().filter(|node| node.state == "alive").count();
        match status.coordinator {
            Some(name) if alive == fleet.members().len() => Ok(name),
            name => Err(format!("{alive} nodes are alive, {} coordinates", name.as_deref().unwrap_or("nobody"))),
        }
    });
    let coordinator = coordinator.await?;
    let ready: Vec<String> = names.iter().map(|name| succeeded(name)).collect();
    screen.end(&format!("{}  registered and ready; {coordinator} coordinates", ready.join("  ")))?;
    Ok(fleet)
}

/// Prints what to try while everything runs.
///
/// # Errors
///
/// [`DemoError::Print`].
///
/// # Cancel safety
///
/// Safe.
pub(super) async fn print_invitation(fleet: &Fleet, screen: &Screen) -> Result<(), DemoError> {
    let commands = fleet.commands();
    let cutover = commands.cutover.display();
    screen.plain("\nEverything is left running until Ctrl-C. In another terminal:\n")?;
    for (name, value) in &commands.variables {
        screen.plain(&format!("  export {name}={value}"))?;
    }
    screen.plain(&format!("  {cutover} status {UNIT}"))?;
    if let Some(member) = fleet.members().get(unhealthy_index(fleet.members())) {
        let schema = member.shared().join("schema.txt");
        screen.plain(&format!("  echo {NEW_SCHEMA} > {}     # what build 4 needs", schema.display()))?;
    }
    let consul = commands.consul.display();
    screen.plain(&format!("  {consul} kv put cutover/{UNIT}/deploy {BRANCH}     # build 4 again"))?;
    screen.plain(&format!("  {cutover} status {UNIT} --follow"))?;
    for member in fleet.members() {
        if let Some(url) = member.app_url() {
            screen.plain(&format!("  curl {url}     # the app on {}", member.name))?;
        }
    }
    screen.plain(&format!("  {cutover} rollback {UNIT}"))?;
    screen.plain(&format!("  {cutover} history {UNIT}"))?;
    let page = fleet.members().first().map(|member| format!("{}/", member.agent_url()));
    if let Some(page) = page
        && http::get(&page).await.is_ok_and(|answer| answer.status.is_success())
    {
        screen.plain(&format!("\nThe web page: {page}"))?;
    }
    screen.plain("")
}
