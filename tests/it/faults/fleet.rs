//! Replicas with a registry between their hands, and what they answer.

use std::{collections::BTreeSet, future::Future, time::Duration};

use prost::Message as _;
use steadfast_client::{
    Code, Connection, Error,
    api::{
        common::v1::ReadState,
        registry::v1::{
            GetPackageRequest, GetRefreshRequest, GetRefreshResponse, ListPackagesRequest,
            RefreshState, ResolvePackageRequest, StartRefreshRequest, StartRefreshResponse,
        },
        schema::v1::GetSchemaRequest,
        watch::v1::{GetHeadRequest, GetHeadResponse},
    },
    connect,
};
use steadfast_testkit::{NpmServer, Server, npm::GeneratedPackages, process::ServerBuilder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::history::publishing::DEADLINE;

/// How long a test waits for what must happen by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The versions that every package of the registry has; each carries a schema.
const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// A registry of packages that are alike, and the configuration of a server that takes them.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) upstream: NpmServer,
    pub(crate) names: Vec<String>,
    pub(crate) concurrency: usize,
    pub(crate) lease: Duration,
    /// Whether an empty catalogue is filled at the start.
    pub(crate) fills: bool,
}

/// A connection to a server.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Connection);

/// All answers about one package, encoded, without the state they were read at; nothing if there is no such package.
pub(crate) type Answers = Option<Vec<Vec<u8>>>;

// === impl Registry ===

impl Registry {
    pub(crate) async fn start(count: usize) -> Self {
        let packages = GeneratedPackages {
            prefix: "@acme/part-".to_owned(),
            count,
            versions: VERSIONS.len(),
        };
        let names = (0..count).map(|index| packages.name(index)).collect();
        let upstream = NpmServer::start().await;
        upstream.generate(packages);
        Self {
            upstream,
            names,
            concurrency: 4,
            lease: Duration::from_secs(10),
            fills: false,
        }
    }

    pub(crate) fn server(&self) -> ServerBuilder {
        let names: Vec<_> = self.names.iter().map(|name| format!("{name:?}")).collect();
        Server::builder().configuration(format!(
            "[catalog]\nrefresh_on_empty = {}\nrefresh_concurrency = {}\n[[catalog.source]]\nname = \"acme\"\ntype = \
             \"npm\"\nregistry = \"{}\"\nnames = [{}]\n[lease]\nduration_ms = {}\n",
            self.fills,
            self.concurrency,
            self.upstream.url(),
            names.join(", "),
            self.lease.as_millis(),
        ))
    }

    /// How often the document of each package was asked for, in the order of the names.
    pub(crate) fn packument_requests(&self) -> Vec<usize> {
        let requests = self.upstream.requests();
        let count = |name: &String| requests.count(&format!("/{name}"));
        self.names.iter().map(count).collect()
    }

    /// How many tarballs were asked for.
    pub(crate) fn tarball_requests(&self) -> usize {
        self.upstream.requests().count("*.tgz")
    }

    /// The packages about which anything was asked.
    pub(crate) fn asked_about(&self) -> BTreeSet<String> {
        let requests = self.upstream.requests();
        let asked = |name: &&String| {
            requests.count(&format!("/{name}")) + requests.count(&format!("/{name}/*")) > 0
        };
        self.names.iter().filter(asked).cloned().collect()
    }
}

// === impl Caller ===

impl Caller {
    pub(crate) async fn to(server: &Server) -> Self {
        let connection = connect(&server.grpc_endpoint(), DEADLINE).await;
        Self(connection.expect("a ready server takes connections"))
    }

    pub(crate) async fn start_refresh(&self) -> StartRefreshResponse {
        let mut client = self.0.refreshes();
        let call = client.start_refresh(StartRefreshRequest::default());
        self.0.call(call).await.expect("a refresh can be asked for")
    }

    pub(crate) async fn refresh(&self, id: &str) -> Result<GetRefreshResponse, Error> {
        let mut client = self.0.refreshes();
        let request = GetRefreshRequest {
            id: id.to_owned(),
            skip_items: 0,
        };
        self.0.call(client.get_refresh(request)).await
    }

    /// The refresh once it has ended.
    pub(crate) async fn ended(&self, id: &str) -> GetRefreshResponse {
        eventually(&format!("refresh {id} ends"), async || {
            let answer = self.refresh(id).await.ok()?;
            let state = answer.refresh.as_ref()?.state();
            (!matches!(state, RefreshState::Queued | RefreshState::Running)).then_some(answer)
        })
        .await
    }

