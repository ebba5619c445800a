//! A server, or a caller, that dies in the middle of an import: the catalogue is the old one or the new one.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use futures::{StreamExt as _, future::join_all, stream};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steadfast_client::{
    WatchStream,
    api::registry::v1::{
        ImportCatalogRequest, ImportMode, ImportOptions,
        bundle_service_client::BundleServiceClient, import_catalog_request::Part,
    },
};
use steadfast_testkit::{
    PsqlSession, RunningCommand, Server, Signal, TestDatabase, process::ServerBuilder,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{
    assert_same,
    catalogue::standing,
    import, level,
    pair::{self, Pair, Told, assert_told, heard},
    questions, text,
    wire::{self, Question, Standing},
};
use crate::{
    history::{duration, seed},
    local::monorepo::name,
    scene::{Engine, connection, eventually},
};

/// Databases that are worked on at a time: after a kill, most of a round is waiting for the lease.
const LANES: u64 = 3;

/// How often a server is looked at: an import takes some tens of milliseconds.
const LOOK: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_secs(20);

/// Which of the two catalogues a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Before,
    After,
}

/// The two catalogues, and what is answered about each.
struct Stage {
    pair: Pair,
    questions: Vec<Question>,
    before: Vec<wire::Told>,
    after: Vec<wire::Told>,
    /// What a server takes to verify and write one of them, once it has it.
    took: Duration,
}

/// A database, a server that is killed again and again, and on PostgreSQL another one that is not.
struct Lane<'s> {
    stage: &'s Stage,
    builder: ServerBuilder,
    server: Server,
    other: Option<(Server, WatchStream)>,
    has: Which,
    random: StdRng,
    interrupted: usize,
    rounds: usize,
    directory: TempDir,
    database: Option<TestDatabase>,
}

// === impl Which ===

impl Which {
    fn other(self) -> Self {
        match self {
            Self::Before => Self::After,
            Self::After => Self::Before,
        }
    }
}

// === impl Stage ===

impl Stage {
    async fn set() -> Self {
        let pair = Pair::exported().await;
        let folder = tempfile::tempdir().expect("a folder");
        let builder = Server::builder().variable("TMPDIR", text(folder.path()));
        let server = builder.start().await;
        // The later one first: the time at which the source was last read never moves back, and so is the same from then on.
        import(&server, &pair.after, &["--replace"]).await;
        let mut all = BTreeSet::new();
        let ask = questions::seen(&Standing::of(&server).await).await;
        all.extend(ask.questions);
        let mut importing = server.cli_running(&["import", text(&pair.before), "--replace"]);
        received(&server, folder.path(), &pair.before).await;
        let began = Instant::now();
        while spooled(&server, folder.path()).is_some() {
            sleep(LOOK).await;
        }
        let took = began.elapsed();
        assert!(importing.wait_exit().await.success());
        level(&server, standing(&server).await.revision.0).await;
        let there = Standing::of(&server).await;
        all.extend(questions::seen(&there).await.questions);
        let questions: Vec<Question> = all.into_iter().collect();
        let before = there.ask_all(&questions).await;
        import(&server, &pair.after, &["--replace"]).await;
        let after = Standing::of(&server).await.ask_all(&questions).await;
        let differ = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        println!(
            "{} answers, of which {differ} differ; an import takes {took:?}",
            after.len()
        );
        assert!(differ > 50);
        Self {
            pair,
            questions,
            before,
            after,
            took,
        }
    }

    fn file(&self, which: Which) -> &Path {
        match which {
            Which::Before => &self.pair.before,
            Which::After => &self.pair.after,
        }
    }

    /// What is told when a catalogue becomes this one.
    fn told(&self, which: Which) -> &Told {
        match which {
            Which::Before => &self.pair.back,
            Which::After => &self.pair.forth,
        }
    }

