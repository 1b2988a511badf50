//! Providers and sites: whose hosts these are.
//!
//! A *provider* is a family of receivers that answer alike and keep one book about us (`google`); a *site*
//! is the set of MX hosts that is paced as one. Microsoft's two services are two sites of one provider.

/// A family of MX hosts: hosts at or below `suffix` belong to it.
struct Family {
    suffix: &'static str,
    provider: &'static str,
    site: &'static str,
}

const fn family(suffix: &'static str, provider: &'static str, site: &'static str) -> Family {
    Family {
        suffix,
        provider,
        site,
    }
}

/// Hosts whose names do not share what the receiver shares: each customer's own name, or two domains.
const FAMILIES: [Family; 17] = [
    family("google.com", "google", "google.com"),
    family("googlemail.com", "google", "google.com"),
    family("gmail.com", "google", "google.com"),
    family("smtp.goog", "google", "google.com"),
    family(
        "olc.protection.outlook.com",
        "microsoft",
        "olc.protection.outlook.com",
    ),
    family(
        "mail.protection.outlook.com",
        "microsoft",
        "mail.protection.outlook.com",
    ),
    family("mx.microsoft", "microsoft", "mail.protection.outlook.com"),
    family("hotmail.com", "microsoft", "olc.protection.outlook.com"),
    family("yahoodns.net", "yahoo", "yahoodns.net"),
    family("aol.com", "yahoo", "yahoodns.net"),
    family("icloud.com", "apple", "mail.icloud.com"),
    family("me.com", "apple", "mail.icloud.com"),
    family("zoho.com", "zoho", "zoho.com"),
    family("zoho.eu", "zoho", "zoho.eu"),
    family("mimecast.com", "mimecast", "mimecast.com"),
    family("pphosted.com", "proofpoint", "pphosted.com"),
    family("messagingengine.com", "fastmail", "messagingengine.com"),
];

/// Longest name of a site: it is part of keys.
const SITE_LEN_MAX: usize = 253;

/// The provider that an MX host belongs to: `google`, `microsoft`, `yahoo`, `apple` …, or, for a host of
/// no family, its [site](site_of).
pub fn provider_of(mx_host: &str) -> String {
    let host = folded(mx_host);
    family_of(&host).map_or_else(|| site_of(&[&host]), |family| family.provider.to_owned())
}

/// The site that a set of MX hosts makes up: the family's when all belong to one, else what their names
/// have in common, else (nothing but a public suffix in common) the first of them in alphabetical order.
/// The order of the hosts does not matter. Empty only for an empty set.
pub fn site_of<S: AsRef<str>>(mx_hosts: &[S]) -> String {
    let mut hosts: Vec<String> = mx_hosts.iter().map(|host| folded(host.as_ref())).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let Some(first) = hosts.first() else {
        return String::new();
    };
    if let Some(family) = family_of(first) {
        let same =
            |host: &String| family_of(host).is_some_and(|other| other.provider == family.provider);
        if hosts.iter().all(same) {
            return family.site.to_owned();
        }
    }
    let common = hosts
        .iter()
        .skip(1)
        .fold(first.as_str(), |common, host| shared(common, host));
    let site = if is_whole(common) { common } else { first };
    site.chars().take(SITE_LEN_MAX).collect()
}

fn folded(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn family_of(host: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| {
        host.strip_suffix(family.suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// The labels that two names end in.
fn shared<'a>(one: &'a str, other: &str) -> &'a str {
    let labels = one
        .rsplit('.')
        .zip(other.rsplit('.'))
        .take_while(|(a, b)| a == b);
    let len: usize = labels.map(|(label, _)| label.len() + 1).sum();
    &one[one.len() - len.saturating_sub(1).min(one.len())..]
}

/// Whether a name is more than a public suffix, as far as can be told without a list: two labels, and
/// three when the first of two is short as in `co.uk`.
fn is_whole(name: &str) -> bool {
    let mut labels = name.rsplit('.');
    let (last, second) = (labels.next().unwrap_or(""), labels.next().unwrap_or(""));
    !second.is_empty() && (labels.next().is_some() || last.len() > 2 || second.len() > 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_by_their_names() {
        let table = [
            ("aspmx.l.google.com", "google"),
            ("SMTP.GOOGLE.COM.", "google"),
            ("alt3.aspmx.l.google.com", "google"),
            ("contoso-com.mail.protection.outlook.com", "microsoft"),
            ("hotmail-com.olc.protection.outlook.com", "microsoft"),
            ("contoso-com.a-v1.mx.microsoft", "microsoft"),
            ("mta5.am0.yahoodns.net", "yahoo"),
            ("mx01.mail.icloud.com", "apple"),
            ("notgoogle.com", "notgoogle.com"),
            ("mx.example.net", "mx.example.net"),
        ];
        for (host, expected) in table {
            assert_eq!(provider_of(host), expected, "{host}");
        }
    }

    #[test]
    fn hosts_roll_up_to_their_site() {
        let table: [(&[&str], &str); 8] = [
            (
                &["aspmx.l.google.com", "aspmx2.googlemail.com"],
                "google.com",
            ),
            (
                &["contoso-com.mail.protection.outlook.com"],
                "mail.protection.outlook.com",
            ),
            (
                &["hotmail-com.olc.protection.outlook.com"],
                "olc.protection.outlook.com",
            ),
            (&["mx1.example.net", "MX2.example.net."], "example.net"),
            (&["mx.example.net"], "mx.example.net"),
            (&["mx.one.co.uk", "mx.two.co.uk"], "mx.one.co.uk"),
            (&["b.test", "a.test"], "a.test"),
            (&[], ""),
        ];
        for (hosts, expected) in table {
            assert_eq!(site_of(hosts), expected, "{hosts:?}");
            let mut reversed = hosts.to_vec();
            reversed.reverse();
            assert_eq!(site_of(&reversed), expected, "{reversed:?}");
        }
    }
}
