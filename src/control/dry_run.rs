//! What a deploy or rollback would do: resolved as the coordinator resolves it, then checked by every node.
//!
//! A dry run requests and changes nothing. The unit's rules (`branches`, `require_profile`, `require_attribution`, `repo`,
//! `absent_nodes`) are settings of nodes, so the coordinator's node checks them, in its findings `rules`, `attribution`,
//! `branch` and `members`.

use std::time::Duration;

use jiff::Timestamp;

use super::access::Access;
use super::ask::ask;
use super::catalogue::known;
use super::code::{Code, Failure};
use super::request::{absent, barrier};
use crate::document::{AnswerState, DryRunBuild, DryRunDocument, Files, NodeReply, Ships, counted};
use crate::protocol::coordinator::Resolved;
use crate::protocol::ids::Unit;
use crate::protocol::record::{Ask, Author, Barrier, Changes, Fault, Freeze, Mark, Request, Step, Wanted};
use crate::protocol::resolve::{NameMeant, name_meant, resolve};

/// The topic of the coordinator's finding about absent nodes, which may keep a deploy from starting.
pub(crate) const MEMBERS: &str = "members";

/// The topic of the coordinator's finding about files that it cannot compare.
pub(crate) const FILES: &str = "files";

/// What `request` would do, and the exit code that tells it. Waits for the nodes as [`ask`] does.
///
/// # Errors
///
/// [`Code::NotFound`] for a unit without keys; else as [`ask`]. A request that would be refused is not an error: the
/// document says so.
///
/// # Cancel safety
///
/// As [`ask`].
pub(crate) async fn dry_run(
    access: &Access,
    unit: &Unit,
    request: &Request,
    author: &Author,
    limit: Duration,
) -> Result<(DryRunDocument, Code), Failure> {
    let keys = access.keys.unit(unit);
    let entries = access.kv.at_one_moment(&[keys.barrier(), keys.deploy(), keys.freeze()]).await?;
    if !entries.contains_key(&keys.deploy()) {
        return Err(absent(access, unit, &keys).await);
    }
    let standing = barrier(entries.get(&keys.barrier()), unit, &keys.barrier())?;
    let freeze = entries.get(&keys.freeze()).and_then(|entry| Freeze::parse(&entry.value));
    let freeze = freeze.filter(|freeze| freeze.holds_at(Timestamp::now()));
    let known = known(access.kv.client(), &access.keys, unit, request).await?;
    let found = resolve(request, &known.catalogue(unit, None));
    let from = standing.as_ref().and_then(|barrier| barrier.committed.clone());
    let before = from.as_ref().and_then(|from| known.builds.iter().find(|build| build.artifact == from.artifact));
    let mut document = DryRunDocument {
        unit: unit.clone(),
        wants: wants(request),
        rollback: request.is_rollback(),
        would_go: false,
        headline: String::new(),
        detail: String::new(),
        code: 0,
        to: None,
        before: before.cloned().map(Into::into),
        from,
        ships: None,
        fault: None,
        freeze,
        notes: standing.as_ref().map_or_else(Vec::new, running_note),
        nodes: Vec::new(),
    };
    let code = match found {
        Err(fault) => {
            let detail = format!("{} on {unit}: {}", document.wants, fault.reason);
            conclude(&mut document, "would be refused", detail);
            let code = Code::of_refusal(&fault);
            document.fault = Some(fault);
            code
        }
        Ok(found) => {
            let question = question(&found, name_meant(request, &known.builds));
            document.nodes = ask(access, unit, question, author, limit).await?;
            complete(&mut document, found, request)
        }
    };
    (document.code, document.would_go) = (code as u8, code == Code::Done);
    Ok((document, code))
}

fn wants(request: &Request) -> String {
    match &request.wanted {
        Wanted::Deploy(selector) => selector.to_string(),
        Wanted::Rollback(Some(artifact)) => format!("rollback to {artifact}"),
        Wanted::Rollback(None) => "rollback".to_owned(),
    }
}

fn running_note(barrier: &Barrier) -> Vec<String> {
    let running = barrier.target().filter(|_| !barrier.phase.is_settled());
    let note = |release: &crate::protocol::record::Release| {
        format!("deploy #{} of {} is in phase {} now", barrier.epoch, release.artifact, barrier.phase.as_str())
    };
    running.map(note).into_iter().collect()
}

fn question(found: &Resolved, meant: Option<NameMeant>) -> Ask {
    let (branch, tag) = meant.map(NameMeant::into_names).unwrap_or_default();
    Ask::DryRun {
        artifact: found.build.artifact.clone(),
        sha256: found.build.sha256.clone(),
        release: found.release.clone(),
        branch,
        tag,
    }
}

fn conclude(document: &mut DryRunDocument, verdict: &str, detail: String) {
    document.headline = format!("{verdict}: {detail}");
    document.detail = detail;
}

