//! The command line: parses arguments into a [`Command`] and its configuration.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use sessiond::server::config::{Config, ConfigError, SecretText, Sources, Span, load};

use crate::mix::Mix;

/// Web sessions for every service of an application, over gRPC.
#[derive(Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done or stopped cleanly, 1 a fault, 64 wrong usage, 78 bad configuration.";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the daemon until SIGTERM, SIGINT or SIGQUIT; SIGHUP reloads
    Serve {
        #[command(flatten)]
        config: ConfigArgs,
        /// Run for a trial: loopback addresses, sessions in memory, a secret generated at start,
        /// and a cookie named "session" that works over plain HTTP
        #[arg(long)]
        dev: bool,
    },
    /// Check the configuration and print the effective values, without secrets
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Check what `serve --dev` would run with
        #[arg(long)]
        dev: bool,
    },
    /// Show the clock that a data directory continues from, while no daemon has it open
    Clock {
        #[command(flatten)]
        config: ConfigArgs,
        /// Continue from the clock of this machine instead, if that is later; sessions whose time
        /// is over by then have ended
        #[arg(long)]
        reset: bool,
    },
    /// Generate and print a secret for signing cookies
    Secret,
    /// Query the health of a running daemon; exit with code 0 if it is serving
    Health {
        #[command(flatten)]
        client: ClientArgs,
        /// Ask for this service only; sessiond.v1.SessionService also serves while its store
        /// takes no changes and can be read
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        service: String,
    },
    /// Make a running daemon take over new secrets, tokens, certificates and its log level, and print
    /// what has changed and what needs a restart; nothing changes if anything is wrong
    Reload {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove expired sessions from a running daemon now, and print how many were removed
    Cleanup {
        #[command(flatten)]
        client: ClientArgs,
        /// Clean up this engine only
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        engine: String,
    },
    /// List or revoke the sessions of a principal on a running daemon
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// Export all sessions of a running daemon as lines of JSON, for `import`; with all session
    /// data, but without credentials
    Export {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        args: ExportArgs,
    },
    /// Import an export into a running daemon that serves no application yet; print how many
    /// sessions were new, replaced an earlier state, existed already, or were left out
    Import {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        args: ImportArgs,
    },
    /// Put load on a running daemon and print how fast it answers; creates sessions, then destroys
    /// them or lets them expire within a minute
    Bench {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        load: BenchArgs,
    },
}

#[derive(Subcommand)]
pub(crate) enum SessionsCommand {
    /// Print the live sessions of a principal, one per line: id, creation time, expiry time
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// The engine of the sessions; if not given, the default engine
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        engine: String,
        /// The owner of the sessions, for example a user id
        principal: String,
    },
    /// Revoke sessions and print how many were live: all sessions of a principal, or those with an
    /// --id; with both, only those with an --id that belong to the principal
    Revoke {
        #[command(flatten)]
        client: ClientArgs,
        /// The engine of the sessions; if not given, the default engine
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        engine: String,
        /// The public id of a session; can be repeated
        // One in 64 ids begins with "-".
        #[arg(long = "id", value_name = "ID", allow_hyphen_values = true)]
        ids: Vec<String>,
        /// The owner of the sessions, for example a user id
        #[arg(required_unless_present = "ids", default_value = "", hide_default_value = true)]
        principal: String,
    },
}

/// The sources of the configuration. Later ones win: defaults, the file, the
/// environment (SESSIOND_LISTEN__GRPC=...), --set.
#[derive(Args, Clone)]
pub(crate) struct ConfigArgs {
    /// Read this TOML file [env: SESSIOND_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key, for example --set engine.default.duration=12h; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub settings: Vec<(String, String)>,
}

/// Which daemon to call, and how. The configuration that `serve` would read gives the
/// values that are missing here.
#[derive(Args, Clone)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The address of the daemon, for example 127.0.0.1:50051 or unix:/run/sessiond/sessiond.sock
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<sessiond::server::config::ListenAddr>,
    /// Use TLS and trust this CA (PEM)
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The name in the certificate of the daemon
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub server_name: String,
    /// The client certificate, if the daemon requires one (PEM)
    #[arg(long, value_name = "FILE", requires = "client_key_file")]
    pub client_cert_file: Option<PathBuf>,
    /// The private key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert_file")]
    pub client_key_file: Option<PathBuf>,
    /// Send the first bearer token in this file that has the role for the call
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The longest time to wait for the connection, and for the answer to each call
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    pub timeout: Span,
}

/// What to export, and where to write it.
#[derive(Args)]
pub(crate) struct ExportArgs {
    /// Export this engine only
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub engine: String,
    /// Write to this new file, readable only by its owner, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Resume an interrupted export in the --output file
    #[arg(long, requires = "output")]
    pub resume: bool,
    /// Continue an interrupted export after this cursor
    #[arg(long, value_name = "CURSOR", conflicts_with = "resume")]
    pub after: Option<String>,
}

