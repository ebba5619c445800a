//! Going on where a sweep has failed again and again: in smaller and smaller pages, until what is in the way is alone, and without it.
//!
//! A database that is away, or another transaction in the way, is no reason to leave anything out: the sweep is interrupted, and goes
//! on. What the database refuses, or this program cannot read, will not go by itself. And where not even that is known, because no
//! process has lived to tell, the place alone is left. If one resource after the other had to be left out, the sweep fails instead.

use std::sync::Arc;

use steadfast_store::{DueResource, Error, SweepFailure, SweepRow};

use super::{
    Inner,
    carry::{by_bytes, compare, list, read_page},
    write::{Stop, Writer},
};

/// So often a sweep may be taken in hand without getting any further, until it goes on carefully.
pub(super) const STALLS: i64 = 3;

/// Each page that fails is followed by one of so many parts of it.
const PARTS: usize = 8;

/// If so many in a row cannot be compared, what is wrong is not in them, and the sweep fails.
const LEFT_OUT: usize = 20;

/// If a sweep ends so often at the very first resource, without a word, it is left out.
const SILENT: i64 = 9;

/// Goes through what is left of a scope.
pub(super) async fn round(
    inner: &Inner,
    row: &SweepRow,
    mut writer: Writer<'_>,
) -> Result<Option<Stop>, Error> {
    let most = inner.options.page_resources.max(1) as usize;
    let mut silent = row.stalls >= SILENT;
    let mut resources = first_page(most, row.stalls);
    let mut after = row.cursor_key;
    let mut left_out = 0;
    loop {
        let listed = list(inner, row, after, resources).await?;
        let due = match by_bytes(&listed, i64::from(inner.options.page_bytes)).first() {
            Some(due) if !due.is_empty() => *due,
            _ => return Ok(None),
        };
        let failed = match due {
            [_] if std::mem::take(&mut silent) => Some(format!(
                "the sweep was interrupted here {} times in a row",
                row.stalls
            )),
            _ => match page(inner, row, due, &mut writer).await {
                Ok(Some(stop)) => return Ok(Some(stop)),
                Ok(None) => None,
                Err(error) if passes(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(
                        sweep = row.id,
                        resources = due.len(),
                        error = &error as &dyn std::error::Error,
                        "a page of a sweep fails"
                    );
                    Some(error.to_string())
                }
            },
        };
        match (failed, due) {
            (None, _) => {
                left_out = 0;
                after = due.last().map_or(after, |last| last.key);
                resources = (due.len() * 2).min(most);
            }
            (Some(reason), [one]) => {
                left_out += 1;
                let why = format!(
                    "{left_out} resources in a row could not be compared, the last of them because {reason}"
                );
                if let Some(stop) = leave_out(inner, *one, reason, &mut writer).await? {
                    return Ok(Some(stop));
                }
                if left_out == LEFT_OUT {
                    return Ok(Some(Stop::Failed(why)));
                }
                after = one.key;
            }
            (Some(_), _) => {
                // Parts of it may be written.
                after = after.max(writer.cursor());
                resources = (due.len() / PARTS).max(1);
            }
        }
    }
}

/// How many resources to begin with, if it failed so often.
fn first_page(most: usize, stalls: i64) -> usize {
    let times = u32::try_from(stalls - STALLS).unwrap_or(u32::MAX);
    let parts = PARTS.checked_pow(times).unwrap_or(usize::MAX);
    (most / parts).max(1)
}

/// Whether an error may be gone when the same is tried again, or says that the sweep is somebody else's.
fn passes(error: &Error) -> bool {
    !matches!(error, Error::Data { .. } | Error::Corrupt(_))
}

async fn page(
    inner: &Inner,
    row: &SweepRow,
    due: &[DueResource],
    writer: &mut Writer<'_>,
) -> Result<Option<Stop>, Error> {
    let page = read_page(inner, row, due).await?;
    let rules = Arc::clone(&inner.rules);
    let compared = tokio::task::spawn_blocking(move || compare(&rules, page)).await;
    let (page, findings) = compared.map_err(|_| Error::Corrupt("a comparison ended early"))?;
    writer.page(&page, &findings).await
}

/// Goes on without a resource, and says so.
async fn leave_out(
    inner: &Inner,
    due: DueResource,
    reason: String,
    writer: &mut Writer<'_>,
) -> Result<Option<Stop>, Error> {
    let name = match inner.store.resource_name(due.key).await {
        Ok(name) => name.unwrap_or_default(),
        Err(error) if passes(&error) => return Err(error),
        Err(_) => steadfast_store::ResourceName::default(),
    };
    tracing::error!(
        provider = name.provider,
        kind = name.kind,
        id = name.id,
        reason,
        "a resource cannot be compared: the sweep goes on without it"
    );
    let failure = SweepFailure { name, reason };
    match writer.leave_out(due, &failure, true).await {
        Err(error) if !passes(&error) => writer.leave_out(due, &failure, false).await,
        left_out => left_out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_small_soon() {
        let sizes: Vec<usize> = (STALLS..10)
            .map(|stalls| first_page(2_048, stalls))
            .collect();
        assert_eq!(sizes, [2_048, 256, 32, 4, 1, 1, 1]);
        assert_eq!(first_page(1, 4), 1);
        assert_eq!(first_page(2_048, i64::MAX), 1);
        assert_eq!(first_page(2_048, SILENT), 1, "it is alone by then");
    }
}
