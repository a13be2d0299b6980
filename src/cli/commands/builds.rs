//! `cutover builds`.

use crate::cli::args::Builds;
use crate::cli::context::Context;
use crate::cli::output::{self, Format};
use crate::cli::view;
use crate::control::{Code, Failure, read};

/// Prints every build of an app.
///
/// # Errors
///
/// Exit code 3 if the app has no builds.
pub(crate) async fn run(context: &Context, args: &Builds) -> Result<Code, Failure> {
    let document = read::builds(&context.access, &args.app).await?;
    output::result(&match context.format {
        Format::Text => view::builds(&document),
        Format::Json => output::json(&document)?,
    })?;
    Ok(Code::Done)
}
