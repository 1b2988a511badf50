//! Events as they stand in the log: what happened.
//! No key: the log gives the id. Value: version byte, then the rkyv archive of a row.
//!
//! All kinds share one row of named fields, so that a daemon reads the row of a kind it does not know
//! and keeps it as [`EventKind::Unknown`]. What a kind leaves unused is zero or empty.

mod v1;

use inboxgrove_model::event::Event;

use super::codec;
use crate::table::RowError;

/// An event in the newest version, in clear.
pub(crate) fn to_row(event: &Event) -> Vec<u8> {
    codec::write(v1::VERSION, &v1::Row::from(event))
}

/// An event of any version.
pub(crate) fn from_row(row: &[u8]) -> Result<Event, RowError> {
    match codec::split(row)? {
        (v1::VERSION, archive) => codec::read::<v1::Row>(archive)?.try_into(),
        (version, _) => Err(RowError::UnknownVersion(version)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::Write,
        net::{IpAddr, Ipv4Addr},
    };

    use data_encoding::HEXLOWER;
    use inboxgrove_model::{
        domain::DomainStatus,
        event::{Event, EventKind},
        inbox::{Band, WarmupState},
        job::JobState,
        message::{BounceClass, MessageClass},
        tenant::{SuspensionReason, TenantStatus},
    };
    use proptest::{option, prelude::*, sample::select};

    use super::{from_row, to_row};
    use crate::{records::laws::some, table::RowError};

    /// One of each kind, in the order of their numbers.
    #[expect(clippy::too_many_lines, reason = "one flat table")]
    fn samples() -> Vec<EventKind> {
        let (user, domain, inbox) = (some::USER, some::DOMAIN, some::INBOX);
        let (message, recipient) = (some::MESSAGE, some::ada());
        let provider = String::from("google");
        let reply = String::from("250 2.0.0 OK");
        vec![
            EventKind::TenantRegistered { user },
            EventKind::UserLoggedIn {
                user,
                from: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
            },
            EventKind::RefreshReused { user },
            EventKind::TenantStatusChanged {
                status: TenantStatus::Suspended,
                reason: Some(SuspensionReason::Manual),
                note: "asked to".into(),
            },
            EventKind::DomainAdded { domain },
            EventKind::DomainStatusChanged {
                domain,
                status: DomainStatus::Active,
                reason: "all records are there".into(),
            },
            EventKind::DomainRemoved { domain },
            EventKind::InboxCreated { inbox },
            EventKind::InboxChanged {
                inbox,
                what: "daily limit".into(),
            },
            EventKind::InboxDeleted { inbox },
            EventKind::CredentialRotated { inbox },
            EventKind::WarmupChanged {
                inbox,
                state: WarmupState::Running,
            },
            EventKind::BandChanged {
                inbox,
                band: Band::Throttled,
                why: "three refusals".into(),
            },
            EventKind::MessageAccepted {
                message,
                inbox,
                class: MessageClass::Person,
                recipients: 3,
            },
            EventKind::MessageDelivered {
                message,
                inbox,
                recipient: recipient.clone(),
                provider: provider.clone(),
                reply: reply.clone(),
            },
            EventKind::MessageDeferred {
                message,
                inbox,
                recipient: recipient.clone(),
                provider: provider.clone(),
                reply: reply.clone(),
                next_at: some::at(4),
            },
            EventKind::MessageBounced {
                message,
                inbox,
                recipient: recipient.clone(),
                provider: provider.clone(),
                reply,
                class: BounceClass::Content,
            },
            EventKind::MessageUncertain {
                message,
                inbox,
                recipient: recipient.clone(),
                provider: provider.clone(),
            },
            EventKind::MessageExpired {
                message,
                inbox,
                recipient: recipient.clone(),
            },
            EventKind::MessageReceived {
                message,
                inbox,
                class: MessageClass::Warmup,
                from: Some(recipient),
            },
            EventKind::MessagePlaced {
                message,
                inbox,
                provider,
                spam: true,
            },
            EventKind::MessageReplied { message, inbox },
            EventKind::JobChanged {
                job: some::JOB,
                done: 4,
                total: 10,
                state: JobState::Running,
            },
            EventKind::OperatorActed {
                verb: "suspend".into(),
                subject: some::TENANT.to_string(),
                uid: 1000,
            },
            EventKind::Unknown { kind: 60_000 },
        ]
    }

    fn event(kind: EventKind) -> Event {
        Event {
            at: some::at(3),
            tenant: Some(some::TENANT),
            kind,
        }
    }

    /// Every kind that carries more than ids.
    fn kinds() -> impl Strategy<Value = EventKind> {
        let text = || some::text(200);
        let place = || {
            (
                some::message(),
                some::inbox(),
                some::address(),
                some::host(),
            )
        };
        prop_oneof![
            select(samples()),
            (some::user(), option::of(some::ip()))
                .prop_map(|(user, from)| EventKind::UserLoggedIn { user, from }),
            (some::code(), option::of(some::code()), text()).prop_map(|(status, reason, note)| {
                EventKind::TenantStatusChanged {
                    status,
                    reason,
                    note,
                }
            }),
            (some::domain(), some::code(), text()).prop_map(|(domain, status, reason)| {
                EventKind::DomainStatusChanged {
                    domain,
                    status,
                    reason,
                }
            }),
            (some::inbox(), text())
                .prop_map(|(inbox, what)| EventKind::InboxChanged { inbox, what }),
            (some::inbox(), some::code())
                .prop_map(|(inbox, state)| EventKind::WarmupChanged { inbox, state }),
            (some::inbox(), some::code(), text())
                .prop_map(|(inbox, band, why)| EventKind::BandChanged { inbox, band, why }),
            (some::message(), some::inbox(), some::code(), any::<u16>()).prop_map(
                |(message, inbox, class, recipients)| EventKind::MessageAccepted {
                    message,
                    inbox,
                    class,
                    recipients,
                }
            ),
            (place(), text()).prop_map(|((message, inbox, recipient, provider), reply)| {
                EventKind::MessageDelivered {
                    message,
                    inbox,
                    recipient,
                    provider,
                    reply,
                }
            }),
            (place(), text(), some::policy()).prop_map(
                |((message, inbox, recipient, provider), reply, next_at)| {
                    EventKind::MessageDeferred {
                        message,
                        inbox,
                        recipient,
                        provider,
                        reply,
                        next_at,
                    }
                }
            ),
            (place(), text(), some::code()).prop_map(
                |((message, inbox, recipient, provider), reply, class)| EventKind::MessageBounced {
                    message,
                    inbox,
                    recipient,
                    provider,
                    reply,
                    class,
                }
            ),
            (place(), some::code(), any::<bool>()).prop_map(
                |((message, inbox, from, _), class, known)| EventKind::MessageReceived {
                    message,
                    inbox,
                    class,
                    from: known.then_some(from),
                }
            ),
            (place(), any::<bool>()).prop_map(|((message, inbox, _, provider), spam)| {
                EventKind::MessagePlaced {
                    message,
                    inbox,
                    provider,
                    spam,
                }
            }),
            (some::job(), any::<(u32, u32)>(), some::code()).prop_map(
                |(job, (done, total), state)| EventKind::JobChanged {
                    job,
                    done,
                    total,
                    state
                }
            ),
            (text(), text(), any::<u32>())
                .prop_map(|(verb, subject, uid)| EventKind::OperatorActed { verb, subject, uid }),
        ]
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        let mut made = String::new();
        for kind in samples() {
            let row = HEXLOWER.encode(&to_row(&event(kind.clone())));
            let name = format!("{kind:?}");
            let name = name.split(' ').next().unwrap_or_default();
            writeln!(made, "{name} {row}").unwrap();
        }
        let kept = include_str!("../../golden/events.v1.hex");
        assert_eq!(made, kept, "GOLDEN events\n{made}");
        for (line, kind) in kept.lines().zip(samples()) {
            let (_, hex) = line.split_once(' ').unwrap();
            assert_eq!(
                from_row(&HEXLOWER.decode(hex.as_bytes()).unwrap()),
                Ok(event(kind))
            );
        }
    }

    #[test]
    fn damage_is_an_error() {
        let row = to_row(&event(samples()[14].clone()));
        assert_eq!(from_row(&[]), Err(RowError::Empty));
        let later = [&[200], &row[1..]].concat();
        assert_eq!(from_row(&later), Err(RowError::UnknownVersion(200)));
        assert!(matches!(from_row(&row[..1]), Err(RowError::Damaged(_))));
        for at in 0..row.len() {
            let mut flipped = row.clone();
            flipped[at] ^= 0x80;
            // The frame's checksum finds every flipped bit; here each must only be survived.
            drop(from_row(&flipped));
            drop(from_row(&row[..at]));
        }
    }

    #[test]
    fn a_kind_to_come_is_kept_and_made_anew() {
        let row = to_row(&event(EventKind::Unknown { kind: 39 }));
        let back = from_row(&row).unwrap();
        assert_eq!(back.kind, EventKind::Unknown { kind: 39 });
        assert_eq!(to_row(&back), row);
    }

    #[test]
    fn an_event_is_small() {
        let row = to_row(&event(samples()[21].clone()));
        assert!(row.len() <= 110, "{} bytes", row.len());
    }

    proptest! {
        #[test]
        fn an_event_comes_back(
            at in some::policy(),
            tenant in option::of(some::tenant()),
            kind in kinds(),
        ) {
            let event = Event { at, tenant, kind };
            prop_assert_eq!(from_row(&to_row(&event)), Ok(event));
        }
    }
}
