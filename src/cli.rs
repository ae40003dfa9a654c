//! The command line: parses arguments into a [`Command`] and its configuration.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use sessiond::server::config::{
    Config, ConfigError, Layers, SecretText, Sources, Span, read_layers,
};

use crate::{help, mix::Mix};

/// Web sessions for every service of an application, over gRPC.
#[derive(Parser)]
#[command(version, propagate_version = true, after_help = help::MAIN)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the daemon until SIGTERM, SIGINT or SIGQUIT; SIGHUP reloads
    #[command(after_help = help::SERVE)]
    Serve {
        #[command(flatten)]
        config: ConfigArgs,
        /// Run for a trial: loopback addresses, sessions in memory, a secret generated at start,
        /// and a cookie named "session" that works over plain HTTP
        #[arg(long)]
        dev: bool,
    },
    /// Check the configuration and print the effective values and where they come from, without
    /// secrets; or all that is wrong
    #[command(after_help = help::CHECK)]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Check what `serve --dev` would run with
        #[arg(long)]
        dev: bool,
        /// Print only the values that differ from the defaults
        #[arg(long)]
        changed: bool,
    },
    /// Print a configuration file with every key, its default and what it means
    #[command(after_help = help::CONFIG)]
    Config,
    /// Show the clock that a data directory continues from, while no daemon has it open
    #[command(after_help = help::CLOCK)]
    Clock {
        #[command(flatten)]
        config: ConfigArgs,
        /// Continue from the clock of this machine instead, if that is later; sessions whose time
        /// is over by then have ended
        #[arg(long)]
        reset: bool,
    },
    /// Generate and print a secret for signing cookies
    #[command(after_help = help::SECRET)]
    Secret,
    /// Query the health of a running daemon; exit with code 0 if it is serving
    #[command(after_help = help::HEALTH)]
    Health {
        #[command(flatten)]
        client: ClientArgs,
        /// Ask for this service only; sessiond.v1.SessionService also serves while its store
        /// takes no changes and can be read
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        service: String,
    },
    /// Show how a running daemon is: what it serves, since when, with how many sessions
    #[command(after_help = help::STATUS)]
    Status {
        #[command(flatten)]
        client: ClientArgs,
        /// Print JSON, with the metrics
        #[arg(long)]
        json: bool,
    },
    /// Watch a running daemon live: rates, latency, outcomes, sessions, store, events
    #[command(after_help = help::TOP)]
    Top {
        #[command(flatten)]
        client: ClientArgs,
        /// The time between two looks
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
        interval: Span,
    },
    /// Make a running daemon take over new secrets, tokens, certificates and its log level, and print
    /// what has changed and what needs a restart; nothing changes if anything is wrong
    #[command(after_help = help::RELOAD)]
    Reload {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove expired sessions from a running daemon now, and print how many were removed
    #[command(after_help = help::CLEANUP)]
    Cleanup {
        #[command(flatten)]
        client: ClientArgs,
        /// Clean up this engine only
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        engine: String,
    },
    /// List, count, show or revoke sessions on a running daemon
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// Export all sessions of a running daemon as lines of JSON, for `import`; with all session
    /// data, but without credentials
    #[command(after_help = help::EXPORT)]
    Export {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        args: ExportArgs,
    },
    /// Import an export into a running daemon that serves no application yet; print how many
    /// sessions were new, replaced an earlier state, existed already, or were left out
    #[command(after_help = help::IMPORT)]
    Import {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        args: ImportArgs,
    },
    /// Put load on a running daemon and print how fast it answers; creates sessions, then destroys
    /// them or lets them expire within a minute
    #[command(after_help = help::BENCH)]
    Bench {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        load: BenchArgs,
    },
    /// Print the completions of a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write the pages of all commands
    #[command(after_help = help::MAN)]
    Man {
        /// Write sessiond.1, sessiond-serve.1 and so on into this folder
        #[arg(long, value_name = "FOLDER")]
        output: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum SessionsCommand {
    /// Print the live sessions of a principal as a table
    #[command(after_help = help::LIST)]
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// The engine of the sessions; if not given, the default engine
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        engine: String,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
        /// The owner of the sessions, for example a user id
        principal: String,
    },
    /// Print how many sessions there are: the live ones of a principal, or those that are stored,
    /// expired ones included
    #[command(after_help = help::COUNT)]
    Count {
        #[command(flatten)]
        client: ClientArgs,
        /// The engine of the sessions; if not given, the default engine, or all engines if no
        /// principal is given
        #[arg(long, value_name = "NAME")]
        engine: Option<String>,
        /// The owner of the sessions, for example a user id
        principal: Option<String>,
    },
    /// Print one live session
    #[command(after_help = help::SHOW)]
    Show {
        #[command(flatten)]
        client: ClientArgs,
        /// The engine of the session; if not given, the default engine
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        engine: String,
        /// Print the session's data as well
        #[arg(long)]
        data: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The public id of the session
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
    /// Revoke sessions and print how many were live: all sessions of a principal, or those with an
    /// --id; with both, only those with an --id that belong to the principal; or --all of an engine
    #[command(after_help = help::REVOKE)]
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
        /// End all sessions of the engine, whoever they belong to; takes as long as it needs
        #[arg(long, conflicts_with_all = ["ids", "principal"])]
        all: bool,
        /// The owner of the sessions, for example a user id
        #[arg(required_unless_present_any = ["ids", "all"], default_value = "", hide_default_value = true)]
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
    /// The address of the daemon, for example localhost:50051 or unix:/run/sessiond/sessiond.sock
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<sessiond::server::config::ListenAddr>,
    /// Use TLS and trust this CA (PEM)
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The name in the certificate of the daemon; if not given, the one in --address, or localhost
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
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

fn interval(text: &str) -> Result<Span, String> {
    let interval = timeout(text)?;
    let least = Duration::from_millis(100);
    if interval.0 < least { Err("expected at least 100ms".to_owned()) } else { Ok(interval) }
}

impl ConfigArgs {
    /// Reads all layers. The first error counts.
    pub(crate) fn load(&self, dev: bool) -> Result<Config, ConfigError> {
        let Layers { config, errors, .. } = self.layers(dev);
        errors.into_iter().next().map_or(Ok(config), Err)
    }

    /// Reads all layers again. Secrets that were generated for `started` stay. The first error
    /// counts.
    pub(crate) fn load_again(&self, dev: bool, started: &Config) -> Result<Config, ConfigError> {
        let Layers { config, errors, .. } = self.read(dev, |name| match started.engine.get(name) {
            Some(engine) => engine.cookie.secrets.clone(),
            None => vec![SecretText(fresh_secret())],
        });
        errors.into_iter().next().map_or(Ok(config), Err)
    }

    /// Reads all layers, and finds all that is wrong in them.
    pub(crate) fn layers(&self, dev: bool) -> Layers {
        self.read(dev, |_| vec![SecretText(fresh_secret())])
    }

    /// With `dev`, `secrets` makes those of an engine that has none.
    fn read(&self, dev: bool, secrets: impl Fn(&str) -> Vec<SecretText>) -> Layers {
        let named = std::env::var_os("SESSIOND_CONFIG").filter(|path| !path.is_empty());
        let (mut environment, mut errors) = (Vec::new(), Vec::new());
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with("SESSIOND_")) else {
                continue;
            };
            if name == "SESSIOND_CONFIG" {
                continue;
            }
            match value.into_string() {
                Ok(value) => environment.push((name.to_owned(), value)),
                Err(_) => {
                    let source = format!("the environment variable {name}");
                    errors.push(ConfigError { source, ..ConfigError::new("", "expected UTF-8") });
                }
            }
        }
        let mut layers = read_layers(Sources {
            defaults: if dev { Config::dev() } else { Config::defaults() },
            file: self.config.clone().or(named.map(PathBuf::from)),
            environment,
            settings: self.settings.clone(),
        });
        if dev {
            give_secrets(&mut layers.config, secrets);
        }
        errors.append(&mut layers.errors);
        Layers { errors, ..layers }
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
