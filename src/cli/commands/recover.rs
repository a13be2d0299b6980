//! `cutover recover`: shows what is wrong with a unit's keys, asks, and begins a new era with what the nodes run.

use std::io::IsTerminal as _;

use tokio::time::Instant;

use crate::cli::args::Recover;
use crate::cli::context::Context;
use crate::cli::origin;
use crate::cli::output::{self, Format};
use crate::cli::view;
use crate::control::recover::{Plan, Survey};
use crate::control::{Code, Failure};
use crate::document::RecoverDocument;
use crate::protocol::record::Author;

/// Shows what is wrong, and begins again from what the nodes run.
///
/// # Errors
///
/// Exit code 3 for a unit that has neither keys nor agents, or a `--to` that no node runs; 6 where the keys were written
/// meanwhile; 1 where they are of a newer Cutover.
pub async fn run(context: &Context, args: &Recover) -> Result<Code, Failure> {
    let deadline = Instant::now() + args.timeout;
    let survey = Survey::read(&context.access, &args.unit, deadline).await?;
    let (barrier, document) = match survey.plan(args.to.as_deref())? {
        Plan::Begin { barrier, document } => (barrier, document),
        Plan::End { document, code } => {
            print(context, &document)?;
            return Ok(code);
        }
    };
    if let Some(code) = confirmed(context, args, &document)? {
        return Ok(code);
    }
    let author = Author {
        by: origin::user(|name| std::env::var(name).ok()),
        via: "cli".to_owned(),
        reason: args.reason.clone(),
        id: String::new(),
    };
    survey.write(&context.access, &barrier, &author).await?;
    output::say(&format!("{}  epoch {} is written", args.unit, barrier.epoch));
    let followed = survey.follow(&context.access, document, deadline, |document, node| {
        output::say(&view::followed(document, node));
    });
    let (document, code) = followed.await?;
    print(context, &document)?;
    Ok(code)
}

fn print(context: &Context, document: &RecoverDocument) -> Result<(), Failure> {
    Ok(output::result(&match context.format {
        Format::Text => view::recover(document),
        Format::Json => output::json(document)?,
    })?)
}

/// Asks on a terminal, and elsewhere demands `--yes`. None: go on; else the code to end with.
fn confirmed(context: &Context, args: &Recover, plan: &RecoverDocument) -> Result<Option<Code>, Failure> {
    let code = Code::Refused;
    if args.yes {
        output::say(view::plan(plan).trim_end());
        return Ok(None);
    }
    let headline = if std::io::stdin().is_terminal() && output::talks_to_terminal() {
        output::say(view::plan(plan).trim_end());
        output::ask(&format!("Begin {} again with this? [y/N] ", plan.unit))?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(None);
        }
        "nothing was changed".to_owned()
    } else {
        format!("nothing was changed yet: this would be written by `cutover recover {} --yes`", plan.unit)
    };
    print(context, &RecoverDocument { headline, code: code as u8, ..plan.clone() })?;
    Ok(Some(code))
}
