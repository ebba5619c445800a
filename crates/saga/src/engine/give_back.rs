//! Sagas that this replica has taken, and gives back without having done anything.

use steadfast_store::SagaRow;

use super::{Engine, Error};
use crate::metric;

/// For so many poll intervals a saga is left to others whose next action this program does not have.
const PASSED_ON_POLLS: u32 = 4;

impl Engine {
    /// Leaves a saga to a replica that has its next action. Nothing is recorded: nothing has become of it.
    pub(super) async fn pass_on(&self, row: &SagaRow) {
        let store = &self.inner.store;
        metrics::counter!(metric::PASSED_ON).increment(1);
        let wait = self.inner.options.poll_interval * PASSED_ON_POLLS;
        match store.pass_saga_on(row, wait).await {
            Ok(()) => tracing::debug!(saga = row.id, "left to a replica that has its next action"),
            // It is found again by `search`.
            Err(error) => tracing::warn!(
                saga = row.id,
                error = &error as &dyn std::error::Error,
                "a saga was not left to others"
            ),
        }
    }

    /// Gives back a saga that needs nobody, and lets go of its key if it has ended.
    pub(super) async fn let_go(&self, row: &SagaRow) {
        let given_back = self
            .inner
            .store
            .steer_saga(&row.id, |row| {
                let ended = row.ended_us.is_some();
                Ok::<_, Error>(steadfast_store::SteerWrite {
                    owner: String::new(),
                    wake_us: None,
                    state: row.state.clone(),
                    machine: row.machine.clone(),
                    records: "{\"records\":[]}".to_owned(),
                    ended,
                    release: ended,
                    begin: false,
                    deadline_done: false,
                    crashes: row.crashes,
                    actor: String::new(),
                    reason: String::new(),
                })
            })
            .await;
        if let Err(error) = given_back {
            tracing::warn!(
                saga = row.id,
                error = &error as &dyn std::error::Error,
                "a saga was not given back"
            );
        }
    }
}
