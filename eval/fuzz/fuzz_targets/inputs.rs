#![no_main]

use std::sync::LazyLock;

#[path = "../../tests/common/bodies.rs"]
#[allow(dead_code)]
mod bodies;

/// One program for all: `FUZZ_BODY` names the one to run.
static BODY: LazyLock<(bodies::Body, bodies::Place)> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_BODY").unwrap_or_default();
    let body = bodies::BODIES.iter().find(|body| body.name == name);
    let names: Vec<&str> = bodies::BODIES.iter().map(|body| body.name).collect();
    let body = body.unwrap_or_else(|| panic!("FUZZ_BODY is one of {}", names.join(", ")));
    // The tokenizers crate panics on some input, which is caught where it is called: no find.
    std::panic::set_hook(Box::new(|_| ()));
    (*body, bodies::Place::new())
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (body, place) = &*BODY;
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (body.run)(place, bytes))) {
        let said = panic.downcast_ref::<String>().cloned();
        eprintln!(
            "panic: {}",
            said.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
        );
        std::process::abort();
    }
});
