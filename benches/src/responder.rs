//! The reference servers of the reading bench, each a process of its own with the runtime that the daemon has: a
//! bare hyper server, and one that reads a request's head and answers a prepared text. Nothing that speaks HTTP over
//! tokio can do less than the second, nothing over hyper less than the first.

use std::{convert::Infallible, io::Write, net::Ipv4Addr, sync::Arc};

use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Builder,
};

/// Longest head that a request may have.
const HEAD_BYTES_MAX: usize = 8192;

/// How it answers.
#[derive(Debug, Clone)]
enum Answers {
    /// With these bytes, whatever was asked.
    Raw(Arc<[u8]>),
    /// By hyper, with this body.
    Hyper(Bytes),
}

/// Serves bodies of this length until it is killed; says its port on standard output.
pub(crate) fn serve(kind: &str, body_len: usize) -> Result<()> {
    let body = "x".repeat(body_len);
    let answers = match kind {
        "raw" => {
            let head = format!("content-type: application/json\r\ncontent-length: {body_len}");
            let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
            Answers::Raw(text.into_bytes().into())
        }
        "hyper" => Answers::Hyper(body.into()),
        _ => bail!("there is no {kind} responder"),
    };
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut out = std::io::stdout();
        writeln!(out, "{}", listener.local_addr()?)?;
        out.flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // How a connection ends is the client's affair.
            match answers.clone() {
                Answers::Raw(answer) => {
                    tokio::spawn(
                        async move { answer_raw(stream, &answer).await.unwrap_or_default() },
                    );
                }
                Answers::Hyper(body) => {
                    tokio::spawn(
                        async move { answer_by_hyper(stream, body).await.unwrap_or_default() },
                    );
                }
            }
        }
    })
}

async fn answer_raw(mut stream: TcpStream, answer: &[u8]) -> Result<()> {
    let mut heard = Vec::with_capacity(HEAD_BYTES_MAX);
    loop {
        if stream.read_buf(&mut heard).await? == 0 || heard.len() > HEAD_BYTES_MAX {
            return Ok(());
        }
        if heard.ends_with(b"\r\n\r\n") {
            stream.write_all(answer).await?;
            heard.clear();
        }
    }
}

async fn answer_by_hyper(stream: TcpStream, body: Bytes) -> Result<()> {
    let service = service_fn(move |_: Request<Incoming>| {
        let mut response = Response::new(Full::new(body.clone()));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    Ok(connection.await?)
}
