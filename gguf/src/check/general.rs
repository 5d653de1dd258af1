//! Keys under `general.`.

use super::scan::Scan;
use super::{Place, Sink};

rules! { General;
    ARCHITECTURE_MISSING = "architecture-missing" Error "specification, llama.cpp"
        "general.architecture names the architecture, as a string"
        => "`gguf set FILE general.architecture NAME`";
}

pub(super) fn check(scan: &Scan, sink: &mut Sink<'_>) {
    if scan.get("general.architecture").and_then(|v| v.as_str()).is_none_or(str::is_empty) {
        let place = Place::absent_key("general.architecture");
        sink.add(&ARCHITECTURE_MISSING, place, format_args!("general.architecture is missing, empty or no string"));
    }
}
