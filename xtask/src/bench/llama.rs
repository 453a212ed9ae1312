//! llama.cpp, built from source: the fastest sampler on a CPU that is easy to have.
//!
//! Its source comes with the source package of `llama-cpp-python` on PyPI, CMake and Ninja come from there too; a C++
//! compiler has to be there. `benches/peers/llama` is the program that is built on it. All of it once, under
//! `target/bench/llama`.

use crate::process::{root, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package, with llama.cpp in `vendor/`.
const PACKAGE: &str = "llama-cpp-python==0.3.36";
/// What builds it, and what writes its model files.
const TOOLS: &[&str] = &["cmake", "ninja", "gguf", "safetensors"];

/// The program that `llama.py` starts. It is built anew where its source is not what was built last.
pub(super) fn open(bench: &Path, python: &Path) -> Result<PathBuf> {
    let (dir, source) = (bench.join("llama"), root().join("benches/peers/llama"));
    let program = dir.join("build").join(format!("llama_sampling{}", std::env::consts::EXE_SUFFIX));
    let stamp = dir.join("built.txt");
    let read = |name: &str| fs::read_to_string(source.join(name)).with_context(|| format!("no {name}"));
    let wanted = format!("{PACKAGE}\n{}\n{}", read("CMakeLists.txt")?, read("sampling.cpp")?);
    if program.is_file() && fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(program);
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    println!("building llama.cpp in {} (some minutes, once)", dir.display());
    let log = dir.join("build.log");
    let file = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let step = |command: &mut Command| -> Result<()> {
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file.try_clone()?).current_dir(&dir);
        run(command).with_context(|| format!("its output is in {}", log.display()))
    };
    step(Command::new(python).args(["-m", "pip", "install"]).args(TOOLS))?;
    if unpacked(&dir).is_none() {
        let download = ["-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", PACKAGE];
        step(Command::new(python).args(download))?;
        let archive = find(&dir, ".tar.gz").context("pip left no source package")?;
        step(Command::new(python).args(["-m", "tarfile", "-e"]).arg(archive))?;
    }
    let llama = unpacked(&dir).context("the source package has another layout")?;
    let bin = python.parent().unwrap_or(python);
    let tool = |name: &str| bin.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    step(
        Command::new(tool("cmake"))
            .arg(format!("-DLLAMA_CPP={}", llama.display()))
            .arg(format!("-DCMAKE_MAKE_PROGRAM={}", tool("ninja").display()))
            .args(["-G", "Ninja", "-B", "build", "-S"])
            .arg(&source),
    )?;
    step(Command::new(tool("cmake")).args(["--build", "build", "--target", "llama_sampling"]))?;
    fs::write(&stamp, wanted)?;
    Ok(program)
}

/// The source of llama.cpp, if it is there.
fn unpacked(dir: &Path) -> Option<PathBuf> {
    let package = PACKAGE.replace("==", "-").replacen('-', "_", 2);
    Some(dir.join(package).join("vendor/llama.cpp")).filter(|d| d.join("CMakeLists.txt").is_file())
}

fn find(dir: &Path, end: &str) -> Option<PathBuf> {
    let mut files = fs::read_dir(dir).ok()?.flatten().map(|e| e.path());
    files.find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().ends_with(end)))
}
