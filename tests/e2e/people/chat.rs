//! Deploys from chat: signed calls, a real fleet whose Consul denies by default, and delegates with real tokens.

use std::path::Path;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{Timestamp, ToSpan as _};
use rustix::process::Signal;

use crate::fleet::receiver::Receiver;
use crate::fleet::web::{Answer, Web};
use crate::fleet::{Fleet, FleetSpec, LIMIT, PREFIX, UNIT, wait_until};
use crate::people::notifications::webhook;
use crate::people::policies::token;

const SIGNING_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
const PATH: &str = "/v1/chat/slack";

/// Chat with two users, whose tokens the test puts into files.
fn chat(dir: &Path) -> String {
    let user = |id: &str, name: &str| {
        let file = dir.join(format!("{name}.token"));
        format!("[chat.users.{id}]\nname = \"{name}\"\ntoken_file = \"{}\"\n", file.display())
    };
    let secret = dir.join("signing-secret");
    std::fs::write(&secret, format!("{SIGNING_SECRET}\n")).unwrap();
    let (ann, bob) = (user("U0ANN", "ann"), user("U0BOB", "bob"));
    format!("{}[chat]\nsigning_secret_file = \"{}\"\n{ann}{bob}", webhook(dir), secret.display())
}

/// Slack, as far as an agent sees it.
struct Slack(Web);

impl Slack {
    fn call(&self, headers: &[(&str, String)], body: &str) -> Answer {
        headers.iter().fold(self.0.clone(), |web, (name, value)| web.with(name, value)).post_form(PATH, body)
    }

    /// A good call of a user, and the text that is answered.
    fn say(&self, user: &str, text: &str) -> String {
        let body = form(user, text);
        let answer = self.call(&signed(SIGNING_SECRET, Timestamp::now(), &body), &body);
        answer.expect(200)["text"].as_str().unwrap().to_owned()
    }
}

/// A slash command as Slack posts it; no two are the same.
fn form(user: &str, text: &str) -> String {
    let trigger = uuid::Uuid::now_v7().to_string();
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("command", "/deploy"), ("user_id", user), ("text", text), ("trigger_id", &trigger)])
        .finish()
}

/// The headers that Slack signs a body with.
fn signed(secret: &str, at: Timestamp, body: &str) -> Vec<(&'static str, String)> {
    let at = at.as_second().to_string();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("v0:{at}:{body}").as_bytes());
    let signature = format!("v0={}", hex::encode(mac.finalize().into_bytes()));
    vec![("X-Slack-Request-Timestamp", at), ("X-Slack-Signature", signature)]
}

/// What agents vouch for, and nobody has used yet.
fn attested(fleet: &Fleet) -> usize {
    fleet.consul.keys(&format!("{PREFIX}attests/"), "recurse&consistent").unwrap().1.len()
}

