//! Says what a watching node has applied.

use std::time::Duration;

use steadfast_client::{
    Connection, Cursor,
    api::watch::v1::{Node, ReportAppliedRequest},
    cursor_to_api,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{output::note, table::clean};

/// After a report that did not arrive, when to try again.
const AGAIN: Duration = Duration::from_secs(1);

/// Reports the newest cursor that it was given, beside whatever else happens. It ends when it is dropped.
pub(super) struct Reporter {
    /// The cursor, and how often it was given anew.
    newest: watch::Sender<(Option<Cursor>, u64)>,
    task: JoinHandle<()>,
}

// === impl Reporter ===

impl Reporter {
    pub(super) fn start(connection: &Connection, node: &Node) -> Self {
        let (newest, given) = watch::channel((None, 0));
        let task = tokio::spawn(run(connection.clone(), node.clone(), given));
        Self { newest, task }
    }

    pub(super) fn report(&self, cursor: Cursor) {
        self.newest.send_if_modified(|(newest, _)| {
            let is_new = *newest != Some(cursor);
            *newest = Some(cursor);
            is_new
        });
    }

    /// The same, even if it was reported before.
    pub(super) fn report_again(&self, cursor: Cursor) {
        self.newest
            .send_modify(|(newest, times)| (*newest, *times) = (Some(cursor), *times + 1));
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    connection: Connection,
    node: Node,
    mut given: watch::Receiver<(Option<Cursor>, u64)>,
) {
    while given.changed().await.is_ok() {
        loop {
            let Some(cursor) = given.borrow_and_update().0 else {
                break;
            };
            let request = ReportAppliedRequest {
                node: node.id.clone(),
                incarnation: node.incarnation.clone(),
                cursor: Some(cursor_to_api(cursor)),
                error: String::new(),
            };
            let mut nodes = connection.nodes();
            let Err(error) = connection.call(nodes.report_applied(request)).await else {
                break;
            };
            let told = clean(&error.to_string());
            note(&format!(
                "revision {} could not be reported ({told})",
                cursor.revision
            ));
            if !error.is_transient() {
                break;
            }
            // A newer one is as good.
            if let Ok(Err(_)) = timeout(AGAIN, given.changed()).await {
                return;
            }
        }
    }
}
