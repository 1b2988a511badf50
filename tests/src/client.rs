//! A customer's program: calls the public API of the daemon, and nothing else.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{mail_text::MailText, wait::eventually};

/// No answer of the API takes longer, registration with its password hash included, also on a loaded machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A job of a few inboxes makes a few keys.
const JOB_WITHIN: Duration = Duration::from_mins(1);
/// A message leaves, and its outcome is committed.
const OUTCOME_WITHIN: Duration = Duration::from_mins(1);

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// What it says its body is.
    pub content_type: String,
    /// When to come again, in seconds.
    pub retry_after: Option<u64>,
    /// Its body, `null` when there is none.
    pub body: Value,
    /// Its body as it came.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body, when the status is this one.
    pub fn expect(self, status: u16) -> Result<Value> {
        ensure!(
            self.status.as_u16() == status,
            "{} instead of {status}: {}",
            self.status,
            self.body
        );
        Ok(self.body)
    }

    /// The stable code of a refusal.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// The API of a daemon, called by nobody in particular.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    http: reqwest::Client,
}

impl Api {
    /// The API at `http://host:port`.
    pub fn new(base: &str) -> Result<Self> {
        let base = if base.contains("://") {
            base.to_owned()
        } else {
            format!("http://{base}")
        };
        let http = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .no_proxy()
            .build()
            .context("a client can be built")?;
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            http,
        })
    }

    /// Where it is: `http://host:port`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Calls a path, with a token and a body when there is one. An error is one of the connection.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("{path} does not answer"))?;
        let status = response.status();
        let content_type = response
            .headers()
            .get(reqwest::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let retry_after = response
            .headers()
            .get(reqwest::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = response
            .bytes()
            .await
            .with_context(|| format!("the answer of {path} breaks off"))?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        };
        Ok(Answer {
            status,
            content_type,
            retry_after,
            body,
            bytes: bytes.to_vec(),
        })
    }

    /// `GET` without a token.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call(Method::GET, path, None, None).await
    }

    /// Registers a company with its first user.
    pub async fn register(&self, company: &str) -> Result<Account> {
        let email = format!("owner@{company}.example");
        let password = format!("a long password of {company}");
        let wanted =
            json!({ "company_name": company, "company_email": email, "password": password });
        let answer = self
            .call(Method::POST, "/api/v1/auth/register", None, Some(&wanted))
            .await?
            .expect(201)?;
        Ok(Account {
            api: self.clone(),
            email,
            password,
            token: text(&answer, "access_token")?,
            refresh_token: text(&answer, "refresh_token")?,
            tenant: text(&answer, "tenant_id")?,
        })
    }
}

/// A tenant's user, logged in.
#[derive(Debug, Clone)]
pub struct Account {
    /// The API it calls.
    pub api: Api,
    /// What it logs in with.
    pub email: String,
    /// Its password.
    pub password: String,
    /// Its access token.
    pub token: String,
    /// Its refresh token.
    pub refresh_token: String,
    /// Its tenant's id.
    pub tenant: String,
}

/// A domain as it was added.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The records to publish.
    pub records: Vec<Record>,
}

/// A record to publish.
#[derive(Debug, Clone)]
pub struct Record {
    /// What it is for.
    pub purpose: String,
    /// Its owner name.
    pub name: String,
    /// MX, TXT, ….
    pub kind: String,
    /// Its data.
    pub value: String,
}

/// An inbox as the list shows it.
#[derive(Debug, Clone)]
pub struct Inbox {
    /// Its id.
    pub id: String,
    /// Its address.
    pub address: String,
}

impl Inbox {
    /// What is said about it.
    pub fn path(&self) -> String {
        format!("/api/v1/infrastructure/inboxes/{}", self.id)
    }

    /// Its messages.
    pub fn messages_path(&self) -> String {
        format!("/api/v1/inboxes/{}/messages", self.id)
    }

    /// One of its messages.
    pub fn message_path(&self, message: &str) -> String {
        format!("{}/{message}", self.messages_path())
    }

    /// The bytes of one of its messages.
    pub fn raw_path(&self, message: &str) -> String {
        format!("{}/raw", self.message_path(message))
    }

    /// Its score.
    pub fn health_path(&self) -> String {
        format!("/api/v1/inboxes/{}/health", self.id)
    }
}

impl Account {
    /// Logs in again, as after the access token has expired.
    pub async fn log_in(&mut self) -> Result<()> {
        let wanted = json!({ "email": self.email, "password": self.password });
        let answer = self
            .api
            .call(Method::POST, "/api/v1/auth/login", None, Some(&wanted))
            .await?
            .expect(200)?;
        self.token = text(&answer, "access_token")?;
        self.refresh_token = text(&answer, "refresh_token")?;
        Ok(())
    }

