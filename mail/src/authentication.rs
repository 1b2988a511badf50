//! Whether mail is what it says it is: SPF, DKIM and DMARC, evaluated by mail-auth.
//!
//! mail-auth would look names up by itself. It gets a resolver without name servers instead, so nothing can
//! leave the machine, and a cache in front of it (`zone`) that is filled through our own port: a run notes
//! the names it missed, they are fetched, and it runs again.

mod zone;

use std::net::IpAddr;

use inboxgrove_model::{EmailAddress, ports::Dns};
use mail_auth::{
    AuthenticatedMessage, AuthenticationResults as Header, DkimOutput, DkimResult, DmarcOutput,
    DmarcResult, SpfOutput, SpfResult, common::headers::HeaderWriter, dmarc::Policy,
    dmarc::verify::DmarcParameters, spf::verify::SpfParameters,
};

use self::zone::Zone;

/// Signatures looked at in one message: more come only from somebody who wants us to work (RFC 6376 §6.1).
const SIGNATURES_MAX: usize = 8;

/// What is known of a message before its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Who brings it.
    pub ip: IpAddr,
    /// How it greets.
    pub helo: String,
    /// Envelope sender; `None` is the null reverse-path.
    pub mail_from: Option<EmailAddress>,
}

/// What came of it all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationResults {
    /// Whether the sender's domain permits the address.
    pub spf: SpfVerification,
    /// Each signature: first those that cannot be read, then the others in the order of the message.
    pub dkim: Vec<DkimVerification>,
    /// Whether the author's domain stands behind it.
    pub dmarc: DmarcVerification,
    /// The whole Authentication-Results header (RFC 8601), CRLF included.
    pub header_text: String,
}

/// What SPF came to (RFC 7208).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpfVerification {
    /// How it ended.
    pub outcome: Outcome,
    /// The domain that was asked.
    pub domain: String,
}

/// What one signature came to (RFC 6376).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DkimVerification {
    /// How it ended.
    pub outcome: Outcome,
    /// `d=`; empty when the signature could not be read.
    pub domain: String,
    /// `s=`; empty when the signature could not be read.
    pub selector: String,
    /// Why it did not pass; empty when it did.
    pub why: String,
}

/// What DMARC came to (RFC 9989).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmarcVerification {
    /// Pass, fail, none, or an error.
    pub outcome: Outcome,
    /// The author's domain.
    pub domain: String,
    /// What that domain asks for when it fails: `none`, `quarantine` or `reject`.
    pub policy: DmarcPolicy,
}

/// What a domain asks receivers to do with mail that fails DMARC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DmarcPolicy {
    /// Nothing.
    None,
    /// Treat it as suspicious.
    Quarantine,
    /// Refuse it.
    Reject,
}

/// The results of RFC 8601 §2.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// It does not, says the domain, but only softly.
    SoftFail,
    /// Nothing is said either way.
    Neutral,
    /// There is nothing to evaluate.
    None,
    /// Somebody did not answer: later it may be different.
    TempError,
    /// What is published or signed is broken.
    PermError,
}

/// Evaluates a message. Takes at most some forty questions and some forty seconds, and never fails: what
/// cannot be found out is [`Outcome::TempError`]. CPU work besides: one pass over the body for each kind of
/// canonical form, and a verification for each signature.
pub async fn evaluate(
    envelope: &Envelope,
    message: &[u8],
    dns: &dyn Dns,
    host_name: &str,
) -> AuthenticationResults {
    let mut zone = Zone::new(envelope.ip);
    let mail_from = envelope.mail_from.as_ref().map_or("", EmailAddress::as_str);
    let spf = spf(envelope, mail_from, host_name, &mut zone, dns).await;
    let Some(parsed) = parse(message) else {
        let header = start_header(host_name, envelope, &spf);
        return AuthenticationResults {
            spf: SpfVerification::from(&spf),
            dkim: Vec::new(),
            dmarc: DmarcVerification::from(&DmarcOutput::default()),
            header_text: header.to_header(),
        };
    };
    let mut keys = Zone::new(envelope.ip);
    let dkim = dkim(&parsed, &mut keys, dns).await;
    let sender = envelope
        .mail_from
        .as_ref()
        .map_or_else(|| envelope.helo.clone(), |from| from.domain().to_string());
    let dmarc = dmarc(&parsed, &dkim, &sender, &spf, &mut zone, dns).await;
    let header = start_header(host_name, envelope, &spf)
        .with_dkim_results(&dkim, parsed.from())
        .with_dmarc_result(&dmarc);
    AuthenticationResults {
        spf: SpfVerification::from(&spf),
        dkim: dkim.iter().map(DkimVerification::from).collect(),
        dmarc: DmarcVerification::from(&dmarc),
        header_text: header.to_header(),
    }
}

