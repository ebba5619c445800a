//! `steadfast export` and `steadfast import`.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use steadfast_client::{
    api::registry::v1::{
        BundleHeader, ImportCatalogResponse, ImportCounts, ImportMode, ImportOptions,
    },
    export_catalog, import_catalog,
};

use crate::{
    commands::Session,
    failure::{Exit, Failure},
    json, table,
};

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Where to write the bundle; it is there whole or not at all
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The bundle
    file: PathBuf,
    /// Keep packages that the bundle does not have; this is the default
    #[arg(long, conflicts_with = "replace")]
    merge: bool,
    /// Remove packages that the bundle does not have
    #[arg(long)]
    replace: bool,
    /// Verify it and say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Removed packages that a table names.
const NAMED_MAX: usize = 20;

pub(crate) async fn export(args: ExportArgs, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    let failed = |error: &std::io::Error| Failure::file(&args.file, error);
    let mut file =
        tempfile::NamedTempFile::new_in(folder_of(&args.file)).map_err(|error| failed(&error))?;
    let mut export = export_catalog(&connection).await?;
    let header = export.header().clone();
    let bar = bar(u64::try_from(header.size).unwrap_or_default());
    while let Some(chunk) = export.next().await? {
        file.write_all(&chunk).map_err(|error| failed(&error))?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    file.as_file().sync_all().map_err(|error| failed(&error))?;
    file.persist(&args.file)
        .map_err(|error| failed(&error.error))?;
    session.output.print(
        || format!("wrote {}: {}", args.file.display(), held(&header)),
        || json!({ "file": args.file.display().to_string(), "header": header_json(&header) }),
    )?;
    Ok(Exit::Success)
}

pub(crate) async fn import(args: ImportArgs, session: &Session) -> Result<Exit, Failure> {
    let failed = |error: &std::io::Error| Failure::file(&args.file, error);
    let mut file = File::open(&args.file).map_err(|error| failed(&error))?;
    let size = file
        .seek(SeekFrom::End(0))
        .and_then(|size| file.rewind().map(|()| size))
        .map_err(|error| failed(&error))?;
    let connection = session.connect().await?;
    let mode = if args.replace {
        ImportMode::Replace
    } else {
        ImportMode::Merge
    };
    let options = ImportOptions {
        mode: mode.into(),
        dry_run: args.dry_run,
    };
    let bar = bar(size);
    let progress = bar.clone();
    let chunks = move |chunk: &mut Vec<u8>| {
        let most = chunk.capacity() as u64;
        let read = Read::by_ref(&mut file).take(most).read_to_end(chunk)?;
        progress.inc(read as u64);
        if progress.position() >= size {
            progress.set_message("verifying and writing");
        }
        Ok(())
    };
    let answer = import_catalog(&connection, options, chunks).await;
    bar.finish_and_clear();
    let answer = answer?;
    session
        .output
        .print(|| text(&answer), || import_json(&answer))?;
    Ok(Exit::Success)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// On standard error; hidden unless that is a terminal.
fn bar(size: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {bytes}/{total_bytes} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(size).with_style(style.progress_chars("=> "))
}

fn held(header: &BundleHeader) -> String {
    let count = |number: i64, thing| table::count(usize::try_from(number).unwrap_or(0), thing);
    let revision = header.cursor.as_ref().map_or(0, |cursor| cursor.revision);
    format!(
        "{}, {}, {} as of revision {revision}, {}",
        count(header.packages, "package"),
        count(header.schemas, "schema"),
        count(header.icons, "icon"),
        table::size(header.size),
    )
}

fn header_json(header: &BundleHeader) -> Value {
    json!({
        "format_version": header.format_version,
        "cursor": json::cursor_text(header.cursor.as_ref()),
        "packages": header.packages,
        "schemas": header.schemas,
        "icons": header.icons,
        "size": header.size,
    })
}

fn counts_json(counts: Option<&ImportCounts>) -> Value {
    let counts = counts.copied().unwrap_or_default();
    json!({
        "added": counts.added,
        "changed": counts.changed,
        "unchanged": counts.unchanged,
        "removed": counts.removed,
    })
}

fn import_json(answer: &ImportCatalogResponse) -> Value {
    json!({
        "header": header_json(&answer.header.clone().unwrap_or_default()),
        "packages": counts_json(answer.packages.as_ref()),
        "schemas": counts_json(answer.schemas.as_ref()),
        "icons": counts_json(answer.icons.as_ref()),
        "removed_packages": answer.removed_packages,
        "cursor": json::cursor_text(answer.cursor.as_ref()),
        "dry_run": answer.dry_run,
    })
}

fn text(answer: &ImportCatalogResponse) -> String {
    let mut rows = table::with_head(&["KIND", "ADDED", "CHANGED", "UNCHANGED", "REMOVED"]);
    let kinds = [
        ("packages", answer.packages),
        ("schemas", answer.schemas),
        ("icons", answer.icons),
    ];
    for (kind, counts) in kinds {
        let counts = counts.unwrap_or_default();
        rows.add_row([
            kind.to_owned(),
            counts.added.to_string(),
            counts.changed.to_string(),
            counts.unchanged.to_string(),
            counts.removed.to_string(),
        ]);
    }
    let mut parts = vec![table::text(&rows)];
    let removed = &answer.removed_packages;
    if !removed.is_empty() {
        let names: Vec<_> = removed
            .iter()
            .take(NAMED_MAX)
            .map(|name| table::clean(name))
            .collect();
        let more = match removed.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        parts.push(format!("removed: {}{more}", names.join(", ")));
    }
    let held = held(&answer.header.clone().unwrap_or_default());
    parts.push(match (&answer.cursor, answer.dry_run) {
        (_, true) => format!("the bundle is whole ({held}); nothing was written"),
        (None, false) => format!("imported {held}: everything was there already"),
        (Some(cursor), false) => {
            format!(
                "imported {held}; the catalogue is at revision {}",
                cursor.revision
            )
        }
    });
    parts.join("\n\n")
}
