//! Whether a domain publishes what it should: one [`Check`] per question, in words its owner understands.
//!
//! A check passes when every authoritative server says what is wanted, fails when every one of them is sure
//! of something else, and is unknown otherwise.

mod judge;

use futures_util::future::{join, join_all};
use inboxgrove_model::{
    PolicyTime,
    domain::{Check, CheckKind, CheckOutcome, DkimSelector},
    ports::{BoxFuture, Dns, RecordData, RecordType},
};

use self::judge::{Finding, Verdict};
use super::{
    OWNERSHIP_LABEL,
    publish::{Source, Wanted, dkim_name, dkim_record, dmarc_name, dmarc_record, spf_record},
    servers::{NoServers, Said, Servers},
};

/// What to check a domain for.
#[derive(Debug, Clone)]
pub struct CheckInput {
    /// What should be there.
    pub wanted: Wanted,
    /// The checks of last time: they know when each last passed.
    pub before: Vec<Check>,
    /// Now.
    pub at: PolicyTime,
    /// Whether name servers at addresses that are not public may be asked. Whoever owns a domain chooses
    /// the addresses of its name servers, and so whom we would ask.
    pub allow_private: bool,
}

/// Asks everything about a domain, all questions at once.
///
/// Takes as long as the slowest server, bounded by the deadlines of `dns`. Without mail hosts there is no MX
/// check, without sources no SPF and no PTR check.
pub async fn check_domain(input: &CheckInput, dns: &dyn Dns) -> Vec<Check> {
    let wanted = &input.wanted;
    let servers = Servers {
        dns,
        allow_private: input.allow_private,
    };
    let mut questions: Vec<BoxFuture<'_, Asked>> = vec![Box::pin(ownership(wanted, servers))];
    if !wanted.mail_hosts.is_empty() {
        questions.push(Box::pin(mx(wanted, servers)));
    }
    if !wanted.sources.is_empty() {
        questions.push(Box::pin(spf(wanted, servers)));
    }
    for selector in &wanted.selectors {
        questions.push(Box::pin(dkim(wanted, selector, servers)));
    }
    questions.push(Box::pin(dmarc(wanted, servers)));
    for source in &wanted.sources {
        questions.push(Box::pin(ptr(source, dns)));
    }
    let asked = join_all(questions).await;
    asked
        .into_iter()
        .map(|asked| asked.into_check(input))
        .collect()
}

/// A question with what came of it.
struct Asked {
    kind: CheckKind,
    subject: String,
    expected: String,
    finding: Finding,
}

impl Asked {
    fn into_check(self, input: &CheckInput) -> Check {
        let passed = self.finding.outcome == CheckOutcome::Pass;
        let before = input
            .before
            .iter()
            .find(|check| check.kind == self.kind && check.subject == self.subject)
            .and_then(|check| check.passed_at);
        Check {
            kind: self.kind,
            outcome: self.finding.outcome,
            subject: self.subject,
            expected: self.expected,
            found: self.finding.found,
            fix: self.finding.fix,
            at: input.at,
            passed_at: if passed { Some(input.at) } else { before },
        }
    }
}

async fn ownership(wanted: &Wanted, servers: Servers<'_>) -> Asked {
    let subject = format!("{OWNERSHIP_LABEL}.{}", wanted.domain);
    let expected = wanted.ownership_token.clone();
    let said = servers.ask_all(&subject, RecordType::Txt).await;
    let finding = conclude(said, |records| {
        judge::ownership(&texts(records), &subject, &expected)
    });
    Asked {
        kind: CheckKind::Ownership,
        subject,
        expected,
        finding,
    }
}

async fn mx(wanted: &Wanted, servers: Servers<'_>) -> Asked {
    let subject = wanted.domain.to_string();
    let hosts: Vec<_> = wanted.mail_hosts.iter().map(|h| super::plain(h)).collect();
    let said = servers.ask_all(&subject, RecordType::Mx).await;
    let finding = conclude(said, |records| judge::mx(records, &subject, &hosts));
    Asked {
        kind: CheckKind::Mx,
        subject,
        expected: format!("mail goes to {}", hosts.join(", ")),
        finding,
    }
}

