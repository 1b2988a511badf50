//! What a well-behaved client and server make of each other, and what a client makes of others.

use tokio::time::{Duration, Instant};

use super::{address, envelope, expect, open, options, play, say, start};
use crate::smtp::{
    client::{Delivery, EnvelopeOut, SendOutcome, Session, Stage},
    server::{Ended, Limits},
};

const MESSAGE: &[u8] = b"Subject: dots\r\n\r\n.\r\n..\r\n.hidden\r\nend\r\n";

fn fate(outcome: &SendOutcome, at: usize) -> (Stage, u16) {
    let recipient = &outcome.recipients[at];
    let code = recipient.delivery.reply().map_or(0, super::Reply::code);
    (recipient.stage, code)
}

#[tokio::test(start_paused = true)]
async fn a_server_rests_when_its_replies_are_out_and_no_transaction_is_open() {
    let mut served = start(Limits::default(), None);
    let (stream, keeper) = (&mut served.stream, &served.keeper);
    expect(stream, "220").await;
    for (line, code, rests) in [
        ("EHLO a.example", "250", true),
        ("MAIL FROM:<ada@example.org>", "250", false),
        ("RCPT TO:<bob@example.net>", "250", false),
        ("RSET", "250", true),
        ("MAIL FROM:<ada@example.org>", "250", false),
        ("RCPT TO:<bob@example.net>", "250", false),
        ("DATA", "354", false),
        ("Subject: dots\r\n\r\nend\r\n.", "250", true),
    ] {
        say(stream, line, code).await;
        assert_eq!(keeper.rests(), rests, "after {line:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_arrive_as_they_were_sent_over_one_connection() {
    let mut served = start(Limits::default(), None);
    let mut session = open(&mut served).await;
    assert!(session.capabilities().pipelining);
    let bounce = EnvelopeOut {
        mail_from: None,
        recipients: vec![address("bob@example.net")],
    };
    for envelope in [
        envelope(&["bob@example.net", "eve@sub.example.net"]),
        bounce,
    ] {
        let outcome = session.send(&envelope, MESSAGE).await;
        assert!(outcome.reusable && !outcome.uncertain());
        for at in 0..envelope.recipients.len() {
            assert_eq!(fate(&outcome, at), (Stage::End, 250));
        }
    }
    session.quit().await;
    let summary = served.summary.await.unwrap();
    assert_eq!((summary.accepted, summary.ended), (2, Ended::Quit));
    let kept = served.keeper.kept();
    assert_eq!(kept[0].0.mail_from, Some(address("ada@example.org")));
    assert_eq!(kept[0].0.recipients.len(), 2);
    assert_eq!(kept[0].0.helo, "out.example.org");
    assert_eq!(kept[1].0.mail_from, None);
    assert!(kept.iter().all(|(_, message)| message == MESSAGE));
}

#[tokio::test(start_paused = true)]
async fn recipients_have_fates_of_their_own() {
    let mut served = start(Limits::default(), None);
    let mut session = open(&mut served).await;
    let outcome = session
        .send(
            &envelope(&["nobody@example.net", "bob@example.net"]),
            MESSAGE,
        )
        .await;
    assert_eq!(fate(&outcome, 0), (Stage::Rcpt, 550));
    assert_eq!(fate(&outcome, 1), (Stage::End, 250));
    let outcome = session
        .send(&envelope(&["nobody@example.net"]), MESSAGE)
        .await;
    assert_eq!(fate(&outcome, 0), (Stage::Rcpt, 550));
    assert!(outcome.surely_unsent() && outcome.reusable);
    let outcome = session.send(&envelope(&["bob@example.net"]), MESSAGE).await;
    assert_eq!(fate(&outcome, 0), (Stage::End, 250));
    session.quit().await;
    assert_eq!(served.keeper.kept().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn more_recipients_than_buffers_and_limits_hold() {
    let limits = Limits {
        recipients: 60,
        ..Limits::default()
    };
    let mut served = start(limits, None);
    let mut session = open(&mut served).await;
    let names: Vec<String> = (0..80).map(|n| format!("{n:050}@example.net")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let outcome = session.send(&envelope(&names), MESSAGE).await;
    assert_eq!(fate(&outcome, 59), (Stage::End, 250));
    assert_eq!(fate(&outcome, 60), (Stage::Rcpt, 452));
    assert_eq!(served.keeper.kept()[0].0.recipients.len(), 60);
}

#[tokio::test(start_paused = true)]
async fn what_must_not_go_out_is_refused_before_it_does() {
    let mut served = start(
        Limits {
            message_bytes: 2000,
            ..Limits::default()
        },
        None,
    );
    let mut session = open(&mut served).await;
    let long = [b"a: ".as_slice(), &[b'x'; 1000]].concat();
    let big = b"a: b\r\n".repeat(400);
    let cases: [(&[u8], u16); 6] = [
        (b"a: b\n\nbare\r\n", 554),
        (b"a: b\r\n\r\nbare\rcr\r\n", 554),
        (b"a: b\r\n\r\nnul\0\r\n", 554),
        (b"a: b\r\n\r\nends in cr\r", 554),
        (&long, 554),
        (&big, 552),
    ];
    for (message, code) in cases {
        let outcome = session.send(&envelope(&["bob@example.net"]), message).await;
        assert_eq!(fate(&outcome, 0), (Stage::Check, code), "{message:?}");
        assert!(outcome.surely_unsent() && outcome.reusable);
    }
    let outcome = session
        .send(&envelope(&["bob@example.net"]), b".first line")
        .await;
    assert_eq!(fate(&outcome, 0), (Stage::End, 250));
    assert_eq!(&served.keeper.kept()[0].1[..], b".first line\r\n");
}

#[tokio::test(start_paused = true)]
async fn replies_in_one_segment_are_all_heard() {
    let (stream, played) = play(vec![
        ("", "220 mx ready\r\n"),
        ("\r\n", "250-mx\r\n250-PIPELINING\r\n250 SIZE\r\n"),
        (
            "DATA\r\n",
            "250 2.1.0 ok\r\n550-5.1.1 no\r\n550 5.1.1 never\r\n250 ok\r\n354 go\r\n",
        ),
        ("\r\n.\r\n", "250 2.0.0 queued\r\n"),
        ("QUIT\r\n", "221 bye\r\n"),
    ]);
    let mut session = Session::open(Box::new(stream), options()).await.unwrap();
    let outcome = session
        .send(&envelope(&["a@b.example", "c@d.example"]), MESSAGE)
        .await;
    assert_eq!(fate(&outcome, 0), (Stage::Rcpt, 550));
    assert_eq!(fate(&outcome, 1), (Stage::End, 250));
    session.quit().await;
    let all = played.await.unwrap();
    assert!(all.contains(&format!(
        "MAIL FROM:<ada@example.org> SIZE={}\r\n",
        MESSAGE.len()
    )));
}

#[tokio::test(start_paused = true)]
async fn an_old_server_is_spoken_to_in_its_way() {
    let (stream, played) = play(vec![
        ("", "220 old\r\n"),
        ("EHLO out.example.org\r\n", "500 what?\r\n"),
        ("HELO out.example.org\r\n", "250 old\r\n"),
        ("MAIL FROM:<ada@example.org>\r\n", "250 ok\r\n"),
        ("RCPT TO:<a@b.example>\r\n", "251 forwarded\r\n"),
        ("DATA\r\n", "354 go\r\n"),
        ("\r\n.\r\n", "452 full\r\n"),
    ]);
    let mut session = Session::open(Box::new(stream), options()).await.unwrap();
    let utf8 = EnvelopeOut {
        recipients: vec![address("bücher@example.net")],
        ..envelope(&[])
    };
    let outcome = session.send(&utf8, MESSAGE).await;
    assert_eq!(fate(&outcome, 0), (Stage::Check, 553));
    let outcome = session
        .send(&envelope(&["a@b.example"]), "a: b\r\n\r\nü\r\n".as_bytes())
        .await;
    assert_eq!(fate(&outcome, 0), (Stage::Check, 554));
    let outcome = session.send(&envelope(&["a@b.example"]), MESSAGE).await;
    assert_eq!(fate(&outcome, 0), (Stage::End, 452));
    assert!(!outcome.uncertain() && outcome.reusable);
    played.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn international_mail_says_so() {
    let mut served = start(Limits::default(), None);
    let mut session = open(&mut served).await;
    let utf8 = EnvelopeOut {
        recipients: vec![address("bücher@example.net")],
        ..envelope(&[])
    };
    let outcome = session
        .send(&utf8, "Subject: ü\r\n\r\nü\r\n".as_bytes())
        .await;
    assert_eq!(fate(&outcome, 0), (Stage::End, 250));
    assert!(served.keeper.kept()[0].0.smtputf8);
}

/// A server that goes wrong at a point, and what the client may say about the message then.
#[tokio::test(start_paused = true)]
async fn only_a_loss_behind_the_final_dot_is_uncertain() {
    let hello = ("\r\n", "250-mx\r\n250 PIPELINING\r\n");
    let taken = ("DATA\r\n", "250 ok\r\n250 ok\r\n354 go\r\n");
    let cases = [
        (vec![hello], Stage::Reset, false, true),
        (
            vec![hello, ("DATA\r\n", "250 ok\r\n")],
            Stage::Rcpt,
            false,
            true,
        ),
        (
            vec![hello, ("DATA\r\n", "250 ok\r\n250 ok\r\n")],
            Stage::Data,
            false,
            true,
        ),
        (
            vec![hello, taken, ("\r\n.\r\n", "")],
            Stage::End,
            true,
            false,
        ),
        (
            vec![hello, taken, ("\r\n.\r\n", "garbage\r\n")],
            Stage::End,
            true,
            false,
        ),
        (
            vec![hello, taken, ("\r\n.\r\n", "354 what\r\n")],
            Stage::End,
            true,
            false,
        ),
    ];
    for (script, stage, uncertain, unsent) in cases {
        let mut whole = vec![("", "220 mx\r\n")];
        whole.extend(script);
        let shown = format!("{whole:?}");
        let (stream, _played) = play(whole);
        let mut session = Session::open(Box::new(stream), options()).await.unwrap();
        let outcome = session.send(&envelope(&["a@b.example"]), MESSAGE).await;
        assert_eq!(outcome.recipients[0].stage, stage, "{shown}");
        assert_eq!(outcome.uncertain(), uncertain, "{shown}");
        assert_eq!(outcome.surely_unsent(), unsent, "{shown}");
        assert!(!outcome.reusable, "{shown}");
        let again = session.send(&envelope(&["a@b.example"]), MESSAGE).await;
        assert!(matches!(again.recipients[0].delivery, Delivery::Lost(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_makes_no_sense_has_taken_nothing() {
    let (stream, played) = play(vec![
        ("", "220 mx\r\n"),
        ("\r\n", "250-mx\r\n250 PIPELINING\r\n"),
        ("DATA\r\n", "550 5.7.1 not you\r\n250 ok\r\n354 go\r\n"),
        ("\r\n.\r\n", "250 2.0.0 taken, whatever it was\r\n"),
        ("RSET\r\n", "250 ok\r\n"),
    ]);
    let mut session = Session::open(Box::new(stream), options()).await.unwrap();
    let outcome = session.send(&envelope(&["a@b.example"]), MESSAGE).await;
    assert_eq!(fate(&outcome, 0), (Stage::Mail, 550));
    assert!(outcome.surely_unsent() && outcome.reusable);
    session.reset().await.unwrap();
    let all = played.await.unwrap();
    assert!(!all.contains("Subject"), "{all}");

    let (stream, _played) = play(vec![
        ("", "220 mx\r\n"),
        ("\r\n", "250-mx\r\n250 PIPELINING\r\n"),
        ("DATA\r\n", "250 ok\r\n250 ok\r\n250 ok\r\n"),
    ]);
    let mut session = Session::open(Box::new(stream), options()).await.unwrap();
    let outcome = session.send(&envelope(&["a@b.example"]), MESSAGE).await;
    assert_eq!(fate(&outcome, 0), (Stage::Data, 451));
}

#[tokio::test(start_paused = true)]
async fn a_loss_within_the_text_is_no_delivery() {
    let (stream, mut theirs) = tokio::io::duplex(512);
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        theirs
            .write_all(b"220 mx\r\n250-mx\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n")
            .await
            .unwrap();
        let mut some = [0; 600];
        theirs.read_exact(&mut some).await.unwrap();
    });
    let mut session = Session::connect(Box::new(stream), options()).await.unwrap();
    session.ehlo().await.unwrap();
    // The replies came early, as a hostile server may send them; a new transaction on them is refused.
    let outcome = session
        .send(&envelope(&["a@b.example"]), &b"a: b\r\n".repeat(2000))
        .await;
    assert!(matches!(outcome.recipients[0].delivery, Delivery::Lost(_)));
    assert!(outcome.surely_unsent());
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_reading_the_text_has_not_got_it() {
    let (stream, mut theirs) = tokio::io::duplex(512);
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        theirs.write_all(b"220 mx\r\n").await.unwrap();
        for answer in [
            "250-mx\r\n250 PIPELINING\r\n",
            "250 ok\r\n250 ok\r\n354 go\r\n",
        ] {
            let mut some = [0; 512];
            assert!(theirs.read(&mut some).await.unwrap() > 0);
            theirs.write_all(answer.as_bytes()).await.unwrap();
        }
        let mut some = [0; 600];
        theirs.read_exact(&mut some).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut session = Session::open(Box::new(stream), options()).await.unwrap();
    let outcome = session
        .send(&envelope(&["a@b.example"]), &b"a: b\r\n".repeat(2000))
        .await;
    assert_eq!(outcome.recipients[0].stage, Stage::Content);
    assert!(!outcome.uncertain() && !outcome.surely_unsent());
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn every_wait_of_the_client_ends() {
    let begun = Instant::now();
    let (stream, _silent) = tokio::io::duplex(512);
    let error = Session::connect(Box::new(stream), options())
        .await
        .err()
        .unwrap();
    assert_eq!(begun.elapsed(), Duration::from_mins(5), "{error}");
    let (stream, mut theirs) = tokio::io::duplex(512);
    let drip = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        loop {
            tokio::time::sleep(Duration::from_secs(100)).await;
            if theirs.write_all(b"220-x\r\n").await.is_err() {
                return;
            }
        }
    });
    let begun = Instant::now();
    assert!(Session::connect(Box::new(stream), options()).await.is_err());
    assert_eq!(begun.elapsed(), Duration::from_mins(5));
    drip.await.unwrap();
    let (stream, mut theirs) = tokio::io::duplex(512);
    let flood = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while theirs
            .write_all(b"220-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n")
            .await
            .is_ok()
        {}
    });
    assert!(Session::connect(Box::new(stream), options()).await.is_err());
    flood.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_farewell_between_messages_is_heard_before_the_next() {
    let mut served = start(Limits::default(), None);
    let mut session = open(&mut served).await;
    served.stop.send(true).unwrap();
    let summary = served.summary.await.unwrap();
    assert_eq!(summary.ended, Ended::Shutdown);
    let outcome = session.send(&envelope(&["bob@example.net"]), MESSAGE).await;
    let Delivery::Lost(why) = &outcome.recipients[0].delivery else {
        panic!("{outcome:?}");
    };
    assert!(why.contains("421"), "{why}");
    assert!(outcome.surely_unsent() && !outcome.reusable);
}
