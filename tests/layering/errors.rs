//! What every error type has, and what none is.

use super::{Source, sources, without_comments};

#[test]
fn every_error_type_has_a_kind() {
    let found: Vec<String> = sources().iter().flat_map(Source::errors_without_kind).collect();
    assert!(found.is_empty(), "implement `HasKind` for each:\n{}", found.join("\n"));
}

#[test]
fn no_error_is_a_string() {
    let found: Vec<String> = sources().iter().flat_map(Source::string_errors).collect();
    assert!(found.is_empty(), "give the error a type:\n{}", found.join("\n"));
}

impl Source {
    /// Types that derive `thiserror::Error` and do not implement `HasKind` in the same file.
    fn errors_without_kind(&self) -> Vec<String> {
        let code = without_comments(&self.text);
        let mut found = Vec::new();
        for (at, _) in code.match_indices("thiserror::Error") {
            let mut words = code[at..].split(|c: char| !c.is_alphanumeric() && c != '_');
            let name = words.by_ref().find(|word| matches!(*word, "enum" | "struct")).and_then(|_| words.next());
            let Some(name) = name else { continue };
            if !code.contains(&format!("\nimpl HasKind for {name} {{\n")) {
                found.push(format!("src/{}: {name}", self.path.display()));
            }
        }
        found
    }

    /// Every `Result<…, String>`.
    fn string_errors(&self) -> Vec<String> {
        let code = without_comments(&self.text);
        let mut found = Vec::new();
        for (at, start) in code.match_indices("Result<") {
            let (mut depth, mut second) = (1_usize, None);
            let arguments = &code[at + start.len()..];
            for (at, c) in arguments.char_indices() {
                match c {
                    '<' | '(' | '[' => depth += 1,
                    ')' | ']' => depth -= 1,
                    '>' if !arguments[..at].ends_with('-') => depth -= 1,
                    ',' if depth == 1 => second = Some(at + 1),
                    _ => {}
                }
                if depth == 0 {
                    if second.is_some_and(|second| arguments[second..at].trim() == "String") {
                        found.push(format!("src/{}: Result<{}>", self.path.display(), &arguments[..at]));
                    }
                    break;
                }
            }
        }
        found
    }
}

#[test]
fn an_error_without_a_kind_and_a_string_for_an_error_are_caught() {
    let source = |text: &str| Source::new(std::path::Path::new("api/a.rs"), text);
    let error = "#[derive(Debug, thiserror::Error)]\n#[error(\"x\")]\npub enum AError {\n    A,\n}\n";
    let kind = "\nimpl HasKind for AError {\n    fn kind(&self) -> &'static str {\n        \"a\"\n    }\n}\n";
    assert_eq!(source(error).errors_without_kind(), ["src/api/a.rs: AError"]);
    assert_eq!(source(&format!("{error}{}", kind.replace("AError", "BError"))).errors_without_kind().len(), 1);
    assert_eq!(source(&format!("{error}{kind}")).errors_without_kind(), Vec::<String>::new());
    for bad in ["Result<(), String>", "Result<Vec<(u8, u8)>, String>", "Result<\n    fn(u8) -> u8,\n    String,\n>"] {
        let bad = bad.replace(",\n>", "\n>");
        assert_eq!(source(&format!("fn f() -> {bad} {{}}")).string_errors().len(), 1, "{bad}");
    }
    for good in ["Result<String, Error>", "io::Result<String>", "Result<Vec<String>, InvalidName>"] {
        assert_eq!(source(&format!("fn f() -> {good} {{}}")).string_errors(), Vec::<String>::new(), "{good}");
    }
}
