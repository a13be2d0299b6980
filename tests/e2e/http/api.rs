//! What the command line can do, the API can: the same documents, the same deeds.

use std::path::Path;

use serde_json::{Value, json};

use crate::fleet::web::{Answer, Web};
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

/// Lets an object hold nothing that its schema does not name: programs may be given more one day, but what we give now is
/// to be described.
fn seal(schema: &mut Value) {
    if schema["properties"].is_object() && schema.get("additionalProperties").is_none() {
        schema["additionalProperties"] = json!(false);
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(seal),
        Value::Array(fields) => fields.iter_mut().for_each(seal),
        _ => {}
    }
}

/// Checks an answer against the schema that the agent's own `OpenAPI` document has for it.
fn is_as_described(document: &Value, method: &str, path: &str, answer: &Answer) {
    let shown = format!("{method} {path} {}", answer.status);
    let response = &document["paths"][path][method]["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{shown} is not described");
    let response = match response["$ref"].as_str() {
        Some(at) => document.pointer(at.trim_start_matches('#')).unwrap(),
        None => response,
    };
    let schema = &response["content"]["application/json"]["schema"];
    if schema.is_null() {
        assert!(answer.body.is_empty(), "{shown} has a body that is not described");
        return;
    }
    // References within the document hold only where the whole document is at hand.
    let mut whole = document.clone();
    for schema in whole["components"]["schemas"].as_object_mut().unwrap().values_mut() {
        seal(schema);
    }
    whole["$ref"] = json!("#/x-checked");
    whole["x-checked"] = schema.clone();
    let schema = jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{shown}: {error}"));
    let found: Vec<String> =
        schema.iter_errors(&answer.json()).map(|it| format!("{}: {it}", it.instance_path())).collect();
    assert!(found.is_empty(), "{shown}: {found:#?}\n{:#}", answer.json());
}

#[test]
fn documents_equal_those_of_the_command_line_and_match_the_openapi_schema() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    let one = fleet.deployed("one");
    let two = fleet.publish_and_stage("two");
    fleet.nodes[1].fail("check", "not today");
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master", "--reason", "why not"]).code, 9);
    fleet.nodes[1].mend("check");
    let web = Web::of(&fleet.nodes[1]);
    let described = web.get("/v1/openapi.json").expect(200);
    let same = |path: &str, at: &str, arguments: &[&str]| {
        wait_until(LIMIT, &format!("{at} is what {arguments:?} prints"), || {
            let answer = web.get(at);
            is_as_described(&described, "get", path, &answer);
            let printed = fleet.cutover(&[arguments, &["--output", "json"]].concat()).json();
            (answer.expect(200) == printed).then_some(())
        });
    };
    same("/v1/status/{app}/{group}", "/v1/status/shop/production", &["status", UNIT]);
    same("/v1/status", "/v1/status", &["status"]);
    same("/v1/builds/{app}", "/v1/builds/shop", &["builds", "shop"]);
    let (show_two, show) = (format!("/v1/builds/shop/{}", two.artifact), ["build", "show", "shop", &two.artifact]);
    same("/v1/builds/{app}/{artifact}", &show_two, &show);
    same("/v1/deploys/{app}/{group}", "/v1/deploys/shop/production", &["history", UNIT]);
    same("/v1/deploys/{app}/{group}", "/v1/deploys/shop/production?limit=1", &["history", UNIT, "-n", "1"]);

    let get = |path: &str, at: &str| {
        let answer = web.get(at);
        is_as_described(&described, "get", path, &answer);
        answer.json()
    };
    let epoch = fleet.newest_epoch();
    let newest = get("/v1/deploys/{app}/{group}/{epoch}", &format!("/v1/deploys/shop/production/{epoch}"));
    assert_eq!(newest["fate"], json!("reverted"));
    assert_eq!(newest["code"], json!(9));
    assert_eq!(newest["record"]["artifact"], two.artifact.as_str());
    let apps = get("/v1/apps", "/v1/apps");
    assert_eq!(apps, json!({"apps": [{"app": "shop", "groups": ["production"]}]}));
    let nodes = get("/v1/nodes", "/v1/nodes");
    let runs: Vec<_> = nodes["nodes"].as_array().unwrap().iter().map(|it| it["runs"]["artifact"].clone()).collect();
    assert_eq!(runs, [one.artifact.as_str(), one.artifact.as_str()]);
    asked_of_the_nodes(&described, &web, two.artifact.as_str());
    for (path, at, status) in [
        ("/v1/health/live", "/v1/health/live", 200),
        ("/v1/health/ready", "/v1/health/ready", 200),
        ("/v1/session", "/v1/session", 200),
        ("/v1/deploys/{app}/{group}/{epoch}", "/v1/deploys/shop/production/1", 404),
        ("/v1/status/{app}/{group}", "/v1/status/shop/nowhere", 404),
        ("/v1/builds/{app}", "/v1/builds/nothing", 404),
        ("/v1/builds/{app}/{artifact}", "/v1/builds/shop/master-00000000", 404),
        ("/v1/status/{app}/{group}", "/v1/status/.x/production", 400),
    ] {
        let answer = web.get(at);
        assert_eq!(answer.status, status, "{at}: {}", answer.text());
        is_as_described(&described, "get", path, &answer);
    }
}

