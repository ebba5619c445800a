//! Follows a refresh to its end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use steadfast_client::{
    Connection, RefreshWatch, RefreshWatchEvent,
    api::registry::v1::{Refresh, RefreshItem, RefreshOutcome, RefreshState},
};
use tokio::time::Instant;

use super::report;
use crate::{failure::Failure, output::note, table::clean};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(200);
/// How long a server that does not answer is asked again: a restart of it, or a lease that another replica takes over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the refresh has ended, and shows on a terminal how it goes: each failure, and with `all` each change as well.
pub(super) async fn to_the_end(
    id: &str,
    all: bool,
    connection: &Connection,
) -> Result<(Refresh, Vec<RefreshItem>), Failure> {
    let progress = Progress::new(all);
    let mut watch = RefreshWatch::new(connection, id);
    let mut items: Vec<RefreshItem> = Vec::new();
    let mut last = Refresh::default();
    let mut last_answer = Instant::now();
    let hint =
        || format!("the refresh may go on: `steadfast refresh watch {id}` shows how it ends");
    loop {
        match watch.next().await {
            Ok(Some(RefreshWatchEvent::Moved {
                refresh,
                items: mut new,
            })) => {
                last_answer = Instant::now();
                progress.show(&refresh, &new);
                items.append(&mut new);
                last = *refresh;
            }
            Ok(Some(RefreshWatchEvent::Disconnected { error, .. })) => {
                if last_answer.elapsed() >= PATIENCE {
                    return Err(Failure::from(error).hint(hint()));
                }
                progress.note(&format!("{error}; asking again"));
            }
            Ok(None) => {
                progress.bar.finish_and_clear();
                return Ok((last, items));
            }
            Err(error) => return Err(Failure::from(error).hint(hint())),
        }
    }
}

/// A bar on standard error; hidden unless that is a terminal.
struct Progress {
    bar: ProgressBar,
    all: bool,
}

// === impl Progress ===

impl Progress {
    fn new(all: bool) -> Self {
        let style = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
        bar.enable_steady_tick(TICK);
        Self { bar, all }
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
            let word = match item.outcome() {
                RefreshOutcome::Failed => "failed",
                RefreshOutcome::Changed if self.all && refresh.dry_run => "would change",
                RefreshOutcome::Changed if self.all => "changed",
                _ => continue,
            };
            let line = format!("{word} {}: {}", report::name(item), clean(&item.message));
            self.bar.println(line);
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
        let progress = Progress::new(true);
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
