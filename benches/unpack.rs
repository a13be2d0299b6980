//! Measures an unpack against GNU tar, in turns, in one run, on ext4 in memory: so the time of a disk is left out.
//!
//! Each way unpacks into a new directory. "without sync" is the unpack alone. "with sync" is all that a node does before it says
//! that a build is prepared: `Site::stage`, with the list of the files, one `syncfs`, and the notes; and for tar, `sync -f` after it.
//! The base of every ratio is `tar -xzf` of the same tree: it is the median of the ratios of the rounds.
//!
//! The last part unpacks 5 GB in a process of its own, and shows how much memory that has at most, above what it had before.
//!
//! `make bench-unpack`, or `cargo bench --bench unpack` as root; with `PERCENT=5` on trees of that part of the size. Always ends
//! with exit code 0, because it is not a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]

#[path = "unpack/disk.rs"]
mod disk;
#[allow(dead_code, reason = "each benchmark packs its own trees")]
#[path = "shared/tree.rs"]
mod tree;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cutover::plan::unpack::{Limits, LinkPolicy};
use cutover::protocol::record::Build;
use cutover::release::{Control, Expected, Site, unpack};
use cutover_rig::build::sample;
use disk::{Disk, run};
use sha2::{Digest, Sha256};
use tree::Tree;

/// How often each is measured; the median counts.
const ROUNDS: usize = 9;
/// Space for the trees of one round.
const DISK_BYTES: u64 = 8 << 30;
/// A format, how tar makes it, and how tar reads it.
struct Format {
    name: &'static str,
    compress: &'static str,
    extract: &'static [&'static str],
}

const FORMATS: [Format; 2] = [
    Format { name: "tar.gz", compress: "pigz -n -6", extract: &["-xzf"] },
    Format { name: "tar.zst", compress: "zstd -q -3", extract: &["--zstd", "-xf"] },
];

/// What one way took.
#[derive(Clone, Copy)]
struct Took {
    without_sync: Duration,
    with_sync: Duration,
}

/// A way to unpack.
#[derive(Clone, Copy)]
enum Way {
    Tar(usize),
    Cutover(usize),
}

impl Way {
    const ALL: [Self; 4] = [Self::Tar(0), Self::Tar(1), Self::Cutover(0), Self::Cutover(1)];

    fn name(self) -> String {
        match self {
            Self::Tar(format) => format!("tar {}", FORMATS[format].extract.join(" ")),
            Self::Cutover(format) => format!("cutover, {}", FORMATS[format].name),
        }
    }
}

/// Makes this program a process that unpacks one archive: its path, digest, size and the size of its files.
const CHILD: &str = "BENCH_UNPACK";