#[test]
fn document_page_and_status_agree_on_a_running_deploy() {
    let fleet = Fleet::start(&FleetSpec { nodes: 3, hooks: true, ..FleetSpec::default() });
    let build = fleet.publish_and_stage("one");
    let web = Web::of(&fleet.nodes[0]);
    let described = web.get("/v1/openapi.json").expect(200);
    fleet.nodes[1].hold("prepare");
    let asked = web.post("/v1/deploys/shop/production", &json!({"ref": build.artifact}));
    let at = asked.header("location").unwrap();
    let says = "2 of 3 nodes prepared, waiting for web-2";
    let document = wait_until(LIMIT, says, || {
        let answer = web.get(at);
        is_as_described(&described, "get", "/v1/deploys/{app}/{group}/{epoch}", &answer);
        Some(answer.expect(200)).filter(|it| it["headline"].as_str().unwrap().ends_with(says))
    });
    assert_eq!(document["fate"], json!("running"));
    assert_eq!(document["phase"], json!("prepare"));
    assert_eq!(document["waits_for"], json!(["web-2"]));
    assert_eq!(document["lost"], Value::Null);
    let status = fleet.cutover(&["status", UNIT, "--output", "json"]).json();
    assert_eq!(status["phase"], document["phase"]);
    for node in status["nodes"].as_array().unwrap() {
        let told = &document["record"]["nodes"][node["node"].as_str().unwrap()];
        assert!(told.is_object(), "{document:#}");
        for what in ["answer", "fault", "took"] {
            assert_eq!(node["answer"][what], told[what], "{node:#}");
        }
    }
    let page = web.get(&at.replace("/v1/deploys/shop/production", "/units/shop/production/deploys"));
    assert!(page.text().contains(says), "{}", page.text());
    fleet.nodes[1].release("prepare");
    let ended =
        wait_until(LIMIT, "the deploy ends", || Some(web.get(at).expect(200)).filter(|it| it["phase"] == "done"));
    assert_eq!(ended["fate"], json!("done"));
    assert_eq!(ended["waits_for"], Value::Null);
}

/// What the nodes say when they are asked by HTTP, and how the agent says that it is set.
fn asked_of_the_nodes(described: &Value, web: &Web, artifact: &str) {
    let get = |path: &str, at: &str| {
        let answer = web.get(at);
        is_as_described(described, "get", path, &answer);
        answer.expect(200)
    };
    let doctor = get("/v1/doctor/{app}/{group}", "/v1/doctor/shop/production");
    assert_eq!(doctor["well"], json!(true));
    assert_eq!(doctor["units"][0]["nodes"].as_array().unwrap().len(), 2);
    let dry_run = "/v1/dry-run/{app}/{group}";
    let goes = get(dry_run, &format!("/v1/dry-run/shop/production?ref={artifact}&again="));
    assert_eq!(goes["would_go"], json!(true));
    assert_eq!(goes["to"]["artifact"], json!(artifact));
    let refused = get(dry_run, "/v1/dry-run/shop/production?rollback=on&to=nothing-00000000");
    assert_eq!(refused["would_go"], json!(false));
    assert_eq!(refused["code"], json!(3));
    let settings = get("/v1/settings", "/v1/settings");
    assert_eq!(settings["units"], json!([UNIT]));
    for at in ["", "?ref=", "?ref=a&force=yes", "?rollback=on&to=a/b", "?reference=a"] {
        let answer = web.get(&format!("/v1/dry-run/shop/production{at}"));
        assert_eq!(answer.status, 400, "{at}: {}", answer.text());
        is_as_described(described, "get", dry_run, &answer);
    }
}

