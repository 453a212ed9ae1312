//! Opening a device of the graph.

use crate::Device;
use crate::error::{ModelError, Result};
use candle_core::utils::{cuda_is_available, metal_is_available};

/// The candle device of a graph; None for the kernels.
///
/// # Errors
/// [`ModelError::Device`] if the program was built without it, or the machine has none.
pub(crate) fn open(device: Device) -> Result<Option<candle_core::Device>> {
    let (built, name, hint) = match device {
        Device::Cpu => return Ok(None),
        Device::Graph => return Ok(Some(candle_core::Device::Cpu)),
        Device::Cuda(_) => (
            cuda_is_available(),
            "cuda",
            "check that `nvidia-smi` lists the device and that its driver is new enough for the CUDA \
             toolkit of the build",
        ),
        Device::Metal(_) => (metal_is_available(), "metal", "Metal needs a Mac with a GPU it can reach"),
    };
    let error = |problem: String| ModelError::Device { device, problem };
    if !built {
        return Err(error(format!(
            "this program was built without it; rebuild with `--features {name}`, or use cpu"
        )));
    }
    let open = || match device {
        Device::Metal(n) => candle_core::Device::new_metal(n),
        Device::Cuda(n) => candle_core::Device::new_cuda(n),
        Device::Cpu | Device::Graph => Ok(candle_core::Device::Cpu),
    };
    // candle panics where there is no Metal device of that number, and where the CUDA driver is missing.
    match std::panic::catch_unwind(open) {
        Ok(Ok(opened)) => Ok(Some(opened)),
        Ok(Err(e)) => Err(error(format!("candle cannot open it: {e}; {hint}"))),
        Err(_) => Err(error(format!("candle cannot open it; {hint}"))),
    }
}
