//! Passes on the features that nginx was configured with, as `cfg(ngx_feature = "…")` and
//! `cfg(ngx_os = "…")`.
//!
//! The build script of nginx-sys detects them and passes them to the build scripts of its direct
//! dependents. Undefined symbols of nginx need no flag: the linker allows them in a shared library
//! on Linux.

use std::env::var;
use std::process::exit;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");

    if var("CARGO_FEATURE_MODULE").is_err() {
        return;
    }

    if let Some(target) = unsupported() {
        eprintln!("the module builds for Linux on x86_64 and aarch64 (64 bits), not for {target}");
        exit(1);
    }

    cfgs("ngx_feature", "DEP_NGINX_FEATURES");
    cfgs("ngx_os", "DEP_NGINX_OS");
}

/// Returns a name for the target if the module cannot be built for it.
fn unsupported() -> Option<String> {
    let target = |name: &str| var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let (os, arch) = (target("OS"), target("ARCH"));
    if os != "linux" || !["x86_64", "aarch64"].contains(&arch.as_str()) {
        return Some(format!("{os} on {arch}"));
    }
    if target("POINTER_WIDTH") != "64" || target("ENDIAN") != "little" {
        let (width, endian) = (target("POINTER_WIDTH"), target("ENDIAN"));
        return Some(format!("{arch} with pointers of {width} bits, {endian} endian"));
    }
    if target("FEATURE").split(',').any(|feature| feature == "crt-static") {
        return Some("a C library that is linked statically".into());
    }
    None
}

/// Sets `name` to each value of a comma-separated variable. `<variable>_CHECK` has all possible
/// values.
fn cfgs(name: &str, variable: &str) {
    println!("cargo::rerun-if-env-changed={variable}");
    println!("cargo::rerun-if-env-changed={variable}_CHECK");

    let possible = var(format!("{variable}_CHECK")).unwrap_or("any()".into());
    println!("cargo::rustc-check-cfg=cfg({name}, values({possible}))");

    for value in var(variable).unwrap_or_default().split(',').filter(|v| !v.is_empty()) {
        println!("cargo::rustc-cfg={name}=\"{value}\"");
    }
}
