//! Whose word stands behind a message that came in, and what connections share.

use inboxgrove_mail::authentication::{
    DkimVerification, DmarcPolicy, DmarcVerification, SpfVerification,
};

use super::*;

fn results(dmarc: (Outcome, &str), dkim: (Outcome, &str)) -> AuthenticationResults {
    AuthenticationResults {
        spf: SpfVerification {
            outcome: Outcome::Pass,
            domain: "anybody.example".into(),
        },
        dkim: vec![DkimVerification {
            outcome: dkim.0,
            domain: dkim.1.into(),
            selector: "ig1".into(),
            why: String::new(),
        }],
        dmarc: DmarcVerification {
            outcome: dmarc.0,
            domain: dmarc.1.into(),
            policy: DmarcPolicy::None,
        },
        header_text: String::new(),
    }
}

#[test]
fn only_the_authors_own_domain_stands_behind_a_message() {
    let author = DomainName::parse("mail.acme.test").expect("a name");
    let none = (Outcome::None, "mail.acme.test");
    for (dmarc, dkim, stands) in [
        ((Outcome::Pass, "mail.acme.test"), none, true),
        ((Outcome::Pass, "other.test"), none, false),
        (none, (Outcome::Pass, "mail.acme.test"), true),
        (none, (Outcome::Pass, "ACME.test"), true),
        (none, (Outcome::Pass, "evil.test"), false),
        (none, (Outcome::Pass, "sub.mail.acme.test"), false),
        (none, (Outcome::Fail, "mail.acme.test"), false),
        (none, none, false),
    ] {
        let found = stands_behind(&author, &results(dmarc, dkim));
        assert_eq!(found, stands, "{dmarc:?} and {dkim:?}");
    }
}

#[test]
fn memory_is_bounded_over_all_and_for_each_address_and_comes_back() {
    let memory = Arc::new(Memory::default());
    let address = |last| IpAddr::from([9, 9, 9, last]);
    let take = |last, kib| {
        memory
            .take(address(last), kib, RECEIVING_KIB_OF_ONE_MAX)
            .then(|| Reserved {
                memory: Arc::clone(&memory),
                address: address(last),
                kib,
            })
    };
    let first = take(1, RECEIVING_KIB_OF_ONE_MAX);
    assert!(
        first.is_some() && take(1, 1).is_none(),
        "its share is spent"
    );
    let others: Vec<_> = (2..5)
        .map(|last| take(last, RECEIVING_KIB_OF_ONE_MAX))
        .collect();
    assert!(others.iter().all(Option::is_some));
    assert!(take(6, 1).is_none(), "all is spent");
    drop(first);
    assert!(take(6, 1).is_some());
    drop(others);
    let now = memory.in_use.lock().expect("nobody panicked");
    assert_eq!((now.all, now.by_address.len()), (0, 0));
}
