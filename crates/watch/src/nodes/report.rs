//! A node says what it has applied.

use std::time::Duration;

use steadfast_store::{Located, NodeName, NodeReport, NodeReported};
use steadfast_types::Cursor;
use tokio::time::{Instant, timeout_at};

use super::{NodeError, Nodes, seat::Seat};
use crate::{metric, ring::Found};

/// How often a report that is above what was written down is looked at again without news.
const AGAIN: Duration = Duration::from_millis(75);

/// A replica that is asked may have begun to write before the question: what it began after that is certain.
const FLUSHES: i64 = 2;

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who.
    pub name: NodeName,
    /// What it has applied.
    pub cursor: Option<Cursor>,
    /// What keeps it from applying more; empty for nothing.
    pub error: String,
}

/// What memory says of a report.
enum Judged {
    Taken,
    /// The database knows more.
    Elsewhere,
    Refused(NodeError),
}

// === impl Nodes ===

impl Nodes {
    /// Takes a report in. It counts on this replica at once, and everywhere as soon as somebody asks.
    ///
    /// # Errors
    /// If it is above what the node's stream was sent, of another history, or older than the log; if the node is not known; if its
    /// replica does not say what it has sent, until `deadline`; or if the database is needed and does not answer.
    pub async fn report(&self, report: Report, deadline: Instant) -> Result<(), NodeError> {
        let outcome = match self.judge(&report).await? {
            Judged::Taken => Ok(()),
            Judged::Refused(error) => Err(error),
            Judged::Elsewhere => self.report_elsewhere(report, deadline).await,
        };
        let label = match &outcome {
            Ok(()) => "taken",
            Err(NodeError::NotSent { .. }) => "not_sent",
            Err(_) => "refused",
        };
        metrics::counter!(metric::NODE_REPORTS, "outcome" => label).increment(1);
        outcome
    }

    /// By what this replica has in memory, if it serves the node's stream.
    async fn judge(&self, report: &Report) -> Result<Judged, NodeError> {
        let shared = &self.shared;
        let Some(seat) = shared.seat(&report.name) else {
            return Ok(Judged::Elsewhere);
        };
        if let Some(cursor) = report.cursor {
            let sent = seat.sent();
            if sent.store_id != cursor.store_id || sent.revision < cursor.revision {
                // The node may have another stream on another replica.
                return Ok(Judged::Elsewhere);
            }
            if let Some(error) = self.unproven(&seat, cursor).await? {
                return Ok(Judged::Refused(error));
            }
        }
        seat.report(report.cursor, report.error.clone());
        shared.queue(&seat);
        Ok(Judged::Taken)
    }

    /// Why the mark of a cursor is not that of its revision, if it is not.
    async fn unproven(&self, seat: &Seat, cursor: Cursor) -> Result<Option<NodeError>, NodeError> {
        let inner = &self.shared.hub.inner;
        match inner.after(cursor, 0) {
            Found::Level | Found::Next(_) => return Ok(None),
            Found::Diverged => return Ok(Some(NodeError::StoreChanged)),
            Found::Behind | Found::Ahead if seat.was_sent(cursor) => return Ok(None),
            Found::Behind | Found::Ahead => {}
        }
        // A node that is far behind, and several batches behind what it was sent.
        let _turn = self.shared.reads.acquire().await;
        Ok(match inner.store.locate(cursor).await? {
            Located::Here => None,
            Located::Diverged => Some(NodeError::StoreChanged),
            Located::Compacted => Some(self.compacted()),
        })
    }

    fn compacted(&self) -> NodeError {
        let position = *self.shared.hub.position().borrow();
        NodeError::Compacted {
            compacted: position.compacted.revision,
            head: position.head,
        }
    }

    /// By what the database knows of the stream. If it was sent less than the report says, as far as was written down, the replica that
    /// serves it is asked, which takes a few milliseconds.
    pub(super) async fn report_elsewhere(
        &self,
        report: Report,
        deadline: Instant,
    ) -> Result<(), NodeError> {
        let shared = &self.shared;
        let mut news = shared.wakeups.subscribe_to_nodes();
        let mut first = None;
        loop {
            let told = NodeReport {
                name: report.name.clone(),
                applied: report.cursor,
                error: report.error.clone(),
            };
            news.mark_unchanged();
            let standing = match shared.store.report_node(told).await? {
                NodeReported::Taken => {
                    shared.written.send_modify(|count| *count += 1);
                    if shared.is_asked() {
                        shared.wakeups.tell_about_nodes();
                    }
                    return Ok(());
                }
                NodeReported::Unknown => return Err(NodeError::Unknown),
                NodeReported::StoreChanged => return Err(NodeError::StoreChanged),
                NodeReported::Compacted { .. } => return Err(self.compacted()),
                NodeReported::Again if Instant::now() < deadline => continue,
                NodeReported::Again => {
                    return Err(NodeError::Unproven {
                        replica: shared.replica.to_string(),
                    });
                }
                NodeReported::NotSent(standing) => standing,
            };
            let cursor = report.cursor.unwrap_or_default();
            let not_sent = |sent| NodeError::NotSent {
                reported: cursor.revision,
                sent,
            };
            let here = shared.seat(&report.name);
            if let Some(seat) = here.filter(|seat| seat.stream == standing.stream) {
                let sent = seat.sent();
                if sent.store_id != cursor.store_id || sent.revision < cursor.revision {
                    return Err(not_sent(sent.revision));
                }
                // It was sent since it was looked at first.
                return match self.judge(&report).await? {
                    Judged::Taken => Ok(()),
                    Judged::Refused(error) => Err(error),
                    Judged::Elsewhere => Err(NodeError::StoreChanged),
                };
            }
            // A stream that has ended is sent nothing more.
            if !standing.connected {
                return Err(not_sent(standing.sent));
            }
            let (serves, flushes) =
                first.get_or_insert((standing.stream.clone(), standing.flushes));
            if *serves != standing.stream {
                (*serves, *flushes) = (standing.stream, standing.flushes);
            } else if standing.flushes >= *flushes + FLUSHES {
                return Err(not_sent(standing.sent));
            }
            let undecided = !standing.is_served || Instant::now() >= deadline;
            if undecided {
                return Err(NodeError::Unproven {
                    replica: standing.replica,
                });
            }
            shared.wakeups.ask_about_nodes(true);
            let until = deadline.min(Instant::now() + AGAIN);
            drop(timeout_at(until, news.changed()).await);
        }
    }
}
