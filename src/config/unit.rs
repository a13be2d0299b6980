//! The checked settings of one deploy unit on this node.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::fragment::{HookFragment, HooksFragment, UnitFragment};
use super::globs::Globs;
use super::merge::{Merged, checked};
use super::values::{InvalidValue, Span};
use super::{ConfigError, values};
use crate::protocol::ids::Unit;
use crate::protocol::record::{AbsentNodes, Policy};

/// Holds the full commit in every release; written by Cutover, so nothing else may stand there.
const REVISION: &str = "REVISION";

/// How many releases are kept by default, beside the running and the previous one.
const DEFAULT_KEEP_RELEASES: u32 = 5;

/// How many builds lie unpacked ahead of time by default: as many as releases are kept, so that ahead and behind take
/// about the same disk space.
const DEFAULT_MAX_STAGED: u32 = 5;

/// The members' time to fetch, unpack and prepare: 5 GB at 100 Mbit/s take 7 minutes.
const DEFAULT_PREPARE_TIMEOUT: Duration = Duration::from_mins(10);

/// The members' time to switch: above the default limits of the switched and check hooks together.
const DEFAULT_SWITCH_TIMEOUT: Duration = Duration::from_mins(2);

/// The members' time to go back before the ones that have not are named: needs no download, only a rename.
const DEFAULT_REVERT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a member may be without a session: a TTL of 10 s, and a restart of its Consul agent.
const DEFAULT_ABSENCE_GRACE: Duration = Duration::from_secs(15);

/// One unit on this node.
///
/// Serializes in the order below; [`UnitSettings::digest`] depends on that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnitSettings {
    /// Where releases and `current` lie; absolute, and neither within nor around another unit's.
    pub deploy_to: PathBuf,
    /// The git repository that tells a branch's current ref.
    pub repo: Option<String>,
    /// The branches that may be deployed; none: all.
    pub branches: Option<Globs>,
    /// The profile that a build must have.
    pub require_profile: Option<String>,
    /// Whether only requests are taken for whose author an agent vouches. Left out of the digest where it is not set, so
    /// that agents before and after this setting agree.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub require_attribution: bool,
    /// The branches whose builds are fetched and unpacked ahead of time.
    pub prefetch: Globs,
    /// How many builds lie unpacked ahead of time.
    pub max_staged: u32,
    /// The Consul service whose check follows the release.
    pub service: Option<String>,
    /// How many successful releases are kept; at least 1.
    pub keep_releases: u32,
    /// Directories of a release that lie in `shared/`; plain relative paths.
    pub linked_dirs: Vec<PathBuf>,
    /// Files of a release that lie in `shared/`; plain relative paths.
    pub linked_files: Vec<PathBuf>,
    /// Whether this node may coordinate. Differs between nodes by intent.
    pub coordinate: bool,
    /// How long members may take to prepare.
    pub prepare_timeout: Duration,
    /// How long members may take to switch.
    pub switch_timeout: Duration,
    /// How long members may take to go back.
    pub revert_timeout: Duration,
    /// How long a member may be without a live session.
    pub absence_grace: Duration,
    /// What is done about members that are registered and not alive.
    pub absent_nodes: AbsentNodes,
    /// The least number of members, with [`AbsentNodes::Skip`]; at least 1.
    pub min_nodes: u32,
    /// Commands of the application.
    pub hooks: Hooks,
    /// Variables of the agent's environment that hooks get, and whose values are removed from what hooks print.
    pub secret_env: Vec<String>,
}

/// Commands of the application, run in the release directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hooks {
    /// In the new release, before this node answers that it is prepared.
    pub prepare: Option<Hook>,
    /// After `current` points to the release.
    pub switched: Option<Hook>,
    /// After `switched`; its failure takes the whole fleet back.
    pub check: Option<Hook>,
    /// After `current` points to the earlier release again.
    pub reverted: Option<Hook>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// Program and arguments; the program is not empty. No shell is involved.
    pub command: Vec<String>,
    /// After this its process group is ended.
    pub timeout: Duration,
}

