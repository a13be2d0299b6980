//! What a signature covers, and which signatures are refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Map, Value, json};

use super::key::InvalidKey;
use super::minisig::Minisig;
use super::secret::SecretKeyError;
use super::*;
use crate::protocol::ids::App;
use crate::protocol::record::{
    ArchiveFormat, Build, Changes, Commits, ManifestDigest, Place, Signature, Since, Summary,
};

/// A pair that minisign made, and its signature of "test"; of the documentation of minisign's own libraries.
const PUBLIC: &str = "untrusted comment: minisign public key E7620F1842B4E81F
RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
const OF_TEST: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1556193335\tfile:test
y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==";
/// The same pair's signature of "test" in the older form.
const OLD_FORM: &str = "untrusted comment: signature from minisign secret key
RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=
trusted comment: timestamp:1555779966\tfile:test
QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==";

/// Fields of a build record that no signature covers, deliberately.
const UNSIGNED: [&str; 10] = ["subject", "author", "url", "since", "order", "ancestors", "by", "id", "at", "signature"];

fn app() -> App {
    "shop".parse().unwrap()
}

/// The bytes of a secret key without a password, as `minisign -GW` writes them: without a checksum.
fn key_bytes(seed: u8) -> Vec<u8> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let head = [b"Ed\0\0B2".as_slice(), &[0; 48]].concat();
    [&head, [seed; 8].as_slice(), &[seed; 32], pair.public_key().as_ref(), &[0; 32]].concat()
}

fn key_file(bytes: &[u8]) -> String {
    format!("untrusted comment: minisign encrypted secret key\n{}\n", BASE64.encode(bytes))
}

fn key(seed: u8) -> SecretKey {
    match SecretKeyFile::parse(&key_file(&key_bytes(seed))).unwrap() {
        SecretKeyFile::Plain(key) => key,
        SecretKeyFile::Encrypted(_) => panic!("it has no password"),
    }
}

fn required(seeds: &[u8]) -> Rules {
    Rules { required: true, keys: seeds.iter().map(|seed| key(*seed).public()).collect() }
}

/// A build with every field. Each is written out, so that a new field must be added here, and comes into the loops below.
fn full() -> Build {
    Build {
        artifact: "master-15e9f13a".parse().unwrap(),
        branch: "master".parse().unwrap(),
        commit: "15e9f13a".repeat(5).parse().unwrap(),
        summary: Summary { subject: Some("Fix the till".to_owned()), author: Some("Ann".to_owned()) },
        sha256: "0".repeat(64).parse().unwrap(),
        packed_bytes: 1,
        unpacked_bytes: 2,
        entries: 3,
        format: ArchiveFormat::TarGz,
        tree: Some("7".repeat(64).parse().unwrap()),
        object: Some("master-15e9f13a-0000000000000000.tar.gz".parse().unwrap()),
        manifest: Some(ManifestDigest { sha256: "5".repeat(64).parse().unwrap(), bytes: 6 }),
        profile: Some("release".to_owned()),
        pull_request: Some("7".to_owned()),
        tag: Some("master".parse().unwrap()),
        place: Place { order: Some(jiff::Timestamp::UNIX_EPOCH), ancestors: vec!["15e9f13a15e9".to_owned()] },
        since: Some(Since { base: None, changes: Changes { commits: Commits::First, files: None } }),
        url: Some("https://ci.example.com/7".to_owned()),
        by: "ci".to_owned(),
        id: "1".to_owned(),
        at: jiff::Timestamp::UNIX_EPOCH,
        signature: None,
    }
}

fn signed(build: Build, seed: u8) -> Build {
    Build { signature: Some(key(seed).sign(&app(), &build)), ..build }
}