    async fn assert_has(&self, server: &Server, which: Which) {
        let expected = match which {
            Which::Before => &self.before,
            Which::After => &self.after,
        };
        let told = Standing::of(server).await.ask_all(&self.questions).await;
        assert_same(&told, expected, |at| {
            format!("{which:?}: {}", self.questions[at].what)
        });
    }
}

// === impl Lane ===

impl<'s> Lane<'s> {
    async fn open(stage: &'s Stage, engine: Engine, seed: u64) -> Self {
        let directory = tempfile::tempdir().expect("a folder");
        let database = engine.database().await;
        let mut builder = Server::builder().variable("TMPDIR", text(directory.path()));
        match &database {
            Some(database) => builder = builder.database_url(database.url()),
            None => builder = builder.directory(directory.path()),
        }
        let server = builder.start().await;
        import(&server, &stage.pair.after, &["--replace"]).await;
        let other = match &database {
            Some(_) => {
                let other = builder.start().await;
                let at = standing(&other).await;
                let mut watcher = pair::watcher(&connection(&other).await, at);
                pair::opened(&mut watcher).await;
                Some((other, watcher))
            }
            None => None,
        };
        Self {
            stage,
            builder,
            server,
            other,
            has: Which::After,
            random: StdRng::seed_from_u64(seed),
            interrupted: 0,
            rounds: 0,
            directory,
            database,
        }
    }

    /// At which moment of an import something happens: the first time at once, and then at any.
    fn moment(&mut self) -> Duration {
        let part = match self.rounds {
            0 => 0.0,
            _ => self.random.random_range(0.0..1.5),
        };
        self.rounds += 1;
        self.stage.took.mul_f64(part)
    }

    /// Begins an import, and returns when the server has received all of it.
    async fn begun(&self) -> RunningCommand {
        let file = self.stage.file(self.has.other());
        let importing = self
            .server
            .cli_running(&["import", text(file), "--replace"]);
        received(&self.server, self.directory.path(), file).await;
        importing
    }

    /// Kills the server at a moment of an import, starts it again, and sees that it has all or nothing of it; then imports again.
    async fn round(&mut self) {
        let before = standing(&self.server).await;
        let mut importing = self.begun().await;
        let moment = self.moment();
        sleep(moment).await;
        self.server.signal(Signal::SIGSTOP);
        eventually("the server to stand still", async || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.server.pid()));
            stat.expect("it is there").contains(") T ").then_some(())
        })
        .await;
        // It commits after it has read the last of the file, and closed it.
        let in_its_middle = spooled(&self.server, self.directory.path()).is_some();
        self.server.kill().await;
        let _ = importing.wait_exit().await;
        self.interrupted += usize::from(in_its_middle);
        let what = format!("after {moment:?}, in its middle: {in_its_middle}");
        let landed = self.go_on(before, &what).await;
        assert!(!(landed && in_its_middle), "{what}");
    }

    /// Has an import wait in the middle of its transaction, for a package that somebody else has locked.
    async fn held(&self) -> (PsqlSession, RunningCommand) {
        let database = self.database.as_ref().expect("a database");
        let mut session = database.session().await;
        let package = name("adaptor-064");
        let lock = format!("BEGIN; SELECT 1 FROM package WHERE name = '{package}' FOR UPDATE;");
        let locked = session.run(&lock).await.expect("locks");
        assert!(locked.contains('1'), "{package}: {locked}");
        let importing = self.begun().await;
        eventually("the import to wait in its middle", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                           AND wait_event_type = 'Lock'";
            (database.psql(waiting).await.trim() == "1").then_some(())
        })
        .await;
        (session, importing)
    }

    /// Waits until the server has noticed that its caller is gone.
    async fn given_up(&self) {
        let folder = self.directory.path();
        eventually("the server to give it up", async || {
            spooled(&self.server, folder).is_none().then_some(())
        })
        .await;
    }

    /// The same as a round, in the middle of the transaction for certain.
    async fn held_round(&mut self) {
        let before = standing(&self.server).await;
        let (mut session, mut importing) = self.held().await;
        self.server.kill().await;
        assert!(!importing.wait_exit().await.success());
        session.run("COMMIT;").await.expect("unlocks");
        let landed = self
            .go_on(before, "the server was killed while it waited")
            .await;
        assert!(!landed, "an import that was killed in its middle is undone");
    }

    async fn go_on(&mut self, before: steadfast_client::Cursor, what: &str) -> bool {
        let (stage, next) = (self.stage, self.has.other());
        self.server = self.builder.start().await;
        let after = standing(&self.server).await;
        let landed = after != before;
        println!("{what}: {}", if landed { "whole" } else { "undone" });
        let now = if landed { next } else { self.has };
        stage.assert_has(&self.server, now).await;
        // Whoever was away, and on PostgreSQL whoever watched another replica meanwhile.
        let nothing = Told::new();
        let expected = if landed { stage.told(next) } else { &nothing };
        let mut watcher = pair::watcher(&connection(&self.server).await, before);
        assert_told(&heard(&mut watcher, after).await, expected, what);
        if let Some((other, watcher)) = &mut self.other {
            assert_told(&heard(watcher, after).await, expected, what);
            level(other, after.revision.0).await;
            stage.assert_has(other, now).await;
        }

        import_again(&self.server, stage.file(next)).await;
        let end = standing(&self.server).await;
        assert_eq!(
            end == after,
            landed,
            "what is there already is not written again"
        );
        level(&self.server, end.revision.0).await;
        let mut watcher = pair::watcher(&connection(&self.server).await, before);
        assert_told(&heard(&mut watcher, end).await, stage.told(next), what);
        if let Some((_, watcher)) = &mut self.other {
            let expected = if landed { &nothing } else { stage.told(next) };
            assert_told(&heard(watcher, end).await, expected, what);
        }
        self.has = next;
        landed
    }
}

