//! `inboxgrove check domain`: what DNS says about a domain, without a daemon.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Subcommand;
use inboxgrove_mail::dns::{DnsOptions, Resolver, mx_hosts};
use inboxgrove_model::{
    DomainName, PolicyTime,
    ports::{Clock, Dns, DnsAnswer, DnsError, RecordData, RecordType},
};
use serde_json::{Value, json};

use super::{Process, print, text};
use crate::ports::SystemClock;

#[derive(Debug, Subcommand)]
pub(crate) enum CheckCommand {
    /// Where its mail goes, who may send for it, what it asks of receivers
    Domain {
        /// Its name
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

// === free functions ===

pub(crate) fn run(command: &CheckCommand, process: &Process) -> anyhow::Result<ExitCode> {
    let CheckCommand::Domain { name, json } = command;
    let name = DomainName::parse(name)?;
    let config = process.config()?;
    let options = DnsOptions {
        servers: config.dns.servers.clone(),
        port: config.dns.port,
        timeout: Duration::from_millis(config.dns.timeout_ms.into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(PolicyTime::default()));
        let dns = Resolver::new(&options, clock)?;
        anyhow::Ok(look(&name, &dns).await)
    })?;
    if *json {
        print(&serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&text::render(&report))?;
    }
    let good = report["checks"]
        .as_array()
        .is_some_and(|checks| checks.iter().all(|check| check["outcome"] == "pass"));
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn look(name: &DomainName, dns: &dyn Dns) -> Value {
    let mx = match mx_hosts(name, dns).await {
        Ok(hosts) if hosts.is_empty() => check("mx", "fail", "null MX: it takes no mail"),
        Ok(hosts) => {
            let hosts: Vec<_> = hosts
                .iter()
                .map(|host| format!("{} {}", host.preference, host.host))
                .collect();
            check("mx", "pass", &hosts.join(", "))
        }
        Err(why) => failed("mx", &why),
    };
    let dmarc = format!("_dmarc.{name}");
    let spf = dns.lookup(name.as_str(), RecordType::Txt).await;
    let dmarc = dns.lookup(&dmarc, RecordType::Txt).await;
    json!({
        "domain": name.to_string(),
        "checks": [mx, policy("spf", "v=spf1", spf), policy("dmarc", "v=DMARC1", dmarc)],
    })
}

/// The one TXT record that starts so (RFC 7208 §4.5, RFC 7489 §6.6.3).
fn policy(kind: &str, start: &str, answer: Result<DnsAnswer, DnsError>) -> Value {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return failed(kind, &why),
    };
    let starts = |text: &str| {
        text.get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start))
    };
    let found: Vec<&str> = answer
        .records
        .iter()
        .filter_map(|record| match record {
            RecordData::Txt(text) if starts(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    match found.as_slice() {
        [] => check(kind, "fail", &format!("no record starts with {start}")),
        [one] => check(kind, "pass", one),
        several => check(
            kind,
            "fail",
            &format!(
                "{} records; there may be one: {}",
                several.len(),
                several.join(" | ")
            ),
        ),
    }
}

fn failed(kind: &str, why: &DnsError) -> Value {
    let outcome = if why.is_absence() { "fail" } else { "unknown" };
    check(kind, outcome, &why.to_string())
}

fn check(kind: &str, outcome: &str, found: &str) -> Value {
    json!({ "check": kind, "outcome": outcome, "found": found })
}
