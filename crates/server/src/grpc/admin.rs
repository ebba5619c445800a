//! ServerService and ScheduleService.

use steadfast_api::admin::v1::{
    self as api, schedule_service_server::ScheduleService, server_service_server::ServerService,
};
use steadfast_store::{Store, Wakeups, schema_version};
use steadfast_types::{ReplicaId, Timestamp};
use steadfast_watch::Hub;
use tonic::{Code, Request, Response, Status};

use super::status::{Problem, of_store};
use crate::{VERSION, schedule::Scheduler};

/// What the replica tells of itself.
#[derive(Debug, Clone)]
pub(crate) struct ServerEdge {
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    pub(crate) wakeups: Wakeups,
    pub(crate) replica: ReplicaId,
    pub(crate) started: Timestamp,
    pub(crate) commit: &'static str,
}

#[tonic::async_trait]
impl ServerService for ServerEdge {
    async fn get_server_info(
        &self,
        _: Request<api::GetServerInfoRequest>,
    ) -> Result<Response<api::GetServerInfoResponse>, Status> {
        let position = *self.hub.position().borrow();
        let mut features = ["catalog", "watch", "saga"].map(str::to_owned).to_vec();
        if self.wakeups.is_listening() {
            features.push("listen".to_owned());
        }
        Ok(Response::new(api::GetServerInfoResponse {
            version: VERSION.to_owned(),
            commit: self.commit.to_owned(),
            engine: self.store.engine().to_string(),
            schema_version: schema_version(),
            store_id: position.applied.store_id.to_string(),
            replica: self.replica.to_string(),
            start_time: Some(time_message(self.started)),
            degraded: position.degraded,
            features,
        }))
    }
}

/// Schedules.
#[derive(Clone)]
pub(crate) struct ScheduleEdge {
    pub(crate) scheduler: Scheduler,
}

#[tonic::async_trait]
impl ScheduleService for ScheduleEdge {
    async fn list_schedules(
        &self,
        _: Request<api::ListSchedulesRequest>,
    ) -> Result<Response<api::ListSchedulesResponse>, Status> {
        let schedules = self.scheduler.list().await.map_err(status)?;
        Ok(Response::new(api::ListSchedulesResponse {
            schedules: schedules.into_iter().map(message).collect(),
        }))
    }

    async fn run_schedule(
        &self,
        request: Request<api::RunScheduleRequest>,
    ) -> Result<Response<api::RunScheduleResponse>, Status> {
        let name = request.into_inner().name;
        let schedule = found(&name, self.scheduler.run_now(&name).await)?;
        Ok(Response::new(api::RunScheduleResponse {
            schedule: Some(schedule),
        }))
    }

    async fn pause_schedule(
        &self,
        request: Request<api::PauseScheduleRequest>,
    ) -> Result<Response<api::PauseScheduleResponse>, Status> {
        let name = request.into_inner().name;
        let schedule = found(&name, self.scheduler.pause(&name, true).await)?;
        Ok(Response::new(api::PauseScheduleResponse {
            schedule: Some(schedule),
        }))
    }

    async fn resume_schedule(
        &self,
        request: Request<api::ResumeScheduleRequest>,
    ) -> Result<Response<api::ResumeScheduleResponse>, Status> {
        let name = request.into_inner().name;
        let schedule = found(&name, self.scheduler.pause(&name, false).await)?;
        Ok(Response::new(api::ResumeScheduleResponse {
            schedule: Some(schedule),
        }))
    }
}

fn status(error: steadfast_store::Error) -> Status {
    of_store(&error).into_status()
}

fn found(
    name: &str,
    outcome: Result<Option<steadfast_store::Schedule>, steadfast_store::Error>,
) -> Result<api::Schedule, Status> {
    outcome.map_err(status)?.map(message).ok_or_else(|| {
        Problem::new(
            Code::NotFound,
            "SCHEDULE_NOT_FOUND",
            format!("there is no schedule `{name}`; schedules come from the configuration, for example catalog.refresh_schedule"),
        )
        .with("schedule", name)
        .into_status()
    })
}

fn message(schedule: steadfast_store::Schedule) -> api::Schedule {
    api::Schedule {
        name: schedule.name,
        cron: schedule.cron,
        time_zone: schedule.time_zone,
        paused: schedule.paused,
        // A refresh that comes due while one is running that may have read something already waits for that one.
        overlap_policy: api::OverlapPolicy::Queue.into(),
        missed_run_policy: api::MissedRunPolicy::Once.into(),
        next_run_time: schedule.next_due.map(time_message),
        last_run_time: schedule.last_run.map(time_message),
        last_result: schedule.last_result,
    }
}

/// The message of a time.
pub(crate) fn time_message(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.seconds(),
        nanos: time.nanos(),
    }
}
