//! `cutover builds`.

use crate::cli::args::Builds;
use crate::cli::context::Context;
use crate::cli::exit::{CliError, ExitCode};
use crate::cli::output::{self, Format};
use crate::cli::view;
use crate::document::BuildsDocument;

/// Prints every build of an app.
///
/// # Errors
///
/// Exit code 3 for an app without builds.
pub async fn run(context: &Context, args: &Builds) -> Result<ExitCode, CliError> {
    let (app, keys) = (&args.app, &context.keys);
    let mut entries = context.kv.entries(&keys.builds(app)).await?;
    entries.append(&mut context.kv.entries(&keys.runs(app)).await?);
    entries.append(&mut context.kv.entries(&keys.bad_marks(app)).await?);
    if entries.is_empty() {
        let error = CliError::new(ExitCode::NotFound, format!("no build of {app} is recorded"));
        return Err(
            error.hint(format!("`cutover publish --app {app}` makes one; does the token read {}?", keys.builds(app)))
        );
    }
    for unit in context.units().await?.into_iter().filter(|unit| unit.app == *app) {
        entries.append(&mut context.kv.entries(&keys.unit(&unit).nodes()).await?);
    }
    let document = BuildsDocument::build(app, keys, &entries);
    output::result(&match context.format {
        Format::Text => view::builds(&document),
        Format::Json => output::json(&document)?,
    })?;
    Ok(ExitCode::Done)
}
