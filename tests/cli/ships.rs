//! What a build ships, from real git repositories: what `publish` records, and `build show` prints.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cutover::consul::Consistency;
use cutover::control::Code;
use cutover::protocol::keys::Keys;
use cutover_rig::git::git;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Fleet, Printed, consul, ends};

/// A repository whose directory `dist` is published, and a store.
struct Shop {
    fleet: Arc<Fleet>,
    app: &'static str,
    dir: TempDir,
}

fn git_in(dir: &Path, args: &[&str]) -> String {
    git(dir, args).unwrap()
}

impl Shop {
    async fn open(app: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("source/dist")).unwrap();
        fs::create_dir(dir.path().join("store")).unwrap();
        let shop = Self { fleet: consul().await, app, dir };
        shop.git(&["init", "--quiet", "--initial-branch", "master"]);
        shop
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn git(&self, args: &[&str]) -> String {
        git_in(&self.source(), args)
    }

    /// Commits everything; returns the build's name.
    fn commit(&self, subject: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--allow-empty-message", "-m", subject]);
        self.build()
    }

    /// The name of the build of what is checked out.
    fn build(&self) -> String {
        format!("master-{}", &self.git(&["rev-parse", "HEAD"])[..8])
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.source().join("dist").join(path), content).unwrap();
    }

    fn store(&self) -> String {
        format!("dir://{}", self.dir.path().join("store").display())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.fleet.cutover(args);
        command.env("CUTOVER_STORE", self.store());
        command
    }

    fn publish_from(&self, source: &Path) -> Command {
        let dist = source.join("dist");
        self.command(&["publish", "--app", self.app, dist.to_str().unwrap(), "--output", "json"])
    }

    async fn publish(&self) -> Value {
        json_of(&ends(self.publish_from(&self.source()), Code::Done).await)
    }

    async fn show(&self, args: &[&str]) -> Value {
        let command = self.command(&[&["build", "show", self.app, "--output", "json"], args].concat());
        json_of(&ends(command, Code::Done).await)
    }

    async fn text(&self, args: &[&str]) -> String {
        ends(self.command(&[&["build", "show", self.app], args].concat()), Code::Done).await.stdout
    }

    fn manifest(&self, build: &str) -> PathBuf {
        let dir = self.dir.path().join("store").join(self.app);
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(build) && name.ends_with(".manifest.zst")
        };
        let found: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(is_it).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    }
}

fn json_of(printed: &Printed) -> Value {
    serde_json::from_str(&printed.stdout).unwrap()
}

