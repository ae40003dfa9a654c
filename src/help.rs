//! The examples below the help of each command.

pub(crate) const MAIN: &str = "\
Begin:
  sessiond serve --dev                      a daemon for a trial, nothing to configure
  sessiond config > sessiond.toml           a configuration file with every key
  sessiond check --config sessiond.toml     what is in force, or all that is wrong

Exit codes: 0 done or stopped cleanly, 1 a fault, 64 wrong usage, 78 bad configuration.";

pub(crate) const SERVE: &str = "\
Examples:
  sessiond serve --dev
  sessiond serve --config /etc/sessiond/sessiond.toml
  sessiond serve --set store.backend=memory --set engine.default.cookie.secret_file=secret";

pub(crate) const CHECK: &str = "\
Examples:
  sessiond check --config /etc/sessiond/sessiond.toml
  sessiond check --changed                  only what differs from the defaults";

pub(crate) const CONFIG: &str = "\
Example:
  sessiond config > /etc/sessiond/sessiond.toml";

pub(crate) const CLOCK: &str = "\
Example:
  sessiond clock --config /etc/sessiond/sessiond.toml";

pub(crate) const SECRET: &str = "\
Example:
  (umask 077; sessiond secret > /etc/sessiond/cookie-secret)";

pub(crate) const HEALTH: &str = "\
Examples:
  sessiond health
  sessiond health --address unix:/run/sessiond/sessiond.sock
  sessiond health --address sessions.internal:50051 --ca-file ca.pem";

pub(crate) const RELOAD: &str = "\
Example:
  sessiond reload --config /etc/sessiond/sessiond.toml";

pub(crate) const STATUS: &str = "\
Examples:
  sessiond status
  sessiond status --address localhost:50052
  sessiond status --json";

pub(crate) const TOP: &str = "\
Keys: q ends it, p pauses, + and - change the interval.

Examples:
  sessiond top
  sessiond top --address localhost:50052 --interval 500ms";

pub(crate) const CLEANUP: &str = "\
Examples:
  sessiond cleanup
  sessiond cleanup --engine shop";

pub(crate) const LIST: &str = "\
Examples:
  sessiond sessions list ann
  sessiond sessions list --json ann         one JSON object per line";

pub(crate) const COUNT: &str = "\
Examples:
  sessiond sessions count                   each engine and what it has stored
  sessiond sessions count --engine shop     the number alone
  sessiond sessions count ann               the live sessions of ann";

pub(crate) const SHOW: &str = "\
Examples:
  sessiond sessions show Zq3oXk2nT0aVb9Lw
  sessiond sessions show --data --json Zq3oXk2nT0aVb9Lw";

pub(crate) const REVOKE: &str = "\
Examples:
  sessiond sessions revoke ann
  sessiond sessions revoke --id Zq3oXk2nT0aVb9Lw
  sessiond sessions revoke --all --engine shop";

pub(crate) const EXPORT: &str = "\
Example:
  sessiond export --output sessions.jsonl";

pub(crate) const IMPORT: &str = "\
Example:
  sessiond import --input sessions.jsonl --address localhost:50052";

pub(crate) const BENCH: &str = "\
Example:
  sessiond bench --pipeline --mix resolve=9,write=1";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  sessiond completions bash > /usr/share/bash-completion/completions/sessiond
  sessiond completions zsh > \"${fpath[1]}/_sessiond\"
  sessiond completions fish > ~/.config/fish/completions/sessiond.fish";

pub(crate) const MAN: &str = "\
Examples:
  sessiond man | man -l -
  sessiond man --output /usr/local/share/man/man1";