#[test]
fn every_request_of_the_command_line_can_be_made_over_http() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    let [one, two] = ["one", "two"].map(|version| fleet.publish_and_stage(version));
    let web = Web::of(&fleet.nodes[1]);
    let described = web.get("/v1/openapi.json").expect(200);
    let at = |rest: &str| format!("/v1/deploys/shop/production{rest}");
    let ask = |rest: &str, body: Value, status: u16| {
        let answer = web.post(&at(rest), &body);
        assert_eq!(answer.status, status, "{rest} {body}: {}", answer.text());
        is_as_described(&described, "post", &format!("/v1/deploys/{{app}}/{{group}}{rest}"), &answer);
        answer
    };
    let ended = |answer: &Answer| {
        let at = answer.header("location").unwrap().to_owned();
        wait_until(LIMIT, "the request ends", || {
            Some(web.get(&at).expect(200))
                .filter(|it| !["requested", "running"].contains(&it["fate"].as_str().unwrap()))
        })
    };
    let body = json!({"ref": one.artifact, "reason": "first", "via": "ci", "by": "ann", "id": "mine"});
    let first = ended(&ask("", body, 202));
    assert_eq!(first["fate"], json!("done"));
    assert_eq!(first["record"]["by"], json!("ann"));
    assert_eq!(first["record"]["via"], json!("ci"));
    assert_eq!(first["record"]["id"], json!("mine"));
    let second = ask("", json!({"ref": two.artifact}), 202);
    let waiting = web.get(second.header("location").unwrap());
    is_as_described(&described, "get", "/v1/deploys/{app}/{group}/{epoch}", &waiting);
    let second = ended(&second);
    assert_eq!(second["record"]["by"], json!("unattributed"));
    assert_eq!(second["record"]["via"], json!("api"));
    fleet.assert_all_run("two");
    assert_eq!(ended(&ask("/rollback", json!({"reason": "slow"}), 202))["fate"], "done");
    fleet.assert_all_run("one");

    fleet.nodes[0].hold("prepare");
    let third = ask("", json!({"ref": two.artifact}), 202);
    fleet.nodes[0].wait_hook("prepare");
    ask("", json!({"ref": one.artifact}), 409);
    ask("/abort", json!({"reason": "wrong one"}), 202);
    fleet.wait_phase("aborted");
    fleet.nodes[0].release("prepare");
    assert_eq!(ended(&third)["fate"], "aborted");
    ask("/abort", json!({}), 404);

    ask("/freeze", json!({"until": "2020-01-01T00:00:00Z"}), 400);
    let frozen = ask("/freeze", json!({"reason": "sale", "until": "2999-01-01T00:00:00Z"}), 200).json();
    assert_eq!(frozen["reason"], "sale");
    assert_eq!(ended(&ask("", json!({"ref": two.artifact}), 202))["code"], 10);
    assert_eq!(ask("/unfreeze", json!({}), 200).json(), json!({"was_frozen": true}));
    assert_eq!(web.ask("POST", &at("/unfreeze"), None).expect(200), json!({"was_frozen": false}));

    let bad = format!("/v1/builds/shop/{}/bad", two.artifact);
    let marked = web.post(&bad, &json!({"reason": "leaks"}));
    is_as_described(&described, "post", "/v1/builds/{app}/{artifact}/bad", &marked);
    assert_eq!(marked.expect(200)["reason"], "leaks");
    assert_eq!(ended(&ask("", json!({"ref": two.artifact}), 202))["code"], 10);
    let lifted = web.ask("DELETE", &bad, None);
    is_as_described(&described, "delete", "/v1/builds/{app}/{artifact}/bad", &lifted);
    assert_eq!(lifted.expect(200), json!({"was_bad": true}));
    assert_eq!(ended(&ask("", json!({"ref": two.artifact}), 202))["fate"], "done");
    web.post("/v1/builds/shop/nothing-00000000/bad", &json!({})).refused(404, "not_found");
}

