//! The trees that are packed: the same ones in every run.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// Files of the tree of many; about 5 KB each, as source files have.
const SMALL_FILES: usize = 20_000;
const MEAN_SMALL_BYTES: usize = 5_000;
/// Files of a directory.
const FILES_PER_DIR: usize = 50;
/// Files and directories of the installed application: as many as 304 npm packages and a Python application with Django have.
const APP_FILES: usize = 12_383;
const APP_FILES_PER_DIR: usize = 4;
const MEAN_APP_BYTES: usize = 11_700;
/// The large files together, of which every other one does not shrink.
const LARGE_BYTES: usize = 400_000_000;
const LARGE_FILES: usize = 6;
/// Words of the text. The first ones are frequent, as in source code.
const WORDS: usize = 4_000;
/// Lines that may come again.
const LINES: usize = 200;

/// A tree to publish.
pub(crate) struct Tree {
    pub(crate) what: &'static str,
    pub(crate) dir: PathBuf,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// Writes many small files of text.
pub(crate) fn small_files(dir: &Path, percent: usize) -> Tree {
    let (mut text, mut bytes) = (Text::new(1), 0);
    let files = SMALL_FILES * percent / 100;
    for number in 0..files {
        let parent = dir.join(format!("src/module_{:03}", number / FILES_PER_DIR));
        fs::create_dir_all(&parent).unwrap();
        // Most files are small, and a few are long.
        let share = text.random.f64();
        let size = MEAN_SMALL_BYTES * (1 + text.random.usize(..20)) * usize::from(share < 0.25) / 4
            + text.random.usize(200..6_000);
        let content = text.of(size);
        bytes += content.len() as u64;
        fs::write(parent.join(format!("file_{number:05}.rs")), content).unwrap();
    }
    Tree { what: "many small files", dir: dir.to_owned(), files, bytes }
}

/// Writes an application with what it depends on, as npm and pip install it: many directories, most files short and some long.
pub(crate) fn installed_app(dir: &Path, percent: usize) -> Tree {
    let (mut text, mut bytes) = (Text::new(3), 0);
    let files = APP_FILES * percent / 100;
    for number in 0..files {
        let (package, part) = (number / (10 * APP_FILES_PER_DIR), number / APP_FILES_PER_DIR);
        let parent = dir.join(format!("node_modules/package-{package:03}/dist/part-{part:04}"));
        fs::create_dir_all(&parent).unwrap();
        let share = text.random.f64();
        let size = if share < 0.1 { MEAN_APP_BYTES * text.random.usize(2..14) } else { text.random.usize(100..5_200) };
        let content = text.of(size);
        bytes += content.len() as u64;
        fs::write(parent.join(format!("index-{number:05}.js")), content).unwrap();
    }
    Tree { what: "an application with its packages", dir: dir.to_owned(), files, bytes }
}

/// Writes a few large files: text, and bytes that do not shrink.
pub(crate) fn large(dir: &Path, percent: usize) -> Tree {
    fs::create_dir_all(dir).unwrap();
    let (mut text, mut bytes) = (Text::new(2), 0);
    let size = LARGE_BYTES / LARGE_FILES * percent / 100;
    for number in 0..LARGE_FILES {
        let mut out = BufWriter::new(File::create(dir.join(format!("large_{number}.bin"))).unwrap());
        let mut left = size;
        while left > 0 {
            let piece = if number % 2 == 0 { text.of(left.min(1 << 20)) } else { text.noise(left.min(1 << 20)) };
            out.write_all(&piece).unwrap();
            left = left.saturating_sub(piece.len());
            bytes += piece.len() as u64;
        }
        out.flush().unwrap();
    }
    Tree { what: "a few large files", dir: dir.to_owned(), files: LARGE_FILES, bytes }
}

/// Makes text that shrinks about as much as source code.
struct Text {
    random: Rng,
    words: Vec<String>,
    lines: Vec<String>,
}

impl Text {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let word = |random: &mut Rng| (0..random.usize(2..11)).map(|_| random.lowercase()).collect();
        let words = (0..WORDS).map(|_| word(&mut random)).collect();
        Self { random, words, lines: vec![String::new(); LINES] }
    }

    /// One of the words, the first ones more often than the last ones.
    fn word(&mut self) -> &str {
        let at = (0..4).map(|_| self.random.usize(..WORDS)).min().unwrap_or_default();
        &self.words[at]
    }

    /// A line: a new one, or one of the last ones again.
    fn line(&mut self) -> &str {
        let at = self.random.usize(..LINES);
        if self.lines[at].is_empty() || self.random.bool() {
            let depth = self.random.usize(1..5) * 4;
            let (name, call, argument) = (self.word().to_owned(), self.word().to_owned(), self.word().to_owned());
            self.lines[at] = match self.random.u8(..5) {
                0 => format!("{:depth$}if {name}.{call}({argument}) {{\n", ""),
                1 => format!("{:depth$}let {name} = {call}({argument}, {});\n", "", self.random.u32(..1000)),
                2 => format!("{:depth$}self.{name}.{call}(&{argument})?;\n", ""),
                3 => format!("{:depth$}// {name} {call} {argument} {}\n", "", self.word()),
                _ => format!("{:depth$}}}\n", ""),
            };
        }
        &self.lines[at]
    }

    /// Exactly `size` bytes.
    fn of(&mut self, size: usize) -> Vec<u8> {
        let mut text = String::with_capacity(size + 100);
        while text.len() < size {
            text.push_str(self.line());
        }
        text.truncate(size);
        text.into_bytes()
    }

    /// Bytes that do not shrink.
    fn noise(&mut self, size: usize) -> Vec<u8> {
        let mut noise = vec![0; size];
        self.random.fill(&mut noise);
        noise
    }
}