impl UnitSettings {
    /// What a coordinator freezes into a deploy. Parts of a second count as a whole one.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            prepare_timeout_secs: whole_secs(self.prepare_timeout),
            switch_timeout_secs: whole_secs(self.switch_timeout),
            revert_timeout_secs: whole_secs(self.revert_timeout),
            absence_grace_secs: whole_secs(self.absence_grace),
            absent_nodes: self.absent_nodes,
            min_nodes: self.min_nodes,
        }
    }

    /// A digest of these settings, 16 hex digits: nodes of a unit whose digests differ have drifted apart.
    ///
    /// Leaves out `coordinate`, which is meant to differ, and `deploy_to`, which names a place on this machine. The
    /// order and notation of the file do not matter.
    ///
    /// # Panics
    ///
    /// Never: the settings are text, numbers and lists.
    #[must_use]
    pub fn digest(&self) -> String {
        #[expect(clippy::expect_used, reason = "paths come from TOML and are UTF-8; all else is plain data")]
        let json = serde_json::to_vec(&Self { coordinate: true, deploy_to: PathBuf::new(), ..self.clone() })
            .expect("settings are plain data");
        let digest = Sha256::digest(&json);
        // 64 bits: enough to tell settings apart, short enough to compare by eye.
        hex::encode(digest.get(..8).unwrap_or_default())
    }

    pub(super) fn check(merged: &Merged, unit: &Unit, fragment: UnitFragment) -> Result<Self, ConfigError> {
        let at = At { merged, unit: unit.to_string() };
        let deploy_to = at.text("deploy_to", fragment.deploy_to.as_deref(), deploy_dir)?.ok_or_else(|| {
            at.error("deploy_to", "is missing; name the directory that holds releases and current".to_owned())
        })?;
        if fragment.branches.as_ref().is_some_and(Globs::is_empty) {
            let problem = "is empty, so nothing could be deployed; leave it out to allow every branch";
            return Err(at.error("branches", problem.to_owned()));
        }
        let (linked_dirs, linked_files) = at.linked(&fragment.linked_dirs, &fragment.linked_files)?;
        Ok(Self {
            deploy_to,
            repo: at.text("repo", fragment.repo.as_deref(), repository)?,
            branches: fragment.branches,
            require_profile: at.text("require_profile", fragment.require_profile.as_deref(), values::line)?,
            require_attribution: fragment.require_attribution.unwrap_or(false),
            prefetch: fragment.prefetch.unwrap_or_else(Globs::every_branch),
            max_staged: at.at_least_one("max_staged", fragment.max_staged, DEFAULT_MAX_STAGED)?,
            service: at.text("service", fragment.service.as_deref(), values::line)?,
            keep_releases: at.at_least_one("keep_releases", fragment.keep_releases, DEFAULT_KEEP_RELEASES)?,
            linked_dirs,
            linked_files,
            coordinate: fragment.coordinate.unwrap_or(true),
            prepare_timeout: at.time("prepare_timeout", fragment.prepare_timeout, DEFAULT_PREPARE_TIMEOUT)?,
            switch_timeout: at.time("switch_timeout", fragment.switch_timeout, DEFAULT_SWITCH_TIMEOUT)?,
            revert_timeout: at.time("revert_timeout", fragment.revert_timeout, DEFAULT_REVERT_TIMEOUT)?,
            absence_grace: at.time("absence_grace", fragment.absence_grace, DEFAULT_ABSENCE_GRACE)?,
            absent_nodes: fragment.absent_nodes.unwrap_or(AbsentNodes::Fail),
            min_nodes: at.at_least_one("min_nodes", fragment.min_nodes, 1)?,
            hooks: at.hooks(fragment.hooks)?,
            secret_env: at.secrets(fragment.secret_env)?,
        })
    }
}

/// The place of the unit's keys, for errors.
struct At<'a> {
    merged: &'a Merged,
    unit: String,
}

