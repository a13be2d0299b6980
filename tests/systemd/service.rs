//! `cutover.service` and its companions, in a machine that is booted for each test.

use crate::machine::Machine;
use crate::wait_until;

/// Commits of the builds.
const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

/// A hook that needs root's rights, and what it asks for.
const HOOKS: &str =
    "[deploy.\"shop/production\".hooks]\nswitched = { command = [\"sudo\", \"systemctl\", \"reload\", \"shop\"] }\n";
const SUDOERS: &str = "cutover ALL=(root) NOPASSWD: /usr/bin/systemctl reload shop\n";
const SHOP: &str =
    "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/cp /srv/shop/current/version /run/shop-reloaded\n";

#[test]
fn the_service_is_ready_when_the_agent_is_runs_as_its_own_user_and_stops_cleanly() {
    let machine = Machine::boot();
    machine.install();
    machine.ok(&["systemctl", "enable", "--now", "cutover"]);
    assert_eq!(machine.show("ConditionResult"), "no", "started without a configuration");

    machine.configure();
    machine.ok(&["systemctl", "start", "--no-block", "cutover"]);
    wait_until("the agent waits for Consul and says so", || {
        machine.show("StatusText").starts_with("waiting for Consul").then_some(())
    });
    assert_eq!(machine.show("ActiveState"), "activating", "ready without Consul");
    machine.ok(&["systemctl", "start", "consul"]);
    // It joins the job that waits.
    machine.ok(&["systemctl", "start", "cutover"]);
    assert_eq!(machine.show("ActiveState"), "active");
    assert_eq!(machine.show("StatusText"), "shop/production: nothing yet");
    assert_eq!(machine.show("WatchdogUSec"), "30s");
    let pid = machine.show("MainPID");
    assert_eq!(machine.ok(&["stat", "--format=%U %G", &format!("/proc/{pid}")]), "cutover cutover");
    let paths = ["/etc/cutover", "/etc/cutover/cutover.toml", "/var/lib/cutover", "/var/cache/cutover", "/srv/shop"];
    let mut stat = vec!["stat", "--format=%a %U %G %n"];
    stat.extend(paths);
    let rights = "750 root cutover /etc/cutover\n640 root cutover /etc/cutover/cutover.toml\n\
                  750 cutover cutover /var/lib/cutover\n750 cutover cutover /var/cache/cutover\n\
                  755 cutover cutover /srv/shop";
    assert_eq!(machine.ok(&stat), rights);

    machine.deploy("1", FIRST);
    assert_eq!(machine.ok(&["cat", "/srv/shop/current/version"]), "1");
    assert_eq!(machine.ok(&["stat", "--format=%U", "/srv/shop/current/version"]), "cutover");
    let before = machine.show("WatchdogTimestampMonotonic");
    wait_until("the agent beats", || (machine.show("WatchdogTimestampMonotonic") != before).then_some(()));
    wait_until("the status text says what runs", || {
        (machine.show("StatusText") == "shop/production: master-11111111").then_some(())
    });

    machine.ok(&["systemctl", "stop", "cutover"]);
    assert_eq!([machine.show("ActiveState"), machine.show("Result")], ["inactive", "success"]);
    assert_eq!([machine.show("ExecMainStatus"), machine.show("NRestarts")], ["0", "0"]);
}

#[test]
fn the_journal_has_each_fact_with_its_fields() {
    let machine = Machine::boot();
    machine.start_all();
    machine.deploy("1", FIRST);
    // The deploy is done before the coordinator says so, and journald writes a little later.
    wait_until("the end of the deploy is in the journal", || {
        let lines = machine.ok(&["journalctl", "--unit=cutover", "--output=json", "F_STEP=done"]);
        (!lines.is_empty()).then_some(())
    });
    let field = |query: &str, name: &str| {
        let lines = machine.ok(&["journalctl", "--unit=cutover", "--output=json", query]);
        let line = lines.lines().next().unwrap_or_else(|| panic!("nothing in the journal has {query}"));
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        entry[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned()
    };
    assert_eq!(field("--grep=agent started as node web-1", "F_NODE"), "web-1");
    assert_eq!(field("F_UNIT=shop/production", "SYSLOG_IDENTIFIER"), "cutover");
    assert_eq!(field("F_ARTIFACT=master-11111111", "F_UNIT"), "shop/production");
    // One deploy, from its request to its end, by epoch and by id.
    for name in ["F_EPOCH", "F_DEPLOY"] {
        assert_eq!(field("F_STEP=request", name), field("F_STEP=done", name));
    }
    assert_eq!(field("--grep=switched to master-11111111", "F_EPOCH"), field("F_STEP=done", "F_EPOCH"));
    // Once each: the text of stderr does not go there as well.
    let started = machine.ok(&["journalctl", "--unit=cutover", "--output=cat", "--grep=agent started"]);
    assert_eq!(started.lines().count(), 1, "{started}");
}

#[test]
fn a_hanging_agent_is_restarted_and_its_node_keeps_its_release() {
    let machine = Machine::boot();
    machine.install();
    machine.put("/etc/systemd/system/cutover.service.d/test.conf", "[Service]\nWatchdogSec=2s\n");
    machine.ok(&["systemctl", "daemon-reload"]);
    machine.configure();
    machine.ok(&["systemctl", "start", "consul", "cutover"]);
    machine.deploy("1", FIRST);
    let runs = machine.ok(&["readlink", "/srv/shop/current"]);
    let pid = machine.show("MainPID");

    machine.ok(&["systemctl", "kill", "--kill-who=main", "--signal=STOP", "cutover"]);
    wait_until("systemd starts another agent", || {
        (machine.show("NRestarts") == "1" && machine.show("ActiveState") == "active").then_some(())
    });
    assert_ne!(machine.show("MainPID"), pid);
    let said = machine.ok(&["journalctl", "--no-pager", "--output=cat", "--grep=Watchdog timeout"]);
    assert!(said.contains("cutover.service: Watchdog timeout"), "{said}");
    assert_eq!(machine.ok(&["readlink", "/srv/shop/current"]), runs);
    assert_eq!(machine.show("StatusText"), "shop/production: master-11111111");
    machine.deploy("2", SECOND);
    assert_eq!(machine.ok(&["cat", "/srv/shop/current/version"]), "2");
}

#[test]
fn a_hook_reloads_the_application_by_sudo() {
    let machine = Machine::boot();
    machine.put("/etc/systemd/system/shop.service", SHOP);
    machine.put("/etc/sudoers.d/cutover-shop", SUDOERS);
    machine.install();
    machine.put("/etc/cutover/conf.d/hooks.toml", HOOKS);
    machine.configure();
    machine.ok(&["systemctl", "start", "shop", "consul", "cutover"]);
    machine.deploy("1", FIRST);
    assert_eq!(machine.ok(&["cat", "/run/shop-reloaded"]), "1");
}

#[test]
fn an_agent_with_wrong_settings_is_not_restarted() {
    let machine = Machine::boot();
    machine.install();
    machine.put("/etc/cutover/conf.d/typo.toml", "[deploy.\"shop/production\"]\ndeploy_too = \"/srv\"\n");
    machine.configure();
    assert_ne!(machine.run(&["systemctl", "start", "cutover"]).code, Some(0));
    wait_until("the unit has failed", || (machine.show("ActiveState") == "failed").then_some(()));
    assert_eq!([machine.show("ExecMainStatus"), machine.show("NRestarts")], ["2", "0"]);
    let said = machine.ok(&["journalctl", "--unit=cutover", "--output=cat"]);
    assert!(said.contains("deploy_too"), "{said}");
}
