//! Files with labels of `SELinux`, access control lists and attributes: the node gives its own, whatever a file had in CI.

use crate::app::{App, Unit, text};
use crate::sample::{Oracle, PRINTED, runs, sample};
use crate::tool::{fixture, tool};

#[test]
fn files_with_selinux_labels_run_without_them() {
    let app = App::open("labels", Unit::Usual);
    let tree = sample(&app);
    // As tar --selinux, star and libarchive write them; this machine needs no SELinux for that.
    let headers = r#"{"RHT.security.selinux": "system_u:object_r:httpd_sys_content_t:s0",
        "SCHILY.xattr.security.selinux": "system_u:object_r:httpd_sys_content_t:s0",
        "LIBARCHIVE.xattr.security.selinux": "c3lzdGVtX3U6b2JqZWN0X3I6aHR0cGRfc3lzX2NvbnRlbnRfdDpzMAA",
        "SCHILY.acl.access": "user::rw-,user:ann:r--,group::r--,mask::r--,other::r--", "SCHILY.xattr.user.note": "x"}"#;
    let archive = app.dir().join("records.tar.gz");
    app.run(tool(
        "python3",
        app.dir(),
        &[text(&fixture("python/pack.py")), "PAX", text(&archive), text(&tree), headers],
    ));
    runs(&app, &archive, Oracle::Tarfile);

    // A label on the disk, as a file system keeps it where no kernel part reads it. Needs root.
    let label = ["--name=security.selinux", "--value=system_u:object_r:httpd_sys_content_t:s0"];
    app.run(tool("setfattr", &tree, &[&label[..], &["run", "data", "data/words"]].concat()));
    let archive = app.dir().join("labels.tar.zst");
    let pack = ["--create", "--zstd", "--format=pax", "--xattrs", "--xattrs-include=*", "--file", text(&archive), "."];
    app.run(tool("tar", &tree, &pack));
    runs(&app, &archive, Oracle::GnuTar);
    app.deploy_tree(&tree);
    assert_eq!(app.start("./run", &[]), PRINTED);
    let list = tool("getfattr", &app.current(), &["--match=-", "--absolute-names", "run", "data/words"]);
    assert_eq!(app.run(list), "", "a release has the node's own attributes");
}
