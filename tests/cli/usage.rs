//! Exit codes that need no Consul, or need it not to be there.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Stdio;

use cutover::control::Code;

use crate::support::{cutover, ends_now};

/// An address of this machine where nobody listens: bound, and closed again.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_usage_error_ends_with_2_and_contacts_nobody() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["deploy", "shop", "master"],
        &["deploy", "shop/production", "commit:xyz"],
        &["rollback", "shop/production", "--to", "../x"],
        &["status", "--output", "yaml"],
        &["status", "--prefix", "a b"],
        &["history", "shop/production", "-n", "-1"],
        &["watch-handler", "--agent", "https://127.0.0.1"],
        &["status", "--client-cert", "/c.pem"],
        &["consul", "acl-policy", "agent", "--unit", "shop/production"],
    ] {
        let printed = ends_now(cutover(args), Code::Usage);
        assert!(printed.stdout.is_empty() && !printed.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn the_demo_is_not_part_of_the_program_and_one_line_says_how_to_get_it() {
    for (args, command) in
        [(&["demo"][..], "make demo"), (&["demo", "--nodes", "5", "--keep"], "make demo ARGS='--nodes 5 --keep'")]
    {
        let printed = ends_now(cutover(args), Code::Usage);
        let line = format!("cutover: the demo is not part of this program: run `{command}` in Cutover's source tree\n");
        assert_eq!(printed.stderr, line, "{args:?}");
        assert_eq!(printed.stdout, "", "{args:?}");
    }
}

#[test]
fn an_unreachable_consul_ends_with_8_and_says_where_it_was_looked_for() {
    let address = nobody();
    for args in [&["status"][..], &["deploy", "shop/production", "master"], &["builds", "shop"]] {
        let mut command = cutover(args);
        command.env("CONSUL_HTTP_ADDR", &address);
        let printed = ends_now(command, Code::Unreachable);
        assert!(printed.stdout.is_empty());
        let lines: Vec<&str> = printed.stderr.lines().collect();
        assert!(lines[0].starts_with("cutover: ") && lines[0].contains(&address), "{}", printed.stderr);
        assert!(lines[1].starts_with("hint: ") && lines.len() == 2, "{}", printed.stderr);
    }
}

#[test]
fn a_flag_takes_precedence_over_the_environment() {
    let (typed, ambient) = (nobody(), nobody());
    let mut command = cutover(&["status", "--http-addr", &typed]);
    command.env("CONSUL_HTTP_ADDR", &ambient);
    assert!(ends_now(command, Code::Unreachable).stderr.contains(&typed));
}

#[test]
fn help_written_to_a_closed_pipe_succeeds() {
    let mut command = cutover(&["--help"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer);
    assert!(command.status().unwrap().success());
}

#[test]
fn a_watch_handler_without_an_agent_ends_with_8() {
    let mut command = cutover(&["watch-handler", "--agent", &format!("http://{}", nobody())]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"[]\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(8));
    assert!(String::from_utf8(output.stderr).unwrap().contains("does not answer"));
}

#[test]
fn an_endless_payload_is_not_read_to_its_end() {
    let mut command = cutover(&["watch-handler", "--agent", &format!("http://{}", nobody())]);
    command.stdin(std::fs::File::open("/dev/zero").unwrap());
    let printed = ends_now(command, Code::Failed);
    assert!(printed.stderr.contains("1048576 bytes"), "{}", printed.stderr);
}

#[test]
fn check_config_says_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cutover.toml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        cutover(&["check-config", "--config", path.to_str().unwrap()])
    };
    let good = ends_now(check("node = \"web-1\"\n"), Code::Done);
    assert!(good.stdout.starts_with("ok  "), "{}", good.stdout);
    let bad = ends_now(check("node = \"web-1\"\nnoode = 1\n"), Code::Failed);
    assert!(bad.stderr.contains("cutover.toml:2") && bad.stderr.contains("noode"), "{}", bad.stderr);
    let bad = check("[api]\ntls_cert_file = \"/nonexistent/cert\"\ntls_key_file = \"/nonexistent/key\"\n");
    let bad = ends_now(bad, Code::Failed);
    assert!(bad.stderr.contains("tls_cert_file: /nonexistent/cert cannot be read"), "{}", bad.stderr);
}

#[test]
fn check_config_names_the_variables_that_the_store_ignores_or_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cutover.toml");
    std::fs::write(&path, "[store]\nurl = \"s3://artifacts/builds\"\nregion = \"eu-west-1\"\n").unwrap();
    for (name, value, expected) in [
        ("HTTPS_PROXY", "socks5://me:hunter2@proxy:1080", "note: HTTPS_PROXY is ignored for the store"),
        ("AWS_RETRY_MODE", "legacy", "note: AWS_RETRY_MODE=legacy is ignored"),
        ("AWS_MAX_ATTEMPTS", "many", "warning: with this environment, the store cannot be used: AWS_MAX_ATTEMPTS is"),
        ("AWS_CA_BUNDLE", "/does/not/exist", "AWS_CA_BUNDLE names /does/not/exist, which cannot be read"),
    ] {
        let mut command = cutover(&["check-config", "--config", path.to_str().unwrap()]);
        command.env("HOME", dir.path()).env(name, value);
        let printed = ends_now(command, Code::Done);
        assert!(printed.stdout.starts_with("ok  "), "{}", printed.stdout);
        assert!(printed.stderr.contains(expected) && !printed.stderr.contains("hunter2"), "{}", printed.stderr);
    }
}
