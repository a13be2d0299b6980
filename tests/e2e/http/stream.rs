//! `/v1/stream`: what it tells, to whom, from where it goes on, and what it costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cutover::api::stream::{
    Hub, MOST_FEEDS, MOST_FEEDS_PER_TOKEN, MOST_STREAMS, MOST_STREAMS_PER_TOKEN, Refused, Wanted,
};
use cutover::consul::{Client, Secret, Settings};
use cutover::control::Access;
use cutover::protocol::keys::Keys;
use serde_json::Value;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fleet::consul::Consul;
use crate::fleet::sse::Stream;
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};

const QUERY: &str = "?unit=shop/production";

impl Fleet {
    fn stream(&self, index: usize, headers: &[String]) -> Stream {
        Stream::open(&self.nodes[index].api, QUERY, headers)
    }

    fn status_document(&self) -> Value {
        self.cutover(&["status", UNIT, "--output", "json"]).json()
    }

    fn write(&self, key: &str, value: &str) {
        assert_eq!(self.consul.call("PUT", &format!("kv/{key}"), value.as_bytes()).unwrap().status, 200);
    }

    fn delete(&self, prefix: &str) {
        assert_eq!(self.consul.call("DELETE", &format!("kv/{prefix}?recurse"), b"").unwrap().status, 200);
    }

    /// The id of what stands, once nobody writes any more.
    fn settled_id(&self, index: usize) -> String {
        let id = || {
            let mut stream = self.stream(index, &[]);
            stream.status();
            stream.last_id.unwrap()
        };
        wait_until(LIMIT, "nobody writes", || {
            let before = self.consul.keys(PREFIX, "keys").ok().map(|(index, _)| index);
            let seen = id();
            let at = seen.split('-').next().and_then(|index| index.parse().ok());
            (before.is_some() && before == at && id() == seen).then_some(seen)
        })
    }
}

fn resume(id: &str) -> Vec<String> {
    vec![format!("Last-Event-ID: {id}")]
}

fn with_token(token: &str) -> Vec<String> {
    vec![format!("X-Consul-Token: {token}")]
}

#[test]
fn a_stream_sends_a_snapshot_and_then_each_phase_of_a_deploy() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, hooks: true, ..FleetSpec::default() });
    fleet.deployed("one");
    let build = fleet.publish_and_stage("two");
    let mut stream = fleet.stream(0, &[]);
    let mut newest = stream.status();
    assert_eq!(stream.retry, Some(2000));
    assert!(stream.last_id.is_some());
    assert_eq!(newest["current"]["artifact"], fleet.status_document()["current"]["artifact"]);
    fleet.nodes[0].hold("prepare");
    fleet.nodes[1].hold("switched");
    let deploy = fleet.begin(&["deploy", UNIT, &build.artifact]);
    let mut phases = Vec::new();
    let mut read_to = |phase: &str, stream: &mut Stream, newest: &mut Value| {
        while newest["phase"] != phase || newest["current"]["artifact"] != *build.artifact && phase == "done" {
            *newest = stream.status();
            let seen = newest["phase"].as_str().unwrap().to_owned();
            if phases.last() != Some(&seen) {
                phases.push(seen);
            }
        }
        phases.clone()
    };
    read_to("prepare", &mut stream, &mut newest);
    assert_eq!(newest["running"]["artifact"], *build.artifact);
    fleet.nodes[0].release("prepare");
    read_to("commit", &mut stream, &mut newest);
    fleet.nodes[1].release("switched");
    let phases = read_to("done", &mut stream, &mut newest);
    assert_eq!(deploy.finish().code, 0);
    let order: Vec<&str> = phases.iter().map(String::as_str).skip_while(|phase| *phase == "done").collect();
    assert_eq!(order, ["prepare", "commit", "done"]);
    // What comes last is, to the letter, what the command prints.
    while newest != fleet.status_document() {
        newest = stream.status();
    }
}

