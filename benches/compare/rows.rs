//! What is compared: the rows of the table, and the ratios between them.

use std::time::Duration;

use serde::Serialize;

use super::redis::RedisCommand;

/// What one round gave for one row.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// CPU of the server for each operation.
    pub cpu_us: f64,
    pub per_second: f64,
    /// The cores that the server had busy.
    pub busy: f64,
}

impl Sample {
    pub fn new(operations: u64, cpu: Duration, seconds: f64) -> Self {
        let (operations, cpu) = (operations as f64, cpu.as_secs_f64());
        Self {
            cpu_us: cpu * 1e6 / operations,
            per_second: operations / seconds,
            busy: cpu / seconds,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    Resolve,
    Touch,
    Write,
    Create,
}

impl Operation {
    pub const ALL: [Self; 4] = [Self::Resolve, Self::Touch, Self::Write, Self::Create];

    /// Also what `sessiond bench --mix` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Touch => "touch",
            Self::Write => "write",
            Self::Create => "create",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Row {
    Echo { pipeline: bool },
    Redis { command: RedisCommand, pipelined: bool },
    Sessiond { operation: Operation, pipeline: bool, unix: bool },
}

impl Row {
    pub fn all() -> Vec<Self> {
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
        rows
    }

    /// What `--only` calls it.
    pub fn name(self) -> String {
        let with = |name: &str, suffixes: &[(bool, &str)]| {
            let suffixes = suffixes.iter().filter(|(there, _)| *there).map(|(_, suffix)| *suffix);
            name.to_owned() + &suffixes.collect::<String>()
        };
        match self {
            Self::Echo { pipeline } => with("echo", &[(pipeline, "-pipeline")]),
            Self::Redis { command, pipelined } => with(command.name(), &[(pipelined, "-p64")]),
            Self::Sessiond { operation, pipeline, unix } => {
                with(operation.name(), &[(pipeline, "-pipeline"), (unix, "-unix")])
            }
        }
    }

    pub fn what(self) -> String {
        let how = |pipeline| if pipeline { "one stream" } else { "unary" };
        match self {
            Self::Echo { pipeline } => format!("bare tonic echo, {}, TCP", how(pipeline)),
            Self::Redis { command, pipelined } => {
                let how = if pipelined { "1 connection, -P 64" } else { "64 connections" };
                let expiry = if command == RedisCommand::Set { " with EX" } else { "" };
                format!("Redis {}{expiry}, {how}, TCP", command.name().to_uppercase())
            }
            Self::Sessiond { operation, pipeline, unix } => {
                let mut name = operation.name().to_owned();
                name[..1].make_ascii_uppercase();
                let socket = if unix { "unix" } else { "TCP" };
                format!("sessiond {name}, {}, {socket}", how(pipeline))
            }
        }
    }
}

/// Two rows whose costs are compared, and how far apart they may be.
pub struct Ratio {
    pub what: &'static str,
    pub over: Row,
    pub under: Row,
    pub at_most: f64,
}

const fn sessiond(operation: Operation) -> Row {
    Row::Sessiond { operation, pipeline: false, unix: false }
}

const fn redis(pipelined: bool) -> Row {
    Row::Redis { command: RedisCommand::Getex, pipelined }
}

const RESOLVE: Row = sessiond(Operation::Resolve);
const STREAMED: Row = Row::Sessiond { operation: Operation::Resolve, pipeline: true, unix: false };

pub const RATIOS: [Ratio; 7] = [
    Ratio {
        what: "unary Resolve / bare tonic echo",
        over: RESOLVE,
        under: Row::Echo { pipeline: false },
        at_most: 1.15,
    },
    Ratio { what: "unary Resolve / Redis GETEX", over: RESOLVE, under: redis(false), at_most: 1.3 },
    Ratio {
        what: "Pipeline Resolve / Redis GETEX -P 64",
        over: STREAMED,
        under: redis(true),
        at_most: 1.5,
    },
    Ratio { what: "Pipeline / unary Resolve", over: STREAMED, under: RESOLVE, at_most: 0.2 },
    Ratio {
        what: "unix socket / TCP, unary Resolve",
        over: Row::Sessiond { operation: Operation::Resolve, pipeline: false, unix: true },
        under: RESOLVE,
        at_most: 0.85,
    },
    Ratio {
        what: "Touch / Resolve, unary",
        over: sessiond(Operation::Touch),
        under: RESOLVE,
        at_most: 1.0,
    },
    Ratio {
        what: "Write (flushed) / Resolve, unary",
        over: sessiond(Operation::Write),
        under: RESOLVE,
        at_most: 2.5,
    },
];
