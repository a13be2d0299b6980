//! `cutover completions` and `cutover man`: generated from the argument definitions, so they are always complete.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man as Page;

use crate::cli::args::{Args, Completions, Man};
use crate::cli::output;
use crate::control::{Code, Failure};

/// Prints the shell's script.
///
/// # Errors
///
/// Exit code 1 if stdout cannot be written.
pub(crate) fn print(args: Completions) -> Result<Code, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "cutover", &mut script);
    output::result(&String::from_utf8_lossy(&script))?;
    Ok(Code::Done)
}

/// Prints the main page, or writes one page per command.
///
/// # Errors
///
/// Exit code 1 if a page cannot be written.
pub(crate) fn man(args: &Man) -> Result<Code, Failure> {
    let mut command = with_every_help(Args::command());
    command.build();
    let Some(dir) = &args.dir else {
        let page = render(&Page::new(command))?;
        output::result(&String::from_utf8_lossy(&page))?;
        return Ok(Code::Done);
    };
    let failed = |path: &Path, error: io::Error| {
        Failure::new(Code::Failed, format!("cannot write {}", path.display())).caused_by(error)
    };
    fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let mut open = vec![command];
    let mut written = Vec::new();
    while let Some(command) = open.pop() {
        let is_shown = |child: &&Command| !child.is_hide_set() && child.get_name() != "help";
        open.extend(command.get_subcommands().filter(is_shown).cloned());
        let page = Page::new(command);
        let path = dir.join(page.get_filename());
        fs::write(&path, render(&page)?).map_err(|error| failed(&path, error))?;
        written.push(path.display().to_string());
    }
    written.sort_unstable();
    output::result(&(written.join("\n") + "\n"))?;
    Ok(Code::Done)
}

/// Shows all flags: `-h` hides Consul's flags for brevity, the manual page does not.
fn with_every_help(command: Command) -> Command {
    command.mut_args(|arg| arg.hide_short_help(false)).mut_subcommands(with_every_help)
}

fn render(page: &Page) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok(text)
}
