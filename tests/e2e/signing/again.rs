//! Publishing a build once more signs its record, but only what its publisher knows: never what somebody else wrote into it.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Pair, minisign, overwrite, pin, publish, publishing, record, wait_refused};
use crate::fleet::node::Node;
use crate::fleet::run::Output;
use crate::fleet::web::Web;
use crate::fleet::{Fleet, FleetSpec, UNIT};

fn one_node() -> Fleet {
    let furnish = |fleet: &Fleet, node: &Node| pin(node, &[&Pair::of(fleet, "ci")], true);
    Fleet::start(&FleetSpec { nodes: 1, furnish, ..FleetSpec::default() })
}

/// Publishes `version` once more, and signs with this pair.
pub(crate) fn sign(fleet: &Fleet, version: &str, pair: &Pair, options: &[&str]) -> Output {
    let mut arguments = publishing(fleet, version);
    arguments.extend(["--sign", pair.secret.to_str().unwrap()].iter().chain(options).map(|it| (*it).to_owned()));
    fleet.cutover(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_changed_record_is_never_signed_by_a_later_publish() {
    let fleet = one_node();
    let ci = Pair::of(&fleet, "ci");
    let build = publish(&fleet, "one", None);
    let good = record(&fleet, &build);
    let elsewhere = "evil-00000000-0000000000000000.tar.zst";
    let another = "the one that this version of cutover packs of the same files";
    for (field, other, says) in [
        ("unpacked_bytes", json!(1_u64 << 40), "its record differs from this build in unpacked_bytes"),
        ("packed_bytes", json!(1), "its record differs from this build in packed_bytes"),
        ("entries", json!(7), "its record differs from this build in entries"),
        ("object", json!(elsewhere), "its record differs from this build in object"),
        ("profile", json!("release"), "its record differs from this build in profile"),
        ("manifest", json!({"sha256": "0".repeat(64), "bytes": 1}), "its record differs from this build in manifest"),
        ("sha256", json!("0".repeat(64)), another),
        // Its archive in the other format is another one, and this is not its name.
        ("format", json!("tar.gz"), another),
    ] {
        let mut changed = good.clone();
        changed[field] = other;
        overwrite(&fleet, &build, &changed);
        let output = sign(&fleet, "one", &ci, &[]);
        assert_eq!(output.code, 1, "{field}: {output}");
        assert!(output.stderr.contains(says) && output.stderr.contains("so it is not signed"), "{field}: {output}");
        assert_eq!(record(&fleet, &build), changed, "{field}");
    }
    overwrite(&fleet, &build, &good);
    assert!(
        !fleet.archive(&build).with_file_name(elsewhere).exists(),
        "an object of the record's choice is not written"
    );

    let mut newer = good.clone();
    newer["of_a_newer_program"] = json!(7);
    overwrite(&fleet, &build, &newer);
    assert_eq!(sign(&fleet, "one", &ci, &[]).code, 0);
    let signed = record(&fleet, &build);
    assert!(signed["signature"].as_str().unwrap().starts_with("untrusted comment: "), "{signed:#}");
    assert_eq!(signed["of_a_newer_program"], 7, "what this program does not know stays");
    assert_eq!(sign(&fleet, "one", &ci, &[]).code, 0, "once more changes nothing");
    assert_eq!(record(&fleet, &build), signed);
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
}

#[test]
fn a_build_is_signed_in_the_format_and_with_the_fields_of_its_record() {
    let fleet = one_node();
    let ci = Pair::of(&fleet, "ci");
    let build = publish(&fleet, "one", None);
    assert_eq!(record(&fleet, &build)["format"], "tar.zst");
    wait_refused(&fleet, &fleet.nodes[0], &build);
    let output = sign(&fleet, "one", &ci, &["--format", "tar.gz"]);
    assert!(output.code == 0 && output.stdout.contains("already published"), "{output}");
    let signed = record(&fleet, &build);
    assert!(signed["format"] == "tar.zst" && signed["signature"].is_string(), "{signed:#}");
    fleet.wait_staged(&build);
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);

    // A record of an older version has fewer fields.
    let build = publish(&fleet, "two", None);
    let mut older = record(&fleet, &build);
    let archive = fleet.archive(&build);
    for field in ["tree", "object", "manifest"] {
        assert!(older.as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    rustix::fs::rename(&archive, archive.with_file_name(format!("{}.tar.zst", build.artifact))).unwrap();
    overwrite(&fleet, &build, &older);
    let output = sign(&fleet, "two", &ci, &[]);
    assert_eq!(output.code, 0, "{output}");
    let mut signed = record(&fleet, &build);
    assert!(signed["signature"].is_string(), "{signed:#}");
    signed.as_object_mut().unwrap().remove("signature");
    assert_eq!(signed, older);
    assert_eq!(fleet.cutover(&["deploy", UNIT, "master"]).code, 0);
    fleet.assert_all_run("two");
}

#[test]
fn what_the_key_has_signed_stays_published_if_another_version_packs_other_bytes() {
    let fleet = one_node();
    let (ci, other) = (Pair::of(&fleet, "ci"), Pair::of(&fleet, "other"));
    let build = publish(&fleet, "one", None);
    // As another version would have packed it: with an empty skippable frame at the end.
    let path = fleet.archive(&build);
    let mut archive = std::fs::read(&path).unwrap();
    archive.extend([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
    std::fs::write(&path, &archive).unwrap();
    let mut packed = record(&fleet, &build);
    packed["sha256"] = json!(hex::encode(Sha256::digest(&archive)));
    packed["packed_bytes"] = json!(archive.len());
    overwrite(&fleet, &build, &packed);
    let [text, signature] = ["text", "text.minisig"].map(|name| fleet.dir.path().join(name));
    let printed = fleet.cutover(&["build", "signed-text", "shop", &build.artifact]);
    std::fs::write(&text, printed.stdout).unwrap();
    let [secret, text, written] = [&ci.secret, &text, &signature].map(|path| path.to_str().unwrap());
    minisign(&["-S", "-s", secret, "-m", text, "-x", written], "");
    packed["signature"] = Value::String(std::fs::read_to_string(&signature).unwrap());
    overwrite(&fleet, &build, &packed);

    let output = sign(&fleet, "one", &ci, &[]);
    assert!(output.code == 0 && output.stdout.contains("already published"), "{output}");
    let now = record(&fleet, &build);
    assert_eq!((&now["sha256"], &now["packed_bytes"]), (&packed["sha256"], &packed["packed_bytes"]));
    let output = sign(&fleet, "one", &other, &["--replace-signature"]);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stderr.contains("this version of cutover packs of the same files, so it is not signed"), "{output}");
    assert_eq!(record(&fleet, &build), now, "another key signs only what it knows");
    let output = fleet.cutover(&["deploy", UNIT, "master"]);
    assert_eq!(output.code, 0, "{output}");
    fleet.assert_all_run("one");
}

#[test]
fn the_signature_of_another_key_stays_unless_its_replacement_is_asked_for() {
    let furnish = |fleet: &Fleet, node: &Node| pin(node, &[&Pair::of(fleet, "new")], false);
    let fleet = Fleet::start(&FleetSpec { nodes: 1, furnish, ..FleetSpec::default() });
    let (old, new) = (Pair::of(&fleet, "old"), Pair::of(&fleet, "new"));
    let build = publish(&fleet, "one", Some(&new));
    let good = record(&fleet, &build);

    // A job of before the rotation, run again.
    let output = sign(&fleet, "one", &old, &[]);
    assert_eq!(output.code, 0, "{output}");
    let kept = format!("{} is signed by key {} already, and that signature stays", build.artifact, new.id);
    assert!(output.stderr.contains(&kept) && output.stderr.contains("--replace-signature"), "{output}");
    assert!(output.stdout.contains(&format!("signed by    {}\n", new.id)), "{output}");
    assert_eq!(record(&fleet, &build), good);

    // By the API: a signature that this node would refuse is not written, nor is one of another key unless asked for.
    let web = Web::of(&fleet.nodes[0]);
    let mut body = good.clone();
    for field in ["at", "by", "id", "since"] {
        body.as_object_mut().unwrap().remove(field);
    }
    let post = |signature: &Value, replace: bool| {
        let mut body = body.clone();
        body["signature"] = signature.clone();
        if replace {
            body["replace_signature"] = json!(true);
        }
        web.post("/v1/builds/shop", &body)
    };
    let unfitting = record(&fleet, &publish(&fleet, "two", Some(&new)))["signature"].clone();
    let foreign = record(&fleet, &publish(&fleet, "three", Some(&old)))["signature"].clone();
    for replace in [false, true] {
        let message = post(&unfitting, replace).expect(409)["error"]["message"].to_string();
        assert!(message.contains(&format!("has a signature by key {} that does not fit", new.id)), "{message}");
    }
    let message = post(&foreign, false).expect(409)["error"]["message"].to_string();
    assert!(message.contains(&format!("is signed by key {} already", new.id)), "{message}");
    assert_eq!(post(&good["signature"], false).expect(200), good, "sent again");
    assert_eq!(record(&fleet, &build), good);
    // The key is not pinned, so nobody here can tell whether its signature fits.
    assert_eq!(post(&foreign, true).expect(200)["signature"], foreign);

    // Its own key knows that it does not fit, and signs again.
    let output = sign(&fleet, "one", &old, &[]);
    assert_eq!(output.code, 0, "{output}");
    let mended = record(&fleet, &build);
    assert!(mended["signature"] != foreign && mended["signature"] != good["signature"], "{mended:#}");
    assert_eq!(sign(&fleet, "one", &new, &["--replace-signature"]).code, 0);
    assert_eq!(record(&fleet, &build), good);
}
