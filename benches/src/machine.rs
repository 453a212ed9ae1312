//! What the machine did meanwhile: CPU time of everyone else, peak memory, time since the process was started.
//!
//! All of it from `/proc`; where there is none, the numbers are left out.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 at which the process was started, set by whoever starts it. Without it start-up
/// counts from the first line of `main`.
pub const STARTED: &str = "TETHER_BENCH_STARTED_NS";

/// Clock ticks per second in `/proc`, the same on every Linux.
const TICKS: f64 = 100.0;

static ORIGIN: OnceLock<(Instant, f64)> = OnceLock::new();

/// Call first: fixes the moment that [`since_start`] counts from.
pub fn start() {
    let before = || {
        let started: u128 = std::env::var(STARTED).ok()?.parse().ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos();
        Some(now.checked_sub(started)? as f64 * 1e-9)
    };
    ORIGIN.get_or_init(|| (Instant::now(), before().unwrap_or(0.0)));
}

/// Seconds since the process was started.
pub fn since_start() -> f64 {
    start();
    ORIGIN.get().map_or(0.0, |(origin, before)| before + origin.elapsed().as_secs_f64())
}

/// Peak resident memory so far, MiB.
pub fn peak_mib() -> Option<f64> {
    peak_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

/// CPU seconds used so far: by everyone, by this process.
fn used() -> Option<(f64, f64)> {
    let everyone = busy_of(&std::fs::read_to_string("/proc/stat").ok()?)?;
    Some((everyone, own_cpu_s()?))
}

/// CPU seconds of this process so far, all threads together.
pub fn own_cpu_s() -> Option<f64> {
    own_of(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// user nice system idle iowait irq softirq steal: all but idle and iowait.
fn busy_of(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().take(8).filter_map(|t| t.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((ticks.iter().sum::<f64>() - idle) / TICKS)
}

/// utime stime cutime cstime: fields 14 to 17; the second may hold spaces and ends with a parenthesis.
fn own_of(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(4).filter_map(|t| t.parse().ok()).collect();
    (ticks.len() == 4).then(|| ticks.iter().sum::<f64>() / TICKS)
}

/// Measures the CPU that other processes used while a piece of work lasted.
#[derive(Debug)]
pub struct Meter {
    from: Instant,
    used: Option<(f64, f64)>,
}

impl Meter {
    /// Starts to measure.
    pub fn new() -> Self {
        Self { from: Instant::now(), used: used() }
    }

    /// Cores that others kept busy since, on average.
    pub fn foreign_cores(&self) -> Option<f64> {
        let ((all0, own0), (all1, own1)) = (self.used?, used()?);
        let cores = ((all1 - all0) - (own1 - own0)) / self.from.elapsed().as_secs_f64();
        Some(cores.max(0.0))
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_documented() {
        assert_eq!(busy_of("cpu  100 0 50 1000 7 0 25 25 0 0\ncpu0 1 2 3"), Some(2.0));
        let stat = "7 (a (b) c) R 1 7 7 0 -1 4194304 100 0 0 0 150 50 20 30 20 0 1 0 5";
        assert_eq!(own_of(stat), Some(2.5));
        assert_eq!(peak_of("VmPeak:\t9 kB\nVmHWM:\t  2048 kB\n"), Some(2.0));
        assert_eq!((busy_of(""), own_of("x"), peak_of("")), (None, None, None));
    }
}
