//! Fewer rights for the thread that unpacks: it can write to the directory of the unpack only.
//!
//! ```text
//! caller's thread ── starts ──► "unpack": Landlock's rules ──► reads, decompresses, makes directories and links
//!        │                                  └── inherited by ──► "unpack-writer", "unpack-digest"
//!        └─ waits; removes what a failed unpack left
//! ```
//!
//! The rules are a third line of defense, after the plan and the opening of each path component without links: the kernel
//! refuses to create, change, link, rename or remove anything outside of the directory, even if one of these has a bug, and
//! even if another program moves a directory away while files are written to it.
//!
//! The rules of a thread are for its lifetime, and its threads and processes inherit them. So it is a new thread for each unpack,
//! never one of a pool, and it starts nothing but these two. It gets `no_new_privs` too, which Landlock asks for: a hook that it
//! started could not use `sudo`.
//!
//! Non-goals. Reading stays allowed: the unpack reads nothing by a path from the archive, and libraries read files of the system
//! when they please. Landlock does not restrict changes of modes, owners and times, and only from version 3 (Linux 6.2) cutting
//! files by their path. Code that takes over the thread is not
//! stopped, because all threads share their memory.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;

use landlock::{
    ABI, AccessFs, BitFlags, LandlockStatus, PathBeneath, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, make_bitflags,
};

use super::files;
use super::unpack_error::UnpackError;

/// Its write rights are the ones that are taken away. Older kernels know only some of them; the first later one, of version 9,
/// is to connect to sockets, as logging to the journal does.
const TAKEN: ABI = ABI::V5;

/// What an unpack does in its own directory.
const GIVEN_BACK: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir | MakeSym | Refer
});

/// Whether unpacking threads can write to the directory of their unpack only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// They can, by Landlock of this version.
    On(ABI),
    /// They can write wherever the agent can.
    Off(Why),
}

/// Why unpacking threads have all rights of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The kernel does not know Landlock's system calls, or hides them.
    Missing,
    /// The kernel was started without Landlock.
    Disabled,
    /// Version 1 refuses every hard link from one directory to another, wherever they are.
    TooOld,
    /// The kernel has Landlock, and returned an error.
    Refused(String),
}

impl Why {
    /// The reason, for the log and `cutover doctor`.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Missing => "this kernel has no Landlock, or a filter of system calls hides it".to_owned(),
            Self::Disabled => "this kernel was started without Landlock".to_owned(),
            Self::TooOld => "Landlock of this kernel (version 1) cannot allow hard links".to_owned(),
            Self::Refused(error) => format!("the kernel refused Landlock's rules: {error}"),
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Missing => {
                "use Linux 5.19 or later with CONFIG_SECURITY_LANDLOCK, and allow the system calls landlock_* where a container or SystemCallFilter= filters them"
            }
            Self::Disabled => {
                "add landlock to the list of lsm= on the kernel's command line, or to CONFIG_LSM, and restart the machine"
            }
            Self::TooOld => "use Linux 5.19 or later",
            Self::Refused(_) => {
                "allow the agent prctl and landlock_*, and start it inside fewer than 16 Landlock sandboxes"
            }
        }
    }
}

impl Confinement {
    /// Whether this process can confine its threads. It tries once, with a thread that ends at once.
    #[must_use]
    pub fn of_this_process() -> &'static Self {
        static FOUND: OnceLock<Confinement> = OnceLock::new();
        FOUND.get_or_init(Self::try_out)
    }

    fn try_out() -> Self {
        let tried = std::thread::Builder::new().name("try-landlock".to_owned()).spawn(|| {
            let root = files::open_dir(Path::new("/"))?;
            restrict(root).map_err(io::Error::other)
        });
        match tried.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))) {
            Ok(Ok(status)) => Self::of(status.landlock),
            Ok(Err(error)) | Err(error) => Self::Off(Why::Refused(error.to_string())),
        }
    }

    const fn of(kernel: LandlockStatus) -> Self {
        match kernel {
            LandlockStatus::NotImplemented => Self::Off(Why::Missing),
            LandlockStatus::NotEnabled => Self::Off(Why::Disabled),
            LandlockStatus::Available { effective_abi: ABI::Unsupported | ABI::V1, .. } => Self::Off(Why::TooOld),
            LandlockStatus::Available { effective_abi, .. } => Self::On(effective_abi),
        }
    }
}

/// Does `work` on a thread of its own, which can write to `dir` only, where the kernel has Landlock.
///
/// # Errors
///
/// The error of `work`; [`UnpackError::Confine`], and nothing is done, if the thread cannot be started or confined.
pub(super) fn beneath<T: Send>(
    dir: &Path,
    work: impl FnOnce() -> Result<T, UnpackError> + Send,
) -> Result<T, UnpackError> {
    let failed = |source| UnpackError::Confine { path: dir.display().to_string(), source };
    let confined = || {
        match Confinement::of_this_process() {
            Confinement::On(_) => {
                let dir = files::open_dir(dir).map_err(failed)?;
                restrict(dir).map_err(|error| failed(io::Error::other(error)))?;
            }
            // The log of the start and `cutover doctor` say so.
            Confinement::Off(_) => {}
        }
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("unpack".to_owned());
        let thread = thread.spawn_scoped(scope, confined).map_err(failed)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Takes every right to write from the calling thread for good, except below `dir`.
fn restrict(dir: impl AsFd) -> Result<RestrictionStatus, RulesetError> {
    let rules = Ruleset::default().handle_access(AccessFs::from_write(TAKEN))?.create()?;
    rules.add_rule(PathBeneath::new(dir, GIVEN_BACK))?.restrict_self()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_without_the_rules_has_its_reason() {
        let available = |effective_abi| LandlockStatus::Available { effective_abi, kernel_abi: None };
        assert_eq!(Confinement::of(LandlockStatus::NotImplemented), Confinement::Off(Why::Missing));
        assert_eq!(Confinement::of(LandlockStatus::NotEnabled), Confinement::Off(Why::Disabled));
        assert_eq!(Confinement::of(available(ABI::V1)), Confinement::Off(Why::TooOld));
        assert_eq!(Confinement::of(available(ABI::V2)), Confinement::On(ABI::V2));
        assert_eq!(Confinement::of(available(ABI::V10)), Confinement::On(ABI::V10));
    }

    /// The kernel allows 16 sandboxes inside each other.
    #[test]
    fn a_kernel_that_refuses_the_rules_is_not_taken_for_one_that_keeps_them() {
        let found = std::thread::spawn(|| {
            for _ in 0..16 {
                restrict(files::open_dir(Path::new("/")).unwrap()).unwrap();
            }
            Confinement::try_out()
        });
        match (Confinement::of_this_process(), found.join().unwrap()) {
            (Confinement::On(_), Confinement::Off(Why::Refused(error))) => {
                assert!(error.contains("too long"), "E2BIG of landlock_restrict_self(2): {error}");
            }
            (Confinement::Off(why), found) => assert_eq!(found, Confinement::Off(why.clone())),
            (Confinement::On(_), found) => panic!("{found:?}"),
        }
    }
}
