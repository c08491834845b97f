//! CronJob: makes Jobs at the times of a schedule.

mod plan;
mod schedule;

use std::sync::Arc;
use std::time::{Duration, Instant};

use events::reference;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::DeleteParams;
use watch_cache::{ControllerIndex, ObjectKey, WatchCache};

use crate::framework::{
    Context, During, Error, EventType, Expectations, Outcome, Reconciler, Tolerate, act, owners,
    related,
};
use crate::job::is_finished;
use plan::Verdict;

const NAME: &str = "cronjob-controller";

pub(crate) fn start(context: &Context) {
    let crons = context.caches.of::<CronJob>();
    let jobs = context.caches.of::<Job>();
    context
        .controller(NAME)
        .watch(&crons, |change| [change.key()])
        .watch(&jobs, related::owner_keys::<CronJob, Job>)
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                jobs_of: jobs.by_controller(),
                crons,
                jobs,
                expectations: Expectations::default(),
                own: Expectations::default(),
            },
        );
}

struct Controller {
    context: Context,
    crons: WatchCache<CronJob>,
    jobs: WatchCache<Job>,
    jobs_of: ControllerIndex<Job>,
    expectations: Expectations,
    own: Expectations,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(cron) = self.crons.get_key(key) else {
            self.expectations.forget(key);
            self.own.forget(key);
            return Ok(Outcome::Done);
        };
        let now = Instant::now();
        let fresh = self.expectations.fresh(key, &self.jobs, now);
        if let Err(wait) = fresh.and(self.own.fresh(key, &self.crons, now)) {
            return Ok(Outcome::After(wait));
        }
        let jobs = self.jobs_of.controlled_by(&cron.uid().unwrap_or_default());
        self.tell_completed(&cron, &jobs);
        let mut status = cron.status.clone().unwrap_or_default();
        let (active, last_successful_time) = plan::observe(&cron, &jobs);
        status.active = Some(active).filter(|active| !active.is_empty());
        status.last_successful_time = last_successful_time;
        let ran = self.run_if_due(key, &cron, &jobs, &mut status).await;
        self.write_status(key, &cron, status).await?;
        let wait = ran?;
        self.clean_up(key, &cron, &jobs).await?;
        Ok(Outcome::after(wait))
    }
}

impl Controller {
    async fn run_if_due(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> Result<Option<Duration>, Error> {
        let warn = |reason, message: String| {
            self.context
                .recorder
                .event(NAME, cron, EventType::Warning, reason, message);
        };
        let (schedule, zone) = match plan::schedule(cron) {
            Ok(found) => found,
            Err((reason, message)) => {
                warn(reason, message);
                return Ok(None);
            }
        };
        let active = status.active.as_ref().map_or(0, Vec::len);
        match plan::decide(cron, &schedule, &zone, active, Timestamp::now()) {
            Verdict::Wait(wait) => Ok(wait),
            Verdict::Missed { at, wait } => {
                warn(
                    "MissSchedule",
                    format!("Missed scheduled time to start a job: {at}"),
                );
                Ok(wait)
            }
            Verdict::Busy { wait } => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                let recorder = &self.context.recorder;
                recorder.event(NAME, cron, EventType::Normal, "JobAlreadyActive", message);
                Ok(wait)
            }
            Verdict::Run { at, replace, wait } => {
                if replace {
                    self.delete_running(key, cron, jobs).await?;
                    status.active = None;
                }
                self.create(key, cron, at, &zone, status).await?;
                Ok(wait)
            }
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        at: Timestamp,
        zone: &TimeZone,
        status: &mut CronJobStatus,
    ) -> Result<(), Error> {
        let api = self.context.api::<Job>(&key.namespace);
        let wanted = plan::job(cron, at, zone);
        let name = wanted.name_any();
        let recorder = &self.context.recorder;
        match act::create(&api, &wanted).await {
            Ok(job) => {
                self.expectations.wrote(key, &job, Instant::now());
                let message = format!("Created job {name}");
                recorder.event(NAME, cron, EventType::Normal, "SuccessfulCreate", message);
                status.active.get_or_insert_default().push(reference(&job));
            }
            Err(error) if error.is_already_exists() => {
                // Made before a crash, or by somebody else under this very name.
                let live = api.get_opt(&name).await.during("reading Job", &name)?;
                let uid = cron.uid().unwrap_or_default();
                if !live.is_some_and(|job| owners::is_controlled_by(&job, &uid)) {
                    let message =
                        format!("job {name} exists and is not controlled by this CronJob");
                    recorder.event(NAME, cron, EventType::Warning, "FailedCreate", message);
                }
            }
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => {
                let message = format!("Error creating job: {}", error.message());
                recorder.event(NAME, cron, EventType::Warning, "FailedCreate", message);
                return Err(error);
            }
        }
        status.last_schedule_time = Some(Time(at));
        Ok(())
    }

    async fn delete_running(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        jobs: &[Arc<Job>],
    ) -> Result<(), Error> {
        let running = jobs
            .iter()
            .filter(|job| !job.status.as_ref().is_some_and(is_finished));
        for job in running {
            self.delete(key, cron, job).await?;
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, cron: &CronJob, job: &Job) -> Result<(), Error> {
        let api = self.context.api::<Job>(&key.namespace);
        if act::delete(&api, job, DeleteParams::background()).await? {
            let message = format!("Deleted job {}", job.name_any());
            let recorder = &self.context.recorder;
            recorder.event(NAME, cron, EventType::Normal, "SuccessfulDelete", message);
        }
        Ok(())
    }

    fn tell_completed(&self, cron: &CronJob, jobs: &[Arc<Job>]) {
        let known = cron
            .status
            .iter()
            .flat_map(|status| status.active.iter().flatten());
        for reference in known {
            let Some(job) = jobs.iter().find(|job| job.metadata.uid == reference.uid) else {
                continue;
            };
            let Some(status) = job.status.as_ref().filter(|status| is_finished(status)) else {
                continue;
            };
            let good = crate::job::find_condition(status, "Complete").is_some();
            let condition = if good { "Complete" } else { "Failed" };
            let name = job.name_any();
            let message = format!("Saw completed job: {name}, condition: {condition}");
            let recorder = &self.context.recorder;
            recorder.event(NAME, cron, EventType::Normal, "SawCompletedJob", message);
        }
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: CronJobStatus,
    ) -> Result<(), Error> {
        // References carry revisions of Jobs, which change without news for the CronJob.
        let facts = |status: &CronJobStatus| {
            let active = status.active.iter().flatten().map(|job| job.uid.clone());
            (
                active.collect::<Vec<_>>(),
                status.last_schedule_time.clone(),
                status.last_successful_time.clone(),
            )
        };
        if facts(&cron.status.clone().unwrap_or_default()) == facts(&status) {
            return Ok(());
        }
        let updated = CronJob {
            status: Some(status),
            ..cron.clone()
        };
        let api = self.context.api::<CronJob>(&key.namespace);
        if let Some(written) = act::replace_status(&api, &updated).await.unless_gone()? {
            self.own.wrote(key, &written, Instant::now());
        }
        Ok(())
    }

    async fn clean_up(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        jobs: &[Arc<Job>],
    ) -> Result<(), Error> {
        for job in plan::surplus(cron, jobs) {
            self.delete(key, cron, &job).await?;
        }
        Ok(())
    }
}
