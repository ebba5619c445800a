//! A package registry on loopback that speaks npm's protocol, counts what it is asked and lies on command.
//!
//! It answers packuments (scoped names written with `%2f`, `%2F` or a slash; ETag and 304; gzip), tarballs with true
//! integrity, an organisation's listing and search. [`Fault`]s strike chosen paths a chosen number of times. It is written
//! from npm's public behaviour and not from our client, and one end-to-end test runs against a third party's server besides.

mod answer;
mod catalogue;
mod fault;
mod render;
mod requests;
mod spec;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

pub use fault::{Fault, Gate, Times};
pub use render::integrity_of;
pub use requests::{Request, Requests};
pub use spec::{GeneratedPackages, Integrity, PackageSpec, VersionSpec};

use catalogue::Catalogue;
use fault::{Rule, WAIT_DEADLINE};

/// How much of npm's protocol the registry offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum View {
    /// All of it.
    #[default]
    Full,
    /// What some mirrors serve: no ETag, no `created`, `modified`, readme or sizes, times as `+00:00` with microseconds, no
    /// listing and no search.
    Trimmed,
}

/// A registry that answers as long as this value lives.
#[derive(Debug)]
pub struct NpmServer {
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    base_url: String,
    started: Instant,
    catalogue: RwLock<Catalogue>,
    delay: Mutex<Duration>,
    token: Mutex<Option<String>>,
    faults: Mutex<Vec<Rule>>,
    requests: Mutex<Requests>,
    /// The number of requests so far, for those who wait for one.
    arrivals: watch::Sender<usize>,
    down: watch::Sender<bool>,
    in_flight: AtomicUsize,
    in_flight_peak: AtomicUsize,
}

// === impl NpmServer ===

