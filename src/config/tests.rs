//! Configuration files and the settings or errors that result from them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::settings::DEFAULT_CACHE_BUDGET_BYTES;
use super::unit::Hooks;
use super::*;
use crate::plan::unpack::LinkPolicy;
use crate::plan::verify::Verify;
use crate::protocol::record::AbsentNodes;

/// The directory that replaces the temporary one in messages.
const SHOWN_DIR: &str = "/etc/cutover";

const STORE: &str = "[store]\nurl = \"dir:///srv/artifacts\"\n";

/// An example with every key of the configuration.
const FULL: &str = r#"
node = "web-1"
[consul]
address = "http://127.0.0.1:8500"
prefix = "tools/cutover"
token_file = "/etc/cutover/consul.token"
[store]
url = "s3://artifacts/builds"
region = "eu-west-1"
endpoint = "https://s3.example.com/"
force_path_style = true
sweep_every = "5m"
keep_builds = 40
[api]
listen = "127.0.0.1:8741"
public_url = "https://deploy.example.com"
[cache]
dir = "/data/cache"
budget = "512MiB"
min_free = "2GiB"
[fetch]
bandwidth = "50MiB"
parallel = 2
spread = "30s"
[deploy."shop/production"]
deploy_to = "/srv/shop/"
repo = "git@git.example.com:shop.git"
branches = ["master", "hotfix/*"]
require_profile = "release"
require_attribution = true
links = "any"
require_signature = true
prefetch = ["master", "release/*"]
max_staged = 3
staged_budget = "3GiB"
service = "shop"
keep_releases = 7
releases_budget = "20GiB"
keep_failed = 0
verify = "full"
linked_dirs = ["log", "tmp/cache"]
linked_files = [".env"]
coordinate = false
prepare_timeout = "20m"
switch_timeout = "1m30s"
revert_timeout = "1500ms"
absence_grace = "20s"
absent_nodes = "skip"
min_nodes = 2
secret_env = ["DATABASE_URL"]
[deploy."shop/production".hooks]
prepare  = { command = ["./bin/prepare", "--all"], timeout = "6m" }
switched = { command = ["systemctl", "reload", "shop"] }
check    = { command = ["./bin/healthy"], timeout = "500ms" }
[notify.ops]
kind = "slack"
url_file = "/etc/cutover/slack-url"
events = ["deploy.done", "node.drift"]
units = ["shop/*"]
[notify.audit]
kind = "webhook"
url_file = "/etc/cutover/audit-url"
secret_file = "/etc/cutover/audit-secret"
[signatures]
keys = ["RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"]
[chat]
signing_secret_file = "/etc/cutover/slack-signing-secret"
[chat.users.U024BE7LH]
name = "ann"
token_file = "/etc/cutover/ann.token"
"#;

/// Two public keys.
const KEYS: [&str; 2] = [
    "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
    "RWTEcsTWJe/VF5Co9AagRbkN0g6ZmDAl1oGxcOYZ3QlPShSm4e9/MIKw",
];

/// A secret key without a password, whose public key is the second of [`KEYS`].
const SECRET_KEY: &str = "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAxHLE1iXv1ReznjAYxJqCWOGx1uJiX3wlQBb/H960FXHzytXT6eaufZCo9AagRbkN0g6ZmDAl1oGxcOYZ3QlPShSm4e9/MIKwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn env(name: &str) -> Option<String> {
    (name == "CACHE_DIRECTORY").then(|| "/var/cache/cutover".to_owned())
}

/// Loads `main` with drop-ins from a temporary directory, shown as [`SHOWN_DIR`].
fn load(main: &str, drop_ins: &[(&str, &str)]) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cutover.toml");
    fs::write(&path, main).unwrap();
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    for (name, text) in drop_ins {
        fs::write(dir.path().join("conf.d").join(name), text).unwrap();
    }
    Settings::load(&path, env).map_err(|e| e.to_string().replace(&dir.path().display().to_string(), SHOWN_DIR))
}

fn unit(settings: &Settings) -> &UnitSettings {
    &settings.units[&"shop/production".parse().unwrap()]
}

