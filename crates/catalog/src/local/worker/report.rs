//! What is told of a look at a root: to the log and the metrics, and to the refresh that asked for it.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_store::{
    IconContent, IconWrite, LocalReport, PackageWrite, RefreshDeltas, RefreshItemRow, RefreshRow,
};

use super::super::{
    RootKey,
    compare::{Comparison, Shadowed},
    folder::{Broken, Listing, RootError},
};
use crate::{metric, range::LOCAL};

/// The reason that shadowed packages have.
const SHADOWED: &str = "SHADOWED";

/// Metrics name this many folders of a root that are not taken.
const NAMED_MAX: usize = 100;

/// Log lines that name folders, of one look.
const LOGGED_MAX: usize = 100;

/// What was said already, so that it is said once.
#[derive(Debug, Default)]
pub(super) struct Told {
    broken: BTreeSet<Broken>,
    shadowed: BTreeSet<Shadowed>,
    root_error: Option<RootError>,
    /// Package, file and reason.
    in_metrics: BTreeSet<[String; 3]>,
}

// === impl Told ===

impl Told {
    /// Whether one of these was not said yet.
    pub(super) fn has_newly_broken(&self, broken: &[Broken]) -> bool {
        broken.iter().any(|broken| !self.broken.contains(broken))
    }

    /// Says what is new after a look.
    pub(super) fn looked(&mut self, key: &RootKey, listing: &Listing, comparison: &Comparison) {
        if self.root_error.take().is_some() {
            tracing::info!(
                source = key.source,
                root = key.root,
                "a root can be read again"
            );
        }
        let broken: BTreeSet<Broken> = listing.broken.iter().cloned().collect();
        for broken in broken.difference(&self.broken).take(LOGGED_MAX) {
            tracing::warn!(
                source = key.source,
                root = key.root,
                package = broken.name,
                file = broken.file,
                reason = broken.reason,
                "a package is skipped, and keeps what was stored of it: {}",
                broken.message
            );
        }
        let shadowed: BTreeSet<Shadowed> = comparison.shadowed.iter().cloned().collect();
        for shadowed in shadowed.difference(&self.shadowed).take(LOGGED_MAX) {
            tracing::warn!(
                source = key.source,
                root = key.root,
                package = shadowed.name,
                folder = shadowed.folder,
                by = shadowed.by,
                "a package is shadowed: it is taken from elsewhere"
            );
        }
        if !comparison.is_settled() {
            let icons: usize = listing.packages.iter().map(|found| found.icons.len()).sum();
            tracing::info!(
                source = key.source,
                root = key.root,
                packages = listing.packages.len(),
                icons,
                written = comparison.writes.len(),
                removed = comparison.removals.len(),
                broken = broken.len(),
                shadowed = shadowed.len(),
                "a root has changed"
            );
        }
        self.measure(key, listing.packages.len(), &broken, &shadowed);
        self.broken = broken;
        self.shadowed = shadowed;
    }

    /// Says that nothing of the root can be read.
    pub(super) fn unusable(&mut self, key: &RootKey, error: &RootError) {
        if self.root_error.as_ref() != Some(error) {
            tracing::error!(
                source = key.source,
                root = key.root,
                reason = error.reason(),
                "a root cannot be read, and all of its packages stay as they are: {error}"
            );
            self.root_error = Some(error.clone());
        }
        usable(key).set(0);
    }

    /// Takes the metrics back: another replica reads the root from now on.
    pub(super) fn forget(&mut self, key: &RootKey) {
        self.measure(key, 0, &BTreeSet::new(), &BTreeSet::new());
        *self = Self::default();
    }

    fn measure(
        &mut self,
        key: &RootKey,
        packages: usize,
        broken: &BTreeSet<Broken>,
        shadowed: &BTreeSet<Shadowed>,
    ) {
        usable(key).set(1);
        let labels = [("source", key.source.clone()), ("root", key.root.clone())];
        metrics::gauge!(metric::LOCAL_PACKAGES, &labels).set(packages as f64);
        let broken = broken.iter().map(|broken| {
            [
                broken.label(),
                broken.file.clone(),
                broken.reason.to_owned(),
            ]
        });
        let shadowed = shadowed.iter().map(|shadowed| {
            let folder = format!("packages/{}", shadowed.folder);
            [shadowed.name.clone(), folder, SHADOWED.to_owned()]
        });
        let now: BTreeSet<[String; 3]> = broken.chain(shadowed).take(NAMED_MAX).collect();
        for mended in self.in_metrics.difference(&now) {
            skipped(key, mended).set(0);
        }
        for named in &now {
            skipped(key, named).set(1);
        }
        self.in_metrics = now;
    }
}

fn usable(key: &RootKey) -> metrics::Gauge {
    let labels = [("source", key.source.clone()), ("root", key.root.clone())];
    metrics::gauge!(metric::LOCAL_ROOT_USABLE, &labels)
}

fn skipped(key: &RootKey, [package, file, reason]: &[String; 3]) -> metrics::Gauge {
    let labels = [
        ("source", key.source.clone()),
        ("root", key.root.clone()),
        ("package", package.clone()),
        ("file", file.clone()),
        ("reason", reason.clone()),
    ];
    metrics::gauge!(metric::LOCAL_SKIPPED, &labels)
}

