//! sessiond: arguments, then configuration, then a server, then an exit code.

use std::{io::Write, process::ExitCode, sync::Arc};

use clap::Parser;
use sessiond::server::{
    Addresses, Server, StartError, Surroundings,
    config::{self, Backend, Config, ConfigError, ListenAddr},
    log,
    system::{SystemClock, SystemEntropy},
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

use self::cli::{Cli, Command};

mod cli;
mod client;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// sysexits.h: EX_USAGE and EX_CONFIG.
const WRONG_USAGE: u8 = 64;
const BAD_CONFIGURATION: u8 = 78;
const FAULT: u8 = 1;

/// Threads that may wait for the disk at a time.
const BLOCKING_THREADS: usize = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also how --help and --version end.
            let _ = error.print();
            return if error.use_stderr() { WRONG_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, problem)) => {
            eprintln!("sessiond: {problem}");
            code.into()
        }
    }
}

type Failure = (u8, String);

fn run(command: Command) -> Result<(), Failure> {
    let bad_config = |error: ConfigError| (BAD_CONFIGURATION, error.to_string());
    let fault = |problem: String| (FAULT, problem);
    match command {
        Command::Serve { config, dev } => serve(config.load(dev).map_err(bad_config)?, dev),
        Command::Check { config, dev } => {
            let config = config.load(dev).map_err(bad_config)?;
            for warning in config::check(&config).map_err(bad_config)?.warnings {
                eprintln!("sessiond: warning: {warning}");
            }
            print(&config.to_toml())
        }
        Command::Secret => print(&format!("{}\n", cli::fresh_secret())),
        Command::Health { client } => {
            one_thread()?.block_on(client::health(client)).map_err(fault)?;
            print("SERVING\n")
        }
        Command::Cleanup { client, engine } => {
            let removed = one_thread()?.block_on(client::cleanup(client, engine)).map_err(fault)?;
            print(&format!("{removed}\n"))
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| (FAULT, format!("can not write to standard output: {error}")))
}

fn serve(config: Config, dev: bool) -> Result<(), Failure> {
    log::start(&config.log);
    if dev {
        let kept = match config.store.backend {
            Backend::Memory => "sessions are gone when it stops",
            Backend::Sled => "sessions are kept, but the secret is not",
        };
        tracing::warn!(
            "running with --dev, not for production: {kept}, and the cookie works over plain HTTP"
        );
    }
    let runtime = server_runtime(&config)?;
    let served = runtime.block_on(async {
        // Before the store is opened: from here on a stop is a clean stop.
        let stop = StopSignals::new().map_err(|error| (FAULT, error.to_string()))?;
        let surroundings = Surroundings {
            clock: Arc::new(SystemClock::start()),
            entropy: Arc::new(SystemEntropy),
        };
        let server = Server::build(config, surroundings).await.map_err(|error| match error {
            StartError::Config(error) => (BAD_CONFIGURATION, error.to_string()),
            error => (FAULT, error.to_string()),
        })?;
        print(&ready_line(&server.addresses()))?;
        server.run(stop.first()).await;
        Ok(())
    });
    // Waits for what is still with the store, which is then flushed and closed.
    drop(runtime);
    served.inspect(|()| tracing::info!("stopped"))
}

/// What `serve` prints when it serves: one line, `key=address[,address]` each.
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

/// SIGTERM and SIGINT. The first asks for a clean stop, the second for an end.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn first(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("stopped at once by a second signal");
            std::process::exit(FAULT.into());
        });
    }
}

fn server_runtime(config: &Config) -> Result<Runtime, Failure> {
    let threads = match config.runtime.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads as usize,
    };
    if threads == 1 {
        return one_thread();
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name("sessiond-worker");
    build(builder)
}

fn one_thread() -> Result<Runtime, Failure> {
    build(Builder::new_current_thread())
}

fn build(mut builder: Builder) -> Result<Runtime, Failure> {
    let runtime = builder.max_blocking_threads(BLOCKING_THREADS).enable_all().build();
    runtime.map_err(|error| (FAULT, format!("the runtime can not start: {error}")))
}
