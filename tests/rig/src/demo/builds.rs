//! The builds that the demo publishes: directories as CI would make them, with the app's hooks.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::error::DemoError;

/// How many asset files a build has, and how many lines of digits each: some 400 kB, so that there is something to
/// pack, upload and unpack.
const ASSETS: usize = 64;
const ASSET_LINES: usize = 100;

/// Runs before the node reports that it is prepared. The time of the file that it writes shows when the node was.
const PREPARE: &str = r#"#!/bin/sh
# The node is prepared only if it has what this version needs.
set -eu
while read -r name; do
  if [ ! -e "../../shared/$name" ]; then
    echo "shared/$name is missing on $CUTOVER_NODE, and $(cat version.txt) needs it"
    exit 1
  fi
done < needs.txt
: > prepared
"#;

/// Runs after a switch, and again after a revert.
const SWITCHED: &str = r#"#!/bin/sh
# The app loads what `current` points to.
exec kill -HUP "$(cat ../../shared/app.pid)"
"#;

/// Runs after `switched`. Where it fails, the whole fleet reverts.
const CHECK: &str = r#"#!/bin/sh
# The app must answer with this version, and be healthy.
exec ../../shared/demo app check --url "$(cat ../../shared/app.url)" --release .
"#;

/// A version of the app.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) number: u32,
    /// The commit that it was built from.
    pub(super) commit: String,
    /// Files in `shared/` that it needs, as its prepare hook sees it.
    pub(super) needs: &'static [&'static str],
    /// The database schema that it needs, as its check sees it.
    pub(super) schema: u32,
}

impl Version {
    /// A version that every node can run.
    pub(super) fn new(number: u32) -> Self {
        let commit = format!("{:032x}{:08x}", fastrand::u128(..), fastrand::u32(..));
        Self { number, commit, needs: &[], schema: 1 }
    }

    /// What the app answers when it runs this.
    pub(super) fn answer(&self) -> String {
        format!("version {}", self.number)
    }

    /// Writes the build's directory.
    ///
    /// # Errors
    ///
    /// [`DemoError::File`].
    pub(super) fn write(&self, dir: &Path) -> Result<(), DemoError> {
        create(&dir.join("bin"))?;
        create(&dir.join("assets"))?;
        write(&dir.join("version.txt"), &format!("{}\n", self.answer()))?;
        write(&dir.join("schema.txt"), &format!("{}\n", self.schema))?;
        // Every line ends, also the last: the hook reads it line by line.
        write(&dir.join("needs.txt"), &self.needs.iter().flat_map(|name| [*name, "\n"]).collect::<String>())?;
        for (name, script) in [("prepare", PREPARE), ("switched", SWITCHED), ("check", CHECK)] {
            let path = dir.join("bin").join(name);
            write(&path, script)?;
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, executable)
                .map_err(|source| DemoError::file("make executable", &path, source))?;
        }
        for number in 0..ASSETS {
            write(&dir.join(format!("assets/{number:02}.txt")), &digits())?;
        }
        Ok(())
    }
}

/// Random, so that it does not pack to nothing.
fn digits() -> String {
    (0..ASSET_LINES).fold(String::new(), |mut text, _| {
        // Writing to a string cannot fail.
        _ = writeln!(text, "{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        text
    })
}

pub(super) fn create(dir: &Path) -> Result<(), DemoError> {
    std::fs::create_dir_all(dir).map_err(|source| DemoError::file("create", dir, source))
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    std::fs::write(path, text).map_err(|source| DemoError::file("write", path, source))
}
