//! What `stuckspy diagnose` thinks of real programs on real packages: those that hang as issues of other projects tell, and healthy
//! ones that look the same. The programs are those of `fixtures/programs/packages`; `scripts/fetch-packages` gets what they use.

mod support;

#[path = "support/live.rs"]
mod live;

#[path = "packages/case.rs"]
mod case;
#[path = "packages/databases.rs"]
mod databases;
#[path = "packages/healthy.rs"]
mod healthy;
#[path = "packages/http.rs"]
mod http;
#[path = "packages/hung.rs"]
mod hung;
#[path = "packages/processes.rs"]
mod processes;
#[path = "packages/seed.rs"]
mod seed;
#[path = "packages/servers.rs"]
mod servers;
#[path = "packages/threads.rs"]
mod threads;
#[path = "packages/workers.rs"]
mod workers;
