//! Notifications as servers write them.

use proptest::prelude::*;

use super::*;

const REPORT: &str = "From: MAILER-DAEMON@mx.example.net\r\nTo: ada@example.com\r\nSubject: Undelivered Mail\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.net\r\nArrival-Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\nFinal-Recipient: rfc822; bob@example.net\r\nOriginal-Recipient: rfc822;Bob@example.net\r\nAction: failed\r\nStatus: 5.1.1 (unknown)\r\nDiagnostic-Code: smtp; 550 5.1.1 no such\r\n user here\r\n\r\nFinal-Recipient: rfc822; eve@example.net\r\nAction: DELAYED\r\nStatus: 4.2.2\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n\r\nFrom: ada@example.com\r\nMessage-ID: <7@example.com>\r\n\r\nHi\r\n--x--\r\n";

#[test]
fn a_report_is_read_field_by_field() {
    let dsn = parse(REPORT.as_bytes()).unwrap();
    assert_eq!(dsn.reporting_host, "mx.example.net");
    assert_eq!(dsn.original_message_id.as_deref(), Some("7@example.com"));
    let [bob, eve] = dsn.recipients.as_slice() else {
        panic!("{dsn:?}");
    };
    assert_eq!(bob.final_recipient.as_str(), "bob@example.net");
    assert_eq!(bob.original_recipient.as_ref().unwrap().local(), "Bob");
    assert_eq!(bob.action, Action::Failed);
    assert_eq!(bob.status.to_string(), "5.1.1");
    assert_eq!(bob.diagnostic, "550 5.1.1 no such user here");
    assert_eq!(eve.action, Action::Delayed);
    assert_eq!(eve.status.to_string(), "4.2.2");
}

#[test]
fn returned_headers_alone_name_the_message_too() {
    let report = REPORT.replace(
        "Content-Type: message/rfc822",
        "Content-Type: text/rfc822-headers",
    );
    let dsn = parse(report.as_bytes()).unwrap();
    assert_eq!(dsn.original_message_id.as_deref(), Some("7@example.com"));
}

#[test]
fn prose_is_searched() {
    for (text, status) in [
        (
            "<bob@example.net>:\r\n192.0.2.1 does not like recipient.\r\nRemote host said: 550 5.1.1 unknown user",
            "5.1.1",
        ),
        ("The mail to bob@example.net failed: 554 refused", "5.0.0"),
        ("bob@example.net: 452-4.2.2 mailbox full", "4.2.2"),
    ] {
        let message = format!(
            "From: MAILER-DAEMON@mx.example.net\r\nSubject: failure notice\r\n\r\nHi.\r\n{text}\r\n\r\n--- Below this line is a copy of the message.\r\n\r\nMessage-ID: <7@example.com>\r\nTo: other@example.net\r\n"
        );
        let dsn = parse(message.as_bytes()).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(dsn.recipients.len(), 1, "{text}");
        assert_eq!(
            dsn.recipients[0].final_recipient.as_str(),
            "bob@example.net"
        );
        assert_eq!(dsn.recipients[0].status.to_string(), status, "{text}");
        assert_eq!(dsn.original_message_id.as_deref(), Some("7@example.com"));
    }
}

#[test]
fn ordinary_mail_is_no_notification() {
    for message in [
        "From: bob@example.net\r\nSubject: Re: failed delivery\r\n\r\nada@example.com said 550 5.1.1\r\n",
        "From: postmaster@example.net\r\nSubject: Welcome\r\n\r\nada@example.com 5.1.1\r\n",
        "From: mailer-daemon@example.net\r\nSubject: failure\r\n\r\nnothing here\r\n",
        "",
    ] {
        assert_eq!(parse(message.as_bytes()), None, "{message}");
    }
}

#[test]
fn a_group_without_recipient_or_action_is_skipped() {
    for missing in [
        "Action: failed\r\n",
        "Final-Recipient: rfc822; bob@example.net\r\nOriginal-Recipient: rfc822;Bob@example.net\r\n",
    ] {
        let dsn = parse(REPORT.replace(missing, "").as_bytes()).unwrap();
        assert_eq!(dsn.recipients.len(), 1, "{missing}");
    }
}

#[test]
fn status_codes_have_three_parts() {
    for (text, is) in [
        ("5.1.1", true),
        ("4.7.28 (rate)", true),
        ("2.0.0", true),
        ("3.1.1", false),
        ("5.1", false),
        ("5.1.1.1", false),
        ("5.1.1234", false),
        ("5..1", false),
        ("", false),
    ] {
        assert_eq!(Status::parse(text).is_some(), is, "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>(), head in prop_oneof![
        Just("From: MAILER-DAEMON@a.example\r\nSubject: failure\r\n\r\n"),
        Just("Content-Type: message/delivery-status\r\n\r\n"),
        Just("Content-Type: multipart/report; boundary=x\r\n\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\n"),
    ]) {
        drop(parse(format!("{head}{text}").as_bytes()));
    }
}
