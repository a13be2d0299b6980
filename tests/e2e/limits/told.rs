//! What nodes tell of downloads that a deploy waits for, and of builds that they could not prefetch.

use std::path::Path;

use serde_json::Value;

use super::disk_room::publish;
use crate::fleet::web::Web;
use crate::fleet::{Build, Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// 16 MiB take half a minute, and are not prefetched.
fn slow(_: usize, _: &Path) -> String {
    "prefetch = [\"*\"]\n[fetch]\nspread = \"24h\"\nbandwidth = \"512KiB\"\n".to_owned()
}

#[test]
fn a_deploy_shows_what_each_node_has_downloaded() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings: slow, ..FleetSpec::default() });
    let build = publish(&fleet, "slow", 16);
    let follower = fleet.begin(&["status", UNIT, "--follow", "--output", "json"]);
    let [deploy, text] =
        [&["deploy", UNIT, &build.artifact], &["status", UNIT, "--follow"][..]].map(|it| fleet.begin(it));
    let web = Web::of(&fleet.nodes[0]);
    let status = wait_until(LIMIT, "both nodes tell of their download", || {
        let status = web.get(&format!("/v1/status/{UNIT}")).expect(200);
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["fetching"]["received_bytes"].as_u64() > Some(0)).then_some(status)
    });
    let packed = fleet.archive(&build).metadata().unwrap().len();
    for node in status["nodes"].as_array().unwrap() {
        let fetching = &node["fetching"];
        assert_eq!(
            (&fetching["artifact"], &fetching["packed_bytes"]),
            (&build.artifact.clone().into(), &packed.into())
        );
        assert!(fetching["received_bytes"].as_u64().unwrap() < packed, "{fetching}");
    }
    let epoch = fleet.newest_epoch();
    let document = web.get(&format!("/v1/deploys/{UNIT}/{epoch}")).expect(200);
    assert!(document["fetching"]["web-1"]["received_bytes"].as_u64().unwrap() > 0, "{document:#}");
    let table = fleet.cutover(&["status", UNIT]).stdout;
    assert_eq!(table.matches("downloading, ").count(), 2, "{table}");
    for path in [format!("/units/{UNIT}/deploys/{epoch}"), format!("/units/{UNIT}")] {
        let page = web.get(&path).text();
        assert_eq!(page.matches("downloading, ").count(), 2, "{page}");
    }
    wait_until(LIMIT, "who follows sees it", || {
        let has = |said: [String; 2], word: &str| said.iter().any(|said| said.contains(word));
        let line = format!("deploy #{epoch}  prepare  web-");
        (has(deploy.said(), &line)
            && has(deploy.said(), " downloading, ")
            && has(text.said(), "  web-1: downloading, ")
            && has(follower.said(), "\"received_bytes\""))
        .then_some(())
    });

    let output = fleet.cutover(&["abort", UNIT, "--reason", "it was shown"]);
    assert_eq!(output.code, 0, "{output}");
    assert_ne!(deploy.finish().code, 0);
    wait_until(LIMIT, "no node tells of a download any more", || {
        let records = ["nodes/web-1", "nodes/web-2"].map(|key| fleet.json(key).unwrap());
        records.iter().all(|record| record.get("fetching").is_none()).then_some(())
    });
}

/// The agent's check of the unit on a node: its state and what it says.
fn check(fleet: &Fleet, index: usize) -> (String, String) {
    let reply = fleet.local_consul(index).call("GET", "agent/checks", b"").unwrap();
    let checks: Value = serde_json::from_slice(&reply.body).unwrap();
    let check = &checks["service:cutover-shop-production"];
    (check["Status"].as_str().unwrap_or_default().to_owned(), check["Output"].as_str().unwrap_or_default().to_owned())
}

/// What `cutover builds` says of the first node that could not prefetch a build.
fn refused(fleet: &Fleet, build: &Build) -> Option<Value> {
    let document = Web::of(&fleet.nodes[0]).get("/v1/builds/shop").expect(200);
    let rows = document["builds"].as_array().unwrap();
    let row = rows.iter().find(|row| row["artifact"] == build.artifact.as_str()).unwrap();
    row["refused"].get("production").cloned()
}

#[test]
fn a_node_that_cannot_prefetch_says_why_until_it_can() {
    let settings = |_: usize, _: &Path| "prefetch = [\"*\"]\n".to_owned();
    let fleet = Fleet::start(&FleetSpec { nodes: 1, settings, late: &[0], ..FleetSpec::default() });
    let (missing, damaged) = (publish(&fleet, "missing", 1), publish(&fleet, "damaged", 1));
    let away = fleet.dir.path().join("away");
    rustix::fs::rename(fleet.archive(&missing), &away).unwrap();
    let good = std::fs::read(fleet.archive(&damaged)).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(fleet.archive(&damaged), &bad).unwrap();
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);

    let [temporary, last] = [&missing, &damaged]
        .map(|build| wait_until(LIMIT, &format!("{} is refused", build.artifact), || refused(&fleet, build)));
    assert_eq!(
        (&temporary["nodes"], &temporary["node"], &temporary["step"]),
        (&1.into(), &"web-1".into(), &"fetch".into())
    );
    assert_eq!(
        (&temporary["retry_secs"], &last["step"], &last["retry_secs"]),
        (&60.into(), &"verify".into(), &Value::Null)
    );
    let words = |why: &Value, step: &str, again: &str| format!("{step}: {} ({again})", why["reason"].as_str().unwrap());
    let of_missing = words(&temporary, "download", "tried again within a minute");
    let of_damaged = words(&last, "verification", "not tried again before the next publish");
    assert!(of_missing.contains("is not in the store") && of_damaged.contains("SHA-256"), "{of_missing}\n{of_damaged}");
    let builds = fleet.cutover(&["builds", "shop"]).stdout;
    let status = fleet.cutover(&["status", UNIT]).stdout;
    for (build, why) in [(&missing, &of_missing), (&damaged, &of_damaged)] {
        assert!(builds.contains(&format!("production: web-1 cannot prefetch it: {why}")), "{builds}");
        assert!(status.contains(&format!("cannot prefetch {}: {why}", build.artifact)), "{status}");
    }
    let page = Web::of(&fleet.nodes[0]).get("/apps/shop/builds").text();
    assert_eq!(page.matches("web-1 cannot prefetch it: ").count(), 2, "{page}");
    wait_until(LIMIT, "the check warns", || {
        let (state, output) = check(&fleet, 0);
        // The newest build comes first.
        let words = format!("cannot prefetch {} (and 1 more): {of_damaged}; runs ", damaged.artifact);
        (state == "warning" && output.contains(&words)).then_some(())
    });

    // What may work again is tried again by itself, and what is final is not, although nothing would stop it by now.
    std::fs::write(fleet.archive(&damaged), &good).unwrap();
    rustix::fs::rename(&away, fleet.archive(&missing)).unwrap();
    fleet.wait_staged(&missing);
    wait_until(LIMIT, "the reason goes away", || refused(&fleet, &missing).is_none().then_some(()));
    assert_eq!(refused(&fleet, &damaged), Some(last));
    assert_eq!(fleet.nodes[0].logged(&format!("cannot prefetch {}", damaged.artifact)), 1);
    let next = publish(&fleet, "next", 1);
    fleet.wait_staged(&next);
    fleet.wait_staged(&damaged);
    wait_until(LIMIT, "the check passes", || (check(&fleet, 0).0 == "passing").then_some(()));
}
