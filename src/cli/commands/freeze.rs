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

/// What stands in the key now.
#[derive(Serialize)]
struct Standing<'a> {
    unit: &'a Unit,
    /// Whether a freeze was lifted by this.
    lifted: bool,
    /// The freeze that holds; none: deploys go.
    freeze: Option<record::Freeze>,
}

/// Freezes a group, over a freeze that stands.
///
/// # Errors
///
/// Exit code 2 for a time that is over, 3 for a unit without keys, 6 where somebody else wrote the key at the same moment.
pub async fn freeze(context: &Context, args: &Freeze) -> Result<Code, Failure> {
    let (unit, now) = (&args.unit, Timestamp::now());
    let until = args.until.map(|until| until.moment(now)).transpose();
    let until = until.map_err(|why| Failure::new(Code::Usage, format!("--until: {why}")))?;
    let freeze = operate::freeze(&context.access, unit, &author(&args.reason), until, now).await?;
    let how_long = until.map_or("until somebody unfreezes it".to_owned(), |until| format!("until {}", moment(until)));
    let text = format!("frozen: {unit} {how_long}; `cutover unfreeze {unit}` lifts it, a rollback goes all the same");
    print(context, &Standing { unit, lifted: false, freeze: Some(freeze) }, &text)
}

/// Lifts the freeze of a group. That there was none is as good.
///
/// # Errors
///
/// As [`freeze`].
pub async fn unfreeze(context: &Context, args: &Unfreeze) -> Result<Code, Failure> {
    let unit = &args.unit;
    let was_frozen = operate::unfreeze(&context.access, unit, &author(&args.reason), Timestamp::now()).await?;
    let how = if was_frozen { "not frozen any more" } else { "was not frozen" };
    print(context, &Standing { unit, lifted: was_frozen, freeze: None }, &format!("{unit} {how}: deploys go"))
}

fn print(context: &Context, standing: &Standing<'_>, text: &str) -> Result<Code, Failure> {
    output::result(&match context.format {
        Format::Text => clean(text) + "\n",
        Format::Json => output::json(standing)?,
    })?;
    Ok(Code::Done)
}
