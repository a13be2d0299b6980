//! The `OpenAPI` document is that of the code; and what the guard lets through.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use axum::body::Body;
use axum::http::Request;
use schemars::{JsonSchema, schema_for};
use serde_json::Value;

use super::peer::Peer;
use super::route::Verb;
use super::{guard, pages, spec};
use crate::config::Settings;
use crate::protocol::ids::{App, ArtifactName, Commit, Group, Node, ReleaseName, Sha256, Unit};

/// The document of the table and its types.
fn built() -> Value {
    spec::build().unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// `UPDATE_OPENAPI=1` writes the document into the tree.
#[test]
fn the_served_document_is_that_of_the_table_and_its_types() {
    let built = built();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, lines(&built, 0) + "\n").unwrap();
    }
    let served: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let differing = differences("", &served, &built);
    assert!(
        differing.is_empty(),
        "src/api/openapi.json differs from the code at:\n{}\nIf the API was meant to change: UPDATE_OPENAPI=1 cargo test \
         --lib served_document",
        differing.join("\n")
    );
}

/// JSON as it is in the tree: a part that fits in a line is a line.
fn lines(json: &Value, indent: usize) -> String {
    const MOST_COLUMNS: usize = 120;
    let line = json.to_string();
    let (deeper, end) = (" ".repeat(indent + 2), " ".repeat(indent));
    match json {
        _ if indent + line.len() <= MOST_COLUMNS => line,
        Value::Object(fields) => {
            let field = |(name, json)| format!("{deeper}{}: {}", Value::from(name), lines(json, indent + 2));
            let fields: Vec<String> = fields.iter().map(|(name, json)| field((name.as_str(), json))).collect();
            format!("{{\n{}\n{end}}}", fields.join(",\n"))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|json| deeper.clone() + &lines(json, indent + 2)).collect();
            format!("[\n{}\n{end}]", items.join(",\n"))
        }
        _ => line,
    }
}

/// Where two documents differ.
fn differences(at: &str, one: &Value, other: &Value) -> Vec<String> {
    match (one, other) {
        (Value::Object(fields), Value::Object(others)) => {
            let names: BTreeSet<&String> = fields.keys().chain(others.keys()).collect();
            let field = |name: &String| differences(&format!("{at}/{name}"), &one[name], &other[name]);
            names.into_iter().flat_map(field).collect()
        }
        _ if one == other => Vec::new(),
        _ => vec![at.to_owned()],
    }
}

#[test]
fn the_document_describes_each_operation_and_each_answer() {
    let document = built();
    let mut ids = BTreeSet::new();
    let operations = document["paths"].as_object().unwrap().iter();
    for (path, operation) in
        operations.flat_map(|(path, all)| all.as_object().unwrap().values().map(move |it| (path, it)))
    {
        let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        let of_place = |place: &'static str| parameters.iter().filter(move |it| it["in"] == place);
        assert_eq!(of_place("path").count(), path.matches('{').count(), "{path}");
        assert!(ids.insert(operation["operationId"].as_str()), "{path}: {}", operation["operationId"]);
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{path}");
        for (status, response) in responses {
            let is_described = response["description"].as_str().is_some_and(|text| !text.is_empty());
            assert!(is_described || response["$ref"].is_string(), "{path} {status}: its type has no doc comment");
        }
    }
    // Readers of the document have no source to follow a link into.
    assert!(!document.to_string().contains("[`"), "links between types");
}

