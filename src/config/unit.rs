//! The checked settings of one group on this node.
//!
//! Nodes of a group should have the same settings. Each node publishes a digest of them ([`UnitSettings::digest`]), so that
//! `cutover status` can show a node that differs. Settings that may differ between nodes, such as `coordinate`, are not part of
//! the digest.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::fragment::{HookFragment, HooksFragment, UnitFragment};
use super::globs::Globs;
use super::merge::{Merged, checked};
use super::values::{InvalidValue, Span};
use super::{ConfigError, values};
use crate::plan::unpack::LinkPolicy;
use crate::plan::verify::Verify;
use crate::protocol::ids::Unit;
use crate::protocol::record::{AbsentNodes, Policy};
use crate::signing::{self, PublicKey};

/// The file with the full commit in every release. Cutover writes it, so it cannot be linked.
const REVISION: &str = "REVISION";

/// How many releases are kept by default, besides the current and the previous one.
const DEFAULT_KEEP_RELEASES: u32 = 5;

/// How many failed releases are kept for inspection by default.
const DEFAULT_KEEP_FAILED: u32 = 1;

/// How many builds are kept unpacked in advance by default: as many as old releases, so that both need about the same disk
/// space.
const DEFAULT_MAX_STAGED: u32 = 5;

/// The default time limit for download, unpacking and preparing: 5 GB at 100 Mbit/s take 7 minutes.
const DEFAULT_PREPARE_TIMEOUT: Duration = Duration::from_mins(10);

/// The default time limit for the switch: more than the default limits of the switched and check hooks together.
const DEFAULT_SWITCH_TIMEOUT: Duration = Duration::from_mins(2);

/// The default time limit for a revert, after which late members are reported. A revert needs a rename, but no download.
const DEFAULT_REVERT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a member may be without a session by default: a TTL of 10 s, plus a restart of its Consul agent.
const DEFAULT_ABSENCE_GRACE: Duration = Duration::from_secs(15);

/// One group on this node.
///
/// Serializes in the order below; [`UnitSettings::digest`] depends on that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct UnitSettings {
    /// The directory of releases and `current`; absolute, and separate from those of other groups.
    pub(crate) deploy_to: PathBuf,
    /// The git repository to read the newest commit of a branch from.
    pub(crate) repo: Option<String>,
    /// The branches that may be deployed; none for all.
    pub(crate) branches: Option<Globs>,
    /// The profile that a build must have.
    pub(crate) require_profile: Option<String>,
    /// Whether only requests with a verified author are accepted. Not part of the digest unless set, so that the digests of
    /// agents with and without this setting agree.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) require_attribution: bool,
    /// The symbolic links that a build may have. Not part of the digest unless set, for the same reason.
    #[serde(skip_serializing_if = "LinkPolicy::is_inside")]
    pub(crate) links: LinkPolicy,
    /// The node's pinned keys, and whether only builds signed by them are accepted. Not part of the digest unless set.
    #[serde(skip_serializing_if = "signing::Rules::is_empty")]
    pub(crate) signatures: signing::Rules,
    /// The branches whose builds are downloaded and unpacked in advance.
    pub(crate) prefetch: Globs,
    /// How many builds are kept unpacked in advance.
    pub(crate) max_staged: u32,
    /// The most disk space of these builds together, in bytes. Not part of the digest unless set, for the same reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) staged_budget: Option<u64>,
    /// The Consul service that gets a check for the release.
    pub(crate) service: Option<String>,
    /// How many successful releases are kept; at least 1.
    pub(crate) keep_releases: u32,
    /// The most disk space of all releases together, in bytes; more only if the releases in use need it. Not part of the digest
    /// unless set, for the same reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) releases_budget: Option<u64>,
    /// How many failed releases are kept for inspection. Not part of the digest unless set, for the same reason.
    #[serde(skip_serializing_if = "is_default_keep_failed")]
    pub(crate) keep_failed: u32,
    /// How a release that lay on the disk is checked before a switch. Not part of the digest unless set, for the same reason.
    #[serde(skip_serializing_if = "Verify::is_quick")]
    pub(crate) verify: Verify,
    /// Directories in `shared/` that are linked into a release; plain relative paths.
    pub(crate) linked_dirs: Vec<PathBuf>,
    /// Files in `shared/` that are linked into a release; plain relative paths.
    pub(crate) linked_files: Vec<PathBuf>,
    /// Whether this node may coordinate. May differ between nodes.
    pub(crate) coordinate: bool,
    /// How long members may take to prepare.
    pub(crate) prepare_timeout: Duration,
    /// How long members may take to switch.
    pub(crate) switch_timeout: Duration,
    /// How long members may take to revert.
    pub(crate) revert_timeout: Duration,
    /// How long a member may be without a live session.
    pub(crate) absence_grace: Duration,
    /// What to do about nodes that are registered but not alive.
    pub(crate) absent_nodes: AbsentNodes,
    /// The least number of members, with [`AbsentNodes::Skip`]; at least 1.
    pub(crate) min_nodes: u32,
    pub(crate) hooks: Hooks,
    /// Variables of the agent's environment that hooks get, and whose values are removed from the output of hooks.
    pub(crate) secret_env: Vec<String>,
}