async fn spf(wanted: &Wanted, servers: Servers<'_>) -> Asked {
    let subject = wanted.domain.to_string();
    let addresses: Vec<_> = wanted.sources.iter().map(|s| s.address).collect();
    let finding = match servers.ask_all(&subject, RecordType::Txt).await {
        Err(why) => no_servers(why),
        Ok(said) => {
            let judged = said.iter().map(|said| async {
                let verdict = match records_of(said) {
                    Err(verdict) => verdict,
                    Ok(records) => {
                        judge::spf(&texts(records), &subject, &addresses, servers.dns).await
                    }
                };
                (said.server.clone(), verdict)
            });
            judge::conclude(join_all(judged).await)
        }
    };
    Asked {
        kind: CheckKind::Spf,
        subject,
        expected: spf_record(&wanted.sources),
        finding,
    }
}

async fn dkim(wanted: &Wanted, selector: &DkimSelector, servers: Servers<'_>) -> Asked {
    let subject = dkim_name(&selector.name, &wanted.domain);
    let said = servers.ask_all(&subject, RecordType::Txt).await;
    let finding = conclude(said, |records| {
        judge::dkim(&texts(records), &subject, selector)
    });
    Asked {
        kind: CheckKind::Dkim(selector.name.clone()),
        subject,
        expected: dkim_record(selector),
        finding,
    }
}

async fn dmarc(wanted: &Wanted, servers: Servers<'_>) -> Asked {
    let subject = dmarc_name(wanted.domain.as_str());
    let expected = dmarc_record(wanted.dmarc_reports.as_ref());
    let (said, above) = join(
        servers.ask_all(&subject, RecordType::Txt),
        judge::dmarc_above(&wanted.domain, servers.dns),
    )
    .await;
    let finding = conclude(said, |records| {
        judge::dmarc(&texts(records), &subject, &expected, &above)
    });
    Asked {
        kind: CheckKind::Dmarc,
        subject,
        expected,
        finding,
    }
}

/// The reverse zone belongs to the network, not to the domain: the resolver's word is enough.
async fn ptr(source: &Source, dns: &dyn Dns) -> Asked {
    let verdict = judge::ptr(source, dns).await;
    Asked {
        kind: CheckKind::Ptr,
        subject: source.address.to_string(),
        expected: format!(
            "{} has a name, best {}, and that name has this address",
            source.address, source.ehlo_name
        ),
        finding: judge::conclude(vec![("the resolver".to_owned(), verdict)]),
    }
}

fn conclude(
    said: Result<Vec<Said>, NoServers>,
    judge: impl Fn(&[RecordData]) -> Verdict,
) -> Finding {
    match said {
        Err(why) => no_servers(why),
        Ok(said) => judge::conclude(
            said.iter()
                .map(|said| {
                    let verdict = records_of(said).map_or_else(|verdict| verdict, &judge);
                    (said.server.clone(), verdict)
                })
                .collect(),
        ),
    }
}

fn no_servers(why: NoServers) -> Finding {
    let verdict = match why {
        NoServers::NoZone(why) => Verdict::wrong(
            why,
            "Register the domain, or set its name servers at the registrar.",
        ),
        NoServers::Unknown(why) => Verdict::Unsure(why),
    };
    judge::conclude(vec![("the resolver".to_owned(), verdict)])
}

/// What a server is sure of: its records, or none.
fn records_of(said: &Said) -> Result<&[RecordData], Verdict> {
    match &said.answer {
        Ok(answer) => Ok(&answer.records),
        Err(why) if why.is_absence() => Ok(&[]),
        Err(why) => Err(Verdict::Unsure(why.to_string())),
    }
}

fn texts(records: &[RecordData]) -> Vec<&str> {
    let texts = records.iter().filter_map(|record| match record {
        RecordData::Txt(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

#[cfg(test)]
mod tests;
