//! `cutover recover`: shows the damage to a group's keys, asks for confirmation, and rebuilds them from what the nodes run.

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

/// Shows the damage, and rebuilds the keys from what the nodes run.
///
/// # Errors
///
/// Exit code 3 for a group without keys and agents, or a `--to` that no node runs; 6 if the keys changed meanwhile; 1 if
/// a newer Cutover wrote them.
pub(crate) async fn run(context: &Context, args: &Recover) -> Result<Code, Failure> {
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
    output::say(&format!("{}  deploy #{} is written", args.unit, barrier.epoch));
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

/// Asks for confirmation on a terminal, and requires `--yes` elsewhere. Returns none to continue, else the exit code.
fn confirmed(context: &Context, args: &Recover, plan: &RecoverDocument) -> Result<Option<Code>, Failure> {
    let code = Code::Refused;
    if args.yes {
        output::say(view::plan(plan).trim_end());
        return Ok(None);
    }
    let headline = if std::io::stdin().is_terminal() && output::talks_to_terminal() {
        output::say(view::plan(plan).trim_end());
        output::ask(&format!("Rebuild the state of {} like this? [y/N] ", plan.unit))?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(None);
        }
        "nothing was changed: not confirmed".to_owned()
    } else {
        format!("nothing was changed: to write this, run `cutover recover {} --yes`", plan.unit)
    };
    print(context, &RecoverDocument { headline, code: code as u8, ..plan.clone() })?;
    Ok(Some(code))
}
