//! The numbers that enums are stored as. A number is never given a second meaning, so these lists
//! are shared by every version of every row; new variants take new numbers.

use inboxgrove_model::{
    domain::{CheckOutcome, DkimAlgorithm, DomainStatus},
    inbox::{Band, InboxStatus, WarmupState},
    job::{JobState, Naming},
    message::{BounceClass, Direction, Folder, MessageClass},
    notice::NoticeState,
    suppression::SuppressionReason,
    tenant::{Role, SuspensionReason, TenantStatus},
};

use crate::table::RowError;

/// An enum without fields and its numbers.
pub(crate) trait Code: Copy + 'static {
    /// What the number stands for, for errors.
    const WHAT: &'static str;
    /// All variants, for tests.
    #[cfg(test)]
    const ALL: &'static [Self];

    /// The number of this variant.
    fn code(self) -> u8;

    /// The variant with this number.
    fn from_code(code: u8) -> Result<Self, RowError>;
}

macro_rules! codes {
    ($($kind:ident, $what:literal: $($variant:ident = $code:literal),+;)+) => {$(
        impl Code for $kind {
            const WHAT: &'static str = $what;
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            fn from_code(code: u8) -> Result<Self, RowError> {
                match code {
                    $($code => Ok(Self::$variant),)+
                    _ => Err(RowError::damaged(format!("{code} is no {}", Self::WHAT))),
                }
            }
        }
    )+};
}

codes! {
    TenantStatus, "tenant status": Trial = 1, Active = 2, PastDue = 3, Suspended = 4, Closed = 5;
    SuspensionReason, "suspension reason": SpamComplaints = 1, HardBounces = 2, Blacklisted = 3,
        PaymentFailed = 4, TermsViolation = 5, Manual = 6, TrialExpired = 7;
    Role, "role": Owner = 1, Admin = 2, Member = 3, Billing = 4, Viewer = 5;
    DomainStatus, "domain status": PendingPurchase = 1, PendingDns = 2, Active = 3, Degraded = 4,
        Suspended = 5, Expired = 6;
    DkimAlgorithm, "DKIM algorithm": Rsa2048 = 1, Ed25519 = 2;
    CheckOutcome, "check outcome": Pass = 1, Fail = 2, Unknown = 3;
    InboxStatus, "inbox status": Pending = 1, Warming = 2, Active = 3, Paused = 4, Suspended = 5,
        Deleted = 6;
    WarmupState, "warmup state": Off = 1, Running = 2, Paused = 3, Graduated = 4;
    Band, "band": Healthy = 1, SoftHold = 2, Throttled = 3, Quarantined = 4;
    Direction, "direction": Out = 1, In = 2;
    MessageClass, "message class": Person = 1, Warmup = 2, System = 3, Bounce = 4;
    Folder, "folder": Inbox = 1, Spam = 2, Sent = 3;
    BounceClass, "bounce class": Recipient = 1, Infrastructure = 2, Content = 3;
    JobState, "job state": Pending = 1, Running = 2, Done = 3, Failed = 4, Cancelled = 5;
    Naming, "naming": FirstnameLastname = 1, Random = 2, Numbered = 3;
    NoticeState, "notice state": Waiting = 1, Told = 2, Dead = 3;
    SuppressionReason, "suppression reason": HardBounce = 1, Complaint = 2, Unsubscribe = 3, Manual = 4;
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Write};

    use super::*;

    /// Every variant comes back, an unknown number is an error; and a line for each variant.
    fn list<C: Code + PartialEq + Debug>() -> String {
        for code in [0, u8::MAX] {
            let why = C::from_code(code).unwrap_err().to_string();
            assert!(why.contains(C::WHAT), "{why}");
        }
        let mut lines = String::new();
        for variant in C::ALL {
            assert_eq!(C::from_code(variant.code()).as_ref(), Ok(variant));
            writeln!(lines, "{} {variant:?} {}", C::WHAT, variant.code()).unwrap();
        }
        lines
    }

    #[test]
    fn the_numbers_stand() {
        let made = [
            list::<TenantStatus>(),
            list::<SuspensionReason>(),
            list::<Role>(),
            list::<DomainStatus>(),
            list::<DkimAlgorithm>(),
            list::<CheckOutcome>(),
            list::<InboxStatus>(),
            list::<WarmupState>(),
            list::<Band>(),
            list::<Direction>(),
            list::<MessageClass>(),
            list::<Folder>(),
            list::<BounceClass>(),
            list::<JobState>(),
            list::<Naming>(),
            list::<NoticeState>(),
            list::<SuppressionReason>(),
        ]
        .concat();
        assert_eq!(made, include_str!("../../golden/codes.txt"), "{made}");
    }
}
