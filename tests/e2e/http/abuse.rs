//! What is done to the API by those who should not: it is refused, said so, and changes nothing.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;

use crate::fleet::web::{Answer, Web};
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, bin, wait_until};

const DEPLOYS: &str = "/v1/deploys/shop/production";

#[test]
fn hostile_requests_are_refused_and_change_nothing() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let build = fleet.deployed("one");
    let web = Web::of(&fleet.nodes[0]);
    let before = fleet.newest_epoch();
    let body = json!({"ref": build.artifact, "again": true});
    let mut answers = Vec::new();
    let mut refused = |answer: Answer, status: u16, kind: &str| {
        answer.refused(status, kind);
        answers.push(answer);
    };
    refused(web.with("Host", "evil.example.com").post(DEPLOYS, &body), 421, "wrong_host");
    refused(web.with("Host", "evil.example.com").get("/v1/apps"), 421, "wrong_host");
    refused(web.with("Origin", "https://evil.example.com").post(DEPLOYS, &body), 403, "cross_site");
    refused(
        web.with("Sec-Fetch-Site", "cross-site").ask("POST", &format!("{DEPLOYS}/rollback"), None),
        403,
        "cross_site",
    );
    refused(web.with("Cookie", "cutover_session=x").post(DEPLOYS, &body), 403, "cross_site");
    refused(web.with("Sec-Fetch-Site", "same-site").get("/v1/doctor/shop/production"), 403, "cross_site");
    refused(web.with("Cookie", "cutover_session=x").get("/v1/dry-run/shop/production?ref=master"), 403, "cross_site");
    refused(web.with("Sec-Fetch-Site", "same-site").get("/units/shop/production/doctor"), 403, "cross_site");
    refused(web.with("Content-Type", "text/plain").ask("POST", DEPLOYS, None), 415, "not_json");
    refused(web.ask("PUT", DEPLOYS, Some(&body.to_string())), 405, "wrong_method");
    refused(web.ask("OPTIONS", DEPLOYS, None), 405, "wrong_method");
    refused(web.get("/v1/../etc/passwd"), 404, "not_found");
    refused(web.get("/v1/status/shop/%2e%2e"), 400, "bad_request");
    refused(web.get("/v1/status/shop/%ff"), 400, "bad_request");
    refused(web.get("/v1/apps?token=x"), 400, "bad_request");
    refused(web.ask("POST", DEPLOYS, Some("\"master\"")), 400, "bad_request");
    refused(web.ask("POST", DEPLOYS, Some("{\"ref\":\"master\",\"forse\":true}")), 400, "bad_request");
    refused(web.ask("POST", DEPLOYS, Some(&format!("{{\"ref\":\"{}\"}}", "x".repeat(5000)))), 400, "bad_request");
    refused(web.ask("POST", &format!("{DEPLOYS}/freeze"), Some("{\"reason\":1}")), 400, "bad_request");
    refused(web.ask("POST", DEPLOYS, Some(&" ".repeat(64 * 1024 + 1))), 413, "too_large");
    for answer in &answers {
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{}", answer.head);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{}", answer.head);
    }
    let mut many = web.clone();
    for n in 0..70 {
        many = many.with(&format!("X-Header-{n}"), "x");
    }
    assert_eq!(many.get("/v1/apps").status, 431);
    assert_eq!(web.with("X-Long", &"x".repeat(20_000)).get("/v1/apps").status, 431);
    assert_eq!(web.send(b"nonsense\r\n\r\n").status, 400);
    assert_eq!(fleet.newest_epoch(), before);
    assert!(fleet.entry("deploy").unwrap().value.is_empty() && fleet.nodes[0].is_running());
    web.get("/v1/apps").expect(200);
}

#[test]
fn texts_have_a_maximum_length_in_every_record_and_longer_ones_are_refused() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let build = fleet.publish("one");
    let web = Web::of(&fleet.nodes[0]);
    let bad = format!("/v1/builds/shop/{}/bad", build.artifact);
    for long in [json!({"reason": "x".repeat(60_000)}), json!({"by": "x".repeat(3_000)}), json!({"by": "a\u{7}"})] {
        for path in [&format!("{DEPLOYS}/freeze"), &bad] {
            web.post(path, &long).refused(400, "bad_request");
        }
    }
    let run = json!({"state": "building", "branch": "master", "commit": build.commit, "by": "x".repeat(300)});
    web.post("/v1/builds/shop", &run).refused(400, "bad_request");
    let reason = "x".repeat(60_000);
    for arguments in [
        &["freeze", UNIT, "--reason", &reason][..],
        &["build", "mark-bad", "shop", &build.artifact, "--reason", &reason],
    ] {
        let output = fleet.cutover(arguments);
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(output.stderr.contains("at most 4096"), "{}", output.stderr);
    }
    assert!(fleet.entry("freeze").unwrap().value.is_empty());
    // As much as a request may have is taken.
    web.post(&format!("{DEPLOYS}/freeze"), &json!({"reason": "x".repeat(3_000)})).expect(200);
}