#[test]
fn lists_are_paged_and_filtered_and_wrong_parameters_are_named() {
    let settings = |index: usize, _: &Path| if index == 1 { "keep_releases = 7\n".to_owned() } else { String::new() };
    let fleet = Fleet::start(&FleetSpec { settings, ..FleetSpec::default() });
    let builds: Vec<_> = ["one", "two", "three"].iter().map(|version| fleet.deployed(version)).collect();
    fleet.put_deploy("nothing-00000000");
    let web = Web::of(&fleet.nodes[0]);
    // Follows `Link` from page to page.
    let pages = |at: &str, list: &str| {
        let (mut at, mut pages) = (at.to_owned(), Vec::new());
        loop {
            let answer = web.get(&at);
            pages.push(answer.expect(200)[list].as_array().unwrap().clone());
            let Some(link) = answer.header("link") else { return pages };
            at = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
        }
    };
    for (at, list, entries) in [
        ("/v1/deploys/shop/production", "entries", 7),
        ("/v1/deploys/shop/production?kind=deploy", "entries", 4),
        ("/v1/builds/shop", "builds", 3),
        ("/v1/nodes", "nodes", 3),
        ("/v1/apps", "apps", 1),
    ] {
        let whole = web.get(at).expect(200)[list].as_array().unwrap().clone();
        assert_eq!(whole.len(), entries, "{at}");
        let and = if at.contains('?') { '&' } else { '?' };
        let by_one = pages(&format!("{at}{and}limit=1"), list);
        assert_eq!(by_one.len(), entries, "{at}");
        assert_eq!(by_one.concat(), whole, "{at}");
    }
    let count = |at: &str, list: &str| web.get(at).expect(200)[list].as_array().unwrap().len();
    let deploys = "/v1/deploys/shop/production";
    assert_eq!(count(&format!("{deploys}?outcome=refused"), "requests"), 1);
    assert_eq!(count(&format!("{deploys}?outcome=done&limit=2"), "requests"), 2);
    assert_eq!(count(&format!("{deploys}?by=ann"), "requests"), 3);
    assert_eq!(count(&format!("{deploys}?artifact={}", builds[0].artifact), "requests"), 1);
    assert_eq!(count("/v1/builds/shop?state=published&branch=master", "builds"), 3);
    assert_eq!(count("/v1/builds/shop?state=failed", "builds"), 0);
    assert_eq!(count("/v1/nodes?unit=shop/production&state=alive", "nodes"), 3);
    assert_eq!(count("/v1/nodes?state=absent", "nodes"), 0);
    let names = |at: &str| -> Vec<Value> {
        let document = web.get(at).expect(200);
        document["nodes"].as_array().unwrap().iter().map(|row| row["node"].clone()).collect()
    };
    assert_eq!(names("/v1/nodes?drift=on"), ["web-2"], "its settings are its own");
    assert_eq!(names("/v1/nodes?named=b-3"), ["web-3"]);
    assert_eq!(names("/v1/nodes?named=web&limit=1"), ["web-1"]);
    // The page leads to the same list.
    let page = web.get("/nodes?state=alive&drift=on&named=web").text();
    let (_, twin) = page.split_once("<link rel=\"alternate\" type=\"application/json\" href=\"").unwrap();
    let twin = twin.split('"').next().unwrap().replace("&#38;", "&");
    assert_eq!(twin, "/v1/nodes?state=alive&drift=on&named=web");
    assert_eq!(names(&twin), ["web-2"]);
    for (at, named) in [
        ("/v1/nodes?limit=0", "limit"),
        ("/v1/nodes?limit=1001", "limit"),
        ("/v1/nodes?limit=ten", "limit"),
        ("/v1/nodes?limit=1&limit=2", "limit"),
        ("/v1/nodes?stat=alive", "stat"),
        ("/v1/nodes?state=dead", "state"),
        ("/v1/nodes?drift=yes", "drift"),
        ("/v1/nodes?unit=shop", "unit"),
        ("/v1/nodes?before=web-1", "before"),
        ("/v1/builds/shop?before=master-99999999", "before"),
        ("/v1/builds/shop?branch=a%20b", "branch"),
        ("/v1/deploys/shop/production?before=new", "before"),
        ("/v1/deploys/shop/production?outcome=ok", "outcome"),
        ("/v1/deploys/shop/production?kind=deploys", "kind"),
        ("/v1/status/shop/production?limit=1", "limit"),
    ] {
        let message = web.get(at).refused(400, "bad_request");
        assert!(message.contains(named), "{at}: {message}");
    }
}

