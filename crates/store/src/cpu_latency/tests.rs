use std::path::Path;

use tempfile::TempDir;

use super::*;

/// A file that takes requests as the device does.
fn device(folder: &TempDir) -> PathBuf {
    let path = folder.path().canonicalize().expect("it exists");
    let path = path.join("cpu_dma_latency");
    std::fs::write(&path, "").expect("it can be written");
    path
}

fn written(device: &Path) -> Vec<u8> {
    std::fs::read(device).expect("it can be read")
}

/// Whether this process has it open.
#[cfg(target_os = "linux")]
fn is_open(device: &Path) -> bool {
    let files = std::fs::read_dir("/proc/self/fd").expect("the files of this process");
    files
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
        .any(|target| target == device)
}

#[cfg(target_os = "linux")]
#[test]
fn processors_are_kept_awake_while_writes_come_alone_one_soon_after_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = device(&folder);
    let latency = CpuLatency::at(device.clone(), true);
    let mut now = Instant::now();
    assert!(!latency.came_alone_at(now));
    assert!(!is_open(&device), "one write is not a row of them");
    now += APART / 2;
    assert!(latency.came_alone_at(now));
    for _ in 0..20 {
        assert!(is_open(&device));
        now += APART / 2;
        assert!(!latency.came_alone_at(now), "it is asked for once");
        assert_eq!(latency.held_until(now), Some(now + APART));
    }
    assert_eq!(written(&device).len(), size_of::<i32>());

    now += APART;
    assert_eq!(latency.held_until(now), None);
    assert!(!is_open(&device), "it is given back");
    assert!(!latency.came_alone_at(now));
    assert!(latency.came_alone_at(now), "and asked for again");
    assert!(is_open(&device));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn processors_may_sleep_again_after_the_last_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = device(&folder);
    let latency = CpuLatency::at(device.clone(), true);
    let soon = async {
        while !is_open(&device) {
            latency.came_alone();
        }
        while is_open(&device) {
            tokio::time::sleep(APART).await;
        }
    };
    let soon = tokio::time::timeout(Duration::from_secs(10), soon).await;
    assert!(soon.is_ok(), "it is kept");
}

#[test]
fn writes_that_are_far_apart_let_processors_sleep() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = device(&folder);
    let latency = CpuLatency::at(device.clone(), true);
    let mut now = Instant::now();
    for _ in 0..5 {
        assert!(!latency.came_alone_at(now));
        now += APART * 2;
    }
    assert_eq!(written(&device), b"");
}

#[test]
fn what_cannot_be_had_is_not_asked_for_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = folder.path().join("cpu_dma_latency");
    let latency = CpuLatency::at(device.clone(), true);
    let now = Instant::now();
    assert!(!latency.came_alone_at(now) && !latency.came_alone_at(now));
    assert!(!device.exists(), "it is a device, not a file to make");
    std::fs::write(&device, "").expect("it can be written");
    assert!(!latency.came_alone_at(now) && !latency.came_alone_at(now));
    assert_eq!(written(&device), b"");
}

#[test]
fn what_is_not_wanted_is_not_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = device(&folder);
    let latency = CpuLatency::at(device.clone(), false);
    let now = Instant::now();
    assert!(!latency.came_alone_at(now) && !latency.came_alone_at(now));
    assert_eq!(written(&device), b"");
}

#[test]
fn a_virtual_processor_may_not_sleep_at_all() {
    assert_eq!(bound_us("haltpoll"), 0);
    assert_eq!(bound_us("intel_idle"), 2);
    assert_eq!(bound_us(""), 2);
}
