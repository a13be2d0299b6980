//! `cutover node forget`: stops waiting for a node that will not come back.

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::args::Forget;
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::request::author;
use crate::control::{Code, Failure, forget as forgetting};
use crate::protocol::ids::{Node, Unit};

/// What `--output json` prints.
#[derive(Debug, Serialize)]
struct ForgetDocument<'a> {
    node: &'a Node,
    units: Vec<Unit>,
}

/// Marks a node as one that will not come back.
///
/// # Errors
///
/// Exit code 3 if no group has the node, 4 if the node is alive, 6 if it came back at the same moment, 7 if the token may
/// not do this.
pub(super) async fn run(context: &Context, args: &Forget) -> Result<Code, Failure> {
    let author = author(&args.reason);
    let now = Timestamp::now();
    let units = forgetting::forget(&context.access, &args.node, args.unit.as_ref(), &author, now).await?;
    let text = match context.format {
        Format::Json => output::json(&ForgetDocument { node: &args.node, units })?,
        Format::Text => units.iter().fold(String::new(), |text, unit| {
            text + &format!("{unit}  {} is forgotten: deploys no longer wait for it, until it comes back\n", args.node)
        }),
    };
    output::result(&text)?;
    Ok(Code::Done)
}
