//! Checks the rendered text against the rules of `OpenMetrics` 1.0.0 that scrapers enforce.

use std::collections::BTreeMap;

use super::*;

fn unit() -> Unit {
    "shop/production".parse().unwrap()
}

fn filled() -> Metrics {
    let metrics = Metrics::new("1.2.3", "15e9f13a");
    metrics.deploy_ended(&unit(), "done");
    metrics.phase_took(Phase::Prepare, Duration::from_millis(1500));
    metrics.hook_took("check", Duration::from_millis(20));
    metrics.fetched(FetchPurpose::Prefetch, 1000);
    metrics.fetched(FetchPurpose::Deploy, 10);
    metrics.fetch_failed();
    metrics.fetch_retried("cut");
    metrics.notified("ops", NotificationResult::GivenUp);
    metrics.consul_request("kv get", "200", Some(Duration::from_millis(2)));
    metrics.consul_answered("2026-11-23T09:15:00Z".parse().unwrap());
    let build = "master-15e9f13a".parse().unwrap();
    metrics.unit_is(&unit(), &UnitState { runs: Some(&build), is_behind: true, has_alarm: false, free_bytes: 5 });
    metrics.starts_coordinating(&unit());
    metrics.builds_gone(&unit(), 2);
    metrics.builds_damaged(&unit(), 1);
    metrics
}

/// One family: its type and unit, and its samples by name and labels.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    help: String,
    samples: Vec<(String, f64)>,
}

/// Parses the text strictly. An invalid line fails the test.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF and nothing after it");
    assert!(!body.contains("# EOF") && !body.contains('\r') && !body.contains("\n\n"), "{text}");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut open = String::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (word, rest) = comment.split_once(' ').unwrap();
            let (name, rest) = rest.split_once(' ').unwrap();
            if name != open {
                assert!(!families.contains_key(name), "the lines of {name} are not together");
                name.clone_into(&mut open);
            }
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty(), "metadata of {name} comes after its samples");
            match word {
                "HELP" => rest.clone_into(&mut family.help),
                "TYPE" => rest.clone_into(&mut family.kind),
                "UNIT" => family.unit = Some(rest.to_owned()),
                other => panic!("# {other} is no metadata"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
        if let Some(labels) = series.strip_prefix(name).unwrap().strip_prefix('{') {
            let labels = labels.strip_suffix('}').unwrap();
            let names: Vec<&str> = labels.split("\",").map(|label| label.split_once("=\"").unwrap().0).collect();
            let mut once = names.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), names.len(), "a label is repeated: {line}");
        }
        let family = families.get_mut(&open).unwrap_or_else(|| panic!("no metadata before {line}"));
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{open} has type {other}"),
        };
        let suffix = name.strip_prefix(open.as_str()).unwrap_or_else(|| panic!("{line} stands under {open}"));
        assert!(suffixes.contains(&suffix), "{line} is no sample of a {}", family.kind);
        assert!(!family.samples.iter().any(|(known, _)| known == series), "{series} stands twice");
        family.samples.push((series.to_owned(), value.parse().unwrap()));
    }
    families
}

