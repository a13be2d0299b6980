//! Completions and manual pages, as the programs that read them see them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use cutover::control::Code;

use crate::support::{cutover, ends_now};

/// Runs a program with `input`; what it printed on both outputs.
fn given(program: &str, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let text = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    // A program that has read enough closes the pipe.
    _ = writer.join();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), said)
}

#[test]
fn bash_accepts_the_completions_and_completes_commands_and_flags() {
    let script = ends_now(cutover(&["completions", "bash"]), Code::Done).stdout;
    let (is_fine, said) = given("bash", &["-n"], &script);
    assert!(is_fine, "{said}");
    let ask = |words: &str, at: usize| {
        let complete =
            format!("COMP_WORDS=({words})\nCOMP_CWORD={at}\n_cutover cutover \"${{COMP_WORDS[$COMP_CWORD]}}\" \"\"\n");
        let (_, said) = given("bash", &["--norc"], &format!("{script}\n{complete}echo \"${{COMPREPLY[@]}}\"\n"));
        said
    };
    assert!(ask("cutover unf", 1).contains("unfreeze"), "{}", ask("cutover unf", 1));
    assert!(ask("cutover deploy --dry", 2).contains("--dry-run"), "{}", ask("cutover deploy --dry", 2));
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ends_now(cutover(&["completions", shell]), Code::Done).stdout;
        assert!(script.contains("unfreeze") && script.contains("dry-run"), "{shell}");
    }
    ends_now(cutover(&["completions", "cobol"]), Code::Usage);
}

#[test]
fn there_is_a_page_for_every_command_and_none_has_an_empty_entry() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let printed = ends_now(cutover(&["man", "--dir", pages.to_str().unwrap()]), Code::Done).stdout;
    for name in ["cutover.1", "cutover-deploy.1", "cutover-build-start.1", "cutover-node-repair.1", "cutover-doctor.1"]
    {
        assert!(printed.contains(&format!("{}\n", pages.join(name).display())), "{name}: {printed}");
    }
    assert!(!printed.contains("demo"), "what is hidden has no page");
    let deploy = std::fs::read_to_string(pages.join("cutover-deploy.1")).unwrap();
    for text in ["dry\\-run", "CONSUL_HTTP_ADDR", "exit code 4"] {
        assert!(deploy.contains(text), "{text}: {deploy}");
    }
    let main = ends_now(cutover(&["man"]), Code::Done).stdout;
    assert!(main.contains("Exit codes") && main.contains("cutover\\-deploy"), "{main}");
    // Where the machine has no groff, its own complaints cannot be heard.
    if Command::new("groff").arg("--version").output().is_ok() {
        for page in [&main, &deploy] {
            let (is_fine, said) = given("groff", &["-Kutf8", "-man", "-Tutf8", "-ww", "-z"], page);
            assert!(is_fine && said.trim().is_empty(), "{said}");
        }
    }
}