    pub(crate) async fn head(&self) -> Result<GetHeadResponse, Error> {
        let mut client = self.0.watches();
        self.0.call(client.get_head(GetHeadRequest {})).await
    }

    /// Asks everything that there is to ask about a package and checks that it is whole: both versions, and the schema of
    /// each.
    pub(crate) async fn answers(&self, name: &str) -> Answers {
        let request = GetPackageRequest {
            name: name.to_owned(),
            ..GetPackageRequest::default()
        };
        let mut registry = self.0.registry();
        let mut package = match self.0.call(registry.get_package(request)).await {
            Ok(answer) => answer,
            Err(error) => {
                let known = (Code::NotFound, "PACKAGE_NOT_FOUND");
                assert_eq!((error.code, error.reason.as_str()), known, "{name}");
                return None;
            }
        };
        let found = package
            .package
            .as_ref()
            .expect("an answer without a condition has a package");
        let mut versions: Vec<_> = found
            .versions
            .iter()
            .map(|version| version.version.as_str())
            .collect();
        versions.sort_unstable();
        assert_eq!(versions, VERSIONS, "{name} is whole");
        package.read_state = None;
        let mut answers = vec![package.encode_to_vec()];
        for specifier in [name.to_owned(), format!("{name}@~1.0.0")] {
            let request = ResolvePackageRequest {
                specifier,
                ..ResolvePackageRequest::default()
            };
            let answer = self.0.call(registry.resolve_package(request)).await;
            let mut answer = answer.expect("a package that is there resolves");
            answer.read_state = None;
            answers.push(answer.encode_to_vec());
        }
        for version in VERSIONS {
            let request = GetSchemaRequest {
                package: name.to_owned(),
                version: version.to_owned(),
                ..GetSchemaRequest::default()
            };
            let mut schemas = self.0.schemas();
            let answer = self.0.call(schemas.get_schema(request)).await;
            let mut answer = answer.expect("a package comes with its schemas");
            answer.read_state = None;
            answers.push(answer.encode_to_vec());
        }
        Some(answers)
    }

    /// All answers about all packages, at one revision.
    pub(crate) async fn catalogue(&self, names: &[String]) -> Vec<Answers> {
        let mut answers = Vec::new();
        for name in names {
            answers.push(self.answers(name).await);
        }
        answers
    }

    /// Where the catalogue in memory stands.
    pub(crate) async fn read_state(&self) -> ReadState {
        let mut client = self.0.registry();
        let call = client.list_packages(ListPackagesRequest::default());
        let answer = self.0.call(call).await.expect("a lookup always answers");
        answer.read_state.expect("every lookup has it")
    }

    /// The names of the packages that are there.
    pub(crate) async fn listed(&self) -> BTreeSet<String> {
        let mut client = self.0.registry();
        let request = ListPackagesRequest {
            page_size: 1_000,
            ..ListPackagesRequest::default()
        };
        let answer = self.0.call(client.list_packages(request)).await;
        let answer = answer.expect("a lookup always answers");
        answer
            .packages
            .into_iter()
            .map(|package| package.name)
            .collect()
    }
}

/// Asks until there is an answer: for what happens by itself and announces itself nowhere.
pub(crate) async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Both come to stand at the newest revision, and answer the same there: each lookup's bytes, and where it was read.
pub(crate) async fn assert_same(one: &Caller, other: &Caller, names: &[String]) {
    let head = one.head().await.expect("the database is there").head;
    let head = head.expect("is set").revision;
    eventually("both stand at the head", async || {
        let state = one.read_state().await;
        (state.revision == head && state == other.read_state().await).then_some(())
    })
    .await;
    assert_same_answers(
        names,
        &one.catalogue(names).await,
        &other.catalogue(names).await,
    );
}

/// Compares two catalogues without printing all of both.
pub(crate) fn assert_same_answers(names: &[String], one: &[Answers], other: &[Answers]) {
    let different: Vec<_> = names
        .iter()
        .zip(one.iter().zip(other))
        .filter(|(_, (one, other))| one != other)
        .map(|(name, _)| name)
        .collect();
    assert!(different.is_empty(), "other answers about {different:?}");
    assert_eq!(one.len(), other.len());
}

/// Asks the HTTP side: status and body.
pub(crate) async fn http_get(server: &Server, path: &str) -> (u16, String) {
    let url = server.http_url();
    let address = url.trim_start_matches("http://");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = exchange.await.expect("the HTTP side answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("an answer has a status"), body.to_owned())
}