#[test]
fn any_ci_reports_runs_and_records_its_builds() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let web = Web::of(&fleet.nodes[0]);
    let described = web.get("/v1/openapi.json").expect(200);
    let commit = "c".repeat(40);
    let run = |state: &str| {
        let answer = web
            .post("/v1/builds/shop", &json!({"state": state, "branch": "master", "commit": commit, "subject": "Fix"}));
        is_as_described(&described, "post", "/v1/builds/{app}", &answer);
        answer.expect(200)
    };
    let begun = run("building");
    assert_eq!(begun["artifact"], "master-cccccccc");
    let failed = run("failed");
    assert_eq!(failed["run"]["begun_at"], begun["run"]["begun_at"]);
    assert_eq!(failed["run"]["subject"], json!("Fix"));
    assert_eq!(web.get("/v1/builds/shop?state=failed").expect(200)["builds"][0]["artifact"], "master-cccccccc");

    // The archive of a build that was published lies in the store, and its record is lost.
    let build = fleet.publish("one");
    let key = format!("cutover/shop/builds/{}", build.artifact);
    let mut record = fleet.consul.key(&key).unwrap().unwrap().json().unwrap();
    fleet.consul(&["kv", "delete", &key]);
    let fields = record.as_object_mut().unwrap();
    fields.retain(|name, _| name != "by" && name != "at");
    fields.extend([("subject".to_owned(), json!("<b>Fix</b> ".repeat(100))), ("author".to_owned(), json!("Bob"))]);
    let object = record["object"].clone();
    for (elsewhere, status, kind) in [("../other/x.tar.gz", 400, "bad_request"), ("missing.tar.gz", 409, "refused")] {
        record["object"] = json!(elsewhere);
        web.post("/v1/builds/shop", &record).refused(status, kind);
    }
    record["object"] = object;
    let again = web.post("/v1/builds/shop", &record);
    is_as_described(&described, "post", "/v1/builds/{app}", &again);
    let again = again.expect(201);
    for field in ["since", "manifest"] {
        assert!(record[field].is_object() && again[field] == record[field], "{field} of {again:#}");
    }
    web.post("/v1/builds/shop", &record).expect(200);
    let deployed = fleet.cutover(&["deploy", UNIT, &build.artifact, "--output", "json"]).json();
    let (subject, kept) = (deployed["record"]["subject"].as_str().unwrap(), "<b>Fix</b> ".repeat(100));
    assert!(kept.starts_with(subject) && subject.len() == 256, "{deployed:#}");
    let two = fleet.publish("two");
    let document = fleet.cutover(&["deploy", UNIT, &two.artifact, "--output", "json"]).json();
    assert_eq!(document["before"]["subject"], json!(subject));
    assert_eq!(document["before"]["author"], json!("Bob"));
    assert_eq!(deployed["usual"], json!(null), "{document:#}");
    assert_eq!(document["usual"]["of"], json!(1), "{document:#}");
    let at = format!("/v1/deploys/shop/production/{}", fleet.newest_epoch());
    assert_eq!(web.get(&at).expect(200), document, "page, API and command line have one document");
    record["author"] = json!("Bob\nAnn");
    web.post("/v1/builds/shop", &record).refused(400, "bad_request");
    record["author"] = json!("Bob");
    record["sha256"] = json!("0".repeat(64));
    web.post("/v1/builds/shop", &record).refused(409, "refused");
    record["artifact"] = json!("master-00000000");
    web.post("/v1/builds/shop", &record).refused(400, "bad_request");
    for wrong in [json!({"state": "published", "branch": "master", "commit": commit}), json!({"state": 1}), json!({})] {
        web.post("/v1/builds/shop", &wrong).refused(400, "bad_request");
    }
}

#[test]
fn an_agent_without_units_serves_the_api_alone() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, late: &[1], ..FleetSpec::default() });
    fleet.deployed("one");
    let path = fleet.nodes[1].dir.join("cutover.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let kept = text.split("[store]").next().unwrap();
    std::fs::write(&path, format!("{kept}[api]\nlisten = \"{}\"\n", fleet.nodes[1].api)).unwrap();
    fleet.start_agent(1);
    let web = Web::of(&fleet.nodes[1]);
    wait_until(LIMIT, "it listens", || std::net::TcpStream::connect(&web.address).ok());
    web.get("/v1/health/ready").expect(200);
    let status = web.get("/v1/status/shop/production").expect(200);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1);
    let two = fleet.publish("two");
    let record = fleet.outcome_of(|| {
        web.post("/v1/deploys/shop/production", &json!({"ref": two.artifact})).expect(202);
    });
    assert_eq!(record["outcome"], "done", "{record:#}");
    assert!(fleet.term(1).success());
}
