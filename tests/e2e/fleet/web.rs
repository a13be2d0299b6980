//! A client of the agents' API that sends exactly what it is told: over a `TcpStream`, without a line of the product.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::node::Node;

/// Above every limit of the server.
const SOCKET_LIMIT: Duration = Duration::from_mins(2);

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(raw: &[u8]) -> Self {
        let text = || String::from_utf8_lossy(raw);
        let end = raw.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("{:?}", text()));
        let head = String::from_utf8_lossy(&raw[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self { status: status.unwrap_or_else(|| panic!("{head}")), head, body: raw[end + 4..].to_vec() }
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The document of an answer with this status.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.text());
        self.json()
    }

    /// The error of an answer with this status and kind, complete as every error is.
    pub(crate) fn refused(&self, status: u16, kind: &str) -> String {
        let error = self.expect(status)["error"].clone();
        assert_eq!(error["kind"], kind, "{error}");
        assert!(error["hint"].is_string(), "{error}");
        error["message"].as_str().unwrap().to_owned()
    }
}

/// One agent's API, and the headers to come with.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    pub(crate) address: String,
    headers: String,
}

impl Web {
    pub(crate) fn of(node: &Node) -> Self {
        Self { address: node.api.clone(), headers: String::new() }
    }

    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        Self { address: self.address.clone(), headers: format!("{}{name}: {value}\r\n", self.headers) }
    }

    pub(crate) fn token(&self, token: &str) -> Self {
        self.with("X-Consul-Token", token)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, Some(&body.to_string()))
    }

    pub(crate) fn ask(&self, method: &str, path: &str, json: Option<&str>) -> Answer {
        self.call(method, path, json.map(|_| "application/json"), json.unwrap_or_default())
    }

    pub(crate) fn post_form(&self, path: &str, body: &str) -> Answer {
        self.call("POST", path, Some("application/x-www-form-urlencoded"), body)
    }

    fn call(&self, method: &str, path: &str, kind: Option<&str>, body: &str) -> Answer {
        let kind = kind.map(|kind| format!("Content-Type: {kind}\r\n")).unwrap_or_default();
        let host = if self.headers.contains("Host: ") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let (headers, length) = (&self.headers, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}{kind}Content-Length: {length}\r\n\r\n"
        );
        self.send(format!("{head}{body}").as_bytes())
    }

    /// Sends these bytes, and reads until the other end hangs up.
    pub(crate) fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // What is refused early is not read to its end.
        _ = stream.write_all(bytes);
        let mut raw = Vec::new();
        _ = stream.read_to_end(&mut raw);
        Answer::parse(&raw)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(SOCKET_LIMIT)).unwrap();
        stream
    }
}
