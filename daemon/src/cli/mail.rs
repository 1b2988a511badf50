//! `inboxgrove mail`: looks at, signs and verifies messages in files.

use std::{fs, io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use inboxgrove_mail::{
    authentication::Outcome,
    dkim::{self, PrivateKey, Signer},
    dns::{DnsOptions, Resolver},
    message,
};
use inboxgrove_model::{
    DomainName, PolicyTime,
    domain::DkimAlgorithm,
    ports::{Clock, Dns},
};
use serde_json::{Value, json};

use super::{Process, print, text};
use crate::ports::SystemClock;

#[derive(Debug, Subcommand)]
pub(crate) enum MailCommand {
    /// Show what a message says of itself
    Inspect {
        /// Messages (RFC 5322)
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a message with a DKIM signature before it
    Sign {
        /// The message
        file: PathBuf,
        /// The signing domain
        #[arg(long)]
        domain: String,
        /// The selector
        #[arg(long)]
        selector: String,
        /// The private key (PKCS#8, PEM)
        #[arg(long)]
        key: PathBuf,
        /// Its algorithm
        #[arg(long, value_enum, default_value_t = Algorithm::Rsa)]
        algorithm: Algorithm,
    },
    /// Verify the DKIM signatures of messages, by DNS
    Verify {
        /// Messages (RFC 5322)
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Algorithm {
    /// rsa-sha256
    Rsa,
    /// ed25519-sha256
    Ed25519,
}

// === free functions ===

pub(crate) fn run(command: &MailCommand, process: &Process) -> anyhow::Result<ExitCode> {
    match command {
        MailCommand::Inspect { files, json } => inspect(files, *json),
        MailCommand::Sign {
            file,
            domain,
            selector,
            key,
            algorithm,
        } => {
            let key = read_key(key, *algorithm)?;
            let signer = Signer::new(vec![(selector.clone(), DomainName::parse(domain)?, key)])?;
            sign(file, &signer)
        }
        MailCommand::Verify { files, json } => verify(files, *json, process),
    }
}

fn inspect(files: &[PathBuf], as_json: bool) -> anyhow::Result<ExitCode> {
    let mut items = Vec::new();
    for file in files {
        let found = message::inspect(&read(file)?).with_context(|| file.display().to_string())?;
        items.push(json!({
            "file": file,
            "message_id": found.message_id,
            "from": found.from.map(|from| from.to_string()),
            "to": found.to.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            "subject": found.subject,
            "in_reply_to": found.in_reply_to,
            "references": found.references.join(" "),
            "spam_verdict": found.spam_verdict.map(|verdict| format!("{verdict:?}").to_lowercase()),
            "automatic": found.automatic,
        }));
    }
    show(&json!({ "items": items }), as_json)?;
    Ok(ExitCode::SUCCESS)
}

fn sign(file: &PathBuf, signer: &Signer) -> anyhow::Result<ExitCode> {
    let message = read(file)?;
    let now = SystemClock::new(PolicyTime::default()).wall().as_secs();
    let headers = signer.sign(&message, now)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&headers)?;
    out.write_all(&message)?;
    Ok(ExitCode::SUCCESS)
}

fn verify(files: &[PathBuf], as_json: bool, process: &Process) -> anyhow::Result<ExitCode> {
    let config = process.config()?;
    let options = DnsOptions {
        servers: config.dns.servers.clone(),
        port: config.dns.port,
        timeout: Duration::from_millis(config.dns.timeout_ms.into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (items, good) = runtime.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(PolicyTime::default()));
        let dns = Resolver::new(&options, clock)?;
        verify_all(files, &dns).await
    })?;
    show(&json!({ "items": items }), as_json)?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every signature of every file, and whether each file has one that holds.
async fn verify_all(files: &[PathBuf], dns: &dyn Dns) -> anyhow::Result<(Vec<Value>, bool)> {
    let (mut items, mut good) = (Vec::new(), true);
    for file in files {
        let results = dkim::verify(&read(file)?, dns).await;
        good &= results.iter().any(|result| result.outcome == Outcome::Pass);
        for result in results {
            items.push(json!({
                "file": file,
                "domain": result.domain,
                "selector": result.selector,
                "outcome": format!("{:?}", result.outcome).to_lowercase(),
                "why": result.why,
            }));
        }
    }
    Ok((items, good))
}

fn read(file: &PathBuf) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(with_crlf(&bytes))
}

/// Files on Unix end their lines with LF; messages end them with CRLF (RFC 5322 §2.1).
fn with_crlf(bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(bytes.len() + bytes.len() / 40);
    let mut before = 0;
    for byte in bytes {
        if *byte == b'\n' && before != b'\r' {
            whole.push(b'\r');
        }
        whole.push(*byte);
        before = *byte;
    }
    whole
}

fn read_key(file: &PathBuf, algorithm: Algorithm) -> anyhow::Result<PrivateKey> {
    use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
    let der = PrivatePkcs8KeyDer::from_pem_file(file)
        .with_context(|| format!("no PKCS#8 key in {}", file.display()))?;
    let algorithm = match algorithm {
        Algorithm::Rsa => DkimAlgorithm::Rsa2048,
        Algorithm::Ed25519 => DkimAlgorithm::Ed25519,
    };
    Ok(PrivateKey::from_pkcs8(algorithm, der.secret_pkcs8_der())?)
}

fn show(report: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        print(&serde_json::to_string_pretty(report)?)?;
    } else {
        print(&text::render(report))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_crlf_once() {
        assert_eq!(with_crlf(b"a\nb\r\nc"), b"a\r\nb\r\nc");
    }
}
