//! What the client remembers of each host: its permits, its breaker, and the name its metrics carry.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::Url;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{HttpOptions, breaker::Breaker};
use crate::address;

/// Hosts remembered; beyond it, those without a request under way are forgotten. Hosts come from upstream data, too.
const HOSTS_MAX: usize = 1024;
/// Hosts with a metric label of their own; the rest share one.
const LABELS_MAX: usize = 64;
const OTHER_LABEL: &str = "other";

/// Every host met so far.
pub(super) struct Hosts {
    concurrency: usize,
    breaker_failures: u32,
    breaker_pause: Duration,
    met: Mutex<Met>,
}

#[derive(Default)]
struct Met {
    by_authority: HashMap<String, Arc<Host>>,
    labels: HashSet<String>,
}

/// One host, port included.
pub(super) struct Host {
    label: String,
    permits: Semaphore,
    breaker: Breaker,
}

// === impl Hosts ===

impl Hosts {
    pub(super) fn new(options: &HttpOptions) -> Self {
        Self {
            concurrency: options.host_concurrency.min(Semaphore::MAX_PERMITS),
            breaker_failures: options.breaker_failures,
            breaker_pause: options.breaker_pause,
            met: Mutex::default(),
        }
    }

    /// The host of this URL.
    pub(super) fn get(&self, url: &Url) -> Arc<Host> {
        let authority = address::authority(url);
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = met.by_authority.get(&authority) {
            return Arc::clone(host);
        }
        if met.by_authority.len() >= HOSTS_MAX {
            met.by_authority
                .retain(|_, host| Arc::strong_count(host) > 1);
        }
        let label = if met.labels.contains(&authority) || met.labels.len() < LABELS_MAX {
            met.labels.insert(authority.clone());
            authority.clone()
        } else {
            OTHER_LABEL.to_owned()
        };
        let host = Arc::new(Host {
            label,
            permits: Semaphore::new(self.concurrency),
            breaker: Breaker::new(self.breaker_failures, self.breaker_pause),
        });
        met.by_authority.insert(authority, Arc::clone(&host));
        host
    }
}

// === impl Host ===

impl Host {
    /// Waits in line for one attempt's place.
    pub(super) async fn permit(&self) -> SemaphorePermit<'_> {
        self.permits
            .acquire()
            .await
            .expect("this semaphore is never closed")
    }

    pub(super) const fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// `host[:port]`, or `other`.
    pub(super) fn label(&self) -> &str {
        &self.label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_labels_stay_bounded_whatever_an_upstream_names() {
        let hosts = Hosts::new(&HttpOptions::default());
        let url = |n: usize| -> Url { format!("http://h{n}/").parse().expect("a URL") };
        let kept = hosts.get(&url(0));
        for n in 0..3 * HOSTS_MAX {
            hosts.get(&url(n));
        }
        let met = hosts.met.lock().expect("not poisoned");
        assert!(met.by_authority.len() <= HOSTS_MAX);
        assert_eq!(met.labels.len(), LABELS_MAX);
        assert!(Arc::ptr_eq(&kept, &met.by_authority["h0"]));
        assert_eq!(met.by_authority["h3071"].label(), OTHER_LABEL);
    }
}
