//! Table `jobs`: long work that a person can follow.
//! Key: tenant id, job id. Value: version byte, then the rkyv archive of a row.

use inboxgrove_model::{JobId, TenantId, job::Job};

use super::codec;
use crate::{
    seal::NameKey,
    table::{KeyBytes, Record, RowError, TableId},
};

impl Record for Job {
    const TABLE: TableId = TableId::Job;
    type Key = (TenantId, JobId);

    fn key(&self) -> Self::Key {
        (self.tenant, self.id)
    }

    fn key_bytes((tenant, id): &Self::Key, _: &NameKey) -> Vec<u8> {
        KeyBytes::new()
            .id(tenant.as_bytes())
            .id(id.as_bytes())
            .finish()
    }

    fn seal_with(&self) -> Option<TenantId> {
        Some(self.tenant)
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
    use inboxgrove_model::{
        DomainId, JobId, TenantId,
        job::{Job, JobState, JobStep, JobWork, Naming},
    };
    use rkyv::{Archive, Deserialize, Serialize};

    use crate::{
        records::{
            codec::{self, Cut},
            codes::Code,
        },
        table::RowError,
    };

    pub(super) const VERSION: u8 = 1;

    #[derive(Archive, Serialize, Deserialize)]
    pub(super) struct Row {
        id: [u8; 16],
        tenant: [u8; 16],
        /// The kind of the work; its archive is that kind's own row.
        work: u8,
        provision: Option<ProvisionRow>,
        state: u8,
        steps: Vec<StepRow>,
        errors: Vec<String>,
        created_at: i64,
        changed_at: i64,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct ProvisionRow {
        domain: [u8; 16],
        count: u32,
        naming: u8,
        start_warmup: bool,
        time_zone: String,
        daily_limit: u32,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct StepRow {
        name: String,
        done: u32,
        total: u32,
    }

    const PROVISION: u8 = 1;

    impl Row {
        /// The errors may be cut.
        pub(super) fn cut(job: &Job, cut: Cut) -> Self {
            let JobWork::Provision { .. } = &job.work;
            Self {
                id: *job.id.as_bytes(),
                tenant: *job.tenant.as_bytes(),
                work: PROVISION,
                provision: Some(ProvisionRow::from(&job.work)),
                state: job.state.code(),
                steps: job.steps.iter().map(StepRow::from).collect(),
                errors: job.errors.iter().map(|why| cut.apply(why)).collect(),
                created_at: job.created_at.as_millis(),
                changed_at: job.changed_at.as_millis(),
            }
        }
    }

    impl From<&JobWork> for ProvisionRow {
        fn from(work: &JobWork) -> Self {
            let JobWork::Provision {
                domain,
                count,
                naming,
                start_warmup,
                time_zone,
                daily_limit,
            } = work;
            Self {
                domain: *domain.as_bytes(),
                count: *count,
                naming: naming.code(),
                start_warmup: *start_warmup,
                time_zone: time_zone.clone(),
                daily_limit: *daily_limit,
            }
        }
    }

    impl From<&JobStep> for StepRow {
        fn from(step: &JobStep) -> Self {
            Self {
                name: step.name.clone(),
                done: step.done,
                total: step.total,
            }
        }
    }

    impl TryFrom<Row> for Job {
        type Error = RowError;

        fn try_from(row: Row) -> Result<Self, RowError> {
            let work = match (row.work, row.provision) {
                (PROVISION, Some(provision)) => JobWork::try_from(provision)?,
                (code, _) => return Err(RowError::damaged(format!("{code} is no job"))),
            };
            Ok(Self {
                id: JobId::from_bytes(row.id),
                tenant: TenantId::from_bytes(row.tenant),
                work,
                state: JobState::from_code(row.state)?,
                steps: row.steps.into_iter().map(JobStep::from).collect(),
                errors: row.errors,
                created_at: codec::policy(row.created_at),
                changed_at: codec::policy(row.changed_at),
            })
        }
    }

    impl TryFrom<ProvisionRow> for JobWork {
        type Error = RowError;

        fn try_from(row: ProvisionRow) -> Result<Self, RowError> {
            Ok(Self::Provision {
                domain: DomainId::from_bytes(row.domain),
                count: row.count,
                naming: Naming::from_code(row.naming)?,
                start_warmup: row.start_warmup,
                time_zone: row.time_zone,
                daily_limit: row.daily_limit,
            })
        }
    }

    impl From<StepRow> for JobStep {
        fn from(row: StepRow) -> Self {
            Self {
                name: row.name,
                done: row.done,
                total: row.total,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use inboxgrove_model::job::{Job, JobState, JobStep, JobWork, Naming};
    use proptest::{collection::vec, prelude::*};

    use crate::records::laws::{self, some};

    fn works() -> impl Strategy<Value = JobWork> {
        (
            (some::domain(), some::code::<Naming>(), some::zone()),
            any::<(u32, bool, u32)>(),
        )
            .prop_map(
                |((domain, naming, time_zone), (count, start_warmup, daily_limit))| {
                    JobWork::Provision {
                        domain,
                        count,
                        naming,
                        start_warmup,
                        time_zone,
                        daily_limit,
                    }
                },
            )
    }

    fn jobs() -> impl Strategy<Value = Job> {
        let steps = ("[a-z ]{1,20}", any::<(u32, u32)>())
            .prop_map(|(name, (done, total))| JobStep { name, done, total });
        (
            (
                some::tenant(),
                some::job(),
                works(),
                some::code::<JobState>(),
            ),
            (vec(steps, 0..6), vec(some::text(120), 0..20)),
            (some::policy(), some::policy()),
        )
            .prop_map(
                |((tenant, id, work, state), (steps, errors), (created_at, changed_at))| Job {
                    id,
                    tenant,
                    work,
                    state,
                    steps,
                    errors,
                    created_at,
                    changed_at,
                },
            )
    }

    fn sample() -> Job {
        Job {
            id: some::JOB,
            tenant: some::TENANT,
            work: JobWork::Provision {
                domain: some::DOMAIN,
                count: 10,
                naming: Naming::FirstnameLastname,
                start_warmup: true,
                time_zone: "Europe/Berlin".into(),
                daily_limit: 40,
            },
            state: JobState::Running,
            steps: vec![JobStep {
                name: "make inboxes".into(),
                done: 4,
                total: 10,
            }],
            errors: vec!["the name was taken".into()],
            created_at: some::at(1),
            changed_at: some::at(2),
        }
    }

    #[test]
    fn the_bytes_of_version_1_stand() {
        laws::golden(&[sample()], include_str!("../../golden/jobs.v1.hex"));
    }

    #[test]
    fn damage_is_an_error() {
        laws::damage(&sample());
    }

    #[test]
    fn twenty_long_errors_are_cut_to_fit() {
        let mut job = sample();
        job.errors = vec!["because ".repeat(100); 20];
        let kept = laws::round_trip(&job);
        assert_eq!(kept.errors.len(), 20);
        assert!(kept.errors.iter().all(|why| why.len() >= 100));
    }

    proptest! {
        #[test]
        fn a_job_comes_back(job in jobs()) {
            prop_assert_eq!(laws::round_trip(&job), job);
        }
    }
}
