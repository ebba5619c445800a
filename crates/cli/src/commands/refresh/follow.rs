//! Follows a refresh to its end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use steadfast_client::{
    Connection,
    api::registry::v1::{GetRefreshRequest, Refresh, RefreshItem, RefreshOutcome, RefreshState},
};
use tokio::time::Instant;

use super::report;
use crate::{failure::Failure, output::note, table::clean};

/// How often the server is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long a server that does not answer is asked again: a restart of it, or a lease that another replica takes over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the refresh has ended, and shows on a terminal how it goes.
pub(super) async fn to_the_end(
    id: &str,
    connection: &Connection,
) -> Result<(Refresh, Vec<RefreshItem>), Failure> {
    let progress = Progress::new();
    let mut client = connection.refreshes();
    let mut items: Vec<RefreshItem> = Vec::new();
    let mut last_answer = Instant::now();
    loop {
        let request = GetRefreshRequest {
            id: id.to_owned(),
            skip_items: i32::try_from(items.len()).unwrap_or(i32::MAX),
        };
        let mut answer = match connection.call(client.get_refresh(request)).await {
            Ok(answer) => answer,
            Err(error) if error.is_transient() && last_answer.elapsed() < PATIENCE => {
                progress.note(&format!("{error}; asking again"));
                tokio::time::sleep(error.retry_after.unwrap_or(POLL_INTERVAL)).await;
                continue;
            }
            Err(error) => {
                return Err(Failure::from(error).hint(format!(
                    "the refresh may go on: `steadfast refresh get {id}` shows how it ended"
                )));
            }
        };
        last_answer = Instant::now();
        let refresh = answer.refresh.take().unwrap_or_default();
        progress.show(&refresh, &answer.items);
        let came = !answer.items.is_empty();
        items.append(&mut answer.items);
        if came {
            // There may be more than one answer holds.
            continue;
        }
        if has_ended(&refresh) {
            progress.bar.finish_and_clear();
            return Ok((refresh, items));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn has_ended(refresh: &Refresh) -> bool {
    match refresh.state() {
        RefreshState::Succeeded | RefreshState::Partial | RefreshState::Failed => true,
        RefreshState::Unspecified | RefreshState::Queued | RefreshState::Running => false,
    }
}

/// A bar on standard error; hidden unless that is a terminal.
struct Progress {
    bar: ProgressBar,
}

// === impl Progress ===

impl Progress {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
        bar.enable_steady_tick(POLL_INTERVAL);
        Self { bar }
    }

    fn show(&self, refresh: &Refresh, new_items: &[RefreshItem]) {
        let (mut listed, mut ended) = (0, 0);
        for counts in &refresh.counts {
            listed += counts.listed;
            ended += counts.changed + counts.unchanged + counts.failed;
        }
        self.bar.set_length(u64::try_from(listed).unwrap_or(0));
        self.bar.set_position(u64::try_from(ended).unwrap_or(0));
        for item in new_items {
            if item.outcome() == RefreshOutcome::Failed {
                let line = format!("failed {}: {}", report::name(item), clean(&item.message));
                self.bar.println(line);
            }
        }
        if refresh.state() == RefreshState::Queued {
            self.bar.set_message("waiting for its turn");
        } else if let Some(item) = new_items.last() {
            self.bar.set_message(report::name(item));
        } else if ended == 0 {
            self.bar.set_message("reading");
        }
    }

    fn note(&self, text: &str) {
        if self.bar.is_hidden() {
            note(text);
        } else {
            self.bar.println(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use steadfast_client::api::registry::v1::RefreshCounts;

    use super::*;

    #[test]
    fn the_bar_has_a_valid_template() {
        let progress = Progress::new();
        let counts = RefreshCounts {
            listed: 9,
            changed: 1,
            unchanged: 3,
            failed: 1,
            ..RefreshCounts::default()
        };
        let refresh = Refresh {
            counts: vec![counts],
            ..Refresh::default()
        };
        progress.show(&refresh, &[RefreshItem::default()]);
        assert_eq!(
            (progress.bar.position(), progress.bar.length()),
            (5, Some(9))
        );
    }
}
