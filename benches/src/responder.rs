//! The reference server of the reading bench: reads a request's head and answers a prepared text. Nothing that
//! speaks HTTP over tokio can do less, so no framework's choices are in the reference.

use std::{io::Write, net::Ipv4Addr, sync::Arc};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// Longest head that a request may have.
const HEAD_BYTES_MAX: usize = 8192;

/// Serves bodies of this length until it is killed; says its port on standard output.
pub(crate) fn serve(body_len: usize) -> Result<()> {
    let body = "x".repeat(body_len);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {body_len}\r\n\r\n{body}"
    );
    let answer: Arc<[u8]> = answer.into_bytes().into();
    Runtime::new()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut out = std::io::stdout();
        writeln!(out, "{}", listener.local_addr()?)?;
        out.flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            let answer = Arc::clone(&answer);
            // How a connection ends is the client's affair.
            tokio::spawn(async move { answer_all(stream, &answer).await.unwrap_or_default() });
        }
    })
}

async fn answer_all(mut stream: TcpStream, answer: &[u8]) -> Result<()> {
    stream.set_nodelay(true)?;
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
