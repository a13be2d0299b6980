//! The form that the schemas of types have in the `OpenAPI` document.

use schemars::Schema;
use schemars::transform::transform_subschemas;
use serde_json::{Value, json};

/// Makes a schema plainer, and each schema in it.
pub(super) fn tidy(schema: &mut Schema) {
    transform_subschemas(&mut tidy, schema);
    list_words(schema);
    drop_nulls(schema);
    // Answers are complete, and a body's description says what an absent field means.
    schema.remove("default");
    // `minimum` and `maximum` say the same about numbers, in words that every program knows.
    if schema.get("format").and_then(Value::as_str).is_some_and(|format| format.contains("int")) {
        schema.remove("format");
    }
}

/// Turns a choice of words, each a schema with its own description, into one list of words.
fn list_words(schema: &mut Schema) {
    let Some(choices) = ["oneOf", "anyOf"].into_iter().find_map(|key| schema.get(key)?.as_array().cloned()) else {
        return;
    };
    let (mut words, mut lines) = (Vec::new(), Vec::new());
    for choice in &choices {
        match (choice.get("const"), choice.get("enum").and_then(Value::as_array)) {
            (Some(Value::String(word)), _) => {
                words.push(json!(word));
                lines.extend(choice["description"].as_str().map(|text| format!("- `{word}`: {text}")));
            }
            (None, Some(more)) => {
                words.extend(more.iter().cloned());
                lines.extend(
                    choice["description"].as_str().and_then(|text| text.find("- `").map(|at| text[at..].to_owned())),
                );
            }
            _ => return,
        }
    }
    let heading = schema.get("description").and_then(Value::as_str).map(str::to_owned);
    let list = Some(lines.join("\n")).filter(|list| !list.is_empty());
    let description: Vec<String> = heading.into_iter().chain(list).collect();
    schema.remove("oneOf");
    schema.remove("anyOf");
    schema.insert("type".to_owned(), json!("string"));
    schema.insert("enum".to_owned(), words.into());
    if !description.is_empty() {
        schema.insert("description".to_owned(), description.join("\n\n").into());
    }
}

/// A field that may be left out is never null.
fn drop_nulls(schema: &mut Schema) {
    let required = schema.get("required").cloned().unwrap_or_default();
    let is_required = |name: &str| required.as_array().is_some_and(|names| names.iter().any(|it| it == name));
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (_, field) in properties.iter_mut().filter(|(name, _)| !is_required(name)) {
        let Some(field) = field.as_object_mut() else { continue };
        match (field.get("type").cloned(), field.get("anyOf").cloned()) {
            (Some(Value::Array(types)), _) => {
                let kept = types.into_iter().find(|it| it != "null");
                field.extend(kept.map(|kept| ("type".to_owned(), kept)));
            }
            (None, Some(Value::Array(choices))) if choices.contains(&json!({"type": "null"})) => {
                let kept = choices.into_iter().find(|it| *it != json!({"type": "null"}));
                field.remove("anyOf");
                field.extend(kept.as_ref().and_then(Value::as_object).cloned().into_iter().flatten());
            }
            _ => {}
        }
    }
}
