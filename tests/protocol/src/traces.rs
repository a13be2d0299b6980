//! Traces: runs as text. A line at the margin is a command or a comment; indented lines are its result.
//!
//! | Command | |
//! |---|---|
//! | `fleet a b c` | live nodes without keys; `a` holds the lock |
//! | `policy skip 2` | `absent_nodes` and `min_nodes` of every coordinator |
//! | `origin nothing` | there is no `current` before Cutover; otherwise another tool's link |
//! | `request TEXT`, `abort`, `freeze TEXT` | a person writes a key; an empty `freeze` thaws |
//! | `look a`, `decide a`, `write a` | a coordinator, step by step; `coordinate a`: until it has nothing to write |
//! | `lock a` | the lock moves |
//! | `deliver a b`, `deliver all` | nodes read the current record, consistently |
//! | `stale a #1 prepare` | an old record of the first request, in a stale read |
//! | `read`, `end`, `send`, `retry` and nodes | a read is answered, work succeeds, an answer is written, a retry is due |
//! | `fail a check_hook`, `fail a unpack early` | work fails, after or before it changed anything |
//! | `settle a b` | deliver, read, end, send, until nothing is left; `calm`: for all nodes, and coordinate |
//! | `restart a`, `restart a late` | a crash before, or after, the work under way changed the disk |
//! | `diskfull a` | the next write of the journal fails |
//! | `lose a`, `return a`, `leave a`, `join d` | session, catalog, a new node |
//! | `wait 20` | seconds pass |
//! | `index 9` | Consul's index moves on by as many writes elsewhere |
//! | `forget a` | `cutover node forget`: its record and its answer are deleted, and a mark is put |
//! | `hide a` | its `nodes/` record is deleted, as if an ACL hid it |
//! | `forge #1`, `rubbish`, `keep`, `restore`, `wipe`, `recover 1 #2` | tampering with keys: other bytes under an epoch, an unreadable value, a snapshot taken and restored, all keys deleted, a new era with the second request's release |
//! | `show` | the barrier, the last outcome, and the release that each node runs |

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::protocol::ids::Epoch;
use crate::protocol::journal::Origin;
use crate::protocol::record::{AbsentNodes, Barrier, Step, encode};

use crate::kv::Kv;
use crate::world::{End, World, policy};

struct Trace {
    world: World,
    kept: Option<Kv>,
    origin: Origin,
    /// The epochs of the requests: `#1` is the first.
    requests: Vec<Epoch>,
}

fn step(word: &str) -> Step {
    serde_json::from_value(word.into()).unwrap()
}

impl Trace {
    fn nodes(&self, words: &[&str]) -> Vec<usize> {
        let at = |word: &&str| self.world.agents.iter().position(|agent| agent.name.as_str() == *word).unwrap();
        if words == ["all"] { (0..self.world.agents.len()).collect() } else { words.iter().map(at).collect() }
    }

