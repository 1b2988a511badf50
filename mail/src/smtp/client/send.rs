//! One message over an open session: checked, announced, handed over, and its outcome per recipient.

use tokio::time::{Duration, timeout};

use super::{
    Capabilities, ClientError, Delivery, EnvelopeOut, SendOutcome, Session, Stage, State, wire,
};
use crate::smtp::{EnhancedStatus, Reply, Severity};

/// Longest text line without its CRLF (RFC 5321 §4.5.3.1.6).
const TEXT_LINE_MAX: usize = 998;
/// Commands that go out before their replies are read, so that neither side's buffers can fill up while
/// both write (RFC 2920 §3.1).
const GROUP_COMMANDS_MAX: usize = 20;

/// What our check leaves to do.
struct Plan {
    mail: String,
    /// Recipients still to announce, as indexes into the outcome, each with its command.
    open: Vec<(usize, String)>,
}

/// What the server said to MAIL, RCPT and DATA.
#[derive(Default)]
struct Announced {
    /// Recipients the server has taken.
    taken: Vec<usize>,
    /// Whether it said 354 to DATA.
    go_ahead: bool,
}

// === impl Session ===

impl Session {
    /// Sends a message. The outcome tells everything, so there is no error beside it.
    ///
    /// `message` must be as it was signed: lines ended by CRLF, at most 998 octets long. What is not is
    /// refused at [`Stage::Check`], never mended, since mending breaks signatures.
    pub async fn send(&mut self, envelope: &EnvelopeOut, message: &[u8]) -> SendOutcome {
        let mut outcome = SendOutcome::new(envelope);
        if let Some(plan) = plan(&self.capabilities, envelope, message, &mut outcome) {
            match self.announce(&plan, &mut outcome).await {
                Ok(announced) => self.hand_over(&announced, message, &mut outcome).await,
                Err((stage, error)) => lose(&mut outcome, stage, &error),
            }
        }
        outcome.reusable = self.is_usable();
        outcome
    }

    /// MAIL, RCPT and DATA, several at once where the server allows it.
    async fn announce(
        &mut self,
        plan: &Plan,
        outcome: &mut SendOutcome,
    ) -> Result<Announced, (Stage, ClientError)> {
        self.make_ready()
            .await
            .map_err(|error| (Stage::Reset, error))?;
        self.state = State::Open;
        let commands = std::iter::once((Stage::Mail, None, plan.mail.as_str()))
            .chain(
                plan.open
                    .iter()
                    .map(|(at, line)| (Stage::Rcpt, Some(*at), line.as_str())),
            )
            .chain(std::iter::once((Stage::Data, None, "DATA\r\n")));
        let commands: Vec<_> = commands.collect();
        let group = if self.capabilities.pipelining {
            GROUP_COMMANDS_MAX
        } else {
            1
        };
        let mut announced = Announced::default();
        for commands in commands.chunks(group) {
            let lines: String = commands.iter().map(|(_, _, line)| *line).collect();
            let first = commands.first().map_or(Stage::Mail, |(stage, ..)| *stage);
            self.write(first, &lines)
                .await
                .map_err(|error| (first, error))?;
            for (stage, at, _) in commands {
                let wait = self.wait_for(*stage);
                let reply = self
                    .reply(*stage, wait)
                    .await
                    .map_err(|error| (*stage, error))?;
                note(*stage, *at, &reply, &mut announced, outcome);
            }
            if is_settled(plan, outcome) {
                break;
            }
        }
        Ok(announced)
    }

    /// The text, if anybody takes it.
    async fn hand_over(
        &mut self,
        announced: &Announced,
        message: &[u8],
        outcome: &mut SendOutcome,
    ) {
        if !announced.go_ahead {
            return;
        }
        // A server that wants text for nobody gets none (RFC 2920 §3.1).
        let nobody = announced.taken.is_empty();
        let text = if nobody { &[][..] } else { message };
        outcome.content_begun = !nobody;
        let sent_before = wire::written(&self.wire);
        let wait = self.content_time(text.len());
        let written = timeout(wait, wire::write_content(&mut self.wire, text)).await;
        if let Err(error) = self.judged(Stage::Content, wait, written) {
            let sent = wire::written(&self.wire) - sent_before;
            if sent >= wire::content_len(text) {
                doubt(outcome, announced, &error);
            } else {
                lose(outcome, Stage::Content, &error);
            }
            return;
        }
        match self.reply(Stage::End, self.options.timeouts.end).await {
            Ok(reply) if (300..400).contains(&reply.code()) => {
                self.state = State::Ended;
                doubt(
                    outcome,
                    announced,
                    &format!("an answer that makes no sense: {reply}"),
                );
            }
            Ok(reply) => {
                if self.is_usable() {
                    self.state = State::Idle;
                }
                settle(outcome, announced, &reply);
            }
            Err(error) => doubt(outcome, announced, &error),
        }
    }

