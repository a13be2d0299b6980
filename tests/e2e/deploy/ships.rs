//! What a deploy ships: in the dry run, the history, the API and messages, from a real git repository.

use std::path::{Path, PathBuf};

use cutover_rig::git::git;
use serde_json::{Value, json};

use crate::fleet::receiver::Receiver;
use crate::fleet::web::Web;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};
use crate::people::notifications::webhook;

/// A repository whose directory `dist` is published.
struct Source<'a> {
    fleet: &'a Fleet,
    dir: PathBuf,
}

impl<'a> Source<'a> {
    fn new(fleet: &'a Fleet) -> Self {
        let dir = fleet.dir.path().join("source");
        std::fs::create_dir_all(dir.join("dist")).unwrap();
        git(&dir, &["init", "--quiet", "--initial-branch", "master"]).unwrap();
        Self { fleet, dir }
    }

    /// Commits a version with one more file, and publishes it.
    fn publish(&self, version: &str) -> String {
        let dist = self.dir.join("dist");
        std::fs::write(dist.join("version"), version).unwrap();
        std::fs::write(dist.join(format!("only-since-{version}")), version).unwrap();
        git(&self.dir, &["add", "--all"]).unwrap();
        git(&self.dir, &["commit", "--quiet", "-m", &format!("Make version {version}")]).unwrap();
        let output = self.fleet.cutover(&["publish", "--app", "shop", dist.to_str().unwrap(), "--output", "json"]);
        assert_eq!(output.code, 0, "{output}");
        output.json()["artifact"].as_str().unwrap().to_owned()
    }
}

fn subjects(list: &Value) -> Vec<&str> {
    list["list"].as_array().unwrap().iter().map(|line| line["subject"].as_str().unwrap()).collect()
}

#[test]
fn a_dry_run_the_history_and_messages_say_what_ships() {
    let settings = |_: usize, dir: &Path| webhook(dir);
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    wait_until(LIMIT, "it is noted where messages begin", || fleet.entry("told/audit"));
    let source = Source::new(&fleet);
    let one = source.publish("one");
    let output = fleet.cutover(&["deploy", UNIT, &one]);
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(fleet.history()[0]["changes"], Value::Null, "nothing ran before");
    let first = fleet.newest_epoch();
    source.publish("two");
    let three = source.publish("three");

    let output = fleet.cutover(&["deploy", UNIT, &three, "--dry-run", "--output", "json"]);
    assert_eq!(output.code, 0, "{output}");
    let ships = output.json()["ships"].clone();
    assert_eq!(ships["commits"]["state"], "known", "{ships:#}");
    assert_eq!(subjects(&ships["commits"]["added"]), ["Make version three", "Make version two"]);
    let files = json!({
        "state": "listed", "added": {"count": 2, "list": ["only-since-three", "only-since-two"]},
        "removed": {"count": 0}, "changed": {"count": 1, "list": ["version"]},
    });
    assert_eq!(ships["files"], files);
    let text = fleet.cutover(&["deploy", UNIT, &three, "--dry-run"]).stdout;
    for line in ["commits      2 commits\n", "files        3 files: 2 added, 0 removed, 1 changed\n", "  M version\n"] {
        assert!(text.contains(line), "{line:?} in {text}");
    }

    let output = fleet.cutover(&["deploy", UNIT, &three]);
    assert_eq!(output.code, 0, "{output}");
    let sentence = "2 commits, 3 files changed: “Make version three”, “Make version two”";
    assert!(output.stdout.contains(&format!("ships        {sentence}\n")), "{output}");
    let changes = fleet.history().pop().unwrap()["changes"].clone();
    assert_eq!(changes["files"], json!({"added": 2, "removed": 0, "changed": 1}), "counted from the lists of files");
    assert_eq!(changes["commits"]["added"]["count"], 2);
    let history = fleet.cutover(&["history", UNIT]).stdout;
    assert!(history.contains("2 commits, 3 files changed"), "{history}");
    let done = audit.wait_taken("deploy.done", first).json()["data"].clone();
    assert_eq!(done["changes"], changes, "{done:#}");
    assert!(done["text"].as_str().unwrap().ends_with("2 commits, 3 files changed"), "{done:#}");
    let published = audit.wait("a published build", |call| call.is_taken && call.event().0 == "build.published").json();
    assert!(published["data"]["text"].as_str().unwrap().contains(": "), "{published:#}");

    let web = Web::of(&fleet.nodes[0]);
    let shown = web.get(&format!("/v1/builds/shop/{three}?against={one}")).expect(200);
    let printed = fleet.cutover(&["build", "show", "shop", &three, "--against", &one, "--output", "json"]).json();
    assert_eq!(shown, printed, "the API and the command show the same");
    assert_eq!(shown["files"], files);
    web.get("/v1/builds/shop/master-00000000").refused(404, "not_found");

    let output = fleet.cutover(&["rollback", UNIT]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains("ships        takes back 2 commits, 3 files changed: “Make"), "{output}");
}

#[test]
fn a_deploy_does_not_need_the_lists_of_files() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    let source = Source::new(&fleet);
    let one = source.publish("one");
    assert_eq!(fleet.cutover(&["deploy", UNIT, &one]).code, 0);
    source.publish("two");
    let three = source.publish("three");
    for entry in std::fs::read_dir(fleet.store.join("shop")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().ends_with(".manifest.zst") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let output = fleet.cutover(&["deploy", UNIT, &three, "--dry-run"]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains("commits      2 commits\n"), "{output}");
    assert!(output.stdout.contains("files        unknown: ") && output.stdout.contains("does not exist"), "{output}");
    assert_eq!(fleet.cutover(&["deploy", UNIT, &three]).code, 0);
    let changes = fleet.history().pop().unwrap()["changes"].clone();
    assert_eq!((&changes["commits"]["added"]["count"], &changes["files"]), (&json!(2), &Value::Null));
}
