//! `cutover watch-handler`: the script form of Consul's watch handler.
//!
//! Forwards the payload to the local agent, byte for byte. It decides nothing: the agent reads KV itself, so a lost
//! payload only costs time.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::cli::args::WatchHandler;
use crate::control::{Code, Failure};

/// The longest accepted payload, in bytes. Consul sends at most 256 buffered events of about 700 bytes each, or the keys
/// under a prefix without large values.
const MAX_PAYLOAD_BYTES: u64 = 1024 * 1024;
/// How long the agent may take to answer; it only notes that something changed. Consul runs one handler at a time, so a
/// handler that hangs would delay the next.
const AGENT_LIMIT: Duration = Duration::from_secs(2);
const PATH: &str = "/v1/watch";

/// Reads stdin to its end and posts it to the agent.
///
/// # Errors
///
/// Exit code 8 if the agent does not answer in time, 1 if the agent refuses or the payload is too long.
pub(crate) async fn run(args: &WatchHandler) -> Result<Code, Failure> {
    let payload = tokio::task::spawn_blocking(read_stdin)
        .await
        .map_err(|error| Failure::new(Code::Failed, "cannot read stdin").caused_by(error))??;
    let address = endpoint(&args.agent)?;
    let mut request =
        Request::builder().method(Method::POST).uri(address.clone()).header(header::CONTENT_TYPE, "application/json");
    // Consul's http handlers send the index as a header; script handlers get it as a variable.
    if let Ok(index) = std::env::var("CONSUL_INDEX") {
        request = request.header("X-Consul-Index", index);
    }
    let request = request
        .body(Full::new(Bytes::from(payload)))
        .map_err(|error| Failure::new(Code::Usage, format!("cannot build a request to {address}")).caused_by(error))?;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let unreachable = || {
        Failure::new(Code::Unreachable, format!("the agent at {} does not answer", args.agent)).hint(
            "check that `cutover agent` runs on this machine; no event is lost, because the agent also polls Consul",
        )
    };
    match tokio::time::timeout(AGENT_LIMIT, client.request(request)).await {
        Ok(Ok(answer)) if answer.status().is_success() => Ok(Code::Done),
        Ok(Ok(answer)) => {
            let what = format!("the agent at {} answered {} to {PATH}", args.agent, answer.status());
            Err(Failure::new(Code::Failed, what)
                .hint("another program may listen there; set the agent's address with --agent"))
        }
        Ok(Err(error)) => Err(unreachable().caused_by(error)),
        Err(_) => Err(unreachable().caused_by(format!("no answer within {AGENT_LIMIT:?}"))),
    }
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    std::io::stdin()
        .take(MAX_PAYLOAD_BYTES + 1)
        .read_to_end(&mut payload)
        .map_err(|error| Failure::new(Code::Failed, "cannot read stdin").caused_by(error))?;
    if payload.len() as u64 > MAX_PAYLOAD_BYTES {
        let what = format!("the payload on stdin is over {MAX_PAYLOAD_BYTES} bytes");
        return Err(Failure::new(Code::Failed, what).hint("the watch may follow a prefix that is too wide"));
    }
    Ok(payload)
}

/// The agent's address with the endpoint's path.
fn endpoint(agent: &Uri) -> Result<Uri, Failure> {
    let wrong = || {
        Failure::new(Code::Usage, format!("{agent} is not an agent's address"))
            .hint("--agent takes a URL without a path, for example http://127.0.0.1:8740")
    };
    let authority = agent.authority().ok_or_else(wrong)?;
    if agent.scheme_str() != Some("http") || !matches!(agent.path(), "" | "/") {
        return Err(wrong());
    }
    Uri::builder()
        .scheme("http")
        .authority(authority.clone())
        .path_and_query(PATH)
        .build()
        .map_err(|error| wrong().caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_address_is_an_http_url_without_a_path() {
        let at = |text: &str| endpoint(&text.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(at("http://127.0.0.1:8740").unwrap(), "http://127.0.0.1:8740/v1/watch");
        for wrong in ["127.0.0.1:8740", "https://127.0.0.1", "http://127.0.0.1/v1/watch", "/x"] {
            assert_eq!(at(wrong).unwrap_err().code, Code::Usage, "{wrong}");
        }
    }
}