    /// No unasked words on the line and no transaction open.
    async fn make_ready(&mut self) -> Result<(), ClientError> {
        if self.state == State::Ended {
            return Err(ClientError::Ended {
                server: self.options.server_name.clone(),
            });
        }
        if wire::has_more(&mut self.wire) {
            // It went away or is about to, most likely with a 421.
            let reply = self
                .reply(Stage::Reset, self.options.timeouts.command)
                .await?;
            return Err(self.refused(Stage::Reset, reply));
        }
        if self.state == State::Open {
            self.reset().await?;
        }
        Ok(())
    }

    fn wait_for(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Data => self.options.timeouts.data,
            _ => self.options.timeouts.command,
        }
    }

    fn content_time(&self, len: usize) -> Duration {
        let rate = self.options.timeouts.content_bytes_per_second.max(1);
        self.options.timeouts.content + Duration::from_secs(len as u64 / rate)
    }
}

/// Checks everything that would be refused anyway or could do harm; `None` when nobody is left.
fn plan(
    capabilities: &Capabilities,
    envelope: &EnvelopeOut,
    message: &[u8],
    outcome: &mut SendOutcome,
) -> Option<Plan> {
    let utf8 = needs_smtputf8(envelope, message);
    if let Some(reply) = objection(capabilities, utf8, message) {
        for recipient in &mut outcome.recipients {
            recipient.delivery = Delivery::Refused(reply.clone());
        }
        return None;
    }
    let mut open = Vec::new();
    let mut any_utf8 = utf8;
    for (at, recipient) in outcome.recipients.iter_mut().enumerate() {
        let needs = recipient.recipient.needs_smtputf8();
        if needs && !capabilities.smtputf8 {
            recipient.delivery = Delivery::Refused(no_smtputf8());
            continue;
        }
        any_utf8 |= needs;
        open.push((at, format!("RCPT TO:<{}>\r\n", recipient.recipient)));
    }
    if open.is_empty() {
        return None;
    }
    let mail = mail_command(capabilities, envelope, message, any_utf8);
    Some(Plan { mail, open })
}

/// MAIL with the parameters that the server knows and the message needs.
fn mail_command(
    capabilities: &Capabilities,
    envelope: &EnvelopeOut,
    message: &[u8],
    utf8: bool,
) -> String {
    let from = envelope.mail_from.as_ref().map_or("", |from| from.as_str());
    let size = if capabilities.size {
        format!(" SIZE={}", message.len())
    } else {
        String::new()
    };
    let body = if message.is_ascii() {
        ""
    } else {
        " BODY=8BITMIME"
    };
    let utf8 = if utf8 { " SMTPUTF8" } else { "" };
    format!("MAIL FROM:<{from}>{size}{body}{utf8}\r\n")
}

/// Why this message cannot go to this server at all.
fn objection(capabilities: &Capabilities, utf8: bool, message: &[u8]) -> Option<Reply> {
    let permanent = |code, subject, detail, text| {
        Some(Reply::new(
            code,
            EnhancedStatus::new(5, subject, detail),
            text,
        ))
    };
    if let Some(why) = malformed(message) {
        return permanent(554, 6, 0, why);
    }
    if capabilities
        .size_max
        .is_some_and(|max| message.len() as u64 > max)
    {
        return permanent(552, 3, 4, "message bigger than the server takes");
    }
    if utf8 && !capabilities.smtputf8 {
        return Some(no_smtputf8());
    }
    if !message.is_ascii() && !capabilities.eight_bit_mime {
        return permanent(554, 6, 3, "the server takes 7-bit text only");
    }
    None
}

fn no_smtputf8() -> Reply {
    let text = "the server does not take internationalised addresses or headers";
    Reply::new(553, EnhancedStatus::new(5, 6, 7), text)
}

