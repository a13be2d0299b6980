//! `cutover freeze` and `cutover unfreeze`.

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::args::{Freeze, Unfreeze};
use crate::cli::context::Context;
use crate::cli::output::{self, Format, clean};
use crate::cli::request::author;
use crate::control::{Code, Failure, operate};
use crate::document::moment;
use crate::protocol::ids::Unit;
use crate::protocol::record;

/// The result: whether the group is frozen now.
#[derive(Serialize)]
struct FreezeDocument<'a> {
    unit: &'a Unit,
    /// Whether this command lifted a freeze.
    lifted: bool,
    /// The current freeze; none if deploys are allowed.
    freeze: Option<record::Freeze>,
}

/// Freezes a group. Replaces an existing freeze.
///
/// # Errors
///
/// Exit code 2 for a time in the past, 3 for a group without keys, 6 if another client wrote the key at the same moment.
pub(crate) async fn freeze(context: &Context, args: &Freeze) -> Result<Code, Failure> {
    let (unit, now) = (&args.unit, Timestamp::now());
    let until = args.until.map(|until| until.moment(now)).transpose();
    let until = until.map_err(|why| Failure::new(Code::Usage, format!("--until: {why}")))?;
    let freeze = operate::freeze(&context.access, unit, &author(&args.reason), until, now).await?;
    let how_long = until.map_or("until someone unfreezes it".to_owned(), |until| format!("until {}", moment(until)));
    let text =
        format!("frozen: {unit} {how_long}; rollbacks are still allowed, `cutover unfreeze {unit}` lifts the freeze");
    print(context, &FreezeDocument { unit, lifted: false, freeze: Some(freeze) }, &text)
}

/// Lifts the freeze of a group. Succeeds also if there was none.
///
/// # Errors
///
/// As [`freeze`].
pub(crate) async fn unfreeze(context: &Context, args: &Unfreeze) -> Result<Code, Failure> {
    let unit = &args.unit;
    let was_frozen = operate::unfreeze(&context.access, unit, &author(&args.reason), Timestamp::now()).await?;
    let how = if was_frozen { "is no longer frozen" } else { "was not frozen" };
    print(
        context,
        &FreezeDocument { unit, lifted: was_frozen, freeze: None },
        &format!("{unit} {how}: deploys are allowed"),
    )
}

fn print(context: &Context, document: &FreezeDocument<'_>, text: &str) -> Result<Code, Failure> {
    output::result(&match context.format {
        Format::Text => clean(text) + "\n",
        Format::Json => output::json(document)?,
    })?;
    Ok(Code::Done)
}
