//! Small filesystems in memory, for tests of full disks. Only root can mount them.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A small filesystem in memory, unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs(TempDir);

impl Tmpfs {
    /// Mounts one, with the options of `mount -t tmpfs -o`, for example `size=64m`.
    ///
    /// # Panics
    ///
    /// Without root, and if the mount fails: a test that needs it has failed.
    #[must_use]
    pub fn mount(options: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts a tmpfs, so it needs root: run it with sudo, or leave it out by name"
        );
        #[expect(clippy::expect_used, reason = "a helper of a test fails the test")]
        let dir = tempfile::tempdir().expect("no directory for a mount point");
        mount_at(options, dir.path());
        Self(dir)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(self.path());
    }
}

/// Mounts a tmpfs on an existing directory.
///
/// # Panics
///
/// If the mount fails.
pub fn mount_at(options: &str, on: &Path) {
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(on).status();
    let is_mounted = status.is_ok_and(|status| status.success());
    assert!(is_mounted, "mounting a tmpfs failed: is this a container without CAP_SYS_ADMIN?");
}

/// Unmounts it, at the latest when nothing uses it any more. An error is of no interest: the test has ended.
pub fn unmount(path: &Path) {
    let _ended = Command::new("umount").arg("-l").arg(path).status();
}
