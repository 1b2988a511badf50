//! What `serve` ends with when it cannot start, by number: systemd, scripts and people decide by it whether to try again.

use std::{fs, time::Duration};

use anyhow::Result;
use inboxgrove_tests::{
    daemon::{self, Daemon, Settings},
    prepared::Prepared,
};

/// A start that fails does so at once; a loaded machine is slower.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// As `docs/runbook.md` has them.
const DAMAGED: i32 = 65;
const IN_USE: i32 = 69;
const WRONG_KEY: i32 = 77;
const SETTINGS: i32 = 78;

#[tokio::test]
async fn each_reason_not_to_start_has_its_number_and_its_words() -> Result<()> {
    let prepared = Prepared::new().await?;
    let lay_out = |name: &str| -> Result<Settings> {
        let scratch = prepared.scratch(name)?;
        let settings = prepared.settings(&scratch, &scratch)?;
        prepared.lay_out(&settings)?;
        Ok(settings)
    };

    let mut wrong = lay_out("settings")?;
    wrong.more.push_str("\n[no_such_section]\nkey = 1\n");
    expect_end(&wrong, SETTINGS, "no_such_section").await?;

    let key = lay_out("key")?;
    fs::write(key.data.join("installation.key"), [7; 32])?;
    expect_end(&key, WRONG_KEY, "wrong key").await?;

    let damaged = lay_out("damaged")?;
    for entry in fs::read_dir(damaged.data.join("store"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == "log") {
            fs::remove_file(path)?;
        }
    }
    expect_end(&damaged, DAMAGED, "segments of the log are missing").await?;

    let daemon = Daemon::start(lay_out("used")?).await?;
    let mut same_data = lay_out("same-data")?;
    same_data.data.clone_from(&daemon.settings().data);
    expect_end(&same_data, IN_USE, "another process").await?;
    let mut same_address = lay_out("same-address")?;
    same_address.inbound = daemon.settings().inbound;
    expect_end(&same_address, IN_USE, "cannot listen").await
}

async fn expect_end(settings: &Settings, code: i32, words: &str) -> Result<()> {
    let mut running = daemon::spawn(settings)?;
    let status = running.exit(ENDS_WITHIN).await?;
    assert_eq!(status.code(), Some(code), "{}", running.tail());
    let said = running.tail();
    let reason = said
        .lines()
        .skip_while(|line| !line.starts_with("inboxgrove: "));
    let reason: Vec<&str> = reason.collect();
    assert!(reason.join("\n").contains(words), "{said}");
    Ok(())
}
