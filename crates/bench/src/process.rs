//! What the kernel says about a process.

use std::{fs, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::Error;

/// Ticks per second in `/proc`, fixed in the kernel's interface on every platform that Linux runs on today.
const TICKS_PER_SECOND: u64 = 100;

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

/// Processor time of all threads so far, in user and kernel mode.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, Error> {
    let text = read(pid, "stat")?;
    parse_cpu_time(&text).ok_or_else(|| unreadable("stat"))
}

/// Processor time of everything on the machine so far: callers, servers, database, and whoever else is there.
pub(crate) fn machine_cpu_time() -> Result<Duration, Error> {
    let text = fs::read_to_string("/proc/stat")
        .map_err(Error::io("asking the kernel about its processors"))?;
    parse_machine_cpu_time(&text).ok_or_else(|| unreadable("../stat"))
}

/// Memory now and at its peak.
pub(crate) fn memory(pid: u32) -> Result<Memory, Error> {
    let text = read(pid, "status")?;
    parse_memory(&text).ok_or_else(|| unreadable("status"))
}

/// Forgets the peak, so that the next one is that of the time from now on.
pub(crate) fn forget_peak(pid: u32) -> Result<(), Error> {
    // The kernel's number for this (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
        .map_err(Error::io("asking the kernel to forget a peak"))
}

/// Lets this process and those that it starts open so many files, as far as the machine permits.
pub(crate) fn raise_open_files(wanted: u64) -> Result<(), Error> {
    let failed = |errno: nix::errno::Errno| Error::io("asking about open files")(errno.into());
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if soft >= wanted {
        return Ok(());
    }
    if hard < wanted {
        return Err(Error::OpenFiles { wanted, hard });
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)
}

fn read(pid: u32, file: &str) -> Result<String, Error> {
    fs::read_to_string(format!("/proc/{pid}/{file}"))
        .map_err(Error::io("asking the kernel about a process"))
}

fn unreadable(file: &str) -> Error {
    Error::Unexpected(format!("/proc/PID/{file} is not as Linux writes it"))
}

fn parse_cpu_time(stat: &str) -> Option<Duration> {
    // The second field is the name in brackets and may hold blanks and brackets itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, kernel) = (ticks()?, ticks()?);
    Some(Duration::from_millis(
        (user + kernel) * 1_000 / TICKS_PER_SECOND,
    ))
}

fn parse_machine_cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace();
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, nice, system, _idle, _waiting) = (ticks()?, ticks()?, ticks()?, ticks()?, ticks()?);
    let (interrupts, soft_interrupts) = (ticks()?, ticks()?);
    let busy = user + nice + system + interrupts + soft_interrupts;
    Some(Duration::from_millis(busy * 1_000 / TICKS_PER_SECOND))
}

fn parse_memory(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1_024)
    };
    Some(Memory {
        resident: bytes("VmRSS:")?,
        peak: bytes("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_user_and_kernel_time() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 9 0 0 0 250 50 7 7 20 0 4 0 100";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse_cpu_time("42 (a) S 1"), None);
    }

    #[test]
    fn an_idle_processor_is_not_busy() {
        let stat = "cpu  100 20 30 9999 8888 40 10 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_machine_cpu_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_machine_cpu_time("intr 1"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let memory = parse_memory(status).unwrap();
        assert_eq!((memory.resident, memory.peak), (1 << 20, 2 << 20));
        assert_eq!(parse_memory("VmRSS: 1 kB"), None);
    }

    #[test]
    fn a_peak_can_be_forgotten() {
        let pid = std::process::id();
        drop(std::hint::black_box(vec![1_u8; 64 << 20]));
        forget_peak(pid).unwrap();
        let memory = memory(pid).unwrap();
        assert!(memory.peak < memory.resident + (32 << 20), "{memory:?}");
    }

    #[test]
    fn more_files_than_the_machine_permits_are_refused() {
        raise_open_files(16).unwrap();
        let refused = raise_open_files(u64::MAX - 1).unwrap_err().to_string();
        assert!(refused.contains("ulimit -n"), "{refused}");
    }

    #[test]
    fn this_process_can_be_asked_about() {
        assert!(memory(std::process::id()).unwrap().resident > 0);
        assert!(cpu_time(std::process::id()).is_ok());
        assert!(machine_cpu_time().unwrap() > Duration::ZERO);
    }
}
