use proptest::prelude::*;

use super::*;

use super::path::MAX_DEPTH;

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

fn plan() -> UnpackPlan {
    UnpackPlan::new(ROOM, LinkPolicy::Inside)
}

/// The answer to the last entry; the ones before must be accepted.
fn last(headers: &[Header<'_>]) -> Result<Option<Action>, Problem> {
    let mut plan = plan();
    let (end, begin) = headers.split_last().unwrap();
    for header in begin {
        plan.entry(header).unwrap();
    }
    plan.entry(end).map_err(|refusal| refusal.problem)
}

/// The answer to a whole archive.
fn whole(links: LinkPolicy, headers: &[Header<'_>]) -> Result<Totals, Problem> {
    let mut plan = UnpackPlan::new(ROOM, links);
    let all = headers.iter().try_for_each(|header| plan.entry(header).map(drop));
    all.and_then(|()| plan.finish()).map_err(|refusal| refusal.problem)
}

/// The action for the last entry.
fn made(headers: &[Header<'_>]) -> Action {
    last(headers).unwrap().unwrap()
}

fn action(path: &str, make: Make) -> Action {
    replacing(path, Replaced::Nothing, make)
}

fn replacing(path: &str, replaces: Replaced, make: Make) -> Action {
    Action { path: path.into(), replaces, make }
}

#[test]
fn names_of_gnu_tar_are_normalised() {
    assert_eq!(last(&[dir("./")]), Ok(None));
    assert_eq!(made(&[file("./a//b/./c")]), action("a/b/c", Make::File { mode: 0o644 }));
    assert_eq!(made(&[dir("./a/")]), action("a", Make::Directory { mode: 0o744 }));
    // Before tar had a flag for directories.
    assert_eq!(made(&[file("a/")]), action("a", Make::Directory { mode: 0o744 }));
}

#[test]
fn names_are_kept_byte_by_byte() {
    for name in [&b"caf\xe9"[..], b"a\nb", b"a\x1b[2Jb", b"\xff\xfe", "\u{85}".as_bytes()] {
        let header = Header { path: name, ..file("") };
        assert_eq!(last(&[header]).unwrap().unwrap().path, name);
        let link = Header { target: name, ..link("a", "") };
        assert_eq!(last(&[link]).unwrap().unwrap().make, Make::Symlink { target: name.to_vec() });
    }
    assert_eq!(shown(b"caf\xe9 \x1b[2J \"'\\"), r#""caf\xe9 \u{1b}[2J \"'\\""#);
    assert_eq!(shown(&[b'x'; 1000]), format!("\"{}…\"", "x".repeat(160)));
    assert_eq!(shown(&[0xff; 1000]), format!("\"{}…\"", "\\xff".repeat(160)));
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
        ("a\0b", Problem::Nul),
        (&"x".repeat(256), Problem::TooLong),
        (&"x/".repeat(2100), Problem::TooLong),
        (&format!("{}x", "x/".repeat(MAX_DEPTH)), Problem::TooLong),
    ] {
        assert_eq!(last(&[file(name)]), Err(problem), "{name:?}");
    }
    assert_eq!(last(&[Header { size: 1, ..file("a/") }]), Err(Problem::TrailingSlash));
    assert_eq!(last(&[link("a/", "b")]), Err(Problem::TrailingSlash));
    assert!(last(&[dir("")]).is_err());
    assert!(last(&[file(&format!("{}x", "x/".repeat(MAX_DEPTH - 1)))]).is_ok());
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
        ("a", "c/../d"),
        ("a", "c/.."),
        ("a/b", "c/../../d"),
    ] {
        let expected = action(path, Make::Symlink { target: target.into() });
        assert_eq!(made(&[link(path, target)]), expected, "{path} -> {target}");
        assert!(whole(LinkPolicy::Inside, &[link(path, target)]).is_ok(), "{path} -> {target}");
    }
    for (path, target) in [
        ("a", "/etc/shadow"),
        ("a", ".."),
        ("a", "../x"),
        ("a/b", "../../x"),
        ("a/b", "../../../etc"),
        ("a", "./../x"),
        ("a", "c/../../d"),
        ("a/b/c", "d/../../../.."),
    ] {
        let answer = whole(LinkPolicy::Inside, &[link(path, target)]);
        assert_eq!(answer, Err(Problem::SymlinkTarget(shown(target.as_bytes()))), "{path} -> {target}");
        assert!(whole(LinkPolicy::Any, &[link(path, target)]).is_ok(), "{path} -> {target}");
    }
    assert_eq!(whole(LinkPolicy::Any, &[link("a", "")]), Err(Problem::EmptyTarget));
    assert_eq!(whole(LinkPolicy::Any, &[link("a", "b\0c")]), Err(Problem::Nul));
    assert_eq!(whole(LinkPolicy::Any, &[link("a", &"x/".repeat(2100))]), Err(Problem::TooLong));
}

/// `a/../b` depends on what `a` is, which may come later.
#[test]
fn a_link_with_dots_behind_a_name_is_resolved_over_the_whole_archive() {
    let inside = |headers: &[Header<'_>]| whole(LinkPolicy::Inside, headers);
    // By their text alone, both stay inside.
    let out = [link("d/up", ".."), link("x", "d/up/../y")];
    assert!(matches!(inside(&out), Err(Problem::SymlinkTarget(_))));
    assert!(matches!(inside(&[out[1], out[0]]), Err(Problem::SymlinkTarget(_))));
    assert!(whole(LinkPolicy::Any, &out).is_ok());
    // By its text alone, this one leaves.
    assert!(inside(&[link("a", "d/e"), dir("d/e"), link("x", "a/../../y")]).is_ok());
    assert!(inside(&[dir("a"), link("x", "a/../../y")]).is_err());
    // By way of two.
    assert!(inside(&[link("a", "b"), link("b", "c/d"), link("x", "a/../../y")]).is_ok());
    assert!(inside(&[link("a", "b"), link("b", "c"), link("x", "a/../../y")]).is_err());
    // A circle leads nowhere.
    assert!(inside(&[link("a", "b"), link("b", "a"), link("x", "a/../../../y")]).is_ok());
    // Only the later entry of a name counts.
    assert!(inside(&[link("d/up", ".."), link("x", "d/up/../y"), dir("d/up")]).is_ok());
    assert!(inside(&[link("d/up", ".."), link("x", "d/up/../y"), file("x")]).is_ok());
    assert!(inside(&[dir("d/up"), link("x", "d/up/../y"), link("d/up", "..")]).is_err());
}

#[test]
fn resolving_links_takes_bounded_time() {
    let mut plan = UnpackPlan::new(Limits::NONE, LinkPolicy::Inside);
    let long = "d/../".repeat(800) + "x";
    for n in 0..10 {
        plan.entry(&link(&format!("l{n}"), &long.replace('x', &format!("l{}", n + 1)))).unwrap();
    }
    plan.entry(&link("l10", &"e/".repeat(2000))).unwrap();
    for n in 0..2000 {
        plan.entry(&link(&format!("x{n}"), &format!("a/../{}l0", "l10/".repeat(900)))).unwrap();
    }
    assert_eq!(plan.finish().unwrap_err().problem, Problem::TooManyLinks);
}

#[test]
fn hard_links_name_an_earlier_file_or_link() {
    let hardlink = |target: &str| Make::Hardlink { target: target.into() };
    assert_eq!(made(&[file("./a"), hard("b", "./a")]), action("b", hardlink("a")));
    assert!(last(&[file("a"), hard("b", "a"), hard("c", "b")]).is_ok());
    assert_eq!(made(&[link("l", "a"), hard("h", "l")]), action("h", hardlink("l")));
    assert_eq!(last(&[file("a"), hard("./a", "a")]), Ok(None));
    for target in ["/etc/passwd", "../a", "missing", "d", "", ".", "a/"] {
        let answer = last(&[file("a"), dir("d"), hard("h", target)]);
        assert!(matches!(answer, Err(Problem::HardlinkTarget(_))), "{target:?}: {answer:?}");
    }
    assert!(matches!(last(&[hard("b", "b")]), Err(Problem::HardlinkTarget(_))));
    // The same text leads elsewhere from another place.
    assert!(matches!(last(&[link("d/l", "../a"), hard("h", "d/l")]), Err(Problem::SymlinkTarget(_))));
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
    // Also if the parent was an empty directory before, or an entry of another kind.
    for after in [file("a"), link("a", "b")] {
        assert!(last(&[dir("a/b"), dir("c"), link("c", "a"), file("c/x")]).is_err());
        assert!(matches!(last(&[dir("a"), after, file("a/x")]), Err(Problem::ThroughNonDirectory(_))));
    }
    let (before, link) = (Header { path: b"d/e/f", ..dir("") }, link("d/e/f", "x"));
    assert!(matches!(last(&[before, dir("d/e/f/"), link, file("d/e/f/x")]), Err(Problem::ThroughNonDirectory(_))));
}

#[test]
fn of_repeated_names_the_later_counts_as_in_gnu_tar() {
    use Replaced::{EmptyDirectory, File, Nothing};
    let (as_file, as_link) = (Make::File { mode: 0o644 }, Make::Symlink { target: b"x".to_vec() });
    let as_dir = Make::Directory { mode: 0o744 };
    for (before, after, replaces, make) in [
        (file("a"), file("./a"), File, &as_file),
        (file("a"), dir("a"), File, &as_dir),
        (file("a"), link("a", "x"), File, &as_link),
        (link("a", "x"), link("a", "x"), File, &as_link),
        (link("a", "x"), file("a"), File, &as_file),
        (link("a", "x"), dir("a"), File, &as_dir),
        (dir("a"), dir("a/"), Nothing, &as_dir),
        (file("a/b"), dir("a"), Nothing, &as_dir),
        (dir("a"), file("a"), EmptyDirectory, &as_file),
        (dir("a"), link("a", "x"), EmptyDirectory, &as_link),
    ] {
        assert_eq!(made(&[before, after]), replacing("a", replaces, make.clone()), "{after:?}");
    }
    for after in [file("a"), link("a", "x")] {
        for before in [file("a/b"), dir("a/b"), link("a/b", "x")] {
            assert_eq!(last(&[before, after]), Err(Problem::OverDirectory), "{after:?}");
        }
    }
    assert_eq!(last(&[file("x"), dir("a/b"), hard("a", "x")]), Err(Problem::OverDirectory));
    // A directory over a file begins empty.
    assert!(last(&[file("a"), dir("a"), file("a")]).is_ok());
    // These are two files on a server's filesystem.
    assert_eq!(made(&[file("a"), file("A")]), action("A", as_file));
}

#[test]
fn devices_pipes_and_unknown_kinds_are_refused() {
    for flag in *b"346 Mz" {
        assert_eq!(last(&[header(Kind::Other(flag), "x", "")]), Err(Problem::BadKind(char::from(flag))));
    }
}

#[test]
fn permission_bits_are_kept_and_privileges_are_not() {
    for mode in [0o644, 0o600, 0o555, 0o777, 0o666, 0, 0o4755, 0o2600, 0o1777] {
        let header = Header { mode, ..file("x") };
        assert_eq!(made(&[header]), action("x", Make::File { mode: mode & 0o777 }));
        let header = Header { mode, ..dir("x") };
        assert_eq!(made(&[header]), action("x", Make::Directory { mode: mode & 0o777 | 0o700 }));
    }
}

#[test]
fn the_build_record_is_the_exact_limit() {
    let plan = || UnpackPlan::new(Limits { bytes: 10, entries: 2 }, LinkPolicy::Inside);
    let mut exact = plan();
    assert_eq!(exact.entry(&dir("./")), Ok(None));
    assert!(exact.entry(&Header { size: 4, ..file("a") }).is_ok());
    assert!(exact.entry(&Header { size: 6, ..file("b") }).is_ok());
    assert_eq!(exact.finish(), Ok(Totals { bytes: 10, entries: 2 }));
    assert_eq!(exact.entry(&dir("c")).unwrap_err().problem, Problem::TooManyEntries(2));
    assert_eq!(plan().entry(&Header { size: 11, ..file("a") }).unwrap_err().problem, Problem::TooManyBytes(10));
    let mut huge = plan();
    assert!(huge.entry(&Header { size: 1, ..file("a") }).is_ok());
    assert_eq!(huge.entry(&Header { size: u64::MAX, ..file("b") }).unwrap_err().problem, Problem::TooManyBytes(10));
}

#[test]
fn implied_directories_are_bounded_too() {
    for limits in [Limits { bytes: 0, entries: 1000 }, Limits::NONE] {
        let mut plan = UnpackPlan::new(limits, LinkPolicy::Inside);
        let refused = (0..1000).find_map(|n| plan.entry(&file(&format!("{n}/{}x", "d/".repeat(100)))).err());
        assert_eq!(refused.unwrap().problem, Problem::TooManyImplied);
    }
}

#[test]
fn links_cannot_fill_the_memory() {
    let answer = |links| {
        let mut plan = UnpackPlan::new(Limits::NONE, links);
        let target = "x".repeat(4000);
        (0..20_000).find_map(|n| plan.entry(&link(&n.to_string(), &target)).err())
    };
    assert_eq!(answer(LinkPolicy::Inside).unwrap().problem, Problem::TooManyLinks);
    assert_eq!(answer(LinkPolicy::Any), None, "no text is kept");
    // As many links as a large monorepo of pnpm has.
    let mut plan = UnpackPlan::new(Limits::NONE, LinkPolicy::Inside);
    let target = "../../some-package@1.2.3_peer@4.5.6/node_modules/some-package";
    for n in 0..30_000 {
        plan.entry(&link(&format!("node_modules/.pnpm/p{n}/node_modules/some-package"), target)).unwrap();
    }
    plan.finish().unwrap();
}

#[test]
fn revision_must_be_a_regular_file() {
    assert!(last(&[file("REVISION")]).is_ok());
    assert!(last(&[file("a"), hard("REVISION", "a")]).is_ok());
    assert!(last(&[file("app/REVISION"), link("b/REVISION", "x")]).is_ok());
    assert_eq!(last(&[dir("./REVISION/")]), Err(Problem::Revision));
    assert_eq!(last(&[link("REVISION", "x")]), Err(Problem::Revision));
    assert_eq!(last(&[link("l", "x"), hard("REVISION", "l")]), Err(Problem::Revision));
    assert_eq!(last(&[file("REVISION/x")]), Err(Problem::Revision));
    assert!(matches!(last(&[file("REVISION"), file("REVISION/x")]), Err(Problem::ThroughNonDirectory(_))));
}

#[test]
fn a_refusal_names_the_entry_and_a_remedy() {
    let refusal = plan().entry(&file("../../etc/cron.d/x")).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        r#"archive entry "../../etc/cron.d/x" has `..` in its name; pack it with a name below the packed directory"#
    );
    let refusal = plan().entry(&link("bin/python", "/usr/bin/python3")).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "archive entry \"bin/python\" is a symbolic link to \"/usr/bin/python3\", which leads out of the release; make it \
         relative and keep it inside, or allow such links with `publish --links any` and with links = \"any\" in the settings \
         of every group that deploys the build"
    );
}

proptest! {
    /// Follows every accepted link through all other accepted links: none leads outside.
    #[test]
    fn no_chain_of_accepted_links_leads_outside(
        entries in prop::collection::vec(("[ab](/[abc]){0,3}", "((\\.\\./){0,3}([abc.]{1,2}/){0,3}){1,2}[abc.]"), 1..8)
    ) {
        let mut plan = plan();
        let mut links = BTreeMap::new();
        for (path, target) in &entries {
            if let Ok(Some(Action { path, make: Make::Symlink { target }, .. })) = plan.entry(&link(path, target)) {
                links.insert(String::from_utf8(path).unwrap(), String::from_utf8(target).unwrap());
            }
        }
        // An entry that is refused leaves a plan that must not be used; the links before it were accepted.
        let mut plan = self::plan();
        for (path, target) in &links {
            prop_assume!(plan.entry(&link(path, target)).is_ok());
        }
        let leads_out = links.keys().find(|path| leads_out(path, &links));
        prop_assert_eq!(plan.finish().is_err(), leads_out.is_some(), "{:?}: {:?}", leads_out, links);
    }
}

/// Resolves a path as the kernel does, with at most 40 links.
fn leads_out(path: &str, links: &BTreeMap<String, String>) -> bool {
    let mut at: Vec<&str> = Vec::new();
    let mut todo: Vec<&str> = path.split('/').rev().collect();
    let mut followed = 0;
    while let Some(part) = todo.pop() {
        match part {
            "" | "." => continue,
            ".." if at.pop().is_none() => return true,
            ".." => continue,
            part => at.push(part),
        }
        if let Some(target) = links.get(&at.join("/")) {
            followed += 1;
            if followed > 41 {
                return false;
            }
            at.pop();
            todo.extend(target.split('/').rev());
        }
    }
    false
}
