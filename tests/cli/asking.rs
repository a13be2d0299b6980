//! Requests and reads against a real Consul. No agent runs here: what becomes of a request is tested with agents.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use cutover::consul::{Client, Consistency};
use cutover::control::Code;
use cutover::protocol::ids::{ModifyIndex, Unit};
use cutover::protocol::keys::{Keys, UnitKeys};
use cutover::protocol::record::Request;
use serde_json::Value;

use crate::support::{consul, ends, eventually};

/// The keys of a unit as its first coordinator creates them.
async fn create(client: &Client, unit: &str) -> UnitKeys {
    let keys = Keys::default().unit(&unit.parse::<Unit>().unwrap());
    for key in [keys.deploy(), keys.abort(), keys.freeze(), keys.barrier()] {
        assert!(client.kv_cas(&key, "", ModifyIndex(0)).await.unwrap());
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_unit_ends_with_3_and_names_those_that_are_known() {
    let fleet = consul().await;
    create(&fleet.client(), "known/production").await;
    for args in [
        &["deploy", "unknown/production", "master"][..],
        &["rollback", "unknown/production"],
        &["abort", "unknown/production"],
        &["status", "unknown/production"],
        &["history", "unknown/production"],
    ] {
        let printed = ends(fleet.cutover(args), Code::NotFound).await;
        assert!(printed.stderr.contains("known/production"), "{args:?}: {}", printed.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_written_once_and_its_index_is_the_epoch() {
    let fleet = consul().await;
    let client = fleet.client();
    let keys = create(&client, "once/production").await;
    let args = ["deploy", "once/production", "master", "--reason", "fix", "--no-wait", "--output", "json"];
    let printed = ends(fleet.cutover(&args), Code::Done).await;
    let document: Value = serde_json::from_str(&printed.stdout).unwrap();
    let entry = client.kv_get(&keys.deploy(), Consistency::Consistent).await.unwrap().unwrap();
    assert_eq!(document["epoch"]["epoch"], entry.modify_index.0);
    assert_eq!(document["fate"], "requested");
    let request = Request::parse(&entry.value).unwrap();
    let author = request.author;
    assert_eq!(author.by.as_str(), "ann");
    assert_eq!(author.via.as_str(), "cli");
    assert_eq!(author.reason.as_str(), "fix");

    let again = ends(fleet.cutover(&args), Code::Busy).await;
    assert!(again.stderr.contains("for master by ann is waiting"), "{}", again.stderr);
    let untouched = client.kv_get(&keys.deploy(), Consistency::Consistent).await.unwrap().unwrap();
    assert_eq!(untouched, entry);
    let status = ends(fleet.cutover(&["status", "once/production"]), Code::Done).await;
    assert!(status.stdout.contains("waiting      master"), "{}", status.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_request_waits_for_its_turn() {
    let fleet = consul().await;
    let client = fleet.client();
    let keys = create(&client, "queue/production").await;
    client.kv_put(&keys.deploy(), "first").await.unwrap();
    let command = fleet.cutover(&["deploy", "queue/production", "second", "--queue", "--no-wait"]);
    let queued = tokio::spawn(ends(command, Code::Done));
    // Taken and ended, as a coordinator would, whenever the other has come to wait or not.
    client.kv_put(&keys.deploy(), "").await.unwrap();
    let printed = queued.await.unwrap();
    assert!(printed.stdout.starts_with("requested: deploy #"), "{}", printed.stdout);
    let entry = client.kv_get(&keys.deploy(), Consistency::Consistent).await.unwrap().unwrap();
    assert!(String::from_utf8(entry.value).unwrap().contains("second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_overwritten_is_overtaken() {
    let fleet = consul().await;
    let client = fleet.client();
    let keys = create(&client, "over/production").await;
    let waiting = tokio::spawn(ends(fleet.cutover(&["deploy", "over/production", "mine"]), Code::Busy));
    eventually("the request is written", async || {
        let entry = client.kv_get(&keys.deploy(), Consistency::Consistent).await.unwrap().unwrap();
        (!entry.value.is_empty()).then_some(())
    })
    .await;
    client.kv_put(&keys.deploy(), r#"{"ref":"theirs","by":"ben"}"#).await.unwrap();
    let printed = waiting.await.unwrap();
    assert!(
        printed.stdout.starts_with("overtaken: ") && printed.stdout.contains("theirs by ben"),
        "{}",
        printed.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_outcome_in_time_is_unknown() {
    let fleet = consul().await;
    create(&fleet.client(), "slow/production").await;
    let args = ["deploy", "slow/production", "master", "--timeout", "1s"];
    let printed = ends(fleet.cutover(&args), Code::Unknown).await;
    assert!(printed.stdout.contains("cutover abort slow/production"), "{}", printed.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_without_a_running_deploy_is_refused() {
    let fleet = consul().await;
    let client = fleet.client();
    let keys = create(&client, "calm/production").await;
    ends(fleet.cutover(&["abort", "calm/production"]), Code::NotFound).await;
    let entry = client.kv_get(&keys.abort(), Consistency::Consistent).await.unwrap().unwrap();
    assert!(entry.value.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_the_right_ends_with_7() {
    let fleet = consul().await;
    create(&fleet.client(), "locked/production").await;
    fleet.cluster.create_policy("reader", r#"key_prefix "cutover/" { policy = "read" }"#).await.unwrap();
    let reader = fleet.cluster.create_token("reader", &["reader"]).await.unwrap();
    let deploy = ["deploy", "locked/production", "master"];
    let printed = ends(fleet.cutover_as(&deploy, reader.expose()), Code::NotAllowed).await;
    assert!(printed.stderr.contains("locked/production/deploy"), "{}", printed.stderr);
    assert!(!printed.stderr.contains(reader.expose()));
    ends(fleet.cutover_as(&["status", "locked/production"], reader.expose()), Code::Done).await;
    let stranger = fleet.cluster.create_token("stranger", &[]).await.unwrap();
    ends(fleet.cutover_as(&deploy, stranger.expose()), Code::NotAllowed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_times_out_in_the_queue_writes_nothing() {
    let fleet = consul().await;
    let client = fleet.client();
    let keys = create(&client, "vain/production").await;
    client.kv_put(&keys.deploy(), "first").await.unwrap();
    let args = ["deploy", "vain/production", "second", "--queue", "--timeout", "1s"];
    let printed = ends(fleet.cutover(&args), Code::Busy).await;
    assert!(printed.stderr.contains("waiting for request #"), "{}", printed.stderr);
    let entry = client.kv_get(&keys.deploy(), Consistency::Consistent).await.unwrap().unwrap();
    assert_eq!(entry.value, b"first");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_the_queue_says_that_nothing_was_requested() {
    let fleet = consul().await;
    let client = fleet.client();
    let keys = create(&client, "leave/production").await;
    client.kv_put(&keys.deploy(), "first").await.unwrap();
    let mut command = fleet.cutover(&["deploy", "leave/production", "master", "--queue"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let output = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        talk.read_line(&mut text).unwrap();
        assert!(text.contains("waiting for request #"), "{text}");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        talk.read_to_string(&mut text).unwrap();
        (child.wait().unwrap().code(), text)
    });
    let (code, text) = output.await.unwrap();
    assert_eq!(code, Some(i32::from(Code::Busy as u8)), "{text}");
    assert!(text.contains("nothing was requested"), "{text}");
    let entry = client.kv_get(&keys.deploy(), Consistency::Consistent).await.unwrap().unwrap();
    assert_eq!(entry.value, b"first");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_watching_and_says_how_to_abort() {
    let fleet = consul().await;
    let client = fleet.client();
    let keys = create(&client, "break/production").await;
    let mut command = fleet.cutover(&["deploy", "break/production", "master"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // No agent coordinates here. After the first message the command only waits.
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let talk = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        talk.read_line(&mut line).unwrap();
        line
    });
    assert!(talk.await.unwrap().contains("no agent coordinates"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (child.wait().unwrap().code(), text)
    });
    let (code, text) = output.await.unwrap();
    assert_eq!(code, Some(i32::from(Code::Unknown as u8)));
    assert!(text.contains("cutover abort break/production"), "{text}");
    let entry = client.kv_get(&keys.deploy(), Consistency::Consistent).await.unwrap().unwrap();
    assert!(!entry.value.is_empty());
}
