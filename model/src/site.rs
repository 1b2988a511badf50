//! Sites: all MX hosts of one receiver, rolled up; what is paced.

use std::net::IpAddr;

use crate::PolicyTime;

/// The pace of one destination as seen from one source address. Its row belongs to the site's actor.
#[derive(Debug, Clone, PartialEq)]
pub struct SitePace {
    /// Where we send from.
    pub source: IpAddr,
    /// The site's name: the common part of its MX host names.
    pub site: String,
    /// How much of the full rate is allowed now, in `(0, 1]`: halved on refusal, regained slowly.
    pub factor: f64,
    /// When the factor last changed.
    pub changed_at: PolicyTime,
    /// Nothing is sent before this.
    pub suspended_until: Option<PolicyTime>,
    /// How many suspensions in a row: each doubles the next.
    pub suspensions: u32,
    /// The answer that slowed it; cut at 200 characters.
    pub why: String,
}
