//! Bundles: the whole catalogue in one file that proves itself.
//!
//! A bundle is a line of JSON that says what it holds, then a gzip stream of further lines of JSON, then a line with the SHA-256 of
//! everything before it. So no byte of it can be altered, added or left out without being noticed, and the same catalogue at the
//! same revision is the same file. `docs/bundle.md` tells what the lines are.
//!
//! Here is the file alone, as a writer fills it and a reader proves it; what one line of it says is in `bundle_line`.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use steadfast_store::BundleCounts;
use steadfast_types::{Cursor, Mark, Revision, StoreId};

use crate::bundle_line::{BundleItem, ItemLine};

/// The format that is written; older ones are read.
pub const BUNDLE_FORMAT: u32 = 1;

/// A bundle begins with this.
const MAGIC: &str = "{\"steadfast_bundle\":";
/// It ends with this, 64 hexadecimal digits, and the end of a line.
const TRAILER: &str = "\n{\"sha256\":\"";
const TRAILER_END: &str = "\"}\n";
const DIGITS: usize = 64;
const TRAILER_BYTES: usize = TRAILER.len() + DIGITS + TRAILER_END.len();
/// The first line is no longer.
const HEADER_BYTES_MAX: usize = 4_096;
/// A package with its schemas and icons, as a line, is no longer: a reader holds one of them at a time, however much there is. How many
/// times as large a bundle is unpacked says nothing, because packages that are alike take next to no place.
const LINE_BYTES_MAX: usize = 256 << 20;

/// What a bundle says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleHeader {
    /// The format's version.
    pub format: u32,
    /// What it reflects, of the store that it was written from.
    pub cursor: Cursor,
    /// What it holds.
    pub counts: BundleCounts,
}

/// Why a bundle is refused, or cannot be handled. All of it is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is another kind of file.
    #[error("it is no bundle: it does not begin like one")]
    NotABundle,
    /// Its end is missing.
    #[error(
        "it is cut short, or altered at its end: its last line is not the checksum of a bundle"
    )]
    Truncated,
    /// Its checksum is not the one that it states.
    #[error("it is altered: its bytes do not have the checksum that it ends with")]
    Altered,
    /// A newer version wrote it.
    #[error(
        "it is of format {found}, and this version reads up to {BUNDLE_FORMAT}: use a newer one"
    )]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It is larger than is taken.
    #[error("it is larger than {limit_bytes} bytes, the limit of limits.bundle_max_bytes")]
    TooLarge {
        /// In bytes.
        limit_bytes: u64,
    },
    /// It has the right checksum, and what it holds makes no sense.
    #[error("{place}: {problem}")]
    Invalid {
        /// Where.
        place: String,
        /// What about it.
        problem: String,
    },
    /// The file cannot be read or written.
    #[error("the file of the bundle: {0}")]
    File(io::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    steadfast_bundle: u32,
    store_id: String,
    revision: i64,
    mark: String,
    packages: i64,
    schemas: i64,
    icons: i64,
}

/// Of a header whose other fields may be those of another version.
#[derive(Deserialize)]
struct VersionLine {
    steadfast_bundle: u32,
}

/// Counts and hashes what passes.
struct Hashing<W> {
    to: W,
    hash: Sha256,
    bytes: u64,
}

/// Writes a bundle.
pub(crate) struct BundleWriter<W: Write> {
    packed: GzEncoder<Hashing<W>>,
}

/// A bundle that was verified, to be read once.
pub(crate) struct BundleReader<R> {
    lines: BufReader<GzDecoder<BufReader<io::Take<R>>>>,
    number: usize,
    last: String,
    found: BundleCounts,
}

// === impl Hashing ===

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

// === impl BundleWriter ===

impl<W: Write> BundleWriter<W> {
    /// Writes the first line.
    pub(crate) fn begin(to: W, header: &BundleHeader) -> io::Result<Self> {
        let mut hashing = Hashing {
            to,
            hash: Sha256::new(),
            bytes: 0,
        };
        let line = HeaderLine {
            steadfast_bundle: header.format,
            store_id: header.cursor.store_id.to_string(),
            revision: header.cursor.revision.0,
            mark: format!("{:016x}", header.cursor.mark.0),
            packages: header.counts.packages,
            schemas: header.counts.schemas,
            icons: header.counts.icons,
        };
        hashing.write_all(serde_json::to_string(&line)?.as_bytes())?;
        hashing.write_all(b"\n")?;
        Ok(Self {
            packed: GzEncoder::new(hashing, Compression::default()),
        })
    }

    /// Writes one thing. Packages come in the order of their names.
    pub(crate) fn write(&mut self, item: &BundleItem) -> io::Result<()> {
        serde_json::to_writer(&mut self.packed, &ItemLine::of(item))?;
        self.packed.write_all(b"\n")
    }

    /// Writes the end, and returns where it was written, and how much.
    pub(crate) fn end(self) -> io::Result<(W, u64)> {
        let mut hashing = self.packed.finish()?;
        let hash = hex::encode(hashing.hash.clone().finalize());
        write!(hashing, "{TRAILER}{hash}{TRAILER_END}")?;
        hashing.flush()?;
        Ok((hashing.to, hashing.bytes))
    }
}

/// Verifies the whole of a bundle: its checksum first, then everything in it.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn verify(file: &mut (impl Read + Seek)) -> Result<BundleHeader, BundleError> {
    let (header, mut reader) = open(file)?;
    let mut last = String::new();
    while let Some(item) = reader.next()? {
        if let BundleItem::Package(package) = item {
            if !last.is_empty() && package.row.name <= last {
                return Err(reader.invalid("packages are not in the order of their names"));
            }
            last = package.row.name;
        }
    }
    let found = reader.found;
    if found != header.counts {
        return Err(reader.invalid(format!(
            "it states {:?}, and holds {found:?}",
            header.counts
        )));
    }
    Ok(header)
}

