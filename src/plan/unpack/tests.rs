use proptest::prelude::*;

use super::*;

const ROOM: Limits = Limits { bytes: 1000, entries: 100 };

fn header<'a>(kind: Kind, path: &'a str, target: &'a str) -> Header<'a> {
    Header { path: path.as_bytes(), kind, size: 0, mode: 0o644, target: target.as_bytes() }
}

fn file(path: &str) -> Header<'_> {
    header(Kind::File, path, "")
}

fn dir(path: &str) -> Header<'_> {
    header(Kind::Directory, path, "")
}

fn link<'a>(path: &'a str, target: &'a str) -> Header<'a> {
    header(Kind::Symlink, path, target)
}

fn hard<'a>(path: &'a str, target: &'a str) -> Header<'a> {
    header(Kind::Hardlink, path, target)
}

/// The answer to the last entry; the ones before must be accepted.
fn last(headers: &[Header<'_>]) -> Result<Action, Problem> {
    let mut plan = UnpackPlan::new(ROOM);
    let (end, begin) = headers.split_last().unwrap();
    for header in begin {
        plan.entry(header).unwrap();
    }
    plan.entry(end).map_err(|refusal| refusal.problem)
}

#[test]
fn names_of_gnu_tar_are_normalised() {
    assert_eq!(last(&[dir("./")]), Ok(Action::Root));
    assert_eq!(last(&[file("./a//b/./c")]), Ok(Action::File { path: "a/b/c".to_owned(), mode: 0o644 }));
    assert_eq!(last(&[dir("./a/")]), Ok(Action::Directory { path: "a".to_owned() }));
}

#[test]
fn names_that_leave_the_release_are_refused() {
    for (name, problem) in [
        ("/etc/passwd", Problem::Absolute),
        ("//x", Problem::Absolute),
        ("..", Problem::Leaves),
        ("../x", Problem::Leaves),
        ("a/../../x", Problem::Leaves),
        ("a/../b", Problem::Leaves),
        ("", Problem::EmptyName),
        (".", Problem::EmptyName),
        ("./", Problem::EmptyName),
        ("a\0b", Problem::Unprintable),
        ("a\nb", Problem::Unprintable),
        ("a\u{85}b", Problem::Unprintable),
        ("a/", Problem::TrailingSlash),
        (&"x".repeat(256), Problem::TooLong),
        (&"x/".repeat(2100), Problem::TooLong),
        (&format!("{}x", "x/".repeat(MAX_DEPTH)), Problem::TooLong),
    ] {
        assert_eq!(last(&[file(name)]), Err(problem), "{name:?}");
    }
    let odd = Header { path: b"a\xff", ..file("") };
    assert_eq!(last(&[odd]), Err(Problem::Unprintable));
    assert!(last(&[dir("")]).is_err());
}

#[test]
fn symbolic_links_stay_inside() {
    for (path, target) in [
        ("a", "b"),
        ("a", "./b/c"),
        ("a/b", "../c"),
        ("a/b/c", "../../d"),
        ("a/b", ".."),
        ("a/b", "./../c"),
        ("a", "missing"),
    ] {
        let expected = Action::Symlink { path: path.to_owned(), target: target.to_owned() };
        assert_eq!(last(&[link(path, target)]), Ok(expected), "{path} -> {target}");
    }
    for (path, target) in [
        ("a", ""),
        ("a", "/etc/shadow"),
        ("a", ".."),
        ("a", "../x"),
        ("a/b", "../../x"),
        ("a/b", "../../../etc"),
        ("a/b", "c/../d"),
        ("a/b/c", "d/../../../.."),
        ("a", "./../x"),
    ] {
        assert!(matches!(last(&[link(path, target)]), Err(Problem::SymlinkTarget(_))), "{path} -> {target}");
    }
}

#[test]
fn hard_links_name_an_earlier_regular_file() {
    let expected = Action::Hardlink { path: "b".to_owned(), target: "a".to_owned() };
    assert_eq!(last(&[file("./a"), hard("b", "./a")]), Ok(expected));
    assert!(last(&[file("a"), hard("b", "a"), hard("c", "b")]).is_ok());
    for target in ["/etc/passwd", "../a", "missing", "d", "l", "", "."] {
        let answer = last(&[file("a"), dir("d"), link("l", "a"), hard("h", target)]);
        assert!(matches!(answer, Err(Problem::HardlinkTarget(_))), "{target:?}: {answer:?}");
    }
    assert!(matches!(last(&[hard("b", "b")]), Err(Problem::HardlinkTarget(_))));
}

#[test]
fn nothing_is_written_through_a_link_or_a_file() {
    for before in [link("a", "b"), file("a")] {
        for after in [file("a/x"), dir("a/x"), link("a/x", "y"), file("a/b/c")] {
            assert!(matches!(last(&[before, after]), Err(Problem::ThroughNonDirectory(_))));
        }
    }
    // Also if the parent was checked by the entry before.
    assert!(matches!(last(&[file("d/f"), file("d/f/x")]), Err(Problem::ThroughNonDirectory(_))));
}

#[test]
fn only_directories_may_be_repeated() {
    assert!(last(&[dir("a"), dir("a/")]).is_ok());
    assert!(last(&[file("a/b"), dir("a")]).is_ok());
    for (before, after) in [
        (file("a"), file("./a")),
        (file("a"), dir("a")),
        (dir("a"), file("a")),
        (file("a/b"), link("a", "x")),
        (link("a", "x"), link("a", "x")),
        (link("a", "x"), file("a")),
        (link("a", "x"), dir("a")),
        (dir("a"), link("a", "x")),
    ] {
        assert!(matches!(last(&[before, after]), Err(Problem::Duplicate(_))), "{after:?}");
    }
    // These are two files on a server's filesystem.
    assert!(last(&[file("a"), file("A")]).is_ok());
}

#[test]
fn devices_pipes_and_unknown_kinds_are_refused() {
    for flag in *b"346 S7Vz" {
        assert_eq!(last(&[header(Kind::Other(flag), "x", "")]), Err(Problem::BadKind(char::from(flag))));
    }
}

#[test]
fn modes_are_normalised() {
    for (given, kept) in [(0o644, 0o644), (0o4755, 0o755), (0o2666, 0o644), (0o777, 0o755), (0o100, 0o755), (0, 0o644)]
    {
        let header = Header { mode: given, ..file("x") };
        assert_eq!(last(&[header]), Ok(Action::File { path: "x".to_owned(), mode: kept }));
    }
}

#[test]
fn the_build_record_is_the_exact_limit() {
    let mut plan = UnpackPlan::new(Limits { bytes: 10, entries: 2 });
    assert_eq!(plan.entry(&dir("./")), Ok(Action::Root));
    assert!(plan.entry(&Header { size: 4, ..file("a") }).is_ok());
    assert!(plan.entry(&Header { size: 6, ..file("b") }).is_ok());
    assert_eq!(plan.totals(), Totals { bytes: 10, entries: 2 });
    assert_eq!(plan.entry(&dir("c")).unwrap_err().problem, Problem::TooManyEntries(2));
    let mut plan = UnpackPlan::new(Limits { bytes: 10, entries: 2 });
    assert_eq!(plan.entry(&Header { size: 11, ..file("a") }).unwrap_err().problem, Problem::TooManyBytes(10));
    let mut plan = UnpackPlan::new(Limits { bytes: 10, entries: 2 });
    assert!(plan.entry(&Header { size: 1, ..file("a") }).is_ok());
    assert_eq!(plan.entry(&Header { size: u64::MAX, ..file("b") }).unwrap_err().problem, Problem::TooManyBytes(10));
}

#[test]
fn implied_directories_are_bounded_too() {
    let mut plan = UnpackPlan::new(Limits { bytes: 0, entries: 100 });
    let refused = (0..100).find_map(|n| plan.entry(&file(&format!("{n}/{}x", "d/".repeat(100)))).err());
    assert_eq!(refused.unwrap().problem, Problem::TooManyImplied);
}

#[test]
fn links_cannot_fill_the_memory() {
    let mut plan = UnpackPlan::new(Limits { bytes: 0, entries: 1_000_000 });
    let target = "x/".repeat(2000);
    let refused = (0..10_000).find_map(|n| plan.entry(&link(&n.to_string(), &target)).err());
    assert_eq!(refused.unwrap().problem, Problem::TooManyLinks);
}

#[test]
fn only_files_have_content() {
    for kind in [Kind::Directory, Kind::Symlink] {
        let header = Header { size: 1, ..header(kind, "x", "y") };
        assert!(matches!(last(&[header]), Err(Problem::UnexpectedContent(_))));
    }
    assert!(matches!(last(&[file("a"), Header { size: 1, ..hard("b", "a") }]), Err(Problem::UnexpectedContent(_))));
}

#[test]
fn revision_must_be_a_regular_file() {
    assert!(last(&[file("REVISION")]).is_ok());
    assert!(last(&[file("app/REVISION"), link("b/REVISION", "x")]).is_ok());
    assert_eq!(last(&[dir("./REVISION/")]), Err(Problem::Revision));
    assert_eq!(last(&[link("REVISION", "x")]), Err(Problem::Revision));
    assert!(matches!(last(&[file("REVISION"), file("REVISION/x")]), Err(Problem::ThroughNonDirectory(_))));
    assert!(last(&[file("REVISION/x"), file("REVISION")]).is_err());
}

#[test]
fn a_refusal_names_the_entry() {
    let mut plan = UnpackPlan::new(ROOM);
    let refusal = plan.entry(&file("../../etc/cron.d/x")).unwrap_err();
    assert_eq!(refusal.to_string(), r#"archive entry "../../etc/cron.d/x" has a name that leads out of the release"#);
}

proptest! {
    /// Follows every accepted link through all other accepted links: none leads outside.
    #[test]
    fn no_chain_of_accepted_links_leads_outside(
        entries in prop::collection::vec(("[ab](/[abc]){0,3}", "(\\.\\./){0,3}([abc.]{1,2}/){0,3}[abc]"), 1..12)
    ) {
        let mut plan = UnpackPlan::new(ROOM);
        let mut links = BTreeMap::new();
        for (path, target) in &entries {
            if let Ok(Action::Symlink { path, target }) = plan.entry(&link(path, target)) {
                links.insert(path, target);
            }
        }
        for path in links.keys() {
            let mut at: Vec<&str> = Vec::new();
            let mut todo: Vec<&str> = path.split('/').rev().collect();
            for _ in 0..200 {
                let Some(part) = todo.pop() else { break };
                match part {
                    "" | "." => continue,
                    ".." => prop_assert!(at.pop().is_some(), "{path} leads outside: {links:?}"),
                    part => at.push(part),
                }
                if let Some(target) = links.get(&at.join("/")) {
                    at.pop();
                    todo.extend(target.split('/').rev());
                }
            }
        }
    }
}
