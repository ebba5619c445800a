//! The server's Publish without batches: every call commits one statement of its own.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use steadfast_api::{
    common::v1::Cursor,
    watch::v1::{
        self as api,
        watch_service_server::{WatchService, WatchServiceServer},
    },
};
use steadfast_store::{
    Change, Op, Options,
    floor::{Floor, FloorKind},
};
use tonic::{Request, Response, Status};

use super::{abandoned, builder, listen};
use crate::{error::Error, program::Settings};

/// How a floor for publishes is started.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    settings: Settings,
    #[arg(long)]
    kind: Kind,
    /// PostgreSQL; SQLite without
    #[arg(long, default_value = "")]
    database_url: String,
    /// Where SQLite keeps its file
    #[arg(long, default_value = ".")]
    data_dir: PathBuf,
}

/// What a call commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// One insert.
    Insert,
    /// One updated counter row and one insert.
    Counter,
}

struct Publisher {
    floor: Floor,
    kind: FloorKind,
}

/// Serves until the bench goes away.
pub(super) async fn serve(args: &PublishArgs) -> Result<(), Error> {
    let floor = Floor::open(&Options {
        url: args.database_url.clone(),
        data_dir: args.data_dir.clone(),
        max_connections: args.settings.max_connections,
        ..Options::default()
    })
    .await?;
    floor.create().await?;
    let publisher = Publisher {
        floor,
        kind: match args.kind {
            Kind::Insert => FloorKind::Insert,
            Kind::Counter => FloorKind::Counter,
        },
    };
    let service = WatchServiceServer::new(publisher)
        .max_decoding_message_size(args.settings.max_message_bytes)
        .max_encoding_message_size(args.settings.max_message_bytes);
    let incoming = listen()?;
    builder(&args.settings)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, abandoned())
        .await?;
    Ok(())
}

#[tonic::async_trait]
impl WatchService for Publisher {
    type WatchStream = futures::stream::Pending<Result<api::WatchResponse, Status>>;

    async fn watch(
        &self,
        _: Request<api::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("a floor only publishes"))
    }

    async fn publish(
        &self,
        request: Request<api::PublishRequest>,
    ) -> Result<Response<api::PublishResponse>, Status> {
        let request = request.into_inner();
        let changes: Vec<Change> = request
            .changes
            .into_iter()
            .map(|change| Change {
                op: match change.op() {
                    api::Op::Delete => Op::Delete,
                    api::Op::Upsert | api::Op::Unspecified => Op::Upsert,
                },
                topic: change.topic,
                key: change.key,
                etag: change.etag,
                payload: change.payload.into(),
            })
            .collect();
        let (revision, mark) = self
            .floor
            .write(self.kind, &request.origin, &changes)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(api::PublishResponse {
            cursor: Some(Cursor {
                store_id: STORE_ID.to_owned(),
                revision,
                mark: mark.cast_unsigned(),
            }),
            replayed: false,
        }))
    }

    async fn get_head(
        &self,
        _: Request<api::GetHeadRequest>,
    ) -> Result<Response<api::GetHeadResponse>, Status> {
        Err(Status::unimplemented("a floor only publishes"))
    }
}

/// As long as a real one, so that answers are too.
const STORE_ID: &str = "00000000-0000-0000-0000-000000000000";
