//! Builds the `OpenAPI` document from the table of routes and the types that its handlers take and give. The file in the
//! tree, which agents serve, must equal it (docs/development.md).

use std::collections::{BTreeMap, BTreeSet};

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::describe::{Described, Operation, Schemas};
use super::error::ErrorDocument;
use super::refusal::{ANYWHERE, OF_BODY, Refusal};
use super::route::Verb;
use super::routes::{self, About, Table};
use super::{cookie, schema};

/// The document, as far as the table has been read.
struct Document {
    schemas: Schemas,
    paths: Map<String, Value>,
    refusals: BTreeMap<&'static str, Refusal>,
    problems: Vec<String>,
}

impl Table for Document {
    fn add<T: 'static, H: Described<T>>(&mut self, verb: Verb, path: &'static str, _: H, about: About) {
        let mut operation = Operation::new(&mut self.schemas, path);
        operation.refuses(&ANYWHERE);
        if verb.has_body() {
            operation.refuses(&OF_BODY);
        }
        H::describe(&mut operation);
        operation.refuses(about.refusals);
        let (operation, refusals) = operation.finish(about.id, about.summary);
        if !has_parameters(&operation, H::query()) {
            self.problems.push(format!("{path}: the described parameters are not those that the router lets through"));
        }
        self.refusals.extend(refusals.into_iter().map(|refusal| (refusal.name, refusal)));
        self.paths.entry(path).or_insert_with(|| json!({}))[verb.as_str()] = operation;
    }
}

/// Whether these are the parameters of an operation's query.
fn has_parameters(operation: &Value, names: &[&str]) -> bool {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let described: BTreeSet<&str> =
        parameters.filter(|it| it["in"] == "query").filter_map(|it| it["name"].as_str()).collect();
    described == names.iter().copied().collect()
}

/// The document of the table.
///
/// # Errors
///
/// What cannot be described.
#[cfg_attr(not(test), expect(dead_code, reason = "agents serve the file in the tree; a test compares both"))]
pub(super) fn build() -> Result<Value, Vec<String>> {
    let settings = || {
        let settings = SchemaSettings::draft2020_12().with_transform(schema::tidy);
        settings.with(|settings| settings.definitions_path = "/components/schemas".into())
    };
    let schemas = Schemas {
        read: settings().for_deserialize().into_generator(),
        written: settings().for_serialize().into_generator(),
    };
    let mut document = Document { schemas, paths: Map::new(), refusals: BTreeMap::new(), problems: Vec::new() };
    routes::fill(&mut document);
    let Document { mut schemas, paths, refusals, mut problems } = document;
    let error = schemas.written.subschema_for::<ErrorDocument>();
    let content = json!({"application/json": {"schema": error}});
    let response = |refusal: &Refusal| json!({"description": refusal.description, "content": content});
    let responses: Map<String, Value> =
        refusals.values().map(|refusal| (refusal.name.to_owned(), response(refusal))).collect();
    let mut types = schemas.written.take_definitions(true);
    for (name, read) in schemas.read.take_definitions(true) {
        if types.get(&name).is_some_and(|written| *written != read) {
            problems.push(format!("{name}: two types have this name, or one is not read as it is written"));
        }
        types.insert(name, read);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cutover",
            "version": "1",
            "description": "Builds and deploys of a Consul fleet. Every request uses the Consul token that it carries, or \
                            Consul's anonymous token; see docs/http.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}, {"bearer": []}, {"cookie": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Consul-Token"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": cookie::NAME},
            },
            "responses": responses,
            "schemas": types,
        },
    }))
}
