//! Chance moves a fleet: whatever is delivered late, lost, crashed or written by a zombie, the invariants hold, and
//! once everything works again the fleet settles on what is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cutover::protocol::journal::Origin;
use cutover::protocol::record::{AbsentNodes, Step};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::world::{End, World, policy};

/// One step of chance. Nodes and records are numbers, taken modulo what there is.
#[derive(Clone, Debug)]
enum Action {
    Abort,
    Crash {
        node: usize,
        end: End,
    },
    /// A coordinator decides on the last look that it had, and keeps what it would write.
    Decide {
        node: usize,
    },
    /// Any record that ever stood, as a stale read has it; 0 is the newest.
    Deliver {
        node: usize,
        age: usize,
    },
    End {
        node: usize,
        end: End,
    },
    FillDisk {
        node: usize,
    },
    Freeze {
        is_frozen: bool,
    },
    Join,
    /// Or come back into it.
    LeaveCatalog {
        node: usize,
    },
    Look {
        node: usize,
    },
    LoseSession {
        node: usize,
    },
    Newest {
        node: usize,
    },
    Pass {
        secs: u64,
    },
    /// Whoever holds the lock looks and decides, and is held up before it writes.
    Plan,
    Read {
        node: usize,
    },
    /// An operator begins the next era with any release that was committed once.
    Recover {
        age: usize,
    },
    Request {
        text: &'static str,
    },
    Retry {
        node: usize,
    },
    ReturnSession {
        node: usize,
    },
    Send {
        node: usize,
    },
    TakeLock {
        node: usize,
    },
    /// One node does all that it has to, as in calm weather; its work ends so.
    Step {
        node: usize,
        end: End,
    },
    /// The same for whoever holds the lock, and its coordinator.
    Turn,
    Write {
        node: usize,
    },
}

