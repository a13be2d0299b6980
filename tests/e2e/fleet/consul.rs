//! Plain HTTP to Consul over a `TcpStream`: what the judge sees, it sees without a line of the product.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

/// Above the longest wait of any blocking query here.
const SOCKET_LIMIT: Duration = Duration::from_secs(70);

/// One Consul agent, and the token to come with.
#[derive(Clone, Debug)]
pub(crate) struct Consul {
    /// `127.x.y.z:8500`
    pub(crate) address: String,
    pub(crate) token: Option<String>,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// `X-Consul-Index`; 0 if there is none.
    pub(crate) index: u64,
    pub(crate) body: Vec<u8>,
}

/// A key as Consul has it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) modify_index: u64,
    pub(crate) session: Option<String>,
    pub(crate) value: Vec<u8>,
}

impl Entry {
    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.value).ok()
    }
}

impl Consul {
    /// # Errors
    ///
    /// The connection's; an agent that is stopped or starts is no failure of a test by itself.
    pub(crate) fn call(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOCKET_LIMIT))?;
        let token = self.token.as_ref().map(|token| format!("X-Consul-Token: {token}\r\n")).unwrap_or_default();
        let mut request = format!(
            "{method} /v1/{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{token}Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        stream.write_all(&request)?;
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw)?;
        parse(&raw).ok_or_else(|| std::io::Error::other(format!("not HTTP: {:?}", String::from_utf8_lossy(&raw))))
    }

    /// Keys under a prefix (or one key), with the index to block on.
    ///
    /// # Errors
    ///
    /// The connection's, and any status but 200 and 404.
    pub(crate) fn keys(&self, path: &str, query: &str) -> std::io::Result<(u64, Vec<Entry>)> {
        let reply = self.call("GET", &format!("kv/{path}?{query}"), b"")?;
        match reply.status {
            200 => {
                let list: Vec<Value> = serde_json::from_slice(&reply.body)?;
                Ok((reply.index, list.iter().map(entry).collect()))
            }
            404 => Ok((reply.index, Vec::new())),
            other => Err(std::io::Error::other(format!("{path}: status {other}"))),
        }
    }

    /// One key, read consistently.
    ///
    /// # Errors
    ///
    /// As [`Consul::keys`].
    pub(crate) fn key(&self, path: &str) -> std::io::Result<Option<Entry>> {
        Ok(self.keys(path, "consistent")?.1.into_iter().next())
    }
}

fn entry(value: &Value) -> Entry {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let decode = |text: String| base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    Entry {
        key: text("Key").unwrap_or_default(),
        modify_index: value["ModifyIndex"].as_u64().unwrap_or(0),
        session: text("Session"),
        value: text("Value").map(decode).unwrap_or_default(),
    }
}

fn parse(raw: &[u8]) -> Option<Reply> {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&raw[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let index = header("X-Consul-Index").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let body = &raw[end + 4..];
    let is_chunked = header("Transfer-Encoding").is_some_and(|(_, value)| value.eq_ignore_ascii_case("chunked"));
    Some(Reply { status, index, body: if is_chunked { dechunk(body)? } else { body.to_vec() } })
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + length)?);
        rest = rest.get(line + 2 + length + 2..)?;
    }
}
