//! What an operation costs the server, compared with what a team would use instead: `cargo
//! bench --bench compare`
//!
//! Interleaved rounds in one run measure sessiond, a bare tonic echo with the same messages,
//! and Redis, each on one core with its generator on another one. The output has the CPU time
//! of the server for each operation (medians over the rounds) and the ratios, each with its
//! target. The generator reads the CPU time at the first and the last instant of its
//! measurement. So the work before and after the measurement is not counted, and neither is
//! idle time.
//!
//! | file | holds |
//! |---|---|
//! | [`rows`] | what is compared with what |
//! | [`bed`] | the servers, and the load on them |
//! | [`echo`], [`redis`] | the two peers |
//! | [`report`] | the tables |

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod echo;
mod redis;
mod report;
mod rows;

use bed::Bed;
use report::Report;
use rows::Row;
use support::{Problem, daemon, machine};

/// Compares the server's CPU time for each operation: sessiond, a bare tonic echo, Redis.
#[derive(Parser)]
struct Args {
    /// How many times each row is measured, in turn with the others
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement takes, warm-up aside
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds: f64,
    /// Measure these rows only, such as resolve,resolve-pipeline,echo; a name may end in *
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    only: Vec<String>,
    /// Measure this binary; otherwise `cargo build --profile dist` makes one
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Measure another binary in turn with it, such as that of an earlier version, and compare
    /// the two
    #[arg(long, value_name = "PATH")]
    beside: Option<PathBuf>,
    /// Load the servers with this binary's `sessiond bench`; otherwise with the one of this
    /// build
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_sessiond"))]
    generator: PathBuf,
    /// The number of sessions, and of keys in Redis
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sessions: u32,
    /// Print JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print Markdown
    #[arg(long)]
    markdown: bool,
    /// Passed by `cargo bench`; ignored
    #[arg(long, hide = true)]
    bench: bool,
    /// Run as the echo server
    #[arg(long = "serve-echo", hide = true, value_name = "FILE")]
    serve_echo: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.serve_echo {
        Some(answer) => echo::serve(answer),
        None => compare(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("compare: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> Result<(), Problem> {
    let mut rows = chosen(&args.only)?;
    let mut notes = Vec::new();
    if let Some(missing) = redis::missing() {
        rows.retain(|row| !row.needs_redis());
        notes.push(missing);
    }
    if machine::cores().len() < 2 {
        rows.retain(|row| !matches!(row, Row::Shared { .. }));
        notes.push("only one core: the rows with two cores are left out".to_owned());
    }
    let seconds = Duration::try_from_secs_f64(args.seconds);
    let seconds = seconds.map_err(|_| "--seconds: expected a number such as 2 or 0.5")?;
    let server = args.server.clone().map_or_else(daemon::shipped, Ok)?;
    let mut bed = Bed::new(args, server, &rows, seconds)?;
    let mut beside = match &args.beside {
        None => None,
        Some(other) => {
            let rows: Vec<_> = rows.iter().copied().filter(Row::needs_sessiond).collect();
            Some((Bed::new(args, other.clone(), &rows, seconds)?, rows))
        }
    };
    let mut report = Report::new(args, bed.notes().chain(notes).collect());
    for round in 1..=args.rounds {
        for row in &rows {
            eprintln!("round {round} of {}: {}", args.rounds, row.what());
            let named = |problem| format!("{}: {problem}", row.name());
            let other = match &mut beside {
                Some((bed, rows)) if rows.contains(row) => Some(bed),
                _ => None,
            };
            // Each of the two goes first in every second round.
            let is_first = round % 2 == 1;
            match other {
                None => report.add(*row, bed.measure(*row).map_err(named)?),
                Some(other) if is_first => {
                    report.add(*row, bed.measure(*row).map_err(named)?);
                    report.add_beside(*row, other.measure(*row).map_err(named)?);
                }
                Some(other) => {
                    report.add_beside(*row, other.measure(*row).map_err(named)?);
                    report.add(*row, bed.measure(*row).map_err(named)?);
                }
            }
        }
    }
    report.print(args)
}

/// The rows that `--only` names, or all rows without it.
fn chosen(only: &[String]) -> Result<Vec<Row>, Problem> {
    let all = Row::all();
    let names = |name: &String, row: &Row| match name.strip_suffix('*') {
        Some(start) => row.name().starts_with(start),
        None => row.name() == *name,
    };
    if let Some(unknown) = only.iter().find(|name| !all.iter().any(|row| names(name, row))) {
        let known: Vec<_> = all.iter().map(|row| row.name()).collect();
        return Err(format!("--only: there is no row {unknown}; expected {}", known.join(", ")));
    }
    let chosen = |row: &Row| only.is_empty() || only.iter().any(|name| names(name, row));
    Ok(all.into_iter().filter(chosen).collect())
}
