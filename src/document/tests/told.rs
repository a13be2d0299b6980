//! What nodes tell of downloads and of builds that they could not prefetch.

use super::*;
use crate::protocol::record::{Fetching, Refusal, RefusedBuild, decode};

const FETCHING: &str = r#"{"artifact":"master-00000002","received_bytes":12000000,"packed_bytes":40000000}"#;

/// The record of a node as an older agent writes it, with these fields in addition.
fn record(name: &str, more: &str) -> String {
    format!(
        r#"{{"format":1,"node":"{name}","consul_node":"{name}","version":"0.1.0","config_digest":"a","runs":null,"current":null,"previous":null,"staged":[]{more},"newest_release":null,"free_bytes":1,"at":"2026-11-23T09:15:00Z"}}"#
    )
}

fn read_record(text: &str) -> NodeRecord {
    decode("nodes/web-1", text.as_bytes()).unwrap()
}

/// The fleet, with these fields in addition in the record of each named node that is alive.
fn fleet_telling(nodes: &[&str], more: &str) -> Entries {
    let mut entries = fleet();
    for name in nodes {
        put(&mut entries, &keys().node(&node(name)), &record(name, more), Some("s"));
    }
    entries
}

#[test]
fn a_record_of_an_older_agent_has_neither_and_is_written_as_before() {
    let older = read_record(&record("web-1", ""));
    assert_eq!((older.fetching.clone(), older.refused.clone()), (None, Vec::new()));
    let text = encode(&older);
    assert!(!text.contains("fetching") && !text.contains("refused"), "{text}");
    let refused = r#","refused":[{"artifact":"master-00000002","reason":"it is not signed"}]"#;
    let older = read_record(&record("web-1", refused));
    assert_eq!(refusal_words(&older.refused[0].why), "it is not signed");
    assert!(encode(&older).contains(refused), "{}", encode(&older));
}

#[test]
fn a_running_download_is_shown_while_the_deploy_waits_for_its_node() {
    let more = format!(r#","fetching":{FETCHING}"#);
    let entries = fleet_telling(&["web-1", "web-2"], &more);
    let fetching: Fetching = serde_json::from_str(FETCHING).unwrap();
    let running = || History { node: None, fault: None, ..history(100, None) };
    let told = |entries: &Entries| DeployDocument::from_keys(running(), 5, &keys(), entries).fetching;
    // The other has answered.
    assert_eq!(told(&entries), [(node("web-1"), fetching.clone())].into());
    let shown = |entries: &Entries| -> Vec<Option<Fetching>> {
        let document = StatusDocument::build(&unit(), &keys(), entries, now());
        document.nodes.into_iter().take(2).map(|node| node.fetching).collect()
    };
    assert_eq!(shown(&entries)[0], Some(fetching.clone()));
    assert_eq!(fetching_words(&fetching), "downloading, 12.00 MB of 40.00 MB");
    let unpacking = Fetching { received_bytes: 40_000_000, ..fetching };
    assert_eq!(fetching_words(&unpacking), "unpacking, all 40.00 MB downloaded");

    // It is the last that was heard of a node that is away.
    let mut away = entries.clone();
    put(&mut away, &keys().node(&node("web-1")), &record("web-1", &more), None);
    assert!(told(&away).is_empty() && shown(&away)[0].is_none());
    let mut committed = entries;
    let barrier = barrier(100, "master-00000002").in_phase(Phase::Commit);
    put(&mut committed, &keys().barrier(), &encode(&barrier), None);
    assert!(told(&committed).is_empty());
}

#[test]
fn builds_and_status_say_which_nodes_could_not_prefetch_and_why() {
    let refused =
        r#","refused":[{"artifact":"master-00000002","reason":"access denied","step":"fetch","retry_secs":60}]"#;
    let mut entries = fleet_telling(&["web-1", "web-2", "web-4"], refused);
    let (keys, app) = (Keys::default(), "shop".parse().unwrap());
    for name in ["master-00000002", "master-00000003"] {
        put(&mut entries, &keys.build(&app, &name.parse().unwrap()), &encode(&build(name)), None);
    }
    let document = BuildsDocument::build(&app, &keys, &entries, now());
    let on = |artifact: &str| {
        let row = document.builds.iter().find(|row| row.artifact.as_str() == artifact).unwrap();
        row.refused.iter().map(|(group, on)| format!("{group}: {}", on.sentence())).collect::<Vec<_>>()
    };
    let said = "production: web-1 and 2 more cannot prefetch it: download: access denied (tried again within a minute)";
    assert_eq!((on("master-00000002"), on("master-00000003")), (vec![said.to_owned()], Vec::new()));
    let status = StatusDocument::build(&unit(), &super::keys(), &entries, now());
    let why = Refusal { reason: "access denied".to_owned(), step: Some(Step::Fetch), retry_secs: Some(60) };
    assert_eq!(status.nodes[0].refused, [RefusedBuild { artifact: "master-00000002".parse().unwrap(), why }]);
}

#[test]
fn a_refusal_says_when_it_is_tried_again() {
    let words = |retry_secs| {
        refusal_words(&Refusal { reason: "its digest is wrong".to_owned(), step: Some(Step::Verify), retry_secs })
    };
    assert_eq!(words(None), "verification: its digest is wrong (not tried again before the next publish)");
    assert_eq!(words(Some(600)), "verification: its digest is wrong (tried again within 10 minutes)");
}
