//! What happens to a life: the incidents of its forecast, one after the other.

use anyhow::ensure;
use inboxgrove_actors::Platform;
use inboxgrove_model::inbox::Inbox;
use inboxgrove_store::Scope;

use super::{DRAIN, Living, Turn};
use crate::virtual_world::{
    classes::FaultClass,
    weather::{Happening, Rot},
};

impl Happening {
    /// Whether the daemon cannot be expected to do its work in time while it lasts.
    pub(super) fn keeps_from_work(&self) -> bool {
        matches!(
            self,
            Self::Room(_) | Self::Rot(_) | Self::FailActor { .. } | Self::Hang
        )
    }
}

impl Living {
    pub(super) async fn take_turn(&mut self, turn: Turn) -> anyhow::Result<()> {
        match turn {
            Turn::Begin(incident) => {
                self.note(&format!("#{} {:?}", incident.number, incident.what));
                if !incident.lasts.is_zero() {
                    self.under_way
                        .insert(incident.number, incident.what.clone());
                }
                self.begin_of(incident.what).await
            }
            Turn::End(incident) => match self.under_way.remove(&incident.number) {
                Some(what) => {
                    self.note(&format!("#{} is over", incident.number));
                    self.end(&what).await
                }
                None => Ok(()),
            },
        }
    }

    async fn begin_of(&mut self, what: Happening) -> anyhow::Result<()> {
        match what {
            Happening::Weather(weather) => {
                // Of a vendor only the calls count that met its mood.
                if let Some(class) = weather.class().filter(|class| *class != FaultClass::Vendor) {
                    self.house.struck(class);
                }
                weather.begin(&self.around);
            }
            Happening::Room(bytes) => {
                self.house.struck(FaultClass::NoSpace);
                self.house.disk().set_free_bytes(bytes);
            }
            Happening::Accident {
                in_writes,
                stop,
                nested,
            } => {
                self.nested = nested;
                self.ends_by = stop;
                match in_writes {
                    Some(writes) => self.house.disk().stop_in(writes, stop),
                    None => self.accident(stop).await?,
                }
            }
            Happening::DiskFault {
                fault,
                stop,
                nested,
            } => {
                self.nested = nested;
                self.ends_by = stop;
                self.house.disk().fail_next(fault);
            }
            Happening::Rot(rot) => drop(self.house.rot(rot)?),
            Happening::Step { millis } => {
                self.house.struck(FaultClass::ClockStep);
                self.past.unwell();
                self.around.hardware.step(millis);
            }
            Happening::FailActor { pick, times } => self.fail_actor(pick, times),
            Happening::Flood { pick, letters } => self.flood(pick, letters),
            Happening::Hang => {
                self.house.struck(FaultClass::Actor);
                self.house.disk().hold_syncs();
            }
            Happening::Restart => self.restart().await?,
            Happening::Migrate { cut } => {
                self.put_down().await;
                self.house.migrate(cut)?;
                self.start().await?;
            }
            Happening::BackUp => self.house.back_up()?,
        }
        Ok(())
    }

    pub(super) async fn end(&mut self, what: &Happening) -> anyhow::Result<()> {
        self.past.unwell();
        match what {
            Happening::Weather(weather) => weather.end(&self.around),
            Happening::Room(_) => self.house.disk().set_free_bytes(u64::MAX),
            Happening::Rot(rot) => self.mend(*rot).await?,
            Happening::Step { millis } => self.around.hardware.step(-millis),
            Happening::FailActor { pick, .. } => self.free_actor(*pick).await,
            Happening::Hang => self.house.disk().release_syncs(),
            _ => {}
        }
        Ok(())
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        self.put_down().await;
        self.start().await
    }

    /// The daemon ends as it is asked to. Nobody waits for a disk that hangs.
    async fn put_down(&mut self) {
        self.house.disk().release_syncs();
        self.house.stop(DRAIN).await;
    }

    /// An operator mends what rots. Until then a store is refused for it, or still tells of it.
    async fn mend(&mut self, rot: Rot) -> anyhow::Result<()> {
        if !self.house.is_rotten() {
            return Ok(());
        }
        self.put_down().await;
        let opened = self.house.look();
        // A backup that was found damaged once is not looked at again: nobody will take it for one.
        if let (Ok(store), Rot::Log(..)) = (&opened, rot) {
            ensure!(
                !store.verify().is_clean(),
                "{rot:?} was never mended, and is not found any more"
            );
        }
        drop(opened);
        self.house.mend();
        self.start().await?;
        match rot {
            // Whoever throws a backup away takes another one: the log may not reach back to the one before.
            Rot::Backup(..) => self.house.back_up(),
            Rot::Row(..) | Rot::Log(..) => Ok(()),
        }
    }

    fn fail_actor(&mut self, pick: u64, times: u32) {
        let Some((platform, inbox)) = self.some_inbox(pick) else {
            return;
        };
        for n in 0..times {
            let why = format!("a bug that strikes, time {n}");
            // A disk that has just lost its power knows no inbox.
            if platform.fail_inbox(inbox.tenant, inbox.id, &why).is_ok() && n == 0 {
                self.house.struck(FaultClass::Actor);
            }
        }
    }

    async fn free_actor(&mut self, pick: u64) {
        if let Some((platform, inbox)) = self.some_inbox(pick) {
            // It need not have been parked.
            platform.unpark(&format!("inbox/{}", inbox.id)).await.ok();
        }
    }

    /// Many letters at once: those beyond the mailbox are refused, and nobody else notices.
    fn flood(&mut self, pick: u64, letters: u32) {
        let Some((platform, inbox)) = self.some_inbox(pick) else {
            return;
        };
        self.house.struck(FaultClass::Actor);
        for _ in 0..letters {
            let (platform, tenant, id) = (platform.clone(), inbox.tenant, inbox.id);
            // Whether it is answered or refused is nobody's care; that it ends is the deadline's.
            tokio::spawn(async move { platform.start_warmup(tenant, id).await.ok() });
        }
    }

    /// Some inbox, going round; none when there is none, or the disk cannot be read.
    fn some_inbox(&self, pick: u64) -> Option<(Platform, Inbox)> {
        let platform = self.house.daemon().platform()?;
        let inboxes = platform
            .store()
            .page::<Inbox>(&Scope::All, None, 500)
            .ok()?
            .items;
        let place = usize::try_from(pick % inboxes.len().max(1) as u64).ok()?;
        Some((platform, inboxes.into_iter().nth(place)?))
    }
}
