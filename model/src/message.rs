//! Messages and their way out.

use std::net::IpAddr;

use crate::{EmailAddress, InboxId, MessageId, PolicyTime, TenantId};

/// A message, sent or received. The row of one on its way out belongs to outbound from its acceptance on;
/// the row of a received one belongs to its inbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Which.
    pub id: MessageId,
    /// Whose.
    pub tenant: TenantId,
    /// The inbox that sent or received it.
    pub inbox: InboxId,
    /// Out or in.
    pub direction: Direction,
    /// Why it exists.
    pub class: MessageClass,
    /// Envelope sender; `None` is the null reverse-path.
    pub mail_from: Option<EmailAddress>,
    /// Envelope recipients, at most [`RECIPIENTS_MAX`](crate::limits::RECIPIENTS_MAX).
    pub recipients: Vec<Recipient>,
    /// `Subject`, decoded, cut at 200 characters.
    pub subject: String,
    /// `Message-ID` without its brackets.
    pub message_id: String,
    /// `In-Reply-To` without its brackets.
    pub in_reply_to: Option<String>,
    /// `Message-ID` of the first message of the thread.
    pub thread: String,
    /// Where its bytes are.
    pub body: BodyRef,
    /// When it was accepted.
    pub accepted_at: PolicyTime,
    /// Where it lies, for a received one.
    pub folder: Folder,
}

/// Out or in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From an inbox to the outside.
    Out,
    /// From the outside to an inbox.
    In,
}

/// Why a message exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageClass {
    /// Somebody wrote it.
    Person,
    /// A turn of a warmup conversation.
    Warmup,
    /// The system's own: notices, reports.
    System,
    /// A delivery status notification.
    Bounce,
}

/// Where a received message lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Folder {
    /// In the inbox.
    Inbox,
    /// In the spam folder.
    Spam,
    /// It was sent, not received.
    Sent,
}

/// Where the bytes of a message are in the log. Opaque above the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BodyRef {
    /// Sequence number of the frame that carries it.
    pub seq: u64,
    /// Which body of that frame.
    pub index: u32,
    /// Its size in bytes, before sealing.
    pub size: u32,
}

/// One of the addresses of an envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipient {
    /// The address.
    pub address: EmailAddress,
    /// How far it has come.
    pub state: RecipientState,
    /// How many attempts have begun.
    pub attempts: u16,
    /// The last answer of a server, or why there was none; cut at 200 characters.
    pub last_reply: String,
}

/// How far a recipient has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecipientState {
    /// Waits for its first or next attempt.
    Queued,
    /// An attempt has begun: its takes are spent and DATA may have been sent.
    Attempting,
    /// The server took it.
    Delivered,
    /// Refused for good.
    Bounced(BounceClass),
    /// The connection was lost after the final dot, or a restart found it attempting.
    Uncertain,
    /// Never tried: the address asked us not to.
    Suppressed,
    /// Given up after the maximum age.
    Expired,
    /// It was received, not sent.
    Received,
}

impl RecipientState {
    /// Whether nothing more will happen to it.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Delivered | Self::Bounced(_) | Self::Suppressed | Self::Expired | Self::Received
        )
    }
}

/// Whom a permanent refusal blames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BounceClass {
    /// The recipient: unknown, disabled.
    Recipient,
    /// Us: address, domain, authentication.
    Infrastructure,
    /// What we wrote.
    Content,
}

/// A recipient's place in the queue. Its row belongs to outbound; its key starts with `due_at`.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueEntry {
    /// The message.
    pub message: MessageId,
    /// Which of its recipients.
    pub recipient: u16,
    /// Whose.
    pub tenant: TenantId,
    /// From which inbox.
    pub inbox: InboxId,
    /// When the next attempt is due.
    pub due_at: PolicyTime,
    /// When the message was accepted.
    pub accepted_at: PolicyTime,
    /// How many attempts have begun.
    pub attempts: u16,
    /// Why it exists: people's mail goes first.
    pub class: MessageClass,
    /// Whether an attempt has begun whose outcome is not known.
    pub attempting: bool,
    /// The source address of the last attempt: greylisting wants the same one again.
    pub source: Option<IpAddr>,
    /// Whether it waits for an operator or for its tenant.
    pub held: bool,
}
