//! The counterparts by themselves: what a story trusts must be right before the daemon is judged by it.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::Result;
use inboxgrove_tests::{
    addresses::Addresses,
    janitor::Janitor,
    letterbox::{Letterbox, Posted},
    mail_server::{Hosting, MailServer},
    mail_text::MailText,
    name_server::txt,
    peers::{self, Envelope, Letter},
    process::Running,
    sink::Sink,
    wait::eventually,
    world,
};
use nix::sys::signal::Signal;

/// The janitor gives what is left two seconds to end by itself.
const CLEARED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_name_server_serves_what_was_published_and_the_judges_read_it() -> Result<()> {
    let folder = world::scratch_folder()?;
    let addresses = Addresses::of_this_process();
    let mut names = world::start_names(&folder, addresses).await?;

    names
        .publish(
            "acme.test",
            &[txt(
                "acme.test",
                &format!("v=spf1 ip4:{} -all", addresses.source()),
            )],
        )
        .await?;

    let mail = MailText::new(b"From: a@acme.test\r\nSubject: unsigned\r\n\r\nHello\r\n".to_vec());
    let mut envelope = Envelope {
        ip: addresses.source(),
        helo: "out.grove.test",
        mail_from: "a@acme.test",
    };
    let judged = peers::judge(&mail, envelope, &names)?;
    assert_eq!(
        (judged.spf.as_str(), judged.signatures.len()),
        ("pass", 0),
        "{judged:?}"
    );

    envelope.ip = addresses.mail_server();
    assert_eq!(peers::judge(&mail, envelope, &names)?.spf, "fail");
    Ok(())
}

#[tokio::test]
async fn the_mail_server_takes_mail_for_its_users_and_refuses_others() -> Result<()> {
    let folder = world::scratch_folder()?;
    let addresses = Addresses::of_this_process();
    let port = Addresses::free_port(&[addresses.mail_server()])?;
    let hosting = Hosting {
        listens: SocketAddr::new(addresses.mail_server(), port),
        domain: "post.test",
        users: &["anna"],
        back_to: SocketAddr::new(addresses.inbound(), port),
        tenants: &["acme.test"],
    };
    let post = MailServer::start(folder.path(), &hosting).await?;
    let letter = Letter {
        server: post.address(),
        from_ip: addresses.source(),
        mail_from: "a@acme.test",
        rcpt_to: "anna@post.test",
        data: "From: a@acme.test\nSubject: hello anna\n\nHello\n",
    };

    let taken = peers::swaks(letter)?;
    let refused = peers::swaks(Letter {
        rcpt_to: "nobody-here@post.test",
        ..letter
    })?;

    assert!(taken.accepted, "{}", taken.transcript);
    assert_eq!(
        post.receives("anna", "hello anna")
            .await?
            .header("From")
            .as_deref(),
        Some("a@acme.test")
    );
    assert!(!refused.accepted, "{}", refused.transcript);
    assert!(
        refused
            .refusal()
            .is_some_and(|line| line.starts_with("550")),
        "{}",
        refused.transcript
    );
    Ok(())
}

#[tokio::test]
async fn the_sink_counts_what_it_took_and_hangs_up_when_it_is_cut_off() -> Result<()> {
    let addresses = Addresses::of_this_process();
    let port = Addresses::free_port(&[addresses.inbound()])?;
    let sink = Sink::start(SocketAddr::new(addresses.inbound(), port)).await?;
    let mut letterbox = Letterbox::open(addresses.mail_server(), sink.address()).await?;
    let letter = "Subject: one\r\n\r\nSubject: not this\r\n";

    let taken = letterbox.post("a@acme.test", "b@post.test", letter).await?;
    sink.cut_off();
    let cut = letterbox.post("a@acme.test", "b@post.test", letter).await;
    sink.open();
    let mut again = Letterbox::open(addresses.mail_server(), sink.address()).await?;
    again.post("a@acme.test", "b@post.test", letter).await?;

    assert_eq!(taken, Posted::Taken);
    assert!(cut.is_err(), "{cut:?}");
    assert_eq!(sink.arrivals()["one"], 2);
    assert!(
        sink.deliveries()
            .iter()
            .all(|delivery| delivery.mail_from.contains("<a@acme.test>"))
    );
    Ok(())
}

#[tokio::test]
async fn what_a_killed_test_leaves_is_cleared_up_by_its_janitor() -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("inboxgrove-")
        .disable_cleanup(true)
        .tempdir()?;
    let path = folder.path().to_owned();
    let janitor = Janitor::start(&path, false)?;
    let mut command = Command::new("sleep");
    command.arg("600").env("FOLDER", &path);
    let mut left = Running::start("sleep", &mut command, &path.join("log"), Signal::SIGKILL)?;
    let mut command = Command::new("sleep");
    command.arg("600");
    let mut another = Running::start("sleep", &mut command, &path.join("b"), Signal::SIGKILL)?;

    drop(janitor);

    left.exit(CLEARED_WITHIN).await?;
    eventually("the folder to be gone", CLEARED_WITHIN, async || {
        Ok((!path.exists()).then_some(()))
    })
    .await?;
    assert_eq!(
        another.ended()?,
        None,
        "it has nothing to do with the folder"
    );
    Ok(())
}