fn main() {
    if let Ok(archive) = std::env::var(CHILD) {
        return println!("{}", peak_above_rest(&archive));
    }
    for tool in ["bash", "mkfs.ext4", "pigz", "tar", "zstd"] {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", tool]).stdout(Stdio::null()).status();
        assert!(found.is_ok_and(|status| status.success()), "{tool} is not installed: scripts/setup bench installs it");
    }
    let percent = std::env::var("PERCENT").map_or(100, |text| text.parse().expect("PERCENT is a number from 1 to 100"));
    let dir = tempfile::tempdir().unwrap();
    for make in [tree::installed_app, tree::large] {
        compare(dir.path(), &make(&dir.path().join("tree"), percent));
    }
    // Thirteen times the 400 MB.
    let tree = tree::large(&dir.path().join("tree"), 13 * percent);
    let disk = Disk::mount(DISK_BYTES);
    for archive in pack(dir.path(), &tree) {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let ended = child.env(CHILD, archive.to_text()).current_dir(disk.path()).output().unwrap();
        let peak = String::from_utf8(ended.stdout).unwrap().trim().parse().unwrap();
        println!("{:.0} MB of {}: at most {:.1} MB of memory above rest", mb(tree.bytes), archive.name(), mb(peak));
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Measures all ways in turns. Each round begins with another one, because the first finds a colder disk.
fn compare(dir: &Path, tree: &Tree) {
    println!("{}: {} files, {:.1} MB, {ROUNDS} rounds", tree.what, tree.files, mb(tree.bytes));
    let archives = pack(dir, tree);
    let disk = Disk::mount(DISK_BYTES);
    let mut all = Way::ALL.map(|_| Vec::new());
    // The first round is only for the caches.
    for round in 0..=ROUNDS {
        let dirs = disk.path().join(format!("round-{round}"));
        fs::create_dir(&dirs).unwrap();
        for step in 0..Way::ALL.len() {
            let at = (round + step) % Way::ALL.len();
            let into = dirs.join(at.to_string());
            all[at].push(Way::ALL[at].measure(&archives, &into));
        }
        // Outside of the measurement, and synced: the next round does not pay for it.
        fs::remove_dir_all(&dirs).unwrap();
        sync(disk.path());
    }
    let base = all[0].clone();
    for (way, rounds) in Way::ALL.iter().zip(&all) {
        let ratio = |of: fn(&Took) -> Duration| {
            let rounds = rounds.iter().zip(&base).skip(1);
            median(rounds.map(|(took, base)| of(took).as_secs_f64() / of(base).as_secs_f64()).collect())
        };
        let seconds = |of: fn(&Took) -> Duration| median(rounds.iter().skip(1).map(|t| of(t).as_secs_f64()).collect());
        println!(
            "  {:32} with sync {:6.3} s   ratio {:.2}   without {:6.3} s   ratio {:.2}",
            way.name(),
            seconds(|took| took.with_sync),
            ratio(|took| took.with_sync),
            seconds(|took| took.without_sync),
            ratio(|took| took.without_sync),
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// An archive, and its record.
struct Packed {
    path: PathBuf,
    build: Build,
}

impl Packed {
    fn unpack(&self, into: &Path) {
        let Self { path, build } = self;
        let limits = Limits { bytes: build.unpacked_bytes, entries: build.entries };
        let (sha256, packed_bytes, links) = (&build.sha256, build.packed_bytes, LinkPolicy::Inside);
        let expected = Expected { sha256, packed_bytes, limits, links };
        unpack(File::open(path).unwrap(), into, &expected, &Control::default()).unwrap();
    }

    fn to_text(&self) -> String {
        let Build { sha256, packed_bytes, unpacked_bytes, entries, .. } = &self.build;
        format!("{} {sha256} {packed_bytes} {unpacked_bytes} {entries}", self.path.display())
    }

    fn from_text(text: &str) -> Self {
        let fields: Vec<&str> = text.split(' ').collect();
        let [path, sha256, packed_bytes, unpacked_bytes, entries] = fields[..] else { panic!("{text}") };
        let [packed_bytes, unpacked_bytes, entries] =
            [packed_bytes, unpacked_bytes, entries].map(|n| n.parse().unwrap());
        let build = Build { sha256: sha256.parse().unwrap(), packed_bytes, unpacked_bytes, entries, ..sample() };
        Self { path: path.into(), build }
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap().to_string_lossy().into_owned()
    }
}

/// Packs a tree with GNU tar in both formats, and removes it.
fn pack(dir: &Path, tree: &Tree) -> [Packed; 2] {
    let archives = FORMATS.each_ref().map(|format| {
        let path = dir.join(format.name);
        let script = format!("set -euo pipefail\ntar -C \"$1\" --sort=name -cf - . | {} >\"$2\"", format.compress);
        run(Command::new("bash").args(["-c", &script, "bash"]).arg(&tree.dir).arg(&path));
        let (packed_bytes, mut digest) = (fs::metadata(&path).unwrap().len(), Sha256::new());
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&path).unwrap());
        while let piece = reader.fill_buf().unwrap()
            && !piece.is_empty()
        {
            digest.update(piece);
            let length = piece.len();
            reader.consume(length);
        }
        let sha256 = hex::encode(digest.finalize()).parse().unwrap();
        // Room for directories, too.
        let entries = 2 * tree.files as u64 + 100;
        Packed { path, build: Build { sha256, packed_bytes, unpacked_bytes: tree.bytes, entries, ..sample() } }
    });
    fs::remove_dir_all(&tree.dir).unwrap();
    archives
}

/// The most memory of this process while it unpacks an archive below the working directory, above what it had before, in bytes.
fn peak_above_rest(archive: &str) -> u64 {
    let (archive, into) = (Packed::from_text(archive), Path::new("tree"));
    let status = |field: &str| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    };
    // The highest value is counted from now on: proc(5), /proc/pid/clear_refs.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let rest = status("VmRSS:");
    archive.unpack(into);
    let peak = status("VmHWM:");
    fs::remove_dir_all(into).unwrap();
    peak.saturating_sub(rest)
}

impl Way {
    /// Unpacks into `dir/with` and into `dir/without`.
    fn measure(self, archives: &[Packed; 2], dir: &Path) -> Took {
        fs::create_dir(dir).unwrap();
        let (with, without) = (dir.join("with"), dir.join("without"));
        match self {
            Self::Tar(format) => {
                let extract = |into: &Path| {
                    fs::create_dir(into).unwrap();
                    let mut command = Command::new("tar");
                    run(command.args(FORMATS[format].extract).arg(&archives[format].path).arg("-C").arg(into));
                };
                let without_sync = timed(|| extract(&without));
                sync(dir);
                Took {
                    without_sync,
                    with_sync: timed(|| {
                        extract(&with);
                        sync(dir);
                    }),
                }
            }
            Self::Cutover(format) => {
                let archive = &archives[format];
                let without_sync = timed(|| archive.unpack(&without));
                sync(dir);
                let site = Site::open(&with).unwrap();
                let source = File::open(&archive.path).unwrap();
                let stage = || site.stage(&archive.build, LinkPolicy::Inside, source, &Control::default()).unwrap();
                let with_sync = timed(stage);
                Took { without_sync, with_sync }
            }
        }
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn sync(dir: &Path) {
    rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
}
