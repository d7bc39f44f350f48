//! Writes the measurements as Markdown and SVG.

use std::{error::Error, fmt, fs};

use crate::{chart::Chart, stats::Spread, workspace};

/// How often each goal is measured.
pub(crate) const RUNS: usize = 5;

/// A goal with its measurements.
pub(crate) struct Goal {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) figures: Vec<Figure>,
}

/// One number of a goal, as measured in each run.
pub(crate) struct Figure {
    what: &'static str,
    runs: Vec<f64>,
    bound: Option<Bound>,
    /// Whether every run must be within the bound, not only the median.
    in_every_run: bool,
    /// The lower end of an interval whose upper end is in `runs`.
    lower_end: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn allows(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

impl Figure {
    /// Creates a number whose median must not exceed the bound.
    pub(crate) fn at_most(bound: f64, what: &'static str, runs: Vec<f64>) -> Self {
        Self { bound: Some(Bound::AtMost(bound)), ..Self::unbounded(what, runs) }
    }

    /// Creates a number whose median must not be below the bound.
    pub(crate) fn at_least(bound: f64, what: &'static str, runs: Vec<f64>) -> Self {
        Self { bound: Some(Bound::AtLeast(bound)), ..Self::unbounded(what, runs) }
    }

    /// Creates a number that must not exceed the bound in any run.
    pub(crate) fn never_above(bound: f64, what: &'static str, runs: Vec<f64>) -> Self {
        Self { in_every_run: true, ..Self::at_most(bound, what, runs) }
    }

    /// Creates a number without a bound.
    pub(crate) fn unbounded(what: &'static str, runs: Vec<f64>) -> Self {
        Self { what, runs, bound: None, in_every_run: false, lower_end: Vec::new() }
    }

    /// Makes this number the upper end of an interval. If the bound lies within the interval, the
    /// result is inconclusive.
    pub(crate) fn with_lower_end(mut self, lower_end: &[f64]) -> Self {
        self.lower_end = lower_end.to_owned();
        self
    }

    fn is_inconclusive(&self) -> bool {
        let lower_end = Spread::of(self.lower_end.clone()).median;
        !self.is_met() && self.bound.is_some_and(|bound| bound.allows(lower_end))
    }

    fn is_met(&self) -> bool {
        let spread = Spread::of(self.runs.clone());
        let value = if self.in_every_run { spread.max } else { spread.median };
        self.bound.is_none_or(|bound| bound.allows(value))
    }

    /// Returns the number of runs within the bound.
    fn met(&self) -> usize {
        let is_within = |run: &&f64| self.bound.is_none_or(|bound| bound.allows(**run));
        self.runs.iter().filter(is_within).count()
    }

    fn cells(&self) -> [String; 4] {
        let met = match self.bound {
            Some(_) if self.is_met() => format!("yes ({} of {})", self.met(), self.runs.len()),
            Some(_) if self.is_inconclusive() => {
                format!("inconclusive ({} of {})", self.met(), self.runs.len())
            }
            Some(_) => format!("**no** ({} of {})", self.met(), self.runs.len()),
            None => String::new(),
        };
        let bound = self.bound.map_or_else(String::new, |bound| bound.to_string());
        if self.runs.is_empty() {
            return [self.what.to_owned(), bound, "not measured".to_owned(), String::new()];
        }
        let measured = Spread::of(self.runs.clone()).to_string();
        [self.what.to_owned(), bound, measured, met]
    }
}

/// Collects the measurements.
#[derive(Default)]
pub(crate) struct Report {
    goals: Vec<Goal>,
    sections: String,
    charts: Vec<Chart>,
}

const BEGIN: &str = "<!-- measured: everything below is generated -->";

impl Report {
    pub(crate) fn goal(&mut self, goal: Goal) {
        for figure in &goal.figures {
            println!("{}: {}", goal.name, figure.cells().join(" | "));
        }
        self.goals.push(goal);
    }

    pub(crate) fn table(
        &mut self,
        title: &str,
        about: &str,
        head: &[&str],
        rows: Vec<Vec<String>>,
    ) {
        let mut table = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
        for mut row in rows {
            row.resize(head.len(), String::new());
            table += &format!("| {} |\n", row.join(" | "));
        }
        println!("\n{title}\n{table}");
        self.sections += &format!("\n### {title}\n\n{about}\n\n{table}");
    }

    /// Adds a chart below the last table.
    pub(crate) fn chart(&mut self, chart: Chart) {
        self.sections += &format!("\n![{}](benchmarks/{}.svg)\n", chart.title, chart.name);
        self.charts.push(chart);
    }

    /// Replaces the generated part of `docs/benchmarks.md`, and draws the charts.
    pub(crate) fn write(mut self, machine: &str) -> Result<(), Box<dyn Error>> {
        let charts = workspace::folder().join("docs/benchmarks");
        fs::create_dir_all(&charts)?;
        for chart in &self.charts {
            chart.write(&charts)?;
        }
        let path = workspace::folder().join("docs/benchmarks.md");
        let page = fs::read_to_string(&path)?;
        let (by_hand, _) =
            page.split_once(BEGIN).ok_or("docs/benchmarks.md has no line `measured`")?;
        self.goals.sort_by_key(|goal| goal.name[1..].parse::<u32>().unwrap_or(0));
        let mut goals = "| | what | | goal | measured | met |\n|".to_owned() + &" --- |".repeat(6);
        for goal in &self.goals {
            let mut heads = [goal.name, goal.what];
            for figure in &goal.figures {
                goals += &format!("\n| {} | {} |", heads.join(" | "), figure.cells().join(" | "));
                heads = ["", ""];
            }
        }
        let about = format!(
            "Each figure is the median of {RUNS} runs (minimum–maximum). A time must be within \
             its bound in the median, a count in every run. The last column also counts the runs \
             within the bound."
        );
        let sections = self.sections;
        let page = format!(
            "{by_hand}{BEGIN}\n\n{machine}\n\n### The goals\n\n{about}\n\n{goals}\n{sections}"
        );
        Ok(fs::write(path, page)?)
    }
}