fn fields(build: &Build) -> Map<String, Value> {
    match serde_json::to_value(build).unwrap() {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

fn build(fields: &Map<String, Value>) -> Option<Build> {
    serde_json::from_value(Value::Object(fields.clone())).ok()
}

fn with(build: &Build, signature: &str) -> Build {
    Build { signature: Some(Signature::from(signature.to_owned())), ..build.clone() }
}

fn check(build: &Build) -> Result<Option<crate::protocol::ids::KeyId>, SignatureError> {
    required(&[1]).check(&app(), build)
}

#[test]
fn a_change_of_any_signed_field_breaks_the_signature() {
    let others = json!({
        "artifact": "master-15e9f13b",
        "branch": "main",
        "commit": "25e9f13a".repeat(5),
        "sha256": "1".repeat(64),
        "packed_bytes": 2,
        "unpacked_bytes": 3,
        "entries": 4,
        "format": "tar.zst",
        "tree": "8".repeat(64),
        "object": "master-15e9f13a-1111111111111111.tar.gz",
        "manifest": {"sha256": "6".repeat(64), "bytes": 6},
        "profile": "debug",
        "tag": "main",
        "pull_request": "8",
    });
    let record = signed(full(), 1);
    assert_eq!(check(&record), Ok(Some(key(1).id())));
    let mismatch = Err(SignatureError::Mismatch { key: key(1).id() });
    let fields = fields(&record);
    for (name, value) in &fields {
        let Some(other) = others.get(name) else {
            assert!(
                UNSIGNED.contains(&name.as_str()),
                "{name} is a new field: give it a line in signed_text and a value here, or list it as unsigned"
            );
            continue;
        };
        let mut changed = fields.clone();
        changed.insert(name.clone(), other.clone());
        let changed = build(&changed).unwrap();
        assert_eq!(check(&changed), mismatch, "{name}");
        assert_eq!(changed_fields(&signed_text(&app(), &record), &signed_text(&app(), &changed)), [name.as_str()]);
        assert_ne!(value, other, "{name}: the test changes it");
        // A field that can be left out: taking it away breaks the signature, and so does adding it.
        let mut shorter = fields.clone();
        shorter.remove(name);
        let Some(without) = build(&shorter) else { continue };
        assert_eq!(check(&without), mismatch, "{name} is taken away");
        let added = Build { signature: signed(without, 1).signature, ..record.clone() };
        assert_eq!(check(&added), mismatch, "{name} is added");
    }
    let elsewhere: App = "blog".parse().unwrap();
    assert_eq!(required(&[1]).check(&elsewhere, &record), mismatch, "the app is no field, and is signed");
}

#[test]
fn unsigned_fields_may_change() {
    let others = json!({
        "subject": "x", "author": "x", "url": "x", "by": "x", "id": "x", "at": "2026-11-23T09:15:00Z",
        "order": "2026-11-23T09:15:00Z", "ancestors": ["25e9f13a25e9"], "since": {"base": null, "commits": {"state": "unknown", "reason": "x"}},
    });
    let fields = fields(&signed(full(), 1));
    for (name, other) in others.as_object().unwrap() {
        let mut changed = fields.clone();
        assert_ne!(changed.insert(name.clone(), other.clone()).as_ref(), Some(other), "{name}");
        assert!(check(&build(&changed).unwrap()).is_ok(), "{name}");
    }
}

#[test]
fn no_value_can_pretend_to_be_another_line() {
    let honest = Build { pull_request: Some("7".to_owned()), profile: Some("a".to_owned()), ..full() };
    for profile in ["a\npull_request: 7", "a\\u{a}pull_request: 7", "a\rb", "\u{85}"] {
        let odd = Build { pull_request: None, profile: Some(profile.to_owned()), ..full() };
        let text = signed_text(&app(), &odd);
        assert_ne!(text, signed_text(&app(), &honest));
        assert_eq!(text.lines().count(), 15, "{text}");
    }
    let written = |profile: &str| signed_text(&app(), &Build { profile: Some(profile.to_owned()), ..full() });
    assert_ne!(written("a\nb"), written("a\\u{a}b"), "an escape is not what it stands for");
    assert_eq!(
        signed_text(&app(), &full()),
        format!(
            "cutover build 1\napp: shop\nartifact: master-15e9f13a\nbranch: master\ncommit: {}\nsha256: {}\n\
             packed_bytes: 1\nunpacked_bytes: 2\nentries: 3\nformat: tar.gz\n\
             tree: {}\nobject: master-15e9f13a-0000000000000000.tar.gz\nmanifest: {} 6\nprofile: release\ntag: master\n\
             pull_request: 7\n",
            "15e9f13a".repeat(5),
            "0".repeat(64),
            "7".repeat(64),
            "5".repeat(64)
        ),
        "people sign this text with minisign: it must not change"
    );
}

#[test]
fn a_signature_by_another_key_or_of_another_build_is_refused() {
    let own = signed(full(), 1);
    assert_eq!(check(&full()), Err(SignatureError::Unsigned));
    assert_eq!(check(&signed(full(), 2)), Err(SignatureError::UnknownKey { key: key(2).id() }));
    let mismatch = Err(SignatureError::Mismatch { key: key(1).id() });
    let other = signed(Build { entries: 4, ..full() }, 1);
    assert_eq!(check(&Build { signature: other.signature, ..full() }), mismatch);
    // Another key under the id of the pinned one.
    let mut forged = key_bytes(2);
    forged[54..62].copy_from_slice(&[1; 8]);
    let Ok(SecretKeyFile::Plain(stranger)) = SecretKeyFile::parse(&key_file(&forged)) else { panic!("a good key") };
    assert_eq!(check(&Build { signature: Some(stranger.sign(&app(), &full())), ..full() }), mismatch);
    // The trusted comment is signed too.
    let comment = own.signature.as_ref().unwrap().as_str().replace("cutover shop/", "cutover blog/");
    assert_eq!(check(&with(&own, &comment)), mismatch);
    // With two keys both are accepted.
    for seed in [1, 2] {
        assert_eq!(required(&[1, 2]).check(&app(), &signed(full(), seed)), Ok(Some(key(seed).id())));
    }
}

#[test]
fn odd_signatures_are_refused_by_name_and_never_panic() {
    let own = signed(full(), 1);
    let text = own.signature.as_ref().unwrap().as_str().to_owned();
    let lines: Vec<&str> = text.lines().collect();
    let refused = |text: &str| match check(&with(&own, text)) {
        Err(SignatureError::Malformed { problem }) => problem,
        other => panic!("{other:?}: {text}"),
    };
    for cut in 0..text.trim_end().len() {
        let error = check(&with(&own, &text[..cut])).unwrap_err();
        assert!(matches!(error, SignatureError::Malformed { .. } | SignatureError::Mismatch { .. }), "{cut}: {error}");
    }
    assert!(refused("").contains("fewer than four lines"));
    assert!(refused(&format!("{text}{text}")).contains("more than four lines"));
    assert!(refused(&text.replace("untrusted comment", "comment")).contains("first line"));
    assert!(refused(&text.replace("\ntrusted comment", "\ncomment")).contains("third line"));
    assert!(refused(&text.replace(lines[1], "RWQ\u{fc}")).contains("second line is not base64"));
    assert!(refused(&text.replace(lines[3], "====")).contains("fourth line is not base64"));
    assert!(refused(&text.replace(lines[1], &lines[1][..40])).contains("cut"));
    assert!(refused(&text.replace(lines[3], &lines[3][..40])).contains("cut"));
    assert!(refused(&text.replacen("RUQ", "RUE", 1)).contains("algorithm"));
    assert!(refused(OLD_FORM).contains("older form"));
    assert!(refused(&"x\n".repeat(100_000)).contains("more than four lines"));
    let carriage_returns = text.replace('\n', "\r\n");
    assert!(check(&with(&own, &carriage_returns)).is_ok(), "a file that was edited on Windows");
}

#[test]
fn without_require_signature_only_a_broken_signature_is_refused() {
    let rules = Rules { required: false, ..required(&[1]) };
    let own = signed(full(), 1);
    assert_eq!(rules.check(&app(), &own), Ok(Some(key(1).id())));
    assert_eq!(rules.check(&app(), &full()), Ok(None));
    assert_eq!(rules.check(&app(), &signed(full(), 2)), Ok(None), "a key that is not pinned yet, or not any more");
    assert!(rules.check(&app(), &Build { entries: 9, ..own.clone() }).is_err());
    assert!(rules.check(&app(), &with(&own, "x")).is_err());
    assert_eq!(Rules::default().check(&app(), &with(&own, "x")), Ok(None), "nothing is asked for");
}

#[test]
fn keys_and_signatures_of_minisign_are_read() {
    let key = PublicKey::parse(PUBLIC).unwrap();
    assert_eq!(key.id().as_str(), "E7620F1842B4E81F");
    assert_eq!(PublicKey::parse(&key.to_string()), Ok(key.clone()));
    let signature = Signature::from(OF_TEST.to_owned());
    let minisig = Minisig::parse(&signature).unwrap();
    assert!(minisig.is_of(&key, "test") && !minisig.is_of(&key, "Test"));
    assert_eq!(named_key(&signature).unwrap(), *key.id());
}

#[test]
fn texts_that_are_no_public_key_are_refused_without_being_shown() {
    let encoded = BASE64.encode(key_bytes(1));
    for (text, error) in [
        (encoded.clone(), InvalidKey::Secret),
        (key_file(&key_bytes(1)), InvalidKey::Secret),
        (String::new(), InvalidKey::NotAKey),
        ("untrusted comment: x".to_owned(), InvalidKey::NotAKey),
        ("RWQf6LRCGA9i5".to_owned(), InvalidKey::NotAKey),
        (PUBLIC.replace("RWQf", "RUQf"), InvalidKey::NotAKey),
        (format!("{PUBLIC}\n{PUBLIC}"), InvalidKey::NotAKey),
        ("\u{0}\u{fffd}".repeat(1000), InvalidKey::NotAKey),
    ] {
        assert_eq!(PublicKey::parse(&text).err(), Some(error), "{text}");
        assert!(!error.to_string().contains(&encoded[..20]), "{error}");
    }
}

#[test]
fn a_secret_key_that_cannot_sign_is_refused_by_name() {
    let refused = |text: &str| SecretKeyFile::parse(text).err();
    assert_eq!(refused(PUBLIC), Some(SecretKeyError::Public));
    assert_eq!(refused(""), Some(SecretKeyError::NotAKey));
    assert_eq!(refused("untrusted comment: x\n????"), Some(SecretKeyError::NotAKey));
    let broken = |at: usize| {
        let mut bytes = key_bytes(1);
        bytes[at] ^= 1;
        refused(&key_file(&bytes))
    };
    assert_eq!([broken(0), broken(2), broken(4)], [Some(SecretKeyError::NotAKey); 3]);
    assert_eq!(
        [broken(70), broken(100), broken(140)],
        [Some(SecretKeyError::Damaged); 3],
        "seed, public key, checksum"
    );
    assert_eq!(refused(&key_file(&key_bytes(1)[..157])), Some(SecretKeyError::NotAKey));
    assert!(!format!("{:?}", key(1)).contains(&hex::encode([1; 32])), "a key is not printed");
}

#[test]
fn an_encrypted_key_opens_with_its_password_alone() {
    let sealed = secret::sealed(&key_bytes(1), "secret \u{fc}", 32_768, 16 << 20);
    let open = |password: &str| match SecretKeyFile::parse(&key_file(&sealed)).unwrap() {
        SecretKeyFile::Encrypted(key) => key.open(password).map(|key| key.id()),
        SecretKeyFile::Plain(_) => panic!("it has a password"),
    };
    assert_eq!(open("secret \u{fc}"), Ok(key(1).id()));
    for wrong in ["", "secret", "secret \u{fc}\n"] {
        assert_eq!(open(wrong), Err(SecretKeyError::WrongPassword), "{wrong:?}");
    }
    // Numbers that would stop the machine.
    for at in [45, 53] {
        let mut demanding = sealed.clone();
        demanding[at] = 1;
        match SecretKeyFile::parse(&key_file(&demanding)).unwrap() {
            SecretKeyFile::Encrypted(key) => assert_eq!(key.open("x").err(), Some(SecretKeyError::Demanding)),
            SecretKeyFile::Plain(_) => panic!("it has a password"),
        }
    }
}
