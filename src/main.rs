//! The `timecoin` program: see [`timecoin::cli`].
#![forbid(unsafe_code)]

// Its memory stays flat under a load of many small, short-lived pieces; the system's allocator fragments.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    timecoin::cli::run()
}
