//! What the signature of a handler says about its operation in the `OpenAPI` document: each [`Part`] of a request that the
//! handler takes, and the [`Reply`] that it gives.
//!
//! A handler that takes or gives anything else cannot stand in the table of routes: it does not compile.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::handler::Handler;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Api;
use super::error::Problem;
use super::refusal::{NOT_JSON, Refusal};

/// The content type of JSON.
const JSON: &str = "application/json";

/// A handler that the document can describe. `T` is what axum makes of its parameters.
#[diagnostic::on_unimplemented(
    message = "the OpenAPI document cannot describe this handler",
    note = "each parameter of a handler is a `Part`, and what it returns is a `Reply`, or a result of one and a `Problem`"
)]
pub(super) trait Described<T>: Handler<T, Arc<Api>> {
    /// The parameters that the query may have.
    fn query() -> &'static [&'static str];
    /// Describes what the handler takes and gives.
    fn describe(operation: &mut Operation<'_>);
}

/// Something that a handler takes from a request.
pub(super) trait Part {
    /// The parameters that it takes from the query.
    fn query() -> &'static [&'static str] {
        &[]
    }

    fn describe(_: &mut Operation<'_>) {}
}

/// Something that a handler answers.
pub(super) trait Reply: IntoResponse {
    fn describe(operation: &mut Operation<'_>);
}

/// Reads the signatures of handlers with this many parts.
macro_rules! described {
    ($($part:ident)*) => {
        impl<F, Fut, R, M, $($part,)*> Described<(M, $($part,)*)> for F
        where
            F: Handler<(M, $($part,)*), Arc<Api>> + Fn($($part),*) -> Fut,
            Fut: Future<Output = R>,
            R: Reply,
            $($part: Part,)*
        {
            fn query() -> &'static [&'static str] {
                [$($part::query()),*].into_iter().find(|names: &&[_]| !names.is_empty()).unwrap_or_default()
            }

            fn describe(operation: &mut Operation<'_>) {
                $($part::describe(operation);)*
                R::describe(operation);
            }
        }
    };
}

described!();
described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
described!(A B C D E);

impl Part for State<Arc<Api>> {}
impl Part for Uri {}
impl Part for HeaderMap {}

impl<R: Reply> Reply for Result<R, Problem> {
    fn describe(operation: &mut Operation<'_>) {
        R::describe(operation);
    }
}

/// A document, in the words of its type.
impl<T: Serialize + JsonSchema> Reply for Json<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.document::<T>(StatusCode::OK);
    }
}

/// The schemas of a document. A type that callers send is described as it is read: what has a default may be left out. A
/// type that the agent sends is described as it is written.
#[derive(Debug)]
pub(super) struct Schemas {
    pub(super) read: SchemaGenerator,
    pub(super) written: SchemaGenerator,
}

/// Whether a request has to carry a parameter or a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Optional,
    Required,
}

/// One operation, while it is described.
#[derive(Debug)]
pub(super) struct Operation<'a> {
    schemas: &'a mut Schemas,
    /// The names in the path, in order.
    names: Vec<&'static str>,
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: Map<String, Value>,
    refusals: Vec<Refusal>,
    takes_token: bool,
}

impl<'a> Operation<'a> {
    /// The operation of an address, with names in braces.
    pub(super) fn new(schemas: &'a mut Schemas, path: &'static str) -> Self {
        let names = path.split('{').skip(1).filter_map(|part| part.split('}').next()).collect();
        Self {
            schemas,
            names,
            parameters: Vec::new(),
            body: None,
            responses: Map::new(),
            refusals: Vec::new(),
            takes_token: false,
        }
    }

    /// The operation uses the caller's token.
    pub(super) const fn takes_token(&mut self) {
        self.takes_token = true;
    }

    /// The operation may answer with these errors.
    pub(super) fn refuses(&mut self, refusals: &[Refusal]) {
        self.refusals.extend_from_slice(refusals);
    }