impl NpmServer {
    /// Listens on a port of the system's choice.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Listens on a given port of loopback.
    ///
    /// # Panics
    ///
    /// When the port is taken.
    pub async fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)))
            .await
            .unwrap_or_else(|error| {
                panic!("port {port} of loopback cannot be listened on: {error}")
            });
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            base_url: format!("http://{address}"),
            started: Instant::now(),
            catalogue: RwLock::default(),
            delay: Mutex::default(),
            token: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            arrivals: watch::Sender::new(0),
            down: watch::Sender::new(false),
            in_flight: AtomicUsize::new(0),
            in_flight_peak: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { shared, accepting }
    }

    /// The address to configure, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.base_url
    }

    /// Adds a package or replaces the one of that name.
    pub fn put(&self, package: PackageSpec) {
        self.catalogue(|catalogue| catalogue.put(package));
    }

    /// Publishes a further version of a package that is there; `latest` moves to it unless the package pins it.
    ///
    /// # Panics
    ///
    /// When there is no such package.
    pub fn add_version(&self, name: &str, version: impl Into<VersionSpec>) {
        self.change(name, |package| package.versions.push(version.into()));
    }

    /// Changes a package that is there.
    ///
    /// # Panics
    ///
    /// When there is no such package.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut PackageSpec)) {
        self.catalogue(|catalogue| {
            let mut package = catalogue
                .spec(name)
                .unwrap_or_else(|| panic!("the registry has no package {name} to change"));
            change(&mut package);
            catalogue.put(package);
        });
    }

    /// Removes a package, as an unpublication does.
    ///
    /// # Panics
    ///
    /// When there is no such package.
    pub fn remove(&self, name: &str) {
        let removed = self.catalogue(|catalogue| catalogue.remove(name));
        assert!(removed, "the registry has no package {name} to remove");
    }

    /// Serves these bytes at a path, with an ETag, as a CDN beside the registry would.
    pub fn put_file(&self, path: &str, bytes: &[u8]) {
        self.catalogue(|catalogue| catalogue.put_file(path, bytes));
    }

    /// Serves nothing there any more.
    ///
    /// # Panics
    ///
    /// When there is no such file.
    pub fn remove_file(&self, path: &str) {
        let removed = self.catalogue(|catalogue| catalogue.remove_file(path));
        assert!(removed, "there is no file {path} to remove");
    }

    /// Adds many packages alike.
    pub fn generate(&self, packages: GeneratedPackages) {
        self.catalogue(|catalogue| catalogue.generate(packages));
    }

    /// Offers all of the protocol, or less.
    pub fn set_view(&self, view: View) {
        self.catalogue(|catalogue| catalogue.set_view(view));
    }

    /// Lets every answer take this long from its request's arrival.
    pub fn set_delay(&self, delay: Duration) {
        *self
            .shared
            .delay
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = delay;
    }

    /// Answers 401 to requests that do not carry this bearer token.
    pub fn require_token(&self, token: &str) {
        *self
            .shared
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(token.to_owned());
    }

    /// Strikes requests whose decoded path is of the pattern, `*` being any text: `/@scope/name` for a packument,
    /// `/@scope/name/-/*` for its tarballs. Faults apply in the order in which they were set.
    pub fn fault(&self, pattern: &str, fault: Fault, times: Times) {
        let rule = Rule {
            pattern: pattern.to_owned(),
            fault,
            times,
        };
        self.shared.rules().push(rule);
    }

    /// Holds requests of the pattern until the gate is released.
    pub fn hold(&self, pattern: &str) -> Gate {
        let gate = Gate::new();
        self.fault(pattern, Fault::Hold(gate.clone()), Times::Forever);
        gate
    }

    /// Ends all faults. Requests held at a gate stay there until it is released.
    pub fn clear_faults(&self) {
        self.shared.rules().clear();
    }

    /// Cuts every connection and closes new ones at once, or answers again.
    pub fn set_down(&self, down: bool) {
        self.shared.down.send_replace(down);
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.shared
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets the requests so far.
    pub fn reset_requests(&self) {
        self.shared
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clear();
        self.shared.in_flight_peak.store(0, Ordering::SeqCst);
    }

    /// The most requests that were under way at one moment.
    #[must_use]
    pub fn in_flight_peak(&self) -> usize {
        self.shared.in_flight_peak.load(Ordering::SeqCst)
    }

    /// Returns once so many requests for paths of the pattern have come.
    ///
    /// # Panics
    ///
    /// When they do not come within half a minute.
    pub async fn wait_for_requests(&self, pattern: &str, count: usize) {
        let mut arrivals = self.shared.arrivals.subscribe();
        let come = async {
            // The sender is in `self`, so waiting cannot fail.
            while self.requests().count(pattern) < count && arrivals.changed().await.is_ok() {}
        };
        assert!(
            timeout(WAIT_DEADLINE, come).await.is_ok(),
            "{count} requests for {pattern} were expected within {WAIT_DEADLINE:?}; there were {}",
            self.requests().count(pattern)
        );
    }

    /// The request counts as one JSON object, as `/-/fixture/requests` answers them.
    #[must_use]
    pub fn counts(&self) -> Value {
        self.shared.counts()
    }

    fn catalogue<T>(&self, act: impl FnOnce(&mut Catalogue) -> T) -> T {
        act(&mut self
            .shared
            .catalogue
            .write()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for NpmServer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set_down(true);
    }
}

// === impl Shared ===

impl Shared {
    fn rules(&self) -> std::sync::MutexGuard<'_, Vec<Rule>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, request: Request) {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .push(request);
        self.arrivals.send_modify(|arrivals| *arrivals += 1);
    }

    /// Takes one strike of the first fault for this path. One that only postpones must not strike the same request again, so
    /// it is found by position: `from` is where the last search ended.
    fn next_fault(&self, path: &str, from: &mut usize) -> Option<Fault> {
        let mut rules = self.rules();
        let offset = rules
            .iter()
            .skip(*from)
            .position(|rule| fault::matches(&rule.pattern, path) && rule.times != Times::N(0))?;
        let index = *from + offset;
        *from = index + 1;
        let rule = rules.get_mut(index)?;
        if let Times::N(left) = &mut rule.times {
            *left -= 1;
        }
        Some(rule.fault.clone())
    }

    fn counts(&self) -> Value {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "total": requests.total(),
            "in_flight_peak": self.in_flight_peak.load(Ordering::SeqCst),
            "paths": requests.per_path(),
        })
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            // A closed connection is what a dead server's port looks like to a client, and keeps the port ours.
            Ok(_) if *shared.down.borrow() => {}
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
            Err(error) => {
                eprintln!("the registry cannot accept: {error}");
                return;
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut down = shared.down.subscribe();
    if let Err(error) = stream.set_nodelay(true) {
        eprintln!("the registry cannot set a connection up: {error}");
    }
    let service = service_fn(move |request| answer::handle(Arc::clone(&shared), request));
    tokio::select! {
        // Errors here are the client's leaving or our own faults at work.
        _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service) => {}
        _ = down.wait_for(|down| *down) => {}
    }
}
