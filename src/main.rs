//! The program: reads the arguments and the configuration, runs a command, returns an exit code.

use std::{
    io::Write,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Parser;
use sessiond::{
    grpc::pb::ReloadResponse,
    server::{
        Addresses, Server, StartError, Surroundings,
        clock::SystemClock,
        config::{Config, ConfigError, Layers, ListenAddr},
        log,
        reload::ConfigSource,
        system::{
            SystemEntropy, keep_little_freed_memory, keep_memory_out_of_core_dumps,
            raise_descriptor_limit,
        },
        time_mark::{self, MarkError, Marked},
    },
    service::reload::{Reload, Trigger},
};
use tokio::runtime::{Builder, Runtime};

use self::{
    cli::{Cli, Command, ConfigArgs},
    signals::Signals,
};

mod bench;
mod check;
mod cli;
mod client;
mod help;
mod manual;
mod mix;
mod openmetrics;
mod reached;
mod sessions;
mod signals;
mod status;
mod table;
mod top;
mod transfer;

// sysexits.h: EX_USAGE and EX_CONFIG.
const WRONG_USAGE: u8 = 64;
const BAD_CONFIGURATION: u8 = 78;
const FAULT: u8 = 1;

/// How long the shutdown waits for blocking system calls that cannot be cancelled: a
/// DNS lookup of a Redis host that nobody answers, or a time mark on a disk that hangs.
const LAST_CALLS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version come here too, as errors for standard output.
            let _ = error.print();
            return if error.use_stderr() { WRONG_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, problems }) => {
            for problem in problems {
                eprintln!("sessiond: {problem}");
            }
            code.into()
        }
    }
}

/// Why a command has failed.
struct Failure {
    code: u8,
    problems: Vec<String>,
}

impl Failure {
    fn fault(problem: impl ToString) -> Self {
        Self { code: FAULT, problems: vec![problem.to_string()] }
    }