#[test]
fn slow_senders_are_disconnected() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let web = Web::of(&fleet.nodes[0]);
    let until_cut = |bytes: String| {
        let mut stream = web.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        // The other end hangs up by itself; a reset says the same.
        let mut raw = Vec::new();
        let read = stream.read_to_end(&mut raw);
        assert!(!read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it was not cut");
        raw
    };
    std::thread::scope(|scope| {
        let idle = scope.spawn(|| until_cut(String::new()));
        let head = scope.spawn(|| until_cut(format!("GET /v1/apps HTTP/1.1\r\nHost: {}\r\n", web.address)));
        let body = scope.spawn(|| {
            let head = format!("POST /v1/watch HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\n\r\n[", web.address);
            Answer::parse(&until_cut(head))
        });
        body.join().unwrap().refused(408, "timeout");
        for cut in [idle, head] {
            let raw = String::from_utf8_lossy(&cut.join().unwrap()).into_owned();
            assert!(raw.is_empty() || raw.starts_with("HTTP/1.1 408"), "{raw}");
        }
    });
    web.get("/v1/apps").expect(200);
}

#[test]
fn slow_request_bodies_do_not_block_other_callers() {
    const MORE_THAN_THERE_IS_ROOM_FOR: usize = 40;
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let web = Web::of(&fleet.nodes[0]);
    let json = ("/v1/deploys/shop/production/abort", "application/json", "{");
    let form = ("/units/shop/production/abort", "application/x-www-form-urlencoded", "r");
    let begin = |(path, kind, begun): (&str, &str, &str)| {
        let mut stream = web.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n",
            web.address
        );
        stream.write_all(head.as_bytes()).unwrap();
        // The agent says so when it begins to wait for the body.
        let mut goes_on = [0; 21];
        stream.read_exact(&mut goes_on).unwrap();
        assert!(goes_on.starts_with(b"HTTP/1.1 100 "), "{:?}", String::from_utf8_lossy(&goes_on));
        stream.write_all(begun.as_bytes()).unwrap();
        stream
    };
    let slow: Vec<_> = [json, form].into_iter().cycle().take(MORE_THAN_THERE_IS_ROOM_FOR).map(begin).collect();
    web.get("/v1/apps").expect(200);
    drop(slow);
}

#[test]
fn with_a_certificate_it_speaks_tls_and_nothing_else() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, late: &[0], ..FleetSpec::default() });
    let node = &fleet.nodes[0];
    let ip = node.api.split(':').next().unwrap();
    for arguments in [
        vec!["tls", "ca", "create"],
        vec![
            "tls",
            "cert",
            "create",
            "-server",
            "-additional-ipaddress",
            ip,
            "-additional-dnsname",
            "web-1.example.com",
        ],
    ] {
        let done = Command::new(bin()).args(&arguments).current_dir(&node.dir).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let path = node.dir.join("cutover.toml");
    let mut tls = "[api]\nhosts = [\"web-1.example.com\"]\n".to_owned();
    for (key, file) in [("tls_cert_file", "dc1-server-consul-0.pem"), ("tls_key_file", "dc1-server-consul-0-key.pem")] {
        writeln!(tls, "{key} = \"{}\"", node.dir.join(file).display()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[api]\n", &tls)).unwrap();
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(node.dir.join("consul-agent-ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let web = Web::of(node);
    let ask = |request: &str| {
        let name = ServerName::try_from("web-1.example.com").unwrap();
        let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = StreamOwned::new(connection, web.connect());
        let head = "HTTP/1.1\r\nHost: web-1.example.com:8740\r\nConnection: close\r\n";
        stream.write_all(request.replace("HTTP/1.1\r\n", head).as_bytes()).unwrap();
        let mut raw = Vec::new();
        // hyper hangs up without TLS's goodbye at times.
        _ = stream.read_to_end(&mut raw);
        Answer::parse(&raw)
    };
    wait_until(LIMIT, "it is ready", || {
        Some(ask("GET /v1/health/ready HTTP/1.1\r\n\r\n")).filter(|answer| answer.status == 200)
    });
    let gone = ask("DELETE /v1/session HTTP/1.1\r\n\r\n");
    assert_eq!(gone.status, 204);
    assert!(gone.header("set-cookie").unwrap().contains("; Secure"), "{}", gone.head);
    let mut raw = Vec::new();
    let mut plain = web.connect();
    plain.write_all(b"GET /v1/apps HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    _ = plain.read_to_end(&mut raw);
    assert!(!raw.starts_with(b"HTTP/"), "it answers without TLS");
}

#[test]
fn concurrent_calls_to_consul_leave_room_for_the_node_itself() {
    const ROOM: usize = 32;
    let mut fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let web = Web::of(&fleet.nodes[0]);
    // It takes connections and answers nothing: whoever asks it keeps their place until they give up.
    fleet.with_cluster(async |cluster| cluster.signal(1, Signal::STOP).unwrap());
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..=ROOM).map(|_| scope.spawn(|| web.get("/v1/apps"))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    fleet.with_cluster(async |cluster| cluster.signal(1, Signal::CONT).unwrap());
    let (busy, asked): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.json()["error"]["kind"] == "busy");
    assert_eq!(busy.len(), 1);
    assert_eq!(asked.len(), ROOM);
    assert!(busy[0].refused(503, "busy").contains("32 requests"), "{}", busy[0].text());
    assert!(busy[0].header("retry-after").is_some(), "{}", busy[0].head);
    // Places are given back.
    wait_until(LIMIT, "it is well again", || (web.get("/v1/apps").status == 200).then_some(()));
}
