//! `cutover status`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::args::StatusArgs;
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::view;
use crate::control::feeds::Feeds;
use crate::control::{Code, Failure, read};
use crate::document::StatusDocument;
use crate::protocol::ids::Unit;

/// How long changes are collected before they are printed. When a group switches, many arrive at once.
const GATHER: Duration = Duration::from_millis(100);
/// Moves the cursor to the upper left corner and clears the screen below it: ECMA-48 CUP and ED.
const REDRAW: &str = "\u{1b}[H\u{1b}[J";

/// Prints one group or all groups, once, or at each change until Ctrl-C.
///
/// # Errors
///
/// Exit code 3 if there is no such group, or no group at all.
pub(crate) async fn run(context: &Context, args: &StatusArgs) -> Result<Code, Failure> {
    let units = match &args.unit {
        Some(unit) => vec![unit.clone()],
        None => context.access.units().await?,
    };
    if units.is_empty() {
        let what = format!("there are no groups under {}", context.access.keys.prefix());
        return Err(Failure::new(Code::NotFound, what)
            .hint("a group appears when its first agent starts; check --prefix, and whether the token may read it"));
    }
    if args.follow {
        return follow(context, &units).await;
    }
    let documents = match &args.unit {
        Some(unit) => vec![read::status(&context.access, unit).await?],
        None => read::statuses(&context.access, &units).await?,
    };
    output::result(&match context.format {
        Format::Text => text(&documents),
        Format::Json if args.unit.is_some() => output::json(&documents.first())?,
        Format::Json => output::json(&documents)?,
    })?;
    Ok(Code::Done)
}

fn text(documents: &[StatusDocument]) -> String {
    documents.iter().map(view::status).collect::<Vec<_>>().join("\n")
}

/// Prints each change. The feeds only signal that something changed; the document is always read again.
async fn follow(context: &Context, units: &[Unit]) -> Result<Code, Failure> {
    let mut feeds = Feeds::open(&context.access, units.iter().flat_map(|unit| read::watched(&context.access, unit)));
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let mut shown: BTreeMap<Unit, StatusDocument> = BTreeMap::new();
    loop {
        tokio::select! {
            change = feeds.next() => { change?; }
            _ = &mut interrupt => return Ok(Code::Done),
        }
        feeds.drain_for(GATHER).await?;
        let documents = read::statuses(&context.access, units).await?;
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
