//! A disk that fills up, and one that can be written no more: new work is refused before anything fails; when it does
//! fail, the daemon ends with the reason; and what was acknowledged is there when there is room again.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use inboxgrove_tests::{
    client::{Account, Answer, state_of, text},
    daemon::{self, Daemon},
    disk::{FileSystem, PowerDisk},
    io_trials::DISK_FAILED,
    journal::{Acknowledgement, Journal},
    letterbox::{Letterbox, Posted},
    load::{Ledger, Load, Parties, Sites},
    prepared::{self, Prepared},
    programs,
    wait::eventually,
};
use nix::{
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::fstatvfs,
    unistd::syncfs,
};
use serde_json::json;

/// Below it new work is refused.
const FLOOR: u64 = 64 << 20;
/// Room that is low, and enough for what is under way.
const LOW: u64 = FLOOR / 2;
/// Below a quarter of the floor nothing is written any more.
const TOO_LOW: u64 = FLOOR / 8;
/// A disk that has so little left meets its end with the next letters.
const NEXT_TO_NOTHING: u64 = 96 << 10;
/// Letters until a disk that is next to full is full: the log has room that it took before, and the rows reach the disk in
/// pieces.
const LETTERS_MAX: u32 = 4000;
/// A daemon whose disk failed ends within this time, on a loaded machine.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// A letter that waits for its next try, a minute or somewhat more away, leaves, and its outcome is committed.
const OUT_WITHIN: Duration = Duration::from_mins(2);

