//! Forms as browsers send them, read as strictly as JSON.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use crate::api::body::Raw;
use crate::api::error::Problem;

/// The fields of a form. Unknown and repeated fields are refused.
#[derive(Debug)]
pub(super) struct Form<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Form<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let Raw(bytes) = Raw::from_request(request, state).await?;
        if !bytes.is_empty() && essence != "application/x-www-form-urlencoded" {
            let hint = "send it as application/x-www-form-urlencoded; programs use the API, see /v1/openapi.json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_a_form", "the body is not a form", hint));
        }
        read(&bytes).map(Self)
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let refused = |message: String| Problem::usage(message, "reload the page, and submit its form");
    let mut fields = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(bytes) {
        if fields.insert(name.clone().into_owned(), value.into_owned()).is_some() {
            return Err(refused(format!("{name}: given twice")));
        }
    }
    let object = fields.into_iter().map(|(name, value)| (name, serde_json::Value::String(value))).collect();
    serde_json::from_value(serde_json::Value::Object(object)).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Words {
        reason: String,
    }

    #[test]
    fn a_form_is_read_strictly() {
        assert_eq!(read::<Words>(b"reason=a+%3Cb%3E").unwrap().reason, "a <b>");
        for wrong in ["", "reason=a&reason=b", "reason=a&by=ann"] {
            assert_eq!(read::<Words>(wrong.as_bytes()).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
