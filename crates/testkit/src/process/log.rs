//! What a process wrote, in a file, so that it survives the process and never fills a pipe.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

/// How many lines of a log a failing test shows.
const TAIL_LINES: usize = 200;

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
}

impl Log {
    /// A new file in a directory that may hold those of earlier processes.
    pub(super) fn new(directory: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = Self {
            path: directory.join(format!("process-{}-{number}.log", std::process::id())),
        };
        log.open();
        log
    }

    pub(super) fn writer(&self) -> Stdio {
        self.open().into()
    }

    pub(super) fn add(&self, line: &str) {
        // One write, so that lines of the process's other output cannot come between.
        if let Err(error) = self.open().write_all(format!("{line}\n").as_bytes()) {
            eprintln!("{} cannot be written: {error}", self.path.display());
        }
    }

    pub(super) fn read(&self) -> String {
        let bytes = fs::read(&self.path).expect("the log was made by this value");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn tail(&self) -> String {
        // Read leniently: this runs while a test panics, when another panic would end the process.
        let bytes = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn open(&self) -> File {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .unwrap_or_else(|error| panic!("{} cannot be opened: {error}", self.path.display()))
    }
}