    /// The names in the path are of this type, or of the types of this tuple.
    pub(super) fn path<T: JsonSchema>(&mut self) {
        let schema = self.schemas.read.subschema_for::<T>();
        let of_tuple = schema.get("prefixItems").and_then(Value::as_array).cloned();
        let names = self.names.clone();
        for (name, schema) in names.into_iter().zip(of_tuple.unwrap_or_else(|| vec![schema.to_value()])) {
            self.parameter(name, "path", Presence::Required, schema);
        }
    }

    /// The fields of this type are parameters of the query.
    pub(super) fn query<T: JsonSchema>(&mut self) {
        let schema = self.schemas.read.root_schema_for::<T>();
        let required = schema.get("required").cloned().unwrap_or_default();
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let presence = match required.as_array() {
                Some(names) if names.contains(&json!(name)) => Presence::Required,
                Some(_) | None => Presence::Optional,
            };
            self.parameter(name, "query", presence, schema.clone());
        }
    }

    /// A parameter. The document says here, too, what the schema says about it.
    fn parameter(&mut self, name: &str, place: &str, presence: Presence, schema: Value) {
        let mut parameter = json!({"name": name, "in": place, "required": presence == Presence::Required});
        let definition =
            schema["$ref"].as_str().and_then(|at| self.schemas.read.definitions().get(at.rsplit('/').next()?));
        let saying = |key: &str| schema.get(key).or_else(|| definition?.get(key)).cloned();
        if let Some(description) = saying("description") {
            parameter["description"] = description;
        }
        if let Some(example) = saying("examples").and_then(|examples| examples.get(0).cloned()) {
            parameter["example"] = example;
        }
        parameter["schema"] = schema;
        self.parameters.push(parameter);
    }

    /// The body is a JSON object of this type. It may be left out where an empty object may be sent.
    pub(super) fn object<T: JsonSchema>(&mut self) {
        let schema = self.schemas.read.root_schema_for::<T>();
        let demands = ["required", "anyOf", "oneOf"].into_iter().find(|key| schema.get(*key).is_some());
        let presence = demands.map_or(Presence::Optional, |_| Presence::Required);
        let schema = self.schemas.read.subschema_for::<T>();
        self.body(presence, JSON, &schema);
        self.refuses(&[NOT_JSON]);
    }

    pub(super) fn body(&mut self, presence: Presence, content_type: &str, schema: &Schema) {
        let is_required = presence == Presence::Required;
        self.body = Some(json!({"required": is_required, "content": {content_type: {"schema": schema}}}));
    }

    /// The schema of something that the agent sends.
    pub(super) fn written<T: JsonSchema>(&mut self) -> Schema {
        self.schemas.written.subschema_for::<T>()
    }

    /// Answers with a document, which its type describes.
    pub(super) fn document<T: JsonSchema>(&mut self, status: StatusCode) -> &mut Value {
        let description = self.schemas.written.root_schema_for::<T>().get("description").cloned().unwrap_or_default();
        let schema = self.written::<T>();
        self.answer(status, description.as_str().unwrap_or_default(), Some((JSON, schema)))
    }

    /// Answers with this content, or without any.
    pub(super) fn answer(
        &mut self,
        status: StatusCode,
        description: &str,
        content: Option<(&str, Schema)>,
    ) -> &mut Value {
        let mut response = json!({"description": description});
        if let Some((content_type, schema)) = content {
            response["content"] = json!({content_type: {"schema": schema}});
        }
        self.responses.entry(status.as_u16().to_string()).or_insert(response)
    }

    /// The finished operation, and the errors that it may answer with.
    pub(super) fn finish(self, id: &str, summary: &str) -> (Value, Vec<Refusal>) {
        let Self { parameters, body, mut responses, refusals, takes_token, .. } = self;
        for refusal in &refusals {
            let reference = json!({"$ref": format!("#/components/responses/{}", refusal.name)});
            responses.insert(refusal.status.as_u16().to_string(), reference);
        }
        let mut operation = json!({"operationId": id, "summary": summary, "responses": responses});
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        if !takes_token {
            operation["security"] = json!([]);
        }
        (operation, refusals)
    }
}

/// Adds a header to a response.
pub(super) fn header(response: &mut Value, name: &str, description: &str) {
    response["headers"][name] = json!({"description": description, "schema": {"type": "string"}});
}
