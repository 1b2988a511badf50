//! Independent judges and senders: dkimpy and pyspf look at what we sent, swaks sends to us.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{mail_text::MailText, name_server::NameServer, programs};

/// What the judges say of a message.
#[derive(Debug, Clone, Deserialize)]
pub struct Judgement {
    /// Each signature, from the top.
    pub signatures: Vec<Signature>,
    /// The result of SPF for the envelope: `pass`, `fail`, ….
    pub spf: String,
    /// Why.
    pub spf_explanation: String,
}

/// A DKIM signature.
#[derive(Debug, Clone, Deserialize)]
pub struct Signature {
    /// `d=`
    pub domain: String,
    /// `s=`
    pub selector: String,
    /// `a=`
    pub algorithm: String,
    /// Header names of `h=`, in lower case.
    pub headers: Vec<String>,
    /// Whether it holds.
    pub valid: bool,
    /// Why not.
    pub error: String,
}

/// How a message came.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// From which address.
    pub ip: IpAddr,
    /// What its sender called itself.
    pub helo: &'a str,
    /// From whom.
    pub mail_from: &'a str,
}

/// Has dkimpy and pyspf judge a message, on the DNS of the story.
pub fn judge(mail: &MailText, envelope: Envelope<'_>, names: &NameServer) -> Result<Judgement> {
    let mut judge = Command::new(programs::peers_python()?)
        .arg(programs::peer_script("judge.py")?)
        .args([
            "--dns",
            &names.address().to_string(),
            "--dns-port",
            &names.port().to_string(),
        ])
        .args([
            "--ip",
            &envelope.ip.to_string(),
            "--helo",
            envelope.helo,
            "--mail-from",
            envelope.mail_from,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the judge starts")?;
    judge
        .stdin
        .take()
        .context("the judge listens")?
        .write_all(mail.bytes())?;
    let output = judge.wait_with_output()?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "the judge said: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// A message for swaks to send.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// Where to.
    pub server: SocketAddr,
    /// From which address.
    pub from_ip: IpAddr,
    /// Envelope sender; empty is the null reverse-path.
    pub mail_from: &'a str,
    /// Envelope recipient.
    pub rcpt_to: &'a str,
    /// The whole message with its headers.
    pub data: &'a str,
}

/// How swaks fared.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Whether the server took the message.
    pub accepted: bool,
    /// The whole conversation.
    pub transcript: String,
}

impl Sent {
    /// The server's last answer that is no 2xx or 3xx, without swaks' marks.
    pub fn refusal(&self) -> Option<&str> {
        self.transcript
            .lines()
            .find_map(|line| line.strip_prefix("<** ").map(str::trim))
    }
}

/// Sends by swaks.
pub fn swaks(letter: Letter<'_>) -> Result<Sent> {
    let mail_from = if letter.mail_from.is_empty() {
        "<>"
    } else {
        letter.mail_from
    };
    let mut swaks = Command::new(programs::system("swaks")?)
        .args([
            "--server",
            &letter.server.ip().to_string(),
            "--port",
            &letter.server.port().to_string(),
        ])
        .args([
            "--local-interface",
            &letter.from_ip.to_string(),
            "--helo",
            "mail.post.test",
        ])
        .args([
            "--from",
            mail_from,
            "--to",
            letter.rcpt_to,
            "--timeout",
            "30",
            "--data",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("swaks starts")?;
    swaks
        .stdin
        .take()
        .context("swaks listens")?
        .write_all(letter.data.as_bytes())?;
    let output = swaks.wait_with_output()?;
    Ok(Sent {
        accepted: output.status.success(),
        transcript: String::from_utf8_lossy(&output.stdout).into_owned(),
    })
}
