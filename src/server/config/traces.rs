//! `[traces]`: where spans go, and which are recorded.

use std::path::PathBuf;

use http::Uri;
use serde::{Deserialize, Serialize};
use tonic::{
    metadata::{AsciiMetadataKey, MetadataMap},
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use super::{ConfigError, files, reading};
use crate::server::traces::TraceOptions;

/// `[traces]`: OpenTelemetry traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// The collector, which takes OTLP over gRPC: `http://HOST:PORT` or `https://HOST:PORT`.
    /// Empty: nothing is recorded.
    pub endpoint: String,
    /// The share of the traces that begin in the daemon and are recorded, from 0 to 1.
    pub ratio: f64,
    /// The name under which the daemon is found.
    pub service_name: String,
    /// `KEY=VALUE`, more about the daemon.
    pub attributes: Vec<String>,
    /// `NAME=VALUE` on each line: headers of each export, such as a token. Empty: none.
    pub headers_file: PathBuf,
    /// The CA of the collector's certificate. Empty: those that the system trusts.
    pub ca_file: PathBuf,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            ratio: 0.01,
            service_name: "sessiond".to_owned(),
            attributes: Vec::new(),
            headers_file: PathBuf::new(),
            ca_file: PathBuf::new(),
        }
    }
}

const EXPECTED_ENDPOINT: &str = "expected a collector that takes OTLP over gRPC, such as \
    \"http://127.0.0.1:4317\" or \"https://collector.example.com:4317\", without a path";

/// Reads the files. `None`: nothing is recorded.
pub(super) fn check(traces: &TracesConfig) -> Result<Option<TraceOptions>, ConfigError> {
    if !(0.0..=1.0).contains(&traces.ratio) {
        let problem = format!("expected a number from 0 to 1, found {}", traces.ratio);
        return Err(ConfigError::new("traces.ratio", problem));
    }
    if traces.service_name.is_empty() {
        return Err(ConfigError::new("traces.service_name", "expected a name"));
    }
    let attributes = attributes(traces)?;
    if traces.endpoint.is_empty() {
        return Ok(None);
    }
    Ok(Some(TraceOptions {
        endpoint: endpoint(traces)?,
        name: traces.endpoint.clone(),
        headers: headers(traces)?,
        ratio: traces.ratio,
        attributes,
    }))
}

fn endpoint(traces: &TracesConfig) -> Result<Endpoint, ConfigError> {
    // It is not repeated, because it may hold a password.
    let wrong = || ConfigError::new("traces.endpoint", EXPECTED_ENDPOINT);
    let uri: Uri = traces.endpoint.parse().map_err(|_| wrong())?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
    let has_path = uri.path_and_query().is_some_and(|path| path != "/");
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong()),
    };
    if authority.is_none() || has_path {
        return Err(wrong());
    }
    let has_ca = !traces.ca_file.as_os_str().is_empty();
    if has_ca && !tls {
        let problem = "is only for a traces.endpoint that starts with https";
        return Err(ConfigError::new("traces.ca_file", problem));
    }
    let endpoint = Endpoint::from(uri);
    if !tls {
        return Ok(endpoint);
    }
    let unfit = |problem: String| ConfigError::new("traces.ca_file", problem);
    let mut client = ClientTlsConfig::new();
    if has_ca {
        let pem = reading::bytes(&traces.ca_file)
            .map_err(|error| unfit(reading::unreadable(&traces.ca_file, &error)))?;
        super::redis::certificates(&pem)
            .map_err(|error| unfit(format!("cannot use the file: {error}")))?;
        client = client.ca_certificate(Certificate::from_pem(pem.as_slice()));
    } else {
        client = client.with_native_roots();
    }
    endpoint.tls_config(client).map_err(|error| unfit(format!("TLS cannot be set up: {error}")))
}

