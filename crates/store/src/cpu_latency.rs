//! Keeps processors from sleeping while writes follow each other one at a time.
//!
//! Such a write passes from thread to thread and from process to process, to the database and back, and each finds a processor
//! that has just gone to sleep for want of work. Waking one takes tens of microseconds in a virtual machine, and more than that from
//! the deep states of a real one: together as long as the commit itself. Linux takes requests to bound it (PM QoS, see
//! `Documentation/power/pm_qos_interface.rst` of its source): a bound holds for as long as the file that it was written to is open. It
//! is asked for only while it helps, because processors that do not sleep use power that others may want.

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Linux's file for such requests: 32 bits in the machine's order, in microseconds. Only root may write to it, if nobody says otherwise.
const DEVICE: &str = "/dev/cpu_dma_latency";

/// Which of its drivers puts processors to sleep.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";

/// Writes that are further apart do not wait for wake-ups but for what takes longer. So long is the request kept after the last one.
const APART: Duration = Duration::from_millis(2);

/// One process's request.
#[derive(Debug)]
pub(crate) struct CpuLatency {
    device: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Free {
        /// When a write last came alone.
        last: Option<Instant>,
    },
    Held {
        last: Instant,
        /// Open for as long as the bound holds.
        _request: File,
    },
    /// It cannot be had here, or is not wanted.
    Refused,
}

// === impl CpuLatency ===

impl CpuLatency {
    /// Nothing is asked for yet; and never, unless it `is_wanted`.
    pub(crate) fn new(is_wanted: bool) -> Arc<Self> {
        Self::at(PathBuf::from(DEVICE), is_wanted)
    }

    fn at(device: PathBuf, is_wanted: bool) -> Arc<Self> {
        let state = if is_wanted {
            State::Free { last: None }
        } else {
            State::Refused
        };
        Arc::new(Self {
            device,
            state: Mutex::new(state),
        })
    }

    /// A write came alone. If it came soon after another such one, processors stay awake until none has come for [`APART`].
    pub(crate) fn came_alone(self: &Arc<Self>) {
        if self.came_alone_at(Instant::now()) {
            tokio::spawn(Arc::clone(self).release());
        }
    }

    /// Whether the request is new, and so has to be given back later.
    fn came_alone_at(&self, now: Instant) -> bool {
        let mut state = self.state();
        match &mut *state {
            State::Refused => {}
            State::Held { last, .. } => *last = now,
            State::Free { last } if last.is_none_or(|last| now - last > APART) => *last = Some(now),
            State::Free { .. } => match request(&self.device) {
                Ok(request) => {
                    *state = State::Held {
                        last: now,
                        _request: request,
                    };
                    return true;
                }
                Err(error) => {
                    tracing::info!(
                        device = %self.device.display(),
                        %error,
                        "processors may sleep between the steps of a saga, which then take longer; let this user write to the device, \
                         or set database.cpu_latency_qos to false"
                    );
                    *state = State::Refused;
                }
            },
        }
        false
    }

    /// Lets processors sleep once no such write has come for a while.
    async fn release(self: Arc<Self>) {
        while let Some(until) = self.held_until(Instant::now()) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Until when at least the request is kept; it is given back if that has passed.
    fn held_until(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let State::Held { last, .. } = *state else {
            return None;
        };
        let until = last + APART;
        if until > now {
            return Some(until);
        }
        *state = State::Free { last: None };
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(device: &PathBuf) -> io::Result<File> {
    let driver = std::fs::read_to_string(DRIVER).unwrap_or_default();
    let mut file = File::options().write(true).open(device)?;
    file.write_all(&bound_us(driver.trim()).to_ne_bytes())?;
    Ok(file)
}

/// How long waking up may take, in microseconds. The first sleeping state of real processors takes no longer than two, and saves most
/// of the power. A virtual one has no such state: it gives itself up to its host, says that this takes one, and takes forty.
fn bound_us(driver: &str) -> i32 {
    if driver == "haltpoll" { 0 } else { 2 }
}
