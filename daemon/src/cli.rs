//! The command line. Each command parses here and works in a file of its own.

mod admin;
mod check;
mod mail;
mod store;
mod text;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use inboxgrove_config::{Config, Sources};

use crate::{
    exit::Exit,
    http,
    notify::Passed,
    serve::{self, Given},
};

/// The variable that names the file of settings.
const CONFIG_VARIABLE: &str = "INBOXGROVE_CONFIG";
/// The variable of systemd's credentials.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Runs mail infrastructure: domains, inboxes, sending, warmup, health.
#[derive(Debug, Parser)]
#[command(name = "inboxgrove", version, about, propagate_version = true)]
pub struct Cli {
    /// File of settings (TOML); without it $INBOXGROVE_CONFIG, without that the defaults
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Serve,
    /// Show what it does, on a small internet of its own
    Demo(DemoArgs),
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look after the store
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Ask DNS about a domain
    #[command(subcommand)]
    Check(check::CheckCommand),
    /// Work on messages in files
    #[command(subcommand)]
    Mail(mail::MailCommand),
    /// Print the OpenAPI document
    Openapi,
    /// Operate the running daemon
    Admin(admin::AdminArgs),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the manual pages
    Manpages {
        /// Where to
        directory: PathBuf,
    },
}

/// What the demo does.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Simulated days
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=365))]
    pub days: u32,
    /// Inboxes to warm up
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub inboxes: u32,
    /// Seed of the simulated world
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// End when the days are over, instead of leaving the API up
    #[arg(long)]
    pub exit: bool,
    /// Print one JSON report on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the settings
    Check,
    /// Show the settings in force, secrets hidden
    Show,
    /// Print the documentation of all settings (Markdown)
    Docs,
}

/// What commands need of the process.
pub(crate) struct Process {
    pub(crate) sources: Sources,
}

// === impl Process ===

impl Process {
    /// The settings in force.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        Ok(Config::load(&self.sources)?)
    }
}

// === free functions ===

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let env = environment();
    // First of all: nothing may open a descriptor before those that systemd passed are taken.
    let passed = Passed::from_env(&env);
    let cli = Cli::parse();
    let process = Process {
        sources: sources(cli.config, env),
    };
    match run(cli.command, process, passed) {
        Ok(code) => code,
        Err(why) => {
            // Standard error may be gone; then nobody reads it.
            drop(writeln!(io::stderr(), "inboxgrove: {why:#}"));
            Exit::of(&why).into()
        }
    }
}

fn run(command: Command, process: Process, passed: Passed) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve => serve::run(Given {
            sources: process.sources,
            passed,
        }),
        Command::Demo(args) => crate::demo::run(&args),
        Command::Config(command) => config(&command, &process),
        Command::Store(command) => store::run(command, &process),
        Command::Check(command) => check::run(&command, &process),
        Command::Mail(command) => mail::run(&command, &process),
        Command::Openapi => {
            print(&serde_json::to_string_pretty(&http::document())?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Admin(args) => admin::run(&args, &process),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "inboxgrove", &mut script);
            print(&String::from_utf8(script)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Manpages { directory } => {
            std::fs::create_dir_all(&directory)?;
            clap_mangen::generate_to(Cli::command(), directory)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn config(command: &ConfigCommand, process: &Process) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Docs => print(&inboxgrove_config::docs())?,
        ConfigCommand::Show => print(&inboxgrove_config::show(&process.config()?))?,
        ConfigCommand::Check => {
            process.config()?;
            print("the settings are good")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a text with its line end. A reader that went away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{}", text.trim_end_matches('\n')) {
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The environment, as far as it is text. The only place where it is read.
fn environment() -> BTreeMap<String, String> {
    let all = std::env::vars_os();
    all.filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn sources(file: Option<PathBuf>, env: BTreeMap<String, String>) -> Sources {
    Sources {
        file: file.or_else(|| env.get(CONFIG_VARIABLE).map(PathBuf::from)),
        credentials: env.get(CREDENTIALS_VARIABLE).map(PathBuf::from),
        env,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_understood() {
        for line in [
            "serve",
            "serve --config /etc/inboxgrove.toml",
            "demo --days 3 --inboxes 5 --seed 7 --exit --json",
            "config docs",
            "store backup /tmp/x",
            "store migrate up",
            "check domain acme.example",
            "mail verify a.eml b.eml",
            "admin status --json",
            "admin --socket /run/x.sock why ada@acme.example",
            "admin suspend ten_x --note spam",
            "completions bash",
        ] {
            let words = std::iter::once("inboxgrove").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        assert!(Cli::try_parse_from(["inboxgrove", "brew"]).is_err());
    }
}