/// Verifies the signatures of a message with the keys that `dns` finds: first come those that cannot be
/// read, then at most eight others in the order of the message.
pub async fn verify_dkim(message: &[u8], dns: &dyn Dns) -> Vec<DkimVerification> {
    let Some(parsed) = parse(message) else {
        return Vec::new();
    };
    let mut zone = Zone::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let found = dkim(&parsed, &mut zone, dns).await;
    found.iter().map(DkimVerification::from).collect()
}

/// The header with its SPF part: for the null sender it was the greeting that was judged.
fn start_header<'h>(host_name: &'h str, envelope: &Envelope, spf: &SpfOutput) -> Header<'h> {
    let header = Header::new(host_name);
    let Envelope {
        ip,
        helo,
        mail_from,
    } = envelope;
    match mail_from {
        Some(from) => header.with_spf_mailfrom_result(spf, *ip, from.as_str(), helo),
        None => header.with_spf_ehlo_result(spf, *ip, helo),
    }
}

fn parse(message: &[u8]) -> Option<AuthenticatedMessage<'_>> {
    let mut parsed = AuthenticatedMessage::parse(message)?;
    parsed.dkim_headers.truncate(SIGNATURES_MAX);
    Some(parsed)
}

async fn spf(
    envelope: &Envelope,
    mail_from: &str,
    host_name: &str,
    zone: &mut Zone,
    dns: &dyn Dns,
) -> SpfOutput {
    loop {
        let params = if mail_from.is_empty() {
            SpfParameters::verify_ehlo(envelope.ip, &envelope.helo, host_name)
        } else {
            SpfParameters::verify_mail_from(envelope.ip, &envelope.helo, host_name, mail_from)
        };
        let output = zone.asker().verify_spf(zone.with(params)).await;
        if !zone.fetch_missed(dns).await {
            return output;
        }
    }
}

/// Keys are fetched first: the crypto then runs once.
async fn dkim<'x>(
    message: &'x AuthenticatedMessage<'x>,
    zone: &'x mut Zone,
    dns: &dyn Dns,
) -> Vec<DkimOutput<'x>> {
    for header in &message.dkim_headers {
        let signature = &header.header;
        zone.fetch_text(&format!("{}._domainkey.{}", signature.s, signature.d), dns)
            .await;
    }
    zone.asker().verify_dkim(zone.with(message)).await
}

async fn dmarc(
    message: &AuthenticatedMessage<'_>,
    dkim: &[DkimOutput<'_>],
    sender: &str,
    spf: &SpfOutput,
    zone: &mut Zone,
    dns: &dyn Dns,
) -> DmarcOutput {
    loop {
        let params = DmarcParameters::new(message, dkim, sender, spf);
        let output = zone.asker().verify_dmarc(zone.with(params)).await;
        if !zone.fetch_missed(dns).await {
            return output;
        }
    }
}

// === conversions from mail-auth ===

impl From<&SpfOutput> for SpfVerification {
    fn from(output: &SpfOutput) -> Self {
        Self {
            outcome: match output.result() {
                SpfResult::Pass => Outcome::Pass,
                SpfResult::Fail => Outcome::Fail,
                SpfResult::SoftFail => Outcome::SoftFail,
                SpfResult::Neutral => Outcome::Neutral,
                SpfResult::TempError => Outcome::TempError,
                SpfResult::PermError => Outcome::PermError,
                SpfResult::None => Outcome::None,
            },
            domain: output.domain().to_owned(),
        }
    }
}

impl From<&DkimOutput<'_>> for DkimVerification {
    fn from(output: &DkimOutput<'_>) -> Self {
        let (outcome, why) = match output.result() {
            DkimResult::Pass => (Outcome::Pass, String::new()),
            DkimResult::Neutral(why) => (Outcome::Neutral, why.to_string()),
            DkimResult::Fail(why) => (Outcome::Fail, why.to_string()),
            DkimResult::PermError(why) => (Outcome::PermError, why.to_string()),
            DkimResult::TempError(why) => (Outcome::TempError, why.to_string()),
            DkimResult::None => (Outcome::None, String::new()),
        };
        let signature = output.signature();
        Self {
            outcome,
            domain: signature.map(|s| s.d.clone()).unwrap_or_default(),
            selector: signature.map(|s| s.s.clone()).unwrap_or_default(),
            why,
        }
    }
}

impl From<&DmarcOutput> for DmarcVerification {
    fn from(output: &DmarcOutput) -> Self {
        Self {
            outcome: match output.result() {
                DmarcResult::Pass => Outcome::Pass,
                DmarcResult::Fail(_) => Outcome::Fail,
                DmarcResult::TempError(_) => Outcome::TempError,
                DmarcResult::PermError(_) => Outcome::PermError,
                DmarcResult::None => Outcome::None,
            },
            domain: output.domain().to_owned(),
            policy: match output.policy() {
                Policy::Quarantine => DmarcPolicy::Quarantine,
                Policy::Reject => DmarcPolicy::Reject,
                Policy::None | Policy::Unspecified => DmarcPolicy::None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
