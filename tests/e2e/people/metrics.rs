//! What operators see of a deploy from outside: metrics and logs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::fleet::node::Node;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// `GET /metrics`, as a scraper that asks for `OpenMetrics`: the head, and the text.
fn scrape(node: &Node) -> (String, String) {
    let mut stream = TcpStream::connect(&node.api).unwrap();
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: {}\r\nAccept: application/openmetrics-text; version=1.0.0\r\nConnection: close\r\n\r\n",
        node.api
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// A sample's value; 0 where it is not there yet.
pub(crate) fn value(node: &Node, series: &str) -> f64 {
    let (_, text) = scrape(node);
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[test]
fn a_deploy_changes_the_coordinators_counters_and_every_nodes_gauges() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    let done = "cutover_deploys_total{app=\"shop\",group=\"production\",result=\"done\"}";
    let refused = "cutover_deploys_total{app=\"shop\",group=\"production\",result=\"refused\"}";
    let prepared = "cutover_deploy_phase_seconds_count{phase=\"prepare\"}";
    let everywhere = |series: &str| fleet.nodes.iter().map(|node| value(node, series)).sum::<f64>();
    let coordinators = "cutover_coordinator{app=\"shop\",group=\"production\"}";
    wait_until(LIMIT, coordinators, || ((everywhere(coordinators) - 1.0).abs() < 1e-9).then_some(()));
    let one = fleet.deployed("one");
    for series in [done, prepared, "cutover_deploy_phase_seconds_count{phase=\"commit\"}"] {
        // Counted right after the end was written, which the command may see first.
        wait_until(LIMIT, series, || ((everywhere(series) - 1.0).abs() < 1e-9).then_some(()));
    }
    assert_eq!(fleet.cutover(&["deploy", UNIT, "no-such-branch"]).code, 3);
    wait_until(LIMIT, refused, || ((everywhere(refused) - 1.0).abs() < 1e-9).then_some(()));
    assert!((everywhere(done) - 1.0).abs() < 1e-9);
    assert!((everywhere(prepared) - 1.0).abs() < 1e-9, "what was refused had no phase");
    for node in &fleet.nodes {
        let (head, text) = scrape(node);
        assert!(head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(text.ends_with("# EOF\n") && text.contains("# TYPE cutover_hook_seconds histogram\n"), "{text}");
        let runs =
            format!("cutover_release_current_info{{app=\"shop\",group=\"production\",build=\"{}\"}}", one.artifact);
        wait_until(LIMIT, &runs, || ((value(node, &runs) - 1.0).abs() < 1e-9).then_some(()));
        for hook in ["prepare", "switched", "check"] {
            let series = format!("cutover_hook_seconds_count{{hook=\"{hook}\"}}");
            assert!((value(node, &series) - 1.0).abs() < 1e-9, "{series}");
        }
        for series in [
            "cutover_prefetch_bytes_total",
            "cutover_consul_last_contact_timestamp_seconds",
            "cutover_consul_request_seconds_count{op=\"session renew\",status=\"200\"}",
            "cutover_disk_free_bytes{app=\"shop\",group=\"production\"}",
        ] {
            wait_until(LIMIT, series, || (value(node, series) > 0.0).then_some(()));
        }
        assert!(value(node, "cutover_unit_behind{app=\"shop\",group=\"production\"}").abs() < 1e-9);
        let labels: Vec<&str> = text.lines().filter(|line| line.contains(&one.commit)).collect();
        assert!(labels.is_empty(), "a commit stands in {labels:?}");
    }
}

#[test]
fn one_id_appears_in_the_request_the_logs_and_the_hooks() {
    let fleet =
        Fleet::start(&FleetSpec { nodes: 2, hooks: true, env: &[("CUTOVER_LOG", "json")], ..FleetSpec::default() });
    fleet.publish_and_stage("one");
    let record = fleet.put_deploy("{\"ref\":\"master\",\"by\":\"ann\",\"id\":\"ticket-7\"}");
    assert_eq!(record["id"], "ticket-7", "{record:#}");
    assert_eq!(record["outcome"], "done", "{record:#}");
    let epoch = record["epoch"].to_string();
    for node in &fleet.nodes {
        assert!(node.hook_env("check").contains("CUTOVER_ID=ticket-7\n"), "{}", node.hook_env("check"));
        let lines: Vec<Value> = node.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().all(|line| line["timestamp"].as_str().unwrap().ends_with('Z')), "{lines:?}");
        let fields: Vec<&Value> = lines.iter().map(|line| &line["fields"]).collect();
        // Who reads the plain journal sees the message alone.
        for line in lines.iter().filter(|line| line["level"] != "DEBUG" && line["fields"]["unit"].is_string()) {
            assert!(line["fields"]["message"].as_str().unwrap().contains(UNIT), "{line}");
        }
        let says = |line: &Value, words: &str| line["message"].as_str().is_some_and(|message| message.contains(words));
        let of = |words: &str| fields.iter().filter(|it| says(it, words)).collect::<Vec<_>>();
        let hooks = of(&format!(" hook succeeded on {}", node.name));
        for hook in &hooks {
            assert_eq!(hook["deploy"], "ticket-7", "{hook}");
            assert_eq!(hook["epoch"], epoch.as_str(), "{hook}");
        }
        assert_eq!(hooks.len(), 3);
        let steps = [of(" is in phase "), of(&format!("{} switched to", node.name))];
        assert!(steps.iter().all(|lines| !lines.is_empty()), "{fields:?}");
        for line in steps.iter().flatten() {
            assert!(line["epoch"].is_string(), "{line}");
        }
    }
    // A write is logged when Consul has it, so the last line may come after the record.
    wait_until(LIMIT, "prepare, commit and done are written with the id", || {
        let logs: String = fleet.nodes.iter().map(Node::log).collect();
        let lines = logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let steps = ["prepare", "commit", "done"];
        let is_step = |it: &Value| it["step"].as_str().is_some_and(|step| steps.contains(&step));
        let is_write = |it: &Value| is_step(it) && it["deploy"] == "ticket-7";
        (lines.filter(|line| is_write(&line["fields"])).count() >= 3).then_some(())
    });

    // Without a mark of the caller's own it is the unit and its epoch.
    let record = fleet.put_deploy("{\"ref\":\"master\",\"again\":true}");
    let id = format!("{UNIT}@{}", record["epoch"]);
    for node in &fleet.nodes {
        assert!(node.hook_env("check").contains(&format!("CUTOVER_ID={id}\n")), "{}", node.hook_env("check"));
    }
}
