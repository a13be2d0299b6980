//! What each shipped ACL policy allows and what it does not: every role against every operation, with real tokens and
//! default deny. The table in `docs/rights.md` is this test's output; `UPDATE_RIGHTS=1` writes it anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::fleet::consul::Consul;
use crate::fleet::{Fleet, FleetSpec};
use crate::people::policies::token;

/// The roles, by the policy's file; the last has no token.
const ROLES: [&str; 8] = ["agent", "coordinator", "api", "publisher", "deployer", "operator", "viewer", "no token"];

/// Keys, each written. `NODE` is the token's own node, `other` another.
const WRITES: [&str; 36] = [
    "shop/builds/master-1",
    "shop/latest",
    "shop/runs/master-1",
    "shop/bad/master-1",
    "shop/production/deploy",
    "shop/production/abort",
    "shop/production/freeze",
    "shop/production/question",
    "shop/production/forgotten/other",
    "shop/production/coordinator",
    "shop/production/barrier",
    "shop/production/members/1",
    "shop/production/history/1",
    "shop/production/status",
    "shop/production/actions/1",
    "shop/production/seen",
    "shop/production/archive",
    "shop/production/store",
    "shop/production/told/ops",
    "shop/production/acks/NODE",
    "shop/production/acks/other",
    "shop/production/nodes/NODE",
    "shop/production/nodes/other",
    "shop/production/answers/NODE",
    "shop/production/answers/other",
    "shop/production/attests/NODE/1",
    "shop/production/attests/other/1",
    "shop/staging/deploy",
    "shop/staging/abort",
    "shop/staging/freeze",
    "shop/staging/barrier",
    "shop/staging/nodes/NODE",
    "blog/builds/master-1",
    "blog/bad/master-1",
    "blog/production/deploy",
    "blog/production/freeze",
];

/// Keys, each read.
const READS: [&str; 3] = ["shop/production/status", "shop/builds/master-1", "blog/production/status"];

/// Where the table stands.
const BEGIN: &str = "<!-- made by tests/e2e/people/rights.rs -->\n";
const END: &str = "<!-- end -->\n";

/// Whether Consul let it through; anything but a yes or a no fails the test.
fn is_allowed(consul: &Consul, method: &str, path: &str, body: &[u8]) -> bool {
    let reply = consul.call(method, path, body).unwrap();
    match reply.status {
        200 | 404 => true,
        403 => false,
        status => panic!("{method} {path}: {status} {}", String::from_utf8_lossy(&reply.body)),
    }
}

/// The answers of one role, in the order of the table's rows.
fn answers(consul: &Consul, node: &str) -> Vec<(String, bool)> {
    let named = |key: &str| key.replace("NODE", node);
    let mut found = Vec::new();
    for key in READS {
        // One key, never a list: a list is shortened, and not refused.
        found.push((format!("read `{key}`"), is_allowed(consul, "GET", &format!("kv/cutover/{key}"), b"")));
    }
    for key in WRITES {
        found.push((format!("write `{key}`"), is_allowed(consul, "PUT", &format!("kv/cutover/{}", named(key)), b"x")));
    }
    let tree = |prefix: &str| is_allowed(consul, "DELETE", &format!("kv/cutover/{prefix}?recurse"), b"");
    found.push(("delete all of `shop/production/`".to_owned(), tree("shop/production/")));
    found.push((
        "fire the event `cutover-build`".to_owned(),
        is_allowed(consul, "PUT", "event/fire/cutover-build", b"shop"),
    ));
    found.push(("fire another event".to_owned(), is_allowed(consul, "PUT", "event/fire/reboot", b"")));
    let session = json!({"Node": node, "Checks": [], "TTL": "10s"}).to_string();
    found.push((
        "begin a session of its node".to_owned(),
        is_allowed(consul, "PUT", "session/create", session.as_bytes()),
    ));
    let session = json!({"Node": "n1", "Checks": [], "TTL": "10s"}).to_string();
    found.push((
        "begin a session of another node".to_owned(),
        is_allowed(consul, "PUT", "session/create", session.as_bytes()),
    ));
    let service = |name: &str| json!({"Name": name}).to_string();
    let register = "agent/service/register";
    found.push((
        "register the service `cutover`".to_owned(),
        is_allowed(consul, "PUT", register, service("cutover").as_bytes()),
    ));
    found
        .push(("register another service".to_owned(), is_allowed(consul, "PUT", register, service("shop").as_bytes())));
    found.push(("read its node's Consul agent".to_owned(), is_allowed(consul, "GET", "agent/self", b"")));
    let nodes = consul.call("GET", "catalog/nodes", b"").unwrap();
    found.push(("see every node".to_owned(), nodes.body.windows(2).any(|pair| pair == b"{\"")));
    found.push(("make policies and tokens".to_owned(), is_allowed(consul, "GET", "acl/tokens", b"")));
    found
}

fn table(columns: &[Vec<(String, bool)>]) -> String {
    let mut text = format!("| | {} |\n|---{}|\n", ROLES.join(" | "), "|---".repeat(ROLES.len()));
    for (row, (what, _)) in columns[0].iter().enumerate() {
        let cells: Vec<&str> = columns.iter().map(|column| if column[row].1 { "yes" } else { "-" }).collect();
        writeln!(text, "| {what} | {} |", cells.join(" | ")).unwrap();
    }
    text
}

#[test]
fn each_role_may_do_what_the_table_says_and_nothing_else() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, acl: true, late: &[0], ..FleetSpec::default() });
    let node = fleet.nodes[0].name.clone();
    for key in READS {
        fleet.consul(&["kv", "put", &format!("cutover/{key}"), "x"]);
    }
    let column = |role: &&str| {
        let token = (*role != "no token").then(|| token(&fleet, role, &node));
        answers(&Consul { token, ..fleet.local_consul(0) }, &node)
    };
    let now = table(&ROLES.iter().map(column).collect::<Vec<_>>());
    println!("{now}");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(Path::new("docs/rights.md"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (told, tail) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_RIGHTS").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{now}{END}{tail}")).unwrap();
    } else {
        assert_eq!(told, now, "docs/rights.md does not tell what the policies allow; UPDATE_RIGHTS=1 writes it");
    }
}
