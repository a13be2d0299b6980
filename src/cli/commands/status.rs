//! `cutover status`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::args::StatusArgs;
use crate::cli::context::Context;
use crate::cli::exit::{CliError, ExitCode};
use crate::cli::feeds::Feeds;
use crate::cli::output::{self, Format};
use crate::cli::request::now;
use crate::cli::view;
use crate::document::StatusDocument;
use crate::protocol::ids::Unit;

/// How long changes are gathered before they are shown: a switch of a fleet is many of them at once.
const GATHER: Duration = Duration::from_millis(100);
/// Moves to the upper left corner and clears what is below: ECMA-48 CUP and ED.
const REDRAW: &str = "\u{1b}[H\u{1b}[J";

/// Prints one unit or all of them, once or at each change until Ctrl-C.
///
/// # Errors
///
/// Exit code 3 where there is no such unit, or none at all.
pub async fn run(context: &Context, args: &StatusArgs) -> Result<ExitCode, CliError> {
    let units = match &args.unit {
        Some(unit) => vec![unit.clone()],
        None => context.units().await?,
    };
    if units.is_empty() {
        let what = format!("nothing is deployed under {}", context.keys.prefix());
        return Err(CliError::new(ExitCode::NotFound, what)
            .hint("units appear when their first agent starts; is the prefix right, and may the token read it?"));
    }
    if args.follow {
        return follow(context, &units).await;
    }
    let documents = read_all(context, &units).await?;
    if let (Some(unit), true) = (&args.unit, documents.is_empty()) {
        // Read by itself the key tells a missing right from a missing unit; a list hides the difference.
        context.kv.entry(&context.keys.unit(unit).deploy()).await?;
        return Err(context.unknown(unit).await);
    }
    output::result(&match context.format {
        Format::Text => text(&documents),
        Format::Json if args.unit.is_some() => output::json(&documents.first())?,
        Format::Json => output::json(&documents)?,
    })?;
    Ok(ExitCode::Done)
}

fn text(documents: &[StatusDocument]) -> String {
    documents.iter().map(view::status).collect::<Vec<_>>().join("\n")
}

/// The keys of a unit that its document is made of, but for the members' list.
fn watched(context: &Context, unit: &Unit) -> [String; 7] {
    let keys = context.keys.unit(unit);
    [keys.barrier(), keys.nodes(), keys.acks(), keys.status(), keys.deploy(), keys.freeze(), keys.coordinator()]
}

/// One unit; none without keys.
async fn read(context: &Context, unit: &Unit) -> Result<Option<StatusDocument>, CliError> {
    let keys = context.keys.unit(unit);
    let mut entries = context.kv.at_one_moment(&watched(context, unit)).await?;
    if entries.is_empty() {
        return Ok(None);
    }
    // The list never changes once the barrier names its epoch.
    let epoch = StatusDocument::build(unit, &keys, &entries, now()).epoch;
    if let Some(key) = epoch.map(|epoch| keys.members(epoch))
        && let Some(entry) = context.kv.entry(&key).await?
    {
        entries.insert(key, entry);
    }
    Ok(Some(StatusDocument::build(unit, &keys, &entries, now())))
}

async fn read_all(context: &Context, units: &[Unit]) -> Result<Vec<StatusDocument>, CliError> {
    let mut documents = Vec::with_capacity(units.len());
    for unit in units {
        documents.extend(read(context, unit).await?);
    }
    Ok(documents)
}

/// Shows each change; the feeds are doorbells, and what is shown is always read anew.
async fn follow(context: &Context, units: &[Unit]) -> Result<ExitCode, CliError> {
    let mut feeds = Feeds::open(&context.kv, units.iter().flat_map(|unit| watched(context, unit)));
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let mut shown: BTreeMap<Unit, StatusDocument> = BTreeMap::new();
    loop {
        tokio::select! {
            change = feeds.next() => { change?; }
            _ = &mut interrupt => return Ok(ExitCode::Done),
        }
        feeds.drain_for(GATHER).await?;
        let documents = read_all(context, units).await?;
        let changed: Vec<_> = documents.iter().filter(|d| shown.get(&d.unit) != Some(d)).cloned().collect();
        if changed.is_empty() {
            continue;
        }
        match context.format {
            Format::Text if output::prints_to_terminal() => {
                output::result(&format!("{REDRAW}{}", text(&documents)))?;
            }
            Format::Text => {
                for document in &changed {
                    output::result(&(view::status_line(document) + "\n"))?;
                }
            }
            Format::Json => {
                for document in &changed {
                    output::result(&output::json_line(document)?)?;
                }
            }
        }
        shown.extend(changed.into_iter().map(|d| (d.unit.clone(), d)));
    }
}
