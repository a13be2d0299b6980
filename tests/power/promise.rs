//! What must be true on the disk: of every release, and because the node has said so.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::machine::{HOOKED, Machine, UPLOAD};

/// What Consul and the protocol know at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// The barrier's record.
    pub(crate) barrier: Value,
    /// The node's newest answer.
    answer: Value,
    /// The floor in the node's own record.
    floor: Value,
}

impl Said {
    pub(crate) fn now(machine: &Machine) -> Self {
        let read = |key: &str| machine.fleet.json(key).unwrap_or(Value::Null);
        // The answer first: a barrier that is read later may only have come further.
        let name = &machine.node().name;
        let (answer, floor) = (read(&format!("acks/{name}")), read(&format!("nodes/{name}"))["floor"].take());
        Self { answer, floor, barrier: read("barrier") }
    }

    pub(crate) fn phase(&self) -> &str {
        self.barrier["phase"].as_str().unwrap_or("nothing")
    }

    /// The node's answer to this very epoch.
    fn answered(&self) -> Option<&str> {
        (epoch(&self.answer) == epoch(&self.barrier)).then(|| self.answer["answer"].as_str()).flatten()
    }
}

/// What is wrong with the disk, given what was said; empty: nothing.
pub(crate) fn broken(machine: &Machine, said: &Said) -> Vec<String> {
    let mut wrong = releases(machine);
    let root = &machine.node().deploy_to;
    let current = machine.node().current();
    if let Some(current) = &current
        && let Err(why) = whole(machine, current.trim_start_matches("releases/"))
    {
        wrong.push(format!("current is {current}, which is not whole: {why}"));
    }
    let named = |what: &str| said.barrier[what]["release"].as_str().map(str::to_owned);
    let own = || said.barrier["release"].as_str().map(str::to_owned);
    let must_be_whole = match (said.phase(), said.answered()) {
        ("prepare" | "commit", Some("prepared" | "switched")) => [own(), named("from")],
        ("commit" | "revert", _) => [named("from"), None],
        _ => [named("committed"), None],
    };
    for name in must_be_whole.iter().flatten() {
        if let Err(why) = whole(machine, name) {
            wrong.push(format!("{name} was promised, and is not whole: {why}"));
        }
    }
    let must_run = match (said.phase(), said.answered()) {
        ("commit", Some("switched")) => own(),
        ("revert", Some("reverted")) => named("from"),
        ("done" | "aborted" | "reverted", _) => named("committed"),
        _ => None,
    };
    if let Some(name) = must_run
        && current != Some(format!("releases/{name}"))
    {
        wrong.push(format!("current is {current:?}, and {name} was said to run"));
    }
    wrong.extend(journal(&root.join(".cutover"), said).err());
    wrong
}

/// The journal must be readable, and not older than what the node has said of it.
fn journal(dir: &Path, said: &Said) -> Result<(), String> {
    for file in ["state.json", "origin.json"] {
        match fs::read_to_string(dir.join(file)) {
            Ok(text) if serde_json::from_str::<Value>(&text).is_err() => {
                return Err(format!("{file} is no JSON: {text:?}"));
            }
            Err(_) if said.answered().is_some_and(|answer| answer != "prepared") => {
                return Err(format!("{file} is gone"));
            }
            Ok(_) | Err(_) => {}
        }
    }
    let text = fs::read_to_string(dir.join("state.json")).unwrap_or_default();
    let state = serde_json::from_str(&text).unwrap_or(Value::Null);
    let floor = &state["state"]["record"];
    if said.floor.is_null() || epoch(floor) >= epoch(&said.floor) {
        return Ok(());
    }
    Err(format!("the journal has the floor {:?}, and the node said {:?}", epoch(floor), epoch(&said.floor)))
}

fn epoch(record: &Value) -> (Option<u64>, Option<u64>) {
    (record["era"].as_u64(), record["epoch"].as_u64())
}

/// What is wrong with the releases: each that is recorded as complete must be, or be gone as a whole.
fn releases(machine: &Machine) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in machine.node().list(".cutover/releases") {
        // It may be removed meanwhile.
        let Some(text) = machine.node().read(&format!(".cutover/releases/{name}")) else { continue };
        let Ok(record) = serde_json::from_str::<Value>(&text) else {
            wrong.push(format!("the record {name} is no JSON: {text:?}"));
            continue;
        };
        let release = name.trim_end_matches(".json");
        let is_there = || machine.node().deploy_to.join("releases").join(release).exists();
        // Asked twice: it may be moved away as a whole meanwhile, and removed there.
        if record["complete"] == true
            && is_there()
            && let Err(why) = whole(machine, release)
            && is_there()
        {
            wrong.push(format!("{release} counts as complete: {why}"));
        }
    }
    wrong
}

/// Whether a release is recorded as complete, and has each file of its build and of its hook.
fn whole(machine: &Machine, name: &str) -> Result<(), String> {
    let text = machine.node().read(&format!(".cutover/releases/{name}.json")).ok_or("it has no record")?;
    let record: Value = serde_json::from_str(&text).map_err(|error| format!("its record: {error}"))?;
    if record["complete"] != true {
        return Err("its record says that it is not complete".to_owned());
    }
    let artifact = record["artifact"].as_str().ok_or("its record names no build")?;
    let version = machine.versions.get(artifact).ok_or_else(|| format!("{artifact} was never published"))?;
    let release = machine.node().deploy_to.join("releases").join(name);
    let expected = [
        ("version", version.clone()),
        ("bin/app", format!("#!/bin/sh\necho {version}\n")),
        ("lib/data", HOOKED.to_owned()),
        ("lib/deep/file", version.clone()),
        ("lib/link", version.clone()),
        ("prepared", format!("{artifact}\n")),
        ("uploads/default", UPLOAD.to_owned()),
        ("REVISION", format!("{}\n", record["commit"].as_str().unwrap_or_default())),
    ];
    expected.iter().try_for_each(|(path, text)| same(&release, path, text))
}

fn same(release: &Path, path: &str, expected: &str) -> Result<(), String> {
    match fs::read_to_string(release.join(path)) {
        Ok(text) if text == expected => Ok(()),
        Ok(text) => Err(format!("{path} is {text:?} instead of {expected:?}")),
        Err(error) => Err(format!("{path}: {error}")),
    }
}
