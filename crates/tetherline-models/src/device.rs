//! Where a model computes: the project's own kernels, or the candle graph on some device.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What can be written for a device.
const CHOICES: &str = "cpu, graph, cuda, cuda:N, metal or metal:N";

/// Where a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The kernels of `tetherline-kernels`: the fast path on a CPU, the same bits for any number of threads.
    #[default]
    Cpu,
    /// The candle graph on the CPU: slow, there to check the kernels and the graph against each other.
    Graph,
    /// The candle graph on this CUDA device; needs the feature `cuda`.
    Cuda(usize),
    /// The candle graph on this Metal device; needs the feature `metal`.
    Metal(usize),
}

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown device `{0}`: must be {CHOICES}")]
pub struct UnknownDevice(String);

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> std::result::Result<Self, UnknownDevice> {
        let (kind, index) = match text.split_once(':') {
            None => (text, Some(0)),
            // `parse` would take a sign.
            Some((kind, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => (kind, digits.parse().ok()),
            Some((kind, _)) => (kind, None),
        };
        match (kind, index) {
            ("cpu", _) if text == "cpu" => Ok(Self::Cpu),
            ("graph", _) if text == "graph" => Ok(Self::Graph),
            ("cuda", Some(n)) => Ok(Self::Cuda(n)),
            ("metal", Some(n)) => Ok(Self::Metal(n)),
            _ => Err(UnknownDevice(text.to_owned())),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.pad("cpu"),
            Self::Graph => f.pad("graph"),
            Self::Cuda(0) => f.pad("cuda"),
            Self::Metal(0) => f.pad("metal"),
            Self::Cuda(n) => f.pad(&format!("cuda:{n}")),
            Self::Metal(n) => f.pad(&format!("metal:{n}")),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = UnknownDevice;

    fn try_from(text: String) -> std::result::Result<Self, UnknownDevice> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_back_as_they_are_written() {
        for device in [Device::Cpu, Device::Graph, Device::Cuda(0), Device::Cuda(3), Device::Metal(0)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda:0".parse(), Ok(Device::Cuda(0)));
        assert_eq!(Device::Cuda(1).to_string(), "cuda:1");
    }

    #[test]
    fn anything_else_is_refused_with_the_choices() {
        for text in
            ["gpu", "", "CPU", "cpu:0", "graph:1", "cuda:", "cuda:+1", "cuda:x", "cuda:99999999999999999999"]
        {
            let e = text.parse::<Device>().unwrap_err().to_string();
            assert!(e.contains(&format!("`{text}`")) && e.contains("cpu, graph, cuda, cuda:N"), "{e}");
        }
    }
}