    fn configuration(errors: Vec<ConfigError>) -> Self {
        let problems = errors.iter().map(ConfigError::to_string).collect();
        Self { code: BAD_CONFIGURATION, problems }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    let bad_config = |error: ConfigError| Failure::configuration(vec![error]);
    let fault = |problem: String| Failure::fault(problem);
    match command {
        Command::Serve { config, dev } => {
            let Layers { config: loaded, errors, .. } = config.layers(dev);
            if errors.is_empty() {
                serve(config, loaded, dev)
            } else {
                Err(Failure::configuration(errors))
            }
        }
        Command::Check { config, dev, changed } => {
            let layers = config.layers(dev);
            let checked = check::check(&layers).map_err(Failure::configuration)?;
            let advice = if dev { &[][..] } else { &checked.advice };
            for warning in checked.warnings.iter().chain(advice) {
                eprintln!("sessiond: warning: {warning}");
            }
            // As comments, because the rest can be used as a file.
            let secrets = checked.secrets.iter().map(|line| format!("# {line}\n"));
            print(&(secrets.collect::<String>() + &check::shown(&layers, changed)))
        }
        Command::Config => print(include_str!("../config/sessiond.toml")),
        Command::Clock { config, reset } => {
            let config = config.load(false).map_err(bad_config)?;
            let marked = one_thread()?.block_on(async {
                match reset {
                    false => time_mark::show(&config).await,
                    true => time_mark::reset(&config).await,
                }
            });
            let marked = marked.map_err(|error| match error {
                MarkError::Config(error) => bad_config(error),
                error => fault(error.to_string()),
            })?;
            print(&clock_line(&marked))
        }
        Command::Secret => print(&format!("{}\n", cli::fresh_secret())),
        Command::Health { client, service } => {
            let called = client::Caller::health(client).map_err(bad_config)?;
            one_thread()?.block_on(called.ask_health(service)).map_err(fault)?;
            print("SERVING\n")
        }
        Command::Reload { client } => {
            let called = client::Caller::admin(client).map_err(bad_config)?;
            let done = one_thread()?.block_on(called.reload()).map_err(fault)?;
            print(&reloaded_lines(&done))
        }
        Command::Cleanup { client, engine } => {
            let called = client::Caller::admin(client).map_err(bad_config)?;
            let removed = one_thread()?.block_on(called.sweep(engine)).map_err(fault)?;
            print(&format!("{removed}\n"))
        }
        Command::Sessions(command) => {
            let called = client::Caller::admin(command.client()).map_err(bad_config)?;
            let text = one_thread()?.block_on(sessions::run(&called, command)).map_err(fault)?;
            print(&text)
        }
        Command::Status { client, json } => {
            let called = client::Caller::admin(client).map_err(bad_config)?;
            let status = one_thread()?.block_on(called.status()).map_err(fault)?;
            print(&if json { status::json(&status) } else { status::text(&status) })
        }
        Command::Top { client, interval } => {
            let called = client::Caller::admin(client).map_err(bad_config)?;
            one_thread()?.block_on(top::run(&called, interval.0)).map_err(fault)
        }
        Command::Completions { shell } => print(&manual::completions(shell)),
        Command::Man { output: None } => print(&manual::page().map_err(Failure::fault)?),
        Command::Man { output: Some(folder) } => manual::write(&folder).map_err(fault),
        Command::Export { client, args } => {
            let called = client::Caller::admin(client).map_err(bad_config)?;
            let done = one_thread()?.block_on(transfer::export(&called, &args)).map_err(fault)?;
            // Standard output may carry the export itself.
            eprintln!("sessiond: {done}");
            Ok(())
        }
        Command::Import { client, args } => {
            let called = client::Caller::admin(client).map_err(bad_config)?;
            let done = one_thread()?.block_on(transfer::import(&called, &args)).map_err(fault)?;
            print(&format!("{done}\n"))
        }
        Command::Bench { client, load } => {
            let called = client::Caller::sessions(client).map_err(bad_config)?;
            one_thread()?.block_on(bench::run(&called, &load)).map_err(fault)
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        // Whoever reads has seen enough, such as `head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::fault(format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// A line for each change, and one for what needs a restart.
fn reloaded_lines(done: &ReloadResponse) -> String {
    let mut lines = done.changed.clone();
    if lines.is_empty() {
        lines.push("nothing has changed".to_owned());
    }
    if !done.restart_keys.is_empty() {
        lines.push(format!("needs a restart: {}", done.restart_keys.join(", ")));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// `session_clock=TIME wall_clock=TIME since_mark=SPAN`.
fn clock_line(marked: &Marked) -> String {
    let time = |millis: u64| {
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    };
    let elapsed = marked.elapsed.map(|elapsed| Duration::from_secs(elapsed.as_secs()));
    let elapsed =
        elapsed.map_or("unknown".to_owned(), |span| humantime::format_duration(span).to_string());
    format!(
        "session_clock={} wall_clock={} since_mark={}\n",
        time(marked.now.unix_millis()),
        time(marked.wall.unix_millis()),
        elapsed.replace(' ', "")
    )
}

fn serve(arguments: ConfigArgs, config: Config, dev: bool) -> Result<(), Failure> {
    keep_little_freed_memory();
    let level = log::start(&config.log);
    if dev {
        let kept = if config.store.backend.kind().outlives_a_stop {
            "sessions are kept, but a secret generated at start is not"
        } else {
            "sessions are lost when the daemon stops"
        };
        tracing::warn!("running with --dev, not for production: {kept}");
    }
    if let Err(problem) = keep_memory_out_of_core_dumps() {
        tracing::warn!("a core dump of the daemon may hold secrets and sessions: {problem}");
    }
    let unix = |address: &ListenAddr| matches!(address, ListenAddr::Unix(_));
    let both = config.listen.grpc.iter().any(unix) && !config.listen.grpc.iter().all(unix);
    let times = if both { 2 } else { 1 };
    if let Err(problem) = raise_descriptor_limit(config.limits.max_connections, times) {
        tracing::warn!("{problem}");
    }
    // Before the store is opened, so that every stop from here on is a clean one.
    let Signals { stop, mut reload } = signals::listen().map_err(Failure::fault)?;
    // This thread accepts connections and sweeps. The server has its own threads for requests.
    let runtime = one_thread()?;
    let served = runtime.block_on(async {
        let surroundings = Surroundings {
            clock: Arc::new(SystemClock::start()),
            entropy: Arc::new(SystemEntropy),
        };
        let started = config.clone();
        let server = Server::build(config, surroundings).await.map_err(|error| match error {
            StartError::Config(error) => Failure::configuration(vec![error]),
            error => Failure::fault(error),
        })?;
        let server = server.reloading_from(ConfigSource {
            load: Box::new(move || arguments.load_again(dev, &started)),
            set_log_level: Box::new(move |new| level.set(new)),
        });
        // A trial is told once that it is one.
        for advice in if dev { &[] } else { server.advice() } {
            tracing::warn!("{advice}");
        }
        print(&ready_line(&server.addresses()))?;
        let reloader = server.reloader();
        tokio::spawn(async move {
            while reload.recv().await.is_some() {
                // The daemon has logged what came of it.
                let _ = reloader.reload(Trigger::Signal).await;
            }
        });
        let stop = async {
            // An error would mean that the signal thread has ended. It never does.
            let _ = stop.await;
        };
        server.run(stop).await.map_err(Failure::fault)
    });
    // The store was synced inside `run`. The tasks hold the last handles of the store:
    // dropping the last handle waits until the store is flushed and closed.
    runtime.shutdown_timeout(LAST_CALLS);
    served.inspect(|()| tracing::info!("stopped"))
}

/// The line that `serve` prints when it is ready: a `key=address[,address]` for each
/// kind of listener.
fn ready_line(addresses: &Addresses) -> String {
    let list = |name: &str, addresses: &[ListenAddr]| {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        if addresses.is_empty() {
            String::new()
        } else {
            format!(" {name}={}", addresses.join(","))
        }
    };
    format!(
        "sessiond {} ready:{}{}{}\n",
        env!("CARGO_PKG_VERSION"),
        list("grpc", &addresses.grpc),
        list("admin", &addresses.admin),
        list("metrics", addresses.metrics.as_slice()),
    )
}

fn one_thread() -> Result<Runtime, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::fault(format!("the runtime cannot start: {error}")))
}
