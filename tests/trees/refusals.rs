//! What `publish` refuses, so that no node meets it: the whole message, with the entry's name, the reason and what to do.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::app::{App, Unit, text};
use crate::archive::{Tar, gzip};
use crate::tool::tool;

/// The end of the message about a link.
const LEADS_OUT: &str = "which leads out of the release; make it relative and keep it inside, or allow such links with \
                         `publish --links any` and with links = \"any\" in the settings of every group that deploys the build";
/// The end of the message about a file of another kind in a directory.
const NOT_PACKED: &str = "only files, directories and links can be packed, so remove it, or name it in .cutoverignore";
/// The end of the message about an entry of another kind.
const NOT_ALLOWED: &str = "only files, directories and links are allowed, so leave it out";

/// Nothing of it is published, the exit code is 1, and the message is this.
fn refused(app: &App, what: &str, arguments: &[&str], message: &str) {
    let output = app.publish(what, arguments);
    assert_eq!(output.code, 1, "{what}: {output}");
    let found = output.stderr.split_once("cutover: ").map_or(output.stderr.as_str(), |(_, message)| message);
    assert_eq!(found.trim_end(), format!("nothing was published: {message}"), "{what}");
}

/// A tree with a file and something else.
fn tree(app: &App, name: &str, add: impl FnOnce(&Path)) -> PathBuf {
    let tree = app.dir().join(name);
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    add(&tree);
    tree
}

#[test]
fn a_directory_with_what_no_release_may_hold_is_refused_by_name() {
    let app = App::open("refused-trees", Unit::Usual);
    let pipe = tree(&app, "pipe", |tree| drop(app.run(tool("mkfifo", tree, &["queue"]))));
    refused(&app, "pipe", &[text(&pipe)], &format!("{}/queue is a named pipe; {NOT_PACKED}", text(&pipe)));
    let device = tree(&app, "device", |tree| drop(app.run(tool("mknod", tree, &["null", "c", "1", "3"]))));
    refused(&app, "device", &[text(&device)], &format!("{}/null is a device; {NOT_PACKED}", text(&device)));
    let socket = tree(&app, "socket", |tree| drop(UnixListener::bind(tree.join("listener")).unwrap()));
    refused(&app, "socket", &[text(&socket)], &format!("{}/listener is a socket; {NOT_PACKED}", text(&socket)));
    for target in ["../outside", "/etc/passwd"] {
        let name = format!("link{}", target.replace('/', "-"));
        let out = tree(&app, &name, |tree| symlink(target, tree.join("leaves")).unwrap());
        let message = format!("archive entry \"leaves\" is a symbolic link to \"{target}\", {LEADS_OUT}");
        refused(&app, &name, &[text(&out)], &message);
    }
    let empty = app.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    let message = format!(
        "{} has nothing to deploy\nhint: check the step that makes the build; --allow-empty publishes it anyway",
        text(&empty)
    );
    refused(&app, "empty directory", &[text(&empty)], &message);
}

#[test]
fn an_archive_with_what_no_release_may_hold_is_refused_by_name() {
    let app = App::open("refused-archives", Unit::Usual);
    let source = tree(&app, "source", |tree| {
        app.run(tool("mkfifo", tree, &["queue"]));
        app.run(tool("mknod", tree, &["null", "c", "1", "3"]));
        app.run(tool("mknod", tree, &["disk", "b", "7", "0"]));
        symlink("../outside", tree.join("leaves")).unwrap();
        symlink("/etc/passwd", tree.join("absolute")).unwrap();
        fs::create_dir(tree.join("sub")).unwrap();
    });
    let kind = |flag| format!("is a device, a pipe, or of an unknown kind (type flag '{flag}'); {NOT_ALLOWED}");
    let link = |target| format!("is a symbolic link to \"{target}\", {LEADS_OUT}");
    let absolute = "has an absolute name; pack it with a relative one, for example with `tar -C DIR .`".to_owned();
    let leaves = "has `..` in its name; pack it with a name below the packed directory".to_owned();
    let file = source.join("file");
    for (what, dir, entry, problem) in [
        ("pipe", &source, "queue", kind('6')),
        ("character-device", &source, "null", kind('3')),
        ("block-device", &source, "disk", kind('4')),
        ("absolute-name", &source, text(&file), absolute),
        ("name-with-two-dots", &source.join("sub"), "../file", leaves),
        ("link-out", &source, "leaves", link("../outside")),
        ("absolute-link", &source, "absolute", link("/etc/passwd")),
    ] {
        let archive = app.dir().join(format!("{what}.tar.gz"));
        app.run(tool("tar", dir, &["--create", "--gzip", "--absolute-names", "--file", text(&archive), entry]));
        let message =
            format!("{} cannot be unpacked on the nodes: archive entry \"{entry}\" {problem}", archive.display());
        refused(&app, what, &["--file", text(&archive)], &message);
    }
    // A name below a link, which no tar makes by itself.
    let archive = app.dir().join("below.tar.gz");
    fs::write(&archive, gzip(&Tar::new().file("d/f", b"x").link("link", "d").file("link/below", b"x").end())).unwrap();
    let message = format!(
        "{} cannot be unpacked on the nodes: archive entry \"link/below\" is below \"link\", which is not a directory in the \
         archive; leave one of them out",
        archive.display()
    );
    refused(&app, "name below a link", &["--file", text(&archive)], &message);
}

#[test]
fn what_is_no_archive_or_more_than_one_is_refused_with_the_way_to_pack_it() {
    let app = App::open("refused-forms", Unit::Usual);
    let source = tree(&app, "source", |tree| fs::create_dir(tree.join("sub")).unwrap());
    // Two archives, one after the other: tar reads the first, unless it is told to go on.
    app.run(tool("sh", &source, &["-c", "{ tar -c file; tar -c sub; } | gzip >../two.tar.gz"]));
    let two = app.dir().join("two.tar.gz");
    let message = format!(
        "{} is damaged, or not a tar archive: there is data after the end; pack one archive (`tar -A` joins two) (near byte \
         1536 of the tar)",
        two.display()
    );
    refused(&app, "data after the end", &["--file", text(&two)], &message);
    let plain = app.dir().join("plain.tar");
    app.run(tool("tar", &source, &["--create", "--file", text(&plain), "file"]));
    let message = format!(
        "{} is neither tar.gz nor tar.zst by its first bytes; pack it with `tar -czf` or `tar --zstd -cf`",
        plain.display()
    );
    refused(&app, "no compression", &["--file", text(&plain)], &message);
    let cut = app.dir().join("cut.tar.gz");
    app.run(tool("sh", &source, &["-c", "tar -cz file | head -c 60 >../cut.tar.gz"]));
    let output = app.publish("cut", &["--file", text(&cut)]);
    assert!(output.code == 1 && output.stderr.contains("cut.tar.gz is damaged"), "{output}");
}
