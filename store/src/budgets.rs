//! Table `budgets`: how much of each budget has been taken. The committer's own: takes are checked here.
//! Key: a byte for the level, then whose. Value: version byte, hour i64, used u32, day i64, used u32.

use inboxgrove_model::budget::{BudgetFull, BudgetKey, BudgetUse, Take, Window};

use crate::table::{KeyBytes, KeyParts, RowError, TableId};

const VERSION: u8 = 1;

/// Why a take was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TakeRefused {
    /// A window is full.
    Full(BudgetFull),
    /// Its window lies before one that has been seen.
    Past {
        window: &'static str,
        index: i64,
        seen: i64,
    },
}

/// The whole key of a budget's row.
pub(crate) fn whole_key(budget: &BudgetKey) -> Vec<u8> {
    let key = KeyBytes::new().byte(TableId::Budget.byte());
    match budget {
        BudgetKey::Global => key.byte(0),
        BudgetKey::Source(ip) => key.byte(1).ip(*ip),
        BudgetKey::SourceSite(ip, site) => key.byte(2).ip(*ip).text(site),
        BudgetKey::Tenant(tenant) => key.byte(3).id(tenant.as_bytes()),
        BudgetKey::Domain(tenant, domain) => {
            key.byte(4).id(tenant.as_bytes()).id(domain.as_bytes())
        }
        BudgetKey::Inbox(tenant, inbox) => key.byte(5).id(tenant.as_bytes()).id(inbox.as_bytes()),
        BudgetKey::Received(tenant, inbox) => {
            key.byte(6).id(tenant.as_bytes()).id(inbox.as_bytes())
        }
    }
    .finish()
}

/// The row of a use.
pub(crate) fn to_row(of: BudgetUse) -> Vec<u8> {
    let row = KeyBytes::new().byte(VERSION).signed(of.hour_index);
    let row = row.bytes(&of.hour_used.to_be_bytes()).signed(of.day_index);
    row.bytes(&of.day_used.to_be_bytes()).finish()
}

/// The use that a row tells of.
pub(crate) fn from_row(row: &[u8]) -> Result<BudgetUse, RowError> {
    let mut parts = KeyParts::of(row);
    match parts.byte().map_err(|_| RowError::Empty)? {
        VERSION => {
            let hour_index = parts.signed()?;
            let hour_used = u32::from_be_bytes(parts.array()?);
            let day_index = parts.signed()?;
            let day_used = u32::from_be_bytes(parts.array()?);
            Ok(BudgetUse {
                hour_index,
                hour_used,
                day_index,
                day_used,
            })
        }
        other => Err(RowError::UnknownVersion(other)),
    }
}

/// What a budget's use becomes by a take. `was` is `None` where nothing was ever taken.
pub(crate) fn take(was: Option<BudgetUse>, take: &Take) -> Result<BudgetUse, TakeRefused> {
    let was = was.unwrap_or(BudgetUse {
        hour_index: i64::MIN,
        day_index: i64::MIN,
        ..BudgetUse::default()
    });
    let hour = fill(take, "hour", take.hour, (was.hour_index, was.hour_used));
    let day = fill(take, "day", take.day, (was.day_index, was.day_used));
    match (hour, day) {
        (Ok(hour_used), Ok(day_used)) => Ok(BudgetUse {
            hour_index: take.hour.index,
            hour_used,
            day_index: take.day.index,
            day_used,
        }),
        // When both are full the day tells when it lifts.
        (Ok(_) | Err(TakeRefused::Full(_)), Err(why)) | (Err(why), _) => Err(why),
    }
}

/// What a budget's use becomes when a take is given back: less, as far as its windows are still open.
pub(crate) fn give_back(was: BudgetUse, take: &Take) -> BudgetUse {
    let less = |index: i64, window: Window, used: u32| {
        if index == window.index {
            used.saturating_sub(take.n)
        } else {
            used
        }
    };
    BudgetUse {
        hour_used: less(was.hour_index, take.hour, was.hour_used),
        day_used: less(was.day_index, take.day, was.day_used),
        ..was
    }
}

