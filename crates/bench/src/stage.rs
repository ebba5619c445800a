//! What the measurements of streams share: a cluster, servers, broadcasts, and what subscribers ask for.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Map, Value};
use steadfast_api::{
    common::v1::Cursor,
    watch::v1::{Start, WatchRequest, start::Position},
};
use steadfast_testkit::{
    postgres::{ClusterOptions, PrivateCluster},
    process::Server,
};
use tempfile::TempDir;

use crate::{
    announce::WATCH,
    args::Options,
    child::Child,
    crowd::{Manner, Open, Until, WINDOW},
    error::Error,
    floor::messages_file,
    process,
    program::Program,
    publish::facts,
};

/// Everything but the streams of the largest crowd.
const OTHER_FILES: u64 = 256;

/// A cluster with fsync on, and where the floors' files are.
pub(crate) struct Stage {
    pub(crate) program: Program,
    pub(crate) environment: Map<String, Value>,
    cluster: PrivateCluster,
    scratch: TempDir,
}

// === impl Stage ===

impl Stage {
    /// Sets it up for crowds of so many streams.
    pub(crate) async fn set(options: &Options, streams: usize) -> Result<Self, Error> {
        process::raise_open_files(streams as u64 + OTHER_FILES)?;
        let program = Program::find(options).await?;
        let scratch = TempDir::new().map_err(Error::io("making a temporary directory"))?;
        let mut environment = program.environment(options, scratch.path())?;
        let cluster = PrivateCluster::start(ClusterOptions {
            fsync: true,
            ..ClusterOptions::default()
        })
        .await;
        let url = cluster.create_database("facts").await;
        environment.insert("postgres".to_owned(), facts(&url, Path::new(".")).await?);
        Ok(Self {
            program,
            environment,
            cluster,
            scratch,
        })
    }

    /// Makes a database and returns where it is.
    pub(crate) async fn database(&self, name: &str) -> String {
        self.cluster.create_database(name).await
    }

    /// A server with its default configuration.
    pub(crate) async fn server(&self, database: &str) -> Server {
        self.program.server().database_url(database).start().await
    }

    /// A broadcast whose streams begin with these messages.
    pub(crate) async fn broadcast(&self, name: &str, messages: &[Bytes]) -> Result<Child, Error> {
        let file: PathBuf = self.scratch.path().join(name);
        std::fs::write(&file, messages_file(messages)).map_err(Error::io("writing messages"))?;
        let mut arguments = vec!["broadcast".into(), "--messages".into(), file.into()];
        arguments.extend(self.program.settings()?.arguments());
        Child::start(arguments).await
    }
}

/// So many subscribers that read everything from now on, as soon as it comes.
pub(crate) fn readers(address: &str, count: usize) -> Open {
    Open {
        address: address.to_owned(),
        path: WATCH.to_owned(),
        count,
        requests: vec![watch(None)],
        window: WINDOW,
        manner: Manner::Reading,
        counting: false,
        until: Until::Opened,
    }
}

/// An encoded request for everything after a cursor, or from now on.
pub(crate) fn watch(after: Option<Cursor>) -> Vec<u8> {
    WatchRequest {
        start: after.map(|cursor| Start {
            position: Some(Position::After(cursor)),
        }),
        ..WatchRequest::default()
    }
    .encode_to_vec()
}
