//! Table `site_paces`: the pace of each destination from each source address.
//! Key: source address, site's name. Value: version byte, then the rkyv archive of a row.

use std::net::IpAddr;

use inboxgrove_model::{TenantId, site::SitePace};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for SitePace {
    const TABLE: TableId = TableId::SitePace;
    type Key = (IpAddr, String);

    fn key(&self) -> Self::Key {
        (self.source, self.site.clone())
    }

    fn key_bytes((source, site): &Self::Key, _: &NameKey) -> Vec<u8> {
        KeyBytes::new().ip(*source).text(site).finish()
    }

    /// It is the installation's own.
    fn seal_with(&self) -> Option<TenantId> {
        None
    }

    fn to_row(&self) -> Vec<u8> {
        codec::write_cut(v1::VERSION, |cut| v1::Row::cut(self, cut))
    }

    fn from_row(_: &[u8], row: &[u8]) -> Result<Self, RowError> {
        match codec::split(row)? {
            (v1::VERSION, archive) => codec::read::<v1::Row>(archive)?.try_into(),
            (version, _) => Err(RowError::UnknownVersion(version)),
        }
    }
}

/// Never edited once released; a change is a `mod v2`.
mod v1 {
    use inboxgrove_model::site::SitePace;
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::{
        records::codec::{self, Cut, IpBytes},
        table::RowError,
    };

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        source: IpBytes,
        site: String,
        factor: f64,
        changed_at: i64,
        suspended_until: Option<i64>,
        suspensions: u32,
        why: String,
    }

    impl Row {
        /// The answer may be cut.
        pub(super) fn cut(pace: &SitePace, cut: Cut) -> Self {
            Self {
                source: codec::ip_bytes(pace.source),
                site: pace.site.clone(),
                factor: pace.factor,
                changed_at: pace.changed_at.as_millis(),
                suspended_until: codec::policy_millis(pace.suspended_until),
                suspensions: pace.suspensions,
                why: cut.apply(&pace.why),
            }
        }
    }

    impl TryFrom<Row> for SitePace {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            Ok(Self {
                source: codec::ip(row.source)?,
                site: row.site,
                factor: row.factor,
                changed_at: codec::policy(row.changed_at),
                suspended_until: row.suspended_until.map(codec::policy),
                suspensions: row.suspensions,
                why: row.why,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use inboxgrove_model::site::SitePace;
    use proptest::{option, prelude::*};

    use crate::records::laws::{self, some};

    fn paces() -> impl Strategy<Value = SitePace> {
        (
            (some::ip(), some::host(), 0.0..=1.0_f64),
            (some::policy(), option::of(some::policy())),
            (any::<u32>(), some::text(400)),
        )
            .prop_map(
                |((source, site, factor), (changed_at, suspended_until), (suspensions, why))| {
                    SitePace {
                        source,
                        site,
                        factor,
                        changed_at,
                        suspended_until,
                        suspensions,
                        why,
                    }
                },
            )
    }

    fn sample() -> SitePace {
        SitePace {
            source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25)),
            site: "mx.example.net".into(),
            factor: 0.25,
            changed_at: some::at(3),
            suspended_until: Some(some::at(4)),
            suspensions: 2,
            why: "421 4.7.0 too many".into(),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&[sample()], include_str!("../../golden/site_paces.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn a_source_holds_its_sites_together() {
        let key = |source: &str, site: &str| {
            let source = source.parse::<IpAddr>().unwrap();
            laws::key::<SitePace>(&(source, site.to_owned()))
        };
        let keys = [
            key("9.0.0.1", "a"),
            key("9.0.0.1", "z"),
            key("10.0.0.1", "a"),
            key("::1", "a"),
        ];
        assert!(keys.is_sorted());
    }

    proptest! {
        #[test]
        fn a_pace_comes_back(pace in paces()) {
            prop_assert_eq!(laws::round_trip(&pace), pace);
        }
    }
}
