//! What a provider believes in, as numbers, and how it says no. Three presets after large providers:
//! the one weighs answers, the next authentication and steadiness, the third complaints.

use std::{net::IpAddr, time::Duration};

use inboxgrove_mail::smtp::{EnhancedStatus, Reply};
use inboxgrove_model::EmailAddress;

/// A provider's rules.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What it is called.
    pub name: &'static str,
    /// The names of its MX hosts, the preferred one first.
    pub hosts: &'static [&'static str],
    /// A zone for those names.
    pub zone: &'static str,
    /// The standing of a stranger, in `[0, 1]`.
    pub start: f64,
    /// The share of the way to full standing that a steady day earns.
    pub growth: f64,
    /// The share that a day earns on which every message was answered.
    pub engagement: f64,
    /// What sending twice the allowance costs.
    pub burst_cost: f64,
    /// What an unknown recipient costs.
    pub unknown_cost: f64,
    /// What a complaint costs.
    pub complaint_cost: f64,
    /// What a stranger may send in a day.
    pub floor_per_day: u32,
    /// How many usual days may be sent in one day, at a middling standing.
    pub burst_factor: f64,
    /// The standing at which half of the mail goes to the spam folder.
    pub spam_middle: f64,
    /// How sharply that turns around the middle.
    pub spam_slope: f64,
    /// Senders below this standing are refused altogether.
    pub block_below: f64,
    /// How long a first-time (address, sender, recipient) has to wait; `None`: no greylisting.
    pub greylist: Option<Duration>,
    /// Senders at or above this standing are not greylisted.
    pub greylist_below: f64,
    /// Whether SPF and DKIM must both pass; otherwise one of them must.
    pub needs_both: bool,
    /// How it says what.
    pub texts: Texts,
}

/// How a provider says no.
#[derive(Debug, Clone, Copy)]
pub struct Texts {
    /// Come again later, first time.
    pub greylisted: Text,
    /// Slow down.
    pub slow_down: Text,
    /// Nobody of that name here.
    pub unknown_user: Text,
    /// Neither SPF nor DKIM.
    pub unauthenticated: Text,
    /// You of all people not.
    pub blocked: Text,
}

/// A reply with `{ip}`, `{domain}` and `{to}` to be filled in.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    code: u16,
    enhanced: EnhancedStatus,
    template: &'static str,
}

/// What is filled into a [`Text`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Blanks<'a> {
    pub(super) ip: IpAddr,
    pub(super) domain: &'a str,
    pub(super) to: Option<&'a EmailAddress>,
}

// === impl Rules ===

impl Rules {
    /// Weighs what people do with the mail; no greylisting; names the scope of its limits.
    pub fn gmail_like() -> Self {
        Self {
            name: "gmail",
            hosts: &[
                "gmail-smtp-in.l.google.com",
                "alt1.gmail-smtp-in.l.google.com",
            ],
            zone: "google.com",
            start: 0.42,
            growth: 0.035,
            engagement: 0.10,
            burst_cost: 0.10,
            unknown_cost: 0.010,
            complaint_cost: 0.05,
            floor_per_day: 25,
            burst_factor: 2.0,
            spam_middle: 0.38,
            spam_slope: 9.0,
            block_below: 0.04,
            greylist: None,
            greylist_below: 0.0,
            needs_both: false,
            texts: Texts {
                greylisted: text(451, 4, 7, 1, "Greylisted: please try again later."),
                slow_down: text(
                    421,
                    4,
                    7,
                    28,
                    "An unusual rate of unsolicited mail originates from your IP address [{ip}]. To protect our users, mail from it has been temporarily rate limited. - gsmtp",
                ),
                unknown_user: text(
                    550,
                    5,
                    1,
                    1,
                    "The email account that you tried to reach does not exist. - gsmtp",
                ),
                unauthenticated: text(
                    550,
                    5,
                    7,
                    26,
                    "This mail has been blocked because the sender is unauthenticated: neither SPF nor DKIM passed for {domain}. - gsmtp",
                ),
                blocked: text(
                    550,
                    5,
                    7,
                    1,
                    "Our system has detected that this message is likely unsolicited mail, because of the very low reputation of the sending domain {domain}. - gsmtp",
                ),
            },
        }
    }

    /// Weighs steadiness and authentication; greylists strangers for a short time.
    pub fn outlook_like() -> Self {
        Self {
            name: "outlook",
            hosts: &[
                "mx1.mail.protection.outlook.com",
                "mx2.mail.protection.outlook.com",
            ],
            zone: "outlook.com",
            start: 0.38,
            growth: 0.055,
            engagement: 0.05,
            burst_cost: 0.15,
            unknown_cost: 0.012,
            complaint_cost: 0.06,
            floor_per_day: 20,
            burst_factor: 1.8,
            spam_middle: 0.36,
            spam_slope: 8.0,
            block_below: 0.05,
            greylist: Some(Duration::from_mins(5)),
            greylist_below: 0.5,
            needs_both: true,
            texts: Texts {
                greylisted: text(451, 4, 7, 1, "Greylisted: please try again in 5 minutes."),
                slow_down: text(
                    451,
                    4,
                    7,
                    500,
                    "Server busy. Please try again later from [{ip}]. (S77719)",
                ),
                unknown_user: text(
                    550,
                    5,
                    1,
                    1,
                    "RESOLVER.ADR.RecipientNotFound; recipient not found by SMTP address lookup",
                ),
                unauthenticated: text(
                    550,
                    5,
                    7,
                    515,
                    "Access denied, sending domain {domain} does not meet the required authentication level.",
                ),
                blocked: text(
                    550,
                    5,
                    7,
                    1,
                    "Unfortunately, messages from [{ip}] were not sent. Please contact your provider since part of their network is on our block list (S3150).",
                ),
            },
        }
    }

