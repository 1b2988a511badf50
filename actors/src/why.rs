//! `why`: every gate that a message of an inbox, a domain's mail, or one message has to pass, with its limit,
//! what is used, the evidence, and when it lifts. Read from committed rows, by the functions that decide.

use inboxgrove_model::{
    DomainName, InboxId, MessageId, TenantId,
    budget::Take,
    claim::{Claim, ClaimHolder, ClaimName},
    domain::Domain,
    event::{Event, EventKind},
    inbox::{Inbox, InboxStatus, WarmupState},
    message::{Message, MessageClass, RecipientState},
    site::SitePace,
    tenant::Tenant,
};
use inboxgrove_policy::gate::{self, Gate};
use inboxgrove_store::{Batch, Scope};

use crate::{
    context::pages,
    inbox::{acceptance_takes, holder_of},
    platform::{Platform, Subject, Why},
    refusal::Refusal,
};

impl Platform {
    /// Why does, or does not, this send? Wakes nobody.
    pub fn why(&self, subject: &Subject) -> Result<Why, Refusal> {
        match subject {
            Subject::Address(address) => {
                let (tenant, inbox) =
                    holder_of(&self.cx, address)?.ok_or(Refusal::NotFound { what: "inbox" })?;
                self.why_inbox(tenant, inbox)
            }
            Subject::Inbox(tenant, inbox) => self.why_inbox(*tenant, *inbox),
            Subject::Domain(name) => {
                let domain = self.find_domain(name)?;
                self.why_domain(&domain.ok_or(Refusal::NotFound { what: "domain" })?)
            }
            Subject::Message(id) => {
                let message = self.find_message(*id)?;
                self.why_message(&message.ok_or(Refusal::NotFound { what: "message" })?)
            }
        }
    }

    /// A domain by its name alone: who has proven it, else the first account that has added it.
    fn find_domain(&self, name: &DomainName) -> Result<Option<Domain>, Refusal> {
        let mut claim = self
            .cx
            .store
            .get::<Claim>(&ClaimName::Domain(name.as_str().to_owned()))?;
        let mut tenants = pages::<Tenant>(&self.cx, &Scope::All);
        while claim.is_none()
            && let Some(tenant) = tenants.next()
        {
            let added = ClaimName::DomainOfTenant(tenant?.id, name.as_str().to_owned());
            claim = self.cx.store.get::<Claim>(&added)?;
        }
        match claim.map(|claim| claim.holder) {
            Some(ClaimHolder::Domain(tenant, domain)) => {
                Ok(self.cx.store.get(&(tenant, domain))?)
            }
            _ => Ok(None),
        }
    }

