//! Commands: smtp-proto reads verbs and parameters, and what it forgives is refused here.
//!
//! It drops quotes and source routes from addresses, skips spaces, ignores what follows DATA and the
//! like; so paths are taken from the raw line, and both readings of an address must agree.

use inboxgrove_model::EmailAddress;
use smtp_proto::{Error, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_SMTPUTF8, Request};

use crate::smtp::{EnhancedStatus, Reply};

/// Longest name in EHLO (RFC 5321 §4.5.3.1.2).
const HELO_LEN_MAX: usize = 255;

/// A command we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// HELO with the client's name.
    Helo(String),
    /// EHLO with the client's name.
    Ehlo(String),
    /// MAIL.
    Mail(MailFrom),
    /// RCPT.
    Rcpt(Recipient),
    /// DATA.
    Data,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
    /// STARTTLS.
    StartTls,
}

/// A sender with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MailFrom {
    /// `None` is the null sender.
    pub(super) from: Option<EmailAddress>,
    /// What SIZE announced.
    pub(super) size: Option<u64>,
    /// Whether SMTPUTF8 was asked for.
    pub(super) smtputf8: bool,
}

/// A recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recipient {
    /// A whole address.
    Address(EmailAddress),
    /// `<Postmaster>`, at whatever we are called (RFC 5321 §4.5.1).
    Postmaster,
}

/// What to do with a line that is no command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Say why and go on.
    Answer(Reply),
    /// Say why and close, because what follows may not be SMTP at all.
    Close(Reply, &'static str),
}

/// Which end of a transaction a path names; tells apart their enhanced codes (RFC 3463 §3.2).
#[derive(Debug, Clone, Copy)]
enum Side {
    Sender,
    Recipient,
}

/// Reads a line without its CRLF. `smtputf8` says whether the open transaction asked for it.
pub(super) fn parse(line: &[u8], smtputf8: bool) -> Result<Command, Refusal> {
    let line = std::str::from_utf8(line).map_err(|_| syntax("expected UTF-8"))?;
    if line.chars().any(char::is_control) {
        return Err(syntax("control characters"));
    }
    let (verb, argument) = match line.split_once(' ') {
        Some((verb, argument)) => (verb, argument),
        None => (line, ""),
    };
    if verb.is_empty() || !verb.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(unknown(verb));
    }
    // Paths come first, so that they are judged by us: smtp-proto has one answer to all bad ones.
    if verb.eq_ignore_ascii_case("MAIL") {
        return mail(line);
    }
    if verb.eq_ignore_ascii_case("RCPT") {
        return rcpt(line, smtputf8);
    }
    match request(line, verb)? {
        Request::Ehlo { .. } => Ok(Command::Ehlo(helo_name(argument)?)),
        Request::Helo { .. } => Ok(Command::Helo(helo_name(argument)?)),
        Request::Data => bare(argument, Command::Data),
        Request::Rset => bare(argument, Command::Rset),
        Request::Quit => bare(argument, Command::Quit),
        Request::StartTls => bare(argument, Command::StartTls),
        Request::Noop { .. } => Ok(Command::Noop),
        Request::Help { .. } => Ok(Command::Help),
        // A chunk follows at once, and it is not ours to read as commands.
        Request::Bdat { .. } => Err(Refusal::Close(not_implemented(), "BDAT")),
        Request::Burl { .. } => Err(Refusal::Close(not_implemented(), "BURL")),
        _ => Err(Refusal::Answer(not_implemented())),
    }
}

/// What smtp-proto makes of a line.
fn request(line: &str, verb: &str) -> Result<Request<String>, Refusal> {
    let whole = [line.as_bytes(), b"\r\n"].concat();
    Request::parse(&mut whole.iter())
        .map(Request::into_owned)
        .map_err(|why| refusal(&why, verb))
}

fn mail(line: &str) -> Result<Command, Refusal> {
    let (path, parameters) = path_of(line, "MAIL FROM:<", Side::Sender)?;
    let mut words = parameters.split(' ');
    let smtputf8 = words
        .clone()
        .any(|word| word.eq_ignore_ascii_case("SMTPUTF8"));
    let sized = words.any(|word| {
        word.get(..5)
            .is_some_and(|key| key.eq_ignore_ascii_case("SIZE="))
    });
    let from = match path {
        "" => None,
        path => Some(address(path, Side::Sender, smtputf8)?),
    };
    let Request::Mail { from: parsed } = request(line, "MAIL")? else {
        return Err(syntax("syntax error"));
    };
    if parsed.address != path {
        return Err(bad_path(Side::Sender, "ambiguous address"));
    }
    if has_foreign_parameters(&parsed) {
        return Err(Refusal::Answer(unknown_parameter()));
    }
    Ok(Command::Mail(MailFrom {
        from,
        size: sized.then_some(parsed.size as u64),
        smtputf8,
    }))
}