#[test]
fn the_patterns_of_names_match_what_is_accepted() {
    fn check<T: JsonSchema + FromStr>(texts: &[&str]) {
        let schema = jsonschema::validator_for(schema_for!(T).as_value()).unwrap();
        for text in texts {
            assert_eq!(
                schema.is_valid(&Value::from(*text)),
                T::from_str(text).is_ok(),
                "{}: {text:?}",
                T::schema_name()
            );
        }
    }
    let (long, longer, longest) = ("x".repeat(64), "x".repeat(65), "x".repeat(129));
    let names =
        ["", ".", ".x", "a/b", "a b", "ä", "shop", "web-1.example", "A_b", "runs", "runs-1", &long, &longer, &longest];
    check::<App>(&names);
    check::<Node>(&names);
    check::<Group>(&names);
    check::<ArtifactName>(&names);
    check::<Unit>(&["shop/production", "shop/bad", "bad/shop", "shop", "a/b/c", ".a/b", "a/.b", "/b", "a/"]);
    let digits = [14, 40, 64, 65].map(|length| "0123456789abcdef".repeat(5)[..length].to_owned());
    let digits = [&digits[0], &digits[1], &digits[2], &digits[3], "20261123091500", "2026112309150", "A0"];
    check::<Commit>(&digits);
    check::<Sha256>(&digits);
    check::<ReleaseName>(&digits);
}

#[test]
fn pages_are_not_part_of_the_document() {
    let document = built();
    let mut once = BTreeSet::new();
    for route in pages::table() {
        assert!(!route.path.starts_with("/v1/"), "{} is the API's", route.path);
        assert!(document["paths"].get(route.path).is_none(), "{}", route.path);
        // Forms use POST, so that no link can trigger them.
        assert!([Verb::Get, Verb::Post].contains(&route.verb), "{}", route.path);
        assert!(once.insert((route.path, route.verb.as_str())), "{}", route.path);
    }
}

fn settings(text: &str) -> crate::config::ApiSection {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cutover.toml");
    std::fs::write(&path, text).unwrap();
    Settings::load(&path, |name| (name == "HOME").then(|| "/root".to_owned())).unwrap().api
}

fn request(request: &str) -> Request<Body> {
    let mut lines = request.lines().map(str::trim);
    let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
    let mut built = Request::builder().method(method).uri(target);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        built = built.header(name, value);
    }
    let address: IpAddr = "10.0.0.7".parse().unwrap();
    let mut built = built.body(Body::empty()).unwrap();
    built.extensions_mut().insert(Peer { remote: address, local: address });
    built
}

/// The status with which a request is refused; none: it is let through.
fn status(settings: &crate::config::ApiSection, text: &str) -> Option<u16> {
    guard::judge(settings, &request(text)).err().map(|problem| problem.status.as_u16())
}

#[test]
fn requests_for_other_host_names_are_refused() {
    let settings = settings(
        "[api]\nlisten = \"0.0.0.0:8740\"\nplain_http = true\nhosts = [\"Cutover.internal\"]\n\
         public_url = \"https://deploy.example.com\"\n",
    );
    for host in [
        "localhost",
        "LOCALHOST:8740",
        "10.0.0.7",
        "10.0.0.7:8740",
        "cutover.internal:80",
        "deploy.example.com",
        "0.0.0.0:8740",
    ] {
        assert_eq!(status(&settings, &format!("GET /v1/apps\nHost: {host}")), None, "{host}");
    }
    for host in
        ["evil.example.com", "10.0.0.8", "localhost.evil.example.com", "[::1]", "", "a b", "deploy.example.com."]
    {
        assert_eq!(status(&settings, &format!("GET /v1/apps\nHost: {host}")), Some(421), "{host}");
    }
    assert_eq!(status(&settings, "GET /v1/apps"), Some(421), "without Host");
    assert_eq!(status(&settings, "GET /v1/apps\nHost: localhost\nHost: localhost"), Some(421), "twice");
    assert_eq!(status(&settings, "GET http://evil.example.com/v1/apps\nHost: localhost"), Some(421));
}

