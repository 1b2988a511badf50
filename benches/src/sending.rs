//! A send from end to end: `POST …/messages`, accepted durably, signed, queued, delivered by SMTP to a sink,
//! its outcome committed; against the SMTP client alone, which hands over the same bytes to the same sink.

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use inboxgrove_mail::smtp::client::{Delivery, EnvelopeOut, Options, Session};
use inboxgrove_model::ports::BoxStream;
use serde_json::json;
use tokio::{net::TcpStream, runtime::Runtime, time::timeout};

use crate::{
    Effort,
    http::User,
    installation::{Installation, Tenant},
    measure::{Samples, count, monotonic, since, thread_cpu},
    report::{Bound, Section},
};

/// Messages of a round, for a second of its sample.
const MESSAGES_PER_SECOND: f64 = 1000.0;
/// Destinations. The pace to one that is not known is a message a second: with many the work is measured, not
/// the pace.
pub(crate) const SITES: usize = 500;
/// Inboxes that send, each over a connection of its own.
pub(crate) const INBOXES: u32 = 16;
/// The text of a message; with headers and signatures it has a little over 4 KB.
const TEXT_BYTES: usize = 2400;
/// A round that takes longer has lost a message.
const PATIENCE: Duration = Duration::from_mins(3);
/// After the last delivery its outcome is still committed: this much later nothing is left to do.
const SETTLED: Duration = Duration::from_millis(300);

/// Samples of all rounds.
#[derive(Default)]
pub(crate) struct Series {
    per_second: Samples,
    pub(crate) cpu_ms: Samples,
    client_ms: Samples,
}

impl Series {
    /// Adds the samples of further rounds.
    pub(crate) fn append(&mut self, further: Self) {
        self.per_second.append(further.per_second);
        self.cpu_ms.append(further.cpu_ms);
        self.client_ms.append(further.client_ms);
    }
}

/// Runs the bench.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let runtime = Runtime::new().context("a runtime can be started")?;
    let (installation, tenant, domains) = runtime.block_on(start())?;
    let messages = messages_of(effort);
    let mut series = Series::default();
    // The first round wakes the actors and opens the connections: it is not counted.
    let mut warming = Series::default();
    runtime.block_on(send_all(
        &installation,
        &tenant,
        &domains,
        messages,
        &mut warming,
    ))?;
    for _ in 0..effort.rounds {
        runtime.block_on(send_all(
            &installation,
            &tenant,
            &domains,
            messages,
            &mut series,
        ))?;
        let bytes = installation.ground.sink.message_bytes();
        series.client_ms.push(client_alone(
            installation.ground.sink.address,
            bytes,
            messages,
        )?);
    }
    Ok(section(
        &series,
        messages,
        installation.ground.sink.message_bytes(),
    ))
}

/// Messages of a round.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "some thousands"
)]
pub(crate) fn messages_of(effort: Effort) -> usize {
    (MESSAGES_PER_SECOND * effort.sample.as_secs_f64()).max(64.0) as usize
}

fn section(series: &Series, messages: usize, message_bytes: usize) -> Section {
    let about = format!(
        "Rounds of {messages} messages of {message_bytes} bytes as sent, from {INBOXES} inboxes to {SITES} destinations on one sink, \
         on loopback without TLS: HTTP request, gates and budgets, durable commit, 202, signing with RSA-2048 and Ed25519, queue, \
         SMTP, outcome committed. CPU is the daemon's process, all threads, idle work included; the sink and the HTTP clients are \
         not. The rate is bounded by the pace to each destination and shares the cores with the clients: read the CPU. The \
         reference is the SMTP client alone on one kept connection, its thread's CPU."
    );
    let mut section = Section::new(
        "A send, end to end",
        &about,
        &["", "messages/s", "CPU ms a message", "ratio"],
    );
    let ratio = series.cpu_ms.over(&series.client_ms);
    section.row(&[&"SMTP client alone", &"–", &series.client_ms, &"1"]);
    section.row(&[
        &"send, end to end",
        &series.per_second,
        &series.cpu_ms,
        &ratio,
    ]);
    section.goal(
        "P3, CPU ms a signed message",
        series.cpu_ms.clone(),
        Bound::AtMost(0.8),
    );
    section
}