#[test]
fn the_text_is_openmetrics_with_the_documented_names() {
    let text = filled().render();
    let families = parse(&text);
    for (name, family) in &families {
        assert!(name.starts_with("cutover_"), "{name}");
        assert!(!family.help.is_empty() && !family.kind.is_empty(), "{name} says nothing about itself");
        if let Some(unit) = &family.unit {
            assert!(name.ends_with(&format!("_{unit}")), "{name} is in {unit}");
        }
        assert!(!name.ends_with("_total"), "the family of a counter has no suffix: {name}");
    }
    let value = |family: &str, series: &str| {
        let family = families.get(family).unwrap_or_else(|| panic!("no {family} in\n{text}"));
        let found = family.samples.iter().find(|(known, _)| known == series);
        found.unwrap_or_else(|| panic!("no {series} in\n{text}")).1
    };
    let of = |name: &str| format!("{name}{{app=\"shop\",group=\"production\"}}");
    assert!((value("cutover_build", "cutover_build_info{version=\"1.2.3\",revision=\"15e9f13a\"}") - 1.0).abs() < 1e-9);
    for (family, series, expected) in [
        ("cutover_deploys", "cutover_deploys_total{app=\"shop\",group=\"production\",result=\"done\"}".to_owned(), 1.0),
        ("cutover_deploy_phase_seconds", "cutover_deploy_phase_seconds_sum{phase=\"prepare\"}".to_owned(), 1.5),
        ("cutover_hook_seconds", "cutover_hook_seconds_count{hook=\"check\"}".to_owned(), 1.0),
        ("cutover_prefetch_bytes", "cutover_prefetch_bytes_total".to_owned(), 1000.0),
        ("cutover_deploy_fetch_bytes", "cutover_deploy_fetch_bytes_total".to_owned(), 10.0),
        ("cutover_fetch_errors", "cutover_fetch_errors_total".to_owned(), 1.0),
        ("cutover_fetch_retries", "cutover_fetch_retries_total{reason=\"cut\"}".to_owned(), 1.0),
        ("cutover_notifications", "cutover_notifications_total{receiver=\"ops\",result=\"given_up\"}".to_owned(), 1.0),
        (
            "cutover_consul_request_seconds",
            "cutover_consul_request_seconds_count{op=\"kv get\",status=\"200\"}".to_owned(),
            1.0,
        ),
        (
            "cutover_consul_last_contact_timestamp_seconds",
            "cutover_consul_last_contact_timestamp_seconds".to_owned(),
            1_795_425_300.0,
        ),
        (
            "cutover_release_current_info",
            "cutover_release_current_info{app=\"shop\",group=\"production\",build=\"master-15e9f13a\"}".to_owned(),
            1.0,
        ),
        ("cutover_unit_behind", of("cutover_unit_behind"), 1.0),
        ("cutover_unit_alarm", of("cutover_unit_alarm"), 0.0),
        ("cutover_coordinator", of("cutover_coordinator"), 1.0),
        ("cutover_builds_gone", of("cutover_builds_gone"), 2.0),
        ("cutover_builds_damaged", of("cutover_builds_damaged"), 1.0),
        ("cutover_disk_free_bytes", of("cutover_disk_free_bytes"), 5.0),
    ] {
        assert!((value(family, &series) - expected).abs() < 1e-9, "{series} is {}", value(family, &series));
    }
}

#[test]
fn a_histogram_counts_upwards_to_infinity() {
    let families = parse(&filled().render());
    let family = &families["cutover_deploy_phase_seconds"];
    let buckets: Vec<&(String, f64)> = family.samples.iter().filter(|(name, _)| name.contains("_bucket")).collect();
    assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{buckets:?}");
    let (last, count) = buckets.last().unwrap();
    assert!(last.contains("le=\"+Inf\"") && (count - 1.0).abs() < 1e-9, "{last}");
}

#[test]
fn only_the_running_build_has_a_line() {
    let metrics = filled();
    let next = "master-25e9f13a".parse().unwrap();
    metrics.unit_is(&unit(), &UnitState { runs: Some(&next), is_behind: false, has_alarm: false, free_bytes: 5 });
    let families = parse(&metrics.render());
    let [(series, _)] = families["cutover_release_current_info"].samples.as_slice() else { panic!("{families:?}") };
    assert!(series.contains("master-25e9f13a"), "{series}");
    metrics.unit_is(&unit(), &UnitState { runs: None, is_behind: false, has_alarm: false, free_bytes: 5 });
    assert!(!metrics.render().contains("25e9f13a"));
}

#[test]
fn a_former_coordinator_reports_nothing_about_the_store() {
    let metrics = filled();
    metrics.stops_coordinating(&unit());
    let families = parse(&metrics.render());
    assert!(families.get("cutover_builds_gone").is_none_or(|family| family.samples.is_empty()), "{families:?}");
}

#[test]
fn label_values_are_escaped() {
    let metrics = Metrics::new("1\"2\n3\\4", "x");
    let text = metrics.render();
    assert!(text.contains("version=\"1\\\"2\\n3\\\\4\""), "{text}");
    parse(&text);
}