fn rcpt(line: &str, smtputf8: bool) -> Result<Command, Refusal> {
    let (path, parameters) = path_of(line, "RCPT TO:<", Side::Recipient)?;
    if path.eq_ignore_ascii_case("postmaster") && parameters.is_empty() {
        return Ok(Command::Rcpt(Recipient::Postmaster));
    }
    let to = address(path, Side::Recipient, smtputf8)?;
    if !parameters.trim_matches(' ').is_empty() {
        return Err(Refusal::Answer(unknown_parameter()));
    }
    match request(line, "RCPT")? {
        Request::Rcpt { to: parsed } if parsed.address == path => {
            Ok(Command::Rcpt(Recipient::Address(to)))
        }
        _ => Err(bad_path(Side::Recipient, "ambiguous address")),
    }
}

/// Whether MAIL has parameters of extensions that we do not offer (RFC 5321 §4.1.1.11).
fn has_foreign_parameters(parsed: &smtp_proto::MailFrom<String>) -> bool {
    let ours = MAIL_BODY_7BIT | MAIL_BODY_8BITMIME | MAIL_SMTPUTF8;
    let theirs = [
        &parsed.trans_id,
        &parsed.env_id,
        &parsed.solicit,
        &parsed.auth,
    ];
    parsed.flags & !ours != 0
        || theirs.iter().any(|parameter| parameter.is_some())
        || parsed.mtrk.is_some()
        || parsed.by != 0
        || parsed.hold_for != 0
        || parsed.hold_until != 0
        || parsed.mt_priority != 0
}

/// The text between the brackets and the text after them, with no space forgiven (RFC 5321 §3.3).
fn path_of<'a>(line: &'a str, head: &str, side: Side) -> Result<(&'a str, &'a str), Refusal> {
    let usage = match side {
        Side::Sender => "expected MAIL FROM:<address> [SIZE=…] [BODY=…] [SMTPUTF8]",
        Side::Recipient => "expected RCPT TO:<address>",
    };
    let rest = line
        .get(..head.len())
        .filter(|found| found.eq_ignore_ascii_case(head))
        .map(|_| &line[head.len()..])
        .ok_or_else(|| syntax(usage))?;
    // A bracket within quotes would end the path here too; quoted local parts are refused anyway.
    let (path, parameters) = rest.split_once('>').ok_or_else(|| syntax(usage))?;
    if !parameters.is_empty() && !parameters.starts_with(' ') {
        return Err(syntax(usage));
    }
    Ok((path, parameters))
}

/// An address as we take it, and nothing that could mean another to somebody else.
fn address(path: &str, side: Side, smtputf8: bool) -> Result<EmailAddress, Refusal> {
    if path.starts_with('@') {
        return Err(refused_path(side, "source routes are not accepted"));
    }
    if path.contains('"') {
        return Err(refused_path(side, "quoted local parts are not accepted"));
    }
    if path.contains("@[") {
        return Err(refused_path(side, "address literals are not accepted"));
    }
    if !path.is_ascii() && !smtputf8 {
        let text = "SMTPUTF8 was not asked for";
        return Err(Refusal::Answer(Reply::new(
            553,
            EnhancedStatus::new(5, 6, 7),
            text,
        )));
    }
    let parsed = EmailAddress::parse(path).map_err(|_| bad_path(side, "bad address"))?;
    let domain = path.rsplit_once('@').map_or("", |(_, domain)| domain);
    // What IDNA would have to map (width, odd dots) is another name until somebody maps it.
    let lower = domain.to_lowercase();
    if lower != parsed.domain().as_str() && lower != parsed.domain().to_unicode() {
        return Err(bad_path(side, "bad domain"));
    }
    Ok(parsed)
}

/// The client's name: anything printable that cannot break a header or a log.
fn helo_name(argument: &str) -> Result<String, Refusal> {
    let name = argument.trim_end_matches(' ');
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if name.is_empty() || name.len() > HELO_LEN_MAX || !name.bytes().all(fine) {
        return Err(syntax("expected your host name"));
    }
    Ok(name.to_owned())
}

