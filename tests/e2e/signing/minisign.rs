//! Signatures fit those of minisign itself, in both directions, and its keys open.

use std::io::Write as _;

use serde_json::json;

use super::{Pair, minisign, pin, publish, publishing, record, try_minisign};
use crate::fleet::node::Node;
use crate::fleet::web::Web;
use crate::fleet::{Fleet, FleetSpec, LIMIT, UNIT, wait_until};

#[test]
fn minisign_verifies_what_publish_signed_and_signs_what_nodes_accept() {
    let furnish = |fleet: &Fleet, node: &Node| pin(node, &[&Pair::of(fleet, "ci")], true);
    let fleet = Fleet::start(&FleetSpec { nodes: 1, furnish, ..FleetSpec::default() });
    let ci = Pair::of(&fleet, "ci");
    let file = |name: &str| fleet.dir.path().join(name).to_str().unwrap().to_owned();
    let (text, signature, public) = (file("text"), file("text.minisig"), ci.public.to_str().unwrap());
    let verify = ["-V", "-p", public, "-m", &text, "-x", &signature];

    // As docs/signatures.md has it.
    let build = publish(&fleet, "one", Some(&ci));
    let export = |options: &[&str], path: &str| {
        let arguments = [&["build", "signed-text", "shop", &build.artifact], options].concat();
        let output = fleet.cutover(&arguments);
        assert_eq!(output.code, 0, "{output}");
        std::fs::write(path, output.stdout).unwrap();
    };
    export(&[], &text);
    export(&["--signature"], &signature);
    let said = minisign(&verify, "");
    assert!(said.contains(&format!("Trusted comment: cutover shop/{}", build.artifact)), "{said}");
    let changed = std::fs::read_to_string(&text).unwrap().replace("entries: ", "entries: 1");
    std::fs::write(&text, changed).unwrap();
    let (is_good, said) = try_minisign(&verify, "");
    assert!(!is_good && said.contains("Signature verification failed"), "{said}");

    // A build that was recorded without a signature: minisign signs the text, the API adds it.
    let unsigned = publish(&fleet, "two", None);
    let output = fleet.cutover(&["build", "signed-text", "shop", &unsigned.artifact, "--signature"]);
    assert_eq!(output.code, 3, "{output}");
    let exported = fleet.cutover(&["build", "signed-text", "shop", &unsigned.artifact, "--output", "json"]).json();
    std::fs::write(&text, exported["text"].as_str().unwrap()).unwrap();
    minisign(&["-S", "-s", ci.secret.to_str().unwrap(), "-m", &text, "-x", &signature], "");
    let mut body = record(&fleet, &unsigned);
    for field in ["at", "by", "id", "since"] {
        body.as_object_mut().unwrap().remove(field);
    }
    let web = Web::of(&fleet.nodes[0]);
    body["signature"] = json!("untrusted comment: x\nnonsense");
    let message = web.post("/v1/builds/shop", &body).refused(400, "bad_request");
    assert!(message.starts_with("signature: the build has a signature that is not one of minisign"), "{message}");
    body["signature"] = json!(std::fs::read_to_string(&signature).unwrap());
    let known = web.post("/v1/builds/shop", &body).expect(200);
    assert_eq!(known["signature"], body["signature"]);
    assert_eq!(record(&fleet, &unsigned), known);
    body["profile"] = json!("another");
    let message = web.post("/v1/builds/shop", &body).expect(409)["error"]["message"].to_string();
    assert!(message.contains("that does not fit"), "{message}");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("two");
}

#[test]
fn a_key_with_a_password_signs_if_the_password_is_given() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let key = Pair::made(&fleet, "sealed", &["-G"], "open sesame\nopen sesame\n");
    let mut arguments = publishing(&fleet, "one");
    arguments.extend(["--sign".to_owned(), key.secret.to_str().unwrap().to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();

    // Nobody is there to be asked: it ends, and says how.
    let output = fleet.cutover(&arguments);
    assert_eq!(output.code, 2, "{output}");
    assert!(output.stderr.contains("needs a password, and nobody can be asked for it here"), "{output}");
    assert!(output.stderr.contains("CUTOVER_SIGN_PASSWORD or --sign-password-file"), "{output}");
    let file = fleet.dir.path().join("password");
    let with_file = [&arguments, ["--sign-password-file", file.to_str().unwrap()].as_slice()].concat();
    std::fs::write(&file, "open says me\n").unwrap();
    let output = fleet.cutover(&with_file);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stderr.contains("nothing was published: the password is wrong"), "{output}");
    std::fs::write(&file, "open sesame\n").unwrap();
    let output = fleet.cutover(&with_file);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains(&format!("signed by    {}\n", key.id)), "{output}");

    // On a terminal it is asked for, and what is typed is not shown.
    let (running, mut keyboard) = fleet.begin_on_terminal(&arguments);
    wait_until(LIMIT, "it asks", || running.said()[0].contains("Password of ").then_some(()));
    keyboard.write_all(b"open sesame\n").unwrap();
    let output = running.finish();
    assert_eq!(output.code, 0, "{output}");
    assert!(!output.stdout.contains("sesame") && output.stdout.contains("already published"), "{output}");

    // Whoever gives up sees again what they type.
    let (running, mut keyboard) = fleet.begin_on_terminal(&[&arguments, [";", "stty", "-a"].as_slice()].concat());
    wait_until(LIMIT, "it asks", || running.said()[0].contains("Password of ").then_some(()));
    keyboard.write_all(b"\x03").unwrap();
    let output = running.finish();
    assert!(output.stdout.contains("interrupted: nothing was published"), "{output}");
    assert!(output.stdout.contains(" echo ") && !output.stdout.contains(" -echo "), "{output}");
}

#[test]
fn a_file_that_is_no_secret_key_is_refused_before_anything_is_done() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let ci = Pair::of(&fleet, "ci");
    let missing = fleet.dir.path().join("missing");
    for (path, why) in [
        (&ci.public, "it is the public key; signing needs the secret one"),
        (&missing, "No such file or directory"),
        (&std::path::PathBuf::from(env!("CARGO_BIN_EXE_cutover")), "stream did not contain valid UTF-8"),
    ] {
        let mut arguments = publishing(&fleet, "one");
        arguments.extend(["--sign".to_owned(), path.to_str().unwrap().to_owned()]);
        let output = fleet.cutover(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(output.code, 1, "{output}");
        assert!(output.stderr.contains("nothing was published") && output.stderr.contains(why), "{why}: {output}");
    }
    assert_eq!(fleet.consul.key("cutover/shop/latest").unwrap().map(|entry| entry.value), None);
}
