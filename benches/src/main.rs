//! Measures what InboxGrove costs, each thing beside its reference in the same run, and writes
//! `benches/RESULTS.md`. A reference makes the figures of two machines, or of two loads, comparable.
//!
//! `inboxgrove-benches [--rounds N] [--seconds S] [commits] [signing] [sending] [reading]`:
//! without names all of them, and only then the file is written. Use a release build: `make bench`.

mod commits;
mod conditions;
mod http;
mod installation;
mod measure;
mod reading;
mod report;
mod responder;
mod sending;
mod signing;
mod sink;

use std::{
    fs,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{conditions::Conditions, report::Section};

/// Where the results go: beside the sources of what measured them.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/RESULTS.md");
/// Rounds of a full run: an odd number has a middle.
const ROUNDS: usize = 5;
/// How long one sample takes.
const SAMPLE: Duration = Duration::from_secs(1);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// How often each thing is measured, in turn with its reference.
    pub(crate) rounds: usize,
    /// How long each time.
    pub(crate) sample: Duration,
}

struct Bench {
    name: &'static str,
    run: fn(Effort) -> Result<Section>,
}

/// All of them, in the order of the report.
const BENCHES: &[Bench] = &[
    Bench {
        name: "commits",
        run: commits::run,
    },
    Bench {
        name: "signing",
        run: signing::run,
    },
    Bench {
        name: "sending",
        run: sending::run,
    },
    Bench {
        name: "reading",
        run: reading::run,
    },
];

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // How the reading bench starts its reference.
    if let [word, body_len] = words.as_slice()
        && word == "--respond"
    {
        responder::serve(body_len.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (effort, names) = parse(&words)?;
    let conditions = Conditions::of_this_machine();
    let mut sections = Vec::new();
    let mut failed = false;
    for bench in chosen(&names)? {
        say(&format!("{} …", bench.name));
        let section = (bench.run)(effort).unwrap_or_else(|why| {
            failed = true;
            Section::not_measured(bench.name, &why)
        });
        say(&section.to_string());
        sections.push(section);
    }
    if names.is_empty() {
        fs::write(RESULTS, report::document(&conditions, effort, &sections))
            .with_context(|| format!("{RESULTS} cannot be written"))?;
        say(&format!("written: {RESULTS}"));
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn parse(words: &[String]) -> Result<(Effort, Vec<String>)> {
    let mut effort = Effort {
        rounds: ROUNDS,
        sample: SAMPLE,
    };
    let mut names = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut number = || words.next().with_context(|| format!("{word} what?"));
        match word.as_str() {
            "--rounds" => effort.rounds = number()?.parse().context("--rounds takes a number")?,
            "--seconds" => {
                let seconds = number()?.parse().context("--seconds takes a number")?;
                effort.sample = Duration::try_from_secs_f64(seconds)?;
            }
            _ => names.push(word.clone()),
        }
    }
    if effort.rounds == 0 || effort.sample.is_zero() {
        bail!("nothing can be measured in no time");
    }
    Ok((effort, names))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Bench>> {
    if names.is_empty() {
        return Ok(BENCHES.iter().collect());
    }
    let known = || BENCHES.iter().map(|bench| bench.name).collect::<Vec<_>>();
    names
        .iter()
        .map(|name| {
            let found = BENCHES.iter().find(|bench| bench.name == name);
            found.with_context(|| format!("there is no {name}: there are {}", known().join(", ")))
        })
        .collect()
}

/// Tells whoever watches. A closed pipe is their choice, and no reason to stop measuring.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}
