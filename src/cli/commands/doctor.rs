//! `cutover doctor`: checks from this machine, and the answers of every node about itself.

use std::io::IsTerminal as _;

use crate::cli::args::{Doctor, StoreArgs};
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::request::author;
use crate::cli::store::locate;
use crate::cli::view;
use crate::config;
use crate::control::{Code, Failure, doctor};
use crate::document::DoctorDocument;
use crate::protocol::ids::Unit;
use crate::protocol::record::{Finding, Mark};
use crate::telemetry::chain;

/// Checks everything, queries the nodes, and prints the findings. Returns 1 if there is a problem.
///
/// # Errors
///
/// Exit code 2 for invalid settings, 6 if another command is querying the nodes. An unreachable Consul is a finding, and
/// gives exit code 1.
pub(crate) async fn run(context: &Context, args: &Doctor) -> Result<Code, Failure> {
    let access = &context.access;
    let mut here = doctor::consul(access).await;
    let asked = units_to_ask(context, args).await;
    here.extend(store(&args.store, asked.as_ref().ok().and_then(|units| units.first())).await?);
    let mut units = Vec::new();
    match asked {
        Ok(asked) => {
            if std::io::stderr().is_terminal() && !asked.is_empty() {
                output::say("querying every node");
            }
            for unit in &asked {
                units.push(doctor::unit(access, unit, &author(""), args.timeout).await?);
            }
            if asked.is_empty() {
                let says = format!("there is no group under {}", access.keys.prefix());
                let remedy =
                    "a group appears when its first agent starts; check --prefix, and whether the token may read it";
                here.push(Finding::new("units", Mark::Note, &says).remedy(remedy));
            }
        }
        Err(error) => {
            let remedy = error.hint.clone().unwrap_or_default();
            here.push(Finding::new("units", Mark::Bad, &error.chain()).remedy(&remedy));
        }
    }
    let document = DoctorDocument::of(here, units, (Code::Done as u8, Code::Failed as u8));
    output::result(&match context.format {
        Format::Text => view::doctor(&document),
        Format::Json => output::json(&document)?,
    })?;
    Ok(if document.well { Code::Done } else { Code::Failed })
}

async fn units_to_ask(context: &Context, args: &Doctor) -> Result<Vec<Unit>, Failure> {
    match &args.unit {
        Some(unit) => Ok(vec![unit.clone()]),
        None => context.access.units().await,
    }
}

/// Checks the store from this machine, if one is configured. Every node checks its own store. Credentials may be limited to the
/// objects of one app (`cutover iam-policy --app`), so it asks for one of the app of `unit`.
async fn store(args: &StoreArgs, unit: Option<&Unit>) -> Result<Vec<Finding>, Failure> {
    let about = "store";
    let is_named = args.store.is_some() || args.config.is_some();
    if !is_named && !tokio::fs::try_exists(config::DEFAULT_PATH).await.unwrap_or(false) {
        let says =
            "not checked from this machine: set --store, CUTOVER_STORE or --config; every node checks its own store";
        return Ok(vec![Finding::new(about, Mark::Note, says)]);
    }
    let bad =
        |says: &str| Finding::new(about, Mark::Bad, says).remedy("check --store, and the credentials of the AWS tools");
    let store = match locate(args).await {
        Ok(location) => location.open().await,
        // The default config belongs to the agent, and the user may not be allowed to read it. That is no problem.
        Err(error) if !is_named => return Ok(vec![Finding::new(about, Mark::Note, &error.chain())]),
        Err(error) => return Err(error),
    };
    let store = match store {
        Ok(store) => store,
        Err(error) => return Ok(vec![bad(&error.chain())]),
    };
    // Asks for an object that is never published. Only the answer matters, not whether the object exists.
    let app = unit.map_or("cutover", |unit| unit.app.as_str());
    let key = store.key_below(&format!("{app}/doctor-00000000.tar.gz"));
    let found = match store.head(&key).await {
        Ok(_) => Finding::new(about, Mark::Good, "reachable from this machine"),
        Err(error) => bad(&chain(&error)),
    };
    let ignored = store.notes().iter().map(|note| Finding::new(about, Mark::Note, note));
    Ok([found].into_iter().chain(ignored).collect())
}