fn shop(keys: &str) -> String {
    format!("{STORE}[deploy.\"shop/production\"]\ndeploy_to = \"/srv/shop\"\n{keys}\n")
}

#[test]
fn every_key_of_the_interface_is_read() {
    let settings = load(FULL, &[]).unwrap();
    assert_eq!(settings.consul.prefix, "tools/cutover/");
    assert_eq!((settings.cache.budget_bytes, settings.cache.min_free_bytes), (512 << 20, Some(2 << 30)));
    let fetch = &settings.fetch;
    assert_eq!((fetch.bandwidth_bytes_per_sec, fetch.parallel), (Some(50 << 20), Some(2)));
    assert_eq!(fetch.spread, Duration::from_secs(30));
    let store = settings.store.as_ref().unwrap();
    assert_eq!(
        (store.url.as_str(), store.endpoint.as_deref()),
        ("s3://artifacts/builds", Some("https://s3.example.com"))
    );
    assert_eq!((store.sweep_every, store.keep_builds), (Duration::from_mins(5), Some(40)));
    let ops = &settings.notify["ops"];
    assert_eq!(ops.kind, NotifyKind::Slack);
    assert_eq!(ops.events.iter().flatten().copied().collect::<Vec<_>>(), [EventKind::DeployDone, EventKind::NodeDrift]);
    let units = ops.units.as_ref().unwrap();
    assert!(units.matches_unit(&"shop/staging".parse().unwrap()) && !units.matches_unit(&"blog/live".parse().unwrap()));
    assert_eq!(settings.notify["audit"].secret_file, Some(PathBuf::from("/etc/cutover/audit-secret")));
    assert_eq!(settings.chat.as_ref().unwrap().users["U024BE7LH"].name, "ann");
    let unit = unit(&settings);
    assert_eq!(unit.deploy_to, PathBuf::from("/srv/shop"));
    assert!(unit.branches.as_ref().unwrap().matches(&"hotfix/7".parse().unwrap()));
    assert_eq!(unit.links, LinkPolicy::Any);
    assert!(unit.require_attribution && unit.signatures.required);
    assert_eq!(unit.signatures.keys[0].id().as_str(), "E7620F1842B4E81F");
    assert_eq!((unit.staged_budget, unit.releases_budget), (Some(3 << 30), Some(20 << 30)));
    assert_eq!((unit.keep_failed, unit.verify), (0, Verify::Full));
    assert!(!unit.prefetch.matches(&"feature/x".parse().unwrap()));
    assert_eq!(unit.hooks.switched.as_ref().unwrap().timeout, Duration::from_mins(1), "the default");
    assert_eq!(unit.hooks.check.as_ref().unwrap().timeout, Duration::from_millis(500));
    assert_eq!(unit.hooks.reverted, None);
}

#[test]
fn a_policy_rounds_up_to_whole_seconds() {
    let policy = unit(&load(FULL, &[]).unwrap()).policy();
    assert_eq!(policy.prepare_timeout_secs, 1200);
    assert_eq!(policy.switch_timeout_secs, 90);
    assert_eq!(policy.revert_timeout_secs, 2, "1500ms, rounded up");
    assert_eq!(policy.absence_grace_secs, 20);
    assert_eq!((policy.absent_nodes, policy.min_nodes), (AbsentNodes::Skip, 2));
}

