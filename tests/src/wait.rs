//! Waiting for something that happens elsewhere: asked for again and again up to a deadline, never slept for blindly.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

/// How long to leave the other side alone between two questions: an API that allows 600 requests a minute does not mind.
const PAUSE: Duration = Duration::from_millis(120);

/// Asks until there is an answer. An error of the question ends it at once.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    question: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    eventually_every(PAUSE, what, within, question).await
}

/// As [`eventually`], with a pause of one's own between two questions.
pub async fn eventually_every<T>(
    pause: Duration,
    what: &str,
    within: Duration,
    mut question: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = question()
            .await
            .with_context(|| format!("while waiting for {what}"))?
        {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}", within.as_secs());
        }
        sleep(pause).await;
    }
}
