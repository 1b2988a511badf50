//! Laws: whatever the addresses and the text are, the wire carries the commands of one transaction.

use std::time::Duration;

use inboxgrove_model::EmailAddress;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{options, start};
use crate::smtp::{
    client::{EnvelopeOut, Session},
    server::Limits,
};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

/// Text that is rich in what ends lines, paths and messages.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b".".to_vec()),
        Just(b"\r\n.\r\n".to_vec()),
        Just(b"\n.\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\0".to_vec()),
        Just(b"MAIL FROM:<x@y.example>\r\n".to_vec()),
        Just(b"a: b\r\n\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Text with proper line ends only, rich in dots.
fn proper_text() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec("[.a-c]{0,4}", 0..10).prop_map(|lines| {
        lines
            .iter()
            .flat_map(|line| [line.as_bytes(), b"\r\n"].concat())
            .collect()
    })
}

fn addresses() -> impl Strategy<Value = Vec<EmailAddress>> {
    let address = "(\\PC|[<>\\r\\n \"%!.]){1,12}@(\\PC|[<>\\r\\n.]){0,3}example\\.(net|com)"
        .prop_filter_map("not an address", |text| EmailAddress::parse(&text).ok());
    proptest::collection::vec(address, 1..4)
}

/// What a credulous server, which ends lines at LF, hears of one `send`.
async fn overhear(envelope: &EnvelopeOut, message: &[u8], pipelining: bool) -> Vec<String> {
    let (stream, mut theirs) = duplex(64 * 1024);
    let server = tokio::spawn(async move {
        let mut commands = Vec::new();
        let mut line = Vec::new();
        let mut in_text = false;
        theirs.write_all(b"220 mx\r\n").await.unwrap();
        while let Ok(byte) = theirs.read_u8().await {
            line.push(byte);
            if byte != b'\n' {
                continue;
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            if in_text {
                in_text = text.trim_end_matches(['\r', '\n']) != ".";
                if in_text {
                    continue;
                }
                theirs.write_all(b"250 ok\r\n").await.unwrap();
                continue;
            }
            in_text = text.starts_with("DATA");
            let offers: &[u8] = b"250-mx\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250 PIPELINING\r\n";
            let answer = match &text[..4] {
                "EHLO" if pipelining => offers,
                "EHLO" => b"250-mx\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
                "DATA" => b"354 go\r\n",
                _ => b"250 ok\r\n",
            };
            commands.push(text);
            theirs.write_all(answer).await.unwrap();
        }
        commands
    });
    let mut session = Session::open(Box::new(stream), options()).await.unwrap();
    session.send(envelope, message).await;
    drop(session);
    server.await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_address_and_no_text_adds_a_command(
        recipients in addresses(), message in text(), pipelining in any::<bool>(),
    ) {
        let envelope = EnvelopeOut { mail_from: recipients.first().cloned(), recipients };
        let commands = run(overhear(&envelope, &message, pipelining));
        let verbs: Vec<&str> = commands.iter().map(|line| &line[..4]).collect();
        let mut whole = vec!["EHLO", "MAIL"];
        whole.extend(envelope.recipients.iter().map(|_| "RCPT"));
        whole.push("DATA");
        prop_assert!(verbs == ["EHLO"] || verbs == whole, "{:?}", commands);
        for (line, to) in commands.iter().filter(|line| line.starts_with("RCPT")).zip(&envelope.recipients) {
            prop_assert_eq!(line, &format!("RCPT TO:<{to}>\r\n"));
        }
    }

    #[test]
    fn text_arrives_as_it_was_or_not_at_all(message in prop_oneof![proper_text(), text()]) {
        let kept = run(async {
            let mut served = start(Limits::default(), None);
            let mut session = super::open(&mut served).await;
            session.send(&super::envelope(&["bob@example.net"]), &message).await;
            drop(session);
            served.summary.await.unwrap();
            served.keeper.kept()
        });
        prop_assert!(kept.len() <= 1);
        for (_, found) in kept {
            let ended = [message.strip_suffix(b"\r\n").unwrap_or(&message), b"\r\n"].concat();
            prop_assert_eq!(&found[..], &ended[..]);
        }
    }

    #[test]
    fn no_input_brings_the_server_down(input in text(), size in 1_usize..9) {
        let (heard, kept) = run(async {
            let mut served = start(Limits::default(), None);
            super::expect(&mut served.stream, "220").await;
            super::say(&mut served.stream, "EHLO me", "250").await;
            for segment in input.chunks(size) {
                if served.stream.write_all(segment).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(served.stream.shutdown().await);
            let heard = super::rest(&mut served.stream).await;
            served.summary.await.unwrap();
            (heard, served.keeper.kept().len())
        });
        prop_assert_eq!(kept, 0);
        prop_assert!(heard.lines().all(|line| line.as_bytes()[0].is_ascii_digit()), "{}", heard);
    }
}
