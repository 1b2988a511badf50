//! STARTTLS, honest and tampered with.

use std::sync::Arc;

use inboxgrove_model::{
    PolicyTime, WallTime,
    ports::{BoxFuture, Clock},
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncWriteExt;

use super::{envelope, expect, options, play, rest, say, start};
use crate::smtp::{
    client::{ClientError, Options, Session, Tls},
    server::{Ended, Limits},
    tls::{Trust, client_config, server_config},
};

/// Noon of a day in 2026, for ever.
struct Noon;

impl Clock for Noon {
    fn policy(&self) -> PolicyTime {
        PolicyTime::from_millis(1_780_000_000_000)
    }

    fn wall(&self) -> WallTime {
        WallTime::from_millis(1_780_000_000_000)
    }

    fn sleep_until(&self, _at: PolicyTime) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

fn server_tls() -> (Arc<ServerConfig>, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["mx.example.net".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = server_config(vec![certificate.clone()], key, Arc::new(Noon)).unwrap();
    (config, certificate)
}

fn opportunistic() -> Tls {
    Tls::Opportunistic(client_config(Trust::Anybody, Arc::new(Noon)).unwrap())
}

fn required(trust: Trust) -> Tls {
    Tls::Required(client_config(trust, Arc::new(Noon)).unwrap())
}

fn with(tls: Tls, server_name: &str) -> Options {
    Options {
        tls,
        server_name: server_name.to_owned(),
        ..options()
    }
}

#[tokio::test(start_paused = true)]
async fn mail_goes_encrypted_when_it_can() {
    let (config, certificate) = server_tls();
    for tls in [opportunistic(), required(Trust::Roots(vec![certificate]))] {
        let served = start(Limits::default(), Some(Arc::clone(&config)));
        let options = with(tls, "mx.example.net");
        let mut session = Session::open(Box::new(served.stream), options)
            .await
            .unwrap();
        assert!(session.is_secure() && !session.capabilities().starttls);
        let outcome = session
            .send(&envelope(&["bob@example.net"]), b"a: b\r\n\r\nc\r\n")
            .await;
        assert!(outcome.recipients[0].delivery.reply().unwrap().is_done());
        session.quit().await;
        assert!(served.keeper.kept()[0].0.secure);
        assert_eq!(served.summary.await.unwrap().ended, Ended::Quit);
    }
}

#[tokio::test(start_paused = true)]
async fn a_required_peer_is_verified_or_nothing_is_sent() {
    let (config, certificate) = server_tls();
    let roots = || required(Trust::Roots(vec![certificate.clone()]));
    for (tls, name) in [
        (roots(), "other.example.net"),
        (required(Trust::Web), "mx.example.net"),
    ] {
        let served = start(Limits::default(), Some(Arc::clone(&config)));
        let error = Session::open(Box::new(served.stream), with(tls, name))
            .await
            .err()
            .unwrap();
        assert!(matches!(error, ClientError::Handshake { .. }), "{error}");
        assert!(error.is_tls());
        assert_eq!(served.summary.await.unwrap().ended, Ended::TlsFailed);
    }
    let served = start(Limits::default(), None);
    let options = with(roots(), "mx.example.net");
    let error = Session::open(Box::new(served.stream), options)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ClientError::NoTls { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_an_offer_opportunistic_mail_goes_in_the_clear() {
    let served = start(Limits::default(), None);
    let options = with(opportunistic(), "mx.example.net");
    let session = Session::open(Box::new(served.stream), options)
        .await
        .unwrap();
    assert!(!session.is_secure());
}

#[tokio::test(start_paused = true)]
async fn a_reply_injected_behind_starttls_ends_the_client() {
    let (stream, _played) = play(vec![
        ("", "220 mx\r\n"),
        ("\r\n", "250-mx\r\n250 STARTTLS\r\n"),
        ("STARTTLS\r\n", "220 go\r\n250-mx\r\n250 PIPELINING\r\n"),
    ]);
    let options = with(opportunistic(), "mx.example.net");
    let error = Session::open(Box::new(stream), options)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ClientError::Injected { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn commands_injected_behind_starttls_end_the_session() {
    let (config, _) = server_tls();
    let mut served = start(Limits::default(), Some(config));
    let stream = &mut served.stream;
    expect(stream, "220").await;
    assert!(say(stream, "EHLO me", "250").await.contains("STARTTLS"));
    let injected = b"STARTTLS\r\nEHLO evil\r\nMAIL FROM:<a@b.example>\r\n";
    stream.write_all(injected).await.unwrap();
    let heard = rest(stream).await;
    assert!(
        heard.starts_with("503 ") && heard.lines().count() == 1,
        "{heard}"
    );
    assert_eq!(
        served.summary.await.unwrap().ended,
        Ended::Violation("pipelining")
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_said_in_the_clear_is_forgotten() {
    let (config, certificate) = server_tls();
    let mut served = start(Limits::default(), Some(config));
    let stream = &mut served.stream;
    expect(stream, "220").await;
    say(stream, "EHLO me", "250").await;
    say(stream, "MAIL FROM:<a@b.example>", "250").await;
    say(stream, "RCPT TO:<bob@example.net>", "250").await;
    say(stream, "STARTTLS now", "501").await;
    say(stream, "STARTTLS", "220").await;
    let trust = Trust::Roots(vec![certificate]);
    let connector = tokio_rustls::TlsConnector::from(client_config(trust, Arc::new(Noon)).unwrap());
    let name = rustls_pki_types::ServerName::try_from("mx.example.net").unwrap();
    let mut stream = connector.connect(name, &mut served.stream).await.unwrap();
    let (heard, lines) = (&mut [0; 512], b"DATA\r\n");
    stream.write_all(lines).await.unwrap();
    stream.flush().await.unwrap();
    let count = tokio::io::AsyncReadExt::read(&mut stream, heard)
        .await
        .unwrap();
    assert!(heard[..count].starts_with(b"503 "));
    stream
        .write_all(b"MAIL FROM:<a@b.example>\r\nSTARTTLS\r\nEHLO me\r\n")
        .await
        .unwrap();
    stream.flush().await.unwrap();
    let mut all = Vec::new();
    // The server closes on the pipelining without a word of TLS; what it said before counts.
    drop(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all).await);
    assert!(
        all.starts_with(b"503 "),
        "{}",
        String::from_utf8_lossy(&all)
    );
}
