//! `model`: the command line of the model check.

use super::report::{self, Extent};

/// For `--help`.
pub(crate) const HELP: &str = "\
  model [--whole] [NAME]   every way in which a small fleet can go, within a budget of faults;
                           --whole: the larger configurations too; NAME: only those whose names hold it
  model rules              takes each rule out of the protocol, and finds what that breaks
";

/// Runs the command. Returns whether all is well.
///
/// # Errors
///
/// A problem with the arguments.
pub(crate) fn model(args: &[String]) -> Result<bool, String> {
    if args == ["rules"] {
        return Ok(report::print_rules());
    }
    let mut extent = Extent::Short;
    let mut name = "";
    for arg in args {
        match arg.as_str() {
            "--whole" => extent = Extent::Whole,
            option if option.starts_with('-') => return Err(format!("model has no option {option}; see --help")),
            text => name = text,
        }
    }
    Ok(report::print_configurations(extent, name))
}
