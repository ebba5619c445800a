//! Where the figures were taken.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use crate::error::Error;

/// How long the disk is asked for its figure.
const DISK_WINDOW: Duration = Duration::from_secs(1);
/// One write before each flush.
const DISK_BLOCK: usize = 4_096;

/// Processor, kernel, memory, and how busy the machine was before.
pub(crate) fn facts() -> Map<String, Value> {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut facts = Map::new();
    facts.insert(
        "cpu".to_owned(),
        json!(field(&file("/proc/cpuinfo"), "model name")),
    );
    facts.insert("cores".to_owned(), json!(cores));
    facts.insert(
        "memory".to_owned(),
        json!(field(&file("/proc/meminfo"), "MemTotal")),
    );
    facts.insert(
        "kernel".to_owned(),
        json!(file("/proc/sys/kernel/osrelease").trim()),
    );
    facts.insert("idle".to_owned(), idle(&file));
    facts.insert(
        "load_average_before".to_owned(),
        json!(load(&file("/proc/loadavg"))),
    );
    facts
}

/// What decides how long a processor that sleeps takes to wake up: it is most of what a hand-over costs.
fn idle(file: &impl Fn(&str) -> String) -> Value {
    let word = |path: &str| match file(path).trim() {
        "" => "none".to_owned(),
        word => word.to_owned(),
    };
    json!({
        "driver": word("/sys/devices/system/cpu/cpuidle/current_driver"),
        "guest_halt_poll_ns": word("/sys/module/haltpoll/parameters/guest_halt_poll_ns"),
        "cpu_dma_latency_may_be_set": File::options().write(true).open("/dev/cpu_dma_latency").is_ok(),
    })
}

/// How often the disk below a directory takes a block and makes it durable, one after the other.
pub(crate) fn disk(directory: &Path) -> Result<Value, Error> {
    let failed = || Error::io("measuring the disk");
    let path = directory.join("disk");
    let mut file = File::create(&path).map_err(failed())?;
    let block = [0x5a_u8; DISK_BLOCK];
    // Blocks that are there already: what is measured is the flush, not the growth of a file.
    const BLOCKS: u64 = 256;
    for _ in 0..BLOCKS {
        file.write_all(&block).map_err(failed())?;
    }
    file.sync_all().map_err(failed())?;
    let started = Instant::now();
    let mut flushes = 0;
    while started.elapsed() < DISK_WINDOW {
        let offset = flushes % BLOCKS * DISK_BLOCK as u64;
        file.write_all_at(&block, offset).map_err(failed())?;
        file.sync_data().map_err(failed())?;
        flushes += 1;
    }
    let rate = flushes as f64 / started.elapsed().as_secs_f64();
    fs::remove_file(&path).map_err(failed())?;
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let directory = directory.canonicalize().map_err(failed())?;
    Ok(json!({
        "filesystem": filesystem(&mounts, &directory),
        "fdatasync_per_s": rate.round() as u64,
    }))
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim() == name)
        .map_or("unknown", |(_, value)| value.trim())
}

fn load(text: &str) -> Vec<f64> {
    text.split_ascii_whitespace()
        .take(3)
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// The kind of the file system that a directory is on: that of the longest mount point above it.
fn filesystem(mounts: &str, directory: &Path) -> String {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            directory.starts_with(point).then_some((point.len(), kind))
        })
        .max_by_key(|(length, _)| *length)
        .map_or("unknown", |(_, kind)| kind)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: A chip\nmodel name\t: Another\n";
        assert_eq!(field(text, "model name"), "A chip");
        assert_eq!(field(text, "flags"), "unknown");
    }

    #[test]
    fn the_longest_mount_point_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmpx xfs rw 0 0\n";
        assert_eq!(filesystem(mounts, Path::new("/tmp/x")), "tmpfs");
        assert_eq!(filesystem(mounts, Path::new("/home")), "ext4");
        assert_eq!(filesystem("", Path::new("/")), "unknown");
    }

    #[test]
    fn the_disk_has_a_figure() {
        let directory = tempfile::tempdir().unwrap();
        let disk = disk(directory.path()).unwrap();
        assert!(disk["fdatasync_per_s"].as_u64().unwrap() > 0);
        assert!(!directory.path().join("disk").exists());
    }
}
