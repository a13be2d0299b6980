//! The fake Consul that the proofs of the protocol stand on, beside a real agent: the same operations by chance on
//! both, and after each the same results, the same keys, holders and lock counts, and the same order of indexes.
//!
//! A failure prints its seed; `FAKE_SEED=… cargo test --test consul fake` runs that one alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use cutover_rig::cluster::ClusterSpec;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use self::consul::{Behavior, Consul, Entry, Index, Op, Session};
use crate::support::start;

#[path = "../protocol/src/consul.rs"]
#[allow(dead_code, reason = "the simulator uses what cannot be compared in a second: time, and restored snapshots")]
mod consul;

/// Runs, each with keys of its own, and the operations of one.
const SEEDS: u64 = 12;
const STEPS: usize = 250;
/// Names that are prefixes of each other, with and without a slash.
const KEYS: [&str; 6] = ["a", "a/b", "a/b/c", "a/c", "ab", "b"];
const PREFIXES: [&str; 5] = ["", "a", "a/", "a/b", "c"];
const VALUES: [&str; 3] = ["", "one", "two"];

#[tokio::test]
async fn the_fake_consul_does_what_a_real_one_does() {
    let fleet = start(ClusterSpec { servers: 1, ..ClusterSpec::default() }).await;
    let real = Real {
        base: fleet.cluster.node(0).unwrap().http_addr(),
        client: Client::builder(TokioExecutor::new()).build_http(),
    };
    let seeds = match std::env::var("FAKE_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("FAKE_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    let mut counts = BTreeMap::new();
    for seed in seeds.clone() {
        let mut pair = Pair::new(seed, &real).await;
        for step in 0..STEPS {
            let what = pair.step(&mut counts).await;
            pair.compare(&format!("FAKE_SEED={seed}, step {step}: {what}")).await;
        }
    }
    if seeds.end - seeds.start == SEEDS {
        let rare = counts.iter().filter(|(_, (held, not))| *held < 5 || *not < 5).collect::<Vec<_>>();
        // These cannot be refused.
        let always = ["delete", "delete tree", "deregister", "destroy", "put", "session"];
        let rare: Vec<_> = rare.into_iter().filter(|(name, (held, _))| *held < 5 || !always.contains(name)).collect();
        assert!(rare.is_empty(), "hardly ever both applied and refused: {rare:?}");
    }
}

/// A real agent, without anything of the product between.
struct Real {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Real {
    async fn call(&self, method: Method, path: &str, body: impl Into<Bytes>) -> (StatusCode, Index, String) {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let answer = self.client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let status = answer.status();
        let index = answer.headers().get("x-consul-index");
        let index = index.map_or(0, |index| index.to_str().unwrap().parse().unwrap());
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, index, String::from_utf8_lossy(&body).trim().to_owned())
    }

    /// A write that Consul answers with true or false.
    async fn is_done(&self, method: Method, path: &str, body: impl Into<Bytes>) -> bool {
        let (status, _, text) = self.call(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        text.parse().unwrap()
    }
}

/// Both, side by side.
struct Pair<'a> {
    real: &'a Real,
    fake: Consul,
    chance: fastrand::Rng,
    /// All keys of this run lie under it.
    root: String,
    node: String,
    /// Each session by the name that the real Consul gave it. Ended ones stay.
    sessions: Vec<(Session, String)>,
    /// Where the same write stands in both logs. Both columns rise.
    places: BTreeMap<Index, Index>,
    /// Every index that a key ever had in the fake.
    past: Vec<Index>,
}

impl<'a> Pair<'a> {
    async fn new(seed: u64, real: &'a Real) -> Self {
        let (root, node) = (format!("fake/{seed}/"), format!("guest-{seed}"));
        let mut fake = Consul::default();
        fake.register("n1");
        let chance = fastrand::Rng::with_seed(seed);
        let mut pair =
            Self { real, fake, chance, root, node, sessions: Vec::new(), places: BTreeMap::new(), past: vec![0] };
        pair.register().await;
        // So that the table's own index is of a write that both have seen.
        let first = format!("{}first", pair.root);
        pair.fake.put(&first, *b"");
        assert!(pair.real.is_done(Method::PUT, &format!("/v1/kv/{first}"), "").await);
        pair.compare("first").await;
        pair
    }

    async fn register(&mut self) {
        let body = json!({"Node": self.node, "Address": "127.0.0.9"}).to_string();
        assert!(self.real.is_done(Method::PUT, "/v1/catalog/register", body).await);
        self.fake.register(&self.node);
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.chance.usize(..from.len())]
    }

    /// One of these, in this run's own place.
    fn below(&mut self, names: &[&str]) -> String {
        let name = self.pick(names);
        format!("{}{name}", self.root)
    }

    fn key(&mut self) -> String {
        self.below(&KEYS)
    }

    /// One that lives, or one that has ended.
    fn session(&mut self) -> Option<(Session, String)> {
        let recent = self.sessions.len().saturating_sub(5)..self.sessions.len();
        (!recent.is_empty()).then(|| self.sessions[self.chance.usize(recent)].clone())
    }

    /// 0, where the key stands, where it once stood: for the fake, and for the real one.
    fn index(&mut self, key: &str) -> (Index, Index) {
        let stands = self.fake.get(key).map_or(0, |entry| entry.modify_index);
        let fake = match self.chance.u8(..6) {
            0 => 0,
            1 => self.past[self.chance.usize(..self.past.len())],
            _ => stands,
        };
        (fake, if fake == 0 { 0 } else { self.places[&fake] })
    }

    /// One operation on both. What it was.
    async fn step(&mut self, counts: &mut BTreeMap<&'static str, (u32, u32)>) -> String {
        let (name, what, is_done) = self.act().await;
        let count = counts.entry(name).or_default();
        *(if is_done { &mut count.0 } else { &mut count.1 }) += 1;
        format!("{name} {what}")
    }

    async fn act(&mut self) -> (&'static str, String, bool) {
        let (key, value) = (self.key(), self.pick(&VALUES));
        let path = format!("/v1/kv/{key}");
        let choice = self.chance.u8(..24);
        match (choice, self.session()) {
            (0..=1, _) => {
                self.fake.put(&key, value.as_bytes());
                assert!(self.real.is_done(Method::PUT, &path, value).await);
                ("put", key, true)
            }
            (2..=4, _) => {
                let (fake, real) = self.index(&key);
                let done = self.real.is_done(Method::PUT, &format!("{path}?cas={real}"), value).await;
                assert_eq!(self.fake.cas(&key, value.as_bytes(), fake), done, "cas {key} at {fake}");
                ("cas", key, done)
            }
            (5, _) => {
                self.fake.delete(&key);
                assert!(self.real.is_done(Method::DELETE, &path, "").await);
                ("delete", key, true)
            }
            (6, _) => {
                let (fake, real) = self.index(&key);
                let done = self.real.is_done(Method::DELETE, &format!("{path}?cas={real}"), "").await;
                assert_eq!(self.fake.delete_cas(&key, fake), done, "delete {key} at {fake}");
                ("delete-cas", key, done)
            }
            (7, _) if self.chance.u8(..3) == 0 => {
                let prefix = self.below(&PREFIXES[1..]);
                self.fake.delete_tree(&prefix);
                assert!(self.real.is_done(Method::DELETE, &format!("/v1/kv/{prefix}?recurse"), "").await);
                ("delete tree", prefix, true)
            }
            (8..=10, Some((session, id))) => self.acquire(&key, value, session, &id).await,
            (11, Some((session, id))) => {
                let done = self.real.is_done(Method::PUT, &format!("{path}?release={id}"), value).await;
                assert_eq!(self.fake.release(&key, value.as_bytes(), session), done, "release {key}");
                ("release", key, done)
            }
            (12..=13, _) => self.make_session().await,
            (14, Some((session, id))) => {
                self.fake.destroy(session);
                assert!(self.real.is_done(Method::PUT, &format!("/v1/session/destroy/{id}"), "").await);
                ("destroy", id, true)
            }
            (15, Some((session, id))) => {
                let (status, _, _) = self.real.call(Method::PUT, &format!("/v1/session/renew/{id}"), "").await;
                let lives = self.fake.renew(session, Duration::ZERO);
                assert_eq!(status, if lives { StatusCode::OK } else { StatusCode::NOT_FOUND }, "renew {id}");
                ("renew", id, lives)
            }
            (16, _) if self.chance.u8(..4) == 0 => {
                self.fake.deregister(&self.node);
                let body = json!({"Node": self.node}).to_string();
                assert!(self.real.is_done(Method::PUT, "/v1/catalog/deregister", body).await);
                self.register().await;
                ("deregister", self.node.clone(), true)
            }
            (_, _) => self.transaction().await,
        }
    }

    async fn acquire(&mut self, key: &str, value: &str, session: Session, id: &str) -> (&'static str, String, bool) {
        let (status, _, text) =
            self.real.call(Method::PUT, &format!("/v1/kv/{key}?acquire={id}"), value.to_owned()).await;
        let done = match self.fake.acquire(key, value.as_bytes(), session) {
            Ok(done) => {
                assert_eq!(status, StatusCode::OK, "acquire {key}");
                assert_eq!(text, done.to_string(), "acquire {key}");
                done
            }
            Err(why) => {
                assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "acquire {key}");
                assert!(text.contains(why.words()), "{text}, and not {why:?}");
                false
            }
        };
        ("acquire", format!("{key} for {id}"), done)
    }

    async fn make_session(&mut self) -> (&'static str, String, bool) {
        let guest = self.node.clone();
        let node = self.pick(&["n1", guest.as_str()]).to_owned();
        let behavior = self.pick(&[Behavior::Release, Behavior::Delete]);
        let word = if behavior == Behavior::Release { "release" } else { "delete" };
        let body =
            json!({"Node": node, "NodeChecks": [], "LockDelay": "0s", "Behavior": word, "TTL": "1h"}).to_string();
        let (status, _, text) = self.real.call(Method::PUT, "/v1/session/create", body).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let made: Value = serde_json::from_str(&text).unwrap();
        let ttl = Some(Duration::from_hours(1));
        let session = self.fake.create_session(&node, ttl, behavior, Duration::ZERO).unwrap();
        self.sessions.push((session, made["ID"].as_str().unwrap().to_owned()));
        ("session", node, true)
    }

    async fn transaction(&mut self) -> (&'static str, String, bool) {
        let (mut ops, mut raw) = (Vec::new(), Vec::new());
        for _ in 0..self.chance.usize(1..=4) {
            let (op, json) = self.operation();
            ops.push(op);
            raw.push(json!({"KV": json}));
        }
        let what = format!("{ops:?}");
        let (status, _, text) = self.real.call(Method::PUT, "/v1/txn", Value::Array(raw).to_string()).await;
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{what}: {status} {text}"));
        let all = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
        match self.fake.txn(&ops) {
            Ok(found) => {
                assert_eq!(status, StatusCode::OK, "{what}: {text}");
                let entries: Vec<Value> = all("Results").iter().map(|result| result["KV"].clone()).collect();
                assert_eq!(found.len(), entries.len(), "{what}: {text}");
                for ((key, fake), real) in found.iter().zip(&entries) {
                    self.same(key, fake, real, &what);
                }
                ("txn", what, true)
            }
            Err(refusals) => {
                assert_eq!(status, StatusCode::CONFLICT, "{what}: {text}");
                let errors = all("Errors");
                assert_eq!(refusals.len(), errors.len(), "{what}: {refusals:?}, and really {text}");
                for ((place, why), error) in refusals.iter().zip(&errors) {
                    assert_eq!(error["OpIndex"].as_u64(), u64::try_from(*place).ok(), "{what}: {text}");
                    assert!(error["What"].as_str().unwrap().contains(why.words()), "{what}: {why:?}, really {error}");
                }
                ("txn", what, false)
            }
        }
    }

    fn operation(&mut self) -> (Op, Value) {
        let (key, value) = (self.key(), self.pick(&VALUES));
        let (bytes, text) = (Arc::from(value.as_bytes()), BASE64.encode(value));
        match (self.chance.u8(..14), self.session()) {
            (0..=1, _) => {
                (Op::Set { key: key.clone(), value: bytes }, json!({"Verb": "set", "Key": key, "Value": text}))
            }
            (2..=3, _) => {
                let (index, real) = self.index(&key);
                let json = json!({"Verb": "cas", "Key": key, "Value": text, "Index": real});
                (Op::Cas { key, value: bytes, index }, json)
            }
            (4, _) => (Op::Delete { key: key.clone() }, json!({"Verb": "delete", "Key": key})),
            (5, _) => {
                let (index, real) = self.index(&key);
                (Op::DeleteCas { key: key.clone(), index }, json!({"Verb": "delete-cas", "Key": key, "Index": real}))
            }
            (6, _) => {
                let prefix = self.below(&PREFIXES[1..]);
                (Op::DeleteTree { prefix: prefix.clone() }, json!({"Verb": "delete-tree", "Key": prefix}))
            }
            (7, _) => {
                let (index, real) = self.index(&key);
                (Op::CheckIndex { key: key.clone(), index }, json!({"Verb": "check-index", "Key": key, "Index": real}))
            }
            (8, _) => (Op::CheckNotExists { key: key.clone() }, json!({"Verb": "check-not-exists", "Key": key})),
            (9, _) => {
                let prefix = self.below(&PREFIXES);
                (Op::GetTree { prefix: prefix.clone() }, json!({"Verb": "get-tree", "Key": prefix}))
            }
            (10, Some((session, id))) => (
                Op::CheckSession { key: key.clone(), session },
                json!({"Verb": "check-session", "Key": key, "Session": id}),
            ),
            (11..=12, Some((session, id))) => {
                let json = json!({"Verb": "lock", "Key": key, "Value": text, "Session": id});
                (Op::Lock { key, value: bytes, session }, json)
            }
            (13, Some((session, id))) => {
                let json = json!({"Verb": "unlock", "Key": key, "Value": text, "Session": id});
                (Op::Unlock { key, value: bytes, session }, json)
            }
            (_, _) => (Op::Get { key: key.clone() }, json!({"Verb": "get", "Key": key})),
        }
    }

    /// One entry of the fake's, and what the real one says of the same key.
    fn same(&mut self, key: &str, fake: &Entry, real: &Value, what: &str) {
        let text = BASE64.decode(real["Value"].as_str().unwrap_or_default()).unwrap();
        let holder = real["Session"].as_str().filter(|id| !id.is_empty());
        let fakes_holder = fake.holder.map(|held| self.sessions.iter().find(|(s, _)| *s == held).unwrap().1.as_str());
        assert_eq!(real["Key"].as_str(), Some(key), "{what}");
        assert_eq!(fake.value[..], text[..], "{key} after {what}: the fake, and the real one");
        assert_eq!(fakes_holder, holder, "{key} after {what}: the fake, and the real one");
        assert_eq!(Some(fake.lock_index), real["LockIndex"].as_u64(), "{key} after {what}: the fake, and the real one");
        let (created, modified) = (real["CreateIndex"].as_u64().unwrap(), real["ModifyIndex"].as_u64().unwrap());
        self.place(fake.create_index, created, &format!("{key} was created, {what}"));
        self.place(fake.modify_index, modified, &format!("{key} was modified, {what}"));
    }

    /// The same write stands here in the fake's log, and there in the real one.
    fn place(&mut self, fake: Index, real: Index, what: &str) {
        let known = *self.places.entry(fake).or_insert(real);
        assert_eq!(known, real, "{what}: at {fake} in the fake");
        let before = self.places.range(..fake).next_back().is_none_or(|(_, before)| *before < real);
        let after = self.places.range(fake + 1..).next().is_none_or(|(_, after)| *after > real);
        assert!(before && after, "{what}: at {fake} in the fake, at {real} really: out of order: {:?}", self.places);
        if !self.past.contains(&fake) {
            self.past.push(fake);
        }
    }

    /// Every key of both, and the indexes that queries block on.
    async fn compare(&mut self, what: &str) {
        let prefix = self.below(&PREFIXES);
        for prefix in [self.root.clone(), prefix] {
            let (status, index, text) =
                self.real.call(Method::GET, &format!("/v1/kv/{prefix}?recurse&consistent"), "").await;
            let real: Vec<Value> =
                if status == StatusCode::OK { serde_json::from_str(&text).unwrap() } else { Vec::new() };
            let fake: Vec<(String, Entry)> = self.fake.under(&prefix).map(|(k, e)| (k.to_owned(), e.clone())).collect();
            let keys: Vec<_> = real.iter().map(|entry| entry["Key"].as_str().unwrap()).collect();
            assert_eq!(fake.iter().map(|(key, _)| key).collect::<Vec<_>>(), keys, "{what}");
            for ((key, fake), real) in fake.iter().zip(&real) {
                self.same(key, fake, real, what);
            }
            let fakes = self.fake.index_under(&prefix);
            self.place(fakes, index, &format!("the index of {prefix}*, {what}"));
        }
        let key = self.key();
        let (_, index, _) = self.real.call(Method::GET, &format!("/v1/kv/{key}?consistent"), "").await;
        let fakes = self.fake.index_of(&key);
        self.place(fakes, index, &format!("the index of {key}, {what}"));
    }
}
