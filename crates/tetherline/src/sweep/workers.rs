//! Runs side by side: each on a thread of its own, with its share of the cores.
//!
//! The observer lives on the thread that called; runs send it what they did. A stop that it asks for reaches all of them, and
//! each saves its checkpoint.

use super::SweepOptions;
use crate::recipe::Recipe;
use crate::{Error, ErrorKind, RunOptions, Stages};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tetherline_core::{Event, Metrics, Observer, Stage};

/// One run.
pub(super) struct Job {
    /// The place of its regime.
    pub(super) regime: usize,
    pub(super) seed: u64,
    pub(super) recipe: Recipe,
    pub(super) out: PathBuf,
    pub(super) stages: Stages,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Finished,
    /// It stopped itself, and why.
    Stopped(String),
}

/// What a run tells the thread that watches.
enum Message {
    /// Steps of PPO done by the run in this place.
    Steps(usize, u64),
    Warning(String),
    Ended,
}

/// The observer of one run.
struct Reporter<'a> {
    place: usize,
    name: String,
    sender: Sender<Message>,
    stop: &'a AtomicBool,
}

impl Observer for Reporter<'_> {
    fn on_event(&mut self, event: &Event<'_>) {
        let message = match event {
            Event::StageStarted { stage: Stage::Ppo, done, .. } => Message::Steps(self.place, *done),
            Event::Step { stage: Stage::Ppo, step, .. } => Message::Steps(self.place, *step),
            Event::Warning(text) => Message::Warning(format!("{}: {text}", self.name)),
            _ => return,
        };
        // Nobody listens any more only after the sweep has ended.
        let _ = self.sender.send(message);
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Runs all jobs, those that are finished already too: they are done at once.
pub(super) fn run(
    jobs: &[Job],
    options: &SweepOptions,
    observer: &mut dyn Observer,
) -> Result<Vec<Outcome>, Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = if options.threads == 0 { cores } else { options.threads };
    let side_by_side = if options.jobs == 0 { cores } else { options.jobs }.clamp(1, jobs.len().max(1));
    let threads = (cores / side_by_side).max(1);
    let total: u64 = jobs.iter().map(|job| job.recipe.ppo.steps).sum();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Mutex<Vec<Option<Result<Outcome, Error>>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    let (sender, receiver) = channel();
    let metrics = Metrics::new();
    observer.on_event(&Event::StageStarted { stage: Stage::Ppo, done: 0, total });
    std::thread::scope(|scope| {
        for _ in 0..side_by_side {
            let (sender, next, stop, results) = (sender.clone(), &next, &stop, &results);
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(place).filter(|_| !stop.load(Ordering::Relaxed)) else { break };
                    let result = one(place, job, threads, options, &sender, stop);
                    if result.is_err() {
                        // One that fails for a reason of its own ends the sweep; what others have done is saved.
                        stop.store(true, Ordering::Relaxed);
                    }
                    if let Ok(mut results) = results.lock() {
                        results[place] = Some(result);
                    }
                }
                let _ = sender.send(Message::Ended);
            });
        }
        drop(sender);
        let mut steps = vec![0u64; jobs.len()];
        loop {
            match receiver.recv_timeout(Duration::from_millis(200)) {
                Ok(Message::Steps(place, done)) => {
                    steps[place] = done;
                    let step = steps.iter().sum();
                    observer.on_event(&Event::Step { stage: Stage::Ppo, step, total, metrics: &metrics });
                }
                Ok(Message::Warning(text)) => observer.on_event(&Event::Warning(&text)),
                Ok(Message::Ended) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if observer.stop_requested() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    observer.on_event(&Event::StageFinished { stage: Stage::Ppo });
    let results = results.into_inner().unwrap_or_default();
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut interrupted = None;
    for result in results {
        match result {
            Some(Ok(outcome)) => outcomes.push(outcome),
            Some(Err(e @ Error::Interrupted { .. })) => interrupted = Some(e),
            Some(Err(e)) => return Err(e),
            None => {
                interrupted.get_or_insert(Error::Interrupted {
                    stage: Stage::Ppo,
                    step: 0,
                    checkpoint: None,
                });
            }
        }
    }
    interrupted.map_or(Ok(outcomes), Err)
}

fn one(
    place: usize,
    job: &Job,
    threads: usize,
    options: &SweepOptions,
    sender: &Sender<Message>,
    stop: &AtomicBool,
) -> Result<Outcome, Error> {
    let finished = job.out.join(crate::report::EVALUATION).is_file();
    if finished {
        let _ = sender.send(Message::Steps(place, job.recipe.ppo.steps));
        return Ok(Outcome::Finished);
    }
    let regime = job.out.parent().and_then(|p| p.file_name()).unwrap_or_default().to_string_lossy();
    let mut reporter =
        Reporter { place, name: format!("{regime}, seed {}", job.seed), sender: sender.clone(), stop };
    let run = RunOptions {
        out: job.out.clone(),
        resume: job.out.exists(),
        after_halt: false,
        stages: job.stages,
        threads,
        clock: options.clock,
    };
    match crate::run(&job.recipe, &run, &mut reporter) {
        Ok(_) => Ok(Outcome::Finished),
        Err(e) if e.kind() == ErrorKind::Stopped => Ok(Outcome::Stopped(e.to_string())),
        Err(e) => Err(e),
    }
}