/// Commands of the application, run in the release directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Hooks {
    /// Runs in the new release, before the node answers that it is prepared.
    pub(crate) prepare: Option<Hook>,
    /// Runs after `current` points to the new release.
    pub(crate) switched: Option<Hook>,
    /// Runs after `switched`; if it fails, all nodes revert.
    pub(crate) check: Option<Hook>,
    /// Runs after `current` points to the previous release again.
    pub(crate) reverted: Option<Hook>,
}

/// One command of the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Hook {
    /// Program and arguments, run without a shell. The program is not empty.
    pub(crate) command: Vec<String>,
    /// The time limit, after which the process group of the command is ended.
    pub(crate) timeout: Duration,
}

impl UnitSettings {
    /// The policy that a coordinator freezes into a deploy. Fractions of a second are rounded up.
    #[must_use]
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            prepare_timeout_secs: whole_secs(self.prepare_timeout),
            switch_timeout_secs: whole_secs(self.switch_timeout),
            revert_timeout_secs: whole_secs(self.revert_timeout),
            absence_grace_secs: whole_secs(self.absence_grace),
            absent_nodes: self.absent_nodes,
            min_nodes: self.min_nodes,
        }
    }

    /// A digest of these settings, 16 hex digits. A difference between the nodes of a group is drift.
    ///
    /// `coordinate` and `deploy_to` are not part of it, because they may differ between nodes. Order and notation of the file
    /// do not matter.
    ///
    /// # Panics
    ///
    /// Never: the settings are text, numbers and lists.
    #[must_use]
    pub(crate) fn digest(&self) -> String {
        #[expect(clippy::expect_used, reason = "paths come from TOML and are UTF-8; all else is plain data")]
        let json = serde_json::to_vec(&Self { coordinate: true, deploy_to: PathBuf::new(), ..self.clone() })
            .expect("settings are plain data");
        let digest = Sha256::digest(&json);
        // 64 bits are enough to distinguish settings, and short enough to compare by eye.
        hex::encode(digest.get(..8).unwrap_or_default())
    }

    /// `keys` are the pinned keys of the node, sorted.
    pub(super) fn check(
        merged: &Merged,
        unit: &Unit,
        fragment: UnitFragment,
        keys: &[PublicKey],
    ) -> Result<Self, ConfigError> {
        let at = UnitCheck { merged, unit: unit.to_string() };
        let deploy_to = at.text("deploy_to", fragment.deploy_to.as_deref(), deploy_dir)?.ok_or_else(|| {
            at.error("deploy_to", "is missing; set it to the directory for releases and current".to_owned())
        })?;
        if fragment.branches.as_ref().is_some_and(Globs::is_empty) {
            let problem = "is empty, so nothing could be deployed; remove it to allow every branch";
            return Err(at.error("branches", problem.to_owned()));
        }
        let signatures = signing::Rules { required: fragment.require_signature.unwrap_or(false), keys: keys.to_vec() };
        if signatures.required && keys.is_empty() {
            let problem = "is set, but [signatures] keys has no key, so nothing could be deployed; pin at least one";
            return Err(at.error("require_signature", problem.to_owned()));
        }
        let (linked_dirs, linked_files) = at.linked(&fragment.linked_dirs, &fragment.linked_files)?;
        Ok(Self {
            deploy_to,
            repo: at.text("repo", fragment.repo.as_deref(), repository)?,
            branches: fragment.branches,
            require_profile: at.text("require_profile", fragment.require_profile.as_deref(), values::line)?,
            require_attribution: fragment.require_attribution.unwrap_or(false),
            links: fragment.links.unwrap_or_default(),
            signatures,
            prefetch: fragment.prefetch.unwrap_or_else(Globs::every_branch),
            max_staged: at.at_least_one("max_staged", fragment.max_staged, DEFAULT_MAX_STAGED)?,
            staged_budget: fragment.staged_budget.map(|size| size.0),
            service: at.text("service", fragment.service.as_deref(), values::line)?,
            keep_releases: at.at_least_one("keep_releases", fragment.keep_releases, DEFAULT_KEEP_RELEASES)?,
            releases_budget: fragment.releases_budget.map(|size| size.0),
            keep_failed: fragment.keep_failed.unwrap_or(DEFAULT_KEEP_FAILED),
            verify: fragment.verify.unwrap_or_default(),
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

/// For `skip_serializing_if`.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_keep_failed(keep_failed: &u32) -> bool {
    *keep_failed == DEFAULT_KEEP_FAILED
}

/// Checks values of one group, with the group's keys in errors.
struct UnitCheck<'a> {
    merged: &'a Merged,
    unit: String,
}

impl UnitCheck<'_> {
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

    /// A time limit of the policy. The barrier records whole seconds, so less than one is refused.
    fn time(&self, key: &str, value: Option<Span>, default: Duration) -> Result<Duration, ConfigError> {
        match value {
            Some(Span(time)) if time < Duration::from_secs(1) => {
                Err(self.error(key, "is shorter than a second; allowed is 1s to 24h".to_owned()))
            }
            Some(Span(time)) => Ok(time),
            None => Ok(default),
        }
    }

    /// Checks the paths of both lists, and refuses paths that overlap.
    fn linked(&self, dirs: &[String], files: &[String]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ConfigError> {
        let mut seen: Vec<PathBuf> = Vec::new();
        for (key, index, text) in (dirs.iter().enumerate().map(|(i, text)| ("linked_dirs", i, text)))
            .chain(files.iter().enumerate().map(|(i, text)| ("linked_files", i, text)))
        {
            let error = |problem| self.merged.error(&["deploy", &self.unit, key, &format!("[{index}]")], problem);
            let path = values::relative(text).map_err(|invalid| error(invalid.to_string()))?;
            if path.starts_with(REVISION) {
                return Err(error(format!("{text:?} is written by Cutover in every release; remove it")));
            }
            if let Some(other) = seen.iter().find(|other| path.starts_with(other) || other.starts_with(&path)) {
                let other = other.display();
                let problem = format!("{text:?} overlaps with the linked \"{other}\"; keep only one of them");
                return Err(error(problem));
            }
            seen.push(path);
        }
        let files = seen.split_off(dirs.len());
        Ok((seen, files))
    }

    fn hooks(&self, fragment: HooksFragment) -> Result<Hooks, ConfigError> {
        let HooksFragment { prepare, switched, check, reverted } = fragment;
        // Default time limits for typical commands: build caches, reload a service, check its health, reload it again.
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
            return Err(error("has no program; write program and arguments as a list"));
        }
        if command.iter().any(|argument| argument.contains('\0')) {
            return Err(error("contains a NUL character, which is not possible in an argument"));
        }
        Ok(Some(Hook { command, timeout: timeout.map_or(default_timeout, |span| span.0) }))
    }

    fn secrets(&self, names: Vec<String>) -> Result<Vec<String>, ConfigError> {
        for (index, name) in names.iter().enumerate() {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !plain || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
                // The value is not shown, because it may be the secret itself.
                let problem = "is not the name of a variable; write the name (A-Z a-z 0-9 _), not the value".to_owned();
                return Err(self.merged.error(&["deploy", &self.unit, "secret_env", &format!("[{index}]")], problem));
            }
        }
        Ok(names)
    }
}

fn deploy_dir(text: &str) -> Result<PathBuf, InvalidValue> {
    let path = values::absolute(text)?;
    if path.parent().is_none() {
        return Err("is the root directory; use a directory for this group alone".to_owned().into());
    }
    Ok(path)
}

/// Checks an argument of `git ls-remote`, which git must not mistake for an option.
fn repository(text: &str) -> Result<String, InvalidValue> {
    let text = values::line(text)?;
    if text.starts_with('-') || text.contains(char::is_whitespace) {
        return Err(
            format!("{text:?} is not a repository; write a URL or a path without blanks, not starting with -").into()
        );
    }
    Ok(text)
}

fn whole_secs(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