/// Imports, once the import that was killed no longer has the lease.
async fn import_again(server: &Server, file: &Path) {
    eventually("the import to be repeated", async || {
        let told = server.cli(&["import", text(file), "--replace"]).await;
        if told.status.success() {
            return Some(());
        }
        assert!(told.failure(4).contains("CATALOGUE_BUSY"), "{told:?}");
        None
    })
    .await;
}

async fn killed_again_and_again(engine: Engine) {
    let seed = seed();
    let stage = Stage::set().await;
    let end = Instant::now() + duration(Duration::from_secs(8), Duration::from_secs(600));
    let lanes = (0..LANES).map(|number| {
        let stage = &stage;
        async move {
            let mut lane = Lane::open(stage, engine, seed.wrapping_add(number)).await;
            if number == 0 && engine == Engine::Postgres {
                lane.held_round().await;
            }
            while lane.rounds == 0 || Instant::now() < end {
                lane.round().await;
            }
            (lane.rounds, lane.interrupted)
        }
    });
    let lanes = join_all(lanes).await;
    let rounds: usize = lanes.iter().map(|(rounds, _)| rounds).sum();
    let interrupted: usize = lanes.iter().map(|(_, interrupted)| interrupted).sum();
    println!("{rounds} rounds, {interrupted} of them interrupted");
    assert!(
        interrupted > 0,
        "no server was killed before it had answered"
    );
}

#[tokio::test]
async fn rule_15_a_server_killed_during_an_import_leaves_the_old_catalogue_or_the_new_one_sqlite() {
    killed_again_and_again(Engine::Sqlite).await;
}

#[tokio::test]
async fn rule_15_a_server_killed_during_an_import_leaves_the_old_catalogue_or_the_new_one_postgres()
{
    killed_again_and_again(Engine::Postgres).await;
}

/// How many bytes of a bundle a server holds in its folder for temporary files; `None` if it is receiving none. The file has no name
/// there, but the process has it open.
fn spooled(server: &Server, folder: &Path) -> Option<u64> {
    let files = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs");
    files.flatten().find_map(|file| {
        let target = fs::read_link(file.path()).ok()?;
        let is_spool = target.starts_with(folder) && target.to_str()?.ends_with("(deleted)");
        is_spool.then(|| fs::metadata(file.path()).map_or(0, |file| file.len()))
    })
}