    /// Runs one command. Its output is in [`World::said`].
    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, rest) = words.split_first().unwrap();
        let text = line.strip_prefix(name).unwrap().trim();
        match *name {
            "fleet" => self.world = World::new(rest, &policy(AbsentNodes::Fail, 1), &self.origin),
            "origin" => self.origin = Origin::Nothing,
            "policy" => self.set_policy(rest),
            "request" | "freeze" | "abort" => self.put(name, text),
            "wait" => self.world.clock += Duration::from_secs(text.parse().unwrap()),
            "calm" => self.calm(),
            "show" => self.show(),
            "index" => self.world.kv.consul.pass(text.parse().unwrap()),
            "stale" => self.stale(rest),
            "join" => self.world.join(text, &policy(AbsentNodes::Fail, 1), &self.origin),
            "fail" | "restart" => self.break_off(name, rest),
            "forge" | "rubbish" | "keep" | "restore" | "wipe" | "recover" => self.tamper(name, rest),
            _ => self.nodes(rest).into_iter().for_each(|i| self.each(name, i)),
        }
    }

    fn each(&mut self, name: &str, i: usize) {
        let world = &mut self.world;
        match name {
            "look" => world.look(i),
            "decide" => drop(world.decide(i)),
            "write" => drop(world.write(i)),
            "coordinate" => world.coordinate(i),
            "lock" => world.take_lock(i),
            "deliver" => drop(world.deliver_newest(i)),
            "read" => while world.read(i) {},
            "end" => assert!(world.end(i, End::Well), "nothing is under way"),
            "send" => while world.send(i) {},
            "retry" => assert!(world.retry(i), "it waits for no retry"),
            "diskfull" => world.agents[i].is_disk_full = true,
            "lose" => world.session_lost(i),
            "return" => world.session_back(i),
            "leave" => {
                let node = world.agents[i].name.to_string();
                world.agents[i].session = None;
                world.kv.consul.deregister(&node);
            }
            "hide" => {
                let key = world.kv.names.node(&world.agents[i].name);
                world.kv.consul.delete(&key);
            }
            "forget" => {
                let (names, node) = (world.kv.names.clone(), world.agents[i].name.clone());
                assert_eq!(world.kv.holder(&names.node(&node)), None, "a node that lives is not forgotten");
                world.kv.consul.delete(&names.node(&node));
                world.kv.consul.delete(&names.ack(&node));
                world.kv.put(&names.forgotten(&node), b"{}");
            }
            "settle" => world.settle_node(i),
            other => panic!("unknown command {other:?}"),
        }
    }

    fn set_policy(&mut self, words: &[&str]) {
        let [absent, min_nodes] = words else { panic!("policy fail|skip MIN_NODES") };
        let absent = if *absent == "skip" { AbsentNodes::Skip } else { AbsentNodes::Fail };
        for i in 0..self.world.agents.len() {
            self.world.agents[i].policy = policy(absent, min_nodes.parse().unwrap());
            self.world.forget_coordination(i);
        }
    }

    fn put(&mut self, name: &str, text: &str) {
        let names = &self.world.kv.names;
        let (key, value) = match name {
            "request" => (names.deploy(), text.to_owned()),
            "freeze" => (names.freeze(), text.to_owned()),
            _ => (names.abort(), self.standing().epoch.to_string()),
        };
        let index = self.world.kv.put(&key, value.as_bytes());
        if name == "request" {
            self.requests.push(Epoch { era: 0, number: index.0 });
            self.world.say(format!("epoch {index}"));
        }
    }

    fn standing(&self) -> Barrier {
        self.world.kv.barrier().unwrap().1.unwrap()
    }

    fn break_off(&mut self, name: &str, words: &[&str]) {
        let i = self.nodes(&words[..1])[0];
        if name == "restart" {
            let is_late = words.get(1) == Some(&"late");
            self.world.restart(i, if is_late { End::Well } else { End::Early(Step::Sync) });
        } else {
            let is_early = words.get(2) == Some(&"early");
            let step = step(words[1]);
            assert!(self.world.end(i, if is_early { End::Early(step) } else { End::Late(step) }));
        }
    }

    fn epoch(&self, word: &str) -> Epoch {
        let ordinal: usize = word.strip_prefix('#').unwrap().parse().unwrap();
        self.requests[ordinal - 1]
    }

    fn past(&self, epoch: &str, phase: Option<&str>) -> Barrier {
        let epoch = self.epoch(epoch);
        let mut past = self.world.kv.barriers.iter().rev().map(|(_, barrier)| barrier.clone());
        past.find(|b| b.epoch == epoch && phase.is_none_or(|phase| b.phase.as_str() == phase)).unwrap()
    }

    fn stale(&mut self, words: &[&str]) {
        let record = self.past(words[1], Some(words[2]));
        let i = self.nodes(&words[..1])[0];
        let index = self.world.kv.barriers.iter().find(|(_, barrier)| *barrier == record).unwrap().0;
        self.world.deliver(i, (index, record), false);
    }

    fn tamper(&mut self, name: &str, words: &[&str]) {
        let key = self.world.kv.names.barrier();
        match name {
            "keep" => {
                self.kept = Some(self.world.kv.clone());
                return;
            }
            "restore" => self.world.kv = self.kept.clone().unwrap(),
            "rubbish" => drop(self.world.kv.put(&key, b"rubbish")),
            "wipe" => {
                let names = self.world.kv.names.clone();
                for key in [names.barrier(), names.deploy(), names.abort(), names.freeze()] {
                    self.world.kv.consul.delete(&key);
                }
            }
            "recover" => {
                let committed = self.world.kv.barriers.iter().rev();
                let committed = committed.filter_map(|(_, barrier)| barrier.committed.clone());
                let epoch = words.get(1).map(|epoch| self.epoch(epoch));
                let committed = epoch.and_then(|epoch| committed.into_iter().find(|r| r.epoch == epoch));
                self.world.recover(words[0].parse().unwrap(), committed);
                // A recovery is no tampering: the log stays consistent.
                return;
            }
            _ => {
                let mut record = self.past(words[0], None);
                if let Some((release, _)) = &mut record.deploy {
                    release.sha256 = "f".repeat(64).parse().unwrap();
                }
                self.world.kv.put(&key, encode(&record).as_bytes());
            }
        }
        self.world.is_tampered = true;
    }

    fn calm(&mut self) {
        /// Rounds; a deploy takes four.
        const BOUND: usize = 20;
        for _ in 0..BOUND {
            let before = self.world.said.len();
            let holder = self.world.lock_holder();
            self.world.coordinate(holder);
            for i in 0..self.world.agents.len() {
                self.each("settle", i);
            }
            let waits = self.world.said[before..].iter().all(|line| line.contains("waits until"));
            if waits {
                return;
            }
        }
        panic!("the fleet never comes to rest");
    }

    fn show(&mut self) {
        let world = &self.world;
        let mut lines = Vec::new();
        if let Some((_, Ok(barrier))) = world.kv.barrier() {
            let committed = barrier.committed.as_ref().map_or("nothing".to_owned(), |r| r.epoch.to_string());
            lines.push(format!("barrier {} {}, committed {committed}", barrier.epoch, barrier.phase.as_str()));
        }
        if let Some(last) = world.status().and_then(|status| status.last) {
            let at = last.node.map(|node| format!(" at {node}")).unwrap_or_default();
            let why = last.step.map(|step| format!(" ({}{at})", step.as_str())).unwrap_or_default();
            lines.push(format!("last {} {}{why}", last.epoch, last.outcome.as_str()));
        }
        for agent in &world.agents {
            let runs = agent.disk.current.as_ref().map_or("its origin".to_owned(), |release| {
                format!("{} from releases/{}", release.epoch, release.release)
            });
            let alarm = if agent.machine.alarm().is_some() { ", alarmed" } else { "" };
            lines.push(format!("{} runs {runs}; has {} releases{alarm}", agent.name, agent.disk.releases.len()));
        }
        self.world.said.extend(lines);
    }
}