#[test]
fn the_digest_depends_on_the_settings_and_not_on_their_notation() {
    let digest = |keys: &str| unit(&load(&shop(keys), &[]).unwrap()).digest();
    let plain = digest("");
    assert_eq!(plain.len(), 16);
    assert_eq!(plain, digest("switch_timeout = \"120s\"\nkeep_releases = 5\nprefetch = [\"*\"]"));
    assert_eq!(plain, digest("coordinate = false"), "may differ between nodes");
    let elsewhere = load(&shop("").replace("/srv/shop", "/data/shop"), &[]).unwrap();
    assert_eq!(plain, unit(&elsewhere).digest(), "is a path on this machine");
    assert_eq!(plain, digest("require_attribution = false"), "older agents compute the same digest");
    assert_ne!(plain, digest("require_attribution = true"));
    assert_eq!(plain, digest("links = \"inside\""), "older agents compute the same digest");
    assert_ne!(plain, digest("links = \"any\""));
    assert_ne!(plain, digest("keep_releases = 6"));
    assert_eq!(plain, digest("keep_failed = 1\nverify = \"quick\""), "older agents compute the same digest");
    assert_ne!(plain, digest("keep_failed = 0"));
    assert_ne!(plain, digest("verify = \"full\""));
    assert_ne!(plain, digest("releases_budget = \"6GiB\""));
    assert_ne!(plain, digest("staged_budget = \"6GiB\""));
    assert_ne!(plain, digest("linked_files = [\".env\"]"));
    // If this digest changes, all nodes show drift while agents are upgraded one by one.
    insta::assert_snapshot!(plain, @"b67b6ad49c8c1136");
}

#[test]
fn the_digest_depends_on_the_keys_and_not_on_where_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ci.pub");
    fs::write(&file, format!("untrusted comment: minisign public key\r\n{}\r\n", KEYS[1])).unwrap();
    let file = file.display().to_string();
    let digest = |keys: &[&str], rule: &str| {
        let text = format!("{}[signatures]\nkeys = {keys:?}\n", shop(rule));
        unit(&load(&text, &[]).unwrap()).digest()
    };
    assert_eq!(digest(&[], "require_signature = false"), unit(&load(&shop(""), &[]).unwrap()).digest());
    assert_eq!(digest(&KEYS, ""), digest(&[file.as_str(), KEYS[0]], ""));
    assert_ne!(digest(&KEYS, ""), digest(&KEYS[..1], ""));
    assert_ne!(digest(&KEYS[1..], ""), digest(&KEYS[..1], ""));
    assert_ne!(digest(&KEYS, ""), digest(&KEYS, "require_signature = true"));
    // A drop-in replaces the list, so a key that it leaves out is withdrawn.
    let drop_in = [("keys.toml", format!("[signatures]\nkeys = [{:?}]\n", KEYS[1]))];
    let drop_in: Vec<(&str, &str)> = drop_in.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let settings = load(FULL, &drop_in).unwrap();
    assert_eq!(unit(&settings).signatures.keys.iter().map(ToString::to_string).collect::<Vec<_>>(), [KEYS[1]]);
}

#[test]
fn drop_ins_override_single_keys_in_the_order_of_their_names() {
    let settings = load(
        &shop("keep_releases = 6\nmin_nodes = 3\nhooks.check = { command = [\"./a\"], timeout = \"7s\" }\nlinked_dirs = [\"log\"]"),
        &[
            ("20-b.toml", "[deploy.\"shop/production\"]\nkeep_releases = 8\nlinked_dirs = [\"tmp\"]\n"),
            ("10-a.toml", "node = \"web-1\"\n[deploy.\"shop/production\"]\nkeep_releases = 7\nhooks.check.command = [\"./b\"]\n"),
            (".30-c.toml", "node = 'an editor left this'"),
            ("40-d.toml.bak", "node = 'and this'"),
        ],
    )
    .unwrap();
    assert_eq!(settings.node.as_ref().unwrap().as_str(), "web-1");
    let unit = unit(&settings);
    assert_eq!((unit.keep_releases, unit.min_nodes), (8, 3));
    assert_eq!(unit.linked_dirs, [PathBuf::from("tmp")], "lists are replaced");
    let check = Hook { command: vec!["./b".to_owned()], timeout: Duration::from_secs(7) };
    assert_eq!(unit.hooks.check, Some(check), "each key by itself");
}

