//! Programs that look like those that hang, and in which nothing is wrong: not one finding, however often they are looked at.
//! `scripts/check-healthy` looks a hundred times.

use crate::case::{are_healthy, is_healthy};

macro_rules! healthy {
    ($($name:ident: $case:literal $([$($thread:literal is $class:literal),*])?)*) => {$(
        #[test]
        fn $name() {
            is_healthy($case, &[$($(($thread, $class)),*)?]);
        }
    )*};
}

healthy! {
    // The resolver of the C library sets a time for each of its tries.
    name_resolution: "http_clients name_resolution" ["$pid" is "waiting"]
    request_with_a_timeout: "http_clients with_timeout" ["$pid" is "waiting"]
    slow_download: "http_clients download"
    long_sleep: "http_clients sleeps" ["$pid" is "waiting"]
    redis_blocking_pop: "redis_clients brpop" ["$pid" is "idle"]
    redis_subscriber: "redis_clients subscriber" ["$pid" is "idle"]
    // It is tried again after a sleep.
    redis_lock: "redis_clients lock" ["$pid" is "waiting"]
    celery: "celery_workers idle" ["$pid" is "idle", "$first" is "idle", "$second" is "idle"]
    rq: "rq_workers idle" ["$pid" is "idle"]
    gunicorn: "web_servers gunicorn_idle"
    gunicorn_threads: "web_servers gunicorn_threads_idle"
    gunicorn_gevent: "web_servers gunicorn_gevent_idle"
    uvicorn: "web_servers uvicorn_idle"
    pools_of_processes: "processes pool_of_processes"
        ["$pid" is "idle", "$worker-0" is "idle", "$worker-1" is "idle", "$worker-2" is "idle", "$worker-3" is "idle"]
    queue_of_a_manager: "processes manager" ["$pid" is "idle"]
    fifo: "processes fifo" ["$pid" is "idle"]
    servers_that_accept_in_turn: "processes accepting_in_turn" ["$pid" is "idle"]
    subscriber_for_signals: "processes subscriber" ["$pid" is "waiting", "$subscriber" is "waiting"]
    foreman: "threads foreman_without_work" ["$pid" is "idle"]
    watch_with_events: "threads watch_with_events"
    watch_with_few_events: "threads watch_with_few_events"
    // How long it may be silent is an hour.
    watch_without_events: "threads watch_without_events" ["$pid" is "idle"]
}

macro_rules! healthy_groups {
    ($($name:ident: [$($case:literal),* $(,)?])*) => {$(
        #[test]
        fn $name() {
            are_healthy(&[$($case),*]);
        }
    )*};
}

// Twins of programs that hang, each with the same packages, and services that never end by design.
healthy_groups! {
    calls_that_other_threads_answer: [
        "remote_calls paramiko_sessions",
        "?remote_calls stomp_subscriber",
        "remote_calls paho_publisher",
        "remote_calls kazoo_watcher",
        "remote_calls grpc_server",
        "task_queues segment_flushes",
    ]
    calls_in_slices: [
        "remote_calls paho_subscriber",
        "remote_calls pika_consumer",
        "remote_calls pika_channels",
        "remote_calls pymongo_poller",
        "remote_calls tenacity_success",
        "task_queues huey_results",
        "task_queues huey_consumer",
    ]
    calls_of_native_threads: [
        "remote_calls zmq_requests",
        "?remote_calls zmq_subscriber",
    ]
    locks_in_files: [
        "?lock_files fasteners_owner_works",
        "lock_files lockfile_in_turn",
        "lock_files diskcache_locks_in_turn",
        "lock_files diskcache_writers",
    ]
    commands: [
        "commands invoke_progress",
        "commands pexpect_expect",
        "commands git_status",
        "commands execnet_results",
        "commands serial_reader",
        "services long_command",
    ]
    supervisors: [
        "commands psutil_supervisor",
        "services child_poller",
        "services honcho_manager",
        "services supervisord",
        "services hupper_reloader",
    ]
    schedulers: [
        "services apscheduler_blocking",
        "services schedule_loop",
        "services scheduled_events",
        "services watchdog_observer",
        "services stat_reloader",
    ]
    pollers: [
        "services log_follower",
        "services folder_poller",
        "?services port_monitor",
        "services command_runner",
    ]
    loops_with_a_flag: [
        "services flag_and_handler",
        "services signal_wait",
        "services worker_with_timeout",
        "services busy_executor",
    ]
}
