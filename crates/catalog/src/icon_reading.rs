//! Asking a source for icons, and comparing what it says with what is stored. It writes nothing.

use std::time::Duration;

use steadfast_store::{IconBlob, IconContent, IconRow, IconWrite, RefreshItemRow};
use steadfast_upstream::{IconAnswer, IconFormat, IconShape, IconUpstream, PackageName};

use crate::{
    error::Error,
    options::Source,
    package::content_hash,
    reading::{Findings, Reader},
};
use steadfast_store::PackageWrite;

/// After the first answer that there is none, it is asked again no earlier than this; the time doubles with each.
const MISS_RETRY_FIRST: Duration = Duration::from_secs(3_600);
/// At most.
const MISS_RETRY_MAX: Duration = Duration::from_secs(7 * 86_400);

/// What asking for one icon came to.
pub(crate) enum IconReading {
    /// It is there as it was.
    Unchanged,
    /// There was none, and it is not time to ask again.
    StillNone,
    /// There is none, as before or as far as is known; to be remembered.
    None(IconWrite),
    /// There is none any more.
    Removed(IconWrite),
    /// It is new or changed.
    Changed(IconWrite),
    /// It is the same under a new tag; to be remembered.
    Retagged(IconWrite),
}

/// Asks for one icon; with `force` whatever is known, and without a tag.
pub(crate) async fn read_icon(
    upstream: &IconUpstream,
    name: &PackageName,
    shape: IconShape,
    format: IconFormat,
    stored: Option<&IconRow>,
    force: bool,
) -> Result<IconReading, steadfast_upstream::Error> {
    let is_early = stored.is_some_and(|row| row.hash.is_none() && !row.due);
    if is_early && !force {
        return Ok(IconReading::StillNone);
    }
    let place = place(upstream, name, shape, format)?;
    let tag = stored
        .filter(|row| row.hash.is_some() && !force)
        .and_then(|row| row.upstream_etag.strip_prefix(&place))
        .filter(|tag| !tag.is_empty());
    let write = |content| IconWrite {
        shape: shape.as_str().to_owned(),
        ext: format.ext().to_owned(),
        content,
    };
    let hash_before = stored.and_then(|row| row.hash.as_deref());
    Ok(match upstream.fetch(name, shape, format, tag).await? {
        IconAnswer::NotModified => IconReading::Unchanged,
        // Only questions that were due make the pauses longer: who asks out of turn postpones nothing.
        IconAnswer::Missing if is_early => IconReading::StillNone,
        IconAnswer::Missing => {
            let misses = stored.map_or(0, |row| row.misses);
            let none = write(IconContent::Missing {
                retry_after: retry_after(misses),
            });
            match hash_before {
                Some(_) => IconReading::Removed(none),
                None => IconReading::None(none),
            }
        }
        IconAnswer::Found { bytes, etag } => {
            let hash = content_hash(&bytes);
            let is_same = hash_before == Some(hash.as_str());
            let upstream_etag = etag.map_or_else(String::new, |etag| format!("{place}{etag}"));
            let is_tagged = stored.is_some_and(|row| row.upstream_etag == upstream_etag);
            let found = write(IconContent::Found {
                blob: IconBlob {
                    hash,
                    bytes: bytes.into(),
                },
                upstream_etag,
            });
            match (is_same, is_tagged) {
                (true, true) => IconReading::Unchanged,
                (true, false) => IconReading::Retagged(found),
                (false, _) => IconReading::Changed(found),
            }
        }
    })
}

/// What a stored tag begins with: tags of another address mean nothing. The address itself is not stored, as it may hold a secret.
fn place(
    upstream: &IconUpstream,
    name: &PackageName,
    shape: IconShape,
    format: IconFormat,
) -> Result<String, steadfast_upstream::Error> {
    let url = upstream.template().url(name, shape, format)?;
    let hash = content_hash(url.as_str().as_bytes());
    Ok(format!("{} ", hash.get(..16).unwrap_or(&hash)))
}

/// How long an answer that there is none holds, after so many others before it.
fn retry_after(misses: i64) -> Duration {
    let doublings = u32::try_from(misses).unwrap_or(u32::MAX).min(20);
    (MISS_RETRY_FIRST * 2_u32.pow(doublings)).min(MISS_RETRY_MAX)
}

// === impl Reader ===

impl Reader<'_> {
    /// Asks for a package's icons, one after another: a refresh reads many packages at a time.
    ///
    /// # Errors
    /// Only if the database does not answer.
    pub(crate) async fn read_icons(
        &self,
        name: &PackageName,
        source: &Source,
        findings: &mut Findings,
        write: &mut PackageWrite,
    ) -> Result<(), Error> {
        let Some(upstream) = source.icons() else {
            return Ok(());
        };
        let stored = self.store.icons_of(name.as_str()).await?;
        let formats = upstream.template().formats();
        for shape in IconShape::ALL {
            for &format in formats {
                let row = stored
                    .iter()
                    .find(|row| row.shape == shape.as_str() && row.ext == format.ext());
                let read = read_icon(upstream, name, shape, format, row, self.wish.force).await;
                findings.take_icon(name, shape, format, read, write);
            }
        }
        // What the template used to ask for and does no more.
        let is_asked = |row: &&IconRow| formats.iter().any(|format| format.ext() == row.ext);
        write.icons.extend(
            stored
                .iter()
                .filter(|row| !is_asked(row))
                .map(|row| IconWrite {
                    shape: row.shape.clone(),
                    ext: row.ext.clone(),
                    content: IconContent::Gone,
                }),
        );
        Ok(())
    }
}

// === impl Findings ===

impl Findings {
    fn take_icon(
        &mut self,
        name: &PackageName,
        shape: IconShape,
        format: IconFormat,
        read: Result<IconReading, steadfast_upstream::Error>,
        write: &mut PackageWrite,
    ) {
        let item = |outcome: &str, reason: &str, message: String| RefreshItemRow {
            kind: "icons".into(),
            package: name.to_string(),
            version: format!("{}.{}", shape.as_str(), format.ext()),
            source: String::new(),
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
            message,
            revision: None,
        };
        let refreshed = &mut self.refreshed;
        let deltas = &mut refreshed.deltas;
        match read {
            Ok(IconReading::StillNone) => {}
            Ok(IconReading::None(none)) => write.icons.push(none),
            Ok(IconReading::Unchanged) => {
                deltas.icons_listed += 1;
                deltas.icons_unchanged += 1;
            }
            Ok(IconReading::Retagged(same)) => {
                deltas.icons_listed += 1;
                deltas.icons_unchanged += 1;
                write.icons.push(same);
            }
            Ok(IconReading::Changed(icon)) => {
                deltas.icons_listed += 1;
                deltas.icons_changed += 1;
                write.icons.push(icon);
                refreshed.items.push(item("changed", "", String::new()));
            }
            Ok(IconReading::Removed(none)) => {
                deltas.icons_listed += 1;
                deltas.icons_changed += 1;
                write.icons.push(none);
                let message = "there is none any more".to_owned();
                refreshed.items.push(item("changed", "", message));
            }
            Err(error) => {
                deltas.icons_listed += 1;
                deltas.icons_failed += 1;
                let item = item("failed", error.reason(), error.to_string());
                refreshed.items.push(item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_is_asked_about_ever_less_often() {
        let hours = [0, 1, 2, 7, 8, i64::MAX].map(|misses| retry_after(misses).as_secs() / 3_600);
        assert_eq!(hours, [1, 2, 4, 128, 168, 168]);
    }
}