    /// `GET` with the token.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.api
            .call(Method::GET, path, Some(&self.token), None)
            .await
    }

    /// `POST` with the token.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.api
            .call(Method::POST, path, Some(&self.token), Some(body))
            .await
    }

    /// Any method with the token.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.api.call(method, path, Some(&self.token), body).await
    }

    /// Adds a domain that it already owns.
    pub async fn add_domain(&self, name: &str) -> Result<Domain> {
        let answer = self
            .post("/api/v1/domains", &json!({ "name": name }))
            .await?
            .expect(201)?;
        let records = answer["records"]
            .as_array()
            .context("the records to publish are listed")?;
        Ok(Domain {
            id: text(&answer, "id")?,
            name: text(&answer, "name")?,
            records: records.iter().map(record).collect::<Result<_>>()?,
        })
    }

    /// Has a domain checked; the domain with its checks.
    pub async fn verify(&self, domain: &Domain) -> Result<Value> {
        self.post(&format!("/api/v1/domains/{}/verify", domain.id), &json!({}))
            .await?
            .expect(200)
    }

    /// Verifies until the domain is active: a cached answer may be a moment old.
    pub async fn until_active(&self, domain: &Domain) -> Result<Value> {
        eventually(
            &format!("{} to be active", domain.name),
            OUTCOME_WITHIN,
            async || {
                let seen = self.verify(domain).await?;
                Ok((seen["status"] == "active").then_some(seen))
            },
        )
        .await
    }

    /// Has inboxes made, and waits for them; all inboxes of the domain.
    pub async fn provision(
        &self,
        domain: &Domain,
        count: u32,
        start_warmup: bool,
    ) -> Result<Vec<Inbox>> {
        let wanted = json!({ "domain_id": domain.id, "count": count, "naming": "numbered",
            "start_warmup": start_warmup, "time_zone": "UTC" });
        let answer = self
            .post("/api/v1/infrastructure/provision", &wanted)
            .await?
            .expect(202)?;
        self.until_done(&text(&answer, "id")?).await?;
        self.inboxes(domain).await
    }

    /// A job.
    pub async fn job(&self, job: &str) -> Result<Value> {
        self.get(&format!("/api/v1/jobs/{job}")).await?.expect(200)
    }

    /// Follows a job to its end.
    pub async fn until_done(&self, job: &str) -> Result<Value> {
        eventually(&format!("job {job}"), JOB_WITHIN, async || {
            let seen = self.job(job).await?;
            match seen["state"].as_str() {
                Some("done") => Ok(Some(seen)),
                Some("failed" | "cancelled") => bail!("the job ended badly: {seen}"),
                _ => Ok(None),
            }
        })
        .await
    }

    /// The inboxes of a domain, all pages.
    pub async fn inboxes(&self, domain: &Domain) -> Result<Vec<Inbox>> {
        let items = self
            .all(&format!(
                "/api/v1/infrastructure/inboxes?domain_id={}",
                domain.id
            ))
            .await?;
        items
            .iter()
            .map(|item| {
                Ok(Inbox {
                    id: text(item, "id")?,
                    address: text(item, "address")?,
                })
            })
            .collect()
    }

    /// All items of a list, page by page.
    pub async fn all(&self, path: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = cursor
                .as_ref()
                .map_or_else(|| path.to_owned(), |at| format!("{path}{joint}cursor={at}"));
            let answer = self.get(&page).await?.expect(200)?;
            items.extend(
                answer["items"]
                    .as_array()
                    .context("a list has items")?
                    .iter()
                    .cloned(),
            );
            match answer["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(items),
            }
        }
    }

    /// Sends a message from an inbox; its id.
    pub async fn send(&self, inbox: &Inbox, to: &str, subject: &str, body: &str) -> Result<String> {
        let wanted = json!({ "to": [to], "subject": subject, "text": body });
        let path = inbox.messages_path();
        text(&self.post(&path, &wanted).await?.expect(202)?, "id")
    }

    /// A message.
    pub async fn message(&self, inbox: &Inbox, message: &str) -> Result<Value> {
        self.get(&inbox.message_path(message)).await?.expect(200)
    }

    /// The bytes of a message, as they were sent or received.
    pub async fn raw(&self, inbox: &Inbox, message: &str) -> Result<MailText> {
        let answer = self.get(&inbox.raw_path(message)).await?;
        ensure!(
            answer.status.is_success(),
            "no bytes of {message}: {} {}",
            answer.status,
            answer.body
        );
        Ok(MailText::new(answer.bytes))
    }

    /// The messages of an inbox, sent and received.
    pub async fn messages(&self, inbox: &Inbox) -> Result<Vec<Value>> {
        self.all(&inbox.messages_path()).await
    }

    /// Waits until a message has this state; the message.
    pub async fn until_state(&self, inbox: &Inbox, message: &str, state: &str) -> Result<Value> {
        eventually(
            &format!("{message} to be {state}"),
            OUTCOME_WITHIN,
            async || {
                let seen = self.message(inbox, message).await?;
                Ok((state_of(&seen) == state).then_some(seen))
            },
        )
        .await
    }

    /// Waits until an inbox holds a message with this subject; the message.
    pub async fn until_received(&self, inbox: &Inbox, subject: &str) -> Result<Value> {
        eventually(
            &format!("{subject:?} in {}", inbox.address),
            OUTCOME_WITHIN,
            async || {
                let messages = self.messages(inbox).await?;
                Ok(messages
                    .into_iter()
                    .find(|message| message["subject"] == subject && message["direction"] == "in"))
            },
        )
        .await
    }
}

/// The state of a message: its own, or its only recipient's.
pub fn state_of(message: &Value) -> &str {
    message["state"]
        .as_str()
        .or_else(|| message["recipients"][0]["state"].as_str())
        .unwrap_or_default()
}

/// A text of an answer.
pub fn text(answer: &Value, name: &str) -> Result<String> {
    answer[name]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("{name} is missing in {answer}"))
}

fn record(shown: &Value) -> Result<Record> {
    Ok(Record {
        purpose: text(shown, "purpose")?,
        name: text(shown, "name")?,
        kind: text(shown, "type")?,
        value: text(shown, "value")?,
    })
}