fn how_it_ends() -> impl Strategy<Value = End> {
    prop_oneof![
        10 => Just(End::Well),
        1 => Just(End::Early(Step::Switch)),
        1 => Just(End::Late(Step::CheckHook)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    const TEXTS: &[&str] = &["master", "hotfix", "missing", r#"{"rollback":true}"#, r#"{"ref":"master","again":true}"#];
    let node = 0..4_usize;
    prop_oneof![
        6 => (node.clone()).prop_map(|node| Action::Newest { node }),
        8 => (node.clone(), how_it_ends()).prop_map(|(node, end)| Action::End { node, end }),
        6 => (node.clone()).prop_map(|node| Action::Read { node }),
        6 => (node.clone()).prop_map(|node| Action::Send { node }),
        16 => Just(Action::Turn),
        6 => Just(Action::Plan),
        24 => (node.clone(), how_it_ends()).prop_map(|(node, end)| Action::Step { node, end }),
        5 => (node.clone(), 0..6_usize).prop_map(|(node, age)| Action::Deliver { node, age }),
        7 => prop::sample::select(TEXTS).prop_map(|text| Action::Request { text }),
        4 => (node.clone()).prop_map(|node| Action::Look { node }),
        4 => (node.clone()).prop_map(|node| Action::Decide { node }),
        6 => (node.clone()).prop_map(|node| Action::Write { node }),
        3 => (node.clone()).prop_map(|node| Action::Retry { node }),
        3 => (node.clone(), how_it_ends()).prop_map(|(node, end)| Action::Crash { node, end }),
        4 => (node.clone()).prop_map(|node| Action::TakeLock { node }),
        4 => (node.clone()).prop_map(|node| Action::ReturnSession { node }),
        1 => (node.clone()).prop_map(|node| Action::LoseSession { node }),
        1 => (node.clone()).prop_map(|node| Action::LeaveCatalog { node }),
        1 => (node.clone()).prop_map(|node| Action::FillDisk { node }),
        1 => (1..200_u64).prop_map(|secs| Action::Pass { secs }),
        1 => Just(Action::Abort),
        1 => Just(Action::Join),
        1 => (0..4_usize).prop_map(|age| Action::Recover { age }),
        1 => prop::bool::weighted(0.3).prop_map(|is_frozen| Action::Freeze { is_frozen }),
    ]
}

fn run(world: &mut World, action: &Action) {
    let count = world.agents.len();
    // Two of the nodes coordinate.
    let desk = |node: usize| node % 2;
    match *action {
        Action::Abort => {
            let Some((_, Ok(barrier))) = world.kv.barrier() else { return };
            let key = world.kv.names.abort();
            world.kv.put(&key, barrier.epoch.to_string().as_bytes());
        }
        Action::Crash { node, end } => world.restart(node % count, end),
        Action::Decide { node } => drop(world.decide(desk(node))),
        Action::Deliver { node, age } => {
            let at = world.kv.barriers.len() - 1 - age % world.kv.barriers.len();
            let record = world.kv.barriers[at].clone();
            world.deliver(node % count, record, false);
        }
        Action::End { node, end } => drop(world.end(node % count, end)),
        Action::FillDisk { node } => world.agents[node % count].is_disk_full = true,
        Action::Freeze { is_frozen } => {
            let key = world.kv.names.freeze();
            world.kv.put(&key, if is_frozen { b"holidays" } else { b"" });
        }
        Action::Join => {
            /// More nodes than that find no other flaws, and make runs slow.
            const MOST: usize = 5;
            if count < MOST {
                let policy = world.agents[0].policy.clone();
                world.join(&format!("late-{count}"), &policy, &Origin::Nothing);
            }
        }
        Action::LeaveCatalog { node } => {
            let name = world.agents[node % count].name.to_string();
            if !world.catalog.remove(&name) {
                world.catalog.insert(name);
            }
        }
        Action::Look { node } => world.look(desk(node)),
        Action::LoseSession { node } => world.session_lost(node % count),
        Action::Newest { node } => drop(world.deliver_newest(node % count)),
        Action::Pass { secs } => world.clock += Duration::from_secs(secs),
        Action::Plan => {
            let holder = world.lock_holder();
            world.look(holder);
            world.decide(holder);
        }
        Action::Read { node } => drop(world.read(node % count)),
        Action::Recover { age } => {
            let committed = world.kv.barriers.iter().rev().filter_map(|(_, barrier)| barrier.committed.clone());
            let committed: Vec<_> = committed.collect();
            let Some((_, Ok(barrier))) = world.kv.barrier() else { return };
            if !committed.is_empty() {
                world.recover(barrier.epoch.era + 1, Some(committed[age % committed.len()].clone()));
            }
        }
        Action::Request { text } => {
            let key = world.kv.names.deploy();
            world.kv.put(&key, text.as_bytes());
        }
        Action::Retry { node } => drop(world.retry(node % count)),
        Action::ReturnSession { node } => world.session_back(node % count),
        Action::Send { node } => drop(world.send(node % count)),
        Action::TakeLock { node } => world.take_lock(desk(node)),
        Action::Step { node, end } => {
            let i = node % count;
            world.deliver_newest(i);
            while world.read(i) {}
            world.end(i, end);
            while world.read(i) || world.send(i) {}
        }
        Action::Turn => world.coordinate(world.lock_holder()),
        Action::Write { node } => drop(world.write(desk(node))),
    }
}

/// One round in which everything works. Whether anything was left to do.
fn calm_round(world: &mut World) -> bool {
    let before = world.said.len();
    let holder = world.lock_holder();
    world.coordinate(holder);
    for i in 0..world.agents.len() {
        world.retry(i);
        world.settle_node(i);
    }
    world.said.len() > before
}

/// Everybody is back, everything works: to rest, within a bound.
fn settle(world: &mut World) -> Result<(), TestCaseError> {
    /// Rounds; each deploy takes four, and at most two requests can wait.
    const BOUND: usize = 60;
    for i in 0..world.agents.len() {
        world.session_back(i);
        world.catalog.insert(world.agents[i].name.to_string());
        world.agents[i].is_disk_full = false;
        // Where `current` lies is told from the disk alone after a restart; half of the nodes settle without one.
        if i % 2 == 1 {
            world.restart(i, End::Well);
        }
    }
    for _ in 0..BOUND {
        let has_moved = calm_round(world);
        world.check().map_err(TestCaseError::fail)?;
        if !has_moved {
            return Ok(());
        }
        world.clock += Duration::from_secs(1);
    }
    Err(TestCaseError::fail("it never comes to rest"))
}

fn converged(world: &World) -> Result<(), TestCaseError> {
    let Some((_, Ok(barrier))) = world.kv.barrier() else { return Err(TestCaseError::fail("no barrier")) };
    prop_assert!(barrier.phase.is_settled(), "{} is still at {}", barrier.epoch, barrier.phase.as_str());
    let deploy = world.kv.get(&world.kv.names.deploy()).unwrap();
    prop_assert!(deploy.value.is_empty(), "a request still waits");
    for agent in &world.agents {
        prop_assert_eq!(&agent.disk.current, &barrier.committed, "I8, I11: {} does not run it", agent.name);
        prop_assert_eq!(&agent.machine.journal().runs, &barrier.committed, "{} does not know it", agent.name);
        prop_assert_eq!(agent.machine.alarm(), None, "{} alarms", agent.name);
    }
    Ok(())
}

fn live_through(nodes: usize, absent_nodes: AbsentNodes, actions: &[Action]) -> Result<World, TestCaseError> {
    let names = &["a", "b", "c", "d"][..nodes];
    let mut world = World::new(names, &policy(absent_nodes, 1), &Origin::Link("releases/legacy".to_owned()));
    world.coordinate(0);
    for action in actions {
        world.say(format!("* {action:?}"));
        run(&mut world, action);
        world.check().map_err(|broken| TestCaseError::fail(format!("{broken}\n{}", world.said.join("\n"))))?;
    }
    world.say("* calm");
    settle(&mut world)
        .and_then(|()| converged(&world))
        .map_err(|broken| TestCaseError::fail(format!("{broken}\n{}", world.said.join("\n"))))?;
    Ok(world)
}

fn absent_nodes() -> impl Strategy<Value = AbsentNodes> {
    prop_oneof![Just(AbsentNodes::Fail), Just(AbsentNodes::Skip)]
}

/// Runs of the property; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(150), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// Reference: I1, I2, I3, I5, I6, I7, I8, I9, I11.
    #[test]
    fn a_fleet_is_never_split_and_always_settles(
        nodes in 2..=4_usize,
        absent_nodes in absent_nodes(),
        actions in prop::collection::vec(action(), 1..200),
    ) {
        live_through(nodes, absent_nodes, &actions)?;
    }
}

/// A property over fleets that never deploy anything would hold by itself.
#[test]
fn chance_reaches_every_phase_in_one_run_of_ten() {
    const RUNS: usize = 40;
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(action(), 200);
    let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..RUNS {
        let actions = strategy.new_tree(&mut runner).unwrap().current();
        let world = live_through(3, AbsentNodes::Fail, &actions).unwrap();
        let phases: BTreeSet<_> = world.kv.barriers.iter().map(|(_, barrier)| barrier.phase.as_str()).collect();
        for phase in phases {
            *reached.entry(phase).or_default() += 1;
        }
    }
    for phase in ["aborted", "commit", "done", "prepare", "revert", "reverted"] {
        assert!(reached.get(phase).is_some_and(|runs| runs * 10 >= RUNS), "{phase}: {reached:?}");
    }
}
