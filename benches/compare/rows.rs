//! What is compared: the rows of the table and the ratios between them.

use std::time::Duration;

use serde::Serialize;

use super::redis::RedisCommand;

/// The result of one round for one row.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// CPU time of the server for each operation.
    pub cpu_us: f64,
    pub per_second: f64,
    /// The cores that the server kept busy, and those that it could use.
    pub busy: f64,
    pub cores: usize,
}

impl Sample {
    /// The result of a server on one core.
    pub(crate) fn new(operations: u64, cpu: Duration, seconds: f64) -> Self {
        let (operations, cpu) = (operations as f64, cpu.as_secs_f64());
        Self {
            cpu_us: cpu * 1e6 / operations,
            per_second: operations / seconds,
            busy: cpu / seconds,
            cores: 1,
        }
    }

    /// Operations per second if the server had its cores for itself.
    fn capacity(&self) -> f64 {
        self.cores as f64 * 1e6 / self.cpu_us
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    Resolve,
    Touch,
    Write,
    Create,
}

impl Operation {
    pub(crate) const ALL: [Self; 4] = [Self::Resolve, Self::Touch, Self::Write, Self::Create];

    /// The name of the operation, also in `sessiond bench --mix`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Touch => "touch",
            Self::Write => "write",
            Self::Create => "create",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Row {
    Echo {
        pipeline: bool,
    },
    Redis {
        command: RedisCommand,
        pipelined: bool,
    },
    Sessiond {
        operation: Operation,
        pipeline: bool,
        unix: bool,
    },
    /// Resolve by a daemon that keeps its sessions in that Redis. The CPU time of Redis is not
    /// included.
    OverRedis {
        pipeline: bool,
    },
    /// Resolve, unary, by a daemon with this many threads on as many cores. It shares them with
    /// its generators.
    Shared {
        cores: usize,
    },
}

impl Row {
    pub(crate) fn all() -> Vec<Self> {
        let both = [false, true];
        let mut rows = both.map(|pipeline| Self::Echo { pipeline }).to_vec();
        for pipelined in both {
            for command in [RedisCommand::Getex, RedisCommand::Set] {
                rows.push(Self::Redis { command, pipelined });
            }
        }
        for unix in both {
            for pipeline in both {
                for operation in Operation::ALL {
                    rows.push(Self::Sessiond { operation, pipeline, unix });
                }
            }
        }
        rows.extend(both.map(|pipeline| Self::OverRedis { pipeline }));
        rows.extend([1, 2].map(|cores| Self::Shared { cores }));
        rows
    }

    /// Whether it needs a Redis.
    pub(crate) fn needs_redis(&self) -> bool {
        matches!(self, Self::Redis { .. } | Self::OverRedis { .. })
    }

    /// Whether a daemon is what it measures.
    pub(crate) fn needs_sessiond(&self) -> bool {
        !matches!(self, Self::Echo { .. } | Self::Redis { .. })
    }

    /// The name of the row for `--only`.
    pub(crate) fn name(self) -> String {
        let with = |name: &str, suffixes: &[(bool, &str)]| {
            let suffixes = suffixes.iter().filter(|(there, _)| *there).map(|(_, suffix)| *suffix);
            name.to_owned() + &suffixes.collect::<String>()
        };
        match self {
            Self::Echo { pipeline } => with("echo", &[(pipeline, "-pipeline")]),
            Self::Redis { command, pipelined } => with(command.name(), &[(pipelined, "-p64")]),
            Self::OverRedis { pipeline } => with("over-redis", &[(pipeline, "-pipeline")]),
            Self::Shared { cores } => format!("shared-{cores}"),
            Self::Sessiond { operation, pipeline, unix } => {
                with(operation.name(), &[(pipeline, "-pipeline"), (unix, "-unix")])
            }
        }
    }

    pub(crate) fn what(self) -> String {
        let how = |pipeline| if pipeline { "one stream" } else { "unary" };
        match self {
            Self::Echo { pipeline } => format!("bare tonic echo, {}, TCP", how(pipeline)),
            Self::Redis { command, pipelined } => {
                let how = if pipelined { "1 connection, -P 64" } else { "64 connections" };
                let expiry = if command == RedisCommand::Set { " with EX" } else { "" };
                format!("Redis {}{expiry}, {how}, TCP", command.name().to_uppercase())
            }
            Self::OverRedis { pipeline } => {
                format!("sessiond Resolve over Redis, {}, TCP", how(pipeline))
            }
            Self::Shared { cores: 1 } => "sessiond Resolve, one core, shared".to_owned(),
            Self::Shared { cores } => format!("sessiond Resolve, {cores} cores, shared"),
            Self::Sessiond { operation, pipeline, unix } => {
                let mut name = operation.name().to_owned();
                name[..1].make_ascii_uppercase();
                let socket = if unix { "unix" } else { "TCP" };
                format!("sessiond {name}, {}, {socket}", how(pipeline))
            }
        }
    }
}

/// Two rows that are compared, and the target for their ratio.
pub(crate) struct Ratio {
    pub what: &'static str,
    pub over: Row,
    pub under: Row,
    /// The figure that is compared.
    pub of: fn(&Sample) -> f64,
    pub wanted: Wanted,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "at most {bound:.2}"),
            Self::AtLeast(bound) => write!(f, "at least {bound:.2}"),
        }
    }
}

const fn cost(what: &'static str, over: Row, under: Row, at_most: f64) -> Ratio {
    Ratio { what, over, under, of: |sample| sample.cpu_us, wanted: Wanted::AtMost(at_most) }
}

const fn two_cores(what: &'static str, of: fn(&Sample) -> f64) -> Ratio {
    let (over, under) = (Row::Shared { cores: 2 }, Row::Shared { cores: 1 });
    Ratio { what, over, under, of, wanted: Wanted::AtLeast(1.7) }
}

const fn unary(operation: Operation) -> Row {
    Row::Sessiond { operation, pipeline: false, unix: false }
}

const RESOLVE: Row = unary(Operation::Resolve);
const STREAMED: Row = Row::Sessiond { operation: Operation::Resolve, pipeline: true, unix: false };
const UNIX: Row = Row::Sessiond { operation: Operation::Resolve, pipeline: false, unix: true };
const ECHO: Row = Row::Echo { pipeline: false };
const GETEX: Row = Row::Redis { command: RedisCommand::Getex, pipelined: false };
const GETEX_P64: Row = Row::Redis { command: RedisCommand::Getex, pipelined: true };

const OVER_REDIS: Row = Row::OverRedis { pipeline: false };

pub(crate) const RATIOS: [Ratio; 10] = [
    cost("unary Resolve / bare tonic echo", RESOLVE, ECHO, 1.15),
    cost("unary Resolve / Redis GETEX", RESOLVE, GETEX, 1.3),
    cost("Pipeline Resolve / Redis GETEX -P 64", STREAMED, GETEX_P64, 1.5),
    cost("Pipeline / unary, Resolve", STREAMED, RESOLVE, 0.2),
    cost("unix socket / TCP, unary Resolve", UNIX, RESOLVE, 0.85),
    cost("Touch / Resolve, unary", unary(Operation::Touch), RESOLVE, 1.0),
    cost("Write (flushed) / Resolve, unary", unary(Operation::Write), RESOLVE, 2.5),
    cost("unary Resolve, over Redis / embedded store", OVER_REDIS, RESOLVE, 2.5),
    two_cores("two cores / one: operations per CPU second x cores", Sample::capacity),
    two_cores("two cores / one: operations per second, shared", |sample| sample.per_second),
];
