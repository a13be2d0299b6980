//! A small tree with everything that archives hold, and ways to pack it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::app::{App, text};
use crate::snapshot::{Snapshot, snapshot};
use crate::tool::tool;

/// What [`sample`]'s program `run` prints.
pub(crate) const PRINTED: &str = "hello from an archive\n";

/// Which tool's extraction is the right one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Oracle {
    Bsdtar,
    GnuTar,
    Tarfile,
}

/// Makes a tree with a program, links of each kind, a long path, odd modes, and a name beyond ASCII.
pub(crate) fn sample(app: &App) -> PathBuf {
    let tree = app.dir().join("sample");
    fs::create_dir(&tree).unwrap();
    for dir in ["data", "empty", "private", "read-only"] {
        fs::create_dir(tree.join(dir)).unwrap();
    }
    // Beyond the 100 bytes of a plain name, within the 255 of ustar.
    let long = tree.join("long").join("a".repeat(60)).join("b".repeat(70));
    fs::create_dir_all(&long).unwrap();
    for (path, content, mode) in [
        (tree.join("run"), "#!/bin/sh\ncat \"${0%/*}/data/words\"\n", 0o755),
        (tree.join("data/words"), PRINTED, 0o600),
        (tree.join("data/nothing"), "", 0o644),
        (tree.join("private/key"), "secret", 0o600),
        (tree.join("read-only/program"), "#!/bin/sh\n", 0o555),
        (tree.join("grüße"), "hello", 0o640),
        (long.join("c".repeat(80)), "long", 0o644),
    ] {
        fs::write(&path, content).unwrap();
        set_mode(&path, mode);
    }
    set_mode(&tree.join("private"), 0o700);
    set_mode(&tree.join("read-only"), 0o555);
    symlink("data/../run", tree.join("start")).unwrap();
    symlink("../run", tree.join("data/run")).unwrap();
    fs::hard_link(tree.join("data/words"), tree.join("data/same-words")).unwrap();
    tree
}

/// Sets the permission bits of a file or directory.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What a tool makes of an archive.
pub(crate) fn extracted(app: &App, archive: &Path, oracle: Oracle) -> Snapshot {
    let dir = app.dir().join(format!("{}.extracted", archive.file_name().unwrap().to_str().unwrap()));
    fs::create_dir(&dir).unwrap();
    let archive = text(archive);
    app.run(match oracle {
        Oracle::Bsdtar => {
            // A release has the node's own attributes, and not those of the build machine.
            let without = ["--no-acls", "--no-fflags", "--no-xattrs"];
            tool("bsdtar", &dir, &[&["-x", "-p", "-f", archive], &without[..]].concat())
        }
        Oracle::GnuTar => tool("tar", &dir, &["--extract", "--same-permissions", "--file", archive]),
        Oracle::Tarfile => {
            let script = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall('.')";
            tool("python3", &dir, &["-c", script, archive])
        }
    });
    snapshot(&dir)
}

/// Publishes and deploys an archive, compares the release with what the tool makes of it, and starts its program.
pub(crate) fn runs(app: &App, archive: &Path, oracle: Oracle) {
    app.deploy_archive(archive, &extracted(app, archive, oracle));
    assert_eq!(app.start("./run", &[]), PRINTED, "{}", archive.display());
}