#[test]
fn an_empty_file_serves_only_api_and_page() {
    let settings = load("", &[]).unwrap();
    assert!(settings.units.is_empty() && settings.store.is_none());
    assert_eq!(settings.api.listen, "127.0.0.1:8740".parse().unwrap());
    assert_eq!(settings.consul.prefix, "cutover/");
    assert_eq!(settings.cache.dir, PathBuf::from("/var/cache/cutover"));
    assert_eq!((settings.cache.budget_bytes, settings.cache.min_free_bytes), (DEFAULT_CACHE_BUDGET_BYTES, None));
    let fetch = FetchSection { bandwidth_bytes_per_sec: None, parallel: None, spread: Duration::from_secs(10) };
    assert_eq!(settings.fetch, fetch);
    assert_eq!(load("[fetch]\nspread = \"0s\"", &[]).unwrap().fetch.spread, Duration::ZERO);
}

#[test]
fn the_store_comes_from_the_file_or_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cutover.toml");
    let url = |text: &str, variable: &str| {
        fs::write(&path, text).unwrap();
        Settings::load(&path, |name| if name == "CUTOVER_STORE" { Some(variable.to_owned()) } else { env(name) })
            .map(|settings| settings.store.unwrap().url)
            .map_err(|e| e.to_string())
    };
    assert_eq!(url("", "s3://bucket/").unwrap(), "s3://bucket");
    assert_eq!(url(STORE, "s3://bucket").unwrap(), "dir:///srv/artifacts");
    assert!(url("", "http://bucket").unwrap_err().starts_with("environment: CUTOVER_STORE: "));
}

