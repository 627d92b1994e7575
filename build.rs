//! Passes on what nginx was configured with, as `cfg(ngx_feature = "…")` and `cfg(ngx_os = "…")`.
//!
//! nginx-sys finds it out and tells the build scripts of its direct dependents. Undefined symbols of
//! nginx need no flag: the linker allows them in a shared library on Linux.

use std::env::var;
use std::process::exit;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");

    if var("CARGO_FEATURE_MODULE").is_err() {
        return;
    }

    let os = var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let arch = var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if os != "linux" || !["x86_64", "aarch64"].contains(&arch.as_str()) {
        eprintln!("the module builds for Linux on x86_64 and aarch64, not for {os} on {arch}");
        exit(1);
    }

    cfgs("ngx_feature", "DEP_NGINX_FEATURES");
    cfgs("ngx_os", "DEP_NGINX_OS");
}

/// Sets `name` to each value of a comma-separated variable; `<variable>_CHECK` has all possible ones.
fn cfgs(name: &str, variable: &str) {
    println!("cargo::rerun-if-env-changed={variable}");
    println!("cargo::rerun-if-env-changed={variable}_CHECK");

    let possible = var(format!("{variable}_CHECK")).unwrap_or("any()".into());
    println!("cargo::rustc-check-cfg=cfg({name}, values({possible}))");

    for value in var(variable).unwrap_or_default().split(',').filter(|v| !v.is_empty()) {
        println!("cargo::rustc-cfg={name}=\"{value}\"");
    }
}