#[test]
fn a_signed_command_deploys_as_its_users_delegate_and_everything_else_is_refused() {
    let fleet = Fleet::start(&FleetSpec {
        nodes: 1,
        acl: true,
        late: &[0],
        settings: |_, dir| chat(dir),
        ..FleetSpec::default()
    });
    let audit = Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    // With no more than coordinator.hcl, which is to suffice for `told/` too.
    fleet.nodes[0].set_token(&token(&fleet, "coordinator", &fleet.nodes[0].name));
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);
    let [ann, bob] = ["deployer", "viewer"].map(|policy| token(&fleet, policy, "any"));
    for (name, token) in [("ann", ann), ("bob", bob)] {
        std::fs::write(fleet.dir.path().join(format!("{name}.token")), format!("{token}\n")).unwrap();
    }
    let slack = Slack(Web::of(&fleet.nodes[0]));
    let build = fleet.publish_and_stage("one");

    // What is not Slack's, or not new, asks nothing.
    let (body, now) = (form("U0ANN", &format!("{UNIT} master")), Timestamp::now());
    let good = signed(SIGNING_SECRET, now, &body);
    let old = now - 301.seconds();
    for (why, headers, body) in [
        ("another secret", signed("other", now, &body), body.clone()),
        ("another body", good.clone(), body.replace("master", "hotfix")),
        ("too old", signed(SIGNING_SECRET, old, &body), body.clone()),
        ("not signed", Vec::new(), body.clone()),
    ] {
        let reply = slack.call(&headers, &body);
        assert_eq!(reply.status, 401, "{why}: {reply:?}");
    }
    let text = slack.say("U0EVE", &format!("{UNIT} master"));
    assert!(text.contains("[chat.users.U0EVE]"), "it says what to configure: {text}");
    let text = slack.say("U0BOB", &format!("{UNIT} master"));
    assert!(text.contains("does not allow"), "{text}");
    let text = slack.say("U0ANN", "shop/staging master");
    assert!(text.contains("nothing was done"), "{text}");
    let text = slack.say("U0ANN", "make me a sandwich");
    assert!(text.contains("/deploy rollback shop/production"), "{text}");
    assert_eq!(fleet.newest_epoch(), 0, "nobody has asked");
    assert!(fleet.entry("deploy").unwrap().value.is_empty());
    assert_eq!(attested(&fleet), 0, "what was not asked is not vouched for");

    // The good call, once.
    let reply = slack.call(&good, &body);
    let text = reply.expect(200)["text"].as_str().unwrap().to_owned();
    assert!(text.contains("ann requested a deploy of master (deploy #"), "{text}");
    let replayed = slack.call(&good, &body);
    assert_eq!(replayed.status, 401, "{replayed:?}");
    let done = audit.wait_taken("deploy.done", 0).json();
    assert_eq!(done["data"]["by"], "ann", "{done:#}");
    assert_eq!(done["data"]["via"], "chat", "{done:#}");
    assert_eq!(done["data"]["artifact"], build.artifact.as_str());
    fleet.assert_all_run("one");
    let record = fleet.history().pop().unwrap();
    assert!(text.contains(&format!("deploy #{}", record["epoch"])), "{text}: {record:#}");
    wait_until(LIMIT, "it is noted that it was told", || {
        fleet.json("told/audit").filter(|told| told["ended"]["epoch"] == record["epoch"])
    });

    // The agent has vouched for exactly what was written.
    let verified = &record["verified"];
    assert_eq!(verified["name"], "ann", "{record:#}");
    assert_eq!(verified["means"], "chat", "{record:#}");
    assert_eq!(verified["token"], "deployer-any");
    assert_eq!(attested(&fleet), 0, "and once");
    let text = slack.say("U0BOB", &format!("status {UNIT}"));
    assert!(text.contains(&format!("{UNIT} runs {}", build.artifact)), "{text}");
    let text = slack.say("U0ANN", &format!("abort {UNIT}"));
    assert!(text.contains("nothing to abort"), "{text}");

    // And the way back.
    fleet.deployed("two");
    let text = slack.say("U0ANN", &format!("rollback {UNIT}"));
    assert!(text.contains("ann requested a rollback (deploy #"), "{text}");
    wait_until(LIMIT, "it runs one again", || {
        (fleet.nodes[0].read("current/version").as_deref() == Some("one")).then_some(())
    });
}

#[test]
fn a_command_finishes_after_slack_hangs_up_and_occupies_its_slot_until_then() {
    const ROOM: usize = 32;
    let mut fleet =
        Fleet::start(&FleetSpec { nodes: 1, late: &[0], settings: |_, dir| chat(dir), ..FleetSpec::default() });
    Receiver::start().written_to(&fleet.dir.path().join("audit-url"));
    fleet.start_agent(0);
    fleet.wait_for_presence(&[0]);
    let slack = Slack(Web::of(&fleet.nodes[0]));
    let text = slack.say("U0ANN", &format!("status {UNIT}"));
    let shown = fleet.dir.path().to_str().unwrap();
    assert!(text.contains("token file") && !text.contains(shown), "where files lie is nobody's: {text}");
    // Consul runs without ACLs: any token will do.
    std::fs::write(fleet.dir.path().join("ann.token"), "x").unwrap();
    fleet.publish_and_stage("one");

    fleet.with_cluster(async |cluster| cluster.signal(1, Signal::STOP).unwrap());
    let text = slack.say("U0ANN", &format!("{UNIT} master"));
    fleet.with_cluster(async |cluster| cluster.signal(1, Signal::CONT).unwrap());
    assert!(text.contains("may or may not have been made"), "{text}");
    wait_until(LIMIT, "what was asked is done", || {
        (fleet.nodes[0].read("current/version").as_deref() == Some("one")).then_some(())
    });
    assert_eq!(fleet.history().pop().unwrap()["by"], "ann");

    fleet.with_cluster(async |cluster| cluster.signal(1, Signal::STOP).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..ROOM {
            scope.spawn(|| slack.say("U0ANN", &format!("status {UNIT}")));
        }
    });
    let busy = slack.0.get("/v1/apps");
    fleet.with_cluster(async |cluster| cluster.signal(1, Signal::CONT).unwrap());
    busy.refused(503, "busy");
}

#[test]
fn chat_is_off_unless_it_is_configured() {
    let fleet = Fleet::start(&FleetSpec { nodes: 1, ..FleetSpec::default() });
    let body = form("U0ANN", &format!("{UNIT} master"));
    let answer = Slack(Web::of(&fleet.nodes[0])).call(&signed(SIGNING_SECRET, Timestamp::now(), &body), &body);
    assert!(answer.refused(404, "not_found").contains("off"));
}