/// What to import.
#[derive(Args)]
pub(crate) struct ImportArgs {
    /// Read this file instead of standard input
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Skip the lines before this one; an interrupted import prints the number
    #[arg(long, value_name = "NUMBER", default_value_t = 1, hide_default_value = true, value_parser = number(1, u64::MAX))]
    pub from_line: u64,
    /// After a complete import, end the sessions of the exported engines that were created before
    /// the export began and are not in it: they came with an earlier export and have ended since
    #[arg(long, conflicts_with = "from_line")]
    pub mirror: bool,
}

/// The load, and how long to measure it.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// The engine of the sessions; if not given, the default engine
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub engine: String,
    /// The relative shares of resolve, touch, write and create
    #[arg(long, value_name = "SHARES", default_value = "resolve=1")]
    pub mix: Mix,
    /// The number of connections to the daemon
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = number(1, 1024))]
    pub connections: u64,
    /// The number of operations in flight, across all connections
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = number(1, 65_536))]
    pub in_flight: u64,
    /// Use one Pipeline stream per connection instead of unary calls
    #[arg(long)]
    pub pipeline: bool,
    /// The number of sessions to create, and to pick from at random
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = number(1, 10_000_000))]
    pub sessions: u64,
    /// The size of the data of each session
    #[arg(long, value_name = "BYTES", default_value_t = 400, value_parser = number(8, 1 << 30))]
    pub data_bytes: u64,
    /// Present the Cookie headers of this file, one per line, instead of creating sessions
    #[arg(long, value_name = "FILE", conflicts_with = "sessions")]
    pub cookies: Option<PathBuf>,
    /// Print the CPU time per operation of this process: the daemon, on this machine
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpu_of: Option<u32>,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout)]
    pub duration: Span,
    /// How long to warm up before measuring
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = timeout)]
    pub warm_up: Span,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn number(least: u64, most: u64) -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(least..=most)
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as engine.default.duration=12h".to_owned()),
    }
}

fn timeout(text: &str) -> Result<Span, String> {
    let timeout = text.parse::<Span>().map_err(|unfit| unfit.to_string())?;
    let most = Span::secs(24 * 60 * 60);
    if timeout.0 > most.0 { Err(format!("expected at most {most}")) } else { Ok(timeout) }
}

impl ConfigArgs {
    /// Reads all layers.
    pub(crate) fn load(&self, dev: bool) -> Result<Config, ConfigError> {
        let mut config = self.layers(dev)?;
        if dev {
            give_secrets(&mut config, |_| vec![SecretText(fresh_secret())]);
        }
        Ok(config)
    }

    /// Reads all layers again. Secrets that were generated for `started` stay.
    pub(crate) fn load_again(&self, dev: bool, started: &Config) -> Result<Config, ConfigError> {
        let mut config = self.layers(dev)?;
        if dev {
            give_secrets(&mut config, |name| match started.engine.get(name) {
                Some(engine) => engine.cookie.secrets.clone(),
                None => vec![SecretText(fresh_secret())],
            });
        }
        Ok(config)
    }

    fn layers(&self, dev: bool) -> Result<Config, ConfigError> {
        let named = std::env::var_os("SESSIOND_CONFIG").filter(|path| !path.is_empty());
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with("SESSIOND_")) else {
                continue;
            };
            let value = value.into_string().map_err(|_| {
                let source = format!("the environment variable {name}");
                ConfigError { source, ..ConfigError::new("", "expected UTF-8") }
            });
            if name != "SESSIOND_CONFIG" {
                environment.push((name.to_owned(), value?));
            }
        }
        load(Sources {
            defaults: if dev { Config::dev() } else { Config::defaults() },
            file: self.config.clone().or(named.map(PathBuf::from)),
            environment,
            settings: self.settings.clone(),
        })
    }
}

/// Gives secrets to each engine that has none. `of` makes those of the engine with this name.
fn give_secrets(config: &mut Config, of: impl Fn(&str) -> Vec<SecretText>) {
    for (name, engine) in &mut config.engine {
        let cookie = &mut engine.cookie;
        if cookie.secrets.is_empty() && cookie.secret_file.as_os_str().is_empty() {
            cookie.secrets = of(name);
        }
    }
}

/// 32 random bytes as 43 characters of base64url.
pub(crate) fn fresh_secret() -> String {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use sessiond::session::id::Entropy;
    let mut bytes = [0; 32];
    sessiond::server::system::SystemEntropy.fill(&mut bytes);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_begin_with_a_hyphen() {
        let arguments =
            ["sessiond", "sessions", "revoke", "--id", "-YxDhj-94Vk9e8GS", "--id=--", "ann"];
        let parsed = Cli::try_parse_from(arguments).map(drop);
        assert!(parsed.is_ok(), "expected an id that begins with a hyphen to be taken: {parsed:?}");
    }
}