/// Fills in the build, the notes and the conclusion; returns the exit code.
fn complete(document: &mut DryRunDocument, found: Resolved, request: &Request) -> Code {
    let Resolved { build, release, notes, changes } = found;
    document.ships = changes.map(|changes| ships(changes, &document.nodes));
    document.notes.extend(notes);
    let runs_already = document.from.as_ref().is_some_and(|from| {
        let same_release = release.as_ref().is_none_or(|release| *release == from.release);
        from.artifact == build.artifact && from.sha256 == build.sha256 && same_release
    });
    if runs_already && !request.again {
        document.notes.push("this build is committed already: if every node runs it, a deploy does nothing".to_owned());
    }
    let what = format!("{} on {}", build.artifact, document.unit);
    document.to = Some(DryRunBuild { build: build.into(), release });
    let frozen =
        document.freeze.as_ref().map(|freeze| format!("frozen by {}: {}", freeze.author.by, freeze.author.reason));
    if let Some(frozen) = &frozen
        && !document.rollback
        && !request.force
    {
        conclude(document, "would be refused", format!("{what}: {frozen}"));
        document.fault = Some(Fault::new(Step::Freeze, frozen));
        return Code::Frozen;
    }
    if let Some(frozen) = frozen {
        let why = if document.rollback { "rollbacks are still allowed" } else { "the request overrides it" };
        document.notes.push(format!("{frozen}; {why}"));
    }
    let obstacles = obstacles(&document.nodes);
    match obstacles.first() {
        None => {
            let ready = document.nodes.iter().filter(|node| node.is_well()).count();
            conclude(document, "ready", format!("{what}, {} ready", counted(ready, "node is", "nodes are")));
            Code::Done
        }
        Some(first) => {
            let more = match obstacles.len() {
                1 => String::new(),
                count => format!(" ({count} nodes are blocked)"),
            };
            conclude(document, "blocked", format!("{what}: {first}{more}"));
            Code::Refused
        }
    }
}

/// What the deploy would ship: the commits from the records, the files as the coordinator's node compares them.
fn ships(changes: Changes, nodes: &[NodeReply]) -> Ships {
    let Changes { commits, files } = changes;
    let files = if let Some(changes) = nodes.iter().find_map(|node| node.files.clone()) {
        Files::Listed { changes }
    } else {
        let finding = nodes.iter().find_map(|node| node.finding(FILES));
        let reason = finding.map_or("the coordinator's node did not compare them", |finding| finding.says.as_str());
        Files::unlisted(files, reason.to_owned())
    };
    Ships { commits, files }
}

/// What blocks the deploy: one line per node that reports a problem or does not answer.
fn obstacles(nodes: &[NodeReply]) -> Vec<String> {
    // Whether nodes may be absent is a setting, which only the coordinator's node reports.
    let may_be_away = nodes.iter().filter_map(|node| node.finding(MEMBERS)).any(|finding| finding.mark != Mark::Bad);
    let obstacle = |node: &NodeReply| match (node.heard, node.first_bad()) {
        (AnswerState::Answered, None) => None,
        (AnswerState::Answered, Some(finding)) => Some(format!("{}: {}: {}", node.node, finding.about, finding.says)),
        (AnswerState::Away, _) if may_be_away => None,
        (AnswerState::Away, _) => Some(format!("{}: no answer, its agent is away", node.node)),
        (AnswerState::NoAnswer, _) => Some(format!("{}: no answer in time", node.node)),
    };
    let mut found: Vec<(u8, String)> = nodes
        .iter()
        .filter_map(|node| Some((u8::from(node.heard != AnswerState::Answered), obstacle(node)?)))
        .collect();
    // Reported problems come before missing answers, because they name a cause.
    found.sort_by_key(|(silent, _)| *silent);
    found.into_iter().map(|(_, obstacle)| obstacle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::Finding;

    fn node(name: &str, heard: AnswerState, findings: Vec<Finding>) -> NodeReply {
        NodeReply { findings, ..NodeReply::without_answer(name.parse().unwrap(), heard) }
    }

    #[test]
    fn a_missing_answer_blocks_unless_the_coordinator_allows_absent_nodes() {
        let good = || node("web-1", AnswerState::Answered, Vec::new());
        assert_eq!(
            obstacles(&[good(), node("web-2", AnswerState::NoAnswer, Vec::new())]),
            ["web-2: no answer in time"]
        );
        let away = || node("web-3", AnswerState::Away, Vec::new());
        assert_eq!(obstacles(&[good(), away()]), ["web-3: no answer, its agent is away"]);
        let skips = node("web-1", AnswerState::Answered, vec![Finding::new(MEMBERS, Mark::Note, "without web-3")]);
        assert!(obstacles(&[skips, away()]).is_empty());
        let fails = node("web-1", AnswerState::Answered, vec![Finding::new(MEMBERS, Mark::Bad, "web-3 is away")]);
        assert_eq!(obstacles(&[away(), fails])[0], "web-1: members: web-3 is away");
    }
}