    /// Weighs complaints; greylists whoever has not earned better.
    pub fn yahoo_like() -> Self {
        Self {
            name: "yahoo",
            hosts: &["mta5.am0.yahoodns.net", "mta6.am0.yahoodns.net"],
            zone: "yahoodns.net",
            start: 0.45,
            growth: 0.045,
            engagement: 0.07,
            burst_cost: 0.12,
            unknown_cost: 0.015,
            complaint_cost: 0.09,
            floor_per_day: 20,
            burst_factor: 2.2,
            spam_middle: 0.40,
            spam_slope: 10.0,
            block_below: 0.03,
            greylist: Some(Duration::from_mins(10)),
            greylist_below: 0.6,
            needs_both: false,
            texts: Texts {
                greylisted: text(451, 4, 7, 1, "Greylisted: please try again in 10 minutes."),
                slow_down: text(
                    421,
                    4,
                    7,
                    0,
                    "[TSS04] Messages from {ip} temporarily deferred due to unexpected volume or user complaints - 4.16.55.1",
                ),
                unknown_user: text(
                    550,
                    5,
                    1,
                    1,
                    "Requested action not taken: this user doesn't have an account here [-5] - {to}",
                ),
                unauthenticated: text(
                    550,
                    5,
                    7,
                    9,
                    "Message not accepted for policy reasons: {domain} passed neither SPF nor DKIM.",
                ),
                blocked: text(
                    553,
                    5,
                    7,
                    1,
                    "[BL21] Connections will not be accepted from {ip}, because the ip is on our list of bad senders.",
                ),
            },
        }
    }

    /// Whether a message with these results may come in.
    pub fn is_authentic_enough(&self, spf: bool, dkim: bool) -> bool {
        if self.needs_both {
            spf && dkim
        } else {
            spf || dkim
        }
    }
}

// === impl Text ===

impl Text {
    pub(super) fn fill(self, blanks: Blanks<'_>) -> Reply {
        let text = self
            .template
            .replace("{ip}", &blanks.ip.to_string())
            .replace("{domain}", blanks.domain)
            .replace("{to}", blanks.to.map_or("", EmailAddress::as_str));
        Reply::new(self.code, self.enhanced, &text)
    }
}

const fn text(code: u16, class: u8, subject: u16, detail: u16, template: &'static str) -> Text {
    Text {
        code,
        enhanced: EnhancedStatus::new(class, subject, detail),
        template,
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_mail::smtp::Severity;
    use inboxgrove_model::message::BounceClass;
    use inboxgrove_policy::{Outcome, ReplyText, RulePack, Stage, provider_of};

    use super::*;

    #[test]
    fn replies_say_what_they_mean() {
        let to = EmailAddress::parse("ada@example.com").unwrap();
        let blanks = Blanks {
            ip: "127.0.2.1".parse().unwrap(),
            domain: "example.org",
            to: Some(&to),
        };
        for rules in [
            Rules::gmail_like(),
            Rules::outlook_like(),
            Rules::yahoo_like(),
        ] {
            for (text, severity) in [
                (rules.texts.greylisted, Severity::Transient),
                (rules.texts.slow_down, Severity::Transient),
                (rules.texts.unknown_user, Severity::Permanent),
                (rules.texts.unauthenticated, Severity::Permanent),
                (rules.texts.blocked, Severity::Permanent),
            ] {
                let reply = text.fill(blanks);
                assert_eq!(reply.severity(), severity, "{reply:?}");
                assert!(!reply.text().contains(['{', '}']), "{reply:?}");
                let class = reply.enhanced().map(|enhanced| u16::from(enhanced.class));
                assert_eq!(class, Some(reply.code() / 100), "{reply:?}");
            }
            let host_within = |host: &&str| host.ends_with(rules.zone);
            assert!(rules.hosts.iter().all(host_within), "{}", rules.name);
        }
        let slow = Rules::yahoo_like().texts.slow_down.fill(blanks);
        assert!(slow.text().contains("[TSS04] Messages from 127.0.2.1"));
    }

    #[test]
    fn the_rule_packs_understand_what_is_said() {
        let blanks = Blanks {
            ip: "127.0.2.1".parse().unwrap(),
            domain: "example.org",
            to: None,
        };
        let packs = RulePack::builtin();
        for rules in [
            Rules::gmail_like(),
            Rules::outlook_like(),
            Rules::yahoo_like(),
        ] {
            let family = provider_of(rules.hosts[0]);
            let heard = |text: Text, stage| {
                let reply = text.fill(blanks);
                let words = reply.text();
                let mut heard = ReplyText::new(reply.code(), &words);
                heard.enhanced = reply
                    .enhanced()
                    .map(|code| (code.class, code.subject, code.detail));
                packs.classify(&family, &heard, stage)
            };
            let slow = heard(rules.texts.slow_down, Stage::MailFrom);
            assert_eq!(slow.outcome, Outcome::Deferred, "{family}: {slow:?}");
            assert!(slow.pace.is_some(), "{family}: {slow:?}");
            let grey = heard(rules.texts.greylisted, Stage::RcptTo);
            assert!(grey.greylisted, "{family}: {grey:?}");
            let unknown = heard(rules.texts.unknown_user, Stage::RcptTo);
            let class = Outcome::Bounced(BounceClass::Recipient);
            assert_eq!(unknown.outcome, class, "{family}: {unknown:?}");
            for (text, stage) in [
                (rules.texts.unauthenticated, Stage::End),
                (rules.texts.blocked, Stage::MailFrom),
            ] {
                let refused = heard(text, stage);
                let bounced = matches!(refused.outcome, Outcome::Bounced(_));
                assert!(bounced && refused.outcome != class, "{family}: {refused:?}");
            }
        }
    }
}
