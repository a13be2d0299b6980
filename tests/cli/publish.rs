//! `publish` from end to end: a directory, a store, a real Consul.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cutover::consul::Consistency;
use cutover::control::Code;
use cutover::protocol::ids::{App, ArtifactName};
use cutover::protocol::keys::Keys;
use cutover::protocol::record::{Build, Latest, Run, RunState, Summary, decode};
use cutover_rig::git::git;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Fleet, Printed, consul, ends};

const SHA: &str = "15e9f13a00000000000000000000000000000000";

/// An app of its own with something to publish and a place for it.
struct Shop {
    fleet: Arc<Fleet>,
    app: App,
    dir: TempDir,
}

impl Shop {
    async fn open(app: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["build", "store"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("build/index.html"), "one").unwrap();
        Self { fleet: consul().await, app: app.parse().unwrap(), dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let store = format!("dir://{}", self.path("store"));
        let build = self.path("build");
        let own = ["publish", "--app", self.app.as_str(), &build, "--branch", "master", "--commit", SHA];
        own.iter().chain(&["--store", &store, "--output", "json"]).chain(more).map(ToString::to_string).collect()
    }

    fn command(&self, more: &[&str]) -> Command {
        let args = self.args(more);
        self.fleet.cutover(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    async fn publishes(&self, more: &[&str]) -> Value {
        let printed = ends(self.command(more), Code::Done).await;
        serde_json::from_str(&printed.stdout).unwrap()
    }

    async fn fails(&self, more: &[&str], code: Code) -> Printed {
        ends(self.command(more), code).await
    }

    /// The path of a printed build's object.
    fn object(&self, printed: &Value) -> String {
        self.path(&format!("store/{}/{}", self.app, printed["object"].as_str().unwrap()))
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> T {
        let entry = self.fleet.client().kv_get(key, Consistency::Consistent).await.unwrap().unwrap();
        decode(key, &entry.value).unwrap()
    }
}

fn name(text: &str) -> ArtifactName {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_in_the_store_before_its_record_and_both_agree() {
    // Without an option, an archive is tar.zst.
    for (app, options, format) in [("pub-first", &[][..], "tar.zst"), ("pub-gzip", &["--format", "tar.gz"], "tar.gz")] {
        a_published_build_agrees_with_its_record(&Shop::open(app).await, options, format).await;
    }
}

async fn a_published_build_agrees_with_its_record(shop: &Shop, options: &[&str], format: &str) {
    let printed = shop.publishes(&[&["--profile", "release"], options].concat()).await;
    assert_eq!(printed["artifact"], "master-15e9f13a");
    assert_eq!(printed["already"], false);

    let keys = Keys::default();
    let build: Build = shop.read(&keys.build(&shop.app, &name("master-15e9f13a"))).await;
    assert_eq!(build.sha256.as_str(), printed["sha256"]);
    assert_eq!(build.by.as_str(), "ann");
    assert_eq!(build.profile.as_deref(), Some("release"));
    let named = build.object.as_ref().unwrap().as_str();
    let digits =
        named.strip_prefix("master-15e9f13a-").and_then(|rest| rest.strip_suffix(&format!(".{format}"))).unwrap();
    assert!(digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{named}");
    assert_eq!(build.tree.as_ref().unwrap().as_str(), printed["tree"]);
    let object = fs::metadata(shop.object(&printed)).unwrap();
    assert_eq!(object.len(), build.packed_bytes);
    let latest: Latest = shop.read(&keys.latest(&shop.app)).await;
    assert_eq!(latest.builds.len(), 1);
    let run: Run = shop.read(&keys.run(&shop.app, &name("master-15e9f13a"))).await;
    assert_eq!(run.state, RunState::Published);

    let listed = ends(shop.fleet.cutover(&["builds", shop.app.as_str()]), Code::Done).await;
    assert!(listed.stdout.contains("master-15e9f13a  published  master  15e9f13a"), "{}", listed.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builds_subject_is_one_line_without_control_characters() {
    let shop = Shop::open("pub-says").await;
    let app = shop.app.as_str();
    let message = format!("\u{1b}[2J<b>Fix</b> the \"till\"\u{7}\r\n\nIt rang twice.\n{}", "x".repeat(100_000));
    let in_ci = |command: &mut Command| {
        command.env("BUILDKITE", "true").env("BUILDKITE_BRANCH", "master").env("BUILDKITE_COMMIT", SHA);
        command.env("BUILDKITE_MESSAGE", &message).env("BUILDKITE_BUILD_AUTHOR", "Bob \u{202e}\n& co");
    };
    let mut start = shop.fleet.cutover(&["build", "start", app]);
    in_ci(&mut start);
    ends(start, Code::Done).await;
    let (keys, name) = (Keys::default(), name("master-15e9f13a"));
    let said =
        Summary { subject: Some("[2J<b>Fix</b> the \"till\"".to_owned()), author: Some("Bob \u{202e}".to_owned()) };
    let run: Run = shop.read(&keys.run(&shop.app, &name)).await;
    assert_eq!(run.state, RunState::Building);
    assert_eq!(run.summary, said);

    let (store, build) = (format!("dir://{}", shop.path("store")), shop.path("build"));
    let mut publish = shop.fleet.cutover(&["publish", "--app", app, &build, "--store", &store]);
    in_ci(&mut publish);
    ends(publish, Code::Done).await;
    let build: Build = shop.read(&keys.build(&shop.app, &name)).await;
    let run: Run = shop.read(&keys.run(&shop.app, &name)).await;
    assert_eq!(run.state, RunState::Published);
    assert_eq!(run.summary, said);
    assert_eq!(build.summary, said);

    let listed = ends(shop.fleet.cutover(&["builds", app]), Code::Done).await.stdout;
    assert!(listed.contains("“[2J<b>Fix</b> the \"till\"” by Bob"), "{listed}");
    assert!(!listed.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{listed:?}");
    let listed = ends(shop.fleet.cutover(&["builds", app, "--output", "json"]), Code::Done).await.stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["builds"][0]["subject"], said.subject.as_deref().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ci_variables_git_gives_the_commits_subject() {
    let shop = Shop::open("pub-git").await;
    let tree = shop.path("build");
    let git = |args: &[&str]| git(Path::new(&tree), args).unwrap();
    git(&["init", "--quiet", "--initial-branch", "master"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "Fix the till\n\nIt rang twice."]);
    let store = format!("dir://{}", shop.path("store"));
    let publish = ["publish", "--app", shop.app.as_str(), &tree, "--store", &store, "--output", "json"];
    let printed = ends(shop.fleet.cutover(&publish), Code::Done).await;
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(printed["subject"], "Fix the till", "{printed:#}");
    assert_eq!(printed["author"], "Ann B.", "{printed:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_the_same_build_again_succeeds_and_restores_missing_parts() {
    let shop = Shop::open("pub-again").await;
    let first = shop.publishes(&[]).await;
    let (keys, client) = (Keys::default(), shop.fleet.client());
    let latest = client.kv_get(&keys.latest(&shop.app), Consistency::Consistent).await.unwrap().unwrap();
    client.kv_delete_cas(&latest.key, latest.modify_index).await.unwrap();

    let second = shop.publishes(&[]).await;
    assert_eq!(second["already"], true);
    assert_eq!(second["sha256"], first["sha256"]);
    let latest: Latest = shop.read(&keys.latest(&shop.app)).await;
    assert_eq!(latest.builds.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_again_repairs_an_object_that_is_missing_cut_or_altered() {
    let shop = Shop::open("pub-repair").await;
    let first = shop.publishes(&[]).await;
    assert!(first["repaired"].is_null(), "{first:#}");
    let object = shop.object(&first);
    let whole = fs::read(&object).unwrap();
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    let damages = [("missing", None), ("cut", Some(&whole[..whole.len() - 1])), ("altered", Some(&altered[..]))];
    for (flaw, bytes) in damages {
        match bytes {
            Some(bytes) => fs::write(&object, bytes).unwrap(),
            None => fs::remove_file(&object).unwrap(),
        }
        let again = shop.publishes(&[]).await;
        assert_eq!((&again["already"], &again["repaired"]), (&true.into(), &flaw.into()), "{again:#}");
        assert!(fs::read(&object).unwrap() == whole, "{flaw}");
    }
    fs::write(&object, &altered).unwrap();
    let args = shop.args(&[]);
    let args: Vec<&str> = args.iter().map(|arg| if arg == "json" { "text" } else { arg }).collect();
    let printed = ends(shop.fleet.cutover(&args), Code::Done).await;
    assert!(printed.stderr.contains("is altered in the store; uploading it again"), "{}", printed.stderr);
    assert!(printed.stdout.contains("repaired     the archive in the store was altered"), "{}", printed.stdout);
    assert!(shop.publishes(&[]).await["repaired"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_an_older_version_is_repaired_at_the_key_that_it_means() {
    let shop = Shop::open("pub-older").await;
    // What older versions made by default.
    let gzip = ["--format", "tar.gz"];
    let first = shop.publishes(&gzip).await;
    let key = Keys::default().build(&shop.app, &name("master-15e9f13a"));
    let record = Build { object: None, ..shop.read(&key).await };
    let encoded = serde_json::to_string(&record).unwrap();
    assert!(!encoded.contains("object"), "{encoded}");
    shop.fleet.client().kv_put(&key, &encoded).await.unwrap();
    fs::remove_file(shop.object(&first)).unwrap();
    let again = shop.publishes(&gzip).await;
    assert_eq!(again["repaired"], "missing");
    assert!(Path::new(&shop.path("store/pub-older/master-15e9f13a.tar.gz")).exists());
    assert!(!Path::new(&shop.object(&first)).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_whose_object_lies_elsewhere_is_not_used() {
    let shop = Shop::open("pub-elsewhere").await;
    shop.publishes(&[]).await;
    let key = Keys::default().build(&shop.app, &name("master-15e9f13a"));
    for object in ["../other/x.tar.gz", "/etc/passwd", "history"] {
        let mut record: Value = serde_json::to_value(shop.read::<Build>(&key).await).unwrap();
        record["object"] = object.into();
        shop.fleet.client().kv_put(&key, &record.to_string()).await.unwrap();
        let printed = shop.fails(&[], Code::Failed).await;
        assert!(printed.stderr.contains("object name"), "{}", printed.stderr);
        record["object"] = "master.tar.gz".into();
        shop.fleet.client().kv_put(&key, &record.to_string()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_is_refused_before_the_upload_unless_it_is_a_rebuild() {
    let shop = Shop::open("pub-other").await;
    let first = shop.publishes(&[]).await;
    fs::write(Path::new(&shop.path("build")).join("index.html"), "two").unwrap();

    let refused = shop.fails(&[], Code::Failed).await;
    assert!(
        refused.stderr.contains(&format!("the record has the tree {}", first["tree"].as_str().unwrap())),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("hint: --rebuild"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("uploading"), "{}", refused.stderr);

    let rebuilt = shop.publishes(&["--rebuild"]).await;
    assert_eq!(rebuilt["artifact"], "master-15e9f13a.2");
    assert!(Path::new(&shop.object(&rebuilt)).exists());
    let again = shop.publishes(&["--rebuild"]).await;
    assert_eq!(again["artifact"], "master-15e9f13a.2");
    assert_eq!(again["already"], true);
    fs::write(Path::new(&shop.path("build")).join("index.html"), "three").unwrap();
    assert_eq!(shop.publishes(&["--rebuild", "--format", "tar.gz"]).await["artifact"], "master-15e9f13a.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_archive_is_published_unchanged() {
    for (app, format) in [("pub-file", "tar.zst"), ("pub-file-gz", "tar.gz")] {
        a_packed_archive_is_published_unchanged(&Shop::open(app).await, format).await;
    }
}

async fn a_packed_archive_is_published_unchanged(shop: &Shop, format: &str) {
    let packed = shop.publishes(&["--format", format]).await;
    let object = shop.object(&packed);
    let store = format!("dir://{}", shop.path("store"));
    let from_file = |app: &str, file: &str| {
        let args = ["publish", "--app", app, "--file", file, "--branch", "v1", "--commit", SHA, "--store", &store];
        shop.fleet.cutover(&[&args[..], &["--output", "json"]].concat())
    };
    let printed = ends(from_file(shop.app.as_str(), &object), Code::Done).await;
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(printed["artifact"], "v1-15e9f13a");
    assert_eq!(printed["sha256"], packed["sha256"]);
    let digits = &packed["sha256"].as_str().unwrap()[..16];
    assert_eq!(printed["object"], format!("v1-15e9f13a-{digits}.{format}"));

    let rubbish = shop.path("rubbish");
    fs::write(&rubbish, "no archive").unwrap();
    ends(from_file(shop.app.as_str(), &rubbish), Code::Failed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_latest_key_stops_the_upload_and_the_error_says_how_to_fix_it() {
    let shop = Shop::open("pub-rubbish").await;
    let key = Keys::default().latest(&shop.app);
    shop.fleet.client().kv_put(&key, "{oops").await.unwrap();
    let printed = shop.fails(&[], Code::Failed).await;
    assert!(printed.stderr.contains(&format!("consul kv delete {key}")), "{}", printed.stderr);
    assert_eq!(fs::read_dir(shop.path("store")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_publishers_all_succeed() {
    let shop = Shop::open("pub-many").await;
    let mut running = Vec::new();
    for n in 0..6 {
        let branch = format!("b{n}");
        let own = |arg: String| if arg == "master" { branch.clone() } else { arg };
        let args: Vec<String> = shop.args(&[]).into_iter().map(own).collect();
        let command = shop.fleet.cutover(&args.iter().map(String::as_str).collect::<Vec<_>>());
        running.push(tokio::spawn(ends(command, Code::Done)));
    }
    for publisher in running {
        publisher.await.unwrap();
    }
    let latest: Latest = shop.read(&Keys::default().latest(&shop.app)).await;
    assert_eq!(latest.builds.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_write_builds_ends_with_7() {
    let shop = Shop::open("pub-denied").await;
    let rules = r#"key_prefix "cutover/pub-denied/" { policy = "read" }"#;
    shop.fleet.cluster.create_policy("pub-reader", rules).await.unwrap();
    let reader = shop.fleet.cluster.create_token("pub-reader", &["pub-reader"]).await.unwrap();
    let args = shop.args(&[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    ends(shop.fleet.cutover_as(&args, reader.expose()), Code::NotAllowed).await;
    // Also where a part of it is lacking: what nobody can record is not put into the store.
    let rules = r#"key_prefix "cutover/pub-denied/" { policy = "write" } key_prefix "cutover/pub-denied/runs/" { policy = "read" }"#;
    shop.fleet.cluster.create_policy("pub-half", rules).await.unwrap();
    let half = shop.fleet.cluster.create_token("pub-half", &["pub-half"]).await.unwrap();
    let printed = ends(shop.fleet.cutover_as(&args, half.expose()), Code::NotAllowed).await;
    assert!(printed.stderr.contains("may not write cutover/pub-denied/runs/master-"), "{}", printed.stderr);
    assert!(fs::read_dir(shop.path("store")).unwrap().next().is_none(), "nothing was uploaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_fire_the_event_the_build_is_published_with_a_warning() {
    let shop = Shop::open("pub-quiet").await;
    let rules = r#"key_prefix "cutover/pub-quiet/" { policy = "write" }"#;
    shop.fleet.cluster.create_policy("pub-quiet", rules).await.unwrap();
    let writer = shop.fleet.cluster.create_token("pub-quiet", &["pub-quiet"]).await.unwrap();
    let args = shop.args(&[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let printed = ends(shop.fleet.cutover_as(&args, writer.expose()), Code::Done).await;
    assert!(printed.stderr.contains("warning: the event cutover-build"), "{}", printed.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_an_unmounted_store() {
    let shop = Shop::open("pub-unmounted").await;
    shop.publishes(&[]).await;
    let (store, away) = (shop.path("store"), shop.path("away"));
    rustix::fs::rename(&store, &away).unwrap();
    fs::create_dir(&store).unwrap();
    let refused = async |more: &[&str]| {
        let printed = shop.fails(more, Code::Failed).await;
        assert!(printed.stderr.contains("mount the store"), "{}", printed.stderr);
        assert_eq!(fs::read_dir(&store).unwrap().count(), 0);
    };
    // What was published and seems to be gone from the store; and what is new.
    refused(&[]).await;
    fs::write(shop.path("build/index.html"), "two").unwrap();
    refused(&["--rebuild"]).await;
    // Mounted again it is as before.
    fs::remove_dir(&store).unwrap();
    rustix::fs::rename(&away, &store).unwrap();
    assert_eq!(shop.publishes(&["--rebuild"]).await["artifact"], "master-15e9f13a.2");
    // A store that is new has the directory that the message names.
    rustix::fs::rename(&store, &away).unwrap();
    fs::create_dir_all(shop.path("store/pub-unmounted")).unwrap();
    fs::write(shop.path("build/index.html"), "three").unwrap();
    assert_eq!(shop.publishes(&["--rebuild"]).await["artifact"], "master-15e9f13a.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_leaves_no_record() {
    let shop = Shop::open("pub-nowhere").await;
    fs::remove_dir(shop.path("store")).unwrap();
    shop.fails(&[], Code::Failed).await;
    let key = Keys::default().build(&shop.app, &name("master-15e9f13a"));
    assert_eq!(shop.fleet.client().kv_get(&key, Consistency::Consistent).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_files_is_published_only_on_request() {
    let shop = Shop::open("pub-empty").await;
    fs::remove_file(shop.path("build/index.html")).unwrap();
    fs::create_dir_all(shop.path("build/.git")).unwrap();
    let refused = shop.fails(&[], Code::Failed).await.stderr;
    assert!(["has nothing to deploy", "--allow-empty"].iter().all(|word| refused.contains(word)), "{refused}");
    assert!(refused.contains("left out: .git (--with-git packs .git)"), "{refused}");
    let printed = shop.publishes(&["--allow-empty"]).await;
    assert_eq!((&printed["entries"], &printed["unpacked_bytes"]), (&Value::from(0), &Value::from(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_names_the_times_the_links_and_what_was_left_out() {
    let shop = Shop::open("pub-tree").await;
    std::os::unix::fs::symlink("/usr/bin/python3", shop.path("build/python")).unwrap();
    fs::write(shop.path("build/debug.log"), "x").unwrap();
    fs::write(shop.path("build/.cutoverignore"), "*.log\n").unwrap();
    let refused = shop.fails(&[], Code::Failed).await.stderr;
    let words = ["\"python\"", "\"/usr/bin/python3\"", "--links any", "links = \"any\""];
    assert!(words.iter().all(|word| refused.contains(word)), "{refused}");
    let mut bad = shop.command(&["--links", "any"]);
    bad.env("SOURCE_DATE_EPOCH", "yesterday");
    let bad = ends(bad, Code::Usage).await.stderr;
    assert!(bad.contains("SOURCE_DATE_EPOCH is \"yesterday\", which is no time"), "{bad}");
    let done = ends(shop.command(&["--links", "any"]), Code::Done).await.stderr;
    assert!(done.contains("every file keeps its own; a retry from a fresh checkout has other bytes"), "{done}");
    assert!(done.contains("left out: debug.log"), "{done}");
    // An archive is checked like a directory.
    let archive = shop.path("archive.tar.gz");
    let tar = Command::new("tar").args(["-czf", &archive, "-C", &shop.path("build"), "."]).status().unwrap();
    assert!(tar.success());
    let store = format!("dir://{}", shop.path("store"));
    let file =
        ["publish", "--app", "pub-tree", "--file", &archive, "--branch", "master", "--commit", SHA, "--store", &store];
    let refused = ends(shop.fleet.cutover(&file), Code::Failed).await.stderr;
    assert!(refused.contains("cannot be unpacked on the nodes"), "{refused}");
    assert!(words[1..].iter().all(|word| refused.contains(word)), "{refused}");
}