/// Runs a trace. Returns its text with the result of each command.
fn play(text: &str) -> String {
    let origin = Origin::Link("releases/legacy".to_owned());
    let world = World::new(&["a"], &policy(AbsentNodes::Fail, 1), &origin);
    let mut trace = Trace { world, kept: None, origin, requests: Vec::new() };
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with(' ')) {
        writeln!(out, "{line}").unwrap();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        trace.command(line);
        for said in std::mem::take(&mut trace.world.said) {
            writeln!(out, "  {said}").unwrap();
        }
        if let Err(broken) = trace.world.check() {
            panic!("{out}{broken}");
        }
    }
    out
}

#[test]
fn every_trace_shows_what_the_machines_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
    let is_update = std::env::var_os("UPDATE_TRACES").is_some();
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 20, "traces are missing");
    let mut wrong = Vec::new();
    for path in paths {
        let expected = std::fs::read_to_string(&path).unwrap();
        let played = play(&expected);
        if is_update {
            std::fs::write(&path, played).unwrap();
        } else if played != expected {
            let name = path.file_name().unwrap().to_string_lossy();
            let first = played.lines().zip(expected.lines()).find(|(played, expected)| played != expected);
            wrong.push(format!("{name}: (does, says) {first:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE_TRACES=1 writes them anew", wrong.join("\n"));
}
