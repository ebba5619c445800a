//! `fanout`: from before a durable publish until the change is with its subscribers, over a broadcast of the same bytes that keeps
//! nothing.
//!
//! Each subscriber has a TCP connection of its own, and all are in a process of their own. A latency is that of one delivery: from
//! before the publisher's call until the subscriber has read the bytes from its socket. `last` figures are those of the last
//! subscriber of each publication. In the closed loop the next publication begins when the one before is answered and all
//! subscribers have it, in the open loop after a twentieth of a second. At saturation 64 are under way in a closed loop.

use std::time::Duration;

use prost::Message as _;
use steadfast_testkit::process::Server;

use crate::{
    announce::{Announcer, sample},
    args::{FanoutArgs, Options},
    child::Child,
    crowd::{Crowd, Open, Received},
    error::Error,
    process,
    report::{Report, Target},
    stage::{Stage, readers},
    statistics::Series,
};

/// Bytes of a payload.
const PAYLOAD: usize = 32;
const WARM_UP: Duration = Duration::from_millis(500);
/// Publications per second in the open loop.
const PER_SECOND: u32 = 20;
/// Publications under way at saturation.
const SATURATION: usize = 64;

/// The server or its floor.
struct Contestant {
    name: &'static str,
    address: String,
    pid: u32,
    announcer: Announcer,
    /// By number of subscribers, in the order of the arguments.
    rounds: Vec<Vec<Round>>,
}

/// What was measured with one number of subscribers.
struct Round {
    closed: Received,
    open: Received,
    saturated: Received,
    /// Processor time of the server or floor per delivery, one publication at a time and at saturation.
    closed_cpu_us: f64,
    cpu_us: f64,
    /// The same of the subscribers.
    crowd_cpu_us: f64,
}

pub(crate) async fn run(options: &Options, args: &FanoutArgs) -> Result<Report, Error> {
    let most = args.subscribers.iter().copied().max().unwrap_or_default();
    let mut stage = Stage::set(options, most).await?;
    let server: Server = stage.server(&stage.database("steadfast").await).await;
    let (opened, sample) = sample(server.grpc_address(), PAYLOAD).await?;
    stage.environment.insert(
        "load".to_owned(),
        format!(
            "one publisher; messages of {} bytes; open loop {PER_SECOND}/s; {SATURATION} publications under way at saturation",
            sample.encoded_len()
        )
        .into(),
    );
    let floor: Child = stage
        .broadcast("fanout", &[opened.encode_to_vec().into()])
        .await?;
    let mut contestants = [
        Contestant {
            name: "server",
            address: server.grpc_address().to_owned(),
            pid: server.pid(),
            announcer: Announcer::to_server(server.grpc_address(), PAYLOAD).await?,
            rounds: Vec::new(),
        },
        Contestant {
            name: "floor ",
            address: floor.address().to_owned(),
            pid: floor.pid()?,
            announcer: Announcer::to_floor(floor.address(), PAYLOAD, sample).await?,
            rounds: Vec::new(),
        },
    ];
    let mut crowd = Crowd::start().await?;
    for contestant in &mut contestants {
        contestant
            .rounds
            .resize_with(args.subscribers.len(), Vec::new);
    }
    for round in 1..=options.rounds {
        for (place, &subscribers) in args.subscribers.iter().enumerate() {
            for contestant in &mut contestants {
                let measured = contestant
                    .measure(&mut crowd, subscribers, options.window())
                    .await?;
                eprintln!(
                    "round {round} {} {subscribers} subscribers: {measured}",
                    contestant.name
                );
                contestant.rounds[place].push(measured);
            }
        }
    }
    let mut report = Report::new("fanout", stage.environment);
    let [server, floor] = &contestants;
    add(&mut report, &args.subscribers, server, floor);
    Ok(report)
}

// === impl Contestant ===