/// Why a text could be read as two messages, or not at all. It must never go out, mended or not.
fn malformed(message: &[u8]) -> Option<&'static str> {
    let mut rest = message;
    while !rest.is_empty() {
        let special = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        let end = rest.iter().position(special).unwrap_or(rest.len());
        if end > TEXT_LINE_MAX {
            return Some("line longer than 998 octets");
        }
        rest = match rest.get(end..) {
            None | Some([]) => &[],
            Some([b'\r', b'\n', next @ ..]) => next,
            Some(_) => return Some("bare CR, bare LF or NUL"),
        };
    }
    None
}

/// Whether the sender or the header section has more than ASCII (RFC 6531 §3.4).
fn needs_smtputf8(envelope: &EnvelopeOut, message: &[u8]) -> bool {
    let header_end = message
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or(message.len());
    envelope
        .mail_from
        .as_ref()
        .is_some_and(inboxgrove_model::EmailAddress::needs_smtputf8)
        || !message[..header_end].is_ascii()
}

/// Notes one reply of the announcement.
fn note(
    stage: Stage,
    at: Option<usize>,
    reply: &Reply,
    announced: &mut Announced,
    outcome: &mut SendOutcome,
) {
    match (stage, at) {
        (Stage::Rcpt, Some(at)) if reply.is_done() => announced.taken.push(at),
        (Stage::Rcpt, Some(at)) => {
            let recipient = &mut outcome.recipients[at];
            // A refused MAIL has decided for all: the replies behind it only echo it.
            if matches!(recipient.delivery, Delivery::Lost(_)) {
                recipient.stage = Stage::Rcpt;
                recipient.delivery = Delivery::Refused(as_refusal(reply));
            }
        }
        (Stage::Data, _) if reply.code() == 354 => announced.go_ahead = true,
        (Stage::Data, _) => refuse(outcome, stage, reply),
        _ if reply.is_done() => {}
        _ => refuse(outcome, stage, reply),
    }
    if stage == Stage::Data && announced.go_ahead {
        // A server that refused MAIL and still takes recipients makes no sense: nobody counts as taken.
        announced
            .taken
            .retain(|at| matches!(outcome.recipients[*at].delivery, Delivery::Lost(_)));
    }
}

/// Whether everybody was refused, so that there is nothing more to say.
fn is_settled(plan: &Plan, outcome: &SendOutcome) -> bool {
    let refused = |at: usize| matches!(outcome.recipients[at].delivery, Delivery::Refused(_));
    plan.open.iter().all(|(at, _)| refused(*at))
}

/// A refusal for all that are not decided yet.
fn refuse(outcome: &mut SendOutcome, stage: Stage, reply: &Reply) {
    for recipient in &mut outcome.recipients {
        if matches!(recipient.delivery, Delivery::Lost(_)) {
            recipient.stage = stage;
            recipient.delivery = Delivery::Refused(as_refusal(reply));
        }
    }
}

/// A reply as a refusal: one that is positive and yet not what was asked for means "try again".
fn as_refusal(reply: &Reply) -> Reply {
    if reply.severity() == Severity::Positive {
        let text = format!("an answer that makes no sense: {reply}");
        Reply::new(451, EnhancedStatus::new(4, 5, 0), &text)
    } else {
        reply.clone()
    }
}

/// A failure before the final dot for all that are not decided yet.
fn lose(outcome: &mut SendOutcome, stage: Stage, error: &ClientError) {
    for recipient in &mut outcome.recipients {
        if matches!(recipient.delivery, Delivery::Lost(_)) {
            recipient.stage = stage;
            recipient.delivery = Delivery::Lost(error.to_string());
        }
    }
}

/// A failure after the final dot.
fn doubt(outcome: &mut SendOutcome, announced: &Announced, why: &dyn std::fmt::Display) {
    for at in &announced.taken {
        outcome.recipients[*at].stage = Stage::End;
        outcome.recipients[*at].delivery = Delivery::Uncertain(why.to_string());
    }
}

/// The reply to the final dot.
fn settle(outcome: &mut SendOutcome, announced: &Announced, reply: &Reply) {
    for at in &announced.taken {
        outcome.recipients[*at].stage = Stage::End;
        outcome.recipients[*at].delivery = if reply.is_done() {
            Delivery::Accepted(reply.clone())
        } else {
            Delivery::Refused(reply.clone())
        };
    }
}