/// Waits until a server has received all of a bundle.
async fn received(server: &Server, folder: &Path, file: &Path) {
    let size = fs::metadata(file).expect("is there").len();
    let began = Instant::now();
    while spooled(server, folder) != Some(size) {
        assert!(began.elapsed() < DEADLINE, "it does not receive the bundle");
        sleep(LOOK).await;
    }
}

/// Sends the beginning of an import, and goes away once the server has all of that.
async fn send_and_vanish(server: &Server, folder: &Path, bytes: &[&[u8]]) {
    let endpoint = tonic::transport::Endpoint::from_shared(server.grpc_endpoint());
    let channel = endpoint.expect("an address").connect().await;
    let mut client = BundleServiceClient::new(channel.expect("connects"));
    let options = Part::Options(ImportOptions {
        mode: ImportMode::Replace.into(),
        dry_run: false,
    });
    let chunks = bytes.iter().map(|bytes| Part::Chunk(bytes.to_vec().into()));
    let parts = std::iter::once(options).chain(chunks);
    let parts: Vec<_> = parts
        .map(|part| ImportCatalogRequest { part: Some(part) })
        .collect();
    let requests = stream::iter(parts).chain(stream::pending());
    let calling = tokio::spawn(async move { client.import_catalog(requests).await });
    let sent: usize = bytes.iter().map(|bytes| bytes.len()).sum();
    eventually("the server to have all of it", async || {
        (spooled(server, folder)? == sent as u64).then_some(())
    })
    .await;
    calling.abort();
    let ended = calling.await.expect_err("was aborted");
    assert!(ended.is_cancelled(), "{ended}");
    eventually("the server to give it up", async || {
        spooled(server, folder).is_none().then_some(())
    })
    .await;
}

async fn vanished(engine: Engine) {
    let seed = seed();
    let stage = Stage::set().await;
    let bundle = fs::read(&stage.pair.before).expect("reads");
    let (half, rest) = bundle.split_at(bundle.len() / 2);
    let mut lane = Lane::open(&stage, engine, seed).await;
    let before = standing(&lane.server).await;
    for bytes in [&[][..], &[half], &[half, rest]] {
        send_and_vanish(&lane.server, lane.directory.path(), bytes).await;
        assert_eq!(standing(&lane.server).await, before, "nothing was written");
    }
    stage.assert_has(&lane.server, Which::After).await;

    // Killed once all is sent: the server verifies and writes meanwhile, and may have ended by the time that it notices.
    for _ in 0..2 {
        let before = standing(&lane.server).await;
        let mut importing = lane.begun().await;
        let moment = lane.moment();
        sleep(moment).await;
        importing.kill().await;
        lane.given_up().await;
        lane.server.kill().await;
        let what = format!("the caller was killed after {moment:?}");
        lane.go_on(before, &what).await;
    }
    if engine == Engine::Sqlite {
        return;
    }
    // Here it notices for certain before it has ended.
    let before = standing(&lane.server).await;
    let (mut session, mut importing) = lane.held().await;
    importing.kill().await;
    lane.given_up().await;
    session.run("COMMIT;").await.expect("unlocks");
    lane.server.kill().await;
    let landed = lane
        .go_on(before, "the caller was killed while the server waited")
        .await;
    assert!(!landed, "an import that nobody waits for is undone");
}

#[tokio::test]
async fn rule_15_a_caller_that_vanishes_during_an_import_leaves_the_old_catalogue_or_the_new_one_sqlite()
 {
    vanished(Engine::Sqlite).await;
}

#[tokio::test]
async fn rule_15_a_caller_that_vanishes_during_an_import_leaves_the_old_catalogue_or_the_new_one_postgres()
 {
    vanished(Engine::Postgres).await;
}