#[test]
fn a_missing_file_is_named_and_a_missing_drop_in_directory_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cutover.toml");
    let error = Settings::load(&path, env).unwrap_err();
    assert_eq!(error.to_string(), format!("{} cannot be read", path.display()));
    fs::write(&path, "").unwrap();
    assert!(Settings::load(&path, env).is_ok());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn every_error_has_file_line_key_and_allowed_values() {
    let second = |dir: &str| shop(&format!("[deploy.\"blog/production\"]\ndeploy_to = \"{dir}\""));
    let cases = [
        "node = ".to_owned(),
        "node = \"a\"\nnode = \"b\"".to_owned(),
        "nodes = \"a\"".to_owned(),
        "node = \"a b\"".to_owned(),
        "node = 5".to_owned(),
        "[consul]\naddress = \"\"".to_owned(),
        "[consul]\nprefix = \"a//b\"".to_owned(),
        "[consul]\ntoken_file = \"consul.token\"".to_owned(),
        "[consul]\ncert_file = \"/a\"".to_owned(),
        "[store]\nurl = \"http://x\"".to_owned(),
        "[store]\nurl = \"s3:///builds\"".to_owned(),
        "[store]\nurl = \"s3://a/b?c\"".to_owned(),
        "[store]\nurl = \"dir://srv\"".to_owned(),
        "[store]\nendpoint = \"s3.example.com\"".to_owned(),
        format!("{STORE}sweep_every = \"500ms\""),
        format!("{STORE}sweep_every = \"off\""),
        format!("{STORE}keep_builds = 0"),
        "[api]\nlisten = \"8740\"".to_owned(),
        "[api]\npublic_url = \"https://ann:secret@x\"".to_owned(),
        "[api]\nlisten = \"10.0.0.1:8740\"".to_owned(),
        "[api]\ntls_key_file = \"/a\"".to_owned(),
        "[api]\ncompare_url = \"https://x/compare\"".to_owned(),
        "[api]\nhosts = [\"https://x\"]".to_owned(),
        "[api.proxy]\nuser_header = \"X-User\"".to_owned(),
        "[api.proxy]\nfrom = [\"localhost\"]".to_owned(),
        "[api.proxy]\nfrom = [\"127.0.0.1\"]\nuser_header = \"a b\"".to_owned(),
        "[api.proxy]\nfrom = [\"127.0.0.1\"]\nuser_header = \"Cookie\"".to_owned(),
        "[api.users.ann]".to_owned(),
        "[api.users.\"\"]\ntoken_file = \"/a\"".to_owned(),
        "[cache]\nbudget = \"10 GB\"".to_owned(),
        "[cache]\nbudget = 10".to_owned(),
        "[fetch]\nbandwidth = \"63KiB\"".to_owned(),
        "[fetch]\nparallel = 0".to_owned(),
        "[fetch]\nspread = \"25h\"".to_owned(),
        "[notify.ops]\nurl_file = \"/a\"".to_owned(),
        "[notify.ops]\nkind = \"irc\"".to_owned(),
        "[notify.ops]\nkind = \"slack\"".to_owned(),
        "[notify.\"a b\"]\nkind = \"slack\"".to_owned(),
        "[notify.ops]\nkind = \"webhook\"\nurl_file = \"/a\"".to_owned(),
        "[notify.ops]\nkind = \"flowdock\"\nurl_file = \"/a\"".to_owned(),
        "[notify.ops]\nkind = \"slack\"\nurl_file = \"/a\"\nsecret_file = \"/b\"".to_owned(),
        "[notify.ops]\nkind = \"slack\"\nurl_file = \"/a\"\ntoken_file = \"/b\"".to_owned(),
        "[notify.ops]\nkind = \"slack\"\nurl_file = \"/a\"\nevents = [\"deploy.finished\"]".to_owned(),
        "[notify.ops]\nkind = \"slack\"\nurl_file = \"/a\"\nevents = []".to_owned(),
        "[notify.ops]\nkind = \"slack\"\nurl_file = \"/a\"\nunits = []".to_owned(),
        "[chat.users.U1]\nname = \"ann\"\ntoken_file = \"/a\"".to_owned(),
        "[chat]\nsigning_secret_file = \"secret\"".to_owned(),
        "[chat]\nsigning_secret_file = \"/a\"\n[chat.users.U1]\ntoken_file = \"/a\"".to_owned(),
        "[chat]\nsigning_secret_file = \"/a\"\n[chat.users.U1]\nname = \"ann\"".to_owned(),
        "[deploy.shop]\ndeploy_to = \"/srv/shop\"".to_owned(),
        "[deploy.\"shop/builds\"]\ndeploy_to = \"/srv/shop\"".to_owned(),
        "[deploy.\"shop/production\"]\ndeploy_to = \"/srv/shop\"".to_owned(),
        format!("{STORE}[deploy.\"shop/production\"]\nkeep_releases = 2"),
        format!("{STORE}[deploy.\"shop/production\"]\ndeploy_to = \"shop\""),
        format!("{STORE}[deploy.\"shop/production\"]\ndeploy_to = \"/srv/../shop\""),
        format!("{STORE}[deploy.\"shop/production\"]\ndeploy_to = \"/\""),
        shop("kepe_releases = 5"),
        shop("keep_releases = 0"),
        shop("keep_releases = -1"),
        shop("max_staged = 0"),
        shop("min_nodes = 0"),
        shop("repo = \"--upload-pack=x\""),
        shop("branches = []"),
        shop("branches = [\"\"]"),
        shop("prefetch = [\"master\", \"re[lease\"]"),
        shop("service = \"\""),
        shop("linked_dirs = [\"log\", \"../log\"]"),
        shop("linked_dirs = [\"/log\"]"),
        shop("linked_dirs = [\"tmp\", \"tmp/cache\"]"),
        shop("linked_dirs = [\"config\"]\nlinked_files = [\"config/.env\"]"),
        shop("linked_files = [\"REVISION\"]"),
        shop("prepare_timeout = \"10\""),
        shop("switch_timeout = 120"),
        shop("revert_timeout = \"500ms\""),
        shop("absence_grace = \"3 days\""),
        shop("absent_nodes = \"ignore\""),
        shop("links = \"outside\""),
        shop("hooks.check = { timeout = \"1s\" }"),
        shop("hooks.check = { command = [] }"),
        shop("hooks.check = { command = \"./bin/healthy\" }"),
        shop("hooks.checks = { command = [\"a\"] }"),
        shop("hooks.prepare = { command = [\"a\"], timeout = \"0s\" }"),
        shop("secret_env = [\"hunter-2\"]"),
        shop("require_signature = true"),
        format!("[signatures]\nkeys = [\"{}\", \"x\"]", KEYS[0]),
        "[signatures]\nkeys = [\"ci.pub\"]".to_owned(),
        "[signatures]\nkeys = [\"/nowhere/ci.pub\"]".to_owned(),
        "[signatures]\nkeys = [\"/dev/null\"]".to_owned(),
        "[signatures]\nkeys = [\"/etc/../ci.pub\"]".to_owned(),
        format!("[signatures]\nkeys = [\"{SECRET_KEY}\"]"),
        format!("[signatures]\nkeys = [\"{0}\", \"{0}\"]", KEYS[0]),
        "[signatures]\nkeys = \"RW\"".to_owned(),
        "[signatures]\nkey = \"RW\"".to_owned(),
        second("/srv/shop"),
        second("/srv/shop/blog/"),
        second("/srv"),
    ];
    let mut shown = String::new();
    for case in cases {
        let message = load(&case, &[]).unwrap_err();
        let written = case.strip_prefix(STORE).unwrap_or(&case).trim_end();
        writeln!(shown, "{written}\n  => {message}\n").unwrap();
    }
    let drop_in = [("10-shop.toml", "\n[deploy.\"shop/production\"]\nmin_nodes = 0")];
    writeln!(shown, "in a drop-in\n  => {}", load(&shop("min_nodes = 2"), &drop_in).unwrap_err()).unwrap();
    insta::assert_snapshot!(shown);
}

