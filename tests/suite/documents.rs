//! The documents: their links must lead to something, and their code blocks must work.
//!
//! What the test does with a fenced block in the README and in `docs/`, by its info string:
//!
//! | info string | this test |
//! |---|---|
//! | `sh` | runs the block, unless another test in [`ELSEWHERE`] runs it |
//! | `python` | runs the block, after those of the same document |
//! | `toml` | reads the block as a configuration |
//! | `sh not-run` and other strings | ignores it |

use std::{
    collections::{BTreeSet, HashMap},
    env, fs,
    path::Path,
    process::Command,
};

use sessiond::{
    grpc::status,
    server::config::{Config, Sources, load},
    service::fault::Reason,
};

use crate::support::{
    frontend::{interpreter, or_skip},
    markdown::{Block, Document},
    program::{Program, sessiond, stderr},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The documents that are not in `docs/`.
const BESIDE_DOCS: [&str; 12] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "clients/go/README.md",
    "clients/java/README.md",
    "clients/java/sessiond-servlet/README.md",
    "clients/java/sessiond-spring-boot-starter/README.md",
    "clients/node/README.md",
    "clients/python/README.md",
    "clients/rust/README.md",
];

/// Their programs need a framework. What can run without one, the tests of the packages run.
const GUIDES: &str = "docs/guides/";

/// The commands that a block may contain to be run here.
const COMMANDS: [&str; 2] = ["sessiond", "umask"];

/// Commands that another test runs, with its module in this suite or where it is.
const ELSEWHERE: [(&str, &str); 5] = [
    ("cargo run -- serve --dev", "processes"),
    ("cargo test", ".ci/run"),
    ("cargo run --example tour", "processes"),
    ("PORT=3000 examples/express/run", "tests/shop"),
    ("PORT=8000 examples/fastapi/run", "tests/shop"),
];

fn documents() -> Vec<Document> {
    fn walk(folder: &str, names: &mut Vec<String>) {
        for entry in fs::read_dir(Path::new(ROOT).join(folder)).expect("the folder exists") {
            let entry = entry.expect("an entry");
            let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                walk(&name, names);
            } else if name.ends_with(".md") {
                names.push(name);
            }
        }
    }
    let mut names = Vec::from(BESIDE_DOCS.map(str::to_owned));
    walk("docs", &mut names);
    names.iter().map(|name| Document::read(name)).collect()
}

/// The documents for users, whose blocks must work.
fn for_users() -> impl Iterator<Item = Document> {
    let is_for_users = |name: &str| name == "README.md" || name.starts_with("docs/");
    documents().into_iter().filter(move |document| is_for_users(&document.name))
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    let anchors: HashMap<_, _> =
        documents.iter().map(|document| (document.name.clone(), document.anchors())).collect();
    let mut broken = Vec::new();
    for document in &documents {
        let name = &document.name;
        for (line, link) in document.links() {
            let is_elsewhere = link.contains("://") || link.starts_with("mailto:");
            if !is_elsewhere && let Err(problem) = follow(name, &link, &anchors) {
                broken.push(format!("{name}:{line}: {link}: {problem}"));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// Resolves a link of the document `from`.
fn follow(
    from: &str,
    link: &str,
    anchors: &HashMap<String, BTreeSet<String>>,
) -> Result<(), &'static str> {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, at)| (path, Some(at)));
    let mut target: Vec<_> = from.split('/').collect();
    if !path.is_empty() {
        target.pop();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    target.pop().ok_or("leads out of the repository")?;
                }
                part => target.push(part),
            }
        }
    }
    let target = target.join("/");
    if !Path::new(ROOT).join(&target).exists() {
        return Err("there is no such file");
    }
    let Some(anchor) = anchor else { return Ok(()) };
    let known = anchors.get(&target).ok_or("the file is not one of the documents")?;
    if known.contains(anchor) { Ok(()) } else { Err("there is no such heading") }
}

#[test]
fn the_readme_is_short() {
    let bytes = fs::metadata(Path::new(ROOT).join("README.md")).expect("README.md").len();
    assert!(bytes <= 10_240, "README.md has {bytes} bytes, at most 10240 are wanted: use docs/");
}

#[test]
fn the_table_of_errors_has_every_reason() {
    let api = Document::read("docs/api.md");
    let lines = api.prose.iter().map(|(_, line)| line.as_str());
    let rows = lines
        .skip_while(|line| !line.starts_with("| code | reason |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut found = Vec::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        // A row begins with a bar, so its first cell is empty. A call past its deadline has no
        // reason.
        if cells[2] != "none" {
            found.push(format!("{} with {}", cells[2], cells[1].replace('_', "").to_lowercase()));
        }
    }
    let code = |reason: &Reason| format!("{:?}", status::code(*reason)).to_lowercase();
    let mut expected: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| format!("{} with {}", reason.name(), code(reason)))
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(
        found, expected,
        "expected a row for each reason in the table of errors in docs/api.md"
    );
}

