//! Which CPU this is. Numbers of different CPUs do not compare.

use std::fs;
use std::process::Command;
use std::time::Duration;

/// Cores that a process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Model of the CPU, with family and model number where the name alone says little, and cores.
pub(super) fn label() -> String {
    let cores = cores();
    let plural = if cores == 1 { "core" } else { "cores" };
    format!("{}, {cores} {plural}", cpu())
}

fn cpu() -> String {
    if let Ok(text) = fs::read_to_string("/proc/cpuinfo")
        && let Some(name) = of_cpuinfo(&text)
    {
        return name;
    }
    let asked = Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output();
    if let Ok(out) = asked
        && out.status.success()
    {
        return String::from_utf8_lossy(&out.stdout).trim().to_owned();
    }
    std::env::var("PROCESSOR_IDENTIFIER").unwrap_or_else(|_| std::env::consts::ARCH.to_owned())
}

fn of_cpuinfo(text: &str) -> Option<String> {
    let field = |name: &str| {
        let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name))?;
        Some(line.split_once(':')?.1.trim())
    };
    let name = field("model name")?;
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => Some(format!("{name} (family {family}, model {model})")),
        _ => Some(name.to_owned()),
    }
}

/// Waits until the CPU is idle but for a tenth of a core, at most `seconds`. Does nothing where there is no
/// `/proc/stat`.
pub(super) fn wait_for_quiet(seconds: usize) {
    const HZ: f64 = 100.0;
    for _ in 0..seconds {
        let Some(before) = busy_ticks() else { return };
        std::thread::sleep(Duration::from_secs(1));
        if busy_ticks().is_none_or(|after| after - before < 0.1 * HZ) {
            return;
        }
    }
}

/// CPU ticks of everyone since boot: user nice system irq softirq steal.
fn busy_ticks() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> =
        text.lines().next()?.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    Some(ticks.iter().sum::<f64>() - ticks.get(3)? - ticks.get(4)?)
}

/// A label as a file name.
pub(super) fn slug(label: &str) -> String {
    let words = label.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_named_with_its_numbers() {
        let text = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Some(R) CPU\n";
        assert_eq!(of_cpuinfo(text).unwrap(), "Some(R) CPU (family 6, model 207)");
        assert_eq!(slug("Some(R) CPU (family 6), 2 cores"), "some-r-cpu-family-6-2-cores");
        assert_eq!(of_cpuinfo("processor: 0\n"), None);
    }
}
