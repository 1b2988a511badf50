//! Strangers who do not keep to the rules: half a request, a line that never ends, a hundred thousand headers, a message
//! smuggled into another. Each gets a clear end, and the daemon goes on for everybody else.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use inboxgrove_tests::world::World;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Longer than the header timeout that these stories set, and than any answer takes.
const END_WITHIN: Duration = Duration::from_secs(20);
/// As a hostile client has it: many times what is allowed.
const HEADERS: usize = 100_000;

#[tokio::test]
async fn half_a_request_is_hung_up_on() -> Result<()> {
    let world = World::new()
        .settings("[api.limits]\nheader_timeout_ms = 500\n")
        .start()
        .await?;
    let api = address(&world)?;

    let mut silent = TcpStream::connect(api).await?;
    let mut half = TcpStream::connect(api).await?;
    half.write_all(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-")
        .await?;

    for (who, stream) in [
        ("a silent client", &mut silent),
        ("half a request", &mut half),
    ] {
        to_the_end(stream)
            .await
            .with_context(|| format!("{who} was not hung up on"))?;
    }
    assert!(
        world
            .daemon
            .api()?
            .get("/health/ready")
            .await?
            .status
            .is_success()
    );
    Ok(())
}

#[tokio::test]
async fn two_lengths_and_endless_headers_are_refused() -> Result<()> {
    let world = World::new().start().await?;
    let api = address(&world)?;
    let both = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let many = format!(
        "GET /health HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "A: b\r\n".repeat(HEADERS)
    );

    for (what, request) in [("two lengths", both), ("endless headers", many.as_str())] {
        let mut stream = TcpStream::connect(api).await?;
        // It may hang up while we still write.
        stream.write_all(request.as_bytes()).await.ok();
        let answer = to_the_end(&mut stream).await.unwrap_or_default();
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{what}: {answer}");
    }
    assert!(
        world
            .daemon
            .api()?
            .get("/health/ready")
            .await?
            .status
            .is_success()
    );
    Ok(())
}

#[tokio::test]
async fn a_message_cannot_be_smuggled_into_another() -> Result<()> {
    let mut world = World::new().start().await?;
    let (acme, _domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?;

    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r"] {
        let mut stream = BufReader::new(TcpStream::connect(world.daemon.smtp()?).await?);
        for (command, expected) in [
            (String::new(), "220"),
            ("EHLO x.post.test\r\n".to_owned(), "250"),
            ("MAIL FROM:<anna@post.test>\r\n".to_owned(), "250"),
            (format!("RCPT TO:<{}>\r\n", inbox.address), "250"),
            ("DATA\r\n".to_owned(), "354"),
        ] {
            stream.write_all(command.as_bytes()).await?;
            let said = reply(&mut stream).await?;
            ensure!(said.starts_with(expected), "{command:?}: {said}");
        }
        // What another server might take for the end, and what it would then take for commands.
        let data = format!(
            "Subject: outer\r\n\r\nHello{end}MAIL FROM:<evil@post.test>\r\nRCPT TO:<{}>\r\nDATA\r\n\
             Subject: smuggled\r\n\r\nHello\r\n.\r\n",
            inbox.address
        );
        stream.write_all(data.as_bytes()).await?;
        let said = reply(&mut stream).await?;
        ensure!(said.starts_with('5'), "{end:?} was taken: {said}");
        // It may have hung up already.
        stream.write_all(b"QUIT\r\n").await.ok();
        let rest = to_the_end(stream.get_mut()).await?;
        let answers = rest.lines().filter(|line| !line.starts_with("221")).count();
        assert_eq!(answers, 0, "after {end:?} there were commands: {rest}");
    }

    let subjects: Vec<String> = acme
        .messages(inbox)
        .await?
        .iter()
        .map(|message| message["subject"].to_string())
        .collect();
    assert_eq!(subjects, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_hundred_thousand_headers_are_one_refusal_and_no_more() -> Result<()> {
    let mut world = World::new().start().await?;
    let (_acme, _domain, inboxes) = world.tenant("acme", "acme.test", 1).await?;
    let inbox = inboxes.first().context("an inbox")?;

    let talk = format!(
        "EHLO x.post.test\r\nMAIL FROM:<anna@post.test>\r\nRCPT TO:<{}>\r\nDATA\r\n{}\r\nHello\r\n.\r\nQUIT\r\n",
        inbox.address,
        "X-Header: y\r\n".repeat(HEADERS)
    );
    let mut stream = TcpStream::connect(world.daemon.smtp()?).await?;
    // It may hang up while we still write.
    stream.write_all(talk.as_bytes()).await.ok();
    let said = to_the_end(&mut stream).await?;

    let last_word = said
        .lines()
        .rev()
        .find(|line| !line.starts_with("221"))
        .unwrap_or_default();
    assert!(
        last_word.starts_with('5') || last_word.starts_with("250"),
        "{said}"
    );
    assert!(
        world
            .daemon
            .api()?
            .get("/health/ready")
            .await?
            .status
            .is_success()
    );
    assert!(
        !world.daemon.log().contains("panicked"),
        "{}",
        world.daemon.log_tail()
    );
    Ok(())
}

fn address(world: &World) -> Result<SocketAddr> {
    let api = world.daemon.api()?;
    let host = api.base().trim_start_matches("http://");
    host.parse().with_context(|| format!("no address: {host}"))
}

/// The last line of a reply.
async fn reply(stream: &mut BufReader<TcpStream>) -> Result<String> {
    loop {
        let mut line = String::new();
        let read = timeout(END_WITHIN, stream.read_line(&mut line)).await;
        ensure!(read?? > 0, "hung up");
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line);
        }
    }
}

/// Everything the other side says until it hangs up.
async fn to_the_end(stream: &mut TcpStream) -> Result<String> {
    let mut said = Vec::new();
    let ended = timeout(END_WITHIN, stream.read_to_end(&mut said)).await;
    ensure!(ended.is_ok(), "still open after {} s", END_WITHIN.as_secs());
    // A reset is a hang-up, too.
    Ok(String::from_utf8_lossy(&said).into_owned())
}