    /// A message by its id alone, which only operators have. Rows are kept by inbox, so every inbox is asked:
    /// some 15 µs each.
    fn find_message(&self, id: MessageId) -> Result<Option<Message>, Refusal> {
        for inbox in pages::<Inbox>(&self.cx, &Scope::All) {
            let inbox = inbox?;
            if let Some(message) = self
                .cx
                .store
                .get::<Message>(&(inbox.tenant, inbox.id, id))?
            {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn why_inbox(&self, tenant: TenantId, inbox: InboxId) -> Result<Why, Refusal> {
        let inbox = self.cx.store.existing::<Inbox>(&(tenant, inbox))?;
        if inbox.status == InboxStatus::Deleted {
            return Err(Refusal::NotFound { what: "inbox" });
        }
        let gates = self.inbox_gates(&inbox)?;
        Ok(explained(inbox.address.to_string(), gates))
    }

    fn inbox_gates(&self, inbox: &Inbox) -> Result<Vec<Gate>, Refusal> {
        let now = self.cx.now();
        let tenant = self.cx.store.existing::<Tenant>(&inbox.tenant)?;
        let domain = self
            .cx
            .store
            .existing::<Domain>(&(inbox.tenant, inbox.domain))?;
        let warms = matches!(
            inbox.warmup.state,
            WarmupState::Running | WarmupState::Graduated
        );
        let class = if warms {
            MessageClass::Warmup
        } else {
            MessageClass::Person
        };
        let mut gates = gate::of_inbox(&tenant, &domain, inbox, class, now);
        let plan = self.cx.rules.plan(&tenant.plan)?;
        let names = [
            ["inbox_hour", "inbox_day"],
            ["domain_hour", "domain_day"],
            ["tenant_hour", "tenant_day"],
        ];
        gates.extend(self.budget_gates(names, acceptance_takes(inbox, &tenant, plan, 1, now))?);
        for source in &self.cx.rules.sources {
            let [global, of_source, _] = self.cx.rules.attempt_takes(source.address, "", now);
            let names = [["global_hour", "global_day"], ["source_hour", "source_day"]];
            gates.extend(self.budget_gates(names, [global, of_source])?);
        }
        Ok(gates)
    }

    fn budget_gates<const N: usize>(
        &self,
        names: [[&'static str; 2]; N],
        takes: [Take; N],
    ) -> Result<Vec<Gate>, Refusal> {
        let mut gates = Vec::with_capacity(2 * N);
        for (names, take) in names.into_iter().zip(takes) {
            let used = self.cx.store.budget(&take.budget)?;
            gates.extend(gate::budget(names, &used, &take.hour, &take.day));
        }
        Ok(gates)
    }

    fn why_domain(&self, domain: &Domain) -> Result<Why, Refusal> {
        let tenant = self.cx.store.existing::<Tenant>(&domain.tenant)?;
        let gates = vec![
            gate::tenant(&tenant),
            gate::domain(domain, MessageClass::Warmup),
        ];
        Ok(explained(domain.name.to_string(), gates))
    }

    /// A message's gates are its inbox's, and the sites that its recipients wait for.
    fn why_message(&self, message: &Message) -> Result<Why, Refusal> {
        let inbox = self
            .cx
            .store
            .existing::<Inbox>(&(message.tenant, message.inbox))?;
        let now = self.cx.now();
        let mut gates = self.inbox_gates(&inbox)?;
        for pace in pages::<SitePace>(&self.cx, &Scope::All) {
            let pace = pace?;
            if pace.factor < 1.0 || pace.suspended_until.is_some_and(|until| until > now) {
                gates.push(gate::site(&pace, now));
            }
        }
        let mut why = explained(message.id.to_string(), gates);
        let waits = message
            .recipients
            .iter()
            .find(|recipient| !recipient.state.is_final());
        why.summary = match waits {
            None => "every recipient has come to an end".to_owned(),
            Some(recipient)
                if recipient.state == RecipientState::Queued && recipient.attempts == 0 =>
            {
                why.summary
            }
            Some(recipient) => format!("{} waits: {}", recipient.address, recipient.last_reply),
        };
        Ok(why)
    }

    /// Records that an operator did something.
    pub async fn audit(&self, verb: &str, subject: &str, uid: u32) -> Result<(), Refusal> {
        let mut batch = Batch::new();
        // On a nearly full disk operators are needed most.
        batch.essential();
        batch.event(Event {
            at: self.cx.now(),
            tenant: None,
            kind: EventKind::OperatorActed {
                verb: verb.to_owned(),
                subject: subject.to_owned(),
                uid,
            },
        });
        self.cx.store.commit(batch).await?;
        Ok(())
    }
}

fn explained(subject: String, gates: Vec<Gate>) -> Why {
    let summary = match gate::first_closed(&gates) {
        Some(closed) => match closed.lifts_at {
            Some(at) => format!(
                "{} is closed: {}; it lifts at {at}",
                closed.name, closed.evidence
            ),
            None => format!("{} is closed: {}", closed.name, closed.evidence),
        },
        None => "no gate is closed: nothing stops it".to_owned(),
    };
    Why {
        subject,
        summary,
        gates,
    }
}
