//! Clients that smuggle, drip, talk out of turn or go on for ever.

use std::net::SocketAddr;

use bytes::Bytes;
use inboxgrove_model::{DomainName, EmailAddress};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Duration, Instant, sleep},
};

use super::{Keeper, expect, rest, say, start};
use crate::smtp::{
    EnhancedStatus, Reply,
    server::{Ended, EnvelopeIn, Handler, Limits, Summary, Verdict, serve},
};

/// What may look like the end of a message to somebody else.
const ODD_ENDS: &[&str] = &[
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\n.\r",
    "\r.\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\0\n.\r\0\n",
    "\r\n.\r\r\n",
    "\r\r\n.\r\r\n",
    "\n\r.\n\r",
    "\r\n.\n\r\n",
    "\0.\n",
];

/// A second transaction, to be smuggled in.
const SECOND: &str = "MAIL FROM:<evil@example.org>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\nevil: 1\r\n\r\nsmuggled\r\n.\r\nQUIT\r\n";

/// Begins a transaction and sends `text` in segments of `size`, from the 354 on.
async fn transmit(text: &str, size: usize) -> (Summary, usize, String) {
    let mut served = start(Limits::default(), None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    say(stream, "MAIL FROM:<a@b.example>", "250").await;
    say(stream, "RCPT TO:<bob@example.net>", "250").await;
    say(stream, "DATA", "354").await;
    for segment in text.as_bytes().chunks(size) {
        // The server may hang up on us in the middle: that is its right.
        if stream.write_all(segment).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    drop(stream.shutdown().await);
    let heard = rest(stream).await;
    let summary = served.summary.await.unwrap();
    (summary, served.keeper.kept().len(), heard)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_smuggled_in_by_any_odd_end_in_any_segmentation() {
    for odd in ODD_ENDS {
        for size in [1, 7, 4096] {
            let text = format!("first: 1\r\n\r\nbody{odd}{SECOND}");
            let (summary, kept, heard) = transmit(&text, size).await;
            assert_eq!(kept, 0, "{odd:?} by {size}: {heard}");
            assert_eq!(summary.accepted, 0, "{odd:?} by {size}");
            assert!(
                heard.starts_with("550 5.6.11 "),
                "{odd:?} by {size}: {heard}"
            );
            assert_eq!(heard.lines().count(), 1, "{odd:?} by {size}: {heard}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_honest_second_transaction_is_heard() {
    for size in [1, 7] {
        let text = format!("first: 1\r\n\r\nbody\r\n.\r\n{SECOND}");
        let (_, kept, heard) = transmit(&text, size).await;
        // Byte by byte the client does wait behind DATA, so both are heard.
        assert!(kept >= 1, "{heard}");
        assert!(heard.starts_with("250 "), "{heard}");
    }
    let text = format!("first: 1\r\n\r\nbody\r\n.\r\n{SECOND}");
    let (summary, kept, heard) = transmit(&text, 4096).await;
    assert_eq!(kept, 1, "{heard}");
    assert_eq!(summary.ended, Ended::Violation("pipelining"));
}

#[tokio::test(start_paused = true)]
async fn broken_command_lines_close_the_session() {
    for (line, code) in [
        ("NOOP\nMAIL FROM:<a@b.example>\r\n", "500"),
        ("NOOP\rMAIL FROM:<a@b.example>\r\n", "500"),
        ("NOOP\0\r\n", "500"),
        ("BDAT 6 LAST\r\nQUIT\r\n", "502"),
        ("GET / HTTP/1.1\r\nHost: x\r\n", "500"),
        ("XCLIENT ADDR=127.0.0.1\r\nQUIT\r\n", "500"),
        (&"A".repeat(600), "500"),
    ] {
        let mut served = start(Limits::default(), None);
        expect(&mut served.stream, "220").await;
        say(&mut served.stream, "EHLO me", "250").await;
        served.stream.write_all(line.as_bytes()).await.unwrap();
        let heard = rest(&mut served.stream).await;
        assert!(heard.starts_with(code), "{line:?}: {heard}");
        assert_eq!(heard.lines().count(), 1, "{line:?}: {heard}");
        let ended = served.summary.await.unwrap().ended;
        assert!(matches!(ended, Ended::Violation(_)), "{line:?}: {ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_speaks_out_of_turn() {
    let mut served = start(Limits::default(), None);
    served.stream.write_all(b"EHLO me\r\n").await.unwrap();
    assert!(rest(&mut served.stream).await.starts_with("554 "));
    let pausing = Limits {
        greeting_pause: Duration::from_secs(2),
        ..Limits::default()
    };
    let mut served = start(pausing, None);
    sleep(Duration::from_secs(1)).await;
    served.stream.write_all(b"EHLO me\r\n").await.unwrap();
    assert!(rest(&mut served.stream).await.starts_with("554 "));
    for greedy in [
        "EHLO me\r\nMAIL FROM:<a@b.example>\r\n",
        "HELO me\r\nNOOP\r\n",
    ] {
        let mut served = start(Limits::default(), None);
        expect(&mut served.stream, "220").await;
        served.stream.write_all(greedy.as_bytes()).await.unwrap();
        let heard = rest(&mut served.stream).await;
        assert!(
            heard.starts_with("503 ") && heard.lines().count() == 1,
            "{heard}"
        );
    }
    let mut served = start(Limits::default(), None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    say(stream, "MAIL FROM:<a@b.example>", "250").await;
    say(stream, "RCPT TO:<bob@example.net>", "250").await;
    stream
        .write_all(b"DATA\r\nearly: 1\r\n\r\n.\r\n")
        .await
        .unwrap();
    assert!(rest(stream).await.starts_with("503 "));
    assert!(served.keeper.kept().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dripping_client_is_hung_up_on() {
    let mut served = start(Limits::default(), None);
    let begun = Instant::now();
    expect(&mut served.stream, "220").await;
    for byte in b"EHLO very-slow.example" {
        sleep(Duration::from_secs(40)).await;
        if served.stream.write_all(&[*byte]).await.is_err() {
            break;
        }
    }
    let summary = served.summary.await.unwrap();
    assert_eq!(summary.ended, Ended::TooSlow);
    assert!(rest(&mut served.stream).await.starts_with("421 4.4.2"));
    assert!(begun.elapsed() <= Duration::from_secs(340));

    let mut served = start(Limits::default(), None);
    let begun = Instant::now();
    expect(&mut served.stream, "220").await;
    loop {
        sleep(Duration::from_secs(250)).await;
        if served.stream.write_all(b"NOOP\r\n").await.is_err() {
            break;
        }
    }
    assert_eq!(served.summary.await.unwrap().ended, Ended::TooSlow);
    assert!(begun.elapsed() <= Duration::from_secs(30 * 60 + 250));
}

#[tokio::test(start_paused = true)]
async fn a_dripping_message_is_hung_up_on() {
    let mut served = start(Limits::default(), None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    say(stream, "MAIL FROM:<a@b.example>", "250").await;
    say(stream, "RCPT TO:<bob@example.net>", "250").await;
    say(stream, "DATA", "354").await;
    let begun = Instant::now();
    while stream.write_all(b"slow: drip\r\n").await.is_ok() {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(65));
    assert_eq!(served.summary.await.unwrap().ended, Ended::TooSlow);
    assert!(served.keeper.kept().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_listen_is_dropped() {
    let served = start(Limits::default(), None);
    let (mut reading, mut writing) = tokio::io::split(served.stream);
    let mut greeting = [0; 64];
    assert!(reading.read(&mut greeting).await.unwrap() > 0);
    writing.write_all(b"EHLO me\r\n").await.unwrap();
    let flood = async { while writing.write_all(b"RSET\r\n").await.is_ok() {} };
    let begun = Instant::now();
    let ((), summary) = tokio::join!(flood, served.summary);
    assert!(begun.elapsed() <= Duration::from_secs(601));
    assert!(matches!(
        summary.unwrap().ended,
        Ended::TooSlow | Ended::Violation(_) | Ended::Excess
    ));
}

#[tokio::test(start_paused = true)]
async fn refusals_and_idling_have_an_end() {
    let mut served = start(Limits::default(), None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    for _ in 0..9 {
        say(stream, "VRFY bob", "502").await;
    }
    say(stream, "EXPN all", "421").await;
    assert_eq!(served.summary.await.unwrap().ended, Ended::Excess);

    let mut served = start(Limits::default(), None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    for _ in 0..99 {
        say(stream, "NOOP", "250").await;
    }
    say(stream, "NOOP", "421").await;
    assert_eq!(served.summary.await.unwrap().ended, Ended::Excess);
}

#[tokio::test(start_paused = true)]
async fn commands_have_an_order_and_bounds() {
    let limits = Limits {
        message_bytes: 100,
        recipients: 2,
        errors: 100,
        ..Limits::default()
    };
    let mut served = start(limits, None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "MAIL FROM:<a@b.example>", "503").await;
    let offers = say(stream, "EHLO me", "250").await;
    for offer in [
        "PIPELINING",
        "SIZE 100",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
    ] {
        assert!(offers.contains(offer), "{offers}");
    }
    for absent in [
        "AUTH", "CHUNKING", "VRFY", "EXPN", "XCLIENT", "STARTTLS", "DSN",
    ] {
        assert!(!offers.contains(absent), "{offers}");
    }
    for (line, code) in [
        ("RCPT TO:<bob@example.net>", "503"),
        ("DATA", "503"),
        ("AUTH PLAIN AGEAYg==", "502"),
        ("STARTTLS", "503"),
        ("LHLO me", "502"),
        ("HELP", "214"),
        ("EHLO", "501"),
        ("EHLO a b", "501"),
        ("EHLO <script>", "501"),
        ("MAIL FROM:<a@b.example> SIZE=101", "552"),
        ("MAIL FROM:<a@b.example> SIZE=x", "501"),
        ("MAIL FROM:<a@b.example> BODY=BINARYMIME", "555"),
        ("MAIL FROM:<a@b.example> AUTH=<>", "555"),
        ("MAIL FROM:<a@b.example> RET=HDRS", "555"),
        (
            "mail from:<a@b.example> size=100 body=8bitmime smtputf8",
            "250",
        ),
        ("MAIL FROM:<a@b.example>", "503"),
        ("DATA", "554"),
        ("RCPT TO:<bob@example.net> NOTIFY=NEVER", "555"),
        ("RCPT TO:<Postmaster>", "250"),
        ("RCPT TO:<bob@example.net>", "250"),
        ("RCPT TO:<eve@example.net>", "452"),
        ("DATA now", "501"),
        ("DATA", "354"),
    ] {
        say(stream, line, code).await;
    }
    let long = "0123456789".repeat(11);
    say(stream, &format!("a: b\r\n\r\n{long}\r\n."), "552").await;
    say(stream, "DATA", "503").await;
    say(stream, "MAIL FROM:<>", "250").await;
    say(stream, "RCPT TO:<postmaster>", "250").await;
    say(stream, "DATA", "354").await;
    say(stream, ".", "250").await;
    say(stream, "QUIT", "221").await;
    let kept = served.keeper.kept();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].0.mail_from, None);
    assert_eq!(
        kept[0].0.recipients[0].as_str(),
        "postmaster@mx.example.net"
    );
}

#[tokio::test(start_paused = true)]
async fn shutting_down_waits_for_the_open_transaction() {
    let mut served = start(Limits::default(), None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    say(stream, "MAIL FROM:<a@b.example>", "250").await;
    served.stop.send(true).unwrap();
    sleep(Duration::from_secs(5)).await;
    say(stream, "RCPT TO:<bob@example.net>", "250").await;
    say(stream, "DATA", "354").await;
    let heard = say(stream, "a: b\r\n\r\nc\r\n.", "250").await;
    assert!(heard.contains("kept"));
    assert!(rest(stream).await.starts_with("421 4.3.2"));
    assert_eq!(served.summary.await.unwrap().ended, Ended::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_does_not_wait_for_a_transaction_that_rests() {
    let mut served = start(Limits::default(), None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    say(stream, "MAIL FROM:<a@b.example>", "250").await;
    served.stop.send(true).unwrap();
    let told = Instant::now();
    assert!(rest(stream).await.starts_with("421 4.3.2"));
    assert!(told.elapsed() < Duration::from_secs(15));
    assert_eq!(served.summary.await.unwrap().ended, Ended::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn an_endless_message_is_cut() {
    let limits = Limits {
        message_bytes: 10_000,
        ..Limits::default()
    };
    let mut served = start(limits, None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    say(stream, "MAIL FROM:<a@b.example>", "250").await;
    say(stream, "RCPT TO:<bob@example.net>", "250").await;
    say(stream, "DATA", "354").await;
    let mut sent = 0;
    while sent < 10_000_000
        && stream
            .write_all(b"more and more and more\r\n")
            .await
            .is_ok()
    {
        sent += 24;
    }
    // Twice the limit is read, and a little more while lingering.
    assert!(sent < 1_200_000, "{sent}");
    assert!(rest(stream).await.starts_with("552 5.3.4"));
}

/// Has memory for so many bytes of a message.
struct Small(Keeper, u64);

impl Handler for Small {
    fn banner_host(&self) -> &DomainName {
        self.0.banner_host()
    }

    async fn mail(&mut self, from: Option<&EmailAddress>, size: Option<u64>) -> Verdict {
        self.0.mail(from, size).await
    }

    async fn rcpt(&mut self, to: &EmailAddress) -> Verdict {
        self.0.rcpt(to).await
    }

    fn hold(&mut self, bytes: u64) -> bool {
        bytes <= self.1
    }

    async fn data(&mut self, envelope: &EnvelopeIn, message: Bytes) -> Verdict {
        self.0.data(envelope, message).await
    }
}

#[tokio::test(start_paused = true)]
async fn who_announces_little_and_sends_much_is_not_kept_in_memory() {
    let (mut stream, theirs) = duplex(4096);
    let keeper = Keeper::new();
    let handler = Small(keeper.clone(), 32 * 1024);
    let peer = SocketAddr::from(([127, 0, 0, 9], 4711));
    let (_stop, stopped) = watch::channel(false);
    let served = tokio::spawn(async move {
        let limits = Limits::default();
        serve(Box::new(theirs), peer, handler, &limits, None, stopped).await
    });
    let stream = &mut stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    for (lines, answer, kept) in [(4000, "452", 0), (100, "250", 1)] {
        say(stream, "MAIL FROM:<a@b.example> SIZE=1000", "250").await;
        say(stream, "RCPT TO:<bob@example.net>", "250").await;
        say(stream, "DATA", "354").await;
        stream.write_all(b"a: b\r\n\r\n").await.unwrap();
        for _ in 0..lines {
            stream
                .write_all(b"more and more and more\r\n")
                .await
                .unwrap();
        }
        say(stream, ".", answer).await;
        assert_eq!(keeper.kept().len(), kept, "{lines} lines");
    }
    say(stream, "QUIT", "221").await;
    assert_eq!(served.await.unwrap().accepted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_has_so_many_messages_and_no_more() {
    let limits = Limits {
        messages: 2,
        ..Limits::default()
    };
    let mut served = start(limits, None);
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    for _ in 0..2 {
        say(stream, "MAIL FROM:<a@b.example>", "250").await;
        say(stream, "RCPT TO:<bob@example.net>", "250").await;
        say(stream, "DATA", "354").await;
        say(stream, "a: b\r\n\r\nc\r\n.", "250").await;
    }
    say(stream, "MAIL FROM:<a@b.example>", "421").await;
    assert_eq!(served.summary.await.unwrap().ended, Ended::Dismissed);
}

/// Has no room for anybody.
struct Full(Keeper);

impl Handler for Full {
    fn banner_host(&self) -> &DomainName {
        self.0.banner_host()
    }

    async fn greet(&mut self) -> Option<Verdict> {
        let status = EnhancedStatus::new(4, 7, 0);
        Some(Reply::new(421, status, "too many connections"))
    }

    async fn mail(&mut self, from: Option<&EmailAddress>, size: Option<u64>) -> Verdict {
        self.0.mail(from, size).await
    }

    async fn rcpt(&mut self, to: &EmailAddress) -> Verdict {
        self.0.rcpt(to).await
    }

    async fn data(&mut self, envelope: &EnvelopeIn, message: Bytes) -> Verdict {
        self.0.data(envelope, message).await
    }
}

/// Over TCP, where closing with unread bytes would reset the connection.
#[tokio::test]
async fn last_words_are_heard_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    let server = tokio::spawn(async move {
        let limits = Limits::default();
        let (stream, peer) = listener.accept().await.unwrap();
        let strict = serve(
            Box::new(stream),
            peer,
            Keeper::new(),
            &limits,
            None,
            stopped.clone(),
        );
        let strict = strict.await;
        let (stream, peer) = listener.accept().await.unwrap();
        let full = Full(Keeper::new());
        (
            strict,
            serve(Box::new(stream), peer, full, &limits, None, stopped).await,
        )
    });
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut greeting = [0; 64];
    assert!(stream.read(&mut greeting).await.unwrap() > 0);
    let flood = [b"NOOP\n".to_vec(), vec![b'x'; 200_000]].concat();
    stream.write_all(&flood).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("500 5.5.2 "), "{heard}");
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("421 4.7.0 too many"), "{heard}");
    drop(stream);
    let (strict, full) = server.await.unwrap();
    assert_eq!(strict.ended, Ended::Violation("broken line"));
    assert_eq!(full.ended, Ended::Dismissed);
}
