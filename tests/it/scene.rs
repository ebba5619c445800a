//! What most tests begin with: a registry on loopback that has half of what a server is told to keep, and that server.

use std::{future::Future, time::Duration};

use serde_json::{Value, json};
use steadfast_client::{
    Connection,
    api::{common::v1 as common, watch::v1::GetHeadRequest},
    connect,
};
use steadfast_testkit::{
    NpmServer, PackageSpec, Server, TestDatabase, VersionSpec, process::ServerBuilder,
};
use tokio::time::{Instant, sleep};

/// What the registry has. Names without a scope and with dots are among them.
pub(crate) const PRESENT: [&str; 6] = [
    "@openfn/language-common",
    "@openfn/language-fhir",
    "@openfn/language-http",
    "@openfn/language-openmrs",
    "json.patch",
    "left-pad",
];
/// What the server is told to keep besides, and the registry does not have.
pub(crate) const MISSING: [&str; 6] = [
    "@openfn/language-commcare",
    "@openfn/language-dhis2",
    "@openfn/language-googlesheets",
    "@openfn/language-postgresql",
    "@openfn/language-primero",
    "@openfn/language-salesforce",
];
/// How long anything is waited for.
const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// Where a server keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    pub(crate) const BOTH: [Self; 2] = [Self::Sqlite, Self::Postgres];

    /// A database of the test's own; SQLite's is in the server's own directory.
    pub(crate) async fn database(self) -> Option<TestDatabase> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some(TestDatabase::create().await),
        }
    }
}

/// A registry, a server that keeps packages of it, and the database below, which goes last.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) npm: NpmServer,
    pub(crate) database: Option<TestDatabase>,
}

// === impl Scene ===

impl Scene {
    /// A server that has read what there is of [`PRESENT`] and [`MISSING`].
    pub(crate) async fn filled(engine: Engine) -> Self {
        let npm = registry().await;
        let scene = Self::over(engine, npm, &configuration_of_dozen, |builder| builder).await;
        let refresh = scene.ended_refresh().await;
        assert_eq!(refresh["state"], "partial", "{refresh}");
        scene
    }

    /// A server over a registry, with a configuration made for it.
    pub(crate) async fn over(
        engine: Engine,
        npm: NpmServer,
        configuration: &dyn Fn(&NpmServer) -> String,
        adjust: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Self {
        let database = engine.database().await;
        let mut builder = Server::builder().configuration(configuration(&npm));
        if let Some(database) = &database {
            builder = builder.database_url(database.url());
        }
        let server = adjust(builder).start().await;
        Self {
            server,
            npm,
            database,
        }
    }

    /// The newest refresh, once it has ended.
    pub(crate) async fn ended_refresh(&self) -> Value {
        eventually("the newest refresh to end", async || {
            let list = self.server.cli(&["refresh", "list", "-o", "json"]).await;
            let refresh = list.json()["refreshes"].get(0).cloned()?;
            (!refresh["end_time"].is_null()).then_some(refresh)
        })
        .await
    }

    /// What `refresh` prints as JSON, having exited with this code.
    pub(crate) async fn refresh(&self, code: i32) -> Value {
        let output = self.server.cli(&["refresh", "-o", "json"]).await;
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        serde_json::from_str(&output.stdout).expect("JSON")
    }

    pub(crate) async fn connect(&self) -> Connection {
        connection(&self.server).await
    }

    /// The newest revision.
    pub(crate) async fn head(&self) -> common::Cursor {
        head(&self.connect().await).await
    }
}

/// A server without a source of packages, and the database below, which goes last.
#[derive(Debug)]
pub(crate) struct NoRegistry {
    pub(crate) server: Server,
    _database: Option<TestDatabase>,
}

// === impl NoRegistry ===

impl NoRegistry {
    pub(crate) async fn start(engine: Engine) -> Self {
        let database = engine.database().await;
        let mut builder = Server::builder();
        if let Some(database) = &database {
            builder = builder.database_url(database.url());
        }
        Self {
            server: builder.start().await,
            _database: database,
        }
    }

    pub(crate) async fn connect(&self) -> Connection {
        connection(&self.server).await
    }
}

/// A connection whose calls may take long.
pub(crate) async fn connection(server: &Server) -> Connection {
    connect(&server.grpc_endpoint(), Duration::from_secs(60))
        .await
        .expect("the server is ready")
}

/// The newest revision.
pub(crate) async fn head(connection: &Connection) -> common::Cursor {
    let mut watches = connection.watches();
    let answer = connection.call(watches.get_head(GetHeadRequest {})).await;
    let head = answer.expect("the server answers").head;
    head.expect("there is always a head")
}

/// The first value that `attempt` finds.
///
/// # Panics
///
/// When it finds none in time.
pub(crate) async fn eventually<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let began = Instant::now();
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        sleep(POLL).await;
    }
}

/// A registry that has [`PRESENT`].
pub(crate) async fn registry() -> NpmServer {
    let npm = NpmServer::start().await;
    let with_schema = |version: &str| {
        VersionSpec::new(version)
            .label("HTTP")
            .schema(&http_schema())
    };
    npm.put(
        PackageSpec::new("@openfn/language-http")
            .description("An HTTP request language package")
            .version("5.0.0")
            .version("6.0.0")
            .version(VersionSpec::new("6.1.0").deprecated("it leaks memory"))
            .version(with_schema("7.0.0"))
            .version(with_schema("7.1.0"))
            .version(with_schema("7.2.0").dependency("@openfn/language-common", "^2.0.0"))
            .version("8.0.0-beta.1")
            .tag("latest", "7.2.0")
            .tag("next", "8.0.0-beta.1"),
    );
    npm.put(
        PackageSpec::new("@openfn/language-common")
            .description("Common expressions")
            .version("2.0.0")
            .version("2.1.0"),
    );
    let oauth = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "OAuth2",
        "title": "FHIR",
        "type": "object",
        "properties": { "access_token": { "type": "string", "writeOnly": true } },
        "required": ["access_token"],
    });
    npm.put(
        PackageSpec::new("@openfn/language-fhir")
            .version(VersionSpec::new("5.0.15").schema(&oauth)),
    );
    npm.put(
        PackageSpec::new("@openfn/language-openmrs")
            .version(VersionSpec::new("1.0.0").deprecated("use language-fhir")),
    );
    npm.put(PackageSpec::new("json.patch").version("1.0.0"));
    npm.put(PackageSpec::new("left-pad").version("1.3.0"));
    npm
}

/// Credentials for HTTP: an address, and a secret.
pub(crate) fn http_schema() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "baseUrl": { "title": "Base URL", "type": "string", "format": "uri" },
            "password": { "title": "Password", "type": "string", "writeOnly": true, "minLength": 8 },
            "port": { "title": "Port", "type": "integer", "maximum": 65535 },
        },
        "required": ["baseUrl", "password"],
        "additionalProperties": false,
    })
}

/// [`PRESENT`] and [`MISSING`], read at the first start.
pub(crate) fn configuration_of_dozen(npm: &NpmServer) -> String {
    let names: Vec<_> = PRESENT.into_iter().chain(MISSING).collect();
    configuration(npm, &names)
}

/// Some packages of a registry, which is given up on soon.
pub(crate) fn configuration(npm: &NpmServer, names: &[&str]) -> String {
    let names = json!(names);
    let url = npm.url();
    format!(
        r#"
[upstream]
timeout_ms = 400
attempts = 2
retry_after_max_ms = 1000

[[catalog.source]]
name = "test"
type = "npm"
registry = "{url}"
names = {names}
"#
    )
}