fn bare(argument: &str, command: Command) -> Result<Command, Refusal> {
    if argument.trim_matches(' ').is_empty() {
        Ok(command)
    } else {
        let text = "no parameters here";
        Err(Refusal::Answer(Reply::new(
            501,
            EnhancedStatus::new(5, 5, 4),
            text,
        )))
    }
}

/// What smtp-proto's error means to a client.
fn refusal(why: &Error, verb: &str) -> Refusal {
    match why {
        Error::UnknownCommand => unknown(verb),
        Error::InvalidSenderAddress => bad_path(Side::Sender, "bad address"),
        Error::InvalidRecipientAddress => bad_path(Side::Recipient, "bad address"),
        Error::UnsupportedParameter { .. } => Refusal::Answer(unknown_parameter()),
        Error::InvalidParameter { .. } => {
            let text = "bad parameter";
            Refusal::Answer(Reply::new(501, EnhancedStatus::new(5, 5, 4), text))
        }
        _ => syntax("syntax error"),
    }
}

fn unknown(verb: &str) -> Refusal {
    let reply = Reply::new(500, EnhancedStatus::new(5, 5, 2), "unknown command");
    let foreign = [
        "GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS", "XCLIENT",
    ];
    if foreign.iter().any(|word| verb.eq_ignore_ascii_case(word)) {
        Refusal::Close(reply, "not SMTP")
    } else {
        Refusal::Answer(reply)
    }
}

fn syntax(text: &str) -> Refusal {
    Refusal::Answer(Reply::new(501, EnhancedStatus::new(5, 5, 2), text))
}

fn bad_path(side: Side, text: &str) -> Refusal {
    Refusal::Answer(Reply::new(501, side.status(), text))
}

fn refused_path(side: Side, text: &str) -> Refusal {
    Refusal::Answer(Reply::new(553, side.status(), text))
}

fn unknown_parameter() -> Reply {
    Reply::new(555, EnhancedStatus::new(5, 5, 4), "unknown parameter")
}

fn not_implemented() -> Reply {
    Reply::new(502, EnhancedStatus::new(5, 5, 1), "not implemented")
}

// === impl Side ===