#[test]
fn a_stream_goes_on_at_another_agent_and_after_a_restart_without_a_second_snapshot() {
    let fleet = Fleet::start(&FleetSpec { nodes: 2, ..FleetSpec::default() });
    fleet.deployed("one");
    let goes_on = |index: usize, id: &str, reason: &str| {
        let mut resumed = fleet.stream(index, &resume(id));
        let mut by_query = Stream::open(&fleet.nodes[index].api, &format!("{QUERY}&last_event_id={id}"), &[]);
        // The feed has read what stands when it tells a newcomer.
        let mut newcomer = fleet.stream(index, &[]);
        assert_ne!(newcomer.status()["freeze"]["reason"], reason);
        fleet.write(&format!("{PREFIX}freeze"), reason);
        for stream in [&mut resumed, &mut by_query] {
            assert_eq!(stream.status()["freeze"]["reason"], reason, "what was known came again");
        }
    };
    goes_on(0, &fleet.settled_id(0), "the same agent");
    goes_on(1, &fleet.settled_id(0), "another agent");
    let id = fleet.settled_id(1);
    fleet.write(&format!("{PREFIX}freeze"), "while nobody listens");
    for missed in [id.as_str(), "1-00000000", "999999999999-00000000"] {
        let mut stream = fleet.stream(0, &resume(missed));
        assert_eq!(stream.status()["freeze"]["reason"], "while nobody listens", "{missed}");
    }
    let record = || fleet.entry("nodes/web-2").unwrap().modify_index;
    let before = record();
    assert_eq!(fleet.term(1).code(), Some(0));
    fleet.start_agent(1);
    // Its session outlives the restart, so presence proves nothing: the new agent has begun once it writes its record.
    wait_until(LIMIT, "the new agent writes its record", || (record() > before).then_some(()));
    goes_on(1, &fleet.settled_id(0), "after a restart");
}

#[test]
fn a_client_that_reconnects_learns_what_time_alone_has_changed() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    fleet.deployed("one");
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    let freeze = serde_json::json!({"by": "ann", "reason": "a moment", "until": until});
    fleet.write(&format!("{PREFIX}freeze"), &freeze.to_string());
    let id = fleet.settled_id(0);
    wait_until(LIMIT, "the freeze is over", || fleet.status_document()["freeze"].is_null().then_some(()));
    let mut stream = fleet.stream(0, &resume(&id));
    // Only a document of the state without the freeze ends this; on a busy machine, the one before it may come first.
    stream
        .find("the same index, and another document", |event| event.name == "status" && event.data["freeze"].is_null());
}

#[test]
fn a_slow_reader_gets_the_newest_state_and_costs_no_memory() {
    /// What each of the readers would have had piled up for it: the changes at this size.
    const BYTES: usize = 400 * 1024;
    const CHANGES: usize = 40;
    const SLOW: usize = 6;
    /// Each slow reader reads one document in so many changes. One that reads nothing for 30 s is disconnected.
    const PACE: usize = 4;
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let mut fast = fleet.stream(0, &[]);
    fast.status();
    let mut slow: Vec<Stream> = (0..SLOW).map(|_| fleet.stream(0, &[])).collect();
    for stream in &mut slow {
        stream.status();
        stream.hold_little();
    }
    // What a node says of its link: reasons and authors are read up to a length.
    let current = |number: usize| format!("{number}{}", "x".repeat(BYTES));
    let shows = |status: &Value, number: usize| {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().any(|node| node["node"] == "web-9" && node["current"] == *current(number))
    };
    let change = |number: usize, fast: &mut Stream| {
        let node = serde_json::json!({"format": 1, "node": "web-9", "consul_node": "n9", "version": "0.1.0",
            "config_digest": "x", "runs": null, "current": current(number), "previous": null, "staged": [],
            "newest_release": null, "free_bytes": 0, "at": "2026-01-01T00:00:00Z"});
        fleet.write(&format!("{PREFIX}nodes/web-9"), &node.to_string());
        fast.find("the change", |event| event.data["nodes"].is_array() && shows(&event.data, number));
    };
    change(0, &mut fast);
    let before = resident_bytes(&fleet);
    for number in 1..=CHANGES {
        change(number, &mut fast);
        // Never the last change, which is read below.
        if number % PACE == 1 {
            for stream in &mut slow {
                stream.status();
            }
        }
    }
    let grown = resident_bytes(&fleet).saturating_sub(before);
    let piled_up = SLOW * CHANGES * BYTES;
    assert!(grown < piled_up / 2, "{grown} bytes more, where all that was sent is {piled_up}");
    for stream in &mut slow {
        let mut had = 1 + CHANGES / PACE;
        while !shows(&stream.status(), CHANGES) {
            had += 1;
        }
        assert!(had < CHANGES, "it had all {had}, so it was not slow");
    }
}

