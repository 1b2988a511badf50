//! The journal of acknowledgements, kept outside of what crashes: what the daemon has said yes to, in the order in which
//! the answers came. It is held in memory and written to a file, for a look at what went wrong.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::{Mutex, MutexGuard},
};

use anyhow::{Context, Result};

use crate::client::Inbox;

/// Something that the daemon has acknowledged.
#[derive(Debug, Clone)]
pub enum Acknowledgement {
    /// 202: a message was accepted for sending.
    Accepted {
        /// From this inbox.
        inbox: Inbox,
        /// Its id.
        message: String,
        /// Its subject, unlike any other.
        subject: String,
        /// Its text.
        text: String,
    },
    /// 250 after the final dot: a message was received.
    Received {
        /// For this inbox.
        inbox: Inbox,
        /// Its subject, unlike any other.
        subject: String,
        /// Its text.
        text: String,
    },
    /// 202: inboxes will be made.
    Asked {
        /// The job.
        job: String,
    },
    /// A job was done: these inboxes are there.
    Made {
        /// The job.
        job: String,
        /// The inboxes that were seen after it, and not before.
        inboxes: Vec<Inbox>,
    },
}

/// The journal. Shared by all tasks of the load.
#[derive(Debug)]
pub struct Journal {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    acknowledged: Vec<Acknowledgement>,
    file: File,
}

impl Journal {
    /// An empty journal, also written to this file.
    pub fn new(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("{}", path.display()))?;
        Ok(Self {
            kept: Mutex::new(Kept {
                acknowledged: Vec::new(),
                file,
            }),
        })
    }

    /// Notes an acknowledgement. From here on the daemon owes it.
    pub fn note(&self, acknowledged: Acknowledgement) -> Result<()> {
        let mut kept = self.kept();
        writeln!(kept.file, "{acknowledged:?}").context("the journal can be written")?;
        kept.acknowledged.push(acknowledged);
        Ok(())
    }

    /// How many have been noted.
    pub fn len(&self) -> usize {
        self.kept().acknowledged.len()
    }

    /// Whether none has been noted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those noted from this one on.
    pub fn since(&self, first: usize) -> Vec<Acknowledgement> {
        self.kept().acknowledged[first..].to_vec()
    }

    /// How many of a kind have been noted.
    pub fn count(&self, is_of_it: impl Fn(&Acknowledgement) -> bool) -> usize {
        let kept = self.kept();
        kept.acknowledged
            .iter()
            .filter(|noted| is_of_it(noted))
            .count()
    }

    /// Takes back what was noted after this many: the power was gone before it was said.
    pub fn truncate(&self, len: usize) -> Result<()> {
        let mut kept = self.kept();
        writeln!(kept.file, "-- the power went after {len}")
            .context("the journal can be written")?;
        kept.acknowledged.truncate(len);
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept
            .lock()
            .expect("nobody panics while writing the journal")
    }
}
