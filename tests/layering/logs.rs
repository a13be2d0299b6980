//! Log messages that can be followed without their fields, as plain `journalctl` prints them.

use super::{Source, sources, without_comments};

/// The macros whose messages operators see; `debug` is for the authors of the program.
const MACROS: [&str; 3] = ["tracing::info!(", "tracing::warn!(", "tracing::error!("];

#[test]
fn a_log_message_about_a_unit_names_it() {
    let found: Vec<String> = sources().iter().flat_map(Source::logs_without_their_unit).collect();
    assert!(found.is_empty(), "begin each message with `{{unit}}: `:\n{}", found.join("\n"));
}

impl Source {
    /// Every logging call with the field `unit` whose message does not contain it.
    fn logs_without_their_unit(&self) -> Vec<String> {
        let code = without_comments(&self.text);
        let calls = MACROS.iter().flat_map(|name| code.match_indices(name).map(|(at, name)| &code[at + name.len()..]));
        let mut found = Vec::new();
        for call in calls {
            let literals = literals_of_call(call);
            let about_unit = ["%unit,", "unit = %"].iter().any(|field| literals.outside.contains(field));
            let names_it = |text: &String| text.contains("{unit}") || text.starts_with("{}: ");
            if about_unit && !literals.texts.iter().any(names_it) {
                found.push(format!("src/{}: {:?}", self.path.display(), literals.texts));
            }
        }
        found
    }
}

/// The string literals of a macro call, and the code around them.
#[derive(Debug, Default)]
struct Literals {
    texts: Vec<String>,
    outside: String,
}

/// Reads from behind the opening parenthesis to the closing one.
fn literals_of_call(call: &str) -> Literals {
    let mut read = Literals::default();
    let (mut depth, mut chars) = (1_usize, call.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    text.push(c);
                    if c == '\\' {
                        text.extend(chars.next());
                    }
                }
                read.texts.push(text);
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => read.outside.push(c),
        }
        if depth == 0 {
            break;
        }
    }
    read
}

#[test]
fn a_message_without_its_unit_is_caught() {
    let found = |call: &str| Source::new(std::path::Path::new("agent/a.rs"), call).logs_without_their_unit().len();
    assert_eq!(found("tracing::info!(%unit, epoch, \"switched\");"), 1);
    assert_eq!(found("tracing::warn!(unit = %ctx.unit, key = f(\"(\"), \"waits: {}\", text());"), 1);
    assert_eq!(found("tracing::info!(%unit, epoch, \"{unit}: switched\");"), 0);
    assert_eq!(found("tracing::error!(unit = %ctx.unit, \"{}: waits\", ctx.unit);"), 0);
    assert_eq!(found("tracing::info!(units = 3, \"started\");"), 0);
}
