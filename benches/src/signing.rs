//! DKIM signatures a second of one core, against the bare RSA operation: `openssl speed`, and aws-lc's own.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use inboxgrove_mail::dkim::{PrivateKey, Signer};
use inboxgrove_model::{DomainName, domain::DkimAlgorithm};

use crate::{
    Effort,
    measure::{Samples, count, thread_cpu},
    report::{Bound, Section},
};

/// The message that is signed, headers included.
const MESSAGE_BYTES: usize = 4096;
/// What the bare operation signs: as long as the headers of a message in canonical form.
const BARE_BYTES: usize = 600;
/// Any moment: it becomes `t=`.
const NOW_SECS: i64 = 1_800_000_000;

/// Runs the bench.
pub(crate) fn run(effort: Effort) -> Result<Section> {
    let key = |algorithm, selector: &str| -> Result<_> {
        let domain: DomainName = "acme.example".parse()?;
        Ok((
            selector.to_owned(),
            domain,
            PrivateKey::generate(algorithm)?,
        ))
    };
    let rsa = key(DkimAlgorithm::Rsa2048, "r1")?;
    let ed25519 = key(DkimAlgorithm::Ed25519, "e1")?;
    let signers = [
        Signer::new(vec![rsa.clone()])?,
        Signer::new(vec![ed25519.clone()])?,
        Signer::new(vec![rsa, ed25519])?,
    ];
    let bare = RsaKeyPair::generate(KeySize::Rsa2048).context("aws-lc makes a key")?;
    let message = message();
    let mut openssl = Samples::default();
    let mut aws_lc = Samples::default();
    let mut ours = [Samples::default(), Samples::default(), Samples::default()];
    let mut no_openssl = None;
    for _ in 0..effort.rounds {
        match openssl_speed(effort.sample) {
            Ok(rate) => openssl.push(rate),
            Err(why) => no_openssl = Some(why),
        }
        aws_lc.push(rate(effort.sample, || sign_bare(&bare))?);
        for (signer, samples) in signers.iter().zip(&mut ours) {
            samples.push(rate(effort.sample, || {
                let header = signer.sign(&message, NOW_SECS)?;
                ensure!(!header.is_empty(), "a signature is a header");
                Ok(())
            })?);
        }
    }
    Ok(section(&openssl, &aws_lc, &ours, no_openssl.as_ref()))
}

fn section(
    openssl: &Samples,
    aws_lc: &Samples,
    ours: &[Samples; 3],
    no_openssl: Option<&anyhow::Error>,
) -> Section {
    let (reference, note) = match no_openssl {
        None => (openssl, String::new()),
        Some(why) => (
            aws_lc,
            format!(
                " `openssl speed` could not be used ({why:#}): ratios are to aws-lc's bare operation."
            ),
        ),
    };
    let about = format!(
        "A second of one thread's CPU time. A message of {MESSAGE_BYTES} bytes with 7 headers, relaxed canonicalisation, the \
         DKIM-Signature headers written; keys parsed beforehand. The references sign with a key of 2048 bits and nothing \
         else.{note}"
    );
    let mut section = Section::new(
        "DKIM signing",
        &about,
        &["", "signatures/s and core", "ratio"],
    );
    section.row(&[
        &"`openssl speed rsa2048`",
        openssl,
        &openssl.over(reference),
    ]);
    section.row(&[&"aws-lc, bare RSA-2048", aws_lc, &aws_lc.over(reference)]);
    let [rsa, ed25519, both] = ours;
    section.row(&[&"RSA-2048", rsa, &rsa.over(reference)]);
    section.row(&[&"Ed25519", ed25519, &ed25519.over(reference)]);
    section.row(&[&"both", both, &both.over(reference)]);
    section.goal(
        "P6, RSA-2048 against the bare operation",
        rsa.over(reference),
        Bound::AtLeast(0.9),
    );
    section.goal(
        "P6, both against RSA-2048 alone",
        both.over(rsa),
        Bound::AtLeast(0.83),
    );
    section
}

/// How often something can be done in a second of this thread's CPU time.
fn rate(sample: Duration, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let began = thread_cpu();
    let mut done = 0;
    loop {
        work()?;
        done += 1;
        let took = thread_cpu().saturating_sub(began);
        if took >= sample {
            return Ok(count(done) / took.as_secs_f64());
        }
    }
}

fn sign_bare(key: &RsaKeyPair) -> Result<()> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        &[b'x'; BARE_BYTES],
        &mut signature,
    )
    .context("aws-lc signs")
}

/// OpenSSL's own figure, which is a second of CPU time too.
fn openssl_speed(sample: Duration) -> Result<f64> {
    let seconds = sample.as_secs().max(1).to_string();
    let output = Command::new("openssl")
        .args(["speed", "-mr", "-seconds", &seconds, "rsa2048"])
        .output()
        .context("openssl is not installed")?;
    ensure!(output.status.success(), "openssl speed: {}", output.status);
    parse_speed(&String::from_utf8_lossy(&output.stdout))
}

/// The line `+F2:<key>:2048:<…>:<…>` holds signatures and verifications: seconds for one in older versions, how
/// many a second in newer ones.
fn parse_speed(text: &str) -> Result<f64> {
    let line = text
        .lines()
        .find(|line| line.starts_with("+F2:"))
        .context("openssl speed prints a line +F2")?;
    let figure: f64 = line
        .split(':')
        .nth(3)
        .context("the line has a fourth field")?
        .parse()
        .context("the fourth field is a number")?;
    ensure!(figure > 0.0, "openssl speed signed nothing");
    Ok(if figure < 1.0 { 1.0 / figure } else { figure })
}

fn message() -> Vec<u8> {
    let mut message = b"From: Ada Lovelace <ada.lovelace@acme.example>\r\n\
        To: Charles Babbage <charles@analytical.example>\r\n\
        Subject: Notes on the engine that we spoke about\r\n\
        Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n\
        Message-ID: <0198f0c2a1b27c3d8e4f@acme.example>\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\r\n"
        .to_vec();
    let line = b"The engine has no pretensions whatever to originate anything.\r\n";
    while message.len() + line.len() <= MESSAGE_BYTES {
        message.extend_from_slice(line);
    }
    let left = MESSAGE_BYTES.saturating_sub(message.len() + 2);
    message.extend(std::iter::repeat_n(b'.', left));
    message.extend_from_slice(b"\r\n");
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_openssls_figure_are_read() {
        for line in [
            "+F2:2:2048:4000.0:130000.0",
            "+R1:x\n+F2:2:2048:0.000250:0.0000077\n",
        ] {
            assert!((parse_speed(line).unwrap() - 4000.0).abs() < 1e-6, "{line}");
        }
        assert!(parse_speed("nothing").is_err());
    }

    #[test]
    fn the_message_is_as_long_as_it_says() {
        assert!(MESSAGE_BYTES.abs_diff(message().len()) <= 2);
    }
}