impl Contestant {
    async fn measure(
        &mut self,
        crowd: &mut Crowd,
        subscribers: usize,
        window: Duration,
    ) -> Result<Round, Error> {
        let announcer = &mut self.announcer;
        crowd
            .open(Open {
                counting: true,
                ..readers(&self.address, subscribers)
            })
            .await?;
        announcer.closed(crowd, 1, WARM_UP).await?;
        let cpu = || Ok::<_, Error>(process::cpu_time(self.pid)?.as_secs_f64() * 1e6);
        let crowd_pid = crowd.pid()?;
        let before = cpu()?;
        let crowd_before = process::cpu_time(crowd_pid)?;
        crowd.begin().await?;
        announcer.closed(crowd, 1, window).await?;
        let closed = crowd.end().await?;
        let crowd_cpu = process::cpu_time(crowd_pid)? - crowd_before;
        let closed_cpu = cpu()? - before;
        crowd.begin().await?;
        announcer.open_loop(crowd, PER_SECOND, window).await?;
        let open = crowd.end().await?;
        announcer.closed(crowd, SATURATION, WARM_UP).await?;
        let before = cpu()?;
        crowd.begin().await?;
        announcer.closed(crowd, SATURATION, window).await?;
        let saturated = crowd.end().await?;
        let saturated_cpu = cpu()? - before;
        crowd.close().await?;
        Ok(Round {
            closed,
            open,
            saturated,
            closed_cpu_us: closed_cpu / closed.deliveries as f64,
            cpu_us: saturated_cpu / saturated.deliveries as f64,
            crowd_cpu_us: crowd_cpu.as_secs_f64() * 1e6 / closed.deliveries as f64,
        })
    }

    fn series(&self, place: usize, of: fn(&Round) -> f64) -> Series {
        self.rounds[place].iter().map(of).collect()
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "closed p50 {:.2} ms, p99 {:.2} ms at {:.2} us ({:.2} us to read); open p50 {:.2} ms, p99 {:.2} ms; {:.0} deliveries/s at {:.2} us",
            self.closed.p50_us / 1e3,
            self.closed.p99_us / 1e3,
            self.closed_cpu_us,
            self.crowd_cpu_us,
            self.open.p50_us / 1e3,
            self.open.p99_us / 1e3,
            self.saturated.deliveries as f64 / self.saturated.seconds,
            self.cpu_us
        )
    }
}

/// What is measured with one number of subscribers.
type Aspect = (&'static str, &'static str, fn(&Round) -> f64);

const ASPECTS: [Aspect; 10] = [
    ("p50_ms", "ms", |round| round.closed.p50_us / 1e3),
    ("p99_ms", "ms", |round| round.closed.p99_us / 1e3),
    ("last_p50_ms", "ms", |round| round.closed.last_p50_us / 1e3),
    ("last_p99_ms", "ms", |round| round.closed.last_p99_us / 1e3),
    ("open_p50_ms", "ms", |round| round.open.p50_us / 1e3),
    ("open_p99_ms", "ms", |round| round.open.p99_us / 1e3),
    ("saturated", "deliveries/s", |round| {
        round.saturated.deliveries as f64 / round.saturated.seconds
    }),
    ("server_cpu", "us/delivery", |round| round.closed_cpu_us),
    ("saturated_cpu", "us/delivery", |round| round.cpu_us),
    ("subscriber_cpu", "us/delivery", |round| round.crowd_cpu_us),
];

/// Ratios at the last number of subscribers, with what is aimed at.
const RATIOS: [(&str, usize, Option<f64>); 6] = [
    ("p50_ratio", 0, Some(1.3)),
    ("p99_ratio", 1, Some(1.3)),
    ("last_p50_ratio", 2, None),
    ("last_p99_ratio", 3, None),
    ("open_p50_ratio", 4, None),
    ("open_p99_ratio", 5, None),
];

fn add(report: &mut Report, all: &[usize], server: &Contestant, floor: &Contestant) {
    if let Some((last, subscribers)) = all.iter().enumerate().next_back() {
        for (name, aspect, limit) in RATIOS {
            let (_, _, of) = ASPECTS[aspect];
            report.ratio(
                &format!("{name}_{subscribers}"),
                &server.series(last, of),
                &floor.series(last, of),
                limit.map(Target::AtMost),
            );
        }
    }
    for (place, &subscribers) in all.iter().enumerate() {
        for (aspect, (name, unit, of)) in ASPECTS.into_iter().enumerate() {
            let is_aimed = aspect == 0 && subscribers == 1;
            report.aimed(
                &format!("{name}_{subscribers}"),
                unit,
                &server.series(place, of),
                Some(&floor.series(place, of)),
                is_aimed.then_some(Target::AtMost(0.9)),
            );
        }
    }
}