async fn start() -> Result<(Installation, Tenant, Vec<String>)> {
    let installation = Installation::start().await?;
    let domains = installation.ground.neighbours(SITES);
    let tenant = installation.tenant("sender", INBOXES).await?;
    Ok((installation, tenant, domains))
}

/// Sends so many messages and waits until all have arrived.
pub(crate) async fn send_all(
    installation: &Installation,
    tenant: &Tenant,
    domains: &[String],
    messages: usize,
    series: &mut Series,
) -> Result<()> {
    let before = installation.ground.sink.taken();
    let (cpu_before, began) = (installation.cpu()?, monotonic());
    let mut senders = Vec::new();
    for (number, inbox) in tenant.inboxes.iter().enumerate() {
        let user = tenant.user.again().await?;
        let to = (number..messages).step_by(tenant.inboxes.len());
        let to: Vec<String> = to
            .map(|at| format!("user{at}@{}", domains[at % domains.len()]))
            .collect();
        senders.push(tokio::spawn(send_from(user, inbox.clone(), to)));
    }
    for sender in senders {
        sender.await.context("a sender panicked")??;
    }
    timeout(
        PATIENCE,
        installation.ground.sink.until_taken(before + messages),
    )
    .await
    .with_context(|| {
        let taken = installation.ground.sink.taken() - before;
        format!(
            "{taken} of {messages} arrived; the log ends: {}",
            installation.log_tail()
        )
    })??;
    let took = since(began).as_secs_f64();
    tokio::time::sleep(SETTLED).await;
    let cpu = installation.cpu()?.saturating_sub(cpu_before);
    series.per_second.push(count(messages) / took);
    series
        .cpu_ms
        .push(cpu.as_secs_f64() * 1e3 / count(messages));
    Ok(())
}

async fn send_from(mut user: User, inbox: String, to: Vec<String>) -> Result<()> {
    let path = format!("/api/v1/inboxes/{inbox}/messages");
    let text = text();
    for to in to {
        let message = json!({ "to": [to], "subject": "Notes on the engine", "text": text });
        user.call("POST", &path, Some(&message)).await?;
    }
    Ok(())
}

/// CPU milliseconds of the client's thread for a message.
fn client_alone(sink: SocketAddr, message_bytes: usize, messages: usize) -> Result<f64> {
    let message = format!(
        "From: <a@sender.test>\r\nSubject: Notes\r\n\r\n{}\r\n",
        body(message_bytes)
    );
    let envelope = EnvelopeOut {
        mail_from: Some("a@sender.test".parse()?),
        recipients: vec!["b@post.test".parse()?],
    };
    on_a_thread(move || async move {
        let stream: BoxStream = Box::new(TcpStream::connect(sink).await?);
        let options = Options::new("out.grove.test".parse()?, "sink.post.test");
        let mut session = Session::open(stream, options).await?;
        let began = thread_cpu();
        for _ in 0..messages {
            let outcome = session.send(&envelope, message.as_bytes()).await;
            let taken = outcome
                .recipients
                .iter()
                .all(|one| matches!(one.delivery, Delivery::Accepted(_)));
            ensure!(taken, "the sink did not take it: {outcome:?}");
        }
        let cpu = thread_cpu().saturating_sub(began);
        session.quit().await;
        Ok(cpu.as_secs_f64() * 1e3 / count(messages))
    })
}

/// Runs something on a thread and a runtime of its own, so that the thread's CPU is its own.
fn on_a_thread<T: Send, Done: Future<Output = Result<T>>>(
    work: impl FnOnce() -> Done + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(work())
        });
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the client panicked"))?
    })
}

/// Lines of text, as people write them.
fn text() -> String {
    let line = "The engine has no pretensions whatever to originate anything.\n";
    line.repeat(TEXT_BYTES / line.len())
}

/// Lines of about so many bytes in all.
fn body(bytes: usize) -> String {
    let line = "The engine has no pretensions whatever to originate anything.\r\n";
    line.repeat(bytes / line.len())
}
