//! An ext4 file system in memory: a disk without the time of a disk. Only root can mount it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use cutover_rig::tmpfs::{Tmpfs, unmount};

/// A mounted disk. It is unmounted when dropped.
pub(crate) struct Disk {
    mount_point: PathBuf,
    /// Holds the image.
    _memory: Tmpfs,
}

impl Disk {
    pub(crate) fn mount(bytes: u64) -> Self {
        let memory = Tmpfs::mount(&format!("size={}", bytes + (64 << 20)));
        let (image, mount_point) = (memory.path().join("image"), memory.path().join("disk"));
        File::create(&image).unwrap().set_len(bytes).unwrap();
        std::fs::create_dir(&mount_point).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount_point));
        Self { mount_point, _memory: memory }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.mount_point);
    }
}

/// Runs a command to its good end.
pub(crate) fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    assert!(status.success(), "{command:?} failed: {status}");
}
