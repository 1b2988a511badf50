//! Measures what InboxGrove costs, each thing beside its reference in the same run, and writes
//! `benches/RESULTS.md`. A reference makes the figures of two machines, or of two loads, comparable.
//!
//! `inboxgrove-benches [--rounds N] [--seconds S] [--inboxes N] [--active N] [--write] [NAME…]`: without names all of them, and then
//! the file is written anew; with names only those, and `--write` puts what they found in the place of what stands
//! there of them. Names: `commits`, `lives`, `signing`, `sending`, `reading`, `posting`, `scale`, `supervision`, `churn`, `months`. Use a release build:
//! `make bench`, or `cargo run --release -p inboxgrove-benches -- reading`.

mod churn;
mod commits;
mod conditions;
mod grove;
mod http;
mod installation;
mod measure;
mod posting;
mod reading;
mod report;
mod responder;
mod scale;
mod seeded;
mod sending;
mod signing;
mod sink;
mod supervision;

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
/// Inboxes of the large store.
const INBOXES: u32 = 1_000_000;
/// Inboxes of the day of churn.
const ACTIVE: u32 = 10_000;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// How often each thing is measured, in turn with its reference.
    pub(crate) rounds: usize,
    /// How long each time.
    pub(crate) sample: Duration,
    /// How many inboxes are in the large store.
    pub(crate) inboxes: u32,
    /// How many inboxes live through the day of churn.
    pub(crate) active: u32,
}

/// What the command line asks for.
struct Asked {
    effort: Effort,
    names: Vec<String>,
    write: bool,
}

struct Bench {
    name: &'static str,
    /// The title of its section.
    title: &'static str,
    run: fn(Effort) -> Result<Section>,
}

/// All of them, in the order of the report.
const BENCHES: &[Bench] = &[
    Bench {
        name: "commits",
        title: "Durable commits",
        run: commits::run,
    },
    Bench {
        name: "lives",
        title: "The commits of a message's life",
        run: commits::lives::run,
    },
    Bench {
        name: "signing",
        title: "DKIM signing",
        run: signing::run,
    },
    Bench {
        name: "sending",
        title: "A send, end to end",
        run: sending::run,
    },
    Bench {
        name: "reading",
        title: "Authenticated GET",
        run: reading::run,
    },
    Bench {
        name: "posting",
        title: "Durable POST",
        run: posting::run,
    },
    Bench {
        name: "scale",
        title: "A full store",
        run: scale::run,
    },
    Bench {
        name: "supervision",
        title: "Supervision",
        run: supervision::run,
    },
    Bench {
        name: "churn",
        title: "A day of churn",
        run: churn::run,
    },
    Bench {
        name: "months",
        title: "Months of churn",
        run: churn::months,
    },
];

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // How the reading bench starts its references.
    if let [word, kind, body_len] = words.as_slice()
        && word == "--respond"
    {
        responder::serve(kind, body_len.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Asked {
        effort,
        names,
        write,
    } = parse(&words)?;
    let conditions = Conditions::of_this_machine();
    let mut sections = Vec::new();
    let mut failed = false;
    for bench in chosen(&names)? {
        say(&format!("{} …", bench.name));
        let moment = Conditions::of_this_machine();
        let mut section = (bench.run)(effort).unwrap_or_else(|why| {
            failed = true;
            Section::not_measured(bench.title, &why)
        });
        section.measured(&moment, effort);
        say(&section.to_string());
        sections.push(section);
    }
    if names.is_empty() || write {
        // One that is not there has nothing to keep.
        let earlier = fs::read_to_string(RESULTS).unwrap_or_default();
        let titles: Vec<&str> = BENCHES.iter().map(|bench| bench.title).collect();
        let document = report::document(&conditions, &titles, &earlier, &sections);
        fs::write(RESULTS, document).with_context(|| format!("{RESULTS} cannot be written"))?;
        say(&format!("written: {RESULTS}"));
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn parse(words: &[String]) -> Result<Asked> {
    let mut effort = Effort {
        rounds: ROUNDS,
        sample: SAMPLE,
        inboxes: INBOXES,
        active: ACTIVE,
    };
    let (mut names, mut write) = (Vec::new(), false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut number = || words.next().with_context(|| format!("{word} what?"));
        match word.as_str() {
            "--rounds" => effort.rounds = number()?.parse().context("--rounds takes a number")?,
            "--inboxes" => {
                effort.inboxes = number()?.parse().context("--inboxes takes a number")?;
            }
            "--active" => {
                effort.active = number()?.parse().context("--active takes a number")?;
            }
            "--seconds" => {
                let seconds = number()?.parse().context("--seconds takes a number")?;
                effort.sample = Duration::try_from_secs_f64(seconds)?;
            }
            "--write" => write = true,
            _ => names.push(word.clone()),
        }
    }
    if effort.rounds == 0 || effort.sample.is_zero() {
        bail!("nothing can be measured in no time");
    }
    Ok(Asked {
        effort,
        names,
        write,
    })
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
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}
