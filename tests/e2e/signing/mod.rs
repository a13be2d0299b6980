//! Signatures of builds: made by `publish --sign` or by minisign itself, checked by every node by its own settings.

mod again;
mod following;
mod minisign;
mod refusals;
mod withdrawn;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::fleet::node::Node;
use crate::fleet::{Build, Fleet, LIMIT, UNIT, commit_of, wait_until};

/// A pair of keys, made by minisign.
pub(crate) struct Pair {
    pub(crate) secret: PathBuf,
    pub(crate) public: PathBuf,
    /// As minisign writes it into the comment of the public key, with 16 digits.
    pub(crate) id: String,
}

impl Pair {
    /// The pair of this name, below the fleet's directory. Made without a password when it is first asked for.
    pub(crate) fn of(fleet: &Fleet, name: &str) -> Self {
        Self::made(fleet, name, &["-G", "-W"], "")
    }

    fn made(fleet: &Fleet, name: &str, options: &[&str], input: &str) -> Self {
        let [secret, public] = ["key", "pub"].map(|end| fleet.dir.path().join(format!("{name}.{end}")));
        if !public.exists() {
            let [s, p] = [&secret, &public].map(|path| path.to_str().unwrap());
            minisign(&[options, &["-s", s, "-p", p]].concat(), input);
        }
        let text = std::fs::read_to_string(&public).unwrap();
        // minisign leaves out zeros in front.
        let id = format!("{:0>16}", text.lines().next().unwrap().rsplit(' ').next().unwrap());
        Self { secret, public, id }
    }
}

/// Runs minisign, which must succeed.
pub(crate) fn minisign(arguments: &[&str], input: &str) -> String {
    let (success, said) = try_minisign(arguments, input);
    assert!(success, "minisign {arguments:?}: {said}");
    said
}

/// Runs minisign; tells whether it succeeded, and what it said.
pub(crate) fn try_minisign(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("minisign");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|error| panic!("these tests need minisign (make setup): {error}"));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

/// Gives a node these keys, and whether it asks for a signature. Its agent reads them when it starts.
pub(crate) fn pin(node: &Node, keys: &[&Pair], required: bool) {
    let keys: Vec<String> = keys.iter().map(|pair| format!("{:?}", pair.public.to_str().unwrap())).collect();
    let keys = keys.join(", ");
    let text = format!("[signatures]\nkeys = [{keys}]\n[deploy.\"{UNIT}\"]\nrequire_signature = {required}\n");
    std::fs::create_dir_all(node.dir.join("conf.d")).unwrap();
    std::fs::write(node.dir.join("conf.d/signatures.toml"), text).unwrap();
}

/// Starts the agents of these nodes again, with the settings that they have now.
pub(crate) fn restart(fleet: &Fleet, indexes: &[usize]) {
    for &index in indexes {
        fleet.term(index);
        fleet.start_agent(index);
    }
    fleet.wait_for_presence(indexes);
}

/// The arguments that publish `version`, without options. The tree is written once: its files' times are part of the archive.
pub(crate) fn publishing(fleet: &Fleet, version: &str) -> Vec<String> {
    let tree = fleet.dir.path().join("build").join(version);
    if !tree.exists() {
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("version"), version).unwrap();
    }
    let commit = commit_of(version);
    let tree = tree.to_str().unwrap();
    ["publish", "--app", "shop", "--branch", "master", "--commit", &commit, tree].map(str::to_owned).to_vec()
}

/// Publishes, and signs with a pair; none: unsigned.
pub(crate) fn publish(fleet: &Fleet, version: &str, pair: Option<&Pair>) -> Build {
    let mut arguments = publishing(fleet, version);
    if let Some(pair) = pair {
        arguments.extend(["--sign".to_owned(), pair.secret.to_str().unwrap().to_owned()]);
    }
    let output = fleet.cutover(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.code, 0, "{output}");
    if let Some(pair) = pair {
        assert!(output.stdout.contains(&format!("signed by    {}\n", pair.id)), "{output}");
    }
    let commit = commit_of(version);
    Build { artifact: format!("master-{}", &commit[..8]), commit }
}

/// The key of a build's record.
pub(crate) fn record_key(build: &Build) -> String {
    format!("cutover/shop/builds/{}", build.artifact)
}

pub(crate) fn record(fleet: &Fleet, build: &Build) -> Value {
    fleet.consul.key(&record_key(build)).unwrap().unwrap().json().unwrap()
}

/// Overwrites a build's record, as whoever can write Consul may.
pub(crate) fn overwrite(fleet: &Fleet, build: &Build, record: &Value) {
    fleet.consul(&["kv", "put", &record_key(build), &record.to_string()]);
}

/// How many archives a node has fetched, in whole or in part.
pub(crate) fn fetched(node: &Node) -> usize {
    std::fs::read_dir(node.dir.join("cache/shop")).map(Iterator::count).unwrap_or_default()
}

/// Fails if a node has fetched or unpacked a byte of anything.
pub(crate) fn assert_untouched(node: &Node) {
    for dir in [".cutover/staged", ".cutover/tmp", ".cutover/releases", "releases"] {
        assert_eq!(node.list(dir), Vec::<String>::new(), "{dir} of {}", node.name);
    }
    assert_eq!((fetched(node), node.current()), (0, None), "{}", node.name);
}

/// The build that a node does not stage, with the reason, once status shows it.
pub(crate) fn wait_refused(fleet: &Fleet, node: &Node, build: &Build) -> String {
    wait_until(LIMIT, &format!("{} refuses {}", node.name, build.artifact), || {
        let status = fleet.cutover(&["status", UNIT, "--output", "json"]).json();
        let row = status["nodes"].as_array()?.iter().find(|it| it["node"] == node.name.as_str())?.clone();
        let refused = row["refused"].as_array()?.iter().find(|it| it["artifact"] == build.artifact.as_str())?.clone();
        Some(refused["reason"].as_str()?.to_owned())
    })
}

/// The keys by which a node verified its releases, by the artifact's name.
pub(crate) fn signers(node: &Node) -> Value {
    let records = node.list(".cutover/releases").into_iter().filter_map(|name| {
        let record: Value = serde_json::from_str(&node.read(&format!(".cutover/releases/{name}"))?).unwrap();
        Some((record["artifact"].as_str()?.to_owned(), record["signed_by"].clone()))
    });
    json!(records.collect::<std::collections::BTreeMap<_, _>>())
}