#[test]
fn a_proxy_cannot_use_a_header_with_another_meaning() {
    let named = |header: &str| load(&format!("[api.proxy]\nfrom = [\"127.0.0.1\"]\nuser_header = \"{header}\""), &[]);
    for header in [
        "Host",
        "AUTHORIZATION",
        "cookie",
        "Origin",
        "X-Consul-Token",
        "Content-Type",
        "content-length",
        "Sec-Fetch-Site",
    ] {
        let refused = named(header).unwrap_err();
        assert!(refused.contains("another meaning"), "{header}: {refused}");
    }
    for header in ["X-Forwarded-User", "Remote-User", "X-Content-Owner"] {
        assert!(named(header).is_ok(), "{header}");
    }
}

#[test]
fn sibling_directories_do_not_overlap() {
    assert!(load(&shop("[deploy.\"blog/production\"]\ndeploy_to = \"/srv/shop-blog\""), &[]).is_ok());
}

/// The file that packages install.
fn sample() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/cutover.toml")).unwrap()
}

#[test]
fn the_sample_file_loads() {
    let settings = load(&sample(), &[]).unwrap();
    assert_eq!(settings.units.len(), 1);
}

#[test]
fn the_sample_file_shows_every_key_with_its_default() {
    let shown: String = sample()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.is_empty() && !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let default = load(&sample(), &[]).unwrap();
    let Settings { api, mut cache, mut units, .. } = load(&shown, &[]).unwrap();
    let mut unit = units.remove(&"shop/production".parse().unwrap()).unwrap();
    // These have no default; the sample shows an example.
    cache.min_free_bytes = None;
    unit.repo = None;
    (unit.staged_budget, unit.releases_budget) = (None, None);
    unit.branches = None;
    unit.require_profile = None;
    unit.service = None;
    unit.linked_dirs = Vec::new();
    unit.linked_files = Vec::new();
    unit.secret_env = Vec::new();
    // Hooks have none either, but their time limits do.
    let commands_only = load(
        &shop(
            "hooks.prepare.command = [\"./bin/prepare\"]\nhooks.check.command = [\"./bin/healthy\"]\n\
         hooks.switched.command = [\"sudo\", \"systemctl\", \"reload\", \"shop\"]\n\
         hooks.reverted.command = [\"sudo\", \"systemctl\", \"reload\", \"shop\"]",
        ),
        &[],
    )
    .unwrap();
    assert_eq!(unit.hooks, self::unit(&commands_only).hooks);
    unit.hooks = Hooks::default();
    assert_eq!(&unit, self::unit(&default));
    assert_eq!((api.listen, &cache), (default.api.listen, &default.cache));
    // Every key of the settings must be in the sample.
    let keys = serde_json::to_value(self::unit(&default)).unwrap();
    for key in keys.as_object().unwrap().keys().filter(|key| *key != "hooks") {
        assert!(shown.contains(&format!("\n{key} = ")), "{key}");
    }
}
