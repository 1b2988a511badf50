//! What drafts become, and that nothing in them can escape its place.

use proptest::prelude::*;

use super::*;
use crate::message::inspect;

fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

fn id(text: &str) -> MessageIdText {
    MessageIdText::new(text).unwrap()
}

fn draft() -> Draft {
    Draft {
        from: Mailbox {
            name: Some(HeaderText::new("Ada Lovelace").unwrap()),
            address: address("ada@example.com"),
        },
        to: vec![address("bob@example.net").into()],
        subject: HeaderText::new("Hello").unwrap(),
        text: "Hi Bob,\nhow are you?\n".into(),
        html: Some("<p>Hi Bob, <b>how</b> are you?</p>".into()),
        in_reply_to: Some(id("2@example.net")),
        references: vec![id("1@example.com")],
        list_unsubscribe: None,
        date: WallTime::from_millis(1_767_225_600_000),
        message_id: id("<3@example.com>"),
        auto_submitted: false,
    }
}

fn composed(draft: &Draft) -> String {
    String::from_utf8(draft.compose().unwrap()).unwrap()
}

fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let head = message.split("\r\n\r\n").next().unwrap();
    head.split("\r\n")
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn a_message_has_its_headers_and_both_bodies() {
    let message = composed(&draft());
    for (name, value) in [
        ("From", "\"Ada Lovelace\" <ada@example.com>"),
        ("To", "<bob@example.net>"),
        ("Subject", "Hello"),
        ("Date", "Thu, 1 Jan 2026 00:00:00 +0000"),
        ("Message-ID", "<3@example.com>"),
        ("In-Reply-To", "<2@example.net>"),
        ("References", "<1@example.com> <2@example.net>"),
        ("MIME-Version", "1.0"),
    ] {
        let found = header(&message, name).unwrap_or_default().replace('"', "");
        assert_eq!(found, value.replace('"', ""), "{name} in {message}");
    }
    assert!(message.contains("multipart/alternative"), "{message}");
    let seen = inspect(message.as_bytes()).unwrap();
    assert_eq!(seen.text, "Hi Bob,\nhow are you?");
}

#[test]
fn the_same_draft_is_the_same_bytes() {
    assert_eq!(draft().compose(), draft().compose());
}

#[test]
fn one_click_unsubscribe_is_rfc_8058() {
    let mut draft = draft();
    let link = "https://u.example.com/x?t=1";
    draft.list_unsubscribe =
        Some(Unsubscribe::new(link, Some(address("leave@example.com"))).unwrap());
    let message = composed(&draft)
        .replace("\r\n ", " ")
        .replace("\r\n\t", " ");
    assert_eq!(
        header(&message, "List-Unsubscribe"),
        Some("<https://u.example.com/x?t=1>, <mailto:leave@example.com>")
    );
    assert_eq!(
        header(&message, "List-Unsubscribe-Post"),
        Some("List-Unsubscribe=One-Click")
    );
    for bad in [
        "http://u.example.com/",
        "https://",
        "https://a b",
        "https://a\r\nX: 1",
        "https://a>",
    ] {
        assert!(Unsubscribe::new(bad, None).is_err(), "{bad:?}");
    }
}

#[test]
fn recipients_and_size_are_limited() {
    let mut nobody = draft();
    nobody.to.clear();
    assert_eq!(nobody.compose(), Err(ComposeError::NoRecipient));
    let mut crowd = draft();
    crowd.to = vec![address("bob@example.net").into(); RECIPIENTS_MAX + 1];
    assert!(matches!(
        crowd.compose(),
        Err(ComposeError::TooManyRecipients { .. })
    ));
    let mut large = draft();
    large.text = "a".repeat(MESSAGE_BYTES_MAX + 1);
    assert!(matches!(
        large.compose(),
        Err(ComposeError::TooLarge { .. })
    ));
}

#[test]
fn a_long_thread_keeps_its_first_and_newest() {
    let mut draft = draft();
    draft.references = (0..50).map(|i| id(&format!("{i}@example.com"))).collect();
    let thread = draft.thread();
    assert_eq!(thread.len(), REFERENCES_MAX);
    assert_eq!((thread[0], thread[1]), ("0@example.com", "32@example.com"));
    assert_eq!(thread.last(), Some(&"2@example.net"));
}

#[test]
fn header_texts_and_ids_are_refused_when_they_could_escape() {
    for bad in ["a\r\nb", "a\nb", "a\rb", "a\0b", "a\u{2028}b", "a\u{85}b"] {
        assert!(HeaderText::new(bad).is_err(), "{bad:?}");
        assert!(!HeaderText::lossy(bad).as_str().contains(ends_or_hides));
    }
    for bad in [
        "", "a", "@b", "a@", "a@b@c", "a b@c", "a@b>", "a@b\r\n", "ä@b", "<a@b",
    ] {
        assert!(
            MessageIdText::new(bad).is_err() || bad == "a@b\r\n",
            "{bad:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_can_add_a_header(
        subject in "\\PC{0,200}", name in "\\PC{0,100}", text in any::<String>(), html in any::<String>(),
    ) {
        let mut draft = draft();
        draft.subject = HeaderText::lossy(&subject);
        draft.from.name = Some(HeaderText::lossy(&name));
        draft.text = text;
        draft.html = Some(html);
        let message = draft.compose().unwrap();
        let whole = String::from_utf8_lossy(&message);
        let head = whole.split("\r\n\r\n").next().unwrap();
        let names: Vec<_> = head
            .split("\r\n")
            .filter(|line| !line.starts_with([' ', '\t']))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        prop_assert_eq!(names, vec![
            "From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
            "MIME-Version", "Content-Type",
        ]);
    }

    #[test]
    fn every_line_ends_with_crlf_and_fits(
        subject in any::<String>(), text in any::<String>(), html in any::<String>(),
    ) {
        let mut draft = draft();
        draft.subject = HeaderText::lossy(&subject);
        draft.text = text;
        draft.html = Some(html);
        let message = draft.compose().unwrap();
        for line in message.split_inclusive(|b| *b == b'\n') {
            prop_assert!(line.ends_with(b"\r\n"), "{:?}", String::from_utf8_lossy(line));
            prop_assert!(line.len() <= 1000);
            prop_assert!(!line[..line.len() - 2].contains(&b'\r'));
        }
    }

    #[test]
    fn what_was_written_is_read_back(subject in "[ -~äöü日本]{0,80}", text in "[ -~äöü日本\n]{0,200}") {
        let mut draft = draft();
        draft.subject = HeaderText::lossy(subject.trim());
        draft.text = text.clone();
        draft.html = None;
        let seen = inspect(&draft.compose().unwrap()).unwrap();
        prop_assert_eq!(seen.subject.split_whitespace().collect::<Vec<_>>(),
            subject.split_whitespace().collect::<Vec<_>>());
        prop_assert_eq!(seen.text.trim(), text.trim());
    }
}
