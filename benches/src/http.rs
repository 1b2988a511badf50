//! The least of an HTTP/1.1 client: one kept connection, one request at a time. It costs little beside the
//! server that is measured, and it is the same for all servers.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
};

/// A kept connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// A user of the API, over a connection of their own.
pub(crate) struct User {
    pub(crate) api: SocketAddr,
    pub(crate) token: String,
    connection: Connection,
}

// === impl Connection ===

impl Connection {
    /// Connects from one of this machine's addresses.
    pub(crate) async fn open(from: Ipv4Addr, to: SocketAddr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from.into(), 0))?;
        let stream = socket
            .connect(to)
            .await
            .with_context(|| format!("{to} does not answer"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a whole request and reads its whole answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await?;
        let mut line = String::new();
        self.line(&mut line).await?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("no status line: {line:?}"))?;
        let mut body_len = 0;
        let mut chunked = false;
        loop {
            line.clear();
            self.line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                body_len = value.trim().parse().context("a length is a number")?;
            }
            chunked |= name.eq_ignore_ascii_case("transfer-encoding");
        }
        let body = if chunked {
            self.chunks().await?
        } else {
            self.bytes(body_len).await?
        };
        Ok(Answer { status, body })
    }

    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut line = String::new();
        loop {
            line.clear();
            self.line(&mut line).await?;
            let len = usize::from_str_radix(line.trim(), 16).context("a chunk has a length")?;
            body.extend(self.bytes(len).await?);
            self.bytes(2).await?;
            if len == 0 {
                return Ok(body);
            }
        }
    }

    async fn line(&mut self, line: &mut String) -> Result<()> {
        ensure!(
            self.stream.read_line(line).await? > 0,
            "the server has hung up"
        );
        Ok(())
    }

    async fn bytes(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }
}

// === impl User ===

impl User {
    /// A user who is not logged in.
    pub(crate) async fn nobody(api: SocketAddr) -> Result<Self> {
        let connection = Connection::open(Ipv4Addr::LOCALHOST, api).await?;
        Ok(Self::over(connection, api))
    }

    /// A user who is not logged in, over a connection at hand.
    pub(crate) fn over(connection: Connection, api: SocketAddr) -> Self {
        Self {
            api,
            token: String::new(),
            connection,
        }
    }

    /// The same user over another connection.
    pub(crate) async fn again(&self) -> Result<Self> {
        Ok(Self {
            token: self.token.clone(),
            ..Self::nobody(self.api).await?
        })
    }

    /// The bytes of a request of this user.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        request(self.api, &self.token, (method, path), body)
    }

    /// Calls the API; the body of an answer that says that it went well.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = self.bytes(method, path, &body).await?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).with_context(|| format!("{path} answers no JSON"))
    }

    /// The text at a path.
    pub(crate) async fn page(&mut self, path: &str) -> Result<String> {
        let bytes = self.bytes("GET", path, "").await?;
        String::from_utf8(bytes).with_context(|| format!("{path} is no text"))
    }

    async fn bytes(&mut self, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
        let request = self.request(method, path, body);
        let answer = self.connection.exchange(&request).await?;
        if !(200..300).contains(&answer.status) {
            let said = String::from_utf8_lossy(&answer.body);
            bail!("{method} {path}: {} {said}", answer.status);
        }
        Ok(answer.body)
    }
}

/// The bytes of a request; no token for nobody.
pub(crate) fn request(
    api: SocketAddr,
    token: &str,
    (method, path): (&str, &str),
    body: &str,
) -> Vec<u8> {
    let token = match token {
        "" => String::new(),
        token => format!("authorization: Bearer {token}\r\n"),
    };
    let kind = if body.is_empty() {
        ""
    } else {
        "content-type: application/json\r\n"
    };
    let len = body.len();
    format!("{method} {path} HTTP/1.1\r\nhost: {api}\r\n{token}{kind}content-length: {len}\r\n\r\n{body}").into_bytes()
}

/// A text of an answer.
pub(crate) fn text(answer: &Value, name: &str) -> Result<String> {
    answer[name]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("{name} is missing in {answer}"))
}
