//! `slow`: what healthy subscribers notice of those that misbehave, over what they notice of nothing.
//!
//! Twenty subscribers read as fast as they can while publications come at a steady rate. Then they do so again beside companions
//! that read slowly, that have stopped to read, that are frozen, and that come and go; the ratio of the two 99th percentiles of
//! one delivery is one figure. Its floor is the same ratio without any companions, in the same round: nine out of ten of these
//! control ratios are below it. `stalled` then leaves one subscriber that has stopped to read beside a server that takes
//! publications as fast as it can.

mod stalled;

use std::time::Duration;

use crate::{
    announce::Announcer,
    args::{Options, SlowArgs, SlowPart},
    crowd::{Crowd, Manner, Open, Received, SMALL_WINDOW},
    error::Error,
    load,
    report::{Report, Target},
    stage::{Stage, readers},
    statistics::Series,
};

const HEALTHY: usize = 20;
/// Of each kind.
const COMPANIONS: usize = 10;
/// Bytes of a payload: so large that those who are slow fall behind by more than what buffers hold.
const PAYLOAD: usize = 1_024;
const PER_SECOND: u32 = 200;
/// What a draining companion reads per second: a tenth of what comes.
const DRAINING: usize = PAYLOAD * PER_SECOND as usize / 10;
/// How long a reconnecting companion stays.
const STAY_MS: u64 = 100;
const WARM_UP: Duration = Duration::from_millis(500);

/// The two halves of one ratio.
struct Pair {
    with: Received,
    without: Received,
}

pub(crate) async fn run(options: &Options, args: &SlowArgs) -> Result<Report, Error> {
    let mut stage = Stage::set(options, HEALTHY + 5 * COMPANIONS).await?;
    stage.environment.insert(
        "load".to_owned(),
        format!(
            "{HEALTHY} healthy subscribers, {PER_SECOND} publications/s of {PAYLOAD} bytes; {COMPANIONS} companions each: reading \
             {DRAINING} bytes/s, stalled with a window of 64 KiB and of 2 MiB, frozen, and reconnecting after {STAY_MS} ms; {} pairs",
            args.pairs
        )
        .into(),
    );
    let mut report = Report::new("slow", stage.environment.clone());
    if args.parts.contains(&SlowPart::Healthy) {
        healthy(options, args, &stage, &mut report).await?;
    }
    if args.parts.contains(&SlowPart::Stalled) {
        stalled::measure(args, &stage, &mut report).await?;
    }
    Ok(report)
}

async fn healthy(
    options: &Options,
    args: &SlowArgs,
    stage: &Stage,
    report: &mut Report,
) -> Result<(), Error> {
    let server = stage.server(&stage.database("healthy").await).await;
    let address = server.grpc_address();
    let mut announcer = Announcer::to_server(address, PAYLOAD).await?;
    let mut crowd = Crowd::start().await?;
    let mut companions = Crowd::start().await?;
    crowd
        .open(Open {
            counting: true,
            ..readers(address, HEALTHY)
        })
        .await?;
    let window = options.window();
    announcer
        .open_loop(&mut crowd, PER_SECOND, 2 * window)
        .await?;
    let (mut pairs, mut controls) = (Vec::new(), Vec::new());
    let (mut reconnects, mut parked) = (Series::default(), Series::default());
    for pair in 1..=args.pairs {
        // In turns, so that a machine that grows slower does not speak against one of them.
        let companions_first = pair % 2 == 0;
        let mut halves = Vec::new();
        for with in [companions_first, !companions_first, false, false] {
            if with {
                misbehave(&mut companions, address).await?;
            }
            announcer.open_loop(&mut crowd, PER_SECOND, WARM_UP).await?;
            crowd.begin().await?;
            announcer.open_loop(&mut crowd, PER_SECOND, window).await?;
            halves.push(crowd.end().await?);
            if with {
                let metrics = load::metrics(&server).await?;
                let name = "steadfast_watch_parked_subscribers";
                parked.push(metrics.get(name).copied().unwrap_or_default());
                let openings = companions.close().await?;
                let seconds = (window + WARM_UP).as_secs_f64();
                reconnects.push((openings as f64 - 5.0 * COMPANIONS as f64) / seconds);
            }
        }
        let [first, second, third, fourth] = halves[..] else {
            return Err(Error::Unexpected("four halves are measured".to_owned()));
        };
        let (with, without) = if companions_first {
            (first, second)
        } else {
            (second, first)
        };
        let measured = Pair { with, without };
        // The control's halves change places, too.
        let control = if companions_first {
            Pair {
                with: third,
                without: fourth,
            }
        } else {
            Pair {
                with: fourth,
                without: third,
            }
        };
        eprintln!("pair {pair}: {measured}; control {control}");
        pairs.push(measured);
        controls.push(control);
    }
    crowd.close().await?;
    let series =
        |pairs: &[Pair], of: fn(&Pair) -> f64| -> Series { pairs.iter().map(of).collect() };
    let floor = series(&controls, Pair::ratio).percentile(90.0);
    report.aimed(
        "healthy_p99_ratio",
        "ratio",
        &series(&pairs, Pair::ratio),
        Some(&[floor].into_iter().collect()),
        Some(Target::AtMost(floor.max(1.1))),
    );
    report.plain(
        "control_p99_ratio",
        "ratio",
        &series(&controls, Pair::ratio),
    );
    report.floored(
        "healthy_p99_ms",
        "ms",
        &series(&pairs, |pair| pair.with.p99_us / 1e3),
        &series(&pairs, |pair| pair.without.p99_us / 1e3),
    );
    report.floored(
        "healthy_p50_ms",
        "ms",
        &series(&pairs, |pair| pair.with.p50_us / 1e3),
        &series(&pairs, |pair| pair.without.p50_us / 1e3),
    );
    report.plain("reconnects_per_s", "streams/s", &reconnects);
    report.plain("parked", "streams", &parked);
    Ok(())
}

/// Opens all companions.
async fn misbehave(companions: &mut Crowd, address: &str) -> Result<(), Error> {
    let kinds = [
        (Manner::Draining(DRAINING), SMALL_WINDOW),
        (Manner::Stalled, SMALL_WINDOW),
        (Manner::Stalled, crate::crowd::WINDOW),
        (Manner::Frozen, crate::crowd::WINDOW),
        (Manner::Reconnecting(STAY_MS), crate::crowd::WINDOW),
    ];
    for (manner, window) in kinds {
        companions
            .open(Open {
                manner,
                window,
                ..readers(address, COMPANIONS)
            })
            .await?;
    }
    Ok(())
}

// === impl Pair ===

impl Pair {
    fn ratio(&self) -> f64 {
        self.with.p99_us / self.without.p99_us
    }
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p99 {:.2} over {:.2} ms is {:.2}",
            self.with.p99_us / 1e3,
            self.without.p99_us / 1e3,
            self.ratio()
        )
    }
}
