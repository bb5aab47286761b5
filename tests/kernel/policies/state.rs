//! How far a run of random policies has come, kept in a file where it is to go on another time.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use super::Outcome;

/// What one place (backend and family) has tried.
pub struct State {
    place: String,
    folder: Option<PathBuf>,
    started: Instant,
    /// The first seed that is left.
    pub next: u64,
    /// Policies that packets were sent through.
    pub judged: u64,
    counts: Counts,
    disagreed: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    refused: u64,
    too_slow: u64,
    unjudged: u64,
    paused: u64,
    packets: u64,
    matched: u64,
    disagreed: u64,
}

impl State {
    /// The state of the last run, where `FWC_STATE` names the folder that has it.
    pub fn open(place: &str) -> Result<Self, String> {
        let folder = std::env::var_os("FWC_STATE").map(PathBuf::from);
        let mut state = Self {
            place: place.to_owned(),
            folder,
            started: Instant::now(),
            next: 0,
            judged: 0,
            counts: Counts::default(),
            disagreed: Vec::new(),
        };
        if let Some(path) = state.path("state")
            && let Ok(text) = fs::read_to_string(&path)
        {
            let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
            let numbers = numbers.map_err(|error| format!("{}: {error}", path.display()))?;
            let [
                next,
                judged,
                refused,
                too_slow,
                unjudged,
                paused,
                packets,
                matched,
                disagreed,
            ] = numbers[..]
            else {
                return Err(format!("{}: not a state", path.display()));
            };
            (state.next, state.judged) = (next, judged);
            state.counts = Counts {
                refused,
                too_slow,
                unjudged,
                paused,
                packets,
                matched,
                disagreed,
            };
        }
        Ok(state)
    }

    fn path(&self, kind: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.join(format!("{}.{kind}", self.place)))
    }

    /// Notes what became of a seed's policy; an error ends the run.
    pub fn note(&mut self, seed: u64, outcome: Outcome, again: &str) -> Result<(), String> {
        self.next = seed + 1;
        let counts = &mut self.counts;
        match outcome {
            Outcome::Refused => counts.refused += 1,
            Outcome::TooSlow => counts.too_slow += 1,
            Outcome::Unjudged => counts.unjudged += 1,
            Outcome::Agreed {
                packets,
                matched,
                paused,
            } => {
                self.judged += 1;
                counts.paused += u64::from(paused);
                counts.packets += packets;
                counts.matched += matched;
            }
            Outcome::Disagreed(what) => {
                self.judged += 1;
                counts.disagreed += 1;
                let report = format!("{again}\n{what}\n");
                let Some(path) = self.path("disagreements") else {
                    return Err(report);
                };
                let file = fs::OpenOptions::new().create(true).append(true).open(&path);
                file.and_then(|mut file| writeln!(file, "{report}"))
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                self.disagreed.push(again.to_owned());
            }
        }
        if let Some(path) = self.path("state") {
            let Counts {
                refused,
                too_slow,
                unjudged,
                paused,
                packets,
                matched,
                disagreed,
            } = self.counts;
            let (next, judged) = (self.next, self.judged);
            let text = format!(
                "{next} {judged} {refused} {too_slow} {unjudged} {paused} {packets} {matched} {disagreed}\n"
            );
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// Prints what was tried; an error where anything disagreed.
    pub fn finish(self) -> Result<(), String> {
        let Counts {
            refused,
            too_slow,
            unjudged,
            paused,
            packets,
            matched,
            disagreed,
        } = self.counts;
        let (place, judged, seconds) = (&self.place, self.judged, self.started.elapsed().as_secs());
        let mut line = format!(
            "policies {place}: {judged} policies, {packets} packets, {matched} matches; {paused} with a pause; "
        );
        let _ = write!(
            line,
            "{refused} refused, {too_slow} too slow, {unjudged} where the kernel chooses; {disagreed} disagree; {seconds} s"
        );
        println!("{line}");
        match self.disagreed.is_empty() {
            true => Ok(()),
            false => Err(self.disagreed.join("\n")),
        }
    }
}