fn fill(
    take: &Take,
    name: &'static str,
    window: Window,
    (seen, used): (i64, u32),
) -> Result<u32, TakeRefused> {
    if window.index < seen {
        return Err(TakeRefused::Past {
            window: name,
            index: window.index,
            seen,
        });
    }
    let used = if window.index == seen { used } else { 0 };
    match used.checked_add(take.n).filter(|sum| *sum <= window.cap) {
        Some(sum) => Ok(sum),
        None => Err(TakeRefused::Full(BudgetFull {
            budget: take.budget.clone(),
            window: name,
            cap: window.cap,
            used,
            n: take.n,
            lifts_at: window.ends_at,
        })),
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::PolicyTime;
    use proptest::prelude::*;

    use super::*;

    fn window(index: i64, cap: u32) -> Window {
        let ends_at = PolicyTime::from_millis(index + 1);
        Window {
            index,
            cap,
            ends_at,
        }
    }

    fn of(n: u32, hour: Window, day: Window) -> Take {
        Take {
            budget: BudgetKey::Global,
            n,
            hour,
            day,
        }
    }

    #[test]
    fn a_full_window_is_named_and_the_next_one_is_empty() {
        let was = take(None, &of(3, window(7, 3), window(1, 9))).expect("room");
        let full = take(Some(was), &of(1, window(7, 3), window(1, 9)));
        let Err(TakeRefused::Full(full)) = full else {
            panic!("{full:?}");
        };
        assert_eq!((full.window, full.used, full.cap), ("hour", 3, 3));
        assert_eq!(full.lifts_at, PolicyTime::from_millis(8));
        let next = take(Some(was), &of(1, window(8, 3), window(1, 9))).expect("room");
        assert_eq!((next.hour_used, next.day_used), (1, 4));
    }

    #[test]
    fn windows_never_go_back() {
        let was = take(None, &of(1, window(7, 3), window(1, 9))).expect("room");
        let past = take(Some(was), &of(1, window(6, 3), window(1, 9)));
        assert!(matches!(
            past,
            Err(TakeRefused::Past { window: "hour", .. })
        ));
        let past = take(Some(was), &of(1, window(7, 3), window(0, 9)));
        assert!(matches!(past, Err(TakeRefused::Past { window: "day", .. })));
    }

    #[test]
    fn only_open_windows_take_back() {
        let was = take(None, &of(5, window(7, 9), window(1, 9))).expect("room");
        let later = take(Some(was), &of(1, window(8, 9), window(1, 9))).expect("room");
        let back = give_back(later, &of(2, window(7, 9), window(1, 9)));
        assert_eq!((back.hour_used, back.day_used), (1, 4));
    }

    proptest! {
        #[test]
        fn rows_come_back(hour: i64, hour_used: u32, day: i64, day_used: u32) {
            let of = BudgetUse { hour_index: hour, hour_used, day_index: day, day_used };
            prop_assert_eq!(from_row(&to_row(of)), Ok(of));
        }

        #[test]
        fn no_series_of_takes_exceeds_a_cap(
            takes in prop::collection::vec((0_u32..6, 0_i64..4, 0_i64..2), 1..60),
        ) {
            let (mut state, mut sums) = (None, std::collections::BTreeMap::new());
            for (n, hour, day) in takes {
                let one = of(n, window(hour, 10), window(day, 17));
                if let Ok(after) = take(state, &one) {
                    state = Some(after);
                    *sums.entry(("hour", hour)).or_insert(0) += n;
                    *sums.entry(("day", day)).or_insert(0) += n;
                }
            }
            for ((window, _), sum) in sums {
                let cap = if window == "hour" { 10 } else { 17 };
                prop_assert!(sum <= cap);
            }
        }
    }
}