impl Side {
    fn status(self) -> EnhancedStatus {
        match self {
            Self::Sender => EnhancedStatus::new(5, 1, 7),
            Self::Recipient => EnhancedStatus::new(5, 1, 3),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The reply code of a refusal, or 250 with the address.
    fn judge(line: &str, smtputf8: bool) -> (u16, String) {
        match parse(line.as_bytes(), smtputf8) {
            Ok(Command::Rcpt(Recipient::Address(to))) => (250, to.to_string()),
            Ok(Command::Rcpt(Recipient::Postmaster)) => (250, "postmaster".to_owned()),
            Ok(Command::Mail(mail)) => (
                250,
                mail.from.map(|from| from.to_string()).unwrap_or_default(),
            ),
            Ok(other) => panic!("{line:?} is {other:?}"),
            Err(Refusal::Answer(reply) | Refusal::Close(reply, _)) => (reply.code(), String::new()),
        }
    }

    #[test]
    fn paths_are_taken_strictly() {
        let long_local = format!("<{}@example.net>", "a".repeat(65));
        let long_domain = format!("<a@{}example.net>", "a.".repeat(130));
        let cases: &[(&str, u16, &str)] = &[
            ("<bob@example.net>", 250, "bob@example.net"),
            ("<Bob+tag@Example.NET>", 250, "Bob+tag@example.net"),
            ("<postmaster>", 250, "postmaster"),
            ("<PostMaster>", 250, "postmaster"),
            ("<postmaster@example.net>", 250, "postmaster@example.net"),
            ("<a%b@example.net>", 250, "a%b@example.net"),
            ("<b!a@example.net>", 250, "b!a@example.net"),
            ("<o'brien@example.net>", 250, "o'brien@example.net"),
            (
                "<bob@xn--bcher-kva.example>",
                250,
                "bob@xn--bcher-kva.example",
            ),
            ("<>", 501, ""),
            ("<bob>", 501, ""),
            ("<bob@>", 501, ""),
            ("<@example.net>", 553, ""),
            ("<bob@localhost>", 501, ""),
            ("<bob@127.0.0.1>", 501, ""),
            ("<bob@[127.0.0.1]>", 553, ""),
            ("<bob@[IPv6:::1]>", 553, ""),
            ("<\"bob\"@example.net>", 553, ""),
            ("<\"bob smith\"@example.net>", 553, ""),
            ("<\"a@b\"@example.net>", 553, ""),
            ("<\"a>\"@example.net>", 501, ""),
            ("<@relay.example:bob@example.net>", 553, ""),
            ("<@a.example,@b.example:bob@example.net>", 553, ""),
            ("<a@b@example.net>", 501, ""),
            ("<a..b@example.net>", 501, ""),
            ("<.a@example.net>", 501, ""),
            ("<a.@example.net>", 501, ""),
            ("<a b@example.net>", 501, ""),
            ("<a\tb@example.net>", 501, ""),
            ("<a<b@example.net>", 501, ""),
            ("<a,b@example.net>", 501, ""),
            ("<a;b@example.net>", 501, ""),
            ("<bob@example.net.>", 501, ""),
            ("<bob@-example.net>", 501, ""),
            ("<bob@exa_mple.net>", 501, ""),
            ("<bob@example..net>", 501, ""),
            ("<bob(comment)@example.net>", 501, ""),
            (&long_local, 501, ""),
            (&long_domain, 501, ""),
            ("bob@example.net", 501, ""),
            (" <bob@example.net>", 501, ""),
            ("<bob@example.net", 501, ""),
            ("<bob@example.net>x", 501, ""),
            ("<bob@example.net>>", 501, ""),
            ("<bob@example.net> <eve@example.net>", 555, ""),
            ("<bob@example.net> ORCPT=rfc822;x", 555, ""),
            ("<bücher@example.net>", 553, ""),
            ("<bob@bücher.example>", 553, ""),
        ];
        for (path, code, address) in cases {
            let found = judge(&format!("RCPT TO:{path}"), false);
            assert_eq!(found, (*code, (*address).to_owned()), "{path}");
        }
    }

    #[test]
    fn international_addresses_need_to_be_asked_for_and_mean_one_thing() {
        for (path, code) in [
            ("<bücher@example.net>", 250),
            ("<bob@bücher.example>", 250),
            ("<bob@BÜCHER.example>", 250),
            ("<bob@example。net>", 501),
            ("<bob@ｅxample.net>", 501),
            ("<bob\u{202e}@example.net>", 501),
            ("<bob\u{85}@example.net>", 501),
        ] {
            assert_eq!(judge(&format!("RCPT TO:{path}"), true).0, code, "{path}");
        }
        let cyrillic = judge("RCPT TO:<bob@еxample.net>", true);
        assert_eq!(cyrillic, (250, "bob@xn--xample-2of.net".to_owned()));
    }

    #[test]
    fn senders_may_be_nobody_and_have_parameters() {
        for (line, code) in [
            ("MAIL FROM:<>", 250),
            ("MAIL FROM:<> SIZE=10", 250),
            ("mail From:<a@b.example> BODY=7BIT", 250),
            ("MAIL FROM:<postmaster>", 501),
            ("MAIL FROM: <a@b.example>", 501),
            ("MAIL  FROM:<a@b.example>", 501),
            ("MAIL FROM <a@b.example>", 501),
            ("MAIL FROM:a@b.example", 501),
            ("MAIL FROM:<a@b.example>SIZE=1", 501),
            ("MAIL FROM:<a@b.example> SIZE=-1", 501),
            ("MAIL FROM:<a@b.example> XODD=1", 555),
            ("MAIL FROM:<a@b.example> ééé=1", 501),
            ("MAIL FROM:<@x.example:a@b.example>", 553),
            ("MAIL FROM:<bücher@b.example> SMTPUTF8", 250),
            ("MAIL FROM:<bücher@b.example>", 553),
            (" MAIL FROM:<a@b.example>", 500),
        ] {
            assert_eq!(judge(line, false).0, code, "{line}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        for line in [&b"RCPT TO:<\xff@example.net>"[..], b"\xc3\x28", b""] {
            assert!(parse(line, true).is_err(), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(
            head in "(MAIL FROM:|RCPT TO:|EHLO |DATA|mail from:<|rcpt to:<|BDAT |AUTH )?",
            tail in "(\\PC|[<>@:\"\\\\= .a]|SIZE=|BODY=|SMTPUTF8|xn--|>  ){0,30}",
        ) {
            let line = format!("{head}{tail}");
            match parse(line.as_bytes(), true) {
                Ok(Command::Rcpt(Recipient::Address(to))) => {
                    prop_assert!(line[8..].starts_with('<'));
                    let said = line[9..].split('>').next().unwrap();
                    prop_assert_eq!(EmailAddress::parse(said).unwrap(), to);
                }
                Ok(_) => {}
                Err(Refusal::Answer(reply) | Refusal::Close(reply, _)) => {
                    prop_assert!((500..600).contains(&reply.code()));
                }
            }
        }
    }
}
