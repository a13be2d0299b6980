//! The table of routes and the `OpenAPI` document name the same; and what the guard lets through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axum::body::Body;
use axum::http::Request;
use serde_json::Value;

use super::peer::Peer;
use super::route::Route;
use super::{guard, openapi, pages, routes};
use crate::config::Settings;

/// Method and path, with the names of the query's parameters.
type Addresses = BTreeMap<(String, String), BTreeSet<String>>;

fn served() -> Addresses {
    let row = |route: Route| {
        let query = route.query.iter().map(|name| (*name).to_owned()).collect();
        ((route.method.to_string(), route.path.to_owned()), query)
    };
    routes::table().into_iter().map(row).collect()
}

#[test]
fn pages_are_not_part_of_the_document() {
    let pages: Vec<(String, &str)> =
        pages::table().into_iter().map(|route| (route.method.to_string(), route.path)).collect();
    for (method, path) in &pages {
        assert!(!path.starts_with("/v1/"), "{method} {path} is the API's");
        assert!(!described().contains_key(&(method.clone(), (*path).to_owned())), "{method} {path}");
        // Forms use POST, so that no link can trigger them.
        assert!(["GET", "POST"].contains(&method.as_str()), "{method} {path}");
    }
    let once: BTreeSet<_> = pages.iter().collect();
    assert_eq!(once.len(), pages.len());
}

fn described() -> Addresses {
    let document: Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
    let mut found = Addresses::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let named = |place: &str| -> BTreeSet<String> {
                let of_place = parameters.iter().filter(|it| it["in"] == place);
                of_place.map(|it| it["name"].as_str().unwrap().to_owned()).collect()
            };
            let in_braces = path.split('{').skip(1).map(|part| part.split('}').next().unwrap().to_owned());
            assert_eq!(named("path"), in_braces.collect(), "{method} {path}");
            found.insert((method.to_uppercase(), path.clone()), named("query"));
        }
    }
    found
}

#[test]
fn the_document_describes_exactly_the_served_addresses() {
    assert_eq!(served(), described());
}

#[test]
fn every_reference_of_the_document_exists() {
    let document: Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
    for part in openapi::DOCUMENT.split("\"$ref\": \"#").skip(1) {
        let at = part.split('"').next().unwrap();
        assert!(document.pointer(at).is_some(), "{at}");
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
