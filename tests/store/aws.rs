//! A small server that plays what is around S3 at AWS: the metadata service, ECS, STS, a proxy. It remembers each request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::LOCALHOST;

/// The keys that the bucket of the tests takes, as the metadata service, ECS and `credential_process` give them.
pub(crate) const KEYS: &str = r#"{"Version": 1, "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "test",
    "SecretAccessKey": "secret", "Token": "session", "SessionToken": "session", "Expiration": "2099-01-01T00:00:00Z"}"#;

/// A request, with its header in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// As `GET /latest/api/token`.
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Answers with this status, these lines of the header, and this body.
    Say { status: u16, header: &'static str, body: String },
    /// Never answers.
    Hang,
    /// Closes the connection.
    Close,
    /// As a proxy: connects to this address, and passes on what comes.
    Tunnel { to: SocketAddr },
}

impl Answer {
    pub(crate) fn ok(body: &str) -> Self {
        Self::Say { status: 200, header: "", body: body.to_owned() }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Say { status, header: "", body: String::new() }
    }
}

/// Answers each request by a function of it and of the number of requests before it.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        let task = tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                running.spawn(async move {
                    let mut client = client;
                    let Some(request) = read_request(&mut client).await else { return };
                    let before = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(request.clone());
                        seen.len() - 1
                    };
                    serve(client, answer(&request, before)).await;
                });
            }
        });
        Self { address, requests, task }
    }

    /// Fails the first request as `first` says, and answers the others.
    pub(crate) async fn start_failing(
        first: Option<Answer>,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |request, before| match &first {
            Some(first) if before == 0 => first.clone(),
            _ => answer(request),
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The first lines of the requests, without the version.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_request(client: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let (line, rest) = head.split_once("\r\n").unwrap();
    let headers: BTreeMap<String, String> = rest
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    client.read_exact(&mut body).await.ok()?;
    let line = line.rsplit_once(' ').unwrap().0.to_owned();
    Some(Request { line, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

async fn serve(mut client: TcpStream, answer: Answer) {
    match answer {
        Answer::Say { status, header, body } => {
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{header}Connection: close\r\n\r\n");
            let _gone = client.write_all(format!("{head}{body}").as_bytes()).await;
        }
        Answer::Hang => {
            let _gone = client.read_u8().await;
        }
        Answer::Close => {}
        Answer::Tunnel { to } => {
            let mut server = TcpStream::connect(to).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
            let _gone = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    }
}

/// The metadata service of an instance: only with a token, as its version 2.
pub(crate) fn metadata(request: &Request) -> Answer {
    if request.line == "PUT /latest/api/token" {
        let header = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
        return Answer::Say { status: 200, header, body: "a-token".to_owned() };
    }
    if request.headers.get("x-aws-ec2-metadata-token").map(String::as_str) != Some("a-token") {
        return Answer::status(401);
    }
    match request.line.as_str() {
        "GET /latest/meta-data/placement/region" => Answer::ok("eu-west-1"),
        "GET /latest/meta-data/iam/security-credentials/" => Answer::ok("web-role"),
        "GET /latest/meta-data/iam/security-credentials/web-role" => Answer::ok(KEYS),
        _ => Answer::status(404),
    }
}

/// STS: gives the keys for whatever role.
pub(crate) fn sts(request: &Request) -> Answer {
    let action = request.body.split('&').find_map(|field| field.strip_prefix("Action=")).unwrap();
    Answer::ok(&format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
         <AccessKeyId>test</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser>\
         <AssumedRoleId>1:x</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/web/x</Arn></AssumedRoleUser>\
         </{action}Result></{action}Response>"
    ))
}
