//! What must hold in every world at every time, whatever befell it.
//!
//! A *glance* is cheap and taken every few minutes: budgets, due work, the owners of every row that was written since
//! the last one, policy time. A *look* reads everything.

mod history;

mod promises;
mod twice;

mod caps;
mod counts;

mod owners;
mod work;

use std::collections::BTreeMap;

use inboxgrove_config::Config;
use inboxgrove_model::{
    InboxId, MessageId, PolicyTime, TenantId, event::LoggedEvent, inbox::Inbox, message::Message,
};
use inboxgrove_store::{ReadError, Record, Store, Witnessed};

use self::work::Well;
use super::{neighbourhood::Call, people::Entries, records::all, wire::Heard};

/// A store, and what the world knows of it.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// What is looked at.
    pub store: &'a Store,
    /// What it was told to keep to.
    pub config: &'a Config,
    /// What people were promised.
    pub promised: &'a Entries,
    /// What was heard on the wires.
    pub heard: &'a Heard,
    /// What a vendor was asked.
    pub calls: &'a [Call],
    /// What time the daemon thinks it is.
    pub now: PolicyTime,
    /// What time it is.
    pub truth: PolicyTime,
    /// Whether something on the disk has rotted, and nobody has mended it yet.
    pub rotten: bool,
    /// Whether everything has been well for hours, so that no work may be left.
    pub calm: bool,
}

/// What was known at the last look.
#[derive(Debug, Default)]
pub struct Past {
    /// The log.
    events: Vec<LoggedEvent>,
    /// How many runs had ended when it was last read whole.
    ends: Option<usize>,
    policy: PolicyTime,
    policy_ends: usize,
    /// Policy time when its mark had surely been written, but for the last minute's.
    policy_marked: PolicyTime,
    /// Whether there was room for marks at the last look.
    had_room: bool,
    well: Well,
}

/// A look under way.
struct Inspection<'a> {
    scene: Scene<'a>,
    violations: Vec<String>,
}

/// Messages by all of their ids.
type Messages = BTreeMap<(TenantId, InboxId, MessageId), Message>;

// === impl Past ===

impl Past {
    /// Something befell the house, or still does: work may be late.
    pub fn unwell(&mut self) {
        self.well.not_now();
    }

    /// The log, as far as it was read.
    pub fn events(&self) -> &[LoggedEvent] {
        &self.events
    }
}

// === impl Scene ===

impl Scene<'_> {
    /// Looks at everything. What does not hold, in sentences.
    pub fn look(self, past: &mut Past) -> Result<Vec<String>, ReadError> {
        let mut look = Inspection {
            scene: self,
            violations: Vec::new(),
        };
        let messages: Messages = look
            .rows::<Message>()?
            .into_iter()
            .map(|message| ((message.tenant, message.inbox, message.id), message))
            .collect();
        let inboxes = look.rows::<Inbox>()?;
        look.history_stays(past)?;
        look.promises_are_kept(&messages)?;
        look.notices_are_told()?;
        look.mail_that_was_taken_is_there(&messages, &inboxes);
        look.budgets_hold(&inboxes)?;
        look.acceptance_keeps_to_the_plan(&messages, &inboxes)?;
        look.wires_keep_to_the_caps();
        look.nothing_arrives_twice(&past.events);
        look.rollups_equal_events(&past.events)?;
        look.counts_equal_rows(&inboxes)?;
        if self.calm {
            look.no_work_is_left()?;
        }
        Ok(look.violations)
    }

    /// Looks at what is cheap to look at, and at the commits since the last time.
    pub fn glance(self, past: &mut Past, commits: &[Witnessed]) -> Result<Vec<String>, ReadError> {
        let mut look = Inspection {
            scene: self,
            violations: Vec::new(),
        };
        look.rows_have_one_owner(commits);
        look.policy_time_rises(past);
        let inboxes = look.rows::<Inbox>()?;
        look.budgets_hold(&inboxes)?;
        look.due_work_is_done(&mut past.well)?;
        Ok(look.violations)
    }
}

// === impl Inspection ===

impl Inspection<'_> {
    fn rows<R: Record>(&self) -> Result<Vec<R>, ReadError> {
        all(self.scene.store)
    }

    fn demand(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }
}