fn subjects(list: &Value) -> Vec<&str> {
    list["list"].as_array().unwrap().iter().map(|line| line["subject"].as_str().unwrap_or("-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_files_since_the_build_before_are_recorded_and_shown() {
    let shop = Shop::open("ships-first").await;
    for (path, content) in [("same", "1"), ("changed", "1"), ("gone", "1")] {
        shop.write(path, content);
    }
    let first = shop.commit("Open the shop");
    let printed = shop.publish().await;
    assert_eq!(printed["since"], json!({"commits": {"state": "first"}}));

    shop.write("changed", "2");
    shop.write("new", "1");
    fs::remove_file(shop.source().join("dist/gone")).unwrap();
    shop.commit("Fix the \u{1b}[2Jtill\n\nIt rang twice.");
    let second = shop.commit("Paint \"it\" \u{202e}<b>red</b>");
    let printed = shop.publish().await;
    let since = &printed["since"];
    assert_eq!(since["base"]["artifact"], first.as_str());
    assert_eq!(since["files"], json!({"added": 1, "removed": 1, "changed": 1}));
    assert_eq!(since["commits"]["added"]["count"], 2);
    assert_eq!(subjects(&since["commits"]["added"]), ["Paint \"it\" \u{202e}<b>red</b>", "Fix the [2Jtill"]);

    let shown = shop.show(&[&second]).await;
    assert_eq!(shown["against"], first.as_str());
    assert_eq!(shown["commits"]["added"]["count"], 2);
    let files = json!({
        "state": "listed", "added": {"count": 1, "list": ["new"]}, "removed": {"count": 1, "list": ["gone"]},
        "changed": {"count": 1, "list": ["changed"]},
    });
    assert_eq!(shown["files"], files);
    let text = shop.text(&[&second]).await;
    for line in
        ["commits      2 commits\n", "files        3 files: 1 added, 1 removed, 1 changed\n", "  A new\n", "  D gone\n"]
    {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    let back = shop.show(&[&first, "--against", &second]).await;
    assert_eq!((&back["commits"]["added"]["count"], &back["commits"]["removed"]["count"]), (&json!(0), &json!(2)));
    assert_eq!(back["files"]["added"]["list"], json!(["gone"]));
    let alone = shop.text(&[&first]).await;
    assert!(alone.contains("commits      first build of its branch\n"), "{alone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_builds_add_up_and_lists_are_bounded() {
    let shop = Shop::open("ships-many").await;
    shop.write("version", "0");
    let first = shop.commit("Build 0");
    shop.publish().await;
    for n in 0..30 {
        shop.commit(&format!("Commit {n}"));
    }
    for n in 0..300 {
        shop.write(&format!("file-{n:03}"), "x");
    }
    shop.commit("Many files");
    let printed = shop.publish().await;
    assert_eq!(printed["since"]["commits"]["added"]["count"], 31);
    assert_eq!(subjects(&printed["since"]["commits"]["added"]).len(), 20);
    shop.write("version", "2");
    let last = shop.commit("Build 2");
    shop.publish().await;
    let shown = shop.show(&[&last, "--against", &first]).await;
    assert_eq!((&shown["commits"]["state"], &shown["commits"]["added"]["count"]), (&json!("known"), &json!(32)));
    assert_eq!(shown["files"]["added"]["count"], 300);
    assert_eq!(shown["files"]["added"]["list"].as_array().unwrap().len(), 200);
    assert!(shop.text(&[&last, "--against", &first]).await.contains("    and 100 more\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_not_utf8_links_and_modes_are_compared_byte_by_byte() {
    let shop = Shop::open("ships-bytes").await;
    let dist = shop.source().join("dist");
    shop.write("run", "x");
    symlink("run", dist.join("link")).unwrap();
    shop.commit("one");
    shop.publish().await;
    fs::write(dist.join(OsStr::from_bytes(b"caf\xe9 100%")), "x").unwrap();
    fs::set_permissions(dist.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(dist.join("link")).unwrap();
    symlink("./run", dist.join("link")).unwrap();
    let build = shop.commit("two");
    shop.publish().await;
    let shown = shop.show(&[&build]).await;
    assert_eq!(shown["files"]["added"]["list"], json!(["caf%e9 100%25"]));
    assert_eq!(shown["files"]["changed"]["list"], json!(["link", "run"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_force_push_says_what_it_takes_back() {
    let shop = Shop::open("ships-forced").await;
    shop.write("version", "1");
    let first = shop.commit("first");
    shop.publish().await;
    shop.commit("old");
    shop.publish().await;
    shop.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    let forced = shop.commit("new");
    let printed = shop.publish().await;
    let commits = &printed["since"]["commits"];
    assert_eq!((subjects(&commits["added"]), subjects(&commits["removed"])), (vec!["new"], vec!["old"]));
    let text = shop.text(&[&forced]).await;
    assert!(text.contains("commits      1 commit, takes back 1 commit\n"), "{text}");
    // Over the rewritten history the records do not add up, and say so.
    let shown = shop.show(&[&forced, "--against", &first]).await;
    assert_eq!(shown["commits"]["state"], "unknown");
    assert!(shown["commits"]["reason"].as_str().unwrap().contains("its branch was rewritten"), "{shown:#}");
    assert_eq!(shown["files"]["state"], "listed", "the files need no history");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_clone_or_no_git_gives_unknown_commits_and_still_the_files() {
    let shop = Shop::open("ships-shallow").await;
    shop.write("version", "1");
    shop.commit("first");
    shop.publish().await;
    shop.write("version", "2");
    shop.commit("second");
    shop.commit("third");
    let clone = shop.dir.path().join("clone");
    let url = format!("file://{}", shop.source().display());
    git_in(shop.dir.path(), &["clone", "--quiet", "--depth", "1", &url, clone.to_str().unwrap()]);
    let printed = json_of(&ends(shop.publish_from(&clone), Code::Done).await);
    let since = &printed["since"];
    assert_eq!(since["commits"]["state"], "unknown", "{since:#}");
    assert!(since["commits"]["reason"].as_str().unwrap().contains("the clone is shallow"), "{since:#}");
    assert_eq!(since["files"]["changed"], 1);
    let text = shop.text(&[&shop.build()]).await;
    assert!(text.contains("commits      commits unknown: the clone is shallow, and lacks"), "{text}");

    let (commit, dist) = ("a".repeat(40), shop.dir.path().join("elsewhere"));
    fs::create_dir(&dist).unwrap();
    fs::write(dist.join("version"), "3").unwrap();
    let args = ["publish", "--app", shop.app, dist.to_str().unwrap(), "--branch", "master", "--commit", &commit];
    let printed = ends(shop.command(&args), Code::Done).await.stdout;
    assert!(printed.contains("commits unknown, 1 file changed since master-"), "{printed}");
    assert!(printed.contains("not a git repository"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_altered_list_of_files_is_named_and_published_again() {
    let shop = Shop::open("ships-lost").await;
    shop.write("version", "1");
    let first = shop.commit("first");
    shop.publish().await;
    shop.write("version", "2");
    let second = shop.commit("second");
    shop.publish().await;
    let list = shop.manifest(&second);
    let good = fs::read(&list).unwrap();
    fs::write(&list, fs::read(shop.manifest(&first)).unwrap()).unwrap();
    let shown = shop.show(&[&second]).await;
    assert_eq!((&shown["files"]["state"], &shown["files"]["changed"]["count"]), (&json!("counted"), &json!(1)));
    assert!(shown["files"]["reason"].as_str().unwrap().contains("its digest differs"), "{shown:#}");
    fs::remove_file(&list).unwrap();
    let text = shop.text(&[&second]).await;
    assert!(text.contains("files are not listed: ") && text.contains("does not exist"), "{text}");
    let again = ends(shop.publish_from(&shop.source()), Code::Done).await;
    assert!(again.stderr.contains("stored the list of the build's files again"), "{}", again.stderr);
    assert_eq!(fs::read(&list).unwrap(), good);
    fs::write(&list, &good[..good.len() / 2]).unwrap();
    let archive =
        list.with_file_name(list.file_name().unwrap().to_str().unwrap().strip_suffix(".manifest.zst").unwrap());
    fs::remove_file(&archive).unwrap();
    assert_eq!(shop.publish().await["repaired"], "missing", "of the archive");
    assert_eq!((archive.exists(), fs::read(&list).unwrap()), (true, good));
    // Without a store everything else is shown.
    let mut command = shop.command(&["build", "show", shop.app, &second]);
    command.env_remove("CUTOVER_STORE");
    let text = ends(command, Code::Done).await.stdout;
    assert!(text.contains("commits      1 commit\n") && text.contains("is not configured here"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_files_that_cannot_be_stored_leaves_no_record() {
    let shop = Shop::open("ships-full").await;
    shop.write("version", "1");
    shop.commit("first");
    shop.publish().await;
    shop.write("version", "2");
    let second = shop.commit("second");
    // Another app shows how the object will be named. A directory is in the way of it, and of nothing else.
    let dist = shop.source().join("dist");
    ends(shop.command(&["publish", "--app", "ships-empty", dist.to_str().unwrap()]), Code::Done).await;
    let [store, other] = [shop.app, "ships-empty"].map(|app| shop.dir.path().join("store").join(app));
    let names = || fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>();
    let list = |dir: &Path| {
        let mut names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.find(|name| name.ends_with(".manifest.zst")).unwrap()
    };
    fs::create_dir(store.join(list(&other))).unwrap();
    let before = names();
    let printed = ends(shop.publish_from(&shop.source()), Code::Failed).await;
    assert!(printed.stderr.contains("the list of the build's files could not be stored"), "{}", printed.stderr);
    assert_eq!(names(), before, "the archive was removed again");
    let missing = ends(shop.command(&["build", "show", shop.app, &second]), Code::NotFound).await;
    assert!(missing.stderr.contains(&format!("no build {second} of {} is recorded", shop.app)), "{}", missing.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_removes_the_list_of_files_with_the_archive() {
    let shop = Shop::open("ships-pruned").await;
    let mut builds = Vec::new();
    for n in 0..3 {
        shop.write("version", &n.to_string());
        builds.push(shop.commit(&format!("commit {n}")));
        shop.publish().await;
    }
    ends(shop.command(&["build", "prune", shop.app, "--keep", "1"]), Code::Done).await;
    let left: Vec<String> = fs::read_dir(shop.dir.path().join("store").join(shop.app))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(left.len() == 2 && left.iter().all(|name| name.starts_with(&builds[2])), "{left:?}");
    // The record names the build before, and what was new since then.
    let shown = shop.show(&[&builds[2]]).await;
    assert_eq!((&shown["against"], &shown["commits"]["added"]["count"]), (&json!(builds[1]), &json!(1)));
    assert_eq!((&shown["files"]["state"], &shown["files"]["changed"]["count"]), (&json!("counted"), &json!(1)));
    assert!(shown["files"]["reason"].as_str().unwrap().contains("was removed"), "{shown:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_not_recorded_ends_with_3() {
    let shop = Shop::open("ships-unknown").await;
    shop.write("version", "1");
    let build = shop.commit("first");
    shop.publish().await;
    for args in [&["master-00000000"][..], &[build.as_str(), "--against", "master-00000000"]] {
        let printed = ends(shop.command(&[&["build", "show", shop.app], args].concat()), Code::NotFound).await;
        assert!(printed.stderr.contains("hint: `cutover builds ships-unknown` lists the builds"), "{}", printed.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_compared_with_the_newest_of_its_branch_not_with_the_last_published() {
    let shop = Shop::open("ships-order").await;
    shop.write("version", "1");
    shop.commit("first");
    shop.publish().await;
    let second = shop.commit("second");
    let third = shop.commit("third");
    shop.publish().await;
    shop.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    let printed = shop.publish().await;
    assert_eq!(printed["artifact"], second.as_str(), "an older commit is published last");
    assert_eq!(printed["since"]["base"]["artifact"], third.as_str());
    assert_eq!(subjects(&printed["since"]["commits"]["removed"]), ["third"]);
    shop.git(&["reset", "--quiet", "--hard", "HEAD@{1}"]);
    let fourth = shop.commit("fourth");

    // The build of a pull request is none of its branch, whatever the branch is called.
    let pull_request = [("BUILDKITE_PULL_REQUEST", "7"), ("BUILDKITE_BRANCH", "master")];
    let commit = shop.git(&["rev-parse", "HEAD"]);
    let mut command = shop.publish_from(&shop.source());
    command.envs(pull_request).env("BUILDKITE_COMMIT", commit).env("BUILDKITE", "true");
    let printed = json_of(&ends(command, Code::Done).await);
    assert_eq!((&printed["pull_request"], &printed["since"]["commits"]["state"]), (&json!("7"), &json!("first")));

    let printed = shop.publish().await;
    assert_eq!(
        printed["since"]["base"]["artifact"],
        third.as_str(),
        "neither the last one, nor that of the pull request"
    );
    assert_eq!(subjects(&printed["since"]["commits"]["added"]), ["fourth"]);
    let name = printed["artifact"].as_str().unwrap();
    assert!(name.starts_with("master-") && name.ends_with(&fourth["master".len()..]), "{name}");

    // Without what its publisher recorded, as in a record of an older version, the same build is found.
    let key = Keys::default().build(&shop.app.parse().unwrap(), &name.parse().unwrap());
    let entry = shop.fleet.client().kv_get(&key, Consistency::Consistent).await.unwrap().unwrap();
    let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
    record.as_object_mut().unwrap().remove("since").unwrap();
    shop.fleet.client().kv_put(&key, &record.to_string()).await.unwrap();
    let shown = shop.show(&[name]).await;
    assert_eq!((&shown["against"], &shown["commits"]["state"]), (&json!(third), &json!("unknown")));
    assert_eq!(shown["files"]["state"], "listed");
}
