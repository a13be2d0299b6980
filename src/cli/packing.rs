//! What `cutover publish` decides around an archive: modification times, what was left out, whether it may be empty.

use std::path::Path;

use crate::artifact::{LeftOut, Mtimes};
use crate::control::{Code, Failure};

/// The variable with the time of a build, in seconds since 1970 (reproducible-builds.org).
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The latest accepted time: the end of the year 9999.
const LATEST_SECS: u64 = 253_402_300_799;

/// The modification times of a packed directory, and where they come from.
pub(crate) struct ChosenMtimes {
    pub(crate) mtimes: Mtimes,
    /// What the user should know.
    pub(crate) note: Option<String>,
}

/// Chooses the modification times: the commit's time if git has it, else `SOURCE_DATE_EPOCH`, else each file's own.
///
/// # Errors
///
/// Exit code 2 if `SOURCE_DATE_EPOCH` is needed and is no time.
pub(crate) fn mtimes(commit_secs: Option<u64>, env: impl Fn(&str) -> Option<String>) -> Result<ChosenMtimes, Failure> {
    if let Some(secs) = commit_secs {
        return Ok(ChosenMtimes { mtimes: Mtimes::All(secs), note: None });
    }
    if let Some(text) = env(SOURCE_DATE_EPOCH).filter(|text| !text.is_empty()) {
        let secs = text.parse().ok().filter(|secs| *secs <= LATEST_SECS && text.bytes().all(|b| b.is_ascii_digit()));
        let Some(secs) = secs else {
            let what = format!("{SOURCE_DATE_EPOCH} is {text:?}, which is no time");
            return Err(
                Failure::new(Code::Usage, what).hint("set it to the seconds since 1970, for example 1700000000")
            );
        };
        let note = format!("every file gets the time of {SOURCE_DATE_EPOCH}, {secs}");
        return Ok(ChosenMtimes { mtimes: Mtimes::All(secs), note: Some(note) });
    }
    let note = format!(
        "note: git does not know the commit's time, so every file keeps its own; a retry from a fresh checkout has other bytes \
         (set {SOURCE_DATE_EPOCH} for the same bytes)"
    );
    Ok(ChosenMtimes { mtimes: Mtimes::Own, note: Some(note) })
}

/// The paths that were left out, in one line.
pub(crate) fn left_out(left_out: &LeftOut) -> Option<String> {
    let listed: Vec<String> = left_out.listed.iter().map(|path| path.display().to_string()).collect();
    let more = left_out.count.saturating_sub(listed.len() as u64);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    let has_git = left_out.listed.iter().any(|path| path == Path::new(".git"));
    let how = if has_git { " (--with-git packs .git)" } else { "" };
    (!listed.is_empty()).then(|| format!("left out: {}{more}{how}", listed.join(", ")))
}

/// Refuses an archive without entries.
///
/// # Errors
///
/// Exit code 1.
pub(crate) fn check_not_empty(entries: u64, source: &Path) -> Result<(), Failure> {
    if entries > 0 {
        return Ok(());
    }
    let what = format!("nothing was published: {} has nothing to deploy", source.display());
    Err(Failure::new(Code::Failed, what).hint("check the step that makes the build; --allow-empty publishes it anyway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(commit_secs: Option<u64>, variable: Option<&str>) -> Result<Mtimes, Failure> {
        mtimes(commit_secs, |name| (name == SOURCE_DATE_EPOCH).then(|| variable.map(str::to_owned))?)
            .map(|it| it.mtimes)
    }

    #[test]
    fn the_commits_time_comes_first_then_the_variable_then_each_files_own() {
        assert_eq!(chosen(Some(7), Some("8")).unwrap(), Mtimes::All(7));
        assert_eq!(chosen(None, Some("8")).unwrap(), Mtimes::All(8));
        assert_eq!(chosen(None, Some("")).unwrap(), Mtimes::Own);
        assert_eq!(chosen(None, None).unwrap(), Mtimes::Own);
        for bad in ["now", "-1", "+1", "1.5", " 1", "253402300800", "99999999999999999999"] {
            let failure = chosen(None, Some(bad)).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{bad}");
            assert!(failure.what.contains(SOURCE_DATE_EPOCH) && failure.what.contains(bad), "{}", failure.what);
        }
    }

    #[test]
    fn the_list_of_what_was_left_out_is_bounded() {
        assert_eq!(left_out(&LeftOut::default()), None);
        let some = LeftOut { listed: vec![".git".into(), "a.log".into()], count: 23 };
        assert_eq!(left_out(&some).unwrap(), "left out: .git, a.log, and 21 more (--with-git packs .git)");
    }
}