fn resident_bytes(fleet: &Fleet) -> usize {
    let pid = fleet.nodes[0].agent.lock().unwrap().as_ref().unwrap().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn a_stream_sends_no_document_that_its_token_may_not_read() {
    let fleet = Fleet::start(&FleetSpec { acl: true, nodes: 1, ..FleetSpec::default() });
    let reads = |what: &str| format!("key_prefix \"cutover/{what}/\" {{ policy = \"read\" }}");
    let may = fleet.token("shop", &reads("shop"));
    let other = fleet.token("blog", &reads("blog"));
    let api = &fleet.nodes[0].api;
    let mut allowed = Stream::open(api, QUERY, &with_token(&may));
    assert_eq!(allowed.status()["unit"], UNIT);
    let bearer = Stream::open(api, QUERY, &[format!("Authorization: Bearer {may}")]).status();
    assert_eq!(bearer["unit"], UNIT);
    // The feed of the one is open and warm; the others must not come near it.
    for headers in [with_token(&other), with_token("nobody-has-this"), Vec::new()] {
        let mut stream = Stream::open(api, QUERY, &headers);
        let event = stream.next().unwrap();
        assert_eq!(event.name.as_str(), "trouble", "{event:?}");
        assert_eq!(event.data["kind"], "forbidden", "{event:?}");
        assert!(event.data["hint"].is_string() && !event.data.to_string().contains(&other), "{event:?}");
        assert!(stream.next().is_none(), "it goes on");
    }
    let units = |token: &str| Stream::open(api, "", &with_token(token)).next().unwrap().data["units"].clone();
    assert_eq!(units(&may), serde_json::json!([UNIT]));
    assert_eq!(units(&other), serde_json::json!([]));
    fleet.write(&format!("{PREFIX}freeze"), "it goes on for the one");
    assert_eq!(allowed.status()["freeze"]["reason"], "it goes on for the one");
}

#[test]
fn a_stream_of_all_groups_reports_those_that_appear_and_vanish() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let mut stream = Stream::open(&fleet.nodes[0].api, "", &[]);
    let units = stream.next().unwrap();
    assert_eq!(units.name.as_str(), "units");
    assert_eq!(units.data["units"], serde_json::json!([UNIT]));
    assert_eq!(stream.status()["unit"], UNIT);
    fleet.write("cutover/blog/production/deploy", "");
    fleet.write("cutover/blog/production/nodes/b", "{}");
    stream.find("the new unit's status", |it| it.name == "status" && it.data["unit"] == "blog/production");
    fleet.delete("cutover/blog/");
    stream.find("its end", |it| it.name == "gone" && it.data["unit"] == "blog/production");
    let mut builds = Stream::open(&fleet.nodes[0].api, "?builds=shop", &[]);
    let none = builds.next().unwrap();
    assert_eq!(none.name.as_str(), "gone");
    assert_eq!(none.data["app"], "shop");
    let build = fleet.publish("one");
    let seen = builds.find("the build", |it| it.name == "builds" && it.data["builds"][0]["state"] == "published");
    assert_eq!(seen.data["builds"][0]["artifact"], *build.artifact);
}

#[test]
fn streams_end_at_once_when_the_agent_stops() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let mut streams: Vec<Stream> = (0..20).map(|_| fleet.stream(0, &[])).collect();
    for stream in &mut streams {
        stream.status();
    }
    assert_eq!(fleet.term(0).code(), Some(0));
    for mut stream in streams {
        while stream.next().is_some() {}
    }
}

#[test]
fn a_stream_reports_a_consul_outage_and_survives_it() {
    let mut fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let mut stream = fleet.stream(0, &[]);
    let before = stream.status();
    fleet.with_cluster(async |cluster| cluster.kill(0).unwrap());
    let trouble = stream.find("trouble", |event| event.name == "trouble").data;
    assert_eq!(trouble["kind"], "unreachable", "{trouble}");
    fleet.with_cluster(async |cluster| cluster.restart(0).await.unwrap());
    let event = stream.next().unwrap();
    assert_eq!(event.name.as_str(), "status", "{event:?}");
    assert_eq!(event.data["unit"], before["unit"], "{event:?}");
    fleet.write(&format!("{PREFIX}freeze"), "it goes on");
    stream.find("a later change", |it| it.data["freeze"]["reason"] == "it goes on");
}

#[test]
fn a_wrong_stream_request_is_refused_with_a_hint() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    for (query, headers) in [
        ("?unit=shop", vec![]),
        ("?units=shop/production", vec![]),
        ("?last_event_id=-1", vec![]),
        ("", vec!["Last-Event-ID: yesterday".to_owned()]),
    ] {
        let refusal = Stream::try_open(&fleet.nodes[0].api, query, &headers).err().expect("it is opened");
        assert_eq!(refusal.status, 400, "{refusal:?}");
        assert_eq!(refusal.error["error"]["kind"], "bad_request", "{refusal:?}");
        assert!(refusal.error["error"]["hint"].is_string() && !refusal.head.contains("retry-after"), "{refusal:?}");
    }
}