/// Opens a bundle whose checksum is right.
///
/// # Errors
/// What is wrong with its first and last lines.
pub(crate) fn open<R: Read + Seek>(
    mut file: R,
) -> Result<(BundleHeader, BundleReader<R>), BundleError> {
    let size = file.seek(SeekFrom::End(0)).map_err(BundleError::File)?;
    file.seek(SeekFrom::Start(0)).map_err(BundleError::File)?;
    let body = check_sum(&mut file, size)?;
    file.seek(SeekFrom::Start(0)).map_err(BundleError::File)?;
    let mut whole = BufReader::new(file.take(body));
    let mut line = Vec::new();
    whole
        .by_ref()
        .take(HEADER_BYTES_MAX as u64)
        .read_until(b'\n', &mut line)
        .map_err(BundleError::File)?;
    let header = read_header(&line)?;
    let reader = BundleReader {
        lines: BufReader::new(GzDecoder::new(whole)),
        number: 0,
        last: String::new(),
        found: BundleCounts {
            packages: 0,
            schemas: 0,
            icons: 0,
        },
    };
    Ok((header, reader))
}

/// Compares the checksum, and returns how many bytes come before it.
fn check_sum(file: &mut impl Read, size: u64) -> Result<u64, BundleError> {
    let mut begins = vec![0; MAGIC.len()];
    let begun = file.read(&mut begins).map_err(BundleError::File)?;
    let is_bundle = begins[..begun] == MAGIC.as_bytes()[..begun];
    if !is_bundle {
        return Err(BundleError::NotABundle);
    }
    let body = match size.checked_sub(TRAILER_BYTES as u64) {
        Some(body) if body > MAGIC.len() as u64 => body,
        _ => return Err(BundleError::Truncated),
    };
    let mut hash = Sha256::new();
    hash.update(&begins[..begun]);
    let mut left = body - begun as u64;
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let want = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = file.read(&mut buffer[..want]).map_err(BundleError::File)?;
        if read == 0 {
            return Err(BundleError::Truncated);
        }
        hash.update(&buffer[..read]);
        left -= read as u64;
    }
    let mut trailer = Vec::new();
    file.read_to_end(&mut trailer).map_err(BundleError::File)?;
    let stated = std::str::from_utf8(&trailer)
        .ok()
        .and_then(|text| text.strip_prefix(TRAILER)?.strip_suffix(TRAILER_END))
        .ok_or(BundleError::Truncated)?;
    if stated == hex::encode(hash.finalize()) {
        Ok(body)
    } else {
        Err(BundleError::Altered)
    }
}

fn read_header(line: &[u8]) -> Result<BundleHeader, BundleError> {
    let invalid = |problem: String| BundleError::Invalid {
        place: "its first line".to_owned(),
        problem,
    };
    let version: VersionLine =
        serde_json::from_slice(line).map_err(|error| invalid(error.to_string()))?;
    if version.steadfast_bundle > BUNDLE_FORMAT {
        return Err(BundleError::Newer {
            found: version.steadfast_bundle,
        });
    }
    let header: HeaderLine =
        serde_json::from_slice(line).map_err(|error| invalid(error.to_string()))?;
    let store_id: StoreId = header
        .store_id
        .parse()
        .map_err(|_| invalid("its store_id is no UUID".to_owned()))?;
    let mark = u64::from_str_radix(&header.mark, 16)
        .map_err(|_| invalid("its mark is no number".to_owned()))?;
    Ok(BundleHeader {
        format: header.steadfast_bundle,
        cursor: Cursor {
            store_id,
            revision: Revision(header.revision),
            mark: Mark(mark),
        },
        counts: BundleCounts {
            packages: header.packages,
            schemas: header.schemas,
            icons: header.icons,
        },
    })
}

// === impl BundleReader ===

impl<R: Read> BundleReader<R> {
    /// The next thing, checked; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<BundleItem>, BundleError> {
        let mut line = Vec::new();
        self.number += 1;
        let read = self
            .lines
            .by_ref()
            .take(LINE_BYTES_MAX as u64)
            .read_until(b'\n', &mut line);
        let read = read.map_err(|error| self.invalid(format!("it cannot be unpacked: {error}")))?;
        if read == 0 {
            return Ok(None);
        }
        if line.pop() != Some(b'\n') {
            return Err(self.invalid("it is too long, or has no end"));
        }
        let line: ItemLine =
            serde_json::from_slice(&line).map_err(|error| self.invalid(error.to_string()))?;
        if let Some(name) = line.package() {
            self.last = name.to_owned();
        }
        let item = line.check().map_err(|problem| self.invalid(problem))?;
        if let BundleItem::Package(package) = &item {
            self.found.packages += 1;
            let schemas = package.schemas.iter().filter(|one| one.hash.is_some());
            self.found.schemas += i64::try_from(schemas.count()).unwrap_or(i64::MAX);
            self.found.icons += i64::try_from(package.icons.len()).unwrap_or(i64::MAX);
        }
        Ok(Some(item))
    }

    fn invalid(&self, problem: impl Into<String>) -> BundleError {
        let place = match self.last.as_str() {
            "" => format!("its line {}", self.number + 1),
            last => format!("its line {} ({last})", self.number + 1),
        };
        BundleError::Invalid {
            place,
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