fn attributes(traces: &TracesConfig) -> Result<Vec<(String, String)>, ConfigError> {
    let own = [
        ("service.name", traces.service_name.clone()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", format!("{:032x}", rand::random::<u128>())),
    ];
    let mut all: Vec<_> = own.map(|(key, value)| (key.to_owned(), value)).into();
    for text in &traces.attributes {
        let pair = text.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        let Some((key, value)) = pair.filter(|(key, _)| !key.is_empty()) else {
            let problem = format!(
                "expected KEY=VALUE, such as \"deployment.environment.name=production\", found {text:?}"
            );
            return Err(ConfigError::new("traces.attributes", problem));
        };
        match all.iter_mut().find(|(known, _)| known == key) {
            // An instance has a name of its own in many places.
            Some((_, known)) => *known = value.to_owned(),
            None => all.push((key.to_owned(), value.to_owned())),
        }
    }
    Ok(all)
}

fn headers(traces: &TracesConfig) -> Result<MetadataMap, ConfigError> {
    let mut headers = MetadataMap::new();
    let text = files::read("traces.headers_file", &traces.headers_file)?;
    for (number, line) in text.iter().flat_map(|text| files::numbered(text)) {
        // It is not repeated, because it may hold a secret.
        let wrong = || {
            let problem =
                format!("line {number}: expected NAME=VALUE, such as authorization=TOKEN");
            ConfigError::new("traces.headers_file", problem)
        };
        let (name, value) = line.split_once('=').ok_or_else(wrong)?;
        let name = name.trim().to_ascii_lowercase();
        let name: AsciiMetadataKey = name.parse().map_err(|_| wrong())?;
        let mut value: tonic::metadata::AsciiMetadataValue =
            value.trim().parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(change: impl FnOnce(&mut TracesConfig)) -> Result<Option<TraceOptions>, String> {
        let endpoint = "http://127.0.0.1:4317".to_owned();
        let mut traces = TracesConfig { endpoint, ..TracesConfig::default() };
        change(&mut traces);
        check(&traces).map_err(|error| error.to_string())
    }

    #[test]
    fn an_endpoint_is_a_url_of_http_without_a_path() {
        assert!(of(|traces| traces.endpoint = String::new()).expect("off").is_none());
        for good in ["http://127.0.0.1:4317", "http://[::1]:4317/", "http://collector"] {
            assert!(of(|traces| traces.endpoint = good.to_owned()).expect(good).is_some());
        }
        for bad in [
            "127.0.0.1:4317",
            "collector",
            "grpc://collector:4317",
            "http://",
            "http://collector:4317/v1/traces",
            "http://user:hunter2@collector:4317",
            "http://collector:4317?x",
        ] {
            let error = of(|traces| traces.endpoint = bad.to_owned()).expect_err(bad);
            assert!(error.starts_with("traces.endpoint: expected a collector"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn values_have_bounds() {
        for (change, expected) in [
            (
                (|traces| traces.ratio = 1.5) as fn(&mut TracesConfig),
                "traces.ratio: expected a number from 0 to 1, found 1.5",
            ),
            (|traces| traces.ratio = f64::NAN, "traces.ratio: expected a number from 0 to 1"),
            (|traces| traces.service_name.clear(), "traces.service_name: expected a name"),
            (
                |traces| traces.attributes = vec!["production".to_owned()],
                "traces.attributes: expected KEY=VALUE",
            ),
            (|traces| traces.ca_file = "ca.pem".into(), "traces.ca_file: is only for"),
        ] {
            let error = of(change).expect_err(expected);
            assert!(error.starts_with(expected), "expected {expected:?}, found {error:?}");
        }
    }

    #[test]
    fn attributes_are_added_to_those_of_the_process() {
        let options = of(|traces| {
            traces.attributes = ["a=b=c", "service.instance.id = two"].map(str::to_owned).into();
        });
        let attributes = options.expect("valid").expect("on").attributes;
        let found = |key: &str| {
            let found: Vec<_> = attributes.iter().filter(|(known, _)| known == key).collect();
            assert_eq!(found.len(), 1, "{key} in {attributes:?}");
            found[0].1.clone()
        };
        assert_eq!(found("a"), "b=c");
        assert_eq!(found("service.instance.id"), "two");
        assert_eq!(found("service.name"), "sessiond");
        assert_eq!(found("service.version"), env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn headers_are_read_and_not_repeated() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("headers");
        let of_text = |text: &str| {
            std::fs::write(&path, text).expect("it can be written");
            of(|traces| traces.headers_file = path.clone())
        };
        let options = of_text("# who\nauthorization = Bearer hunter2\nX-Tenant=shop\n");
        let options = options.expect("valid").expect("on");
        assert_eq!(options.headers.get("authorization").expect("there"), "Bearer hunter2");
        assert_eq!(options.headers.get("x-tenant").expect("there"), "shop");
        assert!(!format!("{options:?} {:?}", options.headers).contains("hunter2"));
        for bad in ["Bearer hunter2", "au thorization=hunter2", "x=\u{7f}hunter2"] {
            let error = of_text(&format!("a=b\n{bad}\n")).expect_err(bad);
            assert!(error.contains("line 2: expected NAME=VALUE"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