/// What a refresh is told of a look.
pub(super) fn of_look(
    run: &RefreshRow,
    key: &RootKey,
    listing: &Listing,
    comparison: &Comparison,
) -> LocalReport {
    let mut report = Report {
        run,
        told: LocalReport {
            run_id: run.id.clone(),
            ..LocalReport::default()
        },
    };
    for broken in &listing.broken {
        report.broken(broken);
    }
    for name in &comparison.unchanged {
        report.package(name, false, "");
    }
    for write in &comparison.writes {
        if write.takes_revision() {
            report.package(&write.name, write.package.is_some(), "");
        }
    }
    for name in &comparison.removals {
        report.package(name, true, "removed: its folder is gone");
    }
    let writes = comparison.writes.iter();
    let writes: BTreeMap<&str, &PackageWrite> =
        writes.map(|write| (write.name.as_str(), write)).collect();
    let shadowed = comparison.shadowed.iter();
    let shadowed: BTreeSet<&str> = shadowed.map(|one| one.folder.as_str()).collect();
    for found in &listing.packages {
        if shadowed.contains(found.folder.as_str()) {
            continue;
        }
        let name = found.document.name.as_str();
        let write = writes.get(name);
        let is_changed = write.is_some_and(|write| !write.schemas.is_empty());
        report.schema(name, is_changed, found.schema.is_some());
        let icons = write.map_or(&[][..], |write| &write.icons);
        report.icons(name, found.icons.len(), icons);
    }
    for shadowed in &comparison.shadowed {
        report.shadowed(shadowed);
    }
    let summary = format!(
        "{} packages, {} broken, {} shadowed",
        listing.packages.len(),
        listing.broken.len(),
        comparison.shadowed.len()
    );
    report.root(key, "unchanged", "", summary);
    report.told
}

/// What a refresh is told of a root that cannot be read.
pub(super) fn of_failure(run: &RefreshRow, key: &RootKey, error: &RootError) -> LocalReport {
    let mut report = Report {
        run,
        told: LocalReport {
            run_id: run.id.clone(),
            ..LocalReport::default()
        },
    };
    report.failed_one();
    report.root(key, "failed", error.reason(), error.to_string());
    report.told
}

struct Report<'a> {
    run: &'a RefreshRow,
    told: LocalReport,
}

// === impl Report ===

impl Report<'_> {
    fn wants(&self, name: &str) -> bool {
        self.run.package.as_ref().is_none_or(|only| only == name)
    }

    fn package(&mut self, name: &str, is_changed: bool, message: &str) {
        if !self.run.packages || !self.wants(name) {
            return;
        }
        self.told.listed += 1;
        self.told.deltas.packages_changed += i64::from(is_changed);
        self.told.deltas.packages_unchanged += i64::from(!is_changed);
        let outcome = if is_changed { "changed" } else { "unchanged" };
        self.item("packages", name, outcome, "", message.to_owned());
    }

    fn schema(&mut self, name: &str, is_changed: bool, is_there: bool) {
        if !self.run.schemas || !self.wants(name) {
            return;
        }
        let deltas: &mut RefreshDeltas = &mut self.told.deltas;
        deltas.schemas_listed += 1;
        deltas.schemas_changed += i64::from(is_changed);
        deltas.schemas_unchanged += i64::from(!is_changed);
        if is_changed {
            let message = if is_there { "" } else { "carries no schema" };
            self.item("schemas", name, "changed", "", message.to_owned());
        }
    }

    fn icons(&mut self, name: &str, present: usize, writes: &[IconWrite]) {
        if !self.run.icons || !self.wants(name) {
            return;
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let is_gone = |write: &&IconWrite| write.content == IconContent::Gone;
        let gone = writes.iter().filter(is_gone).count();
        let deltas: &mut RefreshDeltas = &mut self.told.deltas;
        deltas.icons_listed += count(present + gone);
        deltas.icons_changed += count(writes.len());
        deltas.icons_unchanged += count(present - (writes.len() - gone));
        for write in writes {
            let place = format!("{}.{}", write.shape, write.ext);
            let message = if is_gone(&write) {
                "removed: its file is gone"
            } else {
                ""
            };
            self.item_of("icons", name, &place, "changed", "", message.to_owned());
        }
    }

    fn broken(&mut self, broken: &Broken) {
        let label = broken.label();
        if !self.wants(&label) {
            return;
        }
        self.failed_one();
        let message = format!("{}: {}", broken.file, broken.message);
        let kind = self.failing_kind();
        self.item(kind, &label, "failed", broken.reason, message);
    }

    /// Named, and not counted: it is not this root's to read.
    fn shadowed(&mut self, shadowed: &Shadowed) {
        if !self.wants(&shadowed.name) {
            return;
        }
        let message = format!(
            "packages/{} is shadowed by {}",
            shadowed.folder, shadowed.by
        );
        self.item("packages", &shadowed.name, "unchanged", SHADOWED, message);
    }

    fn root(&mut self, key: &RootKey, outcome: &str, reason: &str, message: String) {
        self.item("packages", &key.text(), outcome, reason, message);
    }

    fn failed_one(&mut self) {
        if self.run.packages {
            self.told.listed += 1;
            self.told.deltas.packages_failed += 1;
        } else {
            self.told.deltas.schemas_listed += 1;
            self.told.deltas.schemas_failed += 1;
        }
    }

    const fn failing_kind(&self) -> &'static str {
        if self.run.packages {
            "packages"
        } else {
            "schemas"
        }
    }

    fn item(&mut self, kind: &str, package: &str, outcome: &str, reason: &str, message: String) {
        let version = if kind == "schemas" { LOCAL } else { "" };
        self.item_of(kind, package, version, outcome, reason, message);
    }

    fn item_of(
        &mut self,
        kind: &str,
        package: &str,
        version: &str,
        outcome: &str,
        reason: &str,
        message: String,
    ) {
        self.told.items.push(RefreshItemRow {
            kind: kind.to_owned(),
            package: package.to_owned(),
            version: version.to_owned(),
            source: String::new(),
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
            message,
            revision: None,
        });
    }
}
