//! Which build of a branch is the newest, and what its name is: against a real Consul, a real git and a real store.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cutover::consul::Consistency;
use cutover::control::Code;
use cutover::protocol::ids::App;
use cutover::protocol::keys::Keys;
use cutover::protocol::record::{Latest, decode};
use cutover_rig::git::git;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Fleet, Printed, consul, ends};

/// An app of its own, a repository to publish from, and a store.
struct Shop {
    fleet: Arc<Fleet>,
    app: App,
    dir: TempDir,
}

impl Shop {
    async fn open(app: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["tree", "store", "plain"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("plain/index.html"), "one").unwrap();
        let shop = Self { fleet: consul().await, app: app.parse().unwrap(), dir };
        shop.git(&["init", "--quiet", "--initial-branch", "master"]);
        shop
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn git(&self, args: &[&str]) -> String {
        let args = [&["-c", "user.name=Ann"], args].concat();
        git(Path::new(&self.path("tree")), &args).unwrap()
    }

    /// A new commit in the repository.
    fn commit(&self, content: &str) -> String {
        fs::write(Path::new(&self.path("tree")).join("index.html"), content).unwrap();
        self.git(&["add", "."]);
        self.git(&["commit", "--quiet", "--message", content]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// `publish` of a directory without git, with CI's variables.
    async fn publish(&self, vars: &[(&str, &str)], more: &[&str]) -> Value {
        self.publish_from("plain", vars, more).await
    }

    async fn publish_from(&self, dir: &str, vars: &[(&str, &str)], more: &[&str]) -> Value {
        let (dir, store) = (self.path(dir), format!("dir://{}", self.path("store")));
        let own = ["publish", "--app", self.app.as_str(), &dir, "--store", &store, "--output", "json"];
        let mut command = self.fleet.cutover(&[&own[..], more].concat());
        command.envs(vars.iter().copied());
        serde_json::from_str(&ends(command, Code::Done).await.stdout).unwrap()
    }

    async fn start(&self, branch: &str, commit: &str) -> String {
        let args = ["build", "start", self.app.as_str(), "--branch", branch, "--commit", commit];
        self.run(&args, Code::Done).await.stdout.split_whitespace().next().unwrap().to_owned()
    }

    async fn run(&self, args: &[&str], code: Code) -> Printed {
        ends(self.fleet.cutover(args), code).await
    }

    /// The rows of `cutover builds` that are the newest of their branch or tag.
    async fn newest(&self) -> Vec<String> {
        let printed = self.run(&["builds", self.app.as_str(), "--output", "json"], Code::Done).await;
        let document: Value = serde_json::from_str(&printed.stdout).unwrap();
        let rows = document["builds"].as_array().unwrap().iter().filter(|row| row["newest"] == true);
        rows.map(|row| row["artifact"].as_str().unwrap().to_owned()).collect()
    }

    /// What nodes prefetch from, newest first.
    async fn latest(&self) -> Vec<String> {
        let key = Keys::default().latest(&self.app);
        let entry = self.fleet.client().kv_get(&key, Consistency::Consistent).await.unwrap().unwrap();
        let _readable: Latest = decode(&key, &entry.value).unwrap();
        let latest: Value = serde_json::from_slice(&entry.value).unwrap();
        let builds = latest["builds"].as_array().unwrap().iter();
        builds.map(|build| build["artifact"].as_str().unwrap().to_owned()).collect()
    }
}

fn sha(digits: &str) -> String {
    format!("{digits}{}", "0".repeat(32))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_commit_that_is_published_last_is_not_the_newest_by_its_ancestors() {
    let shop = Shop::open("new-git").await;
    let older = shop.commit("one");
    let newer = shop.commit("two");
    let at = |commit: &str| format!("master-{}", &commit[..8]);
    shop.publish_from("tree", &[], &["--commit", &newer]).await;
    shop.publish_from("tree", &[], &["--commit", &older]).await;
    assert_eq!(shop.newest().await, [at(&newer)]);
    assert_eq!(shop.latest().await, [at(&newer), at(&older)]);
    let listed = shop.run(&["builds", "new-git"], Code::Done).await.stdout;
    let line = listed.lines().find(|line| line.contains("newest of master")).unwrap();
    assert!(line.starts_with(&at(&newer)), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_commit_that_is_published_last_is_not_the_newest_by_the_start_of_its_build() {
    let shop = Shop::open("new-start").await;
    let (older, newer) = (sha("aaaaaaaa"), sha("bbbbbbbb"));
    shop.start("master", &older).await;
    shop.start("master", &newer).await;
    shop.publish(&[], &["--branch", "master", "--commit", &newer]).await;
    shop.publish(&[], &["--branch", "master", "--commit", &older]).await;
    assert_eq!(shop.newest().await, ["master-bbbbbbbb"]);
    assert_eq!(shop.latest().await, ["master-bbbbbbbb", "master-aaaaaaaa"]);
    // CI runs again for the older commit: it keeps its place, and so does its rebuild.
    shop.start("master", &older).await;
    fs::write(shop.path("plain/index.html"), "two").unwrap();
    let rebuilt = shop.publish(&[], &["--branch", "refs/heads/master", "--commit", &older, "--rebuild"]).await;
    assert_eq!(rebuilt["artifact"], "master-aaaaaaaa.2");
    assert_eq!(shop.newest().await, ["master-bbbbbbbb"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_says_it_is_of_the_future_does_not_stay_the_newest() {
    let shop = Shop::open("new-clock").await;
    let published = shop.publish(&[], &["--branch", "master", "--commit", &sha("aaaaaaaa")]).await;
    // As a publisher of two hours ahead records it.
    let (client, keys) = (shop.fleet.client(), Keys::default());
    let key = keys.build(&shop.app, &published["artifact"].as_str().unwrap().parse().unwrap());
    let entry = client.kv_get(&key, Consistency::Consistent).await.unwrap().unwrap();
    let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
    (record["at"], record["order"]) = ("2099-01-01T00:00:00Z".into(), "2099-01-01T00:00:00Z".into());
    client.kv_put(&key, &record.to_string()).await.unwrap();
    shop.publish(&[], &["--branch", "master", "--commit", &sha("bbbbbbbb")]).await;
    assert_eq!(shop.newest().await, ["master-bbbbbbbb"]);
    assert_eq!(shop.latest().await[0], "master-bbbbbbbb");
    // A record of an earlier version counts by its time.
    (record["at"], record["order"]) = ("2098-01-01T00:00:00Z".into(), Value::Null);
    client.kv_put(&key, &record.to_string()).await.unwrap();
    shop.publish(&[], &["--branch", "master", "--commit", &sha("cccccccc")]).await;
    assert_eq!(shop.newest().await, ["master-cccccccc"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_of_a_fork_is_no_build_of_the_branch_that_it_is_named_after() {
    let shop = Shop::open("new-fork").await;
    shop.publish(&[], &["--branch", "master", "--commit", &sha("aaaaaaaa")]).await;
    let (of_github, of_buildkite) = (sha("bbbbbbbb"), sha("cccccccc"));
    let github = [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_HEAD_REF", "master"),
        ("GITHUB_REF", "refs/pull/7/merge"),
        ("GITHUB_SHA", &of_github),
    ];
    let published = shop.publish(&github, &[]).await;
    assert_eq!((&published["branch"], &published["pull_request"]), (&"master".into(), &"7".into()));
    let buildkite = [
        ("BUILDKITE", "true"),
        ("BUILDKITE_BRANCH", "stranger:master"),
        ("BUILDKITE_PULL_REQUEST", "44"),
        ("BUILDKITE_COMMIT", &of_buildkite),
    ];
    assert_eq!(shop.publish(&buildkite, &[]).await["branch"], "stranger/master");
    assert_eq!(shop.newest().await, ["master-aaaaaaaa"]);
    assert_eq!(shop.latest().await, ["master-aaaaaaaa"]);
    // After the merge, the same commit is built for the branch, from the same bytes.
    let merged = shop.publish(&[], &["--branch", "master", "--commit", &of_github]).await;
    assert_eq!((&merged["already"], &merged["pull_request"]), (&false.into(), &Value::Null));
    assert_eq!(shop.newest().await, [merged["artifact"].as_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_of_one_short_name_both_publish_the_same_commit() {
    let shop = Shop::open("new-names").await;
    let commit = sha("aaaaaaaa");
    let publish = async |branch: &str| {
        let published = shop.publish(&[], &["--branch", branch, "--commit", &commit]).await;
        (published["artifact"].as_str().unwrap().to_owned(), published["already"] == true)
    };
    // The one that starts first has the name, although the other one publishes first.
    assert_eq!(shop.start("feature-x", &commit).await, "feature-x-aaaaaaaa");
    let other = "feature-x-217d2b-aaaaaaaa";
    assert_eq!(publish("feature/x").await, (other.to_owned(), false));
    assert_eq!(publish("feature-x").await, ("feature-x-aaaaaaaa".to_owned(), false));
    assert_eq!(publish("feature/x").await, (other.to_owned(), true));
    assert_eq!(shop.start("feature/x", &commit).await, other);
    let tag = publish("refs/tags/feature-x").await.0;
    assert!(tag.starts_with("feature-x-") && tag != other && tag.len() == other.len(), "{tag}");
    assert_eq!(shop.newest().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_that_race_for_one_short_name_both_succeed() {
    let shop = Shop::open("new-race").await;
    let commit = sha("aaaaaaaa");
    let publish = async |branch: &str| {
        let published = shop.publish(&[], &["--branch", branch, "--commit", &commit]).await;
        assert_eq!(published["branch"], branch);
        published["artifact"].as_str().unwrap().to_owned()
    };
    let names = tokio::join!(publish("feature/x"), publish("feature-x"), publish("feature+x"));
    let names = std::collections::BTreeSet::from([names.0, names.1, names.2]);
    assert!(names.len() == 3 && names.contains("feature-x-aaaaaaaa"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_no_branch() {
    let shop = Shop::open("new-head").await;
    let printed = shop.run(&["publish", "--app", "new-head", "--branch", "HEAD", "."], Code::Usage).await;
    assert!(
        printed.stderr.contains("--branch") && printed.stderr.contains("give the branch's own name"),
        "{}",
        printed.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_commit_gives_the_subject_and_not_its_signature() {
    let shop = Shop::open("new-signed").await;
    let key = shop.path("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status().unwrap();
    assert!(made.success());
    for (name, value) in
        [("gpg.format", "ssh"), ("user.signingKey", &key), ("commit.gpgSign", "true"), ("log.showSignature", "true")]
    {
        shop.git(&["config", name, value]);
    }
    shop.commit("Fix the till");
    let published = shop.publish_from("tree", &[], &[]).await;
    assert_eq!((&published["subject"], &published["author"]), (&"Fix the till".into(), &"Ann".into()));
}
