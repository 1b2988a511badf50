//! Local days and hours: an inbox lives in an IANA time zone.
//!
//! Days are counted from 1970-01-01 of the local calendar. A local time that a clock change skips means
//! the same distance after the gap; one that comes twice means the first.

use inboxgrove_model::PolicyTime;
use jiff::{
    Span, Timestamp,
    civil::{Date, Time},
    tz::TimeZone,
};

/// A time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// A name that is no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a time zone: expected an IANA name, as in Europe/Berlin")]
pub struct UnknownZone {
    /// The name.
    pub name: String,
}

/// Seconds of a day without a clock change.
const DAY_SECONDS: u32 = 86_400;

impl Zone {
    /// The zone of an IANA name.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        TimeZone::get(name).map(Self).map_err(|_| UnknownZone {
            name: name.chars().take(80).collect(),
        })
    }

    /// The zone of an IANA name; UTC when there is none of that name. For names that were checked when
    /// they came in, and may only have gone missing with a newer zone list.
    pub fn named_or_utc(name: &str) -> Self {
        Self::named(name).unwrap_or_else(|_| Self::utc())
    }

    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The local day of an instant.
    pub fn local_day(&self, at: PolicyTime) -> i64 {
        days_of(self.0.to_datetime(timestamp(at)).date())
    }

    /// Seconds on the local clock since midnight.
    pub fn local_second(&self, at: PolicyTime) -> u32 {
        let time = self.0.to_datetime(timestamp(at)).time();
        let part = |n: i8| u32::try_from(n).expect("parts of a time are not negative");
        part(time.hour()) * 3600 + part(time.minute()) * 60 + part(time.second())
    }

    /// The instant at which a local clock first shows so many seconds since midnight of a local day.
    pub fn at(&self, local_day: i64, second: u32) -> PolicyTime {
        let second = i32::try_from(second.min(DAY_SECONDS - 1)).expect("a day is short");
        let split = |n: i32| i8::try_from(n).expect("parts of a time are small");
        let time = Time::new(
            split(second / 3600),
            split(second / 60 % 60),
            split(second % 60),
            0,
        )
        .expect("below one day");
        let found = self
            .0
            .to_ambiguous_timestamp(date_of(local_day).to_datetime(time))
            .compatible();
        // Beyond the calendar's ends (the years -9999 and 9999) the instant no longer matters.
        found.map_or(PolicyTime::from_millis(i64::MAX), |at| {
            PolicyTime::from_millis(at.as_millisecond())
        })
    }

    /// When a local day begins; the end of the day before.
    pub fn day_starts(&self, local_day: i64) -> PolicyTime {
        self.at(local_day, 0)
    }
}

/// The day of the week of a local day: 0 is Monday, 6 is Sunday.
pub fn weekday(local_day: i64) -> usize {
    // Day 0 was a Thursday.
    usize::try_from((local_day + 3).rem_euclid(7)).expect("0 to 6")
}

fn timestamp(at: PolicyTime) -> Timestamp {
    let end = if at.as_millis() < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    Timestamp::from_millisecond(at.as_millis()).unwrap_or(end)
}

fn epoch() -> Date {
    Date::constant(1970, 1, 1)
}

fn days_of(date: Date) -> i64 {
    date.since(epoch())
        .map_or(0, |span| i64::from(span.get_days()))
}

fn date_of(local_day: i64) -> Date {
    let end = if local_day < 0 { Date::MIN } else { Date::MAX };
    Span::new()
        .try_days(local_day)
        .ok()
        .and_then(|span| epoch().checked_add(span).ok())
        .unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> PolicyTime {
        let instant: Timestamp = text.parse().unwrap();
        PolicyTime::from_millis(instant.as_millisecond())
    }

    #[test]
    fn a_day_is_the_local_one() {
        let tokyo = Zone::named("Asia/Tokyo").unwrap();
        assert_eq!(Zone::utc().local_day(at("2026-11-23T20:00:00Z")), 20_780);
        assert_eq!(tokyo.local_day(at("2026-11-23T20:00:00Z")), 20_781);
        assert_eq!(tokyo.local_second(at("2026-11-23T20:00:01Z")), 5 * 3600 + 1);
        assert_eq!(weekday(20_780), 0, "2026-11-23 is a Monday");
    }

    #[test]
    fn clock_changes_are_survived() {
        let berlin = Zone::named("Europe/Berlin").unwrap();
        // 2026-03-29 02:30 does not exist, 2026-10-25 02:30 comes twice.
        let spring = Zone::utc().local_day(at("2026-03-29T00:00:00Z"));
        assert_eq!(berlin.at(spring, 9000), at("2026-03-29T01:30:00Z"));
        let autumn = Zone::utc().local_day(at("2026-10-25T00:00:00Z"));
        assert_eq!(berlin.at(autumn, 9000), at("2026-10-25T00:30:00Z"));
        let hours = |day| {
            berlin
                .day_starts(day + 1)
                .since(berlin.day_starts(day))
                .as_secs()
                / 3600
        };
        assert_eq!((hours(spring), hours(autumn)), (23, 25));
    }

    #[test]
    fn a_name_that_is_no_zone_is_refused() {
        let why = Zone::named("Mars/Olympus").unwrap_err().to_string();
        assert!(
            why.contains("Mars/Olympus") && why.contains("IANA"),
            "{why}"
        );
        assert_eq!(Zone::named_or_utc("Mars/Olympus"), Zone::utc());
    }

    proptest! {
        #[test]
        fn an_instant_lies_in_its_day(millis in 0_i64..4_000_000_000_000, which in 0_usize..4) {
            let name = ["Europe/Berlin", "America/Los_Angeles", "Asia/Kathmandu", "Pacific/Apia"][which];
            let zone = Zone::named(name).unwrap();
            let now = PolicyTime::from_millis(millis);
            let day = zone.local_day(now);
            prop_assert!(zone.day_starts(day) <= now);
            prop_assert!(now < zone.day_starts(day + 1));
        }

        #[test]
        fn no_instant_is_too_far(millis: i64, day: i64) {
            let zone = Zone::named("Europe/Berlin").unwrap();
            zone.local_day(PolicyTime::from_millis(millis));
            zone.at(day.clamp(-1_000_000_000, 1_000_000_000), 5);
        }
    }
}