impl At<'_> {
    fn error(&self, key: &str, problem: String) -> ConfigError {
        self.merged.error(&["deploy", &self.unit, key], problem)
    }

    fn text<T>(
        &self,
        key: &str,
        value: Option<&str>,
        check: impl Fn(&str) -> Result<T, InvalidValue>,
    ) -> Result<Option<T>, ConfigError> {
        checked(self.merged, &["deploy", &self.unit, key], value, check)
    }

    fn at_least_one(&self, key: &str, value: Option<u32>, default: u32) -> Result<u32, ConfigError> {
        match value {
            Some(0) => Err(self.error(key, "is 0; allowed is 1 or more".to_owned())),
            Some(number) => Ok(number),
            None => Ok(default),
        }
    }

    /// A time of the policy, whose records count whole seconds.
    fn time(&self, key: &str, value: Option<Span>, default: Duration) -> Result<Duration, ConfigError> {
        match value {
            Some(Span(time)) if time < Duration::from_secs(1) => {
                Err(self.error(key, "is shorter than a second; allowed is 1s to 24h".to_owned()))
            }
            Some(Span(time)) => Ok(time),
            None => Ok(default),
        }
    }

    /// Both lists checked, each path against all before it.
    fn linked(&self, dirs: &[String], files: &[String]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ConfigError> {
        let mut seen: Vec<PathBuf> = Vec::new();
        for (key, index, text) in (dirs.iter().enumerate().map(|(i, text)| ("linked_dirs", i, text)))
            .chain(files.iter().enumerate().map(|(i, text)| ("linked_files", i, text)))
        {
            let error = |problem| self.merged.error(&["deploy", &self.unit, key, &format!("[{index}]")], problem);
            let path = values::relative(text).map_err(|invalid| error(invalid.to_string()))?;
            if path.starts_with(REVISION) {
                return Err(error(format!("{text:?} is written by Cutover in every release; link another path")));
            }
            if let Some(other) = seen.iter().find(|other| path.starts_with(other) || other.starts_with(&path)) {
                let other = other.display();
                let problem =
                    format!("{text:?} is, or holds, or lies in, the linked \"{other}\"; keep only one of them");
                return Err(error(problem));
            }
            seen.push(path);
        }
        let files = seen.split_off(dirs.len());
        Ok((seen, files))
    }

    fn hooks(&self, fragment: HooksFragment) -> Result<Hooks, ConfigError> {
        let HooksFragment { prepare, switched, check, reverted } = fragment;
        // The times for commands that usually build caches, reload a service, ask it for its health, and reload again.
        Ok(Hooks {
            prepare: self.hook("prepare", prepare, Duration::from_mins(5))?,
            switched: self.hook("switched", switched, Duration::from_mins(1))?,
            check: self.hook("check", check, Duration::from_secs(30))?,
            reverted: self.hook("reverted", reverted, Duration::from_mins(1))?,
        })
    }

    fn hook(
        &self,
        name: &str,
        fragment: Option<HookFragment>,
        default_timeout: Duration,
    ) -> Result<Option<Hook>, ConfigError> {
        let Some(HookFragment { command, timeout }) = fragment else { return Ok(None) };
        let error =
            |problem: &str| self.merged.error(&["deploy", &self.unit, "hooks", name, "command"], problem.to_owned());
        let command = command.ok_or_else(|| error("is missing; write program and arguments as a list"))?;
        if command.first().is_none_or(String::is_empty) {
            return Err(error("names no program; write program and arguments as a list"));
        }
        if command.iter().any(|argument| argument.contains('\0')) {
            return Err(error("holds a NUL, which no argument can"));
        }
        Ok(Some(Hook { command, timeout: timeout.map_or(default_timeout, |span| span.0) }))
    }

    fn secrets(&self, names: Vec<String>) -> Result<Vec<String>, ConfigError> {
        for (index, name) in names.iter().enumerate() {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !plain || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
                // What was written is not shown: it may be the secret itself.
                let problem = "is no variable's name; write the name, of A-Z a-z 0-9 _, and not the value".to_owned();
                return Err(self.merged.error(&["deploy", &self.unit, "secret_env", &format!("[{index}]")], problem));
            }
        }
        Ok(names)
    }
}

fn deploy_dir(text: &str) -> Result<PathBuf, InvalidValue> {
    let path = values::absolute(text)?;
    if path.parent().is_none() {
        return Err("is the root directory; name one that is for this unit alone".to_owned().into());
    }
    Ok(path)
}

/// What is handed to `git ls-remote`, where it must not be taken for an option.
fn repository(text: &str) -> Result<String, InvalidValue> {
    let text = values::line(text)?;
    if text.starts_with('-') || text.contains(char::is_whitespace) {
        return Err(
            format!("{text:?} is no repository; write a URL or a path without blanks, not starting with -").into()
        );
    }
    Ok(text)
}

fn whole_secs(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