/// A daemon on a disk of its own.
struct OnDisk<'a> {
    prepared: &'a Prepared,
    journal: Journal,
    daemon: Daemon,
    account: Account,
    /// Unmounted after the daemon has ended.
    disk: PowerDisk,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_below_the_floor_refuses_new_work_until_there_is_room() -> Result<()> {
    let prepared = Prepared::new().await?;
    // Nobody takes mail: the letter waits for its next try.
    prepared.sink.cut_off();
    let on_disk = OnDisk::start(&prepared, FLOOR).await?;
    let waiting = on_disk.send("waits").await?.expect(202)?;
    let waiting = text(&waiting, "id")?;

    on_disk.leave(LOW)?;
    let refused = on_disk.send("refused").await?;
    assert_eq!(refused.status.as_u16(), 507, "{}", refused.body);
    assert_eq!(refused.code(), "storage_full");
    assert_eq!(refused.content_type, "application/problem+json");
    assert!(
        refused.retry_after.is_some(),
        "the client is told when to come again"
    );
    let posted = on_disk.post("refused").await?;
    assert!(
        matches!(&posted, Posted::Refused(reply) if reply.starts_with("452 4.3.1")),
        "{posted:?}"
    );
    let health = on_disk.account.api.get("/health/ready").await?;
    assert_eq!(health.status.as_u16(), 503);
    assert!(
        health.body.to_string().contains("below the floor"),
        "{}",
        health.body
    );
    on_disk.leave(TOO_LOW)?;
    assert_eq!(on_disk.send("refused").await?.status.as_u16(), 507);

    on_disk.make_room()?;
    on_disk.send("taken").await?.expect(202)?;
    assert_eq!(on_disk.post("taken too").await?, Posted::Taken);
    // No try begins without room, and none is forgotten.
    prepared.sink.open();
    let inbox = &prepared.inbox;
    eventually("the letter to be out", OUT_WITHIN, async || {
        let seen = on_disk.account.message(inbox, &waiting).await?;
        Ok((state_of(&seen) == "delivered").then_some(()))
    })
    .await?;
    let health = on_disk.account.api.get("/health/ready").await?;
    assert_eq!(health.status.as_u16(), 200, "{}", health.body);
    on_disk.look_and_verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_room_ends_the_daemon_and_loses_nothing() -> Result<()> {
    let prepared = Prepared::new().await?;
    // Without a floor nothing is refused before the disk does it.
    let mut on_disk = OnDisk::start(&prepared, 0).await?;
    on_disk.leave(NEXT_TO_NOTHING)?;
    for number in 0..LETTERS_MAX {
        if on_disk
            .send_and_note(&format!("letter-{number}"))
            .await
            .is_err()
        {
            break;
        }
    }
    on_disk.expect_end().await?;
    let reason = on_disk.daemon.log_tail();
    assert!(reason.contains("No space left on device"), "{reason}");

    on_disk.make_room()?;
    on_disk.start_again().await?;
    on_disk.look_and_verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_becomes_read_only_under_load_ends_the_daemon_and_loses_nothing() -> Result<()>
{
    let prepared = Prepared::new().await?;
    let mut on_disk = OnDisk::start(&prepared, FLOOR).await?;
    let (ledger, load) = on_disk.load()?;
    let noted = || Ok((ledger.journal.len() >= 20).then_some(()));
    eventually("a load", OUT_WITHIN, async || noted()).await?;
    on_disk.abort()?;
    on_disk.expect_end().await?;
    load.end().await?;
    let reason = on_disk.daemon.log_tail();
    assert!(
        reason.contains("Read-only file system") || reason.contains("Input/output error"),
        "{reason}"
    );

    on_disk.mount_again()?;
    on_disk.start_again().await?;
    on_disk.journal = Arc::into_inner(ledger)
        .context("the load has ended")?
        .journal;
    on_disk.look_and_verify().await
}

impl<'a> OnDisk<'a> {
    async fn start(prepared: &'a Prepared, floor: u64) -> Result<Self> {
        let scratch = prepared.scratch("on-disk")?;
        let disk = PowerDisk::new(prepared.folder(), FileSystem::Ext4)?;
        let mut settings = prepared.settings(disk.path(), &scratch)?;
        settings.free_floor_bytes = floor;
        settings
            .more
            .push_str("\n[outbound.retry]\nunit_minutes = 1\nuncertain_minutes = 1\n");
        prepared.lay_out(&settings)?;
        // What was copied there is no work of the daemon: it must not be lost with the disk.
        syncfs(&File::open(disk.path())?)?;
        let daemon = Daemon::start(settings).await?;
        let account = prepared.account(&daemon.api()?);
        Ok(Self {
            prepared,
            journal: Journal::new(&scratch.join("journal"))?,
            daemon,
            account,
            disk,
        })
    }

    async fn start_again(&mut self) -> Result<()> {
        self.daemon.start_again().await?;
        self.account = self.prepared.account(&self.daemon.api()?);
        Ok(())
    }

    async fn send(&self, subject: &str) -> Result<Answer> {
        let wanted =
            json!({ "to": [prepared::STRANGER], "subject": subject, "text": text_of(subject) });
        let path = self.prepared.inbox.messages_path();
        self.account.post(&path, &wanted).await
    }

    async fn send_and_note(&self, subject: &str) -> Result<()> {
        let message = text(&self.send(subject).await?.expect(202)?, "id")?;
        self.journal.note(Acknowledgement::Accepted {
            inbox: self.prepared.inbox.clone(),
            message,
            subject: subject.to_owned(),
            text: text_of(subject),
        })
    }

    async fn post(&self, subject: &str) -> Result<Posted> {
        let from = self.prepared.addresses.mail_server();
        let mut letterbox = Letterbox::open(from, self.daemon.smtp()?).await?;
        let inbox = &self.prepared.inbox;
        let data = prepared::letter_to(inbox, subject, &text_of(subject));
        letterbox
            .post(prepared::STRANGER, &inbox.address, &data)
            .await
    }

    /// A load whose acknowledgements are journalled.
    fn load(&self) -> Result<(Arc<Ledger>, Load)> {
        let journal = Journal::new(&self.daemon.settings().scratch.join("load"))?;
        let ledger = Arc::new(Ledger::new(journal));
        let parties = Parties {
            account: self.account.clone(),
            domain: self.prepared.domain.clone(),
            free: vec![self.prepared.inbox.clone()],
            capped: self.prepared.inbox.clone(),
            smtp: self.daemon.smtp()?,
            strangers: self.prepared.addresses.mail_server(),
            sites: Sites::Unknown,
        };
        let load = Load::start(&parties, &ledger);
        Ok((ledger, load))
    }

    /// The daemon ends by itself, as for its disk.
    async fn expect_end(&mut self) -> Result<()> {
        let status = self.daemon.exit(ENDS_WITHIN).await?;
        ensure!(
            status.code() == Some(DISK_FAILED),
            "{status}: {}",
            self.daemon.log_tail()
        );
        Ok(())
    }

    /// Fills the disk until only so much is left.
    fn leave(&self, bytes: u64) -> Result<()> {
        self.make_room()?;
        let ballast = File::create(self.ballast())?;
        let room = fstatvfs(&ballast)?;
        let free = room.blocks_available() * room.fragment_size();
        let len = free.checked_sub(bytes).context("the disk is smaller")?;
        let len = i64::try_from(len)?;
        fallocate(ballast.as_fd(), FallocateFlags::empty(), 0, len)?;
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        if self.ballast().exists() {
            fs::remove_file(self.ballast())?;
        }
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.disk.path().join("ballast")
    }

    /// What the file system does to itself after an error it cannot live with: from now on it is read-only.
    fn abort(&self) -> Result<()> {
        let status = Command::new(programs::system("mount")?)
            .args(["-o", "remount,abort"])
            .arg(self.disk.path())
            .status()?;
        ensure!(
            status.success(),
            "the disk cannot be made read-only: {status}"
        );
        Ok(())
    }

    fn mount_again(&mut self) -> Result<()> {
        let photograph = self.disk.photograph()?;
        self.disk.restore(photograph)
    }

    /// What was acknowledged is there, whole; and no frame and no row is damaged.
    async fn look_and_verify(mut self) -> Result<()> {
        let inbox = &self.prepared.inbox;
        let path = format!("{}?limit=500", inbox.messages_path());
        let messages = self.account.all(&path).await?;
        for acknowledged in self.journal.since(0) {
            let (Acknowledgement::Accepted { subject, text, .. }
            | Acknowledgement::Received { subject, text, .. }) = acknowledged
            else {
                continue;
            };
            let found = messages
                .iter()
                .find(|message| message["subject"] == subject.as_str());
            let found = found.with_context(|| format!("LOST: {subject}"))?;
            let id = found["id"].as_str().context("a message has an id")?;
            let raw = self.account.raw(inbox, id).await?;
            ensure!(raw.text().contains(&text), "TORN: {subject}");
        }
        let status = self.daemon.stop().await?;
        ensure!(status.success(), "{status}: {}", self.daemon.log_tail());
        daemon::command(self.daemon.settings(), &["store", "verify"]).map(drop)
    }
}

/// Some kilobytes, unlike those of another subject.
fn text_of(subject: &str) -> String {
    let lines: Vec<String> = (0..100)
        .map(|line| format!("{subject} line {line}"))
        .collect();
    lines.join("\n")
}
