//! Bodies, paths and queries, read strictly: what is not understood is an error that names it.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

use super::describe::{Operation, Part};
use super::error::Problem;
use crate::protocol::ids::{self, Epoch};

/// How long a body may take. The largest is 1 MiB.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// A body of any kind, within the route's limit and in time.
#[derive(Debug)]
pub(super) struct Raw(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Ok(read) = tokio::time::timeout(BODY_LIMIT, Bytes::from_request(request, state)).await else {
            let message = format!("the body did not arrive within {} seconds", BODY_LIMIT.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", message, "send the request again"));
        };
        read.map(Self).map_err(|rejection: BytesRejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let (message, hint) = ("the body is too large", "the limit is 64 KiB, and 1 MiB for /v1/watch");
                return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message, hint);
            }
            Problem::usage("the body was cut off", "send the request again")
        })
    }
}

/// Reads the whole body before the handler starts, so that a slow client does not hold one of the slots for Consul.
pub(super) async fn whole(request: Request, next: Next) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let Raw(bytes) = Raw::from_request(Request::from_parts(parts.clone(), body), &()).await?;
    Ok(next.run(Request::from_parts(parts, Body::from(bytes))).await)
}

/// A JSON object, as received. An absent body is an empty object. `T` describes it.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) Bytes, pub(super) PhantomData<T>);

impl<S: Send + Sync, T> FromRequest<S> for Object<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(CONTENT_TYPE).cloned();
        let Raw(bytes) = Raw::from_request(request, state).await?;
        if bytes.is_empty() && kind.is_none() {
            return Ok(Self(Bytes::from_static(b"{}"), PhantomData));
        }
        let kind = kind.as_ref().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let message = "the Content-Type of the body is not application/json";
            let hint = "send it with Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message, hint));
        }
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::usage("the body is not a JSON object", "write it as {\"name\": …}"));
        }
        Ok(Self(bytes, PhantomData))
    }
}

impl<T: JsonSchema> Part for Object<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.object::<T>();
    }
}

/// Parses an object; the type decides whether unknown fields are refused.
pub(super) fn fields<T: DeserializeOwned>(object: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(object);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|e| match e.path().to_string().as_str() {
        "." => e.inner().to_string(),
        path => format!("{path}: {}", e.inner()),
    });
    read.and_then(|value| reader.end().map(|()| value).map_err(|e| e.to_string())).map_err(|problem| {
        Problem::usage(format!("the body is not valid: {problem}"), "GET /v1/openapi.json describes it")
    })
}

/// A JSON object with these fields.
#[derive(Debug)]
pub(super) struct Fields<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Fields<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Object(bytes, _) = Object::<T>::from_request(request, state).await?;
        fields(&bytes).map(Self)
    }
}

impl<T: JsonSchema> Part for Fields<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.object::<T>();
    }
}

/// The names in the path.
#[derive(Debug)]
pub(super) struct At<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::from_request_parts(parts, state)
            .await
            .map(|Path(names)| Self(names))
            .map_err(|rejection| Problem::usage(rejection.body_text(), "correct the names in the address"))
    }
}

impl<T: JsonSchema> Part for At<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.path::<T>();
    }
}

/// The parameters of the query. The router refuses parameters that the table of routes does not list.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(asked)| Self(asked))
            .map_err(|rejection| Problem::usage(rejection.body_text(), "GET /v1/openapi.json describes it"))
    }
}

impl<T: DeserializeOwned + JsonSchema> Part for Asked<T> {
    fn query() -> &'static [&'static str] {
        names::<T>()
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.query::<T>();
    }
}

/// The names of a struct's fields, as they are written in a query.
pub(super) fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &[&str] = &[];
    // Fails, because nothing is read: serde only tells which fields it would read.
    drop(T::deserialize(Names(&mut names)));
    names
}

/// Takes note of the fields that serde asks for.
struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("nothing is read"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A value that is parsed from text by its `FromStr`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: FromStr<Err: std::fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// A type with a written form.
pub(super) trait Written {
    /// What that form matches.
    const PATTERN: &'static str;
    const EXAMPLE: &'static str;
    const DESCRIPTION: &'static str;
}

impl Written for Epoch {
    const PATTERN: &'static str = ids::EPOCH_PATTERN;
    const EXAMPLE: &'static str = "512";
    const DESCRIPTION: &'static str = "The number of a request: 512, or 1.512 from era 1 on.";
}

impl<T: Written> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let (description, examples) = (T::DESCRIPTION, [T::EXAMPLE]);
        json_schema!({"type": "string", "pattern": T::PATTERN, "description": description, "examples": examples})
    }
}
