//! Whether symbolic links stay inside the release.
//!
//! A link whose target has `..` only at its start is decided by its text: the directories above a link are real directories,
//! because the plan accepts no entry below a link, and names after the `..` only lead further down, or to another link, for
//! which the same holds. A link with `..` behind a name (`a/../b`) is decided at the end of the archive, when every link is
//! known, because `a` may be a link, too: the target is resolved over the planned tree as the kernel would resolve it. Names
//! that the archive does not contain count as directories. Each link on its own stays inside, so every chain does.

use std::collections::BTreeMap;

use super::path::{check, key, parent, parts, push, shown};
use super::refusal::{Problem, Refusal};

/// The most bytes of link targets in memory: about 400,000 links of pnpm. Counted only with [`LinkPolicy::Inside`].
pub(crate) const MAX_LINK_BYTES: usize = 64 << 20;
/// The memory for a link besides its text: key, allocation, and its part of a node of the map.
const LINK_OVERHEAD_BYTES: usize = 64;
/// The most links that the kernel follows for one path.
const MAX_FOLLOWED: usize = 40;
/// The most bytes of paths that are hashed to resolve links at the end: about a second.
const MAX_RESOLVED_BYTES: usize = 256 << 20;

/// Which symbolic links a release may contain. Nothing is ever written through a link, whatever the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkPolicy {
    /// Every link, also by way of others, leads to a place in the release.
    #[default]
    Inside,
    /// Any text: a Python venv links to its interpreter.
    Any,
}

impl LinkPolicy {
    /// For `skip_serializing_if`.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        *self == Self::Inside
    }
}

/// What the text of a link says alone.
enum Course {
    /// It stays inside, whatever the names are.
    Inside,
    /// It leaves the release.
    Outside,
    /// It has `..` behind a name.
    Winding,
}

/// The symbolic links of the plan, by the key of their path.
#[derive(Debug)]
pub(super) struct Links {
    policy: LinkPolicy,
    targets: BTreeMap<u128, Vec<u8>>,
    /// The paths of the links that are resolved at the end.
    winding: BTreeMap<u128, Vec<u8>>,
    bytes: usize,
}

impl Links {
    pub(super) const fn new(policy: LinkPolicy) -> Self {
        Self { policy, targets: BTreeMap::new(), winding: BTreeMap::new(), bytes: 0 }
    }

    /// Plans the link at `path`.
    pub(super) fn add(&mut self, path: &[u8], target: &[u8]) -> Result<(), Problem> {
        check(target)?;
        if target.is_empty() {
            return Err(Problem::EmptyTarget);
        }
        if self.policy == LinkPolicy::Any {
            return Ok(());
        }
        let at = key(path);
        match course(path, target) {
            Course::Inside => {}
            Course::Outside => return Err(Problem::SymlinkTarget(shown(target))),
            Course::Winding => {
                self.bytes = self.bytes.saturating_add(path.len() + LINK_OVERHEAD_BYTES);
                self.winding.insert(at, path.to_vec());
            }
        }
        self.bytes = self.bytes.saturating_add(target.len() + LINK_OVERHEAD_BYTES);
        self.targets.insert(at, target.to_vec());
        if self.bytes > MAX_LINK_BYTES { Err(Problem::TooManyLinks) } else { Ok(()) }
    }

    /// Plans a second name of the link with the key `of`. Its text now starts at another place.
    pub(super) fn add_again(&mut self, path: &[u8], of: u128) -> Result<(), Problem> {
        match self.targets.get(&of).cloned() {
            Some(target) => self.add(path, &target),
            None => Ok(()),
        }
    }

    /// Forgets a link that a later entry replaces.
    pub(super) fn remove(&mut self, at: u128) {
        for texts in [&mut self.targets, &mut self.winding] {
            if let Some(text) = texts.remove(&at) {
                self.bytes = self.bytes.saturating_sub(text.len() + LINK_OVERHEAD_BYTES);
            }
        }
    }

    /// Resolves the links that their text alone does not decide.
    pub(super) fn finish(&self) -> Result<(), Refusal> {
        let mut left = MAX_RESOLVED_BYTES;
        for (at, path) in &self.winding {
            let Some(target) = self.targets.get(at) else { continue };
            let problem = match self.stays_inside(path, target, &mut left) {
                Some(true) => continue,
                Some(false) => Problem::SymlinkTarget(shown(target)),
                None => Problem::TooManyLinks,
            };
            return Err(Refusal { entry: shown(path), problem });
        }
        Ok(())
    }

    /// Follows a link as the kernel would; `None` if that takes too long.
    fn stays_inside(&self, path: &[u8], target: &[u8], left: &mut usize) -> Option<bool> {
        let mut at = parent(path).to_vec();
        let mut todo: Vec<&[u8]> = parts(target).rev().collect();
        let mut followed = 0;
        while let Some(part) = todo.pop() {
            *left = left.checked_sub(at.len() + part.len() + 1)?;
            if part == b".." {
                if at.is_empty() {
                    return Some(false);
                }
                at.truncate(parent(&at).len());
                continue;
            }
            let before = at.len();
            push(&mut at, part);
            if let Some(text) = self.targets.get(&key(&at)) {
                followed += 1;
                if followed > MAX_FOLLOWED {
                    return Some(true); // The kernel gives up as well: the link leads nowhere.
                }
                at.truncate(before);
                todo.extend(parts(text).rev());
            }
        }
        Some(true)
    }
}

fn course(path: &[u8], target: &[u8]) -> Course {
    if target.starts_with(b"/") {
        return Course::Outside;
    }
    let room = parts(parent(path)).count();
    let ups = parts(target).take_while(|part| *part == b"..").count();
    if ups > room {
        Course::Outside
    } else if parts(target).skip(ups).any(|part| part == b"..") {
        Course::Winding
    } else {
        Course::Inside
    }
}
