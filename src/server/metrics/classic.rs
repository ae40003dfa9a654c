//! The page in the text format from before OpenMetrics (`text/plain; version=0.0.4`), for
//! those who do not ask for OpenMetrics: curl, `promtool check metrics`, agents of others.
//!
//! The samples are the same. Only what is said about them differs: a counter is named as its
//! samples are, an info is a gauge, and there are no units and no end.

/// The same page.
pub(in crate::server) fn to_classic(openmetrics: &str) -> String {
    let mut classic = String::with_capacity(openmetrics.len());
    // In the page, HELP comes before TYPE; there, the name depends on the type.
    let mut help: Option<&str> = None;
    for line in openmetrics.lines() {
        let mut put = |parts: &[&str]| {
            parts.iter().for_each(|part| classic.push_str(part));
            classic.push('\n');
        };
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, text)) = help.take().and_then(|help| help.split_once(' ')) {
                put(&["# HELP ", name, suffix, " ", text]);
            }
            put(&["# TYPE ", name, suffix, " ", kind]);
        } else if !line.starts_with('#') {
            put(&[line]);
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_samples_differs() {
        let openmetrics = "# HELP x_requests Operations.\n# TYPE x_requests counter\n\
            x_requests_total{rpc=\"Write\"} 2\n\
            # HELP x_build What runs.\n# TYPE x_build info\nx_build_info{version=\"1\"} 1\n\
            # HELP x_held_bytes Held.\n# TYPE x_held_bytes gauge\n# UNIT x_held_bytes bytes\n\
            x_held_bytes 7\n# EOF\n";
        let classic = "# HELP x_requests_total Operations.\n# TYPE x_requests_total counter\n\
            x_requests_total{rpc=\"Write\"} 2\n\
            # HELP x_build_info What runs.\n# TYPE x_build_info gauge\nx_build_info{version=\"1\"} 1\n\
            # HELP x_held_bytes Held.\n# TYPE x_held_bytes gauge\nx_held_bytes 7\n";
        assert_eq!(to_classic(openmetrics), classic);
    }
}
