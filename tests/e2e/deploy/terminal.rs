//! `cutover deploy` on a real terminal: every node's step, drawn in place. In a log: one line per change.

use crate::fleet::web::Web;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// What a screen shows at the end of a stream: ECMA-48 moves of the cursor carried out, colours left out.
fn screen(stream: &str) -> Vec<String> {
    let (mut lines, mut row, mut column) = (vec![Vec::<char>::new()], 0_usize, 0_usize);
    let mut chars = stream.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(Vec::new());
                }
            }
            '\r' => column = 0,
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                let mut parameter = String::new();
                while let Some(&c) = chars.peek().filter(|c| !c.is_ascii_alphabetic()) {
                    parameter.push(c);
                    chars.next();
                }
                let count = parameter.parse().unwrap_or(1);
                match chars.next() {
                    Some('A') => row = row.saturating_sub(count),
                    Some('B') => row = (row + count).min(lines.len() - 1),
                    Some('C') => column += count,
                    Some('D') => column = column.saturating_sub(count),
                    Some('K') if parameter == "2" => lines[row].clear(),
                    Some('K') => lines[row].truncate(column),
                    Some('J') => {
                        lines.truncate(row + 1);
                        lines[row].truncate(column);
                    }
                    _ => {}
                }
            }
            c => {
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
    }
    lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

/// Whether a line of the screen has all of these words.
fn shows(screen: &[String], words: &[&str]) -> bool {
    screen.iter().any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn a_terminal_shows_the_current_step_of_each_node() {
    let fleet = Fleet::start(&FleetSpec { hooks: true, ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    fleet.nodes[1].hold("prepare");
    fleet.nodes[2].hold("switched");
    let (deploy, keyboard) = fleet.begin_on_terminal(&["deploy", UNIT, "master"]);
    let wait = |what: &str, is_shown: &dyn Fn(&[String]) -> bool| {
        wait_until(LIMIT, what, || Some(screen(&deploy.said()[0])).filter(|screen| is_shown(screen)))
    };
    fleet.nodes[1].wait_hook("prepare");
    wait("two nodes are prepared, and one prepares", &|screen| {
        shows(screen, &["prepare", "2/3"])
            && shows(screen, &["web-1", "prepared"])
            && shows(screen, &["web-2", "preparing"])
            && shows(screen, &["web-3", "prepared"])
    });
    fleet.nodes[1].release("prepare");
    fleet.nodes[2].wait_hook("switched");
    wait("two nodes have switched, and one switches", &|screen| {
        shows(screen, &["commit", "2/3"])
            && shows(screen, &["web-1", "switched"])
            && shows(screen, &["web-3", "switching"])
    });
    fleet.nodes[2].release("switched");
    let output = deploy.finish();
    drop(keyboard);
    assert_eq!(output.code, 0, "{output}");
    let end = screen(&output.stdout);
    assert!(shows(&end, &["done: master-"]) && !shows(&end, &["switching"]), "what was drawn is gone: {end:#?}");
}

#[test]
fn a_log_gets_one_line_per_change_and_no_control_characters() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    fleet.nodes[1].fail("check", "port 80 is closed");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 9, "{output}");
    assert!(!output.stderr.contains('\u{1b}') && !output.stdout.contains('\u{1b}'), "{output}");
    // How it ended is the result's first line.
    for phase in ["  prepare  ", "  commit  ", "  revert  "] {
        assert_eq!(output.stderr.lines().filter(|line| line.contains(phase)).count(), 1, "{phase}: {output}");
    }
    // The headline: node, step, the hook's exit code; below it the hook's last words.
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines[0].starts_with("reverted: master-") && lines[0].contains("check hook on web-2: "), "{output}");
    assert!(lines[0].contains("exit status: 3"), "{output}");
    assert_eq!(lines[1], "  | port 80 is closed", "{output}");
}

#[test]
fn an_agent_that_died_is_told_apart_from_a_hook_that_failed() {
    let settings = |_: usize, _: &std::path::Path| "absence_grace = \"1s\"\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    let other = 1 - fleet.coordinator();
    fleet.nodes[other].hold("prepare");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[other].wait_hook("prepare");
    let session = fleet.entry(&format!("nodes/{}", fleet.nodes[other].name)).unwrap().session.unwrap();
    fleet.kill(other);
    fleet.end_session(&session);
    let output = deploy.finish();
    assert_eq!(output.code, 4, "{output}");
    let headline = output.stdout.lines().next().unwrap();
    assert!(headline.contains("agent dead or cut off"), "{output}");
    assert!(headline.contains(&fleet.nodes[other].name) && !headline.contains("hook"), "{output}");
}

#[test]
fn an_agent_that_died_in_the_switch_is_told_apart_from_one_that_is_late() {
    let settings = |_: usize, _: &std::path::Path| "switch_timeout = \"3s\"\nrevert_timeout = \"3s\"\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, settings, ..FleetSpec::default() });
    fleet.deployed("one");
    fleet.publish_and_stage("two");
    // The one that coordinates: whoever follows it counts anew, and so finds it dead from the first.
    let victim = fleet.coordinator();
    let name = fleet.nodes[victim].name.as_str();
    fleet.nodes[victim].hold("check");
    let deploy = fleet.begin(&["deploy", UNIT, "master"]);
    fleet.nodes[victim].wait_hook("check");
    let session = fleet.entry(&format!("nodes/{name}")).unwrap().session.unwrap();
    fleet.kill(victim);
    fleet.end_session(&session);
    let output = deploy.finish();
    assert_eq!(output.code, 1, "it cannot go back either: {output}");
    let headline = output.stdout.lines().next().unwrap();
    assert!(headline.contains(&format!("session on {name}: agent dead or cut off: no live session")), "{output}");
    assert!(!headline.contains("deadline") && !headline.contains("hook"), "{output}");
    let told =
        Web::of(&fleet.nodes[1 - victim]).get(&format!("/v1/deploys/{UNIT}/{}", fleet.newest_epoch())).expect(200);
    let (fault, node) = (&told["record"]["fault"], &told["record"]["node"]);
    assert_eq!((&fault["step"], node), (&"session".into(), &name.into()), "{told:#}");
    assert_eq!(told["headline"], headline, "{told:#}");
}
