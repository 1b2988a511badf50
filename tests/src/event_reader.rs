//! Reads what happened in an account, from the event after the last one that was read: a client of the event stream that
//! comes back after every crash.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::time::timeout;

use crate::client::Account;

/// The events of a few hundred letters come within this time, also on a loaded machine.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// A reader and its place in the log.
#[derive(Debug)]
pub struct EventReader {
    http: reqwest::Client,
    last: u64,
}

impl EventReader {
    /// One that has read nothing yet.
    pub fn new() -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build();
        Ok(Self {
            http: http.context("a client can be built")?,
            last: 0,
        })
    }

    /// All events since the last reading, up to one that the reader knows to be there.
    pub async fn read_until(
        &mut self,
        account: &Account,
        is_last: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>> {
        timeout(READ_WITHIN, self.read(account, is_last))
            .await
            .with_context(|| {
                format!(
                    "an event that was committed does not come: after {}",
                    self.last
                )
            })?
    }

    async fn read(
        &mut self,
        account: &Account,
        is_last: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>> {
        let request = self
            .http
            .get(format!("{}/api/v1/events", account.api.base()))
            .bearer_auth(&account.token)
            .header("Last-Event-ID", self.last);
        let mut response = request.send().await.context("/events does not answer")?;
        ensure!(
            response.status().is_success(),
            "/events: {}",
            response.status()
        );
        let mut events = Vec::new();
        let mut unread = Vec::new();
        while let Some(bytes) = response.chunk().await.context("/events breaks off")? {
            unread.extend_from_slice(&bytes);
            while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                let Some(event) = event_in(&line)? else {
                    continue;
                };
                self.follow(&event)?;
                let last = is_last(&event);
                events.push(event);
                if last {
                    return Ok(events);
                }
            }
        }
        bail!("/events ended")
    }

    /// Each event once, in the order of the log.
    fn follow(&mut self, event: &Value) -> Result<()> {
        let id = event["id"].as_u64().context("an event has an id")?;
        ensure!(id > self.last, "event {id} comes after {}", self.last);
        self.last = id;
        Ok(())
    }
}

/// The event in a line of the stream. The other lines repeat its id and its kind, or keep the connection alive.
fn event_in(line: &[u8]) -> Result<Option<Value>> {
    let Some(data) = line.strip_prefix(b"data:") else {
        return Ok(None);
    };
    let event: Value = serde_json::from_slice(data).context("an event is JSON")?;
    // A laboratory is young: nothing that it missed is too old.
    ensure!(event.get("type").is_some(), "not an event: {event}");
    Ok(Some(event))
}
