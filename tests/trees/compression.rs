//! Archives whose compressed stream has several parts, as parallel compressors and appended files make them.

use std::fs;

use crate::app::{App, Unit};
use crate::sample::{Oracle, runs, sample};
use crate::tool::tool;

#[test]
fn concatenated_gzip_members_and_zstd_frames_run() {
    let app = App::open("members", Unit::Usual);
    let tree = sample(&app);
    // Longer than what a parallel compressor gives one thread.
    let noise: Vec<u8> = (0..3 << 20_u32).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(tree.join("noise"), noise).unwrap();
    app.run(tool("tar", &tree, &["--create", "--file", "../whole.tar", "."]));
    // Not at the bounds of tar's blocks.
    app.run(tool("split", app.dir(), &["--number=3", "whole.tar", "part-"]));
    app.run(tool("gzip", app.dir(), &["--keep", "part-aa", "part-ab", "part-ac"]));
    app.run(tool("zstd", app.dir(), &["--quiet", "part-aa", "part-ab", "part-ac"]));
    for end in ["gz", "zst"] {
        let parts =
            ["part-aa", "part-ab", "part-ac"].map(|part| fs::read(app.dir().join(format!("{part}.{end}"))).unwrap());
        let archive = app.dir().join(format!("parts.tar.{end}"));
        fs::write(&archive, parts.concat()).unwrap();
        runs(&app, &archive, Oracle::GnuTar);
    }
    // pzstd, of Debian's package zstd, has a skippable frame in front of each of its frames.
    app.run(tool("pzstd", app.dir(), &["--quiet", "--processes", "2", "-1", "whole.tar", "-o", "parallel.tar.zst"]));
    runs(&app, &app.dir().join("parallel.tar.zst"), Oracle::GnuTar);
    // The widest window that zstd itself reads without an option. A pipe's length is not known, and does not narrow it.
    app.run(tool("sh", app.dir(), &["-c", "cat whole.tar | zstd --quiet -1 --long=27 >wide.tar.zst"]));
    runs(&app, &app.dir().join("wide.tar.zst"), Oracle::GnuTar);
    // gzip reads zeros at the end as the fill of a tape.
    app.run(tool("gzip", app.dir(), &["--name", "--best", "whole.tar"]));
    let archive = app.dir().join("whole.tar.gz");
    fs::write(&archive, [fs::read(&archive).unwrap(), vec![0; 700]].concat()).unwrap();
    runs(&app, &archive, Oracle::GnuTar);
}
