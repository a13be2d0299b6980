//! Limits of downloads: prefetches that are put off, and deploys that are not.

use std::path::Path;

use crate::fleet::{Fleet, FleetSpec, UNIT};
use crate::people::metrics::value;

/// Prefetches are put off for hours. One build at a time is fetched, over a line with a limit.
fn settings(_: usize, _: &Path) -> String {
    "prefetch = [\"*\"]\n[fetch]\nspread = \"24h\"\nparallel = 1\nbandwidth = \"1MiB\"\n".to_owned()
}

#[test]
fn a_deploy_fetches_at_once_what_a_prefetch_would_put_off() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, settings, ..FleetSpec::default() });
    for version in ["one", "two"] {
        let build = fleet.publish(version);
        let output = fleet.cutover(&["deploy", UNIT, build.artifact.as_str()]);
        assert_eq!(output.code, 0, "{output}");
    }
    for node in &fleet.nodes {
        assert!(value(node, "cutover_deploy_fetch_bytes_total") > 0.0);
        // By chance a build is due within the seconds of this test once in some thousand runs.
        assert!(value(node, "cutover_prefetch_bytes_total").abs() < 1e-9, "a prefetch was not put off");
    }
}