#[test]
fn other_sites_cannot_change_anything() {
    let settings = settings("[api]\npublic_url = \"https://deploy.example.com\"\n[api.proxy]\nfrom = [\"10.0.0.7\"]\n");
    let cookie = "Cookie: a=b; cutover_session=x";
    for (headers, refused) in [
        ("", false),
        ("Origin: http://localhost:8740", false),
        ("Origin: https://deploy.example.com", false),
        ("Origin: https://deploy.example.com:444", true),
        ("Origin: http://localhost:3000", true),
        ("Origin: http://localhost", true),
        ("Origin: https://evil.example.com", true),
        ("Origin: null", true),
        ("Sec-Fetch-Site: same-origin", false),
        ("Sec-Fetch-Site: same-site", true),
        ("Sec-Fetch-Site: cross-site", true),
        ("Sec-Fetch-Site: none", true),
        (cookie, true),
        ("X-Forwarded-User: ann", true),
        (&format!("{cookie}\nSec-Fetch-Site: same-origin"), false),
        (&format!("{cookie}\nOrigin: http://localhost:8740"), false),
        (&format!("{cookie}\nOrigin: http://localhost:8740\nSec-Fetch-Site: same-site"), true),
    ] {
        for method in ["POST", "DELETE", "PUT"] {
            let found = status(&settings, &format!("{method} /v1/session\nHost: localhost:8740\n{headers}"));
            assert_eq!(found, refused.then_some(403), "{method} {headers}");
        }
        assert_eq!(status(&settings, &format!("GET /v1/session\nHost: localhost:8740\n{headers}")), None, "{headers}");
    }
}

#[test]
fn other_sites_cannot_query_the_nodes() {
    let settings = settings("[api]\npublic_url = \"https://deploy.example.com\"\n[api.proxy]\nfrom = [\"10.0.0.7\"]\n");
    let cookie = "Cookie: a=b; cutover_session=x";
    for (headers, may) in [
        ("", true),
        ("Sec-Fetch-Site: same-origin", true),
        ("Sec-Fetch-Site: none", true),
        ("Sec-Fetch-Site: same-site", false),
        ("Sec-Fetch-Site: cross-site", false),
        (cookie, false),
        ("X-Forwarded-User: ann", false),
        (&format!("{cookie}\nSec-Fetch-Site: same-origin"), true),
        (&format!("{cookie}\nSec-Fetch-Site: none"), true),
        (&format!("{cookie}\nSec-Fetch-Site: same-site\nReferer: http://localhost:8740/"), false),
        (&format!("{cookie}\nReferer: http://localhost:8740/units/shop/production"), true),
        (&format!("{cookie}\nReferer: https://deploy.example.com/"), true),
        (&format!("{cookie}\nReferer: http://localhost:3000/"), false),
        (&format!("{cookie}\nReferer: https://evil.example.com/http://localhost:8740/"), false),
    ] {
        let request = request(&format!("GET /doctor\nHost: localhost:8740\n{headers}"));
        assert_eq!(guard::is_from_here(&settings, request.headers()), may, "{headers}");
    }
}

#[test]
fn a_public_url_may_be_an_address() {
    for (url, host, others) in [
        ("https://192.0.2.7:8443/cutover", "192.0.2.7", ["192.0.2.8", "7"]),
        ("https://[2001:db8::7]:8443", "[2001:db8::7]", ["[2001:db8::8]", "[::7]"]),
    ] {
        let settings = settings(&format!("[api]\npublic_url = \"{url}\"\n"));
        for called in [host.to_owned(), format!("{host}:8443")] {
            assert_eq!(status(&settings, &format!("GET /v1/apps\nHost: {called}")), None, "{called}");
        }
        // Its proxy may call the agent by a name of the agent's own.
        let from = |origin: &str| status(&settings, &format!("POST /v1/session\nHost: localhost\nOrigin: {origin}"));
        assert_eq!(from(&format!("https://{host}:8443")), None);
        assert_eq!(from(&format!("https://{host}")), Some(403), "another port");
        for other in others {
            assert_eq!(status(&settings, &format!("GET /v1/apps\nHost: {other}")), Some(421), "{other}");
            assert_eq!(from(&format!("https://{other}:8443")), Some(403), "{other}");
        }
    }
}