#[test]
fn every_block_of_toml_is_a_configuration() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("sessiond.toml");
    for document in for_users() {
        for block in document.blocks("toml") {
            fs::write(&path, &block.text).expect("a file");
            let (defaults, file) = (Config::defaults(), Some(path.clone()));
            let read = load(Sources { defaults, file, environment: vec![], settings: vec![] });
            read.unwrap_or_else(|error| panic!("{}:{}: {error}", document.name, block.line));
        }
    }
}

#[test]
fn every_command_is_run_or_marked() {
    let daemon = Program::dev();
    let mut problems = Vec::new();
    let mut met = BTreeSet::new();
    for document in for_users() {
        for (at, block) in document.blocks.iter().enumerate() {
            let outcome = match block.info.as_str() {
                "sh" => {
                    let commands = commands(&block.text);
                    let file = document.blocks[..at].iter().rfind(|block| block.info == "toml");
                    met.extend(commands.iter().cloned());
                    run_unless_elsewhere(commands, file, &daemon)
                }
                "bash" | "shell" | "console" => Err("write `sh`, or `sh not-run`".to_owned()),
                _ => Ok(()),
            };
            if let Err(problem) = outcome {
                problems.push(format!("{}:{}: {problem}", document.name, block.line));
            }
        }
    }
    for (command, by) in ELSEWHERE {
        if !met.contains(command) {
            problems.push(format!("no document has {command:?}, which {by} runs"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The commands of a block without comments.
fn commands(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// Runs commands in a temporary directory. The last configuration in the document is there as
/// `sessiond.toml`. Environment variables give the commands the daemon's addresses. If the last
/// command is `sessiond serve`, that daemon must start and stop.
fn run_unless_elsewhere(
    mut commands: Vec<String>,
    file: Option<&Block>,
    daemon: &Program,
) -> Result<(), String> {
    if commands.iter().all(|command| ELSEWHERE.iter().any(|(known, _)| known == command)) {
        return Ok(());
    }
    let program = |command: &str| command.split(' ').next().unwrap_or_default().to_owned();
    if !commands.iter().all(|command| COMMANDS.contains(&program(command).as_str())) {
        let problem =
            "no test runs it: mark it `sh not-run`, or add the test that runs it to ELSEWHERE";
        return Err(problem.to_owned());
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    if let Some(file) = file {
        fs::write(folder.path().join("sessiond.toml"), &file.text).expect("a file");
    }
    let serve = commands.pop_if(|last| last.starts_with("sessiond serve"));
    let programs = Path::new(env!("CARGO_BIN_EXE_sessiond")).parent().expect("a folder");
    let path = format!("{}:{}", programs.display(), env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-euc", &commands.join("\n")])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", path)
        .env("SESSIOND_LISTEN__GRPC", daemon.address("grpc"))
        .env("SESSIOND_LISTEN__ADMIN", daemon.address("admin"))
        .output()
        .expect("a shell");
    if !output.status.success() {
        return Err(format!("{}, {}", output.status, stderr(&output)));
    }
    let Some(serve) = serve else { return Ok(()) };
    let mut serving = sessiond(serve.split_whitespace().skip(1));
    serving.current_dir(folder.path());
    for listener in ["GRPC", "ADMIN", "METRICS"] {
        serving.env(format!("SESSIOND_LISTEN__{listener}"), "127.0.0.1:0");
    }
    match Program::start(&mut serving).stop() {
        (Some(0), _) => Ok(()),
        (code, log) => Err(format!("{serve}: exit code {code:?}, {log}")),
    }
}

/// Runs the Python of each document, after the first block of `docs/api.md`, which connects. That of
/// the guides is compiled.
#[test]
fn the_python_of_the_documents_runs() {
    let Some(python) = or_skip("the Python of the documents", interpreter()) else { return };
    let api = Document::read("docs/api.md");
    let connect = api.blocks("python").next().expect("it begins with Python");
    for document in for_users() {
        let blocks: Vec<_> = document.blocks("python").map(|block| block.text.as_str()).collect();
        if blocks.is_empty() {
            continue;
        }
        if document.name.starts_with(GUIDES) {
            for block in blocks {
                let read = "import ast, sys; \
                            compile(sys.argv[1], '', 'exec', ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)";
                let output = Command::new(&python).args(["-B", "-c", read, block]).output();
                let output = output.expect("Python can be run");
                assert!(output.status.success(), "{}: {}", document.name, stderr(&output));
            }
            continue;
        }
        let daemon = Program::dev();
        let script = format!("{}\n{}", connect.text, blocks.join("\n"))
            .replace("127.0.0.1:50051", daemon.address("grpc"))
            .replace("127.0.0.1:50052", daemon.address("admin"));
        let output = Command::new(&python)
            .args(["-B", "-c", &script])
            .current_dir(ROOT)
            // Without it gRPC would use the machine's HTTP proxy, if there is one.
            .env("no_grpc_proxy", "127.0.0.1")
            .output()
            .expect("Python can be run");
        assert!(output.status.success(), "{}: {}", document.name, stderr(&output));
    }
}