#[test]
fn a_unit_that_does_not_exist_is_not_followed() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let refusal = Stream::try_open(&fleet.nodes[0].api, &format!("{QUERY}&unit=shop/nothing"), &[]);
    let refusal = refusal.err().expect("it is opened");
    assert_eq!(refusal.status, 404, "{refusal:?}");
    assert_eq!(refusal.error["error"]["kind"], "not_found", "{refusal:?}");
    assert!(refusal.error["error"]["message"].as_str().unwrap().contains("shop/nothing"), "{refusal:?}");
}

/// A hub of our own before a fleet's Consul.
struct Own {
    hub: Hub,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Own {
    fn new() -> Self {
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { hub: Hub::new(shutdown.clone(), tasks.clone()), shutdown, tasks }
    }
}

fn access(consul: &Consul, token: Option<&str>) -> Access {
    let settings = Settings { address: consul.address.clone(), ..Settings::default() };
    let client = Client::new(&settings).unwrap().with_token(token.map(Secret::new).as_ref()).unwrap();
    Access::new(client, Keys::default(), |_| {})
}

/// Waits for a condition on a runtime.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_streams_of_a_token_share_one_feed_which_ends_with_the_last_of_them() {
    let fleet = tokio::task::spawn_blocking(|| Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() }));
    let fleet = Arc::new(fleet.await.unwrap());
    let (own, access) = (Own::new(), access(&fleet.local_consul(0), None));
    let wanted = Wanted::parse(Some("unit=shop/production")).unwrap();
    let open = || own.hub.open(&access, &wanted, None);
    let mut streams: Vec<_> = (0..MOST_STREAMS_PER_TOKEN).map(|_| open().unwrap()).collect();
    assert_eq!(own.hub.feeds(), 1);
    assert_eq!(own.hub.streams(), MOST_STREAMS_PER_TOKEN);
    assert!(matches!(open(), Err(Refused::TooManyOfToken)));
    for stream in &mut streams {
        // The greeting, and the snapshot.
        assert!(stream.next().await.is_some() && stream.next().await.is_some());
    }
    assert_eq!(own.hub.feeds(), 1);
    streams.truncate(1);
    assert_eq!(own.hub.streams(), 1);
    streams.clear();
    until("the feed ends", || own.hub.feeds() == 0).await;
    assert_eq!(own.hub.streams(), 0);
    // It begins again, and ends at shutdown although it has a reader.
    let mut stream = open().unwrap();
    assert!(stream.next().await.is_some() && stream.next().await.is_some());
    own.shutdown.cancel();
    own.tasks.close();
    own.tasks.wait().await;
    assert!(stream.next().await.is_none());
    assert!(matches!(open(), Err(Refused::Stopping)));
    assert_eq!(own.hub.feeds(), 0);
    tokio::task::spawn_blocking(move || drop(fleet)).await.unwrap();
}

#[tokio::test]
async fn streams_and_feeds_are_bounded_over_all_tokens() {
    // Nothing listens there: what is bounded is bounded before anything is asked.
    let consul = Consul { address: "127.0.0.1:9".to_owned(), token: None };
    let own = Own::new();
    let wanted = Wanted::parse(Some("unit=shop/production")).unwrap();
    let open = |number: usize| own.hub.open(&access(&consul, Some(&format!("token-{}", number % 2))), &wanted, None);
    let streams: Vec<_> = (0..MOST_STREAMS).map(|number| open(number).unwrap()).collect();
    assert_eq!(own.hub.feeds(), 2, "one for each token");
    assert!(matches!(open(0), Err(Refused::TooManyStreams)));
    drop(streams);
    assert_eq!(own.hub.streams(), 0);
    until("the feeds end", || own.hub.feeds() == 0).await;
    let follow = |token: &str, documents: usize| {
        let units: Vec<String> = (0..documents).map(|number| format!("unit=shop/g{number}")).collect();
        own.hub.open(&access(&consul, Some(token)), &Wanted::parse(Some(&units.join("&"))).unwrap(), None)
    };
    assert!(matches!(follow("one", MOST_FEEDS_PER_TOKEN + 1), Err(Refused::TooManyFeedsOfToken)));
    until("they end", || own.hub.feeds() == 0).await;
    // What one token takes leaves room for another, and no more than there is.
    let followed = [("one", MOST_FEEDS_PER_TOKEN), ("two", MOST_FEEDS - MOST_FEEDS_PER_TOKEN)];
    let streams = followed.map(|(token, documents)| follow(token, documents).unwrap());
    assert!(matches!(follow("three", 1), Err(Refused::TooManyFeeds)));
    assert_eq!(own.hub.streams(), 2);
    assert_eq!(own.hub.feeds(), MOST_FEEDS);
    drop(streams);
    assert_eq!(own.hub.streams(), 0, "what is refused holds no place");
    until("the feeds end", || own.hub.feeds() == 0).await;
}
